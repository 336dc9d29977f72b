"""Equal requests at once: one goes upstream, and each of the others gets what it asked for itself."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import RedisUnavailable
from lix_cache.messages.session_key import SessionKey
from lix_cache.semantic.cache import AsyncSemanticCache
from tests.support.meaning import Meanings, mix
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, MESSAGE, Reply, chat_body, half_read, post

RESPONSE = "/v1/responses"
_OWN = frozenset({"id", "created", "created_at"})
BODIES: dict[str, dict[str, Any]] = {
    CHAT: chat_body(),
    MESSAGE: chat_body(max_tokens=50),
    RESPONSE: {"model": "m-1", "input": "Where?", "store": False},
}


@pytest.fixture
def gateway(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    with RunningGateway(provider, redis_config, retries=0) as running:
        yield running


def together(
    provider: Provider, gateway: RunningGateway, body: dict[str, Any], path: str, count: int
) -> list[Reply]:
    """Send a request so often at once that all are there before the provider answers the first one."""
    got: list[Reply] = []
    provider.gate.clear()
    threads = [
        threading.Thread(target=lambda: got.append(post(gateway.url, body, path))) for _ in range(count)
    ]
    try:
        for thread in threads:
            thread.start()
        metrics = gateway.core.metrics
        wait_until(
            lambda: got or metrics.open == count, what=lambda: f"{count} open requests, not {metrics.open},"
        )
        early = [(reply.status, reply.state, reply.body[:500]) for reply in got]
        assert not early, "answered before the provider was"
    finally:
        provider.gate.set()
        for thread in threads:
            thread.join(60)
    return got


def without_own(reply: Reply) -> Any:
    """Return a body without what is each answer's own."""
    if not reply.body.startswith(b"{"):
        body = re.sub(rb'"(?:id|created|created_at)": ?(?:"[^"]*"|\d+),?', b"", reply.body)
        return [
            json.dumps(json.loads(line[6:]), sort_keys=True)
            for line in body.split(b"\n")
            if line[:7] == b"data: {"
        ]
    try:
        value = reply.json
    except ValueError:
        return re.sub(rb'"id": ?"[^"]*"', b"", reply.body)
    return json.dumps({name: part for name, part in value.items() if name not in _OWN}, sort_keys=True)


