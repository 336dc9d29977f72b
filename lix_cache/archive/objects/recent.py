"""The sessions of a shard that changed since its snapshot, by last use. Touches nothing."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Sequence

from lix_cache.archive.catalogue import Place
from lix_cache.archive.objects.order import entry_of
from lix_cache.archive.objects.records import Record, State

__all__ = ["Recent", "place_in"]


def place_in(session_id: str, news: Sequence[Record | State]) -> Place | None:
    """Return where a session stands by what is new of it; None if it is gone.

    Its older state is not looked at. So one to which turns come that are older than those it has stands
    behind its last use, which is allowed (``ColdTier.by_last_use``).
    """
    place: Place | None = None
    name = session_id.encode()
    for one in news:
        state = one if isinstance(one, State) else one.state
        if state is not None:
            entry = entry_of(session_id, state)
            place = None if entry is None else entry.place
        elif isinstance(one, Record) and one.token is None:
            ms = max([part.last.ms for part in one.parts], default=0)
            place = Place(ms if place is None else max(ms, place.ms), name)
    return place


class Recent:
    """Places, in order. The holder of the shard's lock calls it.

    They are brought up to date when a page asks for them: a commit costs a line in a set.

    Args:
        news_of: returns what is new of a session.
    """

    def __init__(self, news_of: Callable[[str], Sequence[Record | State]]) -> None:
        self._news_of = news_of
        self._stale: set[str] = set()
        self._places: dict[bytes, Place | None] = {}
        self._order: list[Place] = []

    def changed(self, session_id: str) -> None:
        """Hear that there is something new of a session."""
        self._stale.add(session_id)

    def clear(self) -> None:
        """Begin anew, with a newer snapshot."""
        self._stale.clear()
        self._places.clear()
        self._order.clear()

    def __contains__(self, name: bytes) -> bool:
        return name in self._places

    def settle(self) -> None:
        """Put what changed into its place."""
        many = len(self._stale) > 1 + len(self._order) // 100
        for session_id in self._stale:
            name, place = session_id.encode(), place_in(session_id, self._news_of(session_id))
            before = self._places.get(name)
            self._places[name] = place
            if not many and before is not None:
                del self._order[bisect_left(self._order, before)]
            if not many and place is not None:
                insort(self._order, place)
        if many:
            self._order = sorted(one for one in self._places.values() if one is not None)
        self._stale.clear()

    def between(self, low: Place | None, high: Place | None, most: int) -> list[Place]:
        """Return the last places before ``high``, not before ``low``, at most so many."""
        begin = 0 if low is None else bisect_left(self._order, low)
        end = len(self._order) if high is None else bisect_left(self._order, high)
        return self._order[max(begin, end - most) : end]
