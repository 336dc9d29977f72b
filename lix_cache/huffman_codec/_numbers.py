"""Numbers of variable length: unsigned LEB128 of at most 9 bytes, no longer than needed."""

from __future__ import annotations

from lix_cache.errors import CodecError

__all__ = ["read_varint", "write_varint"]


def write_varint(value: int) -> bytes:
    """Return the bytes of a number below 2⁶³."""
    if value < 0x80:
        return bytes((value,))
    if value < 0x4000:
        return bytes((value & 0x7F | 0x80, value >> 7))
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def read_varint(data: bytes, position: int) -> tuple[int, int]:
    """Return the number at a position, and the position after it.

    Raises:
        CodecError: it is cut, or not written the one way it can be.
    """
    value = shift = 0
    while True:
        if position >= len(data):
            raise CodecError("not a valid HCv2 stream: a number is cut short")
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            if not byte and shift:
                raise CodecError("not a valid HCv2 stream: a number is longer than it needs to be")
            return value, position
        shift += 7
        if shift == 63:
            raise CodecError("not a valid HCv2 stream: a number of more than 9 bytes")
