"""One HTTP POST, by urllib3: connections kept, sizes and times bounded, nothing repeated."""

from __future__ import annotations

import email.utils
import time
import urllib.request
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from lix_cache.errors import EmbedderError, EmbedderUnavailable, MissingExtra

__all__ = ["Post", "Reply"]

#: 2,048 vectors of 4,096 numbers, each written with 24 characters, and some room.
_LARGEST_ANSWER = 256 << 20
_CONNECT_SECONDS = 10.0


@dataclass(frozen=True)
class Reply:
    """What the server said.

    Attributes:
        status: of HTTP.
        retry_after: seconds it asks to wait before trying again, if it does.
        data: the body.
    """

    status: int
    retry_after: float | None
    data: bytes


class Post:
    """Sends bodies to one URL, through the proxy that the environment names. Threads may share it.

    Args:
        url: where to.
        timeout_seconds: for connecting, and for each piece of the answer.

    Raises:
        MissingExtra: urllib3 is not installed.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        try:
            import urllib3
        except ImportError:
            raise MissingExtra("urllib3", "http", "an embedder over HTTP") from None
        self._url = url
        self._seconds = timeout_seconds
        timeout = urllib3.Timeout(connect=min(timeout_seconds, _CONNECT_SECONDS), read=timeout_seconds)
        options: dict[str, Any] = {"timeout": timeout, "retries": False, "maxsize": 16}
        proxy = _proxy_for(url)
        self._pool: urllib3.PoolManager
        self._pool = urllib3.ProxyManager(proxy, **options) if proxy else urllib3.PoolManager(**options)

    def __call__(self, body: bytes, headers: dict[str, str]) -> Reply:
        """Send a body and return the answer, whatever its status.

        Raises:
            EmbedderUnavailable: no connection, or no whole answer in time.
            EmbedderError: the answer is too large.
        """
        import urllib3

        deadline = time.monotonic() + self._seconds
        try:
            answer = self._pool.request(
                "POST", self._url, body=body, headers=headers, redirect=False, preload_content=False
            )
            try:
                data = self._read(answer, deadline)
            except BaseException:
                answer.close()
                raise
            answer.release_conn()
        except (urllib3.exceptions.HTTPError, OSError) as error:
            if isinstance(error, EmbedderError):
                raise
            raise EmbedderUnavailable(
                f"no answer from {self._url}: {type(error).__name__}: {error}"
            ) from None
        return Reply(answer.status, _seconds(answer.headers.get("Retry-After")), data)

    def _read(self, answer: Any, deadline: float) -> bytes:
        data = bytearray()
        for part in answer.stream(1 << 16):
            data += part
            if len(data) > _LARGEST_ANSWER:
                raise EmbedderError(f"{self._url} answered with more than {_LARGEST_ANSWER} bytes")
            if time.monotonic() > deadline:
                raise EmbedderUnavailable(f"{self._url} did not answer whole within {self._seconds:g} s")
        return bytes(data)


def _proxy_for(url: str) -> str | None:
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urllib.request.getproxies().get(parts.scheme)


def _seconds(retry_after: str | None) -> float | None:
    """Return what a Retry-After header asks for: a number of seconds, or a date."""
    if retry_after is None:
        return None
    try:
        seconds = float(retry_after)
    except ValueError:
        try:
            when = email.utils.parsedate_to_datetime(retry_after)
        except (ValueError, TypeError):
            return None
        seconds = when.timestamp() - time.time()
    return max(0.0, seconds) if seconds < float("inf") else None
