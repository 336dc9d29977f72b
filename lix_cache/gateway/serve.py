"""Runs the gateway: one process, uvicorn with uvloop and httptools."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import gc
import importlib
import os
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, LixCacheError, MissingExtra, told
from lix_cache.gateway.errors import CannotListen
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
    "run",
    "run_workers",
    "server_for",
    "verifier_for",
]


NO_PROVIDER = "the gateway needs a provider: --upstream URL, --local MODEL, or upstreams in the settings file"
#: An open page is heard of more often than this: browsers wake one in a hidden tab once in a minute.
_PAGE_SECONDS = 90.0


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
        "backlog": 2048,
        **changes,
    }
    return uvicorn.Server(uvicorn.Config(gateway, **options))


def listeners_for(settings: GatewaySettings) -> list[socket.socket]:
    """Return sockets bound to the address, one for each that the host's name stands for.

    They do not listen yet: what connects before there is an answer is better refused.

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


def run(gateway: Gateway, listeners: list[socket.socket]) -> None:
    """Serve until a signal says to stop: new requests are refused, those that run may end."""
    server = server_for(gateway)

    # What is there by now stays: the collector need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 20)

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, _reload, gateway)
        watcher = loop.create_task(_watch(gateway, server))
        try:
            await server.serve(sockets=listeners)
        except OSError as error:
            # Another program bound it in between, and was the first to listen.
            raise _not_had(gateway.core.settings, error) from None
        finally:
            watcher.cancel()

    try:
        import uvloop
    except ImportError:
        asyncio.run(serve())
    else:
        uvloop.run(serve())


def _reload(gateway: Gateway) -> None:
    """Take new settings; what makes no sense is said, and the old ones stay."""
    try:
        gateway.reload()
    except LixCacheError as error:
        logger.error("the settings were not reloaded, the old ones stay: {}", told(error))
    else:
        logger.info("the settings were reloaded")


async def _watch(gateway: Gateway, server: Any) -> None:
    """Say that the server drains, and end it when it was idle for long enough."""
    idle = gateway.core.settings.idle_seconds
    while True:
        await asyncio.sleep(min(0.5, idle / 4) if idle else 0.5)
        gateway.health.is_draining = server.should_exit
        quiet = gateway.core.clock.monotonic() - gateway.last_request
        unseen = gateway.core.clock.monotonic() - gateway.last_page
        if idle and not gateway.core.metrics.open and quiet >= idle and unseen >= max(idle, _PAGE_SECONDS):
            server.should_exit = True


def run_workers(gateway: Gateway, workers: int, listeners: list[socket.socket]) -> None:
    """Serve one port by several processes; one that dies is replaced until a signal says to stop.

    Forked before any connection or thread exists, so each has its own.
    """
    children: set[int] = set()
    stopping: list[int] = []

    def stop(number: int, _: object) -> None:
        stopping.append(number)
        for child in list(children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, signal.SIGTERM)

    def reload(number: int, _: object) -> None:
        # Here as well: a worker that is replaced starts with what this process holds.
        _reload(gateway)
        for child in list(children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(child, number)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    before[signal.SIGHUP] = signal.signal(signal.SIGHUP, reload)
    try:
        while not stopping:
            while len(children) < workers and not stopping:
                children.add(_forked(gateway, listeners, before))
            # A child that cannot even start must not be forked as fast as the machine can.
            _reap(children, pause=0.5)
        while children:
            _reap(children, pause=0.0)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for one in listeners:
            one.close()


def _forked(gateway: Gateway, listeners: list[socket.socket], handlers: dict[signal.Signals, Any]) -> int:
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        # One that raises may do so in the callback of a weak reference, which swallows it: the
        # worker would never end. There is nothing to lose before the server has handlers of its own.
        signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
        run(gateway, listeners)
        code = 0
    except KeyboardInterrupt:
        code = 0
    except SystemExit as error:  # of the signal that ended it; or of uvicorn, which could not start
        code = error.code if isinstance(error.code, int) else 1
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
