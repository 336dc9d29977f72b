"""The events of Anthropic's messages ⇄ the message that they come to. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

from lix_cache.gateway.plain_json import dump, parse_object
from lix_cache.gateway.protocols.protocol import (
    Unfit,
    check_error,
    checked_object,
    checked_text,
    members,
    told_name,
)
from lix_cache.gateway.sse import frame

__all__ = ["Assembly", "events_of"]

#: Deltas: the block they belong to, and the field that they extend.
_DELTAS: Final = {
    "text_delta": ("text", "text"),
    "thinking_delta": ("thinking", "thinking"),
    "signature_delta": ("thinking", "signature"),
    "input_json_delta": ("tool_use", "partial_json"),
    "citations_delta": ("text", "citation"),
}


class Assembly:
    """All events of a stream, as one message. They come in one order only."""

    def __init__(self) -> None:
        self._message: dict[str, Any] | None = None
        self._blocks: list[_Block] = []
        self._open: _Block | None = None
        self._is_ending = False
        self._is_whole = False
        self._takes = {
            "message_start": self._start,
            "content_block_start": self._start_block,
            "content_block_delta": self._extend_block,
            "content_block_stop": self._stop_block,
            "message_delta": self._end,
            "message_stop": self._stop,
        }

    def take(self, said: Mapping[str, Any]) -> None:
        kind = said.get("type")
        take = self._takes.get(kind) if isinstance(kind, str) else None
        if take is None:
            raise Unfit("unknown", f"an event {told_name(kind)}")
        if self._is_whole or (self._message is None) is (kind != "message_start"):
            raise Unfit("malformed", f"{kind} at a wrong place")
        take(said)

    def _start(self, said: Mapping[str, Any]) -> None:
        message = said.get("message")
        if not isinstance(message, dict) or message.get("content"):
            raise Unfit("malformed", "message_start without an empty message")
        self._message = dict(message)

    def _start_block(self, said: Mapping[str, Any]) -> None:
        block = said.get("content_block")
        in_order = self._open is None and not self._is_ending and said.get("index") == len(self._blocks)
        if not in_order or not isinstance(block, dict):
            raise Unfit("malformed", "content_block_start at a wrong place")
        self._open = _Block(block)
        self._blocks.append(self._open)

    def _extend_block(self, said: Mapping[str, Any]) -> None:
        if self._open is None or said.get("index") != len(self._blocks) - 1:
            raise Unfit("malformed", "content_block_delta at a wrong place")
        self._open.extend(said.get("delta"))

    def _stop_block(self, said: Mapping[str, Any]) -> None:
        if self._open is None or said.get("index") != len(self._blocks) - 1:
            raise Unfit("malformed", "content_block_stop at a wrong place")
        self._open = None

    def _end(self, said: Mapping[str, Any]) -> None:
        message, delta = self._message, said.get("delta")
        usage = checked_object(said.get("usage"), "usage")
        if message is None or self._open is not None or not isinstance(delta, dict):
            raise Unfit("malformed", "message_delta at a wrong place")
        self._is_ending = True
        for key, value in delta.items():
            if value is not None or key not in message:
                message[key] = value
        # Totals, not increments; one that is not told keeps its value from the start.
        told = {key: value for key, value in usage.items() if value is not None}
        message["usage"] = {**checked_object(message.get("usage"), "usage"), **told}
        for key, value in said.items():
            if key not in ("type", "delta", "usage"):
                message[key] = value

    def _stop(self, _said: Mapping[str, Any]) -> None:
        if not self._is_ending:
            raise Unfit("truncated", "message_stop without a stop reason")
        self._is_whole = True

    def growing(self, said: Mapping[str, Any]) -> tuple[str, list[str]] | None:
        """Return key and pieces of the text that an event has just extended, if it did nothing else."""
        delta = said.get("delta")
        if self._open is None or said["type"] != "content_block_delta" or not isinstance(delta, dict):
            return None
        return self._open.growing(delta)

    def body(self) -> dict[str, Any]:
        if self._message is None or not self._is_whole:
            raise Unfit("truncated", "the stream has no message_stop")
        return {**self._message, "content": [block.whole() for block in self._blocks]}


class _Block:
    def __init__(self, begun: dict[str, Any]) -> None:
        self._begun = begun
        self._pieces: dict[str, list[Any]] = {}

    def extend(self, delta: Any) -> None:
        kind = delta.get("type") if isinstance(delta, dict) else None
        block, field = _DELTAS.get(kind, ("", "")) if isinstance(kind, str) else ("", "")
        if not field:
            raise Unfit("unknown", f"a delta {told_name(kind)}")
        check_error(delta)
        piece = delta.get(field)
        if block != self._begun.get("type") or not isinstance(piece, dict if field == "citation" else str):
            raise Unfit("malformed", f"{kind} at a wrong place")
        if field == "signature" and (self._begun.get(field) or field in self._pieces):
            raise Unfit("inconsistent", "two signatures of one block")
        self._pieces.setdefault(field, []).append(piece)

    def growing(self, delta: Mapping[str, Any]) -> tuple[str, list[str]] | None:
        _, field = _DELTAS[delta["type"]]
        is_more = field in ("text", "thinking", "partial_json") and delta.keys() == {"type", field}
        return (field, self._pieces[field]) if is_more else None

    def whole(self) -> dict[str, Any]:
        block = dict(self._begun)
        for field, pieces in self._pieces.items():
            if field == "citation":
                block["citations"] = [*members(block.get("citations") or [], "citations"), *pieces]
            elif field != "partial_json":
                block[field] = checked_text(block.get(field), field) + "".join(pieces)
            elif any(pieces):
                block["input"] = parse_object("".join(pieces).encode())
        return block


#: What is told with the stop reason, and what beside it.
_ENDING = ("stop_details", "container")
_BESIDE = ("context_management",)


def events_of(message: dict[str, Any]) -> Iterator[bytes]:
    """Say in events what was said at once."""
    for event in _events(message):
        yield frame(dump(event), event["type"].encode())


def _events(message: dict[str, Any]) -> Iterator[dict[str, Any]]:
    usage: dict[str, Any] = message.get("usage") or {}
    begun: dict[str, Any] = {**message, "content": [], "stop_reason": None, "stop_sequence": None}
    ending: dict[str, Any] = {key: begun.pop(key) for key in _ENDING if key in begun}
    beside: dict[str, Any] = {key: begun.pop(key) for key in _BESIDE if key in begun}
    if usage:
        begun["usage"] = {**usage, "output_tokens": 0}
    yield {"type": "message_start", "message": begun}
    for index, block in enumerate(message["content"]):
        yield {"type": "content_block_start", "index": index, "content_block": _begun(block)}
        for delta in _deltas(block):
            yield {"type": "content_block_delta", "index": index, "delta": delta}
        yield {"type": "content_block_stop", "index": index}
    ending.update(stop_reason=message["stop_reason"], stop_sequence=message.get("stop_sequence"))
    told = {k: v for k, v in usage.items() if k.endswith("_tokens") or k == "output_tokens_details"}
    yield {"type": "message_delta", "delta": ending, "usage": told, **beside}
    yield {"type": "message_stop"}


def _begun(block: dict[str, Any]) -> dict[str, Any]:
    begun: dict[str, Any] = dict(block)
    if block["type"] == "text":
        begun["text"] = ""
        if block.get("citations"):
            begun["citations"] = []
    elif block["type"] == "thinking":
        begun.update({key: "" for key in ("thinking", "signature") if key in block})
    elif block["type"] == "tool_use":
        begun["input"] = {}
    return begun


def _deltas(block: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if block["type"] == "text":
        if block["text"]:
            yield {"type": "text_delta", "text": block["text"]}
        for citation in block.get("citations") or ():
            yield {"type": "citations_delta", "citation": citation}
    elif block["type"] == "thinking":
        if block.get("thinking"):
            yield {"type": "thinking_delta", "thinking": block["thinking"]}
        if block.get("signature"):
            yield {"type": "signature_delta", "signature": block["signature"]}
    elif block["type"] == "tool_use":
        yield {"type": "input_json_delta", "partial_json": dump(block["input"]).decode()}
