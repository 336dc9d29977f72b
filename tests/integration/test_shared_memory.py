"""However many caches a process has: one index of a scope, one memory of an embedder, one budget."""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import weakref
from typing import Any

import pytest

from lix_cache import (
    AsyncCacheCoordinator,
    AsyncSemanticCache,
    CacheConfig,
    CacheCoordinator,
    SemanticCache,
    SemanticSettings,
    Thresholds,
)
from lix_cache.errors import RedisAuthError
from lix_cache.hot import breaker as breakers
from lix_cache.hot.breaker import breaker_for
from lix_cache.semantic import embedding as embeddings
from lix_cache.semantic import store as stores
from lix_cache.semantic.index_pool import IndexBudget, IndexPool
from tests.support import RedisServer
from tests.support.forks import Child, Report
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.semantic import apart
from tests.support.twins import Twins, close_connections

TABLE = {"q": mix(a=1), "like q": mix(a=1, b=0.1), "far": mix(c=1)}
THRESHOLDS = Thresholds(threshold=0.9, margin=0.05)


def store_of(cache: Any) -> stores.AnswerStore:
    found: stores.AnswerStore = cache._core.redis.store
    return found


def new(twins: Twins, config: CacheConfig, embedder: Any = None, **options: Any) -> Any:
    return twins.make(
        "SemanticCache",
        Meanings(TABLE) if embedder is None else embedder,
        config,
        **{"thresholds": THRESHOLDS, "guards": False, "policy": ANYTHING, **options},
    )


@pytest.mark.parametrize("kind", [CacheCoordinator, AsyncCacheCoordinator])
def test_a_thousand_coordinators_share_one_index_and_one_budget(kind: Any, redis_config: CacheConfig) -> None:
    embedder = Meanings(TABLE)
    config = redis_config.replace(evictor_enabled=False)

    async def main() -> None:
        # Of one session; what is stored there is found by each of them.
        coordinators = [kind("one", config, embedder=embedder) for _ in range(1_000)]
        caches = [one.answers for one in coordinators]
        assert len({id(store_of(cache)) for cache in caches}) == 1
        assert len({id(cache._core.redis.breaker) for cache in caches}) == 1
        assert len({id(cache._core.embedding._memory) for cache in caches}) == 1
        await done(caches[0].store("q", "Q"))
        found = [await done(cache.lookup("q", query_embedding=TABLE["q"])) for cache in caches[:50]]
        assert {one.response for one in found} == {"Q"}
        for cache in caches[:50]:
            await done(cache.lookup("far"))
        indexes = store_of(caches[0]).indexes
        assert len(indexes) == 1
        assert embedder.asked.count("far") == 1
        # Of a thousand sessions: an index for each that was used, all within one budget.
        others = [kind(f"session {i}", config, embedder=embedder).answers for i in range(1_000)]
        for cache in others[:200]:
            await done(cache.lookup("far"))
        assert len(indexes) == 201
        assert {id(store_of(cache).indexes.budget) for cache in others} == {id(indexes.budget)}
        health = await done(others[0].health_check())
        assert health["components"]["index"]["limit_bytes"] == SemanticSettings().index_bytes
        assert indexes.nbytes <= indexes.budget.nbytes <= SemanticSettings().index_bytes
        if kind is AsyncCacheCoordinator:
            await close_connections()

    asyncio.run(main())


async def done(value: Any) -> Any:
    return await value if asyncio.iscoroutine(value) else value


@pytest.mark.parametrize("kind", [SemanticCache, AsyncSemanticCache])
def test_what_a_thousand_caches_shared_is_gone_with_the_last_of_them(
    kind: Any, redis_config: CacheConfig
) -> None:
    async def use(cache: Any) -> None:
        await done(cache.store("q", "Q"))
        await done(cache.lookup("like q"))
        if kind is AsyncSemanticCache:
            await close_connections()

    gc.collect()
    before = len(stores._stores), len(embeddings._memories), len(breakers._breakers)
    gc.disable()  # nothing here needs it: no cache is part of a circle
    try:
        embedder = Meanings(TABLE)
        caches = [kind(embedder, redis_config, context={"n": n}) for n in range(1_000)]
        asyncio.run(use(caches[0]))
        store, memory = weakref.ref(store_of(caches[0])), weakref.ref(caches[0]._core.embedding._memory)
        budget = store_of(caches[0]).indexes.budget
        assert len(stores._stores) == before[0] + 1
        assert len(embeddings._memories) == before[1] + 1
        taken = budget.nbytes
        assert taken > 0
        del caches
        assert (store(), memory()) == (None, None)
        assert budget.nbytes < taken
    finally:
        gc.enable()
    assert (len(stores._stores), len(embeddings._memories), len(breakers._breakers)) == before


