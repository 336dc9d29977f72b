"""The daemon's rounds and the administration over a whole cluster: one batch for each node."""

from __future__ import annotations

import asyncio
import gc
import itertools
import weakref
from pathlib import Path
from typing import Any

import pytest
import redis.exceptions as rx

from lix_cache import HybridConversationCache, StoreAdmin
from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import AsyncDriver
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import Flow, RedisCall
from lix_cache.errors import RedisError
from lix_cache.hot.clients import close_async_redis_clients
from lix_cache.hot.connections import NewConnection
from lix_cache.hot.slots import Node, slot_of
from lix_cache.hot.window import HotWindow
from lix_cache.session import rounds
from lix_cache.session.evictor import Evictor
from lix_cache.session.layout import StoreDriver
from tests.contract.cold_tier import long_after
from tests.support.redis_cluster import RedisCluster
from tests.support.stores import own_store

pytestmark = pytest.mark.promise("no-loss")


@pytest.fixture
def config(cluster: RedisCluster, tmp_path: Path) -> CacheConfig:
    return own_store(cluster, tmp_path, hot_window_size=4, archive_batch_turns=2)


def use(config: CacheConfig, count: int, messages: int = 3) -> list[str]:
    names = [f"s{i}" for i in range(count)]
    for name in names:
        cache = HybridConversationCache(name, config)
        for i in range(messages):
            cache.add_message("user", f"{name} {i}")
    return names


def test_a_round_moves_the_sessions_of_all_nodes(config: CacheConfig) -> None:
    names = use(config, 60)
    evictor = Evictor(HybridConversationCache("s0", config)._store)
    evictor.use(0.0)
    moved = evictor.run_once()
    assert (moved.sessions, moved.messages) == (60, 180)
    assert StoreAdmin(config).stats().hot_messages == 0
    for name in names[::7]:
        cache = HybridConversationCache(name, config)
        assert [m["content"] for m in cache.get_full()] == [f"{name} {i}" for i in range(3)]


def test_windows_that_overflow_are_cut_on_all_nodes(config: CacheConfig) -> None:
    use(config, 20, messages=7)
    store = HybridConversationCache("s0", config)._store
    moved = HybridConversationCache("s0", config)._drive(rounds.spill_overflow(store))
    assert moved.messages == 20 * 3


def test_a_round_without_work_asks_each_node_a_fixed_number_of_times(
    cluster: RedisCluster, config: CacheConfig
) -> None:
    evictor = Evictor(HybridConversationCache("s0", config)._store)
    evictor.run_once()
    drive = evictor._driver()
    asked: list[int] = []
    each = drive._each
    drive._each = lambda asks: (asked.append(len(asks)), each(asks))[1]  # type: ignore[method-assign]
    drive(rounds.spill_overflow(evictor.store))
    drive(rounds.offload_idle(evictor.store, 3600.0, "me"))
    # For all 1,024 buckets: what overflows; what is idle. Nothing is asked of all nodes for one answer.
    assert asked == [3, 3]


def test_what_is_idle_in_many_buckets_moves_together(config: CacheConfig) -> None:
    use(config, 60)
    evictor = Evictor(HybridConversationCache("s0", config)._store)
    drive = evictor._driver()
    asked: list[int] = []
    each = drive._each
    drive._each = lambda asks: (asked.append(len(asks)), each(asks))[1]  # type: ignore[method-assign]
    assert drive(rounds.offload_idle(evictor.store, 0.0, "me")).sessions == 60
    # Whatever the number of buckets: two batches of sessions, each listed with its leases, read, and trimmed.
    groups = 2
    assert len(asked) <= 2 + 3 * (groups + 1)


