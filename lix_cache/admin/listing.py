"""The sessions of a store by last use, page by page: hot and cold together.

Redis knows the last use of the hot sessions, in order (the activity index), and gives as many as a page
takes. Of the others the archive's listing tells when they were last appended to. That is one listing for each
page, and no session is read but those on the page.
"""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from lix_cache.admin import flows
from lix_cache.admin.results import SessionInfo, SessionPage
from lix_cache.checks import check_count
from lix_cache.effects import DiskCall, Flow, RedisBatch, RedisCall
from lix_cache.errors import ConfigError, InvalidInput
from lix_cache.hot.activity import last_use, last_used

if TYPE_CHECKING:
    from collections.abc import Iterator

    from lix_cache.archive.cold_tier import SessionMetadata
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


def session_page(store: SessionStore, limit: int, cursor: str | None) -> Flow[SessionPage]:
    """Return the sessions that come after a cursor, the last used first. See StoreAdmin.session_page."""
    count = check_count("limit", limit)
    if not 1 <= count <= MOST:
        raise ConfigError(f"limit must be from 1 to {MOST}, got {count}")
    after = None if cursor is None else _parsed(cursor)
    hot = yield from _hot_after(store, count + 1, after)
    metas: dict[str, SessionMetadata] = yield DiskCall(partial(_archived, store), waits=True)
    cold = yield from _cold_after(store, metas, count + 1, after)
    places = sorted({*hot, *cold}, reverse=True)
    page = places[:count]
    sizes = yield from flows.window_sizes(store, (one.session_id for one in page if one in hot))
    infos = (_info(one, sizes.get(one.session_id, (0, 0)), metas.get(one.session_id)) for one in page)
    # A window whose life ended leaves its name in the index until the next round.
    there = tuple(info for info in infos if info.hot_messages or info.session_id in metas)
    more = len(places) > count
    return SessionPage(there, f"{page[-1].ms} {page[-1].session_id}" if more else None)


def _parsed(cursor: str) -> _Place:
    ms, found, session_id = cursor.partition(" ") if isinstance(cursor, str) else ("", "", "")
    if not found or not (ms.isascii() and ms.isdigit()) or len(ms) > 16:
        raise InvalidInput("cursor must be the cursor of an earlier page, or None")
    return _Place(int(ms), session_id.encode("utf-8", "surrogatepass"))


def _archived(store: SessionStore) -> dict[str, SessionMetadata]:
    return {meta.session_id: meta for meta in store.cold.all_metadata()}


def _hot_after(store: SessionStore, count: int, after: _Place | None) -> Flow[set[_Place]]:
    """Return the first hot sessions after a place; of each bucket as many as are asked for."""
    found: set[_Place] = set()
    for bucket in range(store.hot.keys.buckets):
        passed, taken = 0, 0
        while taken < count:
            command = last_used(store.hot.keys, bucket, None if after is None else after.ms, passed, count)
            flat = yield RedisCall(command)
            pairs = zip(flat[0::2], flat[1::2], strict=True)
            places = [_Place(int(float(score)), bytes(name)) for name, score in pairs]
            # Those of the cursor's millisecond come again.
            left = [one for one in places if after is None or one < after]
            found.update(left)
            passed, taken = passed + len(places), taken + len(left)
            if len(places) < count:
                break
    return found


def _cold_after(
    store: SessionStore, metas: dict[str, SessionMetadata], count: int, after: _Place | None
) -> Flow[list[_Place]]:
    """Return the first cold sessions after a place: those that Redis does not list."""
    every = (_Place(int(meta.updated_at * 1000), name.encode()) for name, meta in metas.items())
    rest: Iterator[_Place] = iter(
        sorted((one for one in every if after is None or one < after), reverse=True)
    )
    found: list[_Place] = []
    while len(found) < count and (group := list(islice(rest, flows.AT_ONCE))):
        asked: tuple[Command, ...] = tuple(last_use(store.hot.keys, one.session_id) for one in group)
        scores = yield RedisBatch(asked)
        found += [one for one, score in zip(group, scores, strict=True) if score is None]
    return found[:count]


def _info(place: _Place, size: tuple[int, int], meta: SessionMetadata | None) -> SessionInfo:
    return SessionInfo(
        session_id=place.session_id,
        hot_messages=size[0],
        cold_messages=0 if meta is None else meta.num_turns,
        last_use=place.ms / 1000,
        redis_bytes=size[1],
        disk_bytes=0 if meta is None else meta.size_bytes,
    )
