"""The way of the gateway's own commands to Redis, whatever Redis is: a server, a cluster, or behind Sentinel.

Raises nothing: what goes wrong is counted. A server that is silent, or serves no command, is not asked again
for a moment. A command that it refuses is that command's trouble alone: one tenant's must not be that of all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any, TypeAlias

from lix_cache._advice import for_command_line
from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import AsyncDriver
from lix_cache.effects import Flow, RedisBatch
from lix_cache.errors import told
from lix_cache.hot.breaker import new_breaker
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.pipeline import Pipeline
from lix_cache.hot.scripts import Value
from lix_cache.hot.slots import key_of
from lix_cache.hot.spread import SCAN_AGAIN
from lix_cache.hot.trouble import translate
from lix_cache.hot.wire import pack

__all__ = ["RedisLine"]

#: The words of a plain command.
_Words: TypeAlias = "tuple[Value, ...]"


class RedisLine:
    """Sends plain commands.

    Args:
        config: where Redis is.
        clock: time.
    """

    def __init__(self, config: CacheConfig, clock: Clock) -> None:
        self._endpoint = endpoint_for(config.redis, config.semantic_redis_db)
        self.breaker = new_breaker(self._endpoint, config.redis_retry_seconds, clock)
        # A pipeline is the shorter way to one server; the driver knows the way to each of several, and TLS.
        self._driver = None if Pipeline.fits(self._endpoint) else AsyncDriver(self._endpoint)
        self._opened: tuple[asyncio.AbstractEventLoop, Pipeline] | None = None
        #: Requests that went without Redis, and why last.
        self.troubles = 0
        self.last_trouble = ""

    async def ask(self, *commands: _Words) -> list[Any] | None:
        """Send plain commands in one trip, on a cluster one to each node; None if one has no answer.

        A ``SCAN`` that has to begin again, because the masters have changed, has its error for an answer.
        """
        for words in commands:
            if self.breaker.of(key_of(words)).is_open:
                return None
        answers = await self._answers(commands)
        return None if any(map(_is_trouble, answers)) else answers

    async def ask_each(self, *commands: _Words) -> list[Any]:
        """Send plain commands that do not need each other; None for each that has no answer."""
        found: list[Any] = [None] * len(commands)
        asked = [i for i, words in enumerate(commands) if not self.breaker.of(key_of(words)).is_open]
        if asked:
            answers = await self._answers([commands[i] for i in asked])
            for i, answer in zip(asked, answers, strict=True):
                found[i] = None if _is_trouble(answer) else answer
        return found

    async def _answers(self, commands: Sequence[_Words]) -> list[Any]:
        """Send commands. What went wrong takes the place of an answer, and is noted.

        It opens the breaker if the next command to the same server would meet it as well.
        """
        breakers = [self.breaker.of(key_of(words)) for words in commands]
        try:
            if self._driver is None:
                packed = b"".join([pack(words) for words in commands])
                answers: list[Any] = await self._line().ask(packed, len(commands))
            else:
                answers = [_flat(answer) for answer in await self._driver(_sent(tuple(commands)))]
        except Exception as error:  # noqa: BLE001 - whatever it is, a request goes on without
            # Without what refers to this frame, and through it to the connection.
            found = translate(error, self._endpoint).with_traceback(None)
            answers = [found] * len(commands)
        trouble: BaseException | None = None
        for i, answer in enumerate(answers):
            if _is_trouble(answer):
                answers[i] = translate(answer, self._endpoint)
                breakers[i].met(answers[i])
                trouble = trouble or answers[i]
        if trouble is not None:
            self.note(trouble)
        return answers

    def _line(self) -> Pipeline:
        loop = asyncio.get_running_loop()
        if self._opened is None or self._opened[0] is not loop:
            self._opened = (loop, Pipeline(self._endpoint))
        return self._opened[1]

    def close(self) -> None:
        """Close the connection; those of a driver are its loop's."""
        if self._opened is not None:
            self._opened[1].close()
        self._opened = None

    @property
    def why(self) -> str:
        """The last trouble without its kind: what is raised for it has one."""
        return self.last_trouble.removeprefix("RedisUnavailable: ")

    def note(self, error: BaseException) -> None:
        """Count what went wrong; say it once."""
        self.troubles += 1
        said = for_command_line(told(error))
        if said != self.last_trouble:
            logger.warning("the gateway goes on without an answer of Redis: {}", said)
        self.last_trouble = said


def _is_trouble(answer: Any) -> bool:
    return isinstance(answer, Exception) and getattr(answer, "code", "") != SCAN_AGAIN


def _flat(answer: Any) -> Any:
    """Return a hash as the server gave it, and as the pipeline gives it: names and values in turn."""
    return [part for pair in answer.items() for part in pair] if isinstance(answer, dict) else answer


def _sent(commands: tuple[_Words, ...]) -> Flow[list[Any]]:
    answers: list[Any] = yield RedisBatch(commands, errors_as_values=True)
    return answers
