"""Entries of the semantic cache: bytes to meaning and back. Pure.

Where a byte stands is said in lua/answers/scope.lua: the scripts read some of them. What comes
from Redis is checked before it is believed.
"""

from __future__ import annotations

import hashlib
import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.checks import kind_of
from lix_cache.errors import InvalidInput, RedisCommandError

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = [
    "GROUP_BYTES",
    "LARGE_BYTES",
    "NONCE_BYTES",
    "EntryId",
    "Meta",
    "Record",
    "Tokens",
    "foreign",
    "order_of",
    "pack_fixed",
    "pack_meaning",
    "pack_record",
    "part_field",
    "response_key",
    "tag_words",
    "text_digest",
    "unpack_groups",
    "unpack_meaning",
    "unpack_meta",
    "unpack_record",
]

GROUP_BYTES = 8
#: Bytes of a response from which it is encoded and decoded in a thread under asyncio.
LARGE_BYTES = 64 * 1024
NONCE_BYTES = 8
_TAG_BYTES = 8
KEY_BYTES = 16
_META = struct.Struct("<15s15s15s16s16s8s8s10s10s")
_RECORD = struct.Struct("<15s15s8s8sII")
_RECORD_FIXED = struct.Struct("<8s8sII")
_TOKEN = re.compile(r"\A[A-Za-z0-9._-]{1,200}\Z")
_STREAM_ID = re.compile(r"\A[0-9]{1,20}-[0-9]{1,20}\Z")
_MOST = 10**10 - 1


def text_digest(text: str) -> bytes:
    """Return 16 bytes that stand for a text."""
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=KEY_BYTES).digest()


def response_key(*parts: bytes) -> bytes:
    """Return 16 bytes that stand for a response; the first 8 are its answer group's by default."""
    digest = hashlib.blake2b(digest_size=KEY_BYTES)
    for part in parts:
        digest.update(part)
    return digest.digest()


def part_field(key: bytes, number: int) -> bytes:
    """Return the field under which a part of a large response is kept, as the scripts name it."""
    return b"%s:%d" % (key, number)


def tag_words(tags: Iterable[str]) -> bytes:
    """Return 8 bytes for each tag.

    Raises:
        InvalidInput: one is not a str, or a single str was given for the list.
    """
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise InvalidInput(f"tags must be a list of str, got {kind_of(tags)}")
    words = []
    for tag in tags:
        if not isinstance(tag, str):
            raise InvalidInput(f"a tag must be a str, got {kind_of(tag)}")
        data = tag.encode("utf-8", "surrogatepass")
        words.append(hashlib.blake2b(data, digest_size=_TAG_BYTES, person=b"tag").digest())
    return b"".join(sorted(set(words)))


@dataclass(frozen=True)
class Tokens:
    """What a call to the model would have cost.

    Attributes:
        prompt: tokens of its input.
        completion: tokens of its answer.
    """

    prompt: int = 0
    completion: int = 0

    @classmethod
    def of(cls, pair: tuple[int, int]) -> Tokens:
        """Read (prompt, completion).

        Raises:
            InvalidInput: not two whole numbers, at least 0.
        """
        numbers = list(pair) if isinstance(pair, (tuple, list)) else []
        if len(numbers) != 2 or not all(
            isinstance(n, int) and not isinstance(n, bool) and n >= 0 for n in numbers
        ):
            raise InvalidInput("tokens must be (prompt, completion), two whole numbers, at least 0")
        return cls(*numbers)


@dataclass(frozen=True)
class Meta:
    """What is known of an entry, without its text and response. Times in Unix milliseconds."""

    expires_ms: float
    created_ms: float
    response_key: bytes
    group: bytes
    nonce: bytes
    tokens: Tokens

    @property
    def response_label(self) -> int:
        """What a report calls the response, as :func:`unpack_groups` reads it."""
        return int.from_bytes(self.response_key[:GROUP_BYTES], "little", signed=True)


@dataclass(frozen=True)
class Record:
    """One record of the log: all that a lookup needs to decide.

    Attributes:
        number: the entry's number, a stream id.
        expires_ms: when it ends at the latest.
        nonce: 8 random bytes, the same in the entry: a number that was given anew does
            not lead to another answer.
        group: 8 bytes, equal for entries that answer the same.
        text: the query text.
        vector: shape (dim,), unit length.
        answer: the response's vector, shape (dim,); None if answers are compared by
            their bytes.
    """

    number: bytes
    expires_ms: float
    nonce: bytes
    group: bytes
    text: str
    vector: FloatArray
    answer: FloatArray | None


