"""The sessions of a store by last use, page by page: hot and cold together.

Redis knows the last use of the hot sessions, in order (the activity index), and gives as many as a page
takes. Of the others the archive's listing tells the time of the last message. That is one listing for each
page, and no session is read but those on the page.

A message is added by a use. So a session that is moved to disk keeps its place or, where it was only read
since its last message, falls back: it never jumps over the cursor to where no later page goes.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from lix_cache.admin import flows
from lix_cache.admin.infos import info_of
from lix_cache.admin.results import SessionPage
from lix_cache.checks import check_count
from lix_cache.effects import DiskCall, Flow, RedisBatch, ask_each
from lix_cache.errors import ConfigError, InvalidInput
from lix_cache.hot.activity import last_use, last_used
from lix_cache.messages.session_key import in_namespace, stored_start

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lix_cache.archive.facts import SessionMetadata
    from lix_cache.hot.scripts import Command
    from lix_cache.session.store import SessionStore

__all__ = ["session_page"]

#: Sessions on a page at most.
MOST = 1000


class _Place(NamedTuple):
    """Where a session stands: the larger comes first. Redis orders equal times in the same way.

    Attributes:
        ms: Unix milliseconds of its last use.
        name: its id.
    """

    ms: int
    name: bytes

    @property
    def session_id(self) -> str:
        return self.name.decode("utf-8", "replace")

    def as_cursor(self) -> str:
        return urlsafe_b64encode(b"%d %b" % self).decode()


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
    metas: dict[str, SessionMetadata] = yield DiskCall(partial(_archived, store, start), waits=True)
    # Places of hot sessions that no page can reach any more need no look at the cold ones beside them.
    last = sorted(hot, reverse=True)[count] if len(hot) > count else None
    cold = yield from _cold_after(store, metas, count + 1, after, last)
    names = {one.name for one in hot}
    # One that was moved to disk meanwhile has two places, and is listed once.
    places = sorted([*hot, *(one for one in cold if one.name not in names)], reverse=True)
    page = places[:count]
    sizes = yield from flows.window_sizes(store, (one.session_id for one in page if one in hot))
    infos = (
        info_of(name, sizes.get(name, (0, 0)), metas.get(name), one.ms / 1000, None)
        for one in page
        for name in (one.session_id,)
        # An expired window leaves its name in the index until the next round.
        if sizes.get(name, (0, 0))[0] or name in metas
    )
    more = len(places) > count
    return SessionPage(tuple(infos), page[-1].as_cursor() if more else None)


def _parsed(cursor: str) -> _Place:
    try:
        ms, found, name = urlsafe_b64decode(cursor.encode()).partition(b" ")
        if not found or not ms.isdigit() or len(ms) > 16:
            raise ValueError
        name.decode()
        return _Place(int(ms), name)
    except (AttributeError, ValueError):
        raise InvalidInput("cursor must be the cursor of an earlier page, or None") from None


def _archived(store: SessionStore, start: str | None) -> dict[str, SessionMetadata]:
    every = store.cold.all_metadata()
    return {meta.session_id: meta for meta in every if in_namespace(meta.session_id, start)}


def _hot_after(store: SessionStore, count: int, after: _Place | None, start: str | None) -> Flow[set[_Place]]:
    """Return the first hot sessions after a place; of each bucket as many as are asked for."""
    found: set[_Place] = set()
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
            places = [_Place(int(float(score)), bytes(name)) for name, score in pairs]
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
    store: SessionStore,
    metas: dict[str, SessionMetadata],
    count: int,
    after: _Place | None,
    last: _Place | None,
) -> Flow[list[_Place]]:
    """Return the first cold sessions after a place and before another: those that Redis does not list."""
    every = (_Place(round(meta.last_use * 1000), name.encode()) for name, meta in metas.items())
    rest: Iterator[_Place] = iter(
        sorted(
            (one for one in every if (after is None or one < after) and (last is None or one > last)),
            reverse=True,
        )
    )
    found: list[_Place] = []
    while len(found) < count and (group := list(islice(rest, flows.AT_ONCE))):
        asked: tuple[Command, ...] = tuple(last_use(store.hot.keys, one.session_id) for one in group)
        scores = yield RedisBatch(asked)
        found += [one for one, score in zip(group, scores, strict=True) if score is None]
    return found[:count]
