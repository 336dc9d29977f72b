"""What a function is known by: its own code, and what it holds."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache.semantic.functions import Known, _uses


def function_form(function: Any) -> str:
    return Known(function).now()


def ask(prompt: str) -> str:
    return prompt


def tell(prompt: str) -> str:
    return prompt


def with_model(model: str) -> Callable[[Any], Any]:
    def put_before(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, **kwargs: Any) -> Any:
            return model + function(*args, **kwargs)

        return inner

    return put_before


def with_default(model: str) -> Callable[[Any], Any]:
    def put_before(function: Any) -> Any:
        @functools.wraps(function)
        def inner(*args: Any, _model: str = model, **kwargs: Any) -> Any:
            return _model + function(*args, **kwargs)

        return inner

    return put_before


def renamed(model: str) -> Any:
    def other(prompt: str) -> str:
        return model + prompt

    other.__module__, other.__qualname__, other.__name__ = ask.__module__, "ask", "ask"
    return other


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("one", "other"),
    [
        (with_model("small")(ask), with_model("large")(ask)),
        (with_model("small")(ask), ask),
        (with_model("a")(with_model("small")(ask)), with_model("a")(with_model("large")(ask))),
        (with_model("a")(with_model("b")(ask)), with_model("b")(with_model("a")(ask))),
        (with_default("small")(ask), with_default("large")(ask)),
        (with_model("a")(with_default("small")(ask)), with_model("a")(with_default("large")(ask))),
        (with_model("small")(lambda prompt: prompt + "a"), with_model("small")(lambda prompt: prompt + "b")),
        (renamed("small"), renamed("large")),
        (renamed("small"), ask),
        (with_model("small")(ask), with_model("small")(tell)),
    ],
)
def test_a_decorated_function_is_not_known_by_the_name_of_what_it_wraps(one: Any, other: Any) -> None:
    assert function_form(one) != function_form(other)


def test_a_function_has_one_form_however_often_it_is_made() -> None:
    assert function_form(with_model("small")(ask)) == function_form(with_model("small")(ask))
    assert function_form(renamed("small")) == function_form(renamed("small"))
    assert function_form(ask) == f"{__name__}.ask"


KEY = LOW = 1
TABLE: dict[Any, Any] = {}


def reading(x: Any) -> Any:
    TABLE[x.key] = TABLE[KEY] = x
    TABLE[KEY] += 1
    TABLE[int(KEY)] = 2
    del TABLE[KEY]
    return 0 < LOW < x


def writing_an_attribute(x: Any) -> Any:
    x.append(KEY)
    LOW.append = x  # type: ignore[attr-defined]
    return KEY[x].append(1)  # type: ignore[index]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("function", [reading, writing_an_attribute])
def test_what_a_function_reads_is_not_taken_for_what_it_writes(function: Any) -> None:
    read, written = _uses(function.__code__)
    assert {"KEY", "LOW"} <= read
    assert written == ({"TABLE"} if function is reading else set())


def test_a_function_that_closes_over_itself_has_a_form() -> None:
    def make(model: str) -> Any:
        def again(prompt: str) -> Any:
            return again(prompt) if prompt else model

        return again

    assert function_form(make("small")) == function_form(make("small"))
    assert function_form(make("small")) != function_form(make("large"))
