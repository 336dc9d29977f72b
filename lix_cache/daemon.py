"""What the daemon threads of this package have in common: how their end is waited for."""

from __future__ import annotations

import threading

__all__ = ["DaemonThread"]


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
