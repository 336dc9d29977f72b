"""What the semantic caches of one server share in this process, and how each of them asks that server.

Every cache of a server, a key prefix and a number of buckets holds the same :class:`AnswerStore`, and
nothing else holds it: with the last of these caches, its indexes and notes are gone. It mirrors what is in
Redis, so no cache can see there what its own request would not have brought. "A server" is everything
that an :class:`~lix_cache.hot.endpoint.Endpoint` says, the password included.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakValueDictionary

from lix_cache.effects import Flow, RedisBatch, RedisCall
from lix_cache.errors import RedisUnavailable
from lix_cache.semantic.deferred import Deferred
from lix_cache.semantic.index_pool import IndexPool

if TYPE_CHECKING:
    from lix_cache.hot.answers import Answers
    from lix_cache.hot.breaker import Breaker
    from lix_cache.hot.endpoint import Endpoint
    from lix_cache.hot.keys import Keys
    from lix_cache.hot.scripts import ScriptCall
    from lix_cache.semantic.stats import Stats

__all__ = ["AnswerStore", "Backend", "answer_store"]

T = TypeVar("T")


@dataclass(eq=False)
class AnswerStore:
    """What this process knows of the answers of one server.

    Attributes:
        indexes: the vectors of the scopes used last.
        deferred: notes that go with the next request to their scope, of any cache.
    """

    indexes: IndexPool = field(default_factory=IndexPool)
    deferred: Deferred = field(default_factory=Deferred)

    def renew(self) -> None:
        """In a forked child: begin anew. The parent sends its own notes."""
        self.deferred = Deferred()


_stores: WeakValueDictionary[tuple[Endpoint, Keys], AnswerStore] = WeakValueDictionary()
_lock = threading.Lock()


def answer_store(endpoint: Endpoint, keys: Keys, index_bytes: int) -> AnswerStore:
    """Return what all caches of a server share, made for the first of them.

    Args:
        endpoint: the server and its database.
        keys: the names that the caches use there.
        index_bytes: memory that the indexes of this process may take; of several limits the
            largest counts.
    """
    with _lock:
        store = _stores.get((endpoint, keys))
        if store is None:
            store = _stores[endpoint, keys] = AnswerStore()
    store.indexes.allow(index_bytes)
    return store


def _after_fork_in_child() -> None:
    # A thread of the parent may have held the lock, and is not here to let it go.
    global _lock
    _lock = threading.Lock()
    for store in list(_stores.values()):
        store.renew()


os.register_at_fork(after_in_child=_after_fork_in_child)


@dataclass
class Backend:
    """Redis, as one cache asks it.

    Attributes:
        answers: commands on scopes.
        store: what all caches of the server share.
        breaker: whether Redis was gone a moment ago; of several servers, one for each.
        miss_on_error: whether it is a miss if Redis is away, and no error.
        stats: of the cache.
    """

    answers: Answers
    store: AnswerStore
    breaker: Breaker
    miss_on_error: bool
    stats: Stats

    def with_notes(self, scope_id: str, *calls: ScriptCall) -> Flow[list[Any]]:
        """Send calls to a scope, and before them in the same round trip what waited for one."""
        notes = self.store.deferred.take(scope_id)
        if not notes:
            if len(calls) == 1:
                return [(yield RedisCall(calls[0]))]
            return list((yield RedisBatch(calls)))
        sent = (*(note.call for note in notes), *calls)
        replies = yield RedisBatch(sent, errors_as_values=True)
        for note, reply in zip(notes, replies, strict=False):
            if isinstance(reply, Exception):
                self.stats.trouble("note_errors", reply)
            elif note.then is not None:
                note.then(reply)
        asked: list[Any] = list(replies[len(notes) :])
        for reply in asked:
            if isinstance(reply, Exception):
                raise reply
        return asked

    def guarded(self, flow: Flow[T], otherwise: Callable[[str], T]) -> Flow[T]:
        """Run a flow under the policy for trouble with Redis.

        Args:
            flow: what to do.
            otherwise: makes the answer from the trouble's text, while Redis is away and
                ``on_cache_error`` is ``"miss"``.
        """
        try:
            return (yield from flow)
        except RedisUnavailable as error:
            if not self.miss_on_error:
                raise
            if error.was_asked:
                self.stats.trouble("redis_errors", error)
            self.stats.count("degraded")
            return otherwise(str(error))

    def asking(self, scope_id: str, flow: Flow[T]) -> Flow[T]:
        """Run a flow that asks for a scope, all of which is on one server.

        Raises:
            RedisUnavailable: at once where that server was away a moment ago and ``on_cache_error`` is
                ``"miss"``, so that not every call waits to find out.
        """
        if not self.miss_on_error:
            return (yield from flow)
        breaker = self.breaker.of(self.answers.place(scope_id))
        if breaker.is_open:
            raise RedisUnavailable("Redis was away a moment ago", was_asked=False)
        try:
            return (yield from flow)
        except RedisUnavailable as error:
            breaker.met(error)
            raise
