"""The one door to the operating system: every file the library touches is touched here.

Nothing here decides anything. Tests replace :class:`Files` by one that fails, tears or
forgets what was not synced, so each method is one step that a crash can come before or
after; a step that a crash can interrupt half-way says what is left behind.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.locks import FileLock, file_lock
from lix_cache.storage.opening import FLAGS, OpenFile, OpenFolder, opened_as, refused
from lix_cache.storage.parallel import side_by_side

__all__ = ["Files", "Tail", "Write"]

#: Threads that help to wait for several syncs: a disk with other work to do serves four in
#: the time of one, and more only get into each other's way.
_SYNC_HELPERS = 3
_FOLDER_MODE = 0o700

T = TypeVar("T")


@dataclass(frozen=True)
class Tail:
    """The end of a file.

    Attributes:
        size: bytes in the file.
        data: the last of them, at most as many as asked for.
    """

    size: int
    data: bytes


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
            refused(error, "create the folder", path)
        # A file in a folder whose own name a power cut takes away is gone as well.
        for name in made:
            self.sync_folder(os.path.dirname(name))

    def read(self, path: str) -> bytes | None:
        """Return a whole file, or None if there is none."""
        return _read(path, OpenFile.readall)

    def read_at(self, path: str, offset: int, count: int) -> bytes | None:
        """Return up to ``count`` bytes from ``offset``, or None if there is no file."""
        return _read(path, lambda file: os.pread(file.fileno(), count, offset))

    def read_tail(self, path: str, count: int) -> Tail | None:
        """Return the size and the last ``count`` bytes at most, or None if there is no file."""

        def tail(file: OpenFile) -> Tail:
            size = os.fstat(file.fileno()).st_size
            start = max(0, size - count)
            return Tail(size, os.pread(file.fileno(), size - start, start))

        return _read(path, tail)

    def append(self, path: str, offset: int, data: bytes) -> None:
        """Write ``data`` at the end of the file, which is at ``offset``, and sync it.

        Where the disk fills up half-way the file is cut back to ``offset``. A crash may
        leave any part of ``data``, or a hole: what the format's CRCs are for.
        """
        write = Write(path, offset, data)
        _sync(write, _written(write))

    def write_synced(self, path: str, data: bytes) -> None:
        """Create or overwrite a file and sync it. A crash may leave any part of it."""
        write = Write(path, None, data)
        _sync(write, _written(write))

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
            file = opened_as(OpenFile, path, os.O_WRONLY | FLAGS)
            try:
                os.ftruncate(file.fileno(), size)
                os.fsync(file.fileno())
            finally:
                file.close()
        except OSError as error:
            refused(error, "cut", path)

    def rename(self, source: str, target: str) -> None:
        """Put a file in the place of another, at once. Not durable before :meth:`sync_folder`."""
        try:
            os.replace(source, target)
        except OSError as error:
            refused(error, "rename to", target)

    def name_new(self, source: str, target: str) -> bool:
        """Give a file one more name, at once; False if another file has it.

        Not durable before :meth:`sync_folder`.
        """
        try:
            os.link(source, target)
        except FileExistsError:
            return False
        except OSError as error:
            refused(error, "name", target)
        return True

    def remove(self, path: str) -> bool:
        """Remove a file; False if there was none. Not durable before :meth:`sync_folder`."""
        try:
            os.unlink(path)
        except FileNotFoundError:
            return False
        except OSError as error:
            refused(error, "remove", path)
        return True

    def sync_folder(self, path: str) -> None:
        """Make the names in a folder durable."""
        folder = OpenFolder()
        try:
            folder.open(path)
            os.fsync(folder.fileno())
        except OSError as error:
            refused(error, "sync the folder", path)
        finally:
            folder.close()

    def exists(self, path: str) -> bool:
        """Whether there is something of that name. One stat, which a slow disk can take its time for."""
        try:
            os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return False
        except OSError as error:
            refused(error, "look at", path)
        return True

    def modified(self, path: str) -> float | None:
        """Return when a file was last written to by the file system's clock; None if it is gone."""
        try:
            return os.stat(path, follow_symlinks=False).st_mtime
        except FileNotFoundError:
            return None
        except OSError as error:
            refused(error, "look at", path)

    def version(self, path: str) -> str | None:
        """Return what is another after each change of a file; None if it is gone."""
        try:
            found = os.stat(path, follow_symlinks=False)
        except FileNotFoundError:
            return None
        except OSError as error:
            refused(error, "look at", path)
        return f"{found.st_ino:x}-{found.st_size:x}-{found.st_mtime_ns:x}"

    def stamp(self, path: str) -> None:
        """Let a file look as if it were written to now."""
        try:
            os.utime(path)
        except OSError as error:
            refused(error, "stamp", path)

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
            refused(error, "list", folder)

    def listed(self, folder: str, end: str = "") -> Iterator[tuple[str, float]]:
        """Yield the files in a folder whose names end so, and when each was last written (Unix seconds)."""
        try:
            with os.scandir(folder) as entries:
                for entry in entries:
                    name = entry.name
                    if not name.endswith(end):
                        continue
                    # No context manager: of 200,000 files each step here counts.
                    try:
                        if not entry.is_file(follow_symlinks=False):
                            continue
                        written = entry.stat(follow_symlinks=False).st_mtime
                    except FileNotFoundError:
                        continue
                    yield name, written
        except FileNotFoundError:
            return
        except OSError as error:
            refused(error, "list", folder)

    def try_lock(self, path: str) -> FileLock | None:
        """Take the lock of that file now, or return None if it is held.

        The lock belongs to the opening: a forked child does not inherit a lock it could think
        its own for longer than the parent's operation.
        """
        lock = None
        try:
            lock = file_lock(path)
            if lock.try_lock():
                return lock
        except OSError as error:
            if lock is not None:
                lock.close()
            refused(error, "open the lock" if lock is None else "lock", path)
        except BaseException:
            if lock is not None:
                lock.close()
            raise
        lock.close()
        return None


