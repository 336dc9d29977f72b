"""A message and its bytes.

A *message* is what users see: ``{"role", "content", "timestamp", "metadata"}`` and,
where one was given, ``"embedding"``. A :class:`Turn` is the same thing with its id,
ready to be stored hot or cold. Both tiers leave out what the id already says: a
``timestamp`` that equals the id's milliseconds costs no byte.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import lt
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from lix_cache.errors import InvalidMessage, InvalidSessionId
from lix_cache.huffman_codec.short import LONGEST, TABLE, decode_short, encode_short
from lix_cache.vectors import Vector, pack_vector, unpack_vector

if TYPE_CHECKING:
    from lix_cache.vectors import VectorLike

__all__ = [
    "LARGEST_MS",
    "Message",
    "MessageId",
    "Turn",
    "check_json",
    "check_session_id",
    "decode_json",
    "encode_json",
    "from_turn",
    "is_repeated",
    "message_text",
    "new_turn",
    "once",
    "pack_hot",
    "parse_id",
    "same_message",
    "to_turn",
    "unpack_hot",
    "unpack_window",
    "with_id",
]

#: What users pass and receive.
Message: TypeAlias = dict[str, Any]

NONCE_BYTES = 6
#: The largest milliseconds of an id, the end of the year 9999: no clock is there, and no datetime goes
#: further. What says it was later is damage.
LARGEST_MS = 253_402_300_799_999
MAX_SESSION_ID_BYTES = 65_536
MAX_DEPTH = 200
_HAS_NONCE = 1
_HAS_VECTOR = 2
_CODED = 16
_REPEATED = 32
_VECTOR_HEAD = struct.Struct("<BI")


class MessageId(NamedTuple):
    """A Redis stream id: unique within its session, and the order of its messages.

    Attributes:
        ms: Unix milliseconds.
        seq: tells apart the messages of one millisecond.
    """

    ms: int
    seq: int

    def __str__(self) -> str:
        return f"{self.ms}-{self.seq}"

    @property
    def timestamp(self) -> float:
        """Unix seconds."""
        return self.ms / 1000

    def successor(self) -> MessageId:
        """Return the smallest id that is larger."""
        return MessageId(self.ms, self.seq + 1) if self.seq < 2**64 - 1 else MessageId(self.ms + 1, 0)

    def predecessor(self) -> MessageId:
        """Return the largest id that is smaller."""
        return MessageId(self.ms, self.seq - 1) if self.seq else MessageId(self.ms - 1, 2**64 - 1)


ZERO_ID = MessageId(0, 0)

#: Stands for "the id's milliseconds" in the body of a turn that has no id yet.
FROM_ID: Any = object()


@dataclass(frozen=True, init=False)
class Turn:
    """A message with its id.

    Attributes:
        id: unique within the session.
        body: every key of the message except its vector.
        vector: the message's embedding.
        nonce: 6 random bytes, where it must be possible to recognise a message that
            may have been stored twice.
    """

    id: MessageId
    body: Message
    vector: Vector | None = None
    nonce: bytes | None = None

    def __init__(
        self,
        id: MessageId,  # noqa: A002 - the field's name
        body: Message,
        vector: Vector | None = None,
        nonce: bytes | None = None,
    ) -> None:
        # The one a frozen dataclass generates takes more than twice as long, and each
        # get_context makes as many turns as it returns messages.
        own = self.__dict__
        own["id"] = id
        own["body"] = body
        own["vector"] = vector
        own["nonce"] = nonce


_new_tuple = tuple.__new__


def parse_id(text: bytes | str) -> MessageId:
    """Parse ``b"1700000000000-0"``."""
    ms, _, seq = (text if isinstance(text, bytes) else text.encode()).partition(b"-")
    # Past the constructor of a named tuple, which takes as long as all the rest.
    return _new_tuple(MessageId, (int(ms), int(seq or 0)))


def check_session_id(session_id: object) -> str:
    """Return the id if it can name a session.

    Any text can, whatever it looks like: ids are data and never become a path, a
    pattern or a command. Refused are other types, the empty string, lone surrogates
    (they have no UTF-8) and more than 65,536 bytes.

    Raises:
        InvalidSessionId: with the reason.
    """
    if not isinstance(session_id, str):
        raise InvalidSessionId(f"a session id must be a str, got {type(session_id).__name__}")
    if not session_id:
        raise InvalidSessionId("a session id must not be empty")
    try:
        size = len(session_id.encode())
    except UnicodeEncodeError:
        size = -1
    if size < 0:
        raise InvalidSessionId("a session id must be encodable as UTF-8, and holds half a surrogate pair")
    if size > MAX_SESSION_ID_BYTES:
        raise InvalidSessionId(
            f"a session id must have at most {MAX_SESSION_ID_BYTES} bytes of UTF-8, got {size}"
        )
    return session_id


#: Keys that every message has: they are named in errors.
_OWN_KEYS = frozenset(("role", "content", "timestamp", "metadata", "embedding"))


def check_json(value: Any, where: str, error: type[Exception] = InvalidMessage) -> None:
    """Refuse what JSON would lose or change: NaN, bytes, objects, keys that are not text.

    Tuples are accepted and come back as lists. Nesting is limited to 200 levels, so
    that whatever was stored can be read back.
    """
    stack: list[tuple[Any, str, int]] = [(value, where, 0)]
    while stack:
        item, path, depth = stack.pop()
        if item is None or isinstance(item, (str, bool, int)):
            continue
        if isinstance(item, float):
            if not math.isfinite(item):
                raise error(f"{path} is {item}, which JSON cannot carry; use None or a string")
        elif depth >= MAX_DEPTH:
            raise error(f"{where} is nested more than {MAX_DEPTH} levels deep")
        elif isinstance(item, (list, tuple)):
            stack.extend((child, f"{path}[{i}]", depth + 1) for i, child in enumerate(item))
        elif isinstance(item, dict):
            for number, (key, child) in enumerate(item.items(), 1):
                if not isinstance(key, str):
                    kind = type(key).__name__
                    raise error(f"{path} has a key of type {kind}, key number {number}; JSON keys are text")
                # A key may be content, as its value may.
                shown = repr(key) if not depth and key in _OWN_KEYS else f"key number {number}"
                stack.append((child, f"{path}[{shown}]", depth + 1))
        else:
            raise error(
                f"{path} is a {type(item).__name__}, which JSON cannot carry; "
                "convert it to text, numbers, lists or dicts first"
            )


_encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode
_decoder = json.JSONDecoder().raw_decode


def encode_json(value: Any) -> bytes:
    """Encode a checked value compactly. Lone surrogates survive (see docs/archive-format.md)."""
    try:
        return _encoder(value).encode("utf-8", "surrogatepass")
    except ValueError:
        pass
    # Raised out here: Python's own errors may carry the value.
    raise InvalidMessage(
        "a value cannot be written as JSON; Python writes no integer of more than some 4,300 digits"
    )


def decode_json(data: bytes) -> Any:
    """Decode what :func:`encode_json` wrote.

    Raises:
        ValueError: the bytes are not JSON.
    """
    text = data.decode("utf-8", "surrogatepass")
    try:
        try:
            value, end = _decoder(text)
        except ValueError:
            end = -1
        # What we wrote has no space around it, and looking for some takes longer than
        # reading a short message. json.loads has the last word on anything else.
        return value if end == len(text) else json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def to_turn(message: Message, message_id: MessageId, nonce: bytes | None = None) -> Turn:
    """Check a message and split off its vector.

    Raises:
        InvalidMessage: not a dict, or not JSON.
        InvalidVector: the embedding is a sequence of numbers, but not a usable one.
    """
    if not isinstance(message, dict):
        raise InvalidMessage(f"a turn must be a dict, got {type(message).__name__}")
    vector = None
    body = message
    embedding = message.get("embedding")
    if embedding is not None and _looks_like_vector(embedding):
        vector = pack_vector(embedding)
        body = {key: value for key, value in message.items() if key != "embedding"}
    for key, value in body.items():
        if not isinstance(value, str) or not isinstance(key, str):
            check_json(body, "the message")
            break
    return Turn(message_id, body, vector, nonce)


def new_turn(
    role: str,
    content: Any,
    metadata: dict[str, Any] | None,
    embedding: VectorLike | None,
    timestamp: float | None,
    nonce: bytes,
) -> Turn:
    """Check what a user wants to add. The turn has no id yet: :func:`with_id` gives it one.

    Raises:
        InvalidMessage: not JSON, or the role is not text.
        InvalidVector: the embedding is not a usable vector.
    """
    if not isinstance(role, str):
        raise InvalidMessage(f"the role must be a str, got {type(role).__name__}")
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidMessage(f"the metadata must be a dict or None, got {type(metadata).__name__}")
    if not isinstance(content, str):
        check_json(content, "the content")
    if metadata:
        check_json(metadata, "the metadata")
    if timestamp is not None:
        check_json(timestamp, "the timestamp")
    body: Message = {
        "role": role,
        "content": content,
        "timestamp": FROM_ID if timestamp is None else timestamp,
        "metadata": metadata or {},
    }
    vector = None if embedding is None else pack_vector(embedding)
    return Turn(ZERO_ID, body, vector, nonce)


def with_id(turn: Turn, message_id: MessageId) -> Turn:
    """Return the turn under its id; a timestamp left to the id is filled in."""
    body = turn.body
    if body.get("timestamp") is FROM_ID:
        body = {**body, "timestamp": message_id.timestamp}
    return Turn(message_id, body, turn.vector, turn.nonce)


def same_message(one: Turn, other: Turn) -> bool:
    """Whether two turns under one id are copies of one message.

    An id alone does not say so: a server that took over from a dead one, or whose clock went
    back, gives ids that the archive holds already. The nonce decides. It is missing from
    turns that were compacted long after they were added, and from those of the old package;
    there the contents decide.
    """
    if one.nonce is not None and other.nonce is not None:
        return one.nonce == other.nonce
    return one.body == other.body and one.vector == other.vector


def once(turns: Iterable[Turn]) -> list[Turn]:
    """Return the turns in order of their ids, each message once.

    Of the copies of a message under one id the first given stays; of those under several
    ids (one nonce: it reached Redis twice) the one with the smallest. Different messages
    under one id all stay, in the order given.
    """
    turns = list(turns)
    ids = [turn.id for turn in turns]
    if all(map(lt, ids, ids[1:])) and len({turn.nonce for turn in turns}) == len(turns):
        # As nearly every window is.
        return turns
    seen: set[bytes] = set()
    kept: list[Turn] = []
    for turn in sorted(turns, key=lambda turn: turn.id):
        if turn.nonce is not None:
            if turn.nonce in seen:
                continue
            seen.add(turn.nonce)
        if kept and kept[-1].id == turn.id:
            rivals = takewhile(lambda earlier, at=turn.id: earlier.id == at, reversed(kept))  # type: ignore[misc]
            if any(same_message(earlier, turn) for earlier in rivals):
                continue
        kept.append(turn)
    return kept


def _looks_like_vector(value: Any) -> bool:
    if hasattr(value, "__array__"):
        return True
    if not isinstance(value, (list, tuple)):
        return False
    return bool(value) and all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in value)


def from_turn(turn: Turn) -> Message:
    """Return the message as users see it."""
    if turn.vector is None:
        return turn.body
    return {**turn.body, "embedding": unpack_vector(turn.vector)}


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
#: The byte before the code words: the table's index, and in the upper four bits what they are:
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
        return f"[{_encoder(role)},{_encoder(content)}]".encode("utf-8", "surrogatepass")
    short = [role, content]
    if body["metadata"] != {} or explicit:
        short.append(body["metadata"])
    if explicit:
        short.append(body["timestamp"])
    return encode_json(short)


def is_id_time(timestamp: Any, message_id: MessageId) -> bool:
    """Whether a timestamp need not be stored, because the id says it exactly."""
    return type(timestamp) is float and timestamp == message_id.timestamp


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
        return _unpack_together(rows)
    except (ValueError, IndexError, TypeError):
        # One by one, with vectors and all, or to find the one that is to blame.
        return [unpack_hot(data, message_id) for message_id, data in rows]


def _unpack_together(rows: Sequence[tuple[MessageId, bytes]]) -> list[Turn]:
    nonces: list[bytes | None] = []
    bodies = []
    # The messages that were coded; None where one is among the bodies.
    coded: list[Message | None] = []
    for message_id, data in rows:
        head = data[0]
        if head == _CODED | _HAS_NONCE:
            nonces.append(data[1 : 1 + NONCE_BYTES])
            coded.append(_unpack_coded(data, 1 + NONCE_BYTES, message_id))
            continue
        if head == _HAS_NONCE:
            nonces.append(data[1 : 1 + NONCE_BYTES])
            body = data[1 + NONCE_BYTES :]
        elif head == 0:
            nonces.append(None)
            body = data[1:]
        else:
            raise ValueError("not as usual")
        # Begun and ended by itself: no two of them can pass for one.
        if body[0] != _ARRAY_BEGINS or body[-1] != _ARRAY_ENDS:
            raise ValueError("not as usual")
        bodies.append(body)
        coded.append(None)
    values = decode_json(b"[%b]" % b",".join(bodies)) if bodies else []
    if len(values) != len(bodies):
        # An array that ended in the middle of a body makes one too many.
        raise ValueError("not as usual")
    left = iter(values)
    turns = []
    for row, message, nonce in zip(rows, coded, nonces, strict=True):
        if message is None:
            message_id, value = row[0], next(left)
            if len(value) == 2 and type(value) is list:
                role, content = value
                when = message_id[0] / 1000
                message = {"role": role, "content": content, "timestamp": when, "metadata": {}}
            else:
                message = _body_of(value, message_id)
        turns.append(Turn(row[0], message, None, nonce))
    return turns


_ARRAY_BEGINS, _ARRAY_ENDS = b"[]"


def message_text(message: Message) -> str:
    """Return the readable text of a message: its content, or the text parts of a list."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [p if isinstance(p, str) else p.get("text") for p in content if isinstance(p, (str, dict))]
        joined = " ".join(t for t in texts if isinstance(t, str))
        if joined:
            return joined
    return "" if content is None else encode_json(content).decode("utf-8", "replace")
