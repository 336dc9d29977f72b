"""The places of a pool: connections that are ready, lent or being opened, and who waits for one.

A signal handler may raise between any two instructions (Ctrl-C, a worker's soft time
limit). So nothing here is counted up and down, and no lock is held between two
instructions. A connection is on one list at any moment: of those that are ready, where it
comes only after its last answer was read whole, or of its borrower, who closes what is on it
when interrupted. It takes a place because it exists: what is lost anyway closes its
socket and frees its place, without a line of code that could be interrupted in its turn.
"""

from __future__ import annotations

import contextlib
import os
import time
import weakref
from collections import deque
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any

import redis
import redis.asyncio
from redis.exceptions import ResponseError

from lix_cache.hot.connections import next_number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["CONNECTIONS", "Greeting", "Loan", "Places", "check_is_master"]


#: How often who waits looks for places that were freed without a word, in seconds.
_LOOK_AGAIN = 0.05


_FIRST = (0,)


class Greeting:
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

    def greet_master(self) -> None:
        """Greet a server that Sentinel named, and part from one that is a replica.

        Raises:
            redis.ReadOnlyError: it is one: what it has may be old. A sentinel may not have heard of it yet.
        """
        it: Any = self
        it.on_connect()
        it.send_command("HELLO", check_health=False)
        try:
            said = it.read_response()
        except redis.ResponseError:
            said = ()  # a user who may not ask: the first write tells
        check_is_master(said)
        self.number = next_number()
        self.greeted = True

    def disconnect(self, *args: Any, **kwargs: Any) -> None:
        self.greeted = False
        super().disconnect(*args, **kwargs)  # type: ignore[misc]


def check_is_master(said: Any) -> None:
    """Look at what a server answered to HELLO.

    Raises:
        redis.ReadOnlyError: it says that it is a replica.
    """
    facts = said if isinstance(said, dict) else dict(zip(said[::2], said[1::2], strict=True))
    if facts.get(b"role", facts.get("role")) in (b"replica", "replica"):
        raise redis.ReadOnlyError("READONLY it has become a replica")


class Loan:
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


class _Tcp(Greeting, redis.Connection):
    """Over TCP."""


class _Tls(Greeting, redis.SSLConnection):
    """Over TLS."""


class _Unix(Greeting, redis.UnixDomainSocketConnection):
    """Over a unix socket."""


#: The connections of a :class:`Pool`, by the scheme of the URL.
CONNECTIONS: dict[str, Any] = {"redis": _Tcp, "rediss": _Tls, "unix": _Unix}


class Places:
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
