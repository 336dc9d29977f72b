"""The way of a request that the gateway does not understand: passed on untouched, and back."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from time import perf_counter

from lix_cache.gateway import headers as words
from lix_cache.gateway.asgi import Gone, Receive, Scope, Send, watch
from lix_cache.gateway.core import Core
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Verdict
from lix_cache.gateway.relay import Flight, Head, Reader
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.upstream import Outgoing, UpstreamFailed

__all__ = ["pass_through"]

_RESPONSES = "/v1/responses/"


async def pass_through(
    core: Core,
    scope: Scope,
    receive: Receive,
    send: Send,
    tenant: Tenant,
    headers: Mapping[str, str],
    target: str,
    started: float,
) -> int:
    """Pass a request on. Returns the status of the answer.

    Raises:
        Refused: there is no answer.
        Broken: the answer ended before its end.
    """
    route = next(iter(core.routes.routes), None)
    if route is None:
        raise Refused(404, "no_upstream", "this gateway has no provider")
    pairs = core.outgoing_headers(scope, headers, route, tenant, first=None) or []
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    if "content-length" in headers and has_body:
        pairs.append(("Content-Length", headers["content-length"]))
    body = _body(receive) if has_body else None
    try:
        incoming = await route.upstream.send(Outgoing(scope["method"], target, pairs, body, tenant.name))
    except UpstreamFailed as error:
        raise Refused(504 if error.was_late else 502, "upstream_unavailable", str(error)) from None
    if scope["method"] == "DELETE" and scope["path"].startswith(_RESPONSES) and incoming.status < 300:
        await core.forget_response(tenant, headers, scope["path"][len(_RESPONSES) :])
    head = Head(incoming.status, words.returned(incoming.headers))
    flight = Flight(1 << 16, lambda _: None, goes_on=False)

    async def pump() -> None:
        try:
            async for chunk in incoming.chunks():
                await flight.put(chunk)
            await flight.read()
        except UpstreamFailed as error:
            flight.fail(error)
        finally:
            incoming.close()

    reader = Reader(flight)
    watcher = watch(scope, receive, reader.gone)
    flight.start(pump())
    try:
        verdict = Verdict("bypass", "path")
        told = words.told(verdict, (perf_counter() - started) * 1000)
        await send({"type": "http.response.start", "status": head.status, "headers": head.headers + told})
        async for chunk in reader.chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        if not reader.has_left:
            await send({"type": "http.response.body", "body": b""})
    finally:
        watcher.cancel()
        reader.leave()
    return head.status


async def _body(receive: Receive) -> AsyncIterator[bytes]:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise Gone
        if message.get("body"):
            yield message["body"]
        if not message.get("more_body"):
            return
