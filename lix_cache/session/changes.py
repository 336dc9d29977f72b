"""Changing what a session holds: its last message taken off, one deleted or edited, all replaced.

A change is a new frame of the archive (docs/archive-format.md, "Taking out"), synced, and only then told
to Redis. So a disk that refuses leaves everything as it was, and once it is done nothing brings back what
is gone: not a crash before Redis was told, not a Redis that goes back or loses its memory, not a command
that is late. All of that is left out by its nonce wherever the archive is looked at.

The session's lock keeps others from moving or changing anything meanwhile, so of two processes that take
off the last message each gets another one. Adding does not take the lock: what is added meanwhile comes
afterwards.
"""

from __future__ import annotations

from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from lix_cache.effects import DiskCall, Flow, RedisCall, Sleep
from lix_cache.errors import (
    ArchiveBusy,
    ArchiveError,
    LixCacheError,
    MessageNotFound,
    RedisUnavailable,
    RevisionMismatch,
    told,
)
from lix_cache.hot.window import HotWindow
from lix_cache.messages.turn import FROM_ID, ZERO_ID, MessageId, Turn, same_message, sign_of
from lix_cache.session import history, late
from lix_cache.session.base import Session, ask, beside, session_lock
from lix_cache.session.batch import AddResult
from lix_cache.session.offload import MOVES_AGAIN, move_locked
from lix_cache.session.reconcile import ask_known, take_over_locked

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lix_cache.archive.facts import Extent, Summary

__all__ = ["delete_message", "edit", "pop_last", "replace_all", "revision"]


def pop_last(session: Session) -> Flow[Turn | None]:
    """Take the last message off; None if there is none. Two round trips, and one append to the archive."""
    lock = yield from session_lock(session)
    try:
        return (yield from _pop_locked(session))
    finally:
        lock.release()


def _pop_locked(session: Session) -> Flow[Turn | None]:
    extent = yield from _look(session)
    away: RedisUnavailable | None = None
    hot: list[Turn] = []
    try:
        hot, _ = yield from history.newest_hot(session, 2, None, locked=True)
    except RedisUnavailable as error:
        away = _going_on_without(session, error)
    found = hot
    if not hot or hot[-1].id < extent.newest:
        found = yield DiskCall(partial(_last_of_both, session, hot))
    if not found:
        if away is None:
            return None
        yield from _ask_all_the_same(session, away)
        return (yield from _pop_locked(session))
    yield from _take_out(session, found[-1:], away)
    if len(hot) > 1 and hot[-1] is found[-1]:
        # It must not look as if the window had lost it.
        session.seen.expected = hot[-2].id
    return found[-1]


def _last_of_both(session: Session, hot: list[Turn]) -> list[Turn]:
    return beside(session, session.store.cold.recent(session.id, 2, locked=True), hot)


def delete_message(session: Session, message_id: MessageId) -> Flow[bool]:
    """Delete a message; False if there is none of that id. Two round trips, and one append to the archive."""
    if message_id == ZERO_ID:
        return False
    lock = yield from session_lock(session)
    try:
        return (yield from _delete_locked(session, message_id))
    finally:
        lock.release()


def _delete_locked(session: Session, message_id: MessageId) -> Flow[bool]:
    extent = yield from _look(session)
    message_id = session.seen.now_under(message_id)
    away: RedisUnavailable | None = None
    hot: list[Turn] = []
    try:
        hot = yield from _hot_copy(session, message_id)
    except RedisUnavailable as error:
        away = _going_on_without(session, error)
    archived: list[Turn] = []
    if message_id <= extent.newest:
        archived = yield DiskCall(partial(_archived, session, message_id))
    if not (hot or archived):
        if away is None:
            return False
        yield from _ask_all_the_same(session, away)
        return (yield from _delete_locked(session, message_id))
    if hot and archived and not same_message(archived[0], hot[0]):
        # Redis gave an id anew. In the archive the other message gets one of its own.
        yield from _move_all(session)
        hot = []
    yield from _take_out(session, [*archived, *hot], away)
    return True


