"""The messages that Redis may hold as well, under another id: nonce and id of each. Touches no file.

A frame that carries doubts holds them at its end, so that they are read without the rest. To a
writer they say where to look closer: a message whose nonce is in doubt is looked for in the whole
file before it is left out. To a reader they say which copy counts. A message that was taken out of the
session is in doubt as *gone*: no copy of it counts, and none is appended. One that is missing may double a
message. One that was sent again by its key while Redis was away is in doubt as a *repeat*: a copy under
a smaller id was there before, and counts in its place (repeats.py). A doubt that is named by an id and not
by a nonce says under which id the message is by now. One too many does no harm to a message, but each is
sent to Redis by every ``clear`` and kept by the note of a deletion: so only messages are in doubt of which a
copy may come.

Frames with doubts form a chain, the last one first. One that is added takes over those before it
that are not much larger than itself. So each is a few times as large as the one after it, the
chain of n doubts has about log n frames, and no doubt is written more often than that. What a
later append reads of them is 22 bytes each.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from zlib import crc32

from lix_cache.messages.turn import NONCE_BYTES, MessageId, Turn

__all__ = [
    "Doubts",
    "Link",
    "as_gone",
    "as_repeat",
    "doubts_about",
    "doubts_size",
    "found_in",
    "id_before",
    "is_gone",
    "is_repeat",
    "unpacked",
]

#: A frame's doubts are taken over by one of which they are not more than so many times the number.
_TIMES = 4
_CRC_BYTES = 4
#: Nonce, ms and seq.
_DOUBT = struct.Struct(f"<{NONCE_BYTES}sQQ")
#: Of the ms of a message that is gone; no time is as large.
_GONE = 1 << 63
#: Of the ms of a message that was sent again by its key.
_REPEAT = 1 << 62


def as_gone(message_id: MessageId) -> MessageId:
    """Return what stands in a doubt for a message that was taken out, from the id that it had."""
    return MessageId(message_id.ms | _GONE, message_id.seq)


def is_gone(doubted: MessageId) -> bool:
    """Whether a doubt says that its message was taken out."""
    return doubted.ms >= _GONE


def id_before(doubted: MessageId) -> MessageId:
    """Return the id that a message has, or had before it was taken out."""
    return MessageId(doubted.ms & (_REPEAT - 1), doubted.seq)


def as_repeat(message_id: MessageId) -> MessageId:
    """Return what stands in a doubt for a message that was sent again by its key, from the id it got here."""
    return MessageId(message_id.ms | _REPEAT, message_id.seq)


def is_repeat(doubted: MessageId) -> bool:
    """Whether a doubt says that its message yields to a copy under a smaller id."""
    return _REPEAT <= doubted.ms < _GONE


@dataclass(frozen=True)
class Link:
    """One frame of the chain.

    Attributes:
        packed: what it carries, sorted by nonce, one after the other. It is searched as it is: to
            make a set of it for every append would take longer than all the rest.
        before: where the frame before it in the chain begins; 0 if there is none.
    """

    packed: bytes
    before: int = 0

    @classmethod
    def of(cls, ids: Mapping[bytes, MessageId]) -> Link:
        """Return a chain of one that says this."""
        return cls(_packed(ids))

    def __len__(self) -> int:
        return len(self.packed) // _DOUBT.size

    def __contains__(self, nonce: object) -> bool:
        if not isinstance(nonce, bytes):
            return False
        return self.get(nonce) is not None

    def get(self, nonce: bytes) -> MessageId | None:
        """Return what is said of a nonce."""
        place = bisect_left(range(len(self)), nonce, key=self._at)
        if place == len(self) or self._at(place) != nonce:
            return None
        _, ms, seq = _DOUBT.unpack_from(self.packed, place * _DOUBT.size)
        return MessageId(ms, seq)

    def __iter__(self) -> Iterator[bytes]:
        return map(self._at, range(len(self)))

    def _at(self, number: int) -> bytes:
        start = number * _DOUBT.size
        return self.packed[start : start + NONCE_BYTES]

    def items(self) -> Iterator[tuple[bytes, MessageId]]:
        """Yield the nonces with the ids under which the file has the messages."""
        for nonce, ms, seq in _DOUBT.iter_unpack(self.packed):
            yield nonce, MessageId(ms, seq)


@dataclass(frozen=True)
class Doubts:
    """What a frame that is about to be written carries.

    Attributes:
        ids: by nonce, at least one; none, and ``at`` 0, where a chain that is broken ends here.
        at: where the frame will begin.
        before: where the frame before it in the chain begins; 0 if there is none.
    """

    ids: Mapping[bytes, MessageId]
    at: int
    before: int = 0

    @classmethod
    def alone(cls, ids: Mapping[bytes, MessageId], at: int) -> Doubts:
        """Return doubts that are all there are: with them a chain begins."""
        return cls(ids, at if ids else 0)

    @classmethod
    def linked(cls, ids: Mapping[bytes, MessageId], at: int, head: int, chain: Sequence[Link]) -> Doubts:
        """Return these doubts and what they take over.

        Args:
            ids: of messages that the frame holds, at least one.
            at: where it will begin.
            head: where the last frame of the chain begins.
            chain: its frames, the last one first.
        """
        taken = dict(ids)
        for link in chain:
            if len(link) > _TIMES * len(taken):
                break
            # The later one counts: a message whose frame was damaged may have come again.
            taken = {**dict(link.items()), **taken}
            head = link.before
        return cls(taken, at, head)

    def packed(self) -> bytes:
        """Return the bytes that a frame ends with."""
        if not self.ids:
            return b""
        data = _packed(self.ids)
        return data + crc32(data).to_bytes(_CRC_BYTES, "little")


def _packed(ids: Mapping[bytes, MessageId]) -> bytes:
    return b"".join(_DOUBT.pack(nonce, *ids[nonce]) for nonce in sorted(ids))


def found_in(chain: Iterable[Link], nonce: bytes) -> MessageId | None:
    """Return what a chain says of a nonce, its last frame first; None if nothing."""
    return next((said for link in chain if (said := link.get(nonce)) is not None), None)


def doubts_about(turns: Iterable[Turn], *among: Container[bytes]) -> dict[bytes, MessageId]:
    """Return the ids of the turns whose nonces are among some; of all if none are named.

    What has no nonce cannot be recognised.
    """
    # Nothing is in doubt of almost every window.
    if among and not any(among):
        return {}
    return {
        turn.nonce: turn.id
        for turn in turns
        if turn.nonce is not None and (not among or any(turn.nonce in some for some in among))
    }


def doubts_size(count: int) -> int:
    """Return how many bytes so many doubts take."""
    return count * _DOUBT.size + _CRC_BYTES if count else 0


def unpacked(data: bytes, before: int) -> Link | None:
    """Return the doubts that a frame ends with; None if they are damaged."""
    packed = data[:-_CRC_BYTES]
    if crc32(packed) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        return None
    return Link(packed, before)
