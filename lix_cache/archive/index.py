"""The end of a frame: where it begins, its ids and totals, what is in doubt. docs/archive-format.md"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from lix_cache.errors import CodecError
from lix_cache.messages.turn import LARGEST_MS, ZERO_ID, MessageId
from lix_cache.storage.varints import Reader, put_varint

__all__ = [
    "BRIEF",
    "CHANGED",
    "CLEARED",
    "COLUMN_SECTION",
    "CONTESTED",
    "DOUBTS",
    "EMPTY",
    "FILLING",
    "FRAME_END",
    "FRAME_HEAD",
    "FREE_BYTES",
    "IN_ORDER",
    "KIND_MARK",
    "KIND_TURNS",
    "KNOWN_FLAGS",
    "LARGEST_TOTAL",
    "MAX_DECODED",
    "MAX_FRAME",
    "NONCES",
    "RATIO",
    "REMOVED",
    "SMALLEST_FRAME",
    "SYNC",
    "TAIL_BYTES",
    "TURN_BYTES",
    "VECTORS",
    "VECTOR_SECTION",
    "WHOLE",
    "WORD_SECTION",
    "Frame",
    "FrameIndex",
    "clamped",
    "encode_index",
    "index_at_end",
    "length_of",
]

SYNC = b"\xf5LXf"
MAX_FRAME = 1 << 30

#: What a frame may come to when it is decoded: so many bytes, and so many times its own length.
#: A turn counts as some bytes, because very few can stand for one. So what a file can take is a
#: small multiple of its size, whatever is in it. A writer fills a frame up that would be more.
FREE_BYTES = 16 * 1024
RATIO = 100
TURN_BYTES = 256
#: And at most this, however long it is.
MAX_DECODED = 1 << 30

MAX_INDEX = 255

FRAME_HEAD = struct.Struct("<4sI")
FRAME_END = struct.Struct("<BIII")
SMALLEST_FRAME = FRAME_HEAD.size + FRAME_END.size
#: How many bytes at the end of a file are sure to hold the last index entry.
TAIL_BYTES = MAX_INDEX + FRAME_END.size

KIND_TURNS = 0
KIND_MARK = 1

IN_ORDER = 1
NONCES = 2
VECTORS = 4
CLEARED = 8
CONTESTED = 16
BRIEF = 64
WHOLE = 128
CHANGED = 256
KNOWN_FLAGS = IN_ORDER | NONCES | VECTORS | CLEARED | CONTESTED | BRIEF | WHOLE | CHANGED

#: Sections of a frame's body; the last one is of ids of turns before it that the frame takes out.
VECTOR_SECTION, COLUMN_SECTION, WORD_SECTION, REMOVED = 4, 5, 6, 7
#: Skipped by every reader: what fills up a frame that would decode to more than it may.
FILLING = 128
#: Skipped by every reader of turns.
DOUBTS = 129

#: Far beyond any file, and far below what a varint holds.
LARGEST_TOTAL = (1 << 63) - 1


@dataclass(frozen=True)
class FrameIndex:
    """What can be known of a frame, and of the file up to it, without its body.

    Attributes:
        kind: turns or mark.
        count: turns in the frame.
        total: turns in the file up to and with it.
        updated_ms: Unix milliseconds of the append.
        first: smallest id in the frame.
        last: largest id in the frame.
        earlier: largest id before the frame.
        in_order: every id in the frame is larger than ``earlier``.
        has_nonces: the frame holds nonces.
        has_vectors: the frame holds vectors.
        contested_at: where the last frame begins, up to and with this one, that carries doubts
            (doubts.py); 0 if none does.
        contested_before: if this frame does, where the frame begins whose doubts come on top of
            its own; 0 if there is none.
        doubts: how many doubts this frame carries.
        cleared: turns up to this id are no longer part of the context.
        whole: the frame came with a whole file, whose name may not be durable yet.
        changes: how often turns were taken out, or replaced, or came where the last id does not tell of them,
            up to and with this frame.
        removed: how many of ``total`` were taken out.
        taken: how many of them this frame takes out.
        dropped: what a window holds up to this id is gone.
    """

    kind: int = KIND_TURNS
    count: int = 0
    total: int = 0
    updated_ms: int = 0
    first: MessageId = ZERO_ID
    last: MessageId = ZERO_ID
    earlier: MessageId = ZERO_ID
    in_order: bool = True
    has_nonces: bool = False
    has_vectors: bool = False
    contested_at: int = 0
    contested_before: int = 0
    doubts: int = 0
    cleared: MessageId = ZERO_ID
    whole: bool = False
    changes: int = 0
    removed: int = 0
    taken: int = 0
    dropped: MessageId = ZERO_ID

    @property
    def visible(self) -> int:
        """How many turns the file has for a reader, up to and with this frame."""
        return max(0, self.total - self.removed)

    @property
    def newest(self) -> MessageId:
        """The largest id in the file up to and with this frame."""
        return max(self.last, self.earlier) if self.count else self.earlier

    @property
    def updated_at(self) -> float:
        """Unix seconds."""
        return self.updated_ms / 1000

    @property
    def last_use(self) -> float:
        """Unix seconds of the last message, or of the change that the frame makes.

        Not of the append: messages are used when they are added, and appended when they are moved here.
        """
        is_change = self.kind == KIND_MARK or self.taken > 0
        return max(self.newest.timestamp, self.updated_at if is_change else 0.0) or self.updated_at


#: The index of a file without frames.
EMPTY = FrameIndex()


@dataclass(frozen=True)
class Frame:
    """A frame found in a file.

    Attributes:
        offset: where it starts.
        length: bytes, from sync mark to end.
        index: its index entry.
    """

    offset: int
    length: int
    index: FrameIndex

    @property
    def end(self) -> int:
        return self.offset + self.length


def clamped(ms: int) -> int:
    """Return the nearest time that can be read back: a clock may say anything."""
    return min(max(ms, 0), LARGEST_MS)


def encode_index(index: FrameIndex) -> bytes:
    out = bytearray()
    brief = BRIEF if index.count else 0
    flags = (
        (IN_ORDER if index.in_order else 0)
        | (NONCES if index.has_nonces else 0)
        | (VECTORS if index.has_vectors else 0)
        | (CLEARED if index.cleared != ZERO_ID else 0)
        | (CONTESTED if index.contested_at else 0)
        | brief
        | (WHOLE if index.whole else 0)
        | (CHANGED if index.changes else 0)
    )
    first, last = index.first, index.last
    updated = _zigzag(index.updated_ms - first.ms) if brief else index.updated_ms
    for value in (index.kind, flags, index.count, index.total, updated):
        put_varint(out, value)
    if index.count:
        seq = last.seq - first.seq if brief and last.ms == first.ms else last.seq
        for value in (*first, last.ms - first.ms, seq):
            put_varint(out, value)
    if not (index.in_order and index.count):
        for value in index.earlier:
            put_varint(out, value)
    if index.cleared != ZERO_ID:
        for value in index.cleared:
            put_varint(out, value)
    if index.contested_at:
        put_varint(out, index.contested_at)
        put_varint(out, index.contested_before)
        put_varint(out, index.doubts)
    if index.changes:
        for value in (index.changes, index.removed, index.taken, *index.dropped):
            put_varint(out, value)
    return bytes(out)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _decode_index(entry: bytes) -> FrameIndex:
    reader = Reader(entry)
    kind, flags, count, total, updated_ms = (reader.varint() for _ in range(5))
    if kind not in (KIND_TURNS, KIND_MARK) or flags & ~KNOWN_FLAGS or (flags & BRIEF and not count):
        raise CodecError(f"frame kind {kind} with flags {flags:#x} is not known to this version")
    first = last = earlier = cleared = ZERO_ID
    if count:
        first = MessageId(reader.varint(), reader.varint())
        step, seq = reader.varint(), reader.varint()
        if flags & BRIEF:
            updated_ms = first.ms + (-(updated_ms + 1 >> 1) if updated_ms & 1 else updated_ms >> 1)
            if not step:
                seq += first.seq
        last = MessageId(first.ms + step, seq)
        if updated_ms < 0 or max(last) >= 1 << 64:
            raise CodecError("an id of more than 64 bits, or a time before 1970")
    in_order = bool(flags & IN_ORDER)
    if not (in_order and count):
        earlier = MessageId(reader.varint(), reader.varint())
    if flags & CLEARED:
        cleared = MessageId(reader.varint(), reader.varint())
    contested_at = contested_before = doubts = 0
    if flags & CONTESTED:
        contested_at, contested_before, doubts = (reader.varint() for _ in range(3))
    changes = removed = taken = 0
    dropped = ZERO_ID
    if flags & CHANGED:
        changes, removed, taken = (reader.varint() for _ in range(3))
        dropped = MessageId(reader.varint(), reader.varint())
        if not changes or taken > removed:
            raise CodecError("a frame cannot take out more turns than were taken out")
    if max(updated_ms, first.ms, last.ms, earlier.ms, cleared.ms, dropped.ms) > LARGEST_MS:
        raise CodecError("an id or a time that no clock gives")
    return FrameIndex(
        kind=kind,
        count=count,
        total=total,
        updated_ms=updated_ms,
        first=first,
        last=last,
        earlier=earlier,
        in_order=in_order,
        has_nonces=bool(flags & NONCES),
        has_vectors=bool(flags & VECTORS),
        contested_at=contested_at,
        contested_before=contested_before,
        doubts=doubts,
        cleared=cleared,
        whole=bool(flags & WHOLE),
        changes=changes,
        removed=removed,
        taken=taken,
        dropped=dropped,
    )


def index_at_end(tail: bytes, end: int) -> Frame | None:
    """Return the frame that ends where ``tail`` ends, from its index entry alone.

    Args:
        tail: the last bytes of a file, or of the part of it before a known frame.
        end: the offset in the file at which ``tail`` ends.

    Returns:
        None if no intact index entry is there. The body is not looked at.
    """
    if len(tail) < FRAME_END.size:
        return None
    size, _, index_crc, length = FRAME_END.unpack_from(tail, len(tail) - FRAME_END.size)
    start = len(tail) - FRAME_END.size - size
    if start < 0 or not SMALLEST_FRAME + size <= length <= min(end, MAX_FRAME):
        return None
    if crc32(tail[start : len(tail) - 8]) != index_crc:
        return None
    try:
        index = _decode_index(tail[start : start + size])
    except CodecError:
        return None
    return Frame(end - length, length, index)


def length_of(head: bytes) -> int:
    """Return the length that a frame's first 8 bytes declare; 0 if they do not begin one."""
    if len(head) < FRAME_HEAD.size:
        return 0
    sync, length = FRAME_HEAD.unpack_from(head)
    return int(length) if sync == SYNC and SMALLEST_FRAME <= length <= MAX_FRAME else 0
