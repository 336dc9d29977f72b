"""The CRC-32 of any part of some bytes, each of which is looked at only a few times for all of them.

In a damaged file a frame may seem to begin at very many places, each with a length of its own that
reaches far. To look at all of its bytes for each would be quadratic, and an attacker who can write a file
could make a reader work for minutes.

CRC-32 is a remainder of polynomials over GF(2): that of a part follows from those of the whole up to
its two ends. What comes before the part counts as if it were shifted by the part's length, which is a
product with a power of x.
"""

from __future__ import annotations

from array import array
from zlib import crc32

__all__ = ["Checksums"]

#: Between two places at which the CRC of all bytes before is kept.
_STEP = 512
_ONE = 1 << 31
_LENGTH_BYTES = 4
_BITS = int.from_bytes(b"\1" * 32, "big")
_PARITIES = bytes(ord("0") + (byte & 1) for byte in range(256))


def _spread(word: int) -> int:
    """Give each bit a byte of its own."""
    return int.from_bytes(format(word, "032b").encode(), "big") & _BITS


def _product(a: int, b: int) -> int:
    """Multiply modulo the polynomial. The highest bit is the lowest power of x, as in every CRC-32.

    A product of numbers whose bits are so far apart that no sum of them carries has the bits of the
    product of polynomials in its parities; and what is beyond 32 bits of it, zlib takes the remainder of.
    """
    parities = (_spread(a) * _spread(b)).to_bytes(64, "big").translate(_PARITIES)
    product = int(parities, 2)
    beyond = ((product & 0x7FFFFFFF) << 1).to_bytes(4, "little")
    return product >> 31 ^ crc32(beyond, 0xFFFFFFFF) ^ 0xFFFFFFFF


class Checksums:
    """The CRCs of the parts of ``data``, none of them 4 GiB long."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._view = memoryview(data)
        kept, crc = array("I", [0]), 0
        for start in range(0, len(data) - _STEP + 1, _STEP):
            crc = crc32(self._view[start : start + _STEP], crc)
            kept.append(crc)
        self._kept = kept
        # Of each byte of a length: what it shifts by.
        self._shifts: list[list[int]] = []

    def of(self, start: int, end: int) -> int:
        """Return ``crc32(data[start:end])``."""
        return self._up_to(end) ^ _product(self._up_to(start), self._shift(end - start))

    def _up_to(self, end: int) -> int:
        number = end // _STEP
        return crc32(self._view[number * _STEP : end], self._kept[number])

    def _shift(self, length: int) -> int:
        """Return x to the power of 8 times the length."""
        if not self._shifts:
            self._shifts = _powers()
        power, place = _ONE, 0
        while length:
            if length & 0xFF:
                power = _product(self._shifts[place][length & 0xFF], power)
            length >>= 8
            place += 1
        return power


def _powers() -> list[list[int]]:
    """Return x to the power of 8 × digit × 256ⁿ, for each n and each digit."""
    found, base = [], _ONE >> 8
    for _ in range(_LENGTH_BYTES):
        row = [_ONE]
        for _ in range(255):
            row.append(_product(row[-1], base))
        found.append(row)
        base = _product(row[-1], base)
    return found
