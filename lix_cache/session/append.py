"""Appending to a window: what Redis answers to an add, and what is to be done about it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from lix_cache.effects import DiskCall, Flow, RedisCall
from lix_cache.errors import (
    ArchiveCorrupt,
    ArchiveError,
    InvalidMessage,
    KeyReused,
    RedisCommandError,
    RedisUnavailable,
    told,
)
from lix_cache.hot.connections import NewConnection
from lix_cache.hot.replies import Added, Cold, Gap, Looked, Refused
from lix_cache.hot.scripts import KEYS_MS
from lix_cache.hot.window import HotWindow
from lix_cache.messages.packing import pack_hot
from lix_cache.messages.turn import LARGEST_MS, ZERO_ID, MessageId, Turn
from lix_cache.session.base import Session, ask, find_hot, look, session_lock
from lix_cache.session.batch import Batch, check_size
from lix_cache.session.lost import count_lost
from lix_cache.session.read import read_window, rehydrate
from lix_cache.session.reconcile import catch_up, take_over, take_over_locked

if TYPE_CHECKING:
    from collections.abc import Collection

    from lix_cache.clock import Clock

__all__ = ["Moment", "add_hot", "revived_locked"]


#: After so many seconds an add without an answer is not looked for any more.
GIVE_UP_SECONDS = 3600.0


class Moment(NamedTuple):
    """When an add began, by both clocks: one may be set back, the other stops while a machine sleeps."""

    time: float
    monotonic: float

    @classmethod
    def now(cls, clock: Clock) -> Moment:
        return cls(clock.time(), clock.monotonic())

    def is_long_ago(self, clock: Clock) -> bool:
        """Whether it may be too late to tell if an add that was not answered was carried out.

        A process may be stopped in the middle and go on days later; the nonce by which the
        archive would tell may be gone by then (KEEP_NONCES_MS). Then the add fails, and the
        error says that it may have been done.
        """
        return max(clock.time() - self.time, clock.monotonic() - self.monotonic) > GIVE_UP_SECONDS


def add_hot(session: Session, batch: Batch, sent: Moment, gap: Gap) -> Flow[Added]:
    """Append to the window: one round trip, or two where only the archive knows which id is next."""
    try:
        return (yield from _append_hot(session, batch, gap, locked=False))
    except RedisUnavailable as error:
        if not error.maybe_done or error.timed_out or sent.is_long_ago(session.store.clock):
            raise
    # The connection broke before the answer came: the message may be there or not. While we hold
    # the lock nothing moves to disk, so a look in both places settles it. Only the first command may
    # still be on its way. So the second one says that it is a repetition.
    breaker = session.store.breaker_of(session.id)
    lock = yield from session_lock(session)
    try:
        # Where messages have keys, Redis itself knows whether the first command was carried out.
        found = None if batch.tags else (yield from _find(session, batch))
        if found is None:
            found = yield from _append_hot(session, batch, gap, locked=True, repeated=True)
            found = found._replace(repeated=True)
        # The next message gets a larger id, even if it goes to the archive.
        session.seen.saw(max(found.ids))
    except RedisUnavailable as error:
        error.maybe_done = True
        breaker.met(error)
        raise
    finally:
        lock.release()
    return found


def _find(session: Session, batch: Batch) -> Flow[Added | None]:
    """Look for messages in both tiers. The caller holds the session's lock.

    They were added together: where one is found all were, and one that is not was taken out since.
    """
    ids, length = yield from _places(session, batch)
    if not ids:
        return None
    near, given = next(iter(ids.items()))
    every = range(len(batch.turns))
    return Added(tuple(ids.get(i, MessageId(given.ms, given.seq + i - near)) for i in every), length)


def _places(session: Session, batch: Batch, since_ms: int = 0) -> Flow[tuple[dict[int, MessageId], int]]:
    """Return the ids of those messages that either tier has, by position, and the window's length."""
    places = batch.nonces
    found, length = yield from find_hot(session, places)
    missing = [nonce for nonce in places if nonce not in found]
    if missing:
        look = partial(session.store.cold.find_nonces_locked, session.id, missing, since_ms=since_ms)
        found.update((yield DiskCall(look)))
    return {places[nonce]: given for nonce, given in found.items()}, length