def test_a_cache_more_costs_little_memory(redis_config: CacheConfig) -> None:
    embedder = Meanings(TABLE)

    def size_of(root: Any) -> int:
        """Bytes of all that is reached from a cache and is not shared."""
        seen: dict[int, Any] = {id(one): one for one in shared}
        waiting, total = [root], 0
        while waiting:
            one = waiting.pop()
            if id(one) in seen or isinstance(one, (type, type(sys), type(size_of))):
                continue
            seen[id(one)] = one
            total += sys.getsizeof(one)
            waiting += gc.get_referents(one)
        return total

    first = SemanticCache(embedder, redis_config)
    core = first._core
    shared = [store_of(first), core.embedding._memory, core.redis.breaker, embedder, core.clock, redis_config]
    shared += [core.hits.thresholds, core.hits.policy, core.hits.object_to, first._endpoint]
    assert size_of(SemanticCache(embedder, redis_config)) < 100_000


@pytest.mark.promise("isolation")
def test_another_server_password_prefix_or_database_is_another_store(redis_config: CacheConfig) -> None:
    mine = store_of(SemanticCache(None, redis_config))
    for change in (
        {"redis_host": "localhost"},
        {"redis_port": redis_config.redis_port + 1},
        {"redis_password": "other"},
        {"redis_username": "other"},
        {"redis_key_prefix": "other"},
        {"redis_buckets": 2},
        {"semantic_redis_db": 5},
    ):
        assert store_of(SemanticCache(None, redis_config.replace(**change))) is not mine
    assert store_of(SemanticCache(None, redis_config, settings=SemanticSettings(redis_db=5))) is not mine
    assert store_of(SemanticCache(None, redis_config.replace(embedder_id="another"))) is mine


@pytest.mark.promise("isolation")
def test_no_credentials_no_answer_though_the_index_is_there(twins: Twins, tmp_path: Any) -> None:
    with RedisServer(requirepass="right") as server:
        config = server.config(archive_dir=tmp_path)
        embedder = Meanings(TABLE)
        cache = new(twins, config, embedder)
        cache.store("q", "Q")
        assert cache.lookup("like q").response == "Q"
        other = new(twins, config.replace(redis_password="wrong"), embedder)
        with pytest.raises(RedisAuthError):
            other.lookup("like q")


@pytest.mark.promise("right-answer")
def test_one_cache_invalidates_for_all_that_share_the_index(twins: Twins, redis_config: CacheConfig) -> None:
    embedder = Meanings(TABLE)
    caches = [new(twins, redis_config, embedder) for _ in range(3)]
    entry_id = caches[0].store("q", "Q", tags=["t"])
    assert [cache.lookup("like q").response for cache in caches] == ["Q"] * 3
    assert caches[1].invalidate(tags=["t"]) == 1
    assert [cache.lookup("like q").is_hit for cache in caches] == [False] * 3
    entry_id = caches[2].store("q", "new")
    assert [cache.lookup("like q").response for cache in caches] == ["new"] * 3
    caches[0].report_wrong(entry_id, "like q")
    assert [cache.lookup("like q").is_hit for cache in caches] == [False] * 3
    assert [cache.lookup("q").response for cache in caches] == ["new"] * 3


@pytest.mark.promise("right-answer")
def test_two_embedders_of_one_name_share_no_vector(twins: Twins, redis_config: CacheConfig) -> None:
    """They share entries, for they say that they are one; what each makes of a text is its own."""
    one, other = Meanings(TABLE), Meanings({**TABLE, "like q": mix(c=1)})
    first, second = new(twins, redis_config, one), new(twins, redis_config, other)
    first.store("q", "Q")
    assert first.lookup("like q").is_hit
    assert not second.lookup("like q").is_hit
    assert (one.asked.count("like q"), other.asked.count("like q")) == (1, 1)


