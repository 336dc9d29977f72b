"""What constructors are given: of the right type, or an error that says what it is and what is wanted."""

from __future__ import annotations

import math
import os
from typing import Any

from lix_cache.config import CacheConfig, check_setting
from lix_cache.errors import ConfigError

__all__ = ["check_number", "config_of", "config_with", "path_of"]


def config_of(given: object) -> CacheConfig:
    """Return the config that a class was given, or the default one for None.

    Raises:
        ConfigError: it is something else. Its value is not shown: it may be an address with a password.
    """
    if given is None:
        return CacheConfig()
    if isinstance(given, CacheConfig):
        return given
    what = "the class itself" if given is CacheConfig else f"a {type(given).__name__}"
    hint = "; an address goes into CacheConfig(redis_url=...)" if isinstance(given, str) else ""
    raise ConfigError(f"config must be a CacheConfig or None, got {what}{hint}")


def config_with(given: object, **arguments: tuple[str, Any]) -> CacheConfig:
    """Return :func:`config_of` what was given, with the arguments that win over it.

    Args:
        given: what a class was given as its config.
        arguments: by their name, the setting that each stands for and its value; None: not given.

    Raises:
        ConfigError: the text begins with the name of the argument.
    """
    config = config_of(given)
    changes = {}
    for argument, (setting, value) in arguments.items():
        if value is not None:
            check_setting(setting, value, argument)
            changes[setting] = value
    return config.replace(**changes)


def check_number(name: str, value: Any) -> None:
    """Raise ConfigError unless a value is a finite number larger than zero."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or not 0 < value < math.inf:
        what = f"{value!r} of type {type(value).__name__}"
        raise ConfigError(f"{name} must be a finite number larger than 0, got {what}")


def path_of(name: str, value: Any) -> str:
    """Return a path as text.

    Raises:
        ConfigError: it is neither text nor a path of text, is empty or holds a zero.
    """
    path = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(path, str):
        raise ConfigError(f"{name} must be str or a path, got {path!r} of type {type(path).__name__}")
    if not path or "\0" in path:
        raise ConfigError(f"{name} must name a file or a folder, got {path!r}")
    return path
