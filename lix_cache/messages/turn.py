"""A message with its id, ready to be stored hot or cold. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from itertools import takewhile
from operator import lt
from typing import TYPE_CHECKING, Any, NamedTuple

from lix_cache.checks import kind_of
from lix_cache.errors import InvalidMessage
from lix_cache.messages.message import Message, check_json
from lix_cache.vectors import Vector, pack_vector, unpack_vector

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lix_cache.vectors import VectorLike

__all__ = [
    "FROM_ID",
    "LARGEST_MS",
    "NONCE_BYTES",
    "MessageId",
    "Turn",
    "from_turn",
    "is_id_time",
    "new_turn",
    "once",
    "parse_id",
    "parse_ids",
    "same_message",
    "sign_of",
    "sign_of_id",
    "to_turn",
    "with_id",
]


NONCE_BYTES = 6


#: The largest milliseconds of an id, the end of the year 9999: no clock is there, and no datetime goes
#: further. What says it was later is damage.
LARGEST_MS = 253_402_300_799_999


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


_new_id = partial(_new_tuple, MessageId)


def parse_ids(texts: Sequence[bytes]) -> list[MessageId]:
    """Parse ids as Redis gives them, many at once: all of it in C, because every message read needs it."""
    if not texts:
        return []
    numbers = map(int, b"-".join(texts).split(b"-"))
    return list(map(_new_id, zip(numbers, numbers, strict=True)))


def to_turn(message: Message, message_id: MessageId, nonce: bytes | None = None) -> Turn:
    """Check a message and split off its vector.

    Raises:
        InvalidMessage: not a dict, or not JSON.
        InvalidVector: the embedding is a sequence of numbers, but not a usable one.
    """
    if not isinstance(message, dict):
        raise InvalidMessage(f"a turn must be a dict, got {kind_of(message)}")
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
        raise InvalidMessage(f"the role must be a str, got {kind_of(role)}")
    if metadata is not None and not isinstance(metadata, dict):
        raise InvalidMessage(f"the metadata must be a dict or None, got {kind_of(metadata)}")
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


def sign_of(turn: Turn) -> bytes:
    """Return the 6 bytes by which a message is recognised: its nonce, or a digest of its id without one."""
    return turn.nonce or sign_of_id(turn.id)


def sign_of_id(message_id: MessageId) -> bytes:
    """Return the 6 bytes that name a message by its id alone."""
    return blake2b(str(message_id).encode(), digest_size=NONCE_BYTES).digest()


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


def is_id_time(timestamp: Any, message_id: MessageId) -> bool:
    """Whether a timestamp need not be stored, because the id says it exactly."""
    return type(timestamp) is float and timestamp == message_id.timestamp
