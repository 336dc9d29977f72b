"""Requests that no honest client sends: a typed refusal, bounded memory, nothing stored or sent upstream."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import io
import json
import os
import socket
import struct
import time

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.settings import TenantSettings, UpstreamSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, MESSAGE, chat_body, post, raw

KEY = "ann-key-0123456789abcdef"
BODY = json.dumps(chat_body()).encode()
START = b"POST " + CHAT.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n"


def kind_of(answer: bytes) -> tuple[int, str]:
    """Return status and kind of one error, as clients read it."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert answer.count(b"HTTP/1.1 ") == 1, "one answer, and the connection ends"
    return int(head.split(b" ")[1]), json.loads(body)["error"]["type"]


def chunked(size: bytes = b"%x" % len(BODY), extension: bytes = b"", trailer: bytes = b"") -> bytes:
    return size + extension + b"\r\n" + BODY + b"\r\n0\r\n" + trailer + b"\r\n"


TE = b"Transfer-Encoding: chunked\r\n"
CL = b"Content-Length: %d\r\n" % len(BODY)
SMUGGLED = {
    "both lengths": TE + b"Content-Length: 3\r\n\r\n" + chunked(),
    "both lengths, turned": b"Content-Length: 3\r\n" + TE + b"\r\n" + chunked(),
    "two lengths": CL + b"Content-Length: 3\r\n\r\n" + BODY,
    "two equal lengths": CL + CL + b"\r\n" + BODY,
    "a list of lengths": b"Content-Length: %d, %d\r\n\r\n" % (len(BODY), len(BODY)) + BODY,
    "a length with a sign": b"Content-Length: +%d\r\n\r\n" % len(BODY) + BODY,
    "a length in hex": b"Content-Length: 0x2f\r\n\r\n" + BODY,
    "a negative length": b"Content-Length: -1\r\n\r\n" + BODY,
    "a space before the colon": b"Content-Length : %d\r\n\r\n" % len(BODY) + BODY,
    "a folded header": b"X-A: a\r\n b\r\n" + CL + b"\r\n" + BODY,
    "a folded coding": b"Transfer-Encoding:\r\n chunked\r\n\r\n" + chunked(),
    "two codings": TE + b"Transfer-Encoding: identity\r\n\r\n" + chunked(),
    "chunked twice": b"Transfer-Encoding: chunked, chunked\r\n\r\n" + chunked(),
    "identity first": b"Transfer-Encoding: identity, chunked\r\n\r\n" + chunked(),
    "gzip first": b"Transfer-Encoding: gzip, chunked\r\n\r\n" + chunked(),
    "an odd coding": b"Transfer-Encoding: xchunked\r\n\r\n" + chunked(),
    "a tab in the coding": b"Transfer-Encoding: \x0bchunked\r\n\r\n" + chunked(),
    "a size that is none": TE + b"\r\n" + chunked(b"zz"),
    "a size in C": TE + b"\r\n" + chunked(b"0x%x" % len(BODY)),
    "a negative size": TE + b"\r\n" + chunked(b"-1"),
    "a size of 80 bits": TE + b"\r\n" + chunked(b"f" * 20),
    "a size with a space": TE + b"\r\n" + chunked(b"%x " % len(BODY)),
    "a line feed in an extension": TE + b"\r\n" + chunked(extension=b";a=\n"),
    "line feeds alone": b"Transfer-Encoding: chunked\n\n" + chunked(),
    "a zero byte": b"X-A: a\x00b\r\n" + CL + b"\r\n" + BODY,
    "a return alone": b"X-A: a\rX-B: c\r\n" + CL + b"\r\n" + BODY,
    "two hosts": b"Host: b\r\n" + CL + b"\r\n" + BODY,
    "two keys": b"Authorization: a\r\nAuthorization: b\r\n" + CL + b"\r\n" + BODY,
    "two sessions": b"X-Session-ID: a\r\nX-Session-ID: b\r\n" + CL + b"\r\n" + BODY,
}


