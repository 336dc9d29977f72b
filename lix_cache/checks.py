"""Checks of settings, in one place so that all refuse the same. Pure.

A bool is no number here, although Python says so: ``ttl_seconds=True`` is a mistake and no second.
An error tells the setting, what it may be and the type of what was given, never what was given: a
text and a number may be a secret at the wrong place.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from inspect import getattr_static
from operator import index
from typing import Any

from lix_cache.errors import ConfigError

__all__ = [
    "check_count",
    "check_flag",
    "check_has",
    "check_is",
    "check_number",
    "check_path",
    "check_seconds",
    "check_text",
    "check_whole",
    "given",
    "kind_of",
]


def given(value: object) -> str:
    """Return what may be told of a value that is refused. No part of a secret can be read from it."""
    if isinstance(value, (bool, type(None))):
        return f"got {value!r}"
    if isinstance(value, type):
        return f"got the class {value.__qualname__}: make an object of it"
    is_number = isinstance(value, (int, float))
    if is_number and (not value or (isinstance(value, float) and not math.isfinite(value))):
        return f"got {value!r}"
    return f"got {kind_of(value)}"


def kind_of(value: object) -> str:
    """Return the type of a value with its article."""
    if value is None or isinstance(value, bytes):
        return "None" if value is None else "bytes"
    kind = type(value).__name__
    return f"{'an' if kind[0] in 'AEIOaeio' else 'a'} {kind}"


def _beside(value: Any, least: float, most: float) -> str:
    """Return what may be told of a number that is too small or too large, or of what is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value:
        return given(value)
    if value > most:
        return f"got a larger {type(value).__name__}" if value < math.inf else given(value)
    if math.isnan(value) or value >= least:
        return given(value)
    return f"got a {'negative' if value < 0 else 'smaller'} {type(value).__name__}"


def check_whole(name: str, value: int, least: int, most: float = math.inf) -> int:
    """Return a whole number, at least ``least``.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        range_ = f"at least {least}" if most == math.inf else f"from {least} to {most}"
        wrong = given(value) if isinstance(value, float) else _beside(value, least, most)
        raise ConfigError(f"{name} must be a whole number, {range_}, {wrong}")
    return value


def check_count(name: str, value: Any) -> int:
    """Return how many of something were asked for: any whole number, numpy's too; below 0 it means none.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not hasattr(type(value), "__index__"):
        raise ConfigError(f"{name} must be a whole number, {given(value)}")
    return index(value)


def check_number(name: str, value: float, least: float, most: float) -> float:
    """Return a number from ``least`` to ``most``.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not least <= value <= most:
        raise ConfigError(
            f"{name} must be a number from {least:g} to {most:g}, {_beside(value, least, most)}"
        )
    return value


def check_seconds(name: str, value: float) -> float:
    """Return a finite number of seconds above 0.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < math.inf:
        raise ConfigError(f"{name} must be a finite number larger than 0, {_beside(value, 0, math.inf)}")
    return value


def check_flag(name: str, value: bool) -> bool:
    """Return True or False.

    Raises:
        ConfigError: it is something else.
    """
    if not isinstance(value, bool):
        raise ConfigError(f"{name} must be True or False, {given(value)}")
    return value


def check_text(name: str, value: str, *, may_be_empty: bool = False) -> str:
    """Return a text.

    Raises:
        ConfigError: it is something else, or empty.
    """
    if not isinstance(value, str):
        raise ConfigError(f"{name} must be a text, {given(value)}")
    if not value and not may_be_empty:
        raise ConfigError(f"{name} must not be empty, got ''")
    return value


def check_path(name: str, value: str | os.PathLike[str]) -> str:
    """Return a path, or a name, as text.

    Raises:
        ConfigError: it is something else, or empty.
    """
    if isinstance(value, type) or not isinstance(value, (str, os.PathLike)):
        raise ConfigError(f"{name} must be a name or a path, {given(value)}")
    path = os.fspath(value)
    if not isinstance(path, str) or "\0" in path:
        raise ConfigError(f"{name} must be a name or a path of text without a zero in it")
    return check_text(name, path)


def check_is(name: str, value: Any, kind: type) -> Any:
    """Return an object of a class.

    Raises:
        ConfigError: it is something else, such as the class itself.
    """
    if not isinstance(value, kind):
        article = "an" if kind.__name__[0] in "AEIO" else "a"
        raise ConfigError(f"{name} must be {article} {kind.__name__}, {given(value)}")
    return value


def check_has(name: str, value: Any, example: str, **members: bool) -> Any:
    """Return an object that has what is asked of it. No property is read: that might load a model.

    Args:
        name: of the setting.
        value: what was given.
        example: what would do, for the error.
        members: what it must have; True: a method.

    Raises:
        ConfigError: it lacks something, or is a class and no object.
    """
    lacks = [member for member, is_method in members.items() if not _has(value, member, is_method)]
    if isinstance(value, (type, str, Mapping)) or lacks:
        raise ConfigError(f"{name} must be an object such as {example}, {given(value)}")
    return value


def _has(value: Any, member: str, is_method: bool) -> bool:
    if is_method:
        return callable(getattr(value, member, None))
    try:
        getattr_static(value, member)
    except AttributeError:
        # Made when it is asked for.
        return hasattr(type(value), "__getattr__")
    return True
