"""What ``begin`` returns, and streams as applications read them: the sync and the async shells."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
from collections.abc import AsyncIterable, AsyncIterator, Generator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.checks import check_seconds
from lix_cache.errors import InvalidInput
from lix_cache.hot.entries import tag_words
from lix_cache.semantic import in_flight, streams
from lix_cache.semantic.core import Core, query_text
from lix_cache.semantic.in_flight import Asking, Keep, Lead
from lix_cache.semantic.result import Lookup, Stored
from lix_cache.semantic.scope import canonical, frozen, merged
from lix_cache.semantic.single_flight import OVERDUE, Flights
from lix_cache.semantic.streams import END, Reader, Stream, Turn

if TYPE_CHECKING:
    import weakref

    from lix_cache.daemon import Promise
    from lix_cache.drivers.aio import AsyncDriver
    from lix_cache.drivers.sync import SyncDriver
    from lix_cache.effects import Flow
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncInFlightCall", "AsyncSource", "InFlightCall", "SyncSource", "alanded", "begin", "landed"]


def begin(
    core: Core,
    flights: Flights,
    asked: tuple[str, Mapping[str, Any] | None, VectorLike | None, float],
    wait: in_flight.Wait,
) -> Flow[Lookup | Lead]:
    """Look an answer up, or join an equal call that is under way, or lead one."""
    query, context, embedding, lock_seconds = asked
    check_seconds("lock_seconds", lock_seconds)
    # A copy: what the caller does with the context later changes nothing that is compared or stored.
    own = None if context is None else frozen(context)
    key = query_text(query), canonical(merged(core.scopes.context, own))
    asking = Asking(query, own, key, "begin()", lock_seconds, embedding)
    found = yield from in_flight.look(core, asking)
    if found.is_hit:
        return found
    begun: Lookup | Lead = yield from in_flight.join(core, flights, asking, found, wait)
    return begun


class _InFlight:
    def __init__(self, lead: Lead) -> None:
        self._lead = lead

    #: Both results of ``begin`` have it.
    is_hit = False

    def __bool__(self) -> bool:
        return False

    @property
    def missed(self) -> Lookup:
        """The lookup that found nothing: its reason says why."""
        return self._lead.missed

    @property
    def stored(self) -> Stored | None:
        """What happened to the answer; None until it is known."""
        return self._lead.stored

    def _keep(self, ttl_seconds: float | None, tags: Sequence[str], tokens: tuple[int, int] | None) -> Keep:
        if ttl_seconds is not None:
            check_seconds("ttl_seconds", ttl_seconds)
        tag_words(tags)
        if self._lead.is_ending:
            raise InvalidInput("this call has ended: it was completed, recorded or failed before")
        return Keep(ttl_seconds, tuple(tags), tokens)


class InFlightCall(_InFlight):
    """A call that :meth:`SemanticCache.begin` found no answer for. The caller makes the answer.

    Equal calls wait for it, in this process and in others. End it with :meth:`complete`,
    :meth:`record` or :meth:`fail`. A dropped call has failed. If its process dies, it ends for the others
    after ``lock_seconds``. Its truth value is False, like that of a miss.
    """

    def __init__(self, lead: Lead, drive: Any) -> None:
        super().__init__(lead)
        self._drive = drive

    def complete(
        self,
        value: Any,
        *,
        ttl_seconds: float | None = None,
        tags: Sequence[str] = (),
        tokens: tuple[int, int] | None = None,
    ) -> Stored:
        """Store the answer, and give it to the waiting equal calls.

        A failure to store is no error: the result gives the reason, and waiting calls still get the
        answer. A value that can never be stored is one: the call goes on, and takes another value.

        Args:
            value: the answer; for a stream that you have already read, ``Streamed(events, final)``.
            ttl_seconds: time to live of the entry, instead of the policy's.
            tags: words to invalidate it by.
            tokens: of the prompt and of the completion.

        Raises:
            InvalidInput: the call has ended before, or the value or an argument is not usable.
        """
        keep = self._keep(ttl_seconds, tags, tokens)
        stored: Stored = self._drive(self._lead.offered(value, keep))
        return stored

    def fail(self, error: Exception | None = None) -> None:
        """End the call without an answer. Does nothing if it has ended.

        Args:
            error: waiting calls in this process each get a copy. None: one waiting call starts over,
                in any process.
        """
        if not self._lead.is_ending:
            self._drive(self._lead.fail(error))

    def record(
        self,
        source: Iterable[Any],
        *,
        ttl_seconds: float | None = None,
        tags: Sequence[str] = (),
        tokens: tuple[int, int] | None = None,
    ) -> Generator[Any, None, Any]:
        """Pass a stream on, record it, and store it when it ends whole.

        Equal calls of this process get its events as they come, from the first on. Those of other
        processes wait for its end. It is not stored if the source raises, or if all readers stop before
        its end; then the source is closed. A reader that stops early does not end it for the others.

        Args:
            source: yields plain values. With other events, or more than the policy allows
                (``max_stream_bytes``, ``max_stream_events``), the stream goes on but is not stored: see
                :attr:`stored`.
            ttl_seconds: time to live of the entry, instead of the policy's.
            tags: words to invalidate it by.
            tokens: of the prompt and of the completion.

        Raises:
            InvalidInput: the call has ended before, or an argument is not usable.
        """
        keep = self._keep(ttl_seconds, tags, tokens)
        if not isinstance(source, Iterable):
            raise InvalidInput(f"the source must be iterable, got a {type(source).__name__}")
        ways = SyncSource(source, self._drive)
        return ways.events(*streams.opened(self._lead, keep, ways))


class AsyncInFlightCall(_InFlight):
    """Async variant of :class:`InFlightCall`."""

    def __init__(self, lead: Lead, drive: Any) -> None:
        super().__init__(lead)
        self._drive = drive

    async def complete(
        self,
        value: Any,
        *,
        ttl_seconds: float | None = None,
        tags: Sequence[str] = (),
        tokens: tuple[int, int] | None = None,
    ) -> Stored:
        """See :meth:`InFlightCall.complete`."""
        keep = self._keep(ttl_seconds, tags, tokens)
        stored: Stored = await self._drive(self._lead.offered(value, keep))
        return stored

    async def fail(self, error: Exception | None = None) -> None:
        """See :meth:`InFlightCall.fail`."""
        if not self._lead.is_ending:
            await self._drive(self._lead.fail(error))

    def record(
        self,
        source: AsyncIterable[Any],
        *,
        ttl_seconds: float | None = None,
        tags: Sequence[str] = (),
        tokens: tuple[int, int] | None = None,
    ) -> AsyncIterator[Any]:
        """See :meth:`InFlightCall.record`. The source runs in a task of its own, so that one reader's
        cancellation does not end it for the others.
        """
        keep = self._keep(ttl_seconds, tags, tokens)
        if not isinstance(source, AsyncIterable):
            raise InvalidInput(f"the source must be an async iterable, got a {type(source).__name__}")
        ways = AsyncSource(source, self._drive)
        return ways.events(*streams.opened(self._lead, keep, ways))


def landed(future: Promise[Any], seconds: float) -> Any:
    """Wait for the result of an in-flight call, in a thread."""
    return future.result() if future.wait(seconds) else OVERDUE


async def alanded(future: Promise[Any], seconds: float) -> Any:
    """Wait for the result of an in-flight call, on an event loop."""
    return future.result() if await future.wait_async(seconds) else OVERDUE


class SyncSource:
    """A source that blocks: the reader pulls it, in its own thread."""

    wait = staticmethod(landed)

    def __init__(self, source: Iterable[Any], drive: SyncDriver) -> None:
        self._source = iter(source)
        self._drive = drive

    def pull(self) -> tuple[bool, Any]:
        try:
            return True, next(self._source)
        except StopIteration as stop:
            return False, stop.value

    def advance(self, stream: Stream, turn: Turn) -> None:
        self._drive(stream.advance(turn))

    def stop(self) -> None:
        if isinstance(self._source, Generator) or hasattr(self._source, "close"):
            self._source.close()

    def deserted(self, stream: weakref.ref[Stream]) -> None:
        """Nothing to do: the source goes with the last one that refers to it."""

    def events(self, stream: Stream, reader: Reader) -> Generator[Any, None, Any]:
        try:
            while (event := self._drive(stream.next(reader))) is not END:
                yield event
            return reader.final
        finally:
            self._drive(stream.leave(reader))


class AsyncSource:
    """A source that is awaited, in one task of its own: the pump. Its readers may be on other loops."""

    wait = staticmethod(alanded)

    def __init__(self, source: AsyncIterable[Any], drive: AsyncDriver) -> None:
        self._source = aiter(source)
        self._drive = drive
        self._loop = asyncio.get_running_loop()
        self._context = contextvars.copy_context()
        self._turns: asyncio.Queue[Turn] = asyncio.Queue()
        self._task: asyncio.Task[None] | None = None

    async def pull(self) -> tuple[bool, Any]:
        try:
            return True, await anext(self._source)
        except StopAsyncIteration:
            return False, None

    async def advance(self, stream: Stream, turn: Turn) -> None:
        if asyncio.get_running_loop() is self._loop:
            self._put(turn)
            return
        try:
            self._loop.call_soon_threadsafe(self._put, turn)
        except RuntimeError:
            stream.is_broken = True  # the loop has ended, and the source with it

    def _put(self, turn: Turn) -> None:
        self._turns.put_nowait(turn)
        if self._task is None:
            # Kept, because the loop itself holds its tasks only weakly.
            self._task = self._context.run(self._loop.create_task, self._pump())

    async def _pump(self) -> None:
        is_over = False
        try:
            while not is_over:
                turn = await self._turns.get()
                try:
                    await self._drive(turn.stream.advance(turn))
                finally:
                    is_over = turn.stream.is_over
                    del turn  # or the stream would stay as long as its pump
        finally:
            await self._close()

    async def _close(self) -> None:
        close = getattr(self._source, "aclose", None)
        if close is not None:
            await close()

    async def stop(self) -> None:
        if self._task is None:
            await self._close()
            return
        if asyncio.get_running_loop() is self._loop:
            self._task.cancel()
            await asyncio.wait([self._task])
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._task.cancel)

    def deserted(self, stream: weakref.ref[Stream]) -> None:
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(functools.partial(self._look_after, stream))

    def _look_after(self, stream: weakref.ref[Stream]) -> None:
        found = stream()
        if self._task is not None and (found is None or not found.has_readers):
            self._task.cancel()

    async def events(self, stream: Stream, reader: Reader) -> AsyncIterator[Any]:
        try:
            while (event := await self._drive(stream.next(reader))) is not END:
                yield event
        finally:
            await self._drive(stream.leave(reader))
