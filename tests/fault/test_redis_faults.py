"""Redis dies, hangs, fills up, forgets, comes back: what was acknowledged is there once, in order."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest

from lix_cache import AsyncHybridConversationCache, HybridConversationCache
from lix_cache.config import CacheConfig
from lix_cache.effects import RedisBatch
from lix_cache.errors import ArchiveUnavailable, LixCacheError, RedisAuthError, RedisUnavailable
from lix_cache.hot.scripts import TRIM, ScriptCall
from lix_cache.session import reconcile, rounds, whole
from lix_cache.storage.locks import FileLock
from tests.support import CountingProxy, RedisServer
from tests.support.forks import Child, Report
from tests.support.lab import Process, contents
from tests.support.sessions import said
from tests.support.twins import Twins
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("no-false-empty")

When = Literal["before", "after"]


def settings(**changes: Any) -> dict[str, Any]:
    """Small windows; and a caller that finds Redis away asks again at once."""
    return {
        "redis_key_prefix": f"t{uuid.uuid4().hex}",
        "hot_window_size": 4,
        "archive_batch_turns": 2,
        "redis_retry_seconds": 0,
        "evictor_enabled": False,
        **changes,
    }


@pytest.fixture
def direct_config(redis_server: RedisServer, tmp_path: Path) -> CacheConfig:
    """The store without a proxy before it: how another process sees it."""
    return redis_server.config(archive_dir=tmp_path / "archive", **settings())


@pytest.fixture
def config(direct_config: CacheConfig, proxy: CountingProxy) -> CacheConfig:
    """The store behind the proxy that makes the trouble."""
    return direct_config.replace(redis_port=proxy.port)


def say(cache: Any, *texts: str) -> None:
    for text in texts:
        cache.add_message("user", text)


def seen_by_another(config: CacheConfig) -> list[Any]:
    return Process(config.replace(on_redis_error="raise")).full()


def everywhere(config: CacheConfig, texts: list[str]) -> None:
    """Check a session as it is, reconciled by a daemon, on disk, and brought back."""
    other = Process(config.replace(on_redis_error="raise"))
    assert other.full() == texts
    other.drive(rounds.reconcile_all_pending(other.store))
    assert other.full() == texts
    assert other.context() == texts[-config.hot_window_size :]
    other.flush()
    assert other.archived() == texts
    assert other.full() == texts
    assert other.context() == texts[-config.hot_window_size :]


# -- away for a while ----------------------------------------------------------------------


def test_messages_of_an_outage_come_back_once_and_in_order(
    twins: Twins, config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy
) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    texts = [f"message {i}" for i in range(18)]
    say(cache, *texts[:6])
    for outage in range(3):
        proxy.refuse()
        start = 6 + 4 * outage
        say(cache, *texts[start : start + 2])
        proxy.allow()
        say(cache, *texts[start + 2 : start + 4])
        assert said(cache.get_full()) == texts[: start + 4]
        assert said(cache.get_context()) == texts[start : start + 4]
    assert cache.get_stats()["counters"]["archived_adds"] == 6
    everywhere(direct_config, texts)


def test_with_the_policy_raise_an_outage_is_an_error_and_nothing_is_kept(
    twins: Twins, config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy
) -> None:
    cache = twins.make("HybridConversationCache", "s", config.replace(on_redis_error="raise"))
    say(cache, "before")
    proxy.refuse()
    for call in (
        lambda: say(cache, "during"),
        cache.get_context,
        cache.get_full,
        cache.flush_to_disk,
        cache.clear,
        cache.delete_session,
    ):
        with pytest.raises(RedisUnavailable):
            call()
    assert cache.get_stats()["redis"].startswith("RedisUnavailable")
    assert cache.get_stats()["hot_messages"] is None
    proxy.allow()
    say(cache, "after")
    everywhere(direct_config, ["before", "after"])


def test_a_read_during_an_outage_is_never_an_empty_session(
    twins: Twins, config: CacheConfig, proxy: CountingProxy
) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    say(cache, "hot only")
    proxy.refuse()
    for call in (cache.get_context, cache.get_full):
        with pytest.raises(RedisUnavailable):
            call()
    say(cache, "on disk")
    assert said(cache.get_context()) == said(cache.get_full()) == ["on disk"]
    assert cache.get_stats()["counters"]["degraded_reads"] >= 2
    proxy.allow()
    assert said(cache.get_full()) == ["hot only", "on disk"]


def test_after_a_failed_connection_redis_is_left_alone_for_a_moment(
    twins: Twins, config: CacheConfig, proxy: CountingProxy
) -> None:
    cache = twins.make("HybridConversationCache", "s", config.replace(redis_retry_seconds=3600))
    say(cache, "first")
    proxy.refuse()
    say(cache, "a", "b", "c")
    proxy.allow()
    proxy.reset()
    say(cache, "d")
    assert said(cache.get_full()) == ["a", "b", "c", "d"]
    assert proxy.round_trips == 0
    assert cache.get_stats()["counters"]["redis_errors"] <= 2


def test_an_outage_of_one_process_alone_costs_neither_anything(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy
) -> None:
    """Others still reach Redis, add, and move the session to disk and back meanwhile."""
    cut_off, other = HybridConversationCache("s", config), HybridConversationCache("s", direct_config)
    texts = []
    for i in range(24):
        text = f"message {i}"
        texts.append(text)
        if i % 8 == 2:
            proxy.refuse()
        if i % 8 == 6:
            proxy.allow()
        say(cut_off if i % 2 else other, text)
        # Within a millisecond, messages of two that cannot talk have no order.
        time.sleep(0.002)
        if i % 5 == 4:
            other.evictor.run_once()
        if i % 7 == 3:
            other.flush_to_disk()
            other.get_context()
        assert said(other.get_full()) == texts
    proxy.allow()
    assert said(cut_off.get_full()) == texts
    everywhere(direct_config, texts)


@pytest.mark.parametrize("by", ["a daemon", "a read"])
def test_an_outage_is_mended_by_another_process_if_the_one_that_met_it_died(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy, by: str
) -> None:
    other = HybridConversationCache("s", direct_config)
    say(other, "hot 1", "hot 2")
    proxy.refuse()

    def live(report: Report) -> None:
        say(HybridConversationCache("s", config), "away 1", "away 2")

    with Child(live) as child:
        child.records()
        assert child.wait() == 0
    proxy.allow()
    assert os.listdir(os.path.join(direct_config.archive_dir, ".pending")) != []
    if by == "a daemon":
        other.evictor.run_once()
    else:
        assert said(other.get_full()) == ["hot 1", "hot 2", "away 1", "away 2"]
    assert os.listdir(os.path.join(direct_config.archive_dir, ".pending")) == []
    assert said(other.get_context()) == ["hot 1", "hot 2", "away 1", "away 2"]
    say(other, "next")
    everywhere(direct_config, ["hot 1", "hot 2", "away 1", "away 2", "next"])


def test_a_mark_of_an_outage_that_a_crash_left_empty_is_written_anew(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy
) -> None:
    cache = HybridConversationCache("s", config)
    say(cache, "hot")
    proxy.refuse()
    say(cache, "away")
    mark = os.path.join(direct_config.archive_dir, ".pending", "s")
    with open(mark, "w"):
        pass
    say(cache, "away too")
    with open(mark) as file:
        assert file.read() == "s"
    other = Process(direct_config)
    assert other.drive(rounds.reconcile_all_pending(other.store)).sessions == 1
    assert other.context() == ["hot", "away", "away too"]


def test_one_session_that_cannot_be_mended_does_not_keep_the_others_waiting(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy, redis_server: RedisServer
) -> None:
    caches = {sid: HybridConversationCache(sid, config) for sid in ("a", "b", "c")}
    for cache in caches.values():
        say(cache, "hot")
    proxy.refuse()
    for cache in caches.values():
        say(cache, "away")
    say(HybridConversationCache("idle", direct_config), "long ago")
    with redis_server.client(db=config.session_redis_db) as client:
        client.xadd(f"{config.redis_key_prefix}:{{0}}:win:a", {"m": b"\xff not ours"})
    daemon = HybridConversationCache("idle", direct_config.replace(evict_after_minutes=0.0)).evictor
    with pytest.raises(LixCacheError, match="cannot be read"):
        daemon.run_once()
    for sid in ("b", "c"):
        assert Process(direct_config, sid).archived() == ["hot", "away"]
    assert Process(direct_config, "idle").archived() == ["long ago"]
    # And what can be done for the first is done: its messages go on being taken.
    proxy.allow()
    say(caches["a"], "after")
    assert Process(direct_config, "a").archived() == ["away"]
    assert Process(direct_config, "a").hot() == 3


def test_an_order_is_kept_though_the_clocks_differ(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy, redis_server: RedisServer
) -> None:
    """The server's clock is an hour ahead of ours: its ids are larger than those we make without it."""
    with redis_server.client(db=config.session_redis_db) as client:
        ahead = int(time.time() * 1000) + 3_600_000
        client.xadd(
            f"{config.redis_key_prefix}:{{0}}:win:s", {"m": b"\0" + b'["user","first"]'}, id=f"{ahead}-0"
        )
    cache = HybridConversationCache("s", config)
    say(cache, "second")
    proxy.refuse()
    say(cache, "third", "fourth")
    proxy.allow()
    say(cache, "fifth")
    reader = HybridConversationCache("s", config)
    reader.get_context()
    proxy.refuse()
    say(reader, "sixth")
    proxy.allow()
    say(cache, "seventh")
    everywhere(direct_config, ["first", "second", "third", "fourth", "fifth", "sixth", "seventh"])