def edit(session: Session, message_id: MessageId, make: Callable[[Turn], Turn]) -> Flow[Turn]:
    """Put another message in the place of one, under its id. Returns it.

    A window cannot change what it holds, so it moves to disk first; the next read brings it back.

    Args:
        session: the session.
        message_id: of the message.
        make: makes the new one from the old one.

    Raises:
        MessageNotFound: there is none of that id.
    """
    lock = yield from session_lock(session)
    try:
        away: RedisUnavailable | None = None
        try:
            yield from _move_all(session)
        except RedisUnavailable as error:
            away = _going_on_without(session, error)
        yield from _look(session)
        message_id = session.seen.now_under(message_id)
        archived: list[Turn] = yield DiskCall(partial(_archived, session, message_id))
        if not archived:
            if away is not None:
                raise away
            raise MessageNotFound(f"the session has no message {message_id}; nothing was changed")
        old = archived[0]
        new = make(old)
        # Another message than the old one: copies of that do not count.
        made = Turn(old.id, new.body, new.vector, session.store.new_nonce())
        yield from _take_out(session, archived, away, instead=made)
    finally:
        lock.release()
    return made


def replace_all(session: Session, turns: Sequence[Turn], expected: str | None) -> Flow[AddResult]:
    """Put messages in the place of all there are, in one step.

    All of the window moves to disk first, so that what is added from then on has larger ids than the new
    messages get. The new ones are on disk when this returns; the next read brings them into Redis.

    Raises:
        RevisionMismatch: the session is at another revision than ``expected``; nothing was changed.
        RedisUnavailable: what Redis holds cannot be known; nothing was changed.
    """
    store, now = session.store, session.store.clock.time()
    timed = [_timed(turn, now) for turn in turns]
    lock = yield from session_lock(session)
    try:
        at_ms = yield from _emptied(session)
        found, archived = yield DiskCall(partial(_state, session, locked=True))
        if expected is not None and expected != found:
            raise RevisionMismatch(expected, found)
        ids = yield DiskCall(partial(store.cold.replace_locked, session.id, timed, at_ms))
        store.count("replaced_messages", archived.total)
        extent = yield from _look(session)
        session.seen.expected = extent.newest
        try:
            yield from late.refuse_locked(store, session.id, session.seen.unsettled)
        except LixCacheError as error:
            # It is done. What arrives late is left out by its nonce wherever the archive is looked at.
            store.last_error = told(error)
    finally:
        lock.release()
    return AddResult(min(len(ids), session.window), ids=tuple(ids), added=len(ids))


def _emptied(session: Session) -> Flow[int]:
    """Move all of the window to disk; return a millisecond that every later message of it exceeds."""
    store = session.store
    gone: MessageId = yield DiskCall(partial(store.cold.deleted_up_to, session.id))
    for _ in range(MOVES_AGAIN):
        yield from _move_all(session)
        end = HotWindow.end((yield RedisCall(store.hot.ends(session.id))))
        if not end.length:
            if end.up_to.ms > gone.ms:
                return end.up_to.ms
            # It was deleted within this millisecond.
            yield Sleep(0.002)
    if end.length:
        raise ArchiveBusy("messages are being added to the session all the time; nothing was replaced")
    return end.up_to.ms  # the clock of Redis went back behind the deletion


def _timed(turn: Turn, now: float) -> Turn:
    """Return a turn whose time does not depend on its id, which will say when another message was added."""
    if turn.body.get("timestamp") is not FROM_ID:
        return turn
    return Turn(turn.id, {**turn.body, "timestamp": now}, turn.vector, turn.nonce)


