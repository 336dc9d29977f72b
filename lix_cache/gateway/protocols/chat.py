"""OpenAI's chat completions, and what the many servers that speak it make of them. Pure.

Tokens are in a stream only if the request asked for them (``stream_options.include_usage``), which is no
part of the key. So the templates hold both forms: with them, in one last chunk without choices, and
without them. Where a provider tells them unasked, they stay where it told them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from lix_cache.gateway.answer import Answer, Usage, fill
from lix_cache.gateway.plain_json import dump, parse_object
from lix_cache.gateway.protocols.chat_deltas import Assembly, check_message
from lix_cache.gateway.protocols.protocol import (
    Parse,
    Protocol,
    Unfit,
    check_error,
    check_whole,
    count,
    cut_off,
    is_length,
    members,
    slotted,
    word,
)
from lix_cache.gateway.protocols.repeating import Repeating, around
from lix_cache.gateway.sse import Event, Events, frame

__all__ = ["Chat"]

_KEPT = frozenset({"stop", "tool_calls"})
#: Of the unstreamed form, what every chunk repeats.
_REPEATED = frozenset({"model", "system_fingerprint", "service_tier"})
_DONE = frame(b"[DONE]")
#: OpenAI's padding, of as many bytes as one stream needed: the last member of a chunk. A quote inside a text
#: would have a backslash before it, so this is no text.
_PADDING = re.compile(rb',\s?"obfuscation":\s?"[^"\\]*"\}\Z')


class Chat(Protocol):
    """OpenAI's chat completions."""

    name = "chat"
    path = "/v1/chat/completions"
    last = b"[DONE]"

    def lacks(self, answer: Answer, *, stream: bool, request: Mapping[str, Any]) -> str | None:
        return "usage" if answer.lacks_usage and (not stream or _asks(request)) else None

    def render(
        self, answer: Answer, *, stream: bool, request: Mapping[str, Any], new_id: str, created: int
    ) -> bytes:
        values = {b"i": dump(f"chatcmpl-{new_id}"), b"t": b"%d" % created}
        if not stream:
            return fill(answer.body, values)
        asked = _asks(request)
        if answer.events is None:
            return b"".join(_events_of(parse_object(fill(answer.body, values)), asked))
        values[b"e"] = fill(answer.envelope, values)
        between = answer.events_between(b',"usage":null' if asked else b"", asked=asked)
        return fill(values[b"e"].join(between), values, asked=asked)

    def text(self, answer: Answer) -> str:
        body = parse_object(fill(answer.body, {b"i": b'""', b"t": b"0"}))
        contents = (choice["message"].get("content") for choice in body["choices"])
        return "\n\n".join(content for content in contents if isinstance(content, str))

    def _of_body(self, body: dict[str, Any], request: Mapping[str, Any]) -> Answer:
        return _answer_of(body, request)

    def _of_events(self, events: Events, parse: Parse, request: Mapping[str, Any]) -> Answer:
        recorded = _Recorded(request)
        events.run = recorded.run
        for event in events:
            recorded.take(event, parse)
        return recorded.answer()


def _asks(request: Mapping[str, Any]) -> bool:
    options = request.get("stream_options")
    return isinstance(options, Mapping) and options.get("include_usage") is True


def _answer_of(
    body: dict[str, Any],
    request: Mapping[str, Any],
    *,
    envelope: bytes = b"",
    events: bytes | None = None,
    asked: bool = True,
) -> Answer:
    uncut = _uncut(body)
    if uncut is not None:
        raise cut_off(_answer_of(uncut, request))
    check_whole(body)
    choices = members(body.get("choices"), "choices")
    _check_count(choices, request.get("n"))
    finish = tuple(str(choice.get("finish_reason")) for choice in choices)
    if not finish or not _KEPT.issuperset(finish):
        raise Unfit("truncated", "a choice has no finish reason of a complete answer")
    calls = [call for choice in choices for call in check_message(choice.get("message"))]
    usage = body.get("usage")
    return Answer(
        protocol=Chat.name,
        id=word(body.get("id")),
        model=word(body.get("model")),
        finish=finish,
        usage=_usage_of(usage),
        has_tool_calls=bool(calls),
        lacks_usage=usage is None and not asked,
        body=b"{" + slotted(body) + b"}",
        envelope=envelope,
        events=events,
    )


