"""Runs the gateway: one process, uvicorn with uvloop and httptools."""

from __future__ import annotations

import asyncio
import errno
import gc
import importlib
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, MissingExtra, told
from lix_cache.gateway.errors import CannotListen
from lix_cache.gateway.idling import watch
from lix_cache.gateway.settings import GatewaySettings

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.gateway.app import Gateway
    from lix_cache.verifiers.protocol import Verifier

__all__ = [
    "NO_PROVIDER",
    "embedder_for",
    "gateway_for",
    "listeners_for",
    "log_troubles",
    "needs_packages",
    "reload",
    "run",
    "server_for",
    "verifier_for",
]


_BACKLOG = 2048
NO_PROVIDER = "the gateway needs a provider: --upstream URL, --local MODEL, or upstreams in the settings file"


def log_troubles() -> None:
    """Write warnings and errors to the standard error, as JSON: this process is the gateway's alone."""
    from loguru import logger as everyones

    from lix_cache.observability.json_logs import json_logs

    everyones.remove()
    json_logs(level="INFO")


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


def verifier_for(settings: GatewaySettings) -> Verifier | None:
    """Return the verifier that the settings name; nothing is loaded yet."""
    if not settings.verifier:
        return None
    from lix_cache.verifiers.onnx import OnnxVerifier

    return OnnxVerifier(os.path.expanduser(settings.verifier), threads=1)


def gateway_for(
    settings: GatewaySettings, config: CacheConfig, reread: Callable[[], GatewaySettings] | None = None
) -> Gateway:
    """Return the application.

    Args:
        settings: of the gateway.
        config: of the library.
        reread: reads the settings again, for a reload.

    Raises:
        ConfigError: it has no provider.
        MissingExtra: a package is not installed.
    """
    if not settings.upstreams:
        raise ConfigError(NO_PROVIDER)
    needs_packages()
    from lix_cache.gateway.app import Gateway
    from lix_cache.gateway.core import Core

    core = Core(settings, config, embedder=embedder_for(settings), verifier=verifier_for(settings))
    return Gateway(core, reread)


def needs_packages() -> None:
    """Refuse to go on without the packages of the extra.

    Raises:
        MissingExtra: one is not installed.
    """
    try:
        importlib.import_module("lix_cache.gateway.app")
    except ImportError as error:
        if (error.name or "").startswith("lix_cache"):
            raise
        raise MissingExtra(error.name or "aiohttp", "gateway", "the gateway") from None


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
        "backlog": _BACKLOG,
        **changes,
    }
    return uvicorn.Server(uvicorn.Config(gateway, **options))


def listeners_for(settings: GatewaySettings) -> list[socket.socket]:
    """Return sockets that listen at the address, one for each that the host's name stands for.

    What connects before the server is there waits for it, a second or two. Only listening says whose it is:
    several may bind it, and uvloop's server does not tell that it cannot listen.

    Raises:
        CannotListen: the port is in use, or the address is not this machine's.
    """
    found: list[socket.socket] = []
    port, trouble = settings.port, None
    try:
        names = socket.getaddrinfo(settings.host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, address in dict.fromkeys((name[0], name[4]) for name in names):
            one = socket.socket(family, socket.SOCK_STREAM)
            one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            try:
                one.bind((address[0], port, *address[2:]))
                one.listen(_BACKLOG)
            except OSError as error:
                one.close()
                # A machine may have a name for an address of IPv6, and no IPv6.
                if error.errno != errno.EADDRNOTAVAIL:
                    raise
                trouble = error
                continue
            found.append(one)
            port = one.getsockname()[1]
    except OSError as error:
        for one in found:
            one.close()
        raise _not_had(settings, error) from None
    if not found:
        raise _not_had(settings, trouble)
    return found


def _not_had(settings: GatewaySettings, error: OSError | None) -> CannotListen:
    if error is not None and error.errno == errno.EADDRINUSE:
        return CannotListen(
            f"port {settings.port} is in use at {settings.host}, perhaps by a gateway that runs already; "
            "end what listens there, or choose another with --port"
        )
    why = "no such address" if error is None else error.strerror
    return CannotListen(f"the gateway cannot listen at {settings.host}, port {settings.port}: {why}")


def run(gateway: Gateway, listeners: list[socket.socket]) -> bool:
    """Serve until a signal says to stop: new requests are refused, those that run may end.

    Args:
        gateway: what serves.
        listeners: of its port.

    Returns:
        Whether it ended because none of its processes was used for ``idle_seconds``.
    """
    server = server_for(gateway)

    # What is there by now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

    async def serve() -> bool:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, reload, gateway)
        watcher = loop.create_task(watch(gateway, server))
        try:
            await server.serve(sockets=listeners)
        finally:
            watcher.cancel()
        return watcher.done() and watcher.result()

    try:
        import uvloop
    except ImportError:
        return asyncio.run(serve())
    return bool(uvloop.run(serve()))


def reload(gateway: Gateway) -> None:
    """Take new settings; what makes no sense is said, and the old ones stay."""
    try:
        gateway.reload()
    except Exception as error:  # noqa: BLE001 - a file must not end the process that serves
        logger.error("the settings were not reloaded, the old ones stay: {}", told(error))
    else:
        logger.info("the settings were reloaded")