def id_of(reply: Reply) -> bytes:
    found = re.search(rb'"id": ?"([^"]+)"', reply.body)
    return b"" if found is None else found[1]


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("path", BODIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("act", ["ok", "truncated", "error_event", "429", "500", "reset", "malformed", "cut"])
def test_100_equal_requests_at_once_make_one_call_whatever_it_brings(
    act: str, stream: bool, path: str, provider: Provider, gateway: RunningGateway
) -> None:
    provider.do(act)
    count = 100 if act == "ok" else 20
    body = {**BODIES[path], **({"stream": True} if stream else {})}
    replies = together(provider, gateway, body, path, count)
    assert len(provider.calls) == 1
    if act == "cut" and not stream:
        # To the first it broke off in the middle. To the others nothing had been said yet.
        statuses = sorted((reply.status, reply.is_whole) for reply in replies)
        assert statuses == [(200, False), *[(502, True)] * (count - 1)]
    elif not (act == "malformed" and stream):
        said = [(reply.status, reply.is_whole, without_own(reply)) for reply in replies]
        assert said == said[:1] * count
    if act in ("ok", "truncated") or (stream and act in ("error_event", "cut")):
        assert len({id_of(reply) for reply in replies}) == count, "each has an id of its own"
    gateway.settle()
    assert len(gateway.core.memory) == (1 if act == "ok" else 0)


@contextmanager
def hanging_embedder(
    provider: Provider, redis_config: CacheConfig
) -> Iterator[tuple[Meanings, RunningGateway]]:
    """A gateway that knows an answer to all questions, and an embedder that hangs until its gate is open."""
    everything = Meanings()
    everything._one = lambda text: mix(a=1.0)  # type: ignore[method-assign]
    with RunningGateway(provider, redis_config, embedder=everything, retries=0) as gateway:
        post(gateway.url, chat_body("Where is the billing page?"))
        gateway.settle()
        everything.gate.clear()
        yield everything, gateway


@pytest.mark.promise("right-answer")
def test_who_asks_for_something_else_does_not_follow(provider: Provider, redis_config: CacheConfig) -> None:
    """Mode, threshold and age are each request's own, though they are no part of the key."""
    with hanging_embedder(provider, redis_config) as (everything, gateway):
        got: dict[str, Reply] = {}
        other = chat_body("Where is the billing page please?")
        threads = []
        for name, headers in (("any", {}), ("exact", {"x_lix_cache_mode": "exact"})):

            def send(name: str = name, headers: Any = headers) -> None:
                got[name] = post(gateway.url, other, **headers)

            threads.append(
                threading.Thread(
                    target=lambda n=name, h=headers: got.update({n: post(gateway.url, other, **h)})
                )
            )
            threads[-1].start()
            wait_until(lambda: gateway.core.metrics.open >= 1 or got)
        wait_until(lambda: "exact" in got)
        everything.gate.set()
        for thread in threads:
            thread.join(60)
        assert got["exact"].state == "miss"
        assert got["any"].state in ("hit-l2-semantic", "miss")


@pytest.mark.promise("no-stall")
def test_who_will_not_store_is_not_waited_for(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config, embedder=Meanings(), retries=0) as gateway:
        for headers in ({"cache_control": "no-store"}, {"cache_control": "only-if-cached"}):
            post(gateway.url, chat_body("How do I reset my modem?"), **headers)
            cache = gateway.core.meaning.cache("local")  # type: ignore[union-attr]
            gateway.settle()
            assert not cache.local_stats.get("calls_in_flight", 0)
        assert post(gateway.url, chat_body("How do I reset my modem?")).reason == "empty"


def test_only_if_cached_is_answered_by_meaning_too_and_never_with_less_than_was_asked_for(
    provider: Provider, redis_config: CacheConfig
) -> None:
    everything = Meanings()
    everything._one = lambda text: mix(a=1.0)  # type: ignore[method-assign]
    only = {"cache_control": "only-if-cached"}
    with RunningGateway(provider, redis_config, embedder=everything) as gateway:
        post(gateway.url, chat_body("Where is the billing page?", stream=True))
        gateway.settle()
        again = chat_body("Where is the billing page please?", stream=True)
        assert post(gateway.url, again, **only).state == "hit-l2-semantic"
        for _ in range(2):
            assert post(gateway.url, chat_body("Where is the billing page?"), **only).status == 504, (
                "no tokens"
            )
            gateway.forget()
        assert len(provider.calls) == 1


def test_the_first_of_many_may_leave(provider: Provider, gateway: RunningGateway) -> None:
    provider.gate.clear()
    body = chat_body("leaving", stream=True)
    got: list[Reply] = []
    others = [threading.Thread(target=lambda: got.append(post(gateway.url, body))) for _ in range(10)]

    def join() -> None:
        for thread in others:
            thread.start()
        wait_until(lambda: gateway.core.metrics.open == 11)

    half_read(gateway.port, body, until=b"data:", when=join)
    wait_until(lambda: gateway.core.metrics.open == 10)
    provider.gate.set()
    for thread in others:
        thread.join(30)
    assert [b"[DONE]" in reply.body for reply in got] == [True] * 10
    assert len(provider.calls) == 1


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("known", ["session", "traces"])
def test_who_leaves_a_stream_that_is_also_kept_elsewhere_ends_the_providers_call(
    known: str, provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    """What a session or a span wants to know of the answer is no reason to pay for it to its end."""
    config = redis_config.replace(archive_dir=str(tmp_path))
    settings: dict[str, Any] = {"sessions": True} if known == "session" else {"traces": True}
    if known == "traces":
        pytest.importorskip("opentelemetry", reason="OpenTelemetry is not installed")
    headers = {"x_session_id": "s"} if known == "session" else {}
    with RunningGateway(provider, config, retries=0, **settings) as gateway:
        provider.gate.clear()
        ended = provider.cancelled
        half_read(gateway.port, chat_body("leaving", stream=True), until=b"data:", **headers)
        wait_until(lambda: provider.cancelled > ended, what="the end of the provider's call")
        wait_until(lambda: gateway.core.metrics.open == 0, what="the end of the request")
        provider.gate.set()
        gateway.settle()
        assert len(gateway.core.memory) == 0
        if gateway.core.sessions is not None:
            assert not gateway.do(gateway.core.sessions.window(SessionKey("local", "s")))


@pytest.mark.promise("right-answer")
def test_a_follower_of_what_was_found_says_how_it_was_found(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with hanging_embedder(provider, redis_config) as (everything, gateway):
        got: list[Reply] = []
        other = chat_body("Where is the billing page please?")
        threads = [threading.Thread(target=lambda: got.append(post(gateway.url, other))) for _ in range(5)]
        try:
            for thread in threads:
                thread.start()
            flights = gateway.core.flights
            # The first one has no reader while it looks.
            wait_until(lambda: any(len(one._readers) == 4 for one in list(flights.values())))
        finally:
            everything.gate.set()
        for thread in threads:
            thread.join(60)
        assert len(provider.calls) == 1
        found = {(reply.state, reply.reason, reply.headers["x-lix-cache-similarity"]) for reply in got}
        assert [(state, reason) for state, reason, _ in found] == [("hit-l2-semantic", "semantic")]
        assert len({reply.headers["x-lix-cache-saved-tokens"] for reply in got}) == 1


@pytest.mark.promise("right-answer")
def test_a_fresh_answer_of_the_cache_alone_is_none(provider: Provider, redis_config: CacheConfig) -> None:
    everything = Meanings()
    everything._one = lambda text: mix(a=1.0)  # type: ignore[method-assign]
    both = {"cache_control": "no-cache, only-if-cached"}
    with RunningGateway(provider, redis_config, embedder=everything, retries=0) as gateway:
        post(gateway.url, chat_body("Where is the billing page?"))
        gateway.forget()
        for text in ("Where is the billing page?", "Where is the billing page please?"):
            reply = post(gateway.url, chat_body(text), **both)
            assert (reply.status, reply.reason) == (504, "not_cached")
        assert post(gateway.url, {"model": "m-e", "input": "x"}, "/v1/embeddings", **both).status == 504


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("where", ["memory", "redis", "meaning"])
def test_a_miss_because_of_what_is_stored_says_so(
    where: str, provider: Provider, redis_config: CacheConfig
) -> None:
    """Not as if it had been a hit, nor as if nothing was there."""
    everything = Meanings()
    everything._one = lambda text: mix(a=1.0)  # type: ignore[method-assign]
    with RunningGateway(provider, redis_config, embedder=everything, retries=0) as gateway:
        # Whoever asks for a stream without its tokens leaves an answer without them.
        post(gateway.url, chat_body("Where is the billing page?", stream=True))
        gateway.settle()
        if where != "memory":
            gateway.forget()
        please = " please" if where == "meaning" else ""
        reply = post(gateway.url, chat_body(f"Where is the billing page{please}?"))
        assert (reply.state, reply.reason) == ("miss", "unsuited")


def test_trouble_of_the_second_tier_is_a_miss_with_a_word_of_its_own(
    provider: Provider, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def failing(*args: object, **more: object) -> None:
        raise RedisUnavailable("scripted")

    monkeypatch.setattr(AsyncSemanticCache, "begin", failing)
    with RunningGateway(provider, redis_config, embedder=Meanings(), retries=0) as gateway:
        reply = post(gateway.url, chat_body("Where is the billing page?"))
        assert (reply.state, reply.reason) == ("miss", "meaning_failed")
