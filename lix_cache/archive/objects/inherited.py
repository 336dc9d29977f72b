"""Deletions that an archive on object storage took over from another one: ``ROOT/inherited``.

The notes of a folder know no more of a session than a digest, so its shard cannot be told. One object holds
those of all sessions that this archive has never had, and a process that meets such a session looks there.
From the first commit on, the session's own state holds what was remembered. docs/object-layout.md
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from lix_cache.archive.objects import layout
from lix_cache.archive.objects.head import Head
from lix_cache.archive.objects.records import EMPTY, State, decoded
from lix_cache.archive.tombstones import Deletion, is_note_name, note_name
from lix_cache.errors import CodecError
from lix_cache.messages.turn import NONCE_BYTES, MessageId
from lix_cache.storage.objects import Bucket
from lix_cache.storage.varints import Reader, put_varint

__all__ = ["Inherited", "inherited_by"]

_HEAD = Head(b"LXI1", "object of inherited deletions", "content")


@dataclass(frozen=True)
class Inherited:
    """What was taken over.

    Attributes:
        notes: by ``tombstones.note_name``.
        noted_ms: when the last of it was, in Unix milliseconds.
    """

    notes: Mapping[str, Deletion] = field(default_factory=dict)
    noted_ms: int = 0

    def state(self, session_id: str) -> State:
        """Return the state of a session that this archive has never had."""
        found = self.notes.get(note_name(session_id)) if self.notes else None
        return EMPTY if found is None else State(deletion=found, noted_ms=self.noted_ms)

    def is_older(self, than_ms: int) -> bool:
        """Whether all that is remembered is of deletions before a time."""
        return all((one.up_to.ms or self.noted_ms) < than_ms for one in self.notes.values())

    def packed(self) -> bytes:
        """Return the bytes of the object."""
        out = bytearray()
        put_varint(out, self.noted_ms)
        put_varint(out, len(self.notes))
        for name, (up_to, nonces) in sorted(self.notes.items()):
            data = name.encode()
            for number in (len(data), *up_to, len(nonces)):
                put_varint(out, number)
            out += data + b"".join(sorted(nonces))
        return _HEAD.before(out)


def inherited_by(bucket: Bucket) -> Inherited:
    """Return what an archive took over; nothing where the object is not there, or no longer.

    Raises:
        ArchiveCorrupt: the object is damaged.
    """
    data = bucket.get(layout.INHERITED)
    if data is None:
        return Inherited()
    read = Reader(_HEAD.part_of(data, layout.INHERITED))
    try:
        noted_ms, count = read.varint(), read.varint()
        if count > read.remaining:
            raise CodecError("more notes than there can be")
        return Inherited(dict(_note(read) for _ in range(count)), noted_ms)
    except CodecError as error:
        raise decoded("object of inherited deletions", layout.INHERITED, error) from None


def _note(read: Reader) -> tuple[str, Deletion]:
    length, ms, seq, count = (read.varint() for _ in range(4))
    name, data = read.text(length), read.take(count * NONCE_BYTES)
    if not is_note_name(name):
        raise CodecError("the name of no note")
    nonces = frozenset(data[i : i + NONCE_BYTES] for i in range(0, len(data), NONCE_BYTES))
    return name, Deletion(MessageId(ms, seq), nonces)
