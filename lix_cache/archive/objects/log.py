"""What a process knows of a shard's log, and how it learns it. docs/object-layout.md"""

from __future__ import annotations

import os
import threading
from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import NamedTuple, TypeVar

from lix_cache.archive.catalogue import Place
from lix_cache.archive.objects import layout, segment, snapshot
from lix_cache.archive.objects.head import Head
from lix_cache.archive.objects.opened import Kept, OpenSnapshot, SnapshotGone
from lix_cache.archive.objects.order import Entry, entry_of
from lix_cache.archive.objects.recent import Recent
from lix_cache.archive.objects.records import EMPTY, Part, Record, State, decoded, folded, marks_of
from lix_cache.clock import Clock
from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.objects import Bucket
from lix_cache.storage.parallel import side_by_side

__all__ = ["GRACE_SECONDS", "SIDE_BY_SIDE", "SNAPSHOT_EVERY", "ShardLog"]

#: Segments after which a snapshot shortens the way of those who come new.
SNAPSHOT_EVERY = 256
#: What nothing refers to is kept for so long: others may be about to read it.
GRACE_SECONDS = 86_400.0
#: Requests that are sent at once beside the first, at most.
SIDE_BY_SIDE = 7
#: How often the newest snapshot is opened, because the one before was collected meanwhile.
_OPENED_AGAIN = 5
#: Sessions that changed since the snapshot, of which a page looks at once.
_AT_ONCE = 64
T = TypeVar("T")


class _Silence(NamedTuple):
    """A request that got no answer: which one it was of all, of what kind, and what was said."""

    number: int = 0
    kind: str = ""
    text: str = ""


