"""Compaction of an archive on object storage: few frames for a session, many sessions in one segment.

A session that is moved alone has a segment of its own, which takes a block of a file system (4 kB mostly) and
a request. So sessions whose segments hold little are moved together, as long as there are several of these.
And a segment is removed as a whole: what was deleted leaves the store when all others have left its segment.
No lease is taken: a commit that knows all before it drops a session that has changed since it was read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain

from lix_cache.archive import decoding
from lix_cache.archive.facts import CompactedSession
from lix_cache.archive.objects.emptying import BUNDLE_BYTES, BUNDLE_SESSIONS, Plan, plan_for
from lix_cache.archive.objects.reader import Moved
from lix_cache.archive.objects.records import TRASHED, Part, Record, State
from lix_cache.archive.objects.shard import Commit, Shard
from lix_cache.archive.objects.writer import ObjectWriter
from lix_cache.errors import ArchiveCorrupt, LixCacheError, MissingDictionary, MissingExtra

__all__ = ["ObjectBundler"]


@dataclass
class _Move:
    """A session that moves.

    Attributes:
        before: what it was when its frames were made.
        made: its frames, and its record.
        result: what is done to it.
        is_due: it gets fewer frames, or leaves what was deleted behind; else it only fills a bundle.
    """

    before: State
    made: Commit
    result: CompactedSession
    is_due: bool


@dataclass
class _Bundle:
    """Sessions that move in one commit.

    Attributes:
        moves: by their stored ids.
        size: bytes of their frames.
        put: when the segments were put that changed them last.
    """

    moves: dict[str, _Move] = field(default_factory=dict)
    size: int = 0
    put: dict[int, float] = field(default_factory=dict)

    @property
    def is_full(self) -> bool:
        return self.size >= BUNDLE_BYTES or len(self.moves) >= BUNDLE_SESSIONS


class ObjectBundler(ObjectWriter):
    """Compacting many sessions in few commits."""

    def compact_many(
        self, session_ids: Sequence[str], *, idle_seconds: float, dry_run: bool = False, bundle: bool = False
    ) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
        """Compact sessions, many in a commit. See ColdTier."""
        shards: dict[int, list[str]] = {}
        if bundle:
            # Also where nothing is but trash.
            shards = {shard.number: [] for shard in self._all_shards()}
        for session_id in session_ids:
            shard = self._shard(session_id)
            if shard is None:
                yield session_id, CompactedSession()
            else:
                shards.setdefault(shard.number, []).append(session_id)
        for number, own in shards.items():
            asked = frozenset(own)
            for session_id, result in self._compact_in(
                self._numbered(number), own, idle_seconds, dry_run, bundle
            ):
                if session_id in asked:
                    yield session_id, result

    def _compact_in(
        self, shard: Shard, session_ids: Sequence[str], idle_seconds: float, dry_run: bool, bundle: bool
    ) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
        idle_ms = idle_seconds * 1000
        shard.synced()
        plan, rest = Plan(), iter(list[str]())
        if bundle:
            plan = plan_for(
                shard,
                lambda name, state: not self._is_held(name, state) and self._is_idle(state, idle_ms),
            )
            rest = (name for name, state in shard.states(TRASHED) if not state.is_there)
        open_one = _Bundle()
        for session_id in chain(session_ids, rest):
            if session_id in open_one.moves:
                continue
            try:
                result = self._taken_in(open_one, session_id, shard, idle_ms, plan)
            except (ArchiveCorrupt, MissingExtra, MissingDictionary) as error:
                yield session_id, error
                continue
            if result is not None:
                yield session_id, result
            if open_one.is_full:
                yield from self._moved(shard, open_one, plan, dry_run)
                open_one = _Bundle()
        yield from self._moved(shard, open_one, plan, dry_run)

    def _is_held(self, session_id: str, state: State) -> bool:
        is_leased = state.token and not self._tokens.is_dead(session_id, state.token)
        return bool(is_leased) or self._held.is_taken(session_id)

    def _is_idle(self, state: State, idle_ms: float) -> bool:
        # What is in the trash is.
        return not state.is_there or self._now_ms() - state.updated_ms >= idle_ms

    def _taken_in(
        self, bundle: _Bundle, session_id: str, shard: Shard, idle_ms: float, plan: Plan
    ) -> CompactedSession | None:
        """Take a session into a bundle; return what else is to be said of it."""
        state, made = shard.state(session_id), Commit()
        if self._is_held(session_id, state):
            return CompactedSession(is_active=True)
        moves = any(map(plan.has, state.parts))
        could = state.is_there and (len(state.parts) > 1 or state.hidden > 0 or moves)
        is_idle = self._is_idle(state, idle_ms)
        after = state
        try:
            # What was taken out of a session leaves it even if that is used all the time.
            if could and (is_idle or (state.hidden and plan.is_for_all)):
                after = self._merged(session_id, state, made, plan)
            after = self._carried(session_id, after, made, plan)
        except Moved:
            return CompactedSession(is_active=True)
        if after is state:
            return CompactedSession(is_active=could and not is_idle)
        after = self._unmoved(shard, state, after, bundle.put)
        made.records.append(Record(session_id, self._now_ms(), state=after))
        sizes = len(state.parts), len(after.parts), state.size, after.size
        is_due = len(after.parts) < len(state.parts) or bool(state.hidden)
        is_due = is_due or any(part.segment in plan.erasing for part in state.all_parts())
        bundle.moves[session_id] = _Move(state, made, CompactedSession(False, True, *sizes), is_due)
        bundle.size += len(made.frames)
        return None

    def _merged(self, session_id: str, state: State, made: Commit, plan: Plan) -> State:
        """Return a session with all its turns in new frames; as it is if nothing is won by it."""
        damaged = self.counters["damaged_reads"]
        turns = self._visible(session_id, state, state.parts)
        if self.counters["damaged_reads"] > damaged:
            # What is damaged stays as it is: a copy of the bucket may have it.
            return state
        parts = self._whole(made, turns, state.updated_ms)
        if len(parts) >= len(state.parts) and not state.hidden and not any(map(plan.has, state.parts)):
            made.frames.clear()
            return state
        return replace(state, parts=parts, hidden=0, largest=state.newest)

    def _carried(self, session_id: str, state: State, made: Commit, plan: Plan) -> State:
        """Return a session with copies of those frames that still are where they must leave.

        Those of the trash, and of a session that is in use or damaged elsewhere.
        """
        trashed = [part for one in state.trash for part in one.state.parts if plan.has(part)]
        copies: dict[Part, Part] = {}
        for part in (*(part for part in state.parts if part.segment in plan.erasing), *trashed):
            data = self._frame(self._writable(session_id), part)
            if data is None:
                raise Moved
            if decoding.frame_at(data, 0) is None:
                self._turns_in(session_id, part, data)  # says so
                continue
            copies[part] = part._replace(segment=None, offset=len(made.frames))
            made.frames += data

        def with_copies(one: State) -> State:
            return replace(one, parts=tuple(copies.get(part, part) for part in one.parts))

        if not copies:
            return state
        trash = tuple(one._replace(state=with_copies(one.state)) for one in state.trash)
        return replace(with_copies(state), trash=trash)

    def _unmoved(self, shard: Shard, state: State, after: State, put: dict[int, float]) -> State:
        """Return what a session is after a move, which is no sign of life.

        It must not live for as long as it is moved again and again.
        """
        # A holder that is only late must find that its lease is gone.
        after = replace(after, token=b"")
        if not state.is_there:
            return after
        put_ms = 0
        if not state.moved:
            if state.version not in put:
                put[state.version] = self._put_at(shard, state.version)
            put_ms = int(put[state.version] * 1000)
        return replace(after, stamped_ms=max(state.stamped_ms, put_ms), moved=True)

    def _moved(
        self, shard: Shard, bundle: _Bundle, plan: Plan, dry_run: bool
    ) -> Iterator[tuple[str, CompactedSession]]:
        """Commit a bundle; what has changed since it was read stays where it is."""
        moves = bundle.moves
        # Two for one: else a small segment takes the place of another each time.
        if not bundle.is_full and plan.emptied(move.before for move in moves.values()) < 2:
            moves = {session_id: move for session_id, move in moves.items() if move.is_due}
        plan.take_out(move.before for move in moves.values())
        done = moves if dry_run else self._committed(shard, moves)
        for session_id, move in bundle.moves.items():
            if session_id in done:
                yield session_id, move.result
            else:
                yield session_id, CompactedSession(is_active=session_id in moves)

    def _committed(self, shard: Shard, moves: dict[str, _Move]) -> set[str]:
        """Commit those of some sessions that are what they were; return their ids."""
        kept: set[str] = set()

        def decide() -> Commit:
            kept.clear()
            made = Commit()
            for session_id, move in moves.items():
                if shard.state(session_id) == move.before and not self._held.is_taken(session_id):
                    kept.add(session_id)
                    # No frame of another: it may have been deleted, and must not be written anew.
                    made.add(move.made)
            return made

        if moves:
            self._commit(shard, decide)
            self.counters["compactions"] += len(kept)
        for session_id in kept:
            self.changes.note(session_id)
        return kept
