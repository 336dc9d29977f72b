"""The fixtures of ``tests/conftest.py``, with several servers in the place of one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from lix_cache.config import CacheConfig
from tests.contract.conftest import cache, config, open_cache  # noqa: F401 - the inherited suites take them
from tests.support.redis_cluster import RedisCluster, RedisSentinel
from tests.support.stores import own_store

_HERE = Path(__file__).parent

#: Of these suites each test is in the sample, of those below one in so many, of the others none.
_WHOLE = ("test_session", "test_session_batches", "test_session_changes", "test_session_pages")
_EVERY = 6
#: Of their cases one in so many is run at all: what differs with several servers is how commands reach them.
_CASES = {
    **dict.fromkeys(("test_answers", "test_semantic", "test_urls", "test_in_flight"), 3),
    **dict.fromkeys(("test_invalidated_meanwhile", "test_layout"), 3),
    **dict.fromkeys(("test_batch_faults", "test_changes_faults", "test_durability"), 5),
}
_LONG = ("test_batch_faults", "test_changes_faults", "test_durability")
_INHERITED = ("tests.contract", "tests.fault")
#: About one server: its port, a server of the test's own, or sessions of the old package, which knew no more.
_OF_ONE = {
    "test_arguments_win_over_the_configuration",
    "test_a_call_is_two_trips_to_begin_and_two_to_end",
    "test_redis_lost_under_way_loses_no_answer",
    "test_who_comes_next_does_not_wait_for_a_call_that_ended_while_redis_hung",
    "test_a_live_session_of_the_old_package_is_of_no_namespace",
}


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what stands before one server, and some cases; mark as exhaustive all but one of a test."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.path.parent == _HERE and item.function.__module__.startswith(_INHERITED):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    left_out = set()
    for name, group in cases.items():
        if {"proxy", "proxy_config"} & set(group[0].fixturenames) or group[0].originalname in _OF_ONE:
            left_out.update(group)
        chosen = crc32(name.encode())
        stem = group[0].path.stem
        is_sampled = stem in _WHOLE or (stem in _CASES and stem not in _LONG and chosen % _EVERY == 0)
        every = _CASES.get(stem, 1)
        for number, item in enumerate(group):
            # One of each test in any case.
            if (number - chosen % len(group)) % every:
                left_out.add(item)
            if not is_sampled or number != chosen % len(group):
                item.add_marker("exhaustive")
    items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def cluster() -> Iterator[RedisCluster]:
    """Three masters, shared by the tests. A test that kills or moves starts a cluster of its own."""
    with RedisCluster(3) as running:
        yield running


@pytest.fixture(scope="session")
def sentinel() -> Iterator[RedisSentinel]:
    """A master, a replica and three sentinels, shared by the tests."""
    with RedisSentinel() as running:
        yield running


@pytest.fixture(scope="session", params=["cluster", "sentinel"])
def redis_server(request: pytest.FixtureRequest) -> Any:
    """What the inherited suites take for their server."""
    return request.getfixturevalue(request.param)


@pytest.fixture
def redis_config(redis_server: Any, tmp_path: Path) -> CacheConfig:
    """A config for these servers whose keys and archive no other test has."""
    return own_store(redis_server, tmp_path)
