"""Frames to bytes and back, without touching a file. The specification is docs/archive-format.md."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from zlib import crc32

from lix_cache.archive.checksums import Checksums
from lix_cache.archive.codecs import STORED, Packer, codec_by_id
from lix_cache.archive.columns import check_ids, decode_turns, encode_turns
from lix_cache.archive.columns1 import decode_turns_1
from lix_cache.archive.doubts import Doubts, Link, doubts_size, unpacked
from lix_cache.archive.varints import Reader, put_varint
from lix_cache.errors import ArchiveCorrupt, ArchiveTooLarge, CodecError, InvalidMessage
from lix_cache.messages import LARGEST_MS, NONCE_BYTES, ZERO_ID, MessageId, Turn

__all__ = [
    "EMPTY",
    "MAX_DECODED",
    "WHOLE_FRAME_BYTES",
    "FileHeader",
    "Frame",
    "FrameIndex",
    "FrameTooLarge",
    "Scan",
    "UnknownFormat",
    "as_whole",
    "decode_frame",
    "doubts_in",
    "encode_file",
    "encode_frames",
    "encode_header",
    "encode_mark",
    "index_at_end",
    "index_of",
    "length_of",
    "parse_header",
    "scan",
    "with_cleared",
]

MAGIC = b"CAv2"
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
#: A frame of a file that is written whole comes to at most this, where it has more than one turn.
WHOLE_FRAME_BYTES = 64 << 20
MAX_INDEX = 255
MAX_HEADER = 1 << 20
#: Turns in each frame of a file that is written whole.
TURNS_PER_FRAME = 64
_HEADER = struct.Struct("<4sBBHId")
_U32 = struct.Struct("<I")
_FRAME_HEAD = struct.Struct("<4sI")
_FRAME_END = struct.Struct("<BIII")
SMALLEST_FRAME = _FRAME_HEAD.size + _FRAME_END.size
#: How many bytes at the end of a file are sure to hold the last index entry.
TAIL_BYTES = MAX_INDEX + _FRAME_END.size

KIND_TURNS = 0
KIND_MARK = 1
_IN_ORDER = 1
_NONCES = 2
_VECTORS = 4
_CLEARED = 8
_CONTESTED = 16
_BRIEF = 64
_WHOLE = 128
_KNOWN_FLAGS = _IN_ORDER | _NONCES | _VECTORS | _CLEARED | _CONTESTED | _BRIEF | _WHOLE
#: Sections of the two forms of a frame.
_FIRST_FORM = frozenset({1, 2, 3, 4})
_SECOND_FORM = frozenset({4, 5, 6})
#: Skipped by every reader: what fills up a frame that would decode to more than it may.
_FILLING = 128
#: Skipped by every reader of turns.
_DOUBTS = 129
#: Far beyond any file, and far below what a varint holds.
_LARGEST_TOTAL = (1 << 63) - 1


class FrameTooLarge(InvalidMessage):
    """Turns are more than a frame can hold."""


class UnknownFormat(ArchiveCorrupt):
    """An intact file that a later version wrote: neither to be read nor to be repaired."""


@dataclass(frozen=True)
class FileHeader:
    """What the first bytes of a file say.

    Attributes:
        created_at: Unix seconds.
        session_id: whose file it is.
        length: bytes of the header, so where the first frame starts.
    """

    created_at: float
    session_id: str
    length: int = 0


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

    @property
    def newest(self) -> MessageId:
        """The largest id in the file up to and with this frame."""
        return max(self.last, self.earlier) if self.count else self.earlier

    @property
    def updated_at(self) -> float:
        """Unix seconds."""
        return self.updated_ms / 1000


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


@dataclass(frozen=True)
class Scan:
    """What a pass over a whole file found.

    Attributes:
        header: None if it is damaged.
        frames: every intact frame, in file order.
        damage: (start, end) of every range that is not part of an intact frame.
        end: where the last intact frame ends; appending is safe only if that is the file's end.
    """

    header: FileHeader | None
    frames: tuple[Frame, ...]
    damage: tuple[tuple[int, int], ...]
    end: int

    @property
    def is_clean(self) -> bool:
        return self.header is not None and not self.damage


# -- file header ---------------------------------------------------------------------


def encode_header(header: FileHeader) -> bytes:
    """Return the header's bytes; ``header.length`` is worked out here."""
    name = header.session_id.encode()
    tail = bytearray()
    put_varint(tail, len(name))
    tail += name
    put_varint(tail, 0)
    length = _HEADER.size + len(tail) + 4
    head = _HEADER.pack(MAGIC, 0, 0, 0, length, header.created_at) + tail
    return head + _U32.pack(crc32(head))


