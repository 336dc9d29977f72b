"""Runs the gateway: one process, uvicorn with uvloop and httptools."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import time
from typing import TYPE_CHECKING, Any

from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, MissingExtra
from lix_cache.gateway.settings import GatewaySettings
from lix_cache.hot.clients import close_async_redis_clients

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.gateway.app import Gateway

__all__ = ["checked", "embedder_for", "gateway_for", "run", "run_workers", "server_for"]


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
        raise ConfigError(
            "the gateway needs a provider: --upstream URL, --local MODEL, or upstreams in the settings file"
        )
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

    from lix_cache.gateway.guarded_http import GuardedHttp

    settings = gateway.core.settings
    options: dict[str, Any] = {
        "host": settings.host,
        "port": settings.port,
        "loop": "uvloop",
        "http": GuardedHttp,
        # Longer than clients keep theirs: who closes first must be the one that would send.
        "timeout_keep_alive": 75,
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


def run_workers(gateway: Gateway, workers: int) -> None:
    """Serve one port by several processes; one that dies is replaced until a signal says to stop.

    Forked before any connection or thread exists, so each has its own.
    """
    settings = gateway.core.settings
    if gateway.core.local:
        raise ConfigError("a local model is served by one process; leave --workers out")
    listener = socket.create_server((settings.host, settings.port), backlog=2048)
    listener.set_inheritable(True)
    children: set[int] = set()
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        for child in list(children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not stopping:
            while len(children) < workers and not stopping:
                children.add(_forked(gateway, listener.fileno(), before))
            # A child that cannot even start must not be forked as fast as the machine can.
            _reap(children, pause=0.5)
        while children:
            _reap(children, pause=0.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        listener.close()


def _forked(gateway: Gateway, fd: int, handlers: dict[signal.Signals, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        run(gateway, fd=fd)
        code = 0
    except KeyboardInterrupt:
        code = 0
    finally:
        os._exit(code)


def _reap(children: set[int], pause: float) -> None:
    try:
        child, status = os.wait()
    except ChildProcessError:
        children.clear()
        return
    children.discard(child)
    if status:
        time.sleep(pause)


def checked(settings: GatewaySettings, config: CacheConfig) -> dict[str, Any]:
    """Try every part once: Redis, embedder, each provider.

    Returns:
        ``ok``, and ``parts``: name -> ``ok`` or what is wrong.
    """
    gateway = gateway_for(settings, config)

    async def look() -> dict[str, str]:
        core = gateway.core
        parts = {"settings": "ok"}
        if core.redis is not None:
            parts["redis"] = "ok" if await core.redis.ping() else core.redis.last_trouble
        if core.embedder is not None:
            await gateway.health.warm_up()
            parts["embedder"] = gateway.health.embedder
        for route in core.routes.routes:
            parts[f"upstream {route.name}"] = await _reached(route)
        await core.close()
        await close_async_redis_clients()
        return parts

    parts = asyncio.run(look())
    return {"ok": all(state == "ok" for state in parts.values()), "parts": parts}


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