@pytest.mark.promise("bad-bytes")
def test_requests_of_which_servers_would_see_different_ends_are_refused(
    provider: Provider, gateway: RunningGateway
) -> None:
    for name, rest in SMUGGLED.items():
        assert kind_of(raw(gateway.port, START + rest, 2)) == (400, "invalid_request_error"), name
    old = START.replace(b"HTTP/1.1", b"HTTP/1.0") + TE
    for start in (b"GET /v1/models HTTP/1.1\r\nConnection: close\r\n", old):
        assert kind_of(raw(gateway.port, start + b"\r\n" + chunked(), 2))[0] == 400, start
    assert provider.calls == []
    assert len(gateway.core.memory) == 0
    for rest in (
        TE + b"\r\n" + chunked(),
        TE + b"\r\n" + chunked(extension=b";name=value"),
        CL + b"\r\n" + BODY,
    ):
        assert b" 200 " in raw(gateway.port, START + rest, 5)[:20]
    assert len(provider.calls) == 1, "they are one request"


@pytest.mark.promise("isolation")
def test_a_trailer_is_no_header(provider: Provider, redis_config: CacheConfig) -> None:
    tenants = (TenantSettings("ann", (digest_of_key(KEY),)),)
    provider.calls.clear()
    with RunningGateway(provider, redis_config, tenants=tenants) as gateway:
        trailer = b"X-Lix-Key: " + KEY.encode() + b"\r\nX-Lix-Cache-Mode: off\r\n"
        assert kind_of(raw(gateway.port, START + TE + b"\r\n" + chunked(trailer=trailer), 2))[0] == 401
        key = b"X-Lix-Key: " + KEY.encode() + b"\r\n"
        answer = raw(gateway.port, START + key + TE + b"\r\n" + chunked(trailer=trailer), 5)
        assert b"x-lix-cache: miss" in answer


@pytest.mark.promise("isolation")
@pytest.mark.parametrize(
    "target",
    [
        *("*", ".evil.example/", "@evil.example/", ":1@evil.example/", "evil.example:80", "/v1/../x"),
        *("/v1/%2e%2e/x", "/v1/.%2E/x", "/v1/..;a/x", "/v1/..%5cx", "/v1/x/..", "/v1/%2e%2e%2fx"),
        *("/v1/a\x80", "/v1/ x"),
    ],
)
def test_a_path_never_leads_to_another_place(
    target: str, provider: Provider, gateway: RunningGateway
) -> None:
    request = b"GET " + target.encode("latin-1") + b" HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert kind_of(raw(gateway.port, request, 2))[0] == 400
    assert provider.calls == []


@pytest.mark.promise("bad-bytes")
def test_too_many_headers_are_refused(provider: Provider, gateway: RunningGateway) -> None:
    head = b"".join(b"X-%d: a\r\n" % number for number in range(300))
    assert kind_of(raw(gateway.port, START + head + CL + b"\r\n" + BODY, 2))[0] == 431
    assert provider.calls == []


@pytest.mark.promise("isolation")
def test_names_that_are_ways_are_refused(provider: Provider, gateway: RunningGateway) -> None:
    for name in ("..", "../a", "a/../b", ".", "a\\b", "a b", "%2e%2e", "x" * 65, "ä"):
        reply = post(gateway.url, chat_body(), x_lix_cache_namespace=name)
        assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error"), name
    for name in ("../ann", "a/b", "", "x" * 65, "a\nb"):
        with pytest.raises(Exception, match="name"):
            RunningGateway(provider, None, tenants=(TenantSettings(name, (digest_of_key(KEY),)),))
    assert provider.calls == []


def test_an_offer_of_http_2_is_not_taken(provider: Provider, gateway: RunningGateway) -> None:
    """Java's client makes it with each first request."""
    offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAEAAEAAAAIAAAAB\r\n"
    request = START.replace(b"Connection: close\r\n", offer) + CL + b"\r\n" + BODY
    end = START + CL + b"\r\n" + BODY
    assert raw(gateway.port, request + end, 5).count(b"HTTP/1.1 200") == 2
    assert len(provider.calls) == 1
    assert not {"Upgrade", "Proxy-Connection"} & provider.calls[0].headers.keys()


