"""A circuit breaker: one caller finds out that Redis is away, the next ones need not wait for it."""

from __future__ import annotations

from lix_cache.clock import Clock

__all__ = ["Breaker"]


class Breaker:
    """Remembers for a moment that Redis did not answer, so that not every caller waits to find out.

    Args:
        seconds: how long it stays open after a failure.
        clock: monotonic time.
    """

    def __init__(self, seconds: float, clock: Clock) -> None:
        self._seconds = seconds
        self._clock = clock
        self._open_until = float("-inf")

    @property
    def is_open(self) -> bool:
        return self._clock.monotonic() < self._open_until

    @property
    def seconds_left(self) -> float:
        """How long it stays open from now on."""
        return max(0.0, self._open_until - self._clock.monotonic())

    def trip(self) -> None:
        self._open_until = self._clock.monotonic() + self._seconds

    def reset(self) -> None:
        self._open_until = float("-inf")
