"""ColdTier: what the flows of a session need of the place where its messages stay. A protocol, no I/O.

The local folder (:class:`~lix_cache.archive.store.ArchiveStore`) is its first implementation. The suite
in ``tests/contract/cold_tier.py`` says in tests what the docstrings here say in words; an
implementation is one if it passes.

The protocol takes no path for granted, no lock of a file system and no append in place. A tier that
replaces whole objects by conditional writes can keep all of these promises:

* *Durable on return.* What a method was asked to store or remove outlives the process and the machine
  when it returns. An error says that it may not.
* *All or nothing.* A change of one session is seen whole or not at all, by readers and after a crash.
  What a crash may leave (an object that nothing refers to) is no message, and the next writer
  clears it away.
* *Once.* A message is its id and its nonce (``archive/identity.py``). An append that is repeated, by
  whatever process, adds nothing.
* *Its own order.* Turns come back sorted by id, in whatever order they were appended.

A method whose name ends in ``_locked`` is called by the holder of the session's lease; all others
may be called at any time. Where a lease can end before its holder lets it go, the tier remembers the
lease that ``try_lock`` gave and makes each write conditional on it: a holder that lost it gets an
ArchiveBusy and changes nothing. Methods block; flows call them as disk calls, in threads.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from lix_cache.archive.remembering import Remembering
from lix_cache.messages.turn import ZERO_ID, MessageId

if TYPE_CHECKING:
    from lix_cache.archive.catalogue import Place, Wanted
    from lix_cache.archive.changes import Changes, SessionStamp
    from lix_cache.archive.expiry import Now
    from lix_cache.archive.facts import CompactedSession, Extent, SessionMetadata, Summary, TrashedSession
    from lix_cache.archive.lease import Lease
    from lix_cache.errors import ArchiveBusy, ArchiveError, LixCacheError
    from lix_cache.messages.turn import Turn

__all__ = ["ColdTier"]


class ColdTier(Remembering, Protocol):
    """The archive of many sessions.

    Every method raises ArchiveUnavailable where the storage refuses or does not answer, and
    ArchiveCorrupt where what is stored is invalid. A failed read is never an empty session.

    Attributes:
        counters: what happened, for ``get_stats``: ``damaged_reads``, ``repairs``, ``appends`` …
        changes: is told of each session that an append, a clear, a compaction, a deletion, an expiry or a
            restore has changed, after that is durable; shared by all tiers of one location.
    """

    counters: Counter[str]
    changes: Changes

    @property
    def location(self) -> str:
        """Names the data: two tiers of one location share their sessions."""

    def check_writable(self) -> None:
        """Try a write and a lease, of no session. Raises ArchiveUnavailable where one is refused."""

    def setting(self, name: str) -> str | None:
        """Return what is noted under a name; None where there is no note."""

    def note_setting(self, name: str, value: str, *, anew: bool = False) -> str:
        """Note a value that all processes must agree on. Durable on return.

        Args:
            name: any text.
            value: not empty.
            anew: replace what is noted; else the first note stays.

        Returns:
            What is noted now.
        """

    def archive_id(self, *, make: bool = False) -> str | None:
        """Return the UUID of the archive; None where it has none and none is to be made. Durable."""

    # -- leases ---------------------------------------------------------------------------

    def lock_key(self, session_id: str) -> Hashable:
        """Return what the lease guards. Sessions with equal keys share one; a holder takes it once."""

    def try_lock(self, session_id: str, *, to_append: bool = False) -> Lease | None:
        """Take the session's lease now; None if another holder has it, in whatever process.

        The lease of a process that died can be had again, at once or when its time is up.

        Args:
            session_id: the session.
            to_append: the holder only moves messages from a window, which is right beside others that do. A
                tier whose appends exclude each other by themselves need not tell other processes: it
                refuses the append with ArchiveBusy where one of them has the lease.
        """

    def lock_pauses(self) -> Iterator[float]:
        """Yield the seconds to wait before each try, 0 before the first; end when it is time to give up."""

    def busy_error(self, session_id: str) -> ArchiveBusy:
        """Return the error of a lease that was not to be had in time."""

    # -- appending ------------------------------------------------------------------------

    def append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes] = False,
        from_window: bool = False,
    ) -> int:
        """Append turns under their ids, in one change. Durable on return.

        A turn that is there is left out. One whose id another message has gets a free id within
        its millisecond: both were acknowledged.

        Args:
            session_id: the session.
            turns: in any order.
            contested: Redis may hold them as well, or get them later, under other ids; all of them, or
                those with these nonces.
            from_window: they are what a window holds, not what is added now: what was deleted
                stays so, also where an older state of Redis brings it back.

        Returns:
            How many were new.
        """

    def append_many_locked(
        self, batch: Mapping[str, Sequence[Turn]], contested: Mapping[str, Collection[bytes]] | None = None
    ) -> dict[str, int | LixCacheError]:
        """Append what the windows of several sessions hold; the caller has all of their leases.

        Each session by itself: the failure of one is its result and keeps no other from being
        durable on return.

        Args:
            batch: the turns of each session.
            contested: of sessions the nonces of those turns of which Redis may get another copy.

        Returns:
            For each session how many were new, or why it failed.
        """

    def append_outage_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool,
        keyed: bool = False,
        after: MessageId = ZERO_ID,
    ) -> tuple[list[MessageId], int]:
        """Keep messages that Redis could not take, all or none. Durable on return.

        The session is marked as pending before the messages are there: a message that no mark leads
        to would be missing from the context.

        Args:
            session_id: the session.
            turns: in the order in which they were added.
            contested: some may be there already; each is looked for by its nonce, and kept once.
            keyed: and Redis may have acknowledged some before. The first copy counts then: when it comes
                from a window it takes the place of this one, whose id leads to it from then on
                (``contested`` of :meth:`look`).
            after: the largest id that is known otherwise.

        Returns:
            The ids, in the order given, and how many messages are new. A new id is larger than any
            in the archive, any deleted, and ``after``; and one that Redis never gives
            (``identity.local_id``).
        """

    def clear_locked(self, session_id: str) -> None:
        """Take all that is archived out of the context; it stays in the history. Durable on return."""

    # -- changing --------------------------------------------------------------------------

    def take_out_locked(self, session_id: str, turns: Sequence[Turn], instead: Turn | None = None) -> None:
        """Take turns out of the session, all or none; one may come in their place. Durable on return.

        Nothing that is archived is rewritten: what was taken out is remembered. No reader returns it, and no
        copy of it is appended or counts from now on, whatever window or command brings it.

        Args:
            session_id: the session.
            turns: as they were read, each with its id and nonce. Those that are in Redis alone too.
            instead: what comes in the place of the only one, which is archived: under its id, with
                another nonce.
        """

    def replace_locked(self, session_id: str, turns: Sequence[Turn], at_ms: int) -> list[MessageId]:
        """Put turns in the place of all that is archived, in one change. Durable on return.

        All that a window holds up to the largest id there was is gone, where it comes back as well.

        Args:
            session_id: the session; all of it is in the archive.
            turns: in their order, without ids; may be none.
            at_ms: every message that Redis gives an id from now on exceeds this millisecond.

        Returns:
            Their ids: larger than all there were, and smaller than any that Redis gives in a window
            begun since.
        """

    # -- reading --------------------------------------------------------------------------
    # ``locked`` says that the caller holds the session's lease: a tier that waits for writers
    # before it believes in damage must not wait for its caller.

    def exists(self, session_id: str) -> bool:
        """Whether anything is archived of the session. As cheap as a read can be."""

    def turns(self, session_id: str, *, locked: bool = False) -> list[Turn]:
        """Return every turn, sorted by id; empty only if there are none."""

    def recent(
        self, session_id: str, count: int, *, in_context: bool = False, locked: bool = False
    ) -> list[Turn]:
        """Return the last turns, sorted by id; the price does not depend on how many there are besides.

        Args:
            session_id: the session.
            count: how many at most.
            in_context: leave out what was cleared.
            locked: see above.
        """

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
        """Return turns between two ids, sorted, decoding little beside them.

        Args:
            session_id: the session.
            count: how many at most.
            after: only larger ids.
            before: only smaller ids.
            newest: the last of them; else the first.
            locked: see above.
        """

    def summary(self, session_id: str, *, locked: bool = False) -> Summary:
        """Return the totals, the largest id and what was cleared. One small read."""

    def look(self, session_id: str, *, locked: bool = False) -> Extent:
        """Return how far the session has come, deletions included. A few small reads."""

    def contested(self, session_id: str, *, locked: bool = False) -> Mapping[bytes, MessageId]:
        """Return ``contested`` of :meth:`look`; of what is damaged what can be read."""

    def find_nonces_locked(
        self, session_id: str, nonces: Collection[bytes], *, since_ms: int = 0
    ) -> dict[bytes, MessageId]:
        """Return the ids of those messages that are archived, or were before they were taken out.

        Args:
            session_id: the session.
            nonces: of the messages.
            since_ms: what was archived before this time need not be looked at.
        """

    def metadata(self, session_id: str, *, locked: bool = False) -> SessionMetadata | None:
        """Return what is known of the session; None if nothing is archived."""

    def all_metadata(self) -> Iterator[SessionMetadata]:
        """Yield what is known of every session, in no particular order.

        A session that was there before and is there after is among them. One that cannot be
        read is counted, logged and left out.
        """

    def by_last_use(
        self, count: int, *, after: Place | None = None, wanted: Wanted
    ) -> list[tuple[Place, SessionMetadata]]:
        """Return sessions by last use, the last used first, each with the place where it is listed.

        A session stands where its last use puts it, or behind that. One that is used while pages are asked
        for moves to the front. One that cannot be read is counted, logged and left out.

        Args:
            count: how many at most.
            after: those that come after this place.
            wanted: says of a stored id whether it is asked for.
        """

    def stamps(self) -> Iterator[SessionStamp]:
        """Yield the stamp of every session, in no particular order. One listing, no session is read.

        A stamp that is equal to an earlier one says that nothing of the session has changed.
        """

    # -- whole sessions -----------------------------------------------------------------------

    def delete_locked(
        self, session_id: str, up_to: MessageId = ZERO_ID, late: Collection[bytes] = ()
    ) -> bool:
        """Remove the session for good, from the trash as well. Durable on return.

        The deletion is remembered before anything is removed, so that an older state of Redis
        brings nothing back; what is left after a crash is removed by the next call.

        Args:
            session_id: the session.
            up_to: the largest id that Redis may have given it.
            late: nonces of messages whose adds may still be carried out.

        Returns:
            Whether there was anything.
        """

    def compact_many(
        self, session_ids: Sequence[str], *, idle_seconds: float, dry_run: bool = False, bundle: bool = False
    ) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
        """Make sessions cheaper to keep and to read; every message stays, under its id.

        Yields what was done to each, or why nothing was. Takes what leases it needs.

        Args:
            session_ids: each once.
            idle_seconds: leave those alone that were appended to less long ago, or are in use.
            dry_run: change nothing.
            bundle: these are all there are. A tier that keeps many in one object moves small sessions
                together, and whatever shares an object with what was deleted, in use or not.
        """

    def tidy(self, now: Now, trash_days: float, older_than_ms: int) -> Iterator[None]:
        """Do each hour, in steps, what :meth:`empty_trash` and :meth:`forget_deletions` do, and remove what
        no session refers to. Each time for a part of the sessions, if each has its turn within a day.
        """

    # -- expiry -------------------------------------------------------------------------------

    def now(self, *others: float) -> Now:
        """Return what time it is by our clock, by the storage's, and by those given (Unix seconds)."""

    def expired_sessions(self, ttl_seconds: float, now: Now) -> list[str]:
        """Return the sessions that have given no sign of life for so long (``archive/expiry.py``)."""

    def expire_locked(self, session_id: str, ttl_seconds: float, now: Now, *, to_trash: bool) -> bool:
        """Take a session away if, looked at under its lease, it is still expired.

        Args:
            session_id: the session.
            ttl_seconds: its time to live.
            now: what time it is.
            to_trash: keep it in the trash; else it is deleted for good.

        Returns:
            Whether it went.
        """

    def note_not_expired(self, session_id: str, error: ArchiveError) -> None:
        """Count and log that a session could not be looked at or taken away, which keeps no other."""

    def restore_locked(self, session_id: str) -> bool:
        """Take a session back from the trash, together with what it has since; False if it is not there."""

    def empty_trash(self, now: Now, days: float) -> int:
        """Remove for good what has been in the trash for so many days. Returns how many pieces.

        Sessions whose lease is held are left for the next time.
        """

    def trashed(self) -> Iterator[TrashedSession]:
        """Yield what is in the trash."""
