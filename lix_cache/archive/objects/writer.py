"""Every way that turns come into an archive on object storage, or leave it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from functools import partial
from operator import attrgetter

from lix_cache.archive.doubts import doubts_about
from lix_cache.archive.encoding import TURNS_PER_FRAME, WHOLE_FRAME_BYTES, encode_frames
from lix_cache.archive.identity import Known, local_id, newcomers
from lix_cache.archive.index import EMPTY, MAX_DECODED
from lix_cache.archive.objects.base import SHARDS_AT_ONCE
from lix_cache.archive.objects.reader import Moved, ObjectReader, contested_in
from lix_cache.archive.objects.records import Part, Record, State, folded
from lix_cache.archive.objects.repeats import Settled, repeats_about, repeats_in, settled
from lix_cache.archive.objects.shard import Commit, Shard
from lix_cache.errors import ArchiveUnavailable, LixCacheError
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, once, sign_of, with_id
from lix_cache.storage.parallel import side_by_side

__all__ = ["ObjectWriter"]

NOTHING_AGAIN = Settled({}, ())
_BY_ID = attrgetter("id")
#: Makes of a session's state another one; the state itself if there is nothing to change.
Change = Callable[[State, Commit], State]


class ObjectWriter(ObjectReader):
    """Appending, taking out, replacing: each is one commit."""

    # -- appending ----------------------------------------------------------------------------------

    def append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes] = False,
        from_window: bool = False,
    ) -> int:
        """Append turns under their ids, in one commit. See ColdTier."""
        if not turns:
            return 0
        count = 0
        shard = self._writable(session_id)

        def decide() -> Commit:
            nonlocal count
            made = Commit()
            count = self._add(shard, made, session_id, turns, contested, from_window)
            return made

        self.counters["appends"] += self._commit(shard, decide)
        # Also where none was new: a writer that died may not have told of it.
        self.changes.note(session_id)
        return count

    def append_many_locked(
        self, batch: Mapping[str, Sequence[Turn]], contested: Mapping[str, Collection[bytes]] | None = None
    ) -> dict[str, int | LixCacheError]:
        """Append what the windows of several sessions hold: a commit for each shard. See ColdTier."""
        results: dict[str, int | LixCacheError] = dict.fromkeys(batch, 0)
        shards: dict[int, list[str]] = {}
        for session_id, turns in batch.items():
            if turns:
                try:
                    shards.setdefault(self._writable(session_id).number, []).append(session_id)
                except LixCacheError as error:
                    results[session_id] = error
        calls = [
            partial(self._append_together, self._numbered(number), session_ids, batch, contested or {})
            for number, session_ids in shards.items()
        ]
        for done in side_by_side(calls, SHARDS_AT_ONCE - 1):
            results.update(done)
        for session_id, result in results.items():
            if batch[session_id] and not isinstance(result, LixCacheError):
                self.changes.note(session_id)
        return results

    def _append_together(
        self,
        shard: Shard,
        session_ids: Sequence[str],
        batch: Mapping[str, Sequence[Turn]],
        contested: Mapping[str, Collection[bytes]],
    ) -> dict[str, int | LixCacheError]:
        results: dict[str, int | LixCacheError] = {}

        def decide() -> Commit:
            made = Commit()
            for session_id in session_ids:
                before = len(made.records), len(made.frames)
                try:
                    results[session_id] = self._add(
                        shard, made, session_id, batch[session_id], contested.get(session_id, ()), True
                    )
                except Moved:
                    raise
                except LixCacheError as error:
                    # Each by itself: what is wrong with one keeps no other.
                    del made.records[before[0] :], made.frames[before[1] :]
                    results[session_id] = error
            return made

        def commit() -> bool:
            # A lease may have ended since we looked.
            known = zip(session_ids, shard.states_of(session_ids), strict=True)
            if any(state.token != self._token(one) for one, state in known):
                shard.synced()
            return self._commit(shard, decide)

        try:
            self.counters.update(("appends",) * shard.in_turn(commit, commits=True))
        except LixCacheError as error:
            own = {one: found for one, found in results.items() if isinstance(found, LixCacheError)}
            return {**dict.fromkeys(session_ids, error), **own}
        return results

    def _token(self, session_id: str) -> bytes:
        lease = self._leases.get(session_id)
        return lease.token if lease is not None and lease.is_held else b""

    def _commit(self, shard: Shard, decide: Callable[[], Commit], *, is_known: bool = False) -> bool:
        """Commit; again by what is new where a frame that was to be compared is no longer there."""
        try:
            return shard.commit(decide, is_known=is_known)
        except Moved:
            shard.start_over()
            try:
                return shard.commit(decide)
            except Moved:
                raise ArchiveUnavailable("a frame is missing from the object store; try again") from None

    def _add(
        self,
        shard: Shard,
        made: Commit,
        session_id: str,
        turns: Sequence[Turn],
        contested: bool | Collection[bytes],
        from_window: bool,
    ) -> int:
        """Take the turns that are new into a commit; return how many."""
        state = shard.state(session_id)
        first = self._check_lease(session_id, state)
        again = NOTHING_AGAIN
        if from_window and repeats_in(state):
            again = settled(state, turns, lambda ids: self._around(session_id, state, ids))
        fresh = self._fresh(session_id, state, turns, bool(contested), from_window, again.first)
        if fresh or again.doubts:
            named = () if isinstance(contested, bool) else contested
            # A message that comes again although it is in doubt is one whose frame was damaged.
            own = doubts_about(fresh) if contested is True else doubts_about(fresh, named, state.doubts)
            made.records += first
            at_ms = self._now_ms()
            come = sorted((*again.first, *fresh), key=_BY_ID)
            parts = made.parts(encode_frames(come, EMPTY, at_ms, self._codec), come) if come else ()
            if again.doubts:
                # One record: a crash leaves one copy of each.
                own = {**state.doubts, **again.doubts, **own}
                after = self._yielded(state, at_ms, parts, own, len(again.first))
                after = replace(after, token=b"" if first else state.token)
                made.records.append(Record(session_id, at_ms, state=after))
            else:
                made.records.append(Record(session_id, at_ms, parts=parts, doubts=own))
        return len(fresh)

    def _around(self, session_id: str, state: State, ids: Collection[MessageId]) -> list[Turn]:
        parts = [part for part in state.parts if any(part.first <= one <= part.last for one in ids)]
        return self._visible(session_id, state, parts)

    def _yielded(
        self,
        state: State,
        at_ms: int,
        parts: tuple[Part, ...],
        doubts: Mapping[bytes, MessageId],
        hidden: int,
    ) -> State:
        return replace(
            self._begun(state, at_ms),
            parts=state.parts + parts,
            hidden=state.hidden + hidden,
            changes=state.changes + 1,
            changed_ms=at_ms,
            doubts=doubts,
        )

    def _fresh(
        self,
        session_id: str,
        state: State,
        turns: Sequence[Turn],
        contested: bool,
        from_window: bool,
        first: Sequence[Turn],
    ) -> list[Turn]:
        """Leave out turns that are there or gone, and number anew those whose id is taken."""
        wanted = once(turns)
        if from_window:
            # Redis may have gone back, or have carried out an add that was sent before the deletion.
            up_to, gone = max(state.deletion.up_to, state.dropped), state.deletion.nonces
            if gone or up_to != ZERO_ID:
                wanted = [turn for turn in wanted if turn.id > up_to and turn.nonce not in gone]
        if state.gone:
            wanted = [turn for turn in wanted if sign_of(turn) not in state.gone]
        if not wanted or not state.parts:
            return wanted
        # The copy of a contested message may be anywhere.
        everywhere = contested or (state.doubts and any(turn.nonce in state.doubts for turn in wanted))
        if not everywhere and wanted[0].id > state.newest:
            # As almost every window: what it costs does not grow with the session.
            return wanted
        parts = [part for part in state.parts if everywhere or part.last >= wanted[0].id]
        if not parts:
            return wanted
        known = Known()
        known.add(self._visible(session_id, state, parts))
        known.add(first)
        return newcomers(wanted, known)

    def number_locked(
        self, session_id: str, turns: Sequence[Turn], *, after: MessageId = ZERO_ID
    ) -> list[Turn]:
        """Return the turns with local ids, larger than any in the archive, any deleted, and ``after``."""
        return self._given_ids(self._state(session_id, locked=True), turns, after)

    def _given_ids(self, state: State, turns: Sequence[Turn], after: MessageId) -> list[Turn]:
        taken = max(after, state.newest, state.cleared, state.dropped, state.deletion.up_to)
        first = local_id(taken, self._clock.time())
        return [with_id(turn, MessageId(first.ms, first.seq + i)) for i, turn in enumerate(turns)]

    def append_outage_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool,
        keyed: bool = False,
        after: MessageId = ZERO_ID,
    ) -> tuple[list[MessageId], int]:
        """Keep messages that Redis could not take. The mark comes with them, in one commit. See ColdTier."""
        ids: list[MessageId] = []
        count = 0

        def change(state: State, made: Commit) -> State:
            nonlocal count
            nonces = {turn.nonce for turn in turns if turn.nonce is not None}
            known = self._find(session_id, state, nonces) if contested or keyed else {}
            new = self._given_ids(state, [turn for turn in turns if turn.nonce not in known], after)
            given = iter(new)
            ids[:] = [known[turn.nonce] if turn.nonce in known else next(given).id for turn in turns]
            count = len(new)
            marked = replace(state, pending=True) if not state.pending else state
            if not new:
                return marked
            at_ms = self._now_ms()
            parts = made.parts(encode_frames(new, EMPTY, at_ms, self._codec), new)
            doubts = repeats_about(new) if keyed else doubts_about(new) if contested else {}
            after_it = folded(marked, Record(session_id, at_ms, parts=parts, doubts=doubts), 0)
            # The last message may be one that Redis alone has, under an id of another clock.
            return replace(after_it, changes=state.changes + 1)

        self.counters["appends"] += self._change(session_id, change)
        return ids, count

    # -- changing ------------------------------------------------------------------------------------

    def _change(self, session_id: str, change: Change, *, told: bool = True) -> bool:
        """Commit what a session is from now on; False if that is what it was."""
        shard = self._writable(session_id)

        def decide() -> Commit:
            before = shard.state(session_id)
            made = Commit()
            made.records += self._check_lease(session_id, before)
            after = change(before, made)
            if after is before:
                return Commit()
            if made.records:
                after = replace(after, token=b"")
            made.records.append(Record(session_id, self._now_ms(), state=after))
            return made

        def commit() -> bool:
            if not shard.state(session_id).token == self._token(session_id) != b"":
                shard.synced()
            return self._commit(shard, decide, is_known=True)

        changed = shard.in_turn(commit, commits=True)
        if changed and told:
            self.changes.note(session_id)
        return changed

    def clear_locked(self, session_id: str) -> None:
        """Take all that is archived out of the context; it stays in the history. See ColdTier."""

        def change(state: State, _: Commit) -> State:
            if not state.is_there or state.cleared >= state.newest:
                return state
            now_ms = self._now_ms()
            return replace(state, cleared=state.newest, stamped_ms=now_ms, changed_ms=now_ms, moved=False)

        self._change(session_id, change)

    def take_out_locked(self, session_id: str, turns: Sequence[Turn], instead: Turn | None = None) -> None:
        """Take turns out of the session; one may come in their place. See ColdTier."""
        signs = {sign_of(turn): turn.id for turn in turns}
        ids = {turn.id for turn in turns}

        def change(state: State, made: Commit) -> State:
            at_ms = self._now_ms()
            here = self._around(session_id, state, ids)
            # By its id as well: one that lost its nonce is known by nothing else.
            found = {sign_of(turn): turn.id for turn in here if sign_of(turn) in signs or turn.id in ids}
            after = self._begun(state, at_ms)
            fresh = [] if instead is None else [instead]
            parts = made.parts(encode_frames(fresh, EMPTY, at_ms, self._codec), fresh) if fresh else ()
            return replace(
                after,
                parts=after.parts + parts,
                hidden=after.hidden + len(found),
                changes=after.changes + 1,
                changed_ms=at_ms,
                largest=state.newest,
                gone={**state.gone, **signs, **found},
            )

        self.counters["changes"] += self._change(session_id, change)

    def replace_locked(self, session_id: str, turns: Sequence[Turn], at_ms: int) -> list[MessageId]:
        """Put turns in the place of all that is archived, in one commit. See ColdTier."""
        ids: list[MessageId] = []

        def change(state: State, made: Commit) -> State:
            now_ms = self._now_ms()
            archived = state.newest
            newest = max(archived, state.cleared, state.dropped, state.deletion.up_to)
            # Of the last message's millisecond, or of one that Redis has passed: what is added from now on
            # comes after them, however our clock and that of Redis differ.
            first = local_id(newest, 0 if archived and archived == newest else at_ms / 1000)
            fresh = [with_id(turn, MessageId(first.ms, first.seq + i)) for i, turn in enumerate(turns)]
            ids[:] = [turn.id for turn in fresh]
            # A copy that Redis may still get of one of them is no message any more.
            doubted = {nonce: its_id for nonce, its_id in contested_in(state).items() if its_id != ZERO_ID}
            return replace(
                self._anew(state, made, fresh, now_ms),
                dropped=newest,
                largest=newest,
                doubts={},
                gone={**state.gone, **doubted},
            )

        self.counters["changes"] += self._change(session_id, change)
        return ids

    def _anew(self, state: State, made: Commit, turns: Sequence[Turn], now_ms: int) -> State:
        """Return the state of a session that has these turns from now on, and no others."""
        return replace(
            self._begun(state, now_ms),
            parts=self._whole(made, turns, now_ms),
            hidden=0,
            changes=state.changes + 1,
            changed_ms=now_ms,
        )

    def _whole(self, made: Commit, turns: Sequence[Turn], at_ms: int) -> tuple[Part, ...]:
        """Take all turns of a session into a commit, in frames that can be read one by one."""
        parts: tuple[Part, ...] = ()
        codec = self._codec.patient()
        for start in range(0, len(turns), TURNS_PER_FRAME):
            some = turns[start : start + TURNS_PER_FRAME]
            most = WHOLE_FRAME_BYTES if len(some) > 1 else MAX_DECODED
            parts += made.parts(encode_frames(some, EMPTY, at_ms, codec, most=most), some)
        return parts

    @staticmethod
    def _begun(state: State, at_ms: int) -> State:
        """Return the state of a session that something is done to now."""
        return replace(
            state,
            is_there=True,
            moved=False,
            created_ms=state.created_ms if state.is_there else at_ms,
            updated_ms=max(state.updated_ms, at_ms),
            stamped_ms=max(state.stamped_ms, at_ms),
        )

    # -- marks of an outage ----------------------------------------------------------------------------

    def mark_pending_locked(self, session_id: str) -> None:
        """Note that Redis and the archive of the session must be reconciled."""
        self._mark(session_id, True)

    def unmark_pending_locked(self, session_id: str) -> None:
        """Take the mark off; harmless if there is none."""
        self._mark(session_id, False)

    def _mark(self, session_id: str, pending: bool) -> None:
        def change(state: State, _: Commit) -> State:
            return state if state.pending == pending else replace(state, pending=pending)

        if pending or self._shard(session_id) is not None:
            self._change(session_id, change, told=False)
