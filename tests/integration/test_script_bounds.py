"""No script of the answer caches does work in proportion to what there is; the next calls do the rest."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest

from lix_cache import SemanticCache, SemanticCacheRedis
from lix_cache.config import CacheConfig
from lix_cache.hot.answers import Answers
from lix_cache.hot.found import Everything, News
from lix_cache.matching.thresholds import Thresholds
from lix_cache.semantic import lookup
from lix_cache.semantic.index import View
from tests.support import CountingProxy, RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.monitor import Monitor
from tests.support.semantic import apart, with_settings
from tests.support.twins import Twins

pytestmark = pytest.mark.promise("no-stall")

THRESHOLDS = Thresholds(threshold=0.9, margin=0.05)
TABLE = {"q": mix(a=1), "like q": mix(a=1, b=0.1), "far": mix(c=1)}
OPTIONS: dict[str, Any] = {"thresholds": THRESHOLDS, "guards": False, "policy": ANYTHING}


def cache_of(config: CacheConfig, **options: Any) -> SemanticCache:
    return apart(SemanticCache(Meanings(TABLE), config, **with_settings(**{**OPTIONS, **options})))


@pytest.mark.parametrize("eviction", ["fifo", "lru", "lfu"])
def test_a_smaller_limit_is_reached_a_part_at_a_time(redis_config: CacheConfig, eviction: str) -> None:
    large = cache_of(redis_config, eviction=eviction)
    for i in range(150):
        large.store(f"filler {i}", i)
    small = cache_of(redis_config, eviction=eviction, max_entries=10)
    counts = []
    for i in range(8):
        small.store(f"later {i}", i)
        counts.append(small.get_stats()["entries"])
    assert counts == [119, 88, 57, 26, 10, 10, 10, 10]
    assert small.get_stats()["evicted"] == 148
    assert [small.lookup(f"later {i}").response for i in range(8)] == list(range(8))


def test_the_deletions_are_trimmed_a_part_at_a_time(
    redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    cache, late = cache_of(redis_config), cache_of(redis_config)
    cache.store("q", "Q")
    assert late.lookup("like q").response == "Q"
    with redis_server.client() as client:
        (log,) = client.scan_iter(f"{redis_config.redis_key_prefix}:*:ans:log:*")
        gone = log.replace(b":ans:log:", b":ans:dropped:")
        with client.pipeline() as pipe:
            for _ in range(6_000):
                pipe.xadd(gone, {"entry": "1-1"})
            pipe.execute()
        lengths = []
        for i in range(6):
            cache.store(f"filler {i}", i)
            lengths.append(client.xlen(gone))
        assert lengths == [4_976, 3_952, 2_928, 1_904, 1_904, 1_904]
    # One that is further behind than that gets everything anew.
    assert late.lookup("far").reason == "below_threshold"
    assert late.lookup("like q").response == "Q"


@pytest.fixture
def pages(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and bytes of each page of news that comes."""
    sizes: list[tuple[int, int]] = []
    read = Answers.found

    def reading(reply: Any) -> Any:
        found = read(reply)
        if isinstance(found, (News, Everything)):
            gone = len(found.dropped) if isinstance(found, News) else 0
            sizes.append((len(found.rows) + gone, sum(len(fields[1]) for _, fields in found.rows)))
        return found

    monkeypatch.setattr(Answers, "found", staticmethod(reading))
    return sizes


def test_a_page_of_what_is_new_is_bounded_by_its_rows(
    redis_config: CacheConfig, redis_server: RedisServer, pages: list[tuple[int, int]]
) -> None:
    cache, late = cache_of(redis_config), cache_of(redis_config)
    cache.store("q", "Q")
    late.lookup("far")
    with redis_server.client() as client:
        (log,) = client.scan_iter(f"{redis_config.redis_key_prefix}:*:ans:log:*")
        ((_, fields),) = client.xrange(log)
        with client.pipeline() as pipe:
            for _ in range(4_500):
                pipe.xadd(log, fields)
                pipe.xadd(log.replace(b":ans:log:", b":ans:dropped:"), {"entry": "1-1"})
            pipe.execute()
    assert late.lookup("like q").response == "Q"
    assert [rows for rows, _ in pages] == [1, *[500] * 18, 0]
    pages.clear()
    cache_of(redis_config).lookup("like q")
    assert [rows for rows, _ in pages] == [*[500] * 9, 1]


def test_a_page_of_what_is_new_is_bounded_by_its_bytes(
    redis_config: CacheConfig, pages: list[tuple[int, int]]
) -> None:
    cache = cache_of(redis_config)
    for i in range(600):
        assert cache.store(f"{i} " + "long " * 1_580, i)
    cache_of(redis_config).lookup("far")
    assert sum(rows for rows, _ in pages) == 600
    # It ends a step of sixteen rows behind its bytes at most.
    assert [rows for rows, _ in pages] == [*[48] * 12, 24]
    assert max(size for _, size in pages) < 2**18 + 16 * 2**13


