"""Where a session's files go when it expires, and stay for some days.

``.trash/NNN/NAME.MS``: NNN is the number of the session's lock, NAME the file's own name and MS
when it came there. A move is a rename in one file system, so a crash leaves a file in one place
or the other, whole.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, NamedTuple

from lix_cache.archive.names import SUFFIX, file_stem, stripe_of

if TYPE_CHECKING:
    from lix_cache.storage.files import Files

__all__ = ["Trash", "Trashed"]

_FOLDER = ".trash"
_LOCK = re.compile(r"[0-9a-f]{3}\Z")
_NAME = re.compile(rf"(?P<own>.+{re.escape(SUFFIX)})(?P<damaged>\.damaged-[0-9]+)?\.(?P<ms>[0-9]{{1,20}})\Z")


class Trashed(NamedTuple):
    """A file in the trash.

    Attributes:
        own: name of the session's file, without what marks damaged bytes.
        is_damaged: bytes that were set aside, not the session's file itself.
        ms: when it came here, in Unix milliseconds.
        path: where it is.
        lock: number of the session's lock.
    """

    own: str
    is_damaged: bool
    ms: int
    path: str
    lock: str

    @property
    def stem(self) -> str:
        return self.own[: -len(SUFFIX)]


class Trash:
    """The trash of one archive folder. What moves, takes back or removes holds the session's lock."""

    def __init__(self, files: Files, folder: str) -> None:
        self._files = files
        self._folder = os.path.join(folder, _FOLDER)

    def put(self, path: str, session_id: str, ms: int, mark: str = "") -> None:
        """Move a file here. The name in the old folder is not yet durably gone.

        Args:
            path: the file.
            session_id: whose it is.
            ms: the time, in Unix milliseconds.
            mark: what stands behind the name of a file of damaged bytes.
        """
        folder = self._folder_of(session_id)
        self._files.make_folder(folder)
        # Under the name that only this session can have, whatever the old package called it.
        name = file_stem(session_id) + SUFFIX + mark
        while self._files.exists(os.path.join(folder, f"{name}.{ms}")):
            ms += 1
        self._files.rename(path, os.path.join(folder, f"{name}.{ms}"))
        # The new name is durable before the old one goes for good.
        self._files.sync_folder(folder)

    def of(self, session_id: str) -> list[Trashed]:
        """Return a session's files, the oldest first."""
        name = file_stem(session_id) + SUFFIX
        found = [one for one in self._in(self._folder_of(session_id), name) if one.own == name]
        return sorted(found, key=lambda one: one.ms)

    def all(self) -> Iterator[Trashed]:
        """Yield every file here."""
        for name in sorted(self._files.names(self._folder, folders=True)):
            if _LOCK.match(name):
                yield from self._in(os.path.join(self._folder, name))

    def remove(self, session_id: str) -> bool:
        """Remove all that a session has here, durably; False if nothing."""
        found = self.of(session_id)
        for one in found:
            self._files.remove(one.path)
        if found:
            self._files.sync_folder(self._folder_of(session_id))
        return bool(found)

    def empty(self, lock: str, before_ms: float) -> int:
        """Remove what sessions of a lock put here before a time. Returns how many files."""
        found = [one for one in self._in(os.path.join(self._folder, lock)) if one.ms < before_ms]
        # Sessions after what was set aside of them, as in a deletion.
        return sum(self._files.remove(one.path) for one in sorted(found, key=lambda one: not one.is_damaged))

    def _in(self, folder: str, start: str = "") -> Iterator[Trashed]:
        for name in list(self._files.names(folder, start)):
            match = _NAME.match(name)
            if match:
                yield Trashed(
                    match["own"],
                    match["damaged"] is not None,
                    int(match["ms"]),
                    os.path.join(folder, name),
                    os.path.basename(folder),
                )

    def _folder_of(self, session_id: str) -> str:
        return os.path.join(self._folder, f"{stripe_of(session_id):03x}")
