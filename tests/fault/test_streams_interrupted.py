"""Streams and calls in flight under exceptions at any line, cancellation, kills and forks."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
import redis

from lix_cache import (
    AsyncSemanticCache,
    CacheConfig,
    SemanticCache,
    Streamed,
    StreamInterrupted,
)
from lix_cache.hot.clients import close_async_redis_clients
from tests.support.forks import Child, Report
from tests.support.interrupts import Interrupt, interrupt_at, lines_of
from tests.support.semantic import note_joins
from tests.support.waiting import until

EVENTS = [{"n": i} for i in range(4)]
Q = "capital of France"


def source() -> Iterator[Any]:
    yield from [dict(event) for event in EVENTS]


def read(stream: Any) -> tuple[list[Any], BaseException | None]:
    got: list[Any] = []
    try:
        for event in stream:
            got.append(event)
    except (Interrupt, StreamInterrupted) as error:
        return got, error
    return got, None


@pytest.mark.exhaustive
@pytest.mark.promise("right-answer")
def test_a_stream_interrupted_at_any_line_loses_no_event_for_the_others(redis_config: CacheConfig) -> None:
    cache = SemanticCache(config=redis_config)

    def begun(question: str) -> tuple[Any, Any]:
        stream = cache.begin(question).record(source())  # type: ignore[union-attr]
        next(stream)
        return stream, cache.begin(question, lock_seconds=2.0).response  # type: ignore[union-attr]

    whole, other = begun("warm up the pump")
    lines = lines_of(lambda: list(whole))
    assert read(other) == (EVENTS, None)
    interrupted = broken = 0
    for step in range(1, lines + 1, 5):
        question = f"question number {step} of many"
        stream, other = begun(question)
        error = interrupt_at(lambda stream=stream: list(stream), step)
        interrupted += error is not None
        del error, stream
        got, failed = read(other)
        # A part from the start, in order; and all of it, or an error.
        assert got == EVENTS[: len(got)]
        assert (got == EVENTS) or failed is not None
        broken += failed is not None
        del other, failed
        found = cache.lookup(question)
        assert found.response in (None, Streamed(tuple(EVENTS)))
        again = cache.begin(question, lock_seconds=2.0)
        if not again.is_hit:
            again.complete("anew")  # type: ignore[union-attr]
    assert interrupted > 50
    assert broken < interrupted


@pytest.mark.promise("no-stall")
def test_a_cancelled_reader_ends_no_stream_of_another(redis_config: CacheConfig) -> None:
    async def main() -> None:
        cache = AsyncSemanticCache(config=redis_config)
        gate, closed = asyncio.Event(), []

        async def slow() -> AsyncIterator[int]:
            try:
                yield 1
                async with asyncio.timeout(30) if hasattr(asyncio, "timeout") else asyncio.Lock():
                    await gate.wait()
                    yield 2
            finally:
                closed.append(1)

        async def consume(stream: Any, got: list[int]) -> None:
            async for event in stream:
                got.append(event)

        gots: list[list[int]] = [[], []]
        stream = (await cache.begin(Q)).record(slow())  # type: ignore[union-attr]
        first = asyncio.create_task(consume(stream, gots[0]))
        await until(lambda: gots[0])
        other = (await cache.begin(Q)).response  # type: ignore[union-attr]
        second = asyncio.create_task(consume(other, gots[1]))
        await until(lambda: gots[1])
        first.cancel()  # while the source is awaited
        await asyncio.wait([first])
        assert first.cancelled()
        assert not closed
        gate.set()
        await second
        assert gots == [[1], [1, 2]]
        assert (await cache.lookup(Q)).response == Streamed((1, 2))
        # Where the last one is cancelled, the source is closed and the call is free.
        gate.clear()
        got: list[int] = []
        alone = asyncio.create_task(
            consume((await cache.begin("another question")).record(slow()), got)  # type: ignore[union-attr]
        )
        await until(lambda: got)
        alone.cancel()
        await asyncio.wait([alone])
        assert closed == [1, 1]
        assert not (await AsyncSemanticCache(config=redis_config).begin("another question")).is_hit
        await close_async_redis_clients()

    asyncio.run(asyncio.wait_for(main(), 120))


@pytest.mark.promise("no-stall")
def test_a_cancelled_call_leaves_its_flight_to_one_who_waits_in_another_process(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    joins = note_joins(monkeypatch)

    async def main() -> None:
        runs: list[str] = []

        def function(cache: AsyncSemanticCache) -> Any:
            @cache.cached(name="f")
            async def ask(prompt: str) -> str:
                runs.append(prompt)
                await asyncio.sleep(3600 if len(runs) == 1 else 0.1)
                return "answer"

            return ask

        first, *others = (function(AsyncSemanticCache(config=redis_config)) for _ in range(4))
        task = asyncio.create_task(first(Q))
        await until(lambda: runs)
        waiting = [asyncio.create_task(other(Q)) for other in others]
        await until(lambda: joins.are(4))
        task.cancel()
        assert await asyncio.gather(*waiting) == ["answer"] * 3
        assert len(runs) == 2  # the cancelled one, and one of those who waited
        await close_async_redis_clients()

    asyncio.run(asyncio.wait_for(main(), 120))


def test_readers_on_other_loops_and_threads_share_a_stream(redis_config: CacheConfig) -> None:
    cache = AsyncSemanticCache(config=redis_config)
    runs: list[int] = []

    @cache.cached
    async def ask(prompt: str) -> AsyncIterator[int]:
        runs.append(1)
        for number in range(50):
            await asyncio.sleep(0.002)
            yield number

    results: list[list[int]] = []

    def reader() -> None:
        async def main() -> None:
            results.append([event async for event in ask(Q)])
            await until(
                lambda: len(results) == 5
            )  # or the loop of the source would end before others have read
            await close_async_redis_clients()

        asyncio.run(main())

    threads = [threading.Thread(target=reader) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [list(range(50))] * 5
    assert len(runs) == 1


@pytest.mark.promise("no-stall")
def test_a_stream_whose_loop_has_ended_does_not_hold_others(redis_config: CacheConfig) -> None:
    cache = AsyncSemanticCache(config=redis_config)

    async def endless() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(3600)

    left, other = (asyncio.new_event_loop() for _ in range(2))

    async def begin() -> Any:
        stream = (await cache.begin(Q)).record(endless())  # type: ignore[union-attr]
        assert await anext(stream) == 1
        return stream

    stream = left.run_until_complete(begin())

    async def follow() -> None:
        call = await cache.begin(Q, lock_seconds=0.3)
        assert not call.is_hit
        await call.fail()  # type: ignore[union-attr]

    other.run_until_complete(asyncio.wait_for(follow(), 60))
    left.run_until_complete(stream.aclose())
    for loop in (left, other):
        loop.run_until_complete(close_async_redis_clients())
        loop.close()


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("recorded", [False, True])
def test_a_killed_process_holds_others_up_to_the_deadline_of_its_call(
    redis_config: CacheConfig, recorded: bool
) -> None:
    def work(report: Report) -> None:
        call = SemanticCache(config=redis_config).begin(Q, lock_seconds=1.0)
        stream = call.record(source()) if recorded else None  # type: ignore[union-attr]
        if stream:
            next(stream)
        report("b", 1)
        time.sleep(60)

    with Child(work) as child:
        while not _flights(redis_config):
            time.sleep(0.02)
        time.sleep(0.2)
        child.kill()
        child.wait()
        call = SemanticCache(config=redis_config).begin(Q, lock_seconds=20.0)
        assert not call.is_hit
        assert list(call.record(source())) == EVENTS  # type: ignore[union-attr]
    assert SemanticCache(config=redis_config).lookup(Q).response == Streamed(tuple(EVENTS))


def _flights(config: CacheConfig) -> list[bytes]:
    with redis.Redis(port=config.redis_port, db=config.semantic_redis_db) as raw:
        return [key for key in raw.keys("*") if config.redis_key_prefix.encode() in key]


@pytest.mark.promise("right-answer")
def test_a_forked_child_does_not_end_its_parents_call(redis_config: CacheConfig) -> None:
    cache = SemanticCache(config=redis_config)
    held = [cache.begin(Q)]
    before = _flights(redis_config)

    def work(report: Report) -> None:
        held.clear()
        gc.collect()
        cache.begin("another question").fail()  # type: ignore[union-attr]
        report("e", 1)

    with Child(work) as child:
        assert child.wait() == 0
    assert _flights(redis_config) == before
    assert held[0].complete("Paris")  # type: ignore[union-attr]
    assert cache.lookup(Q).response == "Paris"