@pytest.mark.parametrize("tenants", [1, 8])
@pytest.mark.parametrize("what", ["tag", "age", "meaning", "expired"])
def test_no_round_trip_drops_more_than_a_page(
    redis_config: CacheConfig, redis_server: RedisServer, what: str, tenants: int
) -> None:
    caches = [cache_of(redis_config, max_entries=10_000) for _ in range(tenants)]
    each = 1_000 // tenants
    for tenant, cache in enumerate(caches):
        for i in range(each):
            cache.store(f"filler {i}", i, context={"t": tenant}, tags=["tag"])
    prefix = redis_config.redis_key_prefix
    with redis_server.client() as client, Monitor(redis_server) as monitor:
        if what == "expired":
            for key in list(client.scan_iter(f"{prefix}:*:ans:expiry:*")):
                client.execute_command("ZUNIONSTORE", key, 1, key, "WEIGHTS", 0)
            assert caches[0].cleanup_expired() == each * tenants
        elif what == "meaning":
            assert (
                sum(
                    caches[0].invalidate(similar_to="q", similarity=-1, context={"t": t})
                    for t in range(tenants)
                )
                == each * tenants
            )
        else:
            criteria: Any = {"tags": ["tag"]} if what == "tag" else {"older_than_seconds": 0}
            assert caches[0].invalidate(**criteria) == each * tenants
        assert not list(client.scan_iter(f"{prefix}:*:ans:entries:*"))
    dropped = [sum(word[0] == b"XADD" for word in one.inside) for one in monitor.commands if one.is_script]
    assert sum(dropped) == each * tenants
    # Scopes of one round trip share its hundred; a scan may return a few more than it was asked for.
    share = 100 // tenants if what != "meaning" else 100
    assert max(dropped) <= share + 32
    assert sum(size > share // 2 for size in dropped) >= each * tenants // (share + 32) - 1


def test_a_large_index_is_searched_and_kept_beside_the_loop(
    twins: Twins, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    search = View.similarities

    def searching(self: View, query: Any, now_ms: float) -> Any:
        threads.append(threading.get_ident())
        return search(self, query, now_ms)

    monkeypatch.setattr(View, "similarities", searching)
    monkeypatch.setattr(lookup, "_LARGE", 2 * 16)
    cache = apart(twins.make("SemanticCache", Meanings(TABLE), redis_config, **OPTIONS))
    cache.store("q", "Q")
    assert cache.lookup("like q").response == "Q"
    cache.store("far", "F")
    assert cache.lookup("like q").response == "Q"
    here = threading.get_ident()
    assert [thread == here for thread in threads] == [True, twins.variant == "sync"]


def test_what_is_new_comes_in_pages_and_is_complete_before_it_decides(
    redis_config: CacheConfig, proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    writer = cache_of(redis_config)
    vectors = np.eye(16, dtype=np.float32)
    for i in range(1_100):
        assert writer.store(f"{i} " + "long " * 1_580, i, query_embedding=vectors[3 + i % 13])
    writer.store("q", "Q")
    # The newest, on the last page, stands in the way of an answer.
    writer.store("nearly q", "other", query_embedding=mix(a=1, b=0.05))
    late = cache_of(proxy_config)
    late.lookup("far", context={"w": 1})
    proxy.reset()
    assert late.lookup("like q").reason == "margin"
    assert len(proxy.batches) == 23
    proxy.reset()
    assert late.lookup("like q").reason == "margin"
    assert len(proxy.batches) == 1
    kept = late._core.redis.store.indexes._indexes.values()
    assert max(len(one.index) for one in kept) == 1_102


def test_reports_in_one_scope_are_bounded(redis_config: CacheConfig, redis_server: RedisServer) -> None:
    cache = cache_of(redis_config)
    entry_id = cache.store("q", "Q")
    assert entry_id is not None
    assert cache.report_wrong(entry_id, "far")
    with redis_server.client() as client:
        (key,) = client.scan_iter(f"{redis_config.redis_key_prefix}:*:ans:reported:*")
        client.hset(key, mapping={f"{i:016}": b"x" * 8 for i in range(9_999)})
        for i in range(5):
            assert cache.report_wrong(entry_id, f"another {i}")
            assert client.hlen(key) == 10_000
    assert cache.lookup("another 4", query_embedding=mix(a=1)).reason == "reported"


def test_a_ring_of_another_size_keeps_the_newest_of_its_entries(
    twins: Twins, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    def ring(size: int) -> Any:
        return twins.make("SemanticCacheRedis", "s", redis_config, max_items_per_url=size)

    angles = np.linspace(0, np.pi / 2, 1_000)
    vectors = np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)
    ring(1_000_000).batch_set([("u", vector, i) for i, vector in enumerate(vectors)])
    with redis_server.client() as client:
        (key,) = client.scan_iter(f"{redis_config.redis_key_prefix}:*:sem:vectors:*")
        for size, kept in ((500_000, 257), (100, 100), (2_000_000, 101)):
            ring(size).set("u", vectors[0], "last")
            assert client.strlen(key) == 64 + kept * 24
            assert client.hlen(key.replace(b":sem:vectors:", b":sem:responses:")) == kept
            assert ring(size).get("u", vectors[0]) == "last"
            assert ring(size).get("u", vectors[999]) == 999


def test_any_number_of_urls_is_cleared(redis_config: CacheConfig, redis_server: RedisServer) -> None:
    cache = SemanticCacheRedis("s", redis_config)
    cache.batch_set([(f"url {i}", [1.0, 0.0], i) for i in range(1_234)])
    assert cache.get_stats()["cached_urls"] == 1_234
    assert cache.clear_session()
    with redis_server.client() as client:
        assert not list(client.scan_iter(f"{redis_config.redis_key_prefix}*"))
