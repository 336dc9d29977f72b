"""Threads that wait for disks and models on behalf of a flow."""

from __future__ import annotations

import asyncio
import contextlib
import os
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial, wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec

from lix_cache.compute import Failed, submit
from lix_cache.daemon import Promise, start_thread
from lix_cache.errors import ComputeTimeout

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from lix_cache.drivers.sync import T
    from lix_cache.effects import Compute

__all__ = [
    "acompute_within",
    "compute_within",
    "in_daemon_thread",
    "in_disk_thread",
    "in_thread",
    "without_stop_iteration",
]

P = ParamSpec("P")


def compute_within(effect: Compute) -> Any:
    if effect.seconds is None and not effect.may_hang:
        return effect.call()
    future = submit(lambda: without_stop_iteration(effect.call), may_hang=effect.may_hang)
    # Not result(timeout=...): on Python 3.10 its error cannot be told from one of the call's own.
    if not future.wait(effect.seconds):
        future.cancel()
        raise _late(effect)
    return _result(future, effect)


async def acompute_within(effect: Compute) -> Any:
    future = submit(lambda: without_stop_iteration(effect.call), may_hang=effect.may_hang)
    try:
        if not await future.wait_async(effect.seconds):
            raise _late(effect)
    finally:
        future.cancel()  # of no effect on one that has begun or ended
    return _result(future, effect)


def _result(future: Future[Any], effect: Compute) -> Any:
    """Return what a call that has ended returned. Nothing is caught here that could be of others."""
    error = future.exception() if effect.may_hang else None
    try:
        if isinstance(error, Exception):
            raise Failed(error)
        return future.result()
    finally:
        del error


def _late(effect: Compute) -> ComputeTimeout:
    return ComputeTimeout(f"{effect.what} did not answer within {effect.seconds:g} s")


_disk_threads: dict[str, tuple[int, ThreadPoolExecutor]] = {}


def _disk_executor(name: str) -> ThreadPoolExecutor:
    """Return the threads that wait for disks, made anew after a fork.

    Not the loop's own executor: an application that fills that one would make every
    session wait for it, with a lock held.
    """
    found = _disk_threads.get(name)
    if found is None or found[0] != os.getpid():
        found = (os.getpid(), ThreadPoolExecutor(16, thread_name_prefix=f"lix-cache-{name}"))
        _disk_threads[name] = found
    return found[1]


def without_stop_iteration(call: Callable[[], T]) -> T:
    try:
        return call()
    except StopIteration as error:
        # A future cannot carry it, and who awaits the future would wait for ever.
        raise RuntimeError("a call in a thread raised StopIteration") from error


def in_thread(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the async variant of a method of ``self.sync``: called there, in a thread.

    It has the method's signature and documentation, for type checkers too: written again, they would be
    most of a class.
    """
    name = method.__name__

    @wraps(method)
    async def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        call: Callable[[], T] = partial(getattr(self.sync, name), *args, **kwargs)
        return await in_disk_thread(call, may_wait_for_lock=True)

    return run


async def in_daemon_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Make a call that may take minutes, or hang, in a thread of its own.

    It keeps no process from its end, and takes no thread from calls of another kind. If cancelled, the call
    goes on, and what it returns is lost.
    """
    future: Promise[T] = Promise()

    def work() -> None:
        try:
            future.set_result(without_stop_iteration(lambda: call(*args, **kwargs)))
        except BaseException as error:  # noqa: BLE001 - handed to the one who waits
            future.set_exception(error)

    start_thread(work, "lix-cache-slow")
    await future.wait_async()
    return future.result()


async def in_disk_thread(
    call: Callable[[], T],
    *,
    may_wait_for_lock: bool = False,
    at_work: Callable[[Future[Any]], None] | None = None,
) -> T:
    """Run a call in a disk thread. If cancelled, wait for its end first.

    A write that goes on after its flow was told to stop could meet the next one.

    Args:
        call: takes nothing.
        may_wait_for_lock: use other threads, so that calls waiting for a session's lock
            cannot use up those that its holder needs to go on.
        at_work: is told of the thread's end to come, which this hears of only while its loop runs.
    """
    loop = asyncio.get_running_loop()  # first: without one nothing is begun
    executor = _disk_executor("lock" if may_wait_for_lock else "disk")
    work = executor.submit(without_stop_iteration, call)
    if at_work is not None:
        at_work(work)
    future = asyncio.wrap_future(work, loop=loop)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen: the cancellation is what the caller hears of
        raise
