"""What Redis did not take is done again: all of it, some at a time, and what is remembered is bounded."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Coroutine
from typing import Any
from unittest.mock import Mock

import pytest

from lix_cache.gateway import undone
from lix_cache.gateway.undone import Undone, Work

pytestmark = pytest.mark.promise("right-answer")
GROUP = "deletion", "ann"


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 20))


class Redis:
    """Takes what it is told, unless it is away."""

    def __init__(self) -> None:
        self.is_away = True
        self.tried: list[str] = []
        self.done: list[str] = []

    def work(self, name: str) -> Work:
        async def work() -> bool:
            self.tried.append(name)
            if not self.is_away:
                self.done.append(name)
            return not self.is_away

        return work


@pytest.fixture
def redis() -> Redis:
    return Redis()


def test_more_of_a_group_than_is_remembered_becomes_one_for_all(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undone, "_MOST", 10)

    async def work() -> None:
        found = Undone()
        await found.surely(("deletion", "bob"), "0", redis.work("bob's"), redis.work("all of bob's"))
        for number in range(25):
            await found.surely(GROUP, str(number), redis.work(str(number)), redis.work("all of ann's"))
            assert len(found) <= 11
        redis.is_away = False
        await found.do_again()
        assert len(found) == 0
        assert redis.done.count("all of ann's") == 1
        assert {"bob's", "24"} <= set(redis.done)
        assert "all of bob's" not in redis.done

    run(work())


def test_a_turn_while_redis_is_away_tries_few_and_lets_others_go_on(redis: Redis) -> None:
    async def work() -> None:
        found, turns = Undone(), list[int]()
        for number in range(500):
            found.later(GROUP, str(number), redis.work(str(number)))

        async def another() -> None:
            while True:
                turns.append(len(redis.tried))
                await asyncio.sleep(0)

        beside = asyncio.ensure_future(another())
        await found.do_again()
        beside.cancel()
        assert len(redis.tried) == undone._PATIENCE
        assert max(after - before for before, after in itertools.pairwise(turns)) == 1

    run(work())


def test_what_always_fails_holds_up_no_other_one_and_is_said_once(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Mock()
    monkeypatch.setattr(undone, "logger", log)

    async def refused() -> bool:
        raise RuntimeError("scripted")

    async def work() -> None:
        found = Undone()
        for number in range(undone._PATIENCE * 2):
            found.later(GROUP, f"refused {number}", refused)
        found.later(GROUP, "good", redis.work("good"))
        redis.is_away = False
        for _ in range(3):
            await found.do_again()
        assert redis.done == ["good"]
        assert len(found) == undone._PATIENCE * 2
        assert len(log.error.mock_calls) == 1

    run(work())


def test_one_that_comes_while_an_older_of_its_name_is_done_is_done_too() -> None:
    async def work() -> None:
        found, done, begun, go = Undone(), list[str](), asyncio.Event(), asyncio.Event()

        def named(name: str) -> Callable[[], Coroutine[Any, Any, bool]]:
            async def work() -> bool:
                begun.set()
                await go.wait()
                done.append(name)
                return True

            return work

        first = asyncio.ensure_future(found.surely(GROUP, "", named("first")))
        await begun.wait()
        found.later(GROUP, "", named("second"))
        go.set()
        assert await first
        await found.do_again()
        assert done == ["first", "second"]
        assert len(found) == 0

    run(work())


def test_the_end_does_all_that_it_can_and_counts_the_rest(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = Mock()
    monkeypatch.setattr(undone, "logger", log)

    async def never() -> bool:
        return False

    async def hangs() -> bool:
        await asyncio.sleep(3600)
        return True

    async def work() -> None:
        found = Undone()
        redis.is_away = False
        for number in range(undone._PATIENCE * 2):
            found.later(GROUP, f"never {number}", never)
        found.later(GROUP, "good", redis.work("good"))
        await found.finish(20)
        assert redis.done == ["good"]
        assert log.error.call_args.args[1] == undone._PATIENCE * 2
        found.later(("deletion", "bob"), "", hangs)
        await found.finish(0.01)
        assert log.error.call_args.args[1] == undone._PATIENCE * 2 + 1
        assert found.tenants("deletion") == {"ann", "bob"}

    run(work())
