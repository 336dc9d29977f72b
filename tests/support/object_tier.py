"""A cold tier without files: whole objects, conditional writes, leases that end. For tests.

As an object store has them, and nothing else: no path, no lock of a file system, no append in place.
It proves that the flows need no more than the protocol says.
"""

from __future__ import annotations

import threading
import time
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from heapq import nlargest
from typing import Any

from lix_cache.archive.catalogue import Place, Wanted, placed
from lix_cache.archive.changes import SessionStamp, changes_of
from lix_cache.archive.compaction import one_by_one
from lix_cache.archive.doubts import as_gone, as_repeat, id_before, is_gone, is_repeat
from lix_cache.archive.expiry import DAY, Now, is_expired
from lix_cache.archive.facts import CompactedSession, Extent, Marks, SessionMetadata, Summary, TrashedSession
from lix_cache.archive.identity import Known, local_id, newcomers
from lix_cache.archive.tombstones import Deletion, note_name
from lix_cache.errors import ArchiveBusy, ArchiveError, ArchiveUnavailable, LixCacheError
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, once, sign_of, sign_of_id, with_id

__all__ = ["Bucket", "ObjectTier"]


class Bucket:
    """Objects by their names. A write says which version it replaces; 0 for none."""

    def __init__(self) -> None:
        self._objects: dict[tuple[str, ...], tuple[int, Any]] = {}
        self._lock = threading.Lock()
        self._versions = 0
        #: Called before every write.
        self.before_put: Callable[[], None] = lambda: None

    def get(self, *name: str) -> tuple[int, Any]:
        return self._objects.get(name, (0, None))

    def put(self, value: Any, expected: int | None, *name: str) -> bool:
        """Store a value, or remove it with None. False if another version is there than expected."""
        self.before_put()
        with self._lock:
            if expected is not None and self.get(*name)[0] != expected:
                return False
            self._versions += 1
            if value is None:
                self._objects.pop(name, None)
            else:
                self._objects[name] = (self._versions, value)
            return True

    def names(self, *start: str) -> list[tuple[str, ...]]:
        with self._lock:
            return [name for name in self._objects if name[: len(start)] == start]


@dataclass(frozen=True)
class _Session:
    """All that is archived of a session: one object."""

    created_at: float
    updated_at: float
    stamped_at: float
    turns: tuple[Turn, ...] = ()
    cleared: MessageId = ZERO_ID
    contested: frozenset[bytes] = frozenset()
    repeats: frozenset[bytes] = frozenset()
    moved: Mapping[bytes, MessageId] = field(default_factory=dict)
    frames: int = 0
    gone: Mapping[bytes, MessageId] = field(default_factory=dict)
    changes: int = 0
    dropped: MessageId = ZERO_ID
    largest: MessageId = ZERO_ID
    changed_at: float = 0.0
    inherited: Mapping[bytes, MessageId] = field(default_factory=dict)

    @property
    def last_use(self) -> float:
        return max(self.newest.timestamp, self.changed_at) or self.updated_at

    @property
    def newest(self) -> MessageId:
        return max(self.largest, self.turns[-1].id) if self.turns else self.largest


@dataclass
class _Lease:
    tier: ObjectTier
    session_id: str
    token: str

    @property
    def is_held(self) -> bool:
        _, found = self.tier.bucket.get("lease", self.session_id)
        return found is not None and found[0] == self.token

    def release(self) -> None:
        version, found = self.tier.bucket.get("lease", self.session_id)
        if found is not None and found[0] == self.token:
            self.tier.bucket.put(None, version, "lease", self.session_id)

    def __enter__(self) -> _Lease:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()


