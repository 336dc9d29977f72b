"""Single-flight, step by step and without a server."""

from __future__ import annotations

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from lix_cache.effects import Flow, RedisCall, Sleep
from lix_cache.errors import RedisUnavailable
from lix_cache.hot.flight_scripts import GIVE_BACK, TAKE
from lix_cache.semantic.result import Lookup
from lix_cache.semantic.single_flight import (
    ABANDONED,
    UNSHARED,
    Flight,
    Flights,
    Shared,
    recipe_of,
    recipe_of_error,
)
from lix_cache.semantic.stats import Stats
from tests.support.twins import ManualClock


class Core:
    """As much of the cache as a flight needs."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.stats = Stats()


def shared(core: Core, seconds: float = 1.0) -> Shared:
    return Shared(core, "key", b"=mine", seconds)  # type: ignore[arg-type]


def run(flow: Flow[Any], core: Core, answers: list[Any]) -> tuple[Any, list[Any]]:
    """Drive a flow with these answers to its Redis calls; return its result and its effects."""
    effects: list[Any] = []
    try:
        effect = flow.send(None)
        while True:
            effects.append(effect)
            if isinstance(effect, Sleep):
                core.clock.advance(effect.seconds)
                effect = flow.send(None)
                continue
            answer = answers.pop(0)
            effect = flow.throw(answer) if isinstance(answer, Exception) else flow.send(answer)
    except StopIteration as stop:
        return stop.value, effects


def look(*found: Lookup) -> Any:
    remaining = list(found)

    def flow() -> Flow[Lookup]:
        yield from ()
        return remaining.pop(0)

    return flow


def test_who_is_first_runs() -> None:
    core, flight = Core(), shared(Core())
    assert run(flight.take(look(), 2.0), core, [b"=mine"])[0] is None
    assert flight.is_mine


def test_who_comes_later_waits_and_finds_what_was_stored() -> None:
    core = Core()
    flight = shared(core)
    hit = Lookup(True, "answer")
    found, effects = run(flight.take(look(hit), 2.0), core, [b"=other", b"=other", b"+=other"])
    assert found is hit
    assert not flight.is_mine
    assert [type(e) for e in effects] == [RedisCall, Sleep, RedisCall, Sleep, RedisCall]


def test_an_answer_that_is_gone_again_is_made_anew() -> None:
    core = Core()
    flight = shared(core)
    found, effects = run(flight.take(look(Lookup(False)), 2.0), core, [b"+=other", b"=mine"])
    assert found is None
    assert flight.is_mine
    assert [e.command.args[2] for e in effects] == [b"", b"+=other"]


def test_no_call_waits_for_one_another_where_nothing_is_stored() -> None:
    core = Core()
    flight = shared(core)
    assert run(flight.take(look(), 2.0), core, [b"-=other"])[0] is None
    assert not flight.is_mine


def test_waiting_ends_at_the_deadline_and_pauses_grow() -> None:
    core = Core()
    flight = shared(core, seconds=2.0)
    found, effects = run(flight.take(look(), 2.0), core, [b"=other"] * 100)
    pauses = [e.seconds for e in effects if isinstance(e, Sleep)]
    assert found is None
    assert not flight.is_mine
    assert 2.0 <= sum(pauses) < 2.2
    assert pauses == sorted(pauses)
    assert pauses[-1] == 0.1


def test_who_has_waited_before_waits_for_what_is_left_alone() -> None:
    core = Core()
    flight = shared(core, seconds=2.0)
    _, effects = run(flight.take(look(), core.clock.monotonic() + 0.5), core, [b"=other"] * 100)
    assert 0.5 <= sum(e.seconds for e in effects if isinstance(e, Sleep)) < 0.7


def test_without_redis_all_callers_run_and_it_is_counted() -> None:
    core = Core()
    flight = shared(core)
    assert run(flight.take(look(), 2.0), core, [RedisUnavailable("gone")])[0] is None
    assert not flight.is_mine
    assert core.stats.counters["single_flight_errors"] == 1
    assert run(flight.give_back(stored=True), core, []) == (True, [])


@pytest.mark.promise("no-stall")
def test_a_flight_that_redis_may_have_taken_is_given_back() -> None:
    core = Core()
    flight = shared(core)
    assert run(flight.take(look(), 2.0), core, [RedisUnavailable("late", maybe_done=True)])[0] is None
    told, effects = run(flight.give_back(stored=False), core, [1])
    assert told
    assert effects[0].command.script is GIVE_BACK


@pytest.mark.promise("no-stall")
def test_an_end_that_redis_was_not_told_is_told_later_until_the_flight_has_ended_by_itself() -> None:
    core = Core()
    flight = shared(core)
    run(flight.take(look(), 2.0), core, [b"=mine"])
    assert run(flight.give_back(stored=False), core, [RedisUnavailable("gone")])[0] is False
    assert run(flight.give_back(stored=False), core, [RedisUnavailable("gone")])[0] is False
    core.clock.advance(1.1)
    assert run(flight.give_back(stored=False), core, []) == (True, [])


@pytest.mark.parametrize(
    ("answers", "mine"),
    [([b"=mine"], True), ([b"=other"], False), ([b"+=other", b"=mine"], True), ([b"-=o", b"=other"], False)],
)
def test_a_refresh_does_not_wait(answers: list[Any], mine: bool) -> None:
    core = Core()
    flight = shared(core)
    found, effects = run(flight.try_once(), core, answers)
    assert found is flight.is_mine is mine
    assert not any(isinstance(e, Sleep) for e in effects)


@pytest.mark.parametrize("stored", [True, False])
def test_a_flight_is_given_back_once(stored: bool) -> None:
    core = Core()
    flight = shared(core)
    run(flight.take(look(), 2.0), core, [b"=mine"])
    _, effects = run(flight.give_back(stored=stored), core, [1])
    assert effects[0].command.script is GIVE_BACK
    assert effects[0].command.args[:2] == (b"=mine", b"+" if stored else b"-")
    assert run(flight.give_back(stored=stored), core, []) == (True, [])


def test_a_flight_that_cannot_be_given_back_ends_by_itself() -> None:
    core = Core()
    flight = shared(core)
    _, effects = run(flight.take(look(), 2.0), core, [b"=mine"])
    assert effects[0].command.script is TAKE
    assert effects[0].command.args[1] == 1_000
    run(flight.give_back(stored=True), core, [RedisUnavailable("gone")])
    assert core.stats.counters["single_flight_errors"] == 1


def test_of_many_threads_one_leads() -> None:
    flights = Flights()
    barrier = threading.Barrier(20)
    joined: list[Any] = []

    def join() -> None:
        barrier.wait()
        joined.append(flights.join("key"))

    threads = [threading.Thread(target=join) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    led = [one for one in joined if isinstance(one, Flight)]
    assert len(led) == 1
    future = flights.join("key")
    assert [one for one in joined if one is not led[0]] == [future] * 19
    flights.land(led[0], ABANDONED)
    assert isinstance(future, Future)
    assert future.result() is ABANDONED
    again = flights.join("key")
    assert isinstance(again, Flight)
    assert not flights.close(again)
    late = flights.join("key")
    assert isinstance(late, Flight)
    assert flights.join("key") is late.future
    assert flights.close(late)


@pytest.mark.promise("no-stall")
def test_a_flight_that_its_leader_dropped_has_landed() -> None:
    flights = Flights()
    led, future = flights.join("key"), flights.join("key")
    assert isinstance(led, Flight)
    assert isinstance(future, Future)
    assert not future.done()
    del led
    assert future.result(0) is ABANDONED
    assert isinstance(flights.join("key"), Flight)


def test_a_flight_that_is_given_up_is_joined_no_more_and_still_lands() -> None:
    flights = Flights()
    led, future = flights.join("key"), flights.join("key")
    assert isinstance(led, Flight)
    assert isinstance(future, Future)
    flights.give_up("key", future)
    new = flights.join("key")
    assert isinstance(new, Flight)
    flights.give_up("key", future)  # another's stays
    assert flights.join("key") is new.future
    flights.land(led, UNSHARED)
    assert future.result(0) is UNSHARED
    assert flights.join("key") is new.future


class Model:
    def __init__(self, items: list[int]) -> None:
        self.items = items

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Model) and self.items == other.items

    __hash__ = None  # type: ignore[assignment]


class Single:
    def __deepcopy__(self, memo: object) -> Single:
        return self


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "value", [{"a": [1]}, [1, {2}], bytearray(b"x"), Model([1]), {"nested": Model([1])}, (Model([1]),)]
)
def test_who_waits_gets_a_result_of_its_own_that_was_made_before(value: Any) -> None:
    recipe = recipe_of(value)
    assert recipe is not None
    before, other = recipe.make(), recipe.make()
    assert before == other == value
    assert before is not other
    assert value is not other
    if isinstance(value, dict):
        value.clear()
        before.clear()
    assert recipe.make() == other


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "value", [Single(), (i for i in "ab"), threading.Lock(), {"a": (i for i in "ab")}, print]
)
def test_what_cannot_be_had_twice_is_not_shared(value: Any) -> None:
    assert recipe_of(value) is None


class Failed(Exception):
    def __init__(self, *, code: int, body: dict[str, Any]) -> None:
        super().__init__(f"code {code}")
        self.code, self.body = code, body


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "error",
    [
        KeyError("x", [1]),
        OSError(2, "No such file", "name"),
        UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        RedisUnavailable("gone", maybe_done=True),
        Failed(code=5, body={"a": [1]}),
    ],
)
def test_who_waits_gets_an_exception_of_its_own(error: Exception) -> None:
    recipe = recipe_of_error(error)
    assert recipe is not None
    raised = []
    for _ in range(2):
        with pytest.raises(type(error)) as caught:
            recipe.make()
        raised.append(caught.value)
    one, other = raised
    assert len({id(error), id(one), id(other)}) == 3
    assert (one.args, str(one)) == (error.args, str(error))
    assert {**vars(one), "__notes__": 0} == {**vars(error), "__notes__": 0}
    if isinstance(error, Failed):
        one.body["a"].append(2)  # type: ignore[attr-defined]
        assert other.body == error.body == {"a": [1]}  # type: ignore[attr-defined]


def test_an_exception_that_cannot_be_copied_whole_is_not_shared() -> None:
    error = ValueError("x")
    error.stream = (i for i in "ab")  # type: ignore[attr-defined]
    assert recipe_of_error(error) is None
