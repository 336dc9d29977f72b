"""Circuit breakers: one caller finds out that a server is away, the next ones need not wait for it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from lix_cache.clock import Clock
from lix_cache.hot.probe import READS_ONLY
from lix_cache.hot.slots import nodes_for

if TYPE_CHECKING:
    from lix_cache.errors import RedisUnavailable
    from lix_cache.hot.endpoint import Endpoint
    from lix_cache.hot.slots import Node

__all__ = ["Breaker", "breaker_for", "new_breaker"]


_CLOSED = float("-inf")


class Breaker:
    """Remembers for a moment that a server did not answer, so that not every caller waits to find out.

    Args:
        seconds: how long it stays open after a failure.
        clock: monotonic time.
        where: the server, of several, in words.
    """

    def __init__(self, seconds: float, clock: Clock, where: str = "") -> None:
        self.where = where
        self._seconds = seconds
        self._clock = clock
        self._open_until = _CLOSED

    def of(self, key: str | bytes | None) -> Breaker:  # noqa: ARG002 - there is one server
        """Return the breaker of the server that a key is on."""
        return self

    @property
    def is_open(self) -> bool:
        # Closed, as it nearly always is, no clock is asked: every command looks here.
        return self._open_until != _CLOSED and self._clock.monotonic() < self._open_until

    @property
    def seconds_left(self) -> float:
        """How long it stays open from now on."""
        return max(0.0, self._open_until - self._clock.monotonic())

    def met(self, error: RedisUnavailable) -> None:
        """Open for an error that the next call would meet too.

        A server that is full, or takes no writes, answers what is read from it.
        """
        if error.code not in READS_ONLY:
            self.trip()

    def trip(self) -> None:
        self._open_until = self._clock.monotonic() + self._seconds

    def reset(self) -> None:
        self._open_until = _CLOSED


class _Breakers(Breaker):
    """The breakers of several servers: while one is away, what the others have goes on.

    Itself it is that of what is on no known server: a command without a key, or a map that cannot be read.
    """

    def __init__(self, endpoint: Endpoint, seconds: float, clock: Clock) -> None:
        super().__init__(seconds, clock)
        self._nodes = nodes_for(endpoint)
        self._each: dict[Node, Breaker] = {}

    def of(self, key: str | bytes | None) -> Breaker:
        # By the owner of now: where a replica has taken over, it is asked at once.
        node = None if key is None else self._nodes.owner(key)
        if node is None:
            return self
        found = self._each.get(node)
        if found is None:
            made = Breaker(self._seconds, self._clock, node.endpoint.label)
            found = self._each.setdefault(node, made)
        return found


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
