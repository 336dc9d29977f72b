"""The LRU eviction daemon: one thread per process and store moves messages from hot to cold."""

from __future__ import annotations

import atexit
import contextlib
import math
import os
import threading
import time
import uuid

from lix_cache._log import logger
from lix_cache.arguments import speaks_for_itself
from lix_cache.checks import check_duration, check_flag, check_number
from lix_cache.daemon import Bell, DaemonThread
from lix_cache.effects import Flow
from lix_cache.errors import ArchiveUnavailable, LixCacheError, RedisUnavailable, told
from lix_cache.hot.breaker import Breaker
from lix_cache.session import offload, rounds, whole
from lix_cache.session.base import Session
from lix_cache.session.layout import StoreDriver, agree
from lix_cache.session.old_sessions import Pass
from lix_cache.session.store import SessionStore, StoreIdentity

__all__ = ["Evictor", "evictor_for"]

_CLEAN_UP_EVERY = 3600.0
_LONGEST_PAUSE = 60.0
#: So many sessions that were added to are remembered before those that went cold are forgotten.
_FORGET_FROM = 1000


@speaks_for_itself
class Evictor(DaemonThread):
    """Moves overflowing windows and idle sessions to disk, in a daemon thread.

    There is one for each process and store, however many caches use it; get it with
    :func:`evictor_for`. Several processes may run theirs on one store: a lease in Redis
    keeps them from doing the same work, and nothing is lost or doubled if it does not.

    Args:
        store: the tiers.
    """

    def __init__(self, store: SessionStore) -> None:
        self.store = store
        #: The last trouble a round met, in words; None after a good one.
        self.last_error: str | None = None
        self._idle_seconds = store.settings.idle_seconds
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        # Sessions that this process added to and that may still be hot.
        self._used: set[str] = set()
        self._forget_at = _FORGET_FROM
        self._flush_on_exit = store.settings.flush_on_exit
        self._old = Pass()
        self._make_locks()

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._wake = Bell()
        self._stopping = Bell()
        self._thread = None
        self._is_asked = False
        # Buckets with windows that this process has made too long.
        self._overflowing: set[int] = set()
        self._last_clean_up = self.store.clock.monotonic()

    # -- lifecycle ----------------------------------------------------------------------

    def start(self) -> None:
        """Start the thread; harmless if it runs."""
        with self._lock:
            if self.is_alive and not self._stopping.is_set():
                return
            # New events: a thread that was asked to end and is still at its batch must
            # see its own request, whatever happens to the next one's.
            self._wake, self._stopping = Bell(), Bell()
            self._thread = threading.Thread(
                target=self._run, args=(self._wake, self._stopping), name="lix-cache-evictor", daemon=True
            )
            self._thread.start()

    def stop(self, *, flush: bool = False) -> None:
        """Ask the thread to end after the batch it is at.

        Args:
            flush: then move every session this process used to disk, in this thread.
        """
        check_flag("flush", flush)
        self._stopping.set()
        self._wake.set()
        if flush:
            self.join()
            self.flush()

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end after :meth:`stop`; False if it did not end in so many seconds."""
        return super().join(None if timeout is None else check_duration("timeout", timeout))

    def wake(self) -> None:
        """Ask for a round now instead of at the end of the pause."""
        self._is_asked = True
        self._wake.set()

    def wake_to_spill(self, session_id: str) -> None:
        """Ask for a window to be brought back to its size now. All else waits for the next round.

        Where many sessions overflow, whole rounds would follow each other without a pause, each with a look
        at every bucket and, on object storage, at every shard. And a look at every bucket waits for each node
        that is away.
        """
        self._overflowing.add(self.store.hot.keys.bucket(session_id))
        self._wake.set()

    def use(self, idle_seconds: float, *, flush_on_exit: bool = False) -> None:
        """Note how long a cache of this process lets its session be idle.

        The shortest time asked for holds for the whole store, and so does the
        wish to have it on disk at the end.
        """
        self._idle_seconds = min(self._idle_seconds, check_number("idle_seconds", idle_seconds, 0, math.inf))
        self._flush_on_exit |= check_flag("flush_on_exit", flush_on_exit)

    def added_to(self, session_id: str) -> None:
        """Note that a session has messages of this process, to be flushed at its end."""
        # One step that nothing interrupts. A lock here is taken by every add, and an exception
        # out of a signal handler can leave it taken for ever.
        self._used.add(session_id)

    # -- work ---------------------------------------------------------------------------

    def run_once(self) -> offload.Moved:
        """Do one round in the calling thread. Returns what it moved.

        Raises:
            RedisError, ArchiveError: what the round met; what was not moved is still hot.
        """
        drive = self._driver()
        # Compared at each round: what this process adds where the others have gone over to another
        # number of buckets, could not be found.
        drive.unchecked(agree(self.store, again=True))
        moved = drive(rounds.spill_overflow(self.store))
        reconciled = drive(rounds.reconcile_all_pending(self.store))
        evicted = drive(rounds.offload_idle(self.store, self._idle_seconds, self._name))
        if self._old.cursor is not None:
            self._old = drive(rounds.rescue_old(self.store, self._old))
        now = self.store.clock.monotonic()
        if now - self._last_clean_up >= _CLEAN_UP_EVERY:
            cleaned = rounds.clean_up(self.store, self._name, self._moved_meanwhile)
            self.store.count("expired_archives", drive(cleaned))
            if self._old.cursor is None and self._old.found:
                # Once more. Where a whole look met none there will be none.
                self._old = Pass()
            # After it: what trouble kept from being done is not put off for an hour.
            self._last_clean_up = now
        if len(self._used) >= self._forget_at:
            self._forget_cold()
        # After the work: rounds that end in trouble with Redis, one after the other, are none.
        drive(rounds.tell(self.store, self._name, self.store.settings.evictor_interval_seconds))
        for done in (moved, reconciled, evicted):
            done.raise_failure()
        return offload.Moved(moved.messages + evicted.messages, moved.sessions + evicted.sessions)

    def _moved_meanwhile(self) -> Flow[None]:
        # What fails is still in Redis: the next round meets it again, and tells.
        yield from rounds.spill_overflow(self.store)
        yield from rounds.offload_idle(self.store, self._idle_seconds, self._name)

    def flush(self) -> int:
        """Move every session this process added to to disk. Returns how many messages moved.

        Raises:
            RedisUnavailable: a server does not answer; its messages stay where they are.
            LixCacheError: the first failure of a session, after all have been tried.
        """
        drive = self._driver()
        moved = 0
        failure: LixCacheError | None = None
        away: set[Breaker] = set()
        for session_id in sorted(self._forget_cold()):
            server = self.store.breaker_of(session_id)
            if server in away:
                continue
            session = Session(self.store, session_id, self.store.settings.window_size)
            try:
                moved += drive(whole.flush(session))
            except RedisUnavailable as error:
                # It is not waited for again. What is on others moves.
                away.add(server)
                failure = error
            except LixCacheError as error:
                failure = failure or error
        if failure is not None:
            raise failure
        return moved

    def _forget_cold(self) -> set[str]:
        """Forget sessions that a daemon has moved to disk; return those still hot."""
        known = self._used.copy()
        hot = known
        try:
            # Forgotten before Redis is asked: an add is noted after Redis has it, so one that is
            # forgotten here is among the hot sessions of the answer.
            self._used -= known
            hot = self._driver()(rounds.hot_among(self.store, list(known)))
        finally:
            self._used |= hot
        # Not at every round: when there are twice as many.
        self._forget_at = max(_FORGET_FROM, 2 * len(self._used))
        return set(hot)

    def _driver(self) -> StoreDriver:
        return StoreDriver(self.store)

    def _run(self, wake: Bell, stopping: Bell) -> None:
        interval = pause = self.store.settings.evictor_interval_seconds
        due = time.monotonic() + pause
        while not stopping.is_set():
            wake.wait(max(0.0, due - time.monotonic()))
            wake.clear()
            if stopping.is_set():
                break
            is_whole = time.monotonic() >= due
            if self._is_asked:
                # Asked once more from here on, it is this round that does it.
                is_whole, self._is_asked = True, False
            # Each step by itself: one that is noted in between is there the next time.
            buckets = self._overflowing.copy()
            self._overflowing -= buckets
            try:
                if is_whole:
                    self.run_once()
                elif buckets:
                    self._driver()(rounds.spill_overflow(self.store, buckets=buckets)).raise_failure()
            except Exception as error:  # noqa: BLE001 - a daemon that dies in silence loses messages later
                self._note(error)
                after = min(pause * 2, max(interval, _LONGEST_PAUSE))
            else:
                after = interval
                if is_whole:
                    self.last_error = None
            # One window that cannot be spilled must not put off the rounds for all.
            if is_whole:
                pause = after
                due = time.monotonic() + pause

    def _note(self, error: Exception) -> None:
        self.last_error = told(error)
        self.store.count("evictor_errors")
        if isinstance(error, ArchiveUnavailable):
            self.store.archive_state.fails(error)
        level = "WARNING" if isinstance(error, LixCacheError) else "ERROR"
        # Without the traceback: a sink may show its variables, and with them messages.
        logger.log(level, "eviction round: {}", self.last_error)

    def _flush_at_exit(self) -> None:
        if self._flush_on_exit:
            self.join(30)
            try:
                self.flush()
            except LixCacheError as error:
                # No caller is left to raise it to. What did not move is still in Redis.
                self._note(error)

    def _after_fork(self) -> None:
        """Come alive again in a forked child: threads do not survive a fork, nor do their locks."""
        was_running = self._thread is not None and not self._stopping.is_set()
        self._make_locks()
        self._name = f"{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._used = set()
        if was_running:
            # Where no thread is to be had, the others are made anew all the same.
            with contextlib.suppress(RuntimeError):
                self.start()


_evictors: dict[StoreIdentity, Evictor] = {}
_registry_lock = threading.Lock()


def evictor_for(store: SessionStore) -> Evictor:
    """Return this process's evictor of a store, made on first use. It is not started."""
    with _registry_lock:
        evictor = _evictors.get(store.identity)
        if evictor is None:
            evictor = _evictors[store.identity] = Evictor(store)
    return evictor


def _after_fork() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()
    for evictor in list(_evictors.values()):
        evictor._after_fork()  # noqa: SLF001 - this module's own class


def stop_all() -> None:
    """Stop the evictors of this process, as its end does."""
    for evictor in list(_evictors.values()):
        evictor.stop()
        evictor._flush_at_exit()  # noqa: SLF001 - this module's own class


# At import: "once" cannot be told by a note that an interruption may come before or after.
atexit.register(stop_all)
os.register_at_fork(after_in_child=_after_fork)
