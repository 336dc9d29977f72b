"""An event loop that is closed in a call: the session's lock ends with it, and no sooner than its threads."""

from __future__ import annotations

import asyncio
import gc
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import pytest

from lix_cache import (
    ArchiveBusy,
    AsyncHybridConversationCache,
    CacheConfig,
    ConversationArchive,
    HybridConversationCache,
)
from lix_cache.archive.cold_tier import ColdTier
from lix_cache.archive.lease import holders
from lix_cache.drivers import threads
from lix_cache.drivers.aio import AsyncDriver
from lix_cache.effects import DiskCall, Effect, Flow, LockCall, Sleep
from lix_cache.hot import clients
from lix_cache.hot.endpoint import endpoint_for
from tests.support.proxy import CountingProxy
from tests.support.waiting import wait_until

pytestmark = [
    pytest.mark.promise("no-stall"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture(params=["folder", "file://"])
def config(request: pytest.FixtureRequest, proxy_config: CacheConfig, tmp_path: Path) -> CacheConfig:
    url = f"file://{tmp_path}/objects" if request.param == "file://" else None
    return proxy_config.replace(hot_window_size=4, archive_batch_turns=2, archive_url=url)


@pytest.fixture(params=[True, False], ids=["kept", "dropped"])
def is_kept(request: pytest.FixtureRequest) -> bool:
    """Whether something refers to the task, which is then never closed."""
    return bool(request.param)


def closed_in_a_flush(
    config: CacheConfig, is_kept: bool, stops: Callable[[asyncio.AbstractEventLoop], Any]
) -> Any:
    """Add two messages, begin to flush them on a loop, and close it when ``stops`` has stopped it."""
    cache = HybridConversationCache("s", config)
    cache.add_message("user", "a")
    cache.add_message("assistant", "b")
    loop = asyncio.new_event_loop()
    task = loop.create_task(AsyncHybridConversationCache("s", config).flush_to_disk())
    watching = stops(loop)
    loop.run_forever()
    assert not task.done()
    loop.close()
    kept = (task, watching) if is_kept else None
    del task, watching, loop
    gc.collect()
    return kept


def check_all_is_there(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config)
    cache.flush_to_disk()
    assert [message["content"] for message in cache.get_full()] == ["a", "b"]
    assert not holders
    assert not any(loop.is_closed() for loop in clients._async_pools)


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_lock_whose_loop_was_closed_ends_with_the_thread_that_was_at_work_under_it(
    config: CacheConfig, is_kept: bool, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    may_end = threading.Event()
    calls: list[Any] = []
    ended: list[bool] = []

    def stops(loop: asyncio.AbstractEventLoop) -> None:
        def held(call: Callable[[], Any]) -> Any:
            calls.append(call)
            if len(calls) != number:
                return call()
            # The first one takes the lock. Of the others the work is still to come.
            result = call() if number == 1 else None
            loop.call_soon_threadsafe(loop.stop)
            ended.append(may_end.wait(120))
            return result if number == 1 else call()

        monkeypatch.setattr(threads, "without_stop_iteration", held)

    kept = closed_in_a_flush(config, is_kept, stops)
    try:
        with pytest.raises(ArchiveBusy):
            HybridConversationCache("s", config.replace(archive_lock_timeout_seconds=0.01)).flush_to_disk()
        assert not ended
    finally:
        may_end.set()
    check_all_is_there(config)
    del kept


def test_a_lock_whose_loop_was_closed_while_redis_was_asked_is_to_be_had_at_once(
    config: CacheConfig, is_kept: bool, proxy: CountingProxy
) -> None:
    async def watch(loop: asyncio.AbstractEventLoop) -> None:
        while not proxy.is_holding:
            await asyncio.sleep(0.001)
        loop.stop()

    def stops(loop: asyncio.AbstractEventLoop) -> Any:
        proxy.hold("*")
        return loop.create_task(watch(loop))

    kept = closed_in_a_flush(config, is_kept, stops)
    # One try is enough: nothing is waited for.
    HybridConversationCache("s", config.replace(archive_lock_timeout_seconds=0.01)).flush_to_disk()
    check_all_is_there(config)
    del kept


def test_a_loop_that_is_only_stopped_keeps_its_lock(config: CacheConfig, proxy: CountingProxy) -> None:
    cache = HybridConversationCache("s", config)
    cache.add_message("user", "a")
    cache.add_message("assistant", "b")
    loop = asyncio.new_event_loop()
    may_end = threading.Event()

    async def main() -> None:
        proxy.hold("*")
        flush = loop.create_task(AsyncHybridConversationCache("s", config).flush_to_disk())
        while not proxy.is_holding:
            await asyncio.sleep(0.001)
        loop.stop()
        while not may_end.is_set():
            await asyncio.sleep(0.001)
        flush.cancel()
        await asyncio.gather(flush, return_exceptions=True)
        await clients.close_async_redis_clients()

    task = loop.create_task(main())
    loop.run_forever()
    with pytest.raises(ArchiveBusy):
        HybridConversationCache("s", config.replace(archive_lock_timeout_seconds=0.01)).flush_to_disk()
    may_end.set()
    loop.run_until_complete(task)
    loop.close()
    check_all_is_there(config)


def under_a_lock(
    config: CacheConfig, last: Effect, *before: Effect
) -> tuple[ColdTier, Coroutine[Any, Any, None]]:
    """Return an archive, and a flow on a driver that takes a session's lock there and then does something."""
    store = ConversationArchive(config.archive_place).store

    def flow() -> Flow[None]:
        lock = yield LockCall(lambda: store.try_lock("s"))
        try:
            yield from (*before, last)
        finally:
            lock.release()

    return store, AsyncDriver(endpoint_for(config.redis, 0))(flow())


def holds(store: ColdTier) -> bool:
    """Whether the session's lock is held."""
    lock = store.try_lock("s")
    if lock is not None:
        lock.release()
    return lock is None


def run_until(loop: asyncio.AbstractEventLoop, event: threading.Event) -> None:
    wait_until(lambda: loop.run_until_complete(asyncio.sleep(0.01)) or event.is_set())


def test_a_lock_whose_loop_was_dropped_and_never_closed_ends(config: CacheConfig) -> None:
    # Nothing is at work under it any more: the flow waits in its loop alone.
    begun = threading.Event()
    store, flow = under_a_lock(config, Sleep(1000), DiskCall(begun.set))
    loop = asyncio.new_event_loop()
    task = loop.create_task(flow)
    run_until(loop, begun)
    loop.run_until_complete(asyncio.sleep(0.1))
    del task, flow, loop
    gc.collect()
    wait_until(lambda: not holds(store))
    assert not holders


def test_a_lock_of_a_flow_that_is_closed_by_hand_ends_with_the_thread_at_work_under_it(
    config: CacheConfig,
) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        may_end.wait(60)
        ended.set()

    store, flow = under_a_lock(config, DiskCall(work))
    loop = asyncio.new_event_loop()
    task = loop.create_task(flow)
    run_until(loop, begun)
    loop.close()
    flow.close()
    assert holds(store), "its thread still works"
    may_end.set()
    assert ended.wait(60)
    wait_until(lambda: not holds(store))
    assert not holders
    del task
