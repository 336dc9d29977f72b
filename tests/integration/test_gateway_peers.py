"""Traps that caching gateways have fallen into, through the real gateway, on every protocol concerned."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.support import provider_wire as wire
from tests.support.provider import Provider, RunningGateway
from tests.support.wire import CHAT, MESSAGE, Reply, chat_body, post

RESPONSE = "/v1/responses"
JSON, SSE = "application/json", "text/event-stream"
ASKED: dict[str, dict[str, Any]] = {
    CHAT: chat_body(),
    MESSAGE: chat_body(max_tokens=50),
    RESPONSE: {"model": "m-1", "input": [{"role": "user", "content": "Where?"}], "store": False},
}
#: Good streams, as events.
STREAMS: dict[str, list[dict[str, Any]]] = {
    CHAT: [wire.chunk([one]) for one in wire.TEXT_PIECES],
    MESSAGE: wire.message_events(wire.CONTENTS["text"]),
    RESPONSE: wire.response_events(wire.OUTPUTS["text"]),
}


def frames(path: str, events: list[dict[str, Any]], *, done: bool = True) -> bytes:
    return wire.sse(events, named=path != CHAT, done=done and path == CHAT)


def is_kept(gateway: RunningGateway, path: str, data: bytes, kind: str = SSE, **more: Any) -> bool:
    """Let the provider say something, which must be passed on as it is; tell whether it is served again."""
    provider: Any = gateway.provider  # type: ignore[attr-defined]
    body = {**ASKED[path], "stream": kind == SSE, **more}
    provider.said.append((kind, data))
    first = post(gateway.url, body, path)
    assert (first.status, first.body) == (200, data)
    gateway.settle()
    return (
        post(gateway.url, {**body, "stream": kind == SSE}, path, cache_control="only-if-cached").status == 200
    )


@pytest.fixture(autouse=True)
def _known(provider: Provider, gateway: RunningGateway) -> None:
    gateway.provider = provider  # type: ignore[attr-defined]


def events_of(reply: Reply) -> list[Any]:
    return [item for item in wire.data_of(reply.body) if item != "[DONE]"]


_TURNS = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "y"}, ASKED[CHAT]["messages"][0]]
_TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
LACKING: dict[str, dict[str, dict[str, Any]]] = {
    "system": {
        CHAT: {"messages": [{"role": "system", "content": "x"}, *ASKED[CHAT]["messages"]]},
        MESSAGE: {"system": "x"},
        RESPONSE: {"instructions": "x"},
    },
    "model": {path: {"model": "m-2"} for path in ASKED},
    "sampling": {path: {"temperature": 0.1} for path in ASKED},
    "tools": {
        CHAT: {"tools": [_TOOL]},
        MESSAGE: {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
        RESPONSE: {"tools": [{"type": "function", "name": "f", "parameters": {}}]},
    },
    "earlier turns": {CHAT: {"messages": _TURNS}, MESSAGE: {"messages": _TURNS}, RESPONSE: {"input": _TURNS}},
    "a field of tomorrow": {path: {"brand_new": True} for path in ASKED},
}


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("field", LACKING)
def test_stored_under_a_key_that_lacks_a_field(
    field: str, path: str, provider: Provider, gateway: RunningGateway
) -> None:
    """litellm#42400; Lynkr."""
    assert post(gateway.url, ASKED[path], path).state == "miss"
    other = {**ASKED[path], **LACKING[field][path]}
    assert post(gateway.url, other, path).state == "miss"
    assert [post(gateway.url, body, path).state for body in (ASKED[path], other)] == ["hit-l1-exact"] * 2
    assert len(provider.calls) == 2


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("path", "fields"),
    [
        (RESPONSE, {"previous_response_id": "resp_1"}),
        (RESPONSE, {"conversation": "conv_1"}),
        (RESPONSE, {"conversation": {"id": "conv_1"}}),
        (RESPONSE, {"background": True}),
        (RESPONSE, {"prompt": {"id": "pmpt_1"}}),
        (RESPONSE, {"tools": [{"type": "web_search"}]}),
        (RESPONSE, {"tools": [{"type": "web_search", "external_web_access": True}]}),
        (RESPONSE, {"tools": [{"type": "file_search", "vector_store_ids": ["v"]}]}),
        (RESPONSE, {"tools": [{"type": "code_interpreter", "container": {"type": "auto"}}]}),
        (RESPONSE, {"tools": [{"type": "mcp", "server_url": "http://x", "server_label": "x"}]}),
        (MESSAGE, {"tools": [{"type": "web_search_20250305", "name": "web_search"}]}),
        (MESSAGE, {"tools": [{"type": "code_execution_20250825", "name": "code_execution"}]}),
        (MESSAGE, {"mcp_servers": [{"type": "url", "url": "http://x", "name": "x"}]}),
        (CHAT, {"web_search_options": {}, "store": True}),
        (CHAT, {"web_search_options": {"search_context_size": "low"}}),
        (CHAT, {"tools": [{"type": "web_search"}]}),
    ],
)
def test_what_the_provider_remembers_or_carries_out_is_asked_each_time(
    path: str, fields: dict[str, Any], provider: Provider, gateway: RunningGateway
) -> None:
    for _ in range(2):
        assert post(gateway.url, {**ASKED[path], **fields}, path).state == "bypass"
    assert len(provider.calls) == 2
    assert len(gateway.core.memory) == 0


