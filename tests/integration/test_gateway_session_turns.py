"""Which turns a session by X-Session-ID keeps where not all goes well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lix_cache import CacheConfig
from tests.integration.test_gateway_local import Lab
from tests.support.provider import Provider, RunningGateway
from tests.support.waiting import wait_until
from tests.support.wire import CHAT, MESSAGE, ask, chat_body, post

RESPONSES = "/v1/responses"
PATHS = pytest.mark.parametrize("path", [CHAT, MESSAGE, RESPONSES])
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def turn(text: str, path: str, **more: Any) -> dict[str, Any]:
    field = "input" if path == RESPONSES else "messages"
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    return {"model": "m-1", field: [{"role": "user", "content": text}], limit: 9, **more}


def kept(gateway: RunningGateway) -> list[dict[str, Any]]:
    # The client has its last byte before the turn is put away.
    wait_until(lambda: gateway.core.metrics.open == 0, what="the end of the request")
    gateway.settle()
    reply = ask(gateway.url, "GET", "/v1/sessions/s")
    return [] if reply.status == 404 else reply.json["messages"]


@pytest.mark.promise("no-loss")
@STREAM
@PATHS
def test_a_turn_whose_answer_a_limit_cut_is_a_turn_of_its_session(
    path: str, stream: bool, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        provider.do("truncated")
        first = post(gateway.url, turn("first", path, stream=stream), path, x_session_id="s")
        assert first.status == 200
        question, answer = kept(gateway)
        assert (question["role"], question["content"]) == ("user", "first")
        assert answer["role"] == "assistant"
        assert answer["content"].startswith("Scripted answer")
        post(gateway.url, turn("continue", path, stream=stream), path, x_session_id="s")
        sent = provider.calls[-1].json["input" if path == RESPONSES else "messages"]
        assert [one["content"] for one in sent] == ["first", answer["content"], "continue"]
        # The cache of answers is no conversation.
        assert post(gateway.url, turn("first", path), path).state == "miss"
        assert gateway.core.metrics.not_stored["truncated"] == 1


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("act", ["error_event", "cut", "empty", "529"])
@STREAM
@PATHS
def test_an_answer_that_failed_is_no_turn(
    path: str, stream: bool, act: str, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, sessions=True, retries=0) as gateway:
        if act == "empty":
            said: dict[str, Any] = {
                CHAT: {"choices": [{"index": 0, "message": {"role": "assistant", "content": ""}}]}
            }
            said[CHAT]["choices"][0]["finish_reason"] = "length"
            said[MESSAGE] = {"type": "message", "content": [], "stop_reason": "max_tokens"}
            cut = {"reason": "max_output_tokens"}
            said[RESPONSES] = {"status": "incomplete", "incomplete_details": cut, "output": []}
            provider.said.append(("application/json", json.dumps(said[path]).encode()))
        else:
            provider.do(act)
        post(gateway.url, turn("first", path, stream=stream), path, x_session_id="s")
        assert kept(gateway) == []


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("reason", ["content_filter", None])
@STREAM
def test_a_response_that_another_thing_than_its_length_ended_is_no_turn(
    reason: str | None, stream: bool, provider: Provider, redis_config: CacheConfig
) -> None:
    part = {"type": "output_text", "text": "half of", "annotations": []}
    item = {"type": "message", "id": "m", "role": "assistant", "status": "incomplete", "content": [part]}
    response = {"id": "r", "object": "response", "model": "m-1", "created_at": 1, "output": [item]}
    ended = {"status": "incomplete", "incomplete_details": reason and {"reason": reason}}
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        for more in (ended, {"status": "completed"})[: 1 + stream]:
            data = json.dumps({**response, **more})
            if stream:
                data = 'data: {"type":"response.incomplete","response":' + data + "}\n\n"
            provider.said.append(("text/event-stream" if stream else "application/json", data.encode()))
            post(gateway.url, turn("first", RESPONSES, stream=stream), RESPONSES, x_session_id="s")
            assert kept(gateway) == []
        assert post(gateway.url, turn("first", RESPONSES), RESPONSES).state == "miss"


@pytest.mark.promise("no-leak")
def test_a_cut_answer_that_is_not_to_be_stored_is_no_turn(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        provider.do("truncated")
        post(gateway.url, chat_body("secret"), x_session_id="s", cache_control="no-store")
        assert kept(gateway) == []


@pytest.mark.promise("no-loss")
@STREAM
@PATHS
def test_a_turn_that_a_local_models_limit_cut_is_a_turn_of_its_session(
    path: str, stream: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, redis_config: CacheConfig
) -> None:
    with Lab(tmp_path / "kv", monkeypatch).gateway(redis_config, sessions=True) as gateway:
        reply = post(gateway.url, turn("first", path, stream=stream), path, x_session_id="s")
        assert reply.status == 200
        assert [one["role"] for one in kept(gateway)] == ["user", "assistant"]
        assert gateway.core.metrics.not_stored["truncated"] == 1, "the limit cut it"