def header_length(data: bytes) -> int:
    """Return the declared length of the header that ``data`` begins with, at least 24 bytes of it.

    Raises:
        ArchiveCorrupt: not a version 2 file.
    """
    if len(data) < _HEADER.size + 4 or data[:4] != MAGIC:
        raise ArchiveCorrupt(f"not a version 2 archive: it starts with {data[:4]!r}")
    length: int = _U32.unpack_from(data, 8)[0]
    return length


def parse_header(data: bytes) -> FileHeader:
    """Parse a file's header from the bytes it begins with.

    Raises:
        UnknownFormat: of a kind this version must not touch.
        ArchiveCorrupt: damaged or cut.
    """
    length = header_length(data)
    if not _HEADER.size + 6 <= length <= len(data):
        raise ArchiveCorrupt(f"the file header says it has {length} bytes; the file has {len(data)}")
    if crc32(data[: length - 4]) != _U32.unpack_from(data, length - 4)[0]:
        raise ArchiveCorrupt("the file header's CRC does not match")
    _, _, flags, _, _, created = _HEADER.unpack_from(data)
    if flags:
        raise UnknownFormat(f"the file header has flags {flags:#x} that this version does not know")
    reader = Reader(data[: length - 4], _HEADER.size)
    session_id = reader.text(reader.varint())
    # NaN, too: a time that no clock gives is none, and would be in the way of every reader.
    return FileHeader(created if 0 <= created <= LARGEST_MS / 1000 else 0.0, session_id, length)


# -- frames --------------------------------------------------------------------------


