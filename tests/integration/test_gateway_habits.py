"""What clients do that no SDK does: pages in browsers, cookies in pieces, HTTP/1.0, bodies announced."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from lix_cache.gateway.encoders import Encoded, Encoding
from lix_cache.gateway.settings import TenantSettings, UpstreamSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import CHAT, ask, chat_body, post, raw

EVIL = "https://evil.example"


@pytest.fixture(scope="module")
def provider() -> Iterator[Provider]:
    with Provider() as found:
        yield found


@pytest.fixture(scope="module")
def gateway(provider: Provider) -> Iterator[RunningGateway]:
    with RunningGateway(provider, None) as found:
        yield found


@pytest.fixture(scope="module")
def lender(provider: Provider) -> Iterator[RunningGateway]:
    own = UpstreamSettings("default", provider.url, api_key="sk-own")
    with RunningGateway(provider, None, upstreams=(own,)) as found:
        yield found


def request(body: object, *lines: str, version: str = "1.1") -> tuple[bytes, bytes]:
    """Return head and body of a request with these lines in its head."""
    data = json.dumps(body).encode()
    known = (f"POST {CHAT} HTTP/{version}", "host: x", "authorization: Bearer sk-1")
    head = "\r\n".join((*known, *lines, f"content-length: {len(data)}", "", ""))
    return head.encode(), data


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "lines",
    [
        ("cookie: __cf_bm=a,session={}",),
        ("cookie: __cf_bm=a", "cookie: session={}"),
        ("cookie: session={}", "cookie: __cf_bm=a"),
    ],
)
def test_a_cookie_behind_one_of_a_balancer_is_in_the_key(
    lines: tuple[str, ...], provider: Provider, gateway: RunningGateway
) -> None:
    def asked_for(name: str) -> int:
        before = len(provider.calls)
        told = [line.format(name) for line in lines]
        raw(gateway.port, b"".join(request(chat_body("cookies?", stop=lines), *told, "connection: close")))
        return len(provider.calls) - before

    assert [asked_for(name) for name in ("ann", "ann", "bob")] == [1, 0, 1]


@pytest.mark.parametrize("is_stream", [True, False])
def test_http_1_0_gets_no_chunks(is_stream: bool, provider: Provider, gateway: RunningGateway) -> None:
    body = chat_body("old?", stream=is_stream)
    miss, hit = (
        raw(gateway.port, b"".join(request(body, "connection: keep-alive", version="1.0"))) for _ in range(2)
    )
    for reply, state in ((miss, b"miss"), (hit, b"hit-l1-exact")):
        head, _, said = reply.partition(b"\r\n\r\n")
        assert b"x-lix-cache: " + state in head
        assert b"transfer-encoding" not in head.lower()
        assert b"connection: close" in head.lower()
        if is_stream:
            assert said.startswith(b"data: {")
            assert said.endswith(b"data: [DONE]\n\n")
        else:
            assert json.loads(said)["choices"]


def test_http_1_0_gets_a_path_that_is_passed_through_whole(
    provider: Provider, gateway: RunningGateway
) -> None:
    for method in ("GET", "HEAD"):
        reply = raw(gateway.port, f"{method} /v1/models HTTP/1.0\r\n\r\n".encode())
        head, _, said = reply.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200")
        assert (said == b"") is (method == "HEAD")


@pytest.mark.parametrize("known", [False, True])
def test_a_body_that_is_announced_first_is_waited_for(
    known: bool, provider: Provider, gateway: RunningGateway
) -> None:
    body = chat_body(f"announced? {known}")
    if known:
        post(gateway.url, body, authorization="Bearer sk-1")
    head, data = request(body, "expect: 100-continue", "connection: close")
    with socket.create_connection(("127.0.0.1", gateway.port), timeout=60) as client:
        client.sendall(head)
        assert client.recv(4096) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.sendall(data)
        said = b"".join(iter(lambda: client.recv(65536), b""))
    assert said.startswith(b"HTTP/1.1 200")
    assert (b"x-lix-cache: hit-l1-exact" in said) is known
    if not known:
        assert "expect" not in {name.lower() for name in provider.calls[-1].headers}


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "origin",
    [
        EVIL,
        "null",
        "http://evil.example:8640",
        "http://localhost.evil.example",
        "http://127.0.0.1.evil.example",
        "http://127.0.0.1@evil.example",
        "http://10.0.0.1",
        "http://xlocalhost",
        f"http://localhost, {EVIL}",
        "HTTP://evil.example",
        "",
    ],
)
def test_a_page_of_another_site_does_not_use_a_gateway_without_tenants(
    origin: str, provider: Provider, lender: RunningGateway
) -> None:
    post(lender.url, chat_body(), authorization="")
    before = len(provider.calls)
    replies = [
        post(lender.url, chat_body(), authorization="", origin=origin),
        post(lender.url, chat_body("other"), authorization="Bearer made-up", origin=origin),
        ask(lender.url, "OPTIONS", CHAT, headers={"origin": origin, "access-control-request-method": "POST"}),
        ask(lender.url, "DELETE", "/v1/sessions/1", headers={"origin": origin}),
    ]
    assert [(reply.status, reply.reason) for reply in replies] == [(403, "foreign_origin")] * 4
    assert len(provider.calls) == before


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "evil.example:8640",
        "127.0.0.1.evil.example:8640",
        "localhost.evil.example",
        "evil.example.",
        "EVIL.example",
        "xlocalhost.com",
        "localhost@evil.example",
        "notinternal.com",
    ],
)
def test_a_site_whose_name_was_pointed_at_this_machine_reads_nothing(
    host: str, provider: Provider, lender: RunningGateway
) -> None:
    before = len(provider.calls)
    replies = [
        ask(lender.url, "GET", "/v1/models", headers={"host": host}),
        ask(lender.url, "GET", "/v1/files", headers={"host": host}),
        ask(lender.url, "GET", "/v1/sessions", headers={"host": host}),
        post(lender.url, chat_body(), authorization="", host=host),
    ]
    assert [(reply.status, reply.reason) for reply in replies] == [(403, "foreign_host")] * 4
    assert len(provider.calls) == before


@pytest.mark.parametrize(
    "host",
    [
        "localhost",
        "LOCALHOST:8640",
        "127.0.0.1:8640",
        "[::1]:8640",
        "192.168.1.7:8640",
        "gateway",
        "gateway:8640",
        "box.local:8640",
        "host.docker.internal:8640",
        "nas.home.arpa",
        "pi.lan:8640",
        "gateway.default.svc:8640",
        "gateway.default.svc.cluster.local",
        "[fe80::1%25eth0]:8640",
        "app.localhost.",
    ],
)
def test_the_names_of_this_machine_are_answered(host: str, lender: RunningGateway) -> None:
    assert post(lender.url, chat_body(), authorization="", host=host).status == 200


def test_a_gateway_that_lends_nothing_is_reached_by_any_name(gateway: RunningGateway) -> None:
    assert post(gateway.url, chat_body(), authorization="Bearer sk-own", host="llm.example").status == 200


def test_a_page_that_brings_a_providers_key_uses_a_gateway_that_has_none_of_its_own(
    provider: Provider, gateway: RunningGateway
) -> None:
    before = len(provider.calls)
    assert post(gateway.url, chat_body("mine?"), authorization="", origin=EVIL).reason == "foreign_origin"
    assert len(provider.calls) == before
    preflight = {"origin": EVIL, "access-control-request-method": "POST"}
    ask(gateway.url, "OPTIONS", CHAT, headers=preflight)
    assert provider.calls[-1].method == "OPTIONS"
    assert post(gateway.url, chat_body("mine?"), authorization="Bearer sk-page", origin=EVIL).status == 200
    assert post(gateway.url, chat_body("mine?"), api_key="sk-page", origin=EVIL).status == 200
    with RunningGateway(provider, None, sessions=True) as keeping:
        assert (
            post(keeping.url, chat_body("mine?"), authorization="Bearer sk-page", origin=EVIL).status == 403
        )


@pytest.mark.parametrize(
    "origin",
    [
        "http://localhost:3000",
        "http://app.localhost",
        "http://127.0.0.1:8640",
        "http://[::1]:3000",
        "https://LOCALHOST",
        "tauri://localhost",
        "app://obsidian.md",
        "vscode-webview://1f3a",
        "chrome-extension://abc",
    ],
)
def test_a_page_of_this_machine_may_read_a_hit(
    origin: str, provider: Provider, gateway: RunningGateway
) -> None:
    post(gateway.url, chat_body("page?"))
    hit = post(gateway.url, chat_body("page?"), origin=origin)
    assert (hit.state, hit.headers["access-control-allow-origin"]) == ("hit-l1-exact", "*")
    assert "access-control-allow-origin" not in post(gateway.url, chat_body("page?")).headers
    vectors = {"model": "m-1", "input": [f"a page at {origin}"]}
    post(gateway.url, vectors, "/v1/embeddings")
    reply = post(gateway.url, vectors, "/v1/embeddings", origin=origin)
    assert (reply.state, reply.headers["access-control-allow-origin"]) == ("hit-l1-exact", "*")


def test_what_a_provider_says_of_pages_is_passed_on_alone(
    provider: Provider, gateway: RunningGateway
) -> None:
    provider.headers["access-control-allow-origin"] = "http://localhost:3000"
    try:
        reply = raw(
            gateway.port,
            b"".join(request(chat_body("theirs?"), "origin: http://localhost:3000", "connection: close")),
        )
    finally:
        del provider.headers["access-control-allow-origin"]
    assert reply.lower().count(b"access-control-allow-origin") == 1


def test_a_tenants_key_is_enough_for_any_page(provider: Provider) -> None:
    key = "key-of-ann-0123456789abcdef"
    with RunningGateway(provider, None, tenants=(TenantSettings("ann", (digest_of_key(key),)),)) as gateway:
        assert post(gateway.url, chat_body(), authorization=f"Bearer {key}", origin=EVIL).status == 200


@pytest.mark.promise("no-stall")
def test_others_are_answered_while_a_request_is_encoded(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, goes_on, real = threading.Event(), threading.Event(), Encoding.of_request

    def held(self: Encoding, protocol: str, request: Mapping[str, Any]) -> Encoded:
        begun.set()
        assert goes_on.wait(60)
        return real(self, protocol, request)

    monkeypatch.setattr(Encoding, "of_request", held)
    with RunningGateway(provider, None, encoders=("columns",)) as gateway, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(post, gateway.url, chat_body())
        assert begun.wait(60)
        assert ask(gateway.url, "GET", "/healthz").status == 200
        goes_on.set()
        assert asked.result(60).status == 200
