"""One archive on object storage as a process has it: its shards, and the leases of its sessions."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from lix_cache.archive import index
from lix_cache.archive.changes import changes_of
from lix_cache.archive.codecs import packer
from lix_cache.archive.lease import let_go_of_ended, pauses, taken
from lix_cache.archive.objects import layout
from lix_cache.archive.objects.frame_cache import FrameCache
from lix_cache.archive.objects.inherited import Inherited, inherited_by
from lix_cache.archive.objects.leases import ObjectLease, Tokens, held_at
from lix_cache.archive.objects.opened import Kept
from lix_cache.archive.objects.records import EMPTY, Record, State
from lix_cache.archive.objects.shard import GRACE_SECONDS, SNAPSHOT_EVERY, Commit, Shard
from lix_cache.archive.objects.store_note import StoreNote, claimed, noted
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.errors import ArchiveBusy
from lix_cache.messages.session_key import named
from lix_cache.storage.objects import Bucket
from lix_cache.storage.parallel import side_by_side

__all__ = ["LEASE_SECONDS", "SHARDS_AT_ONCE", "ObjectBase"]

T = TypeVar("T")

#: Shards that are asked side by side.
SHARDS_AT_ONCE = 32

#: A lease whose token was seen for so long is that of a dead process. A holder takes far less.
LEASE_SECONDS = 20.0
_LEASE_MARGIN = 2.0
#: Seconds between two tries at a lease: they grow from the one to the other.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.005, 0.25


class ObjectBase:
    """The shards and leases of an archive. Safe between threads.

    Args:
        bucket: where the objects are.
        shards: how many logs the archive gets, if it is made now.
        codec, dictionary, on_damage, lock_timeout_seconds, max_frame_bytes, clock: as of the folder.
        lease_seconds: how long the lease of a process that died is in the way.
        grace_seconds: how long what nothing refers to is kept.
        snapshot_every: segments after which a snapshot is made.
    """

    def __init__(
        self,
        bucket: Bucket,
        *,
        shards: int = 1,
        codec: str = "huffman",
        dictionary: str | None = None,
        on_damage: str = "recover",
        lock_timeout_seconds: float = 30,
        max_frame_bytes: int = index.MAX_DECODED,
        clock: Clock = SYSTEM_CLOCK,
        lease_seconds: float = LEASE_SECONDS,
        grace_seconds: float = GRACE_SECONDS,
        snapshot_every: int = SNAPSHOT_EVERY,
    ) -> None:
        self.bucket = bucket
        self.lock_timeout_seconds = lock_timeout_seconds
        #: ``appends``, ``damaged_reads``, ``compactions``, ``object_conflicts``, ``snapshots``.
        self.counters: Counter[str] = Counter()
        self.changes = changes_of(self.location)
        self._codec = packer(codec, dictionary)
        self._raise_on_damage = on_damage == "raise"
        self._most = max_frame_bytes
        self._clock = clock
        #: How many logs the archive gets, if it is made now.
        self.wanted_shards = shards
        self._grace, self._every = grace_seconds, snapshot_every
        self._note: StoreNote | None = None
        self._notes: Inherited | None = None
        self._frames: FrameCache | None = None
        self._shards: dict[int, Shard] = {}
        self._kept = Kept()
        self._held = held_at(self.location)
        self._tokens = Tokens(lease_seconds + _LEASE_MARGIN)
        self._leases: dict[str, ObjectLease] = {}

    def cache_frames(self, folder: str, budget: int) -> None:
        """Keep frames that are read in a folder of the local disk, up to so many bytes."""
        self._frames = FrameCache(folder, budget, self._grace, self.counters)

    @property
    def location(self) -> str:
        return self.bucket.location

    # -- shards ---------------------------------------------------------------------------------

    def identity(self, *, make: bool = False) -> StoreNote | None:
        """Return what the archive says of itself; None where there is none and none is to be made."""
        if self._note is None:
            self._note = claimed(self.bucket, self.wanted_shards) if make else noted(self.bucket)
        return self._note

    def _inherited(self, session_id: str) -> State:
        """Return the state of a session that this archive has never had: what it took over of deletions."""
        note = self._note
        if note is None or not note.inherits:
            return EMPTY
        if self._notes is None:
            self._notes = inherited_by(self.bucket)
        return self._notes.state(session_id)

    def _shard(self, session_id: str, *, make: bool = False) -> Shard | None:
        note = self.identity(make=make)
        return None if note is None else self._numbered(layout.shard_of(session_id, note.shards))

    def _writable(self, session_id: str) -> Shard:
        shard = self._shard(session_id, make=True)
        assert shard is not None  # noqa: S101 - it was made
        return shard

    def _numbered(self, number: int) -> Shard:
        found = self._shards.get(number)
        if found is None:
            found = Shard(
                self.bucket,
                number,
                self._clock,
                self.counters,
                self._kept,
                grace_seconds=self._grace,
                snapshot_every=self._every,
                inherited=self._inherited,
            )
        return self._shards.setdefault(number, found)

    def _all_shards(self) -> list[Shard]:
        note = self.identity()
        return [] if note is None else [self._numbered(number) for number in range(note.shards)]

    def _of_each_shard(self, call: Callable[[Shard], T]) -> list[T]:
        """Ask each shard for something, many side by side: a store far away is waited for a few times."""
        return side_by_side([partial(call, shard) for shard in self._all_shards()], SHARDS_AT_ONCE - 1)

    def _every_state(self, marks: int = 0) -> Iterator[tuple[Shard, str, State]]:
        for shard in self._all_shards():
            shard.synced()
            for session_id, state in shard.states(marks):
                yield shard, session_id, state

    def _state(self, session_id: str, *, locked: bool = False) -> State:
        shard = self._shard(session_id)
        if shard is None:
            return State()
        lease = self._leases.get(session_id)
        # Who has the lease knows what there is: no other commits anything of the session.
        if not (
            locked and lease is not None and lease.is_held and lease.token == shard.state(session_id).token
        ):
            shard.synced()
        return shard.state(session_id)

    def _put_at(self, shard: Shard, version: int) -> float:
        """Return when the segment was put that changed a session last, by the store's own clock."""
        # Of what is gone nothing more is known.
        found = self.bucket.modified(layout.log_name(shard.number, version - 1)) if version else None
        return found or 0.0

    # -- leases ----------------------------------------------------------------------------------

    @staticmethod
    def lock_key(session_id: str) -> str:
        """Return what the lease guards: the session alone."""
        return session_id

    def try_lock(self, session_id: str, *, to_append: bool = False) -> ObjectLease | None:
        """Take the session's lease now; None if another has it. See ColdTier."""
        let_go_of_ended()
        token = b"" if to_append else os.urandom(16)
        lease = ObjectLease(self._held, session_id, token, self._forget_lease, self._let_go)
        if not self._held.take(session_id, lease):
            return None
        try:
            if token and not self._claimed(session_id, token):
                self._held.leave(session_id, lease, None)
                return None
        except BaseException:
            self._held.leave(session_id, lease, None)
            raise
        self._leases[session_id] = lease
        return lease

    def _claimed(self, session_id: str, token: bytes) -> bool:
        shard = self._writable(session_id)
        was_taken = False

        def decide() -> Commit:
            nonlocal was_taken
            there = shard.state(session_id).token
            was_taken = bool(there) and not self._tokens.is_dead(session_id, there)
            return Commit([] if was_taken else [Record(session_id, self._now_ms(), token=token)])

        def commit() -> bool:
            if shard.state(session_id).token:
                shard.synced()
            return shard.commit(decide)

        shard.in_turn(commit, commits=True)
        return not was_taken

    def _forget_lease(self, lease: ObjectLease) -> None:
        if self._leases.get(lease.session_id) is lease:
            self._leases.pop(lease.session_id, None)

    def _let_go(self, lease: ObjectLease) -> None:
        shard = self._writable(lease.session_id)

        def decide() -> Commit:
            is_ours = shard.state(lease.session_id).token == lease.token
            return Commit([Record(lease.session_id, self._now_ms(), token=b"")] if is_ours else [])

        shard.commit(decide, is_known=True)

    def _check_lease(self, session_id: str, state: State) -> list[Record]:
        """Return what must be committed first for a change of a session to be ours.

        Raises:
            ArchiveBusy: another process has the lease, or has had it since we took it.
        """
        lease = self._leases.get(session_id)
        token = lease.token if lease is not None and lease.is_held else b""
        if state.token == token:
            return []
        if not token and self._tokens.is_dead(session_id, state.token):
            # Its holder, if it is only late, must find that it is gone.
            return [Record(session_id, self._now_ms(), token=b"")]
        raise self.busy_error(session_id)

    def lock(self, session_id: str) -> ObjectLease:
        """Wait for the session's lease.

        Raises:
            ArchiveBusy: not to be had within ``lock_timeout_seconds``.
        """
        lease = taken(partial(self.try_lock, session_id), self.lock_pauses(), self._clock)
        if lease is None:
            raise self.busy_error(session_id)
        return lease

    def lock_pauses(self) -> Iterator[float]:
        """Return how many seconds to wait before each try. See lease.py."""
        return pauses(_FIRST_PAUSE, _LONGEST_PAUSE, self.lock_timeout_seconds)

    def busy_error(self, session_id: str) -> ArchiveBusy:
        return ArchiveBusy(
            f"another process holds the lease of session {named(session_id)}, or took it over; nothing was "
            "changed. Try again, or raise archive_lock_timeout_seconds"
        )

    def _now_ms(self) -> int:
        return int(self._clock.time() * 1000)
