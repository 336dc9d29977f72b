"""The doctor: find out, then diagnose."""

from __future__ import annotations

from lix_cache.admin.diagnosis import diagnose_disk, diagnose_redis
from lix_cache.admin.probe import look_at_disk, look_at_redis
from lix_cache.admin.results import Check
from lix_cache.config import CacheConfig
from lix_cache.session.store import SessionStore

__all__ = ["examine"]


def examine(store: SessionStore, config: CacheConfig) -> list[Check]:
    """Look at the server and the archive folder."""
    return [
        *diagnose_redis(look_at_redis(store, config), config),
        *diagnose_disk(look_at_disk(store)),
    ]
