"""Slots that move under load: nothing is lost, doubled or refused."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import (
    AsyncHybridConversationCache,
    HashingEmbedder,
    HybridConversationCache,
    SemanticCache,
    URLEmbeddingCache,
)
from lix_cache.config import CacheConfig
from lix_cache.hot.slots import slot_of
from lix_cache.session.evictor import Evictor
from tests.support.redis_cluster import RedisCluster
from tests.support.stores import own_store

SESSIONS = [f"moving {i}" for i in range(6)]


@pytest.fixture
def config(cluster: RedisCluster, tmp_path: Path) -> CacheConfig:
    return own_store(
        cluster,
        tmp_path,
        on_redis_error="raise",
        hot_window_size=4,
        archive_batch_turns=3,
        redis_socket_timeout=30,
        redis_buckets=8,
    )


def move_all(cluster: RedisCluster, config: CacheConfig, rounds: int, running: list[Any]) -> None:
    """Move the slots of all buckets from node to node, as long as the others are at work."""
    for turn in range(rounds):
        for bucket in range(config.redis.buckets):
            slot = slot_of(f"{{{bucket}}}")
            at = cluster.servers.index(cluster.owner(slot))
            cluster.move(slot, cluster.servers[(at + 1 + turn % 2) % 3])
        if all(one.done() for one in running):
            break


@pytest.mark.promise("no-loss")
def test_sessions_go_on_while_their_slots_move(cluster: RedisCluster, config: CacheConfig) -> None:
    stop = threading.Event()

    def talk(name: str) -> int:
        cache, said = HybridConversationCache(name, config), 0
        while not stop.is_set():
            cache.add_message("user", said)
            said += 1
            context = cache.get_context()
            assert context[-1]["content"] == said - 1
        return said

    async def talk_async(name: str) -> int:
        cache, said = AsyncHybridConversationCache(name, config), 0
        while not stop.is_set():
            await cache.add_message("user", said)
            said += 1
        return said

    async def all_async() -> list[int]:
        return await asyncio.gather(*map(talk_async, SESSIONS[3:]))

    def move_to_disk() -> None:
        evictor = Evictor(HybridConversationCache(SESSIONS[0], config)._store)
        while not stop.is_set():
            evictor.run_once()

    with ThreadPoolExecutor(8) as pool:
        sync = [pool.submit(talk, name) for name in SESSIONS[:3]]
        others = pool.submit(lambda: asyncio.run(all_async()))
        daemon = pool.submit(move_to_disk)
        try:
            move_all(cluster, config, 6, [])
        finally:
            stop.set()
        daemon.result()
        counts = [one.result() for one in sync] + others.result()
    for name, count in zip(SESSIONS, counts, strict=True):
        full = HybridConversationCache(name, config).get_full()
        assert [message["content"] for message in full] == list(range(count)), name
        assert count > 0


@pytest.mark.promise("right-answer")
def test_caches_go_on_while_their_slots_move(cluster: RedisCluster, config: CacheConfig) -> None:
    stop = threading.Event()
    urls = URLEmbeddingCache("s", config)
    vectors = {f"https://example.org/{i}": np.full(8, i + 1, np.float32) for i in range(40)}
    urls.batch_set(vectors)

    def ask() -> int:
        cache = SemanticCache(HashingEmbedder(), config=config, context={"page": 1})
        asked = 0
        while not stop.is_set():
            cache.store(f"question number {asked}", f"answer {asked}")
            assert cache.lookup(f"question number {asked}").response == f"answer {asked}"
            found = urls.batch_get(list(vectors))
            assert all(found[url] is not None and found[url][0] == vectors[url][0] for url in vectors)
            asked += 1
        return asked

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            move_all(cluster, config, 4, [asking])
            for url in list(vectors)[:10]:
                slot = slot_of(urls._cache._key(url))
                at = cluster.servers.index(cluster.owner(slot))
                cluster.move(slot, cluster.servers[(at + 1) % 3])
        finally:
            stop.set()
        assert asking.result() > 0
