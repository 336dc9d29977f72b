"""HCv1 in readable Python: the specification, and the fallback for ever."""

from __future__ import annotations

import struct
from itertools import pairwise

from lix_cache.errors import CodecError
from lix_cache.huffman_codec._table import canonical_codes, code_lengths

__all__ = ["MAGIC", "decode_prefix_v1", "decode_v1", "encode_v1"]

MAGIC = b"HCv1"
_HEAD = struct.Struct("<4sIH")
_PADDING = struct.Struct("<I")
_EMPTY = _HEAD.pack(MAGIC, 0, 0)
#: Codes up to this long are found in one look-up; the rest, rare by nature, bit by bit.
_LOOKUP_BITS = 11


def encode_v1(data: bytes) -> bytes:
    """Return the HCv1 stream of ``data``."""
    if not data:
        return _EMPTY
    if len(data) > 0xFFFFFFFF:
        raise CodecError(f"HCv1 can hold 4294967295 bytes, got {len(data)}")
    lengths = code_lengths(data)
    words = {
        symbol: format(code, f"0{length}b")
        for (symbol, length), code in zip(lengths, canonical_codes(lengths), strict=True)
    }
    # Text of zeros and ones, turned into an integer at once: ten times faster in
    # Python than shifting bits, and easier to read.
    bits = "".join(map(words.__getitem__, data))
    padding = -len(bits) % 8
    body = int(bits, 2) << padding
    return b"".join(
        (
            _HEAD.pack(MAGIC, len(data), len(lengths)),
            bytes(value for pair in lengths for value in pair),
            _PADDING.pack(padding),
            body.to_bytes((len(bits) + padding) // 8, "big"),
        )
    )


def decode_v1(data: bytes) -> bytes:
    """Return what :func:`encode_v1` encoded.

    Raises:
        CodecError: anything does not fit: magic, table, lengths, padding, code words.
    """
    decoded, wanted, problem = decode_prefix_v1(data)
    if problem:
        raise CodecError(f"not a valid HCv1 stream: {problem}")
    if len(decoded) != wanted:
        raise CodecError(f"not a valid HCv1 stream: {len(decoded)} of {wanted} bytes are there")
    return decoded


def decode_prefix_v1(data: bytes) -> tuple[bytes, int, str]:
    """Decode as much of a stream as can be decoded, to recover a cut one.

    Returns:
        The bytes before the trouble, the number declared, and the trouble in words (empty
        if there was none but, perhaps, an end too soon).
    """
    if not data:
        return b"", 0, ""
    if len(data) < _HEAD.size:
        return b"", 0, f"{len(data)} bytes are too few for a header"
    magic, wanted, symbols = _HEAD.unpack_from(data)
    if magic != MAGIC:
        return b"", 0, f"it starts with {magic!r}"
    if wanted == 0:
        tail = len(data) - _HEAD.size
        return b"", 0, f"{tail} bytes follow an empty stream" if tail or symbols else ""
    start = _HEAD.size + 2 * symbols + _PADDING.size
    if not 1 <= symbols <= 256 or len(data) < start:
        return b"", wanted, "the table does not fit"
    table = data[_HEAD.size : start - _PADDING.size]
    lengths = list(zip(table[0::2], table[1::2], strict=True))
    problem = _table_problem(lengths)
    if problem:
        return b"", wanted, problem
    (padding,) = _PADDING.unpack_from(data, start - _PADDING.size)
    body = data[start:]
    if padding > 7 or padding > 8 * len(body):
        return b"", wanted, f"{padding} bits of padding"
    total = 8 * len(body)
    # No code word is shorter than a bit: checked before anything is allocated. Where a
    # stream is cut, its last bits are no padding, so all of them are looked at.
    decoded, used, problem = _decode_bits(body, total, min(wanted, total), lengths)
    if wanted > total:
        problem = problem or "the declared length is more than its bits can hold"
    elif not problem and len(decoded) == wanted:
        if used != total - padding:
            problem = f"its code words take {used} bits, not {total - padding}"
        elif padding and body[-1] & ((1 << padding) - 1):
            problem = "padding bits are not zero"
    return decoded, wanted, problem


def _table_problem(lengths: list[tuple[int, int]]) -> str:
    """Say what is wrong with a table, if anything: order, repetition, or an impossible code."""
    if any(length == 0 for _, length in lengths):
        return "a code of no bits"
    keys = [(length, symbol) for symbol, length in lengths]
    if any(a >= b for a, b in pairwise(keys)):
        return "the table is not in canonical order"
    if len({symbol for symbol, _ in lengths}) != len(lengths):
        return "a symbol stands in the table twice"
    # Kraft: code words of these lengths exist, and (but for one symbol) use up all bits.
    longest = lengths[-1][1]
    kraft = sum(1 << (longest - length) for _, length in lengths)
    if kraft > 1 << longest or (len(lengths) > 1 and kraft != 1 << longest):
        return "the code lengths do not make a complete code"
    return ""


def _decode_bits(
    body: bytes, available: int, wanted: int, lengths: list[tuple[int, int]]
) -> tuple[bytes, int, str]:
    """Decode up to ``wanted`` symbols from ``available`` bits: (bytes, bits used, problem)."""
    codes = canonical_codes(lengths)
    width = min(_LOOKUP_BITS, lengths[-1][1])
    short: list[tuple[int, int] | None] = [None] * (1 << width)
    long_codes: dict[tuple[int, int], int] = {}
    for (symbol, length), code in zip(lengths, codes, strict=True):
        if length <= width:
            first = code << (width - length)
            short[first : first + (1 << (width - length))] = [(symbol, length)] * (1 << (width - length))
        else:
            long_codes[length, code] = symbol
    longest = lengths[-1][1]
    out = bytearray()
    # Bits wait in an integer that is refilled 32 bytes at a time, so it never grows.
    window = held = position = used = 0
    mask = (1 << width) - 1
    while len(out) < wanted:
        if held < longest:
            chunk = body[position : position + 32]
            position += len(chunk)
            padded = chunk + bytes(32 - len(chunk))
            window = (window & ((1 << held) - 1)) << 256 | int.from_bytes(padded, "big")
            held += 256
        entry = short[window >> (held - width) & mask]
        if entry is None:
            entry = _find_long(window, held, width, longest, long_codes)
            if entry is None:
                return bytes(out), used, f"no code word at bit {used}"
        symbol, length = entry
        if used + length > available:
            break
        out.append(symbol)
        used += length
        held -= length
    return bytes(out), used, ""


def _find_long(
    window: int, held: int, width: int, longest: int, long_codes: dict[tuple[int, int], int]
) -> tuple[int, int] | None:
    for length in range(width + 1, longest + 1):
        symbol = long_codes.get((length, window >> (held - length) & ((1 << length) - 1)))
        if symbol is not None:
            return symbol, length
    return None
