"""One provider behind HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from lix_cache.gateway.provider_lines import Lines
from lix_cache.gateway.settings import GatewaySettings
from lix_cache.gateway.upstream import Incoming, Outgoing, UpstreamFailed, address_of, unreachable

if TYPE_CHECKING:
    import aiohttp

__all__ = ["HttpUpstream"]

#: Transfer codings that are undone here, or do nothing.
_READ = (b"", b"chunked", b"identity")


class _AiohttpIncoming:
    identity = ""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self.status = response.status
        self.headers = [(bytes(name), bytes(value)) for name, value in response.raw_headers]

    async def chunks(self) -> AsyncIterator[bytes]:
        import aiohttp

        try:
            async for chunk in self._response.content.iter_any():
                yield chunk
        except asyncio.TimeoutError:
            raise UpstreamFailed("the provider was silent for too long", was_late=True) from None
        except (aiohttp.ClientError, OSError) as error:
            raise UpstreamFailed(f"the provider's answer broke off ({type(error).__name__})") from None

    def close(self) -> None:
        # Whole answers have given their connection back already; half ones must not be used again.
        self._response.close()


class HttpUpstream:
    """A provider behind HTTP: lines of our own for what the cache is for, aiohttp for the rest."""

    identity = ""

    def __init__(self, url: str, settings: GatewaySettings) -> None:
        self._base = url.rstrip("/")
        self._path = urlsplit(self._base).path
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._lines = Lines(url, settings.connect_seconds, settings.read_seconds)

    def _open(self) -> aiohttp.ClientSession:
        import aiohttp

        limits = self._settings
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, ttl_dns_cache=30),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=limits.connect_seconds, sock_read=limits.read_seconds
            ),
            auto_decompress=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers=("User-Agent", "Accept", "Accept-Encoding", "Content-Type"),
            max_line_size=1 << 16,
            max_field_size=1 << 16,
            read_bufsize=1 << 18,
        )
        return self._session

    async def send(self, request: Outgoing) -> Incoming:
        incoming = await self._sent(request)
        codings = b",".join(value for name, value in incoming.headers if name.lower() == b"transfer-encoding")
        if any(one.strip().lower() not in _READ for one in codings.split(b",")):
            # No request offers any (TE), and the header belongs to the connection: bytes that are still
            # encoded would go on as the body itself.
            incoming.close()
            raise UpstreamFailed("the provider's answer has an unasked transfer-encoding", was_sent=True)
        return incoming

    async def _sent(self, request: Outgoing) -> Incoming:
        if request.method == "POST" and isinstance(request.body, bytes):
            target = address_of(self._path, request.target)
            return await self._lines.post(target, request.headers, request.body)
        import aiohttp
        from yarl import URL

        session = self._session or self._open()
        try:
            response = await session.request(
                request.method,
                URL(address_of(self._base, request.target), encoded=True),
                headers=request.headers,
                data=request.body,
                allow_redirects=False,
            )
        except asyncio.TimeoutError as error:
            was_sent = not isinstance(error, aiohttp.ConnectionTimeoutError)
            raise UpstreamFailed(
                "the provider did not answer in time", was_late=True, was_sent=was_sent
            ) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise unreachable(error) from None
        return _AiohttpIncoming(response)

    async def close(self) -> None:
        self._lines.close()
        session, self._session = self._session, None
        if session is not None:
            await session.close()
