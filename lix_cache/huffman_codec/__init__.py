"""Canonical Huffman coding of bytes. Needs nothing, imports nothing."""

from __future__ import annotations

from lix_cache.huffman_codec._native import decode_v1, encode_v1

__all__ = ["HuffmanCodec", "decode_bytes", "encode_str"]


class HuffmanCodec:
    """Compress bytes with a canonical Huffman code of their own frequencies.

    The format is HCv1: ``"HCv1"``, uint32 length, uint16 number of symbols, a byte
    pair (symbol, code length) for each in (length, symbol) order, uint32 number of
    padding bits, then the code words, most significant bit first. All integers are
    little-endian.
    """

    @staticmethod
    def encode(data: bytes) -> bytes:
        """Return the HCv1 stream of up to 2³² − 1 bytes.

        Raises:
            CodecError: the input is longer than the format can say.
        """
        return encode_v1(bytes(memoryview(data)))

    @staticmethod
    def decode(data: bytes) -> bytes:
        """Return what was encoded. No bytes at all decode to no bytes.

        Raises:
            CodecError: not an HCv1 stream, or a damaged one. Memory stays below eight
                times the input for any input.
        """
        return decode_v1(bytes(memoryview(data)))


def encode_str(text: str) -> bytes:
    """Return the HCv1 stream of a text's UTF-8."""
    return HuffmanCodec.encode(text.encode("utf-8"))


def decode_bytes(data: bytes) -> str:
    """Return the text that :func:`encode_str` encoded.

    Raises:
        CodecError: not an HCv1 stream, or not of UTF-8.
    """
    from lix_cache.errors import CodecError

    try:
        return HuffmanCodec.decode(data).decode("utf-8")
    except UnicodeDecodeError as error:
        raise CodecError(f"the stream decodes to bytes that are not UTF-8: {error}") from None
