"""A shared stream against a model: any number of readers that come, read, leave and are dropped."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    initialize,
    invariant,
    precondition,
    rule,
)

from lix_cache import CachePolicy, Streamed, StreamInterrupted
from lix_cache.effects import Flow
from lix_cache.errors import CodecError
from lix_cache.semantic.calls_in_flight import SyncSource
from lix_cache.semantic.in_flight import Keep
from lix_cache.semantic.result import Stored
from lix_cache.semantic.streams import END, opened
from lix_cache.values.codec import decode_value, encode_value
from tests.support.twins import ManualClock

_LEAF = st.none() | st.booleans() | st.integers() | st.text(max_size=9) | st.binary(max_size=9)
EVENT = _LEAF | st.lists(_LEAF, max_size=3) | st.dictionaries(st.text(max_size=3), _LEAF, max_size=3)


def drive(flow: Flow[Any]) -> Any:
    """Carry out what needs no server; waiting takes no time."""
    result: Any = None
    step = flow.send
    try:
        while True:
            effect: Any = step(result)
            try:
                result, step = effect.call(), flow.send
            except BaseException as error:
                result, step = error, flow.throw  # type: ignore[assignment]
    except StopIteration as stop:
        return stop.value


class Lead:
    """As much of a lead as a stream needs."""

    def __init__(self, policy: CachePolicy) -> None:
        self.core = SimpleNamespace(clock=ManualClock(), hits=SimpleNamespace(policy=policy))
        self.asking = SimpleNamespace(lock_seconds=1.0)
        self.flight = None
        self.is_ending = False
        self.completed: list[Any] = []
        self.refused: list[str] = []
        self.failed: list[Any] = []

    def complete(self, value: Any, keep: Keep) -> Flow[Stored]:
        yield from ()
        self.completed.append(value)
        return Stored("id")

    def refuse(self, rule: str) -> Flow[None]:
        yield from ()
        self.refused.append(rule)

    def fail(self, error: Any) -> Flow[None]:
        yield from ()
        self.failed.append(error)

    def land(self, landed: Any) -> None:
        pass


class Source(SyncSource):
    """One whose readers wait in a time of their own."""

    def __init__(self, source: Iterator[Any], clock: ManualClock) -> None:
        super().__init__(source, drive)  # type: ignore[arg-type]
        self.clock = clock

    def wait(self, promise: Any, seconds: float) -> Any:
        self.clock.advance(seconds)


class Machine(RuleBasedStateMachine):
    readers = Bundle("readers")

    @initialize(
        target=readers,
        events=st.lists(EVENT, max_size=8),
        fails=st.booleans(),
        most=st.sampled_from([1, 2, 3, 99]),
    )
    def begin(self, events: list[Any], fails: bool, most: int) -> Any:
        self.events, self.fails, self.most = events, fails, most
        self.pulled, self.is_closed, self.is_done = 0, False, False
        self.lead = Lead(CachePolicy(max_stream_events=most))
        ways = Source(self.source(), self.lead.core.clock)
        self.stream, reader = opened(self.lead, Keep(), ways)  # type: ignore[arg-type]
        self.got: dict[Any, list[Any]] = {reader: []}
        self.first = reader
        self.live = {reader}
        return reader

    def source(self) -> Iterator[Any]:
        try:
            for event in self.events:
                self.pulled += 1
                yield event
            if self.fails:
                raise ValueError("source")
            self.is_done = True
            return "final"
        finally:
            self.is_closed = True

    @property
    def is_too_large(self) -> bool:
        return self.pulled > self.most

    @rule(target=readers)
    def join(self) -> Any:
        reader = self.stream.join()
        is_open = bool(self.live) and not self.is_too_large and not (self.is_closed and self.fails)
        assert (reader is not None) == (is_open or (self.is_done and not self.is_too_large))
        if reader is None:
            return self.first
        self.got[reader] = []
        self.live.add(reader)
        return reader

    @rule(reader=readers)
    def read(self, reader: Any) -> None:
        if reader not in self.live:
            return
        got = self.got[reader]
        try:
            event = drive(self.stream.next(reader))
        except ValueError:
            assert self.fails
            assert got == self.events
        except StreamInterrupted as error:
            assert self.is_too_large
            assert reader is not self.first
            assert error.events == len(got)  # noqa: PT017 - one of several outcomes
        else:
            if event is END:
                assert got == self.events
                assert reader.final == "final"
            else:
                got.append(event)
                assert type(event) is type(self.events[len(got) - 1])

    @rule(reader=readers, times=st.integers(2, 5))
    def read_on(self, reader: Any, times: int) -> None:
        for _ in range(times):
            self.read(reader)

    @rule(reader=consumes(readers))
    def leave(self, reader: Any) -> None:
        if reader in self.live:
            self.live.discard(reader)
            drive(self.stream.leave(reader))

    @invariant()
    def each_has_the_beginning(self) -> None:
        if not hasattr(self, "stream"):
            return
        for got in self.got.values():
            assert got == self.events[: len(got)]
        assert self.pulled == max(map(len, self.got.values()))
        assert len(self.stream._window.items) <= self.most + 1

    @invariant()
    def it_is_stored_once_and_whole(self) -> None:
        if not hasattr(self, "stream"):
            return
        whole = [Streamed(tuple(self.events), "final")] if self.is_done and not self.is_too_large else []
        assert self.lead.completed == whole
        assert self.lead.refused == (["too_large"] if self.is_too_large else [])

    @precondition(lambda self: hasattr(self, "stream") and not self.live)
    @invariant()
    def the_last_one_closes_it(self) -> None:
        assert self.is_closed or self.pulled == 0
        if not self.is_done and not (
            self.fails and len(self.lead.failed) and self.lead.failed[0] is not None
        ):
            assert self.lead.failed == [None]
        gc.collect(0)


test_streams = pytest.mark.promise("right-answer")(Machine.TestCase)
test_streams.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)  # type: ignore[attr-defined]


@given(st.lists(EVENT, max_size=8), EVENT)
def test_a_stream_comes_back_as_it_was_stored(events: list[Any], final: Any) -> None:
    streamed = Streamed(tuple(events), final)
    encoded = encode_value(streamed)
    again = decode_value(encoded.head, encoded.chunks)
    assert type(again) is Streamed
    assert again == streamed
    assert list(map(type, again.events)) == list(map(type, events))
    assert encode_value([streamed, {"a": streamed}]).head == encode_value([again, {"a": again}]).head


@given(st.lists(EVENT, max_size=4), st.data())
def test_bytes_of_a_stream_that_are_cut_are_refused(events: list[Any], data: Any) -> None:
    head = encode_value(Streamed(tuple(events), "f")).head
    with pytest.raises(CodecError):
        decode_value(head[: data.draw(st.integers(0, len(head) - 1))])