def test_a_search_that_was_used_is_not_stored(gateway: RunningGateway) -> None:
    """Codex offers one without live access each time; an answer without it is the model's own."""
    tools = [{"type": "web_search", "external_web_access": False}]
    used = [{"id": "ws_1", "type": "web_search_call", "status": "completed"}, *wire.OUTPUTS["text"]]
    assert not is_kept(gateway, RESPONSE, wire.as_json(wire.response(used)), JSON, tools=tools)
    assert is_kept(gateway, RESPONSE, wire.as_json(wire.response(wire.OUTPUTS["text"])), JSON, tools=tools)


@pytest.mark.promise("right-answer")
def test_input_json_delta_fragments(provider: Provider, gateway: RunningGateway) -> None:
    """Cut anywhere, empty ones among them: the same fragments streamed, and the input that they come to."""
    said = '{"path":"/tmp/ü \\"x\\"","n":[1,2.50,null]}'
    fragments = ["", said[:3], "", said[3:14], said[14:20], said[20:], ""]
    start = {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {}}
    events = wire.message_events([], "tool_use")
    block = [
        {"type": "content_block_start", "index": 0, "content_block": start},
        *(
            {
                "type": "content_block_delta",
                "index": 0,
                "delta": {"type": "input_json_delta", "partial_json": one},
            }
            for one in fragments
        ),
        {"type": "content_block_stop", "index": 0},
    ]
    assert is_kept(gateway, MESSAGE, frames(MESSAGE, [events[0], *block, *events[1:]]))
    again = post(gateway.url, {**ASKED[MESSAGE], "stream": True}, MESSAGE)
    pieces = [e["delta"]["partial_json"] for e in events_of(again) if e["type"] == "content_block_delta"]
    assert pieces == fragments
    whole = post(gateway.url, ASKED[MESSAGE], MESSAGE)
    assert whole.state == "hit-l1-exact"
    assert whole.json["content"] == [{**start, "input": json.loads(said)}]


UNKNOWN: dict[str, dict[str, Any]] = {
    CHAT: wire.chunk([wire.piece({"brand_new": "x"})]),
    MESSAGE: {"type": "content_block_delta", "index": 0, "delta": {"type": "brand_new_delta", "x": 1}},
    RESPONSE: {"type": "response.brand_new.delta", "sequence_number": 4, "delta": "x"},
}


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("path", ASKED)
def test_unknown_deltas_store_nothing(path: str, gateway: RunningGateway) -> None:
    good = STREAMS[path]
    at = 2 if path == MESSAGE else len(good) - 1 if path == RESPONSE else 2
    assert not is_kept(gateway, path, frames(path, [*good[:at], UNKNOWN[path], *good[at:]]))
    assert is_kept(gateway, path, frames(path, good))


