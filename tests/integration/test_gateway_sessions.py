"""Sessions by X-Session-ID: the window goes before a single turn, and only where a setting says so."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any
from unittest.mock import Mock
from urllib.parse import quote

import pytest

from lix_cache import AsyncCacheCoordinator, CacheConfig, SessionKey, StoreAdmin
from lix_cache.admin import AsyncStoreAdmin
from lix_cache.errors import RedisUnavailable
from lix_cache.gateway.deletions import Marks
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.waiting import wait_until
from tests.support.wire import CHAT, MESSAGE, ask, chat_body, post

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"


@pytest.mark.parametrize("path", [CHAT, MESSAGE, "/v1/responses"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
def test_a_single_turn_gets_the_window_before_it(
    path: str, stream: bool, provider: Provider, redis_config: CacheConfig
) -> None:
    field = "input" if path == "/v1/responses" else "messages"
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        provider.calls.clear()
        for number in range(3):
            body = {"model": "m-1", field: [{"role": "user", "content": f"turn {number}"}], "max_tokens": 9}
            assert post(gateway.url, {**body, "stream": stream}, path, x_session_id="s 1").status == 200
            gateway.settle()
        turns = provider.calls[-1].json[field]
        assert [turn["role"] for turn in turns] == ["user", "assistant"] * 2 + ["user"]
        assert [turn["content"] for turn in turns[::2]] == ["turn 0", "turn 1", "turn 2"]
        assert turns[1]["content"].startswith("Scripted answer")


def test_a_hit_is_a_turn_too_and_whole_conversations_are_left_alone(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        post(gateway.url, chat_body("first"))
        assert post(gateway.url, chat_body("first"), x_session_id="s").state == "hit-l1-exact"
        gateway.settle()
        messages = ask(gateway.url, "GET", "/v1/sessions/s").json["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]
        own = {
            "model": "m-1",
            "messages": [{"role": role, "content": role} for role in ("user", "assistant", "user")],
        }
        post(gateway.url, own, x_session_id="s")
        assert provider.calls[-1].json == own


@pytest.mark.promise("no-leak")
def test_what_is_not_to_be_stored_is_no_turn(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        for number in range(2):
            asked = {"x_session_id": "s", "cache_control": "no-store"}
            assert post(gateway.url, chat_body(f"secret {number}"), **asked).status == 200
            gateway.settle()
        assert ask(gateway.url, "GET", "/v1/sessions/s").status == 404
        post(gateway.url, chat_body("plain"), x_session_id="s")
        gateway.settle()
        assert len(ask(gateway.url, "GET", "/v1/sessions/s").json["messages"]) == 2


@pytest.mark.parametrize("stream", [False, True])
def test_a_session_that_cannot_be_read_is_told_and_its_turn_is_answered(
    stream: bool, provider: Provider, tmp_path: Path
) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path)
        with RunningGateway(provider, config, sessions=True) as gateway:
            first = post(gateway.url, chat_body("first", stream=stream), x_session_id="s")
            assert "x-lix-session" not in first.headers
            gateway.settle()
            server.kill()
            provider.calls.clear()
            reply = post(gateway.url, chat_body("second", stream=stream), x_session_id="s")
            assert (reply.status, reply.headers.get("x-lix-session")) == (200, "unavailable")
            assert len(provider.calls[-1].json["messages"]) == 1


def _calls_of(monkeypatch: pytest.MonkeyPatch, kind: type, name: str) -> list[str]:
    """Note each call of a method."""
    method, calls = getattr(kind, name), list[str]()

    def noted(*args: Any, **options: Any) -> Any:
        calls.append(name)
        return method(*args, **options)

    monkeypatch.setattr(kind, name, noted)
    return calls


@pytest.mark.promise("no-stall")
def test_redis_that_hangs_is_waited_for_once(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads = _calls_of(monkeypatch, AsyncCacheCoordinator, "get_context_messages")
    lists = _calls_of(monkeypatch, AsyncStoreAdmin, "session_ids")
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=600)
        with RunningGateway(provider, config, sessions=True, redis_seconds=0.25) as gateway:
            library = gateway.core._library
            assert (library.redis_socket_timeout, library.redis_socket_connect_timeout) == (0.25, 0.25)
            server.pause()
            try:
                for number in range(4):  # sessions that nothing is known of, too
                    reply = post(gateway.url, chat_body(f"turn {number}"), x_session_id=f"s{number}")
                    assert (reply.status, reply.headers.get("x-lix-session")) == (200, "unavailable")
                    gateway.settle()
                for method, path in (
                    ("GET", ""),
                    ("GET", "/s1"),
                    ("GET", "/s1/export"),
                    ("DELETE", "/s1"),
                ):
                    assert ask(gateway.url, method, f"/v1/sessions{path}").status == 503
                assert (len(reads), len(lists)) == (1, 0), "the others knew that it is away"
            finally:
                server.resume()


@pytest.mark.promise("no-stall")
def test_a_list_that_redis_does_not_give_is_waited_for_once(
    provider: Provider, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lists = _calls_of(monkeypatch, AsyncStoreAdmin, "session_ids")
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=600)
        with RunningGateway(provider, config, sessions=True) as gateway:
            server.kill()
            for _ in range(3):
                reply = ask(gateway.url, "GET", "/v1/sessions")
                assert (reply.status, reply.headers["retry-after"]) == (503, "1")
            assert len(lists) == 1


@pytest.mark.promise("no-false-empty")
def test_a_part_of_a_session_is_not_shown_as_all_of_it(provider: Provider, tmp_path: Path) -> None:
    with RedisServer(appendonly=True) as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=0.001)
        with RunningGateway(provider, config, sessions=True) as gateway:
            post(gateway.url, chat_body("before"), x_session_id="s")
            gateway.settle()
            server.kill()
            for number in range(3):  # from the second on the archive has some turns, and not those of Redis
                reply = post(gateway.url, chat_body(f"meanwhile {number}"), x_session_id="s")
                assert (reply.status, reply.headers.get("x-lix-session")) == (200, "unavailable")
                assert provider.calls[-1].json == chat_body(f"meanwhile {number}")
                gateway.settle()
            assert ask(gateway.url, "GET", "/v1/sessions/s").status == 503
            assert ask(gateway.url, "GET", "/v1/sessions/s/export").status == 503
            server.restart()
            wait_until(
                lambda: ask(gateway.url, "GET", "/v1/sessions/s").status == 200, what="the session to be read"
            )
            turns = ask(gateway.url, "GET", "/v1/sessions/s").json["messages"][::2]
            said = [turn["content"] for turn in turns]
            assert said == ["before", *(f"meanwhile {number}" for number in range(3))]


@pytest.mark.parametrize("number", ["1e400", "1e-400", "1.00000000000000000001", "1" * 40])
def test_all_but_the_window_goes_out_as_it_came(
    number: str, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        post(gateway.url, chat_body("first"), x_session_id="s")
        gateway.settle()
        start, turn = (
            f'{{"x": {number}, "model":"m-1","messages" : [',
            '{"role":"user","content":"a \\u00e9"}] }',
        )
        assert post(gateway.url, (start + turn).encode(), x_session_id="s").status == 200
        sent = provider.calls[-1].body.decode()
        assert sent.startswith(start + '{"role":"user","content":"first"},{"role":"assistant",')
        assert sent.endswith("," + turn)


def test_half_a_character_in_a_turn_closes_no_session(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        message = {"role": "assistant", "content": "answer"}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        answer = {"id": "c", "object": "chat.completion", "created": 1, "model": "m-1", "choices": [choice]}
        for text in ("half \ud800", "next"):
            provider.said.append(("application/json", json.dumps(answer).encode()))
            assert post(gateway.url, chat_body(text), x_session_id="s").status == 200
            gateway.settle()
        said = [turn["content"] for turn in provider.calls[-1].json["messages"]]
        assert said[::2] == ["half \ud800", "next"]
        for path in ("", "/export"):
            reply = ask(gateway.url, "GET", f"/v1/sessions/s{path}")
            assert (reply.status, b"\\ud800" in reply.body) == (200, True)


def _under_way(gateway: RunningGateway, provider: Provider, text: str) -> threading.Thread:
    """Send a turn whose answer waits for the provider's gate."""
    provider.gate.clear()
    count = len(provider.calls)
    thread = threading.Thread(target=post, args=(gateway.url, chat_body(text)), kwargs={"x_session_id": "s"})
    thread.start()
    wait_until(lambda: len(provider.calls) > count, what="the turn to be under way")
    return thread


