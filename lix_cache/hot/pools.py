"""Connection pools that an exception may interrupt anywhere: send one request, read its answer.

A signal handler may raise between any two instructions (Ctrl-C, a worker's soft time
limit). So nothing here is counted up and down, and no lock is held between two
instructions. A connection is on one list at any moment: of those that are ready, where it
comes only after its last answer was read whole, or of its borrower, who closes what is on it
when interrupted. It takes a place because it exists: what is lost all the same closes its
socket and frees its place, without a line of code that could be interrupted in its turn.

The way through redis-py's own client is open too, for who asks for such a client. Imported
only by who opens a pool: it imports redis-py.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from queue import Empty, SimpleQueue
from typing import Any, cast

import redis
import redis.asyncio
from redis.exceptions import DataError, ResponseError

from lix_cache.hot.connections import NewConnection, next_number

__all__ = ["CONNECTIONS", "AsyncPool", "Packer", "Pool", "pack"]


def _pack_in_python(words: tuple[bytes, ...]) -> bytes:
    parts = b"".join([b"$%d\r\n%b\r\n" % (len(word), word) for word in words])
    return b"*%d\r\n%b" % (len(words), parts)


def _packer() -> Callable[[tuple[bytes, ...]], bytes]:
    try:
        from hiredis import pack_command
    except ImportError:  # pragma: no cover - hiredis before 2.1
        return _pack_in_python
    return cast("Callable[[tuple[bytes, ...]], bytes]", pack_command)


_pack_bytes = _packer()


def _as_bytes(word: Any) -> bytes:
    if isinstance(word, bytes):
        return word
    if isinstance(word, str):
        return word.encode()
    if isinstance(word, (int, float)) and not isinstance(word, bool):
        return repr(word).encode()
    if isinstance(word, (bytearray, memoryview)):
        return bytes(word)
    kind = type(word).__name__
    raise DataError(f"Invalid input of type: {kind!r}. Convert to bytes, str, int or float first.")


def pack(words: Iterable[Any]) -> bytes:
    """Return the words of one command as they are sent."""
    # hiredis gets bytes only: a signal that comes while it turns a number into text, which
    # may run the handler, crashes the process. Spelt out, because a call for each word costs
    # as much as all the rest.
    return _pack_bytes(
        tuple(
            [
                word
                if type(word) is bytes
                else word.encode()
                if type(word) is str
                else b"%d" % word
                if type(word) is int
                else _as_bytes(word)
                for word in words
            ]
        )
    )


class Packer:
    """:func:`pack` for redis-py, whose commands may have two words in one (``CONFIG GET``)."""

    @staticmethod
    def pack(*words: Any) -> list[bytes]:
        return [pack((*_as_bytes(words[0]).split(), *words[1:]))]


# Before 5.3 a pool wanted to be told what for, and did nothing with it.
_FOR = () if tuple(int(n) for n in redis.__version__.split(".")[:2]) >= (5, 3) else ("",)
_Trouble = (redis.ConnectionError, redis.TimeoutError, OSError)
#: How often who waits looks for places that were freed without a word, in seconds.
_LOOK_AGAIN = 0.05
_FIRST = (0,)
_getpid = os.getpid


class _Greeting:
    """A connection that knows whether its greeting has ended whole.

    Attributes:
        greeted: it is connected, and what the password and the database need was answered.
        number: see ``connections.py``.
    """

    greeted = False
    number = 0

    def greet(self) -> None:
        """Greet the server. redis-py calls it when a socket is open, instead of ``on_connect``."""
        it: Any = self
        it.on_connect()
        self.number = next_number()
        self.greeted = True

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self.greeted = False
        super().disconnect(*args, **kwargs)  # type: ignore[misc]


class _Loan:
    """A connection in the hands of redis-py's client, which may be interrupted anywhere.

    It knows whether answers are still to come. And what is left of an interrupted client may
    give it back a second time, or use it: by then the connection is another's, and not reached.
    """

    def __init__(self) -> None:
        #: The connection, until it is given back.
        self.held: list[Any] = []
        self._owed = 0

    def __getattr__(self, name: str) -> Any:
        try:
            connection = self.held[0]
        except IndexError:
            raise redis.ConnectionError("The connection was given back.") from None
        return getattr(connection, name)

    # Packing counts as asking, so that the count is there before the first byte is sent. One
    # that is too high closes a connection needlessly, and that is all.
    def send_command(self, *args: Any, **kwargs: Any) -> None:
        self._owed += 1
        self.__getattr__("send_command")(*args, **kwargs)

    def pack_command(self, *args: Any) -> Any:
        self._owed += 1
        return self.__getattr__("pack_command")(*args)

    def pack_commands(self, commands: Iterable[Any]) -> Any:
        listed = list(commands)
        self._owed += len(listed)
        return self.__getattr__("pack_commands")(listed)

    def read_response(self, *args: Any, **kwargs: Any) -> Any:
        try:
            answer = self.__getattr__("read_response")(*args, **kwargs)
        except ResponseError:
            self._owed -= 1
            raise
        self._owed -= 1
        return answer

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        if self.held:
            self.__getattr__("disconnect")(*args, **kwargs)

    def is_whole(self, pid: int) -> bool:
        """Whether it is connected, by this process, and nothing is open on it."""
        return bool(self.held) and self._owed == 0 and self.held[0].greeted and self.held[0].pid == pid


class _Tcp(_Greeting, redis.Connection):
    """Over TCP."""


class _Tls(_Greeting, redis.SSLConnection):
    """Over TLS."""


class _Unix(_Greeting, redis.UnixDomainSocketConnection):
    """Over a unix socket."""


#: The connections of a :class:`Pool`, by the scheme of the URL.
CONNECTIONS: dict[str, Any] = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}


class _Places:
    """The connections of one process: which are ready, which exist, who waits.

    Every step is one call into C, which no signal and no other thread can come between. Who
    takes a connection passes a list for it, and gives back or drops what is on the list.

    Args:
        make: makes a connection, unconnected.
        most: how many there may be at once.
    """

    def __init__(self, make: Callable[[], Any], most: int) -> None:
        self.pid = os.getpid()
        self._make = make
        self._most = most
        self._ready: deque[Any] = deque()
        # In the order in which they were made. Each is taken out when its connection dies.
        self._live: dict[weakref.ref[Any], None] = {}
        # Each gets a connection, or None for a place that is free.
        self._waiting: deque[SimpleQueue[Any]] = deque()

    def take(self, held: list[Any], timeout: float) -> None:
        """Put a connection that is ready, or a new one, on the list; wait where all places are taken.

        Raises:
            redis.ConnectionError: none was free in time.
        """
        if not self._found(held):
            self._wait(held, timeout)

    def _found(self, held: list[Any]) -> bool:
        try:
            held.append(self._ready.pop())
        except IndexError:
            return self._made(held)
        return True

    def _made(self, held: list[Any]) -> bool:
        if len(self._live) >= self._most:
            return False
        held.append(self._make())
        # The dictionary alone keeps the reference, which calls back only while it lives.
        self._live.setdefault(weakref.ref(held[0], self._live.__delitem__))
        if self._has_place(held[0]):
            return True
        # Other threads looked at the same time.
        held.clear()
        return False

    def _has_place(self, connection: Any) -> bool:
        return weakref.ref(connection) in list(self._live)[: self._most]

    def _wait(self, held: list[Any], timeout: float) -> None:
        deadline = time.monotonic() + timeout
        mine: SimpleQueue[Any] = SimpleQueue()
        try:
            self._waiting.append(mine)
            # Looked after queueing: who gives one back looks at the queue after it is there.
            while not self._found(held):
                left = deadline - time.monotonic()
                if left <= 0:
                    raise redis.ConnectionError("No connection available.")
                try:
                    held.append(mine.get(timeout=min(left, _LOOK_AGAIN)))
                except Empty:
                    continue
                if held[0] is not None:
                    return
                held.clear()
                self._waiting.append(mine)
        finally:
            with contextlib.suppress(ValueError):
                self._waiting.remove(mine)
            # Handed something as well as having found something.
            with contextlib.suppress(Empty):
                while True:
                    self._hand(mine.get_nowait())

    def give_back(self, held: list[Any]) -> None:
        """Put the connection among those that are ready. Nothing may be open on it."""
        # One call: at no moment it is on both lists, or on none.
        self._ready.extend(map(held.pop, _FIRST))
        while self._waiting and self._ready:
            try:
                self._hand(self._ready.pop())
            except IndexError:
                return

    def _hand(self, connection: Any) -> None:
        """Give a connection, or None for a place that is free, to who waits longest."""
        try:
            self._waiting.popleft().put(connection)
        except IndexError:
            if connection is not None:
                self._ready.append(connection)

    def drop(self, held: list[Any]) -> None:
        """Close the connection, if there is one, so that it may be connected anew."""
        if not held or held[0] is None:
            return
        try:
            held[0].disconnect()
            if self._has_place(held[0]):
                self.give_back(held)
                return
        except BaseException:
            # It dies with the traceback that refers to it; its place is free now.
            if held:
                self._live.pop(weakref.ref(held[0]), None)
            raise
        self._live.pop(weakref.ref(held[0]), None)

    def idle(self) -> list[Any]:
        return list(self._ready)

    def all(self) -> list[Any]:
        """Return all connections, those in use included."""
        return [found for ref in list(self._live) if (found := ref()) is not None]


class Pool(redis.ConnectionPool):
    """A pool that threads wait at, with a short way for one request.

    Args:
        timeout: how long to wait for a connection, in seconds.
    """

    def __init__(self, *, timeout: float, **kwargs: Any) -> None:
        self.timeout = timeout
        # Not the connection's own greeting: after this one it is known to have ended.
        super().__init__(redis_connect_func=_Greeting.greet, command_packer=Packer, **kwargs)

    def __repr__(self) -> str:
        return _named(self)

    def reset(self) -> None:
        super().reset()
        self._renew()

    def _renew(self) -> _Places:
        # A forked child has its own: its parent's connections stay its parent's.
        places = self._here = _Places(self._new_connection, self.max_connections)
        return places

    def _new_connection(self) -> Any:
        return self.connection_class(**self.connection_kwargs)

    @property
    def _places(self) -> _Places:
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
            connection = self._taken(places, held)
            if opened is not None and connection.number > opened:
                number = connection.number
                places.give_back(held)
                raise NewConnection(number)
            connection.send_packed_command((request,), check_health=False)
            answers = [_answer(connection)]
            while len(answers) < count:
                answers.append(_answer(connection))
            places.give_back(held)
        except BaseException:
            # What is left of the answers must not meet the next request.
            places.drop(held)
            raise
        return answers

    def _taken(self, places: _Places, held: list[Any]) -> Any:
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
        loan = _Loan()
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


async def _agreet(connection: Any) -> None:
    await connection.on_connect()
    connection.number = next_number()


def _answer(connection: Any) -> Any:
    try:
        return connection.read_response()
    except ResponseError as error:
        return error


def _named(pool: Any) -> str:
    """Name a pool without its secrets, which redis-py's own name holds in some versions."""
    known = pool.connection_kwargs
    where = known.get("path") or f"{known.get('host')}:{known.get('port')}"
    return f"<{type(pool).__name__} {where} db {known.get('db')}>"


class AsyncPool(redis.asyncio.BlockingConnectionPool):
    """The same for the tasks of one event loop, which nothing comes between but an ``await``.

    Idle connections that came the short way lie on a list, ready for the next; their places
    in the pool stay taken, so both ways share one limit.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(redis_connect_func=_agreet, **kwargs)
        self._ready: list[Any] = []

    def __repr__(self) -> str:
        return _named(self)

    async def ask(self, request: bytes, count: int = 1, *, opened: int | None = None) -> list[Any]:
        """See :meth:`Pool.ask`."""
        connection = await self._take()
        if opened is not None and connection.number > opened:
            await self.release(connection)
            raise NewConnection(connection.number)
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
