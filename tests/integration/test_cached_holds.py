"""What a cached function reads besides its arguments is part of the question."""

from __future__ import annotations

import dataclasses
import functools
import io
import sys
import threading
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from loguru import logger

from lix_cache import SemanticCache
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, InvalidContext
from tests.support.forks import Child, Report

pytestmark = pytest.mark.promise("right-answer")

MODEL = "small"
SETTINGS: dict[str, Any] = {"model": "small"}
CALLS: list[str] = []
count = 0


class Client:
    """An object that cannot be compared."""

    def __init__(self, model: str) -> None:
        self.model = model

    def ask(self, prompt: str) -> str:
        return f"{self.model}: {prompt}"

    def __call__(self, prompt: str) -> str:
        return self.ask(prompt)


@dataclasses.dataclass
class Settings:
    model: str


client: Any = Client("small")


def by_global(prompt: str) -> str:
    return f"{MODEL}: {prompt}"


def by_global_item(prompt: str) -> str:
    return f"{SETTINGS['model']}: {prompt}"


def helper() -> str:
    return MODEL


def by_helper(prompt: str) -> str:
    return f"{helper()}: {prompt}"


def by_nested(prompt: str) -> str:
    return "".join(f"{MODEL}: {one}" for one in [prompt])


def by_client(prompt: str) -> str:
    answer: str = client.ask(prompt)
    return answer


def by_module(prompt: str) -> str:
    return f"{other_module.MODEL}: {prompt}"


def counting(prompt: str) -> str:
    global count
    count += 1
    CALLS.append(prompt)
    SETTINGS[prompt] = count
    return f"{count} {len(CALLS)}"


other_module: Any = types.ModuleType("other_module")
other_module.MODEL = "small"


@pytest.fixture
def cache(redis_config: CacheConfig) -> SemanticCache:
    return SemanticCache(config=redis_config)


def in_a_function(what: Any) -> Callable[[str], str]:
    def ask(prompt: str) -> str:
        return str(what(prompt))

    return ask


def in_a_function_twice(what: Any) -> Callable[[str], str]:
    def inner(prompt: str) -> str:
        return str(what(prompt))

    def ask(prompt: str) -> str:
        return inner(prompt)

    return ask


def in_a_default(what: Any) -> Callable[[str], str]:
    return in_a_function(lambda prompt, one=what: one(prompt))


def in_a_list(what: Any) -> Callable[[str], str]:
    both = [what, {"x": what}]
    return lambda prompt: str(both[0](prompt))


def in_a_decorator(what: Any) -> Callable[[str], str]:
    def put_before(function: Any) -> Any:
        @functools.wraps(function)
        def inner(prompt: str) -> str:
            return str(what(function(prompt)))

        return inner

    @put_before
    def ask(prompt: str) -> str:
        return prompt

    wrapped: Callable[[str], str] = ask
    return wrapped


@pytest.mark.parametrize(
    "hold", [in_a_function, in_a_function_twice, in_a_default, in_a_list, in_a_decorator]
)
@pytest.mark.parametrize(
    "made",
    [
        Client,
        lambda model: Client(model).ask,
        lambda model: functools.partial(Client(model).ask),
        lambda model: functools.partial(lambda a, b: f"{a}: {b}", model),
        lambda model: lambda prompt: f"{model}: {prompt}",
        lambda model: functools.lru_cache(Client(model).ask),
        lambda model: types.MethodType(lambda self, prompt: f"{self}: {prompt}", model),
    ],
)
def test_functions_that_hold_different_things_share_no_answer(
    cache: SemanticCache, made: Any, hold: Any
) -> None:
    asks = [cache.cached(hold(made(model))) for model in ("small", "large")]
    for _ in range(2):
        assert [ask("capital of France") for ask in asks] == [
            "small: capital of France",
            "large: capital of France",
        ]


def test_functions_made_in_a_loop_share_no_answer(cache: SemanticCache) -> None:
    late = []
    for one in (Client("small"), Client("large")):
        late.append(cache.cached(lambda prompt: one.ask(prompt)))  # noqa: B023 - that is the question
        assert late[-1]("capital of France") == f"{one.model}: capital of France"
    # All of them read the last one now.
    assert [ask("capital of France") for ask in late] == ["large: capital of France"] * 2