def test_a_reunion_that_the_disk_refuses_does_not_mix_up_the_order(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = HybridConversationCache("s", config)
    store = cache._store.archive.store
    say(cache, "hot")
    proxy.refuse()
    # Ids made without Redis may be ahead of the server's clock.
    real = store._clock
    monkeypatch.setattr(store, "_clock", _Ahead(5.0))
    say(cache, "away")
    monkeypatch.setattr(store, "_clock", real)
    proxy.allow()
    with monkeypatch.context() as patched:
        patched.setattr(store._files, "append", _full)
        say(cache, "after 1", "after 2")
        assert cache.get_stats()["counters"]["reunion_failures"] == 2
        assert "the disk is full" in cache.get_stats()["last_error"]
    everywhere(direct_config, ["hot", "away", "after 1", "after 2"])


class _Ahead:
    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return time.time() + self._seconds

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


def _full(*_: Any) -> None:
    raise ArchiveUnavailable(28, "the disk is full")


def test_an_outage_that_begins_as_another_ends_is_not_forgotten(
    config: CacheConfig, proxy: CountingProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread meets the next outage the moment a reunion lets go of the lock."""
    process = Process(config)
    process.add("hot")
    proxy.refuse()
    process.add("away")
    proxy.allow()
    release = FileLock.release

    def and_away_again(lock: FileLock) -> None:
        release(lock)
        monkeypatch.setattr(FileLock, "release", release)
        proxy.refuse()
        process.add("away again")
        proxy.allow()

    with monkeypatch.context() as patched:
        patched.setattr(FileLock, "release", and_away_again)
        process.drive(reconcile.reconcile(process.session))
    assert "s" in process.store.outage_sessions
    process.add("back")
    assert process.context() == ["hot", "away", "away again", "back"]


# -- connections that break ----------------------------------------------------------------


def test_an_add_whose_connection_breaks_is_stored_once(
    twins: Twins, config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy
) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    texts = []
    say(cache, "first")
    texts.append("first")
    for cuts in (
        ["before"],
        ["after"],
        ["before"] * 3,
        ["after"] * 3,
        ["after", "before"],
        ["before", "after"],
    ):
        for skip in range(3):
            proxy._cuts = ["none"] * skip + cuts
            texts.append(f"{cuts} after {skip}")
            say(cache, texts[-1])
            proxy._cuts = []
            assert said(cache.get_full()) == texts
            assert seen_by_another(direct_config) == texts
    everywhere(direct_config, texts)


@pytest.mark.parametrize("when", ["before", "after"])
def test_an_add_that_was_moved_to_disk_before_its_answer_was_missed_is_not_repeated(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy, when: When
) -> None:
    """The connection breaks, and before the add can look for its message, a daemon moves it."""
    process, daemon = Process(config), Process(direct_config)
    process.add("first")
    adding = process.adding("second")
    step = adding.send(None)
    proxy.cut(1, when)
    with pytest.raises(RedisUnavailable) as caught:
        process.drive._perform(step)
    daemon.flush()
    step = adding.throw(caught.value)
    result = None
    try:
        while True:
            step = process.step(adding, step)
    except StopIteration as stop:
        result = stop.value
    assert result is not None
    everywhere(direct_config, ["first", "second"])


def test_an_add_finds_its_message_however_many_were_added_since(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy
) -> None:
    process, other = Process(config), Process(direct_config)
    process.add("first")
    adding = process.adding("second")
    step = adding.send(None)
    proxy.cut(1, "after")
    with pytest.raises(RedisUnavailable) as caught:
        process.drive._perform(step)
    texts = [f"message {i}" for i in range(1_100)]
    # They are not moved, because the lock is held: by a slow disk, say.
    with other.archive.lock("s"):
        for text in texts:
            other.add(text)
    step = adding.throw(caught.value)
    with pytest.raises(StopIteration):
        while True:
            step = process.step(adding, step)
    everywhere(direct_config, ["first", "second", *texts])


@pytest.mark.parametrize("when", ["before", "after"])
def test_every_other_call_whose_connection_breaks_loses_and_doubles_nothing(
    twins: Twins, config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy, when: When
) -> None:
    cache = twins.make("HybridConversationCache", "s", config.replace(on_redis_error="raise"))
    texts = [f"message {i}" for i in range(11)]
    say(cache, *texts)
    calls = [cache.get_context, cache.get_full, cache.flush_to_disk, cache.evictor.run_once]
    for number in range(4 * len(calls)):
        for skip in range(4):
            proxy._cuts = ["none"] * skip + [when]
            # An error is a good answer, as long as nothing is lost.
            with contextlib.suppress(RedisUnavailable):
                calls[number % len(calls)]()
            proxy._cuts = []
            assert said(cache.get_full()) == texts
    everywhere(direct_config, texts)


def test_an_add_that_was_cancelled_is_there_once_or_not_at_all(
    config: CacheConfig, direct_config: CacheConfig, proxy: CountingProxy
) -> None:
    cancelled: set[str] = set()

    async def live() -> list[str]:
        cache = AsyncHybridConversationCache("s", config)
        tried = []
        for i in range(12):
            proxy.delay(0.05)
            tried.append(f"cancelled {i}")
            adding = asyncio.ensure_future(cache.add_message("user", tried[-1]))
            await asyncio.sleep(0.01 * (i % 4))
            adding.cancel()
            try:
                await adding
            except asyncio.CancelledError:
                cancelled.add(tried[-1])
            proxy.delay(0)
            tried.append(f"sure {i}")
            await cache.add_message("user", tried[-1])
            await cache.get_context()
        await _disconnect(cache)
        return tried

    tried = asyncio.run(live())
    assert cancelled
    found = seen_by_another(direct_config)
    assert len(found) == len(set(found))
    assert set(found) <= set(tried)
    # What was cancelled may have come late, or not at all; the others are there, in their order.
    sure = [text for text in tried if text not in cancelled]
    assert [text for text in found if text not in cancelled] == sure
    everywhere(direct_config, found)


async def _disconnect(cache: AsyncHybridConversationCache) -> None:
    await cache._drive.client.connection_pool.disconnect()


# -- killed, hanging, full, forgetful -------------------------------------------------------


@pytest.fixture
def lasting(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that keeps what it acknowledged, whatever happens to its process."""
    with RedisServer(appendonly=True) as server:
        _sync_always(server)
        yield server


def _sync_always(server: RedisServer) -> None:
    with server.client() as client:
        client.config_set("appendfsync", "always")


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["archive", "raise"])
def test_a_server_that_is_killed_and_started_again_loses_and_doubles_nothing(
    lasting: RedisServer, tmp_path: Path, policy: str
) -> None:
    config = lasting.config(archive_dir=tmp_path / "archive", **settings(on_redis_error=policy))
    acknowledged: list[list[str]] = [[] for _ in range(4)]
    stop = threading.Event()
    threads = [threading.Thread(target=_write, args=(config, i, acknowledged[i], stop)) for i in range(4)]
    threads.append(threading.Thread(target=_move, args=(config, stop)))
    for thread in threads:
        thread.start()
    for _ in range(5):
        time.sleep(0.15)
        lasting.kill()
        time.sleep(0.05)
        lasting.start()
        _sync_always(lasting)
    wait_until(lambda: all(acknowledged), what="a message of each writer")
    stop.set()
    for thread in threads:
        thread.join()
    late = Process(config.replace(on_redis_error="raise"))
    late.drive(rounds.reconcile_all_pending(late.store))
    first = late.full()
    late.flush()
    for found in (first, late.full()):
        assert len(found) == len(set(found))
        for writer, texts in enumerate(acknowledged):
            assert texts
            mine = [text for text in found if text.startswith(f"{writer}:")]
            assert [text for text in mine if text in set(texts)] == texts


def _write(config: CacheConfig, writer: int, acknowledged: list[str], stop: threading.Event) -> None:
    cache = HybridConversationCache("s", config)
    number = 0
    while not stop.is_set():
        number += 1
        try:
            cache.add_message("user", f"{writer}:{number}")
        except RedisUnavailable:
            time.sleep(0.002)
        else:
            acknowledged.append(f"{writer}:{number}")
        if number % 50 == 0:
            # A breather: the writers must not drown those who move.
            time.sleep(0.005)


def _move(config: CacheConfig, stop: threading.Event) -> None:
    cache = HybridConversationCache("s", config)
    while not stop.is_set():
        try:
            cache.evictor.run_once()
            cache.get_context()
        except RedisUnavailable:
            time.sleep(0.002)


@pytest.mark.parametrize("policy", ["archive", "raise"])
def test_a_server_that_hangs_is_not_asked_to_do_a_thing_twice(
    twins: Twins, tmp_path: Path, policy: str
) -> None:
    with RedisServer() as server:
        config = server.config(
            archive_dir=tmp_path / "archive",
            **settings(on_redis_error=policy, redis_socket_timeout=1.0),
        )
        cache = twins.make("HybridConversationCache", "s", config)
        say(cache, "before")
        server.reset_stats()
        server.pause()
        if policy == "archive":
            say(cache, "during")
        else:
            with pytest.raises(RedisUnavailable) as caught:
                say(cache, "during")
            # The caller is told that it may be there.
            assert caught.value.maybe_done
            assert caught.value.timed_out
        server.resume()
        # It carries out what it had received before it hung.
        wait_until(lambda: server.command_stats().get("xadd"), what="the late add")
        assert server.command_stats()["xadd"] == 1
        say(cache, "after")
        assert said(cache.get_context()) == ["before", "during", "after"]
        everywhere(config, ["before", "during", "after"])


def test_what_a_hanging_server_does_late_takes_no_newer_message_with_it(direct_config: CacheConfig) -> None:
    """It had received a trim; before it carries it out the session is deleted and begun anew.

    The messages to be trimmed are from a time when the clock was ahead.
    """
    process = Process(direct_config)
    ahead = int(time.time() * 1000) + 3_600_000
    key = process.store.hot.keys.window("s")
    process.drive.client.xadd(key, {"m": b"\0" + b'["user","old"]'}, id=f"{ahead}-0")
    moving = whole.flush(process.session)
    step = moving.send(None)
    with pytest.raises(RedisUnavailable):
        while True:
            first = step.commands[0] if isinstance(step, RedisBatch) else None
            if isinstance(first, ScriptCall) and first.script is TRIM:
                late = step
                moving.throw(RedisUnavailable("no answer in time", maybe_done=True, timed_out=True))
            step = process.step(moving, step)
    process.drive(whole.delete(process.session))
    process.add("new")
    process.drive._perform(late)
    everywhere(direct_config, ["new"])


def test_a_full_server_can_be_read_and_what_it_refuses_goes_to_disk(twins: Twins, tmp_path: Path) -> None:
    with RedisServer(maxmemory="3mb") as server:
        config = server.config(archive_dir=tmp_path / "archive", **settings())
        cache = twins.make("HybridConversationCache", "s", config)
        texts = ["one", "two", "three"]
        say(cache, *texts)
        with server.client() as client:
            _fill(client)
            strict = twins.make("HybridConversationCache", "s", config.replace(on_redis_error="raise"))
            with pytest.raises(RedisUnavailable, match="OOM"):
                say(strict, "refused")
            assert said(strict.get_context()) == texts
            assert said(strict.get_full()) == texts
            say(cache, "four")
            texts.append("four")
            assert said(cache.get_full()) == texts
            assert said(cache.get_context()) == texts
            assert Process(config).archived() == texts
            client.delete("filling")
        say(cache, "five")
        everywhere(config, [*texts, "five"])


def _fill(client: Any) -> None:
    import redis

    try:
        while True:
            client.append("filling", b"x" * 20_000)
    except redis.exceptions.OutOfMemoryError:
        pass
    try:
        while True:
            client.append("filling", b"x" * 100)
    except redis.exceptions.OutOfMemoryError:
        pass


def test_a_server_that_takes_no_writes_can_be_read(twins: Twins, tmp_path: Path) -> None:
    with RedisServer() as server, server.client() as client:
        config = server.config(archive_dir=tmp_path / "archive", **settings())
        cache = twins.make("HybridConversationCache", "s", config)
        say(cache, "one", "two")
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        strict = twins.make("HybridConversationCache", "s", config.replace(on_redis_error="raise"))
        with pytest.raises(RedisUnavailable, match=r"READONLY|read only"):
            say(strict, "refused")
        assert said(strict.get_context()) == ["one", "two"]
        say(cache, "three")
        client.execute_command("REPLICAOF", "NO", "ONE")
        say(cache, "four")
        everywhere(config, ["one", "two", "three", "four"])


def test_a_wrong_password_is_an_error_under_every_policy(twins: Twins, tmp_path: Path) -> None:
    with RedisServer(requirepass="right") as server:
        config = server.config(archive_dir=tmp_path / "archive", **settings(redis_password="wrong"))
        cache = twins.make("HybridConversationCache", "s", config)
        for call in (
            lambda: say(cache, "x"),
            cache.get_context,
            cache.get_full,
            cache.flush_to_disk,
            cache.clear,
            cache.delete_session,
            cache.evictor.run_once,
        ):
            with pytest.raises(RedisAuthError):
                call()
        assert cache.get_stats()["redis"].startswith("RedisAuthError")
        assert cache.get_stats()["counters"].get("archived_adds", 0) == 0
        assert Process(config.replace(redis_password="right")).full() == []


def test_a_server_that_was_emptied_takes_only_what_it_alone_had(twins: Twins, tmp_path: Path) -> None:
    with RedisServer() as server, server.client() as client:
        config = server.config(archive_dir=tmp_path / "archive", **settings())
        cache = twins.make("HybridConversationCache", "s", config)
        archived = [f"message {i}" for i in range(6)]
        say(cache, *archived)
        cache.flush_to_disk()
        cache.get_context()
        say(cache, "in redis alone")
        client.flushall()
        client.script_flush()
        assert said(cache.get_full()) == archived
        assert said(cache.get_context()) == archived[-4:]
        client.flushall()
        say(cache, "new")
        everywhere(config, [*archived, "new"])


def test_a_server_without_persistence_that_restarts_is_survived(twins: Twins, tmp_path: Path) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path / "archive", **settings(durability="disk"))
        cache = twins.make("HybridConversationCache", "s", config)
        texts = [f"message {i}" for i in range(6)]
        say(cache, *texts[:3])
        server.restart()
        say(cache, *texts[3:])
        server.restart()
        assert said(cache.get_context()) == texts[-4:]
        everywhere(config, texts)


