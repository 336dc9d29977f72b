"""Adding messages: to Redis, or to the archive where Redis cannot take them."""

from __future__ import annotations

import secrets
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING

from lix_cache.effects import DiskCall, Flow, RedisCall
from lix_cache.errors import ArchiveError, InvalidMessage, LixCacheError, RedisUnavailable, told
from lix_cache.hot.replies import Added, Gap
from lix_cache.hot.window import HotWindow
from lix_cache.messages.keyed import nonce_of, tag_of
from lix_cache.messages.turn import MessageId, Turn, with_id
from lix_cache.session.append import Moment, add_hot, revived_locked
from lix_cache.session.base import LATE_BATCHES, Session, hot_length, note_failure, session_lock
from lix_cache.session.batch import AddResult, Batch
from lix_cache.session.health import before_add
from lix_cache.session.offload import move_to_disk
from lix_cache.session.reconcile import reconcile_pending

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lix_cache.archive.cold_tier import ColdTier

__all__ = ["SALT", "add", "add_keyed"]

SALT = "salt of message keys"

#: So many messages of a session are remembered while it is not known whether Redis has lost them.
_MOST_DOUBTED = 10_000


def add_keyed(session: Session, turns: Sequence[Turn], keys: Sequence[str]) -> Flow[AddResult]:
    """Add messages by keys: those that were added before are not added again.

    Raises:
        KeyReused: a key stands for another message; nothing was added.
    """
    tags = tuple(map(tag_of, keys, turns))
    store = session.store
    try:
        if not store.salt:
            store.salt = yield DiskCall(partial(_salt, store.cold), waits=True)
    except ArchiveError as error:
        # A disk that refuses must not keep messages out. What Redis knows of the keys is enough
        # while it is there; the nonces are for the disk.
        store.last_error = told(error)
        return (yield from add(session, *turns, tags=tags))
    named = [
        Turn(turn.id, turn.body, turn.vector, nonce_of(tag, session.id, store.salt))
        for turn, tag in zip(turns, tags, strict=True)
    ]
    return (yield from add(session, *named, tags=tags))


def _salt(cold: ColdTier) -> bytes:
    """Return random bytes that all processes of a store share, made once.

    What is derived from a caller's own words with them cannot be foreseen outside.
    """
    noted = cold.setting(SALT) or cold.note_setting(SALT, secrets.token_hex(32))
    return noted.encode()[:64]


def add(session: Session, *turns: Turn, tags: tuple[bytes, ...] = ()) -> Flow[AddResult]:
    """Add messages that have no ids yet, all or none: to Redis, or to the archive if the policy says so."""
    store, batch = session.store, Batch(turns, tags)
    if not turns:
        length = yield from hot_length(session)
        return AddResult(min(length, session.window), added=0)
    yield from before_add(store)
    before = session.seen.expected
    sent = Moment.now(store.clock)
    gap = Gap.REFUSE
    try:
        try:
            yield from reconcile_pending(session)
        except (ArchiveError, InvalidMessage) as error:
            # The message matters more than the tidying, which is tried again.
            note_failure(store, error)
            gap = Gap.FILL
        added = yield from add_hot(session, batch, sent, gap)
    except RedisUnavailable as error:
        if error.maybe_done:
            for nonce in (*batch.nonces, *batch.anew.values()):
                session.seen.leave_unsettled(nonce)
        if store.settings.on_redis_error == "raise" or sent.is_long_ago(store.clock):
            raise
        return (yield from _add_cold(session, batch, contested=error.maybe_done))
    if added.turns:
        batch = Batch(added.turns, batch.tags)
    if store.settings.durability == "redis" or _has_replica(session, added):
        _entrust(session, batch, added)
    else:
        yield from _persist(session, batch, added, before)
    count = len(added.new)
    batches = session.grown_by(added.length, store.hot.batch, count)
    if batches >= LATE_BATCHES:
        yield from _spill_late(session)
    in_window = session.window if batches else min(added.length, session.window)
    # Redis may know a key by the id of a copy that came late.
    ids = tuple(map(session.seen.now_under, added.ids)) if added.known else added.ids
    return AddResult(in_window, overflows=batches > 0, ids=ids, added=count)


def _entrust(session: Session, batch: Batch, added: Added) -> None:
    """Note what Redis alone has: of so many messages as the window holds. Those before them are on disk."""
    entrusted, is_doubted = session.seen.entrusted, session.seen.doubted is not None
    for i, turn in enumerate(batch.turns):
        if turn.nonce is not None and i not in added.known:
            entrusted.note(added.ids[i], turn.nonce)
    # What is in doubt has perhaps gone with the window that it was in.
    entrusted.keep(_MOST_DOUBTED if is_doubted else added.length)


