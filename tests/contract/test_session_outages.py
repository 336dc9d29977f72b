"""A session used while Redis is away and after it is back: what was acknowledged, and by which id.

In both variants: one suite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import RedisUnavailable
from lix_cache.config import CacheConfig
from tests.support import RedisServer
from tests.support.sessions import batch, said
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-loss")

Open = Callable[..., Any]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


@pytest.fixture
def config(server: RedisServer, tmp_path: Path) -> CacheConfig:
    return server.config(
        archive_dir=str(tmp_path / "archive"),
        redis_key_prefix=f"t{tmp_path.name}",
        redis_socket_timeout=0.3,
        redis_retry_seconds=30,
        hot_window_size=20,
        evictor_enabled=False,
    )


@pytest.fixture
def open_cache(twins: Twins, config: CacheConfig) -> Open:
    def make(kind: str = "HybridConversationCache", **changes: Any) -> Any:
        return twins.make(kind, "s", config.replace(**changes))

    return make


@pytest.fixture
def cache(open_cache: Open) -> Any:
    return open_cache()


@pytest.fixture
def away(open_cache: Open) -> Any:
    """Another process, which does not reach Redis."""
    return open_cache(redis_host="127.0.0.1", redis_port=1, redis_url=None)


def back(cache: Any) -> None:
    """Have a process ask Redis again, as it does after ``redis_retry_seconds``."""
    cache._session.store.breaker.reset()


@pytest.mark.parametrize("how", ["hangs", "is not asked"])
def test_what_redis_alone_has_is_not_replaced_by_one_who_could_not_see_it(
    cache: Any, server: RedisServer, how: str
) -> None:
    cache.add_message("user", "old")
    cache.flush_to_disk()
    cache.add_message("user", "in Redis alone")
    server.pause()
    try:
        cache.add_message("user", "in the archive")
        if how == "is not asked":
            server.resume()
        with pytest.raises(RedisUnavailable):
            cache.get_revision()
        assert said(cache.get_full()) == ["old", "in the archive"]
    finally:
        server.resume()
    back(cache)
    revision = cache.get_revision()
    assert said(cache.get_full()) == ["old", "in Redis alone", "in the archive"]
    cache.replace_all(batch("in short"), expected=revision)
    assert said(cache.get_full()) == ["in short"]


@pytest.mark.parametrize("durability", ["redis", "disk"])
def test_no_process_gets_a_revision_without_redis(open_cache: Open, away: Any, durability: str) -> None:
    open_cache(durability=durability).add_message("user", "m")
    away.add_message("user", "x")
    with pytest.raises(RedisUnavailable):
        away.get_revision()
    there = {"redis_host": "127.0.0.1", "redis_port": 1, "redis_url": None}
    with pytest.raises(RedisUnavailable):
        open_cache("SessionContextWindow", **there).get_revision()
    with pytest.raises(RedisUnavailable):
        open_cache("CacheCoordinator", **there).get_context_revision()
