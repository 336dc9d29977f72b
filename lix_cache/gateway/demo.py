"""A provider that needs no key: it speaks the protocols and makes its answers up. For ``serve --demo``.

The same request has the same words in its answer, and every answer an id of its own, as with a real one.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from aiohttp import web

__all__ = ["DemoProvider", "body_of", "events_of"]

_numbers = itertools.count(1)
_FACTS = (
    "It is in the settings, under Security.",
    "Twenty-two degrees, and the sun is out.",
    "Sort the list first, then take the middle one.",
    "The train leaves at nine, from platform four.",
    "Yes, but keep the receipt for a month.",
)


def _identity(prefix: str) -> str:
    return f"{prefix}{next(_numbers):06d}{time.monotonic_ns() & 0xFFFFFF:06x}"


def _wants_json(request: Mapping[str, Any]) -> bool:
    """Whether an object is asked for, in one of the protocols' ways."""
    forms = [request.get(name) for name in ("response_format", "output_format", "text", "output_config")]
    return b'"type":"json' in orjson.dumps(forms)


def _unnamed(asked: Any) -> Any:
    """Return what is asked without the ids of items: they are new in each answer that comes back."""
    if isinstance(asked, dict):
        return {name: part for name, part in asked.items() if name != "id"}
    return [_unnamed(item) for item in asked] if isinstance(asked, list) else asked


def _said(request: Mapping[str, Any]) -> str:
    if _wants_json(request):
        return '{"city": "Bern"}'
    for name in ("messages", "input", "system", "instructions"):
        if request.get(name):
            data = orjson.dumps([request.get("model"), request.get("temperature"), _unnamed(request[name])])
            fact = _FACTS[hashlib.sha256(data).digest()[0] % len(_FACTS)]
            return f"Scripted answer {hashlib.sha256(data).hexdigest()[:8]}. {fact}"
    return "You asked nothing."


