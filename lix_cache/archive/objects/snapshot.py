"""A snapshot: the states of a shard's sessions, sorted, in blocks. Touches nothing. docs/object-layout.md"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from typing import NamedTuple
from zlib import crc32

from lix_cache.archive.objects.head import Head
from lix_cache.archive.objects.records import State, decoded, get_state, put_name, put_state
from lix_cache.errors import CodecError
from lix_cache.storage.varints import Reader, put_varint

__all__ = ["HEAD", "Block", "Header", "block_for", "encoded", "entries", "parsed"]

HEAD = Head(b"LXI1", "snapshot", "header")
BLOCK_BYTES = 16 * 1024


class Block(NamedTuple):
    """Where some entries are.

    Attributes:
        first: the first stored id in it, as bytes.
        offset: from the begin of the object.
        length: of the block.
        crc: of its bytes.
    """

    first: bytes
    offset: int
    length: int
    crc: int


class Header(NamedTuple):
    """What stands in front of a snapshot.

    Attributes:
        number: the first segment of which it says nothing.
        blocks: sorted by their first id.
        pending: sessions that must be reconciled.
    """

    number: int = 0
    blocks: tuple[Block, ...] = ()
    pending: tuple[str, ...] = ()


def encoded(number: int, states: Iterable[tuple[str, State]]) -> bytes:
    """Return the bytes of a snapshot.

    Args:
        number: the first segment of which it says nothing.
        states: sorted by the bytes of the stored id; what is empty is left out.
    """
    blocks: list[tuple[bytes, bytes]] = []
    pending: list[str] = []
    block, first = bytearray(), b""
    for session_id, state in states:
        if state.is_empty:
            continue
        if state.pending:
            pending.append(session_id)
        if len(block) >= BLOCK_BYTES:
            blocks.append((first, bytes(block)))
            block = bytearray()
        if not block:
            first = session_id.encode()
        put_name(block, session_id)
        packed = bytearray()
        put_state(packed, state)
        put_varint(block, len(packed))
        block += packed
    if block:
        blocks.append((first, bytes(block)))
    header = bytearray()
    put_varint(header, number)
    put_varint(header, len(blocks))
    for name, data in blocks:
        put_varint(header, len(name))
        header += name
        put_varint(header, len(data))
        header += crc32(data).to_bytes(4, "little")
    put_varint(header, len(pending))
    for session_id in pending:
        put_name(header, session_id)
    return HEAD.before(header) + b"".join(data for _, data in blocks)


def parsed(data: bytes, name: str) -> Header:
    """Return the header of a snapshot, from its begin.

    Raises:
        ArchiveCorrupt: it is damaged.
    """
    begin, read = HEAD.needed(data, name), Reader(HEAD.part_of(data, name))
    try:
        number, count = read.varint(), read.varint()
        if count > read.remaining:
            raise CodecError("more blocks than there can be")
        blocks: list[Block] = []
        offset = begin
        for _ in range(count):
            first, length = read.take(read.varint()), read.varint()
            blocks.append(Block(first, offset, length, int.from_bytes(read.take(4), "little")))
            offset += length
        waiting = read.varint()
        if waiting > read.remaining:
            raise CodecError("more pending sessions than there can be")
        pending = tuple(read.text(read.varint()) for _ in range(waiting))
    except CodecError as error:
        raise decoded("snapshot", name, error) from None
    return Header(number, tuple(blocks), pending)


def block_for(header: Header, session_id: str) -> Block | None:
    """Return the block that a session is in, if it is in any."""
    place = bisect_right(header.blocks, session_id.encode(), key=lambda block: block.first)
    return header.blocks[place - 1] if place else None


def entries(data: bytes, block: Block, name: str) -> Iterator[tuple[str, State]]:
    """Yield what a block says.

    Raises:
        ArchiveCorrupt: it is damaged.
    """
    if len(data) != block.length or crc32(data) != block.crc:
        raise decoded("snapshot", name, f"the block at byte {block.offset} is damaged")
    read = Reader(data)
    try:
        while not read.at_end:
            session_id = read.text(read.varint())
            yield session_id, get_state(Reader(read.take(read.varint())))
    except CodecError as error:
        raise decoded("snapshot", name, error) from None
