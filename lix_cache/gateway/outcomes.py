"""Small words that several ways of a request have in common."""

from __future__ import annotations

import random

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.relay import Broken
from lix_cache.gateway.upstream import UpstreamFailed

__all__ = ["new_id", "not_cached", "unanswered"]


def new_id() -> str:
    """Return letters and digits that no answer had before. They guard nothing: chance will do."""
    return f"{random.getrandbits(96):024x}"


def not_cached(reason: str) -> Refused:
    """Return what a client gets that wants an answer of the cache or none."""
    return Refused(504, "not_cached", f"only-if-cached was asked for, and the cache has no answer ({reason})")


def unanswered(error: Exception | None) -> Exception:
    """Return what a client gets where the provider did not answer."""
    if isinstance(error, Refused):
        return error
    if isinstance(error, UpstreamFailed):
        return Refused(504 if error.was_late else 502, "upstream_unavailable", str(error))
    return Broken()
