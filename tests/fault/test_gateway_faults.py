"""The gateway in trouble: the client gets what it would have got directly, and nothing partial is kept."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from tests.support import RedisServer
from tests.support.meaning import Meanings
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port, wait_until
from tests.support.wire import CHAT, MESSAGE, ask, chat_body, half_read, post

PATHS = {
    CHAT: chat_body(),
    MESSAGE: chat_body(max_tokens=50),
    "/v1/responses": {"model": "m-1", "input": "Where?", "store": False},
}


@pytest.fixture
def gateway(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    with RunningGateway(provider, redis_config, retries=0) as running:
        yield running


def keys_of(server: RedisServer, config: CacheConfig) -> list[bytes]:
    """Return what is stored, but for the counts by minute, and what is told of what was dropped."""
    found = server.client().scan_iter(f"{config.redis_key_prefix}:*")
    return [key for key in found if b":gw:minutes:" not in key and b":gw:dropped:" not in key]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(
    "act", ["429", "500", "truncated", "empty", "malformed", "error_event", "short", "cut", "unknown"]
)
def test_nothing_but_a_whole_answer_is_stored(
    act: str,
    stream: bool,
    path: str,
    provider: Provider,
    gateway: RunningGateway,
    redis_server: RedisServer,
    redis_config: CacheConfig,
) -> None:
    if not stream and act in ("short", "unknown"):
        pytest.skip("only of streams")
    if stream and act == "empty":
        pytest.skip("only of bodies")
    body = {**PATHS[path], **({"stream": True} if stream else {})}
    provider.do(act, act)
    direct, through = post(provider.url, body, path), post(gateway.url, body, path)
    assert through.status == direct.status
    assert through.is_whole == direct.is_whole
    assert len(through.body) == pytest.approx(len(direct.body), abs=64), "as much of it came"
    gateway.settle()
    assert len(gateway.core.memory) == 0
    assert keys_of(redis_server, redis_config) == []
    assert post(gateway.url, body, path).state == "miss"
    assert post(gateway.url, body, path).state == "hit-l1-exact", "what came whole afterwards is kept"


def test_a_provider_that_resets_is_a_bad_gateway(provider: Provider, gateway: RunningGateway) -> None:
    provider.do("reset")
    reply = post(gateway.url, chat_body())
    assert (reply.status, reply.json["error"]["message"].split(" (")[0]) == (
        502,
        "the provider cannot be reached",
    )
    assert post(gateway.url, chat_body()).status == 200


def test_a_provider_that_hangs_is_a_time_out(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config, retries=0, read_seconds=0.2) as gateway:
        provider.do("hang")
        assert post(gateway.url, chat_body()).status == 504


def test_a_provider_that_is_not_there(redis_config: CacheConfig) -> None:
    with RunningGateway(f"http://127.0.0.1:{free_port()}", redis_config, retries=0) as gateway:
        reply = post(gateway.url, {**chat_body(), "max_tokens": 1}, MESSAGE)
        assert (reply.status, reply.json["type"]) == (502, "error")
        assert reply.json["error"]["message"].endswith(", ECONNREFUSED)"), "operators see why, and no address"


def test_a_client_that_leaves_ends_the_call_and_nothing_is_stored(
    provider: Provider, gateway: RunningGateway, redis_server: RedisServer, redis_config: CacheConfig
) -> None:
    """Trap: upstream drained and stored after the client left."""
    for stream in (False, True):
        provider.gate.clear()
        before, calls = provider.cancelled, len(provider.calls)
        half_read(
            gateway.port,
            chat_body(stream=stream),
            until=b"data:" if stream else b"",
            when=lambda calls=calls: wait_until(lambda: len(provider.calls) > calls),
        )
        wait_until(lambda before=before: provider.cancelled > before, what="the provider's call to end")
        provider.gate.set()
        wait_until(lambda: not gateway.core.flights and not gateway.core.metrics.open)
        gateway.settle()
        assert (len(gateway.core.memory), keys_of(redis_server, redis_config)) == (0, [])


def test_a_client_that_leaves_does_not_end_it_for_the_others(
    provider: Provider, gateway: RunningGateway
) -> None:
    provider.gate.clear()
    leaver = threading.Thread(
        target=half_read, args=(gateway.port, chat_body(stream=True)), kwargs={"until": b"data:"}
    )
    leaver.start()
    leaver.join()
    got: list[Any] = []
    stays = threading.Thread(target=lambda: got.append(post(gateway.url, chat_body(stream=True))))
    # The first one has left, or is about to: whichever it is, the second gets all of it.
    stays.start()
    wait_until(lambda: gateway.core.metrics.open >= 1)
    provider.gate.set()
    stays.join(20)
    assert got[0].is_whole
    assert got[0].text.startswith("Scripted answer")
    assert b"[DONE]" in got[0].body


def test_a_setting_lets_an_abandoned_call_finish(provider: Provider, redis_config: CacheConfig) -> None:
    provider.acts.clear()
    with RunningGateway(provider, redis_config, finish_abandoned=True) as gateway:
        provider.gate.clear()
        half_read(gateway.port, chat_body(stream=True), until=b"data:")
        wait_until(lambda: not gateway.core.metrics.open)
        provider.gate.set()
        wait_until(lambda: len(gateway.core.memory) == 1)
        assert post(gateway.url, chat_body()).state == "miss", "its stream did not ask for the tokens"
        assert post(gateway.url, chat_body(stream=True)).state == "hit-l1-exact"


@pytest.mark.promise("no-stall")
def test_redis_killed_and_restarted(provider: Provider, tmp_path: Path) -> None:
    provider.acts.clear()
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=0.1)
        with RunningGateway(provider, config) as gateway:
            assert post(gateway.url, chat_body()).state == "miss"
            gateway.settle()
            known = gateway.core.dropped.position
            server.kill()
            for number in range(5):
                reply = post(gateway.url, chat_body(f"number {number}"))
                assert (reply.status, reply.state) == (200, "miss")
                assert post(gateway.url, chat_body(f"number {number}")).state == "hit-l1-exact"
            assert ask(gateway.url, "GET", "/ready").json["redis"] == "away"
            server.start()
            wait_until(lambda: ask(gateway.url, "GET", "/ready").json["redis"] == "ok")
            # Nothing says what was purged meanwhile: what is under way then is not kept.
            wait_until(lambda: gateway.core.dropped.position not in (None, known), what="a look")
            post(gateway.url, chat_body("after"))
            gateway.forget()
            assert post(gateway.url, chat_body("after")).reason == "redis"


@pytest.mark.promise("no-stall")
def test_a_redis_that_hangs_delays_one_request_by_its_deadline(provider: Provider, tmp_path: Path) -> None:
    provider.acts.clear()
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=60)
        with RunningGateway(provider, config, redis_seconds=0.1) as gateway:
            post(gateway.url, chat_body())
            gateway.settle()
            server.pause()
            for number in range(20):
                assert post(gateway.url, chat_body(f"number {number}")).status == 200
            assert gateway.core.redis is not None
            gateway.settle()
            assert gateway.core.redis.troubles == 1, "one found out; the others did not wait"
            server.resume()


@pytest.mark.promise("no-stall")
def test_a_hung_embedder_parks_no_requests(provider: Provider, redis_config: CacheConfig) -> None:
    """Trap: a dead embedder that parks requests (litellm#37742)."""
    provider.acts.clear()
    embedder = Meanings()
    with RunningGateway(provider, redis_config, embedder=embedder, embedder_seconds=0.5) as gateway:
        post(gateway.url, chat_body())
        gateway.settle()
        embedder.gate.clear()
        asked = len(embedder.asked)
        try:
            replies = [post(gateway.url, chat_body(f"Where is number {n}?")) for n in range(10)]
            assert {reply.status for reply in replies} == {200}
            assert replies[0].reason == "embedder_timeout"
            assert replies[-1].reason == "embedder_paused"
            assert len(embedder.asked) - asked <= 2
        finally:
            embedder.gate.set()


def test_an_answer_that_is_too_large_passes_and_is_not_stored(
    provider: Provider, redis_config: CacheConfig
) -> None:
    provider.acts.clear()
    with RunningGateway(provider, redis_config, largest_answer_bytes=300) as gateway:
        for stream in (False, True):
            direct = post(provider.url, chat_body(stream=stream))
            through = post(gateway.url, chat_body(stream=stream))
            assert through.text == direct.text
            assert through.is_whole
        assert len(gateway.core.memory) == 0


def test_equal_requests_behind_one_that_fails_get_an_answer_too(
    provider: Provider, gateway: RunningGateway
) -> None:
    for act, statuses in (("500", {500}), ("cut", {200}), ("short", {200})):
        provider.do(act)
        provider.gate.clear()
        provider.seconds = 0.2
        got: list[Any] = []
        threads = [
            threading.Thread(
                target=lambda got=got, act=act: got.append(post(gateway.url, chat_body(act, stream=True)))
            )
            for _ in range(4)
        ]
        for thread in threads:
            thread.start()
        wait_until(lambda: gateway.core.metrics.open == 4)
        provider.gate.set()
        for thread in threads:
            thread.join(60)
        provider.seconds = 0.0
        assert {reply.status for reply in got} == statuses
        whole = {b"[DONE]" in reply.body for reply in got if reply.status == 200}
        assert whole in (set(), {False}), "all followed the same stream, and saw it end as it did"
        assert post(gateway.url, chat_body(act, stream=True)).state == "miss"


def test_events_are_passed_on_as_they_come(provider: Provider, gateway: RunningGateway) -> None:
    """The first bytes are there while the provider still holds the last ones back: of both equal requests."""
    import socket

    provider.gate.clear()
    data = json.dumps(chat_body("slowly", stream=True)).encode()
    head = f"POST {CHAT} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n".encode()
    connections = [socket.create_connection(("127.0.0.1", gateway.port), 10) for _ in range(2)]
    try:
        for connection in connections:
            connection.sendall(head + data)
            seen = b""
            while b"data:" not in seen:
                seen += connection.recv(1 << 16)
        assert len(provider.calls) == 1
    finally:
        provider.gate.set()
        for connection in connections:
            connection.close()


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("act", ["429", "500"])
def test_each_of_equal_requests_at_once_gets_the_whole_error(
    act: str, stream: bool, provider: Provider, gateway: RunningGateway
) -> None:
    provider.acts.append(act)
    provider.gate.clear()
    answers: list[Any] = []
    body = chat_body("The same question?", stream=stream)
    threads = [threading.Thread(target=lambda: answers.append(post(gateway.url, body))) for _ in range(20)]
    for thread in threads:
        thread.start()
    wait_until(lambda: gateway.core.metrics.open == 20)
    provider.gate.set()
    for thread in threads:
        thread.join()
    assert len(provider.calls) == 1
    assert {answer.status for answer in answers} == {int(act)}
    assert len({answer.body for answer in answers}) == 1
    assert "error" in json.loads(answers[0].body)
