"""Looking after a running gateway: counts, purges, and why a request hits or misses. Behind the admin key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.routing import Route

from lix_cache.errors import ConfigError
from lix_cache.gateway.admin_request import Served, Work, guarded, read_object
from lix_cache.gateway.answer import Answer
from lix_cache.gateway.asgi import target_of
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import read_control
from lix_cache.gateway.page import page_routes
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.prepared import source_of
from lix_cache.gateway.tenants import LOCAL
from lix_cache.gateway.vectors_path import EMBEDDINGS, spoken_at

if TYPE_CHECKING:
    from lix_cache.gateway.app import Gateway
    from lix_cache.gateway.core import Core

__all__ = ["admin_app"]

_LONGEST_BODY = 32 << 20


class _Admin:
    def __init__(self, core: Core, reload: Callable[[], None]) -> None:
        self._core = core
        self._reload = reload

    async def stats(self, _: Request) -> dict[str, Any]:
        """Return what this process counted."""
        core = self._core
        counts = core.metrics
        return {
            "requests": [
                {"tenant": tenant, "protocol": protocol, "cache": state, "reason": reason, "count": count}
                for (tenant, protocol, state, reason), count in counts.requests.items()
            ],
            "tokens_saved": {tenant: sum(two) for tenant, two in counts.saved.items()},
            "tokens_spent": {tenant: sum(two) for tenant, two in counts.spent.items()},
            "stored": counts.stored,
            "not_stored": dict(counts.not_stored),
            "memory": {"entries": len(core.memory), "bytes": core.memory.bytes},
            "by_meaning": {} if core.meaning is None else core.meaning.stats(),
        }

    async def purge(self, request: Request) -> dict[str, Any]:
        """Drop answers: of a tenant, with a tag, of a model, of an age; at least the tenant must be said."""
        asked = await read_object(
            request, _LONGEST_BODY, {"tenant": str, "tag": str, "model": str, "older_than_seconds": float}
        )
        tenant = asked.get("tenant")
        if tenant is None:
            raise Refused(400, "invalid_body", "say whose answers: tenant")
        model, age = asked.get("model"), asked.get("older_than_seconds")
        found = await self._core.purge(tenant, model, age, asked.get("tag"))
        # One that was taken out of the settings left answers. A name that was mistyped left none.
        return found if tenant in self._core.tenants.names else {**found, "known": False}

    async def reload(self, _: Request) -> dict[str, Any]:
        """Read the settings again; what makes no sense changes nothing."""
        try:
            self._reload()
        except ConfigError as error:
            raise Refused(422, "invalid_settings", f"nothing has changed: {error}") from None
        return {"reloaded": True}

    async def snapshot(self, _: Request) -> dict[str, Any]:
        """Write the snapshot now."""
        if not self._core.settings.snapshot:
            raise Refused(404, "no_snapshot", "no folder for a snapshot is configured")
        return {"answers": await self._core.snapshot.save()}

    async def explain(self, request: Request) -> dict[str, Any]:
        """Say what would become of a request, without sending it anywhere or counting it."""
        kinds = {"tenant": str, "path": str, "headers": dict, "body": dict}
        asked = await read_object(request, _LONGEST_BODY, kinds)
        path, query = _split(asked.get("path", ""))
        protocol = spoken_at(path)
        if protocol is EMBEDDINGS:
            raise Refused(422, "not_explained", "each text of an embeddings request is looked up by itself")
        if protocol is None:
            return {"cache": "bypass", "reason": "path"}
        core = self._core
        names = core.tenants.names
        tenant = asked.get("tenant", LOCAL if LOCAL in names else None)
        if tenant not in names:
            said = f"no such tenant: {tenant!r}" if tenant else "say for whom: tenant"
            raise Refused(404 if tenant else 400, "unknown_tenant", said)
        headers = {str(name).lower(): str(value) for name, value in asked.get("headers", {}).items()}
        control, body = read_control(headers), asked.get("body", {})
        told = core.tenants.for_providers(headers)
        source = source_of(tenant, protocol.name, control.namespace, told, query)
        ready = core.preparer.prepare(source, dump(body))
        if ready.bypass or control.mode == "off":
            return {"cache": "bypass", "reason": ready.bypass or "mode"}
        found: dict[str, Any] = {"key": ready.key.hex(), "model": ready.model}
        if control.no_cache:
            return {**found, "cache": "miss", "reason": "no_cache"}

        lacking: list[str] = []

        def suits(answer: Answer) -> bool:
            lacks = protocol.lacks(answer, stream=ready.is_stream, request=ready.slim)
            lacking.extend([] if lacks is None else [lacks])
            return lacks is None

        looked = await core.look_up(tenant, ready, control, suits)
        if looked.entry is not None and looked.is_suited:
            return {**found, "cache": "hit-l1-exact", "reason": looked.tier}
        found |= {"cache": "miss", "reason": "unsuited" if lacking else "exact"}
        if looked.entry is not None or core.meaning is None or not core.asks_meaning(control):
            return found
        place = core.place_of(tenant, protocol.name, control, told, ready, body, query)
        if isinstance(place, str):
            return {**found, "by_meaning": {"reason": f"not_asked: {place}"}}
        meant = await core.meaning.explain(place, control)
        found |= {"cache": meant["cache"], "by_meaning": meant}
        if meant["cache"] != "miss" or not lacking:
            found["reason"] = meant["reason"]
        return found

    async def models(self, request: Request) -> dict[str, Any]:
        """List the local models; or load another in the place of one."""
        overview = self._core.overview
        if overview is None:
            raise Refused(404, "no_models", "this gateway has no local model (lix-cache serve --local)")
        if request.method == "GET":
            return await overview.listed()
        asked = await read_object(request, _LONGEST_BODY, {"model": str, "upstream": str})
        if not asked.get("model"):
            raise Refused(400, "invalid_body", "say which model: its folder, GGUF file or llama-server")
        return await overview.exchange(asked["model"], asked.get("upstream"))


def _split(target: str) -> tuple[str, str]:
    """Return path and query as the server reads them.

    Raises:
        Refused: the path would be refused.
    """
    path, _, query = target.partition("?")
    path = unquote(path)
    target_of({"path": path, "query_string": b""})
    return path, query


def admin_app(gateway: Gateway) -> Starlette:
    """Return the application below ``/admin``, and the page below ``/ui``."""
    core = gateway.core
    admin = _Admin(core, gateway.reload_all)

    def behind_key(work: Work) -> Served:
        return guarded(core, work)

    return Starlette(
        routes=[
            Route("/admin/stats", behind_key(admin.stats), methods=["GET"]),
            Route("/admin/purge", behind_key(admin.purge), methods=["POST"]),
            Route("/admin/reload", behind_key(admin.reload), methods=["POST"]),
            Route("/admin/snapshot", behind_key(admin.snapshot), methods=["POST"]),
            Route("/admin/models", behind_key(admin.models), methods=["GET", "POST"]),
            Route("/admin/explain", behind_key(admin.explain), methods=["POST"]),
            *page_routes(gateway, behind_key),
        ]
    )
