"""What a cached function may answer, and with whose object: other questions are other keys."""

from __future__ import annotations

import asyncio
import enum
import io
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import date
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from lix_cache import AsyncSemanticCache, SemanticCache, SemanticSettings
from lix_cache._log import logger
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, InvalidContext
from lix_cache.hot.clients import close_async_redis_clients
from lix_cache.semantic.policy import CachePolicy
from tests.support.semantic import note_joins
from tests.support.waiting import until, wait_until

USER = {"role": "user", "content": "What is entropy?"}


class OneMeaning:
    """An embedder to which all texts mean the same."""

    id, dim = "one", 8

    def embed(self, texts: Any) -> Any:
        return np.tile(np.eye(1, 8, dtype=np.float32), (len(texts), 1))


@pytest.fixture
def cache(redis_config: CacheConfig) -> SemanticCache:
    return SemanticCache(OneMeaning(), redis_config, guards=False, context={"tenant": "a"})


def count(cache: SemanticCache, **options: Any) -> tuple[list[Any], Callable[..., str]]:
    runs: list[Any] = []

    @cache.cached(**options)
    def ask(prompt: Any, extra: Any = None) -> str:
        runs.append((prompt, extra))
        return f"answer {len(runs)}"

    return runs, ask


class Colour(enum.Enum):
    RED = 1


class Shade(enum.Enum):
    RED = 1


VALUES: list[Any] = [
    None,
    False,
    0,
    0.0,
    -0.0,
    "0",
    b"0",
    bytearray(b"0"),
    1,
    True,
    1.0,
    "1",
    np.int64(1),
    np.float64(1.0),
    np.array(1),
    np.array([1]),
    np.array([1], np.int32),
    np.array([[1]]),
    [1],
    (1,),
    {1},
    frozenset({1}),
    {1: 1},
    {"1": 1},
    {True: 1},
    {1: "1"},
    {1: None},
    [],
    (),
    {},
    [[]],
    [[], []],
    ["a", "b"],
    ["ab"],
    ["a,b"],
    "['a', 'b']",
    Colour.RED,
    Shade.RED,
    date(2026, 1, 1),
    "2026-01-01",
    {"digest": "x"},
    {"default": True},
    [USER],
    [{**USER, "content": [{"type": "text", "text": "What is entropy?"}]}],
    np.zeros((224, 224, 3), np.uint8),
    np.zeros((224, 3, 224), np.uint8),
    np.ones((224, 224, 3), np.uint8),
    np.zeros((224, 224, 3), np.int8),
]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("place", ["argument", "inside an argument", "inside a message"])
def test_no_two_values_are_one(cache: SemanticCache, place: str) -> None:
    runs, ask = count(cache)

    def call(value: Any) -> str:
        if place == "argument":
            return ask("what is entropy?", value)
        if place == "inside an argument":
            return ask("what is entropy?", {"of": [value]})
        return ask(
            [{"role": "user", "content": [{"type": "text", "text": "what is entropy?"}, {"data": value}]}]
        )

    first = [call(value) for value in VALUES]
    assert len(set(first)) == len(VALUES)
    assert [call(value) for value in VALUES] == first
    assert len(runs) == len(VALUES)


@pytest.mark.promise("right-answer")
def test_where_an_array_lies_in_memory_is_no_difference_and_its_byte_order_is(cache: SemanticCache) -> None:
    runs, ask = count(cache)
    array = np.arange(24, dtype=np.int32).reshape(2, 3, 4)
    wide = np.zeros((2, 3, 8), np.int32)
    wide[..., ::2] = array
    same = [
        array,
        np.asfortranarray(array),
        array.transpose(2, 0, 1).copy().transpose(1, 2, 0),
        wide[..., ::2],
        np.flip(np.flip(array).copy()),
    ]
    for wrap in (lambda one: one, lambda one: {"of": [one]}):
        assert len({ask("q", wrap(one)) for one in same}) == 1
    assert len(runs) == 2
    assert [np.array_equal(extra, array) for _, extra in runs[:1]] == [True]
    others = [array.astype(">i4"), np.asfortranarray(array.astype(">i4")), array.T, array.astype(np.int64)]
    assert [ask("q", one) for one in others] == ["answer 3", "answer 3", "answer 4", "answer 5"]
    # A scalar's array keeps its shape.
    assert ask("q", np.array(7)) != ask("q", np.array([7]))


