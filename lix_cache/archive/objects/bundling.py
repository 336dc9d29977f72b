"""Compaction of an archive on object storage: few frames for a session, many sessions in one segment.

A session that is moved alone has a segment of its own, which takes a block of a file system (4 kB mostly) and
a request. So sessions whose segments hold little are moved together, as long as there are several of these.
No lease is taken: a commit that knows all before it drops a session that has changed since it was read.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from lix_cache.archive.facts import CompactedSession
from lix_cache.archive.objects.reader import Moved
from lix_cache.archive.objects.records import Record, State
from lix_cache.archive.objects.shard import Commit, Shard
from lix_cache.archive.objects.writer import ObjectWriter
from lix_cache.errors import ArchiveCorrupt, LixCacheError, MissingDictionary, MissingExtra

__all__ = ["ObjectBundler"]

#: A bundle ends when its frames take this much: 64 blocks, so that the last one is a small part of it.
BUNDLE_BYTES = 256 * 1024
#: Segments with less in use are worth moving. Half a bundle: no more than half of one lies idle for long.
SMALL_BYTES = BUNDLE_BYTES // 2
_SESSIONS = 1024


@dataclass
class _Bundle:
    """Sessions that move in one commit.

    Attributes:
        made: their frames, and their records.
        before: what each was when its frames were made.
        results: what is done to each.
        put: when the segments were put that changed them last.
    """

    made: Commit = field(default_factory=Commit)
    before: dict[str, State] = field(default_factory=dict)
    results: dict[str, CompactedSession] = field(default_factory=dict)
    put: dict[int, float] = field(default_factory=dict)


class ObjectBundler(ObjectWriter):
    """Compacting one session under its lease, or many without."""

    def compact_locked(
        self, session_id: str, *, idle_seconds: float, dry_run: bool = False
    ) -> CompactedSession:
        """Put the turns of a session into few frames of one segment. See ColdTier."""
        result = CompactedSession()

        def change(state: State, made: Commit) -> State:
            nonlocal result
            result, after = self._merged(session_id, state, made, idle_seconds, frozenset(), {})
            return state if dry_run or after is None else after

        if self.identity() is None:
            return result
        self.counters["compactions"] += self._change(session_id, change)
        return result

    def compact_many(
        self, session_ids: Sequence[str], *, idle_seconds: float, dry_run: bool = False, bundle: bool = False
    ) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
        """Compact sessions, many in a commit. See ColdTier."""
        shards: dict[int, list[str]] = {}
        for session_id in session_ids:
            shard = self._shard(session_id)
            if shard is None:
                yield session_id, CompactedSession()
            else:
                shards.setdefault(shard.number, []).append(session_id)
        for number, own in shards.items():
            yield from self._compact_in(self._numbered(number), own, idle_seconds, dry_run, bundle)

    def _compact_in(
        self, shard: Shard, session_ids: Sequence[str], idle_seconds: float, dry_run: bool, bundle: bool
    ) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
        shard.synced()
        small = _small_segments(shard) if bundle else frozenset[int]()
        open_one = _Bundle()
        for session_id in session_ids:
            try:
                result = self._taken_in(open_one, session_id, shard.state(session_id), idle_seconds, small)
            except (ArchiveCorrupt, MissingExtra, MissingDictionary) as error:
                yield session_id, error
                continue
            if result is not None:
                yield session_id, result
            if len(open_one.made.frames) >= BUNDLE_BYTES or len(open_one.before) >= _SESSIONS:
                yield from self._moved(shard, open_one, dry_run)
                open_one = _Bundle()
        yield from self._moved(shard, open_one, dry_run)

    def _taken_in(
        self, bundle: _Bundle, session_id: str, state: State, idle_seconds: float, small: frozenset[int]
    ) -> CompactedSession | None:
        """Take a session into a bundle; return what else is to be said of it."""
        begin = len(bundle.made.frames)
        if state.token or self._held.is_taken(session_id):
            return CompactedSession(is_active=True)
        try:
            result, after = self._merged(session_id, state, bundle.made, idle_seconds, small, bundle.put)
        except (Moved, ArchiveCorrupt, MissingExtra, MissingDictionary) as error:
            del bundle.made.frames[begin:]
            if isinstance(error, Moved):
                return CompactedSession(is_active=True)
            raise
        if after is None:
            del bundle.made.frames[begin:]
            return result
        bundle.made.records.append(Record(session_id, self._now_ms(), state=after))
        bundle.before[session_id], bundle.results[session_id] = state, result
        return None

    def _moved(self, shard: Shard, bundle: _Bundle, dry_run: bool) -> Iterator[tuple[str, CompactedSession]]:
        """Commit a bundle; what has changed since it was read stays where it is."""
        kept: list[Record] = []

        def decide() -> Commit:
            kept[:] = (
                record
                for record in bundle.made.records
                if shard.state(record.session_id) == bundle.before[record.session_id]
                and not self._held.is_taken(record.session_id)
            )
            return Commit(list(kept), bundle.made.frames) if kept else Commit()

        if dry_run:
            yield from bundle.results.items()
            return
        if bundle.made.records:
            self._commit(shard, decide)
            self.counters["compactions"] += len(kept)
        done = {record.session_id for record in kept}
        for session_id, result in bundle.results.items():
            if session_id in done:
                self.changes.note(session_id)
            yield session_id, result if session_id in done else CompactedSession(is_active=True)

    def _merged(
        self,
        session_id: str,
        state: State,
        made: Commit,
        idle_seconds: float,
        small: frozenset[int],
        put: dict[int, float],
    ) -> tuple[CompactedSession, State | None]:
        """Return what compaction does to a session, and what it is then; None where that is what it was."""
        moves = any(part.segment in small for part in state.parts)
        if not state.is_there or (len(state.parts) <= 1 and not state.hidden and not moves):
            return CompactedSession(), None
        if self._now_ms() - state.updated_ms < idle_seconds * 1000:
            return CompactedSession(is_active=True), None
        damaged = self.counters["damaged_reads"]
        turns = self._visible(session_id, state, state.parts)
        if self.counters["damaged_reads"] > damaged:
            # What is damaged stays as it is: a copy of the bucket may have it.
            return CompactedSession(), None
        parts = self._whole(made, turns, state.updated_ms)
        if len(parts) >= len(state.parts) and not state.hidden and not moves:
            return CompactedSession(), None
        # To be moved is no sign of life: a session must not live for as long as it is moved again and again.
        put_ms = 0
        if not state.moved:
            if state.version not in put:
                put[state.version] = self._put_at(self._writable(session_id), state.version)
            put_ms = int(put[state.version] * 1000)
        after = replace(
            state,
            parts=parts,
            hidden=0,
            largest=state.newest,
            stamped_ms=max(state.stamped_ms, put_ms),
            moved=True,
        )
        return CompactedSession(False, True, len(state.parts), len(parts), state.size, after.size), after


def _small_segments(shard: Shard) -> frozenset[int]:
    """Return the segments of which little is in use; none if one alone is such."""
    used: Counter[int] = Counter()
    for _, state in shard.states():
        for part in state.all_parts():
            used[part.segment or 0] += part.length
    small = frozenset(number for number, size in used.items() if size < SMALL_BYTES)
    return small if len(small) > 1 else frozenset()
