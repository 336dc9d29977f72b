"""Streams that are recorded while they are passed on, and that several readers share. Flows; no I/O.

A stream pulls its source when a reader wants an event that is not there yet, so it is no further than
its fastest reader. Who pulls has the *turn*: an object that is held by the pull alone. If it is dropped
in the middle of one (an exception out of a signal handler may come anywhere), an event may be lost, and
the stream is broken: it ends with an error for its readers and is not stored.

The stream outlives the reader that began it: the others go on pulling. When the last one leaves before
the end, the source is closed, and the call is abandoned.
"""

from __future__ import annotations

import functools
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Protocol

from lix_cache.daemon import Promise
from lix_cache.effects import Call, Compute, Flow
from lix_cache.errors import StreamInterrupted
from lix_cache.semantic.in_flight import Keep, Lead, leading_of
from lix_cache.semantic.single_flight import UNSHARED, Recipe, leading, recipe_of_error
from lix_cache.semantic.stream_window import LOST, Item, Window
from lix_cache.values.streamed import Streamed

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["END", "Reader", "Stream", "Turn", "Ways", "drained", "opened"]

#: What :meth:`Stream.next` returns after the last event.
END: Final = object()
#: What a reader finds where the stream goes on no more, for it or for all.
_BROKEN: Final = object()
#: Seconds between two looks at what should have told that it changed.
_LOOK_AGAIN = 0.5


class Ways(Protocol):
    """What differs between the sync and the async variant of a stream."""

    def pull(self) -> Any:
        """Return True and the source's next event, or False and its return value."""

    def advance(self, stream: Stream, turn: Turn) -> Any:
        """Run ``stream.advance(turn)``; it may still be under way afterwards."""

    def stop(self) -> Any:
        """Close the source."""

    def deserted(self, stream: weakref.ref[Stream]) -> None:
        """Hear that a reader was dropped. Called by the garbage collector: must not wait."""

    def wait(self, promise: Promise[Any], seconds: float) -> Any:
        """Wait, so many seconds at most."""

    def events(self, stream: Stream, reader: Reader) -> Any:
        """Return an iterator over what a reader reads."""


@dataclass(eq=False)
class Reader:
    """One who reads a stream from its start.

    Attributes:
        at: number of the next event.
        fresh: number and original of an event that it pulled itself.
        error: what its own pull raised.
        final: the stream's final value, after its end.
    """

    stream: Stream
    at: int = 0
    fresh: tuple[int, Any] | None = None
    error: Exception | None = None
    final: Any = None
    has_left: bool = False

    def __del__(self) -> None:
        if not self.__dict__.get("has_left", True):
            self.stream.ways.deserted(weakref.ref(self.stream))


@dataclass(eq=False)
class Turn:
    """The right to pull one event."""

    stream: Stream
    reader: Reader
    is_under_way: bool = False

    def __del__(self) -> None:
        if self.__dict__.get("is_under_way"):
            self.stream.is_broken = True  # without the lock: this may run anywhere


@dataclass(frozen=True)
class _Whole:
    final: Item


@dataclass(frozen=True)
class _Raised:
    recipe: Recipe | None