class ShardLog:
    """The sessions of a shard by its newest snapshot and the segments since. Safe between threads.

    Args:
        bucket: where the objects are.
        number: of the shard.
        clock: time.
        counters: of the tier.
        kept: what is kept of snapshots, of all shards.
        grace_seconds: how long what nothing refers to is kept.
        inherited: the state of a session of which neither snapshot nor log says anything.
    """

    def __init__(
        self,
        bucket: Bucket,
        number: int,
        clock: Clock,
        counters: Counter[str],
        kept: Kept,
        *,
        grace_seconds: float = GRACE_SECONDS,
        snapshot_every: int = SNAPSHOT_EVERY,
        inherited: Callable[[str], State] = lambda _: EMPTY,
    ) -> None:
        self.number = number
        self._inherited = inherited
        self._bucket = bucket
        self._clock = clock
        self._counters = counters
        self._kept = kept
        self._grace = grace_seconds
        self._every = snapshot_every
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._silence = _Silence()
        self._is_known = False
        self._next = self._looked = 0
        self._is_deciding = False
        self._base = OpenSnapshot(self._bucket, self.number, snapshot.Header(), self._kept)
        #: Sessions that are marked as pending.
        self._pending: dict[str, None] = {}
        #: What the segments since the snapshot say of each session.
        self._since: dict[str, list[Record | State]] = {}
        self._numbers: dict[str, list[int]] = {}
        #: What sessions were at the snapshot, during a commit, which asks for each of its own more than once.
        self._decoded: dict[str, State] | None = None
        self._recent = Recent(self._since.__getitem__)
        #: The stored ids in ``_since``, sorted, by how many segments were known then.
        self._names: tuple[int, list[str]] = (-1, [])
        self._seen_end = (0.0, 0.0)

    # -- knowing ------------------------------------------------------------------------------

    def synced(self) -> None:
        """Learn what others have committed until now: one request where there is nothing new."""
        self.in_turn(self._sync)

    def start_over(self) -> None:
        """Forget what is known: the next look begins with the newest snapshot."""
        with self._held():
            self._is_known = False

    def state(self, session_id: str) -> State:
        """Return what is known of a session."""
        return self._looked_at(partial(self._state, session_id))

    def states_of(self, session_ids: Sequence[str]) -> list[State]:
        """Return what is known of some sessions, by one look."""
        return self._looked_at(lambda: [self._state(session_id) for session_id in session_ids])

    def states(self, marks: int = 0) -> Iterator[tuple[str, State]]:
        """Yield every session that is known of, sorted by the bytes of the stored id.

        Between two of them others may commit. What was there before and is there after is among them.

        Args:
            marks: those that have one of these marks (records.py); all by default.
        """
        begin: str | None = ""
        while begin is not None:
            group, begin, base = self._looked_at(partial(self._states_from, begin, marks))
            for session_id, found in group:
                # Decoded here: nothing that others do waits for it.
                yield session_id, base.decoded(found) if isinstance(found, bytes) else found

    def used_before(self, place: Place | None) -> list[Entry]:
        """Return some of the sessions before a place, the last used first; none if there are no more."""
        return self._looked_at(partial(self._used_before, place))

    def _looked_at(self, look: Callable[[], T]) -> T:
        """Look at what is known; again at a newer snapshot where the one that is known was collected."""
        with self._held():
            if self._is_deciding:
                # What was decided until here rests on the old one: the commit begins anew.
                return look()
            for _ in range(_OPENED_AGAIN):
                if not self._is_known:
                    self._sync()
                try:
                    return look()
                except SnapshotGone:
                    self._is_known = False
            raise self._too_late()

    def _too_late(self) -> ArchiveUnavailable:
        return ArchiveUnavailable(
            f"the snapshots of shard {self.number} went while they were read; try again"
        )

    def _states_from(
        self, name: str, marks: int
    ) -> tuple[list[tuple[str, State | bytes]], str | None, OpenSnapshot]:
        """Return the next states, some as they stand in the snapshot, where they end, and the snapshot."""
        if self._names[0] != self._next:
            self._names = self._next, sorted(self._since)
        packed, end = self._base.states_from(name)
        names = self._names[1]
        new = names[bisect_left(names, name) : None if end is None else bisect_left(names, end)]
        found: list[tuple[str, State | bytes]] = []
        for session_id in sorted({*packed, *new}):
            one: State | bytes = packed.get(session_id, b"")
            if session_id in self._since:
                one = self._state(session_id, packed)
            if not marks or (one[0] if isinstance(one, bytes) else marks_of(one)) & marks:
                found.append((session_id, one))
        return found, end, self._base

    def _used_before(self, place: Place | None) -> list[Entry]:
        self._recent.settle()
        index = self._base.runs_before(place)
        while True:
            low = self._base.header.runs[index - 1].first if index else None
            new = self._recent.between(low, place, _AT_ONCE)
            if len(new) == _AT_ONCE:
                low = new[0]
            found = [self._entry(one) for one in new]
            for one in self._base.run(index - 1) if index else ():
                is_between = (low is None or one[0] >= low) and (place is None or one[0] < place)
                if is_between and one[0].name not in self._recent:
                    found.append(self._base.entry(one))
            if found or not index:
                return sorted(found, reverse=True)
            index -= 1

    def _entry(self, place: Place) -> Entry:
        entry = entry_of(place.session_id, self._state(place.session_id))
        assert entry is not None  # noqa: S101 - it has a place
        return entry._replace(place=place)

    def pending(self) -> list[str]:
        """Return the sessions that are marked as pending. Reads no state."""

        def look() -> list[str]:
            self._sync()
            return list(self._pending)

        return self.in_turn(look)

    def in_turn(self, ask: Callable[[], T], *, commits: bool = False) -> T:
        """Ask the store something, alone; or fail as the one did who was waited for, if there was no answer.

        Else all who wait would find that out one after the other, each after the time that a request has.
        What was refused to another is his own affair; and a put that is lost says nothing of reading.
        """
        before = self._silence
        with self._held():
            met = self._silence
            if met.number > before.number and (commits or met.kind != "put"):
                raise ArchiveUnavailable(
                    f"another call to shard {self.number} got no answer, and nothing was asked for this one: "
                    f"{met.text}"
                )
            is_first = commits and self._decoded is None
            if is_first:
                self._decoded = {}
            try:
                return ask()
            except ArchiveUnavailable as error:
                if error.unanswered:
                    self._silence = _Silence(met.number + 1, error.unanswered, str(error))
                raise
            finally:
                if is_first:
                    # No longer: each is as large as its session, and a process has many shards.
                    self._decoded = None

    def _held(self) -> threading.RLock:
        if self._pid != os.getpid():
            # What held the lock did not come along with a fork.
            self._forget()
        return self._lock

    def _state(self, session_id: str, packed: Mapping[str, bytes] | None = None) -> State:
        """Return a state; by those of the snapshot, as they stand there, where they were read for many."""
        news = self._since.get(session_id)
        if news is not None and isinstance(news[-1], State):
            return news[-1]
        if news is not None and isinstance(news[0], State):
            # The snapshot's is as large as the session, and every commit would decode it.
            state = news[0]
        elif packed is None:
            state = self._before(session_id)
        else:
            is_packed = session_id in packed
            state = self._base.decoded(packed[session_id]) if is_packed else self._inherited(session_id)
        for number, one in zip(self._numbers.get(session_id, ()), news or (), strict=True):
            state = one if isinstance(one, State) else folded(state, one, number)
        if news is not None:
            self._since[session_id], self._numbers[session_id] = [state], [-1]
        return state

    def _before(self, session_id: str) -> State:
        """Return what a session was at the snapshot."""
        kept = self._decoded
        if kept is not None and session_id in kept:
            return kept[session_id]
        state = self._base.state(session_id)
        if state is None:
            # Not kept: a copy that is being made brings more.
            return self._inherited(session_id)
        if kept is not None:
            kept[session_id] = state
        return state

    def _sync(self) -> None:
        # What was removed could be taken for the end of the log by one who was away for so long.
        if self._is_known and self._away() > self._grace / 2:
            self._is_known = False
        is_new = not self._is_known
        if is_new:
            self._load()
        count, most = 0, self._every if is_new else 1
        while True:
            # Before the request: from then on there may be more.
            at = (self._clock.time(), self._clock.monotonic())
            # Who begins, and has found many, will find more up to the next snapshot: several at once. The
            # last ones may not be there. Who follows others is quicker one by one.
            ahead = max(1, min(SIDE_BY_SIDE + 1, count // 8)) if count < most else 1
            calls = [partial(self._read, self._next + n) for n in range(ahead)]
            for found in side_by_side(calls, SIDE_BY_SIDE):
                if found is None:
                    break
                self._apply(found)
                count += 1
            else:
                continue
            if self._next - self._looked >= 2 * self._every:
                # One who only reads makes no snapshots, and must not keep the whole log in memory.
                self._looked = self._next
                if self._newest_snapshot() > self._base.number:
                    self._load()
            elif is_new and self._goes_on():
                # Others committed between the two looks.
                continue
            else:
                self._seen_end = at
                self._is_known = True
                return

    def _goes_on(self) -> bool:
        """Whether the log goes on where it seemed to end.

        Raises:
            ArchiveCorrupt: it goes on behind a gap, as in a copy that was made while it grew: what is behind
                would be lost, or be read as if it came after what is written now.
        """
        name = layout.log_name(self.number, self._next)
        names = self._bucket.names(layout.log_start(self.number), name)
        # Not what a file manager or a copying tool has left there.
        if not any(layout.number_of(one.name) for one in names):
            return False
        # A segment is put when the one before is there, but a listing may show them in any order.
        if self._bucket.get(name, 0, 1) is None:
            raise decoded("segment", name, "it is missing, and later ones are there")
        return True

    def _away(self) -> float:
        time, monotonic = self._seen_end
        return max(self._clock.time() - time, self._clock.monotonic() - monotonic)

    def _newest_snapshot(self) -> int:
        snaps = self._bucket.names(layout.snap_start(self.number))
        return max((layout.number_of(one.name) or 0 for one in snaps), default=0)

    def _load(self) -> None:
        # Until all behind the snapshot is read: a request that fails on the way must not leave a part of the
        # log for all of it.
        self._is_known = False
        for _ in range(_OPENED_AGAIN):
            header = snapshot.Header()
            if newest := self._newest_snapshot():
                name = layout.snap_name(self.number, newest)
                data = self._begin_of(name, snapshot.HEAD)
                if data is None:
                    continue
                header = snapshot.parsed(data, name)
            self._begin_with(header)
            return
        raise self._too_late()

    def _begin_with(self, header: snapshot.Header) -> None:
        self._base = OpenSnapshot(self._bucket, self.number, header, self._kept)
        self._pending = dict.fromkeys(header.pending)
        self._next = self._looked = header.number
        self._since.clear()
        self._numbers.clear()
        if self._decoded:
            self._decoded.clear()
        self._recent.clear()
        self._names = (-1, [])

    def _read(self, number: int) -> segment.Segment | None:
        name = layout.log_name(self.number, number)
        data = self._begin_of(name, segment.HEAD)
        return None if data is None else segment.parsed(data, number, name)

    def _begin_of(self, name: str, head: Head) -> bytes | None:
        """Return an object's head and what belongs to it, mostly in one request; None if it is not there."""
        data = self._bucket.get(name, 0, segment.FIRST_READ)
        if data is not None and (needed := head.needed(data, name)) > len(data):
            # It may have gone since.
            return self._bucket.get(name, 0, needed)
        return data

    def _apply(self, found: segment.Segment) -> None:
        for record in found.records:
            name = record.session_id
            if name not in self._since:
                # What the commit has decoded is not decoded again by the next one.
                known = (self._decoded or {}).get(name)
                self._since[name] = [] if known is None else [known]
                self._numbers[name] = [] if known is None else [-1]
            self._since[name].append(record)
            self._numbers[name].append(self._next)
            if record.token is None:
                self._recent.changed(record.session_id)
            if record.state is not None:
                # Turns that come and leases leave the mark as it is.
                self._pending.pop(record.session_id, None)
                self._pending.update(dict.fromkeys([record.session_id] * record.state.pending))
        self._next += 1

    # -- frames -------------------------------------------------------------------------------

    def read_part(self, part: Part) -> bytes | None:
        """Return the bytes of a frame; None if its segment is gone."""
        name = layout.log_name(self.number, part.segment or 0)
        return self._bucket.get(name, part.offset, part.length)