def _look_for_keys(
    session: Session, batch: Batch, gap: Gap, *, locked: bool, repeated: bool, refused: bool = False
) -> Flow[Added]:
    """Add messages some of whose keys Redis may have forgotten: what is stored is not added again.

    Args:
        session: the session.
        batch: the messages.
        gap: what to do where the window ends below the floor.
        locked: whether the caller holds the session's lock.
        repeated: they were sent before.
        refused: Redis refuses the nonce of one of them, and will never take it.
    """
    store = session.store
    if not locked:
        try:
            lock = yield from session_lock(session)
        except ArchiveError as error:
            # A disk that refuses must not keep messages out.
            store.last_error = told(error)
            return (
                yield from _append_hot(
                    session, batch, gap, locked=False, repeated=repeated, looked=Looked.YES
                )
            )
        try:
            return (yield from _look_locked(session, batch, gap, repeated, refused))
        finally:
            lock.release()
    return (yield from _look_locked(session, batch, gap, repeated, refused))


def _look_locked(session: Session, batch: Batch, gap: Gap, repeated: bool, refused: bool) -> Flow[Added]:
    store = session.store
    since = _keys_since(session)
    ids: dict[int, MessageId] = {}
    length = 0
    yield from look(session, locked=True)
    try:
        ids, length = yield from _places(session, batch, since)
    except ArchiveError as error:
        store.last_error = told(error)
    dead = _dead(session, batch)
    # What was deleted is not added again by its key, for as long as a key is known.
    ids = {i: given for i, given in ids.items() if i not in dead or given.ms >= since}
    left = [i for i in range(len(batch.turns)) if i not in ids]
    if not left:
        return Added(tuple(ids[i] for i in range(len(ids))), length, frozenset(ids))
    there = yield DiskCall(partial(store.cold.exists, session.id))
    # It gets a new nonce: readers leave the old one out, or Redis does. Whatever was sent under that one
    # is in neither tier, and cannot come any more.
    turns = _anew(session, batch, left if refused else dead.intersection(left))
    rest = Batch(tuple(turns[i] for i in left), tuple(batch.tags[i] for i in left))
    looked = Looked.YES if there else Looked.NONE
    try:
        added = yield from _append_hot(session, rest, gap, locked=True, repeated=repeated, looked=looked)
    except KeyReused as error:
        raise KeyReused(left[error.position]) from None
    known = {*ids, *(left[i] for i in added.known)}
    ids.update(zip(left, added.ids, strict=True))
    every = tuple(ids[i] for i in range(len(ids)))
    return Added(every, added.length, frozenset(known), replicas=added.replicas, turns=turns)


def revived_locked(session: Session, batch: Batch) -> Flow[Batch]:
    """Return messages that go to the archive alone, with new nonces for what comes after its deletion.

    Where Redis takes them, what was deleted may come again when its key is forgotten. So it may here: under
    the nonce that it had, the archive would leave it out. The caller holds the session's lock.
    """
    yield from look(session, locked=True)
    dead = _dead(session, batch)
    if not dead:
        return batch
    since = _keys_since(session)
    places = {nonce: i for nonce, i in batch.nonces.items() if i in dead}
    try:
        find = partial(session.store.cold.find_nonces_locked, session.id, list(places), since_ms=since)
        found = yield DiskCall(find)
    except ArchiveCorrupt:
        return batch  # the append mends it
    again = [i for nonce, i in places.items() if nonce not in found or found[nonce].ms < since]
    return Batch(_anew(session, batch, again), batch.tags)


def _keys_since(session: Session) -> int:
    """Return the time, in Unix milliseconds, since which keys of messages may be known."""
    # A frame is as old as its youngest message at most, and no key is known for longer.
    return int(session.store.clock.time() * 1000) - 2 * KEYS_MS


def _dead(session: Session, batch: Batch) -> set[int]:
    """Return the positions of those messages whose nonces stand for what was deleted."""
    known = session.seen.contested
    return (
        {i for i, turn in enumerate(batch.turns) if known.get(turn.nonce or b"") == ZERO_ID}
        if known
        else set()
    )


def _anew(session: Session, batch: Batch, places: Collection[int]) -> tuple[Turn, ...]:
    """Return the messages, those at some places under new nonces."""
    turns = list(batch.turns)
    for i in places:
        turn = turns[i]
        nonce = batch.anew.setdefault(turn.nonce or b"", session.store.new_nonce())
        turns[i] = Turn(turn.id, turn.body, turn.vector, nonce)
    return tuple(turns)


