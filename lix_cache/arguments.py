"""The config that a constructor is given, and the arguments that win over it."""

from __future__ import annotations

from typing import Any

from lix_cache.config import CacheConfig, check_setting
from lix_cache.errors import ConfigError

__all__ = ["config_of", "config_with"]


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
