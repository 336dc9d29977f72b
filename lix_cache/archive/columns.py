"""The turns of a frame as columns: what repeats is said once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from operator import sub
from typing import Any

from lix_cache.archive import times
from lix_cache.archive.index import COLUMN_SECTION, VECTOR_SECTION, WORD_SECTION
from lix_cache.errors import CodecError
from lix_cache.messages.message import MAX_DEPTH, check_json, decode_json, encode_json
from lix_cache.messages.turn import LARGEST_MS, NONCE_BYTES, MessageId, Turn
from lix_cache.storage.varints import Reader, put_varint, put_varints
from lix_cache.vectors import Vector

__all__ = ["check_ids", "decode_turns", "encode_turns"]

ROLES = ("user", "assistant", "system", "tool", "function", "developer")
ROLE, TEXT, TIME_ID, TIME, NO_METADATA, EXTRAS, VECTOR, NONCE = (1 << i for i in range(8))
#: By which flags a key of a body is said in columns.
_SAID_BY = {"role": ROLE, "content": TEXT, "timestamp": TIME_ID | TIME, "metadata": NO_METADATA}

#: A turn's flags, and its role where it has one.
Shape = tuple[int, str | None]

#: Shapes that may take turns: more would let a few bytes stand for very many turns.
_MOST_IN_A_CYCLE = 4
#: How the ids go on: the same millisecond and the next number; a new millisecond and number 0; anything.
_NEXT, _ZERO, _ANY = 0, 1, 2


# -- writing -------------------------------------------------------------------------------


def encode_turns(turns: Sequence[Turn]) -> tuple[bytes, bytes, bytes]:
    """Return the sections (columns, words, vectors) of turns sorted by id."""
    shapes: list[Shape] = []
    moments: list[tuple[int, float]] = []
    words: list[bytes] = []
    vectors: list[Vector] = []
    nonces: list[bytes] = []
    for turn in turns:
        flags, role, parts = _split(turn)
        shapes.append((flags, role))
        words += parts
        if flags & TIME:
            moments.append((turn.id.ms, turn.body["timestamp"]))
        if turn.vector is not None:
            vectors.append(turn.vector)
        if turn.nonce is not None:
            nonces.append(turn.nonce)
    columns = bytearray()
    _put_shapes(columns, shapes)
    if len(turns) > 1:
        _put_ids(columns, [turn.id for turn in turns])
    times.put(columns, moments)
    # The last one takes what is left.
    put_varints(columns, map(len, words[:-1]))
    for vector in vectors:
        columns.append(vector.kind)
        put_varint(columns, vector.dim)
    columns += b"".join(nonces)
    return bytes(columns), b"".join(words), b"".join([vector.data for vector in vectors])


def _split(turn: Turn) -> tuple[int, str | None, list[bytes]]:
    """Return a turn's flags and role, and what it has of text and extras."""
    body = turn.body
    flags = said = 0
    words = []
    role = body.get("role")
    if isinstance(role, str):
        flags = ROLE
        said = 1
    else:
        role = None
    text = body.get("content")
    if isinstance(text, str):
        flags |= TEXT
        said += 1
        words.append(text.encode("utf-8", "surrogatepass"))
    moment = body.get("timestamp")
    if type(moment) is float:
        # What the id says need not be stored.
        flags |= TIME_ID if moment == turn.id.timestamp else TIME
        said += 1
    metadata = body.get("metadata")
    if isinstance(metadata, dict) and not metadata:
        flags |= NO_METADATA
        said += 1
    if len(body) > said:
        rest = {key: value for key, value in body.items() if not flags & _SAID_BY.get(key, 0)}
        words.append(encode_json(rest))
        flags |= EXTRAS
    if turn.vector is not None:
        flags |= VECTOR
    if turn.nonce is not None:
        flags |= NONCE
    return flags, role, words


