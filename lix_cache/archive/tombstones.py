"""What is remembered of deletions, so that nothing of a deleted session comes back from Redis.

``.deleted/NNN-DIGEST``: the largest id that the session may have had, and in a line each the nonces of
messages of which Redis may still get a copy, under whatever id. A digest of the session's id, and
random bytes: what was deleted leaves neither its name nor a word. Before it stands the number of
the session's lock: dropping a note takes it, and knows no more than the file's name.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

from lix_cache.archive.names import stripe_of
from lix_cache.messages.turn import ZERO_ID, MessageId, parse_id

if TYPE_CHECKING:
    from lix_cache.storage.files import Files
from lix_cache.storage.locks import FileLock

__all__ = ["Deletion", "Tombstones", "is_note_name", "note_name"]

FOLDER = ".deleted"
_NAME = re.compile(r"[0-9a-f]{3}-[0-9a-f]{64}\Z")


class Deletion(NamedTuple):
    """What is remembered of the deletions of one session.

    Attributes:
        up_to: the largest id that the session may have had.
        nonces: messages whose adds may be carried out after it.
    """

    up_to: MessageId = ZERO_ID
    nonces: frozenset[bytes] = frozenset()

    def joined(self, other: Deletion) -> Deletion:
        """Return what is remembered of the deletions of both."""
        return Deletion(max(self.up_to, other.up_to), self.nonces | other.nonces)


def note_name(session_id: str) -> str:
    """Return the name of the note of a session's deletions: its lock, and a digest of its id."""
    return f"{stripe_of(session_id):03x}-{hashlib.sha256(session_id.encode()).hexdigest()}"


def is_note_name(name: str) -> bool:
    """Whether it is such a name."""
    return _NAME.match(name) is not None


class Tombstones:
    """The notes of one archive folder. A writer of one holds the session's lock.

    Args:
        files: the file system.
        folder: the archive's.
        note_damage: told of a note that cannot be read.
    """

    def __init__(self, files: Files, folder: str, note_damage: Callable[[str], None]) -> None:
        self._files = files
        self._folder = os.path.join(folder, FOLDER)
        self._note_damage = note_damage

    def of(self, session_id: str) -> Deletion:
        """Return what is remembered of a session's deletions."""
        return self.named(note_name(session_id))

    def named(self, name: str) -> Deletion:
        """Return what a note of that name says."""
        found = _parsed(self._files.read(os.path.join(self._folder, name)))
        if found is None:
            self._note_damage("the note of a deletion cannot be read")
        return found or Deletion()

    def all(self) -> Iterator[tuple[str, Deletion]]:
        """Yield all notes by their names."""
        for name in list(self._files.names(self._folder)):
            if _NAME.match(name) and (found := self.named(name)) != Deletion():
                yield name, found

    def put(self, session_id: str, deletion: Deletion) -> None:
        """Remember, durably. The folder is there."""
        self.put_named(note_name(session_id), deletion)

    def put_named(self, name: str, deletion: Deletion) -> None:
        """Remember under the name of a note. The holder has the lock of its number."""
        path = os.path.join(self._folder, name)
        temporary = os.path.join(self._folder, f".{os.path.basename(path)}.tmp")
        lines = [str(deletion.up_to), *sorted(nonce.hex() for nonce in deletion.nonces)]
        self._files.write_synced(temporary, "\n".join(lines).encode())
        self._files.rename(temporary, path)
        self._files.sync_folder(self._folder)

    def forget(self, older_than_ms: int, try_stripe: Callable[[str], FileLock | None]) -> int:
        """Drop the notes of deletions before a time in Unix milliseconds. Returns how many.

        Args:
            older_than_ms: the time.
            try_stripe: takes the lock of such a number, or returns None if it is held: then the
                note is left for the next time.
        """
        dropped = 0
        for name in list(self._files.names(self._folder)):
            path = os.path.join(self._folder, name)
            # A temporary file may be one that another process is at.
            if not _NAME.match(name) or not self._is_outdated(path, older_than_ms):
                continue
            lock = try_stripe(name[:3])
            if lock is None:
                continue
            with lock:
                # Looked at again: the session may have been deleted once more since.
                if self._is_outdated(path, older_than_ms):
                    dropped += self._files.remove(path)
        return dropped

    def _is_outdated(self, path: str, older_than_ms: int) -> bool:
        data = self._files.read(path)
        found = _parsed(data)
        # What cannot be read is damage, and what is gone needs no removal.
        if data is None or found is None:
            return False
        # Without an id, as an archive that knows no Redis notes it, the file's own time counts.
        return (found.up_to.ms or (self._files.modified(path) or 0) * 1000) < older_than_ms


def _parsed(data: bytes | None) -> Deletion | None:
    """Return what a note says; None if it cannot be read."""
    if data is None:
        return Deletion()
    first, *others = data.split(b"\n")
    try:
        return Deletion(parse_id(first), frozenset(bytes.fromhex(line.decode("ascii")) for line in others))
    except ValueError:
        return None
