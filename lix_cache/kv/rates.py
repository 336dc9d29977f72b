"""Is it faster to load a state or to compute it? Both are measured, as moving averages. Pure."""

from __future__ import annotations

__all__ = ["Rates"]

_WEIGHT = 0.3
#: Every so many times that computing seemed faster, loading is tried all the same: disks change.
_TRY_AGAIN = 16
#: A call over fewer tokens says more about its overhead, such as its one step, than about the rate.
_FEWEST_TOKENS = 256


class Rates:
    """Seconds for each token, of loading and of computing. None until there is a measurement."""

    def __init__(self) -> None:
        self.load: float | None = None
        self.prefill: float | None = None
        self._refused = 0

    def loaded(self, tokens: int, seconds: float) -> None:
        """Note that a state of so many tokens was loaded in so many seconds."""
        if tokens >= _FEWEST_TOKENS:
            self.load = _averaged(self.load, seconds / tokens)

    def prefilled(self, tokens: int, seconds: float) -> None:
        """Note that the state of so many tokens was computed in so many seconds."""
        if tokens >= _FEWEST_TOKENS:
            self.prefill = _averaged(self.prefill, seconds / tokens)

    def should_load(self, tokens: int, spared: int) -> bool:
        """Whether loading so many tokens is faster than computing those that it spares."""
        if self.load is None or self.prefill is None or self.load * tokens < self.prefill * spared:
            self._refused = 0
            return True
        self._refused += 1
        if self._refused < _TRY_AGAIN:
            return False
        self._refused = 0
        return True


def _averaged(before: float | None, now: float) -> float:
    return now if before is None else (1 - _WEIGHT) * before + _WEIGHT * now