# -- readers and disk threads ----------------------------------------------------------------


def test_many_readers_of_a_damaged_archive_do_not_starve_who_holds_its_lock(
    direct_config: CacheConfig,
) -> None:
    """A reader that meets damage waits for the lock, whose holder needs a thread to go on."""
    config = direct_config.replace(archive_lock_timeout_seconds=5)
    sync = HybridConversationCache("s", config)
    say(sync, *(f"message {i}" for i in range(6)))
    sync.flush_to_disk()
    (name,) = [name for name in os.listdir(config.archive_dir) if name.endswith(".huff")]
    with open(os.path.join(config.archive_dir, name), "ab") as file:
        file.write(b"torn")

    async def live() -> tuple[list[Any], Any]:
        cache = AsyncHybridConversationCache("s", config)
        await cache.add_message("user", "new")
        held = asyncio.Event()
        moving = asyncio.ensure_future(_flush_slowly(cache, held))
        await held.wait()
        readers = [asyncio.ensure_future(cache.get_full()) for _ in range(40)]
        try:
            return await asyncio.gather(*readers), await moving
        finally:
            await _disconnect(cache)

    found, moved = asyncio.run(live())
    assert moved == 1
    for messages in found:
        assert said(messages) == [*(f"message {i}" for i in range(6)), "new"]