@pytest.mark.parametrize("is_new", [True, False])
@pytest.mark.parametrize("is_other", [True, False])
def test_a_deletion_wins_over_a_turn_that_is_under_way(
    is_new: bool, is_other: bool, provider: Provider, redis_config: CacheConfig
) -> None:
    with (
        RunningGateway(provider, redis_config, sessions=True) as gateway,
        RunningGateway(provider, redis_config, sessions=True) as other,
    ):
        if not is_new:
            post(gateway.url, chat_body("first"), x_session_id="s")
            gateway.settle()
        thread = _under_way(gateway, provider, "secret")
        at = other if is_other else gateway
        assert ask(at.url, "DELETE", "/v1/sessions/s").json == {"id": "s", "deleted": not is_new}
        provider.gate.set()
        thread.join()
        gateway.settle()
        for one in (gateway, other):
            assert ask(one.url, "GET", "/v1/sessions/s").status == 404
        post(gateway.url, chat_body("anew"), x_session_id="s")
        gateway.settle()
        messages = ask(other.url, "GET", "/v1/sessions/s").json["messages"]
        assert [message["role"] for message in messages] == ["user", "assistant"]


@pytest.mark.parametrize("is_before", [True, False], ids=["before", "after"])
def test_a_deletion_in_another_worker_wins_over_a_turn_that_is_being_kept(
    is_before: bool, provider: Provider, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = AsyncCacheCoordinator.add_messages_to_context
    with (
        RunningGateway(provider, redis_config, sessions=True) as gateway,
        RunningGateway(provider, redis_config, sessions=True) as other,
    ):

        async def adding(self: AsyncCacheCoordinator, turns: Any) -> Any:
            added = None if is_before else await add(self, turns)
            reply = await asyncio.to_thread(ask, other.url, "DELETE", "/v1/sessions/s")
            assert reply.status == 200
            return added or await add(self, turns)

        monkeypatch.setattr(AsyncCacheCoordinator, "add_messages_to_context", adding)
        post(gateway.url, chat_body("secret"), x_session_id="s")
        gateway.settle()
        for one in (gateway, other):
            assert ask(one.url, "GET", "/v1/sessions/s").status == 404


@pytest.mark.parametrize("fails", ["look", "deletion"])
def test_a_deletion_wins_over_a_turn_that_was_kept_because_redis_did_not_tell(
    fails: str, provider: Provider, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        RunningGateway(provider, redis_config, sessions=True) as gateway,
        RunningGateway(provider, redis_config, sessions=True) as other,
    ):
        thread, has, looks = _under_way(gateway, provider, "secret"), Marks.has, list[int]()
        ask(other.url, "DELETE", "/v1/sessions/s")

        async def silent(*of: Any) -> bool | None:
            looks.append(1)
            return await has(*of) if fails == "deletion" and len(looks) > 1 else None

        with monkeypatch.context() as patch:
            patch.setattr(Marks, "has", silent)
            patch.setattr(AsyncCacheCoordinator, "delete_message", Mock(side_effect=RedisUnavailable("no")))
            provider.gate.set()
            thread.join()
            gateway.settle()
            assert ask(other.url, "GET", "/v1/sessions/s").status == 200, "a turn is not lost for that"
            tries = len(looks)
            wait_until(lambda: len(looks) > tries, what="another try")
        wait_until(lambda: ask(other.url, "GET", "/v1/sessions/s").status == 404, what="the end of the turn")
        assert ask(gateway.url, "GET", "/v1/sessions/s").status == 404


@pytest.mark.parametrize("is_deleted", [True, False])
def test_turns_that_were_kept_while_redis_did_not_tell_are_one_thing_to_do_for_each_session(
    is_deleted: bool, provider: Provider, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    has, looks = Marks.has, list[bool | None]()

    async def silent(*_: Any) -> None:
        return None

    async def counted(*of: Any) -> bool | None:
        looks.append(await has(*of))
        return looks[-1]

    async def tells(patch: pytest.MonkeyPatch) -> None:
        patch.setattr(Marks, "has", counted)

    with (
        RunningGateway(provider, redis_config, sessions=True) as gateway,
        RunningGateway(provider, redis_config, sessions=True) as other,
    ):
        with monkeypatch.context() as patch:
            patch.setattr(Marks, "has", silent)
            for number in range(4):
                post(gateway.url, chat_body(f"turn {number}"), x_session_id="s")
                gateway.settle()
                if is_deleted and number == 2:
                    assert ask(other.url, "DELETE", "/v1/sessions/s").status == 200
            assert len(gateway.core.undone) == 1
            gateway.do(tells(patch))  # on its loop: not in the midst of a turn
            wait_until(lambda: not len(gateway.core.undone), what="what was undone")
        messages = ask(other.url, "GET", "/v1/sessions/s").json["messages"]
        said = [one["content"] for one in messages if one["role"] == "user"]
        assert said == [f"turn {number}" for number in ((3,) if is_deleted else range(4))]
        assert looks == ([True, True, True, True, False] if is_deleted else [False])


def test_a_reload_keeps_what_is_known_of_turns_under_way(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        assert gateway.core.reloaded(gateway.settings).sessions is gateway.core.sessions


def test_an_id_that_is_taken_can_be_read_and_deleted(provider: Provider, redis_config: CacheConfig) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        for name in (".", "..", "..;x", "..\\x", "x\\..", "a/b"):
            assert post(gateway.url, chat_body(), x_session_id=name).status == 400
        assert not provider.calls
        for name in ("...", "a..b", "*", "{1}", "%2e%2e", "a;b", "a\\b", "a?b#c", "export", "é", "日本"):
            sent = name.encode().decode("latin-1")
            assert post(gateway.url, chat_body(), x_session_id=sent).status == 200
            gateway.settle()
            assert ask(gateway.url, "GET", "/v1/sessions").json == {"sessions": [name]}
            path = f"/v1/sessions/{quote(name, safe='')}"
            assert len(ask(gateway.url, "GET", path).json["messages"]) == 2
            assert ask(gateway.url, "DELETE", path).json == {"id": name, "deleted": True}
            assert ask(gateway.url, "GET", path).status == 404


@pytest.mark.parametrize("field", ["previous_response_id", "conversation", "prompt"])
def test_what_the_provider_keeps_is_not_put_before_the_turn_too(
    field: str, provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config, sessions=True) as gateway:
        post(gateway.url, {"model": "m-1", "input": "first"}, "/v1/responses", x_session_id="s")
        gateway.settle()
        body = {"model": "m-1", "input": "second", field: {"id": "there"}}
        post(gateway.url, body, "/v1/responses", x_session_id="s")
        assert provider.calls[-1].json == body
        gateway.settle()
        assert len(ask(gateway.url, "GET", "/v1/sessions/s").json["messages"]) == 2


def test_the_header_means_nothing_unless_a_setting_says_so(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config) as gateway:
        for text in ("one", "two"):
            post(gateway.url, chat_body(text), x_session_id="s")
            gateway.settle()
        assert provider.calls[-1].json == chat_body("two")
        assert ask(gateway.url, "GET", "/v1/sessions").json["path"] == "/v1/sessions", "a path like any other"


@pytest.mark.promise("isolation")
def test_sessions_of_tenants_are_apart(provider: Provider, redis_config: CacheConfig) -> None:
    tenants = tuple(
        TenantSettings(name, (digest_of_key(key),), sessions=True)
        for name, key in (("ann", ANN), ("bob", BOB))
    )
    with RunningGateway(provider, redis_config, tenants=tenants) as gateway:
        post(gateway.url, chat_body("mine"), x_session_id="s", authorization=ANN)
        gateway.settle()
        post(gateway.url, chat_body("yours"), x_session_id="s", authorization=BOB)
        gateway.settle()
        assert provider.calls[-1].json == chat_body("yours")
        seen = {
            key: ask(gateway.url, "GET", "/v1/sessions/s/export", headers={"authorization": key}).body
            for key in (ANN, BOB)
        }
        assert b"mine" in seen[ANN]
        assert b"mine" not in seen[BOB]
        assert ask(gateway.url, "GET", "/v1/sessions", headers={"authorization": ANN}).json == {
            "sessions": ["s"]
        }
        admin = StoreAdmin(redis_config)
        for tenant in ("ann", "bob"):
            assert admin.session_ids(namespace=tenant) == [SessionKey(tenant, "s")]
        for name in ("..%2Fbob%2Fs", "ann%2Fs", "x" * 300):
            answer = ask(gateway.url, "GET", f"/v1/sessions/{name}", headers={"authorization": ANN})
            assert answer.status in (400, 404)
        assert post(gateway.url, chat_body(), x_session_id="../bob/s", authorization=ANN).status == 400
        assert (
            ask(gateway.url, "DELETE", "/v1/sessions/s", headers={"authorization": ANN}).json["deleted"]
            is True
        )
        assert ask(gateway.url, "GET", "/v1/sessions/s", headers={"authorization": ANN}).status == 404
        assert (
            b"yours" in ask(gateway.url, "GET", "/v1/sessions/s/export", headers={"authorization": BOB}).body
        )


def test_records_in_tool_results_go_in_fewer_tokens_where_a_setting_says_so(
    provider: Provider, redis_config: CacheConfig
) -> None:
    records = json.dumps([{"name": f"n{i}", "price": i, "stock": i * 2} for i in range(40)])
    body = chat_body()
    body["messages"] += [
        {
            "role": "assistant",
            "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "c", "content": records},
    ]
    with RunningGateway(provider, redis_config, encoders=("columns",)) as gateway:
        assert post(gateway.url, body).state == "miss"
        sent = provider.calls[-1].json["messages"]
        assert len(sent[-1]["content"]) < 0.7 * len(records)
        assert sent[:-1] == body["messages"][:-1]
        assert post(gateway.url, body).state == "hit-l1-exact"
        assert gateway.core.metrics.encoded_tokens > 0
    with RunningGateway(provider, redis_config) as plain:
        assert post(plain.url, body).state == "miss", "what is sent in another way has another key"
