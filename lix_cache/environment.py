"""What an environment variable says of a setting, and which setting a misspelt one means."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Union, get_args, get_origin

from lix_cache._spelling import is_nearly, is_short_for
from lix_cache.errors import ConfigError

__all__ = ["options_of", "parse", "refuse_near_misses"]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
#: The prefix of the command line.
_OURS = "LIX_CACHE_"
_NUMBERS = {int: "a whole number (int)", float: "a number (float)"}


def options_of(hint: Any) -> tuple[Any, ...]:
    """Split ``int | None`` into its members; any other type into itself."""
    return get_args(hint) if get_origin(hint) is Union or type(hint).__name__ == "UnionType" else (hint,)


def parse(variable: str, text: str, hint: Any) -> Any:
    """Return the value that a variable's text stands for, of the type that its setting has."""
    if not isinstance(text, str):
        raise ConfigError(f"environment variable {variable} must be str, got {type(text).__name__}")
    options = options_of(hint)
    if text == "" and type(None) in options:
        return None
    kind = next(o for o in options if o is not type(None))
    value = _converted(text, kind)
    if value is None:
        # Raised out here: Python's own error, which the text would hang on, quotes it.
        wanted = "yes or no, true or false, on or off, 1 or 0" if kind is bool else _NUMBERS[kind]
        raise ConfigError(f"environment variable {variable} must be {wanted}, and its text is not")
    return value


def _converted(text: str, kind: Any) -> Any:
    """Return what a text means, None if it is nothing of the kind."""
    if kind is bool:
        lowered = text.strip().lower()
        return lowered in _TRUE if lowered in _TRUE | _FALSE else None
    try:
        return kind(text) if kind in _NUMBERS else text
    except ValueError:
        return None


def refuse_near_misses(env: Mapping[str, str], start: str, names: Mapping[str, str]) -> None:
    """Refuse a variable that nearly is a setting.

    Args:
        env: where to look.
        start: the prefix that ours have.
        names: our variables, and the setting of each.

    Raises:
        ConfigError: there is one; the text names it and what may be meant.
    """
    for variable in env:
        if variable in names or not isinstance(variable, str):
            continue
        meant = _meant(variable, start, names)
        # A neighbour of a variable that is there is no slip of it.
        if meant and meant[0] not in env:
            which = " or ".join(meant[:3])
            raise ConfigError(
                f"environment variable {variable} is not a setting; did you mean {which}? "
                f"Rename it, or, if it is something else, give {meant[0]} its value as well"
            )


def _meant(variable: str, start: str, names: Mapping[str, str]) -> list[str]:
    """Return the variables that one may stand for, the likeliest first; none if it is the application's own.

    Under a prefix of the application's, a variable that is one word of a setting (``MYAPP_HOST``) is its own.
    ``LIX_CACHE`` is ours, so there it is a short form.
    """
    is_ours = start == _OURS
    upper = variable.upper()
    if not upper.startswith(start):
        # The prefix itself, written in another way.
        return [
            name
            for name in names
            if _squashed(upper) == _squashed(name) or (is_ours and upper == f"LIX_{name[len(start) :]}")
        ]
    own = variable[len(start) :]
    near = [name for name in names if is_nearly(own, name[len(start) :])]
    short = [name for name in names if is_short_for(own, name[len(start) :], whole_words=is_ours)]
    twice = [name for name in names if is_ours and upper.endswith(f"_{name}")]
    return near or twice or sorted(short, key=len)


def _squashed(name: str) -> str:
    return "".join(letter for letter in name if letter.isalnum())