def _read(path: str, how: Callable[[OpenFile], T]) -> T | None:
    """Read from a file; None if there is none."""
    try:
        file = opened_as(OpenFile, path, os.O_RDONLY | FLAGS)
    except FileNotFoundError:
        return None
    except OSError as error:
        refused(error, "open", path)
    try:
        return how(file)
    except OSError as error:
        refused(error, "read", path)
    finally:
        file.close()


def _written(write: Write) -> OpenFile:
    """Write, and return the open file, which is not synced yet."""
    made = write.offset is None
    flags = os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if made else 0) | FLAGS
    try:
        file = opened_as(OpenFile, write.path, flags)
    except OSError as error:
        refused(error, "create" if made else "open", write.path)
    try:
        _write_all(file.fileno(), write.data, write.offset or 0)
    except OSError as error:
        _take_back(write, file)
        refused(error, "write to", write.path)
    except BaseException:
        file.close()
        raise
    return file


def _sync(write: Write, file: OpenFile) -> None:
    """Sync and close what :func:`_written` has opened."""
    try:
        os.fsync(file.fileno())
    except OSError as error:
        _take_back(write, file)
        refused(error, "write to", write.path)
    finally:
        file.close()


def _begin(write: Write) -> OpenFile | ArchiveUnavailable:
    """Write, and have the system begin to put it on the disk. Return the open file."""
    try:
        file = _written(write)
    except ArchiveUnavailable as error:
        return error
    if hasattr(os, "posix_fadvise"):
        # It only asks: what matters is the sync.
        with contextlib.suppress(OSError):
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return file


def _finish(write: Write, file: OpenFile | ArchiveUnavailable) -> ArchiveUnavailable | None:
    if isinstance(file, ArchiveUnavailable):
        return file
    try:
        _sync(write, file)
    except ArchiveUnavailable as error:
        return error
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
