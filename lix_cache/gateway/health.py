"""Whether the gateway lives, whether it is ready, and what it counted."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import orjson

from lix_cache.gateway.asgi import Scope, Send, respond
from lix_cache.gateway.tenants import digest_of_key

if TYPE_CHECKING:
    from lix_cache.gateway.core import Core

__all__ = ["Health"]


class Health:
    """Answers ``/healthz``, ``/ready`` and ``/metrics``."""

    def __init__(self, core: Core) -> None:
        self.core = core

    async def answers(self, scope: Scope, send: Send) -> bool:
        """Answer a request if it is for here."""
        path = scope["path"]
        if path == "/healthz":
            await respond(send, 200, [(b"content-type", b"application/json")], b'{"status":"ok"}')
        elif path == "/ready":
            state = await self.state()
            status = 200 if state["status"] not in ("down", "loading") else 503
            await respond(send, status, [(b"content-type", b"application/json")], orjson.dumps(state))
        elif path == "/metrics":
            await self._metrics(scope, send)
        else:
            return False
        return True

    async def state(self) -> dict[str, Any]:
        """Return the state of each part. ``degraded`` serves; ``loading`` and ``down`` do not."""
        core = self.core
        redis = "off" if core.redis is None else "ok" if await core.redis.ping() else "away"
        tripped = [route.name for route in core.routes.routes if route.breaker.is_open]
        tripped += [name for name, model in core.local.items() if model.state != "ok" and name not in tripped]
        down = not core.routes.routes or len(tripped) == len(core.routes.routes)
        loading = {name for name, model in core.local.items() if model.state == "loading"}
        is_loading = down and bool(tripped) and loading.issuperset(tripped)
        embedder, verifier, hydration = core.warming.embedder, core.warming.verifier, core.snapshot.state
        degraded = redis == "away" or bool(tripped) or not {embedder, verifier, hydration} <= {"ok", "none"}
        return {
            "status": "loading" if is_loading else "down" if down else "degraded" if degraded else "ok",
            "redis": redis,
            "embedder": embedder,
            "verifier": verifier,
            "hydration": hydration,
            "upstreams": {
                r.name: "loading" if r.name in loading else "failing" if r.name in tripped else "ok"
                for r in core.routes.routes
            },
            "hydrated": core.snapshot.hydrated,
            **({"models": {name: model.state for name, model in core.local.items()}} if core.local else {}),
        }

    async def _metrics(self, scope: Scope, send: Send) -> None:
        core = self.core
        wanted = core.settings.admin_key
        given = next((v for n, v in scope["headers"] if n == b"authorization"), b"").decode("latin-1")
        # With tenants, the counts of all of them are not for each of them.
        if (wanted or core.tenants.local is None) and digest_of_key(given.removeprefix("Bearer ")) != wanted:
            more = "" if wanted else "; with tenants, /metrics needs the setting admin_key, which is not set"
            said = {"message": f"the admin key is needed{more}", "type": "authentication_error"}
            await respond(send, 401, [(b"content-type", b"application/json")], orjson.dumps({"error": said}))
            return
        gauges = {
            "memory_entries": float(len(core.memory)),
            "memory_bytes": float(core.memory.bytes),
            "open_requests": float(core.metrics.open),
            "flights": float(len(core.flights)),
            "tasks": float(len(asyncio.all_tasks())),
            "redis_troubles_total": float(0 if core.redis is None else core.redis.troubles),
            "upstream_retries_total": float(core.routes.retries),
            "access_log_dropped_total": float(core.log.dropped),
        }
        kind = (b"content-type", b"text/plain; version=0.0.4; charset=utf-8")
        text = core.metrics.text(gauges)
        if core.overview is not None:
            text += await core.overview.metrics()
        await respond(send, 200, [kind], text)
