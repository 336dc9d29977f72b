"""The daemon's rounds over all sessions of a store."""

from __future__ import annotations

import contextlib
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
from lix_cache.session.base import Session, ask
from lix_cache.session.offload import Moved, move_to_disk
from lix_cache.session.reconcile import reconcile, take_over

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

    from lix_cache.hot.breaker import Breaker
    from lix_cache.hot.scripts import Command
    from lix_cache.session.store import SessionStore

__all__ = ["reconcile_all_pending"]


#: Sessions moved to disk together: their reads and trims share a round trip each.
SESSIONS_AT_ONCE = 32

#: Of more buckets than this only one in so many is asked for idle sessions by a script.
BY_SCRIPT_OF = 16

#: How long one daemon keeps the others from looking for idle sessions too.
LEASE_MS = 30_000

#: Less than the time between two looks of one daemon, so that no other need take its turn.
CLEAN_UP_LEASE_MS = 3_300_000

#: Windows of one bucket that are looked at in one round.
_OVERFLOWING = 256
#: Sessions asked about in one round trip.
_ASKED_AT_ONCE = 500

_ALL_DONE = object()


def spill_overflow(store: SessionStore, *, buckets: Collection[int] | None = None) -> Flow[Moved]:
    """Bring windows that have grown by a batch back to their size.

    Args:
        store: the tiers.
        buckets: those to look at; None for all.
    """
    total, hot = Moved(), store.hot
    silent: dict[int, LixCacheError] = {}
    if buckets is None:
        buckets = range(hot.keys.buckets)
    replies = yield from ask_each(
        {bucket: hot.overflowing(bucket, _OVERFLOWING) for bucket in buckets}, silent
    )
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
    counts = yield from _idle_counts(store, idle_ms, silent)
    for some in _chunks(counts):
        listed = yield from _idle_and_leased(store, dict.fromkeys(some, 0), idle_ms, who, silent)
        yield from _offload_listed(store, listed, idle_ms, who, total, silent)
    _note_silent(total, silent)
    store.count("evicted_sessions", total.sessions)
    return total


def _idle_counts(store: SessionStore, idle_ms: int, silent: dict[int, LixCacheError]) -> Flow[dict[int, int]]:
    """Return for each bucket that has idle sessions how many, up to :data:`SESSIONS_AT_ONCE`.

    A script for each of many buckets is most of the time of a round that finds nothing. So the buckets are
    asked without one, by our clock: to ask a server for its own could mean to wait for one that is away. What
    is moved is listed again by its own server's clock. One that is ahead of ours would seem to have nothing
    idle: so some buckets, others at each round, are asked by the script all the same.
    """
    hot = store.hot
    buckets = by_script = range(hot.keys.buckets)
    until: int | None = None
    if len(buckets) > BY_SCRIPT_OF:
        until = int(store.clock.time() * 1000) - idle_ms
        by_script = range(store.new_nonce()[0] % BY_SCRIPT_OF, hot.keys.buckets, BY_SCRIPT_OF)
    asked = {
        b: hot.idle(b, idle_ms, 0, SESSIONS_AT_ONCE)
        if until is None or b in by_script
        else hot.used_until(b, until, SESSIONS_AT_ONCE)
        for b in buckets
    }
    replies = yield from ask_each(asked, silent)
    return {b: len(ids) for b, ids in replies.items() if ids}


def _chunks(counts: Mapping[int, int]) -> Iterable[list[int]]:
    """Group buckets whose idle sessions move together: they share the round trips."""
    chunk: list[int] = []
    room = SESSIONS_AT_ONCE
    for bucket, count in counts.items():
        if chunk and count > room:
            yield chunk
            chunk, room = [], SESSIONS_AT_ONCE
        chunk.append(bucket)
        room -= count
    if chunk:
        yield chunk


def _idle_and_leased(
    store: SessionStore,
    passed: Mapping[int, int],
    idle_ms: int,
    who: str | None,
    silent: dict[int, LixCacheError],
) -> Flow[dict[int, list[str]]]:
    """List idle sessions of the buckets whose lease is ours, the first ones passed over. One round trip."""
    hot = store.hot
    asked: dict[tuple[str, int], Command] = {}
    if who is not None:
        asked.update({("lease", b): hot.lease(b, who, LEASE_MS) for b in passed})
    asked.update({("idle", b): hot.idle(b, idle_ms, start, SESSIONS_AT_ONCE) for b, start in passed.items()})
    failed: dict[tuple[str, int], LixCacheError] = {}
    replies = yield from ask_each(asked, failed)
    silent.update({b: error for (_, b), error in failed.items()})
    return {
        b: [sid.decode("utf-8", "replace") for sid in ids]
        for b in passed
        if (ids := replies.get(("idle", b))) and (who is None or replies.get(("lease", b)))
    }


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
    while listed:
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
        before = listed
        # Of a list that was not full there was no more.
        more = {b: passed[b] for b, ids in listed.items() if len(ids) == SESSIONS_AT_ONCE}
        listed = (yield from _idle_and_leased(store, more, idle_ms, who, silent)) if more else {}
        # What is listed again has just been used, or is no session: not now, not for ever.
        listed = {b: ids for b, ids in listed.items() if ids != before[b]}


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


