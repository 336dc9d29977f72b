"""Agents as files: whole, synced, renamed. A file that is no agent is none."""

from __future__ import annotations

import os
from typing import Any

import orjson

from lix_cache.gateway.local.loading import store_folder
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.kv.identity import tenant_digest
from lix_cache.kv.store import KvStore
from lix_cache.storage.files import Files

__all__ = ["AgentFiles"]

_ENDING, _NEW = ".json", ".new"
_FIELDS = {
    "id": str,
    "name": str,
    "model": str,
    "system": str,
    "created": int,
    "messages": list,
    "counts": dict,
}


class AgentFiles:
    """The agents of all tenants below the store's folder.

    Args:
        settings: name the folder.
    """

    def __init__(self, settings: LocalSettings) -> None:
        self._settings = settings
        self._root = store_folder(settings)
        self._files = Files()

    def store(self) -> KvStore:
        """Return the store, to look at."""
        return KvStore(self._root, budget_bytes=self._settings.budget_bytes, tidy=False)

    def _folder(self, tenant: str) -> str:
        return os.path.join(self._root, "agents", tenant_digest(tenant).hex())

    def _path(self, tenant: str, identity: str) -> str:
        return os.path.join(self._folder(tenant), identity + _ENDING)

    def ids(self, tenant: str) -> list[str]:
        """Return the ids of a tenant's agents."""
        names = self._files.names(self._folder(tenant))
        return [name.removesuffix(_ENDING) for name in names if name.endswith(_ENDING)]

    def read(self, tenant: str, identity: str) -> dict[str, Any] | None:
        """Return an agent; None if there is none."""
        data = self._files.read(self._path(tenant, identity))
        try:
            value = orjson.loads(data or b"")
        except orjson.JSONDecodeError:
            return None
        if not isinstance(value, dict) or value.get("id") != identity:
            return None
        return value if all(isinstance(value.get(name), kind) for name, kind in _FIELDS.items()) else None

    def write(self, tenant: str, agent: dict[str, Any]) -> None:
        """Write an agent whole: a crash leaves what was there before.

        Raises:
            ArchiveUnavailable: the disk refused.
        """
        folder, path = self._folder(tenant), self._path(tenant, agent["id"])
        self._files.make_folder(folder)
        self._files.write_synced(path + _NEW, orjson.dumps(agent))
        self._files.rename(path + _NEW, path)
        self._files.sync_folder(folder)

    def remove(self, tenant: str, identity: str) -> bool:
        """Remove an agent; False if there was none."""
        removed = self._files.remove(self._path(tenant, identity))
        self._files.sync_folder(self._folder(tenant))
        return removed
