"""Turns to frames, without touching a file. The specification is docs/archive-format.md"""

from __future__ import annotations

import struct
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING
from zlib import crc32

from lix_cache.archive.codecs import STORED, Packer
from lix_cache.archive.columns import check_ids, encode_turns
from lix_cache.archive.doubts import Doubts
from lix_cache.archive.header import FileHeader, encode_header
from lix_cache.archive.index import (
    COLUMN_SECTION,
    DOUBTS,
    EMPTY,
    FILLING,
    FRAME_END,
    FRAME_HEAD,
    FREE_BYTES,
    KIND_MARK,
    KIND_TURNS,
    LARGEST_TOTAL,
    MAX_DECODED,
    MAX_FRAME,
    RATIO,
    REMOVED,
    SMALLEST_FRAME,
    SYNC,
    TURN_BYTES,
    VECTOR_SECTION,
    WORD_SECTION,
    FrameIndex,
    clamped,
    encode_index,
    index_at_end,
)
from lix_cache.errors import ArchiveCorrupt, CodecError, InvalidMessage
from lix_cache.messages.turn import NONCE_BYTES, ZERO_ID, MessageId, Turn
from lix_cache.storage.varints import put_varint

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "WHOLE_FRAME_BYTES",
    "Change",
    "FrameTooLarge",
    "as_whole",
    "encode_change",
    "encode_emptied",
    "encode_file",
    "encode_frames",
    "encode_mark",
    "index_of",
    "with_history",
]


#: A frame of a file that is written whole comes to at most this, where it has more than one turn.
WHOLE_FRAME_BYTES = 64 << 20


#: Turns in each frame of a file that is written whole.
TURNS_PER_FRAME = 64


@dataclass(frozen=True)
class Change:
    """What a frame does to the turns before it.

    Attributes:
        removed: ids of those that it takes out, sorted.
        dropped: what a window holds up to this id is gone; ZERO_ID leaves that as it was.
    """

    removed: Sequence[MessageId] = ()
    dropped: MessageId = ZERO_ID

    def packed(self) -> bytes:
        """Return the section of the frame."""
        out = bytearray()
        ms = 0
        for message_id in self.removed:
            put_varint(out, message_id.ms - ms)
            put_varint(out, message_id.seq)
            ms = message_id.ms
        return bytes(out)


class FrameTooLarge(InvalidMessage):
    """Turns are more than a frame can hold."""


def _encode_frame(
    turns: Sequence[Turn],
    before: FrameIndex,
    updated_ms: int,
    codec: Packer,
    doubts: Doubts | None,
    whole: bool,
    most: int,
    change: Change | None = None,
) -> bytes:
    """Return one frame, as :func:`encode_frames` and :func:`encode_change` want it.

    Raises:
        FrameTooLarge: it would decode to more than ``most``.
        ArchiveCorrupt: an id is larger than any that can be read back.
    """
    try:
        if turns:
            check_ids([turn.id for turn in turns])
    except CodecError as error:
        raise ArchiveCorrupt(
            f"a message would get {error}: a clock, or a file that lix_cache did not write, gave the session "
            "an id at the end of time. Export the session, delete it, and import it again"
        ) from None
    sections = encode_turns(turns) if turns else (b"", b"", b"")
    vectors = sections[2]
    removed = b"" if change is None else change.packed()
    taken = 0 if change is None else len(change.removed)
    decoded = sum(map(len, sections)) + len(removed) + TURN_BYTES * (len(turns) + taken)
    if decoded > most:
        raise FrameTooLarge(
            f"{len(turns)} messages of {decoded} bytes are more than an archive frame holds ({most})"
        )
    nonces = sum(turn.nonce is not None for turn in turns)
    body = _body((*sections, removed), decoded, nonces, codec, doubts)
    earlier = before.newest
    index = FrameIndex(
        kind=KIND_TURNS if turns else KIND_MARK,
        count=len(turns),
        total=min(before.total + len(turns), LARGEST_TOTAL),
        updated_ms=clamped(updated_ms),
        first=turns[0].id if turns else ZERO_ID,
        last=turns[-1].id if turns else ZERO_ID,
        earlier=earlier,
        in_order=not turns or turns[0].id > earlier,
        has_nonces=nonces > 0,
        has_vectors=bool(vectors),
        contested_at=before.contested_at if doubts is None else doubts.at,
        contested_before=0 if doubts is None else doubts.before,
        doubts=0 if doubts is None else len(doubts.ids),
        cleared=before.cleared,
        whole=whole,
        changes=before.changes + (change is not None),
        removed=before.removed + taken,
        taken=taken,
        dropped=before.dropped if change is None else max(before.dropped, change.dropped),
    )
    return _seal(body, index)


