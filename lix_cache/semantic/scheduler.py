"""A background thread that drops what has expired, at intervals."""

from __future__ import annotations

import contextlib
import os
import threading
import weakref

from lix_cache._log import logger
from lix_cache.checks import check_seconds
from lix_cache.daemon import Bell, DaemonThread
from lix_cache.drivers.sync import SyncDriver
from lix_cache.errors import ConfigError, LixCacheError, told
from lix_cache.semantic import maintenance
from lix_cache.semantic.core import Core

__all__ = ["Cleaner"]

_LONGEST_PAUSE = 600.0


class Cleaner(DaemonThread):
    """Cleans the scopes up that one cache is about, and those of others under its prefix.

    Nothing depends on it: what has expired never answers. It gives the memory back that
    an expired entry takes beside younger ones; a scope as a whole is dropped by Redis.
    Several processes may run theirs at once.

    Args:
        core: the cache.
        drive: runs its flows in this thread.
    """

    def __init__(self, core: Core, drive: SyncDriver) -> None:
        self._core = core
        self._drive = drive
        self.interval = 60.0
        #: The last trouble a round met, in words; None after a good one.
        self.last_error: str | None = None
        self._make_locks()
        _cleaners.add(self)

    def _make_locks(self) -> None:
        self._lock = threading.Lock()
        self._stopping = Bell()
        self._thread = None

    def start(self, interval_seconds: float = 60.0) -> None:
        """Start the thread; if it runs, only the interval changes.

        Raises:
            ConfigError: not a number of seconds above 0.
        """
        if check_seconds("interval_seconds", interval_seconds) > threading.TIMEOUT_MAX:
            raise ConfigError(f"interval_seconds must be at most {threading.TIMEOUT_MAX:g}")
        with self._lock:
            self.interval = float(interval_seconds)
            if self.is_alive and not self._stopping.is_set():
                return
            # A new event: a thread that was asked to end must see its own request.
            self._stopping = Bell()
            self._thread = threading.Thread(
                target=self._run, args=(self._stopping,), name="lix-cache-cleaner", daemon=True
            )
            self._thread.start()

    def stop(self) -> None:
        """Ask the thread to end after the round it is at."""
        self._stopping.set()

    def _run(self, stopping: Bell) -> None:
        pause = self.interval
        while not stopping.wait(pause):
            try:
                self._drive(maintenance.clean_up(self._core))
            except Exception as error:  # noqa: BLE001 - a thread that dies in silence cleans nothing up
                self.last_error = told(error)
                self._core.stats.trouble("cleanup_errors", error)
                level = "WARNING" if isinstance(error, LixCacheError) else "ERROR"
                # Without the traceback: a sink may show its variables, and with them a context.
                logger.log(level, "cleaning the semantic cache up failed: {}", self.last_error)
                pause = max(self.interval, min(pause * 2, _LONGEST_PAUSE))
            else:
                self.last_error = None
                pause = self.interval

    def _after_fork(self) -> None:
        """Come alive again in a forked child: threads do not survive a fork, nor do their locks."""
        was_running = self._thread is not None and not self._stopping.is_set()
        self._make_locks()
        self._core.renew_locks()
        if was_running:
            # Where no thread is to be had, the others are still made anew.
            with contextlib.suppress(RuntimeError):
                self.start(self.interval)


_cleaners: weakref.WeakSet[Cleaner] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for cleaner in list(_cleaners):
        cleaner._after_fork()  # noqa: SLF001 - this module's own class


os.register_at_fork(after_in_child=_after_fork_in_child)
