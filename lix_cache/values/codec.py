"""A cached response and its bytes: any plain value, arrays and tables. Never pickle.

::

    head:  0x01, compression (1 byte), raw length, stored length, number of chunks (varints),
           CRC-32 of all before it and of the body (4 bytes), body if there are no chunks
    body:  the value as plain.py writes it, compressed

A body of 10 MB or more is cut into chunks, to be stored as keys of their own, so that one
answer neither holds up a server's other clients nor meets its limits.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache.errors import CodecError, InvalidInput
from lix_cache.storage.varints import Reader, put_varint
from lix_cache.values.plain import decode_item, encode_item

__all__ = ["Encoded", "Head", "decode_value", "encode_value", "read_head"]

_VERSION = 1
_STORED, _ZLIB = 0, 1
#: Written by every process that can read: one that lacks a package must not find an answer
#: it cannot open. Level 1 is several times as fast as 6 and nearly as small on text.
_LEVEL = 1
#: What compressed bytes may come to: so much, and so many times their number. What shrinks more
#: is stored as it is, so that few bytes from a stranger cannot take much memory.
_FREE = 1 << 20
_RATIO = 100
_SAMPLE = 1 << 16
_CHUNKED_FROM = 10_000_000
_CHUNK = 8_000_000
_LARGEST_VALUE = 1 << 30


@dataclass(frozen=True)
class Encoded:
    """A value as bytes.

    Attributes:
        head: what stands in the entry; a value below 10 MB is whole in it.
        chunks: none for such a value; else at most 8 MB each, in order.
    """

    head: bytes
    chunks: tuple[bytes, ...] = ()


def encode_value(value: Any, *, compress_from: int = 1024) -> Encoded:
    """Return a value's bytes: the same in every process, but a dict keeps its order.

    str, int, float, complex, bool, None, bytes, bytearray, datetime, date, time, timedelta,
    Decimal, UUID; list, tuple, set, frozenset and dict of these, up to 100 deep; numpy
    arrays and scalars; pandas and polars frames and series.

    Args:
        value: what to keep.
        compress_from: bytes from which on it is worth trying to compress.

    Raises:
        InvalidInput: a type that would not come back as it was; the text says where and
            what to store in its place. Or more than 1 GiB.
        MissingExtra: a table, and pyarrow is not installed.
    """
    raw = encode_item(value)
    if len(raw) > _LARGEST_VALUE:
        raise InvalidInput(f"the response takes {len(raw)} bytes; {_LARGEST_VALUE} is the most")
    compression, body = _STORED, raw
    if len(raw) >= compress_from and _is_compressible(raw):
        packed = zlib.compress(raw, _LEVEL)
        if len(packed) < len(raw) <= _most_in(len(packed)):
            compression, body = _ZLIB, packed
    chunks: tuple[bytes, ...] = ()
    if len(body) >= _CHUNKED_FROM:
        view = memoryview(body)
        chunks = tuple(bytes(view[start : start + _CHUNK]) for start in range(0, len(body), _CHUNK))
    head = bytearray((_VERSION, compression))
    for number in (len(raw), len(body), len(chunks)):
        put_varint(head, number)
    head += zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little")
    return Encoded(bytes(head) if chunks else bytes(head) + body, chunks)


def _is_compressible(raw: bytes) -> bool:
    """Whether a sample shrinks. Packed numbers and pictures do not, and cost the most time."""
    if len(raw) <= 2 * _SAMPLE:
        return True
    middle = len(raw) // 2
    return len(zlib.compress(raw[middle : middle + _SAMPLE], _LEVEL)) < 0.95 * _SAMPLE


@dataclass(slots=True)
class Head:
    """What stands in an entry, taken apart and checked as far as that goes without chunks."""

    compression: int
    raw_length: int
    stored_length: int
    chunks: int
    crc: int
    before_crc: bytes
    body: bytes


def read_head(head: bytes) -> Head:
    """Take a head apart.

    Raises:
        CodecError: it is no head.
    """
    reader = Reader(head)
    version, compression = reader.take(2)
    if version != _VERSION:
        raise CodecError(f"a value of version {version}; this version of the library reads {_VERSION}")
    if compression not in (_STORED, _ZLIB):
        raise CodecError(f"a value with the unknown compression {compression}")
    raw_length, stored_length, chunks = reader.varint(), reader.varint(), reader.varint()
    before_crc = head[: len(head) - reader.remaining]
    crc = int.from_bytes(reader.take(4), "little")
    # Chunks are cut at one size, so their number is no choice.
    expected = -(-stored_length // _CHUNK) if stored_length >= _CHUNKED_FROM else 0
    if chunks != expected:
        raise CodecError(f"a value of {stored_length} bytes says it has {chunks} chunks")
    return Head(
        compression, raw_length, stored_length, chunks, crc, before_crc, reader.take(reader.remaining)
    )


def decode_value(
    head: bytes | Head, chunks: Sequence[bytes | None] = (), *, max_bytes: int = _LARGEST_VALUE
) -> Any:
    """Return the value that was encoded.

    Args:
        head: as encoded, or as :func:`read_head` gives it.
        chunks: as encoded, in order; None for one that is gone.
        max_bytes: the most that a value may take uncompressed.

    Raises:
        CodecError: these are not the bytes that were written, all of them. No more memory
            is taken than a sound value of that size needs.
        MissingExtra: an array or table, and the package it belongs to is not installed.
    """
    parts = head if isinstance(head, Head) else read_head(head)
    if parts.raw_length > max_bytes:
        raise CodecError(f"a value of {parts.raw_length} bytes; {max_bytes} is the most")
    body = _body(parts, chunks)
    if zlib.crc32(body, zlib.crc32(parts.before_crc)) != parts.crc:
        raise CodecError("a value whose checksum is wrong")
    return decode_item(_decompressed(parts, body))


def _most_in(compressed: int) -> int:
    """Return the most bytes that so many compressed ones are trusted to hold."""
    return max(_FREE, _RATIO * compressed)


def _body(parts: Head, chunks: Sequence[bytes | None]) -> bytes:
    if not parts.chunks and not chunks:
        if len(parts.body) != parts.stored_length:
            raise CodecError(f"a value of {parts.stored_length} stored bytes has {len(parts.body)}")
        return parts.body
    whole = [chunk for chunk in chunks if chunk is not None]
    if len(chunks) != parts.chunks or len(whole) != len(chunks):
        raise CodecError(f"{len(whole)} chunks of a value that has {parts.chunks}")
    if parts.chunks and parts.body:
        raise CodecError("a value in chunks with bytes in its head")
    length = sum(map(len, whole))
    if length != parts.stored_length:
        raise CodecError(f"a value of {parts.stored_length} stored bytes has {length}")
    return b"".join(whole)


def _decompressed(parts: Head, body: bytes) -> bytes:
    if parts.compression == _STORED:
        if parts.raw_length != len(body):
            raise CodecError(f"a value of {parts.raw_length} bytes has {len(body)}")
        return body
    if parts.raw_length > _most_in(len(body)):
        raise CodecError(f"{len(body)} compressed bytes cannot hold {parts.raw_length}")
    stream = zlib.decompressobj()
    try:
        # One byte more than declared, so that a longer one is noticed without being made.
        raw = stream.decompress(body, parts.raw_length + 1)
    except zlib.error as error:
        raise CodecError(f"a value that is not zlib's: {error}") from None
    if len(raw) != parts.raw_length or not stream.eof or stream.unused_data:
        raise CodecError(f"a value that does not decompress to its {parts.raw_length} bytes")
    return raw