def tell(store: SessionStore, who: str, interval_seconds: float) -> Flow[None]:
    """Tell others, who look at the store, that a daemon does its rounds. Until three are overdue."""
    ttl_ms = max(LEASE_MS, int(3 * interval_seconds * 1000))
    # Of several servers this one may be away, and the round has done the others' work: who looks at the
    # store meets the same trouble.
    with contextlib.suppress(RedisUnavailable):
        yield from ask(store, store.hot.rounds_lease(who, ttl_ms), repeat=False)


def clean_up(
    store: SessionStore, who: str | None = None, meanwhile: Callable[[], Flow[Any]] | None = None
) -> Flow[int]:
    """Move expired archives to the trash, except those of sessions that are hot.

    One that cannot be looked at or moved, or whose lock is held, is left for the next
    time, and does not keep the others. It ends early where another process took the lease over.

    Args:
        store: the tiers.
        who: name for the lease: of many processes one looks at all the archive; None works without one.
        meanwhile: what must not wait until all is done, which takes minutes where there are millions of
            sessions: called for each :data:`SESSIONS_AT_ONCE` sessions, and between the steps of tidying.
    """

    def goes_on() -> Flow[bool]:
        if meanwhile is not None:
            yield from meanwhile()
        return (yield from _has_clean_up_lease(store, who))

    if not (yield from _has_clean_up_lease(store, who)):
        return 0
    cold, trash_days = store.cold, store.archive.trash_days
    ttl_seconds = store.archive.session_ttl_days * DAY
    seconds, microseconds = yield RedisCall(("TIME",))
    now = yield DiskCall(partial(cold.now, int(seconds) + int(microseconds) / 1e6))
    expired: list[str] = yield DiskCall(partial(cold.expired_sessions, ttl_seconds, now), waits=True)
    expire = partial(cold.expire_locked, ttl_seconds=ttl_seconds, now=now, to_trash=trash_days > 0)
    moved = 0
    away: set[Breaker] = set()
    for number, session_id in enumerate(expired):
        if number and not number % SESSIONS_AT_ONCE and not (yield from goes_on()):
            return moved
        server = store.breaker_of(session_id)
        if server in away:
            continue
        try:
            moved += yield from _expire(store, session_id, expire)
        except ArchiveError as error:
            cold.note_not_expired(session_id, error)
        except RedisUnavailable:
            if store.endpoint.kind != "cluster":
                raise
            # A node: what the others have is looked at, and nothing waits for this one again.
            away.add(server)
    # No window lives longer, so nothing older can come back.
    steps = cold.tidy(now, trash_days, int(now.earliest * 1000) - store.hot.ttl_ms)
    while (yield DiskCall(partial(next, steps, _ALL_DONE))) is not _ALL_DONE and (yield from goes_on()):
        pass
    return moved


def _expire(store: SessionStore, session_id: str, expire: Callable[[str], bool]) -> Flow[bool]:
    """Move one session to the trash, if it is not hot and no other has its lock; return whether it went."""
    lock = yield LockCall(partial(store.cold.try_lock, session_id))
    if lock is None:
        return False
    try:
        # A session with messages in Redis is alive, however old its archive. The ticket goes
        # first: what a reader is about to put back would outlive the archive it was read from.
        # One after the other: while a slot of a cluster moves, one of two may be done alone.
        yield RedisCall(store.hot.take_ticket(session_id))
        length = yield RedisCall(store.hot.length(session_id))
        if length or (yield from old_sessions.is_left(store, session_id)):
            return False
        return bool((yield DiskCall(partial(expire, session_id))))
    finally:
        lock.release()


def _has_clean_up_lease(store: SessionStore, who: str | None) -> Flow[bool]:
    """Take or renew the lease on cleaning up; return whether it is ours."""
    try:
        return who is None or bool((yield RedisCall(store.hot.clean_up_lease(who, CLEAN_UP_LEASE_MS))))
    except RedisUnavailable:
        if store.endpoint.kind != "cluster":
            raise
        # Its node alone may be away. It only keeps processes from the same work, and what all others have
        # must expire.
        return True


def hot_among(store: SessionStore, session_ids: Sequence[str]) -> Flow[set[str]]:
    """Return those of the sessions that have a window in Redis, or whose server, of several, is away."""
    hot: set[str] = set()
    for group in _groups(session_ids, _ASKED_AT_ONCE):
        lengths = tuple(store.hot.length(session_id) for session_id in group)
        replies = yield RedisBatch(lengths, errors_as_values=True)
        for session_id, reply in zip(group, replies, strict=True):
            if isinstance(reply, LixCacheError) and not isinstance(reply, RedisUnavailable):
                raise reply
            if reply:
                hot.add(session_id)
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
