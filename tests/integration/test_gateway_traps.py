"""Traps that caching gateways have fallen into, each by name; tenants; hostile requests."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.demo import body_of
from lix_cache.gateway.settings import TenantSettings, UpstreamSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support import RedisServer
from tests.support.meaning import Meanings, mix
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, MESSAGE, ask, chat_body, post, raw

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"
SECRET = "sk-provider-secret-0123456789"


@pytest.fixture
def two_tenants(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    provider.calls.clear()
    provider.acts.clear()
    # Every question means the same: whatever is not kept apart is a hit.
    everything = Meanings()
    everything._one = lambda text: mix(a=1.0)  # type: ignore[method-assign]
    tenants = (
        TenantSettings("ann", (digest_of_key(ANN),)),
        TenantSettings("bob", (digest_of_key(BOB),), ("generate",), ("m-*",), requests_per_minute=50),
    )
    upstreams = (UpstreamSettings("default", provider.url, api_key=SECRET),)
    with RunningGateway(
        provider, redis_config, embedder=everything, tenants=tenants, upstreams=upstreams
    ) as running:
        yield running


# -- the cache is asked and told as the client says ------------------------------------------


def test_no_cache_is_heeded(provider: Provider, gateway: RunningGateway) -> None:
    """Trap: no-cache ignored."""
    post(gateway.url, chat_body())
    assert post(gateway.url, chat_body(), cache_control="no-cache").state == "miss"
    assert len(provider.calls) == 2
    assert post(gateway.url, chat_body()).state == "hit-l1-exact"


def test_no_store_is_heeded(gateway: RunningGateway) -> None:
    assert post(gateway.url, chat_body(), cache_control="no-store").state == "miss"
    gateway.settle()
    assert post(gateway.url, chat_body()).state == "miss"


def test_only_if_cached_max_age_ttl_mode_and_namespace(provider: Provider, gateway: RunningGateway) -> None:
    assert post(gateway.url, chat_body(), cache_control="only-if-cached").status == 504
    assert len(provider.calls) == 0
    post(gateway.url, chat_body())
    assert post(gateway.url, chat_body(), cache_control="only-if-cached").state == "hit-l1-exact"
    assert post(gateway.url, chat_body(), cache_control="max-age=0").state == "miss"
    assert post(gateway.url, chat_body(), x_lix_cache_mode="off").state == "bypass"
    assert post(gateway.url, chat_body(), x_lix_cache_namespace="other").state == "miss"
    assert post(gateway.url, chat_body(), x_lix_cache_namespace="other").state == "hit-l1-exact"
    post(gateway.url, chat_body("short"), x_lix_cache_ttl="1")
    wait_until(lambda: post(gateway.url, chat_body("short")).state == "miss", what="the end of a second")


def test_a_replay_has_an_id_and_a_time_of_its_own(gateway: RunningGateway) -> None:
    """Trap: the same id replayed."""
    ids = {post(gateway.url, chat_body()).json["id"] for _ in range(4)}
    assert len(ids) == 4
    messages = {post(gateway.url, chat_body(max_tokens=9), MESSAGE).json["id"] for _ in range(3)}
    assert len(messages) == 3


def test_a_response_that_is_kept_upstream_keeps_its_id_and_goes_with_it(
    provider: Provider, gateway: RunningGateway
) -> None:
    """Trap: a new ``resp_`` id where ``previous_response_id`` refers to it."""
    body = {"model": "m-1", "input": "Where?"}
    first, second = (post(gateway.url, body, "/v1/responses").json for _ in range(2))
    assert first["id"] == second["id"]
    free = [post(gateway.url, {**body, "store": False}, "/v1/responses").json["id"] for _ in range(2)]
    assert free[0] != free[1]
    follow = {**body, "previous_response_id": first["id"]}
    assert post(gateway.url, follow, "/v1/responses").state == "bypass"
    gateway.settle()
    assert ask(gateway.url, "DELETE", f"/v1/responses/{first['id']}").status == 200
    assert post(gateway.url, body, "/v1/responses").state == "miss"


def test_headers_of_one_answer_are_not_replayed(gateway: RunningGateway) -> None:
    """Trap: set-cookie, encodings and rate-limit headers replayed."""
    first, second = post(gateway.url, chat_body()), post(gateway.url, chat_body())
    assert {"set-cookie", "x-request-id", "x-ratelimit-remaining-requests"} <= first.headers.keys()
    assert not {"set-cookie", "x-request-id", "x-ratelimit-remaining-requests"} & second.headers.keys()
    assert {"x-lix-cache", "age", "x-lix-cache-saved-tokens", "x-lix-cache-added-ms"} <= second.headers.keys()


def test_a_usage_chunk_has_no_choices_and_is_there_if_asked_for(gateway: RunningGateway) -> None:
    """Trap: a usage chunk with non-empty choices (OmniRoute#9750)."""
    post(gateway.url, chat_body())
    asked = post(gateway.url, chat_body(stream=True, stream_options={"include_usage": True}))
    chunks = [json.loads(line[6:]) for line in asked.body.decode().split("\n") if line.startswith("data: {")]
    with_usage = [chunk for chunk in chunks if chunk.get("usage")]
    assert [chunk["choices"] for chunk in with_usage] == [[]]
    unasked = post(gateway.url, chat_body(stream=True))
    assert b'"usage"' not in unasked.body


def test_followers_of_a_stream_in_another_form_get_their_own(
    provider: Provider, gateway: RunningGateway
) -> None:
    provider.gate.clear()
    bodies = [
        chat_body(stream=True, stream_options={"include_usage": True}),
        chat_body(stream=True),
        chat_body(),
        chat_body(stream=True, stream_options={"include_usage": True}),
    ]
    got: dict[int, Any] = {}
    threads = []
    for i, body in enumerate(bodies):
        threads.append(
            threading.Thread(target=lambda i=i, body=body: got.update({i: post(gateway.url, body)}))
        )
        threads[-1].start()
        wait_until(lambda i=i: gateway.core.metrics.open == i + 1)
    provider.gate.set()
    for thread in threads:
        thread.join(60)
    assert len(provider.calls) == 1
    assert len({reply.text for reply in got.values()}) == 1
    assert [b'"usage":{' in got[i].body for i in range(4)] == [True, False, True, True]
    assert {got[i].reason for i in (1, 2, 3)} == {"shared"}
    assert ["set-cookie" in got[i].headers for i in range(4)] == [True, False, False, False]


def test_tool_calls_are_never_served_by_meaning(provider: Provider, two_tenants: RunningGateway) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    for text in ("Where?", "Where is it?"):
        reply = post(two_tenants.url, chat_body(text, tools=[tool]), authorization=f"Bearer {ANN}")
        assert reply.state == "miss"
        two_tenants.settle()
    again = post(two_tenants.url, chat_body("Where?", tools=[tool]), authorization=f"Bearer {ANN}")
    assert again.state == "hit-l1-exact"


@pytest.mark.promise("right-answer")
def test_what_is_around_a_question_is_not_served_by_meaning(two_tenants: RunningGateway) -> None:
    """Every text means the same here, so only the scope keeps these apart."""
    base = chat_body("Where is the billing page?")
    post(two_tenants.url, base, authorization=ANN)
    two_tenants.settle()
    assert post(two_tenants.url, chat_body("Where is the billing page please?"), authorization=ANN).state == (
        "hit-l2-semantic"
    )
    question = "Where is the billing page then?"
    for other in (
        chat_body(question, temperature=0.1),
        chat_body(question, seed=7),
        {**chat_body(question), "model": "m-2"},
        chat_body(question, response_format={"type": "json_object"}),
        {"model": "m-1", "messages": [{"role": "system", "content": "x"}, *chat_body(question)["messages"]]},
        {"model": "m-1", "messages": [{"role": "user", "content": "x"}, *chat_body(question)["messages"]]},
    ):
        assert post(two_tenants.url, other, authorization=ANN).state == "miss", other
    assert (
        post(two_tenants.url, chat_body(question), authorization=ANN, x_lix_cache_mode="exact").state
        == "miss"
    )
    assert (
        post(two_tenants.url, chat_body(question + "?"), authorization=ANN, x_lix_cache_namespace="n").state
        == "miss"
    )


def test_volatile_parts_share_an_answer_only_where_a_rule_says_so(
    provider: Provider, redis_config: CacheConfig
) -> None:
    bodies = [
        {
            "model": "m-1",
            "messages": [
                {"role": "user", "content": f"# currentDate\nToday's date is 2026-07-0{n}.\n\nFix it."}
            ],
        }
        for n in (1, 2)
    ]
    with RunningGateway(provider, redis_config) as plain:
        assert [post(plain.url, body).state for body in bodies] == ["miss", "miss"]
    with RunningGateway(provider, redis_config, volatile=("date",)) as ruled:
        assert [post(ruled.url, body).state for body in bodies] == ["miss", "hit-l1-exact"]
        assert b"2026-07-01" in provider.calls[-1].body, "what is forwarded is what was sent"


def test_only_what_was_asked_with_temperature_0_where_a_setting_says_so(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, zero_temperature_only=True) as gateway:
        for fields, second in (
            ({}, "miss"),
            ({"temperature": 1}, "miss"),
            ({"temperature": 0}, "hit-l1-exact"),
        ):
            assert post(gateway.url, chat_body(**fields)).state == "miss"
            assert post(gateway.url, chat_body(**fields)).state == second


# -- tenants -------------------------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_tenants_share_nothing_at_similarity_1(
    provider: Provider, two_tenants: RunningGateway, redis_server: RedisServer, redis_config: CacheConfig
) -> None:
    """Trap: cache shared across tenants (litellm#29955)."""
    url = two_tenants.url
    anns = post(url, chat_body(), authorization=f"Bearer {ANN}")
    assert anns.state == "miss"
    two_tenants.settle()
    assert post(url, chat_body(), authorization=BOB, cache_control="only-if-cached").status == 504
    for other in ("Anything else at all?", "Where is the billing page please?", "What is it?"):
        reply = post(url, chat_body(other), authorization=f"Bearer {BOB}")
        assert reply.status == 200
        assert reply.text != anns.text
    assert post(url, chat_body(), authorization=BOB).reason != "memory"
    two_tenants.forget()
    assert post(url, chat_body(), x_api_key=ANN).reason == "redis"
    embedding = {"model": "m-e", "input": "hello"}
    assert post(url, embedding, "/v1/embeddings", x_api_key=ANN).state == "miss"
    assert post(url, embedding, "/v1/embeddings", x_api_key=BOB).state == "miss"
    assert post(url, embedding, "/v1/embeddings", x_api_key=BOB).state == "hit-l1-exact"


