"""A TCP proxy that counts round trips and makes trouble on demand."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import ssl
import tempfile
import threading
import time
from collections.abc import Sequence
from typing import Any, Literal

import hiredis

__all__ = ["CountingProxy"]

_NOTHING = object()


class CountingProxy:
    """Stands on a port of 127.0.0.1 before a server, in threads of this process.

    A round trip is counted when a client sends while nothing it sent before waits for a
    reply. Requests and replies are parsed for that, so it does not matter into how many
    packets a request or a pipeline is cut on its way.

    Args:
        target_port: port of the server, on 127.0.0.1.
        tls: speak TLS to the clients, with a certificate from a new authority, whose
            own certificate is in ``ca_file``.
        names: the hosts that the certificate is made for.
    """

    def __init__(
        self,
        target_port: int,
        *,
        tls: bool = False,
        names: Sequence[str] = ("localhost", "127.0.0.1"),
    ) -> None:
        self.port = 0
        #: Names of the commands of each round trip, in order.
        self.batches: list[list[str]] = []
        self.ca_file = ""
        self._target = ("127.0.0.1", target_port)
        self._delay = 0.0
        self._cuts: list[str] = []
        self._holds = b""
        self._held: list[tuple[socket.socket, bytes]] = []
        self._lock = threading.Lock()
        self._listener: socket.socket | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._folder = tempfile.mkdtemp(prefix="lix-proxy-")
        self._tls = self._make_certificate(names) if tls else None

    def __enter__(self) -> CountingProxy:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> CountingProxy:
        """Listen, on the same port as before if there was one."""
        if self._listener is None:
            listener = socket.create_server(("127.0.0.1", self.port))
            self.port = int(listener.getsockname()[1])
            self._listener = listener
            self._spawn(self._accept, listener)
        return self

    def stop(self) -> None:
        """Close everything."""
        self.refuse()
        for thread in self._threads:
            thread.join(5)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def round_trips(self) -> int:
        """Round trips since the start or the last ``reset``."""
        with self._lock:
            return len(self.batches)

    def reset(self) -> None:
        """Count from zero. What a connection says when it is opened counts, so warm up first."""
        with self._lock:
            self.batches = []

    def cut(self, requests: int = 1, when: Literal["before", "after"] = "before") -> None:
        """Close the connection at each of the next requests instead of answering it.

        ``before``: the server never sees the request. ``after``: the server has carried
        it out, and the reply is thrown away.
        """
        with self._lock:
            self._cuts.extend([when] * requests)

    def hold(self, mark: str | bytes) -> None:
        """Keep the next request that holds these bytes, such as a script's name, and answer nothing."""
        self._holds = mark.encode() if isinstance(mark, str) else mark

    @property
    def is_holding(self) -> bool:
        """Whether there is a request that was kept."""
        return bool(self._held)

    def let_go(self) -> list[bytes]:
        """Pass on what was held, on the connections it came for, and return the server's answers."""
        held, self._held = self._held, []
        answers = []
        for server, data in held:
            with server:
                server.sendall(data)
                answers.append(server.recv(1 << 16))
        return answers

    def delay(self, seconds: float) -> None:
        """Hold each reply back for so long; 0 for none."""
        self._delay = seconds

    def refuse(self) -> None:
        """Close all connections and refuse new ones, as if no server were there."""
        listener, self._listener = self._listener, None
        if listener is not None:
            # A shutdown wakes the thread that waits in accept; closing alone does not.
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        with self._lock:
            connections = list(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def allow(self) -> None:
        """Accept connections again after ``refuse``."""
        self.start()

    def _make_certificate(self, names: Sequence[str]) -> ssl.SSLContext:
        import trustme

        authority = trustme.CA()
        self.ca_file = os.path.join(self._folder, "ca.pem")
        authority.cert_pem.write_to_path(self.ca_file)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context

    def _spawn(self, target: Any, *arguments: Any) -> None:
        thread = threading.Thread(target=target, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            self._spawn(self._serve, client)

    def _serve(self, client: socket.socket) -> None:
        server = None
        try:
            with self._lock:
                self._open.add(client)
            if self._tls is not None:
                client.settimeout(5)
                wrapped = self._tls.wrap_socket(client, server_side=True)
                with self._lock:
                    self._open.discard(client)
                    self._open.add(wrapped)
                client = wrapped
                client.settimeout(None)
            server = socket.create_connection(self._target)
            for connection in (client, server):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            _Link(self, client, server).run()
        except OSError:
            pass  # the other side went away, or did not trust us: both ends are closed below
        finally:
            with self._lock:
                self._open.discard(client)
            client.close()
            if server is not None:
                server.close()

    def _begin_round_trip(self) -> str | None:
        """Count one, and return the trouble it is to meet."""
        with self._lock:
            self.batches.append([])
            return self._cuts.pop(0) if self._cuts else None

    def _note(self, names: list[str]) -> None:
        with self._lock:
            if self.batches:
                self.batches[-1].extend(names)


class _Link:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, proxy: CountingProxy, client: socket.socket, server: socket.socket) -> None:
        self._proxy = proxy
        self._client = client
        self._server = server
        # Requests are RESP arrays, so the same parser reads both directions.
        self._requests = hiredis.Reader(notEnoughData=_NOTHING)
        self._replies = hiredis.Reader(notEnoughData=_NOTHING)
        self._waiting = 0
        self._trouble: str | None = None

    def run(self) -> None:
        while True:
            # TLS may hold decrypted bytes that select does not see.
            ready = [self._client] if self._pending() else self._select(None)
            if self._client in ready and not self._pass_request():
                return
            if self._server in ready and not self._pass_reply():
                return

    def _pending(self) -> bool:
        return isinstance(self._client, ssl.SSLSocket) and self._client.pending() > 0

    def _select(self, seconds: float | None) -> list[socket.socket]:
        return select.select([self._client, self._server], [], [], seconds)[0]

    def _sends_more(self, received: int) -> bool:
        # redis-py writes what is shorter than 6,000 bytes in one piece.
        patience = 0.002 if received < 4096 else 0.1
        return bool(select.select([self._client], [], [], patience)[0])

    def _pass_request(self) -> bool:
        is_new = self._waiting == 0 and not self._requests.has_data()
        data = self._client.recv(1 << 16)
        if not data:
            return False
        # A client sends a large pipeline in pieces; if the first were answered before
        # the last is here, the last would look like a second round trip.
        while is_new and (self._pending() or self._sends_more(len(data))):
            more = self._client.recv(1 << 16)
            if not more:
                break
            data += more
        if is_new:
            self._trouble = self._proxy._begin_round_trip()
        names = [str(command[0], "ascii", "replace").upper() for command in _parsed(self._requests, data)]
        self._waiting += len(names)
        self._proxy._note(names)
        if self._trouble == "before":
            return False
        if self._proxy._holds and self._proxy._holds in data:
            self._proxy._holds = b""
            self._proxy._held.append((self._server.dup(), data))
            return True
        self._server.sendall(data)
        return True

    def _pass_reply(self) -> bool:
        data = self._server.recv(1 << 16)
        if not data:
            return False
        self._waiting -= len(_parsed(self._replies, data))
        if self._trouble == "after":
            # Cut when the last reply is here: then all of it has been carried out.
            return self._waiting > 0
        if self._proxy._delay:
            time.sleep(self._proxy._delay)
        self._client.sendall(data)
        return True


def _parsed(reader: hiredis.Reader, data: bytes) -> list[Any]:
    reader.feed(data)
    found = []
    while (item := reader.gets()) is not _NOTHING:
        found.append(item)
    return found
