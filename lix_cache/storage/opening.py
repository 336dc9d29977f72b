"""Files and folders that close themselves, and what to say where the system refuses."""

from __future__ import annotations

import contextlib
import errno
import io
import os
import tempfile
from itertools import tee
from typing import NoReturn, TypeVar

from lix_cache.errors import ArchiveUnavailable

__all__ = ["FLAGS", "OpenFile", "OpenFolder", "opened_as", "refused", "try_folder"]

FLAGS = os.O_NOFOLLOW | os.O_CLOEXEC
#: What is made here holds what people said: it is the user's own, whatever the umask allows.
_FILE_MODE = 0o600

_File = TypeVar("_File", bound="OpenFile")


class OpenFile(io.FileIO):
    """A file of the interpreter's own, which closes itself when it is dropped.

    So that an exception out of a signal handler cannot come between opening a file and owning
    it, nor between a ``with`` and its end: all of that is C. Made by :func:`opened_as`.
    """

    def __del__(self) -> None:
        # Not the interpreter's own, which warns: to be dropped is how a file ends that was
        # interrupted between opening and keeping it.
        self.close()


def opened_as(kind: type[_File], path: str, flags: int) -> _File:
    """Open a file as one of a kind of :class:`OpenFile`."""
    opened, noted = tee(map(os.open, (path,), (flags,), (_FILE_MODE,)))
    try:
        # One call into C: what is opened belongs to the file, or was not opened.
        return next(map(kind, opened, ("rb+",)))
    except IsADirectoryError:
        for fd in noted:
            os.close(fd)
        raise


class OpenFolder:
    """A folder's descriptor, which the interpreter's own files do not take. As :class:`OpenFile`, it
    closes itself: opening and keeping it, and giving it up and closing it, are one call into C each.
    """

    def __init__(self) -> None:
        self._fds: list[int] = []

    def open(self, path: str) -> None:
        self._fds.extend(map(os.open, (path,), (os.O_RDONLY | os.O_CLOEXEC,)))

    def fileno(self) -> int:
        return self._fds[0]

    def close(self) -> None:
        if self._fds:
            any(map(os.close, map(self._fds.pop, (0,))))

    def __del__(self) -> None:
        self.close()


def refused(error: OSError, what: str, path: str) -> NoReturn:
    hint = {
        errno.ENOSPC: "the disk is full",
        errno.EDQUOT: "the disk quota is used up",
        errno.EACCES: "permission denied",
        errno.EPERM: "operation not permitted",
        errno.EROFS: "the file system is read-only",
        errno.ENOTDIR: "a part of the path is not a folder",
        errno.ELOOP: "a symbolic link is in the way",
        errno.EMFILE: "this process has too many open files",
    }.get(error.errno or 0, os.strerror(error.errno) if error.errno else str(error))
    raise ArchiveUnavailable(error.errno, f"cannot {what} {path!r}: {hint}") from error


def try_folder(path: str) -> None:
    """Try to make a file in a folder, and the folder if it is not there. Leaves nothing behind.

    A file without a name, where the file system knows such: then nothing is touched, not even a time.
    """
    folder, missing = os.path.abspath(path), list[str]()
    try:
        while not _is_there(folder):
            missing.append(folder)
            folder = os.path.dirname(folder)
        with contextlib.suppress(AttributeError, OSError):  # no system but Linux; not each of its kinds
            os.close(os.open(folder, os.O_TMPFILE | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            return
        made: list[str] = []
        try:
            for name in reversed(missing):
                os.mkdir(name, 0o700)
                made.append(name)
            with tempfile.TemporaryFile(dir=made[-1] if made else folder):
                pass
        finally:
            for name in reversed(made):
                os.rmdir(name)
    except OSError as error:
        refused(error, "write in the folder", path)


def _is_there(folder: str) -> bool:
    """Whether a folder is there. What cannot be one, such as a link to nothing, is refused."""
    try:
        os.stat(folder)
    except FileNotFoundError:
        if os.path.islink(folder):
            raise
        return False
    if not os.path.isdir(folder):
        raise NotADirectoryError(errno.ENOTDIR, "not a folder")
    return True
