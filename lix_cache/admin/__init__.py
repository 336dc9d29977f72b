"""The whole store, for its operator: every session, every file, the server."""

from __future__ import annotations

from lix_cache.admin.results import Check, FileCheck, Migrated, Offloaded, SessionInfo, StoreStats
from lix_cache.admin.store import StoreAdmin

__all__ = ["Check", "FileCheck", "Migrated", "Offloaded", "SessionInfo", "StoreAdmin", "StoreStats"]
