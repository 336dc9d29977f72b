"""What the doctor says to facts that no test server can be brought to state."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.admin.diagnosis import diagnose_disk, diagnose_redis
from lix_cache.admin.facts import DiskFacts, RedisFacts
from lix_cache.hot.endpoint import unused_db
from lix_cache.hot.keys import escape_pattern

GB = 1 << 30
HEALTHY: dict[str, Any] = {
    "redis_version": "7.2.4",
    "aof_enabled": 1,
    "maxmemory_policy": "noeviction",
    "used_memory": GB,
    "maxmemory": 0,
    "total_system_memory": 16 * GB,
}
DISK = DiskFacts("/archive", True, None, True, 50 * GB, 100 * GB, 0, 0)


def redis(info: dict[str, Any] | None = None, **facts: Any) -> dict[str, tuple[str, str]]:
    found = RedisFacts(where="redis://here:1", info={**HEALTHY, **(info or {})}, clock_ahead=0.0)
    for name, value in facts.items():
        setattr(found, name, value)
    return {check.name: (check.status, check.found) for check in diagnose_redis(found, CacheConfig())}


def disk(**facts: Any) -> dict[str, tuple[str, str]]:
    return {check.name: (check.status, check.found) for check in diagnose_disk(replace(DISK, **facts))}


def test_healthy_facts_are_all_fine() -> None:
    assert {status for status, _ in [*redis().values(), *disk().values()]} == {"ok"}


@pytest.mark.parametrize(
    ("info", "status", "name"),
    [
        ({"redis_version": "6.0.16"}, "fail", "Redis 6.0.16 is too old"),
        ({"redis_version": "5.0"}, "fail", "Redis 5.0 is too old"),
        ({"redis_version": "6.2.0"}, "ok", "Redis 6.2.0"),
        ({"redis_version": "255.255.255"}, "ok", "Redis 255.255.255"),
        ({"valkey_version": "8.0.1"}, "ok", "Valkey 8.0.1"),
    ],
)
def test_versions_are_compared_as_numbers(info: dict[str, Any], status: str, name: str) -> None:
    assert redis(info)["version"] == (status, name)


def test_of_sentinels_is_said_what_fits_sentinels_and_all_of_them_are_named() -> None:
    for where, sign in (("sentinel://a:1,b:2,c:3/svc", "a:1,b:2,c:3/svc"), ("cluster://a:1", "other nodes")):
        facts = RedisFacts(where=f"redis+{where}", trouble={"session_redis_db": "away"})
        (check,) = diagnose_redis(facts, CacheConfig())
        assert sign in check.advice
        assert ("replica" in check.advice) is ("cluster" in where)


def test_a_database_in_the_address_is_said_to_choose_none() -> None:
    status, found = redis(unused_db=7)["database"]
    assert (status, "database 7" in found, "sessions are in 2" in found) == ("warn", True, True)
    for url, number in (("redis://here/7", 7), ("redis://here", 0), ("redis+sentinel://here/svc", 0)):
        assert unused_db(CacheConfig(redis_url=url).redis) == number


def test_a_server_whose_writes_fail_is_a_failure_even_with_persistence_on() -> None:
    for name in ("aof_last_write_status", "rdb_last_bgsave_status"):
        status, found = redis({name: "err"})["persistence works"]
        assert (status, name in found) == ("fail", True)


def test_a_machine_s_memory_is_the_limit_where_the_server_has_none() -> None:
    assert redis({"used_memory": 13 * GB})["memory"][0] == "warn"
    assert redis({"used_memory": 15.9 * GB})["memory"][0] == "fail"
    assert redis({"total_system_memory": 0})["memory"] == ("ok", "1024.0 MB used")


@pytest.mark.parametrize(
    ("ahead", "status"), [(0.4, "ok"), (-1.9, "ok"), (2.5, "warn"), (-30.0, "warn"), (90.0, "fail")]
)
def test_clocks_may_differ_a_little(ahead: float, status: str) -> None:
    assert redis(clock_ahead=ahead)["clock"][0] == status


def test_the_direction_of_a_wrong_clock_is_said() -> None:
    assert redis(clock_ahead=9.0)["clock"][1] == "the server is 9.0 s ahead of this machine"
    assert redis(clock_ahead=-9.0)["clock"][1] == "the server is 9.0 s behind this machine"
    assert redis(clock_ahead=None)["clock"][0] == "warn"


def test_snapshots_that_are_not_told_are_a_warning_not_a_failure() -> None:
    assert redis({"aof_enabled": 0}, save=None)["persistence"][0] == "warn"
    assert redis({"aof_enabled": 0}, save="")["persistence"][0] == "fail"


def test_space_on_disk_is_diagnosed_by_what_is_left() -> None:
    assert disk(free_bytes=GB // 2)["disk"][0] == "warn"
    assert disk(free_bytes=GB // 100)["disk"][0] == "fail"


def test_a_folder_where_locks_do_not_work_is_a_failure() -> None:
    assert disk(locks_work=False)["archive locks"][0] == "fail"


def test_an_escaped_pattern_has_nothing_special_left() -> None:
    assert escape_pattern("a*b?[c-d]\\^") == "a\\*b\\?\\[c\\-d\\]\\\\\\^"
