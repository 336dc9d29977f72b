"""The decorator: a function whose answers are looked up first, and that runs once for many.

What a call does is one flow; the two colours differ in how they wait for one another and in
what runs beside them.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import inspect
import os
import threading
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar, cast

from lix_cache._log import logger
from lix_cache.drive import AsyncDriver, SyncDriver
from lix_cache.effects import Call, Flow
from lix_cache.errors import ConfigError, InvalidInput, LixCacheError, RedisError
from lix_cache.hot.keys import digest
from lix_cache.semantic import answers, storing
from lix_cache.semantic.flight import ABANDONED, Flight, Flights, Shared, leading, own_copy
from lix_cache.semantic.flow import check_life
from lix_cache.semantic.lookup import Lookup, Reason
from lix_cache.semantic.scope import canonical, merged
from lix_cache.semantic.text import normalise

if TYPE_CHECKING:
    from lix_cache.hot.client import Endpoint
    from lix_cache.semantic.core import Core

__all__ = ["Decorating", "Rules", "decorate"]

F = TypeVar("F", bound=Callable[..., Any])

#: Refreshes that may run beside the calls of one function; more are left to the next call.
_MOST_REFRESHES = 8
_TOKEN_BYTES = 16


@dataclass(frozen=True)
class Rules:
    """How a function's calls are cached; see :meth:`Decorating.cached`."""

    query_param: str = "prompt"
    strict_params: Sequence[str] = ()
    static_context: Mapping[str, Any] = field(default_factory=dict)
    auto_strict: bool = False
    ttl_seconds: float | None = None
    stale_while_revalidate: float = 0.0
    tags: Sequence[str] = ()
    lock_seconds: float = 30.0
    run_on_error: bool = True

    def __post_init__(self) -> None:
        canonical(self.static_context, "static_context")
        check_life(self.lock_seconds, "lock_seconds")
        if self.ttl_seconds is not None:
            check_life(self.ttl_seconds)
        if self.stale_while_revalidate:
            check_life(self.stale_while_revalidate, "stale_while_revalidate")
        if isinstance(self.strict_params, str):
            raise ConfigError(f"strict_params must be a list of names, got {self.strict_params!r}")


def decorate(core: Core, endpoint: Endpoint, function: F, rules: Rules) -> F:
    """Return the function with the cache before it."""
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise ConfigError(f"{function!r} yields its answer in pieces; only whole answers can be cached")
    if inspect.iscoroutinefunction(function):
        shell = _Async(_Cached(core, function, rules), endpoint)

        @functools.wraps(function)
        async def wrapper(*args: Any, **kwargs: Any) -> Any:
            return await shell.call(args, kwargs)

        return cast("F", wrapper)
    sync = _Sync(_Cached(core, function, rules), endpoint)

    @functools.wraps(function)
    def sync_wrapper(*args: Any, **kwargs: Any) -> Any:
        return sync.call(args, kwargs)

    return cast("F", sync_wrapper)


class Decorating:
    """The decorator, for both colours of the cache: what it wraps has a colour of its own."""

    _core: Core
    _endpoint: Endpoint

    def cached(
        self,
        *,
        query_param: str = "prompt",
        strict_params: Sequence[str] = (),
        static_context: Mapping[str, Any] | None = None,
        auto_strict: bool = False,
        ttl_seconds: float | None = None,
        stale_while_revalidate: float = 0.0,
        tags: Sequence[str] = (),
        lock_seconds: float = 30.0,
        run_on_error: bool = True,
    ) -> Callable[[F], F]:
        """Return a decorator that looks a function's answers up before it runs, and stores them.

        Of equal calls at once one runs, in this process and across processes; the others get
        its answer, or its exception if they are in the same process. The function may be sync
        or async, whichever this cache is.

        Args:
            query_param: the parameter that holds the question: a text, or messages, of which
                the last user turn is taken (see ``CachePolicy.extract_query``).
            strict_params: parameters that must match exactly: the model, the temperature.
            static_context: what else must match exactly, the same for all calls.
            auto_strict: let all parameters but ``query_param`` (and ``self``) match exactly.
                Without it, those that are not named above are ignored.
            ttl_seconds: life of an answer; the policy's by default.
            stale_while_revalidate: seconds after that life in which an answer is still
                served, while the function runs beside the call to renew it.
            tags: words to invalidate the answers by.
            lock_seconds: how long other processes wait for the one that runs.
            run_on_error: run the function while Redis is in trouble, instead of raising.

        An answer that cannot be stored is returned all the same; ``get_stats`` counts it.

        Raises:
            ConfigError: the function has no such parameter, or yields its answer in pieces.
            InvalidContext: ``static_context`` or, at a call, a strict parameter holds what
                cannot be compared exactly.
        """
        rules = Rules(
            query_param=query_param,
            strict_params=strict_params,
            static_context=static_context or {},
            auto_strict=auto_strict,
            ttl_seconds=ttl_seconds,
            stale_while_revalidate=stale_while_revalidate,
            tags=tags,
            lock_seconds=lock_seconds,
            run_on_error=run_on_error,
        )
        return lambda function: decorate(self._core, self._endpoint, function, rules)


