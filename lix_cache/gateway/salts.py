"""Tenants kept apart in a provider's own prefix cache. vLLM and SGLang share it among equal salts alone.

How long a prompt takes there tells whether another one began alike. With a salt for each tenant it tells
that of the tenant's own prompts.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import TYPE_CHECKING, Any

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
        secret: that salts are made with, such as the provider's key: who knows it alone can guess them.
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
        if request.method == "POST" and request.body is not None and not _is_form(request):
            body = request.body if isinstance(request.body, bytes) else await self._whole(request.body)
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
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError:
            # The provider may read what this reader does not, and would read it without a salt.
            raise Refused(
                400, "invalid_body", "the body is no JSON, and needs the tenant's cache_salt"
            ) from None
        if not isinstance(value, dict):
            return body
        # A salt of the client's own divides its tenant's cache further, and opens no other tenant's.
        value[_FIELD] = self._salt(tenant, value.get(_FIELD))
        return orjson.dumps(value)

    def _salt(self, tenant: str, own: Any) -> str:
        text = orjson.dumps([_FIELD, tenant, own])
        return hmac.new(self._secret, text, hashlib.sha256).hexdigest()


def _is_form(request: Outgoing) -> bool:
    kinds = [value for name, value in request.headers if name.lower() == "content-type"]
    return any(kind.lstrip().lower().startswith("multipart/") for kind in kinds)
