"""The sessions of a store by last use, page by page: hot and cold together.

Redis knows the last use of the hot sessions, in order (the activity index), and gives as many as a page
takes. Of the others the archive tells the time of the last message, in order as well (``by_last_use``).

A message is added by a use. So a session that is moved to disk keeps its place or, where it was only read
since its last message, falls back: it never jumps over the cursor to where no later page goes.
"""

from __future__ import annotations

import sys
from base64 import urlsafe_b64decode, urlsafe_b64encode
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

from lix_cache.admin import flows, moving_over
from lix_cache.admin.infos import info_of
from lix_cache.admin.results import SessionInfo, SessionPage
from lix_cache.archive.catalogue import Place
from lix_cache.checks import check_count
from lix_cache.effects import DiskCall, Flow, RedisBatch, ask_each
from lix_cache.errors import ArchiveCorrupt, ConfigError, InvalidInput
from lix_cache.hot.activity import last_use, last_used
from lix_cache.messages.session_key import in_namespace, stored_start
from lix_cache.session import rounds

if TYPE_CHECKING:
    from lix_cache.archive.facts import SessionMetadata
    from lix_cache.hot.scripts import Command
    from lix_cache.session.store import SessionStore

__all__ = ["every_session", "session_page"]

#: Sessions on a page at most.
MOST = 1000


def every_session(store: SessionStore, most: int | None, namespace: str | None) -> Flow[list[SessionInfo]]:
    """Return the sessions, hot and cold, the last used first. See StoreAdmin.sessions."""
    start = None if namespace is None else stored_start(namespace)
    hot = yield from rounds.list_hot(store)
    cold: dict[str, SessionMetadata] = yield DiskCall(
        partial(_all_cold, store, None if most is None else most + len(hot), start), waits=True
    )
    left, _ = yield from moving_over.names_left(store)
    old = yield from moving_over.old_sessions(store, left)
    used = {sid: meta.last_use for sid, meta in cold.items()} | hot
    used |= {sid: max(one.last_use, used.get(sid, 0.0)) for sid, one in old.items()}
    used = {sid: at for sid, at in used.items() if in_namespace(sid, start)}
    newest_first = sorted(used, key=lambda sid: (-used[sid], sid))[:most]
    if most is not None:
        # A hot one may have been last moved to disk long ago.
        here = [sid for sid in newest_first if sid not in cold]
        cold |= yield DiskCall(partial(_metadata_of, store, here), waits=True)
    sizes = yield from flows.window_sizes(store, (sid for sid in newest_first if sid in hot))
    infos = (
        (sid, info_of(sid, sizes.get(sid, (0, 0)), cold.get(sid), used[sid], old.get(sid)))
        for sid in newest_first
    )
    # An expired window leaves its name in the index until the next round.
    return [info for sid, info in infos if info.hot_messages or sid in cold]


def _all_cold(store: SessionStore, most: int | None, start: str | None) -> dict[str, SessionMetadata]:
    """Return what the archive has; with a limit the last used: to look at all takes long."""
    if most is None:
        return {meta.session_id: meta for meta in store.cold.all_metadata()}
    wanted = partial(in_namespace, start=start)
    found = store.cold.by_last_use(min(most, sys.maxsize), wanted=wanted)
    return {meta.session_id: meta for _, meta in found}


