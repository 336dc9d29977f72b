"""Whether all processes of a store spread its sessions over the same buckets. See lix_cache.effects.

Under another ``redis_buckets`` a session's window has another name: what was acknowledged would not
be found, and what is added would stand beside it. So the number is noted in Redis, where the windows
are, and in the archive, which remembers it when Redis loses its memory. A process compares at its
first use of a store, and its daemon at each round.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.drivers.aio import AsyncDriver
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import DiskCall, Flow, RedisBatch, RedisCall
from lix_cache.errors import ArchiveError, LayoutMismatch, RedisError, RedisUnavailable
from lix_cache.hot.layout import claim_buckets, noted_archive, noted_buckets, put_buckets
from lix_cache.session.identity import agree_on_archive

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from lix_cache.session.store import SessionStore

__all__ = ["AsyncStoreDriver", "Layout", "StoreDriver", "agree", "is_of_other_prefixes", "note_anew"]

T = TypeVar("T")

#: So long an archive that did not answer is not asked again by uses: each would wait for it. A daemon asks.
_ASK_AGAIN_SECONDS = 30.0


@dataclass
class Layout:
    """What this process knows of how a store is laid out.

    Attributes:
        in_redis: it has found its number of buckets noted there.
        in_archive: and there.
        ask_again: by the monotonic clock, when the archive, which failed, is to be compared; None: it was.
        meets_old: the server can be asked for keys of the old package, as far as is known.
    """

    in_redis: bool = False
    in_archive: bool = False
    ask_again: float | None = None
    meets_old: bool = True
    #: What Redis said of the archive when that was last found to be ours.
    archive: bytes | str | None = None


class StoreDriver(SyncDriver):
    """Runs flows on a store whose layout is ours.

    Args:
        store: the tiers.
        notes: note the layout where there is no note; else only look.
    """

    def __init__(self, store: SessionStore, *, notes: bool = True) -> None:
        super().__init__(store.endpoint, store.clock)
        self._store, self._notes = store, notes

    def __call__(self, flow: Flow[T]) -> T:
        return super().__call__(_agreed(self._store, flow, self._notes))

    def unchecked(self, flow: Flow[T]) -> T:
        """Run a flow whatever the layout is."""
        return super().__call__(flow)


class AsyncStoreDriver(AsyncDriver):
    """The async variant of :class:`StoreDriver`."""

    def __init__(self, store: SessionStore, *, notes: bool = True) -> None:
        super().__init__(store.endpoint)
        self._store, self._notes = store, notes

    def __call__(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        return super().__call__(_agreed(self._store, flow, self._notes))

    def unchecked(self, flow: Flow[T]) -> Coroutine[Any, Any, T]:
        """Run a flow whatever the layout is."""
        return super().__call__(flow)


def _agreed(store: SessionStore, flow: Flow[T], notes: bool) -> Flow[T]:
    layout = store.layout
    is_due = layout.ask_again is not None and store.clock.monotonic() >= layout.ask_again
    if layout.in_redis and layout.in_archive and not is_due:
        return flow
    return _after_agreeing(store, flow, notes, is_due)


def _after_agreeing(store: SessionStore, flow: Flow[T], notes: bool, again: bool) -> Flow[T]:
    yield from agree(store, notes=notes, again=again)
    return (yield from flow)


def agree(store: SessionStore, *, notes: bool = True, again: bool = False) -> Flow[None]:
    """Compare our number of buckets with those that are noted.

    A tier that does not answer is compared at a later use: what follows meets the same trouble, and
    knows what to do about it.

    Args:
        store: the tiers.
        notes: note ours where there is no note; else only look.
        again: ask Redis also where it was asked before.

    Raises:
        LayoutMismatch: another number is noted. Nothing was changed.
        ArchiveMismatch: another archive is noted. Nothing was changed.
    """
    layout, keys, cold = store.layout, store.hot.keys, store.cold
    name = _name(store)
    # Both are looked at before either is noted: a wrong number must not get into one of them.
    answers = True
    if again and layout.ask_again is not None:
        layout.in_archive = False
    if not layout.in_archive:
        try:
            found = yield DiskCall(partial(cold.setting, name))
            layout.in_archive = _is_ours(store, found, "the archive")
        except ArchiveError:
            answers = False
    breaker = store.breaker.of(keys.layout())
    if (layout.in_redis and not again) or breaker.is_open:
        return
    try:
        found, archive = yield RedisBatch((noted_buckets(keys), noted_archive(keys)))
        in_redis = _is_ours(store, found, "Redis")
        answers = (yield from agree_on_archive(store, archive, notes=notes)) and answers
        if not in_redis and notes:
            _, found = yield RedisBatch(claim_buckets(keys))
            in_redis = _is_ours(store, found, "Redis")
    except RedisUnavailable as error:
        if store.endpoint.kind == "cluster":
            # What follows may be about another node: it would not find out, and each use would wait here.
            breaker.met(error)
        return
    except RedisError:
        return
    layout.in_redis = in_redis
    if in_redis and notes and not layout.in_archive:
        # Redis has room for one number only, so of two first processes one has failed by now. If the disk
        # refuses, work goes on: Redis is where the windows are.
        layout.in_archive = True
        try:
            call = partial(cold.note_setting, name, str(keys.buckets))
            found = yield DiskCall(call, waits=True)
            _is_ours(store, found, "the archive")
        except ArchiveError:
            answers = False
    layout.ask_again = None if answers else store.clock.monotonic() + _ASK_AGAIN_SECONDS


def note_anew(store: SessionStore) -> Flow[None]:
    """Note our number of buckets in place of another. No window may be under another number."""
    # Redis last: it is what a process asks for windows, and a stop in between is repeated.
    call = partial(store.cold.note_setting, _name(store), str(store.hot.keys.buckets), anew=True)
    yield DiskCall(call, waits=True)
    yield RedisCall(put_buckets(store.hot.keys))


def is_of_other_prefixes(store: SessionStore) -> bool:
    """Tell whether the archive is in use, and never was under our prefix. For threads: it reads."""
    try:
        return store.cold.archive_id() is not None and store.cold.setting(_name(store)) is None
    except ArchiveError:
        return False  # not known; whatever reads sessions from there meets the same trouble, and says so


def _name(store: SessionStore) -> str:
    # Two prefixes may share an archive, and each has windows of its own.
    return f"redis_buckets of {store.hot.keys.prefix}"


def _is_ours(store: SessionStore, found: bytes | str | None, where: str) -> bool:
    """Return whether our number is noted; False where there is no note."""
    if found is None:
        return False
    keys = store.hot.keys
    noted = found.decode("ascii", "replace") if isinstance(found, bytes) else found
    if noted == str(keys.buckets):
        return True
    store.layout.in_redis = store.layout.in_archive = False
    raise LayoutMismatch(
        f"redis_buckets is {keys.buckets}, but {where} notes {noted[:20]!r} for the sessions under prefix "
        f"{keys.prefix!r}: under another number their messages in Redis would not be found. Set "
        "redis_buckets to that number; or stop all processes of the store and run 'lix-cache migrate "
        f"--new-buckets' under redis_buckets={keys.buckets}"
    )
