"""The decorator on a real Redis: one run for many calls, in both variants and across processes."""

from __future__ import annotations

import asyncio
import functools
import inspect
import linecache
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from lix_cache import AsyncSemanticCache, SemanticCache
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, InvalidContext, InvalidInput, RedisUnavailable
from lix_cache.hot.clients import close_async_redis_clients
from lix_cache.semantic.policy import CachePolicy
from tests.support import CountingProxy, RedisServer
from tests.support.forks import Child, Report
from tests.support.meaning import Meanings, mix
from tests.support.semantic import note_joins
from tests.support.waiting import Life, until, wait_until

TABLE = {"capital of France": mix(a=1.0), "France's capital": mix(a=0.995, b=0.0999)}


class Lab:
    """Decorates functions of one variant; their calls are waited for."""

    def __init__(self, variant: str, config: CacheConfig) -> None:
        self.variant = variant
        self.config = config
        self.loop = asyncio.new_event_loop() if variant == "async" else None
        self.runs: list[Any] = []

    def cache(self, **options: Any) -> Any:
        kind = AsyncSemanticCache if self.loop else SemanticCache
        options.setdefault("embedder", Meanings(TABLE))
        return kind(config=options.pop("config", self.config), **options)

    def function(
        self, body: Callable[..., Any] | None = None, when: Callable[[], bool] = lambda: True
    ) -> Callable[..., Any]:
        """Return a function of the variant that notes its calls. It waits for a condition."""

        def work(prompt: Any, model: str) -> Any:
            self.runs.append((prompt, model))
            return body(prompt) if body else f"{prompt}! ({len(self.runs)})"

        if self.loop is None:

            def function(prompt: Any, model: str = "m", *, trace: object = None) -> Any:
                wait_until(when)
                return work(prompt, model)

            return function

        async def async_function(prompt: Any, model: str = "m", *, trace: object = None) -> Any:
            await until(when)
            return work(prompt, model)

        return async_function

    def call(self, function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if self.loop is None:
            return function(*args, **kwargs)
        return self.loop.run_until_complete(function(*args, **kwargs))

    def at_once(self, function: Callable[..., Any], calls: list[tuple[Any, ...]]) -> list[Any]:
        """Make all calls at once; an error stands in the place of a result."""
        if self.loop is None:
            with ThreadPoolExecutor(len(calls)) as pool:
                futures = [pool.submit(function, *args) for args in calls]
            return [f.exception() or f.result() for f in futures]

        async def gather() -> list[Any]:
            return await asyncio.gather(*(function(*args) for args in calls), return_exceptions=True)

        return self.loop.run_until_complete(gather())

    def settle(self, condition: Callable[[], bool]) -> None:
        if self.loop is None:
            wait_until(condition)
            return

        self.loop.run_until_complete(until(condition))

    def stats(self, cache: Any) -> dict[str, Any]:
        found = cache.get_stats()
        return self.loop.run_until_complete(found) if self.loop and inspect.isawaitable(found) else found

    def close(self) -> None:
        if self.loop is not None:
            self.loop.run_until_complete(close_async_redis_clients())
            self.loop.close()


@pytest.fixture(params=["sync", "async"])
def lab(request: pytest.FixtureRequest, redis_config: CacheConfig) -> Iterator[Lab]:
    made = Lab(request.param, redis_config)
    yield made
    made.close()


def test_an_answer_is_made_once_and_found_again_by_meaning(lab: Lab) -> None:
    cache = lab.cache(guards=False)
    ask = cache.cached()(lab.function())
    first = lab.call(ask, "capital of France")
    assert lab.call(ask, "  capital of France \n") == first
    assert lab.call(ask, prompt="France's capital") == first
    assert len(lab.runs) == 1
    assert ask.__name__ == ask.__wrapped__.__name__


def test_the_decorator_needs_no_parentheses(lab: Lab) -> None:
    cache = lab.cache()
    function = lab.function()
    bare, called = cache.cached(function), cache.cached()(function)
    first = lab.call(bare, "capital of France")
    assert lab.call(bare, "capital of France") == lab.call(called, "capital of France") == first
    assert len(lab.runs) == 1
    assert inspect.iscoroutinefunction(bare) == (lab.variant == "async")
    with pytest.raises(ConfigError, match=r"is for functions .*got a str"):
        cache.cached("prompt")


def test_all_arguments_must_match_but_those_that_are_ignored(lab: Lab) -> None:
    cache = lab.cache()
    ask = cache.cached(ignore=["trace"])(lab.function())
    assert lab.call(ask, "q one", "small") != lab.call(ask, "q one", "large")
    assert lab.call(ask, "q one", model="small", trace=object()) == lab.call(ask, "q one", "small")
    assert len(lab.runs) == 2
    strict = cache.cached()(lab.function())
    assert lab.call(strict, "q two", trace=1) != lab.call(strict, "q two", trace=2)
    with pytest.raises(InvalidContext, match=r"'trace'.* plain values.* ignore=.* identify="):
        lab.call(strict, "q two", trace=object())


def test_functions_and_static_contexts_do_not_share_answers(lab: Lab) -> None:
    cache = lab.cache()
    one, other = lab.function(), lab.function()
    other.__qualname__ = "another"
    calls = [
        cache.cached()(one),
        cache.cached()(other),
        cache.cached(static_context={"tenant": "a"})(one),
        cache.cached(static_context={"tenant": "b"})(one),
    ]
    assert len({lab.call(ask, "q one") for ask in calls}) == 4
    shared = [cache.cached(name="shared")(f) for f in (one, other)]
    assert lab.call(shared[0], "q one") == lab.call(shared[1], "q one")


def test_methods_and_keyword_catchers_are_understood(redis_config: CacheConfig) -> None:
    cache = SemanticCache(config=redis_config)
    runs = []

    class Model:
        temperature = 0

        @cache.cached(query_param="q", identify={"self": lambda self: self.temperature})
        def ask(self, **options: Any) -> str:
            runs.append(options)
            return f"answer {len(runs)}"

        @cache.cached()
        def tell(self, prompt: str) -> str:
            return prompt

    assert Model().ask(q="boil an egg", temperature=0) == Model().ask(q="boil an egg", temperature=0)
    assert Model().ask(q="boil an egg", temperature=1) == "answer 2"
    assert runs == [{"q": "boil an egg", "temperature": 0}, {"q": "boil an egg", "temperature": 1}]
    hot = Model()
    hot.temperature = 1
    assert hot.ask(q="boil an egg", temperature=0) == "answer 3"
    with pytest.raises(InvalidContext, match=r"'self'.*Model, which.* ignore=\['self'\]"):
        hot.tell("boil an egg")


def test_of_messages_the_last_user_turn_is_asked_and_tool_loops_do_not_hit(lab: Lab) -> None:
    ask = lab.cache().cached()(lab.function(lambda _: f"answer {len(lab.runs)}"))
    messages = [{"role": "user", "content": "weather in Rome"}]
    step = [*messages, {"role": "assistant", "tool_calls": [{"id": 1}]}, {"role": "tool", "content": "18"}]
    assert lab.call(ask, messages) == lab.call(ask, messages) == "answer 1"
    assert lab.call(ask, step) == "answer 2"
    assert lab.call(ask, step) == "answer 2"
    assert lab.call(ask, "weather in Rome") == "answer 3"


class SdkMessage:
    """As the SDKs return them: an object, not a dictionary."""

    def __init__(self, role: str, content: str) -> None:
        self.role, self.content = role, content

    def model_dump(self) -> dict[str, str]:
        return dict(vars(self))


@pytest.mark.parametrize("caught", [False, True])
def test_messages_that_are_objects_are_refused_with_advice_that_can_be_followed(
    redis_config: CacheConfig, *, caught: bool
) -> None:
    cache = SemanticCache(None, redis_config)
    runs = []

    def ask(messages: Any) -> str:
        runs.append(messages)
        return f"answer {len(runs)}"

    def ask_caught(**caught: Any) -> str:
        return ask(**caught)

    function = ask_caught if caught else ask
    messages = [SdkMessage("system", "be brief"), SdkMessage("user", "capital of France")]
    with pytest.raises(
        InvalidContext, match=r"'messages'.*\.model_dump\(\).* identify=\{'messages'"
    ) as error:
        cache.cached(query_param="messages")(function)(messages=messages)
    assert "ignore" not in str(error.value)
    with pytest.raises(ConfigError, match=r"'messages'.*cannot be ignored.*\.model_dump\(\).* identify="):
        cache.cached(query_param="messages", ignore=["messages"])
    # Both ways that the error names.
    plain = cache.cached(query_param="messages")(function)
    identified = cache.cached(
        query_param="messages", identify={"messages": lambda all_: [m.model_dump() for m in all_]}
    )(function)
    for _ in range(2):
        assert (
            plain(messages=[m.model_dump() for m in messages]) == identified(messages=messages) == "answer 1"
        )
    assert identified(messages=[messages[0], SdkMessage("user", "capital of Spain")]) == "answer 2"
    assert len(runs) == 2
    assert isinstance(runs[1][0], SdkMessage)


def test_parameters_named_like_parts_of_the_context_take_no_place_in_it(lab: Lab) -> None:
    cache, runs = lab.cache(), []

    def work(kind: str, prompt: Any, *args: Any) -> str:
        runs.append((kind, prompt, *args))
        return f"answer {len(runs)}"

    if lab.loop is None:

        def ask(prompt: Any, conversation: str, system_digest: str, function: str) -> str:
            return work("ask", prompt, conversation, system_digest, function)

        def tell(prompt: Any, conversation: str, system_digest: str, function: str) -> str:
            return work("tell", prompt, conversation, system_digest, function)
    else:

        async def ask(prompt: Any, conversation: str, system_digest: str, function: str) -> str:  # type: ignore[misc]
            return work("ask", prompt, conversation, system_digest, function)

        async def tell(prompt: Any, conversation: str, system_digest: str, function: str) -> str:  # type: ignore[misc]
            return work("tell", prompt, conversation, system_digest, function)

    first, second = (cache.cached()(function) for function in (ask, tell))
    messages = [{"role": "user", "content": "weather in Rome"}]
    step = [*messages, {"role": "assistant", "tool_calls": [{"id": 1}]}, {"role": "tool", "content": "18"}]
    ordered = [{"role": "system", "content": "In Fahrenheit."}, *messages]
    assert lab.call(first, messages, "c", "s", "f") == "answer 1"
    assert lab.call(first, step, "c", "s", "f") == "answer 2"
    assert lab.call(first, ordered, "c", "s", "f") == "answer 3"
    assert lab.call(second, messages, "c", "s", "f") == "answer 4"
    assert lab.call(first, messages, "c", "s", "f") == "answer 1"


def test_a_hundred_equal_calls_run_the_function_once(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    cache, joined = lab.cache(), note_joins(monkeypatch)
    ask = cache.cached()(lab.function(lambda p: {"answer": [p]}, when=lambda: joined.are(100)))
    results = lab.at_once(ask, [("q one",)] * 100)
    assert results == [{"answer": ["q one"]}] * 100
    assert len(lab.runs) == 1
    results[0]["answer"].append("changed by one caller")
    assert results[1] == {"answer": ["q one"]}
    assert lab.stats(cache)["shared_runs"] == 99


def test_an_exception_goes_to_all_who_wait_and_is_not_kept(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    joined = note_joins(monkeypatch)

    def fail(_: str) -> str:
        raise KeyError(f"run {len(lab.runs)}")

    ask = lab.cache().cached()(lab.function(fail, when=lambda: joined.are(10)))
    results = lab.at_once(ask, [("q one",)] * 10)
    assert [str(r) for r in results] == ["'run 1'"] * 10
    with pytest.raises(KeyError, match="run 2"):
        lab.call(ask, "q one")


@pytest.mark.parametrize(
    "answer", [None, "", {"error": "overloaded"}, {"choices": [{"finish_reason": "length"}]}]
)
def test_what_is_no_whole_answer_is_returned_and_not_kept(lab: Lab, answer: Any) -> None:
    ask = lab.cache().cached()(lab.function(lambda _: answer))
    assert [lab.call(ask, "q one"), lab.call(ask, "q one")] == [answer, answer]
    assert len(lab.runs) == 2


def test_an_answer_that_cannot_be_stored_is_the_callers_all_the_same(lab: Lab) -> None:
    cache = lab.cache()
    thing = object()
    ask = cache.cached()(lab.function(lambda _: thing))
    assert lab.call(ask, "q one") is thing
    assert lab.call(ask, "q one") is thing
    assert sum(lab.stats(cache)["stores_refused"].values()) == 2


def test_queries_that_the_policy_excludes_run_each_time(lab: Lab) -> None:
    cache = lab.cache(policy=CachePolicy(exclude=("secret",)))
    ask = cache.cached()(lab.function())
    for query in ("the secret one", "yes please", "", "   ", None, 5):
        assert lab.call(ask, query) != lab.call(ask, query)
    assert lab.stats(cache)["uncacheable"] == 8


def test_a_function_may_call_itself(lab: Lab) -> None:
    cache = lab.cache()
    depth = []

    def body(prompt: str) -> str:
        depth.append(prompt)
        return "done" if len(depth) > 2 else inner(prompt)

    if lab.loop is None:
        inner = cache.cached()(body)
    else:

        async def async_body(prompt: str) -> str:
            depth.append(prompt)
            return "done" if len(depth) > 2 else await inner(prompt)

        inner = cache.cached()(async_body)
    assert lab.call(inner, "q one") == "done"
    assert len(depth) == 3


def test_an_old_answer_is_served_while_one_call_renews_it(lab: Lab) -> None:
    cache = lab.cache()
    ask = cache.cached(ttl_seconds=0.3, stale_while_revalidate=30)(lab.function())
    assert lab.call(ask, "q one") == "q one! (1)"
    time.sleep(0.4)
    assert lab.call(ask, "q one") == "q one! (1)"
    lab.settle(lambda: cache._core.stats.counters["refreshed"] == 1)
    assert len(lab.runs) == 2
    assert lab.call(ask, "q one") == "q one! (2)"


def test_a_refresh_that_fails_is_counted_and_the_old_answer_served(lab: Lab) -> None:
    def body(prompt: str) -> str:
        if len(lab.runs) > 1:
            raise ValueError("no more")
        return prompt

    cache = lab.cache()
    ask = cache.cached(ttl_seconds=0.1, stale_while_revalidate=30)(lab.function(body))
    lab.call(ask, "q one")
    time.sleep(0.2)
    for _ in range(2):
        assert lab.call(ask, "q one") == "q one"
        lab.settle(lambda: cache._core.stats.counters["refresh_errors"] >= 1)
    assert lab.stats(cache)["last_error"].startswith("builtins.ValueError at line ")


def test_an_old_answer_is_served_where_no_thread_can_be_had_to_renew_it(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = SemanticCache(Meanings(TABLE), redis_config)
    runs: list[str] = []

    @cache.cached(ttl_seconds=0.001, stale_while_revalidate=60)
    def ask(prompt: str) -> str:
        runs.append(prompt)
        return f"answer {len(runs)}"

    def no_more(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    ask("capital of France")
    time.sleep(0.01)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", no_more)
        for _ in range(20):
            assert ask("capital of France") == "answer 1"
    assert cache.get_stats()["refresh_errors"] == 20
    ask("capital of France")
    wait_until(lambda: len(runs) == 2)


def test_refreshes_that_a_loop_left_undone_leave_room_for_others(redis_config: CacheConfig) -> None:
    cache = AsyncSemanticCache(Meanings(TABLE), redis_config)
    runs: list[str] = []

    @cache.cached(ttl_seconds=0.001, stale_while_revalidate=60, lock_seconds=0.01)
    async def ask(prompt: str) -> str:
        runs.append(prompt)
        if len(runs) > 10:
            await asyncio.sleep(3600)
        return f"answer to {prompt}"

    questions = [f"question number {i} of ten" for i in range(10)]

    async def all_of_them() -> None:
        for question in questions:
            assert await ask(question) == f"answer to {question}"

    async def close() -> None:
        await close_async_redis_clients()

    loops = [asyncio.new_event_loop() for _ in range(2)]
    loops[0].run_until_complete(all_of_them())
    loops[0].run_until_complete(all_of_them())
    loops[0].run_until_complete(until(lambda: len(runs) >= 18))
    loops[0].run_until_complete(asyncio.sleep(0.05))
    assert len(runs) == 18  # eight are being renewed, and no more
    time.sleep(0.02)
    loops[1].run_until_complete(ask(questions[9]))
    loops[1].run_until_complete(until(lambda: len(runs) > 18))
    assert runs[18:] == [questions[9]]
    for loop in loops:
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0.05))
        loop.run_until_complete(close())
        loop.close()


def test_no_call_waits_for_a_call_whose_loop_has_stopped(redis_config: CacheConfig) -> None:
    cache = AsyncSemanticCache(Meanings(TABLE), redis_config)
    runs: list[str] = []

    @cache.cached(lock_seconds=0.05)
    async def ask(prompt: str) -> str:
        runs.append(prompt)
        await asyncio.sleep(3600 if len(runs) == 1 else 0)
        return f"answer {len(runs)}"

    left, other = (asyncio.new_event_loop() for _ in range(2))
    task = left.create_task(ask("capital of France"))
    left.run_until_complete(until(lambda: runs))
    assert runs == ["capital of France"]
    assert other.run_until_complete(asyncio.wait_for(ask("capital of France"), 30)) == "answer 2"
    task.cancel()
    left.run_until_complete(asyncio.wait([task]))
    assert other.run_until_complete(ask("capital of France")) == "answer 2"
    for loop in (left, other):
        loop.run_until_complete(close_async_redis_clients())
        loop.close()


def test_the_answer_to_a_question_about_now_expires_soon(lab: Lab) -> None:
    life = Life(1.0)
    cache = lab.cache(policy=CachePolicy(time_sensitive_seconds=life.seconds))
    ask = cache.cached()(lab.function())
    assert lab.call(ask, "latest news") == lab.call(ask, "latest news") or life.may_be_over
    runs = len(lab.runs)
    time.sleep(1.2)
    assert lab.call(ask, "latest news") == f"latest news! ({runs + 1})"


# -- troubles ------------------------------------------------------------------------------


def test_without_redis_the_function_runs_and_it_is_counted(lab: Lab) -> None:
    gone = lab.config.replace(redis_port=1)
    cache = lab.cache(config=gone)
    ask = cache.cached()(lab.function())
    assert [lab.call(ask, "q one"), lab.call(ask, "q one")] == ["q one! (1)", "q one! (2)"]
    assert lab.stats(cache)["redis_errors"] == 2
    strict = lab.cache(config=gone).cached(run_on_error=False)(lab.function())
    with pytest.raises(RedisUnavailable):
        lab.call(strict, "q one")


def test_redis_lost_while_the_function_runs_loses_no_answer(lab: Lab, redis_server: RedisServer) -> None:
    with CountingProxy(redis_server.port) as proxy:
        cache = lab.cache(config=lab.config.replace(redis_port=proxy.port))

        def body(prompt: str) -> str:
            proxy.stop()
            return prompt

        ask = cache.cached()(lab.function(body))
        assert lab.call(ask, "q one") == "q one"
        stats = lab.stats(cache)
        assert stats["single_flight_errors"] == 1
        assert sum(stats["stores_refused"].values()) == 1


def test_another_process_is_waited_for_no_longer_than_the_deadline(lab: Lab) -> None:
    # Flights within the process belong to one decorated function, so another cache object is
    # to this one what another process is.
    begun, end = threading.Event(), threading.Event()

    @SemanticCache(config=lab.config).cached(name="shared", lock_seconds=60)
    def hangs(prompt: str, model: str = "m", *, trace: object = None) -> str:
        begun.set()
        end.wait(120)
        return "late"

    with ThreadPoolExecutor(1) as pool:
        late = pool.submit(hangs, "q one")
        assert begun.wait(10)
        ask = lab.cache().cached(name="shared", lock_seconds=0.3)(lab.function())
        began = time.monotonic()
        assert lab.call(ask, "q one") == "q one! (1)"
        assert 0.25 < time.monotonic() - began < 30
        end.set()
        assert late.result(60) == "late"


def test_a_lost_lock_is_not_given_back_for_another(lab: Lab) -> None:
    context = {"function": "shared"}
    with redis.Redis(port=lab.config.redis_port) as raw:

        def body(prompt: str) -> str:
            (key,) = raw.scan_iter(f"{lab.config.redis_key_prefix}:*:ans:flight:*")
            raw.set(key, "=another", px=60_000)
            return prompt

        ask = lab.cache().cached(static_context=context)(lab.function(body))
        assert lab.call(ask, "q one") == "q one"
        (key,) = raw.scan_iter(f"{lab.config.redis_key_prefix}:*:ans:flight:*")
        assert raw.get(key) == b"=another"


def test_a_caller_that_is_cancelled_leaves_the_flight_to_another(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    joined = note_joins(monkeypatch)

    async def main() -> tuple[Any, ...]:
        cache = AsyncSemanticCache(config=redis_config)

        @cache.cached()
        async def ask(prompt: str) -> str:
            runs.append(1)
            if len(runs) == 1:
                await asyncio.sleep(3600)
            return prompt

        leader = asyncio.create_task(ask("q one"))
        await until(lambda: runs)
        others = [asyncio.create_task(ask("q one")) for _ in range(3)]
        await until(lambda: joined.are(4))
        leader.cancel()
        others[0].cancel()
        found = await asyncio.gather(leader, *others, return_exceptions=True)
        await close_async_redis_clients()
        return tuple(found)

    leader, first, *rest = asyncio.run(main())
    assert isinstance(leader, asyncio.CancelledError)
    assert isinstance(first, asyncio.CancelledError)
    assert rest == ["q one", "q one"]
    assert len(runs) == 2


# -- processes -----------------------------------------------------------------------------


def _worker(
    config: CacheConfig, counter: str, body: Callable[[str], Any], **options: Any
) -> Callable[[Report], None]:
    def work(report: Report) -> None:
        cache = SemanticCache(config=config)

        @cache.cached(static_context={"function": "shared"}, **options)
        def ask(prompt: str) -> Any:
            with redis.Redis(port=config.redis_port) as raw:
                raw.incr(counter)
            time.sleep(0.4)
            return body(prompt)

        with ThreadPoolExecutor(10) as pool:
            results = list(pool.map(ask, ["q one"] * 10))
        report("r", len(set(map(str, results))))

    return work


def test_equal_calls_of_many_processes_run_the_function_once(redis_config: CacheConfig) -> None:
    counter = f"{redis_config.redis_key_prefix}:counter"
    children = [Child(_worker(redis_config, counter, str.upper)) for _ in range(4)]
    for child in children:
        assert child.wait() == 0
    with redis.Redis(port=redis_config.redis_port) as raw:
        assert int(raw.get(counter)) == 1


def test_a_killed_process_holds_others_up_to_the_deadline_of_its_flight(redis_config: CacheConfig) -> None:
    counter = f"{redis_config.redis_key_prefix}:counter"

    def work(_: Report) -> None:
        @SemanticCache(config=redis_config).cached(static_context={"function": "shared"}, lock_seconds=1)
        def hangs(prompt: str) -> str:
            with redis.Redis(port=redis_config.redis_port) as raw:
                raw.incr(counter)
            time.sleep(60)
            return prompt

        hangs("q one")

    with Child(work) as child, redis.Redis(port=redis_config.redis_port) as raw:
        wait_until(lambda: raw.get(counter) is not None)
        child.kill()
        cached = SemanticCache(config=redis_config).cached(static_context={"function": "shared"})
        began = time.monotonic()
        assert cached(lambda prompt: f"{prompt}!")("q one") == "q one!"
        assert time.monotonic() - began < 50


def test_a_forked_child_does_not_wait_for_a_thread_it_does_not_have(redis_config: CacheConfig) -> None:
    begun, end = threading.Event(), threading.Event()

    @SemanticCache(config=redis_config).cached(lock_seconds=0.2)
    def ask(prompt: str) -> str:
        begun.set()
        end.wait(30)
        return prompt

    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, "q one")
        assert begun.wait(10)

        def work(report: Report) -> None:
            end.set()
            report("r", len(ask("q one")))

        with Child(work) as child:
            assert child.wait() == 0
            assert child.records() == [("r", 5)]
        end.set()
        assert running.result(10) == "q one"


def test_what_is_not_stored_makes_processes_run_beside_each_other(redis_config: CacheConfig) -> None:
    counter = f"{redis_config.redis_key_prefix}:counter"
    began = time.monotonic()
    children = [Child(_worker(redis_config, counter, lambda _: "")) for _ in range(4)]
    for child in children:
        assert child.wait() == 0
    with redis.Redis(port=redis_config.redis_port) as raw:
        assert int(raw.get(counter)) >= 4
    assert time.monotonic() - began < 50


# -- what cannot be decorated --------------------------------------------------------------


def test_what_makes_no_sense_is_refused_when_it_is_decorated(redis_config: CacheConfig) -> None:
    cache = SemanticCache(config=redis_config)

    def plain(question: str) -> str:
        return question

    class Plain:
        def ask(self, question: str) -> str:
            return question

        __call__ = ask

    for options, function in [
        ({}, plain),
        ({"query_param": "question", "ignore": ["model"]}, plain),
        ({"query_param": "question", "identify": {"model": str}}, plain),
        ({"query_param": "question"}, functools.partial(plain)),
        ({"query_param": "question"}, Plain().ask),
        ({"query_param": "question"}, Plain()),
        ({"query_param": "question"}, str),
    ]:
        with pytest.raises(ConfigError):
            cache.cached(**options)(function)
    for options in (
        {"ttl_seconds": 0},
        {"lock_seconds": -1},
        {"stale_while_revalidate": -1},
        {"stale_while_revalidate": True},
        {"stale_while_revalidate": math.nan},
        {"stale_while_revalidate": ""},
        {"ttl_seconds": True},
        {"lock_seconds": "5"},
        {"ignore": "m"},
        {"ignore": 5},
        {"ignore": [5]},
        {"ignore": ["question"], "query_param": "question"},
        {"identify": ["m"]},
        {"identify": {"question": "m"}},
        {"name": ""},
        {"name": 5},
        {"query_param": 5},
        {"run_on_error": 1},
        {"static_context": {"cached.function": "x"}},
    ):
        with pytest.raises(ConfigError):
            cache.cached(**options)(plain)
    with pytest.raises(InvalidContext):
        cache.cached(static_context={"x": object()})
    for options in ({"tags": "t"}, {"tags": [5]}, {"tags": 5}, {"static_context": 5}):
        with pytest.raises(InvalidInput):
            cache.cached(**options)


@pytest.mark.promise("no-stall")
def test_functions_that_wait_for_one_another_run_when_the_wait_is_over(lab: Lab) -> None:
    """Each of two calls asks, from within, what the other one is running."""
    other = {"what is alpha": "what is beta", "what is beta": "what is alpha"}
    cache, both = lab.cache(embedder=None), 2

    if lab.loop is None:
        barrier = threading.Barrier(both)

        @cache.cached(ignore=["depth"], lock_seconds=0.2)
        def ask(prompt: str, depth: int = 0) -> str:
            if depth:
                return "leaf"
            barrier.wait()
            return f"{prompt}: {ask(other[prompt], depth=1)}"
    else:
        started: list[str] = []

        @cache.cached(ignore=["depth"], lock_seconds=0.2)
        async def ask(prompt: str, depth: int = 0) -> Any:
            if depth:
                return "leaf"
            started.append(prompt)
            while len(started) < both:
                await asyncio.sleep(0.001)
            return f"{prompt}: {await ask(other[prompt], depth=1)}"

    found = lab.at_once(ask, [(prompt,) for prompt in other])
    assert all("leaf" in one for one in found)


@pytest.mark.promise("no-stall")
def test_a_function_may_ask_its_own_question_in_another_thread(redis_config: CacheConfig) -> None:
    cache = SemanticCache(None, redis_config)
    with ThreadPoolExecutor(1) as pool:

        @cache.cached(ignore=["depth"], lock_seconds=0.2)
        def ask(prompt: str, depth: int = 0) -> str:
            return "leaf" if depth else f"got {pool.submit(ask, prompt, depth=1).result()}"

        assert ask("what is gamma") == "got leaf"


@pytest.mark.promise("no-stall")
def test_a_call_that_a_signal_interrupts_anywhere_leaves_no_flight(redis_config: CacheConfig) -> None:
    """An exception at each line of the two files that open and end flights."""
    cache = SemanticCache(None, redis_config)
    runs: list[str] = []

    class Stopped(Exception):
        pass

    @cache.cached(lock_seconds=1000)
    def ask(prompt: str) -> str:
        runs.append(prompt)
        return "answer"

    def interrupted(prompt: str, step: int) -> bool:
        left = step

        def trace(frame: Any, event: str, _: Any) -> Any:
            nonlocal left
            name = frame.f_code.co_filename
            if not name.endswith(("run_once.py", "flight.py")) or frame.f_code.co_name == "__del__":
                return None
            # Taking and giving back a lock is one step, as with a real signal.
            is_lock = linecache.getline(name, frame.f_lineno).lstrip().startswith("with ")
            if event == "line" and not is_lock:
                left -= 1
                if left == 0:
                    sys.settrace(None)
                    raise Stopped
            return trace

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            ask(prompt)
        except Stopped:
            return True
        finally:
            sys.settrace(before)
        return False

    ask("what is it")
    step = 1
    while interrupted(f"what is number {step}", step):
        with redis.Redis(port=redis_config.redis_port) as raw:
            for key in raw.keys("*:ans:flight:*"):  # that of other processes ends at its deadline
                raw.delete(key)
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(ask, f"what is number {step}").result(20) == "answer"
        count = len(runs)
        assert ask(f"what is number {step}") == "answer"
        assert len(runs) == count
        step += 1
    assert step > 40
