"""The daemon's rounds over all sessions of a store."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache.archive.expiry import DAY
from lix_cache.effects import DiskCall, Flow, LockCall, RedisBatch, RedisCall, ask_each
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
    from collections.abc import Iterable, Mapping, Sequence

    from lix_cache.session.store import SessionStore

__all__ = ["reconcile_all_pending"]


#: Sessions moved to disk together: their reads and trims share a round trip each.
SESSIONS_AT_ONCE = 32

#: Buckets listed and leased together: what is listed is moved soon after.
BUCKETS_AT_ONCE = 16

#: How long one daemon keeps the others from looking for idle sessions too.
LEASE_MS = 30_000

#: Less than the time between two looks of one daemon, so that no other need take its turn.
CLEAN_UP_LEASE_MS = 3_300_000


def spill_overflow(store: SessionStore, limit: int = 256) -> Flow[Moved]:
    """Bring windows that have grown by a batch back to their size."""
    total, hot = Moved(), store.hot
    silent: dict[int, LixCacheError] = {}
    buckets = range(hot.keys.buckets)
    replies = yield from ask_each({bucket: hot.overflowing(bucket, limit) for bucket in buckets}, silent)
    windows = {sid: size for reply in replies.values() for sid, size in _pairs(reply).items()}
    for group in _groups(windows, SESSIONS_AT_ONCE):
        moved = yield from move_to_disk(store, {sid: int(windows[sid]) for sid in group})
        _add_up(total, moved)
    _note_silent(total, silent)
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
    silent: dict[int, LixCacheError] = {}
    # One batch for each node says which buckets have any.
    listed = yield from _idle(store, dict.fromkeys(range(store.hot.keys.buckets), 0), idle_ms, silent)
    buckets = list(listed)
    for start in range(0, len(buckets), BUCKETS_AT_ONCE):
        some = dict.fromkeys(buckets[start : start + BUCKETS_AT_ONCE], 0)
        if start:
            # Since then they may have been used.
            listed = yield from _idle(store, some, idle_ms, silent)
        listed = {bucket: listed[bucket] for bucket in some if bucket in listed}
        yield from _offload_listed(store, listed, idle_ms, who, total, silent)
    _note_silent(total, silent)
    store.count("evicted_sessions", total.sessions)
    return total


def _idle(
    store: SessionStore, passed: Mapping[int, int], idle_ms: int, silent: dict[int, LixCacheError]
) -> Flow[dict[int, list[str]]]:
    """List idle sessions of the buckets that have any, the first ones passed over."""
    asked = {b: store.hot.idle(b, idle_ms, start, SESSIONS_AT_ONCE) for b, start in passed.items()}
    replies = yield from ask_each(asked, silent)
    return {b: [sid.decode("utf-8", "replace") for sid in reply] for b, reply in replies.items() if reply}


def _offload_listed(
    store: SessionStore,
    listed: dict[int, list[str]],
    idle_ms: int,
    who: str | None,
    total: Moved,
    silent: dict[int, LixCacheError],
) -> Flow[None]:
    """Move the idle sessions of some buckets: those that are listed, and those after them."""
    # Busy and failed sessions stay in the list, at its start: they are passed over.
    passed = dict.fromkeys(listed, 0)
    before: dict[int, list[str]] = {}
    while listed:
        leased = yield from _leased(store, listed, who, silent)
        listed = {b: ids for b, ids in listed.items() if b in leased}
        before, passed = listed, {b: passed[b] for b in listed}
        bucket_of = {sid: b for b, ids in listed.items() for sid in ids}
        for number, group in enumerate(_groups(bucket_of, SESSIONS_AT_ONCE)):
            if number:
                # The groups before may have taken longer than a lease holds.
                theirs = dict.fromkeys(bucket_of[sid] for sid in group)
                leased = yield from _leased(store, theirs, who, silent)
                group = [sid for sid in group if bucket_of[sid] in leased]
            moved = yield from move_to_disk(store, dict.fromkeys(group, 0))
            _add_up(total, moved)
            for sid in (*moved.busy, *moved.failed):
                passed[bucket_of[sid]] += 1
        listed = yield from _idle(store, passed, idle_ms, silent)
        # What is listed again has just been used, or is no session: not now, not for ever.
        listed = {b: ids for b, ids in listed.items() if ids != before.get(b)}


def _leased(
    store: SessionStore, buckets: Iterable[int], who: str | None, silent: dict[int, LixCacheError]
) -> Flow[set[int]]:
    """Take or renew the leases of buckets; return those that are ours."""
    if who is None:
        return set(buckets)
    leases = yield from ask_each({b: store.hot.lease(b, who, LEASE_MS) for b in buckets}, silent)
    return {b for b, is_ours in leases.items() if is_ours}


def _add_up(total: Moved, moved: Moved) -> None:
    total.messages += moved.messages
    total.sessions += moved.sessions
    total.busy |= moved.busy
    total.failed.update(moved.failed)


def _note_silent(total: Moved, silent: Mapping[int, LixCacheError]) -> None:
    """Note the buckets of a node that did not answer: its sessions are moved when it does, others now."""
    total.failed.update({f"bucket {bucket}": error for bucket, error in silent.items()})


def reconcile_all_pending(store: SessionStore) -> Flow[Moved]:
    """Reconcile every session that any process wrote to during an outage.

    Raises:
        RedisUnavailable: the server does not answer. A node of a cluster keeps only its own sessions waiting.
    """
    ids: list[str] = yield DiskCall(store.cold.pending_sessions)
    moved = Moved()
    hot, is_cluster = store.hot, store.endpoint.kind == "cluster"
    silent: dict[int, LixCacheError] = {}
    if is_cluster:
        # First, side by side: a node that does not answer is waited for once, and not for each session.
        buckets = dict.fromkeys(map(hot.keys.bucket, ids))
        try:
            yield from ask_each({bucket: hot.overflowing(bucket, 1) for bucket in buckets}, silent)
        except RedisUnavailable as error:
            # Of the nodes of these sessions none answers. That says nothing of the others.
            silent = dict.fromkeys(buckets, error)
    for session_id in ids:
        bucket = hot.keys.bucket(session_id)
        if bucket in silent:
            moved.failed[session_id] = silent[bucket]
            continue
        try:
            yield from reconcile(Session(store, session_id, store.settings.window_size))
        except LixCacheError as error:
            if isinstance(error, RedisUnavailable):
                if not is_cluster:
                    raise
                silent[bucket] = error
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
                # One after the other: while a slot of a cluster moves, one of two may be done alone.
                yield RedisCall(store.hot.take_ticket(session_id))
                length = yield RedisCall(store.hot.length(session_id))
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
    cursors = dict.fromkeys(range(store.hot.keys.buckets), 0)
    while cursors:
        # Not pages by rank: a session that is used or moved meanwhile shifts the ranks
        # of the others, and one of them would be missing.
        asked = {bucket: store.hot.active_page(bucket, cursor, page) for bucket, cursor in cursors.items()}
        replies = yield from ask_each(asked)
        for _, members in replies.values():
            found.update({sid: float(score) / 1000 for sid, score in _pairs(members).items()})
        cursors = {bucket: int(cursor) for bucket, (cursor, _) in replies.items() if int(cursor)}
    return found


def _pairs(reply: Any) -> dict[str, Any]:
    """Read a list of pairs, flat or nested: servers and client versions differ."""
    flat = [x for pair in reply for x in pair] if reply and isinstance(reply[0], (list, tuple)) else reply
    keys = [key.decode("utf-8", "replace") for key in flat[0::2]]
    return dict(zip(keys, flat[1::2], strict=True))


def _groups(items: Iterable[str], size: int) -> Iterable[list[str]]:
    listed = list(items)
    return (listed[i : i + size] for i in range(0, len(listed), size))
