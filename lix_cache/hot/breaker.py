"""A circuit breaker: one caller finds out that Redis is away, the next ones need not wait for it."""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING
from weakref import WeakValueDictionary

from lix_cache.clock import Clock

if TYPE_CHECKING:
    from lix_cache.hot.endpoint import Endpoint

__all__ = ["Breaker", "breaker_for"]


_CLOSED = float("-inf")


class Breaker:
    """Remembers for a moment that Redis did not answer, so that not every caller waits to find out.

    Args:
        seconds: how long it stays open after a failure.
        clock: monotonic time.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._open_until = _CLOSED

    @property
    def is_open(self) -> bool:
        # Closed, as it nearly always is, no clock is asked: every command looks here.
        return self._open_until != _CLOSED and self._clock.monotonic() < self._open_until

    @property
    def seconds_left(self) -> float:
        """How long it stays open from now on."""
        return max(0.0, self._open_until - self._clock.monotonic())

    def trip(self) -> None:
        self._open_until = self._clock.monotonic() + self._seconds

    def reset(self) -> None:
        self._open_until = _CLOSED


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
            breaker = _breakers[key] = Breaker(seconds, clock)
        return breaker


def _after_fork_in_child() -> None:
    # A thread of the parent may have held the lock, and is not here to let it go.
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
