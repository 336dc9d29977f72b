"""Tenants apart in a provider's own prefix cache, and what it says it had there."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator

import pytest

from lix_cache import CacheConfig
from lix_cache.clock import SystemClock
from lix_cache.errors import ConfigError
from lix_cache.gateway.salts import Salted
from lix_cache.gateway.settings import GatewaySettings, TenantSettings, UpstreamSettings
from lix_cache.gateway.spending import Meter
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.gateway.upstream import Incoming, Outgoing, Routes
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, ask, chat_body, post

ANN, BOB = "lk-ann-0123456789", "lk-bob-0123456789"
TENANTS = (TenantSettings("ann", (digest_of_key(ANN),)), TenantSettings("bob", (digest_of_key(BOB),)))


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as one:
        yield one


@pytest.mark.promise("isolation")
def test_each_tenant_has_a_salt_of_its_own_at_the_provider(
    provider: Provider, redis_config: CacheConfig
) -> None:
    upstreams = (UpstreamSettings("vllm", provider.url, api_key="sk-own", cache_salt=True),)
    with RunningGateway("", redis_config, upstreams=upstreams, tenants=TENANTS) as gateway:

        def salt_of(key: str, path: str = CHAT, **more: object) -> str:
            sent = {**chat_body("Hi", **more), "stream": True} if path == CHAT else {"prompt": "Hi", **more}
            reply = ask(gateway.url, "POST", path, json.dumps(sent).encode(), {"x-lix-key": key})
            assert reply.status == 200, reply.body
            call = provider.calls[-1]
            assert int(call.headers["Content-Length"]) == len(call.body)
            got = call.json
            salt = got.pop("cache_salt")
            assert got == {name: value for name, value in sent.items() if name != "cache_salt"}
            assert isinstance(salt, str)
            return salt

        ann, bob = salt_of(ANN), salt_of(BOB)
        assert ann
        assert len({ann, bob}) == 2
        assert salt_of(ANN, temperature=0.5) == ann, "one for all requests of a tenant"
        assert salt_of(ANN, "/v1/completions") == ann, "paths that are not cached as well"
        # What a client names is not another tenant's, and divides its own alone.
        named = {
            salt_of(key, path, cache_salt=ann) for key in (ANN, BOB) for path in (CHAT, "/v1/completions")
        }
        assert len(named) == 2
        assert named.isdisjoint({ann, bob})
        assert "ann" not in ann


@pytest.mark.promise("isolation")
def test_a_body_that_cannot_be_salted_is_refused(provider: Provider, redis_config: CacheConfig) -> None:
    upstreams = (UpstreamSettings("vllm", provider.url, api_key="sk-own", cache_salt=True),)
    with RunningGateway("", redis_config, upstreams=upstreams, largest_body_bytes=2000) as gateway:
        form = {"content-type": "multipart/form-data; boundary=b"}
        for body in (b'{"prompt": NaN}', b'{"prompt": "x"', b"\xff", '{"a":1}'.encode("utf-16")):
            for headers in ({}, form):
                reply = ask(gateway.url, "POST", "/v1/completions", body, headers)
                assert (reply.status, len(provider.calls)) == (400, 0), body
        packed = {**form, "content-encoding": "gzip"}
        assert ask(gateway.url, "POST", "/v1/completions", b"--b--", packed).status == 400
        for body in (b"", b'["a"]'):
            assert ask(gateway.url, "POST", "/v1/completions", body).status == 200
        assert ask(gateway.url, "POST", "/v1/audio/transcriptions", b"--b--", form).status == 200
        assert provider.calls[-1].body == b"--b--"


def test_without_the_setting_a_body_stays_as_it_is(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        assert post(gateway.url, chat_body("Hi")).status == 200
        assert provider.calls[-1].json == chat_body("Hi")
    with pytest.raises(ConfigError, match="cache_salt"):
        UpstreamSettings("a", "local:/models/m.gguf", cache_salt=True)


def test_what_the_provider_had_cached_is_counted(provider: Provider, redis_config: CacheConfig) -> None:
    upstreams = (UpstreamSettings("vllm", provider.url, api_key="sk-own"),)
    with RunningGateway("", redis_config, upstreams=upstreams, tenants=TENANTS) as gateway:
        whole = post(gateway.url, chat_body("Hi"), x_lix_key=ANN).json
        details = {"prompt_tokens": 400, "completion_tokens": 3, "total_tokens": 403}
        details["prompt_tokens_details"] = {"cached_tokens": 384}  # type: ignore[assignment]
        for _ in range(2):
            provider.said.append(("application/json", json.dumps({**whole, "usage": details}).encode()))
            reply = post(gateway.url, chat_body(f"Hi again {_}"), x_lix_key=BOB)
            assert reply.json["usage"]["prompt_tokens_details"] == {"cached_tokens": 384}
        # What a call cost is counted when its answer has been read, which may be after the client has it.
        line = b'lix_cache_gateway_tokens_cached_by_provider_total{tenant="bob"} 768'
        wait_until(lambda: line in gateway.core.metrics.text({}))


def test_cached_tokens_are_read_of_answers_that_are_not_kept() -> None:
    for told in (
        b'{"usage":{"prompt_tokens":400,"completion_tokens":9,"prompt_tokens_details":{"cached_tokens":384}}}',
        b'{"usage":{"input_tokens":16,"output_tokens":9,"cache_read_input_tokens":384}}',
    ):
        meter = Meter(1000)
        meter.feed(told)
        assert meter.cost(is_whole=True, is_stream=False) == ((400, 9, 384), True)


class _Seen:
    """An upstream that keeps what it gets."""

    identity = ""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def send(self, request: Outgoing) -> Incoming:
        body = request.body
        whole = body if isinstance(body, bytes) else b"".join([piece async for piece in body or _pieces(b"")])
        self.bodies.append(whole)
        return None  # type: ignore[return-value]

    async def close(self) -> None:
        """Nothing is open."""


async def _pieces(body: bytes) -> AsyncIterator[bytes]:
    for i in range(0, len(body), 3):
        yield body[i : i + 3]


def _sent(body: bytes, *kinds: str, streamed: bool = False, most: int = 1000) -> bytes:
    seen = _Seen()
    pairs = [("content-type", kind) for kind in kinds]
    request = Outgoing("POST", "/v1/x", pairs, _pieces(body) if streamed else body, "ann")
    asyncio.run(Salted(seen, "secret", most).send(request))
    return seen.bodies[0]


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    "kinds",
    [
        ("application/json", "multipart/x"),
        ("multipart/x", "application/json"),
        ("multipart/form-data; boundary=b",),
        ("text/plain",),
        (),
    ],
)
def test_an_object_is_salted_whatever_it_is_said_to_be(kinds: tuple[str, ...], streamed: bool) -> None:
    own = json.loads(_sent(b'  {"a": 1, "cache_salt": "own"}', *kinds, streamed=streamed))
    assert own["cache_salt"] != "own"
    assert own["a"] == 1
    assert len(own["cache_salt"]) == 64


def test_a_form_passes_as_it_comes_also_where_it_is_larger_than_bodies_may_be() -> None:
    form = b"--b\r\n" + b"x" * 5000
    for streamed in (False, True):
        assert _sent(form, "multipart/form-data; boundary=b", streamed=streamed) == form


@pytest.mark.parametrize(
    "body",
    [
        b'{"seed": 123456789012345678901234567890, "t": 1.0, "x": 1e3}',
        b'{"prompt": "half \\ud83d of a pair"}',
        b' \n{ "a" : [ {"cache_salt": 1} ] }\n',
        b"{}",
        b'{"a":1,"a":2}',
    ],
)
def test_all_but_the_salt_goes_as_it_came(body: bytes) -> None:
    sent = _sent(body)
    salt = json.loads(sent)["cache_salt"]
    inserted = b'"cache_salt":"%b"' % salt.encode()
    assert sent.replace(inserted + (b"" if body == b"{}" else b","), b"", 1) == body


def test_a_salt_of_the_clients_own_costs_no_number() -> None:
    body = b'{"cache_salt": "\\ud83d", "seed": 123456789012345678901234567890, "p": "\\ud83d"}'
    found = json.loads(_sent(body))
    assert found.pop("cache_salt") != "\ud83d"
    assert found == {"seed": 123456789012345678901234567890, "p": "\ud83d"}


@pytest.mark.promise("isolation")
def test_a_salt_without_a_secret_is_refused() -> None:
    """Any other tenant could make it."""
    with pytest.raises(ConfigError, match="api_key"):
        UpstreamSettings("a", "http://x", cache_salt=True)
    named = GatewaySettings(upstreams=(UpstreamSettings("a", "http://x", api_key_env="K", cache_salt=True),))
    with pytest.raises(ConfigError, match=r"the variable .K. with a provider.s key is not set"):
        Routes(named, SystemClock(), {})


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    ("before", "after", "stays"),
    [
        ({}, {"cache_salt": True}, False),
        ({"cache_salt": True}, {}, False),
        ({"cache_salt": True}, {"cache_salt": True, "api_key": "other"}, False),
        ({"cache_salt": True}, {"cache_salt": True}, True),
        ({}, {"api_key": "other"}, True),
    ],
)
def test_a_salt_that_a_reload_switches_is_switched(
    before: dict[str, object], after: dict[str, object], stays: bool
) -> None:
    def routes(more: dict[str, object], **limits: int) -> Routes:
        upstream = UpstreamSettings("a", "http://x", **{"api_key": "sk", **more})  # type: ignore[arg-type]
        return Routes(GatewaySettings(upstreams=(upstream,), **limits), SystemClock(), {})  # type: ignore[arg-type]

    old, new = routes(before), routes(after)
    made = new.routes[0].upstream
    new.take_over(old)
    assert new.routes[0].upstream is (old.routes[0].upstream if stays else made)
    assert isinstance(new.routes[0].upstream, Salted) is bool(after.get("cache_salt"))
    larger = routes(after, largest_body_bytes=1 << 30)
    larger.take_over(new)
    assert (larger.routes[0].upstream is new.routes[0].upstream) is not bool(after.get("cache_salt"))
