"""Embeddings through the gateway: each text by itself, both encodings from one vector."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from lix_cache import CacheConfig
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
