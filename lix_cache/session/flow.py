"""What happens to a session, step by step. No client, no file, no await: see lix_cache.effects.

The order of the steps is what keeps the first promise (nothing lost, nothing doubled), so
each flow says why its order is what it is. In short:

* A message is acknowledged when Redis has it (or the disk, where Redis cannot).
* A message leaves Redis only after the disk has it, synced. Between the two it is in both
  places under one id, and whoever reads both counts it once.
* Whatever moves or deletes holds the session's file lock meanwhile; adding does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache.archive.store import lock_pauses
from lix_cache.effects import DiskCall, Flow, LockCall, RedisBatch, RedisCall, Sleep
from lix_cache.errors import (
    ArchiveCorrupt,
    ArchiveError,
    InvalidMessage,
    LixCacheError,
    RedisError,
    RedisUnavailable,
)
from lix_cache.hot.scripts import Command
from lix_cache.hot.window import Added, HotWindow, Oldest
from lix_cache.messages import ZERO_ID, MessageId, Turn, once, pack_hot, with_id
from lix_cache.session.store import SessionStore

if TYPE_CHECKING:
    from lix_cache.archive.files import FileLock

__all__ = [
    "Session",
    "add",
    "clear",
    "delete",
    "flush",
    "get_context",
    "get_full",
    "hot_length",
    "move_to_disk",
]

#: A window this many batches too long is spilled by the add that finds it so: the daemon
#: is late, and memory must stay bounded.
LATE_BATCHES = 4
#: Messages read from a window at a time when it moves to disk.
CHUNK = 500
#: After so many sessions that were decoded, a daemon lets the other threads of its process
#: go on: they would wait for all of them otherwise. A sleep of 0 hands nothing over.
BREATH = 8
BREATH_SECONDS = 0.00002
EVERYTHING = 2**31


@dataclass
class Session:
    """One session as one cache object sees it.

    Attributes:
        store: the tiers.
        id: the session id.
        window: messages that ``get_context`` returns at most.
        knows_floor: whether this object has looked at the archive before its first add.
        floor: the largest id it knows to be archived; a window may know of none as large.
        newest: the largest id of a message it has added or read. What it adds while Redis
            is away comes after that, however the clocks of the two machines differ.
        batches: by how many batches the window was too long after its last add.
    """

    store: SessionStore
    id: str
    window: int
    knows_floor: bool = False
    floor: MessageId = ZERO_ID
    newest: MessageId = ZERO_ID
    batches: int | None = None

    def grown_by(self, length: int, batch: int) -> int:
        """Return how many batches too long the window is, if that is news; else 0.

        Once for each batch, not for every add until the daemon has been there: each would
        be another round of it, or another try at the lock it holds. An object that adds
        again compares with what it saw last: the lengths in between were the answers to
        others, whose windows may have another size. One that is new goes by the length
        at which the last batch was full, which one add in so many sees, and does not
        rely on that where the window is much too long.
        """
        batches, rest = divmod(max(0, length - self.window), batch)
        before, self.batches = self.batches, batches
        if before is None:
            return batches if rest == 0 or batches >= 2 * LATE_BATCHES else 0
        return batches if batches > before else 0

    def saw(self, turns: Sequence[Turn]) -> list[Turn]:
        """Note what was read, in order of the ids, and return it."""
        if turns:
            self.newest = max(self.newest, turns[-1].id)
        return list(turns)


# -- adding ----------------------------------------------------------------------------


@dataclass(frozen=True)
class AddResult:
    """What became of an add.

    Attributes:
        in_window: messages now in the window.
        overflows: the window has just grown by a batch; the daemon should look at it.
    """

    in_window: int
    overflows: bool = False


def add(session: Session, turn: Turn) -> Flow[AddResult]:
    """Add a message that has no id yet: to Redis, or to the archive if the policy says so."""
    store = session.store
    try:
        try:
            yield from _bring_together(session)
        except (ArchiveError, InvalidMessage) as error:
            # The message matters more than the tidying, which is tried again.
            store.count("reunion_failures")
            store.last_error = f"{type(error).__name__}: {error}"
        added = yield from _add_hot(session, turn)
    except RedisUnavailable as error:
        if store.config.on_redis_error == "raise":
            raise
        total = yield from _add_cold(session, turn, contested=error.maybe_done)
        return AddResult(min(total, session.window))
    if store.config.durability == "disk":
        yield from _persist(session, with_id(turn, added.id))
    batches = session.grown_by(added.length, store.hot.batch)
    if not batches:
        return AddResult(min(added.length, session.window))
    if batches >= LATE_BATCHES:
        yield from _spill_late(session)
    return AddResult(session.window, overflows=True)


def _add_cold(session: Session, turn: Turn, *, contested: bool) -> Flow[int]:
    """Keep a message that Redis could not take. Returns how many turns the archive has."""
    store, archive = session.store, session.store.archive.store
    store.count("archived_adds")
    lock = yield from _locked(session)
    try:
        # From here on get_context must look on disk too, so the note comes first.
        store.outage_sessions.add(session.id)
        given: MessageId = yield DiskCall(
            partial(archive.append_outage_locked, session.id, turn, contested=contested, after=session.newest)
        )
        session.floor = max(session.floor, given)
        session.newest = max(session.newest, given)
        index = yield DiskCall(partial(archive.last_index, session.id, locked=True))
    finally:
        lock.release()
    return int(index.total)


def _spill_late(session: Session) -> Flow[None]:
    """Do the daemon's work, because it is late. The message is stored: nothing here may fail its add."""
    store = session.store
    store.count("late_spills")
    try:
        yield from move_to_disk(store, {session.id: session.window})
    except (RedisError, ArchiveError) as error:
        store.count("spill_failures")
        store.last_error = f"{type(error).__name__}: {error}"


