"""Changing a shard: commits to its log, snapshots, collection. docs/object-layout.md"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Container, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

from lix_cache._log import logger
from lix_cache.archive.objects import layout, segment, snapshot
from lix_cache.archive.objects.log import GRACE_SECONDS, SIDE_BY_SIDE, SNAPSHOT_EVERY, ShardLog
from lix_cache.archive.objects.opened import SnapshotGone
from lix_cache.archive.objects.records import Part, Record
from lix_cache.errors import ArchiveCorrupt, ArchiveError, ArchiveUnavailable, told
from lix_cache.messages.turn import Turn
from lix_cache.storage.objects import Listed
from lix_cache.storage.parallel import side_by_side

#: How often a put is refused without reason before it is an error; and the first pause, which doubles.
_MOST_REFUSALS, _FIRST_PAUSE = 6, 0.05

__all__ = ["GRACE_SECONDS", "SIDE_BY_SIDE", "SNAPSHOT_EVERY", "Collected", "Commit", "Shard"]


#: Segments of which a process holds the index at once, to see what is in them.
_READ_AT_ONCE = 64


@dataclass
class Commit:
    """What is to be committed. Frames are added before the records that name them.

    Attributes:
        records: of sessions, with parts that say where in ``frames`` they are.
        frames: those that come with it.
    """

    records: list[Record] = field(default_factory=list)
    frames: bytearray = field(default_factory=bytearray)

    def parts(self, frames: bytes, turns: Sequence[Turn]) -> tuple[Part, ...]:
        """Take in the frames of some turns, and return them as parts."""
        parts = segment.parts_of(frames, len(self.frames), turns)
        self.frames += frames
        return tuple(parts)

    def add(self, other: Commit) -> None:
        """Take in another commit: its frames come behind those that are here."""
        begin = len(self.frames)
        self.records += [record.placed(None, begin) for record in other.records]
        self.frames += other.frames


class Collected(NamedTuple):
    """What a collection removed."""

    segments: int = 0
    snapshots: int = 0


class Shard(ShardLog):
    """A shard as its writers see it. Safe between threads."""

    # -- committing ---------------------------------------------------------------------------

    def commit(self, decide: Callable[[], Commit], *, is_known: bool = False) -> bool:
        """Commit what is decided on all that was committed before. Durable on return.

        Args:
            decide: asked again each time that others were first. Raises to end it.
            is_known: what it looks at is known to the end: with a lease no other changes it.

        Returns:
            Whether there was anything to commit.

        Raises:
            ArchiveUnavailable: the store refuses or does not answer: then it may have been done.
        """
        return self.in_turn(partial(self._commit, decide, is_known), commits=True)

    def _commit(self, decide: Callable[[], Commit], is_known: bool) -> bool:
        if not self._is_known:
            self._sync()
            is_known = True
        refused = 0
        while True:
            try:
                self._is_deciding = True
                made = decide()
            except SnapshotGone:
                self._is_known = False
                self._sync()
                is_known = True
                continue
            finally:
                self._is_deciding = False
            if not made.records:
                if is_known:
                    return False
                # Nothing to do, by what may be outdated.
                known = self._next
                self._sync()
                if self._next == known:
                    return False
                is_known = True
                continue
            number = self._next
            if self._put(made):
                break
            self._counters.update(("object_conflicts",))
            self._sync()
            is_known = True
            # Another was first only if there is something new.
            refused = 0 if self._next != number else refused + 1
            self._wait_after(refused)
        self._shorten()
        return True

    def _wait_after(self, refused: int) -> None:
        """Wait before a put is tried again that was refused although nothing is there."""
        if refused > _MOST_REFUSALS:
            name = layout.log_name(self.number, self._next)
            raise ArchiveUnavailable(
                f"the object store refuses to put {name!r} as if it were there, and it is not: the store or "
                "a proxy answers wrongly"
            )
        if refused:
            self._clock.sleep(_FIRST_PAUSE * 2 ** (refused - 1))

    def _put(self, made: Commit) -> bool:
        if self._away() > self._grace / 2:
            return False
        nonce, number = os.urandom(segment.COMMIT_NONCE_BYTES), self._next
        data = segment.encoded(nonce, made.records, bytes(made.frames))
        name = layout.log_name(self.number, number)
        at = (self._clock.time(), self._clock.monotonic())
        try:
            is_ours = self._bucket.create(name, data)
        except ArchiveUnavailable:
            # Only its answer may be lost. Where that cannot be seen either, it may be done.
            if not self._is_seen(number, nonce):
                raise
            is_ours = True
        if not is_ours and not self._has(number, nonce):
            return False
        if self._away() > self._grace / 2 and self._was_passed_by(number):
            return False
        self._seen_end = at
        self._apply(segment.known(nonce, made.records, data, number))
        return True

    def _has(self, number: int, nonce: bytes) -> bool:
        found = self._read(number)
        return found is not None and found.nonce == nonce

    def _is_seen(self, number: int, nonce: bytes) -> bool:
        try:
            return self._has(number, nonce)
        except ArchiveUnavailable:
            return False

    def _was_passed_by(self, number: int) -> bool:
        # The name was free again because all before a snapshot had been collected.
        self._load()
        return self._next > number

    # -- snapshots and collection ----------------------------------------------------------------

    def _shorten(self) -> None:
        if self._next - self._base.number < self._every:
            return
        try:
            self.snapshot()
        except ArchiveError as error:
            # The commit is done; the next one tries again.
            self._counters.update(("snapshot_failures",))
            logger.warning("a snapshot of shard {} was not made: {}", self.number, told(error))

    def snapshot(self) -> bool:
        """Put a snapshot of all that is known; False if there is one already."""
        return self._looked_at(self._snapshot)

    def _snapshot(self) -> bool:
        base, number = self._base, self._next
        if number == base.number:
            return False
        # Read once, many at a time, and not the block of each session that changed.
        states = dict(base.states())
        news = {session_id: self._state(session_id, states) for session_id in sorted(self._since)}
        data = snapshot.encoded(number, news, states.items(), base.places(), base.header.pending)
        name = layout.snap_name(self.number, number)
        # If absent: another may have been first, with the same bytes.
        is_new = self._bucket.create(name, data)
        self._begin_with(snapshot.parsed(data, name))
        self._counters.update(("snapshots",) * is_new)
        return is_new

    def collect(self, now: float, live: Container[int | None]) -> Collected:
        """Remove what nothing refers to and no reader can be about to read.

        Args:
            now: Unix seconds by the clock that dates the objects, or by ours if that is behind.
            live: the segments to which a state refers, by a look at all of them since :meth:`synced`.
        """
        snaps = [
            (number, one)
            for one in self._bucket.names(layout.snap_start(self.number))
            if (number := layout.number_of(one.name)) is not None
        ]
        before = now - self._grace
        old = [number for number, one in snaps if one.modified < before]
        segments = 0
        if old:
            # Who begins with the newest snapshot of that age, or a later one, needs no index before it. And
            # what no session refers to now, none will: a reference to an old segment is never made anew.
            keep = max(old)
            for one in list(self._bucket.names(layout.log_start(self.number))):
                number = layout.number_of(one.name)
                if number is not None and number < keep and number not in live and one.modified < before:
                    self._bucket.remove(one.name)
                    segments += 1
        outdated = _outdated(snaps, now, self._grace)
        for name in outdated:
            self._bucket.remove(name)
        self._counters["collected_segments"] += segments
        return Collected(segments, len(outdated))

    def old_segments(self, numbers: Collection[int]) -> Iterator[tuple[int, segment.Segment | None]]:
        """Yield what some segments say, if older than the grace period; None for what is damaged or gone."""
        before = self._clock.time() - self._grace
        old: list[int] = []
        for one in self._bucket.names(layout.log_start(self.number)):
            number = layout.number_of(one.name)
            if number is not None and number in numbers and one.modified < before:
                old.append(number)
        for start in range(0, len(old), _READ_AT_ONCE):
            group = old[start : start + _READ_AT_ONCE]
            found = side_by_side([partial(self._index, number) for number in group], SIDE_BY_SIDE)
            yield from zip(group, found, strict=True)

    def _index(self, number: int) -> segment.Segment | None:
        try:
            return self._read(number)
        except ArchiveCorrupt as error:
            self._counters.update(("damaged_reads",))
            logger.warning("archive damage: {}", told(error))
            return None


def _outdated(snaps: Sequence[tuple[int, Listed]], now: float, grace: float) -> list[str]:
    """Return the names of the snapshots that may go.

    Readers do without one that went, so few are kept: of each eighth of the grace period the last one. One of
    these comes of the age that a collection of segments asks for.
    """
    eighth = grace / 8 or 1.0
    kept = {int(one.modified // eighth): number for number, one in sorted(snaps)}
    newest = max((number for number, _ in snaps), default=0)
    oldest = max((number for number, one in snaps if one.modified < now - grace), default=0)
    wanted = {newest, *(number for number in (oldest, *kept.values()) if number >= oldest)}
    return [one.name for number, one in snaps if number not in wanted and one.modified < now - grace / 96]
