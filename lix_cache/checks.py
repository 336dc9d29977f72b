"""Checks of settings, in one place so that all refuse the same. Pure.

A bool is no number here, although Python says so: ``ttl_seconds=True`` is a mistake and no second.
An error tells the setting, what it may be and the type of what was given, never what was given: a
text and a number may be a secret at the wrong place.
"""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from inspect import getattr_static
from operator import index
from typing import Any

from lix_cache.errors import ConfigError, InvalidType

#: The largest number of seconds: a larger int cannot be added to a time.
_LONGEST = sys.float_info.max
#: Stands for any larger count: what counts is less, and it can be sent and written.
_MOST = 2**53

__all__ = [
    "check_call",
    "check_count",
    "check_duration",
    "check_flag",
    "check_has",
    "check_is",
    "check_number",
    "check_path",
    "check_rows",
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
    return max(-1, min(index(value), _MOST))


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
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= _LONGEST:
        raise ConfigError(f"{name} must be a finite number larger than 0, {_beside(value, 0, _LONGEST)}")
    return value


def check_duration(name: str, value: float) -> float:
    """Return a finite number of seconds, 0 or above.

    Raises:
        ConfigError: it is something else.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value <= _LONGEST:
        raise ConfigError(f"{name} must be a finite number, at least 0, {_beside(value, 0, _LONGEST)}")
    return value


def check_call(name: str, value: Any) -> Any:
    """Return what can be called.

    Raises:
        ConfigError: it is something else.
    """
    if not callable(value):
        raise ConfigError(f"{name} must be a function, {given(value)}")
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
    path: Any = os.fspath(value)
    if not isinstance(path, str) or "\0" in path:
        raise ConfigError(f"{name} must be a name or a path of text without a zero in it")
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        path = None
    if path is None:
        raise ConfigError(f"{name} must be a name or a path, and holds half a surrogate pair")
    return check_text(name, path)


def check_rows(name: str, value: Any, row: str = "") -> list[Any]:
    """Return what a call is given several of: the items of a list, or of what else can be gone through.

    Args:
        name: of the argument.
        value: what was given. Neither a text nor a mapping, whose characters or keys would be taken.
        row: of what each item consists, with commas between; nothing is asked of an item by default.

    Raises:
        InvalidType: it is something else.
    """
    what = f"({row}) tuples" if row else name
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InvalidType(f"{name} must be a list of {what}, {given(value)}")
    found = list(value)
    for position, item in enumerate(found if row else ()):
        if (
            isinstance(item, (str, bytes))
            or not isinstance(item, Sequence)
            or len(item) != row.count(",") + 1
        ):
            raise InvalidType(f"{name}[{position}] must be ({row}), {given(item)}")
    return found


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
