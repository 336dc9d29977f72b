"""The activity index: which sessions are hot, by their last use. Commands; sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lix_cache.hot import scripts
from lix_cache.hot.scripts import Command, ScriptCall

if TYPE_CHECKING:
    from lix_cache.hot.keys import Keys

__all__ = ["last_use", "last_used"]


def last_used(keys: Keys, bucket: int, latest_ms: int | None, start: int, count: int) -> Command:
    """List hot sessions with the milliseconds of their last use, the latest first, as one flat list.

    Args:
        keys: names.
        bucket: of the sessions.
        latest_ms: none that was used later; None for all.
        start: how many of those to pass over.
        count: how many at most.
    """
    words = ("+inf" if latest_ms is None else latest_ms, start, count)
    return ScriptCall(scripts.LAST_USED, (keys.active(bucket),), words)


def last_use(keys: Keys, session_id: str) -> Command:
    """Ask when a session was last used, in milliseconds; None where it is not listed as hot."""
    return ("ZSCORE", keys.active(keys.bucket(session_id)), session_id)
