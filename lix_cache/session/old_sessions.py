"""Live sessions of lix-open-cache 0.1.0: moved to the archive where they are met.

Every add and read asks, in the script it runs anyway, whether the old package left messages of the
session (``hot/old_keys.py``). If so they move to disk as a window does: read the oldest, append to
the archive (synced), forget what was read; in that order, under the session's lock. Stopped after
any step and run again, what was appended is recognised and only forgotten. An old process that adds
more meanwhile, or later, makes the list grow again, and the next add or read finds it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

from lix_cache.archive.legacy import milliseconds_of, old_turn
from lix_cache.effects import DiskCall, Flow, RedisBatch, RedisCall
from lix_cache.errors import (
    ArchiveCorrupt,
    LixCacheError,
    RedisAuthError,
    RedisCommandError,
    RedisError,
    RedisUnavailable,
    told,
)
from lix_cache.hot.old_keys import OUT_OF_REACH, OldMessage
from lix_cache.hot.scripts import Command
from lix_cache.hot.spread import SCAN_AGAIN
from lix_cache.messages.turn import NONCE_BYTES, ZERO_ID, MessageId, Turn
from lix_cache.session.store import SessionStore

__all__ = ["Pass", "drop_locked", "is_left", "left", "rescue", "take_over_locked", "turns_of"]

T = TypeVar("T")

#: The daemon moves an old session that has gone unused so long that it expires within this time,
#: in milliseconds. Not before: a process of lix-open-cache that still runs may use it.
RESCUE_MS = 3 * 3_600_000
#: Steps of a scan in one round of the daemon.
_STEPS = 10

#: Messages read from an old session at a time.
CHUNK = 100
#: Ids from here on are never given by Redis, so none of its own can be in the way.
_OWN_SEQ = 1 << 46


@dataclass
class _Move:
    """What is known while one session moves.

    Attributes:
        known: what the archive holds, and what was found so far.
        last: the id given last; the next one is larger, in the order of the old list.
        moved: messages that were new to the archive.
    """

    known: set[bytes] = field(default_factory=set)
    last: MessageId = ZERO_ID
    moved: int = 0


def take_over_locked(store: SessionStore, session_id: str, offload: Callable[[], Flow[object]]) -> Flow[int]:
    """Move what the old package left of a session to the archive. Returns how many messages moved.

    Args:
        store: the tiers.
        session_id: the session, whose lock is held.
        offload: moves the session's own window to disk whole, if there is one: what is found may
            belong before its messages, and the next read brings back the newest of both.
    """
    old = store.hot.old
    move: _Move | None = None
    while found := (yield from _oldest(store, session_id)):
        if move is None:
            move = yield DiskCall(partial(_begin, store, session_id))
            yield from offload()
        kept = yield DiskCall(partial(_keep, store, session_id, found, move))
        # Last: until here a crash leaves the old session as it was.
        yield RedisCall(old.trim(session_id, kept))
    if move is None:
        return 0
    store.count("old_sessions")
    store.count("old_messages", move.moved)
    return move.moved


@dataclass(frozen=True)
class Pass:
    """How far a daemon's look for old sessions has come.

    Attributes:
        cursor: where the scan goes on; None at its end.
        found: old sessions that it has met.
    """

    cursor: int | None = 0
    found: int = 0


def rescue(store: SessionStore, done: Pass, take_over: Callable[[str], Flow[int]]) -> Flow[Pass]:
    """Go on with a look at the keys of the store, and move old sessions that are about to expire.

    A session that is not used would otherwise be lost when the old package's time to live ends.

    Args:
        store: the tiers.
        done: how far the look has come.
        take_over: what a first use does.
    """
    if not store.layout.meets_old:
        return Pass(None, done.found)
    old, cursor, found = store.hot.old, done.cursor, done.found
    for _ in range(_STEPS):
        if cursor is None:
            break
        try:
            following, keys = yield RedisCall(old.scan(cursor))
        except RedisUnavailable as error:
            if error.code != SCAN_AGAIN:
                raise
            cursor = 0
            continue
        except RedisError:
            # A user who may not scan, or a cluster: nothing to be met here.
            return Pass(None, 0)
        ids = old.session_ids(keys)
        found += len(ids)
        looks = tuple(old.life_left(session_id) for session_id in ids)
        lives = (yield RedisBatch(looks, errors_as_values=True)) if looks else []
        for session_id, left in zip(ids, lives, strict=True):
            if not isinstance(left, int) or not 0 <= left < RESCUE_MS:
                continue
            try:
                yield from take_over(session_id)
            except RedisUnavailable:
                raise
            except LixCacheError as error:
                # It keeps no other from being moved, and is met again by the next pass.
                store.count("old_session_failures")
                store.last_error = told(error)
        cursor = int(following) or None
    return Pass(cursor, found)


def drop_locked(store: SessionStore, session_id: str) -> Flow[bool]:
    """Drop what the old package left of a session. Returns whether there was anything.

    Each message only if it is still what was read: an old process may add others, however much
    later this is carried out.
    """
    old, dropped = store.hot.old, False
    while found := (yield from _oldest(store, session_id)):
        yield RedisCall(old.trim(session_id, found))
        dropped = True
    return dropped


def left(store: SessionStore, session_id: str) -> Flow[list[OldMessage]]:
    """Return what the old package left of a session, oldest first, and leave it there."""
    found: list[OldMessage] = []
    while page := (yield from _oldest(store, session_id, len(found))):
        found += page
    return found


def turns_of(
    store: SessionStore, session_id: str, found: Sequence[OldMessage], archived: Sequence[Turn]
) -> list[Turn]:
    """Return messages as they would be archived, but for those that are. For threads: it may read."""
    cold = store.cold
    move = _started(archived, cold.summary(session_id).cleared, cold.deleted_up_to(session_id))
    return _new(store, found, move)[0]


def _oldest(store: SessionStore, session_id: str, passed: int = 0) -> Flow[list[OldMessage]]:
    """Return the oldest messages that the old package left, but for so many; often there are none."""
    old = store.hot.old
    nothing: list[bytes] = []
    numbers = yield from _asked(store, session_id, old.numbers(session_id, CHUNK, passed), nothing)
    if not numbers:
        return []
    oldest_first = numbers[::-1]
    return old.messages(oldest_first, (yield RedisCall(old.read(session_id, oldest_first))))


def is_left(store: SessionStore, session_id: str) -> Flow[bool]:
    """Whether the old package left messages of a session."""
    return bool((yield from _asked(store, session_id, store.hot.old.length(session_id), 0)))


def _asked(store: SessionStore, session_id: str, command: Command, nothing: T) -> Flow[T]:
    """Ask for what the old package left of a session, where it can be asked for."""
    if not store.layout.meets_old or not store.hot.old.knows(session_id):
        return nothing
    try:
        reply: T = yield RedisCall(command)
    except (RedisAuthError, RedisCommandError) as error:
        if error.code not in OUT_OF_REACH:
            raise
        store.layout.meets_old = False
        return nothing
    return reply


def _begin(store: SessionStore, session_id: str) -> _Move:
    """Read what the archive holds.

    The old package had many messages in both places, and so has a move that was stopped.
    """
    cold = store.cold
    try:
        turns = cold.turns(session_id, locked=True)
        cleared = cold.summary(session_id, locked=True).cleared
    except ArchiveCorrupt:
        # Counted and logged there. Nothing of it can be read, so nothing can be doubled.
        turns, cleared = [], ZERO_ID
    return _started(turns, cleared, cold.deleted_up_to(session_id))


def _started(archived: Sequence[Turn], cleared: MessageId, deleted: MessageId) -> _Move:
    after_deletion = MessageId(deleted.ms + 1, 0) if deleted != ZERO_ID else ZERO_ID
    # A message that came after clear() must be in the context, and one that came after a deletion
    # must not look as if an older state of Redis had brought it back.
    return _Move({_fingerprint(turn) for turn in archived}, max(cleared, after_deletion))


def _keep(store: SessionStore, session_id: str, found: Sequence[OldMessage], move: _Move) -> list[OldMessage]:
    """Append what the archive does not have yet.

    Returns:
        What was found; without its data what could not be read.
    """
    turns, kept = _new(store, found, move)
    store.cold.append_locked(session_id, turns)
    move.moved += len(turns)
    return kept


def _new(
    store: SessionStore, found: Sequence[OldMessage], move: _Move
) -> tuple[list[Turn], list[OldMessage]]:
    """Return those that are new to the archive; and all that were found, without what cannot be read."""
    turns, kept = [], []
    for message in found:
        turn = _turn(message, move.last)
        if turn is None:
            if message.data is not None:
                store.count("old_unreadable")
            kept.append(OldMessage(message.number, None))
            continue
        kept.append(message)
        move.last = turn.id
        fingerprint = _fingerprint(turn)
        if fingerprint not in move.known:
            move.known.add(fingerprint)
            turns.append(turn)
    return turns, kept


def _turn(message: OldMessage, last: MessageId) -> Turn | None:
    """Return the message with an id and a nonce that follow from what it is; None if it cannot be read."""
    if message.data is None:
        return None
    try:
        value = json.loads(message.data)
        turn = old_turn(value, ZERO_ID)
    except (ValueError, RecursionError, ArchiveCorrupt):
        # What the old package passed over as well.
        return None
    fingerprint = _fingerprint(turn)
    ms = max(milliseconds_of(value), last.ms, 1)
    seq = _OWN_SEQ | int.from_bytes(fingerprint[:5], "big")
    # In the order of the list, also where a clock went back or a time makes no sense.
    message_id = MessageId(ms, max(seq, last.seq + 1) if ms == last.ms else seq)
    return Turn(message_id, turn.body, turn.vector, fingerprint[:NONCE_BYTES])


def _fingerprint(turn: Turn) -> bytes:
    """Return what makes a message one: all of it, its time to the microsecond included."""
    digest = hashlib.blake2b(json.dumps(turn.body, sort_keys=True).encode(), digest_size=20)
    if turn.vector is not None:
        digest.update(bytes((turn.vector.kind,)) + turn.vector.data)
    return digest.digest()
