"""The fixtures of ``tests/conftest.py``, with several servers in the place of one."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import pytest

from lix_cache.config import CacheConfig
from tests.support.redis_cluster import RedisCluster, RedisSentinel

_HERE = Path(__file__).parent

#: Of these suites each test is in the sample, of the others one in so many.
_WHOLE = ("test_session", "test_session_batches", "test_session_changes", "test_session_pages")
_EVERY = 6


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what stands before one server; mark as exhaustive all but one case of an inherited test."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        if item.path.parent == _HERE and "tests.contract" in item.function.__module__:
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    before_one = set()
    for name, group in cases.items():
        if {"proxy", "proxy_config"} & set(group[0].fixturenames):
            before_one.update(group)
        chosen = crc32(name.encode())
        is_sampled = group[0].path.stem in _WHOLE or chosen % _EVERY == 0
        for number, item in enumerate(group):
            if not is_sampled or number != chosen % len(group):
                item.add_marker("exhaustive")
    items[:] = [item for item in items if item not in before_one]


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
    config: CacheConfig = redis_server.config(
        redis_key_prefix=f"t{uuid.uuid4().hex}",
        archive_dir=tmp_path / "archive",
        evictor_enabled=False,
    )
    return config
