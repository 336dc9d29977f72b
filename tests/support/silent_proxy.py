"""A TCP proxy before a server of HTTP that falls silent on demand: it takes requests, and nobody answers."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Any
from urllib.parse import urlsplit

__all__ = ["SilentProxy"]

_METHODS = (b"GET ", b"PUT ", b"HEAD ", b"POST ", b"DELETE ")


class SilentProxy:
    """Stands on a port of 127.0.0.1 before a server, in threads of this process.

    Args:
        target: URL of the server.

    Attributes:
        endpoint: URL of the proxy.
        asked: what was asked for since the last :meth:`hold`, as ``PUT /bucket/name``.
    """

    def __init__(self, target: str) -> None:
        found = urlsplit(target)
        self._target = (str(found.hostname), int(found.port or 80))
        self._held = _METHODS
        self._passes = threading.Event()
        self._passes.set()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.endpoint = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self.asked: list[str] = []
        self._open: set[socket.socket] = set()
        self._spawn(self._accept)

    def __enter__(self) -> SilentProxy:
        return self

    def __exit__(self, *_: object) -> None:
        for one in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
        self._passes.set()

    def hold(self, *methods: str) -> None:
        """Take connections and requests from now on, and pass none on; by default of all methods."""
        self.asked = []
        self._held = tuple(f"{method} ".encode() for method in methods) or _METHODS
        self._passes.clear()

    def release(self) -> None:
        """Pass on what was held, also for those who have gone meanwhile, and all that comes."""
        self._passes.set()

    def cut(self) -> None:
        """Lose what is held: the server never hears of it."""
        for one in list(self._open):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)

    def _spawn(self, work: Any, *arguments: Any) -> None:
        threading.Thread(target=work, args=arguments, daemon=True).start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                self._spawn(self._serve, self._listener.accept()[0])

    def _serve(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._target) as server:
            self._open |= {client, server}
            self._spawn(self._pass_on, server, client)
            self._pass_on(client, server)
            self._open -= {client, server}

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 16):
                if data.startswith(_METHODS):
                    self.asked.append(b" ".join(data.split(b" ", 2)[:2]).decode())
                    if data.startswith(self._held):
                        self._passes.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