@pytest.mark.promise("isolation")
def test_accounts_at_a_provider_share_nothing(gateway: RunningGateway) -> None:
    assert post(gateway.url, chat_body(), authorization="Bearer one").state == "miss"
    assert post(gateway.url, chat_body(), authorization="Bearer two").state == "miss"
    assert post(gateway.url, chat_body(), authorization="Bearer one", openai_project="p").state == "miss"
    assert post(gateway.url, chat_body(), authorization="Bearer one").state == "hit-l1-exact"


def test_keys_scopes_models_and_limits(provider: Provider, two_tenants: RunningGateway) -> None:
    url = two_tenants.url
    assert post(url, chat_body()).status == 401
    assert post(url, chat_body(), authorization="Bearer nobody").status == 401
    assert (
        post(url, chat_body(max_tokens=1), MESSAGE, x_api_key="nobody").json["error"]["type"]
        == "authentication_error"
    )
    assert ask(url, "GET", "/v1/models", headers={"authorization": f"Bearer {BOB}"}).status == 403
    assert ask(url, "GET", "/v1/models", headers={"authorization": f"Bearer {ANN}"}).status == 200
    assert post(url, {**chat_body(), "model": "x-1"}, authorization=BOB).status == 403
    statuses = [post(url, chat_body(), authorization=BOB) for _ in range(60)]
    assert {reply.status for reply in statuses} == {200, 429}
    assert "retry-after" in next(reply for reply in statuses if reply.status == 429).headers
    assert ask(url, "GET", "/metrics").status == 401


