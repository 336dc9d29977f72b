"""The eviction daemon: one per process and store, alive when it should be, and never in the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import ConversationArchive, HybridConversationCache
from lix_cache.archive.names import file_stem
from lix_cache.clock import SystemClock
from lix_cache.config import CacheConfig
from lix_cache.effects import RedisCall
from lix_cache.errors import ArchiveUnavailable, InvalidMessage, LixCacheError, MissingExtra, RedisUnavailable
from lix_cache.hot.clients import lazy_client
from lix_cache.session import evictor as evictor_module
from lix_cache.session import offload
from lix_cache.session import rounds as rounds_flow
from lix_cache.session.evictor import Evictor, evictor_for
from tests.support import CountingProxy, RedisServer
from tests.support.forks import Child, Report
from tests.support.lab import Process
from tests.support.redis_server import wait_until
from tests.support.twins import ManualClock, Twins

DAY = 86_400


@pytest.fixture
def config(redis_config: CacheConfig) -> Iterator[CacheConfig]:
    before = set(evictor_module._evictors)
    yield redis_config.replace(
        hot_window_size=4,
        archive_batch_turns=2,
        # A round only when the test asks for one.
        evictor_interval_seconds=3600,
    )
    for identity in set(evictor_module._evictors) - before:
        evictor = evictor_module._evictors.pop(identity)
        evictor.stop()
        assert evictor.join(30)


@pytest.fixture
def idle(config: CacheConfig) -> CacheConfig:
    """Every session is idle at once."""
    return config.replace(evict_after_minutes=0.0)


def say(cache: HybridConversationCache, *texts: str) -> None:
    for text in texts:
        cache.add_message("user", text)


def said(messages: list[dict[str, Any]]) -> list[Any]:
    return [message["content"] for message in messages]


def hot(config: CacheConfig, session: str = "s") -> int:
    return Process(config, session).hot()


def archived(config: CacheConfig, session: str = "s") -> list[Any]:
    return Process(config, session).archived()


# -- life ----------------------------------------------------------------------------------


def test_there_is_one_for_each_process_and_store(config: CacheConfig, tmp_path: Path) -> None:
    one, two = HybridConversationCache("a", config), HybridConversationCache("b", config)
    assert one.evictor is two.evictor
    other_archive = HybridConversationCache("a", config.replace(archive_dir=str(tmp_path / "another")))
    other_prefix = HybridConversationCache("a", config.replace(redis_key_prefix="another"))
    other_database = HybridConversationCache("a", config, redis_db=3)
    evictors = {id(cache.evictor) for cache in (one, other_archive, other_prefix, other_database)}
    assert len(evictors) == 4


def evictors() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name == "lix-cache-evictor"}


def test_it_is_started_by_the_first_cache_that_wants_it(config: CacheConfig) -> None:
    quiet = HybridConversationCache("s", config)
    assert not quiet.evictor.is_alive
    assert quiet.get_stats()["evictor"]["alive"] is False
    HybridConversationCache("s", config.replace(evictor_enabled=True))
    assert quiet.evictor.is_alive
    assert quiet.get_stats()["evictor"]["alive"] is True
    before = evictors()
    HybridConversationCache("s", config.replace(evictor_enabled=True))
    assert evictors() == before


def test_it_ends_when_asked_and_can_be_started_again(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config)
    evictor = cache.evictor
    for _ in range(3):
        evictor.start()
        evictor.start()
        assert evictor.is_alive
        assert evictor.join(0.01) is False
        evictor.stop()
        assert evictor.join(30) is True
        assert not evictor.is_alive
    assert evictor.join() is True
    assert Evictor(cache._store).join() is True


def test_a_start_that_comes_while_it_still_stops_is_not_forgotten(idle: CacheConfig) -> None:
    """The thread is at its batch when it is asked to stop, and then a cache needs it again."""
    cache = HybridConversationCache("s", idle)
    say(cache, "x")
    evictor = cache.evictor
    working, go_on = threading.Event(), threading.Event()
    real = evictor.run_once

    def slowly() -> offload.Moved:
        working.set()
        assert go_on.wait(30)
        return real()

    evictor.run_once = slowly  # type: ignore[method-assign]
    evictor.start()
    evictor.wake()
    assert working.wait(30)
    old = evictor._thread
    evictor.stop()
    evictor.start()
    assert evictor.is_alive
    go_on.set()
    assert old is not None
    old.join(30)
    assert not old.is_alive()
    assert evictor.is_alive
    say(cache, "y")
    evictor.wake()
    wait_until(lambda: archived(idle) == ["x", "y"], what="the second thread's round")


def test_it_works_when_woken_without_waiting_for_the_end_of_its_pause(idle: CacheConfig) -> None:
    cache = HybridConversationCache("s", idle.replace(evictor_enabled=True))
    say(cache, "x")
    cache.evictor.wake()
    wait_until(lambda: archived(idle) == ["x"], what="the eviction")


def test_a_window_that_overflows_wakes_it(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config.replace(evictor_enabled=True))
    say(cache, *(f"message {i}" for i in range(6)))
    wait_until(lambda: archived(config) == ["message 0", "message 1"], what="the spill")
    wait_until(lambda: hot(config) == 4, what="the trim")
    assert said(cache.get_full()) == [f"message {i}" for i in range(6)]


def test_a_window_that_overflows_has_its_own_bucket_looked_at_alone(
    redis_server: RedisServer, config: CacheConfig
) -> None:
    cache = HybridConversationCache("s", config.replace(redis_buckets=64, evictor_enabled=True))
    say(cache, "the store is compared with its notes")
    redis_server.reset_stats()
    say(cache, *(f"m{n}" for n in range(8)))
    wait_until(lambda: hot(config.replace(redis_buckets=64)) < 9)
    assert redis_server.command_stats()["hrandfield"] <= 8
    # A round looks at all.
    redis_server.reset_stats()
    cache.evictor.run_once()
    assert redis_server.command_stats()["hrandfield"] >= 64


def test_a_wish_for_a_round_that_comes_while_one_is_begun_is_not_lost(idle: CacheConfig) -> None:
    cache = HybridConversationCache("s", idle)
    evictor = cache.evictor
    asked_for = iter([False, True])

    class Asked:
        """Says no, and is asked for at that very moment."""

        def __bool__(self) -> bool:
            if next(asked_for, True):
                return True
            evictor.wake()
            return False

    evictor._is_asked = Asked()  # type: ignore[assignment]
    rounds_done: list[int] = []
    evictor.run_once = lambda: rounds_done.append(1) or offload.Moved()  # type: ignore[method-assign, func-returns-value]
    evictor.start()
    evictor.wake_to_spill("s")
    wait_until(lambda: bool(rounds_done))


def test_stopping_with_a_flush_moves_what_this_process_used(config: CacheConfig) -> None:
    for session in ("a", "b"):
        say(HybridConversationCache(session, config.replace(evictor_enabled=True)), "x")
    Process(config, "another's").add("y")
    evictor = HybridConversationCache("a", config).evictor
    evictor.stop(flush=True)
    assert not evictor.is_alive
    assert archived(config, "a") == archived(config, "b") == ["x"]
    assert archived(config, "another's") == []


def test_a_session_that_cannot_be_flushed_does_not_keep_the_others_hot(config: CacheConfig) -> None:
    for session in ("a", "b", "c"):
        say(HybridConversationCache(session, config), "x")
    _spoil(config, "a")
    with pytest.raises(InvalidMessage):
        HybridConversationCache("a", config).evictor.flush()
    assert archived(config, "b") == archived(config, "c") == ["x"]
    assert hot(config, "a") == 2


def _spoil(config: CacheConfig, session: str) -> None:
    process = Process(config, session)
    process.drive.client.xadd(process.store.hot.keys.window(session), {"m": b"\xff not ours"})


# -- forks ---------------------------------------------------------------------------------


def test_it_is_alive_again_after_a_fork(idle: CacheConfig) -> None:
    cache = HybridConversationCache("s", idle.replace(evictor_enabled=True))
    parents = cache.evictor._thread

    def live(report: Report) -> None:
        assert cache.evictor.is_alive
        assert cache.evictor._thread is not parents
        say(cache, "of the child")
        cache.evictor.wake()
        wait_until(lambda: archived(idle) == ["of the child"], what="the child's eviction")

    with Child(live) as child:
        assert child.wait() == 0
    assert cache.evictor.is_alive
    assert cache.evictor._thread is parents


def test_one_that_did_not_run_does_not_begin_to_after_a_fork(config: CacheConfig) -> None:
    never = HybridConversationCache("s", config).evictor
    stopped = HybridConversationCache("s", config.replace(redis_key_prefix="other")).evictor
    stopped.start()
    stopped.stop()
    stopped.join()

    def live(report: Report) -> None:
        assert not never.is_alive
        assert not stopped.is_alive

    with Child(live) as child:
        assert child.wait() == 0


def test_a_fork_while_it_counts_leaves_the_child_no_closed_lock(config: CacheConfig) -> None:
    store = HybridConversationCache("s", config).evictor.store

    def live(report: Report) -> None:
        signal.alarm(10)
        store.count("something")
        store.archive.store._count("something")

    with Child(live) as child:
        assert child.wait() == 0


# -- the end of the process ----------------------------------------------------------------

SCRIPT = """
    import sys
    from lix_cache import CacheConfig, HybridConversationCache

    config = CacheConfig(
        redis_host="127.0.0.1", redis_port={port}, redis_key_prefix={prefix!r}, archive_dir={folder!r}
    )
    {body}
