"""``lix-cache serve --check``: what a gateway would do, and how each of its parts does. Changes nothing."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from lix_cache.clock import SYSTEM_CLOCK
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, LixCacheError, MissingExtra
from lix_cache.gateway.encoders import Encoding
from lix_cache.gateway.errors import CannotListen
from lix_cache.gateway.references import check_references
from lix_cache.gateway.serve import NO_PROVIDER, gateway_for, listeners_for, needs_packages
from lix_cache.gateway.settings import GatewaySettings
from lix_cache.gateway.settings_file import problems_of
from lix_cache.gateway.traces import Traces
from lix_cache.hot.clients import close_async_redis_clients

__all__ = ["checked", "plan_of"]

_WARM_SECONDS = 60.0


def plan_of(settings: GatewaySettings) -> list[str]:
    """Return what a gateway with these settings does, in sentences without secrets."""
    processes = "one process" if settings.workers == 1 else f"{settings.workers} processes"
    tiers = ["memory"] * bool(settings.memory_bytes) + ["Redis"] * settings.redis
    if settings.redis and settings.semantic and settings.embedder:
        tiers.append(f"meaning ({settings.embedder})")
        tiers += [f"verifier ({settings.verifier})"] * bool(settings.verifier)
    lines = [
        f"listen at {settings.host}:{settings.port}, {processes}",
        f"answer from {', '.join(tiers) or 'nothing'}, for {settings.ttl_seconds:g} s",
    ]
    for one in settings.upstreams:
        key = "its own key" if one.api_key or one.api_key_env else "the request's key"
        key = "" if one.is_local else f", with {key}"
        lines.append(f"ask {one.name} at {one.url} for {', '.join(one.models)}{key}")
    if not settings.tenants:
        lines.append("serve one local tenant without a key")
    for tenant in settings.tenants:
        limits = [f"{tenant.requests_per_minute} requests a minute"] * bool(tenant.requests_per_minute)
        limits += [f"{tenant.tokens_per_day} tokens a day"] * bool(tenant.tokens_per_day)
        models = [f"models {', '.join(tenant.models)}"] * ("*" not in tenant.models)
        lines.append(f"serve tenant {tenant.name}: {', '.join([*tenant.scopes, *models, *limits])}")
    if settings.sessions or any(tenant.sessions for tenant in settings.tenants):
        lines.append("keep sessions that X-Session-ID names")
    if settings.volatile:
        lines.append(f"leave out of the key: {', '.join(settings.volatile)}")
    if settings.encoders:
        lines.append(f"send records in fewer tokens: {', '.join(settings.encoders)}")
    if settings.snapshot:
        lines.append(f"read and write a snapshot at {settings.snapshot}")
    lines.append("serve /admin behind its key" if settings.admin_key else "serve no /admin")
    return lines


def checked(settings: GatewaySettings, config: CacheConfig) -> dict[str, Any]:
    """Try every part once: Redis, embedder, each provider, the snapshot's place.

    Returns:
        ``ok``; ``plan``: see :func:`plan_of`; ``parts``: name -> ``ok`` or what is wrong; ``settings``: what
        is wrong with them.
    """
    found: dict[str, Any] = {"ok": False, "plan": plan_of(settings), "settings": [], "parts": {}}
    if not settings.upstreams:
        found["settings"].append(NO_PROVIDER)
    try:
        check_references(settings, os.environ, is_start=True)
    except ConfigError as error:
        found["settings"] += problems_of(error)
    if not found["settings"]:
        found["parts"]["settings"] = "ok"
    found["parts"]["port"] = _is_free(settings)
    try:
        needs_packages()
    except MissingExtra as error:
        found["parts"]["gateway"] = str(error)
        return found
    tried, settings = _optional(settings)
    found["parts"] |= tried
    if found["settings"]:
        settings = _without_references(settings)
    found["parts"] |= _essential(settings, config)
    found["ok"] = not found["settings"] and all(state == "ok" for state in found["parts"].values())
    return found


def _optional(settings: GatewaySettings) -> tuple[dict[str, str], GatewaySettings]:
    """Try what a setting switches on, each by itself.

    Returns:
        How each does, and settings without them: one that cannot work must not hide how the others do, and
        a gateway with a snapshot would write it at its end.
    """
    from lix_cache.gateway.snapshot import check_snapshot

    parts = {}
    tries: dict[str, Callable[[], object]] = {
        "traces": Traces,
        "encoders": lambda: Encoding(settings.encoders),
        "snapshot": lambda: check_snapshot(settings.snapshot, SYSTEM_CLOCK),
    }
    for name, attempt in tries.items():
        if not getattr(settings, name):
            continue
        try:
            attempt()
        except LixCacheError as error:
            parts[name] = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        else:
            parts[name] = "ok"
    return parts, replace(settings, traces=False, encoders=(), snapshot="")


def _without_references(settings: GatewaySettings) -> GatewaySettings:
    """Return settings that name neither upstreams nor variables: the rest can be tried all the same."""
    return replace(
        settings,
        upstreams=tuple(replace(one, api_key_env="", cache_salt=False) for one in settings.upstreams),
        tenants=tuple(replace(one, provider_keys={}) for one in settings.tenants),
        local=replace(
            settings.local,
            quotas={},
            servers=tuple(replace(one, key_env="") for one in settings.local.servers),
        ),
    )


def _essential(settings: GatewaySettings, config: CacheConfig) -> dict[str, str]:
    """Try Redis, the models and each provider."""
    if not settings.upstreams:
        return {}
    gateway = gateway_for(settings, config)

    async def look() -> dict[str, str]:
        core, parts = gateway.core, {}
        if core.redis is not None:
            parts["redis"] = "ok" if await core.redis.ping() else core.redis.last_trouble
        if core.sessions is not None:
            parts["sessions"] = await core.sessions.trouble() or "ok"
        await core.warming.warm_up(settings, _WARM_SECONDS)
        if core.embedder is not None:
            parts["embedder"] = core.warming.embedder
        if core.verifier is not None:
            parts["verifier"] = core.warming.verifier
        for route in core.routes.routes:
            parts[f"upstream {route.name}"] = await _reached(route)
        await core.close()
        await close_async_redis_clients()
        return parts

    return asyncio.run(look())


def _is_free(settings: GatewaySettings) -> str:
    try:
        for one in listeners_for(settings):
            one.close()
    except CannotListen as error:
        return str(error)
    return "ok"


async def _reached(route: Any) -> str:
    from lix_cache.gateway.upstream import Outgoing, UpstreamFailed

    try:
        incoming = await route.upstream.send(Outgoing("HEAD", "/v1/models", []))
    except UpstreamFailed as error:
        return str(error)
    incoming.close()
    if route.settings.is_local:
        return str(route.upstream.state)
    # Any answer will do: without a key it is a refusal.
    return "ok"
