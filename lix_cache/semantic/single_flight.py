"""Single-flight: of many equal calls at once, one runs and the others get its result.

Within a process the others wait for a future, in any threads or event loops they are in, but no
longer than between processes: two functions that wait for one another end so. What it brings is a
recipe: each of them makes a result of its own from it. It is written before the one who ran the
function gets the result, so nothing that any of them does to theirs is seen by another.
Between processes there is a key in Redis with a deadline (see lix_cache.hot.flight_scripts);
it saves work and guards nothing: a caller that loses it or cannot reach Redis runs the function.
"""

from __future__ import annotations

import asyncio
import copy
import os
import threading
import weakref
from collections import deque
from collections.abc import Callable, Hashable
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from lix_cache.compute import Failed, settled
from lix_cache.daemon import Promise
from lix_cache.effects import Flow, RedisCall, Sleep
from lix_cache.errors import RedisError, RedisUnavailable
from lix_cache.hot.entries import LARGE_BYTES
from lix_cache.hot.flight_scripts import GIVE_BACK, TAKE
from lix_cache.hot.scripts import ScriptCall
from lix_cache.values.plain import decode_item, encode_item

if TYPE_CHECKING:
    from lix_cache.semantic.core import Core
    from lix_cache.semantic.result import Lookup

__all__ = [
    "ABANDONED",
    "OVERDUE",
    "UNSHARED",
    "Flight",
    "Flights",
    "Recipe",
    "Shared",
    "leading",
    "recipe_of",
    "recipe_of_error",
]

#: What a flight lands with if who led it was stopped: one of the others has to.
ABANDONED: Final = object()
#: What it lands with if the result cannot be had twice: each of the others has to.
UNSHARED: Final = object()
#: What one who waits gets who has waited long enough: the flight goes on without.
OVERDUE: Final = object()

#: The flights that the running code is inside of: it must not wait for itself. Weak, so that one
#: which stays here (an interrupted call may leave it) is none when it has ended.
leading: ContextVar[tuple[weakref.ref[Flight], ...]] = ContextVar("lix_cache_leading", default=())

_MOST_DROPPED = 1024
_FIRST_PAUSE = 0.01
_LONGEST_PAUSE = 0.1
#: How long the end of a flight is to be seen: longer than from a lookup to the next step.
_SEEN_MS = 2_000
_PLAIN = frozenset({str, bytes, int, float, bool, type(None)})


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop of this thread, if there is one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@dataclass(eq=False)
class Flight:
    """One run that others wait for. Only who leads it holds it; the others hold its future.

    So it ends whatever happens: an exception out of a signal handler may come between any two steps
    of who leads, also where nothing could catch it, but then the flight is dropped, and lands.

    Attributes:
        key: what makes calls equal.
        future: of a recipe for the result, or of one of the two signs above.
        loop: the event loop that it is led in; None in a thread without one.
        waiting: how many wait.
    """

    key: Hashable
    future: Promise[Any] = field(default_factory=Promise)
    loop: asyncio.AbstractEventLoop | None = field(default_factory=running_loop)
    waiting: int = 0

    @property
    def is_stranded(self) -> bool:
        """Whether its event loop has stopped, so that nothing may ever end it."""
        return self.loop is not None and not self.loop.is_running()

    def __del__(self) -> None:
        future = self.__dict__.get("future")  # none, if it was interrupted while it was made
        if future is not None and not future.done():
            future.set_result(ABANDONED)


class Flights:
    """The flights of one function in this process. Safe between threads, empty after a fork."""

    def __init__(self) -> None:
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._open: weakref.WeakValueDictionary[Hashable, Flight] = weakref.WeakValueDictionary()
        #: What is still to be said in Redis of those whose leader dropped them.
        self.dropped: deque[Shared] = deque(maxlen=_MOST_DROPPED)

    def join(self, key: Hashable) -> Flight | Promise[Any]:
        """Return a flight that the caller leads and must end, or the future of another's."""
        if self._pid != os.getpid():
            # The thread that led a flight or held the lock did not come along.
            self._begin()
        with self._lock:
            flight = self._open.get(key)
            if flight is not None and not flight.is_stranded:
                flight.waiting += 1
                return flight.future
            flight = self._open[key] = Flight(key)
            return flight

    def is_inside(self, key: Hashable) -> bool:
        """Whether the running code is a part of the flight for a key."""
        flight = self._open.get(key)
        return flight is not None and any(one() is flight for one in leading.get())

    def give_up(self, key: Hashable, future: Promise[Any]) -> None:
        """Let no more join the flight that a future belongs to: it takes too long."""
        with self._lock:
            flight = self._open.get(key)
            if flight is not None and flight.future is future:
                del self._open[key]

    def close(self, flight: Flight) -> bool:
        """Let no more join. Returns whether any wait."""
        with self._lock:
            # A stranded one may have been taken over.
            if self._open.get(flight.key) is flight:
                del self._open[flight.key]
            return flight.waiting > 0

    def land(self, flight: Flight, result: Any) -> None:
        """End a flight: all who wait get a recipe, ABANDONED or UNSHARED."""
        self.close(flight)
        flight.future.set_result(result)


