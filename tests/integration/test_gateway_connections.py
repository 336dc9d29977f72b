"""Requests of one connection: what the last one's headers said is no more than what this one's say."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway

_TENANTS = tuple(
    TenantSettings(name, (digest_of_key(f"key-of-{name}-0123456789"),)) for name in ("ann", "bob")
)


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


@pytest.fixture
def gateway(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    with RunningGateway(provider, redis_config, tenants=_TENANTS) as running:
        yield running


def _request(who: str, text: str, *more: str, length: bool = True, version: str = "1.1") -> bytes:
    body = json.dumps({"model": "m-1", "messages": [{"role": "user", "content": text}]}).encode()
    lines = [f"POST /v1/chat/completions HTTP/{version}", "host: x", f"authorization: Bearer {who}", *more]
    if length:
        lines.append(f"content-length: {len(body)}")
    else:
        lines.append("transfer-encoding: chunked")
        body = b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def _states(port: int, *requests: bytes) -> list[tuple[int, str]]:
    """Send requests over one connection, one after the other; return statuses and states."""

    async def run() -> list[tuple[int, str]]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        found = []
        for request in requests:
            writer.write(request)
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            state = head.partition(b"x-lix-cache: ")[2].partition(b"\r\n")[0].decode()
            found.append((int(head[9:12]), state))
        writer.close()
        return found

    return asyncio.run(run())


@pytest.mark.promise("isolation")
def test_each_request_of_a_connection_is_its_own_tenants(gateway: RunningGateway) -> None:
    ann, bob = "key-of-ann-0123456789", "key-of-bob-0123456789"
    asked = [_request(who, "What?") for who in (ann, ann, bob, bob, "nobodys-key", ann)]
    hit = (200, "hit-l1-exact")
    assert _states(gateway.port, *asked) == [(200, "miss"), hit, (200, "miss"), hit, (401, "bypass"), hit]


@pytest.mark.promise("right-answer")
def test_each_request_of_a_connection_has_its_own_headers(gateway: RunningGateway) -> None:
    ann = "key-of-ann-0123456789"
    asked = [
        _request(ann, "What?"),
        _request(ann, "What else?"),  # of another length
        _request(ann, "What?", length=False),
        _request(ann, "What?", "x-lix-cache-namespace: other"),
        _request(ann, "What?", "cache-control: no-cache"),
        _request(ann, "What?", "openai-organization: o"),
        _request(ann, "What?"),
    ]
    states = [state for _, state in _states(gateway.port, *asked)]
    assert states == ["miss", "miss", "hit-l1-exact", "miss", "miss", "miss", "hit-l1-exact"]


@pytest.mark.promise("isolation")
def test_a_connection_does_not_outlive_its_tenants_key(gateway: RunningGateway) -> None:
    ann = "key-of-ann-0123456789"

    async def run() -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        heads = []
        for _ in range(2):
            writer.write(_request(ann, "What?"))
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            await reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
            heads.append(head[9:12])
            settings = dataclasses.replace(gateway.core.settings, tenants=_TENANTS[1:])
            gateway.app._use(gateway.core.reloaded(settings))
        writer.close()
        return heads

    assert asyncio.run(run()) == [b"200", b"401"]


def test_two_requests_at_once_are_answered_in_their_order(gateway: RunningGateway) -> None:
    ann = "key-of-ann-0123456789"
    _states(gateway.port, _request(ann, "One?"), _request(ann, "Two?"))

    async def run() -> list[bytes]:
        reader, writer = await asyncio.open_connection("127.0.0.1", gateway.port)
        writer.write(
            _request(ann, "New?") + _request(ann, "One?") + _request(ann, "Two?", "connection: close")
        )
        data = await reader.read()
        writer.close()
        return [
            part.partition(b"x-lix-cache: ")[2].partition(b"\r\n")[0] for part in data.split(b"HTTP/1.1 ")[1:]
        ]

    assert asyncio.run(run()) == [b"miss", b"hit-l1-exact", b"hit-l1-exact"]