async def _flush_slowly(cache: AsyncHybridConversationCache, held: asyncio.Event) -> int:
    """Flush, and let the readers come in while the lock is held."""
    running = whole.flush(cache._session)
    step = running.send(None)
    try:
        while True:
            result = await cache._drive._perform(step)
            step = running.send(result)
            if not held.is_set():
                held.set()
                await asyncio.sleep(0.3)
    except StopIteration as stop:
        return int(stop.value)


def test_the_lab_reads_what_the_caches_write(direct_config: CacheConfig) -> None:
    """The other tests trust it."""
    say(HybridConversationCache("s", direct_config), "x")
    process = Process(direct_config)
    assert process.full() == process.context() == ["x"]
    assert process.hot() == 1
    assert contents(process.archive.turns("s")) == []


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("command", ["zadd", "hset", "pexpire", "xadd"])
def test_an_add_that_a_missing_permission_stops_has_stored_nothing(command: str, tmp_path: Path) -> None:
    """Its caller gives the permission and adds the message again: it must not be there twice."""
    with RedisServer(acl=[f"bob on >pw ~* +@all -{command}"]) as server:
        config = server.config(
            archive_dir=tmp_path,
            redis_username="bob",
            redis_password="pw",
            **settings(hot_window_size=1, archive_batch_turns=1),
        )
        cache, added = HybridConversationCache("s", config), []
        for number in range(6):
            try:
                cache.add_message("user", f"m{number}")
            except RedisAuthError:
                continue
            added.append(f"m{number}")
        with server.client(db=2) as admin:
            assert admin.xlen(cache._store.hot.keys.window("s")) == len(added) < 6


@pytest.mark.promise("no-loss")
def test_a_note_of_a_deletion_that_is_damaged_stops_no_daemon(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config)
    say(cache, "a")
    cache.delete_session()
    (note,) = (Path(config.archive_dir) / ".deleted").iterdir()
    note.write_bytes(b"\xff not an id")
    process = Process(config)
    process.drive(rounds.clean_up(process.store))
    say(cache, "b")
    cache.flush_to_disk()
    assert said(cache.get_full()) == ["b"]
    assert cache.delete_session() is True
    assert process.archive.deleted_up_to("s") > (0, 0)
