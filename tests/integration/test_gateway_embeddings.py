"""Embeddings through the gateway: each text by itself, both encodings from one vector."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import openai
import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.keeping import AT_ONCE
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import Reply, post

PATH = "/v1/embeddings"


@pytest.fixture
def gateway(provider: Provider, redis_config: CacheConfig) -> Iterator[RunningGateway]:
    with RunningGateway(provider, redis_config, retries=0) as running:
        yield running


def embed(gateway: RunningGateway, *texts: Any, **more: Any) -> Reply:
    headers = {name: more.pop(name) for name in list(more) if name.startswith(("cache_", "x_"))}
    return post(gateway.url, {"model": "m-e", "input": list(texts), **more}, PATH, **headers)


def vectors(reply: Reply) -> list[Any]:
    return [one["embedding"] for one in reply.json["data"]]


@pytest.mark.promise("right-answer")
def test_base64_and_float_from_one_vector(provider: Provider, gateway: RunningGateway) -> None:
    """Trap: base64 and float embeddings from one vector. The SDK asks for base64 by itself."""
    found = []
    for url in (provider.url, gateway.url, gateway.url):
        with openai.OpenAI(api_key="k", base_url=f"{url}/v1", max_retries=0, timeout=120) as client:
            for more in ({}, {"encoding_format": "float"}):
                made = client.embeddings.create(model="m-e", input=["a", "b"], **more)  # type: ignore[call-overload]
                found.append([one.embedding for one in made.data])
    assert all(one == found[0] for one in found)
    assert len(provider.calls) == 3, "two direct, and one for all the others"


def test_only_new_texts_are_sent_and_the_order_stays(provider: Provider, gateway: RunningGateway) -> None:
    whole = vectors(embed(gateway, "a", "b"))
    gateway.forget()
    mixed = embed(gateway, "c", "b", "a", "c")
    assert (mixed.state, mixed.reason) == ("miss", "partial")
    assert provider.calls[-1].json["input"] == ["c", "c"]
    assert vectors(mixed)[1:3] == whole[::-1]
    assert vectors(mixed)[0] == vectors(mixed)[3]
    assert embed(gateway, "c").state == "hit-l1-exact"
    assert embed(gateway, "a", dimensions=4).state == "miss", "another vector"


@pytest.mark.promise("no-stall")
def test_what_stands_beside_many_texts_is_digested_once(
    provider: Provider, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once for each text it would be gigabytes, and nobody else would be answered meanwhile."""
    digested = []
    plain = hashlib.sha256

    def counted(data: bytes = b"", **more: Any) -> Any:
        digested.append(len(data))
        return plain(data, **more)

    monkeypatch.setattr(hashlib, "sha256", counted)
    beside = "x" * 100_000
    reply = embed(gateway, *map(str, range(300)), task=beside)
    assert (reply.status, reply.state) == (200, "miss")
    assert len(digested) > 300
    assert sum(digested) < 10 * len(beside)


def test_control_headers(provider: Provider, gateway: RunningGateway) -> None:
    assert embed(gateway, "a", cache_control="only-if-cached").status == 504
    assert embed(gateway, "a", cache_control="no-store").state == "miss"
    assert embed(gateway, "a").state == "miss"
    assert embed(gateway, "a", "b", cache_control="no-store").state == "miss"
    assert provider.calls[-1].json["input"] == ["a", "b"]
    assert embed(gateway, "a", cache_control="no-cache").state == "miss"
    assert embed(gateway, "a", x_lix_cache_mode="off").state == "bypass"
    assert embed(gateway, "a").state == "hit-l1-exact"


@pytest.mark.parametrize("act", ["429", "500", "malformed", "error_event", "empty"])
def test_what_is_no_whole_answer_is_passed_on_and_not_kept(
    act: str, provider: Provider, gateway: RunningGateway
) -> None:
    provider.do(act)
    reply = embed(gateway, "a")
    assert reply.status == (int(act) if act.isdecimal() else 200)
    assert embed(gateway, "a").state == "miss"
    # In the middle of others: an error is the client's, half an answer is asked for again.
    provider.do(act)
    reply = embed(gateway, "a", "b")
    if act.isdecimal():
        assert reply.status == int(act)
        return
    assert (reply.status, len(vectors(reply))) == (200, 2)
    assert provider.calls[-1].json["input"] == ["a", "b"]


