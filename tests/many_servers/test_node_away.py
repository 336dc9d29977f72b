"""One node of a cluster is away, and none takes over: what the others have goes on with Redis."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import (
    ConversationArchive,
    HashingEmbedder,
    HybridConversationCache,
    RedisUnavailable,
    SemanticCache,
    URLEmbeddingCache,
)
from lix_cache.config import CacheConfig
from lix_cache.gateway.limits import Limits
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.tiers import RedisTier
from lix_cache.hot.clients import close_async_redis_clients
from lix_cache.hot.keys import Keys
from lix_cache.hot.slots import slot_of
from lix_cache.session import rounds
from lix_cache.session.evictor import Evictor
from lix_cache.session.layout import StoreDriver
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_cluster import RedisCluster, ServerProcess
from tests.support.stores import own_store
from tests.support.twins import ManualClock, Twins
from tests.support.wire import chat_body, post

pytestmark = pytest.mark.slow

NAMES = [f"s{i}" for i in range(12)]
_RETRY_SECONDS = count(600)
#: What a degraded call counts.
DEGRADED = ("degraded_reads", "archived_adds", "redis_errors")


@pytest.fixture(scope="module")
def nodes() -> Iterator[RedisCluster]:
    # So long the others wait before they call a node dead: as before a replica takes over.
    with RedisCluster(3, node_timeout_ms=120_000) as running:
        yield running


@pytest.fixture
def config(nodes: RedisCluster, tmp_path: Path) -> CacheConfig:
    # Longer than any test: what it shuts out stays out. And another time for each test: caches that agree in
    # it share what they know of servers that are away, also with those of a test before that are still there.
    seconds = next(_RETRY_SECONDS)
    return own_store(nodes, tmp_path, redis_retry_seconds=seconds, hot_window_size=4, archive_batch_turns=3)


@pytest.fixture
def kill(nodes: RedisCluster) -> Iterator[Callable[[], ServerProcess]]:
    """Kill the node of the first bucket, which has the notes of the store as well."""
    killed: list[ServerProcess] = []

    def kill() -> ServerProcess:
        dead = nodes.owner(slot_of("{0}"))
        killed.append(dead)
        dead.kill()
        return dead

    yield kill
    for dead in killed:
        if not dead.is_running:
            bring_back(nodes, dead)


def bring_back(nodes: RedisCluster, dead: ServerProcess) -> None:
    dead.start()
    nodes.settle()


def on(nodes: RedisCluster, config: CacheConfig, dead: ServerProcess) -> set[str]:
    """Return the sessions whose windows are on a node."""
    keys = HybridConversationCache("s", config)._store.hot.keys
    found = {name for name in NAMES if nodes.owner(slot_of(keys.window(name))) is dead}
    assert 0 < len(found) < len(NAMES)
    return found


def degraded(cache: Any) -> dict[str, int]:
    counters = cache._store.counters
    return {name: counters[name] for name in DEGRADED if counters[name]}


def _scope(cache: Any) -> str:
    own: str = cache._core.scopes._own.id
    return own


def contents(messages: Any) -> list[Any]:
    return [message["content"] for message in messages]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("is_new", [False, True], ids=["used", "new"])
def test_the_sessions_of_the_others_go_on(
    nodes: RedisCluster, config: CacheConfig, kill: Callable[[], ServerProcess], is_new: bool, tmp_path: Path
) -> None:
    both = [Twins("sync"), Twins("async")]
    configs = [
        config.replace(
            archive_dir=tmp_path / twins.variant, redis_key_prefix=f"{config.redis_key_prefix}{twins.variant}"
        )
        for twins in both
    ]
    cut_off = on(nodes, configs[0], nodes.owner(slot_of("{0}")))
    said = 0 if is_new else 3
    for twins, own in zip(both, configs, strict=True):
        for name in NAMES:
            cache = twins.make("HybridConversationCache", name, own)
            for i in range(said):
                cache.add_message("user", f"{name} {i}")
    dead = kill()
    for twins, own in zip(both, configs, strict=True):
        # A store that is new has not been compared with the notes, which are on the dead node.
        caches = {name: twins.make("HybridConversationCache", name, own) for name in NAMES}
        for i in range(said, said + 3):
            for name, cache in caches.items():
                cache.add_message("user", f"{name} {i}")
                if name not in cut_off:
                    wanted = [f"{name} {n}" for n in range(i + 1)]
                    assert contents(cache.get_context()) == wanted[-4:]
                    assert contents(cache.get_full()) == wanted
        for name, cache in caches.items():
            counted = degraded(cache)
            if name in cut_off:
                assert counted["archived_adds"] == 3
            else:
                assert counted == {}, name
    bring_back(nodes, dead)
    for twins, own in zip(both, configs, strict=True):
        for name in NAMES:
            cache = twins.make("HybridConversationCache", name, own)
            cache._store.breaker_of(name).reset()
            assert contents(cache.get_full()) == [f"{name} {n}" for n in range(said + 3)]
        twins.close()


@pytest.mark.promise("no-loss")
def test_a_round_of_the_daemon_moves_what_the_others_have(
    nodes: RedisCluster, config: CacheConfig, kill: Callable[[], ServerProcess]
) -> None:
    caches = {name: HybridConversationCache(name, config) for name in NAMES}
    for cache in caches.values():
        for i in range(3):
            cache.add_message("user", i)
    store = caches["s0"]._store
    evictor = Evictor(store)
    for name in NAMES:
        evictor.added_to(name)
    dead = kill()
    cut_off = on(nodes, config, dead)
    drive = StoreDriver(store)
    # What may still be hot is not forgotten.
    assert drive(rounds.hot_among(store, NAMES)) == set(NAMES)
    with pytest.raises(RedisUnavailable):
        evictor.flush()
    archived = {name for name in NAMES if store.cold.exists(name)}
    assert archived == set(NAMES) - cut_off
    # A round fails, because it has not moved all, and has done all the others' work before.
    for name in archived:
        caches[name].add_message("user", 3)
    evictor.use(0.0)
    with pytest.raises(RedisUnavailable):
        evictor.run_once()
    assert all(store.cold.summary(name).total == 4 for name in archived)
    bring_back(nodes, dead)
    moved = evictor.run_once()
    assert moved.sessions == len(cut_off)
    for name in NAMES:
        assert contents(caches[name].get_full()) == list(range(4 if name in archived else 3))


@pytest.mark.exhaustive
@pytest.mark.promise("no-loss")
def test_expired_sessions_of_the_others_are_cleaned_up(
    nodes: RedisCluster, config: CacheConfig, kill: Callable[[], ServerProcess]
) -> None:
    store = HybridConversationCache("s", config)._store
    long_ago = ManualClock(time.time() - 60 * 86_400)
    for name in NAMES:
        ConversationArchive(config.archive_dir, clock=long_ago).append_turn(
            name, {"role": "user", "content": 0}
        )
        os.utime(Path(config.archive_dir) / f"{name}.huff", (long_ago.now, long_ago.now))
    drive = StoreDriver(store)
    drive(rounds.hot_among(store, NAMES))
    cut_off = on(nodes, config, kill())
    # Whether what the dead node has is used cannot be told.
    assert drive(rounds.clean_up(store)) == len(NAMES) - len(cut_off)
    assert {name for name in NAMES if store.cold.exists(name)} == cut_off


@pytest.mark.promise("right-answer")
def test_the_caches_lose_what_the_dead_node_has_alone(
    nodes: RedisCluster, config: CacheConfig, kill: Callable[[], ServerProcess]
) -> None:
    config = config.replace(on_cache_error="miss")
    both = [Twins("sync"), Twins("async")]
    vectors = {f"u{i}": np.array([i, 1.0], dtype=np.float32) for i in range(12)}
    for twins in both:
        assert all(twins.make("URLEmbeddingCache", "s", config).batch_set(vectors).values())
        for name in NAMES:
            twins.make("SemanticCacheRedis", name, config).set("u", [1.0, 0.0], name)
    urls = both[0].make("URLEmbeddingCache", "s", config)
    dead = nodes.owner(slot_of("{0}"))
    lost = {url for url in vectors if nodes.owner(slot_of(urls._cache._key(url))) is dead}
    assert 0 < len(lost) < len(vectors)
    cut_off = on(nodes, config, kill())
    for twins in both:
        strict = twins.make("URLEmbeddingCache", "s", config.replace(on_cache_error="raise"))
        with pytest.raises(RedisUnavailable):
            strict.batch_get(list(vectors))
        urls = twins.make("URLEmbeddingCache", "s", config)
        caches = {name: twins.make("SemanticCacheRedis", name, config) for name in NAMES}
        for _ in range(2):
            found = urls.batch_get(list(vectors))
            assert {url for url, vector in found.items() if vector is None} == lost
            assert {url for url, is_set in urls.batch_set(vectors).items() if not is_set} == lost
            assert {url for url in vectors if urls.get(url) is None} == lost
            answers = {name: cache.get("u", [1.0, 0.0]) for name, cache in caches.items()}
            assert answers == {name: None if name in cut_off else name for name in NAMES}
        twins.close()


@pytest.mark.promise("right-answer")
def test_answers_by_meaning_are_misses_on_the_dead_node_alone_and_no_urls_with_them(
    nodes: RedisCluster, config: CacheConfig, kill: Callable[[], ServerProcess]
) -> None:
    config = config.replace(on_cache_error="miss")
    caches = {name: SemanticCache(HashingEmbedder(), config=config, context={"name": name}) for name in NAMES}
    for name, cache in caches.items():
        assert cache.store("a question", name)
    vectors = {f"u{i}": np.array([i, 1.0], dtype=np.float32) for i in range(12)}
    urls = URLEmbeddingCache("s", config)
    assert all(urls.batch_set(vectors).values())
    dead = nodes.owner(slot_of("{0}"))
    keys = Keys(config.redis_key_prefix, config.redis.buckets)
    lost = {url for url in vectors if nodes.owner(slot_of(urls._cache._key(url))) is dead}
    kill()
    for _ in range(2):
        found = {name: cache.lookup("a question") for name, cache in caches.items()}
        cut_off = {name for name, one in found.items() if not one.is_hit}
        assert {found[name].reason for name in cut_off} == {"redis"}
        assert 0 < len(cut_off) < len(NAMES)
        assert {url for url, vector in urls.batch_get(list(vectors)).items() if vector is None} == lost
        places = {nodes.owner(slot_of(f"{{{keys.bucket(_scope(caches[name]))}}}")) for name in cut_off}
        assert places == {dead}


@pytest.mark.promise("right-answer")
def test_the_gateway_misses_what_the_dead_node_has_alone(
    nodes: RedisCluster, config: CacheConfig, kill: Callable[[], ServerProcess], provider: Provider
) -> None:
    with RunningGateway(provider, config) as gateway:
        for i in range(12):
            assert post(gateway.url, chat_body(str(i))).status == 200
        gateway.forget()
        dead = kill()
        pattern = f"{config.redis_key_prefix}:*:gw:answer:*"
        left = sum(len(server.ask("KEYS", pattern)) for server in nodes.servers if server is not dead)
        assert 0 < left < 12
        for _ in range(2):
            reasons = [post(gateway.url, chat_body(str(i))).reason for i in range(12)]
            assert reasons.count("redis") == left
            gateway.forget()


@pytest.mark.exhaustive
@pytest.mark.promise("no-loss")
def test_tokens_are_counted_once_however_often_the_gateway_tells_of_them(
    nodes: RedisCluster, config: CacheConfig, kill: Callable[[], ServerProcess]
) -> None:
    clock = ManualClock(time.time() // 86_400 * 86_400 + 43_200)  # noon: no day turns

    async def work() -> None:
        redis = RedisTier(config.replace(redis_retry_seconds=0), clock)
        limits, day = Limits(redis, clock), str(int(clock.time() // 86_400))
        for name in NAMES:
            assert limits.spent(Tenant(name, tokens_per_day=100), 40)
        dead = kill()
        for _ in range(3):
            await limits.tell()
        bring_back(nodes, dead)
        await limits.tell()
        counted = await redis.ask(*(("GET", redis.name("tokens", name, day)) for name in NAMES))
        assert counted == [b"40"] * len(NAMES)
        await close_async_redis_clients()

    asyncio.run(work())