@pytest.mark.promise("right-answer")
def test_an_array_that_cannot_be_compared_is_refused_with_advice_that_fits(cache: SemanticCache) -> None:
    _, ask = count(cache)
    records = np.zeros(2, dtype=[("x", "<i4"), ("y", "<f8")])
    with pytest.raises(InvalidContext, match=r"'extra' of .*array of records.*an array for each field"):
        ask("q", records)
    with pytest.raises(InvalidContext, match=r"'extra' of .*numpy\.\w+ of records"):
        ask("q", [records[0]])
    assert ask("q", {name: records[name] for name in records.dtype.names}) == "answer 1"
    with pytest.raises(InvalidContext, match=r"'extra' of .*array of objects.*a list of plain values"):
        ask("q", np.array([1, "a"], dtype=object))


NANS = [
    float("nan"),
    complex(0, float("nan")),
    Decimal("NaN"),
    Decimal("sNaN"),
    np.float64("nan"),
    np.float32("nan"),
    np.complex64(complex(float("nan"), 0)),
    np.datetime64("NaT"),
    np.timedelta64("NaT"),
]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("nan", NANS, ids=repr)
def test_nan_is_refused_wherever_it_is_by_the_name_of_the_parameter(cache: SemanticCache, nan: Any) -> None:
    @cache.cached()
    def ask(prompt: Any, *rest: Any, extra: Any = None, **caught: Any) -> str:
        pytest.fail("it ran")

    holders = [nan, [nan], (1, nan), {"a": {"b": [nan]}}]
    if repr(nan) != "Decimal('sNaN')":  # it has no hash
        holders += [{nan: 1}, {nan}, frozenset({nan})]
    for held in holders:
        with pytest.raises(InvalidContext, match=r"'extra' of .*NaN.*ignore=\['extra'\]"):
            ask("q", extra=held)
        with pytest.raises(InvalidContext, match=r"'other' of .*NaN.*ignore=\['other'\]"):
            ask("q", other=held)
        with pytest.raises(InvalidContext, match=r"'rest' of .*NaN"):
            ask("q", held)
        with pytest.raises(InvalidContext, match=r"'prompt' of .*NaN"):
            ask([{"role": "user", "content": "q", "x": held}])


@pytest.mark.promise("right-answer")
def test_the_order_of_keys_is_no_difference(cache: SemanticCache) -> None:
    runs, ask = count(cache)
    assert ask("what is entropy?", {"a": 1, 2: {3, "b"}}) == ask("what is entropy?", {2: {"b", 3}, "a": 1})
    assert len(runs) == 1


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    "texts",
    [
        [f"Summarise:\nUser: {w}\nAssistant: done\nUser: thanks" for w in ("my order", "my contract")],
        [f"Summarise: User: {w} Assistant: done" for w in ("order", "contract")],
        [f"Kunde: {w}\nBerater: ok\nKunde: danke" for w in ("Bestellung", "Vertrag")],
        [f"<|im_start|>user {w}<|im_end|>" for w in ("a", "b")],
        [f"def f(x):\n    return x {w} 1" for w in "+-"],
        ["Summarise this: " + "so it goes " * 60 + w for w in ("up", "down")],
    ],
)
def test_transcripts_documents_and_code_are_not_matched_by_meaning(
    cache: SemanticCache, texts: list[str]
) -> None:
    runs, ask = count(cache)
    assert ask(texts[0]) != ask(texts[1])
    assert ask([{"role": "user", "content": texts[0]}]) != ask([{"role": "user", "content": texts[1]}])
    assert ask(texts[0]) == "answer 1"
    assert len(runs) == 4


@pytest.mark.promise("right-answer")
def test_what_one_user_said_before_answers_no_other(cache: SemanticCache) -> None:
    _, ask = count(cache)

    def talk(
        first: str,
        reply: str = "OK",
        system: str = "Be brief.",
        last: str = "Which number is it in the book?",
    ) -> Any:
        return [
            {"role": "system", "content": system},
            {"role": "user", "content": first},
            {"role": "assistant", "content": reply},
            {"role": "user", "content": last},
        ]

    talks = [talk("It is +1-900"), talk("Hello"), talk("Hello", "No"), talk("Hello", system="Lie.")]
    assert len({ask(one) for one in talks}) == 4
    # By meaning only where all else is the same.
    assert ask(talk("Hello", last="What is the number in the book?")) == ask(talks[1])


def test_conveniences_are_opted_into(redis_config: CacheConfig) -> None:
    policy = CachePolicy(history=False, transcripts=True)
    cache = SemanticCache(OneMeaning(), redis_config, guards=False, policy=policy)
    _, ask = count(cache)
    assert ask("User: a\nAssistant: b\nUser: What is entropy?") == ask(
        "User: c\nAssistant: d\nUser: What is entropy?"
    )