def _body(
    sections: tuple[bytes, bytes, bytes, bytes],
    decoded: int,
    nonces: int,
    codec: Packer,
    doubts: Doubts | None,
) -> bytes:
    """Return the sections of a frame: of turns that come to ``decoded`` bytes, with so many nonces."""
    columns, words, vectors, removed = sections
    body = bytearray()
    # Nonces are random: where they are most of the columns, nothing is smaller than what is there,
    # and an evictor has a thousand of these to write in a second.
    is_random = 2 * NONCE_BYTES * nonces > len(columns)
    _put_section(body, COLUMN_SECTION, columns, *((STORED.id, columns) if is_random else codec.pack(columns)))
    _put_section(body, WORD_SECTION, words, *codec.pack(words))
    _put_section(body, VECTOR_SECTION, vectors, STORED.id, vectors)
    if removed:
        _put_section(body, REMOVED, removed, *codec.pack(removed))
    missing = -(-(decoded - FREE_BYTES) // RATIO) - SMALLEST_FRAME - len(body)
    if missing > 0:
        filling = bytes(missing)
        _put_section(body, FILLING, filling, STORED.id, filling)
    if doubts is not None:
        # Last, where it can be read without the rest.
        packed = doubts.packed()
        _put_section(body, DOUBTS, packed, STORED.id, packed)
    return bytes(body)


def encode_frames(
    turns: Sequence[Turn],
    before: FrameIndex,
    updated_ms: int,
    codec: Packer,
    *,
    doubts: Doubts | None = None,
    whole: bool = False,
    most: int = MAX_DECODED,
) -> bytes:
    """Return the frame that appends ``turns``, or several where one would be too large.

    Args:
        turns: at least one, sorted by id, no id twice.
        before: index entry of the file's last frame, or ``EMPTY``.
        updated_ms: Unix milliseconds of this append.
        codec: used for a section where it makes it smaller.
        doubts: for the first frame to carry.
        whole: they are part of a file that is written whole.
        most: bytes that a frame of more than one turn may decode to.

    Raises:
        FrameTooLarge: a single turn is larger than any frame may be.
        ArchiveCorrupt: an id is larger than any that can be read back.
    """
    limit = most if len(turns) > 1 else MAX_DECODED
    try:
        return _encode_frame(turns, before, updated_ms, codec, doubts, whole, limit)
    except FrameTooLarge:
        if len(turns) == 1:
            raise
    frames = b""
    middle = len(turns) // 2
    for half in (turns[:middle], turns[middle:]):
        frames += encode_frames(half, before, updated_ms, codec, doubts=doubts, whole=whole, most=most)
        before, doubts = index_of(frames), None
    return frames


def encode_change(
    turns: Sequence[Turn],
    before: FrameIndex,
    updated_ms: int,
    codec: Packer,
    change: Change,
    *,
    doubts: Doubts | None = None,
    whole: bool = False,
) -> bytes:
    """Return the one frame that takes turns out, and appends others that come in their place.

    Args:
        turns: sorted by id, no id twice; may be none.
        before: index entry of the file's last frame, or ``EMPTY``.
        updated_ms: Unix milliseconds of this append.
        codec: used for a section where it makes it smaller.
        change: what is taken out.
        doubts: for the frame to carry.
        whole: it is part of a file that is written whole.

    Raises:
        FrameTooLarge: it does not fit into one frame.
        ArchiveCorrupt: an id is larger than any that can be read back.
    """
    return _encode_frame(turns, before, updated_ms, codec, doubts, whole, MAX_DECODED, change)


def encode_emptied(
    of: FrameIndex, updated_ms: int, codec: Packer, doubts: Mapping[bytes, MessageId], offset: int
) -> bytes:
    """Return the only frame of a file that is written whole and has no turn left: what is remembered of it.

    Args:
        of: index entry of the last frame that it had.
        updated_ms: Unix milliseconds of the last append.
        codec: used for a section where it makes it smaller.
        doubts: nonces and ids, as they stand in the chain.
        offset: where the frame begins.
    """
    before = replace(with_history(EMPTY, of), changes=of.changes - 1, earlier=of.newest)
    alone = Doubts.alone(doubts, offset) if doubts else None
    return encode_change((), before, updated_ms, codec, Change(), doubts=alone, whole=True)


def encode_file(
    header: FileHeader,
    turns: Sequence[Turn],
    updated_ms: int,
    codec: Packer,
    *,
    contested: Mapping[bytes, MessageId] | None = None,
    changes: int = 0,
) -> bytes:
    """Return a whole file. Many turns go into many frames, so that the last ones can be read alone.

    Args:
        header: whose file it is.
        turns: sorted by id, no id twice; may be none.
        updated_ms: Unix milliseconds of this append.
        codec: used for a section where it makes it smaller.
        contested: nonces and ids of those turns that Redis may hold as well, under other ids.
        changes: how often the session was changed besides by adding at its end.
    """
    parts = [encode_header(header)]
    before = replace(EMPTY, changes=changes)
    doubts = Doubts.alone(contested, len(parts[0])) if contested else None
    for start in range(0, len(turns), TURNS_PER_FRAME):
        part = turns[start : start + TURNS_PER_FRAME]
        parts.append(
            encode_frames(part, before, updated_ms, codec, doubts=doubts, whole=True, most=WHOLE_FRAME_BYTES)
        )
        before, doubts = index_of(parts[-1]), None
    return b"".join(parts)


def encode_mark(before: FrameIndex, updated_ms: int, cleared: MessageId) -> bytes:
    """Return a frame without turns that takes everything up to ``cleared`` out of the context."""
    index = replace(
        before,
        kind=KIND_MARK,
        count=0,
        updated_ms=clamped(updated_ms),
        earlier=before.newest,
        in_order=True,
        has_nonces=False,
        has_vectors=False,
        contested_before=0,
        doubts=0,
        cleared=cleared,
        whole=False,
        taken=0,
    )
    return _seal(b"", index)


def as_whole(frame: bytes) -> bytes:
    """Return an intact frame as part of a file that is written whole: only its index entry changes."""
    size = frame[-FRAME_END.size]
    body = frame[FRAME_HEAD.size : len(frame) - FRAME_END.size - size]
    return _seal(body, replace(index_of(frame), whole=True))


def index_of(frame: bytes) -> FrameIndex:
    """Return the index entry of a frame that is known to be intact, or of the last of several."""
    found = index_at_end(frame, len(frame))
    if found is None:
        raise AssertionError("a frame that is known to be intact has an index entry")
    return found.index


def with_history(index: FrameIndex, of: FrameIndex) -> FrameIndex:
    """Return the entry of a file that was cleared and changed as another was, and has what is left of it."""
    return replace(index, cleared=of.cleared, changes=of.changes, dropped=of.dropped)


def _put_section(body: bytearray, kind: int, raw: bytes, codec_id: int, stored: bytes) -> None:
    if not raw:
        return
    body += bytes((kind, codec_id))
    put_varint(body, len(raw))
    put_varint(body, len(stored))
    body += stored


def _seal(body: bytes, index: FrameIndex) -> bytes:
    entry = encode_index(index)
    length = SMALLEST_FRAME + len(body) + len(entry)
    if length > MAX_FRAME:
        raise ArchiveCorrupt(f"a frame of {length} bytes is more than the format allows ({MAX_FRAME})")
    front = FRAME_HEAD.pack(SYNC, length) + body
    middle = entry + struct.pack("<BI", len(entry), crc32(front))
    return front + middle + struct.pack("<II", crc32(middle), length)
