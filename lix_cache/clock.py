"""Time, injectable.

Everything in the library that needs the time asks a :class:`Clock`, so that a
test can set it back, stop it or run ahead without touching the machine's own.
"""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["SYSTEM_CLOCK", "Clock", "SystemClock"]


class Clock(Protocol):
    """What the library wants to know about time."""

    def time(self) -> float:
        """Return wall-clock time in Unix seconds. It may go back."""
        ...

    def monotonic(self) -> float:
        """Return seconds since an arbitrary moment. It never goes back."""
        ...

    def sleep(self, seconds: float) -> None:
        """Wait in the calling thread."""
        ...


class SystemClock:
    """The machine's clock."""

    def time(self) -> float:
        return time.time()

    def monotonic(self) -> float:
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


SYSTEM_CLOCK = SystemClock()
