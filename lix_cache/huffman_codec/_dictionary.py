"""A dictionary: what a ``.lixt`` file holds, checked.

docs/huffman-format.md is the specification. The only file it opens is the one it is told to.
"""

from __future__ import annotations

import struct
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

from lix_cache._cached_property import cached_property
from lix_cache.errors import CodecError, InvalidInput, InvalidType

if TYPE_CHECKING:
    import os

__all__ = ["LONGEST_CODE", "LONGEST_PHRASE", "Dictionary"]

LONGEST_PHRASE = 64
LONGEST_CODE = 24
_MAGIC = b"LXPT"
_SIZES = struct.Struct("<II")
_CRC = struct.Struct("<I")
#: 65,536 phrases of 64 bytes with two lengths and a code length each are all a file may unpack to.
_LARGEST = 65536 * (LONGEST_PHRASE + 3)
_loaded: dict[str | bytes, Dictionary] = {}


class Dictionary:
    """Phrases and the code lengths of their canonical code.

    Only what every user needs is worked out when it is made; the rest when asked for.

    Attributes:
        id: its name, for people.
        number: its four bytes, for streams; of the contents alone.
        raw: phrases and code lengths as the format packs them.
        count: number of phrases.
        compiled: a kernel's own form of it, kept here so that it is built once.
    """

    def __init__(self, id: str, raw: bytes, count: int) -> None:  # noqa: A002 - the format's word
        # hashlib's own, without the OpenSSL that hashlib loads first: a tenth of a process's
        # first message. Other builds of Python may lack the module, not the function.
        try:
            from _blake2 import blake2b
        except ImportError:
            from hashlib import blake2b

        self.id = id
        self.raw = raw
        self.count = count
        self.number = blake2b(raw, digest_size=16).digest()[:4]
        self.compiled: object = None

    def __repr__(self) -> str:
        return f"<Dictionary {self.id!r} number {self.number.hex()}, {self.count} phrases>"

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Dictionary:
        """Return the dictionary in a file. It is read once in a process.

        Raises:
            OSError: it cannot be read.
            CodecError: it is not a dictionary, or a damaged one.
        """
        # Most callers pass the same string every time; __fspath__ is what os.fspath calls.
        if isinstance(path, type) or (not isinstance(path, (str, bytes)) and not hasattr(path, "__fspath__")):
            raise InvalidType(f"the path of a dictionary must be a text or a path, got {type(path).__name__}")
        key = path if isinstance(path, (str, bytes)) else path.__fspath__()
        dictionary = _loaded.get(key)
        if dictionary is None:
            try:
                file = open(key, "rb")  # noqa: SIM115 - closed below
            except ValueError:
                # A zero in it, or half of a surrogate pair.
                raise InvalidInput("the path of a dictionary is none that a file system holds") from None
            with file:
                dictionary = cls.parse(file.read(_LARGEST), str(key))
            _loaded[key] = dictionary
        return dictionary

    @classmethod
    def parse(cls, data: bytes, name: str = "the dictionary") -> Dictionary:
        """Return the dictionary of a file's bytes; ``name`` is for the errors.

        Raises:
            CodecError: these are not a dictionary's, or they are damaged.
        """
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise InvalidType(f"data must be a bytes-like object, got {type(data).__name__}")
        if data[:4] != _MAGIC:
            raise CodecError(f"{name} is not a dictionary")
        if len(data) < 6 + _SIZES.size + _CRC.size or len(data) < 6 + data[5] + _SIZES.size + _CRC.size:
            raise CodecError(f"{name} is cut short")
        if data[4] != 1:
            raise CodecError(f"{name} is a dictionary of version {data[4]}, which is not known here")
        start = 6 + data[5]
        count, size = _SIZES.unpack_from(data, start)
        end = len(data) - _CRC.size
        if _CRC.unpack_from(data, end)[0] != zlib.crc32(data[:end]):
            raise CodecError(f"{name} is damaged: its check does not agree")
        if not 256 <= count <= 65536 or size > _LARGEST:
            raise CodecError(f"{name} says that it has {count} phrases in {size} bytes")
        unpacker = zlib.decompressobj()
        try:
            raw = unpacker.decompress(data[start + _SIZES.size : end], size + 1)
            identity = data[6:start].decode("ascii")
        except (zlib.error, UnicodeDecodeError) as error:
            raise CodecError(f"{name} is damaged: {error}") from None
        if len(raw) != size or not unpacker.eof or unpacker.unused_data:
            raise CodecError(f"{name} does not unpack to the {size} bytes that it says")
        return cls(identity, raw, count)

    @cached_property
    def lengths(self) -> bytes:
        """The code length of each phrase."""
        return self.raw[-self.count :]

    @cached_property
    def phrases(self) -> list[bytes]:
        """The phrases, in ascending order.

        Raises:
            CodecError: the contents are not what the format says.
        """
        raw = self.raw
        end = len(raw) - self.count
        phrases: list[bytes] = []
        add = phrases.append
        phrase = b""
        at = 0
        # One byte of each phrase's two lengths may be missing; zip would hide that.
        while at + 1 < end and len(phrases) < self.count:
            shared = raw[at]
            after = at + 2 + raw[at + 1]
            if shared > len(phrase):
                break
            phrase = phrase[:shared] + raw[at + 2 : after]
            add(phrase)
            at = after
        if at != end or len(phrases) != self.count:
            raise CodecError(f"dictionary {self.id!r}: the phrases do not fit")
        self._check(phrases)
        return phrases

    def _check(self, phrases: list[bytes]) -> None:
        if not all(a < b for a, b in pairwise(phrases)):
            raise CodecError(f"dictionary {self.id!r}: the phrases are not in ascending order")
        if not phrases[0] or max(map(len, phrases)) > LONGEST_PHRASE:
            raise CodecError(f"dictionary {self.id!r}: a phrase has 0 or more than {LONGEST_PHRASE} bytes")
        if sum(len(phrase) == 1 for phrase in phrases) != 256:
            raise CodecError(f"dictionary {self.id!r}: a single byte is not a phrase")
        counts = [self.lengths.count(length) for length in range(LONGEST_CODE + 1)]
        kraft = sum(count << (LONGEST_CODE - length) for length, count in enumerate(counts))
        if counts[0] or sum(counts) != self.count or kraft != 1 << LONGEST_CODE:
            raise CodecError(f"dictionary {self.id!r}: the code lengths do not make a complete code")