class ObjectTier:
    """See :class:`~lix_cache.archive.cold_tier.ColdTier`.

    Args:
        bucket: where the objects are.
        lock_timeout_seconds: how long to wait for a lease.
        lease_seconds: how long a lease lasts.
    """

    def __init__(
        self, bucket: Bucket, *, lock_timeout_seconds: float = 30, lease_seconds: float = 60
    ) -> None:
        self.bucket = bucket
        self.counters: Counter[str] = Counter()
        self.changes = changes_of(self.location)
        self._timeout = lock_timeout_seconds
        self._lease_seconds = lease_seconds
        self._leases: dict[str, _Lease] = {}

    @property
    def location(self) -> str:
        return f"bucket-{id(self.bucket)}"

    def check_writable(self) -> None:
        self.bucket.put(b"", None, "probe")

    def setting(self, name: str) -> str | None:
        found: str | None = self.bucket.get("setting", name)[1]
        return found

    def note_setting(self, name: str, value: str, *, anew: bool = False) -> str:
        if not self.bucket.put(value, None if anew else 0, "setting", name):
            return self.setting(name) or value
        return value

    def archive_id(self, *, make: bool = False) -> str | None:
        found = self.setting("uuid")
        return self.note_setting("uuid", str(uuid.uuid4())) if found is None and make else found

    # -- leases ----------------------------------------------------------------------------

    def lock_key(self, session_id: str) -> str:
        return session_id

    def try_lock(self, session_id: str, *, to_append: bool = False) -> _Lease | None:
        version, found = self.bucket.get("lease", session_id)
        if found is not None and found[1] > time.monotonic():
            return None
        lease = _Lease(self, session_id, uuid.uuid4().hex)
        until = time.monotonic() + self._lease_seconds
        if not self.bucket.put((lease.token, until), version, "lease", session_id):
            return None
        self._leases[session_id] = lease
        return lease

    def lock_pauses(self) -> Iterator[float]:
        yield 0.0
        waited = 0.0
        while waited <= self._timeout:
            yield 0.01
            waited += 0.01

    def busy_error(self, session_id: str) -> ArchiveBusy:
        return ArchiveBusy(f"another process has the lease of session {session_id[:60]!r}")

    def _change(self, session_id: str, change: Callable[[_Session | None], _Session | None]) -> bool:
        """Replace a session's object; False if there is nothing to change."""
        version, before = self.bucket.get("session", session_id)
        after = change(before)
        if after is before:
            return False
        lease = self._leases.get(session_id)
        # The version keeps a holder out whose lease another has taken over and used since.
        if lease is None or not lease.is_held or not self.bucket.put(after, version, "session", session_id):
            raise self.busy_error(session_id)
        self.changes.note(session_id)
        return True

    # -- appending -------------------------------------------------------------------------

    def append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes] = False,
        from_window: bool = False,
        is_outage: bool = False,
    ) -> int:
        fresh: list[Turn] = []
        gone = self._deletion(session_id)
        wanted = once(turns)
        if from_window:
            wanted = [turn for turn in wanted if turn.id > gone.up_to and turn.nonce not in gone.nonces]

        def change(before: _Session | None) -> _Session | None:
            known, now = Known(), time.time()
            if from_window and before is not None:
                before = _settled(before, [turn for turn in wanted if turn.id > before.dropped])
            known.add(before.turns if before else ())
            left = wanted
            if before is not None:
                up_to = before.dropped if from_window else ZERO_ID
                left = [turn for turn in wanted if turn.id > up_to and sign_of(turn) not in before.gone]
            fresh[:] = newcomers(left, known)
            if not fresh:
                return before
            old = before or _Session(now, now, now)
            nonces = {turn.nonce for turn in fresh if turn.nonce is not None}
            if not isinstance(contested, bool):
                nonces.intersection_update(contested)
            elif not contested:
                nonces.clear()
            return replace(
                old,
                updated_at=now,
                stamped_at=now,
                turns=tuple(once([*old.turns, *fresh])),
                contested=old.contested.union(nonces),
                frames=old.frames + 1,
                changes=old.changes + (is_outage or fresh[0].id < old.newest),
            )

        self.counters["appends"] += self._change(session_id, change)
        return len(fresh)

    def append_many_locked(
        self, batch: Mapping[str, Sequence[Turn]], contested: Mapping[str, Collection[bytes]] | None = None
    ) -> dict[str, int | LixCacheError]:
        results: dict[str, int | LixCacheError] = {}
        for session_id, turns in batch.items():
            try:
                results[session_id] = self.append_locked(
                    session_id, turns, contested=(contested or {}).get(session_id, ()), from_window=True
                )
            except LixCacheError as error:
                results[session_id] = error
        return results

    def append_outage_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool,
        keyed: bool = False,
        after: MessageId = ZERO_ID,
    ) -> tuple[list[MessageId], int]:
        self.mark_pending_locked(session_id)
        nonces = [turn.nonce for turn in turns if turn.nonce is not None]
        known = self.find_nonces_locked(session_id, nonces) if contested or keyed else {}
        taken = max(after, self.look(session_id).newest)
        ids, new = [], []
        for turn in turns:
            if turn.nonce not in known:
                taken = local_id(taken, time.time())
                new.append(with_id(turn, taken))
            ids.append(known.get(turn.nonce or b"", taken))
        self.append_locked(session_id, new, contested=contested or keyed, is_outage=True)
        if keyed:
            again = frozenset(turn.nonce for turn in new if turn.nonce)
            self._change(session_id, lambda old: old and replace(old, repeats=old.repeats | again))
        return ids, len(new)

    def take_out_locked(self, session_id: str, turns: Sequence[Turn], instead: Turn | None = None) -> None:
        ids = {turn.id for turn in turns}

        def change(before: _Session | None) -> _Session:
            now = time.time()
            old = before or _Session(now, now, now)
            left = [turn for turn in old.turns if turn.id not in ids]
            return replace(
                old,
                updated_at=now,
                stamped_at=now,
                turns=tuple(once([*left, *(() if instead is None else (instead,))])),
                gone={**old.gone, **{sign_of(turn): turn.id for turn in turns}},
                changes=old.changes + 1,
                changed_at=now,
                largest=old.newest,
                frames=old.frames + 1,
            )

        self._change(session_id, change)

    def replace_locked(self, session_id: str, turns: Sequence[Turn], at_ms: int) -> list[MessageId]:
        newest, archived = self.look(session_id).newest, self.summary(session_id).newest
        first = local_id(newest, 0 if archived and archived == newest else at_ms / 1000)
        doubted = {nonce: its_id for nonce, its_id in self.contested(session_id).items() if its_id != ZERO_ID}
        fresh = tuple(with_id(turn, MessageId(first.ms, first.seq + i)) for i, turn in enumerate(turns))

        def change(before: _Session | None) -> _Session:
            now = time.time()
            old = before or _Session(now, now, now)
            return replace(
                old,
                updated_at=now,
                stamped_at=now,
                turns=fresh,
                changes=old.changes + 1,
                changed_at=now,
                dropped=newest,
                gone={**old.gone, **doubted},
                largest=old.newest,
                frames=old.frames + 1,
            )

        self._change(session_id, change)
        return [turn.id for turn in fresh]

    def clear_locked(self, session_id: str) -> None:
        def change(before: _Session | None) -> _Session | None:
            if before is None or before.cleared >= before.newest:
                return before
            now = time.time()
            return replace(before, cleared=before.newest, stamped_at=now, changed_at=now)

        self._change(session_id, change)

    # -- reading ---------------------------------------------------------------------------

    def _session(self, session_id: str) -> _Session | None:
        found: _Session | None = self.bucket.get("session", session_id)[1]
        return found

    def _deletion(self, session_id: str) -> Deletion:
        found: Deletion | None = self.bucket.get("deleted", note_name(session_id))[1]
        return found or Deletion()

    def exists(self, session_id: str) -> bool:
        return self._session(session_id) is not None

    def turns(self, session_id: str, *, locked: bool = False) -> list[Turn]:
        found = self._session(session_id)
        return list(found.turns) if found else []

    def recent(
        self, session_id: str, count: int, *, in_context: bool = False, locked: bool = False
    ) -> list[Turn]:
        found = self._session(session_id)
        if found is None or count <= 0:
            return []
        return [turn for turn in found.turns[-count:] if not in_context or turn.id > found.cleared]

    def between(
        self,
        session_id: str,
        count: int,
        *,
        after: MessageId = ZERO_ID,
        before: MessageId | None = None,
        newest: bool,
        locked: bool = False,
    ) -> list[Turn]:
        turns = [turn for turn in self.turns(session_id) if after < turn.id]
        turns = [turn for turn in turns if before is None or turn.id < before]
        return (turns[-count:] if count else []) if newest else turns[:count]

    def summary(self, session_id: str, *, locked: bool = False) -> Summary:
        found = self._session(session_id)
        return Summary(len(found.turns), found.newest, found.cleared, found.changes) if found else Summary()

    def look(self, session_id: str, *, locked: bool = False) -> Extent:
        own, gone, found = self.summary(session_id), self._deletion(session_id), self._session(session_id)
        up_to = max(gone.up_to, found.dropped if found else ZERO_ID)
        taken_out = max(found.gone.values(), default=ZERO_ID) if found else ZERO_ID
        newest = max(own.newest, up_to)
        repeats = found.repeats if found else frozenset[bytes]()
        contested, given = self.contested(session_id), max(newest, taken_out)
        return Extent(newest, own.cleared, up_to, gone.up_to, contested, repeats, given)

    def marks(self, session_id: str, *, locked: bool = False) -> Marks:
        found, pending = self._session(session_id), self.is_pending(session_id)
        if found is None:
            return Marks(pending=pending)
        said = {turn.nonce: turn.id for turn in found.turns if turn.nonce in found.contested if turn.nonce}
        said.update({one: as_repeat(its_id) for one, its_id in said.items() if one in found.repeats})
        said.update(found.moved)
        said.update({sign: as_gone(its_id) for sign, its_id in found.gone.items()})
        return Marks(found.cleared, found.dropped, {**found.inherited, **said}, pending)

    def mark_many_locked(self, batch: Mapping[str, Marks]) -> dict[str, LixCacheError]:
        for session_id, marks in batch.items():
            lacking = marks.lacking(self.marks(session_id))
            if lacking.pending:
                self.mark_pending_locked(session_id)
            if replace(lacking, pending=False) == Marks():
                continue

            def change(before: _Session | None, lacking: Marks = lacking) -> _Session:
                now = time.time()
                old = before or _Session(now, now, now)
                said = lacking.said
                nonces = {turn.nonce for turn in old.turns}
                return replace(
                    old,
                    cleared=max(old.cleared, lacking.cleared),
                    dropped=max(old.dropped, lacking.dropped),
                    contested=old.contested | {one for one in said if one in nonces},
                    repeats=old.repeats | {one for one, its_id in said.items() if is_repeat(its_id)},
                    moved={
                        **old.moved,
                        **{s: i for s, i in said.items() if s not in nonces and not is_gone(i)},
                    },
                    gone={**old.gone, **{s: id_before(i) for s, i in said.items() if is_gone(i)}},
                    inherited={**old.inherited, **said},
                    changes=old.changes + 1,
                )

            self._change(session_id, change)
        return {}

    def renew_locked(self, session_id: str, turns: Sequence[Turn], marks: Marks) -> None:
        if marks.pending:
            self.mark_pending_locked(session_id)
        said, nonces = marks.said, {turn.nonce for turn in turns}

        def change(before: _Session | None) -> _Session:
            now = time.time()
            old = before or _Session(now, now, now)
            return _Session(
                old.created_at,
                now,
                now,
                tuple(turns),
                marks.cleared,
                frozenset(one for one in said if one in nonces),
                frozenset(one for one, its_id in said.items() if is_repeat(its_id)),
                {s: i for s, i in said.items() if s not in nonces and not is_gone(i)},
                gone={s: id_before(i) for s, i in said.items() if is_gone(i)},
                changes=old.changes + 1,
                dropped=marks.dropped,
                largest=old.newest,
                changed_at=now,
                inherited=dict(said),
            )

        self._change(session_id, change)

    def deletions(self) -> Iterator[tuple[str, Deletion]]:
        for name in self.bucket.names("deleted"):
            yield name[1], self.bucket.get(*name)[1]

    def take_deletions(self, notes: Mapping[str, Deletion]) -> int:
        count = 0
        for name, one in notes.items():
            before = self.bucket.get("deleted", name)[1] or Deletion()
            if before.joined(one) != before:
                count += self.bucket.put(before.joined(one), None, "deleted", name)
        return count

    def contested(self, session_id: str, *, locked: bool = False) -> Mapping[bytes, MessageId]:
        found = self._session(session_id)
        known = dict.fromkeys(self._deletion(session_id).nonces, ZERO_ID)
        if found is not None:
            known.update((t.nonce, t.id) for t in found.turns if t.nonce and t.nonce in found.contested)
            known.update(found.moved)
            known.update(dict.fromkeys(found.gone, ZERO_ID))
        return known

    def find_nonces_locked(
        self, session_id: str, nonces: Collection[bytes], *, since_ms: int = 0
    ) -> dict[bytes, MessageId]:
        del since_ms
        found = self._session(session_id)
        there = {turn.nonce: turn.id for turn in self.turns(session_id) if turn.nonce}
        known = {**(found.gone if found else {}), **there}
        return {nonce: known[nonce] for nonce in nonces if nonce in known}

    def deleted_up_to(self, session_id: str) -> MessageId:
        return self._deletion(session_id).up_to

    def metadata(self, session_id: str, *, locked: bool = False) -> SessionMetadata | None:
        found = self._session(session_id)
        if found is None:
            return None
        size = sum(len(str(turn.body)) for turn in found.turns)
        return SessionMetadata(
            session_id, found.created_at, found.updated_at, len(found.turns), size, found.last_use
        )

    def all_metadata(self) -> Iterator[SessionMetadata]:
        for _, session_id in self.bucket.names("session"):
            meta = self.metadata(session_id)
            if meta is not None:
                yield meta

    def by_last_use(
        self, count: int, *, after: Place | None = None, wanted: Wanted
    ) -> list[tuple[Place, SessionMetadata]]:
        every = ((placed(meta), meta) for meta in self.all_metadata() if wanted(meta.session_id))
        rest = (one for one in every if after is None or one[0] < after)
        return nlargest(count, rest, key=lambda one: one[0])

    def stamps(self) -> Iterator[SessionStamp]:
        for name in self.bucket.names("session"):
            yield SessionStamp(name[1], str(self.bucket.get(*name)[0]))

    # -- marks -----------------------------------------------------------------------------

    def mark_pending_locked(self, session_id: str) -> None:
        self.bucket.put(b"", None, "pending", session_id)

    def unmark_pending_locked(self, session_id: str) -> None:
        self.bucket.put(None, None, "pending", session_id)

    def is_pending(self, session_id: str, *, just_read: bool = False) -> bool:
        return self.bucket.get("pending", session_id)[1] is not None

    def pending_sessions(self) -> list[str]:
        return [session_id for _, session_id in self.bucket.names("pending")]

    # -- whole sessions --------------------------------------------------------------------

    def delete_locked(
        self, session_id: str, up_to: MessageId = ZERO_ID, late: Collection[bytes] = ()
    ) -> bool:
        before = self._deletion(session_id)
        nonces = before.nonces.union(late, self.contested(session_id))
        deletion = Deletion(max(up_to, before.up_to), nonces)
        if deletion != before:
            self.bucket.put(deletion, None, "deleted", note_name(session_id))
        trashed = self.bucket.names("trash", session_id)
        for name in trashed:
            self.bucket.put(None, None, *name)
        removed = self._change(session_id, lambda _: None)
        self.unmark_pending_locked(session_id)
        return removed or bool(trashed)

    def forget_deletions(self, older_than_ms: int) -> int:
        dropped = 0
        for name in self.bucket.names("deleted"):
            version, found = self.bucket.get(*name)
            if found is not None and found.up_to.ms < older_than_ms:
                dropped += self.bucket.put(None, version, *name)
        return dropped

    def compact_locked(
        self, session_id: str, *, idle_seconds: float, dry_run: bool = False
    ) -> CompactedSession:
        found = self._session(session_id)
        if found is None or found.frames <= 1:
            return CompactedSession()
        if time.time() - found.updated_at < idle_seconds:
            return CompactedSession(is_active=True)
        if not dry_run:
            self._change(session_id, lambda before: replace(before, frames=1) if before else None)
            self.counters["compactions"] += 1
        return CompactedSession(is_changed=True, frames_before=found.frames, frames_after=1)

    def compact_many(
        self, session_ids: Sequence[str], *, idle_seconds: float, dry_run: bool = False, bundle: bool = False
    ) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
        compact = partial(self.compact_locked, idle_seconds=idle_seconds, dry_run=dry_run)
        return one_by_one(self, session_ids, compact)

    def tidy(self, now: Now, trash_days: float, older_than_ms: int) -> Iterator[None]:
        self.empty_trash(now, trash_days)
        self.forget_deletions(older_than_ms)
        yield

    # -- expiry ----------------------------------------------------------------------------

    def now(self, *others: float) -> Now:
        clocks = [time.time(), *others]
        return Now(min(clocks), max(clocks))

    def _is_expired(self, session_id: str, ttl_seconds: float, now: Now) -> bool:
        found = self._session(session_id)
        return found is not None and is_expired(
            now, ttl_seconds, found.updated_at, found.newest, found.stamped_at
        )

    def expired_sessions(self, ttl_seconds: float, now: Now) -> list[str]:
        every = [session_id for _, session_id in self.bucket.names("session")]
        return [session_id for session_id in every if self._is_expired(session_id, ttl_seconds, now)]

    def expire_locked(self, session_id: str, ttl_seconds: float, now: Now, *, to_trash: bool) -> bool:
        if not self._is_expired(session_id, ttl_seconds, now):
            return False
        if not to_trash:
            return self.delete_locked(session_id)
        ms = int(now.latest * 1000)
        self.bucket.put(self._session(session_id), None, "trash", session_id, str(ms))
        self.unmark_pending_locked(session_id)
        return self._change(session_id, lambda _: None)

    def note_not_expired(self, session_id: str, error: ArchiveError) -> None:
        self.counters["expiry_failures"] += 1

    def restore_locked(self, session_id: str) -> bool:
        names = self.bucket.names("trash", session_id)
        for name in names:
            old: _Session = self.bucket.get(*name)[1]

            def merged(now: _Session | None, old: _Session = old) -> _Session:
                if now is None:
                    return replace(old, stamped_at=time.time())
                known = Known()
                known.add(now.turns)
                turns = tuple(once([*now.turns, *newcomers(list(old.turns), known)]))
                return replace(
                    now,
                    turns=turns,
                    contested=now.contested | old.contested,
                    repeats=now.repeats | old.repeats,
                    moved={**now.moved, **old.moved},
                    gone={**old.gone, **now.gone},
                    changes=old.changes + now.changes,
                    largest=max(old.newest, now.newest),
                )

            self._change(session_id, merged)
            self.bucket.put(None, None, *name)
        return bool(names)

    def empty_trash(self, now: Now, days: float) -> int:
        old = [
            name
            for name in self.bucket.names("trash")
            if int(name[2]) < (now.earliest - days * DAY) * 1000
            and self.bucket.get("lease", name[1])[1] is None
        ]
        return sum(self.bucket.put(None, None, *name) for name in old)

    def trashed(self) -> Iterator[TrashedSession]:
        for name in self.bucket.names("trash"):
            yield TrashedSession(name[1], int(name[2]) / 1000, 1)


def _settled(session: _Session, window: Sequence[Turn]) -> _Session:
    """Return a session whose repeats have yielded to the first copies, which a window holds."""
    turns, moved = {turn.id: turn for turn in session.turns}, dict(session.moved)
    here = {turn.nonce: turn.id for turn in session.turns if turn.nonce in session.repeats}
    for turn in window:
        its_id = here.get(turn.nonce, turn.id)
        if turn.id < its_id and turn.id not in turns:
            del turns[its_id]
            turns[turn.id] = turn
            moved[sign_of_id(its_id)] = turn.id
        elif turn.id > its_id:
            moved[sign_of_id(turn.id)] = its_id
    if moved == session.moved:
        return session
    newest, in_order = session.newest, tuple(turns[one] for one in sorted(turns))
    return replace(session, turns=in_order, moved=moved, changes=session.changes + 1, largest=newest)


def refuse() -> None:
    """What ``Bucket.before_put`` does while the storage refuses."""
    raise ArchiveUnavailable(28, "the storage is full")
