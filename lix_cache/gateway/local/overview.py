"""All local models of a gateway: for the admin, for Prometheus, and whether they are ready."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lix_cache.errors import ConfigError, EngineBusy, KvBusy, LixCacheError, MissingExtra, told
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.loading import check_target
from lix_cache.gateway.local.reports import metric_lines
from lix_cache.gateway.local.settings import LocalSettings
from lix_cache.gateway.local.store import opened_store, tenant_of
from lix_cache.gateway.local.upstream import LocalUpstream
from lix_cache.gateway.tenants import Tenant
from lix_cache.kv.inspection import store_stats
from lix_cache.kv.store import KvStore

__all__ = ["Overview", "forget_state"]

#: A look at the store reads every name in it; a scrape may be answered with one that is so old.
_OLDEST_SECONDS = 10.0


class Overview:
    """What is told of all local models.

    Args:
        models: by the names of their upstreams.
        settings: of all of them.
    """

    def __init__(self, models: Mapping[str, LocalUpstream], settings: LocalSettings) -> None:
        self._models = models
        self._settings = settings
        self._store = opened_store(settings)
        self._stored: dict[str, Any] = {}
        self._looked = -_OLDEST_SECONDS
        self._looking = asyncio.Lock()

    async def metrics(self) -> bytes:
        """Return the lines for Prometheus."""
        stats = {}
        for name, one in self._models.items():
            with contextlib.suppress(EngineBusy):
                stats[name] = one.stats()
        lines = metric_lines(stats, await self.stored())
        return ("\n".join(lines) + "\n").encode()

    async def stored(self) -> dict[str, Any]:
        """Return the numbers of the store."""
        async with self._looking:
            if time.monotonic() - self._looked >= _OLDEST_SECONDS:
                found = await asyncio.to_thread(store_stats, self._store)
                self._stored = {**asdict(found), "budget_bytes": self._settings.budget_bytes}
                self._looked = time.monotonic()
        return self._stored

    async def listed(self) -> dict[str, Any]:
        """Return the models and the store."""
        found = []
        for name, one in self._models.items():
            told_of: dict[str, Any] = {"upstream": name, "model": one.target, "state": one.state}
            with contextlib.suppress(EngineBusy):
                model = one.model
                facts = model.fingerprint.facts
                told_of |= {
                    "fingerprint": one.identity,
                    "engine": facts.get("engine"),
                    "engine_version": facts.get("engine_version"),
                    "context_tokens": model.engine.context_tokens,
                    "stats": one.stats(),
                }
            found.append(told_of)
        return {"models": found, "store": await self.stored()}

    async def forget(self, tenant: Tenant, parts: Sequence[str]) -> None:
        """Remove a session's state from memory and disk, where a tenant may delete its sessions.

        Args:
            tenant: whose it is.
            parts: of the path behind ``/v1/sessions``.

        Raises:
            KvError: the store cannot be changed now; try again.
        """
        if len(parts) != 1 or not parts[0] or not tenant.keeps_sessions or "sessions" not in tenant.scopes:
            return
        await asyncio.to_thread(forget_state, self._models.values(), self._store, tenant.name, parts[0])

    async def exchange(self, target: str, upstream: str | None) -> dict[str, Any]:
        """Load another model in the place of one; the old one serves on where that fails.

        Raises:
            Refused: there is no such upstream or model, or not now; says which one serves.
        """
        name = upstream or next(iter(self._models), "")
        one = self._models.get(name)
        if one is None:
            raise Refused(404, "unknown_upstream", "there is no local model of that name")
        try:
            check_target(target, self._settings)
            await one.swap(target)
        except (ConfigError, MissingExtra) as error:
            raise Refused(400, "model_refused", str(error)) from None
        except (KvBusy, EngineBusy) as error:
            raise Refused(409, "model_busy", str(error), retry_after=5) from None
        except Exception as error:  # noqa: BLE001 - whatever an engine raises, the admin hears of it
            said = str(error) if isinstance(error, LixCacheError) else told(error)
            serves = f"{one.target!r} serves on" if one.identity else "no model serves"
            raise Refused(400, "model_refused", f"{said}; {serves}") from None
        return await self.listed()


def forget_state(models: Iterable[LocalUpstream], store: KvStore, tenant: str, session: str) -> None:
    """Remove a session's state from the memory of every model, and from disk.

    Also from that of a model that is not loaded, or cannot be: its state is in the store. What is loaded at
    this moment takes nothing back, for a purge is noticed.
    """
    for one in models:
        with contextlib.suppress(EngineBusy):
            one.model.forget_live(tenant_of(tenant), session)
    store.purge(tenant_of(tenant), session)
