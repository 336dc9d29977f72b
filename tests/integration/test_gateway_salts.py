"""Tenants apart in a provider's own prefix cache, and what it says it had there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ConfigError
from lix_cache.gateway.settings import TenantSettings, UpstreamSettings
from lix_cache.gateway.spending import Meter
from lix_cache.gateway.tenants import digest_of_key
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
        for body in (b'{"prompt": NaN}', b'{"prompt": "x"', b"\xff"):
            reply = ask(gateway.url, "POST", "/v1/completions", body)
            assert (reply.status, len(provider.calls)) == (400, 0), body
        for body in (b"", b'["a"]'):
            assert ask(gateway.url, "POST", "/v1/completions", body).status == 200
        form = {"content-type": "multipart/form-data; boundary=b"}
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
