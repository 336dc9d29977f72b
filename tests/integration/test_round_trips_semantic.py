"""How many round trips the semantic cache and the URL cache cost, counted on the wire."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from lix_cache.config import CacheConfig
from tests.support import CountingProxy, RedisServer
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("one-trip")

URL = "https://example.org/"
QUERY = np.eye(384)[0]
OTHER = np.eye(384)[1]


@pytest.fixture
def semantic(twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy) -> Any:
    """A cache with 50 entries under ``URL``, connected, its scripts known to the server."""
    cache = twins.make("SemanticCacheRedis", "s", proxy_config)
    cache.batch_set([(URL, np.eye(384)[i], i) for i in range(2, 51)])
    cache.set(URL, QUERY, {"answer": 1})
    cache.clear_session()
    cache.get_stats()
    cache.batch_set([(URL, np.eye(384)[i], i) for i in range(2, 51)])
    cache.set(URL, QUERY, {"answer": 1})
    proxy.reset()
    return cache


@pytest.fixture
def urls(twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy) -> Any:
    cache = twins.make("URLEmbeddingCache", "s", proxy_config)
    cache.set(URL, QUERY)
    proxy.reset()
    return cache


def test_a_semantic_miss_is_one_round_trip(semantic: Any, proxy: CountingProxy) -> None:
    assert semantic.get(URL, OTHER) is None
    assert semantic.get("never seen", OTHER) is None
    assert proxy.batches == [["GET"], ["GET"]]


def test_a_semantic_hit_is_two_round_trips(semantic: Any, proxy: CountingProxy) -> None:
    assert semantic.get(URL, QUERY) == {"answer": 1}
    assert proxy.batches == [["GET"], ["HGET"]]


def test_a_semantic_set_is_one_round_trip_however_full_the_ring(semantic: Any, proxy: CountingProxy) -> None:
    for i in range(3):
        semantic.set(URL, np.eye(384)[60 + i], i)
    assert proxy.batches == [["EVALSHA"]] * 3


def test_a_semantic_batch_is_one_round_trip_and_one_more_with_hits(
    semantic: Any, proxy: CountingProxy
) -> None:
    semantic.batch_set([(f"u{i}", QUERY, i) for i in range(40)])
    assert proxy.batches == [["EVALSHA"] * 40]
    proxy.reset()
    assert semantic.batch_get([(f"u{i}", OTHER) for i in range(40)]) == [None] * 40
    assert proxy.batches == [["GET"] * 40]
    proxy.reset()
    mixed = [(f"u{i}", QUERY if i % 2 else OTHER) for i in range(40)]
    assert semantic.batch_get(mixed) == [i if i % 2 else None for i in range(40)]
    assert proxy.batches == [["GET"] * 40, ["HGET"] * 20]


def test_stats_are_one_round_trip_and_clearing_a_session_is_two_however_many_urls_it_has(
    semantic: Any, proxy: CountingProxy
) -> None:
    semantic.clear_session()
    for i in range(20):
        semantic.set(f"{URL}/{i}", QUERY, {"a": i})
    proxy.batches.clear()
    semantic.get_stats()
    # The keys that go must be declared, so they are listed first.
    semantic.clear_session()
    semantic.clear_session()
    assert proxy.batches == [["EVALSHA"], ["ZRANGE"], ["EVALSHA"], ["ZRANGE"]]


def test_what_is_refused_costs_no_round_trip(semantic: Any, urls: Any, proxy: CountingProxy) -> None:
    for call in (
        lambda: semantic.get(URL, np.zeros(384)),
        lambda: semantic.set(URL, QUERY, None),
        lambda: semantic.batch_set([(URL, QUERY, 1), (URL, QUERY, None)]),
        lambda: urls.set(URL, [np.nan]),
        lambda: urls.batch_set({"a": QUERY, "b": [np.nan]}),
    ):
        with pytest.raises(ValueError):
            call()
    assert proxy.round_trips == 0


def test_a_url_read_and_a_url_write_are_one_round_trip(urls: Any, proxy: CountingProxy) -> None:
    assert urls.get(URL) is not None
    assert urls.get("never seen") is None
    urls.set(URL, OTHER)
    assert proxy.batches == [["GET"], ["GET"], ["SET"]]


def test_a_url_batch_is_one_round_trip_for_each_hundred(urls: Any, proxy: CountingProxy) -> None:
    urls.batch_set({f"u{i}": QUERY for i in range(100)})
    assert len(urls.batch_get([f"u{i}" for i in range(100)])) == 100
    assert proxy.batches == [["SET"] * 100, ["MGET"]]
    proxy.reset()
    urls.batch_set({f"u{i}": QUERY for i in range(201)})
    assert len(urls.batch_get([f"u{i}" for i in range(201)])) == 201
    assert proxy.batches == [["SET"] * 100, ["SET"] * 100, ["SET"], ["MGET"], ["MGET"], ["GET"]]


def test_a_script_the_server_forgot_costs_one_round_trip_more_once(
    semantic: Any, proxy: CountingProxy, redis_server: RedisServer
) -> None:
    with redis_server.client() as admin:
        admin.script_flush()
        semantic.set(URL, QUERY, 1)
        semantic.set(URL, QUERY, 2)
        assert proxy.batches == [["EVALSHA"], ["EVAL"], ["EVALSHA"]]
        proxy.reset()
        admin.script_flush()
        semantic.batch_set([("a", QUERY, 1), ("b", QUERY, 2), ("a", QUERY, 3)])
        semantic.batch_set([("a", OTHER, 4), ("b", OTHER, 5)])
        assert proxy.batches == [["EVALSHA"] * 3, ["EVAL"] * 3, ["EVALSHA"] * 2]
    assert semantic.batch_get([("a", QUERY), ("b", QUERY), ("a", OTHER), ("b", OTHER)]) == [3, 2, 4, 5]


def test_caches_of_one_server_share_their_connections(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    assert twins.make("SemanticCacheRedis", "s", proxy_config).get(URL, QUERY) is None
    proxy.reset()
    for session in ("s", "t", "u"):
        assert twins.make("SemanticCacheRedis", session, proxy_config).get(URL, QUERY) is None
    assert proxy.batches == [["GET"]] * 3
