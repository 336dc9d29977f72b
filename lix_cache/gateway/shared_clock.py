"""One time for all gateways of a Redis: that of its server.

A purge says up to when it holds, and answers say when they were asked for. By the clocks of two machines an
answer could outlive a purge, or none be stored for as long as they differ.
"""

from __future__ import annotations

from lix_cache.clock import Clock

__all__ = ["SharedClock"]


class SharedClock:
    """The machine's clock, set by what Redis tells; it goes on by itself while Redis is away.

    Attributes:
        own: the machine's clock.
    """

    __slots__ = ("_ahead", "own")

    def __init__(self, own: Clock) -> None:
        self.own = own
        self._ahead = 0.0

    def time(self) -> float:
        """Return Unix seconds by the clock of Redis."""
        return self.own.time() + self._ahead

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment. It never goes back."""
        return self.own.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait in the calling thread."""
        self.own.sleep(seconds)

    def learn(self, before: float, told: float) -> None:
        """Set it by a time that Redis told between a moment of the own clock and now.

        No further than is sure: clocks that agree to the length of a trip are left as they are.
        """
        self._ahead = min(max(self._ahead, told - self.own.time()), told - before)
