"""After an outage or a rollback: what Redis kept and what the archive has become one again."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.effects import DiskCall, Flow, RedisCall
from lix_cache.errors import (
    ArchiveError,
    InvalidMessage,
    RedisUnavailable,
)
from lix_cache.hot.connections import NewConnection
from lix_cache.hot.window import HotWindow
from lix_cache.messages.session_key import named
from lix_cache.messages.turn import ZERO_ID, Turn
from lix_cache.session import late, old_sessions
from lix_cache.session.base import Session, ask, look, note_failure, session_lock
from lix_cache.session.lost import count_lost
from lix_cache.session.offload import move_locked

if TYPE_CHECKING:
    from collections.abc import Callable

    from lix_cache.hot.scripts import Command

__all__ = [
    "_reconcile_locked",
    "ask_known",
    "catch_up",
    "known_length",
    "reconcile",
    "reconcile_pending",
    "take_over",
    "take_over_locked",
    "without_redis",
]


def catch_up(session: Session, *, locked: bool, went_back: bool = True) -> Flow[bool]:
    """Bring a window together with the archive, which knows more. False if the disk refuses.

    Args:
        session: the session.
        locked: whether the caller holds its lock.
        went_back: the window ends too early, as an older state of Redis does.
    """
    store = session.store
    try:
        # If another process wrote to the archive while Redis was away, Redis did not go back.
        if went_back and not (yield DiskCall(partial(store.cold.is_pending, session.id))):
            store.note_rollback()
            # Counted under the lock that is about to be taken.
            session.seen.doubt()
        yield from _reconcile_locked(session) if locked else reconcile(session)
    except (ArchiveError, InvalidMessage) as error:
        note_failure(store, error)
        return False
    return True


def ask_known(session: Session, command: Command, *, locked: bool = False) -> Flow[Any]:
    """Send a command that reads.

    After a look at the archive, if the connection is new; and after moving what the old
    package left, if it finds something.

    Args:
        session: the session.
        command: what to send.
        locked: whether the caller holds the session's lock.
    """
    opened: int | None = session.seen.opened
    while True:
        try:
            reply = yield from ask(session.store, command, opened=opened)
        except NewConnection as new:
            yield from count_lost(session, locked=locked, anew=True)
            looked = yield from look(session, new.number, locked=locked)
            # What Redis says is better than nothing, where the archive cannot be looked at.
            opened = None if looked is None else session.seen.opened
            continue
        if not HotWindow.is_old(reply):
            return reply
        yield from take_over_locked(session) if locked else take_over(session)


def known_length(session: Session) -> Flow[int]:
    """Return how many messages Redis holds. What it has lost is counted."""
    length = int((yield from ask_known(session, session.store.hot.length(session.id))))
    yield from count_lost(session, locked=False)
    return length


def take_over(session: Session) -> Flow[int]:
    """Move what the old package left of a session to disk. Returns how many messages moved."""
    lock = yield from session_lock(session)
    try:
        return (yield from take_over_locked(session))
    finally:
        lock.release()


def take_over_locked(session: Session) -> Flow[int]:
    def offload() -> Flow[None]:
        moved = yield from move_locked(session.store, {session.id: 0})
        moved.raise_failure()

    moved = yield from old_sessions.take_over_locked(session.store, session.id, offload)
    if moved and session.seen.taken_over:
        session.store.count("old_writers")
        logger.warning(
            "a process of lix-open-cache still adds to {}, which has moved. Stop it: it takes "
            "our archive files for broken and writes over them (docs/moving-over.md)",
            named(session.id),
        )
    session.seen.taken_over |= moved > 0
    # The archive holds ids now that this process has not seen.
    yield from look(session, locked=True)
    return moved


def without_redis(
    session: Session, read: Callable[[], list[Turn]], error: RedisUnavailable
) -> Flow[list[Turn] | None]:
    """Answer from the disk alone, if the policy allows, and never as if there were nothing.

    Args:
        session: the session.
        read: reads the disk.
        error: what Redis said.

    Returns:
        None where there is nothing on disk and Redis was not asked: it is to be asked now.
    """
    store = session.store
    if store.settings.on_redis_error == "raise":
        raise error
    store.count("degraded_reads")
    turns: list[Turn] = yield DiskCall(read, waits=True)
    if turns:
        return turns
    if error.was_asked:
        raise error
    store.breaker_of(session.id).reset()
    return None


def reconcile_pending(session: Session) -> Flow[None]:
    """After an outage: put what Redis kept beside what went to the archive, by id.

    The window is moved to disk whole; the next read brings back the newest of both. And what Redis may have
    lost is counted, where the lock could not be had before.
    """
    store = session.store
    if session.id in store.outage_sessions and not store.breaker_of(session.id).is_open:
        yield from reconcile(session)
    elif session.seen.doubted is not None:
        yield from count_lost(session, locked=False)


def reconcile(session: Session) -> Flow[None]:
    """Move a session to disk whole and take off the mark that an outage left on it."""
    lock = yield from session_lock(session)
    try:
        yield from _reconcile_locked(session)
    finally:
        lock.release()


def _reconcile_locked(session: Session) -> Flow[None]:
    store, breaker = session.store, session.store.breaker_of(session.id)
    try:
        # Before the window moves, and once more after that: another flow may have been looking, and could not
        # have the lock.
        yield from count_lost(session, locked=True)
        moved = yield from move_locked(store, {session.id: 0})
        moved.raise_failure()
        yield from count_lost(session, locked=True)
        # What went to the archive may still arrive: from here on it is refused.
        yield from late.refuse_locked(store, session.id)
        yield RedisCall(store.hot.doubt_keys(session.id))
        # The mark goes last: until here a crash leaves it for the next daemon.
        yield DiskCall(partial(store.cold.unmark_pending_locked, session.id))
    except RedisUnavailable as error:
        breaker.met(error)
        raise
    # Under the lock: once it is free another thread may meet the next outage.
    store.outage_sessions.discard(session.id)
    # The archive has all there is now. What this process saw besides is lost, and looking for it at
    # every use would not bring it back. The value changes in one step: another task that has read the
    # window as it was before must not find that it ends where it should.
    extent = yield from look(session, locked=True)
    session.seen.expected = ZERO_ID if extent is None else extent.newest
    store.count("reunions")
