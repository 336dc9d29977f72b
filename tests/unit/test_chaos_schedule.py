"""Schedules of the chaos test: one seed, one schedule; and a failing one becomes as small as it can."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.support.chaos import schedule as schedules
from tests.support.chaos import shrink as shrinking

SEEDS = range(200)
generate = schedules.generate


def test_a_seed_gives_one_schedule_and_another_gives_another() -> None:
    assert generate(7) == generate(7)
    assert len({generate(seed).to_json() for seed in SEEDS}) == len(SEEDS)


def test_a_schedule_comes_back_from_its_text() -> None:
    for seed in SEEDS:
        drawn = generate(seed)
        assert schedules.Schedule.from_json(drawn.to_json()) == drawn


def test_every_kind_of_event_and_every_policy_is_drawn() -> None:
    drawn = [generate(seed) for seed in SEEDS]
    assert {event.kind for one in drawn for event in one.events} == set(schedules.KINDS)
    assert {one.durability for one in drawn} == {"redis", "disk"}
    assert {one.settings["on_redis_error"] for one in drawn} == {"archive", "raise"}
    assert {one.settings["hot_codec"] for one in drawn} == {"stored", "huffman"}
    assert {one.settings["archive_codec"] for one in drawn} >= {"huffman", "zstd", "lz4", "deflate"}
    assert {worker.kind for one in drawn for worker in one.workers} == {"sync", "async"}
    assert all({"sync", "async"} == {worker.kind for worker in one.workers} for one in drawn)
    assert {one.aof for one in drawn} == {True, False}


def test_events_are_possible() -> None:
    for seed in SEEDS:
        drawn = generate(seed)
        workers = {worker.number: worker for worker in drawn.workers}
        assert [e.at for e in drawn.events] == sorted(e.at for e in drawn.events)
        for event in drawn.events:
            assert 0 < event.at < drawn.seconds
            if event.kind in ("signals", "fork"):
                assert workers[event.args["worker"]].kind == "sync"
            if event.kind == "cancel":
                assert workers[event.args["worker"]].kind == "async"
            if event.kind in ("clear", "delete"):
                assert event.args["session"] in drawn.wiped
            if event.kind == "failover":
                assert event.args["lag"] < event.at
            if event.kind in ("failover", "restore", "flushall"):
                assert not drawn.aof


def test_only_the_kinds_that_are_asked_for_are_drawn() -> None:
    for seed in SEEDS:
        assert {e.kind for e in generate(seed, kinds={"failover"}).events} == {"failover"}
    with pytest.raises(ValueError, match="nonsense"):
        generate(1, kinds={"nonsense"})


# -- shrinking -----------------------------------------------------------------------------


@pytest.mark.parametrize("needed", [[], [0], [19], [3, 4], [0, 7, 19], list(range(20))])
def test_what_is_needed_for_a_failure_and_nothing_else_is_left(needed: list[int]) -> None:
    tried = []

    def fails(items: list[int]) -> bool:
        tried.append(items)
        return set(needed) <= set(items)

    assert shrinking.minimized(list(range(20)), fails) == needed
    assert len(tried) < 400


def test_any_set_of_items_is_found() -> None:
    rng = random.Random(1)
    for _ in range(200):
        needed = sorted(rng.sample(range(30), rng.randrange(6)))
        assert shrinking.minimized(list(range(30)), lambda items, n=needed: set(n) <= set(items)) == needed


def _big() -> Any:
    workers = tuple(
        schedules.WorkerSpec(n, "async" if n % 2 else "sync", tasks=3, clock=5.0) for n in range(5)
    )
    events = tuple(
        schedules.Event(0.5 * (n + 1), kind, {"worker": n % 5} if kind == "kill_worker" else {"down": 0.5})
        for n, kind in enumerate(["kill_worker", "kill_server"] * 6)
    )
    return replace(generate(1, seconds=9.0), workers=workers, events=events)


def test_a_schedule_loses_events_workers_and_time() -> None:
    big = _big()
    cause = [big.events[1], big.events[4]]

    def fails(one: Any) -> bool:
        return all(event in one.events for event in cause) and any(w.kind == "async" for w in one.workers)

    assert fails(big)
    small = shrinking.shrink(big, fails)
    assert list(small.events) == cause
    needed = cause[1].args["worker"]
    assert {worker.number for worker in small.workers} <= {1, 3, needed}
    assert all(worker.tasks == 1 and worker.clock == 0.0 for worker in small.workers)
    assert small.seconds < big.seconds
    assert fails(small)


def test_a_schedule_that_stops_failing_stays_as_it_is() -> None:
    big = _big()
    assert shrinking.shrink(big, lambda _: False) == big


def test_the_smallest_schedule_is_one_that_was_seen_to_fail() -> None:
    big, failed = _big(), [_big()]
    rng = random.Random(3)

    def fails(one: Any) -> bool:
        # A fault that timing decides on: it shows itself now and then.
        if big.events[3] in one.events and rng.random() < 0.6:
            failed.append(one)
            return True
        return False

    for _ in range(20):
        assert shrinking.shrink(big, fails) in failed


def test_an_event_goes_with_its_worker() -> None:
    big = _big()
    fewer = schedules.pruned(replace(big, workers=big.workers[:2]))
    assert {e.args["worker"] for e in fewer.events if "worker" in e.args} <= {0, 1}
    assert any(e.kind == "kill_server" for e in fewer.events)
