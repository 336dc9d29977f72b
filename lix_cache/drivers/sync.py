"""The sync driver: runs flows in the calling thread. With aio.py the only place where the variants differ."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, cast

from lix_cache._cached_property import cached_property
from lix_cache.clock import SYSTEM_CLOCK, Clock
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
from lix_cache.drivers.threads import compute_within
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
from lix_cache.hot.clients import lazy_client, pool_for
from lix_cache.hot.scripts import Command, ScriptCall
from lix_cache.hot.trouble import raise_translated

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import redis
    import redis.asyncio

    from lix_cache.archive.lease import Lease
    from lix_cache.drivers.routes import Routes
    from lix_cache.hot.endpoint import Endpoint
    from lix_cache.hot.pools import Pool
    from lix_cache.hot.slots import Node

__all__ = ["SyncDriver", "T"]


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
        self._routes = routes_for(endpoint)
        self._pools: dict[Node, Pool] = {}

    @cached_property
    def client(self) -> redis.Redis:
        return lazy_client(self.endpoint)

    @cached_property
    def _pool(self) -> Pool:
        pool: Any = self.client.connection_pool
        return cast("Pool", pool)

    def __call__(self, flow: Flow[T]) -> T:
        """Run a flow to its end and return its result."""
        locks: list[Lease] = []
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
            return compute_within(effect)
        if isinstance(effect, NodeAsks):
            return self._each(effect.asks)
        try:
            if isinstance(effect, RedisCall):
                return self._one(effect)
            return self._many(effect)
        except Exception as error:  # noqa: BLE001 - raised again, translated
            raise_translated(error, self.endpoint)

    def _one(self, call: RedisCall) -> Any:
        command, opened = call.command, call.opened
        if self._routes is not None:
            return only(self._at_owner(self._routes, call))
        if call.replica_ms is not None:
            return self._replicated(command, call.replica_ms, opened)
        answers = self._pool.ask(packed((command,)), opened=opened)
        if type(command) is ScriptCall and not isinstance(answers[0], Exception):
            return answers[0]
        answer = self._completed((command,), answers, opened)[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def _many(self, batch: RedisBatch) -> list[Any]:
        return checked(self._pipeline(batch.commands), batch, self.endpoint)

    def _pipeline(self, commands: Sequence[Command]) -> list[Any]:
        """Send commands in one round trip; an error takes the place of its answer."""
        if not commands:
            return []
        if self._routes is not None:
            return self._routed(commands)
        return self._completed(commands, self._pool.ask(packed(commands), len(commands)))

    def _replicated(self, command: Command, replica_ms: int, opened: int | None) -> Any:
        both = (command, wait_for_replica(replica_ms))
        answers = self._pool.ask(packed(both), 2, opened=opened)
        if unknown_scripts(answers):
            answers = self._pool.ask(packed(both, whole=True), 2, opened=opened)
        return only([with_replicas(*answers)])

    def _at_owner(self, routes: Routes, call: RedisCall) -> list[Any]:
        """Ask the owner of the key, as one server is asked. The flow goes on where that is not all."""
        command, opened = call.command, call.opened
        node = routes.owner(call)
        first: tuple[Node, Any] | None = None
        if node is not None:
            try:
                answers = self._pool_of(node).ask(packed((command,)), opened=routes.fence(opened))
                if type(command) is ScriptCall and not isinstance(answers[0], Exception):
                    return answers
                first = node, answers
            except Exception as error:  # noqa: BLE001 - the flow decides what to do with it
                first = node, as_answer(error)
        return self._routed((command,), opened, call.replica_ms, first)

    def _routed(
        self,
        commands: Sequence[Command],
        opened: int | None = None,
        replica_ms: int | None = None,
        first: tuple[Node, Any] | None = None,
    ) -> list[Any]:
        flow = cast("Routes", self._routes).answers(commands, opened, replica_ms, first)
        answers = SyncDriver.__call__(self, flow)
        return converted(self.client, commands, answers)

    def _each(self, asks: Sequence[NodeAsk]) -> list[Any]:
        if len(asks) != 1:
            from lix_cache.hot.pools import ask_each

            return ask_each([(self._pool_of(ask.node), ask.request, ask.count) for ask in asks])
        (ask,) = asks
        try:
            return [self._pool_of(ask.node).ask(ask.request, ask.count, opened=ask.opened)]
        except Exception as error:  # noqa: BLE001 - it is the result
            return [as_answer(error)]

    def _pool_of(self, node: Node) -> Pool:
        pool = self._pools.get(node)
        if pool is None:
            pool = self._pools[node] = pool_for(node.endpoint)
        return pool

    def _completed(
        self, commands: Sequence[Command], answers: list[Any], opened: int | None = None
    ) -> list[Any]:
        """Send once more, whole, the scripts that the server does not know yet."""
        unknown = unknown_scripts(answers)
        if unknown:
            whole = [commands[i] for i in unknown]
            late = self._pool.ask(packed(whole, whole=True), len(whole), opened=opened)
            for i, answer in zip(unknown, late, strict=True):
                answers[i] = answer
        return converted(self.client, commands, answers)


def _forget_released(locks: list[Lease]) -> None:
    # A flow that goes through a whole folder takes any number, a few at a time.
    if len(locks) > _MANY_LOCKS:
        locks[:] = [lock for lock in locks if lock.is_held]
