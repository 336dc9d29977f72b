"""Make a failing schedule smaller. Pure: who runs it is a function that is passed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TypeVar

from _chaos_schedule import Schedule, pruned

__all__ = ["minimized", "shrink"]

T = TypeVar("T")


def minimized(items: Sequence[T], fails: Callable[[list[T]], bool]) -> list[T]:
    """Return a part of ``items`` that still fails and of which nothing can be left out (ddmin).

    Args:
        items: known to fail.
        fails: whether a part of them, in the same order, fails too.
    """
    kept = list(items)
    if kept and fails([]):
        return []
    pieces = 2
    while len(kept) > 1:
        size = -(-len(kept) // pieces)
        parts = [kept[start : start + size] for start in range(0, len(kept), size)]
        for number in range(len(parts)):
            rest = [item for other, part in enumerate(parts) if other != number for item in part]
            if fails(rest):
                kept, pieces = rest, max(2, pieces - 1)
                break
        else:
            if size == 1:
                break
            pieces = min(len(kept), pieces * 2)
    return kept


def shrink(schedule: Schedule, fails: Callable[[Schedule], bool]) -> Schedule:
    """Return a smaller schedule that fails as well: fewer events, fewer workers, less time.

    Args:
        schedule: known to fail.
        fails: whether a smaller one does. Where timing decides, it tries more than once;
            it may answer no for good, to end the search.
    """
    best = schedule

    def attempt(smaller: Schedule) -> bool:
        nonlocal best
        if not smaller.workers or smaller == best or not fails(smaller):
            return False
        best = smaller
        return True

    def without_events() -> None:
        # With the time that they needed: what is left is tried the sooner.
        minimized(best.events, lambda events: attempt(pruned(replace(best, events=tuple(events)))))

    without_events()
    for worker in reversed(best.workers):
        fewer = tuple(w for w in best.workers if w.number != worker.number)
        if fewer:
            attempt(pruned(replace(best, workers=fewer)))
    without_events()
    for worker in best.workers:
        if worker.tasks > 1 or worker.clock:
            plainer = replace(worker, tasks=1, clock=0.0)
            attempt(replace(best, workers=tuple(plainer if w == worker else w for w in best.workers)))
    return best
