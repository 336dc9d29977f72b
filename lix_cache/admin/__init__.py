"""The whole store, for its operator: every session, every file, the server."""

from __future__ import annotations

from lix_cache.admin.async_store import AsyncStoreAdmin
from lix_cache.admin.copying import copy_archive
from lix_cache.admin.results import (
    Check,
    Copied,
    Deleted,
    FileCheck,
    Migrated,
    Offloaded,
    SessionInfo,
    SessionPage,
    StoreStats,
)
from lix_cache.admin.store import StoreAdmin

__all__ = [
    "AsyncStoreAdmin",
    "Check",
    "Copied",
    "Deleted",
    "FileCheck",
    "Migrated",
    "Offloaded",
    "SessionInfo",
    "SessionPage",
    "StoreAdmin",
    "StoreStats",
    "copy_archive",
]
