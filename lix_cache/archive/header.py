"""What a file begins with: its format, its session, its time. docs/archive-format.md"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from zlib import crc32

from lix_cache.errors import ArchiveCorrupt
from lix_cache.messages.turn import LARGEST_MS
from lix_cache.storage.varints import Reader, put_varint

__all__ = ["U32", "FileHeader", "UnknownFormat", "encode_header", "parse_header"]


MAGIC = b"CAv2"


MAX_HEADER = 1 << 20


_HEADER = struct.Struct("<4sBBHId")


U32 = struct.Struct("<I")


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


def encode_header(header: FileHeader) -> bytes:
    """Return the header's bytes; ``header.length`` is worked out here."""
    name = header.session_id.encode()
    tail = bytearray()
    put_varint(tail, len(name))
    tail += name
    put_varint(tail, 0)
    length = _HEADER.size + len(tail) + 4
    head = _HEADER.pack(MAGIC, 0, 0, 0, length, header.created_at) + tail
    return head + U32.pack(crc32(head))


def header_length(data: bytes) -> int:
    """Return the declared length of the header that ``data`` begins with, at least 24 bytes of it.

    Raises:
        ArchiveCorrupt: not a version 2 file.
    """
    if len(data) < _HEADER.size + 4 or data[:4] != MAGIC:
        raise ArchiveCorrupt(f"not a version 2 archive: it starts with {data[:4]!r}")
    length: int = U32.unpack_from(data, 8)[0]
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
    if crc32(data[: length - 4]) != U32.unpack_from(data, length - 4)[0]:
        raise ArchiveCorrupt("the file header's CRC does not match")
    _, _, flags, _, _, created = _HEADER.unpack_from(data)
    if flags:
        raise UnknownFormat(f"the file header has flags {flags:#x} that this version does not know")
    reader = Reader(data[: length - 4], _HEADER.size)
    session_id = reader.text(reader.varint())
    # NaN, too: a time that no clock gives is none, and would be in the way of every reader.
    return FileHeader(created if 0 <= created <= LARGEST_MS / 1000 else 0.0, session_id, length)
