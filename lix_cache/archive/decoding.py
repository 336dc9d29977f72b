"""Frames to turns, and whole frames in damaged bytes, without touching a file. docs/archive-format.md"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from lix_cache.archive.checksums import Checksums
from lix_cache.archive.codecs import codec_by_id
from lix_cache.archive.columns import decode_turns
from lix_cache.archive.doubts import Link, doubts_size, unpacked
from lix_cache.archive.header import FileHeader, UnknownFormat, parse_header
from lix_cache.archive.index import (
    COLUMN_SECTION,
    FRAME_END,
    FRAME_HEAD,
    FREE_BYTES,
    MAX_DECODED,
    RATIO,
    REMOVED,
    SMALLEST_FRAME,
    SYNC,
    TAIL_BYTES,
    TURN_BYTES,
    VECTOR_SECTION,
    WORD_SECTION,
    Frame,
    FrameIndex,
    index_at_end,
)
from lix_cache.errors import ArchiveCorrupt, ArchiveTooLarge, CodecError
from lix_cache.messages.turn import MessageId
from lix_cache.storage.varints import Reader

if TYPE_CHECKING:
    from lix_cache.messages.turn import Turn

__all__ = ["Decoded", "Scan", "decode", "decode_frame", "doubts_in", "scan"]


class Decoded(NamedTuple):
    """What a frame says.

    Attributes:
        turns: that it holds.
        removed: ids of turns in the frames before it that it takes out.
    """

    turns: list[Turn]
    removed: list[MessageId]


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


def doubts_in(tail: bytes, index: FrameIndex) -> Link | None:
    """Return the doubts that a frame carries.

    Args:
        tail: its last bytes, or all of it.
        index: its index entry.

    Returns:
        None if they are not intact, or not all in ``tail``.
    """
    end = len(tail) - FRAME_END.size - tail[-FRAME_END.size]
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
    sync, length = FRAME_HEAD.unpack_from(data, offset)
    if sync != SYNC or not SMALLEST_FRAME <= length <= len(data) - offset:
        return None
    end = offset + length
    frame = index_at_end(data[max(offset, end - TAIL_BYTES) : end], end)
    if frame is None or frame.length != length:
        return None
    size, body_crc = struct.unpack_from("<BI", data, end - FRAME_END.size)
    stop = end - FRAME_END.size - size
    found = crc32(data[offset:stop]) if checksums is None else checksums.of(offset, stop)
    return frame if found == body_crc else None


def decode_frame(data: bytes, frame: Frame, most: int = MAX_DECODED) -> list[Turn]:
    """Return the turns of a frame. See :func:`decode`."""
    return decode(data, frame, most).turns


def decode(data: bytes, frame: Frame, most: int = MAX_DECODED) -> Decoded:
    """Return what a frame says.

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
    size = data[-FRAME_END.size]
    body = data[FRAME_HEAD.size : len(data) - FRAME_END.size - size]
    index = checked.index
    try:
        sections = _sections(body, frame.offset, *_room(len(data), index.count + index.taken, most))
        removed = _removed(sections.pop(REMOVED, b""), index.taken)
        turns = decode_turns(sections, index.first, index.count)
        if turns and turns[-1].id != index.last:
            raise CodecError(f"its last id is {turns[-1].id}, not {index.last}")
        return Decoded(turns, removed)
    except CodecError as error:
        raise ArchiveCorrupt(f"the frame at byte {frame.offset} cannot be decoded: {error}") from error


def _removed(data: bytes, count: int) -> list[MessageId]:
    """Return the ids that a frame takes out."""
    reader = Reader(data)
    ids: list[MessageId] = []
    ms = 0
    while not reader.at_end and len(ids) < count:
        ms += reader.varint()
        ids.append(MessageId(ms, reader.varint()))
    if len(ids) != count or not reader.at_end:
        raise CodecError(f"it does not take out {count} turns, as it says")
    return ids


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
        if kind not in (VECTOR_SECTION, COLUMN_SECTION, WORD_SECTION, REMOVED) or kind in sections:
            raise CodecError(f"section {kind} is not known to this version, or is there twice")
        codec = codec_by_id(codec_id)
        declared += raw_length
        # All of this before anything is allocated.
        if raw_length > codec.largest(stored_length) or declared > room:
            raise CodecError(f"section {kind} says it holds {raw_length} bytes in {stored_length}")
        if declared > most:
            raise ArchiveTooLarge(
                f"the frame at byte {offset} comes to more than archive_max_frame_mb allows; "
                "raise that setting (ConversationArchive: max_frame_mb) if you trust the file"
            )
        sections[kind] = codec.decode(stored, raw_length)
    return sections


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
