"""Connection pools with a short way: send one request, read its answer, and nothing besides.

A command through redis-py's client passes the pool's queue, a retry loop and its
measurements, which together cost several times what the request itself does. Those who
need none of that (the flows repeat and translate by themselves) take a connection with
:meth:`Pool.ask`. Idle connections that came this way lie on a list, ready for the next;
their places in the pool's own queue stay taken, so both ways share one limit. Imported
only by who opens a pool: it imports redis-py.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any, cast

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from lix_cache.hot.connections import NewConnection, next_number

__all__ = ["AsyncPool", "Pool", "pack"]


def _packer() -> Callable[[tuple[Any, ...]], bytes]:
    try:
        from hiredis import pack_command
    except ImportError:  # pragma: no cover - hiredis before 2.1
        connection = redis.Connection()
        return lambda words: b"".join(connection.pack_command(*words))
    return cast("Callable[[tuple[Any, ...]], bytes]", pack_command)


#: The words of one command as they are sent.
pack = _packer()
# Before 5.3 a pool wanted to be told what for, and did nothing with it.
_FOR = () if tuple(int(n) for n in redis.__version__.split(".")[:2]) >= (5, 3) else ("",)
_Trouble = (redis.ConnectionError, redis.TimeoutError, OSError)


class Pool(redis.BlockingConnectionPool):
    """A pool that threads wait at, with the short way for one request."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(redis_connect_func=_greet, **kwargs)  # type: ignore[no-untyped-call]

    def reset(self) -> None:
        # Also called in a forked child, whose connections are the parent's.
        self._ready: list[Any] = []
        super().reset()  # type: ignore[no-untyped-call]

    def ask(self, request: bytes, count: int = 1, *, opened: int | None = None) -> list[Any]:
        """Send packed commands in one round trip and return their answers as they are.

        Args:
            request: one or more commands.
            count: how many.
            opened: the number of the newest connection that may be used; None for any.

        Returns:
            An answer or a ResponseError for each.

        Raises:
            NewConnection: the connection at hand is newer; nothing was sent.
            redis.ConnectionError, redis.TimeoutError: as redis-py's client does.
        """
        connection = self._take()
        if opened is not None and connection.lix_number > opened:
            self.release(connection)
            raise NewConnection(connection.lix_number)
        try:
            connection.send_packed_command((request,), check_health=False)
            answers = [_answer(connection) for _ in range(count)]
        except BaseException:
            # What is left of the answers must not meet the next request.
            connection.disconnect()
            self.release(connection)
            raise
        # Where every place is taken, somebody may be waiting at the queue: look after the
        # connection is on the list, because who takes the last place looks there then.
        self._ready.append(connection)
        if self.pool.empty():
            self._put_back()
        return answers

    def _take(self) -> Any:
        if self.pid == os.getpid():
            try:
                connection = self._ready.pop()
            except IndexError:
                pass
            else:
                try:
                    if not connection.can_read():
                        return connection
                except _Trouble:
                    pass
                except BaseException:
                    self.release(connection)
                    raise
                # It was closed, or something came that nobody asked for: redis-py opens it anew.
                connection.disconnect()
                self.release(connection)
        return self.get_connection(*_FOR)

    def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        if self._ready and self.pid == os.getpid():
            # Who comes the long way finds them where redis-py looks, and opens none besides.
            self._put_back()
        connection = super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self._ready and self.pool.empty():
            self._put_back()
        return connection

    def release(self, connection: Any) -> None:
        super().release(connection)  # type: ignore[no-untyped-call]

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self.pid == os.getpid():
            self._put_back()
        super().disconnect(*args, **kwargs)

    def _put_back(self) -> None:
        while True:
            try:
                connection = self._ready.pop()
            except IndexError:
                return
            self.release(connection)


def _greet(connection: Any) -> None:
    connection.on_connect()
    connection.lix_number = next_number()


async def _agreet(connection: Any) -> None:
    await connection.on_connect()
    connection.lix_number = next_number()


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


class AsyncPool(redis.asyncio.BlockingConnectionPool):
    """The same for the tasks of one event loop."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(redis_connect_func=_agreet, **kwargs)
        self._ready: list[Any] = []

    async def ask(self, request: bytes, count: int = 1, *, opened: int | None = None) -> list[Any]:
        """See :meth:`Pool.ask`."""
        connection = await self._take()
        if opened is not None and connection.lix_number > opened:
            await self.release(connection)
            raise NewConnection(connection.lix_number)
        try:
            await connection.send_packed_command((request,), check_health=False)
            answers = [await _aanswer(connection) for _ in range(count)]
        except BaseException:
            await connection.disconnect(nowait=True)
            await self.release(connection)
            raise
        self._ready.append(connection)
        if not self.can_get_connection():
            await self._put_back()
        return answers

    async def _take(self) -> Any:
        if self._ready:
            connection = self._ready.pop()
            try:
                await self.ensure_connection(connection)
            except BaseException:
                await self.release(connection)
                raise
            return connection
        return await self.get_connection(*_FOR)

    async def get_connection(self, *args: Any, **kwargs: Any) -> Any:
        if self._ready:
            await self._put_back()
        connection = await super().get_connection(*args, **kwargs)  # type: ignore[no-untyped-call]
        if self._ready and not self.can_get_connection():
            await self._put_back()
        return connection

    async def disconnect(self, *args: Any, **kwargs: Any) -> None:
        await self._put_back()
        await super().disconnect(*args, **kwargs)

    async def _put_back(self) -> None:
        while self._ready:
            await self.release(self._ready.pop())


async def _aanswer(connection: Any) -> Any:
    try:
        return await connection.read_response()
    except ResponseError as error:
        return error
