"""A snapshot: the states of a shard's sessions, sorted, in blocks; and by last use. Touches nothing.

docs/object-layout.md. A snapshot is made of the one before and of what is new since: an entry that did not
change is copied as it stands, for to decode and encode a million of them takes minutes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping
from heapq import merge
from typing import NamedTuple, TypeVar
from zlib import crc32

from lix_cache.archive.catalogue import Place
from lix_cache.archive.objects.head import Head
from lix_cache.archive.objects.order import Packed, entry_of, packed
from lix_cache.archive.objects.records import State, decoded, get_state, put_name, put_state
from lix_cache.errors import CodecError
from lix_cache.storage.varints import Reader, put_varint

__all__ = [
    "HEAD",
    "Block",
    "Header",
    "Run",
    "block_for",
    "encoded",
    "entries",
    "parsed",
    "placed",
    "state_in",
]

HEAD = Head(b"LXI1", "snapshot", "header")
BLOCK_BYTES = 16 * 1024
#: A page is some of these.
RUN_BYTES = 8 * 1024
K = TypeVar("K")


class Block(NamedTuple):
    """Where some states are.

    Attributes:
        first: the first stored id in it.
        offset: from the begin of the object.
        length: of the block.
        crc: of its bytes.
    """

    first: str
    offset: int
    length: int
    crc: int


class Run(NamedTuple):
    """Where some entries of the order by last use are.

    Attributes:
        first: the first place in it, which is the smallest.
        offset, length, crc: as of a block.
    """

    first: Place
    offset: int
    length: int
    crc: int


class Header(NamedTuple):
    """What stands in front of a snapshot.

    Attributes:
        number: the first segment of which it says nothing.
        blocks: sorted by their first id.
        pending: sessions that must be reconciled.
        runs: sorted by their first place.
    """

    number: int = 0
    blocks: tuple[Block, ...] = ()
    pending: tuple[str, ...] = ()
    runs: tuple[Run, ...] = ()


def encoded(
    number: int,
    news: Mapping[str, State],
    states: Iterable[tuple[str, bytes]] = (),
    places: Iterable[Packed] = (),
    pending: Iterable[str] = (),
) -> bytes:
    """Return the bytes of a snapshot.

    Args:
        number: the first segment of which it says nothing.
        news: what changed since the snapshot before; what is empty is left out.
        states, places, pending: all of that snapshot, as it stands there.
    """
    # Text in the order of its characters is in that of its bytes.
    fresh = sorted((name, _packed_state(state)) for name, state in news.items() if not state.is_empty)
    old = (one for one in states if one[0] not in news)
    blocks = _cut(merge(old, fresh), BLOCK_BYTES, _put_state_entry)
    used = (entry_of(session_id, state) for session_id, state in news.items())
    newly = sorted(packed(entry) for entry in used if entry is not None)
    names = {session_id.encode() for session_id in news}
    runs = _cut(
        merge((one for one in places if one[0].name not in names), newly), RUN_BYTES, _put_place_entry
    )
    waiting = {*(one for one in pending if one not in news), *(one for one in news if news[one].pending)}
    header = bytearray()
    put_varint(header, number)
    put_varint(header, len(blocks))
    for name, data in blocks:
        put_name(header, name)
        _put_extent(header, data)
    put_varint(header, len(waiting))
    for session_id in sorted(waiting):
        put_name(header, session_id)
    put_varint(header, len(runs))
    for place, data in runs:
        put_varint(header, place.ms)
        _put_bytes(header, place.name)
        _put_extent(header, data)
    return HEAD.before(header) + b"".join(data for _, data in (*blocks, *runs))


def _cut(
    every: Iterable[tuple[K, bytes]], most: int, put: Callable[[bytearray, K, bytes], None]
) -> list[tuple[K, bytes]]:
    """Return entries in pieces of so many bytes, each with the first key in it."""
    pieces: list[tuple[K, bytes]] = []
    piece = bytearray()
    first: K | None = None
    for key, data in every:
        if first is None:
            first = key
        put(piece, key, data)
        if len(piece) >= most:
            pieces.append((first, bytes(piece)))
            piece, first = bytearray(), None
    if first is not None:
        pieces.append((first, bytes(piece)))
    return pieces


def _packed_state(state: State) -> bytes:
    out = bytearray()
    put_state(out, state)
    return bytes(out)


def _put_bytes(out: bytearray, data: bytes) -> None:
    put_varint(out, len(data))
    out += data


def _put_extent(out: bytearray, data: bytes) -> None:
    put_varint(out, len(data))
    out += crc32(data).to_bytes(4, "little")


def _put_state_entry(out: bytearray, name: str, state: bytes) -> None:
    put_name(out, name)
    _put_bytes(out, state)


def _put_place_entry(out: bytearray, place: Place, rest: bytes) -> None:
    put_varint(out, place.ms)
    _put_bytes(out, place.name)
    _put_bytes(out, rest)


def parsed(data: bytes, name: str) -> Header:
    """Return the header of a snapshot, from its begin.

    Raises:
        ArchiveCorrupt: it is damaged.
    """
    offset, read = HEAD.needed(data, name), Reader(HEAD.part_of(data, name))
    try:
        number = read.varint()
        blocks: list[Block] = []
        for _ in range(_count(read, "blocks")):
            first, length = read.text(read.varint()), read.varint()
            blocks.append(Block(first, offset, length, int.from_bytes(read.take(4), "little")))
            offset += length
        pending = tuple(read.text(read.varint()) for _ in range(_count(read, "pending sessions")))
        runs: list[Run] = []
        for _ in range(_count(read, "runs")):
            place, length = Place(read.varint(), read.take(read.varint())), read.varint()
            runs.append(Run(place, offset, length, int.from_bytes(read.take(4), "little")))
            offset += length
    except CodecError as error:
        raise decoded("snapshot", name, error) from None
    return Header(number, tuple(blocks), pending, tuple(runs))


def _count(read: Reader, what: str) -> int:
    count = read.varint()
    if count > read.remaining:
        raise CodecError(f"more {what} than there can be")
    return count


def block_for(header: Header, session_id: str) -> int | None:
    """Return the index of the block that a session is in, if it is in any."""
    place = bisect_right(header.blocks, session_id, key=lambda block: block.first)
    return place - 1 if place else None


def entries(data: bytes, block: Block, name: str) -> dict[str, bytes]:
    """Return the states of a block by their stored ids, as they stand there.

    Raises:
        ArchiveCorrupt: it is damaged.
    """
    _check(data, block, name)
    found: dict[str, bytes] = {}
    at, end = 0, len(data)
    try:
        while at < end:
            session_id, at = _bytes_at(data, at)
            found[session_id.decode()], at = _bytes_at(data, at)
    except (CodecError, UnicodeDecodeError):
        raise decoded("snapshot", name, f"the block at byte {block.offset} holds no states") from None
    return found


def _bytes_at(data: bytes, at: int) -> tuple[bytes, int]:
    # By hand where a byte says the length: a look for one session passes by all that are in its block.
    length = data[at] if at < len(data) else 0x80
    if length > 0x7F:
        read = Reader(data, at)
        length = read.varint()
        at = len(data) - read.remaining
    else:
        at += 1
    end = at + length
    if end > len(data):
        raise CodecError("an entry is cut short")
    return data[at:end], end


def state_in(data: bytes, name: str) -> State:
    """Return a state of a block.

    Raises:
        ArchiveCorrupt: the bytes are none.
    """
    try:
        return get_state(Reader(data))
    except CodecError as error:
        raise decoded("snapshot", name, error) from None


def placed(data: bytes, run: Run, name: str) -> Iterator[Packed]:
    """Yield what a run says.

    Raises:
        ArchiveCorrupt: it is damaged.
    """
    _check(data, run, name)
    read = Reader(data)
    try:
        while not read.at_end:
            place = Place(read.varint(), read.take(read.varint()))
            yield place, read.take(read.varint())
    except CodecError as error:
        raise decoded("snapshot", name, error) from None


def _check(data: bytes, piece: Block | Run, name: str) -> None:
    if len(data) != piece.length or crc32(data) != piece.crc:
        raise decoded("snapshot", name, f"the block at byte {piece.offset} is damaged")
