"""File locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import weakref

from lix_cache.storage.files import OpenFile, opened_as

__all__ = ["FileLock", "file_lock"]


class FileLock(OpenFile):
    """One ``flock`` on one open file; the kernel gives it up when the process ends. See :func:`file_lock`."""

    @property
    def is_open(self) -> bool:
        return not self.closed

    def try_lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self.fileno(), kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Give the lock up for all who share the open file, forked children too."""
        fcntl.flock(self.fileno(), fcntl.LOCK_UN)

    def release(self) -> None:
        if self.is_open:
            with self:
                self.unlock()


def file_lock(path: str) -> FileLock:
    """Return a lock that is not taken yet. It closes itself when it is dropped."""
    lock = opened_as(FileLock, path, os.O_RDWR | os.O_CREAT)
    _open_locks.add(lock)
    return lock


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The child is not a user of its parent's servers, nor is it starting one. If it
    # kept the inherited descriptors, it would hold the locks after its parent is gone.
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