def _add_hot(session: Session, turn: Turn) -> Flow[Added]:
    """Append to the window: one round trip, or two where only the archive knows which id is next."""
    try:
        return (yield from _append_hot(session, turn, locked=False))
    except RedisUnavailable as error:
        if not error.maybe_done or error.timed_out:
            raise
    # The connection broke before the answer came: the message may be there or not. Nothing
    # moves to disk while we hold the lock, so looking in both places settles it.
    store, nonce = session.store, turn.nonce or b""
    lock = yield from _locked(session)
    try:
        found = HotWindow.added((yield RedisCall(store.hot.find(session.id, nonce))))
        if found is None:
            archived = yield DiskCall(partial(store.archive.store.find_nonce_locked, session.id, nonce))
            if archived is not None:
                length = yield RedisCall(store.hot.length(session.id))
                return Added(archived, int(length))
            found = yield from _append_hot(session, turn, locked=True)
    except RedisUnavailable as error:
        error.maybe_done = True
        store.breaker.trip()
        raise
    finally:
        lock.release()
    return found


def _append_hot(session: Session, turn: Turn, *, locked: bool) -> Flow[Added]:
    store = session.store
    packed = pack_hot(turn, coded=store.hot.coded)
    # Before the first add, once: a session that was moved to disk must go on with
    # larger ids even if the server's clock went back meanwhile.
    looks = locked or not session.knows_floor
    while True:
        if looks:
            found = yield DiskCall(partial(_floor, session, locked=locked), waits=not locked)
            session.floor = max(session.floor, found)
        command = store.hot.add(
            session.id,
            packed,
            window=session.window,
            floor=session.floor,
            floor_is_fresh=looks,
            floor_is_certain=locked,
        )
        added = HotWindow.added((yield from _ask(store, command, repeat=False)))
        if added is not None:
            session.knows_floor = True
            session.newest = max(session.newest, added.id)
            return added
        # The window is gone and the server cannot tell which id is large enough.
        if looks:
            break
        looks = True
    # Nor can we without keeping others from adding and archiving a message of the same
    # id between our look and our add: only the lock makes what we see last.
    lock = yield from _locked(session)
    try:
        return (yield from _append_hot(session, turn, locked=True))
    finally:
        lock.release()


def _floor(session: Session, *, locked: bool) -> MessageId:
    try:
        return session.store.archive.store.last_index(session.id, locked=locked).newest
    except ArchiveCorrupt:
        # Counted and logged there. It must not keep new messages out: the next spill
        # sets the damage aside.
        return ZERO_ID


