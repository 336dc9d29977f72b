"""Looking after a running gateway: counts, purges, and why a request hits or misses. Behind the admin key."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import orjson
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lix_cache.errors import ConfigError, InvalidInput, LixCacheError, told
from lix_cache.gateway.answer import Answer
from lix_cache.gateway.eligibility import Question, question_of
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Control, read_control
from lix_cache.gateway.page import page_routes
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.prepared import Prepared, source_of
from lix_cache.gateway.protocols import Protocol, protocol_of
from lix_cache.gateway.request import stripped
from lix_cache.gateway.tenants import LOCAL, digest_of_key
from lix_cache.gateway.vectors_path import EMBEDDINGS

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
        asked = await _asked(request, {"tenant": str, "tag": str, "model": str, "older_than_seconds": float})
        tenant = asked.get("tenant")
        if tenant is None:
            raise Refused(400, "invalid_body", "say whose answers: tenant")
        model, age = asked.get("model"), asked.get("older_than_seconds")
        return await self._core.purge(tenant, model, age, asked.get("tag"))

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
        return {"answers": await self._core.save()}

    async def explain(self, request: Request) -> dict[str, Any]:
        """Say what would become of a request, without sending it anywhere or counting it."""
        asked = await _asked(request, {"tenant": str, "path": str, "headers": dict, "body": dict})
        path = asked.get("path", "")
        if path == EMBEDDINGS.path:
            raise Refused(422, "not_explained", "each text of an embeddings request is looked up by itself")
        protocol = protocol_of(path)
        if protocol is None:
            return {"cache": "bypass", "reason": "path"}
        core = self._core
        headers = {str(name).lower(): str(value) for name, value in asked.get("headers", {}).items()}
        tenant, control = asked.get("tenant", LOCAL), read_control(headers)
        source = source_of(tenant, protocol.name, control.namespace, headers, "")
        ready = core.preparer.prepare(source, dump(asked.get("body", {})))
        if ready.bypass or control.mode == "off":
            return {"cache": "bypass", "reason": ready.bypass or "mode"}
        found: dict[str, Any] = {"key": ready.key.hex(), "model": ready.model}
        if control.no_cache:
            return {**found, "cache": "miss", "reason": "no_cache"}

        def suits(answer: Answer) -> bool:
            return protocol.lacks(answer, stream=ready.is_stream, request=ready.slim) is None

        now, is_last = core.clock.time(), False
        entry = core.memory.get(ready.key, now, control.max_age, control.min_fresh)
        found["memory"] = entry is not None and suits(entry.answer)
        if core.redis is not None:
            entry = await core.redis.get(tenant, ready.key)
            # What is there and does not suit ends the search: no other tier is asked then.
            is_last = entry is not None and core.serves(entry, now, control)
            found["redis"] = is_last and entry is not None and suits(entry.answer)
        if found["memory"] or found.get("redis"):
            return {**found, "cache": "hit-l1-exact"}
        if is_last:
            return {**found, "cache": "miss", "reason": "unsuited"}
        if core.asks_meaning(control):
            found["by_meaning"] = await self._by_meaning(asked, protocol, control, headers, ready)
        return {**found, "cache": found.get("by_meaning", {}).get("cache", "miss")}

    async def _by_meaning(
        self,
        asked: dict[str, Any],
        protocol: Protocol,
        control: Control,
        headers: dict[str, str],
        ready: Prepared,
    ) -> dict[str, Any]:
        core = self._core
        value = stripped(protocol.name, asked.get("body", {}))
        question = question_of(
            protocol.name, core.normalise(protocol.name, value) if core.normalise else value
        )
        if not isinstance(question, Question) or core.meaning is None:
            return {"reason": f"not_asked: {question}"}
        tenant = asked.get("tenant", LOCAL)
        place = core.place_of(tenant, protocol.name, control, headers, ready, question)
        return await core.meaning.explain(place, control)

    async def models(self, request: Request) -> dict[str, Any]:
        """List the local models; or load another in the place of one."""
        overview = self._core.overview
        if overview is None:
            raise Refused(404, "no_models", "this gateway has no local model (lix-cache serve --local)")
        if request.method == "GET":
            return await overview.listed()
        asked = await _asked(request, {"model": str, "upstream": str})
        if not asked.get("model"):
            raise Refused(400, "invalid_body", "say which model: its folder, GGUF file or llama-server")
        return await overview.exchange(asked["model"], asked.get("upstream"))


async def _asked(request: Request, kinds: dict[str, type]) -> dict[str, Any]:
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > _LONGEST_BODY:
            raise Refused(413, "body_too_large", "the request's body is too large")
    try:
        value = orjson.loads(bytes(data) or b"{}")
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "invalid_body", "the request's body must be a JSON object")
    for name, item in value.items():
        wanted = kinds.get(name)
        if wanted is None:
            raise Refused(400, "invalid_body", f"the request's body may hold {', '.join(kinds)}")
        if not isinstance(item, (int, float) if wanted is float else wanted) or isinstance(item, bool):
            raise Refused(400, "invalid_body", f"{name} must be a {wanted.__name__}")
    return value


def admin_app(gateway: Gateway) -> Starlette:
    """Return the application below ``/admin``, and the page below ``/ui``."""
    core = gateway.core
    admin = _Admin(core, gateway.reload_all)

    def guarded(work: Any) -> Any:
        return _guarded(core, work)

    return Starlette(
        routes=[
            Route("/admin/stats", guarded(admin.stats), methods=["GET"]),
            Route("/admin/purge", guarded(admin.purge), methods=["POST"]),
            Route("/admin/reload", guarded(admin.reload), methods=["POST"]),
            Route("/admin/snapshot", guarded(admin.snapshot), methods=["POST"]),
            Route("/admin/models", guarded(admin.models), methods=["GET", "POST"]),
            Route("/admin/explain", guarded(admin.explain), methods=["POST"]),
            *page_routes(gateway, guarded),
        ]
    )


def _guarded(core: Core, work: Any) -> Any:
    async def serve(request: Request) -> Response:
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        status, value = (
            401,
            {"error": {"message": "the admin key is needed", "type": "authentication_error"}},
        )
        if key and digest_of_key(key) == core.settings.admin_key:
            try:
                status, value = 200, await work(request)
            except Refused as error:
                status, value = error.status, {"error": {"message": str(error), "type": error.code}}
            except InvalidInput as error:
                status, value = 400, {"error": {"message": told(error), "type": "invalid_input"}}
            except LixCacheError as error:
                status, value = 503, {"error": {"message": told(error), "type": "unavailable"}}
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        return Response(orjson.dumps(value), status, headers, media_type="application/json")

    return serve
