"""Circuit breakers: one caller finds out that a server is away, the next ones need not wait for it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from lix_cache.circuit import Circuit, PlainBreaker
from lix_cache.clock import Clock
from lix_cache.errors import RedisAuthError, RedisDatabaseError, RedisUnavailable
from lix_cache.hot.probe import READS_ONLY
from lix_cache.hot.slots import nodes_for

if TYPE_CHECKING:
    from lix_cache.hot.endpoint import Endpoint

__all__ = ["Breaker", "PlainBreaker", "breaker_for", "new_breaker"]


#: Codes of errors after which the same server may serve the next command: it takes no writes, a slot is about
#: to leave it, or this user may not send this command.
_SERVES_OTHERS = READS_ONLY | {"MOVED", "ASK", "TRYAGAIN", "NOPERM"}


class Breaker(Circuit):
    """Remembers for a moment that a Redis server did not answer, so that not every caller waits to find out.

    Args:
        seconds: how long it stays open after a failure.
        clock: monotonic time.
        where: the server, of several, in words.
        servers: the breakers of all of them.

    Attributes:
        replicas: whether no replica of the server had a message a moment ago.
    """

    def __init__(
        self, seconds: float, clock: Clock, where: str = "", servers: _Servers | None = None
    ) -> None:
        super().__init__(seconds, clock)
        self.where = where
        self.replicas = PlainBreaker(seconds, clock)
        self._servers = servers

    def of(self, key: str | bytes | None) -> Breaker:  # noqa: ARG002 - there is one server
        """Return the breaker of the server that a key is on; without a key, that of all servers together."""
        return self

    def met(self, error: BaseException) -> None:
        """Open for an error that the next call would meet too: the breaker of the server that it names.

        So a breaker that was looked up before a call is right after it: of several servers the one that
        failed is shut out, also where a command was sent on, or another server has taken over meanwhile.
        """
        if not isinstance(error, (RedisUnavailable, RedisAuthError, RedisDatabaseError)):
            return
        # What was not sent says nothing new. A server that is full, or takes no writes, can be read.
        is_news = not isinstance(error, RedisUnavailable) or error.was_asked
        if is_news and error.code not in _SERVES_OTHERS:
            self._named(error.server)._trip()  # noqa: SLF001 - of its own class

    def _named(self, server: str) -> Breaker:
        return self if self._servers is None or not server else self._servers[server]


class _Servers(dict[str, Breaker]):
    """The breakers of several servers, made when they are asked for; "" is what no known server has."""

    def __init__(self, seconds: float, clock: Clock) -> None:
        super().__init__()
        self._settings = seconds, clock

    def __missing__(self, server: str) -> Breaker:
        return self.setdefault(server, Breaker(*self._settings, server, self))


class _Breakers(Breaker):
    """The breakers of several servers: while one is away, what the others have goes on.

    Itself it is that of what needs them all, and open while one of them is.
    """

    def __init__(self, endpoint: Endpoint, seconds: float, clock: Clock) -> None:
        self._each = _Servers(seconds, clock)
        super().__init__(seconds, clock, servers=self._each)
        self._nodes = nodes_for(endpoint)

    def of(self, key: str | bytes | None) -> Breaker:
        # By the owner of now: where a replica has taken over, it is asked at once.
        if key is None:
            return self
        node = self._nodes.owner(key)
        return self._each["" if node is None else node.label]

    @property
    def is_open(self) -> bool:
        return any(one.is_open for one in list(self._each.values()))

    @property
    def seconds_left(self) -> float:
        return max((one.seconds_left for one in list(self._each.values())), default=0.0)

    def _named(self, server: str) -> Breaker:
        return self._each[server]

    def reset(self) -> None:
        for one in list(self._each.values()):
            one.reset()


def new_breaker(endpoint: Endpoint, seconds: float, clock: Clock) -> Breaker:
    """Return a breaker for what is behind an endpoint."""
    return Breaker(seconds, clock) if endpoint.kind == "server" else _Breakers(endpoint, seconds, clock)


# By the clock itself, not its equals: a breaker keeps its clock, so the number is not given twice.
_breakers: WeakValueDictionary[tuple[Endpoint, float, int], Breaker] = WeakValueDictionary()
_lock = threading.Lock()


def breaker_for(endpoint: Endpoint, seconds: float, clock: Clock) -> Breaker:
    """Return the breaker that the caches of an endpoint share, as long as there is one of them.

    The sessions of a store have their own: while theirs is open they answer from the disk alone, and
    trouble of a cache is no reason for that.
    """
    with _lock:
        key = endpoint, seconds, id(clock)
        breaker = _breakers.get(key)
        if breaker is None:
            breaker = _breakers[key] = new_breaker(endpoint, seconds, clock)
        return breaker


def _after_fork_in_child() -> None:
    # A thread of the parent may have held the lock, and is not here to let it go.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