@dataclass(frozen=True)
class EntryId:
    """An entry as the application names it: ``NUMBER.NONCE``.

    It does not say the scope, so it means nothing outside the caller's own; and within that, only
    one who has been given the random nonce can name the entry.
    """

    number: bytes
    nonce: bytes

    def __str__(self) -> str:
        return f"{self.number.decode()}.{self.nonce.hex()}"

    @classmethod
    def parse(cls, text: object) -> EntryId | None:
        """Read what ``str`` made; None for another token, which no entry can have.

        Raises:
            InvalidInput: it is no token at all.
        """
        number, _, nonce = text.partition(".") if isinstance(text, str) else ("", "", "")
        if _STREAM_ID.match(number) and re.fullmatch(r"[0-9a-f]{16}", nonce):
            return cls(number.encode(), bytes.fromhex(nonce))
        if isinstance(text, str) and _TOKEN.match(text):
            return None
        raise InvalidInput("this is not the id of an entry; use entry_id of a Lookup, or what store returned")


def order_of(number: bytes) -> tuple[int, int]:
    """Return what a stream id is compared by."""
    ms, _, n = bytes(number).partition(b"-")
    return int(ms), int(n)


def foreign(what: str, data: object) -> RedisCommandError:
    """Return the error for bytes that this library did not write."""
    size = f", {len(data)} bytes" if isinstance(data, bytes) else ""
    return RedisCommandError(f"{what} of the semantic cache holds foreign data ({type(data).__name__}{size})")


def pack_fixed(
    *,
    response_key: bytes,
    text_digest: bytes,
    group: bytes,
    nonce: bytes,
    tokens: Tokens,
    tags: bytes,
) -> bytes:
    """Return an entry's meta without its times, which the server's clock gives."""
    counts = b"%010d%010d" % (min(tokens.prompt, _MOST), min(tokens.completion, _MOST))
    return response_key + text_digest + group + nonce + counts + tags


def unpack_groups(packed: Any) -> frozenset[int]:
    """Return the labels of answer groups that stand one after the other, as an index has them."""
    size = GROUP_BYTES
    return frozenset(
        int.from_bytes(packed[i : i + size], "little", signed=True) for i in range(0, len(packed), size)
    )


def unpack_meta(data: Any) -> Meta:
    """Read an entry's meta.

    Raises:
        RedisCommandError: it is something else.
    """
    try:
        expires, created, _, key, _, group, nonce, prompt, completion = _META.unpack_from(data)
        return Meta(
            expires_ms=float(int(expires)),
            created_ms=float(int(created)),
            response_key=key,
            group=group,
            nonce=nonce,
            tokens=Tokens(int(prompt), int(completion)),
        )
    except (struct.error, ValueError, TypeError):
        raise foreign("an entry", data) from None


def pack_record(
    *, nonce: bytes, group: bytes, text: str, vector: FloatArray, answer: FloatArray | None = None
) -> bytes:
    """Return a record of the log without its times."""
    data = text.encode("utf-8", "surrogatepass")
    head = _RECORD_FIXED.pack(nonce, group, len(data), vector.size)
    return head + data + vector.tobytes() + (b"" if answer is None else answer.tobytes())


def pack_meaning(number: bytes, nonce: bytes, vector: FloatArray) -> bytes:
    """Return the row of the log that gives an entry's response its vector."""
    return nonce + vector.astype("<f4").tobytes() + number


def unpack_meaning(data: Any, dim: int) -> tuple[bytes, bytes, FloatArray]:
    """Read such a row: number and nonce of the entry, and the vector.

    Raises:
        RedisCommandError: it is something else.
    """
    import numpy as np

    try:
        end = NONCE_BYTES + 4 * dim
        nonce, number = bytes(data[:NONCE_BYTES]), bytes(data[end:])
        vector = np.frombuffer(data, "<f4", dim, NONCE_BYTES)
        if not _STREAM_ID.match(number.decode("ascii")):
            raise ValueError
        return number, nonce, vector
    except (ValueError, TypeError):
        raise foreign("the log", data) from None


def unpack_record(number: Any, data: Any, dim: int) -> Record:
    """Read a record of the log. Its vectors are not looked at yet.

    Args:
        number: its stream id.
        data: its bytes.
        dim: how many numbers its vectors must have; it may have no vector at all.

    Raises:
        RedisCommandError: it is something else.
    """
    import numpy as np

    try:
        expires, _, nonce, group, length, size = _RECORD.unpack_from(data)
        start = _RECORD.size + length
        numbers = (len(data) - start) // 4
        if size not in (0, dim) or numbers not in (size, 2 * size):
            raise ValueError
        vectors = np.frombuffer(data, "<f4", numbers, start) if numbers else np.empty(0, np.float32)
        return Record(
            number=bytes(number),
            expires_ms=float(int(expires)),
            nonce=nonce,
            group=group,
            text=data[_RECORD.size : start].decode("utf-8", "surrogatepass"),
            vector=vectors[:size],
            answer=vectors[size:] if numbers > size else None,
        )
    except (struct.error, ValueError, TypeError):
        raise foreign("the log", data) from None
