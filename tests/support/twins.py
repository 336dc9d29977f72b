"""One suite for both variants: an async cache that is called like its sync variant."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable
from typing import Any

import lix_cache
from lix_cache.hot.clients import close_async_redis_clients as close_connections

__all__ = ["ManualClock", "Twins", "close_connections"]


class ManualClock:
    """Time that goes on only when told to. Sleeping is noted and takes none."""

    def __init__(self, now: float = 1_700_000_000.0) -> None:
        self.now = now
        self.elapsed = 0.0
        self.slept: list[float] = []

    def time(self) -> float:
        return self.now

    def monotonic(self) -> float:
        return self.elapsed

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)

    def advance(self, seconds: float) -> None:
        self.now += seconds
        self.elapsed += seconds


class Twins:
    """Makes public objects in one variant, all of them called without ``await``.

    Args:
        variant: ``sync`` or ``async``.
    """

    def __init__(self, variant: str) -> None:
        self.variant = variant
        self._loop = asyncio.new_event_loop() if variant == "async" else None

    def make(self, kind: str, *args: Any, **kwargs: Any) -> Any:
        """Return an object of the public class ``kind``, or of its async variant."""
        if self._loop is None:
            return getattr(lix_cache, kind)(*args, **kwargs)
        return _Blocking(getattr(lix_cache, f"Async{kind}")(*args, **kwargs), self)

    def run(self, value: Any) -> Any:
        """Wait for an awaitable; return anything else as it is."""
        return self._loop.run_until_complete(_finished(value)) if inspect.isawaitable(value) else value

    def close(self) -> None:
        """Close the connections of this object's loop, and the loop."""
        if self._loop is not None:
            self.run(close_connections())
            self._loop.close()


async def _finished(value: Awaitable[Any]) -> Any:
    return await value


class _Blocking:
    """Stands before an async object. Its other attributes are the object's own."""

    def __init__(self, target: Any, twins: Twins) -> None:
        self.target = target
        self._twins = twins

    def __getattr__(self, name: str) -> Any:
        value = getattr(self.target, name)
        if inspect.iscoroutinefunction(value) or name == "verify_all":
            return lambda *args, **kwargs: self._twins.run(value(*args, **kwargs))
        if type(value).__module__.startswith("lix_cache.") and type(value).__name__.startswith("Async"):
            return _Blocking(value, self._twins)
        return value
