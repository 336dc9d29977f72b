"""Which of the turns to append are new to a file, and under which ids. Touches no file.

A message is its id *and* its nonce. Under one id two messages can meet: a server that took
over from a dead one, or whose clock went back, numbers from where it stands, and the archive
may hold messages of its predecessor there. Both were acknowledged, so both stay, and the
later one gets another id. Under two ids one message can meet itself: an add that was not
answered went to the archive, and the server still carried it out, at whatever time.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from lix_cache.messages.turn import MessageId, Turn, same_message, with_id

__all__ = ["AGAIN", "Known", "local_id", "newcomers"]

#: Added to the sequence number of a message whose id is taken: more than any that Redis or
#: docs/archive-format.md ("Ids made locally") gives, so the order within the millisecond stays.
AGAIN = 1 << 47

_LOCAL_SEQ = 1 << 46
#: From here on the next millisecond is taken. A double, in which Redis compares numbers, holds
#: twice this number exactly.
_LARGEST_SEQ = 1 << 52


@dataclass
class Known:
    """What a file holds of the turns that are about to be appended.

    Attributes:
        turns: by id, all of them with ids from the first to be appended on.
        nonces: of these turns, and of all that Redis may hold another copy of.
    """

    turns: dict[MessageId, Turn] = field(default_factory=dict)
    nonces: set[bytes] = field(default_factory=set)

    def add(self, turns: Iterable[Turn]) -> None:
        """Note turns of the file."""
        for turn in turns:
            self.turns[turn.id] = turn
            if turn.nonce is not None:
                self.nonces.add(turn.nonce)


def newcomers(turns: Sequence[Turn], known: Known) -> list[Turn]:
    """Return the turns that are not in the file, under ids that are free there.

    A turn whose id another message has is numbered anew, within its millisecond and behind
    all that Redis gave out there. So are the others of that millisecond, also when they come
    in a later append: those that follow it stay behind it.

    Args:
        turns: sorted by id.
        known: what the file holds.

    Returns:
        Sorted by id.
    """
    crowded = {message_id.ms for message_id in known.turns if message_id.seq >= AGAIN}
    there = dict(known.turns)
    fresh = []
    for turn in turns:
        if turn.nonce is not None and turn.nonce in known.nonces:
            continue
        twin = there.get(turn.id)
        if twin is not None and same_message(twin, turn):
            continue
        ids = _ids_for(turn.id, renumber=turn.id.ms in crowded)
        free = next(one for one in ids if one not in there or same_message(there[one], turn))
        if free in there:
            # It was numbered anew before, and then the mover was stopped.
            continue
        if free != turn.id:
            crowded.add(turn.id.ms)
            turn = with_id(turn, free)
        there[free] = turn
        fresh.append(turn)
    return sorted(fresh, key=lambda turn: turn.id)


def _ids_for(wanted: MessageId, *, renumber: bool) -> Iterator[MessageId]:
    """Yield the ids that a message may have, the wanted one first unless its millisecond is crowded."""
    seq = wanted.seq + AGAIN if renumber and wanted.seq < AGAIN else wanted.seq
    while True:
        yield MessageId(wanted.ms, seq)
        seq += AGAIN


def local_id(last: MessageId, now: float) -> MessageId:
    """Return an id larger than ``last`` that Redis will never give (docs/archive-format.md)."""
    ms = int(now * 1000)
    if last.ms < ms or last.seq >= _LARGEST_SEQ:
        return MessageId(max(ms, last.ms + 1), _LOCAL_SEQ | random.getrandbits(46))
    if last.seq >= _LOCAL_SEQ:
        return MessageId(last.ms, last.seq + 1 + random.getrandbits(16))
    return MessageId(last.ms, _LOCAL_SEQ | random.getrandbits(46))