def _tokens(request: Mapping[str, Any]) -> int:
    asked = [request.get(name) for name in ("system", "instructions", "messages", "input", "tools")]
    return max(1, len(orjson.dumps(asked)) // 4)


def _tool(request: Mapping[str, Any]) -> str | None:
    """Return the tool to call: the first one, where the request has tools and no result of one."""
    tools = request.get("tools")
    if not tools or b"tool_result" in (said := orjson.dumps(request)) or b'"role":"tool"' in said:
        return None
    if b"function_call_output" in said:
        return None
    name = tools[0].get("name") or tools[0].get("function", {}).get("name")
    return name if isinstance(name, str) else None


def body_of(protocol: str, request: Mapping[str, Any]) -> dict[str, Any]:
    """Return the unstreamed answer to a request."""
    make = {"chat": _chat, "messages": _message, "responses": _response, "embeddings": _embeddings}
    return make[protocol](request)


def events_of(protocol: str, request: Mapping[str, Any]) -> list[bytes]:
    """Return the events of the streamed answer to a request."""
    if protocol == "chat":
        chunks = [b"data: " + orjson.dumps(chunk) + b"\n\n" for chunk in _chat_chunks(request)]
        return [*chunks, b"data: [DONE]\n\n"]
    events = _message_events(request) if protocol == "messages" else _response_events(request)
    return [b"event: %s\ndata: %s\n\n" % (event["type"].encode(), orjson.dumps(event)) for event in events]


# -- chat completions --------------------------------------------------------------------


def _chat_usage(request: Mapping[str, Any], text: str) -> dict[str, Any]:
    prompt, answer = _tokens(request), max(1, len(text) // 4)
    return {"prompt_tokens": prompt, "completion_tokens": answer, "total_tokens": prompt + answer}


def _chat(request: Mapping[str, Any]) -> dict[str, Any]:
    text, tool = _said(request), _tool(request)
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if tool is not None:
        call = {
            "id": "call_1",
            "type": "function",
            "function": {"name": tool, "arguments": '{"city":"Bern"}'},
        }
        message.update(content=None, tool_calls=[call])
    finish = "stop" if tool is None else "tool_calls"
    choices = [
        {"index": i, "message": message, "logprobs": None, "finish_reason": finish}
        for i in range(request.get("n") or 1)
    ]
    return {
        "id": _identity("chatcmpl-"),
        "object": "chat.completion",
        "created": int(time.time()),
        "model": request.get("model"),
        "choices": choices,
        "usage": _chat_usage(request, text),
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }


def _chat_chunks(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    asks = bool((request.get("stream_options") or {}).get("include_usage"))
    head = {
        "id": _identity("chatcmpl-"),
        "object": "chat.completion.chunk",
        "created": int(time.time()),
        "model": request.get("model"),
        "service_tier": "default",
        "system_fingerprint": "fp_demo",
    }

    def chunk(i: int, delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
        choice = {"index": i, "delta": delta, "logprobs": None, "finish_reason": finish}
        return {**head, "choices": [choice], **({"usage": None} if asks else {})}

    text, tool = _said(request), _tool(request)
    for i in range(request.get("n") or 1):
        yield chunk(i, {"role": "assistant", "content": "" if tool is None else None, "refusal": None})
        if tool is None:
            for word in text.split(" "):
                yield chunk(i, {"content": word + " "} if not text.endswith(word) else {"content": word})
        else:
            function = {"name": tool, "arguments": ""}
            call = {"index": 0, "id": "call_1", "type": "function", "function": function}
            yield chunk(i, {"tool_calls": [call]})
            for part in ('{"city"', ':"Bern"}'):
                yield chunk(i, {"tool_calls": [{"index": 0, "function": {"arguments": part}}]})
        yield chunk(i, {}, "stop" if tool is None else "tool_calls")
    if asks:
        yield {**head, "choices": [], "usage": _chat_usage(request, text)}


# -- messages ----------------------------------------------------------------------------


def _message(request: Mapping[str, Any]) -> dict[str, Any]:
    text, tool = _said(request), _tool(request)
    content: list[dict[str, Any]] = [{"type": "text", "text": text}]
    if tool is not None:
        content.append({"type": "tool_use", "id": "toolu_1", "name": tool, "input": {"city": "Bern"}})
    return {
        "id": _identity("msg_"),
        "type": "message",
        "role": "assistant",
        "model": request.get("model"),
        "content": content,
        "stop_reason": "end_turn" if tool is None else "tool_use",
        "stop_sequence": None,
        "usage": {
            "input_tokens": _tokens(request),
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": 0,
            "output_tokens": max(1, len(text) // 4),
        },
    }


def _message_events(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    whole = _message(request)
    usage = {**whole["usage"], "output_tokens": 1}
    start = {**whole, "content": [], "stop_reason": None, "stop_sequence": None, "usage": usage}
    yield {"type": "message_start", "message": start}
    for i, block in enumerate(whole["content"]):
        if block["type"] == "text":
            yield {"type": "content_block_start", "index": i, "content_block": {"type": "text", "text": ""}}
            yield {"type": "ping"}
            words = block["text"].split(" ")
            for n, word in enumerate(words):
                text = word if n == len(words) - 1 else word + " "
                yield {
                    "type": "content_block_delta",
                    "index": i,
                    "delta": {"type": "text_delta", "text": text},
                }
        else:
            yield {"type": "content_block_start", "index": i, "content_block": {**block, "input": {}}}
            for part in ("", '{"city"', ': "Bern"}'):
                delta = {"type": "input_json_delta", "partial_json": part}
                yield {"type": "content_block_delta", "index": i, "delta": delta}
        yield {"type": "content_block_stop", "index": i}
    yield {
        "type": "message_delta",
        "delta": {"stop_reason": whole["stop_reason"], "stop_sequence": None},
        "usage": whole["usage"],
    }
    yield {"type": "message_stop"}


# -- responses ---------------------------------------------------------------------------


def _response(request: Mapping[str, Any]) -> dict[str, Any]:
    text, tool = _said(request), _tool(request)
    part = {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
    item: dict[str, Any] = {
        "id": _identity("msg_"),
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    if tool is not None:
        item = {
            "id": _identity("fc_"),
            "type": "function_call",
            "status": "completed",
            "name": tool,
            "call_id": "call_1",
            "arguments": '{"city":"Bern"}',
        }
    prompt, answer = _tokens(request), max(1, len(text) // 4)
    return {
        "id": _identity("resp_"),
        "object": "response",
        "created_at": int(time.time()),
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "instructions": request.get("instructions"),
        "max_output_tokens": request.get("max_output_tokens"),
        "model": request.get("model"),
        "output": [item],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "reasoning": {"effort": None, "summary": None},
        "store": request.get("store", True),
        "temperature": request.get("temperature", 1.0),
        "text": {"format": {"type": "text"}},
        "tool_choice": "auto",
        "tools": request.get("tools") or [],
        "top_p": 1.0,
        "truncation": "disabled",
        "usage": {
            "input_tokens": prompt,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": prompt + answer,
        },
        "user": request.get("user"),
        "metadata": request.get("metadata") or {},
    }


def _response_events(request: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    whole = _response(request)
    numbers = itertools.count()
    item = whole["output"][0]
    begun = {**whole, "status": "in_progress", "output": [], "usage": None}

    def event(kind: str, **fields: Any) -> dict[str, Any]:
        return {"type": f"response.{kind}", "sequence_number": next(numbers), **fields}

    yield event("created", response=begun)
    yield event("in_progress", response=begun)
    is_call = item["type"] == "function_call"
    empty = {**item, "status": "in_progress", **({"arguments": ""} if is_call else {"content": []})}
    yield event("output_item.added", output_index=0, item=empty)
    place = {"item_id": item["id"], "output_index": 0}
    if is_call:
        for piece in ('{"city"', ':"Bern"}'):
            yield event("function_call_arguments.delta", **place, delta=piece)
        yield event("function_call_arguments.done", **place, arguments=item["arguments"])
    else:
        part, place = item["content"][0], {**place, "content_index": 0}
        yield event("content_part.added", **place, part={**part, "text": ""})
        words = part["text"].split(" ")
        for n, word in enumerate(words):
            piece = word if n == len(words) - 1 else word + " "
            yield event("output_text.delta", **place, delta=piece, logprobs=[])
        yield event("output_text.done", **place, text=part["text"], logprobs=[])
        yield event("content_part.done", **place, part=part)
    yield event("output_item.done", output_index=0, item=item)
    yield event("completed", response=whole)


def _embeddings(request: Mapping[str, Any]) -> dict[str, Any]:
    import base64
    import struct

    asked = request.get("input")
    texts = asked if isinstance(asked, list) else [asked]
    data = []
    for i, text in enumerate(texts):
        digest = hashlib.sha256(orjson.dumps(text)).digest()
        # Of as few bits as a float32 has: both encodings say the same.
        numbers = [(byte - 128) / 256 for byte in digest[:8]]
        packed = base64.b64encode(struct.pack("<8f", *numbers)).decode()
        value = packed if request.get("encoding_format") == "base64" else numbers
        data.append({"object": "embedding", "index": i, "embedding": value})
    tokens = _tokens(request)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    return {"object": "list", "data": data, "model": request.get("model"), "usage": usage}


_PATHS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}


class DemoProvider:
    """Serves scripted answers on a port of this machine.

    Args:
        seconds: how long an answer takes.
    """

    def __init__(self, seconds: float = 1.0) -> None:
        self._seconds = seconds
        self._runner: web.AppRunner | None = None
        self.url = ""
        self.calls = 0

    async def start(self) -> None:
        """Listen on a free port."""
        from aiohttp import web

        app = web.Application(client_max_size=64 << 20)
        for path in _PATHS:
            app.router.add_post(path, self._answer)
        app.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"

    async def stop(self) -> None:
        """Stop listening."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _models(self, _: web.Request) -> web.Response:
        from aiohttp import web

        return web.json_response({"object": "list", "data": [{"id": "demo", "object": "model"}]})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        from aiohttp import web

        self.calls += 1
        protocol, asked = _PATHS[request.path], await request.json()
        if not asked.get("stream"):
            await asyncio.sleep(self._seconds)
            return web.json_response(body_of(protocol, asked))
        events = events_of(protocol, asked)
        response = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await response.prepare(request)
        for event in events:
            await asyncio.sleep(self._seconds / len(events))
            await response.write(event)
        await response.write_eof()
        return response


def in_thread(seconds: float = 1.0) -> str:
    """Serve scripted answers in a thread of this process, and return the address."""
    from lix_cache.daemon import launch

    started: Future[str] = Future()

    async def serve() -> None:
        provider = DemoProvider(seconds)
        await provider.start()
        started.set_result(provider.url)
        await asyncio.Event().wait()

    launch(threading.Thread(target=lambda: asyncio.run(serve()), name="lix-cache-demo", daemon=True))
    return started.result(30)
