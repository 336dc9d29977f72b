"""Slot files of llama.cpp, and the folder for them."""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import os
import shutil
import struct
import tempfile
import uuid
from typing import Any

from lix_cache.errors import ConfigError, EngineError
from lix_cache.storage.locks import FileLock, file_lock

__all__ = [
    "SlotFolder",
    "file_digest",
    "new_slot_folder",
    "tokens_of",
]

_MAGIC = 0x67677371
#: What the server writes before its tokens where it writes more than them.
_STRUCTURED = 0xFFFFFFFF
_DIGEST_BYTES = 8 << 20
_FOLDER = "lix-kv-"
_LOCK = "in-use.lock"


def tokens_of(data: bytes | memoryview) -> list[int]:
    """Return the tokens that a slot file says it holds, which may be none."""
    if len(data) < 12:
        return []
    magic, _, count = struct.unpack_from("<3I", data)
    if magic != _MAGIC or 12 + 4 * count > len(data):
        return []
    words = struct.unpack_from(f"<{count}I", data, 12)
    if count >= 3 and words[0] == _STRUCTURED:
        return list(words[3 : 3 + words[2]])
    return list(words)


class SlotFolder:
    """The folder where a server puts its slots. Several processes may use one.

    A file is made here before the server writes it, for it is its owner's alone then. A process that is
    killed leaves its files, and in them maybe a conversation that no purge finds. So they bear its name, a
    lock says that it lives, and the next one removes those of the dead.

    Args:
        path: of the folder.
        spare: of another one, for what the first has no room for.

    Raises:
        EngineError: it cannot be used.
    """

    def __init__(self, path: str, spare: str = "") -> None:
        self.path = path
        self._spare = spare
        self._name = f"lix-{uuid.uuid4().hex}"
        self._numbers = itertools.count()
        self._again: set[str] = set()
        try:
            for name in os.listdir(path):
                if name.startswith("lix-") and name.endswith(".lock"):
                    self._tidy(name.removesuffix(".lock"))
            # Locked before it has its name: who finds it without its lock may remove the files.
            self._lock = file_lock(os.path.join(path, f"{self._name}.new"))
            self._lock.try_lock()
            os.rename(os.path.join(path, f"{self._name}.new"), os.path.join(path, f"{self._name}.lock"))
        except OSError as error:
            raise EngineError(f"the slot folder {path!r} cannot be used: {error.strerror}") from None

    def _tidy(self, owner: str) -> None:
        path = os.path.join(self.path, f"{owner}.lock")
        with contextlib.suppress(OSError), file_lock(path) as lock:
            if lock.try_lock():
                for name in os.listdir(self.path):
                    if name.startswith(f"{owner}-"):
                        os.unlink(os.path.join(self.path, name))
                os.unlink(path)

    def new(self, size: int) -> str:
        """Make an empty file for about so many bytes, and return its path."""
        for path in [*self._again]:
            self.remove(path)
        name = f"{self._name}-{next(self._numbers)}.slot"
        path = os.path.join(self.path, name)
        home = self._spare if self._spare and _free(self.path) < size <= _free(self._spare) else self.path
        real = os.path.join(home, name)
        os.close(os.open(real, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        if real != path:
            os.symlink(real, path)
        return path

    def put(self, data: memoryview) -> str:
        """Write a slot for the server to read, and return its path."""
        path = self.new(len(data))
        try:
            with open(path, "r+b") as file:
                file.write(data)
        except BaseException:
            self.remove(path)
            raise
        return path

    def taken(self, path: str, written: Any) -> bytes:
        """Return a slot that the server wrote.

        Raises:
            EngineError: it is not as long as the server says.
        """
        with open(path, "rb") as file:
            data = file.read()
        if written != len(data):
            if not data:
                raise EngineError(f"the server saves its slots to another folder than {self.path!r}")
            # A full disk costs the last bytes in silence, and a file without them ends the process.
            raise EngineError("the server saved a slot, and not all of it is there: is the disk full?")
        return data

    def remove(self, path: str, *, again: bool = False) -> None:
        """Remove a file; ``again`` if the server may still write it, which makes it anew."""
        for one in (path, os.path.join(self._spare, os.path.basename(path)) if self._spare else ""):
            with contextlib.suppress(OSError):
                os.unlink(one)
        if again:
            self._again.add(path)
        else:
            self._again.discard(path)

    def close(self) -> None:
        """Let go of it."""
        for path in [*self._again]:
            self.remove(path)
        with contextlib.suppress(OSError):
            os.unlink(os.path.join(self.path, f"{self._name}.lock"))
        self._lock.release()


def _free(path: str) -> int:
    found = os.statvfs(path)
    return found.f_bavail * found.f_frsize


def new_slot_folder(home: str) -> tuple[str, FileLock]:
    """Make a folder for the slot files of a server of this process.

    The folder of a process that is gone is removed by the next one that makes its own.

    Returns:
        The folder, and a lock that says that it is in use as long as it is held.
    """
    for entry in os.scandir(home):
        if entry.name.startswith(_FOLDER) and _is_left(entry):
            shutil.rmtree(entry.path, ignore_errors=True)
    folder = tempfile.mkdtemp(prefix=_FOLDER, dir=home)
    # Locked before it has its name: who finds it without its lock may remove the folder.
    lock = file_lock(os.path.join(folder, "new.lock"))
    lock.try_lock()
    os.rename(os.path.join(folder, "new.lock"), os.path.join(folder, _LOCK))
    return folder, lock


def _is_left(entry: os.DirEntry[str]) -> bool:
    """Whether a folder is ours, and the process that made it is gone."""
    path = os.path.join(entry.path, _LOCK)
    try:
        owner = entry.stat(follow_symlinks=False).st_uid
        if not entry.is_dir(follow_symlinks=False) or owner != os.geteuid() or not os.path.isfile(path):
            return False
        lock = file_lock(path)
        with lock:
            return lock.try_lock()
    except OSError:
        return False


def file_digest(path: str) -> str:
    """Return the SHA-256 of a file."""
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while data := file.read(_DIGEST_BYTES):
                digest.update(data)
    except OSError:
        raise ConfigError(
            f"the weights {path!r} cannot be read; name them with weights=, or states of others may be used"
        ) from None
    return digest.hexdigest()
