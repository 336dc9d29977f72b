"""The sessions of a snapshot by last use, and what a page says of each. docs/object-layout.md

It repeats what the states say, so that a page, or a look for what has expired, reads no state.
"""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

from lix_cache.archive.catalogue import Place
from lix_cache.archive.facts import SessionMetadata
from lix_cache.archive.objects.records import State
from lix_cache.storage.varints import Reader, put_varint

__all__ = ["Entry", "Packed", "entry_of", "packed", "unpacked"]

#: A place and the rest of its entry, as they stand in a snapshot.
Packed: TypeAlias = tuple[Place, bytes]


class Entry(NamedTuple):
    """A session in the order of last use.

    Attributes:
        place: its last message or change, and its stored id.
        created_ms: Unix milliseconds of its first append.
        updated_ms: of its last append.
        lived_ms: of its last sign of life.
        turns: that a reader has.
        size: bytes of its frames.
        version: 1 + the number of the segment that changed it last; 0 if that has only moved it.
    """

    place: Place
    created_ms: int
    updated_ms: int
    lived_ms: int
    turns: int
    size: int
    version: int

    @property
    def metadata(self) -> SessionMetadata:
        created, updated, used = self.created_ms / 1000, self.updated_ms / 1000, self.place.ms / 1000
        return SessionMetadata(self.place.session_id, created, updated, self.turns, self.size, used)


def entry_of(session_id: str, state: State) -> Entry | None:
    """Return the entry of a session; None if nothing of it is archived."""
    if not state.is_there:
        return None
    newest_ms = state.newest.ms
    used_ms = max(newest_ms, state.changed_ms) or state.updated_ms
    return Entry(
        Place(used_ms, session_id.encode()),
        state.created_ms,
        state.updated_ms,
        max(newest_ms, state.updated_ms, state.stamped_ms),
        max(0, state.total),
        state.size,
        0 if state.moved else state.version,
    )


def packed(entry: Entry) -> Packed:
    """Return an entry as it stands in a snapshot."""
    out = bytearray()
    for number in entry[1:]:
        put_varint(out, number)
    return entry.place, bytes(out)


def unpacked(one: Packed) -> Entry:
    """Return an entry of a snapshot.

    Raises:
        CodecError: the bytes are none.
    """
    read = Reader(one[1])
    return Entry(one[0], *(read.varint() for _ in range(6)))
