"""Calls in flight: begun, and then completed, failed or abandoned. The flows of ``begin`` and ``cached()``.

``join`` gives the answer of an equal call that is under way, or a :class:`Lead`: the right, and the
duty, to make the answer for all. Every end tells those who wait in this process first or last, and
Redis for the other processes, in an order that an interruption may cut anywhere:

* ``complete`` stores, ends the flight in Redis, then hands the answer on. Cut off, it is abandoned.
* ``fail`` hands the failure on, which needs no I/O, then ends the flight in Redis. Cut off, the key
  in Redis ends at its deadline.
* A lead that is dropped has landed (see :class:`~lix_cache.semantic.single_flight.Flight`); Redis is
  told by the next call of the same cache, or learns it from the deadline.
"""

from __future__ import annotations

import functools
import os
import weakref
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar

from lix_cache._log import logger
from lix_cache.effects import Call, Compute, Flow
from lix_cache.errors import InvalidInput, LixCacheError, told
from lix_cache.hot.keys import digest
from lix_cache.matching.reasons import Reason
from lix_cache.semantic import insert, lookup
from lix_cache.semantic.core import new_nonce
from lix_cache.semantic.result import Lookup, Stored
from lix_cache.semantic.scope import canonical, merged
from lix_cache.semantic.single_flight import (
    ABANDONED,
    OVERDUE,
    UNSHARED,
    Flight,
    Flights,
    Recipe,
    Shared,
    recipe_of,
    recipe_of_error,
)

if TYPE_CHECKING:
    from lix_cache.daemon import Promise
    from lix_cache.semantic.core import Core
    from lix_cache.vectors import VectorLike

__all__ = ["Asking", "Keep", "Lead", "Wait", "join", "lead_if_free", "leading_of", "look"]

T = TypeVar("T")

_TOKEN_BYTES = 16
#: In one call; each is a round trip, and there may be many after Redis was away.
_MOST_TOLD = 8
#: Waits for what a flight brings, so many seconds and then OVERDUE, as the variant waits.
Wait: TypeAlias = Callable[["Promise[Any]", float], Any]


@dataclass(frozen=True)
class Asking:
    """What is asked.

    Attributes:
        text: the question.
        context: what must match exactly, beside the cache's own.
        key: what makes calls equal in this process: the query text, and all that must match.
        name: who asks, for the log.
        lock_seconds: how long equal calls wait for one another.
        embedding: of the question, if it is known already.
        is_unchanged: whether the answer still answers what was asked.
        looked: when it was looked up last; what is invalidated after that must not be stored.
    """

    text: str
    context: Mapping[str, Any] | None
    key: tuple[str, bytes]
    name: str
    lock_seconds: float
    embedding: VectorLike | None = None
    is_unchanged: Callable[[], bool] = lambda: True
    looked: lookup.Moment = field(default_factory=lookup.Moment)


@dataclass(frozen=True)
class Keep:
    """How an answer is kept: as :class:`~lix_cache.semantic.insert.Answer` says."""

    ttl_seconds: float | None = None
    tags: Sequence[str] = ()
    tokens: tuple[int, int] | None = None


class _NotAnAnswer(Exception):
    """What is offered as the answer cannot be one: the call goes on."""

    def __init__(self, error: InvalidInput) -> None:
        self.error = error


