"""Phrase code words for short texts that something else guards: no check, no head but a length.

For messages in Redis, where a few microseconds and a few bytes each are what there is to win.
docs/redis-layout.md says how they are stored.
"""

from __future__ import annotations

from lix_cache.errors import CodecError
from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._numbers import write_varint
from lix_cache.huffman_codec._registry import DEFAULT, default_dictionary, shipped_dictionary

__all__ = ["LONGEST", "TABLE", "decode_short", "encode_short"]

#: The index of the shipped dictionary that :func:`encode_short` uses.
TABLE = DEFAULT
#: Bytes at most: what two bytes can say, and what takes a quarter of a millisecond to encode.
LONGEST = (1 << 14) - 1


def encode_short(data: bytes) -> bytes | None:
    """Return a length and code words, or None where they are not shorter or would take too long.

    In pure Python they always would.
    """
    size = len(data)
    kernel = _backend.kernel
    if size > LONGEST or kernel.name != "c":
        return None
    dictionary = default_dictionary()
    if dictionary is None:
        return None
    bits, _ = kernel.encode_phrases(dictionary, data)
    if len(bits) + 2 >= size:
        return None
    return (bytes((size,)) if size < 128 else write_varint(size)) + bits


def decode_short(data: bytes, start: int, dictionary: int) -> bytes:
    """Return what :func:`encode_short` encoded.

    Args:
        data: holds it, to its end.
        start: where it begins.
        dictionary: index of the dictionary it was encoded with.

    Raises:
        CodecError: it is damaged, or of a dictionary that a later version ships.
        IndexError: it is cut within its length.
    """
    size = data[start]
    if size > 127:
        # Two bytes are enough for the longest.
        start += 1
        size = size & 127 | data[start] << 7
        # No caller writes more; and no allocation is larger than this.
        if size > LONGEST:
            raise CodecError(f"a short text of {size} bytes")
    return _backend.kernel.decode_phrases(shipped_dictionary(dictionary), data[start + 1 :], size)
