"""One shard's log: following it, committing to it, snapshots, collection. docs/object-layout.md"""

from __future__ import annotations

import os
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lix_cache._log import logger
from lix_cache.archive.objects import layout, segment, snapshot
from lix_cache.archive.objects.bucket import Bucket
from lix_cache.archive.objects.head import Head
from lix_cache.archive.objects.records import EMPTY, Part, Record, State, folded
from lix_cache.clock import Clock
from lix_cache.errors import ArchiveError, ArchiveUnavailable, told
from lix_cache.messages.turn import Turn

__all__ = ["GRACE_SECONDS", "Collected", "Commit", "Shard"]

#: Segments after which a snapshot shortens the way of those who come new.
SNAPSHOT_EVERY = 256
#: What nothing refers to is kept for so long: others may be about to read it.
GRACE_SECONDS = 86_400.0
#: Blocks of a snapshot that a process keeps.
_BLOCKS_KEPT = 256


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


class Collected(NamedTuple):
    """What a collection removed."""

    segments: int = 0
    snapshots: int = 0


class Shard:
    """What this process knows of a shard, and how it learns and changes it. Safe between threads.

    Args:
        bucket: where the objects are.
        number: of the shard.
        clock: time.
        counters: of the tier.
        grace_seconds: how long what nothing refers to is kept.
    """

    def __init__(
        self,
        bucket: Bucket,
        number: int,
        clock: Clock,
        counters: Counter[str],
        *,
        grace_seconds: float = GRACE_SECONDS,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self.number = number
        self._bucket = bucket
        self._clock = clock
        self._counters = counters
        self._grace = grace_seconds
        self._every = snapshot_every
        self._forget()

    def _forget(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.RLock()
        self._is_known = False
        self._next = self._looked = 0
        self._base = snapshot.Header()
        self._blocks: OrderedDict[int, dict[str, State]] = OrderedDict()
        #: What the segments since the snapshot say of each session.
        self._since: dict[str, list[Record | State]] = {}
        self._numbers: dict[str, list[int]] = {}
        self._seen_end = (0.0, 0.0)

    # -- knowing ------------------------------------------------------------------------------

    def synced(self) -> None:
        """Learn what others have committed until now: one request where there is nothing new."""
        with self._held():
            self._sync()

    def start_over(self) -> None:
        """Forget what is known: the next look begins with the newest snapshot."""
        with self._held():
            self._is_known = False

    def state(self, session_id: str) -> State:
        """Return what is known of a session."""
        with self._held():
            if not self._is_known:
                self._sync()
            return self._state(session_id)

    def states(self) -> Iterator[tuple[str, State]]:
        """Yield every session that is known of, sorted by the bytes of the stored id."""
        with self._held():
            if not self._is_known:
                self._sync()
            names = {session_id: None for block in self._base.blocks for session_id in self._block(block)}
            names.update(dict.fromkeys(self._since))
            every = [(session_id, self._state(session_id)) for session_id in sorted(names, key=str.encode)]
        return iter(every)

    def pending(self) -> list[str]:
        """Return the sessions that are marked as pending."""
        with self._held():
            self._sync()
            known = dict.fromkeys((*self._base.pending, *self._since))
            return [session_id for session_id in known if self._state(session_id).pending]

    def _held(self) -> threading.RLock:
        if self._pid != os.getpid():
            # What held the lock did not come along with a fork.
            self._forget()
        return self._lock

    def _state(self, session_id: str) -> State:
        news = self._since.get(session_id)
        if news is not None and isinstance(news[-1], State):
            return news[-1]
        state = EMPTY
        block = snapshot.block_for(self._base, session_id)
        if block is not None:
            state = self._block(block).get(session_id, EMPTY)
        for number, one in zip(self._numbers.get(session_id, ()), news or (), strict=True):
            state = one if isinstance(one, State) else folded(state, one, number)
        if news is not None:
            self._since[session_id], self._numbers[session_id] = [state], [-1]
        return state

    def _block(self, block: snapshot.Block) -> dict[str, State]:
        found = self._blocks.get(block.offset)
        if found is None:
            name = layout.snap_name(self.number, self._base.number)
            data = self._bucket.get(name, block.offset, block.length)
            if data is None:
                # A newer one is there, and this one was collected.
                self._is_known = False
                raise ArchiveUnavailable(
                    f"the snapshot {name!r} is gone: this process was away for long; try again"
                )
            found = dict(snapshot.entries(data, block, name))
            self._blocks[block.offset] = found
            while len(self._blocks) > _BLOCKS_KEPT:
                self._blocks.popitem(last=False)
        return found

    def _sync(self) -> None:
        # What was removed could be taken for the end of the log by one who was away for so long.
        if self._is_known and self._away() > self._grace / 2:
            self._is_known = False
        if not self._is_known:
            self._load()
        while True:
            # Before the request: from then on there may be more.
            at = (self._clock.time(), self._clock.monotonic())
            found = self._read(self._next)
            if found is not None:
                self._apply(found)
            elif self._next - self._looked >= 2 * self._every:
                # One who only reads makes no snapshots, and must not keep the whole log in memory.
                self._looked = self._next
                if self._newest_snapshot() > self._base.number:
                    self._load()
            else:
                self._seen_end = at
                return

    def _away(self) -> float:
        time, monotonic = self._seen_end
        return max(self._clock.time() - time, self._clock.monotonic() - monotonic)

    def _newest_snapshot(self) -> int:
        snaps = self._bucket.names(layout.snap_start(self.number))
        return max((layout.number_of(one.name) or 0 for one in snaps), default=0)

    def _load(self) -> None:
        newest = self._newest_snapshot()
        base = snapshot.Header()
        if newest:
            name = layout.snap_name(self.number, newest)
            data = self._begin_of(name, snapshot.HEAD)
            if data is None:
                raise ArchiveUnavailable(f"the snapshot {name!r} went while it was opened; try again")
            base = snapshot.parsed(data, name)
        self._base, self._next, self._looked = base, base.number, base.number
        self._blocks.clear()
        self._since.clear()
        self._numbers.clear()
        self._is_known = True

    def _read(self, number: int) -> segment.Segment | None:
        name = layout.log_name(self.number, number)
        data = self._begin_of(name, segment.HEAD)
        return None if data is None else segment.parsed(data, number, name)

    def _begin_of(self, name: str, head: Head) -> bytes | None:
        """Return an object's head and what belongs to it, mostly in one request; None if it is not there."""
        data = self._bucket.get(name, 0, segment.FIRST_READ)
        if data is not None and (needed := head.needed(data, name)) > len(data):
            return self._bucket.get(name, 0, needed) or b""
        return data

    def _apply(self, found: segment.Segment) -> None:
        for record in found.records:
            self._since.setdefault(record.session_id, []).append(record)
            self._numbers.setdefault(record.session_id, []).append(self._next)
        self._next += 1

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
        with self._held():
            if not self._is_known:
                self._sync()
                is_known = True
            while True:
                made = decide()
                if not made.records:
                    if is_known:
                        return False
                    # Nothing to do, by what may be outdated.
                    self._sync()
                    is_known = True
                    continue
                if self._put(made):
                    break
                self._counters["object_conflicts"] += 1
                self._sync()
                is_known = True
            self._shorten()
            return True

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
            # Only its answer may be lost.
            if not self._has(number, nonce):
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
            self._counters["snapshot_failures"] += 1
            logger.warning("a snapshot of shard {} was not made: {}", self.number, told(error))

    def snapshot(self) -> bool:
        """Put a snapshot of all that is known; False if there is one already."""
        with self._held():
            if not self._is_known:
                self._sync()
            if self._next == self._base.number:
                return False
            data = snapshot.encoded(self._next, self.states())
            name = layout.snap_name(self.number, self._next)
            # If absent: another may have been first, with the same bytes.
            is_new = self._bucket.create(name, data)
            self._base = snapshot.parsed(data, name)
            self._blocks.clear()
            self._since.clear()
            self._numbers.clear()
            self._counters["snapshots"] += is_new
            return is_new

    def collect(self) -> Collected:
        """Remove what nothing refers to and no reader can be about to read."""
        with self._held():
            self._is_known = False
            self._sync()
            before = self._bucket_time() - self._grace
            snaps = [
                (layout.number_of(one.name) or 0, one)
                for one in self._bucket.names(layout.snap_start(self.number))
            ]
            old = [number for number, one in snaps if one.modified < before]
            if not old:
                return Collected()
            # Who begins with the newest snapshot of that age, or a later one, needs no index before it.
            keep = max(old)
            live = {part.segment for _, state in self.states() for part in state.all_parts()}
            segments = 0
            for one in list(self._bucket.names(layout.log_start(self.number))):
                number = layout.number_of(one.name)
                if number is not None and number < keep and number not in live and one.modified < before:
                    self._bucket.remove(one.name)
                    segments += 1
            outdated = [one for number, one in snaps if number < keep and one.modified < before]
            for one in outdated:
                self._bucket.remove(one.name)
        self._counters["collected_segments"] += segments
        return Collected(segments, len(outdated))

    def _bucket_time(self) -> float:
        """Return what time it is by the clock that dates the objects, or ours if that is behind."""
        self._bucket.put(layout.PROBE, b"")
        return min(self._clock.time(), self._bucket.modified(layout.PROBE) or 0.0)

    # -- frames -------------------------------------------------------------------------------

    def read_part(self, part: Part) -> bytes | None:
        """Return the bytes of a frame; None if its segment is gone."""
        name = layout.log_name(self.number, part.segment or 0)
        return self._bucket.get(name, part.offset, part.length)
