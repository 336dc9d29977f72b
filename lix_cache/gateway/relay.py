"""An answer on its way: read once from the provider, passed on to all who asked the same.

The pump is a task of its own, so that a client that leaves does not end the answer for the others. When
all have left, it is cancelled, the provider's connection is closed, and nothing is stored. Servers swallow
what is sent to a client that has left, so each reader watches for the disconnection itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from typing import Any

from lix_cache.gateway.answer import Answer
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Pairs, Verdict

__all__ = ["Broken", "Flight", "Head", "Reader", "Stopped", "opened_flight"]

#: How far the slowest reader may be behind where an answer is too large to be kept whole.
_LAG_BYTES = 1 << 20
#: How long all others wait for the slowest reader when it takes nothing.
_STALL_SECONDS = 60.0
_SHARED = frozenset(b"content-type content-encoding cache-control retry-after retry-after-ms".split())


class Broken(Exception):
    """The provider's answer ended before its end: so must the client's."""


class Stopped(Exception):
    """The request that others waited for was stopped before it was answered: it is no answer to them."""


class Head:
    """Status and headers of an answer."""

    __slots__ = ("headers", "is_encoded", "is_stream", "status")

    def __init__(self, status: int, headers: Pairs) -> None:
        # No server says any other: it would not be an answer to the client either.
        self.status = status if 200 <= status < 600 else 502
        self.headers = headers
        kind = next((value for name, value in headers if name == b"content-type"), b"")
        self.is_stream = kind.lower().startswith(b"text/event-stream")
        encoding = next((value for name, value in headers if name == b"content-encoding"), b"")
        self.is_encoded = encoding.strip().lower() not in (b"", b"identity")

    def shared(self) -> Head:
        """Return what another client may see of it: cookies, limits and ids are of the one who asked."""
        return Head(self.status, [pair for pair in self.headers if pair[0] in _SHARED])


class Flight:
    """One answer under way, or found.

    Attributes:
        head: of the provider's answer, once it has come.
        answer: complete, once it is known; found in a cache, or read from the provider.
        verdict: how it was found, if it was.
        error: why there is no head.
        is_read: the provider has sent all of it; what is left is to understand it.
        vectors: those of an answer with many, by their keys, once they are known.
        is_over: nothing more comes, and what it was is known.
        is_broken: it ended before its end.
        tenant: whose it is.
        ids: that stand in its beginning, after the bytes of it that were looked at.
        chunks: of the body; those that all have read may be gone.
    """

    def __init__(self, largest: int, on_end: Callable[[Flight], None], *, goes_on: bool) -> None:
        self.head: Head | None = None
        self.answer: Answer | None = None
        self.cut: Answer | None = None  # what came of an answer that a limit of length ended
        self.vectors: Mapping[bytes, Answer] | None = None
        self.verdict: Verdict | None = None
        self.error: Exception | None = None
        self.is_read = self.is_over = self.is_broken = False
        self.tenant = ""
        self.ids: tuple[int, frozenset[bytes]] = 0, frozenset()
        self.chunks: list[bytes] = []
        self.size = 0
        self.form: Any = None
        self._largest = largest
        self._on_end = on_end
        self._goes_on = goes_on
        self._readers: set[Reader] = set()
        self._task: asyncio.Task[None] | None = None
        self._room: asyncio.Future[None] | None = None
        self._has_ended = False

    @property
    def is_whole(self) -> bool:
        """Whether one who joins now can have all of it."""
        return self.size <= self._largest

    def start(self, pump: Coroutine[Any, Any, None]) -> None:
        """Begin to read."""
        self._task = asyncio.get_running_loop().create_task(self._run(pump))

    async def _run(self, pump: Coroutine[Any, Any, None]) -> None:
        try:
            await pump
        except asyncio.CancelledError:
            self.is_broken = True
        except Exception as error:  # noqa: BLE001 - whatever it is, all readers are to know
            self.is_broken = True
            self.error = self.error or error
        finally:
            self.end()

    def begin(self, head: Head) -> None:
        """Say that the head has come."""
        self.head = head
        self.wake()

    async def put(self, chunk: bytes) -> None:
        """Pass on a piece of the body."""
        self.chunks.append(chunk)
        self.size += len(chunk)
        self.wake()
        if not self.is_whole and not self._readers:
            raise Stopped  # no client is left to read it, and it is too large to be stored
        while not self.is_whole and self._readers and self._lag() > _LAG_BYTES:
            self._room = asyncio.get_running_loop().create_future()
            await asyncio.wait({self._room}, timeout=_STALL_SECONDS)
            if not self._room.done():
                self._drop_slowest()

    def _drop_slowest(self) -> None:
        """Let those go that the others wait for; one that all wait for has the time of its connection."""
        least = min(reader.position for reader in self._readers)
        slowest = {reader for reader in self._readers if reader.position == least}
        if slowest != self._readers:
            self._readers -= slowest
            for reader in slowest:
                reader.is_dropped = True
                reader.cut()

    def _lag(self) -> int:
        least = min(reader.position for reader in self._readers)
        for i in range(least - 1, -1, -1):
            if not self.chunks[i]:
                break
            self.chunks[i] = b""
        return sum(map(len, self.chunks[least:]))

    async def read(self) -> None:
        """Say that the last byte has come, and let the readers pass it on before anything else is done."""
        self.is_read = True
        self.wake()
        await asyncio.sleep(0)

    def found(self, answer: Answer, verdict: Verdict) -> None:
        """End it with an answer out of a cache."""
        self.answer, self.verdict = answer, verdict
        self.end()

    def fail(self, error: Exception) -> None:
        """End it without an answer."""
        self.error = self.error or error
        self.is_broken = True
        self.end()

    def give_up(self, error: BaseException) -> None:
        """Let those who wait go on by themselves: the request that they wait for is stopped."""
        if self.head is None and not self.is_over:
            self.fail(error if isinstance(error, Refused) else Stopped())

    def end(self) -> None:
        """Say that nothing more comes. Only the first end counts."""
        if not self._has_ended:
            self._has_ended = self.is_over = True
            self._on_end(self)
        self.wake()

    def wake(self) -> None:
        """Let all readers look."""
        for reader in self._readers:
            reader.wake()

    def join(self, reader: Reader) -> None:
        """Let a reader wait for it."""
        self._readers.add(reader)

    def leave(self, reader: Reader) -> None:
        """Let a reader go; the last one ends what is not over."""
        self._readers.discard(reader)
        self.moved()
        is_done = self.is_read or self.is_over
        is_wanted = is_done or bool(self._readers) or (self._goes_on and self.is_whole)
        if not is_wanted and self._task is not None:
            # Ended here and not by the task, so that no request joins what is about to break off.
            self.is_broken = True
            self.end()
            # Behind the task's first step: one that is cancelled before it never gets to its own end, where
            # it lets go of what others wait for.
            asyncio.get_running_loop().call_soon(self._task.cancel)

    def moved(self) -> None:
        """Let the pump look whether the slowest reader has come nearer."""
        if self._room is not None and not self._room.done():
            self._room.set_result(None)


def opened_flight(
    flights: dict[bytes, Flight], key: bytes | None, largest: int, *, goes_on: bool, tenant: str
) -> Flight:
    """Return a new flight; with a key, it is among the others until it ends."""

    def ended(flight: Flight) -> None:
        if key is not None and flights.get(key) is flight:
            del flights[key]

    flight = Flight(largest, ended, goes_on=goes_on)
    flight.tenant = tenant
    if key is not None:
        flights[key] = flight
    return flight


class Reader:
    """One client that waits for a flight.

    Args:
        flight: what it reads.
        cut: closes its connection: dropped, it waits there for a client that takes nothing.

    Attributes:
        has_left: the client has gone.
        is_dropped: it took nothing for too long, and others waited for it.
    """

    def __init__(self, flight: Flight, cut: Callable[[], object] = lambda: None) -> None:
        self.flight = flight
        self.cut = cut
        self.position = 0
        self.has_left = False
        self.is_dropped = False
        self._waiter: asyncio.Future[None] | None = None
        flight.join(self)

    def wake(self) -> None:
        """Look again."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    def gone(self, _: object = None) -> None:
        """The client has left."""
        self.has_left = True
        self.wake()

    async def _wait(self) -> None:
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def until_head(self) -> bool:
        """Wait until there is a head, an answer or an end; False if the client left before."""
        while self.flight.head is None and not self.flight.is_over and not self.has_left:
            await self._wait()
        return not self.has_left

    async def until_over(self, *, stays: bool = False) -> bool:
        """Wait until nothing more comes; False if the client left before, unless it stays."""
        while not self.flight.is_over and (stays or not self.has_left):
            # What it does not read piece by piece must not hold the pump.
            self.position = len(self.flight.chunks)
            self.flight.moved()
            await self._wait()
        return not self.has_left

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give the pieces as they come, until the end or until the client leaves.

        Raises:
            Broken: it ended before its end, or this reader was dropped.
        """
        flight = self.flight
        while self.is_dropped or not self.has_left:
            if self.is_dropped:
                raise Broken
            if self.position < len(flight.chunks):
                # All that is there at once: fewer writes, and nothing waits for more.
                ready = flight.chunks[self.position :]
                self.position += len(ready)
                flight.moved()
                yield ready[0] if len(ready) == 1 else b"".join(ready)
            elif flight.is_over and flight.is_broken and not flight.is_read:
                raise Broken
            elif flight.is_read or flight.is_over:
                return
            else:
                await self._wait()

    @property
    def has_all(self) -> bool:
        """Whether no piece is left, and none will come."""
        return self.flight.is_read and self.position == len(self.flight.chunks)

    def leave(self) -> None:
        """Wait no longer."""
        self.flight.leave(self)
