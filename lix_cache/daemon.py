"""What the daemon threads of this package have in common: how many there are, how they end."""

from __future__ import annotations

import contextlib
import operator
import os
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

__all__ = ["Bell", "Crew", "DaemonThread", "Promise", "launch", "start_thread"]

T = TypeVar("T")

#: Seconds between two looks at what should have told that it ended.
_LOOK_AGAIN = 0.5


class Bell:
    """A ``threading.Event`` for one thread to wait for, which a signal handler cannot break.

    An exception out of a handler that comes inside ``Event.set`` may leave the event's lock
    held, and then its thread waits for ever.
    """

    def __init__(self) -> None:
        self._rung: SimpleQueue[None] = SimpleQueue()

    def set(self) -> None:
        if self._rung.empty():
            self._rung.put(None)

    def is_set(self) -> bool:
        return not self._rung.empty()

    def clear(self) -> None:
        with contextlib.suppress(Empty):
            while True:
                self._rung.get_nowait()

    def wait(self, timeout: float | None = None) -> bool:
        try:
            self._rung.get(timeout=timeout)
        except Empty:
            return False
        self._rung.put(None)
        return True


class _Condition(threading.Condition):
    """One that a ``with`` enters and leaves in C, as it does a lock. Its own ways are lines of Python, and
    an exception out of a signal handler between two of them leaves the lock taken.
    """

    __enter__ = property(operator.attrgetter("_lock.__enter__"))
    __exit__ = property(operator.attrgetter("_lock.__exit__"))


class Promise(Future[T]):
    """A future that an interrupted call leaves usable: another thread that sets or reads it never hangs."""

    def __init__(self) -> None:
        super().__init__()
        self._condition = _Condition()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until there is a result or an error; False if it took longer."""
        until = None if timeout is None else time.monotonic() + timeout
        ended: SimpleQueue[Any] = SimpleQueue()
        self.add_done_callback(ended.put)
        # Looked at again and again: what sets it may be interrupted before it tells.
        while not self.done():
            left = _LOOK_AGAIN if until is None else min(_LOOK_AGAIN, until - time.monotonic())
            if left <= 0:
                return False
            with contextlib.suppress(Empty):
                ended.get(timeout=left)
        return True

    async def wait_async(self, timeout: float | None = None) -> bool:
        """As :meth:`wait`, while the event loop goes on. One who stops waiting stops nothing."""
        import asyncio

        loop = asyncio.get_running_loop()
        until = None if timeout is None else time.monotonic() + timeout
        ended = loop.create_future()

        def tell() -> None:
            if not ended.done():
                ended.set_result(None)

        def wake(_: object) -> None:
            # The loop may have ended; then no caller waits for it.
            with contextlib.suppress(RuntimeError):
                loop.call_soon_threadsafe(tell)

        self.add_done_callback(wake)
        while not self.done():
            left = _LOOK_AGAIN if until is None else min(_LOOK_AGAIN, until - time.monotonic())
            if left <= 0:
                return False
            await asyncio.wait([ended], timeout=left)
        return True


def start_thread(work: Callable[[], None], name: str) -> None:
    """Start a daemon thread.

    Raises:
        RuntimeError: the system gives no thread.
    """
    launch(threading.Thread(target=work, name=name, daemon=True))


def launch(thread: threading.Thread) -> None:
    """Start a thread that was made.

    Raises:
        RuntimeError: the system gives none.
    """
    # What the caller is handling is the context of whatever is raised here.
    handled = sys.exc_info()[1]
    try:
        thread.start()
    except (RuntimeError, KeyError) as error:
        # An exception out of a signal handler, inside "start", may come out as one of CPython's own.
        if error.__context__ is not None and error.__context__ is not handled:
            raise error.__context__ from None
        raise


class Crew:
    """So many daemon threads at most. Safe between threads, empty after a fork.

    Each says itself that it is there, and that it ends: an exception out of a signal handler, between taking
    a place and giving it back, would leave a count wrong for ever.

    Args:
        most: how many may work at once.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._threads: set[threading.Thread] = set()
        self._pid = os.getpid()

    def __len__(self) -> int:
        return len(self._threads)

    def start(self, work: Callable[[], None], name: str) -> bool:
        """Start a thread; False if as many are at work as may be.

        Raises:
            RuntimeError: the system gives no thread.
        """
        if self._pid != os.getpid():
            # The threads, and what held the lock, did not come along.
            self._begin()

        begun: SimpleQueue[None] = SimpleQueue()

        def run() -> None:
            # It says itself that it is there: what starts it may be interrupted before and after.
            self._threads.add(threading.current_thread())
            begun.put(None)
            try:
                work()
            finally:
                self.leave()

        with self._lock:
            if len(self) >= self.most:
                return False
            start_thread(run, name)
            begun.get()
        return True

    def leave(self) -> None:
        """Give the place of the running thread to another: it is about to end."""
        self._threads.discard(threading.current_thread())


class DaemonThread:
    """A thread that is started, asked to stop, and waited for. Subclasses do the first two."""

    _thread: threading.Thread | None = None

    def join(self, timeout: float | None = None) -> bool:
        """Wait for the thread's end after :meth:`stop`; False if it did not end in time."""
        thread = self._thread
        # One that the system refused has no number.
        if thread is not None and thread.ident is not None and thread is not threading.current_thread():
            thread.join(timeout)
            return not thread.is_alive()
        return True

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()