@pytest.mark.promise("isolation")
def test_an_account_is_in_the_key_by_whatever_header_it_is_named(
    provider: Provider, gateway: RunningGateway, redis_config: CacheConfig
) -> None:
    assert post(gateway.url, chat_body()).state == "miss"
    for name in ("x_goog_api_key", "api_key", "helicone_auth", "cf_aig_authorization", "openai_project"):
        for value in ("a", "b"):
            assert post(gateway.url, chat_body(), **{name: value}).state == "miss", name
    assert post(gateway.url, chat_body(), idempotency_key="x").state == "hit-l1-exact"
    own = (UpstreamSettings("default", provider.url, api_key="sk-own"),)
    tenants = (TenantSettings("ann", (digest_of_key(KEY),)),)
    with RunningGateway(provider, redis_config, tenants=tenants, upstreams=own) as other:
        for project in ("a", "b"):
            reply = post(other.url, chat_body(), x_lix_key=KEY, openai_project=project)
            assert reply.state == "miss", "the key is the gateway's own, the project is the client's"


def test_a_header_goes_on_as_the_bytes_that_it_was(provider: Provider, gateway: RunningGateway) -> None:
    title = "Grüße".encode()
    request = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Title: " + title + b"\r\n\r\n"
    assert b" 200 " in raw(gateway.port, request, 5)[:20]
    assert provider.calls[-1].headers["x-title"].encode("utf-8", "surrogateescape") == title


