"""Anthropic's messages. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lix_cache.gateway.answer import Answer, Usage, fill
from lix_cache.gateway.plain_json import dump, parse_object
from lix_cache.gateway.protocols.message_events import Assembly, events_of
from lix_cache.gateway.protocols.protocol import (
    Parse,
    Protocol,
    Unfit,
    check_error,
    check_name,
    check_whole,
    checked_object,
    checked_text,
    count,
    cut_off,
    is_length,
    members,
    told_name,
    word,
)
from lix_cache.gateway.protocols.repeating import Repeating
from lix_cache.gateway.sse import Events, frame

__all__ = ["Messages"]

_KEPT = frozenset({"end_turn", "tool_use", "stop_sequence"})
#: What the client can read or carry out itself. The others are of tools that the provider runs.
_BLOCKS = frozenset({"text", "thinking", "redacted_thinking", "tool_use"})
_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    504: "timeout_error",
    529: "overloaded_error",
}


class Messages(Protocol):
    """Anthropic's messages."""

    name = "messages"
    path = "/v1/messages"

    def render(
        self,
        answer: Answer,
        *,
        stream: bool,
        request: Mapping[str, Any],  # noqa: ARG002
        new_id: str,
        created: int,  # noqa: ARG002 - a message tells no time
    ) -> bytes:
        values = {b"i": dump(f"msg_{new_id}")}
        if stream and answer.events is not None:
            return fill(answer.events, values)
        body = fill(answer.body, values)
        return b"".join(events_of(parse_object(body))) if stream else body

    def text(self, answer: Answer) -> str:
        body = parse_object(fill(answer.body, {b"i": b'""'}))
        return "\n\n".join(block["text"] for block in body["content"] if block.get("type") == "text")

    def error_body(self, status: int, message: str, kind: str | None = None) -> bytes:
        return dump({"type": "error", "error": {"type": kind or _kind_of(status), "message": message}})

    def _of_body(self, body: dict[str, Any], request: Mapping[str, Any]) -> Answer:  # noqa: ARG002
        return _answer_of(body)

    def _of_events(
        self,
        events: Events,
        parse: Parse,
        request: Mapping[str, Any],  # noqa: ARG002
    ) -> Answer:
        assembly, frames, repeating = Assembly(), [], Repeating()
        pieces: list[str] = []

        def run(data: bytes, start: int) -> tuple[int, int]:
            behind, texts, _ = repeating.run(data, start)
            if texts:
                pieces.extend(texts)
                frames.append(data[start:behind])
            return behind, len(texts)

        events.run = run
        for event in events:
            more = repeating.text(event)
            if more is not None:
                pieces.append(more[0])
                frames.append(frame(event.data, event.name))
                continue
            repeating.forget()
            said = parse(event.data)
            check_error(said)
            if event.name == b"error":
                raise Unfit("error", "an error event")
            check_name(event, word(said.get("type")))
            if said.get("type") == "ping":
                continue
            assembly.take(said)
            data = event.data
            if said["type"] == "message_start":
                data = b'{"type":"message_start","message":' + _slotted(said["message"]) + b"}"
            frames.append(frame(dump(said) if b"\n" in data else data, event.name))
            growing = assembly.growing(said)
            if growing is not None and repeating.learn(event, _delta_of, growing[0]):
                pieces = growing[1]
        return _answer_of(assembly.body(), events=b"".join(frames))


def _delta_of(event: dict[str, Any]) -> Any:
    return event["delta"]


def _kind_of(status: int) -> str:
    return _KINDS.get(status, "api_error" if status >= 500 else "invalid_request_error")


def _slotted(message: Mapping[str, Any]) -> bytes:
    rest = dump({key: value for key, value in message.items() if key != "id" or not value})[1:]
    return (b'{"id":\0i,' if message.get("id") else b"{") + rest


def _answer_of(body: dict[str, Any], *, events: bytes | None = None) -> Answer:
    if is_length(body.get("stop_reason")):
        raise cut_off(_answer_of({**body, "stop_reason": "end_turn"}))
    check_whole(body)
    if body.get("type") != "message" or word(body.get("stop_reason")) not in _KEPT:
        raise Unfit("truncated", "the message has no stop reason of a complete answer")
    blocks = members(body.get("content"), "content")
    for block in blocks:
        _check_block(block)
    usage = checked_object(body.get("usage"), "usage")
    return Answer(
        protocol=Messages.name,
        id=word(body.get("id")),
        model=word(body.get("model")),
        finish=(str(body["stop_reason"]),),
        usage=_usage_of(usage) if usage else None,
        has_tool_calls=any(block["type"] == "tool_use" for block in blocks),
        lacks_usage=False,
        body=_slotted(body),
        events=events,
    )


def _check_block(block: dict[str, Any]) -> None:
    check_error(block)
    kind = word(block.get("type"))
    if kind not in _BLOCKS:
        raise Unfit("unknown", f"a block {told_name(kind)}")
    if kind == "text" and not isinstance(block.get("text"), str):
        raise Unfit("malformed", "a text block without text")
    if kind == "tool_use" and not (isinstance(block.get("input"), dict) and block.get("name")):
        raise Unfit("malformed", "a call of a tool without its input")
    for key in ("thinking", "signature"):
        checked_text(block.get(key), key)
    members(block.get("citations") or [], "citations")


def _usage_of(usage: Mapping[str, Any]) -> Usage:
    read = count(usage.get("cache_read_input_tokens"))
    made = count(usage.get("cache_creation_input_tokens"))
    return Usage(count(usage.get("input_tokens")) + made + read, count(usage.get("output_tokens")), read)
