"""Calls that wait for the disk, made side by side: it can serve several at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import TypeVar

from lix_cache.daemon import start_thread

__all__ = ["side_by_side"]

T = TypeVar("T")


def side_by_side(calls: Sequence[Callable[[], T]], helpers: int) -> list[T]:
    """Make calls in this thread and so many others; return their results when all are done.

    The threads live as long as the calls: starting them costs less than one sync, and a
    pool of them would have to be minded when a process forks or ends.

    Raises:
        BaseException: the first that came up in this thread, where what interrupts it comes up; or
            else in another. No call is begun after it, and those that had begun are waited for.
    """
    todo = iter(list(enumerate(calls)))
    results: dict[int, T] = {}
    failures: list[BaseException] = []
    # What came up in this thread: its own call's, and what interrupts it.
    here: list[BaseException] = []
    begun: list[None] = []
    ended: SimpleQueue[None] = SimpleQueue()
    seen: list[None] = []

    def work(own: bool = False) -> None:
        for number, call in todo:
            if failures or here:
                return
            try:
                results[number] = call()
            except BaseException as error:  # noqa: BLE001 - raised by who waits for all
                (here if own else failures).append(error)
                return

    def help_out() -> None:
        # It says itself that it is there: who starts it may be interrupted before it could note it.
        # First of all, so that what is not seen here sees the failure, or that nothing is left to do.
        begun.append(None)
        try:
            work()
        finally:
            ended.put(None)

    try:
        for _ in range(min(helpers, len(calls) - 1)):
            if not _started(help_out):
                break
        work(own=True)
    except BaseException as error:  # noqa: BLE001 - out of a signal handler: it may come between any two lines
        here.insert(0, error)
    finally:
        # The calls hold files: not before they end.
        while True:
            try:
                _wait(begun, ended, seen)
                break
            except BaseException as error:  # noqa: BLE001 - as above
                here.insert(0, error)
    for failure in (*here, *failures):
        raise failure
    return [results[number] for number in range(len(calls))]


def _wait(begun: Sequence[None], ended: SimpleQueue[None], seen: list[None]) -> None:
    # Not Thread.join: before CPython 3.13 one that is interrupted takes the thread for ended.
    while len(seen) < len(begun):
        # One call into C: nothing that comes out of the queue is lost.
        seen.extend(map(SimpleQueue.get, (ended,)))


def _started(work: Callable[[], None]) -> bool:
    """Start a thread; False if none is to be had, as when the interpreter is ending: fewer do the work."""
    try:
        start_thread(work, "lix-cache-sync")
    except RuntimeError:
        return False
    return True
