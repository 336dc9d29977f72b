"""Leases of sessions: in a process by a table, among processes by tokens in the log. docs/object-layout.md"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
from collections.abc import Callable
from types import TracebackType

from lix_cache._log import logger
from lix_cache.daemon import start_thread
from lix_cache.errors import LixCacheError, told

__all__ = ["Held", "ObjectLease", "Tokens", "held_at", "settle"]

#: How long a lease that is let go in the background is waited for.
_SETTLE_SECONDS = 10.0


class Held:
    """The leases of one location that this process holds. Safe between threads, empty after a fork."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._holders: dict[str, object] = {}
        self._leaving: dict[str, threading.Event] = {}

    def take(self, session_id: str, holder: object) -> bool:
        """Take a session's place in this process; False if it is taken."""
        if self._pid != os.getpid():
            self._begin()
        leaving = self._leaving.get(session_id)
        if leaving is not None:
            # It was let go, and the store is being told.
            leaving.wait(_SETTLE_SECONDS)
        return self._holders.setdefault(session_id, holder) is holder

    def is_taken(self, session_id: str) -> bool:
        """Whether this process holds a lease of it."""
        return session_id in self._holders

    def leave(self, session_id: str, holder: object, tell: Callable[[], None] | None) -> None:
        """Give a place back, after the store was told of it.

        Args:
            session_id: the session.
            holder: as it was taken.
            tell: tells the store; None where it knows of nothing.
        """
        if self._holders.get(session_id) is not holder:
            return
        if tell is None:
            self._holders.pop(session_id, None)
            return
        if not _in_event_loop():
            self._told(session_id, tell)
            return
        # The loop must not wait for a store.
        self._leaving[session_id] = threading.Event()
        try:
            start_thread(lambda: self._told(session_id, tell), "lix-cache-lease")
        except RuntimeError:
            self._told(session_id, tell)

    def _told(self, session_id: str, tell: Callable[[], None]) -> None:
        try:
            tell()
        except LixCacheError as error:
            # It ends by time.
            logger.warning("a lease was not let go, and ends by time: {}", told(error))
        finally:
            self._holders.pop(session_id, None)
            leaving = self._leaving.pop(session_id, None)
            if leaving is not None:
                leaving.set()

    def settle(self, timeout: float) -> None:
        """Wait until the store was told of all leases that were let go."""
        until = time.monotonic() + timeout
        for leaving in list(self._leaving.values()):
            leaving.wait(max(0.0, until - time.monotonic()))


def _in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    if asyncio is None:
        return False
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True


_held: dict[str, Held] = {}


def held_at(location: str) -> Held:
    """Return the leases of a location that this process holds, however many objects look at it."""
    return _held.setdefault(location, Held())


def settle(timeout: float = _SETTLE_SECONDS) -> None:
    """Wait until all that was let go in the background is."""
    for held in list(_held.values()):
        held.settle(timeout)


# What a process lets go as its last act is to be had by the next one at once.
atexit.register(settle)


class Tokens:
    """Since when this process has seen the tokens of others. Safe between threads."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._seen: dict[str, tuple[bytes, float]] = {}

    def is_dead(self, session_id: str, token: bytes) -> bool:
        """Whether the holder of a token must be dead, or so late that it is not waited for."""
        now = time.monotonic()
        known, since = self._seen.get(session_id, (b"", now))
        if known != token:
            if len(self._seen) > 10_000:
                self._seen.clear()
            self._seen[session_id] = token, now
            return False
        return now - since > self._seconds


class ObjectLease:
    """See :class:`~lix_cache.archive.lease.Lease`.

    Args:
        held: the leases of the process.
        session_id: whose lease.
        token: what the log says of it; empty where only this process is kept out.
        forget: is told when it is let go.
        let_go: tells the log that it has ended.
    """

    def __init__(
        self,
        held: Held,
        session_id: str,
        token: bytes,
        forget: Callable[[ObjectLease], None],
        let_go: Callable[[ObjectLease], None],
    ) -> None:
        self.session_id = session_id
        self.token = token
        self._held = held
        self._forget = forget
        self._let_go = let_go
        self._is_held = True

    @property
    def is_held(self) -> bool:
        return self._is_held

    def release(self) -> None:
        if self._is_held:
            self._is_held = False
            self._forget(self)
            self._held.leave(self.session_id, self, (lambda: self._let_go(self)) if self.token else None)

    def __enter__(self) -> ObjectLease:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
