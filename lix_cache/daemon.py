"""What the daemon threads of this package have in common: how many there are, how they end."""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue

__all__ = ["Bell", "Crew", "DaemonThread"]


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


class Crew:
    """So many daemon threads at most. Safe between threads, empty after a fork.

    They are looked at, not counted: an exception out of a signal handler, anywhere between taking
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
        # One whose start was refused or interrupted may never live.
        return sum(thread.is_alive() for thread in self._threads.copy())

    def start(self, work: Callable[[], None], name: str) -> bool:
        """Start a thread; False if as many are at work as may be.

        Raises:
            RuntimeError: the system gives no thread.
        """
        if self._pid != os.getpid():
            # The threads, and what held the lock, did not come along.
            self._begin()

        def run() -> None:
            try:
                work()
            finally:
                self.leave()

        with self._lock:
            self._threads -= {thread for thread in self._threads.copy() if not thread.is_alive()}
            if len(self._threads) >= self.most:
                return False
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.add(thread)
            thread.start()
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
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
            return not thread.is_alive()
        return True

    @property
    def is_alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()