# -- bodies ----------------------------------------------------------------------------------------


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def sent(port: int, head: bytes, piece: bytes, count: int, end: bytes) -> bytes:
    """Send pieces until all are sent or the other side has had enough; return its answer."""
    with socket.create_connection(("127.0.0.1", port), 30) as connection:
        try:
            connection.sendall(START + head + b"\r\n")
            for _ in range(count):
                connection.sendall(piece)
            connection.sendall(end)
        except (BrokenPipeError, ConnectionResetError):
            pass
        seen = b""
        try:
            while more := connection.recv(1 << 16):
                seen += more
        except ConnectionResetError:
            pass
        return seen


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("most", [32 << 20, 1 << 20], ids=["usual", "small"])
def test_a_body_of_100_mb_takes_bounded_memory(
    most: int, provider: Provider, redis_config: CacheConfig
) -> None:
    provider.calls.clear()
    mega = b"x" * (1 << 20)
    with RunningGateway(provider, redis_config, largest_body_bytes=most) as gateway:
        post(gateway.url, chat_body("first"))
        for head, piece, end in (
            (b"Content-Length: %d\r\n" % (100 << 20), mega, b""),
            (TE, b"100000\r\n" + mega + b"\r\n", b"0\r\n\r\n"),
        ):
            before = resident()
            answer = sent(gateway.port, head, piece, 100, end)
            # A reset may outrun the answer where the client goes on sending; it is no success then, either.
            assert not answer or kind_of(answer) == (413, "invalid_request_error")
            assert resident() - before < most + (16 << 20)
        assert len(provider.calls) == len(gateway.core.memory) == 1


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("unit", [b"{},", b"[],", b'{"a":1},', b"1,", b'"",'])
def test_a_body_of_many_small_values_takes_bounded_memory(
    unit: bytes, provider: Provider, gateway: RunningGateway
) -> None:
    """Two bytes of JSON may be a hundred in memory."""
    before = resident()
    body = b'{"model":"m","messages":[' + unit * ((24 << 20) // len(unit)) + b"1]}"
    reply = post(gateway.url, body)
    assert (reply.status, reply.json["error"]["type"]) == (413, "invalid_request_error")
    assert resident() - before < 200 << 20
    assert provider.calls == []


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("path", [CHAT, MESSAGE, "/v1/responses", "/v1/embeddings"])
def test_bodies_that_make_no_sense_are_refused_in_the_protocols_words(
    path: str, provider: Provider, gateway: RunningGateway
) -> None:
    deep = [b'{"model":"m","a":' + b"[" * n + b"]" * n + b"}" for n in (254, 300, 1_000, 10_000, 100_000)]
    wrong = [
        b"",
        b"{",
        b"[]",
        b"1",
        b'"a"',
        b"null",
        b'{"a":1,"a":1}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":"\xff"}',
    ]
    wrong += [
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"\xef\xbb\xbf{}",
        b'{"x":{"a":1,"a":2}}',
        BODY.decode().encode("utf-16"),
    ]
    for body in (*deep, *wrong):
        reply = post(gateway.url, body, path)
        assert (reply.status, reply.json["error"]["type"]) == (400, "invalid_request_error"), body[:40]
    assert provider.calls == []
    assert len(gateway.core.memory) == 0


@pytest.mark.promise("right-answer")
def test_what_has_no_key_of_its_own_is_passed_on_each_time(
    provider: Provider, gateway: RunningGateway
) -> None:
    """As deep as can be read, beyond all numbers, half a letter: the provider is to judge them."""
    bodies = [
        b'{"model":"m-1","messages":[],"a":%b%b}' % (b"[" * 252, b"]" * 252),
        b'{"model":"m-1","messages":[],"a":%b%b}' % (b"[" * 253, b"]" * 253),
        b'{"model":"m-1","messages":[],"temperature":1e400}',
        b'{"model":"m-1","messages":[],"temperature":-1e400}',
        b'{"model":"m-1","messages":[],"seed":123456789012345678901234567890}',
        b'{"model":"m-1","messages":[],"seed":%b}' % (b"1" * 41),
        b'{"model":"m-1","messages":[],"seed":-%b}' % (b"9" * 5_000),
        b'{"model":"m-1","messages":[],"seed":"\\ud800"}',
    ]
    post(gateway.url, b'{"model":"m-1","messages":[],"temperature":null}')
    for body in bodies:
        reply = post(gateway.url, body)
        assert (reply.status, reply.state) in ((200, "miss"), (200, "bypass"), (500, "bypass")), body[:60]
        assert provider.calls[-1].body == body
    wrong = post(gateway.url, chat_body(stream="yes"))
    assert (wrong.state, wrong.reason) == ("bypass", "stream")


@pytest.mark.parametrize("models", [("*",), ("m-*",)])
def test_a_model_whose_name_is_no_text_is_in_the_log_and_cuts_no_connection(
    models: tuple[str, ...], provider: Provider, redis_config: CacheConfig
) -> None:
    log = io.BytesIO()
    tenants = (TenantSettings("ann", (digest_of_key(KEY),), models=models),)
    with RunningGateway(provider, redis_config, log=log, tenants=tenants) as gateway:
        connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=60)
        connection.connect()
        line = connection.sock
        for path in (CHAT, MESSAGE, "/v1/responses", "/v1/embeddings"):
            body = b'{"model":"a\\ud800b","messages":[],"input":"x"}'
            connection.request("POST", path, body, {"x-lix-key": KEY})
            response = connection.getresponse()
            assert response.read()
            assert (response.status == 403) == ("*" not in models)
            assert connection.sock is line, path
        connection.close()
        gateway.settle()
        gateway.core.log.close()
    names = [json.loads(said)["model"] for said in log.getvalue().splitlines()]
    assert names == ["a\ud800b"] * 4


def test_a_body_with_an_encoding_goes_to_the_provider_as_it_is(
    provider: Provider, redis_config: CacheConfig
) -> None:
    body = gzip.compress(BODY)
    with RunningGateway(provider, redis_config) as gateway:
        post(gateway.url, body, content_encoding="gzip")
        assert provider.calls[-1].headers["Content-Encoding"] == "gzip"
    tenants = (TenantSettings("ann", (digest_of_key(KEY),), models=("m-1",)),)
    with RunningGateway(provider, redis_config, tenants=tenants) as gateway:
        provider.calls.clear()
        assert post(gateway.url, body, content_encoding="gzip", x_lix_key=KEY).status == 415
        assert provider.calls == [], "which model it asks for is not known"