def _uncut(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the body as if no limit of length had ended any choice; None if none did."""
    choices = body.get("choices")
    given = choices if isinstance(choices, list) else []
    cut = [isinstance(one, dict) and is_length(one.get("finish_reason")) for one in given]
    whole = {"finish_reason": "stop", "native_finish_reason": None}
    ended = [{**one, **whole} if is_cut else one for one, is_cut in zip(given, cut, strict=True)]
    return {**body, "choices": ended} if any(cut) else None


def _check_count(choices: list[dict[str, Any]], asked: Any) -> None:
    """Refuse fewer choices than were asked for, and two in one place."""
    if asked is not None and (type(asked) not in (int, float) or len(choices) < asked):
        raise Unfit("truncated", "fewer choices than were asked for")
    places = [choice.get("index", place) for place, choice in enumerate(choices)]
    if len(places) > 1 and (any(type(one) is not int for one in places) or len({*places}) < len(places)):
        raise Unfit("inconsistent", "two choices in one place")


def _usage_of(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("prompt_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(count(usage.get("prompt_tokens")), count(usage.get("completion_tokens")), cached)


def _begun(chunk: Mapping[str, Any]) -> bytes:
    members_of = slotted(chunk)
    return b"{" + members_of + b"," if members_of else b"{"


def _unpadded(data: bytes) -> bytes:
    at = data.rfind(b'"obfuscation"')
    start = data.rfind(b",", 0, at) if at > 0 else -1
    return data if start < 0 or _PADDING.match(data, start) is None else data[:start] + b"}"


def _delta_of(chunk: dict[str, Any]) -> Any:
    return chunk["choices"][0]["delta"]


class _Recorded:
    """A stream as it was recorded: its template, and what it comes to."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._asked = _asks(request)
        self._frames: list[bytes] = []
        self._first: dict[str, Any] | None = None
        self._repeated: dict[str, Any] | None = None
        self._envelope = b""
        self._assembly = Assembly()
        self._is_done = False
        self._repeating = Repeating(_unpadded)
        self._pieces: list[str] = []
        self._around = b"", b""

    def run(self, data: bytes, start: int) -> tuple[int, int]:
        """Take events of which only the text is new; see :attr:`Events.run`."""
        start, texts, tokens = self._repeating.run(data, start)
        if texts:
            before, behind = self._around
            self._pieces += texts
            self._frames.append(before + (behind + before).join(tokens) + behind)
        return start, len(texts)

    def take(self, event: Event, parse: Parse) -> None:
        event = Event(event.name, _unpadded(event.data))
        more = self._repeating.text(event)
        if more is not None:
            self._pieces.append(more[0])
            self._frames.append(more[1].join(self._around))
            return
        self._repeating.forget()
        if self._is_done:
            raise Unfit("malformed", "an event after the last one")
        if event.data == b"[DONE]":
            self._is_done = True
            return
        if event.name == b"error":
            raise Unfit("error", "an error event")
        chunk = parse(event.data)
        check_error(chunk)
        is_padded = chunk.pop("obfuscation", None) is not None  # at another place than OpenAI's
        usage = chunk.pop("usage", None)
        choices = members(chunk.pop("choices", None), "choices")
        # Nearly all chunks begin as the first one did, and then there is nothing new in it.
        is_repeated = chunk == self._first
        self._assembly.take({} if is_repeated else chunk, choices, usage)
        self._keep(b"\0e" if is_repeated else self._head(chunk, choices), choices, usage)
        if usage is None and not is_padded and len(choices) == 1:
            self._learn(event, choices[0])

    def _learn(self, event: Event, choice: dict[str, Any]) -> None:
        """Look whether the next chunks may be as this one but for their text."""
        found = self._assembly.growing(choice)
        if found is None:
            return
        key, self._pieces = found
        parts = around(self._frames[-1], key, self._pieces[-1])
        if parts is not None and self._repeating.learn(event, _delta_of, key):
            self._around = parts
        else:
            self._repeating.forget()

    def _head(self, chunk: dict[str, Any], choices: list[dict[str, Any]]) -> bytes:
        """Return what the chunk begins with: what all repeat is stored once."""
        # The id and the time, which some servers change, are filled in anew.
        marks = bool(chunk.get("id")), bool(chunk.get("created"))
        repeated = {**chunk, "id": marks[0], "created": marks[1]}
        if self._repeated is None and choices:
            self._first, self._repeated = chunk, repeated
            self._envelope = _begun(chunk)
        return b"\0e" if repeated == self._repeated else _begun(chunk)

    def _keep(self, head: bytes, choices: list[dict[str, Any]], usage: Any) -> None:
        if usage is not None and self._asked and not any(map(_says, choices)):
            return  # what was asked for is written anew, without choices, at the end
        said = head + b'"choices":' + dump(choices)
        if usage is None or self._asked:
            self._frames.append(frame(said + b"\0u}"))
            return
        self._frames.append(b"\0{" + frame(said + b',"usage":' + dump(usage) + b"}") + b"\0}")
        if choices:
            # Those who ask get the usage at the end, and once.
            self._frames.append(b"\0[" + frame(said + b"\0u}") + b"\0]")

    def answer(self) -> Answer:
        if not self._is_done:
            raise Unfit("truncated", "the stream has no [DONE]")
        body = self._assembly.body()
        if body.get("usage") is not None:
            asked = frame(b'\0e"choices":[],"usage":' + dump(body["usage"]) + b"}")
            self._frames.append(b"\0[" + asked + b"\0]")
        events = b"".join((*self._frames, _DONE))
        return _answer_of(body, self._request, envelope=self._envelope, events=events, asked=self._asked)


def _says(choice: Mapping[str, Any]) -> bool:
    return bool(choice.get("delta") or choice.get("finish_reason") or choice.get("logprobs"))


def _events_of(body: dict[str, Any], asked: bool) -> Iterator[bytes]:
    """Say in chunks what was said at once."""
    begin: dict[str, Any] = {key: value for key, value in body.items() if key in ("id", "created")}
    begin = {**begin, "object": "chat.completion.chunk", **{k: body[k] for k in body if k in _REPEATED}}
    only_once = {k: body[k] for k in body if k not in {*begin, "choices", "usage"}}
    usage = {"usage": None} if asked else {}
    for choice in body["choices"]:
        for piece in _pieces_of(choice):
            yield frame(dump({**begin, **only_once, "choices": [piece], **usage}))
            only_once = {}
    if asked and body.get("usage") is not None:
        yield frame(dump({**begin, "choices": [], "usage": body["usage"]}))
    yield _DONE


def _pieces_of(choice: dict[str, Any]) -> Iterator[dict[str, Any]]:
    message: dict[str, Any] = choice["message"]
    texts = {key: value for key, value in message.items() if isinstance(value, str) and key != "role"}
    calls = message.get("tool_calls") or []
    rest = {k: v for k, v in message.items() if k not in {*texts, "tool_calls"} and v is not None}
    nulls = {key: None for key, value in message.items() if value is None and key != "tool_calls"}
    index = choice.get("index", 0)
    logprobs = {"logprobs": None} if "logprobs" in choice else {}

    def piece(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
        return {"index": index, "delta": delta, **logprobs, "finish_reason": None, **more}

    yield piece({**rest, **dict.fromkeys(texts, ""), **nulls})
    # Reasoning is said before the answer.
    for key in sorted(texts, key=lambda one: not one.startswith("reasoning")):
        if texts[key]:
            has_them = key == "content" or "content" not in texts
            told = {"logprobs": choice["logprobs"]} if choice.get("logprobs") and has_them else {}
            yield piece({key: texts[key]}, **told)
    for number, call in enumerate(calls):
        kind = next((k for k in ("function", "custom") if isinstance(call.get(k), dict)), "function")
        said = "arguments" if kind == "function" else "input"
        inner = call.get(kind) or {}
        yield piece({"tool_calls": [{"index": number, **call, kind: {**inner, said: ""}}]})
        if inner.get(said):
            yield piece({"tool_calls": [{"index": number, kind: {said: inner[said]}}]})
    extras = {k: v for k, v in choice.items() if k not in ("index", "message", "logprobs", "finish_reason")}
    yield {**piece({}), **extras, "finish_reason": choice["finish_reason"]}
