"""Running a function once for many equal calls, and keeping what it answers: the flows of ``cached()``.

What a call does is one flow; the two colours differ in how they wait for one another and in
what runs beside them.
"""

from __future__ import annotations

import functools
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from lix_cache._log import logger
from lix_cache.effects import Call, Compute, Flow
from lix_cache.errors import LixCacheError, RedisError, told
from lix_cache.hot.keys import digest
from lix_cache.semantic import insert, lookup
from lix_cache.semantic.asking import Asker, Question, Rules
from lix_cache.semantic.result import Lookup, Reason
from lix_cache.semantic.scope import canonical, merged
from lix_cache.semantic.single_flight import (
    ABANDONED,
    OVERDUE,
    UNSHARED,
    Flight,
    Flights,
    Shared,
    leading,
    recipe_of,
    recipe_of_error,
)

if TYPE_CHECKING:
    from lix_cache.daemon import Promise
    from lix_cache.semantic.store import Core

__all__ = ["Calls"]

_TOKEN_BYTES = 16
Wait: TypeAlias = Callable[["Promise[Any]", float], Any]


class Calls:
    """The flows of one function's calls.

    Args:
        core: the cache.
        asker: reads calls.
        run: runs the function.
        rules: how its calls are cached.
    """

    def __init__(self, core: Core, asker: Asker, run: Callable[..., Any], rules: Rules) -> None:
        self.core = core
        self.flights = Flights()
        self.asker = asker
        self.run = run
        self._rules = rules

    def question(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Question | None:
        """Read a call; None, and counted, if it asks nothing that could be cached."""
        question = self.asker.question(args, kwargs)
        if question is None:
            self.core.tally.count("uncacheable")
        return question

    def _call(self, question: Question) -> Call:
        args, kwargs = question.arguments
        return Call(functools.partial(self.run, *args, **kwargs))

    # -- a call ---------------------------------------------------------------------------

    def call(self, question: Question, wait: Wait, beside: Callable[[Flow[None]], None]) -> Flow[Any]:
        """Answer a call.

        Args:
            question: what is asked.
            wait: waits for what a flight brings, so many seconds and then OVERDUE, in the colour of the
                function.
            beside: runs a flow beside the call.
        """
        try:
            found = yield from self._look(question)
        except RedisError as error:
            if not self._rules.run_on_error:
                raise
            self.core.tally.trouble("redis_errors", error)
            logger.warning("{} runs without its cache: {}", self.asker.name, told(error))
            return (yield self._call(question))
        if found.is_hit:
            if self._is_stale(found):
                beside(self._refresh(question))
            return found.response
        if found.reason == Reason.POLICY:
            return (yield self._call(question))
        return (yield from self._fly(question, wait))

    def _look(self, question: Question) -> Flow[Lookup]:
        return (yield from lookup.lookup(self.core, lookup.Query(question.text, question.context)))

    def _is_stale(self, found: Lookup) -> bool:
        left = found.ttl_remaining_seconds
        return left is not None and left < self._rules.stale_while_revalidate

    def _fly(self, question: Question, wait: Wait) -> Flow[Any]:
        """Run the function, unless somebody in this process does: then wait for the result."""
        key, clock = question.key, self.core.clock
        if self.flights.is_inside(key):
            return (yield self._call(question))  # it calls itself: waiting would be for ever
        until = clock.monotonic() + self._rules.lock_seconds
        while True:
            flight = self.flights.join(key)
            if isinstance(flight, Flight):
                return (yield from self._end(flight, question, until))
            landed = yield Call(functools.partial(wait, flight, max(0.0, until - clock.monotonic())))
            if landed is OVERDUE:
                # Who leads may wait for this very call, through a thread or another function.
                self.flights.give_up(key, flight)
                return (yield from self._run(question, self._shared(question)))
            if landed is UNSHARED:
                return (yield self._call(question))
            if landed is not ABANDONED:
                self.core.tally.count("shared_runs")
                if landed.is_large:
                    return (yield Compute(landed.make, None, "copying"))
                return landed.make()

    def _end(self, flight: Flight, question: Question, until: float) -> Flow[Any]:
        """Lead a flight to its end."""
        inside = leading.get()
        try:
            leading.set((*inside, weakref.ref(flight)))
            result = yield from self._lead(question, until)
            recipe = yield from self._closed(flight, question, result)
        except Exception as error:
            is_awaited = self.flights.close(flight)
            self.flights.land(flight, (recipe_of_error(error) if is_awaited else None) or UNSHARED)
            raise
        except BaseException:
            # Who led was stopped, not the others: one of them goes on.
            self.flights.land(flight, ABANDONED)
            raise
        finally:
            leading.set(inside)
        self.flights.land(flight, recipe)
        return result

    def _closed(self, flight: Flight, question: Question, result: Any) -> Flow[Any]:
        """Let nobody join any more, and return what those who wait are to get."""
        if not self.flights.close(flight) or not question.is_unchanged():
            return UNSHARED
        is_small = isinstance(result, (bool, int, float, str, bytes, type(None)))
        recipe = (
            recipe_of(result) if is_small else (yield Compute(lambda: recipe_of(result), None, "copying"))
        )
        return UNSHARED if recipe is None else recipe

    def _lead(self, question: Question, until: float) -> Flow[Any]:
        """Run the function, unless another process does: then wait for what it stores."""
        shared = self._shared(question)
        found = yield from shared.take(lambda: self._look(question), until)
        if found is not None:
            return found.response
        return (yield from self._run(question, shared))

    def _run(self, question: Question, shared: Shared) -> Flow[Any]:
        try:
            result = yield self._call(question)
            stored = yield from self._store(question, result)
        except GeneratorExit:
            raise  # nobody is there any more to yield to; the flight ends at its deadline
        except BaseException:
            yield from shared.give_back(stored=False)
            raise
        yield from shared.give_back(stored=stored)
        return result

    def _store(self, question: Question, result: Any) -> Flow[bool]:
        """Store a result; whatever keeps it from being stored, it is the caller's."""
        if result is None:
            self.core.tally.refused("empty")
            return False
        if not question.is_unchanged():
            # It may be the answer to something else.
            self.core.tally.refused("changed")
            return False
        base = self._rules.ttl_seconds
        if base is None:
            base = self.core.policy.ttl_for(question.text, self.core.ttl_seconds)
        life = base + self._rules.stale_while_revalidate
        answer = insert.Answer(question.text, result, question.context, None, life, self._rules.tags)
        try:
            return (yield from insert.store(self.core, answer)) is not None
        except LixCacheError as error:
            self.core.tally.refused(type(error).__name__)
            logger.warning("an answer of {} was not stored: {}", self.asker.name, told(error))
            return False

    def _refresh(self, question: Question) -> Flow[None]:
        """Run the function for an answer that was served though it is getting old."""
        flight = self.flights.join(question.key)
        if not isinstance(flight, Flight):
            return
        landed: Any = ABANDONED
        inside = leading.get()
        try:
            leading.set((*inside, weakref.ref(flight)))
            shared = self._shared(question)
            if (yield from shared.try_once()):
                result = yield from self._run(question, shared)
                landed = yield from self._closed(flight, question, result)
                self.core.tally.count("refreshed")
        except Exception as error:  # noqa: BLE001 - whatever it is, nobody waits for it
            # The caller has had its answer; the next one tries again.
            self.core.tally.trouble("refresh_errors", error)
            # Neither its text nor its traceback: they show what was asked.
            logger.warning("refreshing an answer of {} failed: {}", self.asker.name, told(error))
        finally:
            leading.set(inside)
            self.flights.land(flight, landed)

    def _shared(self, question: Question) -> Shared:
        core = self.core
        whole = canonical(merged(core.context, question.context)).decode("latin-1")
        name = digest("flight", whole, question.key[0], core.version)
        token = core.new_tag() + core.new_tag()
        # Not one of the two signs that an ended flight begins with.
        return Shared(core, core.keys.flight(name), b"=" + token[:_TOKEN_BYTES], self._rules.lock_seconds)
