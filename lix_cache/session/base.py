"""One session as one cache object sees it, and what every flow on it needs. See lix_cache.effects.

A flow says what happens to a session, step by step: no client, no file, no await. The order of the steps is
what keeps the first promise (nothing lost, nothing doubled), so each flow says why its order is what it is:

* A message is acknowledged when Redis has it (or the disk, where Redis cannot).
* A message leaves Redis only after the disk has it, synced. Between the two it is in both
  places under one id, and a reader of both counts it once.
* Whatever moves or deletes holds the session's file lock meanwhile; adding does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache.effects import DiskCall, Flow, LockCall, RedisCall, Sleep
from lix_cache.errors import (
    ArchiveError,
    ArchiveUnavailable,
    LixCacheError,
    RedisAuthError,
    RedisCommandError,
    RedisUnavailable,
    told,
)
from lix_cache.hot.old_keys import OUT_OF_REACH
from lix_cache.hot.slots import key_of
from lix_cache.hot.window import HotWindow
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, once, sign_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lix_cache.archive.facts import Extent
    from lix_cache.archive.lease import Lease
    from lix_cache.hot.scripts import Command
    from lix_cache.session.store import Seen, SessionStore

__all__ = [
    "LATE_BATCHES",
    "Session",
    "ask",
    "beside",
    "find_hot",
    "hot_length",
    "look",
    "merged",
    "note_archive",
    "note_failure",
    "session_lock",
]


#: An add that finds its window this many batches too long spills it itself: the daemon is late,
#: and memory must stay bounded.
LATE_BATCHES = 4


@dataclass
class Session:
    """One session as one cache object sees it.

    Attributes:
        store: the tiers.
        id: the session id.
        window: messages that ``get_context`` returns at most.
        seen: what this process knows of the session.
        batches: by how many batches the window was too long after its last add.
    """

    store: SessionStore
    id: str
    window: int
    seen: Seen = field(init=False)
    batches: int | None = None

    def __post_init__(self) -> None:
        self.seen = self.store.seen.of(self.id)

    def grown_by(self, length: int, batch: int, added: int = 1) -> int:
        """Return how many batches too long the window is, if that is news; else 0.

        Once for each batch, not for every add until the daemon has been there. Each would
        be another round of the daemon, or another try at the lock that it holds. An object that
        adds again compares with what it saw last: the lengths in between were the answers to
        others, whose windows may have another size. A new object goes by the length
        at which the last batch was full, which one add in so many sees. Where the window is
        much too long it does not rely on that.

        Args:
            length: messages in the window now.
            batch: how many too long make it overflow.
            added: how many of them have just been added.
        """
        batches, rest = divmod(max(0, length - self.window), batch)
        before, self.batches = self.batches, batches
        if before is None:
            return batches if rest < added or batches >= 2 * LATE_BATCHES else 0
        return batches if batches > before else 0

    def saw(self, turns: Sequence[Turn]) -> list[Turn]:
        """Note what was read, in order of the ids, and return it."""
        if turns:
            self.seen.saw(turns[-1].id)
        return list(turns)


def look(session: Session, opened: int = 0, *, locked: bool = False) -> Flow[Extent | None]:
    """Ask the archive how far the session has come.

    Before the first use over a new connection: behind it may be a server that was restarted
    from an older snapshot, or a replica that took over before it had heard of everything. A
    session that was moved to disk must go on with larger ids even if the clock went back.

    Args:
        session: whose archive.
        opened: the connection that is to be used.
        locked: whether the caller holds the session's lock.

    Returns:
        None if the archive cannot be looked at now. It does not count as a look: the next use
        tries again.
    """
    found: Extent | None = yield DiskCall(
        partial(_extent, session.store, session.id, locked), waits=not locked
    )
    if found is not None:
        session.seen.note(found)
        session.seen.opened = max(session.seen.opened, opened)
    return found


def _extent(store: SessionStore, session_id: str, locked: bool) -> Extent | None:
    try:
        return store.cold.look(session_id, locked=locked)
    except ArchiveError:
        # Counted and logged there. It must not keep new messages out: the next move to disk
        # sets damage aside, or says that the disk refuses.
        return None


def note_failure(store: SessionStore, error: Exception) -> None:
    store.count("reunion_failures")
    store.last_error = told(error)


def ask(
    store: SessionStore,
    command: Command,
    *,
    repeat: bool = True,
    opened: int | None = None,
    replica_ms: int | None = None,
) -> Flow[Any]:
    """Send one command, unless Redis was found away a moment ago.

    Args:
        store: whose breaker to heed and to set.
        command: what to send.
        repeat: send it once more if the connection broke; right for what changes nothing.
        opened: the newest connection that may be used; None for any.
        replica_ms: see :class:`~lix_cache.effects.RedisCall`.

    Raises:
        NewConnection: there is a newer one; nothing was sent.
    """
    if not store.layout.meets_old:
        command = store.hot.old.without_list(command) or command
    breaker = store.breaker.of(key_of(command))
    if breaker.is_open and store.settings.on_redis_error == "archive":
        raise RedisUnavailable(
            f"{breaker.where or store.endpoint.label} did not answer a moment ago; it is asked again in "
            f"{breaker.seconds_left:.1f} s (redis_retry_seconds)",
            was_asked=False,
        )
    try:
        return (yield RedisCall(command, opened, replica_ms))
    except (RedisAuthError, RedisCommandError) as error:
        without = store.hot.old.without_list(command) if error.code in OUT_OF_REACH else None
        if without is None:
            raise
        # Nothing was done. Once for each process: from now on it is not looked for.
        store.layout.meets_old = False
        return (yield from ask(store, without, repeat=repeat, opened=opened, replica_ms=replica_ms))
    except RedisUnavailable as error:
        store.count("redis_errors")
        broke = error.maybe_done and not error.timed_out
        if not broke:
            breaker.met(error)
        if not (broke and repeat):
            raise
    try:
        return (yield RedisCall(command, opened, replica_ms))
    except RedisUnavailable as error:
        store.count("redis_errors")
        breaker.met(error)
        raise


def merged(cold: Iterable[Turn], hot: Iterable[Turn]) -> list[Turn]:
    """Return both, each message once, in order of their ids."""
    return once([*cold, *hot])


def beside(session: Session, archived: list[Turn], hot: list[Turn]) -> list[Turn]:
    """Return what the archive gave and what Redis gave before it, merged. For threads: it may read.

    A message that was edited in between is in both, under one id. Redis may also have given an id anew; only
    the archive can say which it is.
    """
    nonces = {turn.id: turn.nonce for turn in archived}
    if any(nonces.get(turn.id, turn.nonce) != turn.nonce for turn in hot):
        known = session.store.cold.contested(session.id)
        hot = [turn for turn in hot if known.get(sign_of(turn), turn.id) == turn.id]
    return merged(archived, hot)


def find_hot(
    session: Session, nonces: Iterable[bytes], down_to: MessageId = ZERO_ID
) -> Flow[tuple[dict[bytes, MessageId], int]]:
    """Return the ids of those messages that the window has, by nonce, and its length. A page at a time.

    Args:
        session: the session.
        nonces: of the messages.
        down_to: none of them has a smaller id.
    """
    found: dict[bytes, MessageId] = {}
    missing = dict.fromkeys(nonces)
    below: MessageId | None = None
    while True:
        page = HotWindow.found((yield RedisCall(session.store.hot.find(session.id, missing, below))))
        found.update({nonce: given for nonce, given in page.ids.items() if nonce in missing})
        missing = {nonce: None for nonce in missing if nonce not in found}
        below = page.below
        if below is None or below <= down_to or not missing:
            return found, page.length


def hot_length(session: Session) -> Flow[int]:
    """Return how many messages Redis holds."""
    command = session.store.hot.length(session.id)
    return int((yield from ask(session.store, command)))


def note_archive(store: SessionStore, written: Iterable[int | LixCacheError]) -> None:
    """Note whether the disk takes what is written. One file that is damaged says nothing about it."""
    for result in written:
        if isinstance(result, ArchiveUnavailable):
            store.archive_state.fails(result)
            return
        if isinstance(result, int):
            store.archive_state.works()


def session_lock(session: Session) -> Flow[Lease]:
    """Wait for the session's lock without holding a thread.

    Raises:
        ArchiveBusy: not to be had in time.
    """
    cold = session.store.cold
    for pause in cold.lock_pauses():
        if pause:
            yield Sleep(pause)
        lock: Lease | None = yield LockCall(partial(cold.try_lock, session.id))
        if lock is not None:
            return lock
    raise cold.busy_error(session.id)
