"""A segment, one commit of a shard, as bytes. Touches nothing. docs/object-layout.md"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from lix_cache.archive.encoding import index_of
from lix_cache.archive.index import FRAME_HEAD
from lix_cache.archive.objects.head import Head
from lix_cache.archive.objects.records import Part, Record, decoded, get_record, put_record
from lix_cache.errors import CodecError
from lix_cache.messages.turn import Turn
from lix_cache.storage.varints import Reader, put_varint

__all__ = [
    "COMMIT_NONCE_BYTES",
    "FIRST_READ",
    "HEAD",
    "Segment",
    "encoded",
    "known",
    "parsed",
    "parts_of",
]

HEAD = Head(b"LXS1", "segment", "index")
COMMIT_NONCE_BYTES = 16
#: Most segments are smaller: one request reads all of it.
FIRST_READ = 64 * 1024


class Segment(NamedTuple):
    """What a segment says.

    Attributes:
        nonce: of the commit.
        records: each part of them at its place in the log.
        begin: where the frames begin.
    """

    nonce: bytes
    records: tuple[Record, ...]
    begin: int


def encoded(nonce: bytes, records: Sequence[Record], frames: bytes) -> bytes:
    """Return the bytes of a segment."""
    index = bytearray(nonce)
    put_varint(index, len(records))
    for record in records:
        put_record(index, record)
    return HEAD.before(index) + frames


def known(nonce: bytes, records: Sequence[Record], data: bytes, number: int) -> Segment:
    """Return what a segment says that was just encoded, under its number."""
    begin = HEAD.needed(data, "a new segment")
    return Segment(nonce, tuple(record.placed(number, begin) for record in records), begin)


def parsed(data: bytes, number: int, name: str) -> Segment:
    """Return what a segment says.

    Args:
        data: it, or its begin with the index.
        number: of the segment.
        name: for errors.

    Raises:
        ArchiveCorrupt: it is damaged.
    """
    begin, read = HEAD.needed(data, name), Reader(HEAD.part_of(data, name))
    try:
        nonce, count = read.take(COMMIT_NONCE_BYTES), read.varint()
        if count > read.remaining:
            raise CodecError("more records than there can be")
        records = tuple(get_record(read).placed(number, begin) for _ in range(count))
    except CodecError as error:
        raise decoded("segment", name, error) from None
    return Segment(nonce, records, begin)


def parts_of(frames: bytes, offset: int, turns: Sequence[Turn]) -> list[Part]:
    """Return the parts that frames are which were just encoded, and begin so far behind the first frame.

    Args:
        frames: the bytes.
        offset: where they begin.
        turns: what is in them, sorted.
    """
    if frames and FRAME_HEAD.unpack_from(frames)[1] == len(frames):
        # One, as almost always: it need not be decoded to know what is in it.
        return [Part(None, offset, len(frames), len(turns), turns[0].id, turns[-1].id)]
    parts, start = [], 0
    while start < len(frames):
        _, length = FRAME_HEAD.unpack_from(frames, start)
        index = index_of(frames[start : start + length])
        parts.append(Part(None, offset + start, length, index.count, index.first, index.last))
        start += length
    return parts
