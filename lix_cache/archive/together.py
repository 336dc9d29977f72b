"""Calls that wait for the disk, made side by side: it can serve several at once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

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
    here: list[BaseException] = []

    def work(own: bool = False) -> None:
        for number, call in todo:
            if failures or here:
                return
            try:
                results[number] = call()
            except BaseException as error:  # noqa: BLE001 - raised by who waits for all
                (here if own else failures).append(error)
                return

    threads = []
    for _ in range(min(helpers, len(calls) - 1)):
        thread = threading.Thread(target=work, name="lix-cache-sync", daemon=True)
        try:
            thread.start()
        except RuntimeError:
            # No thread to be had, as when the interpreter is ending: fewer do the work.
            break
        threads.append(thread)
    work(own=True)
    for thread in threads:
        while thread.is_alive():
            try:
                thread.join()
            except BaseException as error:  # noqa: BLE001 - the calls hold files: not before they end
                here.insert(0, error)
    for failure in (*here, *failures):
        raise failure
    return [results[number] for number in range(len(calls))]
