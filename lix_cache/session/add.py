"""Adding a message: to Redis, or to the archive where Redis cannot take it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from lix_cache.effects import DiskCall, Flow, RedisCall
from lix_cache.errors import (
    ArchiveCorrupt,
    ArchiveError,
    InvalidMessage,
    LixCacheError,
    RedisCommandError,
    RedisUnavailable,
    told,
)
from lix_cache.hot.connections import NewConnection
from lix_cache.hot.replies import Added, Cold, Gap, Refused
from lix_cache.hot.window import HotWindow
from lix_cache.messages.packing import pack_hot
from lix_cache.messages.turn import LARGEST_MS, MessageId, Turn, with_id
from lix_cache.session.base import LATE_BATCHES, Session, ask, look, note_failure, session_lock
from lix_cache.session.health import before_add
from lix_cache.session.offload import move_to_disk
from lix_cache.session.read import read_window, rehydrate
from lix_cache.session.reconcile import catch_up, reconcile_pending, take_over, take_over_locked

if TYPE_CHECKING:
    from lix_cache.clock import Clock

__all__ = ["_persist", "add"]


#: An add that has taken longer is not settled by looking for it.
GIVE_UP_SECONDS = 3600.0


@dataclass(frozen=True)
class AddResult:
    """What became of an add.

    Attributes:
        in_window: messages now in the window.
        overflows: the window has just grown by a batch; the daemon should look at it.
    """

    in_window: int
    overflows: bool = False


@dataclass(frozen=True)
class _Moment:
    """When an add began, by both clocks: one may be set back, the other stops while a machine sleeps."""

    time: float
    monotonic: float

    @classmethod
    def now(cls, clock: Clock) -> _Moment:
        return cls(clock.time(), clock.monotonic())

    def is_long_ago(self, clock: Clock) -> bool:
        """Whether it may be too late to tell if an add that was not answered was carried out.

        A process may be stopped in the middle and go on days later; the nonce by which the
        archive would tell may be gone by then (KEEP_NONCES_MS). Then the add fails, and the
        error says that it may have been done.
        """
        return max(clock.time() - self.time, clock.monotonic() - self.monotonic) > GIVE_UP_SECONDS


def add(session: Session, turn: Turn) -> Flow[AddResult]:
    """Add a message that has no id yet: to Redis, or to the archive if the policy says so."""
    store = session.store
    yield from before_add(store)
    before = session.seen.expected
    sent = _Moment.now(store.clock)
    gap = Gap.REFUSE
    try:
        try:
            yield from reconcile_pending(session)
        except (ArchiveError, InvalidMessage) as error:
            # The message matters more than the tidying, which is tried again.
            note_failure(store, error)
            gap = Gap.FILL
        added = yield from _add_hot(session, turn, sent, gap)
    except RedisUnavailable as error:
        if error.maybe_done and turn.nonce is not None:
            session.seen.leave_unsettled(turn.nonce)
        if store.config.on_redis_error == "raise" or sent.is_long_ago(store.clock):
            raise
        total = yield from _add_cold(session, turn, contested=error.maybe_done)
        return AddResult(min(total, session.window))
    if store.config.durability == "disk":
        yield from _persist(session, with_id(turn, added.id), before, contested=added.repeated)
    batches = session.grown_by(added.length, store.hot.batch)
    if not batches:
        return AddResult(min(added.length, session.window))
    if batches >= LATE_BATCHES:
        yield from _spill_late(session)
    return AddResult(session.window, overflows=True)


def _add_cold(session: Session, turn: Turn, *, contested: bool) -> Flow[int]:
    """Keep a message that Redis could not take. Returns how many turns the archive has."""
    store, cold = session.store, session.store.cold
    store.count("archived_adds")
    lock = yield from session_lock(session)
    try:
        # From here on get_context must look on disk too, so the note comes first.
        store.outage_sessions.add(session.id)
        given: MessageId = yield DiskCall(
            partial(
                cold.append_outage_locked,
                session.id,
                turn,
                contested=contested,
                after=session.seen.newest,
            )
        )
        session.seen.saw(given)
        archived = yield DiskCall(partial(cold.summary, session.id, locked=True))
    finally:
        lock.release()
    return int(archived.total)


def _spill_late(session: Session) -> Flow[None]:
    """Do the daemon's work, because it is late. The message is stored: no trouble here may fail its add.

    A caller that is told of it would add the message again. What is no trouble of ours goes through:
    a signal's exception, above all.
    """
    store = session.store
    store.count("late_spills")
    try:
        yield from move_to_disk(store, {session.id: session.window})
    except LixCacheError as error:
        store.count("spill_failures")
        store.last_error = told(error)


def _add_hot(session: Session, turn: Turn, sent: _Moment, gap: Gap) -> Flow[Added]:
    """Append to the window: one round trip, or two where only the archive knows which id is next."""
    try:
        return (yield from _append_hot(session, turn, gap, locked=False))
    except RedisUnavailable as error:
        if not error.maybe_done or error.timed_out or sent.is_long_ago(session.store.clock):
            raise
    # The connection broke before the answer came: the message may be there or not. Nothing
    # moves to disk while we hold the lock, so looking in both places settles it, unless the
    # first one is still on its way. So the second one says that it is one.
    store = session.store
    lock = yield from session_lock(session)
    try:
        found = yield from _find(session, turn.nonce or b"")
        if found is None:
            found = yield from _append_hot(session, turn, gap, locked=True, repeated=True)
            found = replace(found, repeated=True)
        # What is added next comes after it, also where that goes to the archive.
        session.seen.saw(found.id)
    except RedisUnavailable as error:
        error.maybe_done = True
        store.breaker.trip()
        raise
    finally:
        lock.release()
    return found


def _find(session: Session, nonce: bytes) -> Flow[Added | None]:
    """Look for a message in both tiers. The caller holds the session's lock."""
    store = session.store
    below: MessageId | None = None
    while True:
        found = HotWindow.found((yield RedisCall(store.hot.find(session.id, nonce, below))))
        if isinstance(found, Added):
            return found
        if found is None:
            break
        below = found
    archived = yield DiskCall(partial(store.cold.find_nonce_locked, session.id, nonce))
    if archived is None:
        return None
    length = yield RedisCall(store.hot.length(session.id))
    return Added(archived, int(length))


