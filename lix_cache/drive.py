"""The sync and the async driver: the only two places that differ between the colours."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.effects import DiskCall, Effect, Flow, RedisBatch, RedisCall, Sleep
from lix_cache.hot.client import Endpoint, Translating, lazy_async_client, lazy_client, translate
from lix_cache.hot.scripts import Command, ScriptCall

if TYPE_CHECKING:
    import redis
    import redis.asyncio

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
        self._client: redis.Redis | None = None

    @property
    def client(self) -> redis.Redis:
        if self._client is None:
            self._client = lazy_client(self.endpoint)
        return self._client

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
        if isinstance(effect, DiskCall):
            return effect.call()
        if isinstance(effect, Sleep):
            return self._clock.sleep(effect.seconds)
        with Translating(self.endpoint):
            if isinstance(effect, RedisCall):
                return self._one(effect.command)
            return self._many(effect)

    def _one(self, command: Command) -> Any:
        try:
            return self.client.execute_command(*_words(command))
        except Exception as error:
            if not _is_unknown_script(error):
                raise
        return self.client.execute_command(*_words(command, whole=True))

    def _many(self, batch: RedisBatch) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        _queue(pipe, batch.commands)
        results = pipe.execute(raise_on_error=False)
        unknown = _unknown_scripts(results)
        if unknown:
            pipe = self.client.pipeline(transaction=False)
            _queue(pipe, [batch.commands[i] for i in unknown], whole=True)
            _merge(results, unknown, pipe.execute(raise_on_error=False))
        return _checked(results, batch, self.endpoint)


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
        with Translating(self.endpoint):
            if isinstance(effect, RedisCall):
                return await self._one(effect.command)
            return await self._many(effect)

    async def _one(self, command: Command) -> Any:
        try:
            return await self.client.execute_command(*_words(command))
        except Exception as error:
            if not _is_unknown_script(error):
                raise
        return await self.client.execute_command(*_words(command, whole=True))

    async def _many(self, batch: RedisBatch) -> list[Any]:
        pipe = self.client.pipeline(transaction=False)
        _queue(pipe, batch.commands)
        results = await pipe.execute(raise_on_error=False)
        unknown = _unknown_scripts(results)
        if unknown:
            pipe = self.client.pipeline(transaction=False)
            _queue(pipe, [batch.commands[i] for i in unknown], whole=True)
            _merge(results, unknown, await pipe.execute(raise_on_error=False))
        return _checked(results, batch, self.endpoint)


def _words(command: Command, *, whole: bool = False) -> tuple[Any, ...]:
    if not isinstance(command, ScriptCall):
        return command
    name, text = ("EVAL", command.script.source) if whole else ("EVALSHA", command.script.sha)
    return (name, text, len(command.keys), *command.keys, *command.args)


def _queue(pipe: Any, commands: Any, *, whole: bool = False) -> None:
    # Queueing is synchronous in both of redis-py's pipelines, so this serves both.
    for command in commands:
        pipe.execute_command(*_words(command, whole=whole))


def _is_unknown_script(result: object) -> bool:
    # Imported here for the sake of those who never use Redis.
    from redis.exceptions import NoScriptError

    return isinstance(result, NoScriptError)


def _unknown_scripts(results: list[Any]) -> list[int]:
    return [i for i, x in enumerate(results) if isinstance(x, Exception) and _is_unknown_script(x)]


def _merge(results: list[Any], positions: list[int], late: list[Any]) -> None:
    for position, result in zip(positions, late, strict=True):
        results[position] = result


def _checked(results: list[Any], batch: RedisBatch, endpoint: Endpoint) -> list[Any]:
    for i, result in enumerate(results):
        if isinstance(result, Exception):
            if not batch.errors_as_values:
                raise result
            results[i] = translate(result, endpoint)
    return results


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
        raise RuntimeError("a disk call raised StopIteration") from error


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
