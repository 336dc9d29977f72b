"""A circuit that is open for a moment: what breakers are made of."""

from __future__ import annotations

from lix_cache.clock import Clock

__all__ = ["Circuit", "PlainBreaker"]

_CLOSED = float("-inf")


class Circuit:
    """Is open for a moment.

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

    def _trip(self) -> None:
        self._open_until = self._clock.monotonic() + self._seconds

    def reset(self) -> None:
        self._open_until = _CLOSED


class PlainBreaker(Circuit):
    """A breaker of something else than a Redis server: its owner says when it opens."""

    def trip(self) -> None:
        self._trip()
