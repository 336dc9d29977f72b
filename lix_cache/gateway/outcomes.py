"""What the ways of a request have in common: how they end, and what storing an answer needs."""

from __future__ import annotations

import random
from dataclasses import dataclass

from lix_cache.gateway.by_meaning import Meant, Place
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Control
from lix_cache.gateway.prepared import Prepared
from lix_cache.gateway.relay import Broken
from lix_cache.gateway.upstream import UpstreamFailed

__all__ = ["Keep", "let_go", "new_id", "not_cached", "unanswered"]


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


@dataclass(frozen=True)
class Keep:
    """What storing an answer needs."""

    asked: Prepared
    control: Control
    place: Place | None
    meant: Meant | None
    is_storable: bool


async def let_go(meant: Meant | None) -> None:
    """Let those go on who wait for an answer that is not coming."""
    if meant is not None and meant.lead is not None:
        await meant.lead.fail(None)
