"""The connections to one provider: those that are free, and how new ones are opened."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections import deque
from typing import Any
from urllib.parse import urlsplit

import aiohappyeyeballs

from lix_cache.gateway.provider_line import Line, LineAnswer
from lix_cache.gateway.upstream import UpstreamFailed, unreachable

__all__ = ["Lines"]

#: A provider closes a line that is not used; one that is older may be closed by the time it is used again.
_IDLE_SECONDS = 30.0
_ADDRESS_SECONDS = 30.0
_SECOND_ADDRESS_SECONDS = 0.25


def _dropped(opening: asyncio.Task[Line]) -> None:
    if not opening.cancelled() and opening.exception() is None:
        opening.result().abort()


def _heard(looking: asyncio.Task[list[Any]]) -> None:
    if not looking.cancelled():
        looking.exception()  # also where all who asked have gone


class Lines:
    """All connections to one provider.

    Args:
        url: of the provider; its path is not looked at.
        connect_seconds: how long a connection may take, with the name's address and TLS.
        read_seconds: how long the provider may be silent.
    """

    def __init__(self, url: str, connect_seconds: float, read_seconds: float) -> None:
        parts = urlsplit(url)
        is_safe = parts.scheme == "https"
        host = parts.hostname or ""
        self._host = host.encode("ascii" if host.isascii() else "idna")
        self._port = parts.port or (443 if is_safe else 80)
        self._is_safe = is_safe
        self._tls: ssl.SSLContext | None = None
        name = b"[%b]" % self._host if b":" in self._host else self._host
        self._named = name if parts.port in (None, 443 if is_safe else 80) else b"%b:%d" % (name, self._port)
        self._connect_seconds = connect_seconds
        self.read_seconds = read_seconds
        self._idle: deque[Line] = deque()
        self._sweep: asyncio.TimerHandle | None = None
        self._addresses: tuple[float, list[Any]] = (0.0, [])
        self._looking: asyncio.Task[list[Any]] | None = None
        self._is_closed = False

    async def post(self, target: str, headers: list[tuple[str, str]], body: bytes) -> LineAnswer:
        """Send a request, and wait for the head of its answer.

        Raises:
            UpstreamFailed: there is none.
        """
        parts = [b"POST ", target.encode(), b" HTTP/1.1\r\nhost: ", self._named]
        for name, value in headers:
            if name.lower() == "content-length":
                continue  # it is told below
            parts += (b"\r\n", name.encode(), b": ", value.encode("utf-8", "surrogatepass"))
        lines_of = (len(parts) - 4) // 4 + 4
        parts.append(b"\r\ncontent-length: %d\r\n\r\n" % len(body))
        head = b"".join(parts)
        if not head.count(b"\n") == head.count(b"\r") == lines_of or b"\0" in head:
            raise UpstreamFailed("a header of the request cannot be sent")
        line = self._free() or await self._opened()
        answer = line.ask(head, body)
        try:
            while not answer.status and answer.failed is None:
                await answer.wait()
        except BaseException:
            answer.close()
            raise
        if answer.failed is not None and not answer.status:
            if answer.failed.was_stale:
                self._drop_idle()  # what closed it has closed the others too
            raise answer.failed
        return answer

    def _free(self) -> Line | None:
        now = asyncio.get_running_loop().time()
        while self._idle:
            line = self._idle.pop()  # the one used last is the likeliest to be there
            # One whose end has come is told so with the loop's next turn.
            is_open = not line.is_closed and not line.transport.is_closing()
            if is_open and now - line.idle_since < _IDLE_SECONDS:
                return line
            line.abort()
        return None

    async def _opened(self) -> Line:
        # Not wait_for: before Python 3.12 it loses a cancellation that comes with the end of its task.
        opening = asyncio.get_running_loop().create_task(self._open())
        try:
            await asyncio.wait({opening}, timeout=self._connect_seconds)
        except BaseException:
            opening.add_done_callback(_dropped)
            opening.cancel()
            raise
        if not opening.done():
            opening.add_done_callback(_dropped)
            opening.cancel()
            self._forget_addresses()
            raise UpstreamFailed("the provider did not answer in time", was_late=True)
        try:
            return opening.result()
        except (OSError, ValueError) as error:
            self._forget_addresses()
            raise unreachable(error) from None

    async def _open(self) -> Line:
        loop = asyncio.get_running_loop()
        opened = await aiohappyeyeballs.start_connection(
            await self._found(), happy_eyeballs_delay=_SECOND_ADDRESS_SECONDS, interleave=1
        )
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            # What is between forgets a connection that is silent while a model thinks.
            opened.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            if self._is_safe and self._tls is None:
                self._tls = ssl.create_default_context()
                self._tls.set_alpn_protocols(["http/1.1"])
            _, line = await loop.create_connection(lambda: Line(self), sock=opened)
        except BaseException:
            opened.close()
            raise
        if self._tls is not None:
            try:
                # Certificates name a host without the dot that makes it absolute.
                await line.secure(self._tls, self._host.decode().rstrip("."))
            except BaseException:
                line.abort()
                raise
        return line

    async def _found(self) -> list[Any]:
        """Return the provider's addresses; those who ask at the same time look them up once."""
        until, found = self._addresses
        loop = asyncio.get_running_loop()
        if loop.time() < until:
            return found
        if self._looking is None or self._looking.done():
            self._looking = loop.create_task(self._look_up())
            self._looking.add_done_callback(_heard)
        return await asyncio.shield(self._looking)

    async def _look_up(self) -> list[Any]:
        loop = asyncio.get_running_loop()
        found = await loop.getaddrinfo(self._host.decode(), self._port, type=socket.SOCK_STREAM)
        self._addresses = loop.time() + _ADDRESS_SECONDS, found
        return found

    def _forget_addresses(self) -> None:
        """Look them up again: they may be others by now, and none waits for a look that hangs."""
        self._addresses, self._looking = (0.0, []), None

    def give_back(self, line: Line) -> None:
        """Take a line that has done its work."""
        if self._is_closed:
            line.abort()
            return
        loop = asyncio.get_running_loop()
        line.idle_since = loop.time()
        self._idle.append(line)
        if self._sweep is None:
            self._sweep = loop.call_later(_IDLE_SECONDS, self._close_old)

    def forget(self, line: Line) -> None:
        """Drop a line that the provider has closed."""
        if line in self._idle:
            self._idle.remove(line)

    def _close_old(self) -> None:
        loop = asyncio.get_running_loop()
        while self._idle and loop.time() - self._idle[0].idle_since >= _IDLE_SECONDS:
            self._idle.popleft().abort()
        self._sweep = None
        if self._idle:
            left = self._idle[0].idle_since + _IDLE_SECONDS - loop.time()
            self._sweep = loop.call_later(max(1.0, left), self._close_old)

    def close(self) -> None:
        """Close those that are idle; the others end with their answers."""
        self._is_closed = True
        if self._sweep is not None:
            self._sweep.cancel()
            self._sweep = None
        self._drop_idle()

    def _drop_idle(self) -> None:
        while self._idle:
            self._idle.pop().abort()
