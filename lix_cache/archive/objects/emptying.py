"""Which segments of a shard a compaction empties: those of which little is in use, and those that hold what
was deleted. docs/object-layout.md
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from lix_cache.archive.objects.records import Part, State
from lix_cache.archive.objects.segment import Segment
from lix_cache.archive.objects.shard import Shard

__all__ = ["BUNDLE_BYTES", "BUNDLE_SESSIONS", "Plan", "plan_for"]

#: A bundle ends when its frames take this much: 64 blocks, so that the last one is a small part of it. Or
#: with so many sessions: others wait as long as it takes to decide on it.
BUNDLE_BYTES = 256 * 1024
BUNDLE_SESSIONS = 1024
#: Segments with less in use are worth moving. Half a bundle: no more than half of one lies idle for long.
SMALL_BYTES = BUNDLE_BYTES // 2
_SMALL_SESSIONS = BUNDLE_SESSIONS // 2


@dataclass
class Plan:
    """What a compaction empties in a shard.

    Attributes:
        erasing: segments that hold what was deleted. All that lives in them moves.
        small: segments of which little is in use, all of it by sessions that can be moved now; with the bytes
            of them that no bundle has taken out yet.
        is_for_all: it is a compaction of the whole shard.
    """

    erasing: frozenset[int] = frozenset()
    small: Counter[int] = field(default_factory=Counter)
    is_for_all: bool = False

    def has(self, part: Part) -> bool:
        """Whether the segment of a part is to be emptied."""
        return part.segment in self.erasing or part.segment in self.small

    def emptied(self, states: Iterable[State]) -> int:
        """Return how many small segments are empty when all frames of some sessions have left them."""
        leaving = self._leaving(states)
        return sum(size >= self.small[number] for number, size in leaving.items())

    def take_out(self, states: Iterable[State]) -> None:
        """Note that all frames of some sessions have left their segments."""
        self.small.subtract(self._leaving(states))

    def _leaving(self, states: Iterable[State]) -> Counter[int]:
        leaving: Counter[int] = Counter()
        for state in states:
            for part in state.all_parts():
                if part.segment is not None and part.segment in self.small:
                    leaving[part.segment] += part.length
        return leaving


def plan_for(shard: Shard, can_move: Callable[[str, State], bool]) -> Plan:
    """Look at all sessions of a shard, and at the indexes of its older segments.

    Args:
        shard: all that others have committed is known.
        can_move: whether a session can be moved now for no better reason than to save space.
    """
    used: Counter[int] = Counter()
    users: Counter[int] = Counter()
    free: Counter[int] = Counter()
    lasting: Counter[int] = Counter()
    for session_id, state in shard.states():
        is_free, stays = can_move(session_id, state), _lasting(state)
        for part in state.all_parts():
            number = part.segment or 0
            users[number] += 1
            used[number] += part.length
            free[number] += part.length * is_free
            lasting[number] += part.length * (part in stays)
    # The younger ones are not collected yet, and more may be deleted from them until they are.
    erasing = frozenset(
        number
        for number, found in shard.old_segments(used)
        if found is None or _holds_deleted(shard, number, found, lasting[number])
    )
    small = {
        number: size
        for number, size in used.items()
        if size < SMALL_BYTES and users[number] < _SMALL_SESSIONS and free[number] == size
    }
    return Plan(erasing, Counter({number: small[number] for number in small.keys() - erasing}), True)


def _lasting(state: State) -> frozenset[Part]:
    """Return the parts that stay as they are: a session of which turns were taken out gets others."""
    return frozenset(state.but(parts=()).all_parts() if state.hidden else state.all_parts())


def _holds_deleted(shard: Shard, number: int, found: Segment, lasting: int) -> bool:
    """Whether there is a frame in a segment that no session has any more, with anything that was deleted."""
    there: dict[str, set[Part]] = {}
    for record in found.records:
        parts = record.parts if record.state is None else record.state.all_parts()
        there.setdefault(record.session_id, set()).update(part for part in parts if part.segment == number)
    if sum(part.length for parts in there.values() for part in parts) <= lasting:
        return False
    for session_id, parts in there.items():
        if parts:
            state = shard.state(session_id)
            # All that was deleted since is older than what the session has: what only moved on is left there.
            is_deleted = not state.is_there or state.erased > number + 1
            if is_deleted and not parts <= _lasting(state):
                return True
    return False
