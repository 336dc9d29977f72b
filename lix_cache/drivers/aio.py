"""The async driver: runs flows on an event loop. With sync.py the only place where the variants differ."""

from __future__ import annotations

import asyncio
import contextlib
import os
import weakref
from functools import wraps
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, cast

from lix_cache.archive.lease import holders
from lix_cache.drivers.commands import (
    as_answer,
    checked,
    converted,
    only,
    packed,
    unknown_scripts,
    wait_for_replica,
    with_replicas,
)
from lix_cache.drivers.routes import routes_for
from lix_cache.drivers.threads import acompute_within, in_disk_thread
from lix_cache.effects import (
    Call,
    Compute,
    DiskCall,
    Effect,
    Flow,
    LockCall,
    NodeAsk,
    NodeAsks,
    RedisBatch,
    RedisCall,
    Sleep,
)
from lix_cache.hot.clients import async_pool_for, forget_closed_loops, lazy_async_client
from lix_cache.hot.scripts import Command, ScriptCall
from lix_cache.hot.trouble import raise_translated

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from concurrent.futures import Future

    import redis
    import redis.asyncio

    from lix_cache.archive.lease import Lease
    from lix_cache.drivers.routes import Routes
    from lix_cache.drivers.sync import T
    from lix_cache.hot.endpoint import Endpoint
    from lix_cache.hot.pools import AsyncPool
    from lix_cache.hot.slots import Node

__all__ = ["AsyncDriver", "awaited"]


P = ParamSpec("P")


def awaited(
    method: Callable[Concatenate[Any, P], T],
) -> Callable[Concatenate[Any, P], Coroutine[Any, Any, T]]:
    """Return the async variant of a method that ends with one call of its object's own driver, or part.

    It is the same method: where that driver or part is the async one, what it returns is to be awaited.
    So signature, documentation and body are written once, for type checkers too.
    """

    @wraps(method)
    async def run(self: Any, /, *args: P.args, **kwargs: P.kwargs) -> T:
        found: Any = method(self, *args, **kwargs)
        result: T = await found
        return result

    return run


class AsyncDriver:
    """Runs flows on the running event loop; files are touched in threads of its own.

    Args:
        endpoint: the Redis that the flows' commands go to.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self.endpoint = endpoint
        self._routes = routes_for(endpoint)
        self._pools: tuple[weakref.ref[asyncio.AbstractEventLoop], dict[Node, AsyncPool]] | None = None
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
        hands: _Hands | None = None
        step: Callable[[Any], Effect] = flow.send
        result: Any = None
        try:
            while True:
                effect = step(result)
                try:
                    if hands is not None:
                        await hands.put_down()
                    elif type(effect) is LockCall:
                        hands = _Hands()
                    if hands is not None and isinstance(effect, DiskCall):
                        result = await hands.perform(effect)
                    else:
                        result = await self._perform(effect)
                    step = flow.send
                except BaseException as error:  # noqa: BLE001 - the flow decides what to do with it
                    step, result = flow.throw, error
        except StopIteration as stop:
            value: T = stop.value
            return value
        except GeneratorExit:
            # The loop has ended, and nothing can be waited for.
            if hands is not None:
                hands.end()
            raise
        finally:
            result = None
            try:
                flow.close()
            finally:
                if hands is not None:
                    await hands.put_down(all_of_them=True)

    async def _perform(self, effect: Effect) -> Any:
        if isinstance(effect, DiskCall):
            return await in_disk_thread(effect.call, may_wait_for_lock=effect.waits)
        if isinstance(effect, Sleep):
            return await asyncio.sleep(effect.seconds)
        if isinstance(effect, Compute):
            return await acompute_within(effect)
        if isinstance(effect, Call):
            return await effect.call()
        if isinstance(effect, NodeAsks):
            return await self._each(effect.asks)
        try:
            if isinstance(effect, RedisCall):
                return await self._one(effect)
            return await self._many(effect)
        except Exception as error:  # noqa: BLE001 - raised again, translated
            raise_translated(error, self.endpoint)

    async def _one(self, call: RedisCall) -> Any:
        command, opened = call.command, call.opened
        if self._routes is not None:
            return only(await self._at_owner(self._routes, call))
        if call.replica_ms is not None:
            return await self._replicated(command, call.replica_ms, opened)
        answers = await self._pool.ask(packed((command,)), opened=opened)
        if type(command) is ScriptCall and not isinstance(answers[0], Exception):
            return answers[0]
        answer = (await self._completed((command,), answers, opened))[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def _many(self, batch: RedisBatch) -> list[Any]:
        return checked(await self._pipeline(batch.commands), batch, self.endpoint)

    async def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; an error takes the place of its answer."""
        if not commands:
            return []
        if self._routes is not None:
            return await self._routed(commands)
        return await self._completed(commands, await self._pool.ask(packed(commands), len(commands)))

    async def _replicated(self, command: Command, replica_ms: int, opened: int | None) -> Any:
        both = (command, wait_for_replica(replica_ms))
        answers = await self._pool.ask(packed(both), 2, opened=opened)
        if unknown_scripts(answers):
            answers = await self._pool.ask(packed(both, whole=True), 2, opened=opened)
        return only([with_replicas(*answers)])

    async def _at_owner(self, routes: Routes, call: RedisCall) -> list[Any]:
        """Ask the owner of the key, as one server is asked. The flow goes on where that is not all."""
        command, opened = call.command, call.opened
        node = routes.owner(call)
        first: tuple[Node, Any] | None = None
        if node is not None:
            try:
                answers = await self._pool_of(node).ask(packed((command,)), opened=routes.fence(opened))
                if type(command) is ScriptCall and not isinstance(answers[0], Exception):
                    return answers
                first = node, answers
            except Exception as error:  # noqa: BLE001 - the flow decides what to do with it
                first = node, as_answer(error)
        return await self._routed((command,), opened, call.replica_ms, first)

    async def _routed(
        self,
        commands: Sequence[Command],
        opened: int | None = None,
        replica_ms: int | None = None,
        first: tuple[Node, Any] | None = None,
    ) -> list[Any]:
        flow = cast("Routes", self._routes).answers(commands, opened, replica_ms, first)
        answers = await AsyncDriver.__call__(self, flow)
        return converted(self.client, commands, answers)

    async def _each(self, asks: Sequence[NodeAsk]) -> list[Any]:
        if len(asks) == 1:
            return [await self._at(asks[0])]
        return await asyncio.gather(*map(self._at, asks))

    async def _at(self, ask: NodeAsk) -> Any:
        try:
            return await self._pool_of(ask.node).ask(ask.request, ask.count, opened=ask.opened)
        except Exception as error:  # noqa: BLE001 - it is the result
            return as_answer(error)

    def _pool_of(self, node: Node) -> AsyncPool:
        loop, kept = asyncio.get_running_loop(), self._pools
        if kept is None or kept[0]() is not loop:
            kept = self._pools = (weakref.ref(loop), {})
        pool = kept[1].get(node)
        if pool is None:
            pool = kept[1][node] = async_pool_for(node.endpoint)
        return pool

    async def _completed(
        self, commands: Sequence[Command], answers: list[Any], opened: int | None = None
    ) -> list[Any]:
        """Send once more, whole, the scripts that the server does not know yet."""
        unknown = unknown_scripts(answers)
        if unknown:
            whole = [commands[i] for i in unknown]
            late = await self._pool.ask(packed(whole, whole=True), len(whole), opened=opened)
            for i, answer in zip(unknown, late, strict=True):
                answers[i] = answer
        return converted(self.client, commands, answers)