"""


def run_script(config: CacheConfig, body: str) -> subprocess.CompletedProcess[str]:
    script = textwrap.dedent(SCRIPT).format(
        port=config.redis_port, prefix=config.redis_key_prefix, folder=config.archive_dir, body=body
    )
    return subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )


def test_without_a_wish_the_end_of_the_process_moves_nothing(config: CacheConfig) -> None:
    run_script(config, 'HybridConversationCache("s", config).add_message("user", "x")')
    assert hot(config) == 1
    assert archived(config) == []


def test_flush_on_exit_moves_what_the_process_used(config: CacheConfig) -> None:
    run_script(
        config,
        'HybridConversationCache("s", config.replace(flush_on_exit=True)).add_message("user", "x"); '
        "sys.exit(0)",
    )
    assert archived(config) == ["x"]
    assert hot(config) == 0


def test_flush_on_exit_holds_for_the_store_on_any_request(config: CacheConfig) -> None:
    run_script(
        config,
        'HybridConversationCache("a", config).add_message("user", "x"); '
        'HybridConversationCache("b", config.replace(flush_on_exit=True)).add_message("user", "y")',
    )
    assert archived(config, "a") == ["x"]
    assert archived(config, "b") == ["y"]


def test_a_flush_on_exit_that_fails_says_so_and_keeps_the_messages(config: CacheConfig) -> None:
    _spoil(config, "a")
    done = run_script(
        config,
        'from loguru import logger; logger.enable("lix_cache"); '
        'HybridConversationCache("a", config.replace(flush_on_exit=True)).add_message("user", "x"); '
        'HybridConversationCache("b", config).add_message("user", "y")',
    )
    assert "cannot be read" in done.stderr
    assert hot(config, "a") == 2
    assert archived(config, "b") == ["y"]


# -- rounds --------------------------------------------------------------------------------


def test_a_round_moves_the_surplus_of_a_window_and_no_more(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config)
    say(cache, *(f"message {i}" for i in range(5)))
    assert cache.evictor.run_once().messages == 0
    say(cache, "message 5")
    assert cache.evictor.run_once().messages == 2
    assert hot(config) == 4
    assert archived(config) == ["message 0", "message 1"]


def test_windows_that_other_processes_overflowed_are_found(config: CacheConfig) -> None:
    for session in ("a", "b"):
        process = Process(config, session)
        for i in range(7):
            process.add(f"message {i}")
    assert HybridConversationCache("mine", config).evictor.run_once().messages == 6
    assert hot(config, "a") == hot(config, "b") == 4


def test_idle_sessions_of_other_processes_are_found(idle: CacheConfig) -> None:
    for session in ("a", "b"):
        Process(idle, session).add("x")
    assert HybridConversationCache("mine", idle).evictor.run_once().messages == 2
    assert archived(idle, "a") == archived(idle, "b") == ["x"]


def test_a_session_in_use_is_not_idle(config: CacheConfig) -> None:
    one = HybridConversationCache("s", config, evict_after_minutes=1)
    say(one, "x")
    assert one.evictor.run_once().messages == 0
    process = Process(config)
    active = process.store.hot.keys.active(0)
    process.drive.client.zadd(active, {"s": (time.time() - 61) * 1000})
    # A look is a use.
    one.get_context()
    assert one.evictor.run_once().messages == 0
    process.drive.client.zadd(active, {"s": (time.time() - 61) * 1000})
    assert one.evictor.run_once().messages == 1


def test_the_shorter_of_the_two_idle_times_holds(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config, evict_after_minutes=60, redis_ttl=30)
    say(cache, "x")
    process = Process(config)
    process.drive.client.zadd(process.store.hot.keys.active(0), {"s": (time.time() - 31) * 1000})
    assert cache.evictor.run_once().messages == 1


def test_two_daemons_share_the_looking_and_either_goes_on_when_the_other_ends(idle: CacheConfig) -> None:
    process = Process(idle)
    one, two = Evictor(Process(idle).store), Evictor(Process(idle).store)
    process.add("a")
    assert one.run_once().messages == 1
    process.add("b")
    # The first has the lease on idle sessions …
    assert two.run_once().messages == 0
    assert one.run_once().messages == 1
    for i in range(7):
        process.add(f"c{i}")
    # … and it is about nothing else.
    assert two.run_once().messages == 3
    process.drive.client.delete(process.store.hot.keys.lease(0))
    assert two.run_once().messages == 4
    assert process.full() == ["a", "b", *(f"c{i}" for i in range(7))]


def test_a_session_that_cannot_be_moved_does_not_keep_the_others_hot(idle: CacheConfig) -> None:
    """Neither one that holds what cannot be read, nor a key of another kind, nor a damaged archive."""
    sessions = [f"session {i:02}" for i in range(50)]
    for session in sessions:
        Process(idle, session).add("x")
    # More than are looked at together, and idle for longest.
    unreadable = [sessions[0], *sessions[3:40]]
    for session in unreadable:
        _spoil(idle, session)
    process = Process(idle, sessions[1])
    key = process.store.hot.keys.window(sessions[1])
    process.drive.client.delete(key)
    process.drive.client.set(key, "not a stream")
    gone = Process(idle, sessions[2])
    gone.drive.client.delete(gone.store.hot.keys.window(sessions[2]))
    os.makedirs(idle.archive_dir, exist_ok=True)
    with open(os.path.join(idle.archive_dir, "session%2002.huff"), "wb") as file:
        file.write(b"CAv2 and nothing that is intact" * 20)
    evictor = HybridConversationCache("mine", idle).evictor
    for _ in range(2):
        with pytest.raises(LixCacheError):
            evictor.run_once()
    assert [session for session in sessions[40:] if archived(idle, session) != ["x"]] == []
    assert [session for session in unreadable if hot(idle, session) != 2] == []
    assert process.drive.client.get(key) == b"not a stream"


@pytest.mark.timeout(60)
def test_an_entry_in_the_list_that_is_no_session_does_not_keep_the_daemon_busy_for_ever(
    idle: CacheConfig,
) -> None:
    process = Process(idle)
    process.add("x")
    process.drive.client.zadd(process.store.hot.keys.active(0), {b"\xff no session of ours": 1})
    evictor = HybridConversationCache("mine", idle).evictor
    evictor.run_once()
    assert archived(idle) == ["x"]


def test_a_session_that_another_process_moves_is_left_to_it(idle: CacheConfig) -> None:
    process = Process(idle)
    process.add("x")
    evictor = HybridConversationCache("mine", idle).evictor
    with process.archive.lock("s"):
        assert evictor.run_once().messages == 0
    assert evictor.run_once().messages == 1


def test_trouble_does_not_kill_the_thread_and_can_be_seen(idle: CacheConfig, proxy: CountingProxy) -> None:
    behind = idle.replace(redis_port=proxy.port, evictor_enabled=True, evictor_interval_seconds=0.01)
    cache = HybridConversationCache("s", behind)
    say(cache, "x")
    wait_until(lambda: archived(idle) == ["x"], what="the first eviction")
    proxy.refuse()
    wait_until(lambda: cache.evictor.last_error is not None, what="the trouble")
    stats = cache.get_stats()
    assert stats["evictor"]["alive"] is True
    assert stats["evictor"]["last_error"].startswith("RedisUnavailable")
    assert stats["evictor"]["evictor_errors"] >= 1
    proxy.allow()
    Process(idle).add("y")
    wait_until(lambda: archived(idle) == ["x", "y"], what="the next eviction")
    wait_until(lambda: cache.evictor.last_error is None, what="a good round")


@pytest.mark.parametrize("error", [ValueError("a bug"), ArchiveUnavailable(28, "full"), OSError("odd")])
def test_no_error_kills_the_thread(idle: CacheConfig, error: Exception) -> None:
    cache = HybridConversationCache("s", idle)
    real = cache.evictor.run_once
    rounds: list[int] = []

    def fail_twice() -> offload.Moved:
        rounds.append(1)
        if len(rounds) < 3:
            raise error
        return real()

    cache.evictor.run_once = fail_twice  # type: ignore[method-assign]
    say(cache, "x")
    cache.evictor.start()
    for expected in (1, 2, 3):
        cache.evictor.wake()
        wait_until(lambda expected=expected: len(rounds) == expected, what=f"round {expected}")  # type: ignore[misc]
    wait_until(lambda: archived(idle) == ["x"], what="the good round")
    assert cache.evictor.is_alive
    assert cache.get_stats()["evictor"]["evictor_errors"] == 2


# -- the daemon is late --------------------------------------------------------------------


def test_without_a_daemon_the_add_bounds_the_window_itself(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config)
    texts = [f"message {i}" for i in range(60)]
    longest = 0
    for text in texts:
        say(cache, text)
        longest = max(longest, hot(config))
    assert longest < 4 + 4 * 2
    assert said(cache.get_full()) == texts
    assert cache.get_stats()["counters"]["late_spills"] > 0


@pytest.mark.parametrize("short_lived", [False, True])
def test_caches_of_different_sizes_bound_the_window_between_them(
    config: CacheConfig, short_lived: bool
) -> None:
    """Neither ever sees the lengths at which it would look after the window by itself."""
    sizes = (config.replace(hot_window_size=4), config.replace(hot_window_size=5))
    caches = [HybridConversationCache("s", size) for size in sizes]
    texts = [f"message {i}" for i in range(80)]
    longest = 0
    for i, text in enumerate(texts):
        # The second size first: so the one sees even lengths and the other odd ones.
        cache = HybridConversationCache("s", sizes[1 - i % 2]) if short_lived else caches[1 - i % 2]
        say(cache, text)
        longest = max(longest, hot(config))
    assert longest <= 5 + 2 * 4 * 2 + 1
    assert said(caches[0].get_full()) == texts


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize(
    "error",
    [
        ArchiveUnavailable(28, "the disk is full"),
        InvalidMessage("too large for a frame"),
        MissingExtra("zstandard", "zstd", "archive_codec='zstd'"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_a_late_spill_that_fails_does_not_fail_the_add_that_made_it(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    cache = HybridConversationCache("s", config)
    texts = [f"message {i}" for i in range(20)]

    def refuse(*_: Any, **__: Any) -> None:
        raise error

    # The archive works when it is looked at, and not when it is needed.
    cache._store.archive_state.works()
    cache.get_context()
    with monkeypatch.context() as patched:
        patched.setattr(cache._store.archive.store._files, "write_synced", refuse)
        say(cache, *texts)
    assert hot(config) == 20
    assert cache.get_stats()["counters"]["spill_failures"] > 0
    # It is tried again when the window has grown by another batch.
    say(cache, "one more", "and another")
    assert hot(config) == 4
    assert said(cache.get_full()) == [*texts, "one more", "and another"]


@pytest.mark.promise("no-loss")
def test_what_interrupts_a_late_spill_comes_out_of_its_add_and_loses_nothing(
    config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker's soft time limit is an Exception like others."""

    class SoftTimeLimit(Exception):
        pass

    cache = HybridConversationCache("s", config)

    def interrupted(*_: Any, **__: Any) -> None:
        raise SoftTimeLimit

    cache._store.archive_state.works()
    cache.get_context()
    texts = [f"message {i}" for i in range(20)]
    with monkeypatch.context() as patched:
        patched.setattr(cache._store.archive.store._files, "write_synced", interrupted)
        with pytest.raises(SoftTimeLimit):
            say(cache, *texts)
    found = said(cache.get_full())
    assert found == texts[: len(found)]
    assert hot(config) == len(found) > 4