def _append_hot(
    session: Session, turn: Turn, gap: Gap, *, locked: bool, repeated: bool = False
) -> Flow[Added]:
    store, seen = session.store, session.seen
    packed = pack_hot(turn, coded=store.hot.coded, repeated=repeated)
    looked = caught_up = False
    looks_for_old = True
    if locked:
        yield from look(session, locked=True)
    fenced: int | None = 0
    while True:
        opened = seen.opened
        if gap is Gap.FILL:
            # The gap cannot be seen any more, also where this is carried out without an answer:
            # it is noted, and closed by a later use.
            store.outage_sessions.add(session.id)
        fenced = None if fenced is None else opened
        command = store.hot.add(
            session.id,
            packed,
            window=session.window,
            floor=seen.newest,
            floor_is_fresh=looked,
            floor_is_certain=locked,
            gap=Gap.IGNORE if gap is Gap.REFUSE and seen.compared >= opened else gap,
            look_for_old=looks_for_old,
        )
        try:
            answer = HotWindow.added((yield from ask(store, command, repeat=False, opened=fenced)))
        except NewConnection as new:
            if (yield from look(session, new.number, locked=locked)) is None:
                # A disk that cannot be looked at must not keep the message out.
                fenced = None
            looked = True
            continue
        if isinstance(answer, Added):
            yield from _archivable(session, answer.id)
            seen.saw(answer.id)
            seen.compared = max(seen.compared, opened)
            return answer
        if answer is Refused.LATE:
            # It was given up, and stored elsewhere or deleted: only its sender can know.
            raise RedisUnavailable("the message was sent before", maybe_done=True, timed_out=True)
        if answer is Refused.OLD:
            # Nothing was added. What cannot move now is met again by the next add or read.
            looks_for_old = yield from _took_over(session, locked=locked)
        elif answer is Refused.BEHIND:
            # Once. The message matters more than the gap.
            if caught_up or not (yield from catch_up(session, locked=locked)):
                gap = Gap.FILL
            caught_up = True
        # The window is gone and the server cannot tell which id is large enough.
        elif looked:
            break
        yield from look(session, locked=locked)
        looked = True
    # Nor can we without keeping others from adding and archiving a message of the same
    # id between our look and our add: only the lock makes what we see last.
    lock = yield from session_lock(session)
    try:
        return (yield from _append_hot(session, turn, gap, locked=True, repeated=repeated))
    finally:
        lock.release()


def _archivable(session: Session, given: MessageId) -> Flow[None]:
    """Take a message back whose id no archive could hold: it is not acknowledged, so it must not stay."""
    if given.ms > LARGEST_MS:
        yield RedisCall(session.store.hot.remove(session.id, given))
        raise ArchiveCorrupt(
            "the session holds an id at the end of time, so that no larger one can be archived: a "
            "clock, or a file that lix_cache did not write, gave it. Export the session, delete it, "
            "and import it again"
        )


def _took_over(session: Session, *, locked: bool) -> Flow[bool]:
    """Take over what the old package left, before an add; return False if it cannot be done now."""
    store = session.store
    try:
        if locked:
            yield from take_over_locked(session)
        else:
            yield from take_over(session)
            # So that the add counts what is now in the window, and the next read is one trip.
            found = yield from read_window(session, 0)
            if isinstance(found, Cold):
                yield from rehydrate(session, found)
    except (ArchiveError, InvalidMessage, RedisCommandError) as error:
        # The message matters more.
        store.count("old_session_failures")
        store.last_error = told(error)
        return False
    return True


def _persist(session: Session, turn: Turn, before: MessageId, *, contested: bool) -> Flow[None]:
    """Put a message on disk before it is acknowledged. If the disk refuses, take it back.

    Args:
        session: where it was added.
        turn: the message under its id.
        before: the newest id that was known before it.
        contested: it was sent twice, and Redis may carry out the first sending later.
    """
    cold = session.store.cold
    try:
        lock = yield from session_lock(session)
    except LixCacheError:
        # Nor does it stay where only a daemon that holds the lock can tell whether it has moved it.
        yield from _taken_back(session, turn, before)
        raise
    try:
        try:
            yield DiskCall(partial(cold.append_locked, session.id, [turn], contested=contested))
        except LixCacheError:
            # Not acknowledged, so it must not stay: the caller will send it again. Under the lock: a
            # daemon that had read it already would put it on disk all the same.
            if (yield from _taken_back(session, turn, before)):
                raise
            # Moved to disk before we had the lock, or lost by Redis since (FLUSHALL): the disk knows.
            if (yield DiskCall(partial(cold.find_nonce_locked, session.id, turn.nonce or b""))) is None:
                raise
    finally:
        lock.release()


def _taken_back(session: Session, turn: Turn, before: MessageId) -> Flow[bool]:
    """Take a message out of the window; False if it is not there."""
    try:
        removed = yield RedisCall(session.store.hot.remove(session.id, turn.id))
    except RedisUnavailable as unavailable:
        unavailable.maybe_done = True
        raise
    if not int(removed):
        return False
    # Nor must it look as if the window had lost it.
    session.seen.expected = min(session.seen.expected, before)
    return True
