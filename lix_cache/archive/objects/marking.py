"""Marks and deletions that an archive on object storage takes over from another one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from lix_cache.archive.doubts import as_gone, id_before, is_gone
from lix_cache.archive.facts import Marks
from lix_cache.archive.objects import layout
from lix_cache.archive.objects.bundling import ObjectBundler
from lix_cache.archive.objects.inherited import Inherited, inherited_by
from lix_cache.archive.objects.records import DELETED, Record, State
from lix_cache.archive.objects.shard import SIDE_BY_SIDE, Commit, Shard
from lix_cache.archive.tombstones import Deletion, note_name
from lix_cache.errors import LixCacheError
from lix_cache.messages.turn import Turn
from lix_cache.storage.parallel import side_by_side

__all__ = ["ObjectMarker"]

#: Sessions that one commit changes.
_AT_ONCE = 256


class ObjectMarker(ObjectBundler):
    """What is remembered of sessions beside their messages."""

    def marks(self, session_id: str, *, locked: bool = False) -> Marks:
        """Return what is remembered of a session beside its messages. See ColdTier."""
        return _marks(self._state(session_id, locked=locked))

    def mark_many_locked(self, batch: Mapping[str, Marks]) -> dict[str, LixCacheError]:
        """Take over what another archive remembers of sessions: a commit for each shard. See ColdTier."""
        shards: dict[int, list[str]] = {}
        for session_id in batch:
            shards.setdefault(self._writable(session_id).number, []).append(session_id)
        calls = [
            partial(self._mark_together, self._numbered(number), session_ids, batch)
            for number, session_ids in shards.items()
        ]
        failed: dict[str, LixCacheError] = {}
        for one in side_by_side(calls, SIDE_BY_SIDE):
            failed.update(one)
        for session_id in batch:
            if session_id not in failed:
                self.changes.note(session_id)
        return failed

    def _mark_together(
        self, shard: Shard, session_ids: Sequence[str], batch: Mapping[str, Marks]
    ) -> dict[str, LixCacheError]:
        failed: dict[str, LixCacheError] = {}

        def decide() -> Commit:
            failed.clear()
            made = Commit()
            for session_id in session_ids:
                state = shard.state(session_id)
                try:
                    first = self._check_lease(session_id, state)
                except LixCacheError as error:
                    failed[session_id] = error
                    continue
                after = self._marked(state, batch[session_id])
                if after is not state:
                    after = replace(after, token=b"") if first else after
                    made.records += [*first, Record(session_id, self._now_ms(), state=after)]
            return made

        try:
            self._commit(shard, decide)
        except LixCacheError as error:
            return {**dict.fromkeys(session_ids, error), **failed}
        return failed

    def _marked(self, state: State, marks: Marks) -> State:
        lacking = marks.lacking(_marks(state))
        if lacking == Marks():
            return state
        now_ms = self._now_ms()
        if lacking != Marks(pending=True):
            gone = {sign: id_before(one) for sign, one in lacking.said.items() if is_gone(one)}
            doubts = {sign: one for sign, one in lacking.said.items() if not is_gone(one)}
            state = replace(
                self._begun(state, now_ms),
                # Nothing was added: it is as old as it was.
                updated_ms=state.updated_ms or now_ms,
                changes=state.changes + 1,
                cleared=max(state.cleared, lacking.cleared),
                dropped=max(state.dropped, lacking.dropped),
                doubts={**state.doubts, **doubts},
                gone={**state.gone, **gone},
            )
        return replace(state, pending=state.pending or lacking.pending)

    def renew_locked(self, session_id: str, turns: Sequence[Turn], marks: Marks) -> None:
        """Put turns under their own ids, and marks, in the place of all there are. See ColdTier."""

        def change(state: State, made: Commit) -> State:
            return replace(
                self._anew(state, made, turns, self._now_ms()),
                cleared=marks.cleared,
                dropped=marks.dropped,
                largest=state.newest,
                doubts={sign: one for sign, one in marks.said.items() if not is_gone(one)},
                gone={sign: id_before(one) for sign, one in marks.said.items() if is_gone(one)},
                pending=state.pending or marks.pending,
            )

        self.counters["changes"] += self._change(session_id, change)

    # -- deletions ------------------------------------------------------------------------------

    def deletions(self) -> Iterator[tuple[str, Deletion]]:
        """Yield what is remembered of deletions, by the names of notes."""
        own: set[str] = set()
        note = self.identity()
        for _, session_id, state in self._every_state(DELETED):
            name = note_name(session_id)
            own.add(name)
            yield name, state.deletion
        inherited = inherited_by(self.bucket) if note is not None and note.inherits else Inherited()
        yield from ((name, one) for name, one in inherited.notes.items() if name not in own)

    def take_deletions(self, notes: Mapping[str, Deletion]) -> int:
        """Remember deletions that another archive remembers. See ColdTier."""
        if not notes:
            return 0
        note = self.identity(make=True)
        assert note is not None  # noqa: S101 - it was made
        left, count = dict(notes), 0
        # A session that is known here, of which more may be known than that, says it itself.
        for shard in self._all_shards():
            shard.synced()
            known: dict[str, Deletion] = {}
            for session_id, state in shard.states():
                found = left.pop(note_name(session_id), None)
                if found is not None and state.deletion.joined(found) != state.deletion:
                    known[session_id] = found
                if len(known) == _AT_ONCE:
                    count += self._take_some(shard, known)
                    known = {}
            count += self._take_some(shard, known)
        before = inherited_by(self.bucket) if note.inherits else Inherited()
        new = {
            name: joined
            for name, one in left.items()
            if (joined := before.notes.get(name, Deletion()).joined(one)) != before.notes.get(name)
        }
        if new:
            after = Inherited({**before.notes, **new}, self._now_ms())
            # The notes first: a process that reads that there are some must find them.
            self.bucket.put(layout.INHERITED, after.packed())
            self._notes = after
        if new and not note.inherits:
            note = note._replace(inherits=True)
            self.bucket.put(layout.STORE, note.packed())
            self._note = note
        return count + len(new)

    def _take_some(self, shard: Shard, notes: Mapping[str, Deletion]) -> int:
        def decide() -> Commit:
            made = Commit()
            for session_id, deletion in notes.items():
                state = shard.state(session_id)
                joined = state.deletion.joined(deletion)
                if joined != state.deletion:
                    after = replace(state, deletion=joined, noted_ms=state.noted_ms or self._now_ms())
                    made.records.append(Record(session_id, self._now_ms(), state=after))
            return made

        self._commit(shard, decide, is_known=True)
        return len(notes)

    def _forget_inherited(self, older_than_ms: int) -> int:
        """Remove the object of what was taken over, once nothing in it can come any more."""
        note = self.identity()
        if note is None or not note.inherits:
            return 0
        found = inherited_by(self.bucket)
        if not found.notes or not found.is_older(older_than_ms):
            return 0
        self.bucket.remove(layout.INHERITED)
        self._notes = None
        return len(found.notes)


def _marks(state: State) -> Marks:
    gone = {sign: as_gone(its_id) for sign, its_id in state.gone.items()}
    return Marks(state.cleared, state.dropped, {**state.doubts, **gone}, state.pending)
