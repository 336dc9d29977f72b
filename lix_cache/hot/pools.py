"""Connection pools that an exception may interrupt anywhere: send one request, read its answer.

See ``places.py`` for what keeps a connection from being lost. The way through redis-py's own
client is open too, for callers that ask for such a client. Imported only where a pool is opened: it
imports redis-py.
"""

from __future__ import annotations

import asyncio
import os
import sys
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from lix_cache.hot.connections import NewConnection, next_number
from lix_cache.hot.places import Greeting, Loan, Places, check_is_master
from lix_cache.hot.wire import Packer

if sys.version_info >= (3, 11):
    from asyncio import timeout as time_limit
else:
    from async_timeout import timeout as time_limit

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = ["ASYNC_CONNECTIONS", "AsyncPool", "Pool", "ask_each"]


# Before 5.3 a pool wanted to be told what for, and did nothing with it.
_FOR = () if tuple(int(n) for n in redis.__version__.split(".")[:2]) >= (5, 3) else ("",)


_Trouble = (redis.ConnectionError, redis.TimeoutError, OSError)


_getpid = os.getpid


class Pool(redis.ConnectionPool):
    """A pool that threads wait at, with a short way for one request.

    Args:
        timeout: how long to wait for a connection, in seconds.
        of_master: refuse a server that is a replica.
    """

    def __init__(self, *, timeout: float, of_master: bool = False, **kwargs: Any) -> None:
        self.timeout = timeout
        # Not the connection's own greeting: after this one it is known to have ended.
        greet = Greeting.greet_master if of_master else Greeting.greet
        super().__init__(redis_connect_func=greet, command_packer=Packer, **kwargs)

    def __repr__(self) -> str:
        return _named(self)

    def reset(self) -> None:
        super().reset()
        self._renew()

    def _renew(self) -> Places:
        # A forked child has its own: its parent's connections stay its parent's.
        places = self._here = Places(self._new_connection, self.max_connections)
        return places

    def _new_connection(self) -> Any:
        return self.connection_class(**self.connection_kwargs)

    @property
    def _places(self) -> Places:
        places = self._here
        return places if places.pid == _getpid() else self._renew()

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
        places = self._places
        held: list[Any] = []
        try:
            connection = self._asked(places, held, request, opened)
            answers = [_answer(connection)]
            while len(answers) < count:
                answers.append(_answer(connection))
            places.give_back(held)
        except BaseException:
            # What is left of the answers must not meet the next request.
            places.drop(held)
            raise
        return answers

    def _asked(self, places: Places, held: list[Any], request: bytes, opened: int | None) -> Any:
        connection = self._taken(places, held)
        if opened is not None and connection.number > opened:
            number = connection.number
            places.give_back(held)
            raise NewConnection(number)
        connection.send_packed_command((request,), check_health=False)
        return connection

    def _taken(self, places: Places, held: list[Any]) -> Any:
        """Take a connection that is connected, greeted, and has nothing to be read."""
        places.take(held, self.timeout)
        connection = held[0]
        if connection.greeted:
            try:
                if not connection.can_read():
                    return connection
            except _Trouble:
                pass
        # It is new, or was closed, or something came that was not asked for.
        connection.disconnect()
        connection.connect()
        return connection

    def get_connection(self, *_: Any, **__: Any) -> Any:
        """Lend a connection to redis-py's client, which gives it back with :meth:`release`."""
        places = self._places
        loan = Loan()
        try:
            self._taken(places, loan.held)
        except BaseException:
            places.drop(loan.held)
            raise
        return loan

    def release(self, connection: Any) -> None:
        places = self._places
        if connection.is_whole(places.pid):
            places.give_back(connection.held)
        else:
            places.drop(connection.held)

    def disconnect(self, inuse_connections: bool = True) -> None:
        places = self._places
        for connection in places.all() if inuse_connections else places.idle():
            connection.disconnect()


