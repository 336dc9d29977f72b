"""Who does the work: the C extension where it was built, otherwise Python.

``LIX_CACHE_PURE=1`` in the environment forces Python. Both give the same bytes and the
same errors; what the C code does not recognise it hands to the Python code, which says
what is wrong, so that there is one set of words for it.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, NamedTuple

from lix_cache.errors import CodecError
from lix_cache.huffman_codec import _bytecode, _copies, _native, _phrases

if TYPE_CHECKING:
    from collections.abc import Callable

    from lix_cache.huffman_codec._dictionary import Dictionary

__all__ = ["PURE", "Kernel", "kernel", "native_kernel"]


class Kernel(NamedTuple):
    """The functions that touch every byte.

    Attributes:
        name: ``"python"`` or ``"c"``.
    """

    name: str
    encode_v1: Callable[[bytes], bytes]
    decode_v1: Callable[[bytes], bytes]
    encode_bytecode: Callable[[bytes, int], bytes | None]
    decode_bytecode: Callable[[bytes, int], bytes]
    encode_phrases: Callable[[Dictionary, bytes], tuple[bytes, int]]
    decode_phrases: Callable[[Dictionary, bytes, int], bytes]
    encode_copies: Callable[[Dictionary, bytes], bytes]
    decode_copies: Callable[[Dictionary, bytes, int], bytes]
    count_repeats: Callable[[bytes], int]


PURE = Kernel(
    "python",
    _native.encode_v1,
    _native.decode_v1,
    _bytecode.encode_bytecode,
    _bytecode.decode_bytecode,
    _phrases.encode_phrases,
    _phrases.decode_phrases,
    _copies.encode_copies,
    _copies.decode_copies,
    _copies.count_repeats,
)


def native_kernel() -> Kernel | None:
    """Return the kernel in C, or None where the extension was not built."""
    try:
        from lix_cache.huffman_codec import _speedups
    except ImportError:
        return None
    return _wrap(_speedups)


def _wrap(speedups: Any) -> Kernel:
    c_decode_v1 = speedups.decode_v1
    c_decode_bytecode = speedups.decode_bytecode
    c_encode_phrases = speedups.encode_phrases
    c_decode_phrases = speedups.decode_phrases
    c_encode_copies = speedups.encode_copies
    c_decode_copies = speedups.decode_copies

    def compiled(dictionary: Dictionary) -> object:
        made = speedups.compile_table(dictionary.raw, dictionary.count)
        if made is None:
            # Raises, and says what is wrong, unless the two disagree.
            dictionary.phrases  # noqa: B018
            raise CodecError("the C extension refuses a dictionary that the Python code accepts")
        dictionary.compiled = made
        return made

    def decode_v1(data: bytes) -> bytes:
        decoded: bytes | None = c_decode_v1(data)
        return _native.decode_v1(data) if decoded is None else decoded

    def decode_bytecode(payload: bytes, raw_length: int) -> bytes:
        decoded: bytes | None = c_decode_bytecode(payload, raw_length)
        return _bytecode.decode_bytecode(payload, raw_length) if decoded is None else decoded

    def encode_phrases(dictionary: Dictionary, data: bytes) -> tuple[bytes, int]:
        done: tuple[bytes, int] = c_encode_phrases(dictionary.compiled or compiled(dictionary), data)
        return done

    def decode_phrases(dictionary: Dictionary, bits: bytes, raw_length: int) -> bytes:
        decoded: bytes = c_decode_phrases(dictionary.compiled or compiled(dictionary), bits, raw_length)
        return decoded

    def encode_copies(dictionary: Dictionary, data: bytes) -> bytes:
        done: bytes = c_encode_copies(dictionary.compiled or compiled(dictionary), data)
        return done

    def decode_copies(dictionary: Dictionary, bits: bytes, raw_length: int) -> bytes:
        decoded: bytes = c_decode_copies(dictionary.compiled or compiled(dictionary), bits, raw_length)
        return decoded

    return Kernel(
        "c",
        speedups.encode_v1,
        decode_v1,
        speedups.encode_bytecode,
        decode_bytecode,
        encode_phrases,
        decode_phrases,
        encode_copies,
        decode_copies,
        speedups.count_repeats,
    )


def _choose() -> Kernel:
    if os.environ.get("LIX_CACHE_PURE", "0") not in ("", "0"):
        return PURE
    return native_kernel() or PURE


#: The kernel in use.
kernel = _choose()
