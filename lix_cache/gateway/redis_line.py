"""The way of the gateway's own commands to Redis, whatever Redis is: a server, a cluster, or behind Sentinel.

Raises nothing: what goes wrong is counted, and for a moment Redis is not asked again.
"""

from __future__ import annotations

import asyncio
from typing import Any, TypeAlias

from lix_cache._advice import for_command_line
from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import AsyncDriver
from lix_cache.effects import Flow, RedisBatch
from lix_cache.errors import LixCacheError, told
from lix_cache.hot.breaker import Breaker
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.pipeline import Pipeline
from lix_cache.hot.scripts import Value
from lix_cache.hot.spread import SCAN_AGAIN
from lix_cache.hot.trouble import raise_translated
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
        self.breaker = Breaker(config.redis_retry_seconds, clock)
        # A pipeline is the shorter way to one server; the driver knows the way to each of several, and TLS.
        self._driver = None if Pipeline.fits(self._endpoint) else AsyncDriver(self._endpoint)
        self._opened: tuple[asyncio.AbstractEventLoop, Pipeline] | None = None
        #: Requests that went without Redis, and why last.
        self.troubles = 0
        self.last_trouble = ""

    async def ask(self, *commands: _Words) -> list[Any] | None:
        """Send plain commands in one trip, on a cluster one to each node; None if Redis does not answer.

        A ``SCAN`` that has to begin again, because the masters have changed, has its error for an answer.
        """
        if self.breaker.is_open:
            return None
        try:
            try:
                if self._driver is None:
                    packed = b"".join([pack(words) for words in commands])
                    answers: list[Any] = await self._line().ask(packed, len(commands))
                else:
                    answers = [_flat(answer) for answer in await self._driver(_sent(commands))]
                for answer in answers:
                    if isinstance(answer, Exception) and getattr(answer, "code", "") != SCAN_AGAIN:
                        raise answer
            except Exception as error:  # noqa: BLE001 - raised again, translated
                raise_translated(error, self._endpoint)
            return answers
        except (LixCacheError, OSError) as error:
            self.breaker.trip()
            self.note(error)
            return None

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
            logger.warning("the gateway goes on without Redis: {}", said)
        self.last_trouble = said


def _flat(answer: Any) -> Any:
    """Return a hash as the server gave it, and as the pipeline gives it: names and values in turn."""
    return [part for pair in answer.items() for part in pair] if isinstance(answer, dict) else answer


def _sent(commands: tuple[_Words, ...]) -> Flow[list[Any]]:
    answers: list[Any] = yield RedisBatch(commands, errors_as_values=True)
    return answers