@pytest.mark.promise("right-answer")
def test_what_has_no_content_to_compare_is_refused(cache: SemanticCache) -> None:
    runs, ask = count(cache)

    class Picture:
        pass

    class Text(str):
        __slots__ = ()

    things: list[Any] = [Picture(), object(), len, lambda: 1, Picture, io.BytesIO(b"x"), iter([1]), Text("x")]
    things += [np.array([object()]), memoryview(b"x"), range(3), {1: Picture()}, [{Picture()}], cache]
    for thing in things:
        with pytest.raises(InvalidContext, match=r"'extra'.*ignore=\['extra'\].*identify="):
            ask("what is entropy?", thing)
        with pytest.raises(InvalidContext, match="'prompt'"):
            ask([{"role": "user", "content": ["what is entropy?", {"image": thing}]}])
    assert runs == []


@pytest.mark.promise("right-answer")
def test_what_a_function_closes_over_tells_it_from_others(cache: SemanticCache) -> None:
    def make(model: str) -> Callable[[str], str]:
        @cache.cached()
        def ask(prompt: str) -> str:
            return model

        return ask

    assert [make(model)("what is entropy?") for model in ("small", "large", "small")] == [
        "small",
        "large",
        "small",
    ]
    both = [cache.cached()(f) for f in (lambda prompt: f"{prompt} a", lambda prompt: f"{prompt} b")]
    assert [f("what is entropy?") for f in both] == ["what is entropy? a", "what is entropy? b"]


@pytest.mark.promise("right-answer")
def test_a_default_that_cannot_be_compared_is_refused_like_a_value(cache: SemanticCache) -> None:
    def make(client: Any, **options: Any) -> Callable[..., str]:
        @cache.cached(**options)
        def ask(prompt: str, client: Any = client, *, other: Any = client) -> str:
            return f"{client.name}: {prompt}"

        return ask

    class Client:
        def __init__(self, name: str) -> None:
            self.name = name

    with pytest.raises(InvalidContext, match=r"the argument 'client' of .*ignore=\['client'\]"):
        make(Client("a"))("what is entropy?")
    by_name = {"identify": {"client": lambda client: client.name}, "ignore": ["other"]}
    for name in ("a", "b"):
        assert make(Client(name), **by_name)("what is entropy?") == f"{name}: what is entropy?"
    ignored = {"ignore": ["client", "other"], "name": "ignored"}
    assert make(Client("c"), **ignored)("what is entropy?") == make(Client("d"), **ignored)(
        "what is entropy?"
    )


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("form", ["text", "message", "part", "short", "transcript"])
@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("a:\n  b: 1", "  a:\n  b: 1"),
        ("\tx = f(1)", "x = f(1)"),
        ("x == 'a'\u00a0", "x == 'a'"),
        ("one\ntwo\n\n", "one\ntwo"),
        ("    y = g(2)", "y = g(2)"),
        ("what is entropy\t", "what is entropy"),
        ("\u3000what is entropy", "what is entropy"),
    ],
)
def test_white_space_around_a_prompt_is_dropped_by_the_exact_tier_alone(
    redis_config: CacheConfig, one: str, other: str, form: str
) -> None:
    policy = CachePolicy(history=form != "short", transcripts=form == "transcript")
    cache = SemanticCache(OneMeaning(), redis_config, guards=False, context={"t": 1}, policy=policy)
    runs, ask = count(cache)

    def asked(text: str) -> str:
        if form in ("text", "transcript"):
            return ask(text)
        content = [{"type": "text", "text": text}] if form == "part" else text
        return ask([{"role": "user", "content": content}])

    assert asked(one) != asked(other)
    assert len(runs) == 2


def test_spaces_and_line_ends_around_plain_prose_are_no_difference(cache: SemanticCache) -> None:
    runs, ask = count(cache)
    assert len({ask(text) for text in ("what is entropy", " what is entropy\n", "\n\nwhat is entropy ")}) == 1
    assert len(runs) == 1


def test_an_argument_left_out_is_its_default(cache: SemanticCache) -> None:
    runs: list[Any] = []
    missing = "missing"

    @cache.cached(ignore=["trace"])
    def ask(prompt: str, a: int = 1, /, b: Any = missing, *more: Any, trace: Any = None, **rest: Any) -> int:
        runs.append((prompt, a, b, more, trace, rest))
        return len(runs)

    assert ask("what is entropy?") == ask("what is entropy?", 1, trace=object()) == 1
    calls = [
        ((2,), {}),
        ((1, 2), {}),
        ((1, 2, 3), {}),
        ((1, 2, 3, 4), {}),
        ((1,), {"a": 1}),
        ((1,), {"x": 1}),
    ]
    calls += [((1,), {"**x": 1}), ((1,), {"more": (3,)}), ((1, 2), {"more": (3,)}), ((), {"rest": {"x": 1}})]
    found = [ask("what is entropy?", *args, **kwargs) for args, kwargs in calls]
    assert sorted(set(found)) == list(range(2, 2 + len(calls)))