class Lead:
    """The duty to end a call that others may wait for.

    Attributes:
        flight: in this process; None: others do not wait for this one.
        shared: across processes; None: nor do they.
        missed: the lookup that found nothing.
        unkept: why its answer will not be stored, if that is known.
        stored: what happened to the answer; None until the call has ended.
    """

    def __init__(
        self,
        core: Core,
        flights: Flights,
        asking: Asking,
        flight: Flight | None = None,
        shared: Shared | None = None,
        missed: Lookup | None = None,
        unkept: str = "",
    ) -> None:
        self._pid = os.getpid()
        self.core, self.flights, self.asking = core, flights, asking
        self.flight, self.shared = flight, shared
        self.missed = Lookup(False) if missed is None else missed
        self.unkept = unkept
        self.stored: Stored | None = None
        #: Whether an end was begun: completed, recorded or failed. Only the first counts.
        self.is_ending = False

    def __del__(self) -> None:
        shared = self.__dict__.get("shared")
        # A forked child holds a copy: the call is its parent's still.
        if shared is not None and shared.is_mine and self._pid == os.getpid():
            self.flights.dropped.append(shared)

    def complete(self, result: Any, keep: Keep) -> Flow[Stored]:
        """Store an answer, and hand it to those who wait. Trouble with storing is no error."""
        return (yield from self.ending(self._completed(result, keep)))

    def offered(self, result: Any, keep: Keep) -> Flow[Stored]:
        """Complete the call with what an application gives.

        Raises:
            InvalidInput: it cannot be stored, whatever the state of Redis. The call goes on.
        """
        return (yield from self.ending(self._completed(result, keep, refuses=True)))

    def run(self, make: Callable[[], Any], keep: Keep) -> Flow[Any]:
        """Make the answer, complete the call with it, and return it."""

        def made() -> Flow[Any]:
            result = yield Call(make)
            yield from self._completed(result, keep)
            return result

        return (yield from self.ending(made()))

    def ending(self, flow: Flow[T]) -> Flow[T]:
        """Run a flow that ends the call. Where it is cut off, or fails, those who wait are told."""
        try:
            return (yield from flow)
        except GeneratorExit:
            self.drop()
            raise  # there is no driver any more to yield to; in Redis the flight ends at its deadline
        except _NotAnAnswer as refused:
            self.is_ending = False
            raise refused.error from None
        except Exception as error:
            yield from self.fail(error)
            raise
        except BaseException:
            # Who led was stopped, not the others: one of them goes on.
            yield from self.fail(None)
            raise

    def _completed(self, result: Any, keep: Keep, *, refuses: bool = False) -> Flow[Stored]:
        self.is_ending = True
        try:
            stored = yield from self._store(result, keep)
        except InvalidInput as error:
            if refuses:
                raise _NotAnAnswer(error) from None
            stored = self._not_stored(error)
        self.stored = stored
        if self.shared is not None:
            yield from self.shared.give_back(stored=bool(stored))
        self.land((yield from self._recipe(result)))
        return stored

    def fail(self, error: Exception | None) -> Flow[None]:
        """End the call without an answer.

        Args:
            error: for those who wait in this process, each a copy; None: one of them is to go on.
        """
        self.is_ending = True
        landed: Any = ABANDONED
        if error is not None and self.flight is not None:
            is_awaited = self.flights.close(self.flight)
            landed = (recipe_of_error(error) if is_awaited else None) or UNSHARED
        self.land(landed)
        if self.shared is not None:
            yield from self.shared.give_back(stored=None if error is None else False)

    def refuse(self, rule: str) -> Flow[None]:
        """Let others wait no longer: the call goes on, and its answer will not be stored."""
        self.stored = Stored(refused=rule)
        self.core.stats.refused(rule)
        if self.flight is not None:
            self.flights.close(self.flight)
        if self.shared is not None:
            yield from self.shared.give_back(stored=False)

    def drop(self) -> None:
        """Let another of those who wait in this process go on, if there was no end."""
        self.land(ABANDONED)

    def land(self, landed: Any) -> None:
        """Tell those who wait in this process; the first word counts."""
        self.is_ending = True
        if self.flight is not None:
            self.flights.close(self.flight)
            if not self.flight.future.done():
                self.flights.land(self.flight, landed)

    def _recipe(self, result: Any) -> Flow[Any]:
        """Let no more join, and return what those who wait are to get."""
        flight = self.flight
        if flight is None or flight.future.done():
            return UNSHARED
        if not self.flights.close(flight) or not self.asking.is_unchanged():
            return UNSHARED
        is_small = isinstance(result, (bool, int, float, str, bytes, type(None)))
        recipe = (
            recipe_of(result) if is_small else (yield Compute(lambda: recipe_of(result), None, "copying"))
        )
        return UNSHARED if recipe is None else recipe

    def _store(self, result: Any, keep: Keep) -> Flow[Stored]:
        core, asking = self.core, self.asking
        if self.stored is not None:
            return self.stored  # it was refused while it came
        if self.unkept:
            return self._refused(self.unkept)
        if result is None:
            return self._refused("empty")
        if not asking.is_unchanged():
            # It may be the answer to something else.
            return self._refused("changed")
        answer = insert.Answer(
            asking.text,
            result,
            asking.context,
            asking.embedding,
            keep.ttl_seconds,
            keep.tags,
            keep.tokens,
            asking.looked.ms,
        )
        try:
            return (yield from insert.store(core, answer))
        except InvalidInput:
            raise
        except LixCacheError as error:
            return self._not_stored(error)

    def _not_stored(self, error: LixCacheError) -> Stored:
        logger.warning("an answer of {} was not stored: {}", self.asking.name, told(error))
        return self._refused(type(error).__name__)

    def _refused(self, rule: str) -> Stored:
        self.core.stats.refused(rule)
        return Stored(refused=rule)