def test_what_is_no_text_is_a_bypass(gateway: RunningGateway) -> None:
    for given in ([], [None], ["a", 1]):
        assert post(gateway.url, {"model": "m-e", "input": given}, PATH).state == "bypass"
    tokens = {"model": "m-e", "input": [[1, 2], [3]]}
    assert [post(gateway.url, tokens, PATH).state for _ in range(2)] == ["miss", "hit-l1-exact"]
    assert post(gateway.url, {**tokens, "input": [3]}, PATH).state == "hit-l1-exact"


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("beside", [{"late_chunking": True}, {"output_dtype": "int8"}, {"new": "\r\nx"}])
def test_no_vector_that_may_depend_on_the_texts_around_it_is_served_among_others(
    beside: dict[str, Any], provider: Provider, gateway: RunningGateway
) -> None:
    assert embed(gateway, "The city is large.").state == "miss"
    for first in ("Of Berlin.", "Of Paris."):
        reply = embed(gateway, first, "The city is large.", **beside)
        assert (reply.state, reply.reason) == ("bypass", "field")
        assert provider.calls[-1].json["input"] == [first, "The city is large."]
    assert len(gateway.core.memory) == 1


def test_equal_requests_at_once_are_one_call(provider: Provider, gateway: RunningGateway) -> None:
    provider.gate.clear()
    got: list[Reply] = []
    threads = [threading.Thread(target=lambda: got.append(embed(gateway, "x", "y"))) for _ in range(8)]
    for thread in threads:
        thread.start()
    wait_until(lambda: gateway.core.metrics.open == 8)
    provider.gate.set()
    for thread in threads:
        thread.join(60)
    assert len(provider.calls) == 1
    assert len({str(vectors(reply)) for reply in got}) == 1


def together(
    provider: Provider, gateway: RunningGateway, count: int, *texts: str, **more: Any
) -> list[Reply]:
    """Send a request so often at once that all are there before the provider answers the first one."""
    provider.gate.clear()
    got: list[Reply] = []
    threads = [
        threading.Thread(target=lambda: got.append(embed(gateway, *texts, **more))) for _ in range(count)
    ]
    try:
        for thread in threads:
            thread.start()
        flights = gateway.core.flights
        wait_until(lambda: any(len(one._readers) == count for one in list(flights.values())))
    finally:
        provider.gate.set()
        for thread in threads:
            thread.join(60)
    return got


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("known", [(), ("x",)], ids=["all new", "one known"])
@pytest.mark.parametrize("act", ["429", "500", "malformed", "error_event", "empty", "reset"])
def test_equal_requests_share_what_is_not_kept_too(
    act: str, known: tuple[str, ...], provider: Provider, gateway: RunningGateway
) -> None:
    if known:
        embed(gateway, *known)
    asked = len(provider.calls)
    provider.do(act, act)
    replies = together(provider, gateway, 12, "x", "y")
    # What came for some of the texts and does not fit is asked for once more, as a whole and by one. So is
    # what a connection that was used before was reset at: it may have been closed just then.
    is_again = bool(known) and act in ("malformed", "error_event", "empty", "reset")
    assert len(provider.calls) - asked == 1 + is_again
    assert {reply.status for reply in replies} == {{"429": 429, "500": 500, "reset": 502}.get(act, 200)}
    assert len({reply.body for reply in replies}) == 1
    provider.acts.clear()
    assert embed(gateway, "x", "y").state == "miss"


@pytest.mark.promise("no-stall")
def test_equal_requests_share_an_answer_that_is_too_old_for_all_of_them(
    provider: Provider, gateway: RunningGateway
) -> None:
    """What has just come is what was asked for, however long its provider took."""
    replies = together(provider, gateway, 8, "x", "y", cache_control="max-age=0")
    assert len(provider.calls) == 1
    assert sorted(reply.reason for reply in replies) == ["exact"] + ["shared"] * 7
    assert len({str(vectors(reply)) for reply in replies}) == 1


