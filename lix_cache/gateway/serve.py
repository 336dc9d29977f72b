"""Runs the gateway: one process, uvicorn with uvloop and httptools."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, MissingExtra
from lix_cache.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.gateway.app import Gateway

__all__ = ["embedder_for", "gateway_for", "run"]


def embedder_for(settings: GatewaySettings) -> Embedder | None:
    """Return the embedder that the settings name; nothing is loaded yet."""
    name = settings.embedder
    if not name:
        return None
    if name == "lexical":
        from lix_cache.embedders.hashing import HashingEmbedder

        return HashingEmbedder()
    from lix_cache.embedders.onnx import OnnxEmbedder

    # One thread: the event loop and the other workers want the cores as well.
    return OnnxEmbedder(os.path.expanduser(name), threads=1)


def gateway_for(settings: GatewaySettings, config: CacheConfig) -> Gateway:
    """Return the application.

    Raises:
        ConfigError: it has no provider.
        MissingExtra: a package is not installed.
    """
    if not settings.upstreams:
        raise ConfigError("the gateway needs a provider: --upstream URL, or upstreams in the settings file")
    try:
        from lix_cache.gateway.app import Gateway
        from lix_cache.gateway.core import Core
    except ImportError as error:
        if (error.name or "").startswith("lix_cache"):
            raise
        raise MissingExtra(error.name or "aiohttp", "gateway", "the gateway") from None
    return Gateway(Core(settings, config, embedder=embedder_for(settings)))


def server_for(gateway: Gateway, **changes: Any) -> Any:
    """Return uvicorn's server for the application."""
    import uvicorn

    settings = gateway.core.settings
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": "httptools",
        "ws": "none",
        "lifespan": "on",
        "interface": "asgi3",
        "access_log": False,
        "log_level": "critical",
        "server_header": False,
        "date_header": False,
        "proxy_headers": False,
        "timeout_graceful_shutdown": max(1, int(settings.drain_seconds)),
        "backlog": 2048,
        **changes,
    }
    return uvicorn.Server(uvicorn.Config(gateway, **options))


def run(gateway: Gateway, *, fd: int | None = None) -> None:
    """Serve until a signal says to stop: new requests are refused, those that run may end."""
    server = server_for(gateway, **({} if fd is None else {"fd": fd}))

    async def serve() -> None:
        watcher = asyncio.get_running_loop().create_task(_watch(gateway, server))
        try:
            await server.serve()
        finally:
            watcher.cancel()

    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())


async def _watch(gateway: Gateway, server: Any) -> None:
    """Say that the server drains, and end it when it was idle for long enough."""
    idle = gateway.core.settings.idle_seconds
    while True:
        await asyncio.sleep(min(0.5, idle / 4) if idle else 0.5)
        gateway.health.is_draining = server.should_exit
        quiet = gateway.core.clock.monotonic() - gateway.last_request
        if idle and not gateway.core.metrics.open and quiet >= idle:
            server.should_exit = True
