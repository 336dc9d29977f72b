"""Which turns a session by X-Session-ID keeps where not all goes well."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

from lix_cache import AsyncCacheCoordinator, CacheConfig, StoreAdmin, close_async_redis_clients
from lix_cache._log import logger
from lix_cache.gateway.checking import checked
from lix_cache.gateway.settings import TenantSettings, read_settings
from lix_cache.gateway.tenants import digest_of_key
from tests.integration.test_gateway_local import Lab
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port
from tests.support.waiting import wait_until
from tests.support.wire import CHAT, MESSAGE, ask, chat_body, post

KEY = "ann-key-0123456789abcdef"
RESPONSES = "/v1/responses"
PATHS = pytest.mark.parametrize("path", [CHAT, MESSAGE, RESPONSES])
STREAM = pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])


def turns_of(path: str) -> str:
    """Return the field that the turns stand in."""
    return "input" if path == RESPONSES else "messages"


def turn(text: str, path: str, **more: Any) -> dict[str, Any]:
    limit = "max_output_tokens" if path == RESPONSES else "max_tokens"
    return {"model": "m-1", turns_of(path): [{"role": "user", "content": text}], limit: 9, **more}


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
        sent = provider.calls[-1].json[turns_of(path)]
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
        # The event says it too, whatever stands in its response.
        as_whole = {"status": "completed", "output": [{**item, "status": "completed"}]}
        for more in (ended, as_whole)[: 1 + stream]:
            data = json.dumps({**response, **more})
            if stream:
                data = 'data: {"type":"response.incomplete","response":' + data + "}\n\n"
            provider.said.append(("text/event-stream" if stream else "application/json", data.encode()))
            post(gateway.url, turn("first", RESPONSES, stream=stream), RESPONSES, x_session_id="s")
            assert kept(gateway) == []
        assert post(gateway.url, turn("first", RESPONSES), RESPONSES).state == "miss"


@pytest.fixture
def elsewhere(redis_config: CacheConfig, tmp_path: Path) -> CacheConfig:
    """The configuration of a second project folder on a Redis that a first one uses."""
    asyncio.run(_used(redis_config))
    return redis_config.replace(archive_dir=str(tmp_path / "other"))


async def _used(config: CacheConfig) -> None:
    await AsyncCacheCoordinator("s", config).add_message_to_context("user", "a")
    await close_async_redis_clients()


@pytest.mark.promise("no-loss")
@STREAM
@PATHS
def test_a_turn_that_is_not_kept_for_another_archive_says_so(
    path: str, stream: bool, provider: Provider, elsewhere: CacheConfig
) -> None:
    with RunningGateway(provider, elsewhere, sessions=True) as gateway:
        single = turn("one", path, stream=stream)
        whole = turn("two", path, stream=stream)
        field = turns_of(path)
        whole[field] = [*single[field], {"role": "assistant", "content": "a"}, *whole[field]]
        for body in (single, whole, whole):  # the last one is a hit
            reply = post(gateway.url, body, path, x_session_id="s")
            assert (reply.status, reply.headers.get("x-lix-session")) == (200, "not-kept")
            gateway.settle()
        assert reply.state == "hit-l1-exact"
        assert "x-lix-session" not in post(gateway.url, single, path).headers


@pytest.mark.promise("no-false-empty")
def test_routes_of_sessions_in_another_archive_answer_503_with_what_to_do(
    provider: Provider, elsewhere: CacheConfig
) -> None:
    routes = [("GET", ""), ("GET", "/s"), ("GET", "/s/export"), ("DELETE", "/s")]
    with RunningGateway(provider, elsewhere, sessions=True) as gateway:
        for method, path in routes:
            reply = ask(gateway.url, method, f"/v1/sessions{path}")
            assert (reply.status, reply.reason) == (503, "sessions_unavailable")
            assert "lix-cache archive adopt" in reply.json["error"]["message"]
    tenants = (TenantSettings("ann", (digest_of_key(KEY),), sessions=True),)
    with RunningGateway(provider, elsewhere, tenants=tenants) as gateway:
        for method, path in routes:
            reply = ask(gateway.url, method, f"/v1/sessions{path}", headers={"x-lix-key": KEY})
            assert reply.status == 503
            assert elsewhere.archive_dir.encode() not in reply.body, "folders are no business of a tenant"


def test_the_check_and_the_start_say_that_the_archive_is_another(
    provider: Provider, elsewhere: CacheConfig, redis_config: CacheConfig
) -> None:
    lines: list[str] = []
    heard = logger.add(lines.append, level="ERROR", format="{message}")
    logger.enable("lix_cache")
    try:
        with RunningGateway(provider, elsewhere, sessions=True):
            wait_until(lambda: any("ArchiveMismatch" in one for one in lines), what="the error in the log")
    finally:
        logger.remove(heard)
        logger.disable("lix_cache")
    upstreams = [{"name": "a", "url": provider.url}]
    settings = read_settings(None, {}, port=free_port(), upstreams=upstreams, sessions=True)
    found = checked(settings, elsewhere)
    assert "lix-cache archive adopt" in found["parts"]["sessions"]
    assert not found["ok"]
    assert checked(settings, redis_config)["parts"]["sessions"] == "ok"
    new = redis_config.replace(redis_key_prefix="never-used")
    assert checked(settings, new)["parts"]["sessions"] == "ok"
    assert StoreAdmin(new).is_of_other_prefixes(), "the check notes nothing"


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