@pytest.mark.parametrize(
    ("function", "change"),
    [
        (by_global, lambda m: setattr(m, "MODEL", "large")),
        (by_global_item, lambda m: m.SETTINGS.update(model="large")),
        (by_helper, lambda m: setattr(m, "MODEL", "large")),
        (by_helper, lambda m: setattr(m, "helper", lambda: "large")),
        (by_nested, lambda m: setattr(m, "MODEL", "large")),
        (by_client, lambda m: setattr(m, "client", Client("large"))),
        (by_module, lambda m: setattr(m.other_module, "MODEL", "large")),
    ],
)
def test_what_is_global_counts_as_it_is_at_the_call(
    cache: SemanticCache, function: Any, change: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = sys.modules[__name__]
    monkeypatch.setattr(module, "SETTINGS", dict(SETTINGS))
    for name in ("MODEL", "client", "helper"):
        monkeypatch.setattr(module, name, getattr(module, name))
    monkeypatch.setattr(module.other_module, "MODEL", "small")
    ask = cache.cached(function)
    assert ask("capital of France") == ask("capital of France") == "small: capital of France"
    change(module)
    assert ask("capital of France") == "large: capital of France"
    assert cache.local_stats["hits_by_reason"] == {"exact": 1}


@pytest.mark.parametrize("settings", [Settings("small"), types.SimpleNamespace(model="small")])
def test_settings_in_a_closure_count_by_their_content(cache: SemanticCache, settings: Any) -> None:
    @cache.cached
    def ask(prompt: str) -> str:
        return f"{settings.model}: {prompt}"

    assert ask("capital of France") == "small: capital of France"
    settings.model = "large"
    assert ask("capital of France") == "large: capital of France"
    settings.model = "small"
    ask("capital of France")
    assert cache.local_stats["hits_by_reason"] == {"exact": 1}


def test_a_function_that_counts_its_calls_is_cached_all_the_same(cache: SemanticCache) -> None:
    runs: list[str] = []
    seen: dict[str, int] = {"n": 0}
    total = 0

    def note(prompt: str) -> None:
        runs.append(prompt)

    @cache.cached
    def ask(prompt: str) -> str:
        nonlocal total
        total += 1
        seen["n"] += 1
        seen[prompt] = total
        note(prompt)
        return f"{total} {seen['n']} {len(runs)}"

    assert ask("capital of France") == ask("capital of France") == "1 1 1"
    assert ask("capital of Spain") == "2 2 2"
    assert ask("capital of France") == "1 1 1"
    told = cache.cached(counting)
    assert told("capital of France") == told("capital of France") == "1 1"


def test_what_changes_while_the_function_runs_is_not_stored(cache: SemanticCache) -> None:
    settings = {"model": "small"}

    def disturb() -> None:
        settings["model"] = "large"

    thread: Any = None

    @cache.cached
    def ask(prompt: str) -> str:
        answer = f"{settings['model']}: {prompt}"
        thread.start()
        thread.join()
        return answer

    thread = threading.Thread(target=disturb)
    assert ask("capital of France") == "small: capital of France"
    assert cache.local_stats["stores_refused"] == {"changed": 1}


def test_who_holds_an_object_says_what_identifies_it(redis_config: CacheConfig) -> None:
    def shared(cache: SemanticCache, model: str, **options: Any) -> Callable[[str], str]:
        client = Client(model)

        @cache.cached(**options)
        def ask(prompt: str) -> str:
            return client.ask(prompt)

        return ask

    identify = {"client": lambda client: client.model}

    def other(report: Report) -> None:
        cache = SemanticCache(config=redis_config)
        report(
            "s", shared(cache, "small", identify=identify)("capital of France") == "small: capital of France"
        )
        report("h", cache.local_stats["hits_by_reason"].get("exact", 0))

    cache = SemanticCache(config=redis_config)
    assert shared(cache, "small", identify=identify)("capital of France") == "small: capital of France"
    assert shared(cache, "large", identify=identify)("capital of France") == "large: capital of France"
    with Child(other) as child:
        assert child.wait() == 0
        assert child.records() == [("s", 1), ("h", 1)]
    assert shared(cache, "small", ignore=["client"])("capital of Italy") == "small: capital of Italy"
    assert shared(cache, "large", ignore=["client"])("capital of Italy") == "small: capital of Italy"
    assert shared(cache, "small", name="one")("capital of Italy") == "small: capital of Italy"
    assert shared(cache, "large", name="one")("capital of Italy") == "small: capital of Italy"
    with pytest.raises(ConfigError, match="no parameter 'klient'"):
        shared(cache, "small", ignore=["klient"])
    with pytest.raises(InvalidContext):
        shared(cache, "small", identify={"client": lambda client: client})


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    written = io.StringIO()
    logger.enable("lix_cache")
    handler = logger.add(written, level="WARNING")
    yield written
    logger.remove(handler)
    logger.disable("lix_cache")


def test_an_object_in_a_closure_is_told_of_once(cache: SemanticCache, log: io.StringIO) -> None:
    ask = cache.cached(in_a_function(Client("small")))
    ask("capital of France")
    ask("capital of Spain")
    assert log.getvalue().count("shared with no other process") == 1
    assert "'what', a Client" in log.getvalue()
    assert cache.cached(by_client)("capital of France")
    assert log.getvalue().count("shared with no other process") == 1


@pytest.mark.parametrize("made", [functools.partial(by_global), Client("small").ask, Client("small")])
def test_what_holds_arguments_of_its_own_is_refused(cache: SemanticCache, made: Any) -> None:
    with pytest.raises(ConfigError, match="would not count"):
        cache.cached(made)
