"""File systems that crash, tear, fill up, forget and count. Behind each of them are real files."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.files import Files, Tail, Write
from lix_cache.storage.locks import FileLock

__all__ = ["ClockedFiles", "CountingFiles", "Crash", "FaultyFiles", "ForgetfulFiles", "Step", "disk_full"]

T = TypeVar("T")


class Crash(BaseException):
    """The process ends here. Not an ``Exception``: nothing in the library may catch it."""


def disk_full(path: str = "somewhere") -> ArchiveUnavailable:
    """Return what :class:`Files` raises where the disk is full."""
    return ArchiveUnavailable(errno.ENOSPC, f"cannot write to {path!r}: the disk is full")


@dataclass(frozen=True)
class Step:
    """One operation that was asked for.

    Attributes:
        name: of the method of :class:`Files`.
        path: of the file, as it was given.
        size: bytes that were to be written.
    """

    name: str
    path: str
    size: int = 0

    @property
    def tears(self) -> bool:
        """Whether a crash can leave a part of it behind."""
        return self.name in ("append", "write_synced")


@dataclass(frozen=True)
class _Fault:
    when: Literal["before", "after", "torn"]
    error: BaseException
    kept: int = 0


class FaultyFiles(Files):
    """Passes everything on, but one chosen operation ends in a :class:`Crash` or an error.

    Operations are numbered from 0 in the order in which they are asked for: a first run
    without a fault gives the list, in ``steps``, and a second run meets a fault at one of
    them. After a crash every further operation crashes too: a dead process does not tidy
    up, and its locks are let go.

    Args:
        inner: who does the work; the real file system if not given.
    """

    def __init__(self, inner: Files | None = None) -> None:
        self.steps: list[Step] = []
        self.is_dead = False
        self._inner = inner or Files()
        self._faults: dict[int, _Fault] = {}

    def crash(self, number: int, when: Literal["before", "after"]) -> None:
        """Crash before or after that operation."""
        self._faults[number] = _Fault(when, Crash(f"{when} operation {number}"))

    def tear(self, number: int, kept: int) -> None:
        """Crash in the middle of an append or a write, when so many bytes are in the file, unsynced."""
        self._faults[number] = _Fault("torn", Crash(f"{kept} bytes into operation {number}"), kept)

    def fail(
        self,
        number: int,
        when: Literal["before", "after", "torn"] = "before",
        error: BaseException | None = None,
        kept: int = 0,
    ) -> None:
        """Raise an error at that operation, once; a full disk if none is given.

        ``torn`` leaves so many bytes behind, as a disk does that is too broken to cut the
        file back; ``after`` is an operation that was done and reported as failed.
        """
        self._faults[number] = _Fault(when, error or disk_full(), kept)

    # -- what Files does ---------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        self._do(Step("make_folder", path), lambda: self._inner.make_folder(path))

    def read(self, path: str) -> bytes | None:
        return self._do(Step("read", path), lambda: self._inner.read(path))

    def read_at(self, path: str, offset: int, count: int) -> bytes | None:
        return self._do(Step("read_at", path), lambda: self._inner.read_at(path, offset, count))

    def read_tail(self, path: str, count: int) -> Tail | None:
        return self._do(Step("read_tail", path), lambda: self._inner.read_tail(path, count))

    def append(self, path: str, offset: int, data: bytes) -> None:
        self._do(
            Step("append", path, len(data)),
            lambda: self._inner.append(path, offset, data),
            lambda kept: _write_unsynced(path, offset, data[:kept]),
        )

    def write_synced(self, path: str, data: bytes) -> None:
        def torn(kept: int) -> None:
            _write_unsynced(path, 0, data[:kept], anew=True)

        self._do(
            Step("write_synced", path, len(data)),
            lambda: self._inner.write_synced(path, data),
            torn,
        )

    def write_many(self, writes: Sequence[Write]) -> list[ArchiveUnavailable | None]:
        return [_refusal(self, write) for write in writes]

    def truncate(self, path: str, size: int) -> None:
        self._do(Step("truncate", path), lambda: self._inner.truncate(path, size))

    def rename(self, source: str, target: str) -> None:
        self._do(Step("rename", target), lambda: self._inner.rename(source, target))

    def remove(self, path: str) -> bool:
        return self._do(Step("remove", path), lambda: self._inner.remove(path))

    def sync_folder(self, path: str) -> None:
        self._do(Step("sync_folder", path), lambda: self._inner.sync_folder(path))

    def exists(self, path: str) -> bool:
        return self._do(Step("exists", path), lambda: self._inner.exists(path))

    def names(self, folder: str, start: str = "", *, folders: bool = False) -> Iterator[str]:
        return self._do(
            Step("names", folder), lambda: iter(list(self._inner.names(folder, start, folders=folders)))
        )

    def modified(self, path: str) -> float | None:
        return self._do(Step("modified", path), lambda: self._inner.modified(path))

    def stamp(self, path: str) -> None:
        self._do(Step("stamp", path), lambda: self._inner.stamp(path))

    def now(self, probe: str) -> float:
        return self._do(Step("now", probe), lambda: self._inner.now(probe))

    def try_lock(self, path: str) -> FileLock | None:
        return self._do(Step("try_lock", path), lambda: self._inner.try_lock(path))

    def _do(self, step: Step, call: Callable[[], T], tear: Callable[[int], None] | None = None) -> T:
        if self.is_dead:
            raise Crash("the process is dead")
        number = len(self.steps)
        self.steps.append(step)
        fault = self._faults.pop(number, None)
        if fault is None:
            return call()
        self.is_dead = isinstance(fault.error, Crash)
        if fault.when == "torn":
            if tear is None:
                raise AssertionError(f"{step.name} is done whole or not at all")
            tear(fault.kept)
        elif fault.when == "after":
            result = call()
            if isinstance(result, FileLock):
                # A process that dies lets go of what it holds.
                result.release()
        raise fault.error


def _refusal(files: Files, write: Write) -> ArchiveUnavailable | None:
    """Do one of several writes by itself, so that it is a step of its own."""
    try:
        if write.offset is None:
            files.write_synced(write.path, write.data)
        else:
            files.append(write.path, write.offset, write.data)
    except ArchiveUnavailable as error:
        return error
    return None


def _write_unsynced(path: str, offset: int, data: bytes, *, anew: bool = False) -> None:
    fd = os.open(path, os.O_WRONLY | (os.O_CREAT | os.O_TRUNC if anew else 0), 0o666)
    try:
        os.pwrite(fd, data, offset)
    finally:
        os.close(fd)


@dataclass
class _Inode:
    """A file, whatever its name. ``synced`` is what a power cut leaves of it."""

    synced: bytes = b""


@dataclass
class _Memory:
    """Which names stand for which files: now, and after a power cut."""

    now: dict[str, _Inode] = field(default_factory=dict)
    durable: dict[str, _Inode] = field(default_factory=dict)


class ForgetfulFiles(Files):
    """The real file system, and :meth:`power_cut`: what was not synced is gone.

    A file's contents are kept as of its last fsync, a folder's names as of the folder's.
    What is in the folder at the start counts as durable. ``make_folder`` promises to be
    durable by itself, and is taken at its word here; a test of its own checks that.

    Args:
        root: the folder that forgets; nothing outside it does.
    """

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self._root = os.path.abspath(root)
        self._memory = _Memory()
        self._remember_all()

    def power_cut(self, *, keep_names: bool = False) -> None:
        """Take away what was not synced.

        Args:
            keep_names: every name survives, and only contents are lost: a file system
                that writes its folders before its files.
        """
        wanted: dict[str, bytes]
        if keep_names:
            now = self._memory.now
            wanted = {path: now[path].synced if path in now else b"" for path in self._paths()}
        else:
            wanted = {path: inode.synced for path, inode in self._memory.durable.items()}
        for path in self._paths():
            os.unlink(path)
        for path, data in wanted.items():
            with open(path, "wb") as file:
                file.write(data)
        self._remember_all()

    def append(self, path: str, offset: int, data: bytes) -> None:
        super().append(path, offset, data)
        self._synced(path)

    def write_synced(self, path: str, data: bytes) -> None:
        super().write_synced(path, data)
        self._synced(path)

    def write_many(self, writes: Sequence[Write]) -> list[ArchiveUnavailable | None]:
        refusals = super().write_many(writes)
        for write, refusal in zip(writes, refusals, strict=True):
            if refusal is None:
                self._synced(write.path)
        return refusals

    def truncate(self, path: str, size: int) -> None:
        super().truncate(path, size)
        self._synced(path)

    def rename(self, source: str, target: str) -> None:
        super().rename(source, target)
        now = self._memory.now
        now[os.path.abspath(target)] = now.pop(os.path.abspath(source), _Inode())

    def remove(self, path: str) -> bool:
        removed = super().remove(path)
        self._memory.now.pop(os.path.abspath(path), None)
        return removed

    def try_lock(self, path: str) -> FileLock | None:
        lock = super().try_lock(path)
        self._memory.now.setdefault(os.path.abspath(path), _Inode())
        return lock

    def sync_folder(self, path: str) -> None:
        super().sync_folder(path)
        folder = os.path.abspath(path)
        memory = self._memory
        memory.durable = {
            **{name: inode for name, inode in memory.durable.items() if os.path.dirname(name) != folder},
            **{name: inode for name, inode in memory.now.items() if os.path.dirname(name) == folder},
        }

    def _synced(self, path: str) -> None:
        with open(path, "rb") as file:
            data = file.read()
        self._memory.now.setdefault(os.path.abspath(path), _Inode()).synced = data

    def _paths(self) -> list[str]:
        return [os.path.join(folder, name) for folder, _, names in os.walk(self._root) for name in names]

    def _remember_all(self) -> None:
        self._memory = _Memory()
        for path in self._paths():
            with open(path, "rb") as file:
                self._memory.now[path] = self._memory.durable[path] = _Inode(file.read())


class ClockedFiles(Files):
    """The real file system, whose clock is the one given.

    Args:
        clock: its ``time()`` is what files are stamped with.
    """

    def __init__(self, clock: Any) -> None:
        self._clock = clock

    def append(self, path: str, offset: int, data: bytes) -> None:
        super().append(path, offset, data)
        self.stamp(path)

    def write_synced(self, path: str, data: bytes) -> None:
        super().write_synced(path, data)
        self.stamp(path)

    def write_many(self, writes: Sequence[Write]) -> list[ArchiveUnavailable | None]:
        refusals = super().write_many(writes)
        for write, refusal in zip(writes, refusals, strict=True):
            if refusal is None:
                self.stamp(write.path)
        return refusals

    def stamp(self, path: str) -> None:
        os.utime(path, (self._clock.time(), self._clock.time()))


class CountingFiles(Files):
    """The real file system; counts the calls that read and the bytes they bring."""

    def __init__(self) -> None:
        self.reads = 0
        self.bytes_read = 0

    def read(self, path: str) -> bytes | None:
        return self._counted(super().read(path))

    def read_at(self, path: str, offset: int, count: int) -> bytes | None:
        return self._counted(super().read_at(path, offset, count))

    def read_tail(self, path: str, count: int) -> Tail | None:
        tail = super().read_tail(path, count)
        self._counted(None if tail is None else tail.data)
        return tail

    def _counted(self, data: bytes | None) -> bytes | None:
        self.reads += 1
        self.bytes_read += len(data or b"")
        return data


def copy_folder(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    """Put a copy of a folder in the place of another."""
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)


def folder_contents(folder: str | os.PathLike[str]) -> dict[str, bytes]:
    """Return every file below a folder, the empty lock files left out."""
    found: dict[str, Any] = {}
    for path, _, names in os.walk(folder):
        for name in names:
            full = os.path.join(path, name)
            if os.path.basename(path) != ".locks":
                with open(full, "rb") as file:
                    found[os.path.relpath(full, folder)] = file.read()
    return found
