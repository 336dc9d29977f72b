"""A provider of bytes, and the gateway's lines to it."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable

import trustme

from lix_cache.gateway.provider_lines import Lines

__all__ = ["OK", "LineProvider", "asked_of", "with_lines"]

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"


class LineProvider:
    """Answers the requests of all connections with the given bytes, in turn."""

    def __init__(self, *answers: bytes, closes: bool = False) -> None:
        self.answers = list(answers)
        self.closes = closes
        self.connections = 0
        self.heads: list[bytes] = []
        self.ended = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
                await reader.readexactly(length)
                writer.write(self.answers.pop(0))
                await writer.drain()
                if self.closes:
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.ended.set()
            writer.close()


_Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def with_lines(
    provider: _Handler,
    work: Callable[[Lines], Awaitable[None]],
    read_seconds: float = 60.0,
    authority: trustme.CA | None = None,
) -> None:
    async def run() -> None:
        context = None
        if authority is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
        server = await asyncio.start_server(provider, "127.0.0.1", 0, ssl=context)
        scheme, host = ("http", "127.0.0.1") if authority is None else ("https", "localhost")
        url = f"{scheme}://{host}:{server.sockets[0].getsockname()[1]}/v1"
        lines = Lines(url, 30.0, read_seconds=read_seconds)
        if authority is not None:
            lines._tls = ssl.create_default_context()
            authority.configure_trust(lines._tls)
        try:
            await work(lines)
        finally:
            lines.close()
            server.close()

    asyncio.run(run())


async def asked_of(lines: Lines, body: bytes = b"{}") -> tuple[int, bytes]:
    answer = await lines.post("/v1/x", [("x-a", "1"), ("Content-Length", "9")], body)
    return answer.status, b"".join([piece async for piece in answer.chunks()])