@dataclass(frozen=True)
class Recipe:
    """How to have a result once more.

    Attributes:
        make: returns it, or raises it, as an object that no other caller holds.
        is_large: making it takes a while.
    """

    make: Callable[[], Any]
    is_large: bool = False


def recipe_of(result: Any) -> Recipe | None:
    """Return how to make a result once more; None if that cannot be done.

    What the cache can store is written as bytes and read once for each who waits. Anything else is
    copied: once now, and from that copy for each.
    """
    if type(result) in _PLAIN:
        return Recipe(lambda: result)
    try:
        data = settled(lambda: encode_item(result))
        return Recipe(lambda: decode_item(data), len(data) >= LARGE_BYTES)
    except Failed:
        own = _copied(result)
        return None if own is None or _copied(own) is None else Recipe(lambda: _copied(own))


def _copied(value: Any) -> Any:
    """Return a copy of all of a value; None if there is none."""
    try:
        copied = settled(lambda: copy.deepcopy(value))
    except Failed:
        return None
    # Functions, classes and what says that there is only one of it.
    return None if copied is value or type(copied) is not type(value) else copied


def recipe_of_error(error: Exception) -> Recipe | None:
    """Return how to raise an exception once more; None if it cannot be copied whole.

    A copy has the type, the arguments and the attributes, and no traceback, whose frames hold what
    one caller passed.
    """
    own = _copied_error(error)
    if own is None or _copied_error(own) is None:
        return None

    def make() -> None:
        raise _copied_error(own) or own

    return Recipe(make)


def _copied_error(error: Exception) -> Exception | None:
    def copied() -> Exception | None:
        for attempt in (_copied, _without_init):
            made = attempt(error)
            if type(made) is type(error) and made.args == error.args and str(made) == str(error):
                whole: Exception = made
                return whole
        return None

    try:
        return settled(copied)
    except Failed:
        return None


def _without_init(error: Exception) -> Exception:
    """Copy an exception whose own arguments are other ones than those of its class."""
    kind = type(error)
    made = kind.__new__(kind, *copy.deepcopy(error.args))
    made.__dict__.update(copy.deepcopy(error.__dict__))
    return made


@dataclass
class Shared:
    """A flight across processes.

    Attributes:
        core: the cache.
        key: of the flight in Redis.
        token: of this caller.
        deadline_seconds: how long others wait for who runs; then they do not wait any longer.
    """

    core: Core
    key: str
    token: bytes
    deadline_seconds: float
    is_mine: bool = False
    #: When it ends by itself in Redis, by the cache's monotonic clock.
    until: float = 0.0

    def take(self, look: Callable[[], Flow[Lookup]], until: float) -> Flow[Lookup | None]:
        """Wait for an answer or for the turn to make one.

        Args:
            look: looks the answer up.
            until: and no longer, by the cache's monotonic clock: the caller may have waited before.

        Returns:
            The answer; None if the caller is to run the function (``is_mine``: for all).
        """
        clock = self.core.clock
        seen, pause = b"", _FIRST_PAUSE
        while True:
            held = yield from self._try(seen)
            if held is None or held == self.token or held.startswith(b"-"):
                self.is_mine = held == self.token or (held is None and self.is_mine)
                return None
            if held.startswith(b"+"):
                found = yield from look()
                if found.is_hit:
                    return found
                seen = held
                continue
            if clock.monotonic() >= until:
                return None
            yield Sleep(pause)
            pause = min(pause * 1.5, _LONGEST_PAUSE)

    def try_once(self) -> Flow[bool]:
        """Take the flight if it is free."""
        held = yield from self._try(b"")
        if held is not None and held.startswith((b"+", b"-")):
            held = yield from self._try(held)
        self.is_mine = held == self.token or (held is None and self.is_mine)
        return held == self.token

    def _try(self, seen: bytes) -> Flow[bytes | None]:
        """Return what the key holds then; None if Redis cannot say.

        Redis may have carried out what it did not answer. Then the flight may be the caller's, and is given
        back like one that is: the token in the key tells.
        """
        ttl = max(1, int(self.deadline_seconds * 1000))
        try:
            return bytes((yield RedisCall(ScriptCall(TAKE, (self.key,), (self.token, ttl, seen)))))
        except RedisError as error:
            self.core.stats.trouble("single_flight_errors", error)
            self.is_mine = isinstance(error, RedisUnavailable) and error.maybe_done
            return None
        finally:
            # Later than in Redis, where it began before the answer came.
            self.until = self.core.clock.monotonic() + self.deadline_seconds

    def give_back(self, *, stored: bool | None) -> Flow[bool]:
        """End the flight, if it is still the caller's.

        Args:
            stored: whether there is an answer; None: there was no run, and another has to.

        Returns:
            False if Redis could not be told: then it is still the caller's, until it ends by itself.
        """
        if not self.is_mine or self.core.clock.monotonic() > self.until:
            self.is_mine = False
            return True
        end = b"" if stored is None else b"+" if stored else b"-"
        try:
            yield RedisCall(ScriptCall(GIVE_BACK, (self.key,), (self.token, end, _SEEN_MS)))
        except RedisError as error:
            self.core.stats.trouble("single_flight_errors", error)
            return False
        self.is_mine = False
        return True
