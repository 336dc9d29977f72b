"""Frames with columns of the first form: read, and no more written."""

from __future__ import annotations

from collections.abc import Mapping

from lix_cache.archive.columns import (
    EXTRAS,
    ROLE,
    ROLES,
    TEXT,
    TIME,
    Shape,
    TurnColumns,
    assemble,
    check_ids,
    get_any_ids,
)
from lix_cache.errors import CodecError
from lix_cache.messages.turn import MessageId, Turn
from lix_cache.storage.varints import Reader

__all__ = ["decode_turns_1"]


def decode_turns_1(sections: Mapping[int, bytes], first: MessageId, count: int) -> list[Turn]:
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
    ids = [first, *get_any_ids(reader, first, count - 1)]
    check_ids(ids)
    moments = [reader.float64() for flag in flags if flag & TIME]
    texts = iter([reader.varint() for flag in flags if flag & TEXT])
    extras = iter([reader.varint() for flag in flags if flag & EXTRAS])
    lengths = [
        next(column) for flag in flags for bit, column in ((TEXT, texts), (EXTRAS, extras)) if flag & bit
    ]
    shapes: list[Shape] = [
        (flag, role if flag & ROLE else None) for flag, role in zip(flags, roles, strict=True)
    ]
    columns = TurnColumns(shapes, ids, moments, lengths, reader)
    rest = (Reader(sections.get(kind, b"")) for kind in (2, 3, 4))
    return assemble(columns, *rest)


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
