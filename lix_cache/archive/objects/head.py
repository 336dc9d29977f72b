"""What a segment and a snapshot begin with: a magic, then the length and CRC of the part that follows."""

from __future__ import annotations

import struct
from zlib import crc32

from lix_cache.archive.objects.records import decoded

__all__ = ["Head"]

_LAYOUT = struct.Struct("<4sII")
_LARGEST = 1 << 30


class Head:
    """The head of one kind of object.

    Args:
        magic: four bytes.
        what: the kind, for errors.
        part: what the head guards, for errors.
    """

    def __init__(self, magic: bytes, what: str, part: str) -> None:
        self._magic, self._what, self._part = magic, what, part

    def before(self, part: bytes | bytearray) -> bytes:
        """Return a part with its head before it."""
        return _LAYOUT.pack(self._magic, len(part), crc32(part)) + bytes(part)

    def needed(self, data: bytes, name: str) -> int:
        """Return how many bytes from the begin hold the head and its part.

        Raises:
            ArchiveCorrupt: it is not of this kind.
        """
        if len(data) < _LAYOUT.size:
            raise decoded(self._what, name, f"{len(data)} bytes")
        magic, length, _ = _LAYOUT.unpack_from(data)
        if magic != self._magic or length > _LARGEST:
            raise decoded(self._what, name, "another magic")
        return _LAYOUT.size + int(length)

    def part_of(self, data: bytes, name: str) -> bytes:
        """Return the part.

        Raises:
            ArchiveCorrupt: it is damaged, or not of this kind.
        """
        end = self.needed(data, name)
        part = data[_LAYOUT.size : end]
        if len(data) < end or crc32(part) != _LAYOUT.unpack_from(data)[2]:
            raise decoded(self._what, name, f"its {self._part} is cut short or damaged")
        return part
