"""File locks that end with the process that holds them."""

from __future__ import annotations

import fcntl
import os
import weakref

__all__ = ["FileLock"]


class FileLock:
    """One ``flock`` on one open file; the kernel gives it up when the process ends."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
        _open_locks.add(self)

    @property
    def is_open(self) -> bool:
        return self._fd >= 0

    def fileno(self) -> int:
        return self._fd

    def try_lock(self, kind: int) -> bool:
        try:
            fcntl.flock(self._fd, kind | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def unlock(self) -> None:
        """Give the lock up for everybody who shares the open file, forked children too."""
        fcntl.flock(self._fd, fcntl.LOCK_UN)

    def release(self) -> None:
        if self.is_open:
            self.unlock()
        self.close()

    def close(self) -> None:
        """Close the file; the lock stays with those who inherited it."""
        if self.is_open:
            os.close(self._fd)
            self._fd = -1


_open_locks: weakref.WeakSet[FileLock] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    # The child is not a user of its parent's servers, nor is it starting one. If it
    # kept the inherited descriptors, it would hold the locks after its parent is gone.
    for lock in list(_open_locks):
        lock.close()


os.register_at_fork(after_in_child=_after_fork_in_child)
