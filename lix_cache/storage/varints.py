"""Unsigned LEB128, and a reader that never reads past the end."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from lix_cache.errors import CodecError

__all__ = ["Reader", "put_varint", "put_varints"]

_F64 = struct.Struct("<d")


def put_varint(out: bytearray, value: int) -> None:
    """Append ``value`` (0 to 2⁶⁴ − 1), seven bits to a byte, lowest first."""
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)


def put_varints(out: bytearray, values: Iterable[int]) -> None:
    """Append several, without a call for each."""
    append = out.append
    for value in values:
        while value > 0x7F:
            append(value & 0x7F | 0x80)
            value >>= 7
        append(value)


class Reader:
    """Reads fields from bytes one after the other.

    Raises:
        CodecError: from every method, where the bytes end too soon or are invalid.
    """

    __slots__ = ("_data", "_position")

    def __init__(self, data: bytes, position: int = 0) -> None:
        self._data = data
        self._position = position

    @property
    def at_end(self) -> bool:
        return self._position >= len(self._data)

    @property
    def remaining(self) -> int:
        return len(self._data) - self._position

    def take(self, count: int) -> bytes:
        if count > self.remaining:
            raise CodecError(f"{count} bytes wanted, {self.remaining} are left")
        start = self._position
        self._position += count
        return self._data[start : self._position]

    def varint(self) -> int:
        value = shift = 0
        data, position, end = self._data, self._position, len(self._data)
        while position < end:
            byte = data[position]
            position += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                if value >= 1 << 64:
                    raise CodecError("a number of more than 64 bits")
                self._position = position
                return value
            shift += 7
            if shift > 63:
                raise CodecError("a number of more than 10 bytes")
        raise CodecError("a number is cut short")

    def float64(self) -> float:
        value: float = _F64.unpack(self.take(8))[0]
        return value

    def text(self, count: int) -> str:
        try:
            return self.take(count).decode("utf-8", "surrogatepass")
        except UnicodeDecodeError as error:
            raise CodecError(f"text is not UTF-8: {error}") from None
