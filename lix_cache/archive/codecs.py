"""The codecs a section may be stored in, by id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lix_cache.errors import CodecError, ConfigError, MissingExtra
from lix_cache.huffman_codec import HuffmanCodec

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Codec", "codec_by_id", "codec_by_name"]


@dataclass(frozen=True)
class Codec:
    """One way to store bytes.

    Attributes:
        id: the number in the file; once released it means this for ever.
        name: the name in the configuration.
        encode: bytes to bytes.
        decode: (bytes, raw length) to bytes; raises CodecError for anything else.
        largest: the most bytes a stored length can decode to, checked before decoding.
    """

    id: int
    name: str
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes, int], bytes]
    largest: Callable[[int], int]


def _decode_stored(data: bytes, raw_length: int) -> bytes:
    if len(data) != raw_length:
        raise CodecError(f"stored section of {len(data)} bytes says it has {raw_length}")
    return data


def _encode_hcv1(data: bytes) -> bytes:
    return HuffmanCodec.encode(data, format=1)


def _encode_hcv2(data: bytes) -> bytes:
    # An archive is written once, and beside a disk's sync the time does not count.
    return HuffmanCodec.encode(data, thorough=True)


def _decode_huffman(data: bytes, raw_length: int) -> bytes:
    decoded = HuffmanCodec.decode(data)
    if len(decoded) != raw_length:
        raise CodecError(f"Huffman section decodes to {len(decoded)} bytes, not {raw_length}")
    return decoded


def _lz4_encode(data: bytes) -> bytes:
    try:
        import lz4.block
    except ImportError:
        raise MissingExtra("lz4", "lz4", "archive_codec='lz4'") from None
    compressed: bytes = lz4.block.compress(data, store_size=False)
    return compressed


def _lz4_decode(data: bytes, raw_length: int) -> bytes:
    try:
        import lz4.block
    except ImportError:
        raise MissingExtra("lz4", "lz4", "reading an archive that was written with lz4") from None
    try:
        decoded: bytes = lz4.block.decompress(data, uncompressed_size=raw_length)
    except (lz4.block.LZ4BlockError, ValueError, OverflowError, MemoryError) as error:
        raise CodecError(f"not a valid LZ4 block: {error}") from None
    if len(decoded) != raw_length:
        raise CodecError(f"LZ4 block decodes to {len(decoded)} bytes, not {raw_length}")
    return decoded


STORED = Codec(0, "stored", lambda data: data, _decode_stored, lambda stored: stored)

_CODECS = (
    STORED,
    # Older versions read it; newer ones write it where they are asked to.
    Codec(1, "hcv1", _encode_hcv1, _decode_huffman, lambda stored: 8 * stored),
    Codec(2, "lz4", _lz4_encode, _lz4_decode, lambda stored: 255 * stored + 64),
    # A phrase of 64 bytes may have a code word of one bit.
    Codec(3, "huffman", _encode_hcv2, _decode_huffman, lambda stored: 512 * stored),
)
_BY_ID = {codec.id: codec for codec in _CODECS}
_BY_NAME = {codec.name: codec for codec in _CODECS}


def codec_by_name(name: str) -> Codec:
    """Return the codec of that name.

    Raises:
        ConfigError: there is none; the text lists those there are.
    """
    try:
        return _BY_NAME[name]
    except KeyError:
        raise ConfigError(f"archive_codec must be one of {', '.join(_BY_NAME)}, got {name!r}") from None


def codec_by_id(codec_id: int) -> Codec:
    """Return the codec of that number.

    Raises:
        CodecError: this version knows none.
    """
    try:
        return _BY_ID[codec_id]
    except KeyError:
        raise CodecError(f"codec {codec_id} is not known to this version of lix_cache") from None