@pytest.mark.promise("one-trip")
def test_a_new_cache_fetches_nothing_that_another_has_fetched(
    twins: Twins, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    embedder = Meanings(TABLE)
    cache = new(twins, redis_config, embedder)
    for i in range(300):
        cache.store(f"filler {i}", i)
    with redis_server.client() as client:

        def fetched_by(one: Any) -> int:
            before = client.info("stats")["total_net_output_bytes"]
            assert not one.lookup("far").is_hit
            return int(client.info("stats")["total_net_output_bytes"] - before)

        first = fetched_by(cache)
        assert fetched_by(new(twins, redis_config, embedder)) < first / 4
        assert fetched_by(apart(new(twins, redis_config, embedder))) > first / 2


def test_notes_of_one_cache_go_with_the_request_of_another(twins: Twins, redis_config: CacheConfig) -> None:
    embedder = Meanings(TABLE)
    first, second = new(twins, redis_config, embedder), new(twins, redis_config, embedder)
    first.store("q", "Open the settings and choose a new password there.")
    assert first.settle(30)
    assert second.settle(30)
    second.lookup("far")
    view = next(iter(store_of(second).indexes._indexes.values())).index.view()
    second.lookup("far")
    view = next(iter(store_of(second).indexes._indexes.values())).index.view()
    assert view.answers is not None
    assert view.answers.any()


def test_the_largest_limit_counts_and_goes_with_its_server(redis_config: CacheConfig) -> None:
    small = SemanticCache(None, redis_config, settings=SemanticSettings(index_bytes=1_000))
    budget = store_of(small).indexes.budget
    other = redis_config.replace(redis_key_prefix="other")
    large = SemanticCache(None, other, settings=SemanticSettings(index_bytes=1 << 40))
    assert budget.limit_bytes == 1 << 40
    del large
    gc.collect()
    assert budget.limit_bytes < 1 << 40


def test_pools_share_a_budget_by_last_use() -> None:
    budget = IndexBudget()
    one, other = IndexPool(100_000, budget), IndexPool(50_000, budget)
    for i in range(30):
        one.get(f"a{i}", 4)
        other.get(f"b{i}", 4)
    for i in range(100):
        one.get("a0", 4)
        other.get(f"c{i}", 4)
    assert budget.nbytes <= budget.limit_bytes == 100_000
    assert one.nbytes + other.nbytes == budget.nbytes
    assert len(one) == 1
    assert "a0" in one._indexes
    del other
    gc.collect()
    assert budget.nbytes == one.nbytes


def test_threads_make_one_store_and_one_memory(redis_config: CacheConfig) -> None:
    embedder, barrier = Meanings(TABLE), threading.Barrier(16)
    made: list[SemanticCache] = []

    def work() -> None:
        barrier.wait()
        made.append(SemanticCache(embedder, redis_config))
        made[-1].lookup("far")

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 16
    assert len({id(store_of(cache)) for cache in made}) == 1
    assert len({id(cache._core.embedding._memory) for cache in made}) == 1
    assert len(store_of(made[0]).indexes) == 1


def test_a_forked_child_begins_with_an_empty_index_of_its_own(redis_config: CacheConfig) -> None:
    cache = SemanticCache(Meanings(TABLE), redis_config, thresholds=THRESHOLDS, guards=False, policy=ANYTHING)
    cache.store("q", "Q")
    assert cache.lookup("like q").is_hit

    def work(report: Report) -> None:
        store = store_of(cache)
        report("s", len(store.indexes))
        report("b", store.indexes.budget.nbytes)
        report("h", int(cache.lookup("like q").is_hit))
        report("t", int(store_of(SemanticCache(None, redis_config)) is store))

    with Child(work) as child:
        assert child.records() == [("s", 0), ("b", 0), ("h", 1), ("t", 1)]
        assert child.wait() == 0
    assert len(store_of(cache).indexes) == 1


def test_caches_of_an_endpoint_share_a_breaker_and_sessions_have_their_own(redis_config: CacheConfig) -> None:
    config = redis_config.replace(semantic_redis_db=2, url_cache_redis_db=2, evictor_enabled=False)
    one = CacheCoordinator("a", config, embedder=Meanings(TABLE))
    caches = [one.semantic_cache._cache, one.url_embedding_cache._cache]
    assert one.answers is not None
    assert {id(cache.breaker) for cache in caches} == {id(one.answers._core.redis.breaker)}
    session = one.context_window.hybrid._store
    assert session.breaker is not caches[0].breaker
    clock = one.answers._core.clock
    assert breaker_for(session.endpoint, config.redis_retry_seconds, clock) is caches[0].breaker
    assert breaker_for(session.endpoint, 99, clock) is not caches[0].breaker