def _has_replica(session: Session, added: Added) -> bool:
    """Whether a replica is known to have messages, so that they need not be on disk yet."""
    store = session.store
    if store.settings.durability != "replica":
        return False
    if added.known or added.repeated:
        # What an earlier command wrote may have been written over another connection.
        return False
    if added.replicas is None:
        # They were found, and no replica was waited for.
        return False
    if added.replicas:
        return True
    # It was asked for, and for a moment it is not waited for so long.
    store.count("unreplicated_adds")
    store.breaker_of(session.id).replicas.trip()
    return False


def _add_cold(session: Session, batch: Batch, *, contested: bool) -> Flow[AddResult]:
    """Keep messages that Redis could not take.

    Those with keys may have been sent by an earlier call, so each is looked for, and Redis may hold it.
    """
    store, cold = session.store, session.store.cold
    store.count("archived_adds", len(batch.turns))
    lock = yield from session_lock(session)
    try:
        # From here on get_context must look on disk too, so the note comes first.
        store.outage_sessions.add(session.id)
        if batch.tags:
            batch = yield from revived_locked(session, batch)
        given: list[MessageId]
        given, added = yield DiskCall(
            partial(
                cold.append_outage_locked,
                session.id,
                batch.turns,
                contested=contested,
                keyed=bool(batch.tags),
                after=session.seen.newest,
            )
        )
        session.seen.saw(max(given))
        archived = yield DiskCall(partial(cold.summary, session.id, locked=True))
    finally:
        lock.release()
    return AddResult(min(int(archived.total), session.window), ids=tuple(given), added=added)


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


def _persist(session: Session, batch: Batch, added: Added, before: MessageId) -> Flow[None]:
    """Put messages on disk before they are acknowledged. If the disk refuses, take them back.

    Args:
        session: where they were added.
        batch: the messages.
        added: their ids.
        before: the newest id that was known before them.
    """
    cold = session.store.cold
    fresh = [i for i in range(len(added.ids)) if i not in added.known]
    turns = [with_id(batch.turns[i], added.ids[i]) for i in fresh]
    tags = [batch.tags[i] for i in fresh] if batch.tags else []
    try:
        lock = yield from session_lock(session)
    except LixCacheError:
        # Nor may they stay if a daemon holds the lock: only it can tell whether it has moved them.
        yield from _taken_back(session, added.new, tags, before)
        raise
    try:
        # Those with known keys too, where they are still in the window alone: the call that added them
        # may have failed. The lock keeps them there.
        known = [added.ids[i] for i in sorted(added.known)]
        if known:
            turns = [*(yield from _in_window(session, known)), *turns]
        try:
            yield DiskCall(partial(cold.append_locked, session.id, turns, contested=added.repeated))
        except LixCacheError:
            # Not acknowledged, so they must not stay: the caller will send them again. Under the lock: a
            # daemon that had read them already would put them on disk all the same.
            if (yield from _taken_back(session, added.new, tags, before)):
                raise
            # They moved to disk before we had the lock, or Redis lost them since (FLUSHALL): the disk knows.
            nonces = {turn.nonce for turn in turns if turn.nonce is not None}
            if len((yield DiskCall(partial(cold.find_nonces_locked, session.id, nonces)))) < len(nonces):
                raise
    finally:
        lock.release()


def _taken_back(
    session: Session, ids: Sequence[MessageId], tags: Sequence[bytes], before: MessageId
) -> Flow[bool]:
    """Take messages out of the window, all of them; False if one is not there."""
    if not ids:
        return True
    try:
        taken = yield RedisCall(session.store.hot.take_back(session.id, ids, tags))
    except RedisUnavailable as unavailable:
        unavailable.maybe_done = True
        raise
    if not int(taken):
        return False
    # Nor must it look as if the window had lost them.
    session.seen.expected = min(session.seen.expected, before)
    return True


def _in_window(session: Session, ids: list[MessageId]) -> Flow[list[Turn]]:
    hot = session.store.hot
    wanted = set(ids)
    pages: list[list[Turn]] = []
    after = min(ids).predecessor()
    while after < max(ids):
        reply = yield RedisCall(hot.oldest(session.id, keep=0, limit=len(ids), after=after))
        page = HotWindow.oldest_turns(reply)
        if not page.turns:
            break
        pages.append(page.turns)
        after = page.turns[-1].id
    return [turn for turn in chain.from_iterable(pages) if turn.id in wanted]
