"""Settings read from environment variables, and what nearly is one. Pure but for the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from lix_cache._spelling import is_nearly, is_short_for
from lix_cache.checks import kind_of
from lix_cache.config.fields import options
from lix_cache.errors import ConfigError

__all__ = ["read_environment"]

_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})
#: The prefix of the command line.
_OURS = "LIX_CACHE_"
_NUMBERS = {int: "a whole number (int)", float: "a number (float)"}

#: Settings that name a file or a folder.
_PATHS = frozenset(
    {"archive_dir", "archive_dictionary", "redis_ssl_ca_certs", "redis_ssl_certfile", "redis_ssl_keyfile"}
)


def read_environment(
    prefix: str, environ: Mapping[str, str] | None, hints: Mapping[str, Any]
) -> tuple[str, dict[str, Any]]:
    """Return what the variables of all settings begin with, and the values of those that are set.

    Args:
        prefix: first part of the variables' names, in any case.
        environ: where to read; None for ``os.environ``.
        hints: type of each setting by its name.

    Raises:
        ConfigError: a variable is of the wrong type, or its name is nearly that of a setting.
    """
    env = os.environ if environ is None else environ
    if not isinstance(prefix, str) or not isinstance(env, Mapping):
        raise ConfigError(
            f"from_env takes a prefix of type str and a mapping, got {kind_of(prefix)} "
            f"and {type(env).__name__}"
        )
    # An underscore at the end is how many write a prefix.
    start = f"{stem.upper()}_" if (stem := prefix.rstrip("_")) else ""
    names = {start + name.upper(): name for name in hints}
    values: dict[str, Any] = {}
    for variable, name in names.items():
        text = env.get(variable)
        if text is not None:
            value = _parse(variable, text, hints[name])
            # No shell has done it in a file of variables, and "~" would be a folder's name.
            values[name] = os.path.expanduser(value) if name in _PATHS and value else value
    if start:
        _refuse_near_misses(env, start, names)
    return start, values


def _parse(variable: str, text: str, hint: Any) -> Any:
    if not isinstance(text, str):
        raise ConfigError(f"environment variable {variable} must be str, got {kind_of(text)}")
    allowed = options(hint)
    if text == "" and type(None) in allowed:
        return None
    kind = next(o for o in allowed if o is not type(None))
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


def _refuse_near_misses(env: Mapping[str, str], start: str, names: Mapping[str, str]) -> None:
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
