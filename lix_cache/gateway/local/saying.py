"""What a local model says, in the words of each protocol: as it is made, or at once. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lix_cache.gateway.local.asking import Asked
from lix_cache.gateway.local.calls import Call
from lix_cache.gateway.plain_json import dump, parse
from lix_cache.gateway.sse import frame
from lix_cache.kv.reply import Usage

__all__ = ["ChatWriter", "Ended", "MessagesWriter", "Writer", "merged_texts"]


@dataclass(frozen=True)
class Ended:
    """How an answer ended.

    Attributes:
        reason: ``stop``, ``length``, ``tool_calls``.
        stopped_by: the stop text, if one ended it.
        usage: what it cost.
    """

    reason: str
    stopped_by: str | None
    usage: Usage


class Writer(Protocol):
    """Writes one answer. In a stream: begin, then texts and calls, then the end."""

    def begin(self, usage: Usage) -> bytes:
        """Return the first events; of the usage the prompt's part is known."""
        ...

    def text(self, piece: str) -> bytes:
        """Return the events of a piece of text."""
        ...

    def call(self, call: Call) -> bytes:
        """Return the events of a call."""
        ...

    def end(self, ended: Ended) -> bytes:
        """Return the last events."""
        ...

    def body(self, said: Sequence[str | Call], ended: Ended) -> dict[str, Any]:
        """Return all of it at once."""
        ...


def merged_texts(said: Sequence[str | Call]) -> list[str | Call]:
    """Return what was said, texts that follow each other made one."""
    found: list[str | Call] = []
    for one in said:
        if isinstance(one, str) and found and isinstance(found[-1], str):
            found[-1] += one
        else:
            found.append(one)
    return found


class ChatWriter:
    """OpenAI's chat completions."""

    def __init__(self, asked: Asked, model: str, new_id: str, created: int) -> None:
        self._asked = asked
        self._head = {"id": f"chatcmpl-{new_id}", "created": created, "model": model}
        self._new_id = new_id
        self._calls = 0

    def _chunk(self, delta: dict[str, Any], finish: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}
        usage = {"usage": None} if self._asked.wants_usage else {}
        return frame(dump({**self._head, "object": "chat.completion.chunk", "choices": [choice], **usage}))

    def begin(self, usage: Usage) -> bytes:  # noqa: ARG002 - it comes at the end
        return self._chunk({"role": "assistant", "content": ""})

    def text(self, piece: str) -> bytes:
        return self._chunk({"content": piece})

    def _told(self, call: Call) -> dict[str, Any]:
        self._calls += 1
        function = {"name": call.name, "arguments": call.arguments}
        return {"id": f"call_{self._new_id[:20]}{self._calls}", "type": "function", "function": function}

    def call(self, call: Call) -> bytes:
        index = self._calls
        told = self._told(call)
        begun = {"index": index, **told, "function": {"name": call.name, "arguments": ""}}
        rest = {"index": index, "function": {"arguments": call.arguments}}
        return self._chunk({"tool_calls": [begun]}) + self._chunk({"tool_calls": [rest]})

    def end(self, ended: Ended) -> bytes:
        last = self._chunk({}, ended.reason)
        if self._asked.wants_usage:
            told = {"object": "chat.completion.chunk", "choices": [], "usage": _chat_usage(ended.usage)}
            last += frame(dump({**self._head, **told}))
        return last + frame(b"[DONE]")

    def body(self, said: Sequence[str | Call], ended: Ended) -> dict[str, Any]:
        text = "".join(one for one in said if isinstance(one, str))
        calls = [self._told(one) for one in said if isinstance(one, Call)]
        message: dict[str, Any] = {
            "role": "assistant",
            "content": text or (None if calls else ""),
            "refusal": None,
        }
        if calls:
            message["tool_calls"] = calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": ended.reason}
        usage = _chat_usage(ended.usage)
        return {**self._head, "object": "chat.completion", "choices": [choice], "usage": usage}


def _chat_usage(usage: Usage) -> dict[str, Any]:
    return {
        "prompt_tokens": usage.prompt_tokens,
        "completion_tokens": usage.completion_tokens,
        "total_tokens": usage.prompt_tokens + usage.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": usage.cached_tokens},
    }


class MessagesWriter:
    """Anthropic's messages."""

    def __init__(self, asked: Asked, model: str, new_id: str, created: int) -> None:  # noqa: ARG002
        self._model, self._new_id = model, new_id
        self._blocks = 0
        self._is_open = False

    def _message(
        self, content: list[Any], usage: Usage, reason: str | None, stop: str | None
    ) -> dict[str, Any]:
        return {
            "id": f"msg_{self._new_id}",
            "type": "message",
            "role": "assistant",
            "model": self._model,
            "content": content,
            "stop_reason": reason,
            "stop_sequence": stop,
            "usage": _message_usage(usage),
        }

    def begin(self, usage: Usage) -> bytes:
        return _event("message_start", message=self._message([], usage, None, None))

    def text(self, piece: str) -> bytes:
        begun = b""
        if not self._is_open:
            self._is_open = True
            begun = _event(
                "content_block_start", index=self._blocks, content_block={"type": "text", "text": ""}
            )
        return begun + _event(
            "content_block_delta", index=self._blocks, delta={"type": "text_delta", "text": piece}
        )

    def _closed(self) -> bytes:
        if not self._is_open:
            return b""
        self._is_open = False
        self._blocks += 1
        return _event("content_block_stop", index=self._blocks - 1)

    def _block(self, call: Call) -> dict[str, Any]:
        identity = f"toolu_{self._new_id[:20]}{self._blocks}"
        return {
            "type": "tool_use",
            "id": identity,
            "name": call.name,
            "input": parse(call.arguments.encode()),
        }

    def call(self, call: Call) -> bytes:
        events = self._closed()
        block = {**self._block(call), "input": {}}
        events += _event("content_block_start", index=self._blocks, content_block=block)
        delta = {"type": "input_json_delta", "partial_json": call.arguments}
        events += _event("content_block_delta", index=self._blocks, delta=delta)
        self._is_open = True
        return events + self._closed()

    def end(self, ended: Ended) -> bytes:
        reason, stop = _stop_reason(ended)
        delta = {"stop_reason": reason, "stop_sequence": stop}
        told = _event("message_delta", delta=delta, usage=_message_usage(ended.usage))
        return self._closed() + told + _event("message_stop")

    def body(self, said: Sequence[str | Call], ended: Ended) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        for self._blocks, one in enumerate(said):
            content.append({"type": "text", "text": one} if isinstance(one, str) else self._block(one))
        return self._message(content, ended.usage, *_stop_reason(ended))


def _event(kind: str, **fields: Any) -> bytes:
    return frame(dump({"type": kind, **fields}), kind.encode())


def _stop_reason(ended: Ended) -> tuple[str, str | None]:
    if ended.reason == "stop" and ended.stopped_by is not None:
        return "stop_sequence", ended.stopped_by
    return {"stop": "end_turn", "length": "max_tokens", "tool_calls": "tool_use"}[ended.reason], None


def _message_usage(usage: Usage) -> dict[str, Any]:
    # Anthropic counts what was cached apart from the rest.
    return {
        "input_tokens": usage.prompt_tokens - usage.cached_tokens,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": usage.cached_tokens,
        "output_tokens": usage.completion_tokens,
    }
