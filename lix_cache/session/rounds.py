"""The daemon's rounds over all sessions of a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache.archive.expiry import DAY
from lix_cache.effects import DiskCall, Flow, LockCall, RedisBatch, RedisCall
from lix_cache.errors import (
    ArchiveError,
    LixCacheError,
    RedisUnavailable,
)
from lix_cache.session import old_sessions
from lix_cache.session.base import Session
from lix_cache.session.offload import Moved, move_to_disk
from lix_cache.session.reconcile import reconcile, take_over

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from lix_cache.session.store import SessionStore

__all__ = ["reconcile_all_pending"]


#: Sessions moved to disk together: their reads and trims share a round trip each.
SESSIONS_AT_ONCE = 32


#: How long one daemon keeps the others from looking for idle sessions too.
LEASE_MS = 30_000

#: Less than the time between two looks of one daemon, so that no other need take its turn.
CLEAN_UP_LEASE_MS = 3_300_000


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


def offload_idle(store: SessionStore, idle_seconds: float, who: str | None = None) -> Flow[Moved]:
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


def reconcile_all_pending(store: SessionStore) -> Flow[Moved]:
    """Reconcile every session that any process wrote to during an outage."""
    ids: list[str] = yield DiskCall(store.cold.pending_sessions)
    moved = Moved()
    for session_id in ids:
        try:
            yield from reconcile(Session(store, session_id, store.settings.window_size))
        except RedisUnavailable:
            raise
        except LixCacheError as error:
            # It keeps its mark, and does not keep the others from being reconciled.
            moved.failed[session_id] = error
        else:
            moved.sessions += 1
    return moved


def rescue_old(store: SessionStore, done: old_sessions.Pass) -> Flow[old_sessions.Pass]:
    """Go on looking for sessions of the old package that are about to expire, and take them over."""

    def first_use(session_id: str) -> Flow[int]:
        return take_over(Session(store, session_id, store.settings.window_size))

    return (yield from old_sessions.rescue(store, done, first_use))


def clean_up(store: SessionStore, who: str | None = None) -> Flow[int]:
    """Move expired archives to the trash, except those of sessions that are hot.

    One that cannot be looked at or moved, or whose lock is held, is left for the next
    time, and does not keep the others.

    Args:
        store: the tiers.
        who: name for the lease: of many processes one looks at all the archive; None works without one.
    """
    if who is not None and not (yield RedisCall(store.hot.clean_up_lease(who, CLEAN_UP_LEASE_MS))):
        return 0
    cold, trash_days = store.cold, store.archive.trash_days
    ttl_seconds = store.archive.session_ttl_days * DAY
    seconds, microseconds = yield RedisCall(("TIME",))
    now = yield DiskCall(partial(cold.now, int(seconds) + int(microseconds) / 1e6))
    expired: list[str] = yield DiskCall(partial(cold.expired_sessions, ttl_seconds, now), waits=True)
    expire = partial(cold.expire_locked, ttl_seconds=ttl_seconds, now=now, to_trash=trash_days > 0)
    moved = 0
    for session_id in expired:
        try:
            lock = yield LockCall(partial(cold.try_lock, session_id))
            if lock is None:
                continue
            try:
                # A session with messages in Redis is alive, however old its archive. The ticket goes
                # first: what a reader is about to put back would outlive the archive it was read from.
                look = (store.hot.take_ticket(session_id), store.hot.length(session_id))
                _, length = yield RedisBatch(look)
                if not length and not (yield from old_sessions.is_left(store, session_id)):
                    moved += yield DiskCall(partial(expire, session_id))
            finally:
                lock.release()
        except ArchiveError as error:
            cold.note_not_expired(session_id, error)
    yield DiskCall(partial(cold.empty_trash, now, trash_days))
    yield DiskCall(cold.tidy)
    # No window lives longer, so nothing older can come back.
    yield DiskCall(partial(cold.forget_deletions, int(now.earliest * 1000) - store.hot.ttl_ms))
    return moved


def hot_among(store: SessionStore, session_ids: Sequence[str], page: int = 500) -> Flow[set[str]]:
    """Return those of the sessions that have a window in Redis."""
    hot: set[str] = set()
    for group in _groups(session_ids, page):
        lengths = yield RedisBatch(tuple(store.hot.length(session_id) for session_id in group))
        hot.update(session_id for session_id, length in zip(group, lengths, strict=True) if length)
    return hot


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