def _append_hot(
    session: Session,
    batch: Batch,
    gap: Gap,
    *,
    locked: bool,
    repeated: bool = False,
    looked: Looked = Looked.NO,
) -> Flow[Added]:
    store, seen = session.store, session.seen
    by_keys = partial(_look_for_keys, session, batch, gap, locked=locked, repeated=repeated)
    if batch.tags and looked is Looked.NO and _dead(session, batch):
        return (yield from by_keys())
    packed = _packed(session, batch, repeated=repeated)
    fresh, caught_up, looks_for_old, is_fenced = False, False, True, True
    if locked:
        yield from look(session, locked=True)
    replica_ms = store.replica_ms(session.id)
    while True:
        opened, fence = seen.opened, seen.opened if is_fenced else None
        command = store.hot.add(
            session.id,
            packed,
            window=session.window,
            floor=seen.newest,
            floor_is_fresh=fresh,
            floor_is_certain=locked,
            gap=_what_of_gaps(session, gap),
            look_for_old=looks_for_old,
            tags=batch.tags,
            forgotten=seen.forgotten,
            keys_looked_for=looked,
        )
        try:
            reply = yield from ask(store, command, repeat=False, opened=fence, replica_ms=replica_ms)
        except NewConnection as new:
            yield from count_lost(session, locked=locked, anew=True)
            # A disk that cannot be looked at must not keep the message out.
            is_fenced = (yield from look(session, new.number, locked=locked)) is not None
            fresh = True
            continue
        answer = _understood(reply, len(packed), has_replicas=replica_ms is not None)
        if isinstance(answer, Added):
            if not _acknowledged(session, answer, opened):
                yield from _take_back(session, batch, answer)
            return answer
        if answer is Refused.LOOK or answer is Refused.LATE:
            _settles_by_keys(batch, looked)
            return (yield from by_keys(refused=answer is Refused.LATE))
        if answer is Refused.OLD:
            # Nothing was added. What cannot move now is met again by the next add or read.
            looks_for_old = yield from _took_over(session, locked=locked)
        elif answer is Refused.BEHIND:
            if caught_up or not (yield from catch_up(session, locked=locked)):
                gap = Gap.FILL  # once: the message matters more than the gap
            caught_up = True
        elif fresh:
            break  # the window is gone, and the server cannot tell which id is large enough
        yield from look(session, locked=locked)
        fresh = True
    return (yield from _append_locked(session, batch, gap, repeated=repeated, looked=looked))


def _understood(reply: Any, count: int, *, has_replicas: bool) -> Added | Refused:
    if not has_replicas:
        return HotWindow.added(reply, count)
    added, replicas = reply
    answer = HotWindow.added(added, count)
    return answer._replace(replicas=replicas) if isinstance(answer, Added) else answer


def _append_locked(
    session: Session, batch: Batch, gap: Gap, *, repeated: bool, looked: Looked
) -> Flow[Added]:
    """Append where nothing else tells which id is large enough.

    Others must be kept from adding and archiving a message of the same id between our look and our add:
    only the lock makes what we see last.
    """
    lock = yield from session_lock(session)
    try:
        return (yield from _append_hot(session, batch, gap, locked=True, repeated=repeated, looked=looked))
    finally:
        lock.release()


def _settles_by_keys(batch: Batch, looked: Looked) -> None:
    """Raise unless what was refused can be settled by looking for the messages by their keys."""
    if not batch.tags or looked is not Looked.NO:
        # Its sender gave it up, and stored it elsewhere or deleted it: only the sender can know.
        raise RedisUnavailable("the message was sent before", maybe_done=True, timed_out=True)


def _what_of_gaps(session: Session, gap: Gap) -> Gap:
    if gap is Gap.FILL:
        # After this add the gap cannot be seen any more, even if the answer is lost. So it is noted
        # first, and a later use closes it.
        session.store.outage_sessions.add(session.id)
    return Gap.IGNORE if gap is Gap.REFUSE and session.seen.compared >= session.seen.opened else gap


def _packed(session: Session, batch: Batch, *, repeated: bool) -> list[bytes]:
    packed = [pack_hot(turn, coded=session.store.hot.coded, repeated=repeated) for turn in batch.turns]
    if len(packed) > 1:
        check_size(len(packed), packed)
    return packed


def _acknowledged(session: Session, added: Added, opened: int) -> bool:
    """Note what was added. False if it must not stay: no archive could hold its ids."""
    new, seen = added.new, session.seen
    if new:
        last = new[-1]
        if last.ms > LARGEST_MS:
            return False
        seen.saw(last)
        if seen.compared < opened:
            seen.compared = opened
    return True


def _take_back(session: Session, batch: Batch, added: Added) -> Flow[NoReturn]:
    tags = [tag for i, tag in enumerate(batch.tags) if i not in added.known]
    yield RedisCall(session.store.hot.take_back(session.id, added.new, tags))
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
