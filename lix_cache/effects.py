"""What a flow may ask for. A flow decides; a driver acts.

A flow is a generator: it yields an effect, and receives its result or has its failure
thrown in. It touches no client, no file and no clock, so one flow serves both variants,
and a test can stop it at any step.

Two rules keep flows safe to stop: a flow never yields inside ``finally`` (what must be
let go there is let go without waiting), and an effect is done whole before a stop is
delivered. (In the sync variant a signal handler may raise inside an effect, and between
two of them; then the driver closes the flow, so that its ``finally`` runs.)
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from lix_cache.errors import LixCacheError
from lix_cache.hot.scripts import Command
from lix_cache.hot.slots import Node

__all__ = [
    "Call",
    "Compute",
    "DiskCall",
    "Effect",
    "Flow",
    "LockCall",
    "NodeAsk",
    "NodeAsks",
    "RedisBatch",
    "RedisCall",
    "Sleep",
    "ask_each",
    "then",
]

T = TypeVar("T")
R = TypeVar("R")
K = TypeVar("K")


@dataclass(slots=True)
class RedisCall:
    """One command in one round trip; the result is its answer.

    Attributes:
        command: what to send.
        opened: the number of the newest connection that may be used; on a newer one nothing
            is sent, and the flow gets a :class:`~lix_cache.hot.connections.NewConnection`.
            None for any.
        replica_ms: wait up to so many milliseconds until a replica has what the command did. The
            result then is a pair: the answer, and how many replicas have it. None: do not wait.
    """

    command: Command
    opened: int | None = None
    replica_ms: int | None = None


@dataclass(slots=True)
class RedisBatch:
    """Several commands in one round trip; the result is the list of their answers.

    Attributes:
        commands: what to send.
        errors_as_values: put the error of a command that was refused in the place of its
            answer; otherwise the first one is raised, after all have been answered.
    """

    commands: tuple[Command, ...]
    errors_as_values: bool = False


@dataclass(slots=True)
class NodeAsk:
    """Commands for one server of several, packed.

    Attributes:
        node: the server.
        request: the commands.
        count: how many answers there will be.
        opened: see :class:`RedisCall`.
    """

    node: Node
    request: bytes
    count: int
    opened: int | None = None


@dataclass(slots=True)
class NodeAsks:
    """What the flow of a cluster asks its nodes, side by side (``drivers/routes.py``). For each request the
    result has the list of its answers, or the exception that it ended in.
    """

    asks: list[NodeAsk]


@dataclass(slots=True)
class DiskCall:
    """A call that touches files; the result is what it returns.

    Attributes:
        call: takes nothing.
        waits: it may wait for a session's lock, which a reader without the lock does
            before it believes in damage. It must not use up the threads that the lock's
            holder needs to go on.
    """

    call: Callable[[], Any]
    waits: bool = False


class LockCall(DiskCall):
    """A try at a lock; the result is the lock, or None if it is not to be had now.

    The flow lets it go. Where it cannot, because it was interrupted between taking the lock
    and its ``try``, the driver does, at the latest when the flow ends.
    """

    __slots__ = ()


@dataclass(slots=True)
class Sleep:
    """Wait for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Compute:
    """A call that computes and changes nothing: an embedder, a verifier.

    In the sync variant it runs in the calling thread, unless it has a deadline or may hang; under
    asyncio always in a thread. At its deadline the flow goes on with a
    :class:`~lix_cache.errors.ComputeTimeout`, and a call that has begun goes on by itself
    until it ends. So, unlike a disk call, it need not be done when a stop is delivered.

    Attributes:
        call: takes nothing.
        seconds: how long the flow waits; None for as long as it takes.
        what: who computes, for the error.
        may_hang: it is not this library's own. Such calls have threads of their own, so that
            those that never end take none from the calls that do. Their errors come as
            :class:`~lix_cache.compute.Failed`: what else comes interrupted the flow.
    """

    call: Callable[[], Any]
    seconds: float | None = None
    what: str = "the call"
    may_hang: bool = False


@dataclass(frozen=True)
class Call:
    """A call of the application's own; whatever it does is its affair.

    In the sync variant it runs in the calling thread, as if there were no flow. Under asyncio
    it returns an awaitable, which is awaited in the calling task.

    Attributes:
        call: takes nothing.
    """

    call: Callable[[], Any]


Effect: TypeAlias = "RedisCall | RedisBatch | NodeAsks | DiskCall | Sleep | Compute | Call"
Flow: TypeAlias = Generator[Effect, Any, T]


def then(flow: Flow[T], make: Callable[[T], R]) -> Flow[R]:
    """Return what ``make`` makes of a flow's result: so that no variant has to do it after waiting."""
    return make((yield from flow))


def ask_each(
    commands: Mapping[K, Command], failed: dict[K, LixCacheError] | None = None
) -> Flow[dict[K, Any]]:
    """Send commands in one round trip, and return their answers by the names of the commands.

    On a cluster that is one trip to each node, side by side.

    Args:
        commands: what to send.
        failed: takes the errors of those that failed, as long as one did not. None: the first is raised.

    Raises:
        RedisError: nothing could be asked, or a command failed.
    """
    if not commands:
        return {}
    if len(commands) == 1:
        ((name, command),) = commands.items()
        return {name: (yield RedisCall(command))}
    replies = yield RedisBatch(tuple(commands.values()), errors_as_values=failed is not None)
    answers = dict(zip(commands, replies, strict=True))
    if failed is not None:
        errors = {name: reply for name, reply in answers.items() if isinstance(reply, LixCacheError)}
        if len(errors) == len(answers):
            raise next(iter(errors.values()))
        failed.update(errors)
        answers = {name: reply for name, reply in answers.items() if name not in errors}
    return answers