def revision(session: Session) -> Flow[str]:
    """Return what changes whenever a message is added, deleted or edited.

    Never without Redis. What is added meanwhile goes to the archive, under larger ids than the messages that
    Redis alone has: the archive by itself would name a state without these as it names the one with them.

    Raises:
        RedisUnavailable: what Redis holds cannot be known.
    """
    last = yield from history.last(session, 1, of_both=True)
    archived: Summary = yield DiskCall(partial(session.store.cold.summary, session.id), waits=True)
    return _named(archived, last)


def _state(session: Session, *, locked: bool) -> tuple[str, Summary]:
    cold = session.store.cold
    archived = cold.summary(session.id, locked=locked)
    return _named(archived, cold.recent(session.id, 1, locked=locked)), archived


def _named(archived: Summary, last: list[Turn]) -> str:
    return f"{archived.changes}.{last[-1].id if last else ZERO_ID}"


def _look(session: Session) -> Flow[Extent]:
    """Look at the archive, under the lock: what is gone must be known before anything is read."""
    extent: Extent = yield DiskCall(partial(session.store.cold.look, session.id, locked=True))
    session.seen.note(extent)
    return extent


def _going_on_without(session: Session, error: RedisUnavailable) -> RedisUnavailable:
    """Return the error where the policy goes on with the archive alone; else raise it."""
    if session.store.settings.on_redis_error == "raise":
        raise error
    session.store.count("degraded_reads")
    return error


def _ask_all_the_same(session: Session, error: RedisUnavailable) -> Flow[None]:
    """Have Redis asked although it was away a moment ago: the archive has nothing. Raises if it was asked."""
    if error.was_asked:
        raise error
    session.store.breaker_of(session.id).reset()
    yield from ()


def _hot_copy(session: Session, message_id: MessageId) -> Flow[list[Turn]]:
    """Return the message of an id that the window holds, if it counts."""
    command = session.store.hot.oldest(
        session.id, keep=0, limit=1, after=message_id.predecessor(), look_for_old=True
    )
    page = HotWindow.oldest_turns((yield from ask_known(session, command, locked=True)))
    counted = late.counted(session.seen, page.turns, session.seen.deleted)
    return [turn for turn in counted if turn.id == message_id]


def _archived(session: Session, message_id: MessageId) -> list[Turn]:
    if message_id == ZERO_ID:
        return []
    after, before = message_id.predecessor(), message_id.successor()
    return session.store.cold.between(session.id, 1, after=after, before=before, newest=True, locked=True)


def _move_all(session: Session) -> Flow[None]:
    yield from take_over_locked(session)
    moved = yield from move_locked(session.store, {session.id: 0})
    moved.raise_failure()


def _take_out(
    session: Session, turns: list[Turn], away: RedisUnavailable | None, *, instead: Turn | None = None
) -> Flow[None]:
    """Have the archive take messages out, then Redis.

    Args:
        session: the session, whose lock is held.
        turns: the copies of what is to be gone.
        away: Redis does not answer.
        instead: what comes in their place; Redis holds none of them then.
    """
    store, cold = session.store, session.store.cold
    if away is not None:
        # As for messages that Redis cannot take: the note comes first, and its window is looked at later.
        yield DiskCall(partial(cold.mark_pending_locked, session.id))
        store.outage_sessions.add(session.id)
    yield DiskCall(partial(cold.take_out_locked, session.id, turns, instead))
    gone = {sign_of(turn): ZERO_ID for turn in turns}
    session.seen.contested = {**session.seen.contested, **gone}
    store.count("changed_messages")
    if away is not None or instead is not None:
        return
    try:
        yield from ask(store, store.hot.take_out(session.id, turns))
    except LixCacheError as error:
        # It is done. That Redis still holds a copy is noted, and mended by the next use or a daemon.
        store.last_error = told(error)
        store.outage_sessions.add(session.id)
        with suppress(ArchiveError):
            yield DiskCall(partial(cold.mark_pending_locked, session.id))
