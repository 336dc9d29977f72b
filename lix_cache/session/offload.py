"""Moving messages from Redis to disk: read the oldest, append, sync, trim."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache.effects import DiskCall, Flow, LockCall, RedisBatch, Sleep
from lix_cache.errors import (
    ArchiveBusy,
    ArchiveCorrupt,
    ArchiveError,
    InvalidMessage,
    LixCacheError,
    RedisUnavailable,
)
from lix_cache.hot.replies import Page
from lix_cache.hot.window import BYTES_AT_ONCE, HotWindow
from lix_cache.messages.session_key import named
from lix_cache.messages.turn import ZERO_ID, MessageId
from lix_cache.session.base import note_archive

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Mapping, Sequence

    from lix_cache.archive.lease import Lease
    from lix_cache.hot.scripts import Command
    from lix_cache.session.store import SessionStore

__all__ = ["Moved", "move_locked", "move_to_disk"]


#: Messages read from a window at a time when it moves to disk. BYTES_AT_ONCE bounds what is read from all
#: windows that move together: for the server, the client and the frame.
CHUNK = 500


#: After decoding so many sessions a daemon lets the other threads of its process go on. Otherwise they
#: would wait for all of them. A sleep of 0 hands nothing over.
BREATH = 8


BREATH_SECONDS = 0.00002


#: How often a window is read again that others changed while it was moved to disk.
MOVES_AGAIN = 8


@dataclass
class Moved:
    """What a move to disk did.

    Attributes:
        messages: how many left Redis.
        sessions: sessions of which all that should have left did.
        busy: those whose lock was held elsewhere.
        failed: sessions that could not be moved, and why; their messages are still hot.
        held: those of them that another process holds, of a tier that says so when it is written to.
    """

    messages: int = 0
    sessions: int = 0
    busy: set[str] = field(default_factory=set)
    failed: dict[str, LixCacheError] = field(default_factory=dict)
    held: set[str] = field(default_factory=set)

    def raise_failure(self) -> None:
        """Raise the first failure, if there is one."""
        for error in self.failed.values():
            raise error


def move_to_disk(store: SessionStore, keep: Mapping[str, int]) -> Flow[Moved]:
    """Move the oldest messages of several sessions to disk, all but the newest so many.

    Sessions whose lock is held are left for the next time.

    Args:
        store: the tiers.
        keep: for each session how many messages stay hot; 0 moves the session.
    """
    cold = store.cold
    locks: dict[Hashable, Lease] = {}
    mine: dict[str, int] = {}
    failed: dict[str, LixCacheError] = {}
    try:
        for session_id, count in keep.items():
            key = cold.lock_key(session_id)
            if key not in locks:
                try:
                    lock = yield LockCall(partial(cold.try_lock, session_id, to_append=True))
                except ArchiveError as error:
                    store.archive_state.fails(error)
                    failed[session_id] = error
                    continue
                if lock is None:
                    continue
                locks[key] = lock
            mine[session_id] = count
        moved = yield from move_locked(store, mine)
    finally:
        for lock in locks.values():
            lock.release()
    for sid in moved.held:
        del moved.failed[sid]
    moved.busy = (keep.keys() - mine.keys() - failed.keys()) | moved.held
    moved.failed.update(failed)
    return moved


def move_locked(store: SessionStore, keep: Mapping[str, int]) -> Flow[Moved]:
    """Read the oldest, append to the archive (synced), then trim: in that order.

    Stopped after any step and run again: what was read is still there; what was appended is
    recognised by its id and only trimmed. The lock keeps a deletion from happening in the
    middle and being undone. It does not keep out what was sent by others and is carried out late,
    nor the taking back of a message: where the window begins with another message than was read,
    the trim does nothing, and the window is read again. One session's failure does not keep the
    others from moving.
    """
    moved = Moved()
    todo = dict(keep)
    # Sessions with a message that is larger than their share. Each is read by itself.
    large: dict[str, int] = {}
    refused: Counter[str] = Counter()
    while todo or large:
        if not todo:
            todo = dict([large.popitem()])
        room, at_least = BYTES_AT_ONCE // len(todo), int(len(todo) == 1)
        reads = tuple(
            store.hot.oldest(sid, keep=count, limit=CHUNK, max_bytes=room, at_least=at_least)
            for sid, count in todo.items()
        )
        replies = yield RedisBatch(reads, errors_as_values=True)
        found = yield from _readable(todo, replies, moved)
        large.update({sid: keep[sid] for sid, one in found.items() if one.has_more and not one.turns})
        found = {sid: oldest for sid, oldest in found.items() if sid not in large}
        batch = {sid: oldest.turns for sid, oldest in found.items() if oldest.turns}
        contested = {sid: oldest.contested for sid, oldest in found.items() if oldest.contested}
        written: dict[str, int | LixCacheError] = yield DiskCall(
            partial(store.cold.append_many_locked, batch, contested)
        )
        moved.failed.update({sid: r for sid, r in written.items() if isinstance(r, LixCacheError)})
        moved.held.update(sid for sid, r in written.items() if isinstance(r, ArchiveBusy))
        note_archive(store, written.values())
        found = {sid: oldest for sid, oldest in found.items() if sid not in moved.failed}
        trimmed = yield from _trimmed(store, found, keep, moved)
        refused.update(found.keys() - trimmed.keys() - moved.failed.keys())
        moved.failed.update({sid: _keeps_changing(sid) for sid, n in refused.items() if n > MOVES_AGAIN})
        gone = sum(trimmed.values())
        store.count("spilled_messages", gone)
        moved.messages += gone
        todo = {
            sid: keep[sid]
            for sid, oldest in found.items()
            if sid not in moved.failed and (oldest.has_more or sid not in trimmed)
        }
    moved.sessions = len(keep) - len(moved.failed)
    # One that another process holds has not failed: it is busy.
    if len(moved.failed) > len(moved.held):
        store.count("spill_failures", len(moved.failed) - len(moved.held))
    return moved


def _trimmed(
    store: SessionStore, found: Mapping[str, Page], keep: Mapping[str, int], moved: Moved
) -> Flow[dict[str, int]]:
    """Forget what the archive has. Returns of how many messages; not those whose window is another by now."""
    newest: dict[str, MessageId | LixCacheError] = yield DiskCall(partial(_newest_ids, store, list(found)))
    trims: dict[str, Command] = {}
    for sid, known in newest.items():
        if isinstance(known, LixCacheError):
            moved.failed[sid] = known
        else:
            trims[sid] = store.hot.trim(sid, found[sid].turns, known, keep[sid])
    replies = (yield RedisBatch(tuple(trims.values()), errors_as_values=True)) if trims else ()
    trimmed = {}
    _raise_if_all(replies)
    for sid, reply in zip(trims, replies, strict=True):
        if isinstance(reply, LixCacheError):
            moved.failed[sid] = reply
        elif int(reply) >= 0:
            trimmed[sid] = len(found[sid].turns)
    return trimmed


def _keeps_changing(session_id: str) -> ArchiveBusy:
    return ArchiveBusy(
        f"the window of session {named(session_id)} changed each time it was about to leave Redis; what was "
        "read is archived and still hot. Try again"
    )


def _raise_if_all(replies: Sequence[Any]) -> None:
    """Raise where no server answers. One of several that does not fails its own sessions only."""
    if replies and all(isinstance(reply, RedisUnavailable) for reply in replies):
        raise replies[0]


def _readable(ids: Iterable[str], replies: Sequence[Any], moved: Moved) -> Flow[dict[str, Page]]:
    """Decode what windows hold; what cannot be decoded fails its own session only."""
    found: dict[str, Page] = {}
    _raise_if_all(replies)
    for number, (sid, reply) in enumerate(zip(ids, replies, strict=True), 1):
        if number % BREATH == 0:
            yield Sleep(BREATH_SECONDS)
        if isinstance(reply, LixCacheError):
            # Of a node of a cluster that is away: the sessions of the others move.
            moved.failed[sid] = reply
            continue
        try:
            found[sid] = HotWindow.oldest_turns(reply)
        except InvalidMessage as error:
            moved.failed[sid] = error
    return found


def _newest_ids(store: SessionStore, session_ids: Iterable[str]) -> dict[str, MessageId | LixCacheError]:
    found: dict[str, MessageId | LixCacheError] = {}
    for session_id in session_ids:
        try:
            found[session_id] = store.cold.summary(session_id, locked=True).newest
        except ArchiveCorrupt:
            # Counted and logged there. Nothing of it can be read, so nothing can collide.
            found[session_id] = ZERO_ID
        except ArchiveError as error:
            found[session_id] = error
    return found
