"""Windows in buckets where ``redis_buckets`` does not put them: found, and moved to disk."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from lix_cache.admin.flows import OF_ONE_SESSION, find_keys, session_of, window_sizes
from lix_cache.admin.infos import told_of
from lix_cache.admin.results import Migrated
from lix_cache.effects import Flow
from lix_cache.errors import LixCacheError, RedisCommandError
from lix_cache.hot.keys import Keys, escape_pattern
from lix_cache.messages.session_key import is_stored
from lix_cache.session import offload
from lix_cache.session.base import session_lock
from lix_cache.session.layout import note_anew
from lix_cache.session.store import SeenSessions, SessionStore

__all__ = ["Stray", "migrate", "move", "size", "strays"]


class Stray(NamedTuple):
    """A session's window in a bucket that is not its own."""

    session_id: str
    bucket: int


@dataclass(frozen=True)
class _Pinned(Keys):
    """The names of keys in one bucket, whatever the session."""

    at: int = 0

    def bucket(self, session_id: str) -> int:  # noqa: ARG002 - every session is in this one
        return self.at


def strays(store: SessionStore) -> Flow[list[Stray]]:
    """Return all windows under this prefix that no process with our settings would find."""
    keys = store.hot.keys
    start = f"{keys.prefix}:{{"
    found = []
    for key in (yield from find_keys(f"{escape_pattern(start)}*}}:win:*")):
        # The prefix has no brace and a bucket is a number, so the first of these ends it.
        number, _, name = key[len(start.encode()) :].partition(b"}:win:")
        if not number.isdigit():
            continue
        stray = Stray(name.decode("utf-8", "replace"), int(number))
        if stray.session_id.encode() != name or not is_stored(stray.session_id):
            continue  # no window of ours
        if keys.bucket(stray.session_id) != stray.bucket:
            found.append(stray)
    return sorted(found)


def _as_it_was(store: SessionStore, stray: Stray) -> SessionStore:
    keys = _Pinned(store.hot.keys.prefix, stray.bucket + 1, stray.bucket)
    # What is known of a session here is not what is known of it there.
    return replace(store, hot=replace(store.hot, keys=keys), seen=SeenSessions())


def size(store: SessionStore, stray: Stray) -> Flow[int]:
    """Return how many messages the window holds."""
    sizes = yield from window_sizes(_as_it_was(store, stray), [stray.session_id])
    return sizes[stray.session_id][0]


def migrate(store: SessionStore) -> Flow[Migrated]:
    """Move all windows of other numbers of buckets to disk, and note ours. See StoreAdmin.migrate_buckets."""
    moved = messages = 0
    failed: dict[str, LixCacheError] = {}
    # Looked for again after the note: a process that had not heard of it may have added more.
    for is_noted in (False, True):
        for stray in (yield from strays(store)):
            try:
                messages += yield from move(store, stray)
                moved += 1
            except (*OF_ONE_SESSION, RedisCommandError) as error:
                failed[stray.session_id] = error
        if failed or is_noted:
            # Under our number no process would find what could not be moved.
            break
        yield from note_anew(store)
    return Migrated(moved, messages, told_of(failed))


def move(store: SessionStore, stray: Stray) -> Flow[int]:
    """Move the window to disk, as its own processes would. Returns how many messages moved."""
    there = _as_it_was(store, stray)
    lock = yield from session_lock(session_of(there, stray.session_id))
    try:
        moved = yield from offload.move_locked(there, {stray.session_id: 0})
    finally:
        lock.release()
    moved.raise_failure()
    return moved.messages