def test_a_late_spill_that_finds_the_lock_taken_leaves_it_to_its_holder(config: CacheConfig) -> None:
    cache = HybridConversationCache("s", config)
    texts = [f"message {i}" for i in range(20)]
    with cache.archive.store.lock("s"):
        say(cache, *texts)
    assert hot(config) == 20
    assert said(cache.get_full()) == texts


# -- cleaning up ---------------------------------------------------------------------------


class Later(SystemClock):
    """The clock of a process that comes much later."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def time(self) -> float:
        return super().time() + self._seconds

    def monotonic(self) -> float:
        return super().monotonic() + self._seconds


def make_old(config: CacheConfig, session: str, days: float = 15) -> None:
    """Archive a message as it would be there if it had been moved to disk days ago."""
    then = time.time() - days * DAY
    archive = ConversationArchive(config.archive_dir, clock=ManualClock(then))
    archive.append_turn(session, {"role": "user", "content": "old"})
    os.utime(Path(config.archive_dir) / f"{file_stem(session)}.huff", (then, then))


def clean_up(config: CacheConfig, clock: SystemClock | None = None) -> int:
    process = Process(config, "s", clock or SystemClock())
    return process.drive(rounds_flow.clean_up(process.store))


def test_archives_past_their_life_are_removed_and_those_of_hot_sessions_spared(config: CacheConfig) -> None:
    for session in ("cold", "hot", "hot again"):
        make_old(config, session)
    make_old(config, "young", 13)
    Process(config, "hot").add("new")
    Process(config, "hot again").context()
    assert clean_up(config) == 1
    assert Process(config, "cold").full() == []
    assert Process(config, "young").full() == ["old"]
    assert Process(config, "hot").full() == ["old", "new"]
    assert Process(config, "hot again").full() == ["old"]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("days", [15, 400])
def test_a_daemon_whose_clock_is_ahead_expires_nothing(config: CacheConfig, days: int) -> None:
    process = Process(config, "s")
    process.add("new")
    process.flush()
    make_old(config, "cold")
    assert clean_up(config, Later(days * DAY)) == 1
    assert Process(config, "s").full() == ["new"]
    assert Process(config, "cold").full() == []
    # What it moved to the trash it does not take for a week old.
    assert clean_up(config, Later(days * DAY)) == 0
    assert [one["session_id"] for one in Process(config, "s").store.archive.trashed()] == ["cold"]


@pytest.mark.promise("no-loss")
def test_what_a_daemon_moved_whose_clock_is_behind_does_not_expire(config: CacheConfig) -> None:
    process = Process(config, "s", Later(-20 * DAY))
    process.add("new")
    process.flush()
    # Nor where the file's own time is lost, as in a restored backup: the ids are the server's.
    os.utime(Path(config.archive_dir) / "s.huff", (0, 0))
    assert clean_up(config) == 0
    assert Process(config, "s").full() == ["new"]


def test_one_session_that_cannot_expire_keeps_no_other(config: CacheConfig) -> None:
    for session in ("busy", "refused", "cold"):
        make_old(config, session)
    process = Process(config, "s")
    archive = process.store.archive
    expire = archive.store.expire_locked

    def refuse(session_id: str, *args: Any, **options: Any) -> bool:
        if session_id == "refused":
            raise ArchiveUnavailable(13, "permission denied")
        return expire(session_id, *args, **options)

    archive.store.expire_locked = refuse  # type: ignore[method-assign]
    with archive.store.lock("busy"):
        assert process.drive(rounds_flow.clean_up(process.store)) == 1
    assert archive.store.counters["expiry_failures"] == 1
    assert [archive.session_exists(session) for session in ("busy", "refused", "cold")] == [True, True, False]
    assert clean_up(config) == 2


def test_of_many_daemons_one_looks_for_expired_archives(config: CacheConfig) -> None:
    one, two = Process(config, "s"), Process(config, "s")
    make_old(config, "cold")
    assert one.drive(rounds_flow.clean_up(one.store, "one")) == 1
    make_old(config, "cold too")
    assert two.drive(rounds_flow.clean_up(two.store, "two")) == 0
    assert one.drive(rounds_flow.clean_up(one.store, "one")) == 1
    # A daemon that has died is in the way no longer than that.
    assert 0 < lazy_client(one.store.endpoint).pttl(one.store.hot.keys.clean_up()) <= 3_600_000


def test_a_folder_that_is_in_use_is_not_read_to_find_what_has_expired(config: CacheConfig) -> None:
    process = Process(config, "s")
    for session in ("a", "b", "c"):
        Process(config, session).add("new")
        Process(config, session).flush()
    make_old(config, "cold")
    read: list[str] = []
    files = process.store.archive.store._files
    tail = files.read_tail

    def counted(path: str, count: int) -> Any:
        read.append(Path(path).name)
        return tail(path, count)

    files.read_tail = counted  # type: ignore[method-assign]
    assert process.drive(rounds_flow.clean_up(process.store)) == 1
    assert set(read) == {"cold.huff"}


def test_the_daemon_cleans_up_once_an_hour(config: CacheConfig) -> None:
    make_old(config, "cold")
    clock = Later(0)
    evictor = evictor_for(Process(config, "cold", clock).store)
    evictor.run_once()
    assert Process(config, "cold").full() == ["old"]
    clock._seconds += 3601
    evictor.run_once()
    assert Process(config, "cold").full() == []
    assert evictor.store.counters["expired_archives"] == 1


@pytest.mark.promise("no-loss")
def test_windows_are_cut_while_the_daemon_cleans_up(config: CacheConfig) -> None:
    for n in range(40):
        make_old(config, f"cold {n}")
    clock = Later(0)
    process = Process(config, "busy", clock)
    evictor = evictor_for(process.store)
    expire = process.store.cold.expire_locked
    left: list[int] = []

    def expires(session_id: str, *args: Any, **options: Any) -> bool:
        if not left:
            # The window grows by a batch after the round has looked at it.
            for n in range(6):
                process.add(f"m{n}")
        left.append(process.store.cold.summary("busy").total)
        return expire(session_id, *args, **options)

    process.store.cold.expire_locked = expires  # type: ignore[method-assign]
    clock._seconds += 3601
    evictor.run_once()
    assert evictor.store.counters["expired_archives"] == len(left) == 40
    assert (left[0], left[-1]) == (0, 2)
    assert process.full() == [f"m{n}" for n in range(6)]


def test_a_clean_up_renews_its_lease_and_ends_where_another_process_has_it(config: CacheConfig) -> None:
    one = Process(config, "s")
    client, key = lazy_client(one.store.endpoint), one.store.hot.keys.clean_up()
    for n in range(70):
        make_old(config, f"cold {n}")
    left: list[int] = []

    def meanwhile(taken_at: int) -> Any:
        left.append(client.pttl(key))
        # It took long.
        client.pexpire(key, 60_000)
        if len(left) == taken_at:
            client.set(key, "two", px=60_000)
        yield RedisCall(("PING",))

    def cleaned(taken_at: int) -> int:
        left.clear()
        return one.drive(rounds_flow.clean_up(one.store, "one", lambda: meanwhile(taken_at)))

    assert cleaned(2) == 64
    assert len(left) == 2
    assert cleaned(0) == 0, "another process has it"
    client.delete(key)
    assert cleaned(0) == 6
    # Once between the steps of tidying, and then it is renewed again.
    assert len(left) == 1
    assert min(left) > 3_000_000
    assert client.pttl(key) > 3_000_000


# -- what it remembers ---------------------------------------------------------------------


def test_sessions_that_were_only_looked_at_are_not_remembered(config: CacheConfig) -> None:
    evictor = HybridConversationCache("s", config).evictor
    for number in range(20):
        HybridConversationCache(f"s{number}", config).get_context()
    assert evictor._used == set()


def test_sessions_that_went_cold_are_forgotten(config: CacheConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evictor_module, "_FORGET_FROM", 4)
    caches = [HybridConversationCache(f"s{number}", config) for number in range(6)]
    evictor = caches[0].evictor
    evictor._forget_at = 4
    for cache in caches:
        say(cache, "a message")
    for number in range(4):
        # Another process's daemon was there.
        Process(config, f"s{number}").flush()
    evictor.run_once()
    assert evictor._used == {"s4", "s5"}
    say(caches[0], "another")
    assert evictor.flush() == 3
    assert {number: hot(config, f"s{number}") for number in range(6)} == dict.fromkeys(range(6), 0)


# -- an archive folder that refuses --------------------------------------------------------


@pytest.fixture
def broken(config: CacheConfig, tmp_path: Path) -> CacheConfig:
    """An archive folder that cannot be made, for root as well."""
    (tmp_path / "file").write_bytes(b"")
    return config.replace(archive_dir=str(tmp_path / "file" / "archive"))


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("policy", ["hot", "raise"])
def test_a_folder_that_never_worked_fails_the_first_add_and_stores_nothing(
    broken: CacheConfig, twins: Twins, policy: str
) -> None:
    cache = twins.make("HybridConversationCache", "s", broken.replace(on_archive_error=policy))
    for _ in range(2):
        with pytest.raises(ArchiveUnavailable):
            cache.add_message("user", "lost?")
    assert Process(broken, "s").hot() == 0
    stats = cache.get_stats()
    assert "ArchiveUnavailable" in stats["archive"]
    health = cache.health_check()
    assert health["redis"] == "ok"
    assert "ArchiveUnavailable" in health["archive"]
    assert health["status"] == ("degraded" if policy == "hot" else "down")


@pytest.mark.promise("no-loss")
def test_a_folder_that_breaks_later_is_told_of_and_loses_nothing(
    config: CacheConfig, twins: Twins, tmp_path: Path
) -> None:
    cache = twins.make("HybridConversationCache", "s", config)
    cache.add_message("user", "0")
    folder, aside = Path(config.archive_dir), tmp_path / "aside"
    folder.rename(aside)
    folder.write_bytes(b"a file in its place")
    for number in range(1, 30):
        cache.add_message("user", str(number))
    evictor = cache.target.evictor if hasattr(cache, "target") else cache.evictor
    with pytest.raises(ArchiveUnavailable):
        evictor.run_once()
    assert "ArchiveUnavailable" in cache.get_stats()["archive"]
    assert cache.health_check()["status"] == "degraded"
    strict = twins.make("HybridConversationCache", "s", config.replace(on_archive_error="raise"))
    with pytest.raises(ArchiveUnavailable):
        strict.add_message("user", "refused")
    folder.unlink()
    aside.rename(folder)
    strict.add_message("user", "30")
    evictor.run_once()
    assert cache.get_stats()["archive"] == "ok"
    assert cache.health_check()["status"] == "ok"
    assert said(cache.get_full()) == [str(number) for number in range(31)]


def test_it_says_that_redis_is_away(idle: CacheConfig) -> None:
    evictor = HybridConversationCache("s", idle.replace(redis_port=1)).evictor
    with pytest.raises(RedisUnavailable):
        evictor.run_once()


def test_a_stopped_server_costs_the_daemon_nothing_but_time(tmp_path: Path) -> None:
    with RedisServer(appendonly=True) as server:
        config = server.config(
            archive_dir=tmp_path / "archive",
            evictor_enabled=True,
            evictor_interval_seconds=0.01,
            evict_after_minutes=0.0,
            redis_retry_seconds=0,
        )
        cache = HybridConversationCache("s", config)
        texts = []
        checks: list[Callable[[], Any]] = [server.kill, lambda: None, server.start, lambda: None]
        for i in range(12):
            texts.append(f"message {i}")
            say(cache, texts[-1])
            checks[i % 4]()
        wait_until(lambda: archived(config) == texts, what="all on disk")
        wait_until(lambda: hot(config) == 0, what="none in Redis")
        assert said(cache.get_full()) == texts
        cache.evictor.stop()
        assert cache.evictor.join(30)


def test_of_many_buckets_a_few_are_judged_and_leased_at_a_time(
    idle: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is judged idle is moved soon after, and a lease is renewed before it can end."""
    config = idle.replace(redis_buckets=40)
    names = [f"s{i}" for i in range(200)]
    for name in names:
        say(HybridConversationCache(name, config), "x")
    evictor = Evictor(HybridConversationCache("s0", config)._store)
    hot = evictor.store.hot
    seen: list[tuple[str, set[int]]] = []
    each, move = rounds_flow.ask_each, rounds_flow.move_to_disk
    what = {id(hot.idle(0, 0, 0, 1).script): "list", id(hot.lease(0, "", 1).script): "lease"}

    def asked(commands: Any, *rest: Any) -> Any:
        kinds = {what.get(id(getattr(command, "script", None)), "count") for command in commands.values()}
        buckets = {name[1] if isinstance(name, tuple) else name for name in commands}
        seen.append(("+".join(sorted(kinds)), buckets))
        return each(commands, *rest)

    def moved(store: Any, keep: Any) -> Any:
        seen.append(("move", set(map(hot.keys.bucket, keep))))
        return move(store, keep)

    monkeypatch.setattr(rounds_flow, "ask_each", asked)
    monkeypatch.setattr(rounds_flow, "move_to_disk", moved)
    total = evictor._driver()(rounds_flow.offload_idle(evictor.store, 0.0, "me"))
    assert total.sessions == len(names)
    assert len(seen[0][1]) == 40
    lists = [len(buckets) for name, buckets in seen[1:] if name == "lease+list"]
    assert 0 < max(lists) <= rounds_flow.SESSIONS_AT_ONCE
    moves = [i for i, (name, _) in enumerate(seen) if name == "move"]
    assert len(moves) > 6
    for i in moves:
        assert seen[i - 1][0] in ("lease", "lease+list")
        assert seen[i][1] <= seen[i - 1][1]