class Stream:
    """A source of events, and what it gave. Safe between threads and event loops.

    Args:
        lead: of the call that the stream answers.
        keep: how it is kept if it ends whole.
        ways: of its variant.
    """

    def __init__(self, lead: Lead, keep: Keep, ways: Ways) -> None:
        self.lead, self.ways = lead, ways
        self.is_broken = False
        self._keep = keep
        self._lock = threading.Lock()
        self._window = Window(lead.core.hits.policy)
        self._refused = ""
        self._end: _Whole | _Raised | None = None
        self._readers: weakref.WeakSet[Reader] = weakref.WeakSet()
        self._leader: weakref.ref[Reader] | None = None
        self._turn: weakref.ref[Turn] | None = None
        self._changed: Promise[None] | None = None

    @property
    def is_over(self) -> bool:
        """Whether no more events come."""
        return self._end is not None or self.is_broken

    @property
    def has_readers(self) -> bool:
        return len(self._readers) > 0

    # -- reading --------------------------------------------------------------------------

    def join(self) -> Reader | None:
        """Return a reader of all events; None if there are none to be had any more."""
        with self._lock:
            if self.is_broken or self._refused or isinstance(self._end, _Raised):
                return None
            reader = Reader(self)
            self._readers.add(reader)
            if self._leader is None:
                self._leader = weakref.ref(reader)
            return reader

    def follow(self, seconds: float) -> Flow[Any]:
        """Return an iterator over all events, once there is one; None if none can be had in time."""
        reader = self.join()
        if reader is None:
            return None
        got = yield from self._ready(reader, seconds)
        if got is _BROKEN:
            yield from self.leave(reader)
            return None
        return self.ways.events(self, reader)

    def next(self, reader: Reader) -> Flow[Any]:
        """Return a reader's next event, or ``END``.

        Raises:
            StreamInterrupted: the run was stopped, or cannot be read by more than one.
            Exception: what the source raised; a copy for those who did not pull.
        """
        # Who began the stream waits as long as it would without a cache. The others may be on another
        # loop than its source, which may stop without a word.
        is_first = self._leader is not None and self._leader() is reader
        got = yield from self._ready(reader, None if is_first else self.lead.asking.lock_seconds)
        if isinstance(got, Item):
            number, fresh = reader.at, reader.fresh
            reader.at += 1
            if fresh is not None and fresh[0] == number:
                reader.fresh = None
                return fresh[1]
            return got.own()
        if isinstance(got, _Whole):
            reader.final = got.final.own()
            return END
        error, reader.error = reader.error, None
        try:
            if error is not None:
                raise error
            if isinstance(got, _Raised) and got.recipe is not None:
                got.recipe.make()
            raise StreamInterrupted(reader.at)
        finally:
            del error  # it refers to this frame

    def leave(self, reader: Reader) -> Flow[None]:
        """Let a reader go. The last one that leaves early ends the call."""
        with self._lock:
            reader.has_left = True
            self._readers.discard(reader)
            is_deserted = not self.is_over and not self._readers
            if is_deserted:
                self.is_broken = True
        if is_deserted:
            yield from self.lead.fail(None)
            yield Call(self.ways.stop)

    def _leads(self, reader: Reader) -> bool:
        leader = None if self._leader is None else self._leader()
        return leader is None or leader.has_left or leader is reader

    def _ready(self, reader: Reader, seconds: float | None) -> Flow[Any]:
        """Wait until there is something for a reader; ``_BROKEN`` if that takes longer."""
        clock = self.lead.core.clock
        until = None if seconds is None else clock.monotonic() + seconds
        while True:
            got = self._step(reader)
            if isinstance(got, Turn):
                yield Call(functools.partial(self.ways.advance, self, got))
            elif isinstance(got, Promise):
                left = _LOOK_AGAIN if until is None else min(_LOOK_AGAIN, until - clock.monotonic())
                if left <= 0:
                    return _BROKEN
                yield Call(functools.partial(self.ways.wait, got, left))
            else:
                return got
            del got  # who pulls is the only one to hold the turn

    def _step(self, reader: Reader) -> Any:
        """Return what there is for a reader: an event, an end, a turn to pull, or what to wait for."""
        with self._lock:
            item = self._window.at(reader.at)
            if item is LOST:
                return _BROKEN
            if item is not None:
                return item if item.is_for(reader) else _BROKEN
            if isinstance(self._end, _Whole):
                return self._end if self._end.final.is_for(reader) else _BROKEN
            if self._end is not None:
                return self._end
            if self.is_broken:
                return _BROKEN
            turn = None if self._turn is None else self._turn()
            # Where not all is kept, the stream goes as fast as the one that began it.
            if turn is None and (not self._refused or self._leads(reader)):
                turn = Turn(self, reader)
                self._turn = weakref.ref(turn)
                return turn
            del turn
            if self._changed is None:
                self._changed = Promise()
            return self._changed

    # -- pulling --------------------------------------------------------------------------

    def advance(self, turn: Turn) -> Flow[None]:
        """Pull the source once, and keep what it gives, or how it ends."""
        turn.is_under_way = True
        inside = leading.get()
        try:
            leading.set((*inside, *leading_of(self.lead)))
            is_event, value = yield Call(self.ways.pull)
            if is_event:
                yield from self._take(turn.reader, value)
            else:
                yield from self._finish(turn.reader, value)
        except GeneratorExit:
            self._break()
            raise
        except Exception as error:  # noqa: BLE001 - raised where the readers get to
            turn.reader.error = error
            recipe = recipe_of_error(error)
            with self._lock:
                self._end = _Raised(recipe)
            yield from self.lead.fail(error)
        except BaseException:
            self._break()
            yield from self.lead.fail(None)
            raise
        finally:
            leading.set(inside)
            turn.is_under_way = False
            self._release()

    def _break(self) -> None:
        self.is_broken = True
        self.lead.land(UNSHARED)

    def _release(self) -> None:
        with self._lock:
            self._turn = None
            changed, self._changed = self._changed, None
        if changed is not None:
            changed.set_result(None)

    def _take(self, reader: Reader, event: Any) -> Flow[None]:
        """Keep an event: its bytes before a reader has it, so that nothing done to it is seen."""
        item, rule = self._item(reader, event), ""
        with self._lock:
            window = self._window
            if item.owner is None:
                reader.fresh = window.end, event
            window.add(item)
            if not self._refused and (window.is_full or item.owner is not None):
                self._refused = rule = "not_plain" if item.owner is not None else "too_large"
            if self._refused:
                self._trim()
        if rule:
            yield from self.lead.refuse(rule)

    def _trim(self) -> None:
        """Forget what is too much, but nothing that the reader who began has not had."""
        leader = None if self._leader is None else self._leader()
        self._window.trim(None if leader is None or leader.has_left else leader.at)

    def _item(self, reader: Reader, value: Any) -> Item:
        leader = None if self._leader is None else self._leader()
        return Item.of(value, reader if leader is None or leader.has_left else leader)

    def _finish(self, reader: Reader, final: Any) -> Flow[None]:
        """Store what ended whole, and then let the readers know."""
        item = self._item(reader, final)
        if item.owner is not None and not self._refused:
            self._refused = "not_plain"
            yield from self.lead.refuse("not_plain")
        if self._refused:
            self.lead.land(UNSHARED)
        else:
            items = tuple(self._window.items)
            whole: Callable[[], Streamed] = lambda: Streamed(tuple(one.own() for one in items), item.own())  # noqa: E731
            value = yield Compute(whole, None, "copying")
            yield from self.lead.complete(value, self._keep)
        with self._lock:
            self._end = _Whole(item)


def opened(lead: Lead, keep: Keep, ways: Ways) -> tuple[Stream, Reader]:
    """Return a stream and the reader that begins it; equal calls of this process may join from now on."""
    lead.is_ending = True
    stream = Stream(lead, keep, ways)
    reader = Reader(stream) if (joined := stream.join()) is None else joined
    if lead.flight is not None:
        # Weak: the stream is there as long as it is read.
        weak = weakref.ref(stream)
        lead.flight.future.set_result(functools.partial(_follow, weak))
    return stream, reader


def drained(stream: Stream, reader: Reader) -> Flow[None]:
    """Read a stream to its end, for those who may join and for what is stored."""
    try:
        while (yield from stream.next(reader)) is not END:
            pass
    except GeneratorExit:
        raise
    except BaseException:
        yield from stream.leave(reader)
        raise
    yield from stream.leave(reader)


def _follow(stream: weakref.ref[Stream], seconds: float) -> Flow[Any]:
    found = stream()
    return None if found is None else (yield from found.follow(seconds))
