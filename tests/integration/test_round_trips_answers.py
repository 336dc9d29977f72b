"""How many round trips the semantic cache that gives reasons costs, counted on the wire."""

from __future__ import annotations

import os
from typing import Any

import pytest

from lix_cache import SemanticCache
from lix_cache.config import CacheConfig
from lix_cache.matching.thresholds import Thresholds
from tests.support import CountingProxy, RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.semantic import apart, with_settings
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("one-trip")

THRESHOLDS = Thresholds(threshold=0.9, margin=0.05)
TABLE = {"q": mix(a=1), "like q": mix(a=1, b=0.1), "far": mix(c=1), "between": mix(a=1, d=0.1)}


@pytest.fixture
def make(twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy) -> Any:
    def build(**options: Any) -> Any:
        """Return a cache with 40 entries, connected, its scripts known to the server."""
        settings = {"thresholds": THRESHOLDS, "guards": False, "policy": ANYTHING, "audit_rate": 0, **options}
        warm = twins.make(
            "SemanticCache", Meanings(TABLE), proxy_config, context={"w": 1}, **with_settings(**settings)
        )
        warm.store("q", "Q", tags=["t"])
        warm.lookup("far")
        warm.report_wrong(warm.lookup("like q").entry_id, "x")
        warm.invalidate(tags=["t"])
        warm.invalidate(context={})
        warm.cleanup_expired()
        warm.get_stats()
        cache = twins.make("SemanticCache", Meanings(TABLE), proxy_config, **with_settings(**settings))
        for i in range(39):
            cache.store(f"filler {i}", i)
        cache.store("q", "Q")
        proxy.reset()
        return cache

    return build


def test_an_exact_hit_is_one_round_trip(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    assert cache.lookup("q").reason == "exact"
    assert proxy.batches == [["EVALSHA"]]


def test_a_miss_is_one_round_trip_however_much_is_new(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    assert cache.lookup("far").reason == "below_threshold"
    assert cache.lookup("far").reason == "below_threshold"
    assert cache.lookup("far", context={"never": "seen"}).reason == "empty"
    assert proxy.batches == [["EVALSHA"]] * 3


def test_a_miss_by_margin_is_one_round_trip(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    cache.store("between", "B")
    proxy.reset()
    assert cache.lookup("like q").reason == "margin"
    assert proxy.batches == [["EVALSHA"]]


def test_a_semantic_hit_is_two_round_trips(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    assert cache.lookup("like q").reason == "semantic"
    assert proxy.batches == [["EVALSHA"]] * 2


@pytest.mark.parametrize("eviction", ["fifo", "lru", "lfu"])
def test_a_store_is_one_round_trip_whatever_must_go_for_it(
    make: Any, proxy: CountingProxy, eviction: str
) -> None:
    cache = make(eviction=eviction, max_entries=30)
    for i in range(3):
        cache.store(f"another {i}", i)
    cache.store("q", "replaced")
    assert proxy.batches == [["EVALSHA"]] * 4
    assert cache.lookup("q").response == "replaced"


def test_uses_and_sliding_ttl_cost_no_round_trip(make: Any, proxy: CountingProxy) -> None:
    cache = make(eviction="lru", sliding_seconds=60)
    assert cache.lookup("q").is_hit
    assert cache.lookup("like q").is_hit
    assert proxy.batches == [["EVALSHA"]] * 3


def test_availability_costs_what_a_lookup_costs(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    assert cache.check_availability("q")
    assert cache.check_availability("like q")
    assert not cache.check_availability("far")
    assert proxy.batches == [["EVALSHA"]] * 4


def test_ten_thousand_entries_come_in_21_pages_and_then_cost_no_more(
    redis_config: CacheConfig, proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    settings: dict[str, Any] = {
        "thresholds": THRESHOLDS,
        "guards": False,
        "policy": ANYTHING,
        "max_entries": 10_001,
    }
    writer = SemanticCache(Meanings(TABLE), redis_config, **with_settings(**settings))
    for i in range(10_000):
        writer.store(f"filler {i}", i)
    writer.store("q", "Q")
    # The server knows the scripts, and there is a connection.
    assert writer.check_availability("like q")
    SemanticCache(Meanings(TABLE), proxy_config, **with_settings(**settings)).lookup("far", context={"w": 1})
    for query, first, later in (("q", 1, 1), ("far", 21, 1), ("like q", 22, 2)):
        # A cache whose index is empty, and which must fetch it; then one that has it.
        cache = apart(SemanticCache(Meanings(TABLE), proxy_config, **with_settings(**settings)))
        for trips in (first, later):
            proxy.reset()
            assert bool(cache.lookup(query)) == (query != "far")
            assert len(proxy.batches) == trips
    assert cache.get_stats()["entries"] == 10_001


def test_only_what_is_new_is_sent(make: Any, redis_server: RedisServer) -> None:
    cache = make()
    client = redis_server.client()

    def sent() -> int:
        stats: Any = client.info("stats")
        return int(stats["total_net_output_bytes"])

    cache.lookup("far")
    before = sent()
    cache.lookup("far")
    nothing_new = sent() - before
    cache.store("one more", 1)
    before = sent()
    cache.lookup("far")
    one_new = sent() - before
    client.close()
    # What the client's own INFO answers is in both.
    assert one_new - nothing_new < 400


def test_a_large_response_is_one_round_trip_to_store_and_one_more_to_read(
    make: Any, proxy: CountingProxy
) -> None:
    cache = make()
    large = os.urandom(11_000_000)
    cache.store("q", large)
    assert proxy.batches == [["EVALSHA"]]
    proxy.reset()
    assert cache.lookup("q").response == large
    assert proxy.batches == [["EVALSHA"], ["HGET", "HGET"]]
    cache.store("q", "small")
    assert cache.get_stats()["bytes"] < 1_000_000


def test_a_report_is_one_round_trip(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    entry_id = cache.check_availability("q").entry_id
    proxy.reset()
    cache.report_wrong(entry_id, "far")
    assert proxy.batches == [["EVALSHA"]]


def test_what_is_refused_costs_no_round_trip(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    for call in (
        lambda: cache.lookup(""),
        lambda: cache.lookup("q", query_embedding=[0.0] * 16),
        lambda: cache.store("q", None),
        lambda: cache.store("q", 1, context={"x": object()}),
        lambda: cache.invalidate(),
        lambda: cache.report_wrong("../x", "q"),
    ):
        with pytest.raises(ValueError):
            call()
    assert proxy.round_trips == 0


def test_vectors_of_responses_and_what_is_learned_cost_no_round_trip(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    """They go with the requests that are made anyway."""
    settings = {"policy": ANYTHING, "audit_rate": 1.0}
    warm = twins.make(
        "SemanticCache", Meanings(TABLE), proxy_config, context={"w": 1}, **with_settings(**settings)
    )
    warm.store("q", "The answer is in the settings, under security.")
    assert warm.settle(30)
    warm.lookup("far")  # now the server knows the scripts
    cache = twins.make("SemanticCache", Meanings(TABLE), proxy_config, **with_settings(**settings))
    cache.store("q", "The answer is in the settings, under security.")
    assert cache.settle(30)
    proxy.reset()
    cache.lookup("far")
    assert len(proxy.batches) == 1
    assert len(proxy.batches[0]) >= 2
    proxy.reset()
    cache.store("t", "Another answer is in the drawer of the desk.")
    assert cache.settle(30)
    cache.lookup("far")
    assert len(proxy.batches) == 2
