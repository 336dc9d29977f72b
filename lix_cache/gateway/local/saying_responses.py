"""What a local model says, as OpenAI's responses. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lix_cache.gateway.local.asking import Asked
from lix_cache.gateway.local.calls import Call
from lix_cache.gateway.local.saying import Ended
from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.sse import frame
from lix_cache.kv.reply import Usage

__all__ = ["ResponsesWriter"]


class ResponsesWriter:
    """OpenAI's responses. None is kept: what goes on sends all that was said."""

    def __init__(self, asked: Asked, model: str, new_id: str, created: int) -> None:
        body = asked.body
        self._new_id, self._numbers = new_id, 0
        self._items: list[dict[str, Any]] = []
        self._text: str | None = None
        self._head = {
            "id": f"resp_{new_id}",
            "object": "response",
            "created_at": created,
            "error": None,
            "instructions": body.get("instructions"),
            "max_output_tokens": asked.max_tokens,
            "model": model,
            "parallel_tool_calls": not asked.is_single,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": body.get("tool_choice") or "auto",
            "tools": body.get("tools") or [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "user": body.get("user"),
            "metadata": body.get("metadata") or {},
        }

    def _event(self, kind: str, **fields: Any) -> bytes:
        told = {"type": f"response.{kind}", "sequence_number": self._numbers, **fields}
        self._numbers += 1
        return frame(dump(told), told["type"].encode())

    def _response(self, status: str, usage: Usage | None = None) -> dict[str, Any]:
        cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
        told = None if usage is None else _usage(usage)
        return {
            **self._head,
            "status": status,
            "incomplete_details": cut,
            "output": list(self._items),
            "usage": told,
        }

    def begin(self, usage: Usage) -> bytes:  # noqa: ARG002 - it comes at the end
        begun = self._response("in_progress")
        return self._event("created", response=begun) + self._event("in_progress", response=begun)

    def _message(self, text: str, status: str) -> dict[str, Any]:
        content = [] if status == "in_progress" else [_part(text)]
        identity = f"msg_{self._new_id}{len(self._items)}"
        return {"id": identity, "type": "message", "status": status, "role": "assistant", "content": content}

    def _place(self, item: dict[str, Any]) -> dict[str, Any]:
        return {"item_id": item["id"], "output_index": len(self._items)}

    def text(self, piece: str) -> bytes:
        begun = b""
        item = self._message("", "in_progress")
        place = {**self._place(item), "content_index": 0}
        if self._text is None:
            self._text = ""
            begun = self._event("output_item.added", output_index=len(self._items), item=item)
            begun += self._event("content_part.added", **place, part=_part(""))
        self._text += piece
        return begun + self._event("output_text.delta", **place, delta=piece, logprobs=[])

    def _closed(self) -> bytes:
        if self._text is None:
            return b""
        text, self._text = self._text, None
        item = self._message(text, "completed")
        place = {**self._place(item), "content_index": 0}
        events = self._event("output_text.done", **place, text=text, logprobs=[])
        events += self._event("content_part.done", **place, part=_part(text))
        return events + self._done(item)

    def _done(self, item: dict[str, Any]) -> bytes:
        told = self._event("output_item.done", output_index=len(self._items), item=item)
        self._items.append(item)
        return told

    def _call(self, call: Call) -> dict[str, Any]:
        number = len(self._items)
        return {
            "id": f"fc_{self._new_id}{number}",
            "type": "function_call",
            "status": "completed",
            "name": call.name,
            "call_id": f"call_{self._new_id[:20]}{number}",
            "arguments": call.arguments,
        }

    def call(self, call: Call) -> bytes:
        events = self._closed()
        item = self._call(call)
        place = self._place(item)
        begun = {**item, "status": "in_progress", "arguments": ""}
        events += self._event("output_item.added", output_index=place["output_index"], item=begun)
        events += self._event("function_call_arguments.delta", **place, delta=call.arguments)
        events += self._event("function_call_arguments.done", **place, arguments=call.arguments)
        return events + self._done(item)

    def end(self, ended: Ended) -> bytes:
        status = "incomplete" if ended.reason == "length" else "completed"
        last = self._closed()
        return last + self._event(status, response=self._response(status, ended.usage))

    def body(self, said: Sequence[str | Call], ended: Ended) -> dict[str, Any]:
        for one in said:
            self._items.append(self._message(one, "completed") if isinstance(one, str) else self._call(one))
        return self._response("incomplete" if ended.reason == "length" else "completed", ended.usage)


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _usage(usage: Usage) -> dict[str, Any]:
    return {
        "input_tokens": usage.prompt_tokens,
        "input_tokens_details": {"cached_tokens": usage.cached_tokens},
        "output_tokens": usage.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": 0},
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
    }
