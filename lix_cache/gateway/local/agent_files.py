"""Agents as files: whole, synced, renamed. A file that is no agent is none."""

from __future__ import annotations

import os
from typing import Any

import orjson

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.local.store import opened_store, tenant_of
from lix_cache.kv.catalogue import AGENTS
from lix_cache.kv.identity import tenant_digest
from lix_cache.storage.files import Files

__all__ = ["AgentFiles"]

_ENDING = ".json"
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

    Attributes:
        store: of which they are a part.
    """

    def __init__(self, settings: LocalSettings) -> None:
        self.store = opened_store(settings)
        self._files = Files()

    def _folder(self, tenant: str) -> str:
        return os.path.join(self.store.folder, AGENTS, tenant_digest(tenant_of(tenant)).hex())

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

    def version(self, tenant: str, identity: str) -> str | None:
        """Return what is another after each change of an agent; None if there is none."""
        return self._files.version(self._path(tenant, identity))

    def write(self, tenant: str, agent: dict[str, Any], since: str | None) -> None:
        """Write an agent whole: a crash leaves what was there before.

        Args:
            tenant: whose it is.
            agent: to write.
            since: the version that was read; None for a new one.

        Raises:
            Refused: another gateway on this folder changed or removed it meanwhile.
            KvError: there is no room for it, or the disk refused.
        """
        path = self._path(tenant, agent["id"])
        if not self.store.keep(tenant_of(tenant), path, orjson.dumps(agent), since):
            raise Refused(409, "agent_changed", "another gateway changed this agent meanwhile; send it again")

    def remove(self, tenant: str, identity: str) -> bool:
        """Remove an agent; False if there was none."""
        removed = self._files.remove(self._path(tenant, identity))
        self._files.sync_folder(self._folder(tenant))
        return removed
