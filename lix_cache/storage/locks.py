"""Locks on files. A process that ends, however it ends, lets go of its own."""

from __future__ import annotations

import fcntl
import os
import weakref

from lix_cache.storage.opening import FLAGS, OpenFile, opened_as

__all__ = ["FileLock", "file_lock"]


class FileLock(OpenFile):
    """One ``flock`` on one open file, which is let go when the file is closed. See :func:`file_lock`."""

    @property
    def is_held(self) -> bool:
        return not self.closed

    def try_lock(self, kind: int = fcntl.LOCK_EX) -> bool:
        """Take it now, exclusively or as ``kind`` says; False if another opening of the file has it."""
        try:
            fcntl.flock(self.fileno(), kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Let go for all that share the open file, forked children too."""
        fcntl.flock(self.fileno(), fcntl.LOCK_UN)

    def release(self) -> None:
        """Let go. Harmless when already done, and in a forked child, whose it never was."""
        if not self.closed:
            # Unlocked, not only closed: a child forked meanwhile may have it open too.
            with self:
                self.unlock()


#: The locks that this process has open. Each takes itself out when it dies.
_open: set[weakref.ref[FileLock]] = set()
#: How often this process has forked.
_forks = 0


def file_lock(path: str) -> FileLock:
    """Open a lock that is not taken yet. It closes itself when it is dropped.

    A file that is opened anew each time: the lock belongs to the opening, so it keeps threads
    apart as well as processes.

    Raises:
        OSError: the file cannot be opened.
    """
    lock = None
    try:
        while True:
            forks = _forks
            lock = opened_as(FileLock, path, os.O_RDWR | os.O_CREAT | FLAGS)
            _open.add(weakref.ref(lock, _open.discard))
            if forks == _forks:
                return lock
            # A child that does not know of it may have it open, and would keep it.
            lock.close()
    except BaseException:
        # An error that interrupted this may be kept, and this frame with it.
        if lock is not None:
            lock.close()
        raise


def _before_fork() -> None:
    global _forks
    _forks += 1


def _close_inherited() -> None:
    """Close, in a forked child, the locks of its parent: it would keep them after the parent's end."""
    for ref in list(_open):
        lock = ref()
        if lock is not None:
            lock.close()


os.register_at_fork(before=_before_fork, after_in_child=_close_inherited)
