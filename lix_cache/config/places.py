"""Where an archive may be: a folder by its path, or an object store by a URL. Touches nothing."""

from __future__ import annotations

import re
from urllib.parse import unquote

from lix_cache.errors import ConfigError

__all__ = ["check_url", "is_url"]

_SCHEMES = ("s3://", "gs://", "az://", "azure://", "abfs://", "abfss://", "https://", "file://")
#: Of two letters at least: one is a drive.
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def is_url(place: str) -> bool:
    """Whether a place is named by a URL; else it is a folder.

    Raises:
        ConfigError: it begins like a URL and is none, as ``s3:/bucket``: a folder would be made of it.
    """
    if "://" in place:
        return True
    if _SCHEME.match(place):
        raise ConfigError(
            f"{place!r} is no URL: one has two slashes behind its scheme, as s3://bucket/prefix. A folder of "
            f"that name is './{place}'"
        )
    return False


def check_url(url: str) -> None:
    """Check the URL of an object store.

    Raises:
        ConfigError: it is none, or holds what it must not. The error quotes nothing of it.
    """
    if not url.startswith(_SCHEMES):
        raise ConfigError(f"an object store is named by a URL ({', '.join(_SCHEMES)}), a folder by its path")
    scheme, _, rest = url.partition("://")
    if "@" in rest.partition("/")[0] or "?" in rest:
        raise ConfigError(
            "the URL of an object store holds no credentials and no parameters; the environment does"
        )
    if scheme == "file":
        if not unquote(rest).startswith("/"):
            raise ConfigError("file:// is followed by an absolute path, as file:///var/lib/app/chats")
        return
    bucket, *parts = rest.rstrip("/").split("/")
    if not bucket:
        raise ConfigError("the URL of an object store names no bucket: s3://bucket/prefix")
    if any(part in ("", ".", "..") for part in parts) or _CONTROL.search(rest):
        raise ConfigError(
            "the prefix in the URL of an object store has an empty part, '.', '..' or a control character"
        )
