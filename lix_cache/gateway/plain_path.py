"""The way of a request that the gateway does not understand: passed on untouched, and back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Mapping
from itertools import pairwise
from time import perf_counter
from typing import Any

from lix_cache.gateway import headers as words
from lix_cache.gateway.asgi import CONNECTION, Gone, Receive, Scope, Send, Watch, plain_path, read_body, watch
from lix_cache.gateway.core import Core
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.headers import Verdict
from lix_cache.gateway.relay import Flight, Head, Reader
from lix_cache.gateway.request import parse
from lix_cache.gateway.spending import Meter
from lix_cache.gateway.tenants import Tenant
from lix_cache.gateway.upstream import Incoming, Outgoing, Route, UpstreamFailed

__all__ = ["pass_through"]

_GONE = frozenset({404, 410})
#: Methods that ask a provider for no work.
_READING = frozenset({"GET", "HEAD", "OPTIONS", "DELETE"})
#: Paths that a tenant with limits may use, if it may pass requests through: they keep bytes,
_STORING = ("/v1/files/", "/v1/uploads/")
#: or cost no tokens,
_FREE = frozenset({"/v1/messages/count_tokens", "/v1/responses/input_tokens", "/v1/moderations"})
#: or name their model, and cost tokens,
_COUNTED = frozenset({"/v1/completions", "/v1/responses/compact", "/v1/rerank"})
#: or something else, which no budget can count.
_NAMED = frozenset({"/v1/images/generations", "/v1/audio/speech"})


def _deleted_response(scope: Scope) -> str:
    """Return the id of the response that a request deletes, in every spelling of the path; "" for none.

    ``/v1`` and more may stand in the provider's address instead. What is no response is forgotten in vain.
    """
    parts = plain_path(scope["path"]).split("/") if scope["method"] == "DELETE" else ()
    return next((name for kind, name in pairwise(parts) if kind.lower() == "responses"), "")


async def _forgotten(core: Core, tenant: Tenant, response_id: str, incoming: Incoming) -> None:
    # What was deleted before, by a request whose answer got lost, is gone as well; and what failed in the
    # provider may be. Those that it refused are there still.
    if 300 <= incoming.status < 500 and incoming.status not in _GONE:
        return
    try:
        await core.forget_response(tenant, response_id)
    except BaseException:
        incoming.close()
        raise


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
    has_body = "transfer-encoding" in headers or headers.get("content-length", "0") != "0"
    known = await _within_limits(core, scope, receive, tenant, headers)
    meter = Meter(len(known or b""))
    is_counted = known is not None and scope["path"] in _COUNTED
    pairs = core.outgoing_headers(scope, headers, route, tenant, first=route if is_counted else None) or []
    if "content-length" in headers and has_body:
        pairs.append(("Content-Length", headers["content-length"]))
    client = _Client(scope, receive, is_read=known is not None or not has_body)
    body = known if known is not None else client.body(receive) if has_body else None
    request = Outgoing(scope["method"], target, pairs, body, tenant.name)
    response_id = _deleted_response(scope)
    try:
        incoming = await _sent(client, route, request)
    except (Gone, Refused) as error:
        if is_counted and isinstance(error, Gone):  # the provider works on it by then
            core.spent(tenant, meter.cost(is_whole=False, is_stream=False)[0], "", is_told=False)
        if response_id:  # the provider may have deleted it
            core.spawn(core.forget_response(tenant, response_id))
        raise
    if response_id:
        await _forgotten(core, tenant, response_id, incoming)
    head = Head(incoming.status, words.returned(incoming.headers))
    flight = Flight(1 << 16, lambda _: None, goes_on=False)

    async def pump() -> None:
        try:
            async for chunk in incoming.chunks():
                meter.feed(chunk)
                await flight.put(chunk)
            await flight.read()
        except UpstreamFailed as error:
            flight.fail(error)
        finally:
            incoming.close()
            if is_counted and head.status < 400:
                usage, is_told = meter.cost(is_whole=flight.is_read, is_stream=head.is_stream)
                core.spent(tenant, usage, "", is_told=is_told)

    flight.start(pump())
    await _passed_on(scope, receive, send, flight, head, started)
    return head.status


async def _passed_on(
    scope: Scope, receive: Receive, send: Send, flight: Flight, head: Head, started: float
) -> None:
    reader = Reader(flight)
    watcher = watch(scope, receive, reader.gone)
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


async def _within_limits(
    core: Core, scope: Scope, receive: Receive, tenant: Tenant, headers: Mapping[str, str]
) -> bytes | None:
    """Hold a request to the models and the budget of its tenant, if it has any.

    Returns:
        Its body, if that was read.

    Raises:
        Refused: it is beyond them, or the gateway cannot tell.
    """
    path = scope["path"]
    if not tenant.is_limited or scope["method"] in _READING or f"{path}/".startswith(_STORING):
        return None
    if path not in _FREE and path not in _COUNTED and (path not in _NAMED or tenant.tokens_per_day):
        raise Refused(
            403,
            "path_denied",
            "a key whose tenant has the settings models or tokens_per_day may not use this path: "
            "the gateway cannot hold it to them",
        )
    if headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "content_encoding", "a request's body must come without a content-encoding")
    data = await read_body(receive, headers, core.settings.largest_body_bytes)
    tenant.check_models(parse(data).value)
    if path not in _FREE:
        await core.limits.check_budget(tenant)
    return data


async def _sent(client: _Client, route: Route, request: Outgoing) -> Incoming:
    try:
        return await client.until(route.upstream.send(request))
    except UpstreamFailed as error:
        raise Refused(504 if error.was_late else 502, "upstream_unavailable", str(error)) from None
    finally:
        client.end()


class _Client:
    """Looks whether the client is there before the head of the answer, when all of its body was read."""

    def __init__(self, scope: Scope, receive: Receive, *, is_read: bool) -> None:
        self._scope = scope
        self._receive = receive
        self._sending: asyncio.Task[Incoming] | None = None
        self._watcher: Watch | None = None
        self._has_left = False
        # A connection that tells it by itself does so in the midst of a body too.
        if is_read or CONNECTION in scope:
            self._look()

    def _look(self) -> None:
        if self._watcher is None:
            self._watcher = watch(self._scope, self._receive, self._gone)

    def _gone(self, _: object) -> None:
        self._has_left = True
        if self._sending is not None:
            self._sending.cancel()

    async def body(self, receive: Receive) -> AsyncIterator[bytes]:
        """Give the pieces of the request's body as they come."""
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise Gone
            if message.get("body"):
                yield message["body"]
            if not message.get("more_body"):
                self._look()
                return

    async def until(self, sending: Coroutine[Any, Any, Incoming]) -> Incoming:
        """Return the answer.

        Raises:
            Gone: the client left before its head came.
        """
        self._sending = asyncio.ensure_future(sending)
        try:
            return await self._sending
        except asyncio.CancelledError:
            if not self._has_left:
                raise
        raise Gone

    def end(self) -> None:
        """Look no longer."""
        self._sending = None
        if self._watcher is not None:
            self._watcher.cancel()
