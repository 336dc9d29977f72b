"""Threads for calls that compute: embedders and verifiers, which may hang.

Daemon threads: a model that never answers must not keep the interpreter from ending, as
the threads of ``concurrent.futures`` would. A thread is made when all others are busy, up
to a limit; beyond it calls wait in a queue, and give up at their deadlines without having
begun. Calls that may hang have threads apart from those that end by themselves: however many
models hang, a response can still be encoded.
"""

from __future__ import annotations

import contextvars
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["submit"]

MOST_THREADS = 32


class _Pool:
    """Threads of one process. An exception out of a signal handler may end :meth:`submit` anywhere."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._jobs: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        #: Calls that are waiting or under way. A count would be wrong for ever after an interruption.
        self._open: set[Future[Any]] = set()
        self._threads: list[threading.Thread] = []

    def submit(self, call: Callable[[], Any]) -> Future[Any]:
        future: Future[Any] = Future()
        # A tracer's or a logger's context goes with the call, as with asyncio.to_thread.
        context = contextvars.copy_context()
        try:
            self._open.add(future)
            self._jobs.put((future, lambda: context.run(call)))
        except BaseException:
            self._open.discard(future)
            raise
        with self._lock:
            # A thread for each, those that an interrupted call has left without one as well.
            while len(self._open) > (count := self._alive()) and count < MOST_THREADS:
                name = f"lix-cache-compute-{count + 1}"
                thread = threading.Thread(target=self._work, name=name, daemon=True)
                self._threads.append(thread)
                thread.start()
        return future

    def _alive(self) -> int:
        # One whose start was refused or interrupted may never live.
        self._threads = [thread for thread in self._threads if thread.is_alive()]
        return len(self._threads)

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


_pools: dict[bool, _Pool] = {}
_pool_lock = threading.Lock()


def submit(call: Callable[[], Any], *, may_hang: bool = True) -> Future[Any]:
    """Run a call in a thread. Cancelling the future before it runs takes it back."""
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