def session_page(
    store: SessionStore, limit: int, cursor: str | None, namespace: str | None
) -> Flow[SessionPage]:
    """Return the sessions that come after a cursor, the last used first. See StoreAdmin.session_page."""
    start = None if namespace is None else stored_start(namespace)
    count = check_count("limit", limit)
    if not 1 <= count <= MOST:
        raise ConfigError(f"limit must be from 1 to {MOST}, got {count}")
    after = None if cursor is None else _parsed(cursor)
    hot = yield from _hot_after(store, count + 1, after, start)
    # Places of hot sessions that no page can reach any more need no look at the cold ones beside them.
    last = sorted(hot, reverse=True)[count] if len(hot) > count else None
    cold = yield from _cold_after(store, count + 1, after, last, start)
    names = {one.name for one in hot}
    # One that was moved to disk meanwhile has two places, and is listed once.
    places = sorted([*hot, *(one for one in cold if one.name not in names)], reverse=True)
    page = places[:count]
    metas = {one.session_id: cold[one] for one in page if one in cold}
    here = [one.session_id for one in page if one not in cold]
    metas |= yield DiskCall(partial(_metadata_of, store, here), waits=True)
    sizes = yield from flows.window_sizes(store, (one.session_id for one in page if one in hot))
    infos = (
        info_of(name, sizes.get(name, (0, 0)), metas.get(name), one.ms / 1000, None)
        for one in page
        for name in (one.session_id,)
        # An expired window leaves its name in the index until the next round.
        if sizes.get(name, (0, 0))[0] or name in metas
    )
    more = len(places) > count
    return SessionPage(tuple(infos), _as_cursor(page[-1]) if more else None)


def _metadata_of(store: SessionStore, session_ids: list[str]) -> dict[str, SessionMetadata]:
    found: dict[str, SessionMetadata] = {}
    for one in session_ids:
        # What cannot be read is counted and logged there; its window is listed all the same.
        with suppress(ArchiveCorrupt):
            meta = store.cold.metadata(one)
            if meta is not None:
                found[one] = meta
    return found


def _as_cursor(place: Place) -> str:
    return urlsafe_b64encode(b"%d %b" % place).decode()


def _parsed(cursor: str) -> Place:
    try:
        ms, found, name = urlsafe_b64decode(cursor.encode()).partition(b" ")
        if not found or not ms.isdigit() or len(ms) > 16:
            raise ValueError
        name.decode()
        return Place(int(ms), name)
    except (AttributeError, ValueError):
        raise InvalidInput("cursor must be the cursor of an earlier page, or None") from None


def _hot_after(store: SessionStore, count: int, after: Place | None, start: str | None) -> Flow[set[Place]]:
    """Return the first hot sessions after a place; of each bucket as many as are asked for."""
    found: set[Place] = set()
    keys, latest = store.hot.keys, None if after is None else after.ms
    # Of a namespace there may be few among many.
    step = count if start is None else max(count, MOST)
    passed = dict.fromkeys(range(keys.buckets), 0)
    wanted = dict.fromkeys(passed, count)
    while passed:
        replies = yield from ask_each({b: last_used(keys, b, latest, n, step) for b, n in passed.items()})
        going = {}
        for bucket, flat in replies.items():
            pairs = zip(flat[0::2], flat[1::2], strict=True)
            places = [Place(int(float(score)), bytes(name)) for name, score in pairs]
            # Those of the cursor's millisecond come again.
            left = [one for one in places if after is None or one < after]
            left = [one for one in left if in_namespace(one.session_id, start)]
            found.update(left)
            wanted[bucket] -= len(left)
            if len(places) >= step and wanted[bucket] > 0:
                going[bucket] = passed[bucket] + len(places)
        passed = going
    return found


def _cold_after(
    store: SessionStore, count: int, after: Place | None, last: Place | None, start: str | None
) -> Flow[dict[Place, SessionMetadata]]:
    """Return the first cold sessions after a place and before another: those that Redis does not list."""
    found: dict[Place, SessionMetadata] = {}
    wanted = partial(in_namespace, start=start)
    while len(found) < count:
        # Most are cold where any is: as many as a page takes are asked for, and seldom more.
        step = min(flows.AT_ONCE, count)
        call = partial(store.cold.by_last_use, step, after=after, wanted=wanted)
        group: list[tuple[Place, SessionMetadata]] = yield DiskCall(call, waits=True)
        group = [one for one in group if last is None or one[0] > last]
        if not group:
            break
        asked: tuple[Command, ...] = tuple(last_use(store.hot.keys, meta.session_id) for _, meta in group)
        scores = yield RedisBatch(asked)
        found.update(one for one, score in zip(group, scores, strict=True) if score is None)
        after = group[-1][0]
    return found