@pytest.mark.promise("right-answer")
def test_a_refresh_answers_what_was_asked_whatever_the_caller_has_done_since(
    cache: SemanticCache,
) -> None:
    runs: list[Any] = []
    go = threading.Event()

    @cache.cached(ttl_seconds=0.05, stale_while_revalidate=60)
    def ask(prompt: list[dict[str, Any]]) -> str:
        if runs:
            go.wait(10)
        runs.append(str(prompt))
        return f"answer to {prompt}"

    messages = [{"role": "user", "content": "what is entropy?"}]
    first = ask(messages)
    time.sleep(0.1)
    assert ask(messages) == first
    messages[0]["content"] = "something else"
    messages.append({"role": "assistant", "content": first})
    go.set()
    wait_until(lambda: cache.local_stats["refreshed"] == 1)
    assert runs[1] == runs[0]
    assert ask([{"role": "user", "content": "what is entropy?"}]) == first


@pytest.mark.promise("right-answer")
def test_what_was_identified_and_changed_while_the_function_ran_is_not_stored(cache: SemanticCache) -> None:
    class Bot:
        model = "small"

        @cache.cached(identify={"self": lambda self: self.model})
        def ask(self, prompt: str) -> str:
            self.model = "large"
            return self.model

    assert Bot().ask("what is entropy?") == "large"
    assert cache.get_stats()["entries"] == 0
    assert cache.get_stats()["stores_refused"] == {"changed": 1}


# -- whose object --------------------------------------------------------------------------


class Model:
    def __init__(self) -> None:
        self.items = [1]


class Failed(Exception):
    def __init__(self, *, items: list[int]) -> None:
        super().__init__("failed")
        self.items = items


def _use(i: int, result: Any) -> tuple[int, list[float]]:
    """Return what a result holds, and change it."""
    items = (
        result
        if isinstance(result, np.ndarray)
        else result["items"]
        if isinstance(result, dict)
        else result.items
    )
    seen = [float(x) for x in items]
    if isinstance(items, np.ndarray):
        items[:] = i + 10
    else:
        items.append(i + 10)
    return id(items), seen


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("kind", ["dict", "array", "model", "error"])
@pytest.mark.parametrize("variant", ["sync", "async"])
def test_callers_of_one_run_share_no_object(
    redis_config: CacheConfig, kind: str, variant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs: list[int] = []
    joined = note_joins(monkeypatch)

    def make() -> Any:
        runs.append(1)
        if kind == "error":
            raise Failed(items=[1])
        return {"dict": {"items": [1]}, "array": np.ones(3), "model": Model()}[kind]

    if variant == "sync":
        cache = SemanticCache(None, redis_config)

        @cache.cached()
        def ask(prompt: str) -> Any:
            wait_until(lambda: joined.are(8))
            return make()

        def call(i: int) -> Any:
            try:
                return _use(i, ask("what is entropy?"))
            except Failed as error:
                return _use(i, error)

        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(call, range(8)))
    else:
        acache = AsyncSemanticCache(None, redis_config)

        @acache.cached()
        async def aask(prompt: str) -> Any:
            await until(lambda: joined.are(8))
            return make()

        async def acall(i: int) -> Any:
            try:
                return _use(i, await aask("what is entropy?"))
            except Failed as error:
                return _use(i, error)

        async def main() -> list[Any]:
            done = await asyncio.gather(*(acall(i) for i in range(8)))
            await close_async_redis_clients()
            return done

        found = asyncio.run(main())
    fresh = [1.0, 1.0, 1.0] if kind == "array" else [1.0]
    assert [seen for _, seen in found] == [fresh] * 8
    assert len(runs) == 1


