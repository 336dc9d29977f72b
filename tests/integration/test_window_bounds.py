"""No read of a session window has the server at work for all of it, however much a window holds."""

from __future__ import annotations

from typing import Any

import pytest

from lix_cache.config import CacheConfig
from lix_cache.hot import scripts
from lix_cache.hot.keys import Keys
from lix_cache.messages.packing import pack_hot
from lix_cache.messages.turn import ZERO_ID, new_turn
from lix_cache.session.store import open_store
from tests.support import CountingProxy, RedisServer
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-stall")

PAGE = scripts.PAGE
MANY = 2 * PAGE + 500


def fill(redis_server: RedisServer, config: CacheConfig, count: int) -> None:
    """Leave a window as long as one that no daemon has looked after."""
    key = Keys(config.redis_key_prefix, config.redis.buckets).window("s")
    with redis_server.client(db=config.session_redis_db) as client:
        pipe = client.pipeline(transaction=False)
        for i in range(count):
            turn = new_turn("user", f"message {i}", None, None, None, b"%06d" % i)
            pipe.xadd(key, {"m": pack_hot(turn)}, id=f"{1_700_000_000_000 + i}-0")
        pipe.execute()


@pytest.fixture
def cache(twins: Twins, proxy_config: CacheConfig) -> Any:
    """A cache on a connection that is open, of a server that knows the scripts."""
    other = twins.make("HybridConversationCache", "other", proxy_config)
    other.add_message("user", "warm")
    other.get_context()
    other.get_full()
    return twins.make("HybridConversationCache", "s", proxy_config)


def answers(proxy: CountingProxy) -> int:
    return len(proxy.batches)


@pytest.mark.sampled(2)
def test_the_whole_history_comes_a_page_at_a_time(
    cache: Any, proxy: CountingProxy, redis_server: RedisServer, proxy_config: CacheConfig
) -> None:
    fill(redis_server, proxy_config, MANY)
    proxy.reset()
    found = [message["content"] for message in cache.get_full()]
    assert found == [f"message {i}" for i in range(MANY)]
    assert answers(proxy) == 3


@pytest.mark.sampled(2, 1)
def test_smart_context_reads_all_of_a_window_a_page_at_a_time(
    cache: Any, proxy: CountingProxy, redis_server: RedisServer, proxy_config: CacheConfig
) -> None:
    fill(redis_server, proxy_config, MANY)
    proxy.reset()
    found = cache.smart_context("message 17", recent_k=2, disk_k=1)
    assert [message["content"] for message in found["recent"]] == [
        f"message {MANY - 2}",
        f"message {MANY - 1}",
    ]
    assert [message["content"] for message in found["relevant"]] == ["message 17"]
    assert answers(proxy) == 3


@pytest.mark.sampled(2)
def test_a_window_of_a_page_is_read_in_one_round_trip(
    cache: Any, proxy: CountingProxy, redis_server: RedisServer, proxy_config: CacheConfig
) -> None:
    fill(redis_server, proxy_config, PAGE - 1)
    for read in (cache.get_full, cache.get_context, lambda: cache.smart_context("message 17")):
        proxy.reset()
        assert read()
        assert answers(proxy) == 1


@pytest.mark.sampled(2, 1)
def test_a_window_that_may_hold_very_many_is_read_a_page_at_a_time(
    twins: Twins, proxy: CountingProxy, redis_server: RedisServer, proxy_config: CacheConfig
) -> None:
    cache = twins.make("HybridConversationCache", "s", proxy_config, hot_window_size=MANY - 100)
    cache.get_context()
    fill(redis_server, proxy_config, MANY)
    proxy.reset()
    found = [message["content"] for message in cache.get_context()]
    assert found == [f"message {i}" for i in range(100, MANY)]
    assert answers(proxy) == 3


@pytest.mark.sampled(2)
def test_no_more_than_a_page_is_put_back(
    twins: Twins, redis_server: RedisServer, redis_config: CacheConfig
) -> None:
    cache = twins.make("HybridConversationCache", "s", redis_config, hot_window_size=MANY)
    fill(redis_server, redis_config, MANY)
    cache.flush_to_disk()
    expected = [f"message {i}" for i in range(MANY)]
    for _ in range(2):
        assert [message["content"] for message in cache.get_context()] == expected
        assert cache.get_stats()["hot_messages"] <= PAGE
    assert [message["content"] for message in cache.get_full()] == expected


def test_a_page_has_a_bound_whatever_is_asked_for(
    redis_server: RedisServer, redis_config: CacheConfig
) -> None:
    fill(redis_server, redis_config, MANY)
    hot = open_store(redis_config).hot
    with redis_server.client(db=redis_config.session_redis_db) as client:
        for command in (hot.read("s", 2**31, b"nonce."), hot.oldest("s", keep=0)):
            reply = client.eval(command.script.source, len(command.keys), *command.keys, *command.args)
            assert (reply[0], len(reply)) == (1, 1 + 2 * PAGE)
        newest = hot.read("s", 3, b"nonce.")
        for command in (newest, hot.oldest("s", keep=0, limit=3), hot.oldest("s", keep=MANY - 3)):
            reply = client.eval(command.script.source, len(command.keys), *command.keys, *command.args)
            assert len(reply) == 7
    assert hot.newest(reply).turns[0].id > ZERO_ID