def _encode_frame(
    turns: Sequence[Turn],
    before: FrameIndex,
    updated_ms: int,
    codec: Packer,
    doubts: Doubts | None,
    whole: bool,
    most: int,
) -> bytes:
    """Return one frame, as :func:`encode_frames` wants it.

    Raises:
        FrameTooLarge: it would decode to more than ``most``.
        ArchiveCorrupt: an id is larger than any that can be read back.
    """
    try:
        check_ids([turn.id for turn in turns])
    except CodecError as error:
        raise ArchiveCorrupt(
            f"a message would get {error}: a clock, or a file that lix_cache did not write, gave the session "
            "an id at the end of time. Export the session, delete it, and import it again"
        ) from None
    columns, words, vectors = encode_turns(turns)
    decoded = len(columns) + len(words) + len(vectors) + TURN_BYTES * len(turns)
    if decoded > most:
        raise FrameTooLarge(
            f"{len(turns)} messages of {decoded} bytes are more than an archive frame holds ({most})"
        )
    nonces = sum(turn.nonce is not None for turn in turns)
    body = bytearray()
    # Nonces are random: where they are most of the columns, nothing is smaller than what is there,
    # and an eviction daemon has a thousand of these to write in a second.
    is_random = 2 * NONCE_BYTES * nonces > len(columns)
    _put_section(body, 5, columns, *((STORED.id, columns) if is_random else codec.pack(columns)))
    _put_section(body, 6, words, *codec.pack(words))
    _put_section(body, 4, vectors, STORED.id, vectors)
    missing = -(-(decoded - FREE_BYTES) // RATIO) - SMALLEST_FRAME - len(body)
    if missing > 0:
        filling = bytes(missing)
        _put_section(body, _FILLING, filling, STORED.id, filling)
    if doubts is not None:
        # Last, where it can be read without the rest.
        packed = doubts.packed()
        _put_section(body, _DOUBTS, packed, STORED.id, packed)
    earlier = before.newest
    index = FrameIndex(
        kind=KIND_TURNS,
        count=len(turns),
        total=min(before.total + len(turns), _LARGEST_TOTAL),
        updated_ms=_clamped(updated_ms),
        first=turns[0].id,
        last=turns[-1].id,
        earlier=earlier,
        in_order=turns[0].id > earlier,
        has_nonces=nonces > 0,
        has_vectors=bool(vectors),
        contested_at=before.contested_at if doubts is None else doubts.at,
        contested_before=0 if doubts is None else doubts.before,
        doubts=0 if doubts is None else len(doubts.ids),
        cleared=before.cleared,
        whole=whole,
    )
    return _seal(bytes(body), index)


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


def encode_file(
    header: FileHeader,
    turns: Sequence[Turn],
    updated_ms: int,
    codec: Packer,
    *,
    contested: Mapping[bytes, MessageId] | None = None,
) -> bytes:
    """Return a whole file. Many turns go into many frames, so that the last ones can be read alone.

    Args:
        header: whose file it is.
        turns: sorted by id, no id twice; may be none.
        updated_ms: Unix milliseconds of this append.
        codec: used for a section where it makes it smaller.
        contested: nonces and ids of those turns that Redis may hold as well, under other ids.
    """
    parts = [encode_header(header)]
    before = EMPTY
    doubts = Doubts.alone(contested, len(parts[0])) if contested else None
    for start in range(0, len(turns), TURNS_PER_FRAME):
        part = turns[start : start + TURNS_PER_FRAME]
        parts.append(
            encode_frames(part, before, updated_ms, codec, doubts=doubts, whole=True, most=WHOLE_FRAME_BYTES)
        )
        before, doubts = index_of(parts[-1]), None
    return b"".join(parts)


def _clamped(ms: int) -> int:
    """Return the nearest time that can be read back: a clock may say anything."""
    return min(max(ms, 0), LARGEST_MS)


def encode_mark(before: FrameIndex, updated_ms: int, cleared: MessageId) -> bytes:
    """Return a frame without turns that takes everything up to ``cleared`` out of the context."""
    index = replace(
        before,
        kind=KIND_MARK,
        count=0,
        updated_ms=_clamped(updated_ms),
        earlier=before.newest,
        in_order=True,
        has_nonces=False,
        has_vectors=False,
        contested_before=0,
        doubts=0,
        cleared=cleared,
        whole=False,
    )
    return _seal(b"", index)


def as_whole(frame: bytes) -> bytes:
    """Return an intact frame as part of a file that is written whole: only its index entry changes."""
    size = frame[-_FRAME_END.size]
    body = frame[_FRAME_HEAD.size : len(frame) - _FRAME_END.size - size]
    return _seal(body, replace(index_of(frame), whole=True))


def index_of(frame: bytes) -> FrameIndex:
    """Return the index entry of a frame that is known to be intact, or of the last of several."""
    found = index_at_end(frame, len(frame))
    if found is None:
        raise AssertionError("a frame that is known to be intact has an index entry")
    return found.index


def with_cleared(index: FrameIndex, cleared: MessageId) -> FrameIndex:
    """Return the entry of a file whose turns up to ``cleared`` are no longer part of the context."""
    return replace(index, cleared=cleared)


def _put_section(body: bytearray, kind: int, raw: bytes, codec_id: int, stored: bytes) -> None:
    if not raw:
        return
    body += bytes((kind, codec_id))
    put_varint(body, len(raw))
    put_varint(body, len(stored))
    body += stored


def _seal(body: bytes, index: FrameIndex) -> bytes:
    entry = _encode_index(index)
    length = SMALLEST_FRAME + len(body) + len(entry)
    if length > MAX_FRAME:
        raise ArchiveCorrupt(f"a frame of {length} bytes is more than the format allows ({MAX_FRAME})")
    front = _FRAME_HEAD.pack(SYNC, length) + body
    middle = entry + struct.pack("<BI", len(entry), crc32(front))
    return front + middle + struct.pack("<II", crc32(middle), length)


def _encode_index(index: FrameIndex) -> bytes:
    out = bytearray()
    brief = _BRIEF if index.count else 0
    flags = (
        (_IN_ORDER if index.in_order else 0)
        | (_NONCES if index.has_nonces else 0)
        | (_VECTORS if index.has_vectors else 0)
        | (_CLEARED if index.cleared != ZERO_ID else 0)
        | (_CONTESTED if index.contested_at else 0)
        | brief
        | (_WHOLE if index.whole else 0)
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
    return bytes(out)


def _zigzag(value: int) -> int:
    return value << 1 if value >= 0 else (-value << 1) - 1


def _decode_index(entry: bytes) -> FrameIndex:
    reader = Reader(entry)
    kind, flags, count, total, updated_ms = (reader.varint() for _ in range(5))
    if kind not in (KIND_TURNS, KIND_MARK) or flags & ~_KNOWN_FLAGS or (flags & _BRIEF and not count):
        raise CodecError(f"frame kind {kind} with flags {flags:#x} is not known to this version")
    first = last = earlier = cleared = ZERO_ID
    if count:
        first = MessageId(reader.varint(), reader.varint())
        step, seq = reader.varint(), reader.varint()
        if flags & _BRIEF:
            updated_ms = first.ms + (-(updated_ms + 1 >> 1) if updated_ms & 1 else updated_ms >> 1)
            if not step:
                seq += first.seq
        last = MessageId(first.ms + step, seq)
        if updated_ms < 0 or max(last) >= 1 << 64:
            raise CodecError("an id of more than 64 bits, or a time before 1970")
    in_order = bool(flags & _IN_ORDER)
    if not (in_order and count):
        earlier = MessageId(reader.varint(), reader.varint())
    if flags & _CLEARED:
        cleared = MessageId(reader.varint(), reader.varint())
    contested_at = contested_before = doubts = 0
    if flags & _CONTESTED:
        contested_at, contested_before, doubts = (reader.varint() for _ in range(3))
    if max(updated_ms, first.ms, last.ms, earlier.ms, cleared.ms) > LARGEST_MS:
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
        has_nonces=bool(flags & _NONCES),
        has_vectors=bool(flags & _VECTORS),
        contested_at=contested_at,
        contested_before=contested_before,
        doubts=doubts,
        cleared=cleared,
        whole=bool(flags & _WHOLE),
    )


def index_at_end(tail: bytes, end: int) -> Frame | None:
    """Return the frame that ends where ``tail`` ends, from its index entry alone.

    Args:
        tail: the last bytes of a file, or of the part of it before a known frame.
        end: the offset in the file at which ``tail`` ends.

    Returns:
        None if no intact index entry is there. The body is not looked at.
    """
    if len(tail) < _FRAME_END.size:
        return None
    size, _, index_crc, length = _FRAME_END.unpack_from(tail, len(tail) - _FRAME_END.size)
    start = len(tail) - _FRAME_END.size - size
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
    if len(head) < _FRAME_HEAD.size:
        return 0
    sync, length = _FRAME_HEAD.unpack_from(head)
    return int(length) if sync == SYNC and SMALLEST_FRAME <= length <= MAX_FRAME else 0


def doubts_in(tail: bytes, index: FrameIndex) -> Link | None:
    """Return the doubts that a frame carries.

    Args:
        tail: its last bytes, or all of it.
        index: its index entry.

    Returns:
        None if they are not intact, or not all in ``tail``.
    """
    end = len(tail) - _FRAME_END.size - tail[-_FRAME_END.size]
    start = end - doubts_size(index.doubts)
    return unpacked(tail[start:end], index.contested_before) if start >= 0 else None


def frame_at(data: bytes, offset: int, checksums: Checksums | None = None) -> Frame | None:
    """Return the frame that starts at ``offset`` if all of it is intact.

    Args:
        data: the bytes of a file.
        offset: in it.
        checksums: of the same bytes; else the frame's bytes are all looked at for it.
    """
    if len(data) - offset < SMALLEST_FRAME:
        return None
    sync, length = _FRAME_HEAD.unpack_from(data, offset)
    if sync != SYNC or not SMALLEST_FRAME <= length <= len(data) - offset:
        return None
    end = offset + length
    frame = index_at_end(data[max(offset, end - TAIL_BYTES) : end], end)
    if frame is None or frame.length != length:
        return None
    size, body_crc = struct.unpack_from("<BI", data, end - _FRAME_END.size)
    stop = end - _FRAME_END.size - size
    found = crc32(data[offset:stop]) if checksums is None else checksums.of(offset, stop)
    return frame if found == body_crc else None


def decode_frame(data: bytes, frame: Frame, most: int = MAX_DECODED) -> list[Turn]:
    """Return the turns of a frame.

    Args:
        data: the bytes of the frame, from sync mark to end.
        frame: where it was found; its index entry.
        most: bytes that it may decode to.

    Raises:
        ArchiveCorrupt: damaged, or not what its index entry says.
        ArchiveTooLarge: it decodes to more than that.
    """
    checked = frame_at(data, 0)
    if checked is None or checked.length != len(data):
        raise ArchiveCorrupt(f"the frame at byte {frame.offset} is damaged")
    size = data[-_FRAME_END.size]
    body = data[_FRAME_HEAD.size : len(data) - _FRAME_END.size - size]
    try:
        sections = _sections(body, frame.offset, *_room(len(data), checked.index.count, most))
        decode = decode_turns if 5 in sections else decode_turns_1
        turns = decode(sections, checked.index.first, checked.index.count)
        if turns and turns[-1].id != checked.index.last:
            raise CodecError(f"its last id is {turns[-1].id}, not {checked.index.last}")
        return turns
    except CodecError as error:
        raise ArchiveCorrupt(f"the frame at byte {frame.offset} cannot be decoded: {error}") from error


def _room(length: int, count: int, most: int) -> tuple[int, int]:
    """Return the bytes that the sections of a frame may decode to: by the format, and by our setting."""
    turns = TURN_BYTES * count
    return min(FREE_BYTES + RATIO * length, MAX_DECODED) - turns, most - turns


def _sections(body: bytes, offset: int, room: int, most: int) -> dict[int, bytes]:
    """Decode the sections of a frame at ``offset``, which may come to ``room`` bytes by the format."""
    if room < 0:
        raise CodecError("it says that it holds more turns than one of its length may")
    reader = Reader(body)
    declared = 0
    sections: dict[int, bytes] = {}
    while not reader.at_end:
        kind, codec_id = reader.take(2)
        raw_length, stored_length = reader.varint(), reader.varint()
        stored = reader.take(stored_length)
        if kind >= 128:
            continue
        if kind > 6 or kind == 0 or kind in sections:
            raise CodecError(f"section {kind} is not known to this version, or is there twice")
        codec = codec_by_id(codec_id)
        declared += raw_length
        # All of this before anything is allocated.
        if raw_length > codec.largest(stored_length) or declared > room:
            raise CodecError(f"section {kind} says it holds {raw_length} bytes in {stored_length}")
        if declared > most:
            raise ArchiveTooLarge(
                f"the frame at byte {offset} comes to more than archive_max_frame_mb allows; "
                "raise that setting (ConversationArchive: max_frame_mb) if the file is to be trusted"
            )
        sections[kind] = codec.decode(stored, raw_length)
    if not (sections.keys() <= _FIRST_FORM or sections.keys() <= _SECOND_FORM):
        raise CodecError(f"sections {sorted(sections)} do not go together")
    return sections


# -- whole files ---------------------------------------------------------------------


def scan(data: bytes) -> Scan:
    """Find everything intact in a version 2 file, however damaged it is.

    Raises:
        UnknownFormat: this version must not touch the file.
    """
    try:
        header: FileHeader | None = parse_header(data)
    except UnknownFormat:
        raise
    except (ArchiveCorrupt, CodecError):
        header = None
    position = header.length if header else 0
    damage: list[tuple[int, int]] = []
    frames: list[Frame] = []
    # From the first damage on: where many frames seem to begin, one in another, each has its bytes
    # looked at once for all of them.
    checksums: Checksums | None = None
    while position < len(data):
        frame = frame_at(data, position, checksums)
        if frame is None:
            checksums = checksums or Checksums(data)
            frame = _next_frame(data, position + 1, checksums)
            damage.append((position, frame.offset if frame else len(data)))
            if frame is None:
                break
        frames.append(frame)
        position = frame.end
    end = frames[-1].end if frames else (header.length if header else 0)
    return Scan(header, tuple(frames), tuple(damage), end)


def _next_frame(data: bytes, start: int, checksums: Checksums) -> Frame | None:
    """Return the next intact frame that starts at ``start`` or later."""
    while (start := data.find(SYNC, start)) >= 0:
        frame = frame_at(data, start, checksums)
        if frame is not None:
            return frame
        start += 1
    return None
