"""The decorator: a function whose answers are looked up first, and that runs once for many."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import inspect
import io
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Coroutine,
    Generator,
    Iterator,
    Mapping,
    Sequence,
)
from typing import TYPE_CHECKING, Any, TypeVar, cast, overload

from lix_cache.daemon import Crew
from lix_cache.drivers.aio import AsyncDriver
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import Flow
from lix_cache.errors import ConfigError
from lix_cache.semantic.asking import Asker, Rules
from lix_cache.semantic.calls_in_flight import AsyncSource, SyncSource, alanded, landed
from lix_cache.semantic.run_once import Calls, Variant
from lix_cache.values.streamed import Streamed

if TYPE_CHECKING:
    from lix_cache.hot.endpoint import Endpoint
    from lix_cache.semantic.core import Core

__all__ = ["Decorating", "decorate"]

F = TypeVar("F", bound=Callable[..., Any])

#: Refreshes that may run beside the calls of one function; more are left to the next call.
_MOST_REFRESHES = 8


def decorate(core: Core, endpoint: Endpoint, function: F, rules: Rules) -> F:
    """Return the function with the cache before it, of the same kind."""
    asker = Asker(function, rules, core.hits.policy, core.scopes.context)
    if inspect.isgeneratorfunction(function):
        wrapper = _wrapped_generator(_Sync(Calls(core, asker, function, rules), endpoint, streams=True))
    elif inspect.isasyncgenfunction(function):
        calls = Calls(core, asker, function, rules)
        wrapper = _wrapped_async_generator(_Async(calls, endpoint, streams=True))
    elif inspect.iscoroutinefunction(function):

        async def arun(*args: Any, **kwargs: Any) -> Any:
            return _whole(await function(*args, **kwargs), asker.name)

        wrapper = _wrapped_coroutine(_Async(Calls(core, asker, arun, rules), endpoint))
    else:

        def run(*args: Any, **kwargs: Any) -> Any:
            return _whole(function(*args, **kwargs), asker.name)

        wrapper = _wrapped_function(_Sync(Calls(core, asker, run, rules), endpoint))
    return cast("F", functools.wraps(function)(wrapper))


def _wrapped_function(shell: _Sync) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return shell.call(args, kwargs)

    return wrapper


def _wrapped_coroutine(shell: _Async) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        return await shell.call(args, kwargs)

    return wrapper


def _wrapped_generator(shell: _Sync) -> Callable[..., Any]:
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        return (yield from shell.stream(args, kwargs))

    return wrapper


def _wrapped_async_generator(shell: _Async) -> Callable[..., Any]:
    async def wrapper(*args: Any, **kwargs: Any) -> Any:
        # Closed when this is, so that what ends early has ended then.
        async with contextlib.aclosing(await shell.stream(args, kwargs)) as events:
            async for event in events:
                yield event

    return wrapper


def _whole(result: Any, name: str) -> Any:
    """Return a result that is all there. What can be read only once cannot be kept, nor shared.

    Raises:
        ConfigError: it is an iterator, a coroutine, a file or the like.
    """
    if isinstance(result, (Iterator, AsyncIterator, Awaitable, io.IOBase)):
        if isinstance(result, (Generator, Coroutine)):
            result.close()  # it will not be run
        kind = type(result)
        raise ConfigError(
            f"{name} returned a {kind.__module__}.{kind.__qualname__}, which can be read only once; only "
            "whole answers can be cached, and functions that yield: yield or join the pieces, or await the "
            "result, inside the function"
        )
    return result


class Decorating:
    """The decorator, for both variants of the cache: what it wraps has a variant of its own."""

    _core: Core
    _endpoint: Endpoint

    @overload
    def cached(self, function: F, /) -> F: ...

    @overload
    def cached(
        self,
        /,
        *,
        query_param: str = ...,
        ignore: Sequence[str] = ...,
        identify: Mapping[str, Callable[[Any], Any]] | None = ...,
        name: str | None = ...,
        static_context: Mapping[str, Any] | None = ...,
        ttl_seconds: float | None = ...,
        stale_while_revalidate: float = ...,
        tags: Sequence[str] = ...,
        lock_seconds: float = ...,
        run_on_error: bool = ...,
    ) -> Callable[[F], F]: ...

    # The signature is written above, for type checkers and readers; the defaults are those of Rules.
    def cached(self, function: Callable[..., Any] | None = None, /, **settings: Any) -> Any:
        """Return a decorator that looks a function's answers up before it runs, and stores them.

        Written as ``@cache.cached`` or, with settings, as ``@cache.cached(...)``.

        Of equal calls at the same time one runs, in this process and across processes. The others get
        its answer, or its exception if they are in the same process, each as an object of its own.
        The function may be sync or async, as this cache is. It may also yield its answer in pieces: the
        cache records the events while it passes them on, shares them with equal calls of this process,
        stores them when the stream ends whole, and replays them on a hit (docs/cached-functions.md).

        All arguments must match exactly, by type and content. So must what the function reads besides
        them: variables it closes over, and global data. An object there that cannot be compared keeps the
        answers in this process. Only the question is also found by its meaning: a text of one line, up to
        500 characters, or such a text at the end of messages whose other content matches exactly. The
        function gets copies of arguments that could change while it runs.

        Args:
            function: the decorated function, if ``@cache.cached`` has no parentheses.
            query_param: the parameter that holds the question: a text, or messages (see
                ``CachePolicy.extract_query``).
            ignore: parameters that the answer does not depend on: a trace id, a client. For a
                method, ``self`` if its object changes nothing; else identify it. Also names that
                the function closes over or reads.
            identify: parameter, or such a name, to a function that describes its value in plain
                values: ``{"self": lambda self: (self.model, self.temperature)}``.
            name: the name that answers are stored under; by default that of the function. Functions
                with one name share answers.
            static_context: what else must match exactly, the same for all calls.
            ttl_seconds: time to live of an answer; the policy's by default.
            stale_while_revalidate: seconds after that time, 0 by default, in which an answer is still
                served while the function runs in the background to renew it.
            tags: words to invalidate the answers by.
            lock_seconds: how long equal calls wait for the one that runs, 30 by default; then they
                run, too.
            run_on_error: run the function while Redis fails (the default), instead of raising.

        An answer that cannot be stored is still returned; ``get_stats`` counts it.

        Raises:
            ConfigError: the function has no such parameter, or (at a call) returns something
                that can be read only once.
            StreamInterrupted: while a stream is read along with an equal call whose run stops.
            InvalidContext: ``static_context`` or, at a call, an argument holds what
                cannot be compared exactly.
            MissingExtra: at a call, the embedder needs a package that is not installed.
        """
        for name in settings.keys() - Rules.__dataclass_fields__.keys():
            raise TypeError(f"{type(self).__name__}.cached() got an unexpected keyword argument {name!r}")
        rules = Rules(**{name: value for name, value in settings.items() if value is not None})

        def put_before(function: F) -> F:
            return decorate(self._core, self._endpoint, function, rules)

        return put_before if function is None else put_before(function)


class _Sync:
    """Calls of a function that blocks."""

    def __init__(self, cached: Calls, endpoint: Endpoint, *, streams: bool = False) -> None:
        self._cached = cached
        self._drive = SyncDriver(endpoint, cached.core.clock)
        self._refreshing = Crew(_MOST_REFRESHES)
        ways = functools.partial(SyncSource, drive=self._drive) if streams else None
        self._variant = Variant(landed, self._beside, ways)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        question = self._cached.question(args, kwargs)
        if question is None:
            return self._cached.run(*args, **kwargs)
        return self._drive(self._cached.call(question, self._variant))

    def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Generator[Any, Any, Any]:
        found = self.call(args, kwargs)
        if not isinstance(found, Streamed):
            return (yield from found)
        yield from found
        return found.final

    def _beside(self, flow: Flow[None]) -> None:
        context = contextvars.copy_context()
        try:
            self._refreshing.start(lambda: context.run(self._drive, flow), "lix-cache-refresh")
        except RuntimeError as error:
            # No more threads, or the interpreter is ending: the answer is still there.
            self._cached.core.stats.trouble("refresh_errors", error)


class _Async:
    """Calls of a coroutine function."""

    def __init__(self, cached: Calls, endpoint: Endpoint, *, streams: bool = False) -> None:
        self._cached = cached
        self._drive = AsyncDriver(endpoint)
        self._running: set[asyncio.Task[None]] = set()
        ways = functools.partial(AsyncSource, drive=self._drive) if streams else None
        self._variant = Variant(alanded, self._beside, ways)

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        question = self._cached.question(args, kwargs)
        if question is None:
            return await self._cached.run(*args, **kwargs)
        return await self._drive(self._cached.call(question, self._variant))

    async def stream(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> AsyncGenerator[Any, None]:
        question = self._cached.question(args, kwargs)
        if question is None:
            source: AsyncGenerator[Any, None] = self._cached.run(*args, **kwargs)
            return source
        found = await self._drive(self._cached.call(question, self._variant))
        events: AsyncGenerator[Any, None] = aiter(found)
        return events

    def _beside(self, flow: Flow[None]) -> None:
        loop = asyncio.get_running_loop()
        # Those of a loop that ended, or was left behind by a fork, never say that they are done.
        self._running = {task for task in self._running if task.get_loop() is loop}
        if len(self._running) < _MOST_REFRESHES:
            # Kept, because the loop itself holds its tasks only weakly.
            task = loop.create_task(self._drive(flow))
            self._running.add(task)
            task.add_done_callback(self._running.discard)
