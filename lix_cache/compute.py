"""Threads for calls that compute: embedders and verifiers, which may hang.

Daemon threads: a model that never answers must not keep the interpreter from ending, as
the threads of ``concurrent.futures`` would. A thread is made when all others are busy, up
to a limit; beyond it calls wait in a queue, and give up at their deadlines without having
begun. Calls that may hang have threads apart from those that end by themselves: however many
models hang, a response can still be encoded.
"""

from __future__ import annotations

import contextlib
import contextvars
import os
import queue
import threading
from collections.abc import Callable
from typing import Any, TypeVar

from lix_cache.daemon import Crew, Promise
from lix_cache.errors import ComputeTimeout

__all__ = ["Failed", "settled", "submit"]

T = TypeVar("T")

MOST_THREADS = 32


class _Pool:
    """Threads of one process. An exception out of a signal handler may end :meth:`submit` anywhere."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Promise[Any], Callable[[], Any]]] = queue.SimpleQueue()
        #: Calls that are waiting or under way. A count would be wrong for ever after an interruption.
        self._open: set[Promise[Any]] = set()
        self._crew = Crew(MOST_THREADS)

    def submit(self, call: Callable[[], Any]) -> Promise[Any]:
        future: Promise[Any] = Promise()
        # A tracer's or a logger's context goes with the call, as with asyncio.to_thread.
        context = contextvars.copy_context()
        try:
            self._open.add(future)
            self._jobs.put((future, lambda: context.run(call)))
        except BaseException:
            self._open.discard(future)
            raise
        # A thread for each, those that an interrupted call has left without one as well.
        while len(self._open) > len(self._crew):
            try:
                if not self._crew.start(self._work, "lix-cache-compute"):
                    break
            except RuntimeError as error:
                if len(self._crew):
                    break  # it waits for one of these
                self._give_up(future)
                raise ComputeTimeout("the system gives no thread to compute in; try again later") from error
        return future

    def _give_up(self, future: Promise[Any]) -> None:
        future.cancel()
        self._open.discard(future)
        with contextlib.suppress(queue.Empty):
            # Nothing looks at the queue: jobs that are given up would be kept until a thread does.
            while not len(self._crew):
                job = self._jobs.get_nowait()
                if not job[0].cancelled():
                    self._jobs.put(job)
                    break

    def _work(self) -> None:
        while True:
            future, call = self._jobs.get()
            # False if who waited for it has given up.
            if future.set_running_or_notify_cancel():
                try:
                    result = call()
                except BaseException as error:  # noqa: BLE001 - handed to the one who waits
                    future.set_exception(error)
                else:
                    future.set_result(result)
            self._open.discard(future)
            del future, call


class Failed(Exception):
    """A call of code that is not this library's own raised an error: its own, and no interruption.

    Attributes:
        error: what it raised.
    """

    def __init__(self, error: Exception) -> None:
        super().__init__(error)
        self.error = error


def settled(call: Callable[[], T]) -> T:
    """Make a call, in this thread, of code whose errors cannot be known beforehand.

    An exception out of a signal handler, such as a worker's soft time limit, may come at any line of
    it, and must not be taken for its failure: it would vanish. It comes once. So a call that failed
    is made again, and only what it raises twice is its own.

    Args:
        call: changes nothing.

    Raises:
        Failed: holds what the call raises.
    """
    failures: list[Exception] = []
    try:
        while len(failures) < 3:
            try:
                result = call()
            except Exception as error:  # noqa: BLE001 - raised below, itself or in Failed
                failures.append(error)
            else:
                if not failures:
                    return result
                break
            if len(failures) == 2 and type(failures[0]) is type(failures[1]):
                raise Failed(failures[1])
        # Of three the one that is not like the others.
        raise failures[1] if len(failures) == 3 and type(failures[0]) is type(failures[2]) else failures[0]
    finally:
        # They refer to this frame.
        failures.clear()


_pools: dict[bool, _Pool] = {}
_pool_lock = threading.Lock()


def submit(call: Callable[[], Any], *, may_hang: bool = True) -> Promise[Any]:
    """Run a call in a thread. Cancelling the future before it runs takes it back.

    Raises:
        ComputeTimeout: there is no thread, and none to be had.
    """
    with _pool_lock:
        pool = _pools.get(may_hang)
        # Threads do not survive a fork.
        if pool is None or pool.pid != os.getpid():
            pool = _pools[may_hang] = _Pool()
    return pool.submit(call)


def _after_fork_in_child() -> None:
    global _pool_lock
    _pool_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)