def _put_shapes(columns: bytearray, shapes: list[Shape]) -> None:
    listed = list(dict.fromkeys(shapes))
    count = len(listed)
    cycles = (
        count <= _MOST_IN_A_CYCLE
        and any(flags & (TEXT | EXTRAS) for flags, _ in listed)
        and shapes == (listed * (len(shapes) // count + 1))[: len(shapes)]
    )
    put_varint(columns, count << 1 | (not cycles))
    for flags, role in listed:
        columns.append(flags)
        if role is None:
            continue
        if role in ROLES:
            columns.append(ROLES.index(role))
            continue
        name = role.encode("utf-8", "surrogatepass")
        put_varint(columns, len(ROLES))
        put_varint(columns, len(name))
        columns += name
    if not cycles:
        numbers = {shape: number for number, shape in enumerate(listed)}
        _put_bits(columns, [numbers[shape] for shape in shapes], _width(count))


def _width(count: int) -> int:
    """Return the bits of one of ``count`` numbers, at least 1."""
    return max(1, (count - 1).bit_length())


def _put_bits(columns: bytearray, numbers: Sequence[int], width: int) -> None:
    # Eight at a time are whole bytes.
    for start in range(0, len(numbers), 8):
        part = numbers[start : start + 8]
        packed = sum(number << i * width for i, number in enumerate(part))
        columns += packed.to_bytes((len(part) * width + 7) // 8, "little")


def _put_ids(columns: bytearray, ids: Sequence[MessageId]) -> None:
    moments, numbers = zip(*ids, strict=True)
    steps = list(map(sub, moments[1:], moments))
    # No id stands twice.
    if moments[0] == moments[-1] and numbers[-1] - numbers[0] == len(steps):
        columns.append(_NEXT)
    elif all(steps) and not any(numbers[1:]):
        columns.append(_ZERO)
        put_varints(columns, steps)
    else:
        columns.append(_ANY)
        for ms, last, seq in zip(steps, numbers, numbers[1:], strict=False):
            put_varint(columns, ms)
            put_varint(columns, seq if ms else seq - last)


# -- reading -------------------------------------------------------------------------------


def decode_turns(sections: Mapping[int, bytes], first: MessageId, count: int) -> list[Turn]:
    """Return the ``count`` turns of a frame whose first id is ``first``.

    Raises:
        CodecError: the sections do not fit together.
    """
    if count == 0:  # a mark
        return []
    reader, words, vectors = (
        Reader(sections.get(kind, b"")) for kind in (COLUMN_SECTION, WORD_SECTION, VECTOR_SECTION)
    )
    # Eight turns to a byte is what shapes that do not take turns come to, and those that do
    # have a length for one turn in four: checked before lists are made.
    if count > 8 * reader.remaining:
        raise CodecError(f"{count} turns cannot be in columns of {reader.remaining} bytes")
    shapes = _get_shapes(reader, count)
    ids = _get_ids(reader, first, count)
    moments = iter(
        times.get(reader, [i.ms for i, (flags, _) in zip(ids, shapes, strict=True) if flags & TIME])
    )
    lengths = iter(_get_lengths(reader, shapes, words.remaining))
    forms = iter([(reader.take(1)[0], reader.varint()) for flags, _ in shapes if flags & VECTOR])
    nonces = iter([reader.take(NONCE_BYTES) for flags, _ in shapes if flags & NONCE])
    if not reader.at_end:
        raise CodecError("bytes are left over in the columns")
    turns = []
    for message_id, (flags, role) in zip(ids, shapes, strict=True):
        body: dict[str, Any] = {}
        if flags & ROLE:
            body["role"] = role
        if flags & TEXT:
            body["content"] = words.text(next(lengths))
        rest = _get_extras(words, next(lengths)) if flags & EXTRAS else {}
        if "content" in rest:
            body["content"] = rest.pop("content")
        if flags & TIME_ID:
            body["timestamp"] = message_id.timestamp
        if flags & TIME:
            body["timestamp"] = next(moments)
        if flags & NO_METADATA:
            body["metadata"] = {}
        body.update(rest)
        vector = _get_vector(vectors, *next(forms)) if flags & VECTOR else None
        turns.append(Turn(message_id, body, vector, next(nonces) if flags & NONCE else None))
    if not (words.at_end and vectors.at_end):
        raise CodecError("bytes are left over in a section")
    return turns


def _get_lengths(reader: Reader, shapes: Sequence[Shape], size: int) -> list[int]:
    """Return the bytes of each turn's text and extras; the last one takes what is left of ``size``."""
    count = sum((flags & TEXT > 0) + (flags & EXTRAS > 0) for flags, _ in shapes)
    lengths = [reader.varint() for _ in range(count - 1)]
    if count:
        lengths.append(max(0, size - sum(lengths)))
    return lengths


def _get_shapes(reader: Reader, count: int) -> list[Shape]:
    head = reader.varint()
    listed = head >> 1
    if not 1 <= listed <= count:
        raise CodecError(f"{listed} shapes for {count} turns")
    known = [_get_shape(reader) for _ in range(listed)]
    if not head & 1:
        if listed > _MOST_IN_A_CYCLE or not any(flags & (TEXT | EXTRAS) for flags, _ in known):
            raise CodecError(f"{listed} shapes that may not take turns do")
        return (known * (count // listed + 1))[:count]
    try:
        return [known[number] for number in _get_bits(reader, count, _width(listed))]
    except IndexError:
        raise CodecError("a shape that is not listed") from None


def _get_bits(reader: Reader, count: int, width: int) -> Iterator[int]:
    mask = (1 << width) - 1
    while count > 0:
        piece = min(count, 8)
        packed = int.from_bytes(reader.take((piece * width + 7) // 8), "little")
        for _ in range(piece):
            yield packed & mask
            packed >>= width
        if packed:
            raise CodecError("bits are left over behind the shapes")
        count -= piece


def _get_shape(reader: Reader) -> Shape:
    flags = reader.take(1)[0]
    if not flags & ROLE:
        return flags, None
    number = reader.varint()
    if number > len(ROLES):
        raise CodecError(f"a role of the number {number}")
    return flags, ROLES[number] if number < len(ROLES) else reader.text(reader.varint())


def _get_ids(reader: Reader, first: MessageId, count: int) -> list[MessageId]:
    ms, seq = first
    ids = [first]
    if count > 1:
        form = reader.take(1)[0]
        if form == _NEXT:
            ids += [MessageId(ms, seq + i) for i in range(1, count)]
        elif form == _ZERO:
            for _ in range(count - 1):
                step = reader.varint()
                ms += step
                ids.append(MessageId(ms, 0))
                if not step:
                    raise CodecError("an id stands twice")
        elif form == _ANY:
            ids += _get_any_ids(reader, first, count - 1)
        else:
            raise CodecError(f"ids of the form {form}")
    check_ids(ids)
    return ids


def _get_any_ids(reader: Reader, before: MessageId, count: int) -> Iterator[MessageId]:
    """Yield ids of which nothing is known but the one before."""
    ms, seq = before
    for _ in range(count):
        step, value = reader.varint(), reader.varint()
        if not step and not value:
            raise CodecError("an id stands twice")
        ms, seq = ms + step, value if step else seq + value
        yield MessageId(ms, seq)


def check_ids(ids: Sequence[MessageId]) -> None:
    """Refuse ids that no message can have.

    Args:
        ids: at least one, sorted.

    Raises:
        CodecError: one of them is too large.
    """
    if ids[-1].ms > LARGEST_MS or max([seq for _, seq in ids]) >= 1 << 64:
        raise CodecError(f"an id beyond {LARGEST_MS}-{(1 << 64) - 1}")


def _get_extras(reader: Reader, length: int) -> dict[str, Any]:
    data = reader.take(length)
    try:
        value = decode_json(data)
        if data.count(b"[") + data.count(b"{") > MAX_DEPTH:
            # So many may be nested: more deeply than what was written, and than can be written anew.
            for part in value.values() if isinstance(value, dict) else ():
                check_json(part, "extras", CodecError)
    except CodecError:
        raise
    except ValueError as error:
        raise CodecError(f"extras are not JSON: {error}") from None
    if not isinstance(value, dict):
        raise CodecError("extras are not a JSON object")
    return value


def _get_vector(reader: Reader, kind: int, dim: int) -> Vector:
    if kind not in (0, 1):
        raise CodecError(f"vector numbers of the kind {kind}")
    return Vector(kind, reader.take(dim * (8 if kind else 4)))