@pytest.mark.promise("bad-bytes")
def test_a_body_that_comes_too_slowly_ends_the_connection(
    provider: Provider, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lix_cache.gateway.guarded_http.BODY_SECONDS", 0.3)
    assert kind_of(raw(gateway.port, START + CL + b"\r\n")) == (408, "invalid_request_error")
    assert kind_of(raw(gateway.port, START + TE + b"\r\n5\r\n{")) == (408, "invalid_request_error")
    with socket.create_connection(("127.0.0.1", gateway.port), 10) as connection:
        connection.sendall(START + b"Content-Length: 100000\r\n\r\n")
        try:
            for _ in range(200):
                connection.sendall(b"x")
                time.sleep(0.01)
        except OSError:
            pass
        connection.settimeout(60)
        with contextlib.suppress(ConnectionResetError):
            assert b" 408 " in connection.recv(1 << 16)[:20]
    wait_until(lambda: gateway.core.metrics.open == 0)
    assert provider.calls == []


@pytest.mark.promise("bad-bytes")
def test_what_is_remembered_of_long_headers_is_bounded(gateway: RunningGateway) -> None:
    post(gateway.url, chat_body())
    for number in range(50):
        post(
            gateway.url,
            chat_body(),
            anthropic_beta=f"{number}-" + "x" * 50_000,
            cache_control="only-if-cached",
        )
    assert sum(map(len, gateway.core.preparer._known)) < 100 * 64


# -- the gateway's own secrets, and bytes that are not its own -----------------------------------------


@pytest.mark.promise("no-leak")
def test_a_key_of_the_gateway_goes_to_no_provider(provider: Provider, redis_config: CacheConfig) -> None:
    tenants = (TenantSettings("ann", (digest_of_key(KEY),)),)
    with RunningGateway(provider, redis_config, tenants=tenants) as gateway:
        for headers in (
            {"x_lix_key": KEY, "authorization": f"Bearer {KEY}"},
            {"x_lix_key": KEY, "x_api_key": KEY, "api_key": KEY},
            {"authorization": f"bearer  {KEY} ", "x_api_key": KEY},
        ):
            post(gateway.url, chat_body(str(headers)), **headers)
            assert KEY not in str(provider.calls[-1].headers), headers
        post(gateway.url, chat_body("own"), x_lix_key=KEY, authorization="Bearer sk-own")
        assert provider.calls[-1].headers["Authorization"] == "Bearer sk-own"


@pytest.mark.promise("bad-bytes")
def test_forged_entries_in_redis_are_misses(
    provider: Provider, gateway: RunningGateway, redis_server: RedisServer, redis_config: CacheConfig
) -> None:
    post(gateway.url, chat_body())
    gateway.settle()
    client = redis_server.client()
    (key,) = client.scan_iter(f"{redis_config.redis_key_prefix}*gw:answer*")
    good = client.get(key)
    head = struct.Struct("<4sddHH")
    magic, created, expires, length, tags = head.unpack_from(good)
    later = time.time() + 100
    times = [
        (float("nan"), later),
        (created, float("nan")),
        (float("-inf"), later),
        (-1e308, later),
        (1e300, 1e301),
    ]
    forged = [head.pack(magic, *pair, length, tags) + good[head.size :] for pair in times]
    forged += [b"", b"LXG2", good[:-1], good + b"x", good[:40], head.pack(magic, created, expires, 65535, 0)]
    start = head.size + length + tags  # before it is the model's name, by which an admin purges
    forged += [good[:at] + bytes((good[at] ^ 0x55,)) + good[at + 1 :] for at in range(start, len(good), 97)]
    for data in forged:
        client.set(key, data)
        gateway.core.memory.purge(lambda entry: True)
        reply = post(gateway.url, chat_body(), cache_control="only-if-cached")
        assert reply.status == 504, data[:60]
    client.set(key, good)
    assert post(gateway.url, chat_body(), cache_control="only-if-cached").status == 200