@pytest.mark.promise("isolation")
def test_what_can_be_read_only_once_is_refused(redis_config: CacheConfig) -> None:
    cache, acache = SemanticCache(None, redis_config), AsyncSemanticCache(None, redis_config)

    class Stream:
        def __iter__(self) -> Iterator[str]:
            return self

        def __next__(self) -> str:
            raise StopIteration

    class AsyncStream:
        def __aiter__(self) -> Any:
            return self

        async def __anext__(self) -> str:
            raise StopAsyncIteration

    async def coroutine() -> str:
        return "x"

    async def pieces() -> Any:
        yield "x"

    makers: list[Callable[[], Any]] = [
        lambda: (w for w in "abc"),
        lambda: iter(["a"]),
        lambda: map(str, [1]),
        lambda: zip([1], [2], strict=True),
        Stream,
        AsyncStream,
        coroutine,
        pieces,
        lambda: io.BytesIO(b"x"),
    ]
    for i, make in enumerate(makers):
        ask = cache.cached(name=f"sync {i}", ignore=["make"])(lambda prompt, make=make: make())
        for _ in range(2):
            with pytest.raises(ConfigError, match="only once"):
                ask("what is entropy?")

        async def aask(prompt: str, make: Any = make) -> Any:
            return make()

        cached = acache.cached(name=f"async {i}", ignore=["make"])(aask)

        async def main(cached: Any = cached) -> None:
            with pytest.raises(ConfigError, match="only once"):
                await cached("what is entropy?")
            await close_async_redis_clients()

        asyncio.run(main())


@pytest.mark.promise("isolation")
def test_an_answer_with_a_stream_in_it_is_made_for_each_caller(redis_config: CacheConfig) -> None:
    cache = SemanticCache(None, redis_config)

    @cache.cached()
    def ask(prompt: str) -> Any:
        time.sleep(0.2)
        return {"stream": (w for w in ["a", "b", "c"])}

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(lambda _: ask("what is entropy?"), range(4)))
    assert ["".join(r["stream"]) for r in results] == ["abc"] * 4


# -- no content in what is said ------------------------------------------------------------


@pytest.mark.promise("no-leak")
def test_neither_log_nor_statistics_tell_what_was_asked(redis_config: CacheConfig) -> None:
    secret = "hunter2"
    cache = SemanticCache(None, redis_config, context={"tenant": secret})
    fails = False

    @cache.cached(ttl_seconds=0.05, stale_while_revalidate=100, tags=[secret], ignore=["fails"])
    def ask(prompt: str, key: str) -> Any:
        if fails:
            raise ValueError(f"no answer to {prompt} with {key}")
        return f"answer to {prompt}"

    @cache.cached()
    def tell(prompt: str, key: str) -> Any:
        return {secret: object(), "prompt": prompt, "key": key}

    written = io.StringIO()
    handler = logger.add(written, level=0, backtrace=True, diagnose=True)
    logger.enable("lix_cache")
    try:
        ask(f"my card is {secret}", key=secret)
        time.sleep(0.1)
        fails = True
        ask(f"my card is {secret}", key=secret)
        wait_until(lambda: cache.local_stats["refresh_errors"] == 1)
        tell(f"my card is {secret}", key=secret)
        found = cache.lookup(f"my card is {secret}")
        shown = [repr(found), repr(cache.lookup("x")), str(cache.get_stats()), str(cache.health_check())]
    finally:
        logger.remove(handler)
        logger.disable("lix_cache")
    assert "refreshing an answer" in written.getvalue()
    assert "was not stored" in written.getvalue()
    for text in (written.getvalue(), *shown):
        assert secret not in text


@pytest.mark.promise("no-leak")
def test_no_error_quotes_what_it_was_given(redis_config: CacheConfig) -> None:
    secret = "hunter two"
    cache = SemanticCache(None, redis_config, context={"tenant": secret})
    _, ask = count(cache)
    calls: list[Callable[[], Any]] = [
        lambda: cache.lookup("x", context={"tenant": secret + "x"}),
        lambda: cache.lookup("x", context={secret: {2}}),
        lambda: cache.lookup("x", context={"a": {(secret,): 2}}),
        lambda: cache.store("x", {secret: {secret: object()}}),
        lambda: cache.store("x", "y", tags=secret),
        lambda: cache.store("x", "y", tags=[secret.encode()]),
        lambda: cache.store("x", "y", tokens=secret),  # type: ignore[arg-type]
        lambda: cache.report_wrong(secret, "x"),
        lambda: cache.invalidate(older_than_seconds=secret),  # type: ignore[arg-type]
        lambda: ask("x", {secret: object()}),
        lambda: ask([{"role": "user", "content": ["x", {secret: object()}]}]),
        lambda: SemanticCache(secret, redis_config),  # type: ignore[arg-type]
        lambda: SemanticCache(None, secret),  # type: ignore[arg-type]
        lambda: SemanticCache(None, redis_config, settings=SemanticSettings(ttl_seconds=secret)),  # type: ignore[arg-type]
    ]
    for call in calls:
        with pytest.raises(ValueError) as caught:
            call()
        assert secret not in str(caught.value)
        assert secret not in repr(caught.value)
