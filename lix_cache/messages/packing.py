"""A turn in the hot tier: bytes of a stream entry, and back. Pure.

Both tiers leave out what the id already says: a ``timestamp`` that equals the id's
milliseconds costs no byte.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from lix_cache.errors import InvalidMessage
from lix_cache.huffman_codec.short import LONGEST, TABLE, decode_short, encode_short
from lix_cache.messages.message import Message, decode_json, encode_json, encoder
from lix_cache.messages.turn import FROM_ID, NONCE_BYTES, MessageId, Turn, is_id_time
from lix_cache.vectors import Vector

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["is_repeated", "pack_hot", "unpack_hot", "unpack_window"]


_HAS_NONCE = 1
_AFTER_NONCE = 1 + NONCE_BYTES
_PLAIN_HEAD = bytes((_HAS_NONCE,))


_HAS_VECTOR = 2


_CODED = 16


_REPEATED = 32


_VECTOR_HEAD = struct.Struct("<BI")


def pack_hot(turn: Turn, *, coded: bool = False, repeated: bool = False) -> bytes:
    """Encode a turn for Redis; its id is the stream's.

    One byte says what follows: bit 0, a nonce of 6 bytes; bit 1, a vector (kind,
    dimension, numbers); bit 4, code words instead of JSON (docs/redis-layout.md); bit 5,
    that another copy may still arrive; the others are 0. Then JSON: an array
    ``[role, content, metadata, timestamp]`` without its usual tail, or an object for any
    other turn.

    Args:
        turn: what to encode.
        coded: use code words where they are shorter and the C kernel is there.
        repeated: it was sent before, and may yet be carried out twice.
    """
    if turn.vector is None and turn.nonce is not None and not (coded or repeated):
        return _PLAIN_HEAD + turn.nonce + _pack_body(turn.body, turn.id)  # nearly every message
    head = _REPEATED if repeated else 0
    parts = [b""]
    if turn.nonce is not None:
        head |= _HAS_NONCE
        parts.append(turn.nonce)
    if turn.vector is not None:
        head |= _HAS_VECTOR
        parts += (_VECTOR_HEAD.pack(turn.vector.kind, turn.vector.dim), turn.vector.data)
    body = _pack_coded(turn.body, turn.id) if coded else None
    if body is None:
        body = _pack_body(turn.body, turn.id)
    else:
        head |= _CODED
    parts.append(body)
    parts[0] = bytes((head,))
    return b"".join(parts)


#: Roles by the number they have in a coded message.
_CODED_ROLES = ("user", "assistant", "system", "tool", "function", "developer")


#: The byte before the code words: the dictionary's index, and in the upper four bits what they are:
#: 0, the JSON of any message; from 1 on, the content of one with that role and nothing unusual.
_CODED_KINDS = {role: bytes((number << 4 | TABLE,)) for number, role in enumerate(_CODED_ROLES, 1)}


_CODED_JSON = bytes((TABLE,))


def _pack_coded(body: Message, message_id: MessageId) -> bytes | None:
    """Return the kind and the code words of a body, or None where JSON is to be kept."""
    role, content = body.get("role"), body.get("content")
    if (
        type(role) is str
        and type(content) is str
        and role in _CODED_KINDS
        and len(content) <= LONGEST
        and body.keys() == _USUAL
        and body["metadata"] == {}
        and (body["timestamp"] is FROM_ID or is_id_time(body["timestamp"], message_id))
    ):
        kind, raw = _CODED_KINDS[role], content.encode("utf-8", "surrogatepass")
    else:
        kind, raw = _CODED_JSON, _pack_body(body, message_id)
    words = encode_short(raw)
    return None if words is None else kind + words


def _unpack_coded(data: bytes, start: int, message_id: MessageId) -> Message:
    kind = data[start]
    raw = decode_short(data, start + 1, kind & 15)
    if kind < 16:
        return _body_of(decode_json(raw), message_id)
    return {
        "role": _CODED_ROLES[(kind >> 4) - 1],
        "content": raw.decode("utf-8", "surrogatepass"),
        "timestamp": message_id[0] / 1000,
        "metadata": {},
    }


_USUAL = {"role", "content", "timestamp", "metadata"}


def _pack_body(body: Message, message_id: MessageId) -> bytes:
    if body.keys() != _USUAL:
        return encode_json(body)
    role, content = body["role"], body["content"]
    explicit = body["timestamp"] is not FROM_ID and not is_id_time(body["timestamp"], message_id)
    if not explicit and body["metadata"] == {} and isinstance(role, str) and isinstance(content, str):
        # Nearly every message; the same bytes in a quarter of the time.
        return f"[{encoder(role)},{encoder(content)}]".encode("utf-8", "surrogatepass")
    short = [role, content]
    if body["metadata"] != {} or explicit:
        short.append(body["metadata"])
    if explicit:
        short.append(body["timestamp"])
    return encode_json(short)


def unpack_hot(data: bytes, message_id: MessageId) -> Turn:
    """Decode what :func:`pack_hot` wrote.

    Raises:
        InvalidMessage: the bytes were not written by this library.
    """
    try:
        head = data[0]
        if head & ~(_HAS_NONCE | _HAS_VECTOR | _CODED | _REPEATED):
            raise ValueError(f"unknown form {head}")
        start = 1
        nonce = vector = None
        if head & _HAS_NONCE:
            nonce = data[start : start + NONCE_BYTES]
            start += NONCE_BYTES
        if head & _HAS_VECTOR:
            kind, dim = _VECTOR_HEAD.unpack_from(data, start)
            start += _VECTOR_HEAD.size
            if kind not in (0, 1):
                raise ValueError(f"vector numbers of the kind {kind}")
            size = dim * (8 if kind else 4)
            vector = Vector(kind, data[start : start + size])
            start += size
        if head & _CODED:
            return Turn(message_id, _unpack_coded(data, start, message_id), vector, nonce)
        return Turn(message_id, _body_of(decode_json(data[start:]), message_id), vector, nonce)
    except (ValueError, IndexError, TypeError, struct.error) as error:
        why = type(error).__name__
    # Raised out here: Python's own errors may carry the message.
    raise InvalidMessage(f"message {message_id} in Redis cannot be read ({why})")


def _body_of(value: Any, message_id: MessageId) -> Message:
    if isinstance(value, dict):
        return value
    if not isinstance(value, list):
        raise TypeError(f"a message must be an array or an object, not {type(value).__name__}")
    if len(value) == 2:
        role, content = value
        return {"role": role, "content": content, "timestamp": message_id[0] / 1000, "metadata": {}}
    role, content, *rest = value
    return {
        "role": role,
        "content": content,
        "timestamp": rest[1] if len(rest) > 1 else message_id.timestamp,
        "metadata": rest[0] if rest else {},
    }


def is_repeated(data: bytes) -> bool:
    """Whether another copy of a message in Redis may still arrive."""
    return bool(data) and bool(data[0] & _REPEATED)


def unpack_window(rows: Sequence[tuple[MessageId, bytes]]) -> list[Turn]:
    """Decode many messages, as :func:`unpack_hot` decodes one.

    The bodies of all of them are read as one JSON array, which takes half the time.

    Raises:
        InvalidMessage: one was not written by this library.
    """
    try:
        return _unpack_batch(rows)
    except (ValueError, IndexError, TypeError):
        # One by one, with vectors and all, or to find the one that is to blame.
        return [unpack_hot(data, message_id) for message_id, data in rows]


def _unpack_batch(rows: Sequence[tuple[MessageId, bytes]]) -> list[Turn]:
    # For each message its nonce, and the message itself if it was coded; None where it is among the bodies.
    found: list[tuple[bytes | None, Message | None]] = []
    bodies = []
    for message_id, data in rows:
        head = data[0]
        if head == _HAS_NONCE:
            found.append((data[1:_AFTER_NONCE], None))
            body = data[_AFTER_NONCE:]
        elif head == _CODED | _HAS_NONCE:
            found.append((data[1:_AFTER_NONCE], _unpack_coded(data, _AFTER_NONCE, message_id)))
            continue
        elif head == 0:
            found.append((None, None))
            body = data[1:]
        else:
            raise ValueError("not as usual")
        # Begun and ended by itself: no two of them can pass for one.
        if body[0] != _ARRAY_BEGINS or body[-1] != _ARRAY_ENDS:
            raise ValueError("not as usual")
        bodies.append(body)
    values = decode_json(b"[%b]" % b",".join(bodies)) if bodies else []
    if len(values) != len(bodies):
        # An array that ended in the middle of a body makes one too many.
        raise ValueError("not as usual")
    left = iter(values)
    turns = []
    for (message_id, _), (nonce, message) in zip(rows, found, strict=True):
        if message is None:
            value = next(left)
            if type(value) is list and len(value) == 2:
                role, content = value
                when = message_id[0] / 1000
                message = {"role": role, "content": content, "timestamp": when, "metadata": {}}
            else:
                message = _body_of(value, message_id)
        turns.append(Turn(message_id, message, None, nonce))
    return turns


_ARRAY_BEGINS, _ARRAY_ENDS = b"[]"
