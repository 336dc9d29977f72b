"""The right to change a session, whatever the tier: a file's lock, or a note on object storage."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from types import TracebackType

    from lix_cache.clock import Clock

__all__ = ["Holder", "Lease", "holders", "let_go_of_ended", "pauses", "taken"]

T = TypeVar("T")


class Lease(Protocol):
    """The right to move, clear or delete a session, for one holder at a time among all processes."""

    @property
    def is_held(self) -> bool:
        """Whether it has not been let go."""

    def release(self) -> None:
        """Let it go; harmless if it is. Never raises, for it is called where errors would be lost."""

    def __enter__(self) -> Lease: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Holder(Protocol):
    """Who has leases and may end unheard: a flow ends with its event loop."""

    def has_ended(self) -> bool:
        """Whether it will never use its leases again, but for what a thread still does with them."""

    def let_go(self) -> None:
        """Let its leases go, or see to it that its thread does at its end."""


#: Those of this process that have leases now.
holders: set[Holder] = set()


def let_go_of_ended() -> None:
    """Let go of the leases of all that have ended. Done before any lease is tried for."""
    for holder in list(holders):
        if holder.has_ended():
            holder.let_go()


def pauses(first: float, longest: float, limit: float) -> Iterator[float]:
    """Yield how many seconds to wait before each try: none before the first one.

    They grow from ``first`` to ``longest``, each by chance up to half of itself off, and end when they
    come to more than ``limit``.
    """
    yield 0.0
    middle, waited = first, 0.0
    while waited <= limit:
        pause = middle * (0.5 + random.random())
        yield pause
        waited += pause
        middle = min(middle * 1.5, longest)


def taken(take: Callable[[], T | None], waits: Iterable[float], clock: Clock) -> T | None:
    """Try to take a lease after each wait; None if it was not to be had."""
    for wait in waits:
        if wait:
            clock.sleep(wait)
        lease = take()
        if lease is not None:
            return lease
    return None
