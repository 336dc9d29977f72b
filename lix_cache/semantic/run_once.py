"""Running a function once for many equal calls, and keeping what it answers: the flows of ``cached()``.

What a call does is one flow, on top of in_flight.py; the two variants differ in how they wait for one
another and in what runs beside them.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.effects import Call, Flow
from lix_cache.errors import RedisError, told
from lix_cache.matching.reasons import Reason
from lix_cache.semantic import in_flight, streams
from lix_cache.semantic.in_flight import Asking, Keep, Lead
from lix_cache.semantic.result import Lookup
from lix_cache.semantic.single_flight import Flights, leading

if TYPE_CHECKING:
    from lix_cache.semantic.asking import Asker, Question, Rules
    from lix_cache.semantic.core import Core

__all__ = ["Calls", "Variant"]


class Variant:
    """How calls of one variant wait, and run something beside them.

    Args:
        wait: waits for what a flight brings, so many seconds and then OVERDUE.
        beside: runs a flow beside the call.
        ways: makes the variant's :class:`~lix_cache.semantic.streams.Ways` of a source of events; None
            where the function returns its answer whole.
    """

    def __init__(
        self,
        wait: in_flight.Wait,
        beside: Callable[[Flow[None]], None],
        ways: Callable[[Any], streams.Ways] | None = None,
    ) -> None:
        self.wait, self.beside, self.ways = wait, beside, ways


class Calls:
    """The flows of one function's calls.

    Args:
        core: the cache.
        asker: reads calls.
        run: runs the function; one that streams returns its source.
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
            self.core.stats.count("uncacheable")
        return question

    def call(self, question: Question, variant: Variant) -> Flow[Any]:
        """Answer a call. Of a function that streams, the answer is an iterable of its events."""
        asking = self._asking(question)
        try:
            found = yield from in_flight.look(self.core, asking)
        except RedisError as error:
            if not self._rules.run_on_error:
                raise
            self.core.stats.trouble("redis_errors", error)
            logger.warning("{} runs without its cache: {}", self.asker.name, told(error))
            return (yield from self._without(question, variant))
        if found.is_hit:
            if self._is_stale(found):
                variant.beside(self._refresh(question, asking, variant))
            return found.response
        if found.reason == Reason.POLICY:
            return (yield from self._without(question, variant))
        begun = yield from in_flight.join(self.core, self.flights, asking, found, variant.wait)
        if isinstance(begun, Lookup):
            return begun.response
        if variant.ways is None:
            return (yield from self._lead(begun, question))
        ways = variant.ways(self._source(question))
        return ways.events(*streams.opened(begun, self._keep(question), ways))

    def _asking(self, question: Question) -> Asking:
        return Asking(
            question.text,
            question.context,
            question.key,
            self.asker.name,
            self._rules.lock_seconds,
            is_unchanged=question.is_unchanged,
        )

    def _keep(self, question: Question) -> Keep:
        base = self._rules.ttl_seconds
        if base is None:
            base = self.core.hits.policy.ttl_for(question.text, self.core.entries.ttl_seconds)
        return Keep(base + self._rules.stale_while_revalidate, self._rules.tags)

    def _is_stale(self, found: Lookup) -> bool:
        left = found.ttl_remaining_seconds
        return left is not None and left < self._rules.stale_while_revalidate

    def _source(self, question: Question) -> Any:
        args, kwargs = question.arguments
        return self.run(*args, **kwargs)  # it begins with its first event

    def _without(self, question: Question, variant: Variant) -> Flow[Any]:
        if variant.ways is not None:
            return self._source(question)
        return (yield Call(functools.partial(self._source, question)))

    def _lead(self, lead: Lead, question: Question) -> Flow[Any]:
        """Run the function for all who wait."""
        inside = leading.get()
        try:
            leading.set((*inside, *in_flight.leading_of(lead)))
            return (yield from lead.run(functools.partial(self._source, question), self._keep(question)))
        finally:
            leading.set(inside)

    def _refresh(self, question: Question, asking: Asking, variant: Variant) -> Flow[None]:
        """Run the function for an answer that was served though it is getting old."""
        lead: Lead | None = None
        try:
            lead = yield from in_flight.lead_if_free(self.core, self.flights, asking)
            if lead is None:
                return
            if variant.ways is None:
                yield from self._lead(lead, question)
            else:
                ways = variant.ways(self._source(question))
                yield from streams.drained(*streams.opened(lead, self._keep(question), ways))
            self.core.stats.count("refreshed")
        except Exception as error:  # noqa: BLE001 - whatever it is, no caller waits for it
            # The caller has had its answer; the next one tries again.
            self.core.stats.trouble("refresh_errors", error)
            # Neither its text nor its traceback: they show what was asked.
            logger.warning("refreshing an answer of {} failed: {}", self.asker.name, told(error))
        finally:
            if lead is not None:
                lead.drop()
