"""Batches with keys, broken off at every step: repeated with the same keys, each message is there once."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache.archive import decoding, reading
from lix_cache.config import CacheConfig
from lix_cache.effects import DiskCall, RedisBatch, RedisCall
from lix_cache.errors import LixCacheError, RedisUnavailable
from lix_cache.hot.connections import NewConnection
from lix_cache.session import add, history
from tests.support.lab import Process, World

pytestmark = pytest.mark.promise("no-loss")


class Crash(BaseException):
    """The process is stopped here."""


@pytest.fixture
def new_world(new_store: Callable[..., CacheConfig]) -> Callable[..., World]:
    return lambda **changes: World(new_store(**changes))


def adding(process: Process, texts: list[str]) -> Any:
    turns = [process.turn(text) for text in texts]
    return add.add_keyed(process.session, turns, [f"key of {text}" for text in texts])


def broken_at(process: Process, running: Any, step: int, kind: str) -> bool:
    """Carry a flow out up to a step, and break it there. False if it ended before."""
    effect = next(running)
    for number in range(10_000):
        is_remote = isinstance(effect, (RedisCall, RedisBatch))
        try:
            if number == step and kind == "before":
                running.close()
                raise Crash
            try:
                result = process.drive._perform(effect)
            except (NewConnection, LixCacheError) as error:
                effect = running.throw(error)
                continue
            if number == step:
                if kind == "after":
                    running.close()
                    raise Crash
                if is_remote:
                    timed_out = kind == "no answer"
                    lost = RedisUnavailable("lost", maybe_done=True, timed_out=timed_out)
                    effect = running.throw(lost)
                    continue
            effect = running.send(result)
        except StopIteration:
            return number >= step
    raise AssertionError("no end")


@pytest.mark.parametrize("durability", ["redis", "disk"])
@pytest.mark.parametrize("before", ["nothing", "hot", "cold"])
@pytest.mark.parametrize("kind", ["before", "after", "no answer", "broken"])
def test_a_batch_broken_off_at_any_step_and_repeated_is_there_once(
    new_world: Callable[..., World], kind: str, before: str, durability: str
) -> None:
    for step in range(100):
        world = new_world(durability=durability)
        first = world.process()
        if before != "nothing":
            first.drive(adding(first, ["x", "y"]))
        if before == "cold":
            first.flush()
        there = [] if before == "nothing" else ["x", "y"]
        process = world.process()
        running = adding(process, ["a", "b", "c"])
        try:
            goes_on = broken_at(process, running, step, kind)
        except (Crash, LixCacheError):
            goes_on = True
        # All or none, whoever looks.
        found = world.process().full()
        assert found in (there, [*there, "a", "b", "c"])
        again = world.process()
        result = again.drive(adding(again, ["a", "b", "c"]))
        assert len(set(result.ids)) == 3
        assert world.process().full() == [*there, "a", "b", "c"]
        again.flush()
        assert world.process().full() == [*there, "a", "b", "c"]
        if not goes_on:
            return
    raise AssertionError("it never ended")


@pytest.mark.parametrize("seed", range(4))
def test_two_writers_and_pages_agree_with_a_model(new_world: Callable[..., World], seed: int) -> None:
    draw = random.Random(seed)
    world = new_world()
    model: list[str] = []
    processes = [world.process(), world.process()]
    for number in range(40):
        process = draw.choice(processes)
        action = draw.choice(["batch", "batch", "retry", "flush", "context", "page", "restart"])
        if action == "batch":
            texts = [f"{number}.{i}" for i in range(draw.randint(1, 4))]
            process.drive(adding(process, texts))
            model += texts
        elif action == "retry" and model:
            start = draw.randrange(len(model))
            texts = [*model[start : start + 3], f"{number}.new"]
            result = process.drive(adding(process, texts))
            assert result.added == 1
            model.append(f"{number}.new")
        elif action == "flush":
            process.flush()
        elif action == "context":
            process.context()
        elif action == "restart":
            processes[draw.randrange(2)] = world.process()
        turns = process.drive(history.between(process.session, 1000, None, None))
        assert [turn.body["content"] for turn in turns] == model == process.full()
        count, ids = draw.randint(1, 6), [turn.id for turn in turns]
        if ids:
            place = draw.randrange(len(ids))
            older = process.drive(history.between(process.session, count, ids[place], None))
            newer = process.drive(history.between(process.session, count, None, ids[place]))
            assert [turn.id for turn in older] == ids[max(0, place - count) : place]
            assert [turn.id for turn in newer] == ids[place + 1 : place + 1 + count]


def test_a_page_decodes_only_the_frames_it_needs(
    new_world: Callable[..., World], monkeypatch: pytest.MonkeyPatch
) -> None:
    process = new_world().process()
    for number in range(40):
        process.add(f"m{number}")
        process.flush()
    turns = process.archive.turns("s")
    decoded: list[int] = []
    decode = decoding.decode

    def counted(data: bytes, frame: Any, most: int) -> Any:
        decoded.append(frame.offset)
        return decode(data, frame, most)

    monkeypatch.setattr(reading.decoding, "decode", counted)
    for before, after in ((turns[20].id, None), (None, turns[20].id)):
        decoded.clear()
        found = process.drive(history.between(process.session, 3, before, after))
        expected = turns[17:20] if after is None else turns[21:24]
        assert [turn.id for turn in found] == [turn.id for turn in expected]
        assert len(decoded) <= 4


def test_reading_pages_is_driven_without_a_look_at_more_than_redis_has(
    new_world: Callable[..., World],
) -> None:
    process = new_world().process()
    for number in range(4):
        process.add(f"m{number}")
    running = history.last(process.session, 2)
    effect, found, disk = next(running), None, 0
    while found is None:
        disk += isinstance(effect, DiskCall)
        try:
            effect = process.step(running, effect)
        except StopIteration as stop:
            found = [turn.body["content"] for turn in stop.value]
    assert found == ["m2", "m3"]
    assert disk == 0