ERRORS: dict[str, dict[str, Any]] = {
    CHAT: {"error": {"message": "x", "type": "server_error", "code": None}},
    MESSAGE: {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    RESPONSE: {"type": "error", "code": "server_error", "message": "x", "param": None, "sequence_number": 9},
}


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("where", ["first", "in the middle", "last", "behind the end"])
def test_an_error_event_inside_a_200_stream(where: str, path: str, gateway: RunningGateway) -> None:
    good = STREAMS[path]
    at = {"first": 0, "in the middle": len(good) // 2, "last": len(good) - 1, "behind the end": len(good)}[
        where
    ]
    assert not is_kept(gateway, path, frames(path, [*good[:at], ERRORS[path], *good[at:]]))


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("path", ASKED)
@pytest.mark.parametrize("missing", [1, 2, 3])
def test_a_stream_without_its_end(missing: int, path: str, gateway: RunningGateway) -> None:
    """Without ``[DONE]``, ``message_stop`` or ``response.completed``; also cut within the last event."""
    whole = frames(path, STREAMS[path])
    parts = whole.split(b"\n\n")
    assert not is_kept(gateway, path, b"\n\n".join(parts[: -1 - missing]) + b"\n\n")
    assert not is_kept(gateway, path, b"\n\n".join(parts[:-missing])[:-3])
    assert is_kept(gateway, path, whole)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("finish", ["length", "content_filter", None, "max_tokens", ""])
def test_truncated_answers_are_not_cached(finish: str | None, gateway: RunningGateway) -> None:
    """OmniRoute#12885."""
    body = wire.chat_body({"content": "half"}, finish)  # type: ignore[arg-type]
    assert not is_kept(gateway, CHAT, wire.as_json(body), JSON)
    pieces = [*wire.TEXT_PIECES[:-1], *([wire.piece({}, finish)] if finish else [])]
    assert not is_kept(gateway, CHAT, frames(CHAT, [wire.chunk([one]) for one in pieces]))
    cut = wire.message([{"type": "text", "text": "half"}], finish)  # type: ignore[arg-type]
    assert not is_kept(gateway, MESSAGE, wire.as_json(cut), JSON)
    for status in ("incomplete", "failed", "in_progress", "cancelled"):
        assert not is_kept(gateway, RESPONSE, wire.as_json(wire.response(wire.OUTPUTS["text"], status)), JSON)


@pytest.mark.promise("right-answer")
def test_reasoning_is_not_lost_on_streamed_hits(gateway: RunningGateway) -> None:
    """litellm#32068."""
    usage = {"stream_options": {"include_usage": True}}
    stream = wire.chat_stream(*wire.CHAT_STREAMS["reasoning"])
    assert is_kept(gateway, CHAT, stream, **usage)
    again = post(gateway.url, {**ASKED[CHAT], "stream": True, **usage})
    deltas = [event["choices"][0]["delta"] for event in events_of(again) if event["choices"]]
    assert "".join(delta.get("reasoning_content") or "" for delta in deltas) == "Let me see."
    whole = post(gateway.url, ASKED[CHAT])
    assert whole.json["choices"][0]["message"]["reasoning_content"] == "Let me see."
    gateway.core.memory.purge(lambda entry: True)
    assert is_kept(gateway, CHAT, wire.as_json(wire.CHAT_BODIES["reasoning"]), JSON, seed=1)
    streamed = post(gateway.url, {**ASKED[CHAT], "stream": True, "seed": 1})
    assert b"Let me see." in streamed.body


@pytest.mark.promise("right-answer")
def test_thinking_signatures_stay_with_their_model(provider: Provider, gateway: RunningGateway) -> None:
    assert is_kept(gateway, MESSAGE, frames(MESSAGE, wire.message_events(wire.CONTENTS["thinking"])))
    again = post(gateway.url, {**ASKED[MESSAGE], "stream": True}, MESSAGE)
    assert again.body.count(b"EqQBCgIYAhIM") == 1
    assert post(gateway.url, ASKED[MESSAGE], MESSAGE).json["content"] == wire.CONTENTS["thinking"]
    history = [*ASKED[MESSAGE]["messages"], {"role": "assistant", "content": wire.CONTENTS["thinking"]}]
    history.append({"role": "user", "content": "And then?"})
    for model in ("m-1", "m-2"):
        reply = post(gateway.url, {**ASKED[MESSAGE], "messages": history, "model": model}, MESSAGE)
        assert reply.state == "miss", "a signature is only good for the model that made it"
        assert b"EqQBCgIYAhIM" in provider.calls[-1].body
