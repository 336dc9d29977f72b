"""A budget counts every call of a provider, whatever becomes of its answer."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.settings import TenantSettings, UpstreamSettings
from lix_cache.gateway.spending import Meter
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, MESSAGE, ask, chat_body, half_read, post

_NUMBERS = itertools.count()


def message(**more: object) -> dict[str, object]:
    return {"model": "m-1", "max_tokens": 9, "messages": [{"role": "user", "content": "a"}], **more}


CALLS = {
    "cut": (CHAT, chat_body("a"), "truncated"),
    "a stream without usage": (CHAT, chat_body("b", stream=True), "ok"),
    "a cut stream": (CHAT, chat_body("c", stream=True), "truncated"),
    "a stream that broke": (CHAT, chat_body("d", stream=True), "cut"),
    "a stream that ended early": (CHAT, chat_body("e", stream=True), "short"),
    "a stream with an error": (CHAT, chat_body("f", stream=True), "error_event"),
    "an answer that broke": (CHAT, chat_body("g"), "cut"),
    "no JSON": (CHAT, chat_body("h"), "malformed"),
    "no answer to keep": (CHAT, chat_body("i"), "empty"),
    "an error with status 200": (CHAT, chat_body("j"), "error_event"),
    "a bypass": (CHAT, chat_body("k", web_search_options={"a": 1}), "ok"),
    "a message that broke": (MESSAGE, message(stream=True), "cut"),
    "a message that ended early": (MESSAGE, message(stream=True), "short"),
    "a bypass of embeddings": ("/v1/embeddings", {"model": "m-1", "input": [["a"]]}, "ok"),
}


@pytest.mark.parametrize("name", CALLS)
def test_every_call_counts(name: str, provider: Provider, redis_config: CacheConfig) -> None:
    path, body, act = CALLS[name]
    key = f"key-of-the-budget-{next(_NUMBERS)}"
    tenants = (TenantSettings("ann", (digest_of_key(key),), tokens_per_day=1),)
    with RunningGateway(provider, redis_config, tenants=tenants, retries=0) as gateway:
        asked = {"authorization": key, "x_act": act, "x_lix_cache_namespace": f"n{next(_NUMBERS)}"}
        try:
            assert post(gateway.url, body, path, **asked).status != 429
        except ConnectionError:
            assert act == "cut"
        gateway.settle()
        assert post(gateway.url, {**body, "user": "x", "seed": 1}, path, **asked).status == 429


def test_a_call_that_its_client_left_counts(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        tenant = gateway.core.tenants.local
        assert tenant is not None
        for body in (chat_body("left", stream=True), chat_body("left")):
            before = tenant._tokens
            provider.gate.clear()
            asked = len(provider.calls)
            half_read(
                gateway.port,
                body,
                until=b"data:" if "stream" in body else b"",
                when=lambda asked=asked: wait_until(lambda: len(provider.calls) > asked),  # type: ignore[misc]
            )
            wait_until(lambda before=before: tenant._tokens > before)
            provider.gate.set()


def test_an_error_costs_nothing(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config, retries=0) as gateway:
        for act in ("400", "429", "500"):
            post(gateway.url, chat_body(), x_act=act)
        assert gateway.core.tenants.local is not None
        assert gateway.core.tenants.local._tokens == 0


def metered(
    *chunks: bytes, sent: int = 40, is_whole: bool = True, is_stream: bool = True
) -> tuple[int, int, bool]:
    meter = Meter(sent)
    for chunk in chunks:
        meter.feed(chunk)
    usage, is_told = meter.cost(is_whole=is_whole, is_stream=is_stream)
    return usage.input, usage.output, is_told


def test_what_is_told_counts_and_an_estimate_else() -> None:
    told = b'{"usage":{"prompt_tokens":5,"completion_tokens":3,"total_tokens":8}}'
    assert metered(told, is_stream=False) == (5, 3, True)
    assert metered(told[:30], told[30:], is_stream=False) == (5, 3, True)
    begun = b'data: {"usage":{"input_tokens":5,"cache_read_input_tokens":2,"output_tokens":1}}\n\n'
    delta = b'data: {"delta":{"text":"words"}}\n\n'
    assert metered(begun, *[delta] * 50, is_whole=False) == (7, 62, False)
    assert metered(begun, *[delta] * 50) == (7, 62, False), "it ended without telling"
    ended = b'data: {"usage":{"output_tokens":70}}\n\n'
    assert metered(begun, *[delta] * 50, ended) == (7, 70, True)
    assert 62_000 < metered(begun, *[delta] * 50_000, ended)[1] < 63_000
    said = rb'data: {"delta":{"content":"\"completion_tokens\": 1, \"total_tokens\": 2"}}' + b"\n\n"
    assert metered(said)[2] is False, "what a text says is not told"
    assert metered(is_whole=False) == (10, 0, False)
    large = [b"x" * 1000] * 1000
    meter = Meter(0)
    for chunk in large:
        meter.feed(chunk)
    assert sum(map(len, (*meter._first, *meter._last))) < 140_000, "it holds the ends alone"


@pytest.mark.promise("isolation")
def test_limits_hold_however_the_path_is_spelled(provider: Provider, redis_config: CacheConfig) -> None:
    digest = digest_of_key("key-of-the-limited")
    each: tuple[dict[str, Any], ...] = ({"models": ("m-*",)}, {"tokens_per_day": 1})
    for limits in each:
        provider.calls.clear()
        tenants = (TenantSettings("ann", (digest,), **limits),)
        with RunningGateway(provider, redis_config, tenants=tenants) as gateway:
            asked = {"authorization": "key-of-the-limited"}
            if "tokens_per_day" in limits:
                assert post(gateway.url, chat_body("first"), **asked).status == 200
                gateway.settle()
            calls = len(provider.calls)
            for path in (
                *(
                    CHAT,
                    CHAT + "/",
                    "/v1//chat/completions",
                    "//v1/chat/completions",
                    "/v1/./chat/completions",
                ),
                *("/v1/chat%2fcompletions", "/v1/chat/completions/.", "/%761/chat/completions%2f"),
                *("/v1/completions", "/v1/messages/count_tokens", "/v1/batches", "/chat/completions"),
                *("/v1/chat/Completions", "/v1/chat/completions;a", "/v1/chat/completions%00", "/v1/files"),
                *(
                    "/v1/chat%252fcompletions",
                    "/v1\\chat/completions",
                    "/openai/deployments/x/chat/completions",
                ),
            ):
                reply = post(gateway.url, chat_body("other", model="x-1"), path, **asked)
                assert reply.status in (400, 403, 429), path
            assert len(provider.calls) == calls
            if "models" in limits:
                assert post(gateway.url, chat_body(), CHAT + "/", **asked).state == "miss"
                assert provider.calls[-1].path == CHAT


@pytest.mark.promise("isolation")
def test_what_is_passed_through_is_held_to_the_limits(provider: Provider, redis_config: CacheConfig) -> None:
    key = "key-of-one-who-passes"
    scopes = ("generate", "passthrough")
    both = (
        TenantSettings("ann", (digest_of_key(key),), scopes, ("m-*",)),
        TenantSettings("bob", (digest_of_key(key + "b"),), scopes, tokens_per_day=10),
    )
    with RunningGateway(provider, redis_config, tenants=both) as gateway:
        ann, bob = {"authorization": key}, {"authorization": key + "b"}
        prompt = {"model": "m-1", "prompt": "a"}
        for path in ("/v1/completions", "/v1/images/generations", "/v1/messages/count_tokens"):
            assert post(gateway.url, prompt, path, **ann).status == 200, path
            assert post(gateway.url, {**prompt, "model": "x-1"}, path, **ann).status == 403, path
            assert post(gateway.url, {"prompt": "a"}, path, **ann).status == 403, path
            assert post(gateway.url, b"model=m-1", path, **ann).status == 400, path
        for path in (
            "/v1/batches",
            "/v1/threads/runs",
            "/openai/deployments/x-1/completions",
            "/v1//completions",
        ):
            for who in (ann, bob):
                reply = post(gateway.url, prompt, path, **who)
                assert (reply.status, reply.reason) == (403, "path_denied"), path
        assert ask(gateway.url, "GET", "/v1/models", headers=ann).status == 200
        assert post(gateway.url, b"a file", "/v1/files", **ann).status == 200
        for name in ("models", "fallbacks"):
            for others in (["x-1"], [{"model": "x-1"}], "x-1"):
                assert post(gateway.url, {**chat_body(), name: others}, **ann).status == 403
            assert post(gateway.url, {**chat_body(), name: ["m-2"]}, **ann).status == 200
        assert post(gateway.url, prompt, "/v1/images/generations", **bob).status == 403
        assert post(gateway.url, prompt, "/v1/completions", **bob).status == 200
        gateway.settle()
        assert post(gateway.url, prompt, "/v1/completions", **bob).status == 429


def test_a_client_that_leaves_before_the_head_ends_what_is_passed_through(
    provider: Provider, redis_config: CacheConfig
) -> None:
    # Put behind this address, the path is one that the gateway itself does not know.
    upstreams = (UpstreamSettings("default", provider.url + "/v1"),)
    with RunningGateway("", redis_config, upstreams=upstreams) as gateway:
        provider.gate.clear()
        asked, ended = len(provider.calls), provider.cancelled
        half_read(
            gateway.port,
            chat_body(),
            "/chat/completions",
            when=lambda: wait_until(lambda: len(provider.calls) > asked),
        )
        wait_until(lambda: gateway.core.metrics.open == 0)
        wait_until(lambda: provider.cancelled > ended)
        provider.gate.set()
