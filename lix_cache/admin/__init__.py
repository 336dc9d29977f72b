"""The whole store as somebody sees it who looks after it: every session, every file, the server."""

from __future__ import annotations

from lix_cache.admin.async_store import AsyncStoreAdmin
from lix_cache.admin.results import Check, Evicted, FileCheck, Migrated, SessionInfo, SessionPage, StoreStats
from lix_cache.admin.store import StoreAdmin

__all__ = [
    "AsyncStoreAdmin",
    "Check",
    "Evicted",
    "FileCheck",
    "Migrated",
    "SessionInfo",
    "SessionPage",
    "StoreAdmin",
    "StoreStats",
]
