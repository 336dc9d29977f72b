"""A server that answers and takes no writes is not well, and asking leaves nothing behind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import HashingEmbedder, RedisError, StoreAdmin
from tests.support import RedisServer
from tests.support.redis_server import wait_until
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-false-empty")


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer(acl=("reader on >pw ~* &* +@all -@write",)) as server:
        yield server


def is_full(server: RedisServer) -> None:
    server.client().config_set("maxmemory", "1")


def is_a_replica(server: RedisServer) -> None:
    server.client().replicaof("127.0.0.1", "1")


def has_too_few_replicas(server: RedisServer) -> None:
    server.client().config_set("min-replicas-to-write", "1")


def cannot_save(server: RedisServer) -> None:
    client = server.client()
    client.config_set("save", "3600 1")
    # A folder that is not empty, where its file is to be.
    (Path(server.directory) / "dump.rdb" / "x").mkdir(parents=True)
    client.set("k", "v")
    client.bgsave()

    def failed() -> bool:
        info: Any = client.info("persistence")
        return bool(info["rdb_last_bgsave_status"] == "err")

    wait_until(failed)


STATES = [is_full, is_a_replica, has_too_few_replicas, cannot_save]
CODES = {is_full: "OOM", is_a_replica: "READONLY", has_too_few_replicas: "NOREPLICAS", cannot_save: "MISCONF"}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("policy", ["archive", "raise"])
def test_memory_whose_server_takes_no_writes_is_not_well(
    state: Any, policy: str, server: RedisServer, twins: Twins, tmp_path: Path
) -> None:
    config = server.config(archive_dir=tmp_path, evictor_enabled=False, on_redis_error=policy)
    memory = twins.make("HybridConversationCache", "s", config)
    assert memory.health_check() == {"status": "ok", "redis": "ok", "archive": "ok"}
    state(server)
    health = memory.health_check()
    assert health["status"] == ("degraded" if policy == "archive" else "down")
    assert CODES[state] in health["redis"]
    assert health["archive"] == "ok"


@pytest.mark.parametrize("state", STATES)
def test_a_semantic_cache_whose_server_takes_no_writes_is_not_well(
    state: Any, server: RedisServer, twins: Twins, tmp_path: Path
) -> None:
    config = server.config(archive_dir=tmp_path)
    cache = twins.make("SemanticCache", HashingEmbedder(), config)
    assert cache.health_check()["status"] == "ok"
    state(server)
    health = cache.health_check()
    assert health["status"] == "degraded"
    assert health["components"]["redis"]["status"] == "degraded"
    assert CODES[state] in health["components"]["redis"]["detail"]


def test_a_user_who_may_not_write_is_an_error_that_no_policy_passes_over(
    server: RedisServer, twins: Twins, tmp_path: Path
) -> None:
    config = server.config(archive_dir=tmp_path, evictor_enabled=False).replace(
        redis_username="reader", redis_password="pw"
    )
    memory = twins.make("HybridConversationCache", "s", config)
    health = memory.health_check()
    assert (health["status"], health["archive"]) == ("down", "ok")
    assert "RedisAuthError" in health["redis"]
    with pytest.raises(RedisError):
        memory.add_message("user", "hello")
    assert twins.make("SemanticCache", None, config).health_check()["status"] == "degraded"


def test_asking_leaves_nothing_behind_and_costs_one_trip(
    server: RedisServer, twins: Twins, tmp_path: Path
) -> None:
    config = server.config(archive_dir=tmp_path, evictor_enabled=False)
    memory = twins.make("HybridConversationCache", "s", config)
    cache = twins.make("SemanticCache", None, config)
    for asked in (memory, cache):
        asked.health_check()
    changes: Any = server.client().info("persistence")
    server.reset_stats()
    for asked in (memory, cache):
        assert asked.health_check()["status"] == "ok"
    # Until a session is used it looks for the number of buckets and the archive, which are noted then.
    assert server.command_stats() == {"ping": 2, "xadd": 2, "get": 2}
    after: Any = server.client().info("persistence")
    assert after["rdb_changes_since_last_save"] == changes["rdb_changes_since_last_save"]
    assert [server.client(db).dbsize() for db in range(3)] == [0, 0, 0]


@pytest.mark.parametrize("state", STATES)
def test_the_doctor_says_that_writes_fail_and_not_that_rights_are_missing(
    state: Any, server: RedisServer, tmp_path: Path
) -> None:
    state(server)
    checks = {check.name: check for check in StoreAdmin(server.config(archive_dir=tmp_path)).doctor()}
    assert checks["writes"].status == "fail"
    assert CODES[state] in checks["writes"].found
    assert checks["writes"].advice
    assert "ACL" not in checks["writes"].advice
    assert "permissions" not in checks or checks["permissions"].status != "fail"
