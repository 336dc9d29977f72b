"""The doctor: find out, then judge."""

from __future__ import annotations

from lix_cache.admin.judge import judge_disk, judge_redis
from lix_cache.admin.probe import look_at_disk, look_at_redis
from lix_cache.admin.results import Check
from lix_cache.session.store import SessionStore

__all__ = ["examine"]


def examine(store: SessionStore) -> list[Check]:
    """Look at the server and the archive folder."""
    return [
        *judge_redis(look_at_redis(store), store.config),
        *judge_disk(look_at_disk(store)),
    ]
