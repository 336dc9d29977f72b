"""What Redis has lost of what it acknowledged: counted, as far as a process can know.

A replica that takes over and a server that starts from a snapshot hold all there was up to a moment. So
before a session is used over another connection, all that this process added and that Redis alone has, as far
as it knows, is in doubt. The newest of it is looked for. Where neither tier has that one, the others are
looked for too.

That takes the session's lock, and counting is no reason to wait for it: where another holds it, the messages
stay in doubt, and are looked for at the next use, or under the lock that a reconciliation takes anyway.

A process cannot know what others had added that have ended, or that do not use the session any more. It does
not ask for messages of more than a day ago: the archive may have forgotten by what it recognises them.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from lix_cache._log import logger
from lix_cache.effects import DiskCall, Flow, LockCall
from lix_cache.errors import LixCacheError, RedisUnavailable, told
from lix_cache.messages.session_key import named
from lix_cache.session.base import Session, find_hot, look

if TYPE_CHECKING:
    from collections.abc import Mapping

    from lix_cache.archive.lease import Lease
    from lix_cache.messages.turn import MessageId

__all__ = ["count_lost"]

#: Clocks of servers and of those who archive may differ by so much.
_CLOCKS_MS = 3_600_000

#: The archive keeps nonces for a day.
_ASKED_MS = 86_400_000 - _CLOCKS_MS


def count_lost(session: Session, *, locked: bool, anew: bool = False) -> Flow[None]:
    """Count what is in doubt and neither tier has: ``lost_messages`` in the counters.

    Args:
        session: the session.
        locked: whether the caller holds its lock; if not, it is not waited for.
        anew: over another connection, so that all that was added so far is in doubt.
    """
    store, seen = session.store, session.seen
    first = seen.doubt() if anew else None
    if seen.doubted is None or store.breaker_of(session.id).is_open:
        return
    # One flow at a time, so that each message is counted once. What another is looking for stays in doubt
    # until it has found out: it may have to put that off because of the very lock that this one holds.
    flow = object()
    try:
        if seen.begin_counting(flow):
            yield from _count(session, first, locked=locked)
    finally:
        seen.end_counting(flow)


def _count(session: Session, first: MessageId | None, *, locked: bool) -> Flow[None]:
    store, seen = session.store, session.seen
    until = seen.doubted
    if until is None:
        return
    since = int(store.clock.time() * 1000) - _ASKED_MS
    asked = {
        nonce: given for nonce, given in seen.entrusted.all().items() if since < given.ms and given <= until
    }
    try:
        lost = yield from _lost(session, asked, locked=locked, is_first=until is first)
    except LixCacheError as error:
        # It is looked for again, and keeps no message out.
        store.last_error = told(error)
        if isinstance(error, RedisUnavailable) and (error.timed_out or not error.maybe_done):
            store.breaker_of(session.id).met(error)  # the use that comes next need not wait for it too
        return
    if lost is None:
        return
    if lost:
        seen.entrusted.forget({nonce: asked[nonce] for nonce in lost})
        store.count("lost_messages", len(lost))
        logger.warning(
            "Redis has lost {} acknowledged messages of {}, which only a server had that is gone; "
            'durability="replica" or "disk" prevents that',
            len(lost),
            named(session.id),
        )
    # Counted first: where nothing is in doubt, the counters are right. By identity, because another
    # connection may have put the same messages in doubt meanwhile.
    if seen.doubted is until:
        seen.doubted = None


def _lost(
    session: Session, asked: Mapping[bytes, MessageId], *, locked: bool, is_first: bool
) -> Flow[set[bytes] | None]:
    """Return the nonces of those messages that are lost; None where that cannot be told now.

    Args:
        session: the session.
        asked: what is looked for.
        locked: whether the caller holds the session's lock.
        is_first: one server has gone back at most: where the newest message is left, so are all.
    """
    if not asked:
        return set()
    newest = max(asked, key=asked.__getitem__)
    wanted = {newest: asked[newest]} if is_first else asked
    # Most are where they were: that is told without the lock.
    if len((yield from find_hot(session, wanted, min(wanted.values())))[0]) == len(wanted):
        return set()
    lock: Lease | None = None
    if not locked:
        lock = yield LockCall(partial(session.store.cold.try_lock, session.id))
        if lock is None:
            return None
    try:
        if is_first and not (yield from _in_neither_locked(session, wanted)):
            return set()
        return (yield from _in_neither_locked(session, asked))
    finally:
        if lock is not None:
            lock.release()


def _in_neither_locked(session: Session, asked: Mapping[bytes, MessageId]) -> Flow[set[bytes]]:
    """Return the nonces of those messages that neither tier has or had before they were taken out."""
    oldest = min(asked.values())
    hot, _ = yield from find_hot(session, asked, oldest)
    missing = {nonce: given for nonce, given in asked.items() if nonce not in hot}
    if not missing:
        return set()
    find = partial(
        session.store.cold.find_nonces_locked,
        session.id,
        list(missing),
        since_ms=max(0, oldest.ms - _CLOCKS_MS),
    )
    archived = yield DiskCall(find)
    yield from look(session, locked=True)
    deleted = session.seen.deleted
    return {nonce for nonce, given in missing.items() if nonce not in archived and given > deleted}
