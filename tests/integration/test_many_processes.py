"""Many processes on one store: every message once, each process's in its order."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from lix_cache import AsyncHybridConversationCache, ConversationArchive, HybridConversationCache
from lix_cache.config import CacheConfig
from lix_cache.session import offload
from tests.support import RedisServer
from tests.support.forks import Child, Report
from tests.support.lab import Process, fast_folder
from tests.support.sessions import said
from tests.support.stores import own_store

pytestmark = pytest.mark.promise("no-loss")

WRITERS = 16
MESSAGES = 500


@pytest.fixture
def config(redis_server: RedisServer, tmp_path: Path) -> Iterator[CacheConfig]:
    folder = fast_folder(tmp_path)
    yield own_store(redis_server, folder, on_redis_error="raise")
    shutil.rmtree(folder, ignore_errors=True)


def write(config: CacheConfig, session: str, writer: int, count: int, report: Report) -> None:
    cache = HybridConversationCache(session, config)
    for number in range(count):
        cache.add_message("user", f"{writer}:{number}")


def write_async(config: CacheConfig, session: str, writer: int, count: int, report: Report) -> None:
    async def live() -> None:
        cache = AsyncHybridConversationCache(session, config)
        for number in range(count):
            await cache.add_message("user", f"{writer}:{number}")
        await cache._drive.client.connection_pool.disconnect()

    asyncio.run(live())


def move(config: CacheConfig, report: Report) -> None:
    """A process with a daemon that is never satisfied."""
    daemon = config.replace(evictor_enabled=True, evictor_interval_seconds=0.002, evict_after_minutes=0.0)
    cache = HybridConversationCache("nobody's", daemon)
    report("r", 1)
    while cache.evictor.is_alive:
        time.sleep(0.05)
    raise AssertionError("the daemon died")


def check(found: list[str], writers: int, count: int) -> None:
    by_writer: dict[int, list[int]] = defaultdict(list)
    for text in found:
        writer, number = text.split(":")
        by_writer[int(writer)].append(int(number))
    for writer in range(writers):
        assert by_writer[writer] == list(range(count)), f"writer {writer}"
    assert len(found) == writers * count


@pytest.mark.slow
def test_sixteen_processes_and_two_daemons_on_one_session(config: CacheConfig) -> None:
    with Child(partial(move, config)), Child(partial(move, config)):
        children = [
            Child(partial(write_async if i % 4 == 0 else write, config, "s", i, MESSAGES))
            for i in range(WRITERS)
        ]
        reader = HybridConversationCache("s", config)
        seen = 0
        while any(not _has_ended(child) for child in children):
            # What others see meanwhile only ever grows, and is never wrong either.
            found = said(reader.get_full())
            assert len(found) == len(set(found))
            assert len(found) >= seen
            seen = len(found)
            context = said(reader.get_context())
            assert len(context) == len(set(context)) <= config.hot_window_size
        codes = [child.code for child in children]
        for child in children:
            child.close()
        assert codes == [0] * WRITERS
        check(said(reader.get_full()), WRITERS, MESSAGES)
    full = said(reader.get_full())
    check(full, WRITERS, MESSAGES)
    assert said(reader.get_context()) == full[-config.hot_window_size :]
    reader.flush_to_disk()
    assert said(reader.get_full()) == full
    archive = ConversationArchive(config.archive_dir)
    assert said(archive.load_all("s")) == full
    report = archive.verify("s")
    assert report is not None
    assert report.is_intact


def pop(config: CacheConfig, report: Report) -> None:
    cache = HybridConversationCache("s", config)
    while (popped := cache.pop_last()) is not None:
        report("p", int(popped.message["content"]))


@pytest.mark.parametrize("hot", [0, 10, 40])
def test_processes_that_take_off_the_last_message_get_each_one_once(config: CacheConfig, hot: int) -> None:
    cache = HybridConversationCache("s", config)
    for number in range(40):
        if number == 40 - hot:
            cache.flush_to_disk()
        cache.add_message("user", f"{number}")
    if not hot:
        cache.flush_to_disk()
    children = [Child(partial(pop, config)) for _ in range(2)]
    assert [child.wait() for child in children] == [0, 0]
    popped = [[value for _, value in child.records()] for child in children]
    for child in children:
        child.close()
    # Each process saw them go from the last to the first.
    assert all(one == sorted(one, reverse=True) for one in popped)
    assert sorted(popped[0] + popped[1]) == list(range(40))
    assert cache.get_full() == []


def _has_ended(child: Child) -> bool:
    return child.poll() is not None


@pytest.mark.slow
def test_many_processes_on_many_sessions_while_all_of_them_are_offloaded(config: CacheConfig) -> None:
    sessions = [f"session {i}" for i in range(12)]

    def live(writer: int, report: Report) -> None:
        caches = [HybridConversationCache(session, config) for session in sessions]
        for number in range(30):
            for cache in caches:
                cache.add_message("user", f"{writer}:{number}")
                if (number + writer) % 7 == 0:
                    cache.get_context()

    with Child(partial(move, config)), Child(partial(move, config)):
        children = [Child(partial(live, i)) for i in range(6)]
        assert [child.wait() for child in children] == [0] * 6
        for child in children:
            child.close()
    for session in sessions:
        check(said(HybridConversationCache(session, config).get_full()), 6, 30)


@pytest.mark.exhaustive
def test_what_is_deleted_stays_deleted_whatever_the_daemons_are_doing(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config.replace(hot_window_size=2, archive_batch_turns=1))
    with Child(partial(move, config)), Child(partial(move, config)):
        for round_ in range(150):
            texts = [f"{round_}:{i}" for i in range(8)]
            for text in texts:
                cache.add_message("user", text)
            if round_ % 2:
                cache.get_context()
            assert said(cache.get_full()) == texts
            assert cache.delete_session() is True
            assert cache.get_full() == []
            assert cache.get_context() == []


def test_a_deletion_at_any_step_of_a_spill_is_not_undone_by_it(config: CacheConfig) -> None:
    """The spill stops at each of its steps while another thread deletes the session."""
    steps = 0
    while True:
        process = Process(config, f"session {steps}")
        for i in range(8):
            process.add(f"message {i}")
        running = offload.move_to_disk(process.store, {process.session.id: 2})
        deleting = threading.Thread(target=_delete, args=(config, process.session.id))
        try:
            effect = running.send(None)
            for _ in range(steps):
                effect = process.step(running, effect)
        except StopIteration:
            break
        deleting.start()
        # It is done, or it waits for the spill's lock.
        deleting.join(0.02)
        with pytest.raises(StopIteration):
            while True:
                effect = process.step(running, effect)
        deleting.join()
        assert process.full() == [], f"step {steps}"
        assert process.archived() == [], f"step {steps}"
        steps += 1
    assert steps >= 5


def _delete(config: CacheConfig, session: str) -> None:
    HybridConversationCache(session, config).delete_session()


def test_a_hundred_offloads_and_rehydrations_change_nothing(config: CacheConfig) -> None:
    config = config.replace(evict_after_minutes=0.0, hot_window_size=5)
    cache = HybridConversationCache("s", config)
    texts = [f"message {i}" for i in range(17)]
    for text in texts:
        cache.add_message("user", text, {"n": len(text)}, embedding=[1.0, 0.25])
    full = cache.get_full()
    assert cache.evictor.run_once().messages > 0
    size = os.path.getsize(os.path.join(config.archive_dir, "s.huff"))
    for _ in range(100):
        assert cache.get_context() == full[-5:]
        assert cache.get_stats()["hot_messages"] == 5
        cache.evictor.run_once()
        assert cache.get_stats()["hot_messages"] == 0
        assert cache.get_full() == full
        # Not a byte is written for what the archive has.
        assert os.path.getsize(os.path.join(config.archive_dir, "s.huff")) == size


def test_a_hundred_offloads_and_rehydrations_with_a_message_between_each(config: CacheConfig) -> None:
    config = config.replace(evict_after_minutes=0.0, hot_window_size=5)
    cache = HybridConversationCache("s", config)
    texts: list[str] = []
    for i in range(100):
        texts.append(f"message {i}")
        cache.add_message("user", texts[-1])
        if i % 3:
            assert said(cache.get_context()) == texts[-5:]
        cache.evictor.run_once()
        assert said(cache.get_full()) == texts
    assert cache.get_stats()["disk_turns"] == 100
