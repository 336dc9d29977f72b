"""Errors about arguments speak of what users know: the public class or function, and the argument."""

from __future__ import annotations

import ast
import asyncio
import contextlib
import functools
import importlib
import inspect
import pkgutil
import re
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import lix_cache
from lix_cache import errors

PUBLIC = [getattr(lix_cache, name) for name in lix_cache.__all__]
CLASSES = [
    kind
    for kind in PUBLIC
    if inspect.isclass(kind)
    and not issubclass(kind, BaseException)
    and not getattr(kind, "_is_protocol", False)
]
FUNCTIONS = [one for one in PUBLIC if inspect.isfunction(one)]


class Strange:
    """Nothing that an argument can be."""


@pytest.fixture(scope="module")
def inner() -> re.Pattern[str]:
    """What stands in a text that names a class, or a method of one, that users do not know."""
    found = set()
    for info in pkgutil.walk_packages([str(Path(lix_cache.__file__).parent)], "lix_cache."):
        if info.name.endswith("__main__"):
            continue
        with contextlib.suppress(ImportError):  # an extra that is not installed
            module = importlib.import_module(info.name)
            found |= {
                name
                for name, kind in vars(module).items()
                if inspect.isclass(kind) and kind.__module__ == info.name
            }
    names = "|".join(sorted(found - set(lix_cache.__all__)))
    return re.compile(rf"\b(?:{names})(?:\.[a-z_]|\()|\b_[A-Z]")


def error_of(call: Callable[[], Any]) -> BaseException | None:
    try:
        found = call()
        if inspect.iscoroutine(found):
            asyncio.run(found)
    except (Exception, SystemExit) as error:
        return error
    return None


@pytest.mark.parametrize("one", [*CLASSES, *FUNCTIONS], ids=lambda one: one.__name__)
def test_an_unknown_or_strange_argument_is_refused_by_public_names(one: Any, inner: re.Pattern[str]) -> None:
    calls: list[dict[str, Any]] = [{"no_such_argument": 1}]
    with contextlib.suppress(ValueError):
        named = [
            p
            for p in inspect.signature(one).parameters.values()
            if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
        ]
        required = {p.name: Strange() for p in named if p.default is p.empty}
        calls += [{**required, p.name: Strange()} for p in named]
    for arguments in calls:
        error = error_of(functools.partial(one, **arguments))
        if error is not None:
            assert not inner.search(str(error)), (list(arguments), str(error))
    assert error_of(functools.partial(one, no_such_argument=1)) is not None


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_method_is_called_after_a_class_that_users_know(kind: type) -> None:
    for name in dir(kind):
        found = inspect.getattr_static(kind, name)
        found = getattr(found, "__func__", found)
        if isinstance(found, types.FunctionType) and (name == "__init__" or not name.startswith("_")):
            assert found.__qualname__.rpartition(".")[0] in lix_cache.__all__, found.__qualname__


def test_settings_of_a_cached_function_are_refused_by_public_names(inner: re.Pattern[str]) -> None:
    cache = lix_cache.SemanticCache()
    for name in ("no_such_argument", "query_param", "ignore", "identify", "static_context", "ttl_seconds"):
        error = error_of(functools.partial(cache.cached, **{name: Strange()}))
        assert error is not None
        assert not inner.search(str(error)), str(error)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        (2, "audit_rate must be a number from 0 to 1, got a larger int"),
        (-1, "audit_rate must be a number from 0 to 1, got a negative int"),
        ("1", "audit_rate must be a number from 0 to 1, got a str"),
        (float("nan"), "audit_rate must be a number from 0 to 1, got nan"),
    ],
)
def test_a_number_out_of_its_range_is_said_to_be_one(given: Any, text: str) -> None:
    with pytest.raises(errors.ConfigError, match=re.escape(text)):
        lix_cache.SemanticSettings(audit_rate=given)


# -- and types that a public method takes or returns can be imported ------------------------

#: Of what the library makes by itself, or what tests put in its place.
INSIDE = {"Files", "Lead", "Now", "SessionStore"}
#: Where a class may be documented instead of in lix_cache itself.
MODULES = ["lix_cache", "lix_cache.config"]


@functools.cache
def names_in(module: str) -> dict[str, Any]:
    """Return what the names in a module's annotations stand for: also those for type checkers alone."""
    home = importlib.import_module(module)
    found = dict(vars(home))
    for node in ast.walk(ast.parse(inspect.getsource(home))):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("lix_cache"):
            source = importlib.import_module(str(node.module))
            found.update(
                {one.name: getattr(source, one.name) for one in node.names if hasattr(source, one.name)}
            )
    return found


def annotations(one: Any) -> Iterator[tuple[str, str]]:
    """Yield the module and the text of each annotation of a public class or function."""
    if not inspect.isclass(one):
        yield from ((one.__module__, str(text)) for text in one.__annotations__.values())
        return
    for base in one.__mro__:
        if not base.__module__.startswith("lix_cache"):
            continue
        fields = inspect.get_annotations(base)
        yield from ((base.__module__, str(text)) for name, text in fields.items() if name[0] != "_")
        for name, value in vars(base).items():
            found = getattr(value, "fget", None) or getattr(value, "__func__", None) or value
            if isinstance(found, types.FunctionType) and (name == "__init__" or name[0] != "_"):
                yield from ((found.__module__, str(text)) for text in found.__annotations__.values())


@pytest.mark.parametrize("one", [*CLASSES, *FUNCTIONS], ids=lambda one: one.__name__)
def test_what_a_public_method_takes_or_returns_can_be_imported(one: Any) -> None:
    hidden = set()
    for module, text in annotations(one):
        known = names_in(module)
        for name in re.findall(r"[A-Za-z]\w*", text):
            kind = known.get(name)
            if inspect.isclass(kind) and kind.__module__.startswith("lix_cache") and name not in INSIDE:
                homes = [importlib.import_module(home) for home in MODULES]
                if not any(getattr(home, name, None) is kind for home in homes):
                    hidden.add(name)
    assert hidden == set()
