"""The config that a constructor is given, and the arguments that win over it."""

from __future__ import annotations

import functools
import inspect
from types import FunctionType
from typing import Any, TypeVar

from lix_cache.checks import kind_of
from lix_cache.config import CacheConfig, check_setting
from lix_cache.errors import ConfigError

__all__ = ["config_of", "config_with", "speaks_for_itself"]

K = TypeVar("K", bound=type[Any])


def speaks_for_itself(kind: K) -> K:
    """Give a class copies of the methods that it inherits, under its own name: a decorator.

    Python names the class of a method in its errors, and users know only the public one.
    """
    for name in dir(kind):
        found = inspect.getattr_static(kind, name)
        is_public = name == "__init__" or not name.startswith("_")
        if is_public and isinstance(found, FunctionType) and name not in vars(kind):
            own = FunctionType(found.__code__, found.__globals__, name, found.__defaults__, found.__closure__)
            functools.update_wrapper(own, found)
            # What the method wraps, if anything, tells its parameters; it wraps not what it is a copy of.
            own.__dict__.pop("__wrapped__")
            own.__dict__.update(found.__dict__)
            own.__kwdefaults__ = found.__kwdefaults__
            own.__qualname__ = f"{kind.__qualname__}.{name}"
            setattr(kind, name, own)
    return kind


def config_of(given: object) -> CacheConfig:
    """Return the config that a class was given, or the default one for None.

    Raises:
        ConfigError: it is something else. Its value is not shown: it may be an address with a password.
    """
    if given is None:
        return CacheConfig()
    if isinstance(given, CacheConfig):
        return given
    what = "the class itself" if given is CacheConfig else f"{kind_of(given)}"
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
