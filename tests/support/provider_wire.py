"""What providers send, written down from their documentation: recorded answers for the gateway's tests."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from lix_cache.gateway.answer import Answer, Incomplete
from lix_cache.gateway.protocols import PROTOCOLS

CHAT, RESPONSES, MESSAGES = (PROTOCOLS[name] for name in ("chat", "responses", "messages"))
ASKS_USAGE = {"stream": True, "stream_options": {"include_usage": True}}


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def sse(events: Iterable[Any], *, named: bool = False, done: bool = False) -> bytes:
    """Return events as a provider sends them."""
    frames = []
    for event in events:
        name = f"event: {event['type']}\n" if named else ""
        frames.append(f"{name}data: {json.dumps(event)}\n\n".encode())
    return b"".join(frames) + (b"data: [DONE]\n\n" if done else b"")


def data_of(stream: bytes) -> list[Any]:
    """Return what the events of a rendered stream say; ``[DONE]`` as a text."""
    found = []
    for line in stream.decode().split("\n"):
        if line.startswith("data: "):
            text = line.removeprefix("data: ")
            found.append(text if text == "[DONE]" else json.loads(text))
    return found


def recorded(protocol: Any, stream: bytes, request: Mapping[str, Any] | None = None) -> Any:
    """Read a stream that came in one piece."""
    reader = protocol.reader(request or {})
    reader.feed(stream)
    return reader.finish()


def kept(found: Answer | Incomplete) -> Answer:
    """Return an answer that is one."""
    assert isinstance(found, Answer), found
    return Answer.decode(found.encode())


# -- OpenAI's chat -------------------------------------------------------------------------


def chunk(choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-orig",
        "object": "chat.completion.chunk",
        "created": 1700000000,
        "model": "gpt-5-mini",
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        "choices": choices,
        **more,
    }


def piece(delta: dict[str, Any], finish: str | None = None, index: int = 0, **more: Any) -> dict[str, Any]:
    return {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish, **more}


CHAT_USAGE = {
    "prompt_tokens": 11,
    "completion_tokens": 7,
    "total_tokens": 18,
    "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0},
    "completion_tokens_details": {"reasoning_tokens": 3},
}


def chat_stream(*pieces: dict[str, Any], usage: Any = CHAT_USAGE) -> bytes:
    """Return a stream as OpenAI sends it to those who ask for usage; None: to the others."""
    if usage is None:
        return sse((chunk([one]) for one in pieces), done=True)
    chunks = [chunk([one], usage=None) for one in pieces]
    return sse([*chunks, chunk([], usage=usage)], done=True)


def logprob(token: str) -> dict[str, Any]:
    return {"token": token, "logprob": -0.25, "bytes": list(token.encode()), "top_logprobs": []}


TEXT_PIECES = (
    piece({"role": "assistant", "content": "", "refusal": None}),
    piece({"content": "Grüße"}),
    piece({"content": ", 世界 🌍"}),
    piece({}, "stop"),
)
CALL_PIECES = (
    piece(
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [
                {"index": 0, "id": "call_1", "type": "function", "function": {"name": "f", "arguments": ""}}
            ],
            "refusal": None,
        }
    ),
    piece({"tool_calls": [{"index": 0, "function": {"arguments": '{"a"'}}]}),
    piece({"tool_calls": [{"index": 0, "function": {"arguments": ":1}"}}]}),
    piece(
        {
            "tool_calls": [
                {"index": 1, "id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}}
            ]
        }
    ),
    piece({"tool_calls": [{"index": 1, "function": {"arguments": "{}"}}]}),
    piece({}, "tool_calls"),
)
CHAT_STREAMS = {
    "text": TEXT_PIECES,
    "calls": CALL_PIECES,
    "refusal": (
        piece({"role": "assistant", "content": None, "refusal": ""}),
        piece({"refusal": "I can"}),
        piece({"refusal": "not."}),
        piece({}, "stop"),
    ),
    "reasoning": (
        piece({"role": "assistant", "content": None, "reasoning_content": ""}),
        piece({"content": None, "reasoning_content": "Let me "}),
        piece({"content": None, "reasoning_content": "see."}),
        piece({"content": "Yes", "reasoning_content": None}),
        piece({"content": ".", "reasoning_content": None}, "stop"),
    ),
    "logprobs": (
        piece({"role": "assistant", "content": "", "refusal": None}),
        piece({"content": "a"}, logprobs={"content": [logprob("a")], "refusal": None}),
        piece({"content": "b"}, logprobs={"content": [logprob("b")], "refusal": None}),
        piece({}, "stop"),
    ),
    "choices": (
        piece({"role": "assistant", "content": "", "refusal": None}),
        piece({"role": "assistant", "content": "", "refusal": None}, index=1),
        piece({"content": "zero"}),
        piece({"content": "one"}, index=1),
        piece({}, "stop", index=1),
        piece({}, "stop"),
    ),
    "annotations": (
        piece({"role": "assistant", "content": "", "refusal": None}),
        piece({"content": "see there"}),
        piece(
            {
                "annotations": [
                    {
                        "type": "url_citation",
                        "url_citation": {"start_index": 0, "end_index": 3, "url": "u", "title": "t"},
                    }
                ]
            }
        ),
        piece({}, "stop"),
    ),
}


def chat_body(message: dict[str, Any], finish: str = "stop", **more: Any) -> dict[str, Any]:
    said = {"role": "assistant", "content": None, "refusal": None, "annotations": [], **message}
    return {
        "id": "chatcmpl-orig",
        "object": "chat.completion",
        "created": 1700000000,
        "model": "gpt-5-mini",
        "choices": [{"index": 0, "message": said, "logprobs": None, "finish_reason": finish}],
        "usage": CHAT_USAGE,
        "service_tier": "default",
        "system_fingerprint": "fp_1",
        **more,
    }


_CALLS = [
    {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}},
    {"id": "call_2", "type": "function", "function": {"name": "g", "arguments": ""}},
]
_CITED = [
    {
        "type": "url_citation",
        "url_citation": {"start_index": 0, "end_index": 3, "url": "u", "title": "t"},
    }
]
CHAT_BODIES = {
    "text": chat_body({"content": "Grüße, 世界 🌍"}),
    "calls": chat_body({"tool_calls": _CALLS}, "tool_calls"),
    "refusal": chat_body({"refusal": "I cannot."}),
    "reasoning": chat_body({"content": "Yes.", "reasoning_content": "Let me see."}),
    "annotations": chat_body({"content": "see there", "annotations": _CITED}),
    "logprobs": chat_body({"content": "ab"}),
    "choices": chat_body({"content": "zero"}),
}
CHAT_BODIES["logprobs"]["choices"][0]["logprobs"] = {"content": [logprob("ab")], "refusal": None}
CHAT_BODIES["choices"]["choices"].append(
    {**CHAT_BODIES["text"]["choices"][0], "index": 1},
)


# -- OpenAI's responses --------------------------------------------------------------------


def response(output: list[dict[str, Any]], status: str = "completed", **more: Any) -> dict[str, Any]:
    return {
        "id": "resp_orig",
        "object": "response",
        "created_at": 1700000000,
        "status": status,
        "background": False,
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "max_output_tokens": None,
        "model": "gpt-5-mini",
        "output": output,
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "prompt_cache_key": None,
        "reasoning": {"effort": "low", "summary": None},
        "safety_identifier": None,
        "store": True,
        "temperature": 1.0,
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": 11,
            "input_tokens_details": {"cached_tokens": 4},
            "output_tokens": 7,
            "output_tokens_details": {"reasoning_tokens": 3},
            "total_tokens": 18,
        }
        if status == "completed"
        else None,
        "user": None,
        "metadata": {},
        **more,
    }


def output_text(text: str, annotations: Any = ()) -> dict[str, Any]:
    return {"type": "output_text", "annotations": list(annotations), "logprobs": [], "text": text}


def message_item(*parts: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": "msg_1",
        "type": "message",
        "status": "completed",
        "content": list(parts),
        "role": "assistant",
    }


REASONING_ITEM = {
    "id": "rs_1",
    "type": "reasoning",
    "encrypted_content": "gAAAA",
    "summary": [{"type": "summary_text", "text": "Thought about it."}],
}
CALL_ITEM = {
    "id": "fc_1",
    "type": "function_call",
    "status": "completed",
    "arguments": '{"a":1}',
    "call_id": "call_1",
    "name": "f",
}
CUSTOM_ITEM = {
    "id": "ctc_1",
    "type": "custom_tool_call",
    "status": "completed",
    "call_id": "call_2",
    "input": "ls -l",
    "name": "shell",
}
_URL = {"type": "url_citation", "start_index": 0, "end_index": 3, "url": "u", "title": "t"}
OUTPUTS: dict[str, list[dict[str, Any]]] = {
    "text": [message_item(output_text("Grüße, 世界 🌍"))],
    "reasoning": [REASONING_ITEM, message_item(output_text("Yes."))],
    "calls": [CALL_ITEM, CUSTOM_ITEM],
    "refusal": [message_item({"type": "refusal", "refusal": "I cannot."})],
    "annotations": [message_item(output_text("see there", [_URL]), output_text("and here"))],
}


# -- Anthropic's messages ------------------------------------------------------------------


def message(content: list[dict[str, Any]], stop: str = "end_turn", **more: Any) -> dict[str, Any]:
    return {
        "id": "msg_orig",
        "type": "message",
        "role": "assistant",
        "model": "claude-sonnet-4-5",
        "content": content,
        "stop_reason": stop,
        "stop_sequence": None,
        "usage": {
            "input_tokens": 5,
            "cache_creation_input_tokens": 2,
            "cache_read_input_tokens": 4,
            "output_tokens": 7,
            "service_tier": "standard",
        },
        **more,
    }


CITATION = {
    "type": "char_location",
    "cited_text": "see",
    "document_index": 0,
    "document_title": None,
    "start_char_index": 0,
    "end_char_index": 3,
    "file_id": None,
}
CONTENTS: dict[str, list[dict[str, Any]]] = {
    "text": [{"type": "text", "text": "Grüße, 世界 🌍"}],
    "thinking": [
        {"type": "thinking", "thinking": "Let me see.", "signature": "EqQBCgIYAhIM"},
        {"type": "redacted_thinking", "data": "EmwKAhgB"},
        {"type": "text", "text": "Yes."},
    ],
    "calls": [
        {"type": "text", "text": "I look."},
        {"type": "tool_use", "id": "toolu_1", "name": "f", "input": {"a": [1, 2.5, None], "b": "ü"}},
        {"type": "tool_use", "id": "toolu_2", "name": "g", "input": {}},
    ],
    "citations": [{"type": "text", "text": "see there", "citations": [CITATION, CITATION]}],
}


def stop_of(name: str) -> str:
    return "tool_use" if name == "calls" else "end_turn"


def message_events(content: list[dict[str, Any]], stop: str = "end_turn") -> list[dict[str, Any]]:
    """Return the events of a message as Anthropic sends them: texts in two pieces, a ping in between."""
    whole = message(content, stop)
    begun = {**whole, "content": [], "stop_reason": None, "usage": {**whole["usage"], "output_tokens": 1}}
    events: list[dict[str, Any]] = [{"type": "message_start", "message": begun}]
    for index, block in enumerate(content):
        start, deltas = _block(block)
        events.append({"type": "content_block_start", "index": index, "content_block": start})
        events.append({"type": "ping"})
        events.extend({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas)
        events.append({"type": "content_block_stop", "index": index})
    delta = {"stop_reason": stop, "stop_sequence": None}
    events.append({"type": "message_delta", "delta": delta, "usage": {"output_tokens": 7}})
    return [*events, {"type": "message_stop"}]


def _block(block: dict[str, Any]) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    if block["type"] == "text":
        start = {**block, "text": "", **({"citations": []} if "citations" in block else {})}
        deltas = [{"type": "text_delta", "text": one} for one in halves(block["text"])]
        return start, deltas + [
            {"type": "citations_delta", "citation": one} for one in block.get("citations", ())
        ]
    if block["type"] == "thinking":
        deltas = [{"type": "thinking_delta", "thinking": one} for one in halves(block["thinking"])]
        signed = {"type": "signature_delta", "signature": block["signature"]}
        return {"type": "thinking", "thinking": "", "signature": ""}, [*deltas, signed]
    if block["type"] == "tool_use":
        said = json.dumps(block["input"], ensure_ascii=False) if block["input"] else ""
        deltas = [{"type": "input_json_delta", "partial_json": one} for one in ["", *halves(said)]]
        return {**block, "input": {}}, deltas
    return block, []


def halves(text: str) -> list[str]:
    middle = len(text) // 2
    return [text[:middle], text[middle:]]


def response_events(output: list[dict[str, Any]], **more: Any) -> list[dict[str, Any]]:
    """Return the events of a response as OpenAI sends them: texts in two pieces, with padding."""
    begun = response([], "in_progress", **more)
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": begun},
        {"type": "response.in_progress", "response": begun},
    ]
    for index, item in enumerate(output):
        events.extend(_item(index, item))
    events.append({"type": "response.completed", "response": response(output, **more)})
    return [{"sequence_number": number, **event} for number, event in enumerate(events)]


def _item(index: int, item: dict[str, Any]) -> list[dict[str, Any]]:
    place = {"output_index": index, "item_id": item["id"]}
    parts = {"message": "content", "reasoning": "summary"}.get(item["type"])
    word = {"function_call": "arguments", "custom_tool_call": "input"}.get(item["type"], "")
    begun = {**item, **({parts: []} if parts else {}), **({word: ""} if word else {})}
    if "status" in item:
        begun["status"] = "in_progress"
    events: list[dict[str, Any]] = [
        {"type": "response.output_item.added", "output_index": index, "item": begun}
    ]
    for number, part in enumerate(item[parts] if parts else ()):
        events.extend(_part(number, part, place))
    if word:
        name = {"arguments": "function_call_arguments", "input": "custom_tool_call_input"}[word]
        events.extend(
            {"type": f"response.{name}.delta", **place, "delta": one, "obfuscation": "x7"}
            for one in halves(item[word])
        )
        events.append({"type": f"response.{name}.done", **place, word: item[word]})
    return [*events, {"type": "response.output_item.done", "output_index": index, "item": item}]


def _part(number: int, part: dict[str, Any], place: dict[str, Any]) -> list[dict[str, Any]]:
    is_summary = part["type"] == "summary_text"
    where = {**place, "summary_index" if is_summary else "content_index": number}
    name = "response.reasoning_summary_part" if is_summary else "response.content_part"
    said = {
        "output_text": "response.output_text",
        "refusal": "response.refusal",
        "summary_text": "response.reasoning_summary_text",
    }[part["type"]]
    word = "refusal" if part["type"] == "refusal" else "text"
    more = {"logprobs": []} if part["type"] == "output_text" else {}
    begun = {**part, word: "", **({"annotations": []} if more else {})}
    notes = [
        {
            "type": "response.output_text.annotation.added",
            **where,
            "annotation_index": at,
            "annotation": one,
        }
        for at, one in enumerate(part.get("annotations", ()))
    ]
    return [
        {"type": f"{name}.added", **where, "part": begun},
        *(
            {"type": f"{said}.delta", **where, "delta": one, **more, "obfuscation": "a1"}
            for one in halves(part[word])
        ),
        *notes,
        {"type": f"{said}.done", **where, word: part[word], **more},
        {"type": f"{name}.done", **where, "part": part},
    ]