def test_those_who_ask_for_something_else_do_not_follow(provider: Provider, gateway: RunningGateway) -> None:
    """A time to live and tags are each request's own, though they are no part of the key."""
    provider.gate.clear()
    got: list[Reply] = []
    kinds: list[dict[str, Any]] = [{}, {"x_lix_cache_ttl": "60"}, {"x_lix_cache_tags": "a"}]
    threads = [threading.Thread(target=lambda k=kind: got.append(embed(gateway, "x", **k))) for kind in kinds]
    for thread in threads:
        thread.start()
    wait_until(lambda: len(provider.calls) == 3)
    provider.gate.set()
    for thread in threads:
        thread.join(60)
    assert [reply.state for reply in got] == ["miss"] * 3


def _many(texts: int, dimensions: int, first: int = 0) -> tuple[str, bytes]:
    """Return an answer with so many vectors, in base64."""
    data = [
        {"object": "embedding", "index": i, "embedding": _vector(first + i, dimensions)} for i in range(texts)
    ]
    usage = {"prompt_tokens": texts, "total_tokens": texts}
    body = {"object": "list", "data": data, "model": "m-e", "usage": usage}
    return "application/json", json.dumps(body).encode()


def _vector(number: int, dimensions: int) -> str:
    return base64.b64encode(np.full(dimensions, number, dtype="<f4").tobytes()).decode()


@pytest.mark.promise("one-trip")
def test_a_large_batch_is_kept_and_only_new_texts_of_it_are_paid_for(
    provider: Provider, gateway: RunningGateway, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each text is kept by itself, so what the whole answer weighs is no reason to forget all of it."""
    texts = [f"text {i}" for i in range(1000)]
    sizes = []
    redis = gateway.core.redis
    assert redis is not None
    ask = redis.ask

    async def noted(*commands: Any) -> Any:
        sizes.append(len(commands))
        return await ask(*commands)

    monkeypatch.setattr(redis, "ask", noted)
    asked = len(provider.calls)
    provider.said.append(_many(1000, 1536))
    assert len(provider.said[0][1]) > gateway.settings.largest_answer_bytes
    first = embed(gateway, *texts, encoding_format="base64")
    assert (first.state, len(first.body) > 8_000_000) == ("miss", True)
    wait_until(lambda: gateway.core.metrics.stored == 1000, what="the vectors to be read and kept")
    gateway.forget()
    again = embed(gateway, *texts, encoding_format="base64")
    assert (again.state, again.reason) == ("hit-l1-exact", "redis")
    assert vectors(again) == vectors(first)
    assert max(sizes) <= AT_ONCE, "no round trip fills the connection of all the others"
    provider.said.append(_many(999, 1536, first=5000))
    mixed = embed(gateway, "text 0", *[f"new {i}" for i in range(999)], encoding_format="base64")
    assert (mixed.state, mixed.reason) == ("miss", "partial")
    assert vectors(mixed)[0] == vectors(first)[0]
    assert vectors(mixed)[1:] == [_vector(5000 + i, 1536) for i in range(999)]
    assert len(provider.calls) - asked == 2


def test_new_texts_are_asked_for_once_also_where_they_are_too_old_when_they_come(
    provider: Provider, gateway: RunningGateway
) -> None:
    """An age of 0 is over before any provider has answered."""
    embed(gateway, "a")
    wait_until(lambda: len(gateway.core.memory), what="the vector to be kept")
    asked = len(provider.calls)
    entry = next(iter(gateway.core.memory._entries.values()))
    fresh = dataclasses.replace(entry, created=entry.created + 3000, expires=entry.expires + 9000)
    gateway.core.memory._entries[next(iter(gateway.core.memory._entries))] = fresh
    mixed = embed(gateway, "a", "b", cache_control="max-age=0")
    assert (mixed.state, mixed.reason, len(vectors(mixed))) == ("miss", "partial", 2)
    assert [call.json["input"] for call in provider.calls[asked:]] == [["b"]]


def test_a_vector_that_is_larger_than_what_is_stored_is_not_stored(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, retries=0, largest_answer_bytes=300) as gateway:
        assert embed(gateway, "a").state == "miss"
        wait_until(lambda: gateway.core.metrics.not_stored["too_large"], what="the vector to be read")
        assert len(gateway.core.memory) == 0
        assert gateway.core.metrics.not_stored["too_large"] == 1
