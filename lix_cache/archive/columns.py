"""The turns of a frame as columns: what repeats is said once."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

from lix_cache.archive.varints import Reader, put_varint
from lix_cache.errors import CodecError
from lix_cache.messages import NONCE_BYTES, MessageId, Turn, decode_json, encode_json, is_id_time
from lix_cache.vectors import Vector

__all__ = ["decode_turns", "encode_turns"]

T = TypeVar("T")

ROLES = ("user", "assistant", "system", "tool", "function", "developer")
_ROLE, _TEXT, _TIME_ID, _TIME, _NO_METADATA, _EXTRAS, _VECTOR, _NONCE = (1 << i for i in range(8))
_F64 = struct.Struct("<d")


def encode_turns(turns: Sequence[Turn]) -> tuple[bytes, bytes, bytes, bytes]:
    """Return the sections (columns, text, extras, vectors) of turns sorted by id."""
    columns = bytearray()
    split = [_split(turn) for turn in turns]
    roles = zip(turns, split, strict=True)
    _put_roles(columns, [turn.body["role"] if flags & _ROLE else None for turn, (flags, _, _) in roles])
    flags_column = bytes(flags for flags, _, _ in split)
    if len(set(flags_column)) == 1:
        columns += bytes((1, flags_column[0]))
    else:
        columns.append(0)
        columns += flags_column
    for previous, turn in pairwise(turns):
        step = turn.id.ms - previous.id.ms
        put_varint(columns, step)
        put_varint(columns, turn.id.seq if step else turn.id.seq - previous.id.seq)
    for turn, (flags, _, _) in zip(turns, split, strict=True):
        if flags & _TIME:
            columns += _F64.pack(turn.body["timestamp"])
    for _, text, _ in split:
        if text is not None:
            put_varint(columns, len(text))
    for _, _, extras in split:
        if extras is not None:
            put_varint(columns, len(extras))
    vectors = [turn.vector for turn in turns if turn.vector is not None]
    for vector in vectors:
        columns.append(vector.kind)
        put_varint(columns, vector.dim)
    for turn in turns:
        columns += turn.nonce or b""
    return (
        bytes(columns),
        b"".join(text for _, text, _ in split if text is not None),
        b"".join(extras for _, _, extras in split if extras is not None),
        b"".join(vector.data for vector in vectors),
    )


def _split(turn: Turn) -> tuple[int, bytes | None, bytes | None]:
    """Return (flags, text, extras) of one turn."""
    flags = 0
    text: bytes | None = None
    rest: dict[str, Any] = {}
    for key, value in turn.body.items():
        if key == "role" and isinstance(value, str):
            flags |= _ROLE
        elif key == "content" and isinstance(value, str):
            flags |= _TEXT
            text = value.encode("utf-8", "surrogatepass")
        elif key == "timestamp" and type(value) is float:
            flags |= _TIME_ID if is_id_time(value, turn.id) else _TIME
        elif key == "metadata" and value == {} and isinstance(value, dict):
            flags |= _NO_METADATA
        else:
            rest[key] = value
    extras = encode_json(rest) if rest else None
    if extras is not None:
        flags |= _EXTRAS
    if turn.vector is not None:
        flags |= _VECTOR
    if turn.nonce is not None:
        flags |= _NONCE
    return flags, text, extras


def _put_roles(columns: bytearray, roles: Sequence[str | None]) -> None:
    listed = sorted({role for role in roles if role is not None and role not in ROLES})
    numbers = {role: i for i, role in enumerate((*ROLES, *listed))}
    put_varint(columns, len(listed))
    for role in listed:
        data = role.encode("utf-8", "surrogatepass")
        put_varint(columns, len(data))
        columns += data
    for given in roles:
        put_varint(columns, 0 if given is None else numbers[given])


def decode_turns(sections: Mapping[int, bytes], first: MessageId, count: int) -> list[Turn]:
    """Return the ``count`` turns of a frame whose first id is ``first``.

    Raises:
        CodecError: the sections do not fit together.
    """
    if count == 0:
        return []
    reader = Reader(sections.get(1, b""))
    # Every turn has at least its role in the columns: checked before lists are made.
    if count > reader.remaining:
        raise CodecError(f"{count} turns cannot be in columns of {reader.remaining} bytes")
    roles = _get_roles(reader, count)
    flags = _get_flags(reader, count)
    ids = _get_ids(reader, first, count)
    times = _column(flags, _TIME, reader.float64)
    text_lengths = _column(flags, _TEXT, reader.varint)
    extras_lengths = _column(flags, _EXTRAS, reader.varint)
    shapes = _column(flags, _VECTOR, lambda: (reader.take(1)[0], reader.varint()))
    nonces = _column(flags, _NONCE, lambda: reader.take(NONCE_BYTES))
    texts, extras, vectors = (
        Reader(sections.get(2, b"")),
        Reader(sections.get(3, b"")),
        Reader(sections.get(4, b"")),
    )
    turns = []
    for i in range(count):
        body: dict[str, Any] = {}
        if flags[i] & _ROLE:
            body["role"] = roles[i]
        length = text_lengths[i]
        if length is not None:
            body["content"] = texts.text(length)
        rest = _get_extras(extras, extras_lengths[i])
        if "content" in rest:
            body["content"] = rest.pop("content")
        if flags[i] & _TIME_ID:
            body["timestamp"] = ids[i].timestamp
        time = times[i]
        if time is not None:
            body["timestamp"] = time
        if flags[i] & _NO_METADATA:
            body["metadata"] = {}
        body.update(rest)
        turns.append(Turn(ids[i], body, _get_vector(vectors, shapes[i]), nonces[i]))
    if not (reader.at_end and texts.at_end and extras.at_end and vectors.at_end):
        raise CodecError("bytes are left over in a section")
    return turns


def _column(flags: bytes, bit: int, read: Callable[[], T]) -> list[T | None]:
    return [read() if flag & bit else None for flag in flags]


def _get_roles(reader: Reader, count: int) -> list[str]:
    listed = reader.varint()
    if listed > count:
        raise CodecError(f"{listed} roles for {count} turns")
    names = [*ROLES, *(reader.text(reader.varint()) for _ in range(listed))]
    try:
        return [names[reader.varint()] for _ in range(count)]
    except IndexError:
        raise CodecError("a role that is not listed") from None


def _get_flags(reader: Reader, count: int) -> bytes:
    form = reader.take(1)[0]
    if form == 1:
        return reader.take(1) * count
    if form == 0:
        return reader.take(count)
    raise CodecError(f"flags of the form {form}")


def _get_ids(reader: Reader, first: MessageId, count: int) -> list[MessageId]:
    ids = [first]
    for _ in range(count - 1):
        ms, seq = ids[-1]
        step, value = reader.varint(), reader.varint()
        ids.append(MessageId(ms + step, value if step else seq + value))
        if not step and not value:
            raise CodecError("an id stands twice")
    if ids[-1].ms >= 1 << 64 or max(i.seq for i in ids) >= 1 << 64:
        raise CodecError("an id of more than 64 bits")
    return ids


def _get_extras(reader: Reader, length: int | None) -> dict[str, Any]:
    if length is None:
        return {}
    try:
        value = decode_json(reader.take(length))
    except ValueError as error:
        raise CodecError(f"extras are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CodecError("extras are not a JSON object")
    return value


def _get_vector(reader: Reader, shape: tuple[int, int] | None) -> Vector | None:
    if shape is None:
        return None
    kind, dim = shape
    if kind not in (0, 1):
        raise CodecError(f"vector numbers of the kind {kind}")
    return Vector(kind, reader.take(dim * (8 if kind else 4)))