def _ask(store: SessionStore, command: Command, *, repeat: bool = True) -> Flow[Any]:
    """Send one command, unless Redis was found away a moment ago.

    Args:
        store: whose breaker to heed and to set.
        command: what to send.
        repeat: send it once more if the connection broke; right for what changes nothing.
    """
    if store.breaker.is_open and store.config.on_redis_error == "archive":
        raise RedisUnavailable(f"{store.endpoint.label} did not answer a moment ago; not asked again yet")
    try:
        return (yield RedisCall(command))
    except RedisUnavailable as error:
        store.count("redis_errors")
        broke = error.maybe_done and not error.timed_out
        if not broke:
            store.breaker.trip()
        if not (broke and repeat):
            raise
    try:
        return (yield RedisCall(command))
    except RedisUnavailable:
        store.count("redis_errors")
        store.breaker.trip()
        raise


def _persist(session: Session, turn: Turn) -> Flow[None]:
    """Put a message on disk before it is acknowledged. If the disk refuses, take it back."""
    append = session.store.archive.store.append_locked
    # Its add was answered, so nobody will look for its nonce.
    answered = replace(turn, nonce=None)
    try:
        lock = yield from _locked(session)
        try:
            yield DiskCall(partial(append, session.id, [answered]))
        finally:
            lock.release()
    except ArchiveError:
        # Not acknowledged, so it must not stay: the caller will send it again.
        yield RedisCall(session.store.hot.remove(session.id, turn.id))
        raise


# -- reading ---------------------------------------------------------------------------


def get_context(session: Session) -> Flow[list[Turn]]:
    """Return the newest messages of the window, oldest first."""
    store = session.store
    try:
        yield from _bring_together(session)
        turns = HotWindow.turns((yield from _ask(store, store.hot.read(session.id, session.window))))
    except RedisUnavailable as error:
        return (yield from _without_redis(session, session.window, error))
    if turns is not None and len(turns) >= session.window:
        return session.saw(once(turns))
    if turns is None:
        archived = yield DiskCall(partial(store.archive.store.exists, session.id))
        return session.saw((yield from _rehydrate(session)) if archived else [])
    # A window begun after the session had moved to disk, or kept by a cache with a
    # smaller one: the rest is archived. One disk call also says if there is nothing.
    read = partial(store.archive.store.recent, session.id, session.window, in_context=True)
    older = yield DiskCall(read, waits=True)
    return session.saw(merged(older, turns)[-session.window :])


def _rehydrate(session: Session) -> Flow[list[Turn]]:
    """Bring the end of a cold session back into Redis and return it.

    Under the lock, because a deletion between reading and putting back would be undone
    by it. Putting back does nothing if somebody else was first.
    """
    store = session.store
    lock = yield from _locked(session)
    try:
        turns: list[Turn] = yield DiskCall(
            partial(store.archive.store.recent, session.id, session.window, in_context=True, locked=True)
        )
        done = 0
        if turns:
            try:
                done = yield RedisCall(store.hot.rehydrate(session.id, turns))
            except RedisUnavailable:
                # What was asked for is in hand; only the next read will be slower.
                store.count("redis_errors")
                store.breaker.trip()
    finally:
        lock.release()
    store.count("rehydrations", int(done))
    return turns


def get_full(session: Session) -> Flow[list[Turn]]:
    """Return every message once, in order.

    Redis first, then the disk: a message that moves meanwhile is seen twice, and counted
    once by its id. The other way round it could be missed.
    """
    store = session.store
    try:
        yield from _bring_together(session)
        # One round trip, however far behind the daemon is.
        command = store.hot.oldest(session.id, keep=0, limit=EVERYTHING)
        hot = HotWindow.oldest_turns((yield from _ask(store, command))).turns
    except RedisUnavailable as error:
        return (yield from _without_redis(session, None, error))
    cold: list[Turn] = yield DiskCall(partial(store.archive.store.turns, session.id), waits=True)
    return session.saw(merged(cold, hot))


def merged(cold: Iterable[Turn], hot: Iterable[Turn]) -> list[Turn]:
    """Return both, each message once, in order of their ids."""
    return once([*cold, *hot])


