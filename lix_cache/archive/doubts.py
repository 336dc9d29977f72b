"""The nonces of messages that Redis may hold as well, under another id. Touches no file.

A frame that carries doubts holds them at its end, so that a writer reads them without the rest.
They only say where to look closer: a message whose nonce is in doubt is looked for in the whole
file before it is left out, so a doubt too many does no harm, and one that is missing may double
a message.

Frames with doubts form a chain, the last one first. One that is added takes over those before it
that are not much larger than itself. So each is a few times as large as the one after it, the
chain of n doubts has about log n frames, and no doubt is written more often than that. What a
later append reads of them is 6 bytes each.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from zlib import crc32

from lix_cache.messages.turn import NONCE_BYTES, Turn

__all__ = ["Doubts", "Link", "doubts_size", "unpacked"]

#: A frame's doubts are taken over by one of which they are not more than so many times the number.
_TIMES = 4
_CRC_BYTES = 4


@dataclass(frozen=True)
class Link:
    """One frame of the chain.

    Attributes:
        packed: the nonces that it carries, sorted, one after the other. They are searched as they
            are: to make a set of them for every append would take longer than all the rest.
        before: where the frame before it in the chain begins; 0 if there is none.
    """

    packed: bytes
    before: int

    def __len__(self) -> int:
        return len(self.packed) // NONCE_BYTES

    def __contains__(self, nonce: bytes | None) -> bool:
        if nonce is None:
            return False
        place = bisect_left(range(len(self)), nonce, key=self._at)
        return place < len(self) and self._at(place) == nonce

    def __iter__(self) -> Iterator[bytes]:
        return map(self._at, range(len(self)))

    def _at(self, number: int) -> bytes:
        return self.packed[number * NONCE_BYTES : (number + 1) * NONCE_BYTES]


@dataclass(frozen=True)
class Doubts:
    """What a frame that is about to be written carries.

    Attributes:
        nonces: at least one; none, and ``at`` 0, where a chain that is broken ends here.
        at: where the frame will begin.
        before: where the frame before it in the chain begins; 0 if there is none.
    """

    nonces: frozenset[bytes]
    at: int
    before: int = 0

    @classmethod
    def of(cls, turns: Iterable[Turn], at: int, also: Iterable[bytes] = (), before: int = 0) -> Doubts:
        """Return the doubts about these turns, and others. What has no nonce cannot be recognised."""
        nonces = frozenset(turn.nonce for turn in turns if turn.nonce is not None).union(also)
        return cls(nonces, at if nonces else before, before)

    @classmethod
    def linked(cls, turns: Iterable[Turn], at: int, head: int, chain: Sequence[Link]) -> Doubts | None:
        """Return the doubts about these turns and what they take over; None if there is nothing to say.

        Args:
            turns: that the frame holds.
            at: where it will begin.
            head: where the last frame of the chain begins.
            chain: its frames, the last one first.
        """
        taken = {turn.nonce for turn in turns if turn.nonce is not None}
        if not taken:
            return None
        for link in chain:
            if len(link) > _TIMES * len(taken):
                break
            taken.update(link)
            head = link.before
        return cls(frozenset(taken), at, head)

    def packed(self) -> bytes:
        """Return the bytes that a frame ends with."""
        if not self.nonces:
            return b""
        data = b"".join(sorted(self.nonces))
        return data + crc32(data).to_bytes(_CRC_BYTES, "little")


def doubts_size(count: int) -> int:
    """Return how many bytes so many doubts take."""
    return count * NONCE_BYTES + _CRC_BYTES if count else 0


def unpacked(data: bytes, before: int) -> Link | None:
    """Return the doubts that a frame ends with; None if they are damaged."""
    packed = data[:-_CRC_BYTES]
    if crc32(packed) != int.from_bytes(data[-_CRC_BYTES:], "little"):
        return None
    return Link(packed, before)
