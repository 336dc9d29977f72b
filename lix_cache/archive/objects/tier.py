"""The archive on object storage as flows know it: whole sessions, expiry, trash; and all of the rest."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from lix_cache._log import logger
from lix_cache.archive.catalogue import Place
from lix_cache.archive.expiry import DAY, Now, is_expired, now_by
from lix_cache.archive.identity import Known, newcomers
from lix_cache.archive.objects import layout
from lix_cache.archive.objects.marking import ObjectMarker
from lix_cache.archive.objects.order import Entry, entry_of
from lix_cache.archive.objects.reader import contested_in
from lix_cache.archive.objects.records import (
    DELETED,
    NO_DELETION,
    TRASHED,
    Part,
    Record,
    State,
    Trashed,
)
from lix_cache.archive.objects.repeats import restored_doubts
from lix_cache.archive.objects.shard import SIDE_BY_SIDE, Collected, Commit, Shard
from lix_cache.archive.tombstones import Deletion
from lix_cache.errors import ArchiveError, told
from lix_cache.messages.session_key import named
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn
from lix_cache.storage.parallel import side_by_side

__all__ = ["ObjectTier"]

#: Sessions that one commit changes: others wait as long as it takes to decide on it.
_AT_ONCE = 256
#: Each shard is looked at once in so many hourly clean-ups; the setting that names the first of the next one.
_TURNS, _NEXT_TURN = 24, "turn"
#: Makes of a session's state another one; None if there is nothing to change.
Change = Callable[[State], "State | None"]


class ObjectTier(ObjectMarker):
    """See :class:`~lix_cache.archive.cold_tier.ColdTier` and docs/object-layout.md."""

    def check_writable(self) -> None:
        """Put an object.

        Raises:
            ArchiveUnavailable: it was refused.
        """
        self.bucket.put(layout.PROBE, b"")

    def setting(self, name: str) -> str | None:
        """Return what is noted under a name; None where there is no note."""
        data = self.bucket.get(layout.setting_name(name))
        return None if data is None else data.decode("utf-8", "replace")

    def note_setting(self, name: str, value: str, *, anew: bool = False) -> str:
        """Note a value that all processes must agree on. See ColdTier."""
        where, data = layout.setting_name(name), value.encode()
        if anew:
            self.bucket.put(where, data)
        elif not self.bucket.create(where, data):
            return self.setting(name) or value
        return value

    def archive_id(self, *, make: bool = False) -> str | None:
        """Return the UUID of the archive; None where there is none, and none is to be made."""
        note = self.identity(make=make)
        return None if note is None else note.uuid

    # -- whole sessions -----------------------------------------------------------------------------

    def delete_locked(
        self, session_id: str, up_to: MessageId = ZERO_ID, late: Collection[bytes] = ()
    ) -> bool:
        """Remove the session for good, from the trash as well, and remember it: one commit. See ColdTier."""
        if self.identity() is None and up_to == ZERO_ID and not late:
            return False
        existed = False
        gone: tuple[Part, ...] = ()

        def change(state: State, _: Commit) -> State:
            nonlocal existed, gone
            gone = tuple(state.all_parts())
            existed = state.is_there or bool(state.trash)
            nonces = state.deletion.nonces.union(late, contested_in(state))
            deletion = Deletion(max(up_to, state.deletion.up_to), nonces)
            if not existed and not state.pending and deletion == state.deletion:
                return state
            return State(deletion=deletion, noted_ms=self._now_ms(), token=state.token)

        self._change(session_id, change)
        self._forget_frames(session_id, gone)
        return existed

    def forget_deletions(self, older_than_ms: int) -> int:
        """Drop what is remembered of deletions before a time. See ColdTier."""

        changed = self._change_all(DELETED, lambda state: _without_old_note(state, older_than_ms))
        return len(changed) + self._forget_inherited(older_than_ms)

    def _change_all(self, marks: int, change: Change) -> list[tuple[State, State]]:
        """Commit a change of all sessions with a mark and without a holder. Returns what changed."""

        def changed_in(shard: Shard) -> list[tuple[State, State]]:
            shard.synced()
            # Looked for first, some at a time: others must not wait for a look at all sessions.
            found = [session_id for session_id, state in shard.states(marks) if change(state) is not None]
            return self._change_some(shard, found, change)

        return [one for some in self._of_each_shard(changed_in) for one in some]

    def _change_some(
        self, shard: Shard, session_ids: Sequence[str], change: Change
    ) -> list[tuple[State, State]]:
        starts = range(0, len(session_ids), _AT_ONCE)
        some = (session_ids[start : start + _AT_ONCE] for start in starts)
        return [one for ids in some for one in self._change_together(shard, ids, change)]

    def _change_together(
        self, shard: Shard, session_ids: Sequence[str], change: Change
    ) -> list[tuple[State, State]]:
        changed: list[tuple[State, State]] = []

        def decide() -> Commit:
            changed.clear()
            made = Commit()
            for session_id in session_ids:
                state = shard.state(session_id)
                after = None if state.token or self._held.is_taken(session_id) else change(state)
                if after is not None:
                    changed.append((state, after))
                    made.records.append(Record(session_id, self._now_ms(), state=after))
            return made

        self._commit(shard, decide, is_known=True)
        return changed

    def collect(self) -> Collected:
        """Make a snapshot of each shard, and remove what nothing refers to any more."""
        sweep = partial(self._swept, self.now().earliest, lambda _: None)
        found = self._of_each_shard(sweep)
        return Collected(sum(one.segments for one in found), sum(one.snapshots for one in found))

    def _swept(self, now: float, change: Change, shard: Shard) -> Collected:
        """Look at all states of a shard once: change those that are to be, make a snapshot, and collect."""
        shard.synced()
        live: set[int | None] = set()
        due: list[str] = []
        for session_id, state in shard.states():
            live.update(part.segment for part in state.all_parts())
            if change(state) is not None:
                due.append(session_id)
        # What they refer to stays until the next time: it is among the live.
        self._change_some(shard, due, change)
        shard.snapshot()
        return shard.collect(now, live)

    def tidy(self, now: Now, trash_days: float, older_than_ms: int) -> Iterator[None]:
        """Empty the trash, forget deletions, and collect, in the shards whose turn it is. See ColdTier."""
        trash_ms = _trash_before(now, trash_days)

        def change(state: State) -> State | None:
            emptied = _emptied(state, trash_ms)
            return _without_old_note(emptied or state, older_than_ms) or emptied

        def sweep(shard: Shard) -> None:
            with self._noting_failures():
                self._swept(now.earliest, change, shard)

        turn: list[Shard] = []
        with self._noting_failures():
            turn = self._turn()
            self._forget_inherited(older_than_ms)
        for start in range(0, len(turn), 1 + SIDE_BY_SIDE):
            some = turn[start : start + 1 + SIDE_BY_SIDE]
            side_by_side([partial(sweep, shard) for shard in some], SIDE_BY_SIDE)
            yield

    def _turn(self) -> list[Shard]:
        """Return the shards whose turn it is. Called each hour, it names each of them once a day.

        To look at all sessions is to read all that is known of them: to keep some for a day more costs less.
        """
        shards = self._all_shards()
        share = -(-len(shards) // _TURNS)
        if share == len(shards):
            return shards
        # Noted before they are looked at: one that kills the process must not take the others' turn.
        begin = int(self.setting(_NEXT_TURN) or 0)
        self.note_setting(_NEXT_TURN, str((begin + share) % len(shards)), anew=True)
        return [shards[(begin + n) % len(shards)] for n in range(share)]

    @contextmanager
    def _noting_failures(self) -> Iterator[None]:
        """What the store refuses is done the next time."""
        try:
            yield
        except ArchiveError as error:
            self.counters.update(("collection_failures",))
            logger.warning("a collection was not finished: {}", told(error))

    # -- expiry ---------------------------------------------------------------------------------------

    def now(self, *others: float) -> Now:
        """Return what time it is by our clock, by the store's, and by those given."""
        clocks = [self._clock.time(), *others]
        if self.identity() is not None:
            self.bucket.put(layout.PROBE, b"")
            # Where it went meanwhile, nothing is old.
            clocks.append(self.bucket.modified(layout.PROBE) or 0.0)
        return now_by(clocks, "object store")

    def expired_sessions(self, ttl_seconds: float, now: Now) -> list[str]:
        """Return the sessions that have given no sign of life for so long."""
        # No sign of life is older than the last use: what was used since need not be looked at.
        before = Place(max(0, int((now.earliest - ttl_seconds) * 1000) + 1), b"")

        def expired_in(shard: Shard) -> list[str]:
            put: dict[int, float] = {}
            entries = self._entries(*self._newest_of(before, shard))
            over = (one for one in entries if self._is_over(shard, one, ttl_seconds, now, put))
            return [one.place.session_id for one in over]

        return [session_id for some in self._of_each_shard(expired_in) for session_id in some]

    def _is_expired(self, shard: Shard, state: State, ttl_seconds: float, now: Now) -> bool:
        entry = entry_of("", state)
        return entry is not None and self._is_over(shard, entry, ttl_seconds, now, {})

    def _is_over(
        self, shard: Shard, entry: Entry, ttl_seconds: float, now: Now, put: dict[int, float]
    ) -> bool:
        if not is_expired(now, ttl_seconds, entry.lived_ms / 1000, ZERO_ID, 0.0):
            return False
        # The store's own clock says when it was written to last. Asked once for each segment.
        if entry.version not in put:
            put[entry.version] = self._put_at(shard, entry.version)
        return is_expired(now, ttl_seconds, 0.0, ZERO_ID, put[entry.version])

    def expire_locked(self, session_id: str, ttl_seconds: float, now: Now, *, to_trash: bool) -> bool:
        """Take a session away if it is still expired. See ColdTier."""
        shard = self._writable(session_id)

        def change(state: State, _: Commit) -> State:
            if not self._is_expired(shard, state, ttl_seconds, now):
                return state
            ms = int(now.latest * 1000)
            while any(one.ms == ms for one in state.trash):
                ms += 1
            own = replace(state, trash=(), token=b"", pending=False, deletion=NO_DELETION, noted_ms=0)
            return replace(state.without_session(), pending=False, trash=(*state.trash, Trashed(ms, own)))

        if to_trash:
            return self._change(session_id, change)
        return self._is_expired(shard, self._state(session_id, locked=True), ttl_seconds, now) and (
            self.delete_locked(session_id)
        )

    def note_not_expired(self, session_id: str, error: ArchiveError) -> None:
        """Count and log that a session could not be looked at or taken away, which keeps no other."""
        self.counters.update(("expiry_failures",))
        logger.warning("session {} is not expired: {}", named(session_id), error)

    def restore_locked(self, session_id: str) -> bool:
        """Take a session back from the trash, together with what it has since. See ColdTier."""
        if self.identity() is None:
            return False

        def change(state: State, made: Commit) -> State:
            after = state
            for one in sorted(state.trash, key=lambda one: one.ms):
                after = self._restored(session_id, after, one.state, made)
            # A sign of life: what is taken back must not expire again within the hour.
            return (
                state if after is state else replace(after, trash=(), stamped_ms=self._now_ms(), moved=False)
            )

        return self._change(session_id, change)

    def _restored(self, session_id: str, new: State, old: State, made: Commit) -> State:
        """Return what a session is when an old state of it is taken back."""
        if not new.is_there:
            return replace(
                old, deletion=new.deletion, noted_ms=new.noted_ms, pending=new.pending, token=new.token,
                trash=new.trash,
            )  # fmt: skip
        known = Known()
        turns: list[Turn] = []
        for state in (old, new):
            fresh = newcomers(self._read_twice(session_id, state), known)
            known.add(fresh)
            turns += fresh
        turns.sort(key=lambda turn: turn.id)
        dropped = max(old.dropped, new.dropped)
        return replace(
            new,
            moved=False,
            created_ms=min(old.created_ms, new.created_ms),
            updated_ms=max(old.updated_ms, new.updated_ms),
            parts=self._whole(made, turns, max(old.updated_ms, new.updated_ms)),
            hidden=0,
            changes=old.changes + new.changes,
            cleared=max(old.cleared, new.cleared),
            # A window may hold again what is taken back.
            dropped=dropped if not turns or dropped < turns[0].id else ZERO_ID,
            largest=max(old.newest, new.newest),
            doubts=restored_doubts(turns, (old, new)),
            changed_ms=max(old.changed_ms, new.changed_ms),
            gone={**old.gone, **new.gone},
        )

    def _read_twice(self, session_id: str, state: State) -> list[Turn]:
        """Return the turns of a state; where one answer of the store was damaged, those of the next one.

        What is not read here is left out of the session for good.
        """
        damaged = self.counters["damaged_reads"]
        turns = self._visible(session_id, state, state.parts)
        if self.counters["damaged_reads"] == damaged:
            return turns
        return self._visible(session_id, state, state.parts)

    def empty_trash(self, now: Now, days: float) -> int:
        """Remove for good what has been in the trash for so many days. See ColdTier."""
        before_ms = _trash_before(now, days)
        changed = self._change_all(TRASHED, lambda state: _emptied(state, before_ms))
        return sum(len(state.trash) - len(after.trash) for state, after in changed)


def _trash_before(now: Now, days: float) -> float:
    return (now.earliest - days * DAY) * 1000


def _emptied(state: State, before_ms: float) -> State | None:
    """Return a state without what has been in the trash since before a time; None if there is nothing."""
    left = tuple(one for one in state.trash if one.ms >= before_ms)
    return None if len(left) == len(state.trash) else replace(state, trash=left)


def _without_old_note(state: State, older_than_ms: int) -> State | None:
    """Return a state without the note of a deletion before a time; None if there is none."""
    at_ms = state.deletion.up_to.ms or state.noted_ms
    if state.deletion == NO_DELETION or at_ms >= older_than_ms:
        return None
    return replace(state, deletion=NO_DELETION, noted_ms=0)