def look(core: Core, asking: Asking) -> Flow[Lookup]:
    """Look the answer up."""
    query = lookup.Query(asking.text, asking.context, asking.embedding, moment=asking.looked)
    return (yield from lookup.lookup(core, query))


def join(
    core: Core, flights: Flights, asking: Asking, missed: Lookup, wait: Wait
) -> Flow[Lookup | Lead | Any]:
    """Return the answer of an equal call that is under way, or the lead.

    Args:
        core: the cache.
        flights: the calls of this process that count as one another's equals.
        asking: what is asked.
        missed: the lookup that found nothing.
        wait: see ``Wait``.

    Raises:
        Exception: whatever the equal call failed with: a copy.
    """
    key, clock = asking.key, core.clock
    if missed.reason == Reason.POLICY:
        return Lead(core, flights, asking, missed=missed)
    if flights.is_inside(key):
        # It calls itself: waiting would be for ever.
        return Lead(core, flights, asking, missed=missed, unkept="nested")
    until = clock.monotonic() + asking.lock_seconds
    while True:
        flight = flights.join(key)
        if isinstance(flight, Flight):
            lead = Lead(core, flights, asking, flight, _shared(core, asking), missed)
            return (yield from _led(lead, until))
        landed = yield Call(functools.partial(wait, flight, max(0.0, until - clock.monotonic())))
        if landed is OVERDUE:
            # Who leads may wait for this very call, through a thread or another function.
            flights.give_up(key, flight)
            return Lead(core, flights, asking, missed=missed)
        if landed is UNSHARED:
            return Lead(core, flights, asking, missed=missed, unkept="unshared")
        if isinstance(landed, Recipe):
            core.stats.count("shared_runs")
            answer = (yield Compute(landed.make, None, "copying")) if landed.is_large else landed.make()
            return Lookup(True, answer, similarity=1.0, reason=Reason.SHARED)
        if landed is not ABANDONED:
            reader = yield from landed(max(0.0, until - clock.monotonic()))
            if reader is not None:
                core.stats.count("shared_runs")
                return Lookup(True, reader, similarity=1.0, reason=Reason.SHARED)
            # Unless it is gone already, no more join what cannot be joined.
            flights.give_up(key, flight)
            if clock.monotonic() >= until:
                return Lead(core, flights, asking, missed=missed)


def lead_if_free(core: Core, flights: Flights, asking: Asking) -> Flow[Lead | None]:
    """Return the lead if no equal call is under way, here or in another process."""
    flight = flights.join(asking.key)
    if not isinstance(flight, Flight):
        return None
    shared = _shared(core, asking)
    lead = Lead(core, flights, asking, flight, shared)
    try:
        if (yield from shared.try_once()):
            return lead
    except BaseException:
        lead.drop()
        raise
    lead.drop()
    return None


def leading_of(lead: Lead) -> tuple[weakref.ref[Flight], ...]:
    """Return what the code that a lead runs is inside of."""
    return () if lead.flight is None else (weakref.ref(lead.flight),)


def _led(lead: Lead, until: float) -> Flow[Lookup | Lead]:
    """Wait for the turn among processes, or for what another of them stores."""

    def turn() -> Flow[Lookup | Lead]:
        yield from _tell_dropped(lead.flights)
        shared = lead.shared
        found = None
        if shared is not None:
            found = yield from shared.take(lambda: look(lead.core, lead.asking), until)
        if found is None:
            return lead
        lead.land((yield from lead._recipe(found.response)))  # noqa: SLF001 - this module's own class
        return found

    return (yield from lead.ending(turn()))


def _tell_dropped(flights: Flights) -> Flow[None]:
    """Let others wait no longer for calls that ended here when nothing was said, or Redis was away."""
    for _ in range(_MOST_TOLD):
        try:
            shared = flights.dropped.popleft()
        except IndexError:
            return
        if not (yield from shared.give_back(stored=None)):
            flights.dropped.appendleft(shared)
            return


def _shared(core: Core, asking: Asking) -> Shared:
    whole = canonical(merged(core.scopes.context, asking.context)).decode("latin-1")
    name = digest("flight", whole, asking.key[0], core.scopes.version)
    token = new_nonce() + new_nonce()
    # Not one of the two signs that an ended flight begins with.
    key = core.redis.answers.keys.flight(name)
    return Shared(core, key, b"=" + token[:_TOKEN_BYTES], asking.lock_seconds)