def test_a_budget_ends_calls_and_not_hits(provider: Provider, redis_config: CacheConfig) -> None:
    tenants = (TenantSettings("ann", (digest_of_key(ANN),), tokens_per_day=10),)
    with RunningGateway(provider, redis_config, tenants=tenants) as gateway:
        assert post(gateway.url, chat_body(), authorization=ANN).status == 200
        assert post(gateway.url, chat_body("Another?"), authorization=ANN).status == 429
        assert post(gateway.url, chat_body(), authorization=ANN).state == "hit-l1-exact"


@pytest.mark.promise("no-leak")
def test_no_key_and_no_content_in_logs_metrics_redis_or_errors(
    provider: Provider, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    log = io.BytesIO()
    tenants = (TenantSettings("ann", (digest_of_key(ANN),)),)
    upstreams = (UpstreamSettings("default", provider.url, api_key=SECRET),)
    with RunningGateway(provider, redis_config, log=log, tenants=tenants, upstreams=upstreams) as gateway:
        post(gateway.url, chat_body("My pet is called Zanzibar."), authorization=f"Bearer {ANN}")
        assert provider.calls[-1].headers["Authorization"] == f"Bearer {SECRET}"
        post(gateway.url, chat_body(max_tokens=5), MESSAGE, x_api_key=ANN, anthropic_version="2023-06-01")
        assert provider.calls[-1].headers["x-api-key"] == SECRET
        assert ANN not in str(provider.calls[-1].headers)
        provider.do("500", "500", "reset", "reset")
        replies = [post(gateway.url, chat_body(f"Zanzibar {n}"), authorization=ANN) for n in range(2)]
        replies.append(post(gateway.url, b'{"Zanzibar', authorization=ANN))
        gateway.settle()
        gateway.core.log.close()
        seen = log.getvalue() + gateway.core.metrics.text({}) + b"".join(reply.body for reply in replies)
        seen += repr(gateway.settings).encode() + repr(gateway.core.tenants.tenants).encode()
        client = redis_server.client()
        for key in client.scan_iter(f"{redis_config.redis_key_prefix}:*"):
            seen += key
            seen += client.get(key) if client.type(key) == b"string" else b""
    for secret in (ANN, SECRET, "Zanzibar"):
        assert secret.encode() not in seen, secret


# -- hostile requests ------------------------------------------------------------------------------


@pytest.mark.promise("bad-bytes")
def test_hostile_requests_are_refused_and_nothing_is_stored(
    provider: Provider, gateway: RunningGateway
) -> None:
    long = b'{"model":"m","messages":"' + b"x" * (33 << 20) + b'"}'
    refused = {
        413: [long],
        400: [b"", b"{", b'{"a":1,"a":1}', b'{"a":"\xff"}', b'{"a":' * 10_000 + b"1" + b"}" * 10_000],
    }
    for status, bodies in refused.items():
        for body in bodies:
            reply = post(gateway.url, body)
            assert (reply.status, reply.json["error"]["type"]) == (status, "invalid_request_error")
    for name, value in (
        ("x_lix_cache_ttl", "soon"),
        ("x_lix_cache_namespace", "../etc"),
        ("x_lix_cache_mode", "everything"),
    ):
        assert post(gateway.url, chat_body(), **{name: value}).status == 400
    assert ask(gateway.url, "GET", "/v1/../secret").status == 400
    assert provider.calls == []
    assert len(gateway.core.memory) == 0


def test_a_purge_reaches_the_memory_of_other_processes(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config) as one, RunningGateway(provider, redis_config) as other:
        for gateway in (one, other):
            post(gateway.url, chat_body())
            gateway.settle()
        assert post(other.url, chat_body()).reason == "memory"
        one.do(one.core.purge("local", None, None))
        assert post(one.url, chat_body(), cache_control="only-if-cached").status == 504
        wait_until(
            lambda: post(other.url, chat_body(), cache_control="only-if-cached").status == 504,
            what="the other process to forget",
        )


@pytest.mark.promise("bad-bytes")
def test_a_slow_or_endless_head_ends_the_connection(
    gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    endless = b"GET /healthz HTTP/1.1\r\n" + b"X-A: " + b"a" * 400_000
    assert raw(gateway.port, endless).startswith(b"HTTP/1.1 431")
    monkeypatch.setattr("lix_cache.gateway.guarded_http.HEAD_SECONDS", 0.3)
    assert raw(gateway.port, b"") == b""
    assert raw(gateway.port, b"POST /v1/chat/completions HTTP/1.1\r\nHost: ") == b""
    assert raw(gateway.port, b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\nGET /h").count(b"HTTP/1.1") == 1


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize(
    "head",
    [
        b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /v1/x HTTP/1.1\r\n\r\n",
        b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nabcde",
        b"Content-Length: -1\r\n\r\n",
        b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n",
        b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\nContent-Length: 2\r\n\r\n{}",
        b"X-Api-Key: a\r\nX-Api-Key: b\r\nContent-Length: 2\r\n\r\n{}",
    ],
    ids=["both lengths", "two lengths", "negative", "odd coding", "two keys", "two api keys"],
)
def test_requests_that_two_servers_would_read_differently_are_refused(
    head: bytes, provider: Provider, gateway: RunningGateway
) -> None:
    answer = raw(
        gateway.port, b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + head
    )
    assert answer.split(b" ")[1:2] in ([b"400"], [b"501"]), answer[:80]
    assert provider.calls == []


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("memory_bytes", [0, 1 << 20])
def test_a_slow_answer_does_not_take_the_place_of_one_that_was_asked_for_later(
    memory_bytes: int, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, memory_bytes=memory_bytes) as gateway:
        provider.gate.clear()
        older: list[Any] = []
        asked = len(provider.calls)
        thread = threading.Thread(target=lambda: older.append(post(gateway.url, chat_body(), x_act="ok")))
        thread.start()
        wait_until(lambda: len(provider.calls) > asked)
        said = json.dumps({**body_of("chat", chat_body()), "id": "chatcmpl-newer", "model": "newer"}).encode()
        provider.said.append(("application/json", said))
        assert post(gateway.url, chat_body(), cache_control="no-cache").json["model"] == "newer"
        gateway.settle()
        provider.gate.set()
        thread.join(60)
        assert older[0].json["model"] != "newer"
        gateway.settle()
        reply = post(gateway.url, chat_body())
        assert (reply.state, reply.json["model"]) == ("hit-l1-exact", "newer")
