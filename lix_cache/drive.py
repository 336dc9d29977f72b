"""The sync and the async driver: the only two places that differ between the colours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.compute import Failed, submit
from lix_cache.effects import Call, Compute, DiskCall, Effect, Flow, LockCall, RedisBatch, RedisCall, Sleep
from lix_cache.errors import ComputeTimeout
from lix_cache.hot.client import Endpoint, lazy_async_client, lazy_client, translate
from lix_cache.hot.scripts import Command, ScriptCall

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from lix_cache.archive.files import FileLock
    from lix_cache.hot.pools import AsyncPool, Pool

__all__ = ["AsyncDriver", "SyncDriver"]

T = TypeVar("T")

#: So many locks are remembered before those that were let go are forgotten.
_MANY_LOCKS = 64


class SyncDriver:
    """Runs flows in the calling thread.

    Args:
        endpoint: the Redis that the flows' commands go to.
        clock: who sleeps.
    """

    def __init__(self, endpoint: Endpoint, clock: Clock = SYSTEM_CLOCK) -> None:
        self.endpoint = endpoint
        self._clock = clock

    @cached_property
    def client(self) -> redis.Redis:
        return lazy_client(self.endpoint)

    @cached_property
    def _pool(self) -> Pool:
        pool: Any = self.client.connection_pool
        return cast("Pool", pool)

    def __call__(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result."""
        locks: list[FileLock] = []
        step: Callable[[Any], Effect] = flow.send
        result: Any = None
        try:
            while True:
                effect = step(result)
                try:
                    result = self._perform(effect)
                    if type(effect) is LockCall and result is not None:
                        locks.append(result)
                        _forget_released(locks)
                    step = flow.send
                except BaseException as error:  # noqa: BLE001 - the flow decides what to do with it
                    step, result = flow.throw, error
        except StopIteration as stop:
            value: T = stop.value
            return value
        finally:
            # An exception out of a signal handler may come where the flow does not hear of
            # it. It is closed now, and not when the traceback that refers to it is let go.
            result = None
            try:
                flow.close()
            finally:
                for lock in locks:
                    lock.release()

    def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, (DiskCall, Call)):
            return effect.call()
        if isinstance(effect, Sleep):
            return self._clock.sleep(effect.seconds)
        if isinstance(effect, Compute):
            return _compute(effect)
        try:
            if isinstance(effect, RedisCall):
                return self._one(effect)
            return self._many(effect)
        except Exception as error:  # noqa: BLE001 - raised again, translated
            ours = translate(error, self.endpoint)
            try:
                if ours is error:
                    raise
                raise ours from error
            finally:
                # It refers to this frame, and through it to the connection: that would be freed
                # at the next round of the garbage collector, whenever that is.
                del ours

    def _one(self, call: RedisCall) -> Any:
        command, opened = call.command, call.opened
        answers = self._pool.ask(_packed((command,)), opened=opened)
        if type(command) is ScriptCall and not isinstance(answers[0], Exception):
            return answers[0]
        answer = self._completed((command,), answers, opened)[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _many(self, batch: RedisBatch) -> list[Any]:
        return _checked(self._together(batch.commands), batch, self.endpoint)

    def _together(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; an error takes the place of its answer."""
        if not commands:
            return []
        return self._completed(commands, self._pool.ask(_packed(commands), len(commands)))

    def _completed(
        self, commands: Sequence[Command], answers: list[Any], opened: int | None = None
    ) -> list[Any]:
        """Send once more, whole, the scripts that the server does not know yet."""
        unknown = _unknown_scripts(answers)
        if unknown:
            whole = [commands[i] for i in unknown]
            late = self._pool.ask(_packed(whole, whole=True), len(whole), opened=opened)
            for i, answer in zip(unknown, late, strict=True):
                answers[i] = answer
        return _converted(self.client, commands, answers)


class AsyncDriver:
    """Runs flows on the running event loop; files are touched in threads of its own.

    Args:
        endpoint: the Redis that the flows' commands go to.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._kept: tuple[weakref.ref[asyncio.AbstractEventLoop], redis.asyncio.Redis] | None = None

    @property
    def client(self) -> redis.asyncio.Redis:
        # Kept while the loop stays the same, because making one costs as much as a command.
        # Loop and client are read and written as one: two threads may each run a loop.
        loop, kept = asyncio.get_running_loop(), self._kept
        if kept is None or kept[0]() is not loop:
            kept = self._kept = (weakref.ref(loop), lazy_async_client(self.endpoint))
        return kept[1]

    @property
    def _pool(self) -> AsyncPool:
        pool: Any = self.client.connection_pool
        return cast("AsyncPool", pool)

    async def __call__(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result."""
        locks: list[_LoopLock] = []
        step: Callable[[Any], Effect] = flow.send
        result: Any = None
        try:
            while True:
                effect = step(result)
                try:
                    await _let_go([lock for lock in locks if not lock.is_wanted])
                    result = await self._perform(effect)
                    if type(effect) is LockCall and result is not None:
                        locks = [lock for lock in locks if lock.held]
                        locks.append(result)
                    step = flow.send
                except BaseException as error:  # noqa: BLE001 - the flow decides what to do with it
                    step, result = flow.throw, error
        except StopIteration as stop:
            value: T = stop.value
            return value
        except GeneratorExit:
            # The loop has ended, and nothing can be waited for.
            for lock in locks:
                lock.let_go()
            raise
        finally:
            result = None
            try:
                flow.close()
            finally:
                await _let_go(locks)

    async def _perform(self, effect: Effect) -> Any:
        if type(effect) is LockCall:
            return await _take(effect)
        if isinstance(effect, DiskCall):
            return await in_disk_thread(effect.call, may_wait_for_lock=effect.waits)
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, Compute):
            return await _compute_async(effect)
        if isinstance(effect, Call):
            return await effect.call()
        try:
            if isinstance(effect, RedisCall):
                return await self._one(effect)
            return await self._many(effect)
        except Exception as error:  # noqa: BLE001 - raised again, translated
            ours = translate(error, self.endpoint)
            try:
                if ours is error:
                    raise
                raise ours from error
            finally:
                # It refers to this frame, and through it to the connection: that would be freed
                # at the next round of the garbage collector, whenever that is.
                del ours

    async def _one(self, call: RedisCall) -> Any:
        command, opened = call.command, call.opened
        answers = await self._pool.ask(_packed((command,)), opened=opened)
        if type(command) is ScriptCall and not isinstance(answers[0], Exception):
            return answers[0]
        answer = (await self._completed((command,), answers, opened))[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _many(self, batch: RedisBatch) -> list[Any]:
        return _checked(await self._together(batch.commands), batch, self.endpoint)

    async def _together(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; an error takes the place of its answer."""
        if not commands:
            return []
        return await self._completed(commands, await self._pool.ask(_packed(commands), len(commands)))

    async def _completed(
        self, commands: Sequence[Command], answers: list[Any], opened: int | None = None
    ) -> list[Any]:
        """Send once more, whole, the scripts that the server does not know yet."""
        unknown = _unknown_scripts(answers)
        if unknown:
            whole = [commands[i] for i in unknown]
            late = await self._pool.ask(_packed(whole, whole=True), len(whole), opened=opened)
            for i, answer in zip(unknown, late, strict=True):
                answers[i] = answer
        return _converted(self.client, commands, answers)


class _LoopLock:
    """A lock in the hands of a flow on a loop. It is let go as it was taken: in a thread."""

    __slots__ = ("held", "is_wanted")

    def __init__(self, lock: FileLock) -> None:
        self.held: FileLock | None = lock
        self.is_wanted = True

    def release(self) -> None:
        """Have the driver let go before the next effect, or at the flow's end."""
        self.is_wanted = False

    def let_go(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            held.release()


async def _take(effect: LockCall) -> _LoopLock | None:
    taken: list[_LoopLock] = []

    def take() -> None:
        lock = effect.call()
        if lock is not None:
            taken.append(_LoopLock(lock))

    try:
        await in_disk_thread(take, may_wait_for_lock=effect.waits)
    except asyncio.CancelledError:
        # The thread has ended, and the flow never hears of the lock that it took. It is not left
        # to die with its last reference: a task that is kept keeps all that its error refers to.
        await _let_go(taken)
        raise
    return taken[0] if taken else None


async def _let_go(locks: Sequence[_LoopLock]) -> None:
    held = [lock for lock in locks if lock.held is not None]

    def let_go() -> None:
        for lock in held:
            lock.let_go()

    if held:
        await in_disk_thread(let_go)


def _words(command: Command, *, whole: bool = False) -> tuple[Any, ...]:
    if not isinstance(command, ScriptCall):
        return command
    name, text = ("EVAL", command.script.source) if whole else ("EVALSHA", command.script.sha)
    return (name, text, len(command.keys), *command.keys, *command.args)


def _packed(commands: Sequence[Command], *, whole: bool = False) -> bytes:
    pack = _packer()
    if len(commands) == 1:
        return pack(_words(commands[0], whole=whole))
    return b"".join([pack(_words(command, whole=whole)) for command in commands])


@cache
def _packer() -> Callable[[Sequence[Any]], bytes]:
    # Imported here for the sake of those who never use Redis; once, because even an import
    # that finds its module costs as much as packing some words.
    from lix_cache.hot.pools import pack

    return pack


#: Commands whose answers are wanted as the server gives them; those of many others are
#: given as redis-py's client does.
_PLAIN = frozenset({"GET", "HGET", "MGET", "SET", "XDEL", "XLEN", "XREVRANGE"})


def _converted(client: Any, commands: Sequence[Command], answers: list[Any]) -> list[Any]:
    for i, command in enumerate(commands):
        if not isinstance(command, ScriptCall) and command[0] not in _PLAIN:
            convert = client.response_callbacks.get(command[0])
            if convert is not None and not isinstance(answers[i], Exception):
                answers[i] = convert(answers[i])
    return answers


def _unknown_scripts(answers: list[Any]) -> list[int]:
    # Looked at one by one without a generator: it is done for every command.
    for answer in answers:
        if isinstance(answer, Exception):
            break
    else:
        return []
    from redis.exceptions import NoScriptError

    return [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]


def _forget_released(locks: list[FileLock]) -> None:
    # A flow that goes through a whole folder takes any number, a few at a time.
    if len(locks) > _MANY_LOCKS:
        locks[:] = [lock for lock in locks if lock.is_held]


def _checked(results: list[Any], batch: RedisBatch, endpoint: Endpoint) -> list[Any]:
    for i, result in enumerate(results):
        if isinstance(result, Exception):
            if not batch.errors_as_values:
                raise result
            results[i] = translate(result, endpoint)
    return results


def _compute(effect: Compute) -> Any:
    if effect.seconds is None and not effect.may_hang:
        return effect.call()
    future = submit(lambda: _without_stop_iteration(effect.call), may_hang=effect.may_hang)
    # Not result(timeout=...): on Python 3.10 its error cannot be told from one of the call's own.
    if not future.wait(effect.seconds):
        future.cancel()
        raise _late(effect)
    return _result(future, effect)


async def _compute_async(effect: Compute) -> Any:
    future = submit(lambda: _without_stop_iteration(effect.call), may_hang=effect.may_hang)
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


def _without_stop_iteration(call: Callable[[], T]) -> T:
    try:
        return call()
    except StopIteration as error:
        # A future cannot carry it, and who awaits the future would wait for ever.
        raise RuntimeError("a call in a thread raised StopIteration") from error


async def in_disk_thread(call: Callable[[], T], *, may_wait_for_lock: bool = False) -> T:
    """Run a call in a disk thread. If cancelled, wait for its end first.

    A write that goes on after its flow was told to stop could meet the next one.

    Args:
        call: takes nothing.
        may_wait_for_lock: use other threads, so that calls waiting for a session's lock
            cannot use up those that its holder needs to go on.
    """
    executor = _disk_executor("lock" if may_wait_for_lock else "disk")
    future = asyncio.get_running_loop().run_in_executor(executor, _without_stop_iteration, call)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        while not future.done():
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.wait([future])
        if not future.cancelled():
            future.exception()  # seen: the cancellation is what the caller hears of
        raise
