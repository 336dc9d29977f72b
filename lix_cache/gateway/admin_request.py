"""What each request to an admin's route goes through: the key, its body, and what is told of an error."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

import orjson
from starlette.requests import Request
from starlette.responses import Response

from lix_cache.errors import InvalidInput, LixCacheError, told
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.tenants import digest_of_key

if TYPE_CHECKING:
    from lix_cache.gateway.core import Core

__all__ = ["Served", "Work", "guarded", "read_object"]

Work = Callable[[Request], Awaitable[dict[str, Any]]]
Served = Callable[[Request], Awaitable[Response]]


async def read_object(request: Request, longest: int, kinds: Mapping[str, type]) -> dict[str, Any]:
    """Return a request's body, a JSON object; no body is an empty one.

    Args:
        request: whose.
        longest: bytes that are read.
        kinds: the names that it may hold, and what each of them is.

    Raises:
        Refused: it is anything else.
    """
    data = bytearray()
    async for chunk in request.stream():
        data += chunk
        if len(data) > longest:
            raise Refused(413, "body_too_large", "the request's body is too large")
    try:
        value = orjson.loads(bytes(data) or b"{}")
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise Refused(400, "invalid_body", "the request's body must be a JSON object")
    for name, item in value.items():
        wanted = kinds.get(name)
        if wanted is None:
            raise Refused(400, "invalid_body", f"the request's body may hold {', '.join(kinds)}")
        if not isinstance(item, (int, float) if wanted is float else wanted) or isinstance(item, bool):
            raise Refused(400, "invalid_body", f"{name} must be a {wanted.__name__}")
    return value


def guarded(core: Core, work: Work) -> Served:
    """Put the admin key before a route."""

    async def serve(request: Request) -> Response:
        key = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
        value: dict[str, Any]
        status, value = (
            401,
            {"error": {"message": "the admin key is needed", "type": "authentication_error"}},
        )
        if key and digest_of_key(key) == core.settings.admin_key:
            try:
                status, value = 200, await work(request)
            except Refused as error:
                status, value = error.status, {"error": {"message": str(error), "type": error.code}}
            except InvalidInput as error:
                status, value = 400, {"error": {"message": told(error), "type": "invalid_input"}}
            except LixCacheError as error:
                status, value = 503, {"error": {"message": told(error), "type": "unavailable"}}
        headers = {"cache-control": "no-store", "x-content-type-options": "nosniff"}
        return Response(orjson.dumps(value), status, headers, media_type="application/json")

    return serve
