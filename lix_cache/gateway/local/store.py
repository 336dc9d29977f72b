"""The one store of all local models of a gateway."""

from __future__ import annotations

import os

from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.tenants import LOCAL
from lix_cache.kv.store import KvStore

__all__ = ["opened_store", "store_folder", "tenant_of"]


def store_folder(settings: LocalSettings) -> str:
    """Return where states are kept."""
    return os.path.expanduser(settings.folder or os.environ.get("LIX_CACHE_KV_DIR") or "./data/kv")


def tenant_of(name: str) -> str:
    """Return the tenant as the store knows it: that of a gateway without tenants has no name."""
    return "" if name == LOCAL else name


def opened_store(settings: LocalSettings, *, tidy: bool = False) -> KvStore:
    """Return the store with its budget and quotas.

    Args:
        settings: of local models.
        tidy: whether to remove what is over the budget now.
    """
    quotas = {tenant_of(name): size for name, size in settings.quota_bytes().items()}
    return KvStore(store_folder(settings), budget_bytes=settings.budget_bytes, quotas=quotas, tidy=tidy)
