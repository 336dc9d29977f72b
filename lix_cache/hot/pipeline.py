"""One connection for many tasks of an event loop: what they ask in one turn goes out in one write.

For plain commands that may be repeated or lost without harm: a connection that breaks fails whatever waits
on it, and nothing here sends a command again. Where every request asks Redis one small thing, the way through
a pool costs more than the trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING, Any

from lix_cache.hot.wire import pack

if TYPE_CHECKING:
    from lix_cache.hot.endpoint import Endpoint

__all__ = ["Pipeline"]

_NOTHING = object()


class _Wire(asyncio.Protocol):
    """Sends what is asked, and hands answers out in their order."""

    def __init__(self, seconds: float) -> None:
        import hiredis
        from redis.exceptions import ResponseError

        self._reader = hiredis.Reader(notEnoughData=_NOTHING, replyError=ResponseError)
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[asyncio.Future[list[Any]], int, float]] = deque()
        self._answers: list[Any] = []
        self._unsent: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self.transport: Any = None
        self.is_closed = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def ask(self, request: bytes, count: int) -> asyncio.Future[list[Any]]:
        if self.is_closed:
            # It ended between its opening and this: nothing would ever answer.
            raise ConnectionError("the connection was closed")
        future = self._loop.create_future()
        self._waiting.append((future, count, self._loop.time() + self._seconds))
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(request)
        if self._timer is None:
            self._timer = self._loop.call_later(self._seconds, self._look)
        return future

    def _flush(self) -> None:
        requests, self._unsent = self._unsent, []
        if not self.is_closed:
            self.transport.write(b"".join(requests))

    def data_received(self, data: bytes) -> None:
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _NOTHING:
                self._take(answer)
        except Exception as error:  # noqa: BLE001 - not RESP: nothing after it can be trusted
            self.fail(error)

    def _take(self, answer: Any) -> None:
        if not self._waiting:
            raise ConnectionError("an answer to no question")
        self._answers.append(answer)
        future, count, _ = self._waiting[0]
        if len(self._answers) < count:
            return
        self._waiting.popleft()
        answers, self._answers = self._answers, []
        if not future.done():
            future.set_result(answers)

    def _look(self) -> None:
        """Find out whether the one that waits longest has waited too long."""
        self._timer = None
        if not self._waiting or self.is_closed:
            return
        left = self._waiting[0][2] - self._loop.time()
        if left <= 0:
            self.fail(TimeoutError("no answer in time"))
        else:
            self._timer = self._loop.call_later(left, self._look)

    def connection_lost(self, error: Exception | None) -> None:
        self.fail(error or ConnectionError("the connection was closed"))

    def fail(self, error: Exception) -> None:
        """End the connection, and all that waits on it."""
        self.is_closed = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self.transport is not None:
            self.transport.abort()
        waiting, self._waiting = self._waiting, deque()
        for future, _, _ in waiting:
            if not future.done():
                future.set_exception(ConnectionError(f"{type(error).__name__}: {error}"))


class Pipeline:
    """A connection that opens when it is needed, and again when it has broken.

    Args:
        endpoint: where to.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._wire: _Wire | None = None
        self._opening: asyncio.Task[_Wire] | None = None

    @staticmethod
    def fits(endpoint: Endpoint) -> bool:
        """Whether it can speak to what is there: one server, without TLS."""
        return endpoint.kind == "server" and endpoint.scheme != "rediss"

    async def ask(self, request: bytes, count: int = 1) -> list[Any]:
        """Send packed commands; return their answers, a ResponseError for one that was refused.

        Raises:
            OSError, redis.ResponseError: there is no connection, it broke, or the greeting was refused.
        """
        wire = self._wire
        if wire is None or wire.is_closed:
            if self._opening is None:
                self._opening = asyncio.get_running_loop().create_task(self._open())
                self._opening.add_done_callback(self._opened)
            # Shielded: who leaves must not end the greeting for the others.
            wire = await asyncio.shield(self._opening)
        return await wire.ask(request, count)

    def _opened(self, task: asyncio.Task[_Wire]) -> None:
        self._opening = None
        if not task.cancelled() and task.exception() is None:
            self._wire = task.result()

    async def _open(self) -> _Wire:
        where, loop = self._endpoint, asyncio.get_running_loop()
        made: Any
        if where.scheme == "unix":
            made = loop.create_unix_connection(lambda: _Wire(where.timeout), where.path)
        else:
            made = loop.create_connection(lambda: _Wire(where.timeout), where.host, where.port)
        try:
            _, wire = await asyncio.wait_for(made, where.connect_timeout)
        except asyncio.TimeoutError:
            raise TimeoutError("Timeout connecting to server") from None
        greeting = []
        if where.password is not None:
            who = (where.username,) if where.username else ()
            greeting.append(pack(("AUTH", *who, where.password)))
        if where.db:
            greeting.append(pack(("SELECT", where.db)))
        if greeting:
            for answer in await wire.ask(b"".join(greeting), len(greeting)):
                if isinstance(answer, Exception):
                    wire.fail(answer)
                    raise answer
        found: _Wire = wire
        return found

    def close(self) -> None:
        """Close the connection."""
        if self._wire is not None:
            self._wire.fail(ConnectionError("the connection was closed"))
