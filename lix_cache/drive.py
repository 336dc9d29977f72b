"""The sync and the async driver: the only two places that differ between the colours."""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import os
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.compute import submit
from lix_cache.effects import Call, Compute, DiskCall, Effect, Flow, RedisBatch, RedisCall, Sleep
from lix_cache.errors import ComputeTimeout
from lix_cache.hot.client import Endpoint, lazy_async_client, lazy_client, translate
from lix_cache.hot.scripts import Command, ScriptCall

if TYPE_CHECKING:
    import redis
    import redis.asyncio

    from lix_cache.hot.pools import AsyncPool, Pool

__all__ = ["AsyncDriver", "SyncDriver"]

T = TypeVar("T")


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
        try:
            effect = flow.send(None)
            while True:
                try:
                    result = self._perform(effect)
                except BaseException as error:  # noqa: BLE001 - the flow decides what to do with it
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

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
        except Exception as error:
            ours = translate(error, self.endpoint)
            if ours is error:
                raise
            raise ours from error

    def _one(self, call: RedisCall) -> Any:
        command = call.command
        if not _is_plain(command):
            return self.client.execute_command(*_words(command))
        answer = self._pool.ask(_packed(command), opened=call.opened)[0]
        if isinstance(answer, Exception) and _is_unknown_script(answer):
            answer = self._pool.ask(_packed(command, whole=True), opened=call.opened)[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _many(self, batch: RedisBatch) -> list[Any]:
        results = self._together(batch.commands)
        unknown = _unknown_scripts(results)
        if unknown:
            late = self._together([batch.commands[i] for i in unknown], whole=True)
            for position, result in zip(unknown, late, strict=True):
                results[position] = result
        return _checked(results, batch, self.endpoint)

    def _together(self, commands: Sequence[Command], *, whole: bool = False) -> list[Any]:
        """Send commands in one round trip; an error takes the place of its answer."""
        if not commands:
            return []
        if all(map(_is_plain, commands)):
            request = b"".join([_packed(command, whole=whole) for command in commands])
            return self._pool.ask(request, len(commands))
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            # Queueing is synchronous in both of redis-py's pipelines.
            pipe.execute_command(*_words(command, whole=whole))
        return pipe.execute(raise_on_error=False)


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
        try:
            effect = flow.send(None)
            while True:
                try:
                    result = await self._perform(effect)
                except BaseException as error:  # noqa: BLE001 - the flow decides what to do with it
                    effect = flow.throw(error)
                else:
                    effect = flow.send(result)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, DiskCall):
            if effect.quick:
                return effect.call()
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
        except Exception as error:
            ours = translate(error, self.endpoint)
            if ours is error:
                raise
            raise ours from error

    async def _one(self, call: RedisCall) -> Any:
        command = call.command
        if not _is_plain(command):
            return await self.client.execute_command(*_words(command))
        answer = (await self._pool.ask(_packed(command), opened=call.opened))[0]
        if isinstance(answer, Exception) and _is_unknown_script(answer):
            answer = (await self._pool.ask(_packed(command, whole=True), opened=call.opened))[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _many(self, batch: RedisBatch) -> list[Any]:
        results = await self._together(batch.commands)
        unknown = _unknown_scripts(results)
        if unknown:
            late = await self._together([batch.commands[i] for i in unknown], whole=True)
            for position, result in zip(unknown, late, strict=True):
                results[position] = result
        return _checked(results, batch, self.endpoint)

    async def _together(self, commands: Sequence[Command], *, whole: bool = False) -> list[Any]:
        """Send commands in one round trip; an error takes the place of its answer."""
        if not commands:
            return []
        if all(map(_is_plain, commands)):
            request = b"".join([_packed(command, whole=whole) for command in commands])
            return await self._pool.ask(request, len(commands))
        pipe = self.client.pipeline(transaction=False)
        for command in commands:
            # Queueing is synchronous in both of redis-py's pipelines.
            pipe.execute_command(*_words(command, whole=whole))
        return await pipe.execute(raise_on_error=False)


def _words(command: Command, *, whole: bool = False) -> tuple[Any, ...]:
    if not isinstance(command, ScriptCall):
        return command
    name, text = ("EVAL", command.script.source) if whole else ("EVALSHA", command.script.sha)
    return (name, text, len(command.keys), *command.keys, *command.args)


def _packed(command: Command, *, whole: bool = False) -> bytes:
    # Imported here for the sake of those who never use Redis.
    from lix_cache.hot.pools import pack

    return pack(_words(command, whole=whole))


#: Commands whose answers are wanted as the server gives them; redis-py's client changes
#: those of many others.
_PLAIN = frozenset({"GET", "HGET", "MGET", "SET", "XDEL", "XLEN", "XREVRANGE"})


def _is_plain(command: Command) -> bool:
    """Whether a command can go the short way."""
    return isinstance(command, ScriptCall) or command[0] in _PLAIN


def _is_unknown_script(result: object) -> bool:
    from redis.exceptions import NoScriptError

    return isinstance(result, NoScriptError)


def _unknown_scripts(results: list[Any]) -> list[int]:
    return [i for i, x in enumerate(results) if isinstance(x, Exception) and _is_unknown_script(x)]


def _checked(results: list[Any], batch: RedisBatch, endpoint: Endpoint) -> list[Any]:
    for i, result in enumerate(results):
        if isinstance(result, Exception):
            if not batch.errors_as_values:
                raise result
            results[i] = translate(result, endpoint)
    return results


def _compute(effect: Compute) -> Any:
    if effect.seconds is None:
        return effect.call()
    future = submit(lambda: _without_stop_iteration(effect.call), may_hang=effect.may_hang)
    # Not result(timeout=...): on Python 3.10 its error cannot be told from one of the call's own.
    done, _ = concurrent.futures.wait([future], effect.seconds)
    if not done:
        future.cancel()
        raise _late(effect)
    return future.result()


async def _compute_async(effect: Compute) -> Any:
    future = submit(lambda: _without_stop_iteration(effect.call), may_hang=effect.may_hang)
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()

    def wake(_: object) -> None:
        # The loop may have ended while the call went on; then nobody waits for it.
        with contextlib.suppress(RuntimeError):
            loop.call_soon_threadsafe(ended.set)

    future.add_done_callback(wake)
    try:
        await asyncio.wait_for(ended.wait(), effect.seconds)
    except asyncio.TimeoutError:
        raise _late(effect) from None
    finally:
        future.cancel()  # of no effect on one that has begun or ended
    return future.result()


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
