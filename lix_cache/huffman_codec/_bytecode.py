"""Mode 1 of HCv2 in readable Python: bytes in a canonical code of at most 12 bits.

docs/huffman-format.md is the specification. No I/O, no state.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from lix_cache.errors import CodecError
from lix_cache.huffman_codec._numbers import read_varint, write_varint
from lix_cache.huffman_codec._table import canonical_codes, limited_lengths

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["decode_bytecode", "encode_bytecode"]

#: A look-up table of 4096 entries stays in a processor's first cache.
LONGEST = 12
#: From here on four streams are worth the bytes that say where they begin.
FOUR_STREAMS_FROM = 4096


def encode_bytecode(data: bytes, limit: int) -> bytes | None:
    """Return the payload, or None if it would not be shorter than ``limit`` bytes."""
    if not data:
        return None
    counts = Counter(data)
    if len(counts) == 1:
        # A complete code has two words. The second is never used.
        counts[data[0] ^ 1] = 0
    lengths = limited_lengths(counts, LONGEST)
    table = _write_table(dict(lengths))
    if len(table) + sum(counts[symbol] * length for symbol, length in lengths) // 8 >= limit:
        return None
    words = {
        symbol: format(code, f"0{length}b")
        for (symbol, length), code in zip(lengths, canonical_codes(lengths), strict=True)
    }
    parts = [_write_bits("".join(map(words.__getitem__, part))) for part in _split(data)]
    sizes = [write_varint(len(part)) for part in parts[:-1]]
    payload = b"".join((table, *sizes, *parts))
    return payload if len(payload) < limit else None


def decode_bytecode(payload: bytes, raw_length: int) -> bytes:
    """Return the ``raw_length`` bytes that :func:`encode_bytecode` was given.

    Raises:
        CodecError: anything does not fit.
    """
    if raw_length > 8 * len(payload):
        raise CodecError("not a valid HCv2 stream: the declared length is more than its bits can hold")
    lengths, position = _read_table(payload)
    pairs = sorted(lengths.items(), key=lambda pair: (pair[1], pair[0]))
    counts = [len(part) for part in _split(range(raw_length))]
    sizes = []
    for _ in counts[1:]:
        size, position = read_varint(payload, position)
        sizes.append(size)
    sizes.append(len(payload) - position - sum(sizes))
    if sizes[-1] < 0:
        raise CodecError("not a valid HCv2 stream: its parts are longer than the stream")
    table = _lookup(pairs)
    out = bytearray()
    for number, (count, size) in enumerate(zip(counts, sizes, strict=True), 1):
        if not _decode_part(payload[position : position + size], count, table, out):
            raise CodecError(
                f"not a valid HCv2 stream: part {number} of {len(counts)} is not code words of {count} bytes"
            )
        position += size
    return bytes(out)


def _split(data: bytes | range) -> list[bytes] | list[range]:
    """Return the parts that have a stream each."""
    if len(data) < FOUR_STREAMS_FROM:
        return [data]  # type: ignore[return-value]
    quarter = -(-len(data) // 4)
    return [data[start : start + quarter] for start in range(0, 4 * quarter, quarter)]  # type: ignore[return-value]


def _write_bits(bits: str) -> bytes:
    # Text of zeros and ones, turned into an integer at once: ten times faster in Python
    # than shifting bits, and easier to read.
    size = -(-len(bits) // 8)
    return (int(bits, 2) << (8 * size - len(bits))).to_bytes(size, "big")


def _write_table(lengths: dict[int, int]) -> bytes:
    nibbles: list[int] = []
    symbol = last = 0
    end = max(lengths) + 1
    while symbol < end:
        length = lengths.get(symbol, 0)
        run = 1
        while symbol + run < end and lengths.get(symbol + run, 0) == length:
            run += 1
        if length == 0:
            if run == 1:
                nibbles.append(0)
            elif run <= 17:
                nibbles += (13, run - 2)
            else:
                nibbles += (14, (run - 18) >> 4, (run - 18) & 15)
        elif length == last and run >= 3:
            run = min(run, 18)
            nibbles += (15, run - 3)
        else:
            nibbles.append(length)
            last = length
            run = 1
        symbol += run
    if len(nibbles) % 2:
        nibbles.append(0)
    return bytes(high << 4 | low for high, low in zip(nibbles[0::2], nibbles[1::2], strict=True))


def _run(kind: int, nibble: Callable[[], int]) -> int:
    """Return for how many symbols a nibble, and those that belong to it, stand."""
    if kind == 13:
        return 2 + nibble()
    if kind == 14:
        return 18 + 16 * nibble() + nibble()
    if kind == 15:
        return 3 + nibble()
    return 1


def _read_table(payload: bytes) -> tuple[dict[int, int], int]:
    """Return the code length of each symbol, and where the table ends."""
    lengths: dict[int, int] = {}
    room = 1 << LONGEST
    at = symbol = last = 0

    def nibble() -> int:
        nonlocal at
        if at >> 1 >= len(payload):
            raise CodecError("not a valid HCv2 stream: the code length table is cut short")
        value = payload[at >> 1] >> (0 if at & 1 else 4) & 15
        at += 1
        return value

    while room > 0:
        kind = nibble()
        run = _run(kind, nibble)
        if 0 < kind <= LONGEST:
            last = kind
        if symbol + run > 256 or (kind == 15 and not last):
            raise CodecError("not a valid HCv2 stream: the code length table does not fit")
        if 0 < kind <= LONGEST or kind == 15:
            for number in range(symbol, symbol + run):
                lengths[number] = last
            room -= run << (LONGEST - last)
        symbol += run
    if room < 0:
        raise CodecError("not a valid HCv2 stream: the code lengths do not make a complete code")
    if at & 1 and nibble():
        raise CodecError("not a valid HCv2 stream: the code length table's padding is not zero")
    return lengths, at >> 1


def _lookup(pairs: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return (symbol, length) for every value of the next LONGEST bits."""
    table: list[tuple[int, int]] = []
    for symbol, length in pairs:
        table += [(symbol, length)] * (1 << (LONGEST - length))
    return table


def _decode_part(body: bytes, count: int, table: list[tuple[int, int]], out: bytearray) -> bool:
    """Append ``count`` symbols; say whether they are exactly what ``body`` holds."""
    window = held = position = used = 0
    mask = (1 << LONGEST) - 1
    append = out.append
    for _ in range(count):
        if held < LONGEST:
            # Bits wait in an integer that is refilled 32 bytes at a time, so it never
            # grows; zeros follow the end, and ``used`` tells that they were taken.
            chunk = body[position : position + 32]
            position += 32
            window = (window & ((1 << held) - 1)) << 256 | int.from_bytes(chunk, "big") << 8 * (
                32 - len(chunk)
            )
            held += 256
        symbol, length = table[window >> (held - LONGEST) & mask]
        append(symbol)
        held -= length
        used += length
    left = 8 * len(body) - used
    return 0 <= left < 8 and not (left and body[-1] & ((1 << left) - 1))