class _LoopLock:
    """A lock in the hands of a flow on a loop. It is let go as it was taken: in a thread."""

    __slots__ = ("held", "is_wanted")

    def __init__(self, lock: Lease) -> None:
        self.held: Lease | None = lock
        self.is_wanted = True

    def release(self) -> None:
        """Have the driver let go before the next effect, or at the flow's end."""
        self.is_wanted = False

    def let_go(self) -> None:
        held, self.held = self.held, None
        if held is not None:
            held.release()


class _Hands:
    """What a flow on a loop holds: its locks, which a thread may be at work under.

    A flow ends with its loop, whether it hears of that or not: a task that something refers to is never
    closed. So whoever tries for a lock looks here first, and lets go of what the flows of closed loops
    hold. See :class:`~lix_cache.archive.lease.Holder`.
    """

    def __init__(self) -> None:
        self._loop = weakref.ref(asyncio.get_running_loop())
        self._pid = os.getpid()
        self._locks: list[_LoopLock] = []
        self._work: Future[Any] | None = None
        self._is_over = False
        holders.add(self)

    async def perform(self, effect: DiskCall) -> Any:
        if type(effect) is LockCall:
            return await self._take(effect)
        return await self._in_thread(effect.call, effect.waits)

    async def _in_thread(self, call: Callable[[], T], waits: bool = False) -> T:
        return await in_disk_thread(call, may_wait_for_lock=waits, at_work=self._begin)

    def _begin(self, work: Future[Any]) -> None:
        self._work = work
        work.add_done_callback(self._done)

    def _done(self, work: Future[Any]) -> None:
        # It refers to the loop, which would stay for as long as we are among the holders.
        if self._work is work:
            self._work = None

    async def _take(self, effect: LockCall) -> _LoopLock | None:
        taken: list[_LoopLock] = []

        def take() -> None:
            lock = effect.call()
            if lock is not None:
                taken.append(_LoopLock(lock))
                # Here, as the flow may have ended.
                self._locks.append(taken[0])

        try:
            await self._in_thread(take, effect.waits)
        except asyncio.CancelledError:
            # The thread has ended, and the flow never hears of the lock that it took. It is not left
            # to die with its last reference: a task that is kept keeps all that its error refers to.
            for lock in taken:
                lock.release()
            await self.put_down()
            raise
        return taken[0] if taken else None

    async def put_down(self, *, all_of_them: bool = False) -> None:
        """Let go, in a thread, of the locks that the flow no longer wants; of all, at its end."""
        if self._is_over:
            return  # a thread may be at work under them, and lets them go
        unwanted = [lock for lock in self._locks if all_of_them or not lock.is_wanted]

        def let_go() -> None:
            for lock in unwanted:
                lock.let_go()

        try:
            if unwanted:
                await self._in_thread(let_go)
                self._locks = [lock for lock in self._locks if lock.held]
        finally:
            if all_of_them:
                holders.discard(self)

    def has_ended(self) -> bool:
        loop = self._loop()
        return loop is None or loop.is_closed()

    def let_go(self) -> None:
        self.end()
        forget_closed_loops()

    def end(self) -> None:
        """Let all go without waiting: now, or when the thread at work under the locks has ended.

        In a forked child nothing: they are its parent's.
        """
        holders.discard(self)
        self._is_over = True
        if self._pid != os.getpid():
            return
        work = self._work
        if work is None:
            self._let_all_go()
        else:
            work.add_done_callback(self._let_all_go)

    def _let_all_go(self, _: Future[Any] | None = None) -> None:
        # Several threads may come here at once: each lock is let go by one of them.
        with contextlib.suppress(IndexError):
            while True:
                self._locks.pop().let_go()