@dataclass(frozen=True)
class _Question:
    """One call, as the cache sees it.

    Attributes:
        query: its text, normalised.
        context: what must match exactly, beside the cache's own.
        run: runs the function.
    """

    query: str
    context: Mapping[str, Any]
    run: Call


class _Cached:
    """The flows of one function's calls."""

    def __init__(self, core: Core, function: Callable[..., Any], rules: Rules) -> None:
        self.core = core
        self.flights = Flights()
        self.name = f"{function.__module__}.{function.__qualname__}"
        self._function = function
        self._rules = rules
        self._signature = inspect.signature(function)
        self._check_names()

    def _check_names(self) -> None:
        parameters = self._signature.parameters
        if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return
        for name in (self._rules.query_param, *self._rules.strict_params):
            if name not in parameters:
                raise ConfigError(
                    f"{self.name} has no parameter {name!r}; it has {', '.join(parameters) or 'none'}"
                )

    # -- what is asked --------------------------------------------------------------------

    def question(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> _Question | None:
        """Read a call; None if it asks nothing that could be cached.

        Raises:
            TypeError: the arguments are not the function's.
            InvalidContext: a strict parameter cannot be compared exactly.
        """
        values = self._values(args, kwargs)
        rules = self._rules
        try:
            query, context = self.core.policy.extract_query(values.pop(rules.query_param, None) or "")
        except InvalidInput:
            self.core.tally.count("uncacheable")
            return None
        names = values if rules.auto_strict else [n for n in rules.strict_params if n in values]
        whole: dict[str, Any] = {"function": self.name, **rules.static_context}
        # All of it must match, whatever the parameters are called.
        whole.update({f"argument.{n}" if n == "function" else n: values[n] for n in names})
        whole.update({f"prompt.{n}" if n in whole else n: value for n, value in context.items()})
        canonical(whole, f"the context of {self.name}")
        return _Question(normalise(query), whole, Call(functools.partial(self._function, *args, **kwargs)))

    def _values(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Return the call's arguments by name, those of ``**kwargs`` too, without ``self``."""
        bound = self._signature.bind(*args, **kwargs)
        bound.apply_defaults()
        values: dict[str, Any] = {}
        for i, (name, value) in enumerate(bound.arguments.items()):
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                values.update(value)
            elif i or name not in {"self", "cls"}:
                values[name] = value
        return values

    # -- a call ---------------------------------------------------------------------------

    def call(
        self, question: _Question, wait: Callable[[Flight], Any], beside: Callable[[Flow[None]], None]
    ) -> Flow[Any]:
        """Answer a call.

        Args:
            question: what is asked.
            wait: waits for a flight, in the colour of the function.
            beside: runs a flow beside the call.
        """
        try:
            found = yield from self._look(question)
        except RedisError as error:
            if not self._rules.run_on_error:
                raise
            self.core.tally.trouble("redis_errors", error)
            logger.warning("{} runs without its cache: {}: {}", self.name, type(error).__name__, error)
            return (yield question.run)
        if found.is_hit:
            if self._is_stale(found):
                beside(self._refresh(question))
            return found.response
        if found.reason == Reason.POLICY:
            return (yield question.run)
        return (yield from self._fly(question, wait))

    def _look(self, question: _Question) -> Flow[Lookup]:
        return (yield from answers.lookup(self.core, answers.Query(question.query, question.context)))

    def _is_stale(self, found: Lookup) -> bool:
        left = found.ttl_remaining_seconds
        return left is not None and left < self._rules.stale_while_revalidate

    def _fly(self, question: _Question, wait: Callable[[Flight], Any]) -> Flow[Any]:
        """Run the function, unless somebody in this process does: then wait for the result."""
        key = (self.name, question.query, canonical(question.context))
        inside = leading.get()
        if key in inside:
            return (yield question.run)  # it calls itself: waiting would be for ever
        while True:
            flight, leads = self.flights.join(key)
            if leads:
                break
            landed = yield Call(functools.partial(wait, flight))
            if landed is not ABANDONED:
                self.core.tally.count("shared_runs")
                return own_copy(landed)
        leading.set(inside | {key})
        try:
            result = yield from self._lead(question)
        except Exception as error:
            self.flights.crash(flight, error)
            raise
        except BaseException:
            # Who led was stopped, not the others: one of them goes on.
            self.flights.land(flight, ABANDONED)
            raise
        finally:
            leading.set(inside)
        self.flights.land(flight, result)
        return result

    def _lead(self, question: _Question) -> Flow[Any]:
        """Run the function, unless another process does: then wait for what it stores."""
        shared = self._shared(question)
        found = yield from shared.take(lambda: self._look(question))
        if found is not None:
            return found.response
        return (yield from self._run(question, shared))

    def _run(self, question: _Question, shared: Shared) -> Flow[Any]:
        try:
            result = yield question.run
            stored = yield from self._store(question, result)
        except GeneratorExit:
            raise  # nobody is there any more to yield to; the flight ends at its deadline
        except BaseException:
            yield from shared.give_back(stored=False)
            raise
        yield from shared.give_back(stored=stored)
        return result

    def _store(self, question: _Question, result: Any) -> Flow[bool]:
        """Store a result; whatever keeps it from being stored, it is the caller's."""
        if result is None:
            self.core.tally.refused("empty")
            return False
        base = self._rules.ttl_seconds
        if base is None:
            base = self.core.policy.ttl_for(question.query, self.core.ttl_seconds)
        life = base + self._rules.stale_while_revalidate
        answer = storing.Answer(question.query, result, question.context, None, life, self._rules.tags)
        try:
            return (yield from storing.store(self.core, answer)) is not None
        except LixCacheError as error:
            self.core.tally.refused(type(error).__name__)
            logger.warning("an answer of {} was not stored: {}: {}", self.name, type(error).__name__, error)
            return False

    def _refresh(self, question: _Question) -> Flow[None]:
        """Run the function for an answer that was served though it is getting old."""
        key = (self.name, question.query, canonical(question.context))
        flight, leads = self.flights.join(key)
        if not leads:
            return
        landed: Any = ABANDONED
        inside = leading.get()
        leading.set(inside | {key})
        try:
            shared = self._shared(question)
            if (yield from shared.try_once()):
                landed = yield from self._run(question, shared)
                self.core.tally.count("refreshed")
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody waits for it
            # The caller has had its answer; the next one tries again.
            self.core.tally.trouble("refresh_errors", error)
            logger.opt(exception=error).warning("refreshing an answer of {} failed", self.name)
        finally:
            leading.set(inside)
            self.flights.land(flight, landed)

    def _shared(self, question: _Question) -> Shared:
        core = self.core
        whole = canonical(merged(core.context, question.context)).decode("latin-1")
        name = digest("flight", whole, question.query, core.version)
        token = core.new_tag() + core.new_tag()
        # Not one of the two signs that an ended flight begins with.
        return Shared(core, core.keys.flight(name), b"=" + token[:_TOKEN_BYTES], self._rules.lock_seconds)


class _Sync:
    """Calls of a function that blocks."""

    def __init__(self, cached: _Cached, endpoint: Endpoint) -> None:
        self._cached = cached
        self._drive = SyncDriver(endpoint, cached.core.clock)
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._places = threading.BoundedSemaphore(_MOST_REFRESHES)

    def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        question = self._cached.question(args, kwargs)
        if question is None:
            return self._cached._function(*args, **kwargs)  # noqa: SLF001 - this module's own class
        return self._drive(self._cached.call(question, lambda flight: flight.future.result(), self._beside))

    def _beside(self, flow: Flow[None]) -> None:
        if self._pid != os.getpid():
            self._begin()  # the threads that hold places did not come along
        places = self._places
        if not places.acquire(blocking=False):
            return
        context = contextvars.copy_context()

        def work() -> None:
            try:
                context.run(self._drive, flow)
            finally:
                places.release()

        try:
            threading.Thread(target=work, name="lix-cache-refresh", daemon=True).start()
        except RuntimeError as error:
            # No more threads, or the interpreter is ending: the answer is there all the same.
            places.release()
            self._cached.core.tally.trouble("refresh_errors", error)


class _Async:
    """Calls of a coroutine function."""

    def __init__(self, cached: _Cached, endpoint: Endpoint) -> None:
        self._cached = cached
        self._drive = AsyncDriver(endpoint)
        self._running: set[asyncio.Task[None]] = set()

    async def call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        question = self._cached.question(args, kwargs)
        if question is None:
            return await self._cached._function(*args, **kwargs)  # noqa: SLF001 - this module's own class
        return await self._drive(self._cached.call(question, _landed, self._beside))

    def _beside(self, flow: Flow[None]) -> None:
        loop = asyncio.get_running_loop()
        # Those of a loop that ended, or was left behind by a fork, never say that they are done.
        self._running = {task for task in self._running if task.get_loop() is loop}
        if len(self._running) < _MOST_REFRESHES:
            # Kept, because the loop itself holds its tasks only weakly.
            task = loop.create_task(self._drive(flow))
            self._running.add(task)
            task.add_done_callback(self._running.discard)


def _landed(flight: Flight) -> Awaitable[Any]:
    # Shielded: one who stops waiting must not stop the flight for the others.
    return asyncio.shield(asyncio.wrap_future(flight.future))
