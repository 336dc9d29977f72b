"""What each field of :class:`~lix_cache.CacheConfig` may hold: types, ranges and texts. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Literal, Union, get_args, get_origin

from lix_cache._spelling import did_you_mean, is_nearly
from lix_cache.checks import given
from lix_cache.config.places import check_url, is_url
from lix_cache.errors import ConfigError

__all__ = ["check_field", "options", "refuse_unknown"]

#: The codecs a writer of the archive may be told to use.
_ARCHIVE_CODECS = ("stored", "huffman", "lz4", "zstd", "deflate", "hcv1")

_SEVERAL = {f"{tls}+{kind}" for tls in ("redis", "rediss") for kind in ("cluster", "sentinel")}
_SCHEMES = frozenset({"redis", "rediss", "unix", *_SEVERAL})
_OTHER_SCHEMES = frozenset({"http", "https", "tcp", "tls", "ssl", "valkey", "valkeys", "file"})

#: Settings that must not be larger than this.
_MOST = {
    "redis_port": 65535,
    "archive_max_frame_mb": 1024,  # the format's own limit
}

#: Settings that must be larger than zero; every other number must be at least zero.
_POSITIVE = frozenset(
    {
        "redis_port",
        "redis_socket_connect_timeout",
        "redis_socket_timeout",
        "redis_pool_size",
        "redis_buckets",
        "session_ttl_seconds",
        "session_max_tokens",
        "hot_window_size",
        "semantic_ttl_seconds",
        "semantic_max_items_per_url",
        "url_cache_ttl_seconds",
        "url_cache_batch_size",
        "disk_ttl_days",
        "archive_batch_turns",
        "archive_lock_timeout_seconds",
        "archive_max_frame_mb",
        "evictor_interval_seconds",
        "embedding_dim",
    }
)


def refuse_unknown(names: Iterable[str], known: list[str]) -> None:
    """Refuse names that are no settings.

    Raises:
        ConfigError: with the name that was meant, where one is near. The generated ``__init__`` would
            answer with a TypeError that does not say.
    """
    for name in names:
        if name not in known:
            raise ConfigError(f"unknown setting {name!r}{did_you_mean(name, known)}")


def check_field(name: str, value: Any, hint: Any, given_as: str | None = None) -> None:
    """Check one value.

    Args:
        name: of the setting.
        value: what was given.
        hint: the field's type.
        given_as: the argument, where it is called otherwise.

    Raises:
        ConfigError: wrong type, or out of range; the text begins with the name.
    """
    shown = given_as or name
    _check_type(shown, value, hint)
    _check_range(name, value, shown)
    _check_text(name, value, shown)


def options(hint: Any) -> tuple[Any, ...]:
    """Split ``int | None`` into its members; any other type into itself."""
    return get_args(hint) if get_origin(hint) is Union or type(hint).__name__ == "UnionType" else (hint,)


def _check_type(shown: str, value: Any, hint: Any) -> None:
    for option in options(hint):
        if get_origin(option) is Literal:
            if isinstance(value, str) and value in get_args(option):
                return
            allowed = ", ".join(repr(a) for a in get_args(option))
            raise ConfigError(f"{shown} must be one of {allowed}, {_other(value, get_args(option))}")
        if option is type(None):
            if value is None:
                return
        elif option is bool:
            if isinstance(value, bool):
                return
        elif option is float:
            if isinstance(value, (int, float)) and not isinstance(value, bool):
                return
        elif isinstance(value, option) and not isinstance(value, bool):
            return
    wanted = " or ".join("None" if o is type(None) else o.__name__ for o in options(hint))
    raise ConfigError(f"{shown} must be {wanted}, {given(value)}")


def _other(value: Any, allowed: tuple[str, ...]) -> str:
    """Say what stands in the place of one of some texts: nothing of it, unless it is a slip of one."""
    if not isinstance(value, str):
        return given(value)
    slips = [one for one in allowed if is_nearly(value, one.upper())]
    return f"got another text; did you mean {slips[0]!r}?" if slips else "got another text"


def _check_range(name: str, value: Any, shown: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if not math.isfinite(value):
        raise ConfigError(f"{shown} must be finite, {given(value)}")
    if name in _POSITIVE and value <= 0:
        raise ConfigError(f"{shown} must be larger than 0, {given(value)}")
    if name == "semantic_similarity_threshold":
        if not -1.0 <= value <= 1.0:
            raise ConfigError(f"{shown} must be from -1 to 1, {given(value)}")
    elif value < 0:
        raise ConfigError(f"{shown} must not be negative, {given(value)}")
    if value > _MOST.get(name, value):
        raise ConfigError(f"{shown} must be from 1 to {_MOST[name]}, {given(value)}")


def _check_text(name: str, value: Any, shown: str) -> None:
    if not isinstance(value, str):
        return
    if name == "archive_codec" and value not in _ARCHIVE_CODECS:
        raise ConfigError(f"{shown} must be one of {', '.join(_ARCHIVE_CODECS)}, {given(value)}")
    if name == "redis_host" and not value.strip():
        # A socket would take it for this machine.
        raise ConfigError(f"{shown} must name a server, and is empty")
    if name == "redis_key_prefix" and ("{" in value or "}" in value):
        # A brace would move the hash tag that keeps a session's keys together.
        raise ConfigError(f"{shown} must not contain braces")
    if name == "redis_key_prefix" and not value:
        raise ConfigError(f"{shown} must not be empty")
    if name == "redis_url":
        _check_server_url(value, shown)
    if name == "archive_dir":
        if not value or "\0" in value:
            raise ConfigError(f"{shown} must name a folder, and is empty or has a zero in it")
        if is_url(value):
            raise ConfigError(f"{shown} must name a folder; a URL is archive_url")
    if name == "archive_url":
        if "://" not in value:
            raise ConfigError(f"{shown} must be a URL like s3://bucket/prefix; a folder is archive_dir")
        check_url(value)


def _check_server_url(url: str, shown: str) -> None:
    scheme, separator, _ = url.partition("://")
    if not separator or scheme not in _SCHEMES:
        # What stands there may be a password, but for what is often meant.
        got = f"got {scheme!r}" if separator and scheme in _OTHER_SCHEMES else "got none of them"
        raise ConfigError(
            f"{shown} must start with redis://, rediss:// or unix://, or redis+cluster:// or "
            f"redis+sentinel:// (rediss+... for TLS), {got}"
        )