def _without_redis(session: Session, count: int | None, error: RedisUnavailable) -> Flow[list[Turn]]:
    """Answer from the disk alone, if the policy allows, and never as if there were nothing."""
    store = session.store
    if store.config.on_redis_error == "raise":
        raise error
    store.count("degraded_reads")
    archive = store.archive.store
    turns: list[Turn] = yield DiskCall(
        partial(archive.turns, session.id)
        if count is None
        else partial(archive.recent, session.id, count, in_context=True),
        waits=True,
    )
    if not turns:
        raise error
    return turns


def hot_length(session: Session) -> Flow[int]:
    """Return how many messages Redis holds."""
    command = session.store.hot.length(session.id)
    return int((yield from _ask(session.store, command)))


# -- moving to disk --------------------------------------------------------------------


@dataclass
class Moved:
    """What a move to disk did.

    Attributes:
        messages: how many left Redis.
        sessions: sessions of which all that should have left did.
        busy: sessions that somebody else held the lock of.
        failed: sessions that could not be moved, and why; their messages are still hot.
    """

    messages: int = 0
    sessions: int = 0
    busy: int = 0
    failed: dict[str, LixCacheError] = field(default_factory=dict)

    def raise_failure(self) -> None:
        """Raise the first failure, if there is one."""
        for error in self.failed.values():
            raise error


def flush(session: Session) -> Flow[int]:
    """Move all of a session to disk now. Returns how many messages moved."""
    lock = yield from _locked(session)
    try:
        moved = yield from _move_locked(session.store, {session.id: 0})
    finally:
        lock.release()
    moved.raise_failure()
    return moved.messages


def move_to_disk(store: SessionStore, keep: Mapping[str, int]) -> Flow[Moved]:
    """Move the oldest messages of several sessions to disk, all but the newest so many.

    Sessions whose lock somebody holds are left for the next time.

    Args:
        store: the tiers.
        keep: for each session how many messages stay hot; 0 moves the session.
    """
    archive = store.archive.store
    locks: dict[int, FileLock] = {}
    mine: dict[str, int] = {}
    try:
        for session_id, count in keep.items():
            stripe = archive.stripe(session_id)
            if stripe not in locks:
                lock = yield LockCall(partial(archive.try_lock, session_id))
                if lock is None:
                    continue
                locks[stripe] = lock
            mine[session_id] = count
        moved = yield from _move_locked(store, mine)
    finally:
        for lock in locks.values():
            lock.release()
    moved.busy = len(keep) - len(mine)
    return moved


def _move_locked(store: SessionStore, keep: Mapping[str, int]) -> Flow[Moved]:
    """Read the oldest, append to the archive (synced), then trim: in that order.

    Stopped after any step and run again: what was read is still there; what was appended is
    recognised by its id and only trimmed. The lock keeps a deletion from happening in the
    middle and being undone. One session's failure does not keep the others from moving.
    """
    moved = Moved()
    todo = dict(keep)
    while todo:
        reads = tuple(store.hot.oldest(sid, keep=count, limit=CHUNK) for sid, count in todo.items())
        replies = yield RedisBatch(reads, errors_as_values=True)
        found = yield from _readable(todo, replies, moved)
        batch = {sid: oldest.turns for sid, oldest in found.items() if oldest.turns}
        written: dict[str, int | ArchiveError] = yield DiskCall(
            partial(store.archive.store.append_many_locked, batch)
        )
        moved.failed.update({sid: r for sid, r in written.items() if isinstance(r, ArchiveError)})
        found = {sid: oldest for sid, oldest in found.items() if sid not in moved.failed}
        newest: dict[str, MessageId] = yield DiskCall(partial(_newest_ids, store, list(found)))
        trims = tuple(
            store.hot.trim(sid, oldest.turns, newest[sid], keep[sid]) for sid, oldest in found.items()
        )
        if trims:
            yield RedisBatch(trims)
        gone = sum(len(oldest.turns) for oldest in found.values())
        store.count("spilled_messages", gone)
        moved.messages += gone
        todo = {sid: keep[sid] for sid, oldest in found.items() if oldest.has_more}
    moved.sessions = len(keep) - len(moved.failed)
    if moved.failed:
        store.count("spill_failures", len(moved.failed))
    return moved


