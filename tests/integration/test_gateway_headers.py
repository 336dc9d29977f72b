"""The gateway's own headers in a request: those that it knows, and those that nobody would heed."""

from __future__ import annotations

import json

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway.headers import Control, Verdict, read_control, told
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import CHAT, ask, chat_body, post


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("path", [CHAT, "/v1/embeddings"])
def test_a_mistyped_header_of_the_gateway_is_refused_and_those_of_answers_are_harmless(
    path: str, provider: Provider, redis_config: CacheConfig
) -> None:
    body = {"model": "m-1", "input": "a"} if path != CHAT else chat_body()
    with RunningGateway(provider, redis_config) as gateway:
        first = post(gateway.url, body, path)
        for name in ("x_lix_cache_nmespace", "x_lix_cache_", "x_lix_cache_tag", "X_Lix_Cache_Max_Age"):
            reply = post(gateway.url, body, path, **{name: "a"})
            assert (reply.status, reply.reason) == (400, "invalid_header")
            assert "x-lix-cache-namespace" in reply.json["error"]["message"]
        gateway.settle()
        hit = post(gateway.url, body, path)
        assert (first.state, hit.state) == ("miss", "hit-l1-exact")
        for one in (first, hit):
            echoed = {name: value for name, value in one.headers.items() if name.startswith("x-lix-")}
            assert {"x-lix-cache", "x-lix-cache-reason", "x-lix-cache-added-ms"} <= echoed.keys()
            data = json.dumps(body).encode()
            assert ask(gateway.url, "POST", path, data, echoed).state == "hit-l1-exact"


def test_every_header_of_an_answer_may_come_back() -> None:
    verdict = Verdict("hit-l2-semantic", "semantic", 1.0, 0.9, (1, 2))
    sent = {name.decode(): value.decode() for name, value in told(verdict, 0.1)}
    assert len([name for name in sent if name.startswith("x-lix-cache-")]) == 4
    assert read_control({**sent, "x-lix-session": "unavailable"}) == Control()
