"""Moving sessions to disk when an operator asks, as the evictor would in time. See lix_cache.effects."""

from __future__ import annotations

from collections.abc import Iterable

from lix_cache.admin.flows import OF_ONE_SESSION, groups, idle_sessions, session_of
from lix_cache.admin.infos import told_of
from lix_cache.admin.moving_over import old_sessions
from lix_cache.admin.progress import OnProgress
from lix_cache.admin.results import Offloaded
from lix_cache.effects import DiskCall, Flow
from lix_cache.messages.session_key import in_namespace
from lix_cache.session import reconcile, rounds, whole
from lix_cache.session.offload import Moved, move_to_disk
from lix_cache.session.store import SessionStore

__all__ = ["offload_idle", "offload_these"]


def offload_these(store: SessionStore, named: list[str], on_progress: OnProgress) -> Flow[Offloaded]:
    """Move these sessions, even busy ones."""
    total = Moved()
    left = yield from old_sessions(store, named)
    yield from _take_over(store, left, total)
    # What is not there, or on disk alone, is not moved, and not reported as moved.
    there = (yield from rounds.hot_among(store, named)) | left.keys()
    yield from _move_all(store, [sid for sid in named if sid in there], total, on_progress)
    return Offloaded(total.sessions, total.messages, 0, told_of(total.failed))


def offload_idle(
    store: SessionStore, seconds: float, start: str | None, on_progress: OnProgress
) -> Flow[Offloaded]:
    """Move the sessions idle for so long, after those of an outage are reconciled.

    Args:
        store: the tiers.
        seconds: of idleness; 0 for all that are hot.
        start: what the stored ids of a namespace begin with; None for all sessions.
        on_progress: called with the number of sessions done and of all sessions.
    """
    total = Moved()
    reconciled = yield from _reconcile_pending(store, start, total)
    hot = yield from rounds.list_hot(store)
    hot = {sid: used for sid, used in hot.items() if in_namespace(sid, start)}
    yield from _move_all(store, (yield from idle_sessions(hot, seconds)), total, on_progress)
    return Offloaded(total.sessions, total.messages, reconciled, told_of(total.failed))


def _take_over(store: SessionStore, left: Iterable[str], total: Moved) -> Flow[None]:
    for session_id in left:
        try:
            total.messages += yield from reconcile.take_over(session_of(store, session_id))
        except OF_ONE_SESSION as error:
            total.failed[session_id] = error


def _reconcile_pending(store: SessionStore, start: str | None, total: Moved) -> Flow[int]:
    reconciled = 0
    for session_id in (yield DiskCall(store.cold.pending_sessions)):
        if not in_namespace(session_id, start):
            continue
        try:
            yield from reconcile.reconcile(session_of(store, session_id))
            reconciled += 1
        except OF_ONE_SESSION as error:
            total.failed[session_id] = error
    return reconciled


def _move_all(store: SessionStore, chosen: list[str], total: Moved, on_progress: OnProgress) -> Flow[None]:
    on_progress(0, len(chosen))
    done = 0
    for group in groups(chosen, rounds.SESSIONS_AT_ONCE):
        yield from _move(store, group, total)
        done += len(group)
        on_progress(done, len(chosen))


def _move(store: SessionStore, group: list[str], total: Moved) -> Flow[None]:
    moved = yield from move_to_disk(store, dict.fromkeys(group, 0))
    total.messages += moved.messages
    if not moved.busy:
        total.sessions += moved.sessions
        total.failed.update(moved.failed)
        return
    # Another process held a lock. The daemon would come back to it; we were asked for now.
    for session_id in group:
        try:
            total.messages += yield from whole.flush(session_of(store, session_id))
            total.sessions += 1
        except OF_ONE_SESSION as error:
            total.failed[session_id] = error
