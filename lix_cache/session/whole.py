"""What is done to a whole session: flush, clear, delete."""

from __future__ import annotations

from functools import partial

from lix_cache.effects import DiskCall, Flow
from lix_cache.session import late, old_sessions
from lix_cache.session.base import Session, look, session_lock
from lix_cache.session.offload import move_locked
from lix_cache.session.reconcile import take_over_locked

__all__ = ["clear", "delete", "flush"]


def flush(session: Session) -> Flow[int]:
    """Move all of a session to disk now. Returns how many messages moved."""
    lock = yield from session_lock(session)
    try:
        taken_over = yield from take_over_locked(session)
        moved = yield from move_locked(session.store, {session.id: 0})
    finally:
        lock.release()
    moved.raise_failure()
    return taken_over + moved.messages


def clear(session: Session) -> Flow[None]:
    """Empty the context. Every message stays in the history.

    First all of the window moves to disk, then a mark there takes it out of the context. So
    what is left does not depend on how much the daemon had moved before; a crash between the
    two leaves the context as it was; and a Redis that goes back to an older state cannot
    bring the context back, because the mark is not in Redis. What others add meanwhile comes
    after the mark.
    """
    store = session.store
    lock = yield from session_lock(session)
    try:
        # What the old package left goes the way of the rest: into the history, before the mark.
        yield from take_over_locked(session)
        moved = yield from move_locked(store, {session.id: 0})
        moved.raise_failure()
        # After the move, which may have archived more messages of which copies can still arrive. Before
        # the mark, so that what has come since is not in the context.
        yield from late.refuse_locked(store, session.id, session.seen.unsettled)
        yield DiskCall(partial(store.cold.clear_locked, session.id))
        # What is added from now on must come after the mark, or it would not be in the context.
        yield from look(session, locked=True)
    finally:
        lock.release()


def delete(session: Session) -> Flow[bool]:
    """Remove a session from Redis and disk. Returns whether there was anything.

    Under the lock. Where archives are files a move to disk takes it too, so one that has read the
    messages has also written them before this begins, or has not begun. On object storage it does not,
    and may write afterwards: what it writes then is left out, because the archive remembers of the
    deletion up to which id, and which nonces, all is gone. Redis first: what is remembered holds for
    all ids that Redis gave out until then.
    """
    store = session.store
    lock = yield from session_lock(session)
    try:
        # Before the window goes: what arrives in between would stay.
        unsettled = yield from late.refuse_locked(store, session.id, session.seen.unsettled)
        end = yield from late.forget_locked(store, session.id)
        old = yield from old_sessions.drop_locked(store, session.id)
        arriving = unsettled | end.repeated
        cold = yield DiskCall(partial(store.cold.delete_locked, session.id, end.up_to, arriving))
        store.outage_sessions.discard(session.id)
        yield from look(session, locked=True)
    finally:
        lock.release()
    return bool(end.length) or old or bool(cold)
