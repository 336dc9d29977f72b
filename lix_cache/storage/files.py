"""The one door to the operating system: every file the library touches is touched here.

Nothing here decides anything. Tests replace :class:`Files` by one that fails, tears or
forgets what was not synced, so each method is one step that a crash can come before or
after; a step that a crash can interrupt half-way says what is left behind.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import tee
from typing import NoReturn, TypeVar

from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.parallel import side_by_side

__all__ = ["FileLock", "Files", "OpenFile", "Tail", "Write", "opened_as"]

_NO_FOLLOW = getattr(os, "O_NOFOLLOW", 0)
_CLOEXEC = getattr(os, "O_CLOEXEC", 0)
_BINARY = getattr(os, "O_BINARY", 0)
#: Threads that help to wait for several syncs: a disk with other work to do serves four in
#: the time of one, and more only get into each other's way.
_SYNC_HELPERS = 3
_FLAGS = _NO_FOLLOW | _CLOEXEC | _BINARY
#: What is made here holds what people said: it is the user's own, whatever the umask allows.
_FILE_MODE = 0o600
_FOLDER_MODE = 0o700

_File = TypeVar("_File", bound="OpenFile")


@dataclass(frozen=True)
class Tail:
    """The end of a file.

    Attributes:
        size: bytes in the file.
        data: the last of them, at most as many as asked for.
    """

    size: int
    data: bytes


class OpenFile(io.FileIO):
    """A file of the interpreter's own, which closes itself when it is dropped.

    So that an exception out of a signal handler cannot come between opening a file and owning
    it, nor between a ``with`` and its end: all of that is C. Made by :func:`opened_as`.
    """

    def __del__(self) -> None:
        # Not the interpreter's own, which warns: to be dropped is how a file ends that was
        # interrupted between opening and keeping it.
        self.close()


def _opened(path: str, flags: int) -> OpenFile:
    return opened_as(OpenFile, path, flags)


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


class _OpenFolder:
    """A folder's descriptor, which the interpreter's own files do not take. As :class:`OpenFile`, it
    closes itself: opening and keeping it, and giving it up and closing it, are one call into C each.
    """

    def __init__(self) -> None:
        self._fds: list[int] = []

    def open(self, path: str) -> None:
        self._fds.extend(map(os.open, (path,), (os.O_RDONLY | _CLOEXEC,)))

    def fileno(self) -> int:
        return self._fds[0]

    def close(self) -> None:
        if self._fds:
            any(map(os.close, map(self._fds.pop, (0,))))

    def __del__(self) -> None:
        self.close()


class FileLock(OpenFile):
    """A lock, held while its file is open. A killed process lets go by dying."""

    @property
    def is_held(self) -> bool:
        return not self.closed

    def release(self) -> None:
        """Let go. Harmless when already done, and in a forked child, whose it never was."""
        if not self.closed:
            # Unlocked, not only closed: a child forked meanwhile may have it open too.
            with self:
                _unlock(self.fileno())


#: The locks that this process has open. Each takes itself out when it dies.
_held: set[weakref.ref[FileLock]] = set()
#: How often this process has forked.
_forks = 0


def _before_fork() -> None:
    global _forks
    _forks += 1


def _close_inherited() -> None:
    """Close, in a forked child, the locks that its parent held.

    Otherwise the child would keep them alive after the parent was killed.
    """
    for ref in list(_held):
        lock = ref()
        if lock is not None:
            lock.close()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_child=_close_inherited)


def _refused(error: OSError, what: str, path: str) -> NoReturn:
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


@dataclass(frozen=True)
class Write:
    """Bytes for a file.

    Attributes:
        path: the file.
        offset: its end, where the bytes go; None to make the file, or make it anew.
        data: the bytes.
    """

    path: str
    offset: int | None
    data: bytes


class Files:
    """The operations the archive needs, on the real file system."""

    def make_folder(self, path: str) -> None:
        """Create a folder and its parents, durably; fine if it is there."""
        made: list[str] = []
        folder = os.path.abspath(path)
        while not os.path.isdir(folder):
            made.append(folder)
            folder = os.path.dirname(folder)
        try:
            # One by one: os.makedirs would give the parents any mode. Another process may be first.
            for name in reversed(made):
                with contextlib.suppress(FileExistsError):
                    os.mkdir(name, _FOLDER_MODE)
            if not os.path.isdir(path):
                raise NotADirectoryError(errno.ENOTDIR, "not a folder")
        except OSError as error:
            _refused(error, "create the folder", path)
        # A file in a folder whose own name a power cut takes away is gone as well.
        for name in made:
            self.sync_folder(os.path.dirname(name))

    def read(self, path: str) -> bytes | None:
        """Return a whole file, or None if there is none."""
        try:
            file = _opened(path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            _refused(error, "open", path)
        try:
            return file.readall()
        except OSError as error:
            _refused(error, "read", path)
        finally:
            file.close()

    def read_at(self, path: str, offset: int, count: int) -> bytes | None:
        """Return up to ``count`` bytes from ``offset``, or None if there is no file."""
        try:
            file = _opened(path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            _refused(error, "open", path)
        try:
            return os.pread(file.fileno(), count, offset)
        except OSError as error:
            _refused(error, "read", path)
        finally:
            file.close()

    def read_tail(self, path: str, count: int) -> Tail | None:
        """Return the size and the last ``count`` bytes at most, or None if there is no file."""
        try:
            file = _opened(path, os.O_RDONLY | _FLAGS)
        except FileNotFoundError:
            return None
        except OSError as error:
            _refused(error, "open", path)
        try:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size - count)
            return Tail(size, os.pread(file.fileno(), size - start, start))
        except OSError as error:
            _refused(error, "read", path)
        finally:
            file.close()

    def append(self, path: str, offset: int, data: bytes) -> None:
        """Write ``data`` at the end of the file, which is at ``offset``, and sync it.

        Where the disk fills up half-way the file is cut back to ``offset``. A crash may
        leave any part of ``data``, or a hole: what the format's CRCs are for.
        """
        try:
            file = _opened(path, os.O_WRONLY | _FLAGS)
        except OSError as error:
            _refused(error, "open", path)
        try:
            try:
                _write_all(file.fileno(), data, offset)
                os.fsync(file.fileno())
            except OSError as error:
                # Cutting back is a courtesy; should it fail too, the next writer
                # sets the torn tail aside.
                with contextlib.suppress(OSError):
                    os.ftruncate(file.fileno(), offset)
                _refused(error, "write to", path)
        finally:
            file.close()

    def write_synced(self, path: str, data: bytes) -> None:
        """Create or overwrite a file and sync it. A crash may leave any part of it."""
        try:
            file = _opened(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | _FLAGS)
        except OSError as error:
            _refused(error, "create", path)
        try:
            _write_all(file.fileno(), data, 0)
            os.fsync(file.fileno())
        except OSError as error:
            with contextlib.suppress(OSError):
                os.unlink(path)
            _refused(error, "write", path)
        finally:
            file.close()

    def write_many(self, writes: Sequence[Write]) -> list[ArchiveUnavailable | None]:
        """Do several writes and sync them all; for each return None, or why it failed.

        Each is as :meth:`append` or :meth:`write_synced` would do it, and none depends on
        another. Side by side: the file system then has room for all of them ready before
        the first is waited for, and syncs them in far fewer turns of its journal.
        """
        begun: list[OpenFile | ArchiveUnavailable] = []
        try:
            # Not made into a new list, of which an interruption would leave nothing.
            begun.extend(map(_begin, writes))
            calls = [partial(_finish, write, file) for write, file in zip(writes, begun, strict=True)]
            return side_by_side(calls, _SYNC_HELPERS)
        finally:
            # What was interrupted: its error may be kept, and what is in its frames with it.
            for file in begun:
                if isinstance(file, OpenFile):
                    file.close()

    def truncate(self, path: str, size: int) -> None:
        """Cut a file and sync it."""
        try:
            file = _opened(path, os.O_WRONLY | _FLAGS)
            try:
                os.ftruncate(file.fileno(), size)
                os.fsync(file.fileno())
            finally:
                file.close()
        except OSError as error:
            _refused(error, "cut", path)

    def rename(self, source: str, target: str) -> None:
        """Put a file in the place of another, at once. Not durable before :meth:`sync_folder`."""
        try:
            os.replace(source, target)
        except OSError as error:
            _refused(error, "rename to", target)

    def remove(self, path: str) -> bool:
        """Remove a file; False if there was none. Not durable before :meth:`sync_folder`."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            _refused(error, "remove", path)
        return True

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        if os.name == "nt":  # pragma: no cover - a folder cannot be opened there, nor need it be
            return
        folder = _OpenFolder()
        try:
            folder.open(path)
            os.fsync(folder.fileno())
        except OSError as error:
            _refused(error, "sync the folder", path)
        finally:
            folder.close()

    def exists(self, path: str) -> bool:
        """Whether there is something of that name. One stat, which a slow disk can take its time for."""
        try:
            os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            _refused(error, "look at", path)
        return True

    def modified(self, path: str) -> float | None:
        """Return when a file was last written to by the file system's clock; None if it is gone."""
        try:
            return os.stat(path, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            _refused(error, "look at", path)

    def version(self, path: str) -> str | None:
        """Return what is another after each change of a file; None if it is gone."""
        try:
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            _refused(error, "look at", path)
        return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"

    def stamp(self, path: str) -> None:
        """Let a file look as if it were written to now."""
        try:
            os.utime(path)
        except OSError as error:
            _refused(error, "stamp", path)

    def now(self, probe: str) -> float:
        """Return the time by the file system's clock: a file server's own, where the folder is shared.

        Args:
            probe: a file to write for it.
        """
        self.write_synced(probe, b"")
        self.stamp(probe)
        return self.modified(probe) or 0.0

    def names(self, folder: str, start: str = "", *, folders: bool = False) -> Iterator[str]:
        """Yield the names in a folder that begin so: of its files, or of its folders."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith(start):
                        continue
                    is_wanted = entry.is_dir if folders else entry.is_file
                    if is_wanted(follow_symlinks=False):
                        yield entry.name
        except FileNotFoundError:
            return
        except OSError as error:
            _refused(error, "list", folder)

    def try_lock(self, path: str) -> FileLock | None:
        """Take the lock of that file now, or return None if it is held.

        A file that is opened anew each time: the lock belongs to the opening, so it
        keeps threads apart as well as processes, and a forked child does not inherit
        a lock it could think its own for longer than the parent's operation.
        """
        lock = None
        try:
            while True:
                forks = _forks
                lock = opened_as(FileLock, path, os.O_RDWR | os.O_CREAT | _FLAGS)
                _held.add(weakref.ref(lock, _held.discard))
                if forks == _forks:
                    break
                # A child that does not know of it may have it open, and would keep it.
                lock.close()
            if _lock_now(lock.fileno()):
                return lock
        except OSError as error:
            if lock is not None:
                lock.close()
            _refused(error, "open the lock" if lock is None else "lock", path)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        lock.close()
        return None


def _begin(write: Write) -> OpenFile | ArchiveUnavailable:
    """Write, and have the system begin to put it on the disk. Return the open file."""
    made = write.offset is None
    flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if made else 0) | _FLAGS
    try:
        try:
            file = _opened(write.path, flags)
        except OSError as error:
            _refused(error, "create" if made else "open", write.path)
        try:
            _write_all(file.fileno(), write.data, write.offset or 0)
            if hasattr(os, "posix_fadvise"):
                # It only asks: what matters is the sync.
                with contextlib.suppress(OSError):
                    os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        except OSError as error:
            _take_back(write, file)
            _refused(error, "write to", write.path)
    except ArchiveUnavailable as error:
        return error
    return file


def _finish(write: Write, file: OpenFile | ArchiveUnavailable) -> ArchiveUnavailable | None:
    """Sync and close what :func:`_begin` has opened."""
    if isinstance(file, ArchiveUnavailable):
        return file
    try:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            _take_back(write, file)
            _refused(error, "write to", write.path)
    except ArchiveUnavailable as error:
        return error
    file.close()
    return None


def _take_back(write: Write, file: OpenFile) -> None:
    # A courtesy; should it fail too, the next writer sets the torn tail aside.
    with contextlib.suppress(OSError):
        if write.offset is None:
            os.unlink(write.path)
        else:
            os.ftruncate(file.fileno(), write.offset)
    file.close()


def _write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        offset += written
        view = view[written:]


if os.name == "nt":  # pragma: no cover - not tested on that system

    def _lock_now(fd: int) -> bool:
        import msvcrt

        try:
            msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined,unused-ignore]
        except OSError:
            return False
        return True

    def _unlock(fd: int) -> None:
        """Nothing: closing unlocks."""

else:

    def _lock_now(fd: int) -> bool:
        import fcntl

        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def _unlock(fd: int) -> None:
        import fcntl

        fcntl.flock(fd, fcntl.LOCK_UN)