def test_a_node_whose_clock_is_ahead_has_its_sessions_moved_too(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = use(config, 40)
    store = HybridConversationCache("s0", config)._store
    # By the time of another node none of them is idle.
    monkeypatch.setattr(
        HotWindow, "used_until", lambda self, bucket, *_: ("ZRANGEBYSCORE", self.keys.active(bucket), 1, 0)
    )
    turn = itertools.count()
    store.new_nonce = lambda: bytes([next(turn) % 256])
    moved = [StoreDriver(store)(rounds.offload_idle(store, 0.0)).sessions for _ in range(16)]
    assert sum(moved) == len(names)
    assert max(moved) < len(names)


def away(drive: Any, dead: Node) -> None:
    """Have a driver find one node away."""
    each, pool_of = drive._each, drive._pool_of

    class Away:
        def ask(self, *_: Any, **__: Any) -> Any:
            raise rx.ConnectionError("Error 111 connecting. Connection refused.")

    drive._pool_of = lambda node: Away() if node is dead else pool_of(node)
    drive._each = lambda asks: [each([ask])[0] for ask in asks]


def test_a_node_that_is_away_keeps_only_its_own_sessions_from_being_reconciled(config: CacheConfig) -> None:
    names = use(config, 12)
    store = HybridConversationCache("s0", config)._store
    for name in names:
        store.cold.mark_pending_locked(name)
    drive = StoreDriver(store)
    nodes = drive._routes.nodes  # type: ignore[union-attr]
    # The first of the round, so that all others come after it.
    dead = nodes.owners[slot_of(store.hot.keys.window(store.cold.pending_sessions()[0]))]
    theirs = {name for name in names if nodes.owners[slot_of(store.hot.keys.window(name))] is dead}
    assert 0 < len(theirs) < len(names)
    away(drive, dead)
    moved = drive(rounds.reconcile_all_pending(store))
    assert set(moved.failed) == theirs == set(store.cold.pending_sessions())
    assert moved.sessions == len(names) - len(theirs)
    # Now none is left but theirs: the round still goes on to what is idle elsewhere.
    assert set(drive(rounds.reconcile_all_pending(store)).failed) == theirs
    back = StoreDriver(store)(rounds.reconcile_all_pending(store))
    assert (back.sessions, back.failed, store.cold.pending_sessions()) == (len(theirs), {}, [])


def test_the_node_of_the_lease_being_away_keeps_no_session_of_the_others_from_expiring(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = use(config, 12)
    store = HybridConversationCache("s0", config)._store
    StoreDriver(store)(rounds.offload_idle(store, 0.0))
    drive = StoreDriver(store)
    nodes = drive._routes.nodes  # type: ignore[union-attr]
    dead = nodes.owners[slot_of(store.hot.keys.clean_up())]
    theirs = {name for name in names if nodes.owners[slot_of(store.hot.keys.window(name))] is dead}
    assert 0 < len(theirs) < len(names)
    away(drive, dead)
    monkeypatch.setattr(store.cold, "now", lambda *_: long_after(30))
    assert drive(rounds.clean_up(store, "me")) == len(names) - len(theirs)
    assert {name for name in names if store.cold.exists(name)} == theirs


def test_the_administration_sees_the_whole_store(config: CacheConfig) -> None:
    names = use(config, 30)
    admin = StoreAdmin(config)
    assert sorted(info.session_id for info in admin.sessions()) == sorted(names)
    found: list[str] = []
    page = admin.session_page(7)
    while True:
        found += [info.session_id for info in page.sessions]
        if page.cursor is None:
            break
        page = admin.session_page(7, page.cursor)
    assert sorted(found) == sorted(names)
    stats = admin.stats()
    assert (stats.hot_sessions, stats.hot_messages) == (30, 90)


@pytest.mark.parametrize("trouble", ["new connection", "refused command"])
@pytest.mark.parametrize("variant", ["sync", "async"])
def test_what_an_error_came_through_is_free_at_once(config: CacheConfig, variant: str, trouble: str) -> None:
    """A lock in one of these frames would be held until the garbage collector comes by."""

    class Held:
        pass

    gone: list[Any] = []
    store = HybridConversationCache("s", config)._store
    key = store.hot.keys.window("s")
    fence = 0 if trouble == "new connection" else None
    words = ("HGET", key, "x", "y") if trouble == "refused command" else ("XLEN", key)

    def flow() -> Flow[None]:
        yield RedisCall(words, fence)

    async def ask_async() -> None:
        held = Held()
        gone.append(weakref.ref(held))
        await AsyncDriver(store.endpoint)(flow())

    def ask() -> None:
        held = Held()
        gone.append(weakref.ref(held))
        SyncDriver(store.endpoint)(flow())

    async def main() -> None:
        with pytest.raises((NewConnection, RedisError)):
            await ask_async()
        assert gone[-1]() is None
        await close_async_redis_clients()

    gc.disable()
    try:
        if variant == "async":
            asyncio.run(main())
            return
        for _ in range(2):  # the map is read first, and is known then
            with pytest.raises((NewConnection, RedisError)):
                ask()
            assert gone[-1]() is None
    finally:
        gc.enable()
