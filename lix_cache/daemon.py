"""What the daemon threads of this package have in common: how their end is waited for."""

from __future__ import annotations

import contextlib
import threading
from queue import Empty, SimpleQueue

__all__ = ["Bell", "DaemonThread"]


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
