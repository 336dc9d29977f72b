"""The codecs a section may be stored in, by id; and which of them a writer tries."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.checks import given
from lix_cache.errors import CodecError, ConfigError, MissingDictionary, MissingExtra
from lix_cache.huffman_codec import HuffmanCodec, _backend
from lix_cache.huffman_codec._copies import REPEATS_REACH
from lix_cache.huffman_codec._dictionary import Dictionary
from lix_cache.huffman_codec._registry import SHIPPED
from lix_cache.huffman_codec._v2 import declared_size, dictionary_number

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["STORED", "Codec", "Packer", "codec_by_id", "packer"]


@dataclass(frozen=True)
class Codec:
    """One way to store bytes.

    Attributes:
        id: the number in the file; once released it means this for ever.
        name: what it is called in errors.
        encode: bytes to bytes.
        decode: (bytes, raw length) to bytes; raises CodecError for anything else.
        largest: the most bytes a stored length can decode to, checked before decoding.
    """

    id: int
    name: str
    encode: Callable[[bytes], bytes]
    decode: Callable[[bytes, int], bytes]
    largest: Callable[[int], int]


def _of_length(data: bytes, raw_length: int, what: str) -> bytes:
    if len(data) != raw_length:
        raise CodecError(f"{what} decodes to {len(data)} bytes, not {raw_length}")
    return data


def _decode_stored(data: bytes, raw_length: int) -> bytes:
    if len(data) != raw_length:
        raise CodecError(f"stored section of {len(data)} bytes says it has {raw_length}")
    return data


def _encode_hcv1(data: bytes) -> bytes:
    return HuffmanCodec.encode(data, format=1)


#: Files of dictionaries that do not ship, by the number that streams carry. A dictionary is known by
#: its contents: whatever code made it known, a stream that names it means this one.
_dictionaries: dict[bytes, str] = {}


def _use_dictionary(path: str) -> str:
    try:
        dictionary = Dictionary.load(path)
    except OSError as error:
        raise ConfigError(f"archive_dictionary {path!r} cannot be read: {error.strerror}") from None
    except CodecError as error:
        raise ConfigError(f"archive_dictionary: {error}") from None
    _dictionaries[dictionary.number] = path
    return path


def _decode_huffman(data: bytes, raw_length: int) -> bytes:
    path = None
    number = dictionary_number(data)
    if number is not None:
        path = _dictionaries.get(number)
        if path is None and number.hex() not in {shipped.number for shipped in SHIPPED.values()}:
            raise MissingDictionary(number.hex())
    # The stream's own idea of its length, before room is made for it.
    declared = declared_size(data)
    if declared != raw_length:
        raise CodecError(f"Huffman section says it holds {declared} bytes, not {raw_length}")
    return _of_length(HuffmanCodec.decode(data, dictionary=path), raw_length, "Huffman section")


def _lz4(purpose: str) -> Any:
    try:
        import lz4.block
    except ImportError:
        raise MissingExtra("lz4", "lz4", purpose) from None
    return lz4.block


def _lz4_encode(data: bytes) -> bytes:
    compressed: bytes = _lz4("archive_codec='lz4'").compress(data, store_size=False)
    return compressed


def _lz4_decode(data: bytes, raw_length: int) -> bytes:
    block = _lz4("reading an archive that was written with lz4")
    try:
        decoded: bytes = block.decompress(data, uncompressed_size=raw_length)
    except (block.LZ4BlockError, ValueError, OverflowError, MemoryError) as error:
        raise CodecError(f"not a valid LZ4 block: {error}") from None
    return _of_length(decoded, raw_length, "LZ4 block")


#: Sections are small, and each is written once and read often.
_ZSTD_LEVEL = 12
#: What every zstd decoder has room for, by its specification.
_ZSTD_WINDOW = 8 << 20


def _zstd(purpose: str) -> Any:
    try:
        import zstandard
    except ImportError:
        raise MissingExtra("zstandard", "zstd", purpose) from None
    return zstandard


def _zstd_encode(data: bytes) -> bytes:
    made = _zstd("archive_codec='zstd'").ZstdCompressor(
        # The section says its length, and the frame has a CRC.
        level=_ZSTD_LEVEL,
        write_content_size=False,
        write_checksum=False,
        write_dict_id=False,
    )
    compressed: bytes = made.compress(data)
    return compressed


def _zstd_decode(data: bytes, raw_length: int) -> bytes:
    zstandard = _zstd("reading an archive that was written with zstd")
    try:
        # A frame may declare a size and a window of its own, which would be allocated unseen.
        declared = zstandard.get_frame_parameters(data)
        if declared.content_size not in (raw_length, zstandard.CONTENTSIZE_UNKNOWN):
            raise CodecError(f"zstd frame says it holds {declared.content_size} bytes, not {raw_length}")
        if declared.window_size > max(_ZSTD_WINDOW, 2 * raw_length):
            raise CodecError(f"zstd frame of {raw_length} bytes wants a window of {declared.window_size}")
        # Into one buffer of the raw length, which is all that is ever taken.
        decoded: bytes = zstandard.ZstdDecompressor().decompress(
            data, max_output_size=raw_length, allow_extra_data=False
        )
    except (zstandard.ZstdError, MemoryError) as error:
        raise CodecError(f"not a valid zstd frame: {error}") from None
    return _of_length(decoded, raw_length, "zstd frame")


def _deflate_encode(data: bytes) -> bytes:
    coder = zlib.compressobj(9, zlib.DEFLATED, -15)
    return coder.compress(data) + coder.flush()


def _deflate_decode(data: bytes, raw_length: int) -> bytes:
    decoder = zlib.decompressobj(-15)
    try:
        # One byte more than there may be, so that a longer stream is told from a whole one.
        decoded = decoder.decompress(data, raw_length + 1)
    except (zlib.error, OverflowError) as error:
        raise CodecError(f"not a valid deflate stream: {error}") from None
    if len(decoded) != raw_length or not decoder.eof or decoder.unused_data:
        raise CodecError(f"deflate stream does not end after {raw_length} bytes")
    return decoded


STORED = Codec(0, "stored", lambda data: data, _decode_stored, lambda stored: stored)
HCV1 = Codec(1, "hcv1", _encode_hcv1, _decode_huffman, lambda stored: 8 * stored)
LZ4 = Codec(2, "lz4", _lz4_encode, _lz4_decode, lambda stored: 255 * stored + 64)
# A phrase of 64 bytes may have a code word of one bit.
HUFFMAN = Codec(3, "huffman", HuffmanCodec.encode, _decode_huffman, lambda stored: 512 * stored)
# A block of 128 kB that is one byte over and over takes four.
ZSTD = Codec(4, "zstd", _zstd_encode, _zstd_decode, lambda stored: (1 << 15) * stored + (1 << 17))
DEFLATE = Codec(5, "deflate", _deflate_encode, _deflate_decode, lambda stored: 1032 * stored + 64)

_CODECS = (STORED, HCV1, LZ4, HUFFMAN, ZSTD, DEFLATE)
_BY_ID = {codec.id: codec for codec in _CODECS}
_BY_NAME = {codec.name: codec for codec in (STORED, HUFFMAN, LZ4, ZSTD, DEFLATE, HCV1)}


def codec_by_id(codec_id: int) -> Codec:
    """Return the codec of that number.

    Raises:
        CodecError: this version knows none.
    """
    try:
        return _BY_ID[codec_id]
    except KeyError:
        raise CodecError(f"codec {codec_id} is not known to this version of lix_cache") from None


# -- what a writer tries ---------------------------------------------------------------------

#: Shorter sections are stored: what a codec needs for its own head is more than it could save.
_SHORTEST = 16
#: Looking for copies takes the C kernel 0.1 ms for each kB, ten times as long as phrases alone, and
#: Python much longer. An append, which the evictor makes a thousand of in a second, looks
#: where it takes no time to speak of, and where there is much to be found: deflate, which is quick,
#: says so. Ordinary talk has 3 to 9% to win, and compact() wins it.
_COPIES_UPTO = 512
_REPEATS_BELOW = 0.35
#: And copies are not looked for in what is larger.
_COPIES_AT_MOST = 1 << 20
#: Deflate takes as long as phrases do, so it is not asked where fewer than one place in so many repeats what
#: was there before, and phrases leave less than this of the text: in 2,700 sections of talk, code, tables
#: and noise it never won there. What is longer than repeats are counted in nearly always repeats itself.
_RARE = 5
_KNOWN_BELOW = 0.4


class Packer:
    """A writer's way to store sections: the smallest of a few codecs, and never more than stored.

    Attributes:
        name: in the configuration.
    """

    __slots__ = ("_codec", "_dictionary", "_patient", "name")

    def __init__(self, codec: Codec, dictionary: str | None, *, patient: bool = False) -> None:
        self.name = codec.name
        self._codec = codec
        self._dictionary = dictionary
        self._patient = patient

    def patient(self) -> Packer:
        """Return the packer for callers with time: it looks for copies everywhere."""
        return Packer(self._codec, self._dictionary, patient=True)

    def pack(self, raw: bytes) -> tuple[int, bytes]:
        """Return (codec id, stored bytes) of a section."""
        codec = self._codec
        if codec is STORED or len(raw) < _SHORTEST:
            return STORED.id, raw
        found = self._pack_huffman(raw) if codec is HUFFMAN else (codec.id, codec.encode(raw))
        return found if len(found[1]) < len(raw) else (STORED.id, raw)

    def _pack_huffman(self, raw: bytes) -> tuple[int, bytes]:
        size = len(raw)
        kernel = _backend.kernel
        copies = kernel.name == "c" and size <= _COPIES_AT_MOST
        deflated = raw
        stored = None
        if size > _COPIES_UPTO:
            # To count in Python takes longer than deflate.
            may_skip = kernel.name == "c" and not self._patient and size <= REPEATS_REACH
            if may_skip and _RARE * kernel.count_repeats(raw) < size:
                stored = HuffmanCodec.encode(raw, dictionary=self._dictionary)
                if len(stored) < _KNOWN_BELOW * size:
                    return HUFFMAN.id, stored
            deflated = DEFLATE.encode(raw)
            copies = copies and (self._patient or len(deflated) < _REPEATS_BELOW * size)
        if copies or stored is None:
            stored = HuffmanCodec.encode(raw, dictionary=self._dictionary, level=2 if copies else 1)
        return (DEFLATE.id, deflated) if len(deflated) < len(stored) else (HUFFMAN.id, stored)


def packer(name: str, dictionary: str | os.PathLike[str] | None = None) -> Packer:
    """Return the packer of a configured codec.

    Args:
        name: ``huffman``, ``lz4``, ``zstd``, ``deflate``, ``hcv1`` or ``stored``.
        dictionary: a dictionary's file for ``huffman``, instead of the one that ships; it is also
            known from now on to whatever reads an archive in this process.

    Raises:
        ConfigError: there is no such codec, or the dictionary cannot be used.
        MissingExtra: the codec's package is not installed.
    """
    codec = _BY_NAME.get(name)
    if codec is None:
        raise ConfigError(f"archive_codec must be one of {', '.join(_BY_NAME)}, {given(name)}")
    if codec in (LZ4, ZSTD):
        # Now, and not when the first messages are to move to disk.
        codec.encode(b"")
    return Packer(codec, None if dictionary is None else _use_dictionary(os.fspath(dictionary)))
