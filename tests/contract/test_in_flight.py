"""Calls in flight and streams on a real Redis: one suite for both variants.

Two caches on one Redis are to each other what two processes are: flights in a process belong to a cache.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from typing import Any

import pytest

from lix_cache import (
    AsyncSemanticCache,
    CacheConfig,
    CachePolicy,
    InvalidInput,
    Reason,
    RedisUnavailable,
    SemanticCache,
    Streamed,
    StreamInterrupted,
)
from lix_cache.hot.clients import close_async_redis_clients
from tests.support import CountingProxy, RedisServer
from tests.support.redis_server import nowhere
from tests.support.semantic import Joins, note_joins
from tests.support.waiting import until

END = object()
EVENTS = ["one ", {"n": [2]}, b"three", 4.5]
Q = "capital of France"


class Lab:
    """Calls of one variant, as coroutines: those that block go to threads."""

    def __init__(self, variant: str, config: CacheConfig, joins: Joins) -> None:
        self.is_async = variant == "async"
        self.config, self.joins = config, joins
        self.closed: list[str] = []
        self.pulled: list[Any] = []

    def cache(self, **options: Any) -> Any:
        kind = AsyncSemanticCache if self.is_async else SemanticCache
        return kind(config=options.pop("config", self.config), **options)

    async def do(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.is_async:
            found = call(*args, **kwargs)
            return await found if isinstance(found, Awaitable) else found
        return await asyncio.to_thread(functools.partial(call, *args, **kwargs))

    def source(self, events: Any = EVENTS, error: BaseException | None = None, final: Any = None) -> Any:
        lab = self

        def sync() -> Iterator[Any]:
            try:
                for event in events:
                    lab.pulled.append(event)
                    yield event
                if error is not None:
                    raise error
                return final
            finally:
                lab.closed.append("closed")

        async def asynchronous() -> AsyncIterator[Any]:
            try:
                for event in events:
                    await asyncio.sleep(0)
                    lab.pulled.append(event)
                    yield event
                if error is not None:
                    raise error
            finally:
                lab.closed.append("closed")

        return asynchronous() if self.is_async else sync()

    async def next(self, stream: Any) -> Any:
        return await anext(stream, END) if self.is_async else await asyncio.to_thread(next, stream, END)

    async def close(self, stream: Any) -> None:
        await (stream.aclose() if self.is_async else asyncio.to_thread(stream.close))

    async def all(self, stream: Any) -> list[Any]:
        if self.is_async:
            return [event async for event in stream]
        return await asyncio.to_thread(list, stream)

    async def follower(self, cache: Any) -> asyncio.Task[Any]:
        """Return an equal call that waits."""
        before = self.joins.count
        task = asyncio.create_task(self.do(cache.begin, Q))
        await until(lambda: self.joins.are(before + 1))
        return task

    async def is_stored(self) -> Any:
        return (await self.do(self.cache().lookup, Q)).response


Test = Callable[[Lab], Awaitable[None]]


def run(variant: str, config: CacheConfig, joins: Joins, test: Test) -> None:
    async def main() -> None:
        try:
            await asyncio.wait_for(test(Lab(variant, config, joins)), 120)
        finally:
            await close_async_redis_clients()

    asyncio.run(main())


@pytest.fixture(params=["sync", "async"])
def lab(
    request: pytest.FixtureRequest, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> Callable[[Test], None]:
    joins = note_joins(monkeypatch)
    return lambda test: run(request.param, redis_config, joins, test)


def contract(test: Test) -> Callable[..., None]:
    """Run a coroutine in both variants."""

    @functools.wraps(test)
    def wrapped(lab: Any) -> None:
        lab(test)

    del wrapped.__wrapped__  # type: ignore[attr-defined]
    return wrapped


# -- begin, complete, fail -----------------------------------------------------------------


@contract
async def test_a_miss_begins_a_call_and_its_answer_is_found_again(lab: Lab) -> None:
    cache = lab.cache()
    call = await lab.do(cache.begin, Q, context={"model": "m"})
    assert not call
    assert not call.is_hit
    assert call.missed.reason == Reason.EMPTY
    assert call.stored is None
    stored = await lab.do(call.complete, {"text": "Paris"}, ttl_seconds=60, tags=["geo"], tokens=(5, 7))
    assert stored
    assert stored == call.stored
    found = await lab.do(cache.begin, Q, context={"model": "m"})
    assert (found.is_hit, found.response, found.reason) == (True, {"text": "Paris"}, Reason.EXACT)
    assert found.entry_id == stored.entry_id
    assert found.ttl_remaining_seconds <= 60
    assert not await lab.do(cache.begin, Q, context={"model": "n"}, lock_seconds=0.05)
    assert await lab.do(cache.invalidate, tags=["geo"]) == 1


@pytest.mark.promise("isolation")
@contract
async def test_who_waits_gets_the_answer_as_an_object_of_its_own(lab: Lab) -> None:
    cache = lab.cache()
    call = await lab.do(cache.begin, Q)
    tasks = [await lab.follower(cache) for _ in range(3)]
    answer = {"text": ["Paris"]}
    await lab.do(call.complete, answer)
    answer["text"].append("changed")
    found = await asyncio.gather(*tasks)
    assert [one.response for one in found] == [{"text": ["Paris"]}] * 3
    assert {one.reason for one in found} == {Reason.SHARED}
    assert len({id(one.response) for one in found}) == 3
    assert cache.local_stats["shared_runs"] == 3


@contract
async def test_another_process_waits_for_the_answer(lab: Lab) -> None:
    call = await lab.do(lab.cache().begin, Q)
    task = await lab.follower(lab.cache())
    assert not task.done()
    await lab.do(call.complete, "Paris")
    assert (await task).response == "Paris"


@contract
async def test_a_failure_is_shared_in_the_process_and_not_cached(lab: Lab) -> None:
    cache = lab.cache()
    call = await lab.do(cache.begin, Q)
    task = await lab.follower(cache)
    error = ValueError("no answer")
    await lab.do(call.fail, error)
    with pytest.raises(ValueError, match="no answer") as caught:
        await task
    assert caught.value is not error
    assert not await lab.do(cache.begin, Q)


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("end", ["fail", "drop"])
@pytest.mark.parametrize("place", ["here", "elsewhere"])
def test_one_of_those_who_wait_takes_an_abandoned_call_over(lab: Any, end: str, place: str) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache()
        other = cache if place == "here" else lab.cache()
        call = await lab.do(cache.begin, Q)
        tasks = [await lab.follower(other) for _ in range(2)]
        if end == "fail":
            await lab.do(call.fail)
        else:
            del call
            gc.collect()
            if place == "elsewhere":
                # The next call of the process that dropped it tells.
                await lab.do((await lab.do(cache.begin, "another question")).fail)
                # It tells when it leads a call, so the one before had nothing to tell yet, or did.
        done, waiting = await asyncio.wait(tasks, timeout=60, return_when=asyncio.FIRST_COMPLETED)
        assert len(done) == len(waiting) == 1
        await lab.do(done.pop().result().complete, "Paris")
        assert (await waiting.pop()).response == "Paris"

    lab(test)


@pytest.mark.promise("no-stall")
@contract
async def test_who_waits_begins_anew_at_the_deadline(lab: Lab) -> None:
    for other in (cache := lab.cache(), lab.cache()):
        call = await lab.do(cache.begin, Q, lock_seconds=0.3)
        late = await lab.do(other.begin, Q, lock_seconds=0.3)
        assert not late.is_hit
        assert await lab.do(late.complete, "Paris")
        assert await lab.do(call.complete, "Paris, late")
        assert await lab.is_stored() == "Paris, late"
        await lab.do(cache.invalidate, context={})


@contract
async def test_a_call_ends_once(lab: Lab) -> None:
    cache = lab.cache()
    call = await lab.do(cache.begin, Q)
    for wrong in ({"ttl_seconds": -1}, {"tags": [1]}):
        with pytest.raises(ValueError, match=r".+"):
            await lab.do(call.complete, "x", **wrong)
    await lab.do(call.complete, "Paris")
    with pytest.raises(InvalidInput, match="ended"):
        await lab.do(call.complete, "London")
    with pytest.raises(InvalidInput, match="ended"):
        call.record(lab.source())
    await lab.do(call.fail, ValueError())
    assert await lab.is_stored() == "Paris"
    with pytest.raises(InvalidInput, match="empty"):
        await lab.do(cache.begin, " ")


@contract
async def test_an_answer_that_is_refused_says_why_and_is_shared(lab: Lab) -> None:
    cache = lab.cache()
    cases = [
        ("", "empty"),
        (None, "empty"),
        ({"choices": [{"finish_reason": "length", "message": {"content": "Par"}}]}, "truncated"),
    ]
    for answer, rule in cases:
        call = await lab.do(cache.begin, Q)
        task = await lab.follower(cache)
        stored = await lab.do(call.complete, answer)
        assert (bool(stored), stored.refused) == (False, rule)
        assert (await task).response == answer
    excluded = lab.cache(policy=CachePolicy(max_query_chars=5))
    call = await lab.do(excluded.begin, Q)
    assert call.missed.reason == Reason.POLICY
    # Named, and counted, as a plain store names it.
    assert (await lab.do(call.complete, "Paris")).refused == "too_long"
    assert (await lab.do(excluded.get_stats))["stores_refused"] == {"too_long": 1}


@contract
async def test_a_value_that_can_never_be_stored_is_an_error_and_the_call_goes_on(lab: Lab) -> None:
    cache = lab.cache()
    call = await lab.do(cache.begin, Q)
    task = await lab.follower(cache)
    for answer in ([object], (event for event in EVENTS), open):
        with pytest.raises(InvalidInput):
            await lab.do(call.complete, answer)
        assert call.stored is None
    assert not task.done()
    assert await lab.do(call.complete, "Paris")
    assert (await task).response == "Paris" == await lab.is_stored()


@contract
async def test_a_call_inside_an_equal_one_is_counted_as_such(lab: Lab) -> None:
    cache = lab.cache()
    depth: list[str] = []

    def sync(prompt: str) -> str:
        depth.append(prompt)
        return "outer" if len(depth) > 1 or ask(prompt) else ""

    async def asynchronous(prompt: str) -> str:
        depth.append(prompt)
        return "outer" if len(depth) > 1 or await ask(prompt) else ""

    ask = cache.cached()(asynchronous if lab.is_async else sync)
    assert await lab.do(ask, Q) == "outer"
    assert len(depth) == 2
    assert (await lab.do(cache.get_stats))["stores_refused"] == {"nested": 1}


@pytest.mark.promise("one-trip")
@contract
async def test_a_call_is_two_trips_to_begin_and_two_to_end(lab: Lab) -> None:
    with CountingProxy(lab.config.redis_port) as proxy:
        cache = lab.cache(config=lab.config.replace(redis_port=proxy.port))

        async def trips(call: Callable[..., Any], *args: Any) -> tuple[int, Any]:
            before = proxy.round_trips
            result = await lab.do(call, *args)
            return proxy.round_trips - before, result

        for ask in ("capital of Italy", Q, "capital of Spain"):
            begun, call = await trips(cache.begin, ask)
            before = proxy.round_trips
            if ask == "capital of Spain":
                assert await lab.all(call.record(lab.source(list(range(1000))))) == list(range(1000))
            else:
                await lab.do(call.complete, "Paris")
            ended = proxy.round_trips - before
        assert (begun, ended) == (2, 2)
        assert (await trips(cache.begin, Q))[0] == 1


@contract
async def test_without_redis_a_call_begins_where_that_is_a_miss(lab: Lab) -> None:
    away = nowhere(lab.config)
    with pytest.raises(RedisUnavailable):
        await lab.do(lab.cache(config=away).begin, Q)
    cache = lab.cache(config=away.replace(on_cache_error="miss"))
    call = await lab.do(cache.begin, Q)
    assert call.missed.reason == Reason.REDIS
    task = await lab.follower(cache)
    assert not (await lab.do(call.complete, "Paris"))
    assert (await task).response == "Paris"


@contract
async def test_only_what_gives_events_is_recorded(lab: Lab) -> None:
    call = await lab.do(lab.cache().begin, Q)
    for wrong in (7, None, [1] if lab.is_async else lab.source):
        with pytest.raises(InvalidInput, match="iterable"):
            call.record(wrong)
    assert await lab.all(call.record(lab.source())) == EVENTS


# -- streams -------------------------------------------------------------------------------


@pytest.mark.promise("right-answer")
@contract
async def test_a_stream_is_passed_on_stored_and_replayed(lab: Lab) -> None:
    cache = lab.cache()
    call = await lab.do(cache.begin, Q)
    stream = call.record(lab.source(), ttl_seconds=50, tags=["t"])
    for number, event in enumerate(EVENTS, 1):
        assert await lab.next(stream) == event
        assert len(lab.pulled) == number  # no further than it is read
    assert await lab.next(stream) is END
    assert call.stored
    assert lab.closed == ["closed"]
    found = await lab.do(lab.cache().begin, Q)
    assert found.response == Streamed(tuple(EVENTS))
    assert await lab.all(found.response) == EVENTS
    assert found.ttl_remaining_seconds <= 50


@contract
async def test_an_equal_call_joins_a_stream_from_its_start_and_may_be_faster(lab: Lab) -> None:
    cache = lab.cache()
    call = await lab.do(cache.begin, Q)
    early = await lab.follower(cache)
    stream = call.record(lab.source())
    first = [await lab.next(stream), await lab.next(stream)]
    late = await lab.do(cache.begin, Q)
    assert late.reason == (await early).reason == Reason.SHARED
    assert await lab.all(late.response) == EVENTS
    assert await lab.all((await early).response) == EVENTS
    assert first + await lab.all(stream) == EVENTS
    assert lab.pulled == EVENTS
    assert (await lab.do(cache.begin, Q)).response == Streamed(tuple(EVENTS))


@contract
async def test_another_process_waits_for_the_end_of_a_stream(lab: Lab) -> None:
    call = await lab.do(lab.cache().begin, Q)
    stream = call.record(lab.source())
    await lab.next(stream)
    task = await lab.follower(lab.cache())
    assert not task.done()
    await lab.all(stream)
    assert (await task).response == Streamed(tuple(EVENTS))


@pytest.mark.promise("isolation")
@contract
async def test_what_one_reader_does_to_an_event_no_other_sees(lab: Lab) -> None:
    cache = lab.cache()
    stream = (await lab.do(cache.begin, Q)).record(lab.source([{"n": [2]}, "end"]))
    own = await lab.next(stream)
    own["n"].append(3)
    other = (await lab.do(cache.begin, Q)).response
    shared = await lab.next(other)
    assert shared == {"n": [2]}
    shared.clear()
    await lab.all(stream)
    assert (await lab.is_stored()).events == ({"n": [2]}, "end")


@pytest.mark.parametrize("way", ["close", "drop", "throw"])
def test_a_reader_that_stops_early_ends_the_stream_for_itself_alone(lab: Any, way: str) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache()
        stream = (await lab.do(cache.begin, Q)).record(lab.source())
        await lab.next(stream)
        other = (await lab.do(cache.begin, Q)).response
        if way == "close":
            await lab.close(stream)
        elif way == "throw":
            with pytest.raises(KeyError):
                await lab.do(stream.athrow if lab.is_async else stream.throw, KeyError())
        else:
            del stream
            gc.collect()
            await asyncio.sleep(0.05)
        assert lab.closed == []
        assert await lab.all(other) == EVENTS
        assert (await lab.is_stored()).events == tuple(EVENTS)

    lab(test)


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("way", ["close", "unread"])
def test_a_stream_without_a_reader_is_closed_and_not_stored(lab: Any, way: str) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache()
        stream = (await lab.do(cache.begin, Q)).record(lab.source())
        other = None
        if way == "close":
            await lab.next(stream)
            other = (await lab.do(cache.begin, Q)).response
            await lab.next(other)
            await lab.close(other)
            await lab.close(stream)
            assert lab.closed == ["closed"]
            again = await lab.do(lab.cache().begin, Q)
        else:
            del stream
            gc.collect()
            again = await lab.do(cache.begin, Q)
        assert not again.is_hit
        assert await lab.all(again.record(lab.source(["anew"]))) == ["anew"]
        assert (await lab.is_stored()).events == ("anew",)

    lab(test)


@contract
async def test_a_source_that_raises_fails_all_who_read_it_after_its_events(lab: Lab) -> None:
    cache = lab.cache()
    error = ValueError("broken")
    stream = (await lab.do(cache.begin, Q)).record(lab.source(["a", "b"], error))
    first = await lab.next(stream)
    other = (await lab.do(cache.begin, Q)).response
    seen = []
    for one in (stream, other):
        got: list[Any] = []
        with pytest.raises(ValueError, match="broken") as caught:
            while (event := await lab.next(one)) is not END:
                got.append(event)
        seen.append((got, caught.value is error))
    assert first == "a"
    assert seen == [(["b"], True), (["a", "b"], False)]
    assert await lab.is_stored() is None
    assert not await lab.do(cache.begin, Q)


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    ("policy", "rule"),
    [
        (CachePolicy(max_stream_events=10), "too_large"),
        (CachePolicy(max_stream_bytes=120), "too_large"),
        (CachePolicy(), "not_plain"),
    ],
)
def test_a_stream_that_cannot_be_stored_goes_on(lab: Any, policy: CachePolicy, rule: str) -> None:
    async def test(lab: Lab) -> None:
        cache, thing = lab.cache(policy=policy), object()
        events: list[Any] = [f"event {i:03d}" for i in range(200)]
        if rule == "not_plain":
            events[11] = thing
        call = await lab.do(cache.begin, Q)
        stream = call.record(lab.source(events))
        got = [await lab.next(stream) for _ in range(5)]
        follower = (await lab.do(cache.begin, Q)).response
        got += [await lab.next(stream) for _ in range(30)]
        assert call.stored is not None
        assert (bool(call.stored), call.stored.refused) == (False, rule)
        # No caller waits for it any more, here or in another process.
        for other in (cache, lab.cache()):
            assert not await lab.do((again := await lab.do(other.begin, Q)).fail)
            assert not again.is_hit
        with pytest.raises(StreamInterrupted, match="call again"):
            await lab.all(follower)
        assert got + await lab.all(stream) == events
        assert len(lab.pulled) == 200
        assert await lab.is_stored() is None
        assert cache.local_stats["stores_refused"] == {rule: 1}

    lab(test)


@contract
async def test_the_one_who_began_a_stream_misses_nothing_though_others_are_faster(lab: Lab) -> None:
    cache = lab.cache(policy=CachePolicy(max_stream_events=10))
    stream = (await lab.do(cache.begin, Q, lock_seconds=0.3)).record(lab.source(range(50)))
    fast = (await lab.do(cache.begin, Q)).response
    got = []
    with pytest.raises(StreamInterrupted):
        while True:
            got.append(await lab.next(fast))
    assert got == list(range(11))
    assert await lab.all(stream) == list(range(50))


@contract
async def test_what_cannot_be_had_twice_goes_to_the_one_who_began(lab: Lab) -> None:
    cache, thing = lab.cache(), object()
    stream = (await lab.do(cache.begin, Q)).record(lab.source([thing, "b"]))
    assert await lab.next(stream) is thing
    assert not await lab.do(cache.begin, Q)
    assert await lab.all(stream) == ["b"]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("events", "rule"),
    [
        ([], "empty"),
        (["", " "], "empty"),
        (["Error: ", "overloaded"], "error"),
        ([{"type": "error", "error": {"type": "overloaded_error"}}], "error"),
        ([{"choices": [{"delta": {}}]}, {"choices": [{"finish_reason": "length"}]}], "truncated"),
        ([{"object": "chat.completion.chunk", "choices": [{"delta": {"content": "x"}}]}], "truncated"),
        ([{"choices": [{"delta": {"tool_calls": [{"id": 1}]}}]}], "tool_call"),
        (['data: {"type": "message_start", "mess', 'age": {}}\n\n'], "truncated"),
        ([b'data: {"type": "message_delta", "delta": {"stop_reason": "max_tokens"}}\n\n'], "truncated"),
        ([{"response": {"object": "response", "status": "incomplete"}}], "truncated"),
        ([{"type": "content_block_start", "content_block": {"type": "tool_use"}}], "tool_call"),
        ([{"type": "message_start", "message": {"content": []}}, {"type": "message_stop"}], ""),
        ([{"object": "chat.completion.chunk", "choices": [{"delta": {}, "finish_reason": "stop"}]}], ""),
        (['data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\n\n', "data: [DONE]\n\n"], ""),
        (["data: of ", "the year"], ""),
    ],
)  # fmt: skip
def test_only_whole_streams_are_stored(redis_config: CacheConfig, events: list[Any], rule: str) -> None:
    call = SemanticCache(config=redis_config).begin(Q)
    assert list(call.record(events)) == events  # type: ignore[union-attr]
    assert call.stored.refused == rule  # type: ignore[union-attr]


# -- functions that yield ------------------------------------------------------------------


def streaming(lab: Lab, cache: Any, **settings: Any) -> Any:
    if lab.is_async:

        @cache.cached(name="f", **settings)
        async def function(prompt: str, fail: bool = False) -> AsyncIterator[Any]:
            async with contextlib.aclosing(lab.source(error=ValueError("x") if fail else None)) as source:
                async for event in source:
                    yield event

    else:

        @cache.cached(name="f", **settings)
        def function(prompt: str, fail: bool = False) -> Iterator[Any]:
            yield from lab.source(error=ValueError("x") if fail else None)
            return "final"

    return function


@contract
async def test_a_function_that_yields_is_recorded_and_replayed(lab: Lab) -> None:
    cache = lab.cache()
    ask = streaming(lab, cache)
    assert await lab.all(ask(Q)) == EVENTS
    assert await lab.all(ask(Q)) == EVENTS
    assert await lab.all(streaming(lab, lab.cache())(Q)) == EVENTS
    assert lab.pulled == EVENTS
    if not lab.is_async:

        def whole() -> Iterator[Any]:
            assert (yield from ask(Q)) == "final"

        assert list(whole()) == EVENTS
    unread = ask("never read")
    await lab.close(unread)
    assert lab.pulled == EVENTS
    with pytest.raises(ValueError, match="x"):
        await lab.all(ask(Q, fail=True))
    assert await lab.all(ask(" ")) == EVENTS  # asks nothing: runs without the cache


@contract
async def test_equal_calls_of_a_function_that_yields_share_its_events(lab: Lab) -> None:
    ask = streaming(lab, lab.cache())
    streams = [ask(Q) for _ in range(4)]
    first = [await lab.next(stream) for stream in streams]
    rest = await asyncio.gather(*(lab.all(stream) for stream in streams))
    assert [[one, *more] for one, more in zip(first, rest, strict=True)] == [EVENTS] * 4
    assert lab.pulled == EVENTS


@contract
async def test_a_stream_that_is_getting_old_is_renewed_beside_the_call(lab: Lab) -> None:
    cache = lab.cache()
    ask = streaming(lab, cache, ttl_seconds=0.01, stale_while_revalidate=60)
    assert await lab.all(ask(Q)) == EVENTS
    await asyncio.sleep(0.05)
    assert await lab.all(ask(Q)) == EVENTS
    await until(lambda: cache.local_stats["refreshed"])
    assert lab.pulled == EVENTS * 2


@contract
async def test_streams_and_whole_answers_of_one_name_do_not_mix(lab: Lab) -> None:
    cache = lab.cache()
    ask = streaming(lab, cache)

    if lab.is_async:

        async def plain(prompt: str, fail: bool = False) -> str:
            return "whole"
    else:

        def plain(prompt: str, fail: bool = False) -> str:
            return "whole"

    whole = cache.cached(name="f")(plain)
    assert await lab.do(whole, Q) == "whole"
    assert await lab.all(ask(Q)) == EVENTS
    assert await lab.do(whole, Q) == "whole"


@pytest.mark.parametrize("run_on_error", [True, False])
def test_a_function_that_yields_runs_without_redis(lab: Any, run_on_error: bool) -> None:
    async def test(lab: Lab) -> None:
        cache = lab.cache(config=nowhere(lab.config))
        ask = streaming(lab, cache, run_on_error=run_on_error)
        if run_on_error:
            assert await lab.all(ask(Q)) == EVENTS
        else:
            with pytest.raises(ConnectionError):
                await lab.all(ask(Q))

    lab(test)


@pytest.mark.promise("no-loss")
@contract
async def test_redis_lost_under_way_loses_no_answer(lab: Lab) -> None:
    with RedisServer() as own_redis:
        config = lab.config.replace(redis_port=own_redis.port, redis_url=None)
        cache = lab.cache(config=config)
        call = await lab.do(cache.begin, Q)
        other = await lab.do(cache.begin, "a stream")
        stream = other.record(lab.source())
        await lab.next(stream)
        task = await lab.follower(cache)
        own_redis.kill()
        assert (await lab.do(call.complete, "Paris")).refused == "RedisUnavailable"
        assert (await task).response == "Paris"
        assert await lab.all(stream) == EVENTS[1:]
        assert other.stored.refused == "RedisUnavailable"


@pytest.mark.promise("no-stall")
@contract
async def test_who_comes_next_does_not_wait_for_a_call_that_ended_while_redis_hung(lab: Lab) -> None:
    with RedisServer() as own_redis:
        config = lab.config.replace(
            redis_port=own_redis.port,
            redis_url=None,
            redis_socket_timeout=1.0,
            redis_retry_seconds=0.05,
        )
        cache = lab.cache(config=config)
        call = await lab.do(cache.begin, Q)
        own_redis.pause()
        assert (await lab.do(call.complete, "Paris")).refused
        del call
        gc.collect()
        own_redis.resume()
        await asyncio.sleep(0.1)  # until the server is asked again
        begun = asyncio.create_task(lab.do(cache.begin, Q, lock_seconds=60))
        again = await asyncio.wait_for(begun, 20)
        assert not again.is_hit
        assert await lab.do(again.complete, "Paris")
        assert (await lab.do(cache.lookup, Q)).response == "Paris"
