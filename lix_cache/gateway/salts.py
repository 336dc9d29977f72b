"""Tenants kept apart in a provider's own prefix cache. vLLM and SGLang share it among equal salts alone.

How long a prompt takes there tells whether another one began alike. With a salt for each tenant it tells
that of the tenant's own prompts.
"""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

from lix_cache.gateway.errors import Refused

if TYPE_CHECKING:
    from lix_cache.gateway.upstream import Incoming, Outgoing, Upstream

__all__ = ["Salted"]

_FIELD = "cache_salt"


class Salted:
    """An upstream whose requests carry the salt of their tenant.

    Args:
        upstream: that they go to.
        secret: that salts are made with, such as the provider's key: only someone who knows it
            can compute them.
        most_bytes: of a request's body.
    """

    def __init__(self, upstream: Upstream, secret: str, most_bytes: int) -> None:
        self._upstream = upstream
        self._secret = secret.encode()
        self._most = most_bytes

    @property
    def identity(self) -> str:
        return self._upstream.identity

    async def send(self, request: Outgoing) -> Incoming:
        if request.method == "POST" and request.body is not None:
            body = request.body
            if _says_form(request):
                first, body = await _begun(body)
                # A provider that looks at no content-type reads JSON; JSON of one value may begin so too,
                # an object cannot.
                if first.lstrip().startswith(b"-"):
                    return await self._upstream.send(replace(request, body=body))
            body = body if isinstance(body, bytes) else await self._whole(body)
            # Its length is another one now; the client of the connection says it.
            pairs = [pair for pair in request.headers if pair[0].lower() != "content-length"]
            request = replace(request, headers=pairs, body=self._salted(body, request.tenant))
        return await self._upstream.send(request)

    async def close(self) -> None:
        await self._upstream.close()

    async def _whole(self, body: AsyncIterator[bytes]) -> bytes:
        found = bytearray()
        async for chunk in body:
            found += chunk
            if len(found) > self._most:
                raise Refused(413, "body_too_large", f"the body is larger than {self._most} bytes")
        return bytes(found)

    def _salted(self, body: bytes, tenant: str) -> bytes:
        value = _read(body)
        if not isinstance(value, dict):
            return body
        # A salt of the client's own divides its tenant's cache further, and opens no other tenant's.
        salt = self._salt(tenant, value.get(_FIELD))
        if _FIELD not in value:  # its own bytes stay: another writer may round a number
            start = body.index(b"{") + 1
            comma = b"," if value else b""
            return b'%b"%b":"%b"%b%b' % (body[:start], _FIELD.encode(), salt.encode(), comma, body[start:])
        try:
            return json.dumps({**value, _FIELD: salt}, allow_nan=False).encode()
        except (ValueError, RecursionError):
            raise _refused() from None

    def _salt(self, tenant: str, own: Any) -> str:
        text = json.dumps([_FIELD, tenant, own]).encode()
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def _read(body: bytes) -> Any:
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError:
        pass  # it may have half a surrogate pair in it, which a provider reads
    else:
        if not isinstance(value, dict) or _FIELD not in value:
            return value
    try:
        return json.loads(body.decode(), parse_constant=_no_constant)
    except (ValueError, RecursionError):
        # The provider may read what this reader does not, and would read it without a salt.
        raise _refused() from None


def _refused() -> Refused:
    return Refused(400, "invalid_body", "the body is no JSON, and needs the tenant's cache_salt")


def _no_constant(_: str) -> NoReturn:
    raise ValueError


def _says_form(request: Outgoing) -> bool:
    """Whether all that is said of a body says that it is a form."""
    said = [(name.lower(), value) for name, value in request.headers]
    kinds = [value for name, value in said if name == "content-type"]
    is_plain = not any(name == "content-encoding" for name, _ in said)
    return is_plain and len(kinds) == 1 and kinds[0].lstrip().lower().startswith("multipart/")


async def _begun(body: bytes | AsyncIterator[bytes]) -> tuple[bytes, bytes | AsyncIterator[bytes]]:
    """Return the beginning of a body, and all of it."""
    if isinstance(body, bytes):
        return body, body
    async for first in body:
        return first, _again(first, body)
    return b"", b""


async def _again(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    yield first
    async for chunk in rest:
        yield chunk
