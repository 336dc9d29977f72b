"""HCv2: the container, and which mode goes into it. The work itself is the kernel's.

docs/huffman-format.md is the specification.
"""

from __future__ import annotations

import struct
from binascii import crc32, crc_hqx
from typing import TYPE_CHECKING

from lix_cache.errors import CodecError
from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._numbers import read_varint, write_varint
from lix_cache.huffman_codec._registry import (
    DEFAULT,
    default_dictionary,
    find_dictionary,
    index_of,
    shipped_dictionary,
)

if TYPE_CHECKING:
    from lix_cache.huffman_codec._dictionary import Dictionary

__all__ = ["declared_size", "decode_v2", "dictionary_number", "encode_v2"]

_STORED = 0x80
_BYTE_CODE = 0x81
_PHRASE_CODE = 0x82
_COPIES = 0x83
#: HCv1's magic, and the length behind it.
_V1_SIZE = struct.Struct("<4xI")
#: Instead of a shipped dictionary's index: a dictionary number follows.
_NUMBERED = 15
#: Longer content has a check of four bytes.
SHORT_CHECK_UPTO = 1024


def encode_v2(data: bytes, dictionary: Dictionary | None = None, *, level: int = 1) -> bytes:
    """Return the shortest HCv2 stream of ``data``; with the default dictionary where none is given.

    Args:
        data: what to encode.
        dictionary: the dictionary.
        level: from 2 on, try copies, too.
    """
    kernel = _backend.kernel
    size = len(data)
    first, payload, number = _STORED, data, b""
    shortest = size
    index: int | None = DEFAULT
    if dictionary is None:
        dictionary = default_dictionary()
    else:
        index = index_of(dictionary)
    if dictionary is not None and size:
        spelled = dictionary.number if index is None else b""
        bits, _ = kernel.encode_phrases(dictionary, data)
        mode = _PHRASE_CODE
        if level > 1:
            copies = kernel.encode_copies(dictionary, data)
            if len(copies) < len(bits):
                mode, bits = _COPIES, copies
        if len(spelled) + len(bits) < shortest:
            first = mode | (_NUMBERED if index is None else index) << 2
            number = dictionary.number
            payload = spelled + bits
            shortest = len(payload)
    # Of two that are equally long, the byte code's number is the lower.
    limit = shortest if first == _STORED else shortest + 1
    coded = kernel.encode_bytecode(data, limit)
    if coded is not None:
        first, payload, number = _BYTE_CODE, coded, b""
    stream = b"".join((bytes((first,)), write_varint(size), payload))
    return stream + _check(stream, number, size)


def decode_v2(data: bytes, dictionary: Dictionary | None = None) -> bytes:
    """Return what :func:`encode_v2` encoded.

    Raises:
        CodecError: not an HCv2 stream, a damaged one, or one whose dictionary is not here.
    """
    first = data[0]
    mode = first & 0xC3
    if mode & 0xC0 != _STORED or (first & 0x3C and mode < _PHRASE_CODE):
        raise CodecError(f"not a valid HCv2 stream: it starts with {data[:1]!r}")
    size, start = read_varint(data, 1)
    end = len(data) - (2 if size <= SHORT_CHECK_UPTO else 4)
    number = b""
    body = start
    if mode >= _PHRASE_CODE:
        index = first >> 2 & 15
        if index == _NUMBERED:
            number = data[start : start + 4]
            body = start + 4
        else:
            dictionary = shipped_dictionary(index)
            number = dictionary.number
    if end < body:
        raise CodecError(f"not a valid HCv2 stream: {len(data)} bytes are too few")
    if data[end:] != _check(data[:end], number, size):
        raise CodecError("not a valid HCv2 stream: its check does not agree")
    payload = data[body:end]
    if mode == _STORED:
        if len(payload) != size:
            raise CodecError(f"not a valid HCv2 stream: {len(payload)} of {size} bytes are there")
        return payload
    if mode == _BYTE_CODE:
        return _backend.kernel.decode_bytecode(payload, size)
    if body != start:
        dictionary = find_dictionary(number, dictionary)
    assert dictionary is not None  # noqa: S101 - for the type checker: both ways above set it
    kernel = _backend.kernel
    return (kernel.decode_phrases if mode == _PHRASE_CODE else kernel.decode_copies)(
        dictionary, payload, size
    )


def dictionary_number(data: bytes) -> bytes | None:
    """Return the number of the dictionary a stream needs besides those that ship, if any."""
    if not data or data[0] | 1 != _COPIES | _NUMBERED << 2:
        return None
    _, start = read_varint(data, 1)
    return bytes(data[start : start + 4])


def declared_size(data: bytes) -> int:
    """Return how many bytes a stream of either version says it holds.

    Raises:
        CodecError: it is too short to say so.
    """
    if data[:1] and data[0] & 0x80:
        return read_varint(data, 1)[0]
    if data and len(data) < _V1_SIZE.size:
        raise CodecError(f"not a valid HCv1 stream: {len(data)} bytes are too few for a header")
    return int(_V1_SIZE.unpack_from(data)[0]) if data else 0


def _check(stream: bytes, number: bytes, size: int) -> bytes:
    if size <= SHORT_CHECK_UPTO:
        return crc_hqx(number + stream, 0xFFFF).to_bytes(2, "little")
    return crc32(stream, crc32(number)).to_bytes(4, "little")
