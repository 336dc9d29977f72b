"""The sessions of an archive by last use, some at a time.

To read the end of every file takes a minute for a million of them, so a folder is looked at first: no message
is younger than the file that it is in. Files are read in the order of their times of writing, and only as
many as it takes until none that is left can come before those that were read.

What was seen of the folder is kept for the pages that follow. A file that is appended to meanwhile moves to
the front, where these pages do not look; one that is new is seen by its name.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator
from heapq import heapify, heappop
from typing import NamedTuple, TypeAlias

from lix_cache.archive.facts import SessionMetadata

__all__ = ["Catalogue", "Place", "Wanted", "placed"]


class Place(NamedTuple):
    """Where a session stands: the larger comes first. Redis orders equal times in the same way.

    Attributes:
        ms: Unix milliseconds of its last use.
        name: its id, in bytes.
    """

    ms: int
    name: bytes

    @property
    def session_id(self) -> str:
        return self.name.decode("utf-8", "replace")


#: Whether a session of this stored id is asked for.
Wanted: TypeAlias = Callable[[str], bool]
Placed: TypeAlias = tuple[Place, SessionMetadata]


def placed(meta: SessionMetadata, written_ms: int | None = None) -> Place:
    """Return the place of a session.

    Args:
        meta: what is known of it.
        written_ms: when the storage says that it was written to. A clock that is behind puts the session
            where it is looked for, and not where no page would come by.
    """
    ms = round(meta.last_use * 1000)
    return Place(ms if written_ms is None else min(ms, written_ms), meta.session_id.encode())


class Catalogue:
    """What is known of a folder's sessions and their order. Safe between threads.

    Args:
        listed: yields the names of the files with their times of writing, in Unix milliseconds.
        names: returns the names alone.
        read: returns what is known of a file's session now, and its place; None if there is none.
        state: returns what is another after files came or went, and whether it can be believed.
    """

    def __init__(
        self,
        listed: Callable[[], Iterable[tuple[str, int]]],
        names: Callable[[], Iterable[str]],
        read: Callable[[str], Placed | None],
        state: Callable[[], int | None],
    ) -> None:
        self._listed, self._names, self._read, self._state = listed, names, read, state
        self._lock = threading.Lock()
        self._seen_state: int | None = None
        #: Time of writing by name; and the place of those that were read since.
        self._seen: dict[str, int] = {}
        self._places: dict[str, Place] = {}
        #: Those that were not read, the last written first, with negative times: a heap, for few are taken.
        self._unread: list[tuple[int, str]] = []
        #: Sorted, the last used at the end.
        self._known: list[tuple[Place, str]] = []
        #: What the call at work has read.
        self._fresh: dict[str, Placed] = {}

    def after(self, count: int, after: Place | None, wanted: Wanted) -> list[Placed]:
        """Return the first sessions after a place; all are looked at again where there is none."""
        with self._lock:
            self._look(anew=after is None)
            try:
                return self._found(count, after, wanted)
            finally:
                self._fresh.clear()

    def _found(self, count: int, after: Place | None, wanted: Wanted) -> list[Placed]:
        found: list[Placed] = []
        for name in self._walk(after, wanted):
            place, now = self._places[name], self._fresh.get(name) or self._read(name)
            if now is not None and now[0] < place:
                # It was taken away and has begun anew: it comes later.
                self._places[name] = now[0]
                insort(self._known, (now[0], name))
            elif now is not None and (after is None or now[0] < after):
                # Else it was used since it was seen, and has moved to the front.
                found.append((place, now[1]))
            if len(found) >= count:
                break
        return found

    def _look(self, *, anew: bool) -> None:
        # Before the names are: what comes in between is seen the next time.
        state = self._state()
        if anew or not self._seen:
            seen = dict(self._listed())
            old = self._seen
            self._places = {
                name: place for name, place in self._places.items() if seen.get(name) == old.get(name)
            }
            self._seen = seen
            self._known = sorted((place, name) for name, place in self._places.items())
            self._unread = [(-ms, name) for name, ms in seen.items() if name not in self._places]
            heapify(self._unread)
        elif state is None or state != self._seen_state:
            for name in self._names():
                if name not in self._seen:
                    self._seen[name] = 0
                    self._learn(name)
        self._seen_state = state

    def _learn(self, name: str) -> None:
        found = self._read(name)
        if found is not None:
            self._places[name], self._fresh[name] = found[0], found
            insort(self._known, (found[0], name))

    def _walk(self, after: Place | None, wanted: Wanted) -> Iterator[str]:
        """Yield the names of the files after a place, in order."""
        # Nothing is as large as the second: with it stand all that have this place.
        last = None if after is None else (after, "")
        while True:
            at = len(self._known) if last is None else bisect_left(self._known, last)
            # No unread file can have a place beyond its time of writing.
            bound = -self._unread[0][0] if self._unread else -1
            if at and self._known[at - 1][0].ms > bound:
                last = self._known[at - 1]
                # One that comes later by now stands twice in the list.
                if self._places[last[1]] == last[0] and wanted(last[0].session_id):
                    yield last[1]
            elif self._unread:
                self._learn(heappop(self._unread)[1])
            else:
                return