def _readable(ids: Iterable[str], replies: Iterable[Any], moved: Moved) -> Flow[dict[str, Oldest]]:
    """Decode what windows hold; what cannot be decoded fails its own session only."""
    found: dict[str, Oldest] = {}
    for number, (sid, reply) in enumerate(zip(ids, replies, strict=True), 1):
        if number % BREATH == 0:
            yield Sleep(BREATH_SECONDS)
        if isinstance(reply, RedisUnavailable):
            raise reply
        if isinstance(reply, LixCacheError):
            moved.failed[sid] = reply
            continue
        try:
            found[sid] = HotWindow.oldest_turns(reply)
        except InvalidMessage as error:
            moved.failed[sid] = error
    return found


def _newest_ids(store: SessionStore, session_ids: Iterable[str]) -> dict[str, MessageId]:
    found = {}
    for session_id in session_ids:
        try:
            found[session_id] = store.archive.store.last_index(session_id, locked=True).newest
        except ArchiveCorrupt:
            # Counted and logged there. Nothing of it can be read, so nothing can collide.
            found[session_id] = ZERO_ID
    return found


def _bring_together(session: Session) -> Flow[None]:
    """After an outage: put what Redis kept beside what went to the archive, by id.

    The window is moved to disk whole; the next read brings back the newest of both.
    """
    store = session.store
    if session.id not in store.outage_sessions or store.breaker.is_open:
        return
    yield from reunite(session)
    session.knows_floor = False


def reunite(session: Session) -> Flow[None]:
    """Move a session to disk whole and take off the mark that an outage left on it."""
    store = session.store
    lock = yield from _locked(session)
    try:
        moved = yield from _move_locked(store, {session.id: 0})
        moved.raise_failure()
        # The mark goes last: until here a crash leaves it for the next daemon.
        yield DiskCall(partial(store.archive.store.unmark_pending_locked, session.id))
        # Under the lock: after it another thread may be in the next outage already.
        store.outage_sessions.discard(session.id)
    except RedisUnavailable:
        store.breaker.trip()
        raise
    finally:
        lock.release()
    store.count("reunions")


# -- clearing and deleting ---------------------------------------------------------------


def clear(session: Session) -> Flow[None]:
    """Empty the context. What is only in Redis is dropped; what is archived stays history.

    The mark in the archive comes first: the other way round, a crash between the two
    would let the next read bring the old context back.
    """
    store = session.store
    lock = yield from _locked(session)
    try:
        yield DiskCall(partial(store.archive.store.clear_locked, session.id))
        newest: dict[str, MessageId] = yield DiskCall(partial(_newest_ids, store, [session.id]))
        # What is added from now on must come after the mark, or it would not be in the context.
        yield RedisCall(store.hot.forget(session.id, newest[session.id]))
    finally:
        lock.release()


def delete(session: Session) -> Flow[bool]:
    """Remove a session from Redis and disk. Returns whether there was anything.

    Under the lock, so a spill that has read the messages has also written them before
    this begins, or has not begun: it cannot write them afterwards.
    """
    store = session.store
    lock = yield from _locked(session)
    try:
        hot = yield RedisCall(store.hot.forget(session.id))
        cold = yield DiskCall(partial(store.archive.store.delete_locked, session.id))
        store.outage_sessions.discard(session.id)
    finally:
        lock.release()
    return bool(hot) or bool(cold)


# -- locks -------------------------------------------------------------------------------


def _locked(session: Session) -> Flow[FileLock]:
    """Wait for the session's lock without holding a thread.

    Raises:
        ArchiveBusy: not to be had in time.
    """
    archive = session.store.archive.store
    waited = 0.0
    for pause in lock_pauses():
        lock: FileLock | None = yield LockCall(partial(archive.try_lock, session.id))
        if lock is not None:
            return lock
        if waited > archive.lock_timeout_seconds:
            break
        yield Sleep(pause)
        waited += pause
    raise archive.busy_error(session.id)


# -- the daemon's rounds -------------------------------------------------------------------

#: Sessions moved to disk together: their reads and trims share a round trip each.
SESSIONS_AT_ONCE = 32
#: How long one daemon keeps the others from looking for idle sessions too.
LEASE_MS = 30_000


