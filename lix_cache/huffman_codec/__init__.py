"""Canonical Huffman coding of bytes and of phrases. Needs nothing, imports nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lix_cache.errors import CodecError, InvalidInput, InvalidType
from lix_cache.huffman_codec import _backend
from lix_cache.huffman_codec._dictionary import Dictionary
from lix_cache.huffman_codec._native import MAGIC
from lix_cache.huffman_codec._v2 import decode_v2, encode_v2

if TYPE_CHECKING:
    import os

__all__ = ["HuffmanCodec", "decode_bytes", "encode_str"]


class HuffmanCodec:
    """Compress bytes with canonical Huffman codes.

    Format 2 (HCv2) codes phrases of a dictionary that ships with the package, or bytes, or
    stores them, the shortest of the three. Format 1 (HCv1) codes bytes with a code of their
    own frequencies, and is what ``lix-open-cache`` reads. Both are in
    ``docs/huffman-format.md``.
    """

    @staticmethod
    def encode(
        data: bytes,
        *,
        format: int = 2,  # noqa: A002 - the name that users of codecs expect
        dictionary: str | os.PathLike[str] | None = None,
        level: int = 1,
    ) -> bytes:
        """Return the stream of a bytes-like object.

        Args:
            data: what to encode. Format 1 holds up to 2³² − 1 bytes.
            format: 2, or 1 for streams that ``lix-open-cache`` can read.
            dictionary: a dictionary's file, instead of the one that ships; read once in the
                life of a process. Decoding needs the same file.
            level: 1, or 2 to look for repetitions, too: smaller where a text repeats itself, at a
                tenth of the speed. Decoding is as fast.

        Raises:
            InvalidType: it is no bytes-like object.
            CodecError: the input is longer than the format can say, or the dictionary is not one.
            InvalidInput: there is no such format or level, or format 1 was asked to use a dictionary.
        """
        data = _octets(data, "; for text there is lix_cache.huffman_codec.encode_str")
        if type(level) is not int or level not in (1, 2):
            raise InvalidInput(f"level must be 1 or 2, {_told(level)}")
        if type(format) is not int or format not in (1, 2):
            raise InvalidInput(f"format must be 1 or 2, {_told(format)}")
        if format == 2:
            return encode_v2(data, None if dictionary is None else Dictionary.load(dictionary), level=level)
        if dictionary is not None:
            raise InvalidInput("format 1 has no dictionaries")
        return _backend.kernel.encode_v1(data)

    @staticmethod
    def decode(data: bytes, *, dictionary: str | os.PathLike[str] | None = None) -> bytes:
        """Return what was encoded, in either format. No bytes at all decode to no bytes.

        Args:
            data: a stream.
            dictionary: the file of the dictionary it was encoded with, if that is not one that ships.

        Raises:
            InvalidType: it is no bytes-like object.
            CodecError: not a stream, a damaged one, or one whose dictionary is not here. No more
                memory is taken for the result than the stream's bits can produce.
        """
        data = _octets(data)
        # Half of the values of a first byte are a mode of HCv2, or would be one.
        if data and data[0] & 0x80:
            return decode_v2(data, None if dictionary is None else Dictionary.load(dictionary))
        if data and data[: len(MAGIC)] != MAGIC[: len(data)]:
            raise CodecError(f"neither an HCv1 nor an HCv2 stream: it starts with {data[:4]!r}")
        return _backend.kernel.decode_v1(data)


def _told(value: object) -> str:
    return f"got {value}" if type(value) is int and abs(value) < 1 << 64 else f"got {type(value).__name__}"


def _octets(data: object, advice: str = "") -> bytes:
    """Return the bytes of a bytes-like object.

    Raises:
        InvalidType: it is something else, or not in one piece.
    """
    if type(data) is bytes:
        return data
    try:
        return bytes(memoryview(data))  # type: ignore[arg-type]
    except TypeError:
        hint = advice if isinstance(data, str) else ""
        raise InvalidType(f"data must be a bytes-like object, got {type(data).__name__}{hint}") from None


def encode_str(text: str, *, format: int = 2) -> bytes:  # noqa: A002
    """Return the stream of a text's UTF-8, in the format of that number.

    Raises:
        TypeError: it is no str.
        CodecError: it holds half of a surrogate pair, which has no UTF-8.
    """
    if not isinstance(text, str):
        raise TypeError(
            f"encode_str needs a str, got {type(text).__name__}; for bytes there is HuffmanCodec.encode"
        )
    try:
        data = text.encode("utf-8")
    except UnicodeEncodeError as error:
        # Not the error itself, which holds the text.
        raise CodecError(
            f"the text has no UTF-8: character {error.start} is half of a surrogate pair; "
            "encode it with errors='surrogatepass' and give the bytes to HuffmanCodec.encode"
        ) from None
    return HuffmanCodec.encode(data, format=format)


def decode_bytes(data: bytes) -> str:
    """Return the text that :func:`encode_str` encoded.

    Raises:
        TypeError: it is no bytes-like object.
        CodecError: not a stream, or not of UTF-8.
    """
    try:
        return HuffmanCodec.decode(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CodecError(f"the stream decodes to bytes that are not UTF-8: {error}") from None
