"""Commands as they are sent, and answers as redis-py's client gives them."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from lix_cache.hot.scripts import Command, ScriptCall
from lix_cache.hot.trouble import translate

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from lix_cache.effects import RedisBatch
    from lix_cache.hot.endpoint import Endpoint

__all__ = [
    "as_answer",
    "checked",
    "converted",
    "only",
    "packed",
    "unknown_scripts",
    "wait_for_replica",
    "with_replicas",
]


def _words(command: Command, *, whole: bool = False) -> tuple[Any, ...]:
    if not isinstance(command, ScriptCall):
        return command
    name, text = ("EVAL", command.script.source) if whole else ("EVALSHA", command.script.sha)
    return (name, text, len(command.keys), *command.keys, *command.args)


def packed(commands: Sequence[Command], *, whole: bool = False) -> bytes:
    pack = _packer()
    if len(commands) == 1:
        return pack(_words(commands[0], whole=whole))
    return b"".join([pack(_words(command, whole=whole)) for command in commands])


@cache
def _packer() -> Callable[[Sequence[Any]], bytes]:
    # Imported here for the sake of those who never use Redis; once, because even an import
    # that finds its module costs as much as packing some words.
    from lix_cache.hot.wire import pack

    return pack


#: Commands whose answers are wanted as the server gives them; those of many others are
#: given as redis-py's client does.
_PLAIN = frozenset({"GET", "HGET", "MGET", "SET", "XDEL", "XLEN", "XRANGE", "XREVRANGE", "ZRANGEBYSCORE"})


def converted(client: Any, commands: Sequence[Command], answers: list[Any]) -> list[Any]:
    for i, command in enumerate(commands):
        if not isinstance(command, ScriptCall) and command[0] not in _PLAIN:
            convert = client.response_callbacks.get(command[0])
            if convert is not None and not isinstance(answers[i], Exception):
                answers[i] = convert(answers[i])
    return answers


def unknown_scripts(answers: list[Any]) -> list[int]:
    # Looked at one by one without a generator: it is done for every command.
    for answer in answers:
        if isinstance(answer, Exception):
            break
    else:
        return []
    from redis.exceptions import NoScriptError

    return [i for i, answer in enumerate(answers) if isinstance(answer, NoScriptError)]


def wait_for_replica(milliseconds: int) -> Command:
    """Have a connection wait until a replica has what was written on it."""
    return "WAIT", 1, milliseconds


def with_replicas(answer: Any, replicas: Any) -> Any:
    """Return the answer to a command with the number of replicas that have what it did; or its error."""
    if isinstance(answer, Exception):
        return answer
    # A user who may not wait knows of none.
    return answer, replicas if isinstance(replicas, int) else 0


def as_answer(error: Exception) -> Exception:
    """Return an error that takes the place of an answer, without the frames that it came through.

    One of them holds the answers: they would be freed at the next round of the garbage collector.
    """
    return error.with_traceback(None)


def only(answers: list[Any]) -> Any:
    """Return the one answer, or raise the error that took its place."""
    (answer,) = answers
    if isinstance(answer, Exception):
        try:
            raise answer
        finally:
            # The error refers to this frame, and through it to all that it goes through: locks, connections.
            del answer, answers
    return answer


def checked(results: list[Any], batch: RedisBatch, endpoint: Endpoint) -> list[Any]:
    for i, result in enumerate(results):
        if isinstance(result, Exception):
            if not batch.errors_as_values:
                raise result
            results[i] = translate(result, endpoint)
    return results