def spill_overflow(store: SessionStore, limit: int = 256) -> Flow[Moved]:
    """Bring windows that have grown by a batch back to their size."""
    total = Moved()
    for bucket in range(store.hot.keys.buckets):
        reply = yield RedisCall(store.hot.overflowing(bucket, limit))
        windows = _pairs(reply)
        for group in _groups(windows, SESSIONS_AT_ONCE):
            moved = yield from move_to_disk(store, {sid: int(windows[sid]) for sid in group})
            _add_up(total, moved)
    return total


def evict_idle(store: SessionStore, idle_seconds: float, who: str | None = None) -> Flow[Moved]:
    """Move every session to disk that has been idle for so long.

    Args:
        store: the tiers.
        idle_seconds: least time since the last use.
        who: name for the lease; None works without one.
    """
    total = Moved()
    idle_ms = int(idle_seconds * 1000)
    for bucket in range(store.hot.keys.buckets):
        # Busy and failed sessions stay in the list, at its start: they are passed over.
        passed = 0
        before: list[str] = []
        while True:
            if who is not None and not (yield RedisCall(store.hot.lease(bucket, who, LEASE_MS))):
                break
            reply = yield RedisCall(store.hot.idle(bucket, idle_ms, passed, SESSIONS_AT_ONCE))
            ids = [sid.decode("utf-8", "replace") for sid in reply]
            # What is listed again has just been used, or is no session: not now, not for ever.
            if not ids or ids == before:
                break
            before = ids
            moved = yield from move_to_disk(store, dict.fromkeys(ids, 0))
            _add_up(total, moved)
            passed += moved.busy + len(moved.failed)
    store.count("evicted_sessions", total.sessions)
    return total


def _add_up(total: Moved, moved: Moved) -> None:
    total.messages += moved.messages
    total.sessions += moved.sessions
    total.busy += moved.busy
    total.failed.update(moved.failed)


def reunite_pending(store: SessionStore) -> Flow[Moved]:
    """Bring together every session that any process wrote to during an outage."""
    ids: list[str] = yield DiskCall(store.archive.store.pending_sessions)
    moved = Moved()
    for session_id in ids:
        try:
            yield from reunite(Session(store, session_id, store.config.hot_window_size))
        except RedisUnavailable:
            raise
        except LixCacheError as error:
            # It keeps its mark, and does not keep the others from being brought together.
            moved.failed[session_id] = error
        else:
            moved.sessions += 1
    return moved


def clean_up(store: SessionStore) -> Flow[int]:
    """Delete archives past their life, except those of sessions that are hot."""
    archive = store.archive
    expired: list[str] = yield DiskCall(archive.expired_sessions)
    removed = 0
    for session_id in expired:
        session = Session(store, session_id, store.config.hot_window_size)
        lock = yield from _locked(session)
        try:
            # A session with messages in Redis is alive, however old its archive.
            if not (yield RedisCall(store.hot.length(session_id))):
                removed += yield DiskCall(partial(archive.remove_expired_locked, session_id))
        finally:
            lock.release()
    return removed


def list_hot(store: SessionStore, page: int = 1000) -> Flow[dict[str, float]]:
    """Return the hot sessions with the Unix seconds of their last use."""
    found: dict[str, float] = {}
    for bucket in range(store.hot.keys.buckets):
        cursor = 0
        while True:
            # Not pages by rank: a session that is used or moved meanwhile shifts the ranks
            # of the others, and one of them would be missing.
            reply = yield RedisCall(store.hot.active_page(bucket, cursor, page))
            pairs = _pairs(reply[1])
            found.update({sid: float(score) / 1000 for sid, score in pairs.items()})
            cursor = int(reply[0])
            if cursor == 0:
                break
    return found


def _pairs(reply: Any) -> dict[str, Any]:
    """Read a list of pairs, flat or nested: servers and client versions differ."""
    flat = [x for pair in reply for x in pair] if reply and isinstance(reply[0], (list, tuple)) else reply
    keys = [key.decode("utf-8", "replace") for key in flat[0::2]]
    return dict(zip(keys, flat[1::2], strict=True))


def _groups(items: Iterable[str], size: int) -> Iterable[list[str]]:
    listed = list(items)
    return (listed[i : i + size] for i in range(0, len(listed), size))