def ask_each(asks: Sequence[tuple[Pool, bytes, int]]) -> list[list[Any] | Exception]:
    """Ask several servers side by side: all are sent their commands before the first answer is read.

    Args:
        asks: pools with packed commands and how many these are; callers that share pools have them in
            one order, so that no two wait for each other's connections.

    Returns:
        For each what :meth:`Pool.ask` returns, or raises.
    """
    results: list[Any] = [None] * len(asks)
    lent: list[tuple[Places, list[Any]]] = []
    try:
        for i, (pool, request, _) in enumerate(asks):
            places = pool._places  # noqa: SLF001 - this module's own class
            held: list[Any] = []
            lent.append((places, held))
            try:
                pool._asked(places, held, request, None)  # noqa: SLF001
            except Exception as error:  # noqa: BLE001 - it is the result
                results[i] = error.with_traceback(None)  # which refers to this list
                places.drop(held)
        for i, (_, _, count) in enumerate(asks):
            places, held = lent[i]
            if results[i] is not None:
                continue
            try:
                results[i] = [_answer(held[0]) for _ in range(count)]
                places.give_back(held)
            except Exception as error:  # noqa: BLE001 - it is the result
                results[i] = error.with_traceback(None)  # which refers to this list
                places.drop(held)
    except BaseException:
        for places, held in lent:
            places.drop(held)
        raise
    return results


async def _agreet(connection: Any) -> None:
    await connection.on_connect()
    connection.number = next_number()


async def _agreet_master(connection: Any) -> None:
    """See :meth:`Greeting.greet_master`."""
    await connection.on_connect()
    await connection.send_command("HELLO", check_health=False)
    try:
        said = await connection.read_response()
    except ResponseError:
        said = ()
    check_is_master(said)
    connection.number = next_number()


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error.with_traceback(None)  # by which the list that it is put in would refer to itself


def _named(pool: Any) -> str:
    """Name a pool without its secrets, which redis-py's own name holds in some versions."""
    known = pool.connection_kwargs
    where = known.get("path") or f"{known.get('host')}:{known.get('port')}"
    return f"<{type(pool).__name__} {where} db {known.get('db')}>"


class _Cancellable:
    """A connection on which a cancelled task ends as cancelled.

    redis-py limits sending with ``asyncio.wait_for``. Before Python 3.12 that loses a cancellation that
    meets the end of what it waits for: the call goes on, and a task that was told to stop does not. It
    also starts a task for every command.
    """

    async def send_packed_command(
        self, command: bytes | str | Iterable[bytes], check_health: bool = True
    ) -> None:
        it: Any = self
        send = super().send_packed_command  # type: ignore[misc]
        if check_health:
            await it.check_health()
        seconds = it.socket_timeout
        if not seconds or not it.is_connected:
            # It connects first: the same attribute limits what it reads then.
            await send(command, False)
            return
        it.socket_timeout = None
        try:
            async with time_limit(seconds):
                await send(command, False)
        except asyncio.TimeoutError:
            raise redis.TimeoutError("Timeout writing to socket") from None
        finally:
            it.socket_timeout = seconds


class _AsyncTcp(_Cancellable, redis.asyncio.Connection):
    pass


class _AsyncTls(_Cancellable, redis.asyncio.SSLConnection):
    pass


class _AsyncUnix(_Cancellable, redis.asyncio.UnixDomainSocketConnection):
    pass


#: By the scheme of the address.
ASYNC_CONNECTIONS = {"redis": _AsyncTcp, "rediss": _AsyncTls, "unix": _AsyncUnix}


class AsyncPool(redis.asyncio.BlockingConnectionPool):
    """The same for the tasks of one event loop, which nothing comes between but an ``await``.

    Idle connections that came the short way lie on a list, ready for the next; their places
    in the pool stay taken, so both ways share one limit.
    """

    def __init__(self, *, of_master: bool = False, **kwargs: Any) -> None:
        super().__init__(redis_connect_func=_agreet_master if of_master else _agreet, **kwargs)
        self._ready: list[Any] = []

    def __repr__(self) -> str:
        return _named(self)

    async def ask(self, request: bytes, count: int = 1, *, opened: int | None = None) -> list[Any]:
        """See :meth:`Pool.ask`."""
        connection = await self._take()
        if opened is not None and connection.number > opened:
            # Before it is given back: another task may connect it anew.
            number = connection.number
            await self.release(connection)
            raise NewConnection(number)
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
        return error.with_traceback(None)  # by which the list that it is put in would refer to itself
