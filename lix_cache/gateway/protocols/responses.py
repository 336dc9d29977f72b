"""OpenAI's responses. Pure.

The last event holds the whole response, so the unstreamed form is there; the events before it must agree.

A response repeats what its request said, also what is no part of the key: those get slots of their own
(``NUL m`` metadata, ``n`` user, ``k`` prompt_cache_key, ``s`` safety_identifier), or one caller would read
another's. ``NUL o`` stands for instructions that are the request's own, where rules may have made equal what
differs in a date.

Later requests refer to a response that the provider keeps (``store``, on unless it says false): such a one
keeps its id. One that is not kept gets a new one.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeGuard

from lix_cache.gateway.answer import Answer, Usage, fill
from lix_cache.gateway.eligibility import is_kept
from lix_cache.gateway.plain_json import dump, parse_object
from lix_cache.gateway.protocols.protocol import (
    Parse,
    Protocol,
    Unfit,
    check_error,
    check_name,
    check_whole,
    count,
    cut_off,
    is_length,
    members,
    told_name,
    word,
)
from lix_cache.gateway.protocols.response_events import events_of
from lix_cache.gateway.sse import Event, Events, frame

__all__ = ["Responses"]

#: Items that the client can read or carry out itself. The others are of tools that the provider runs.
_CALLS = frozenset(
    [
        "function_call",
        "custom_tool_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
        "computer_call",
    ]
)
_ITEMS = _CALLS | {"message", "reasoning"}
_BEGUN = frozenset({"response.created", "response.queued", "response.in_progress"})
_END = "response.completed"
_CUT = "response.incomplete"
_FAILED = {"response.failed", "error"}
#: The parts of an item, and where their text is.
_PARTS = {
    "message": {"output_text": "text", "refusal": "refusal"},
    "reasoning": {"summary_text": "text", "reasoning_text": "text"},
}
_KNOWN = frozenset(
    f"response.{name}"
    for name in [
        *("output_item.added", "output_item.done", "content_part.added", "content_part.done"),
        *("output_text.delta", "output_text.done", "output_text.annotation.added"),
        *("refusal.delta", "refusal.done"),
        *("function_call_arguments.delta", "function_call_arguments.done"),
        *("custom_tool_call_input.delta", "custom_tool_call_input.done"),
        *("reasoning_summary_part.added", "reasoning_summary_part.done"),
        *("reasoning_summary_text.delta", "reasoning_summary_text.done"),
        *("reasoning_text.delta", "reasoning_text.done"),
        *("shell_call_command.added", "shell_call_command.delta", "shell_call_command.done"),
        *("apply_patch_call_operation_diff.delta", "apply_patch_call_operation_diff.done"),
    ]
)
#: What the deltas come to, by where it stands in its item.
_PIECES: Final = {
    "response.output_text.delta": "text",
    "response.refusal.delta": "refusal",
    "response.function_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
}
#: What is repeated of the request: its slot, and what stands there if the request does not say it.
_ECHOED: Final[dict[str, tuple[bytes, Any]]] = {
    "metadata": (b"m", {}),
    "user": (b"n", None),
    "prompt_cache_key": (b"k", None),
    "safety_identifier": (b"s", None),
}


class Responses(Protocol):
    """OpenAI's responses."""

    name = "responses"
    path = "/v1/responses"

    def render(
        self, answer: Answer, *, stream: bool, request: Mapping[str, Any], new_id: str, created: int
    ) -> bytes:
        identity = answer.id if is_kept(self.name, request) else f"resp_{new_id}"
        values = {b"e": answer.envelope, b"i": dump(identity), b"t": b"%d" % created}
        for name, (letter, default) in _ECHOED.items():
            given = request.get(name)
            values[letter] = dump(default if given is None else given)
        if b"\0o" in answer.body:
            values[b"o"] = dump(request.get("instructions"))
        if stream and answer.events is not None:
            return fill(answer.events, values)
        body = fill(answer.body, values)
        return b"".join(events_of(parse_object(body))) if stream else body

    def text(self, answer: Answer) -> str:
        values = dict.fromkeys((b"i", b"t", b"o", *(letter for letter, _ in _ECHOED.values())), b"null")
        body = parse_object(fill(answer.body, {b"e": answer.envelope, **values}))
        parts = (part for item in body["output"] for part in item.get("content") or ())
        return "\n\n".join(part["text"] for part in parts if part.get("type") == "output_text")

    def _of_body(self, body: dict[str, Any], request: Mapping[str, Any]) -> Answer:
        return _answer_of(body, b"{" + _slotted(body, request) + b"}")

    def _of_events(self, events: Events, parse: Parse, request: Mapping[str, Any]) -> Answer:
        recorded = _Recorded(request)
        for event in events:
            recorded.take(event, parse)
        return recorded.answer()


def _answer_of(
    body: dict[str, Any],
    template: bytes,
    envelope: bytes = b"",
    events: bytes | None = None,
) -> Answer:
    uncut = _uncut(body)
    if uncut is not None:
        raise cut_off(_answer_of(uncut, template, envelope))
    check_whole(body)
    if body.get("status") != "completed" or body.get("incomplete_details"):
        raise Unfit("truncated", "the response is not completed")
    items = members(body.get("output"), "output")
    for item in items:
        _check_item(item)
    return Answer(
        protocol=Responses.name,
        id=word(body.get("id")),
        model=word(body.get("model")),
        finish=("completed",),
        usage=_usage_of(body.get("usage")),
        has_tool_calls=any(item["type"] in _CALLS for item in items),
        lacks_usage=False,
        body=template,
        envelope=envelope,
        events=events,
    )


def _uncut(body: dict[str, Any]) -> dict[str, Any] | None:
    """Return the response as if no limit of length had ended it; None if none did."""
    details = body.get("incomplete_details")
    reason = details.get("reason") if isinstance(details, dict) else None
    if body.get("status") != "incomplete" or not is_length(reason):
        return None
    items = [
        {**item, "status": "completed"} if item.get("status") == "incomplete" else item
        for item in members(body.get("output"), "output")
    ]
    return {**body, "status": "completed", "incomplete_details": None, "output": items}


def _check_item(item: dict[str, Any]) -> None:
    kind = word(item.get("type"))
    if kind not in _ITEMS:
        raise Unfit("unknown", f"an item {told_name(kind)}")
    if item.get("status") not in (None, "completed") or item.get("incomplete_details"):
        raise Unfit("truncated", "an item is not completed")
    if kind in _CALLS:
        return
    for part in (
        *members(item.get("content") or [], "content"),
        *members(item.get("summary") or [], "summary"),
    ):
        check_error(part)
        text = _PARTS[kind].get(word(part.get("type")))
        if text is None or not isinstance(part.get(text), str):
            raise Unfit("unknown", f"a part {told_name(part.get('type'))}")
        members(part.get("annotations") or [], "annotations")


def _is_place(number: Any) -> TypeGuard[int]:
    return type(number) is int and number >= 0


def _usage_of(usage: Any) -> Usage | None:
    if not isinstance(usage, dict):
        return None
    details = usage.get("input_tokens_details")
    cached = count(details.get("cached_tokens")) if isinstance(details, dict) else 0
    return Usage(count(usage.get("input_tokens")), count(usage.get("output_tokens")), cached)


def _slotted(
    response: Mapping[str, Any], request: Mapping[str, Any], repeated: Mapping[str, Any] | None = None
) -> bytes:
    """Return the members of a response, with slots; those that all events repeat are ``NUL e``."""
    rest = dict(response)
    slots = []
    for name, letter in (("id", b"i"), ("created_at", b"t"), ("completed_at", b"t")):
        if rest.get(name):
            del rest[name]
            slots.append(b'"%b":\0%b' % (name.encode(), letter))
    for name, (letter, _) in _ECHOED.items():
        if rest.pop(name, response) is not response:
            slots.append(b'"%b":\0%b' % (name.encode(), letter))
    if rest.get("instructions") is not None and rest["instructions"] == request.get("instructions"):
        del rest["instructions"]
        slots.append(b'"instructions":\0o')
    if repeated:
        slots.append(b"\0e")
        rest = {key: value for key, value in rest.items() if key not in repeated}
    return b",".join(filter(None, (*slots, dump(rest)[1:-1])))


class _Recorded:
    """A stream as it was recorded: its template, and what it comes to."""

    def __init__(self, request: Mapping[str, Any]) -> None:
        self._request = request
        self._frames: list[bytes | tuple[dict[str, Any], bytes]] = []
        self._end: dict[str, Any] | None = None
        self._is_cut = False
        self._items: dict[int, dict[str, Any]] = {}
        self._pieces: dict[tuple[int, int, str], list[str]] = {}

    def take(self, event: Event, parse: Parse) -> None:
        if event.data == b"[DONE]":  # some servers end all their streams so
            return
        if self._end is not None:
            raise Unfit("malformed", "an event after the last one")
        said = parse(event.data)
        check_error(said)
        kind = word(said.get("type"))
        if kind in _FAILED or event.name == b"error":
            raise Unfit("error", "an event says that it failed")
        check_name(event, kind)
        if kind in (_END, _CUT) or kind in _BEGUN:
            self._is_cut = kind == _CUT
            self._take_response(said, event.name, is_end=kind in (_END, _CUT))
        elif kind in _KNOWN:
            self._take_piece(said, kind)
            has_padding = said.pop("obfuscation", None) is not None
            self._frames.append(
                frame(dump(said) if has_padding or b"\n" in event.data else event.data, event.name)
            )
        elif kind != "keepalive":
            raise Unfit("unknown", f"an event {told_name(kind)}")

    def _take_response(self, said: dict[str, Any], name: bytes, *, is_end: bool) -> None:
        if not isinstance(said.get("response"), dict):
            raise Unfit("malformed", "an event without its response")
        check_error(said["response"])
        self._frames.append((said, name))
        if is_end:
            self._end = said["response"]

    def _take_piece(self, said: Mapping[str, Any], kind: str) -> None:
        if isinstance(said.get("part"), dict):
            check_error(said["part"])
        if kind in ("response.output_item.added", "response.output_item.done"):
            item, at = said.get("item"), said.get("output_index")
            if not isinstance(item, dict) or not _is_place(at):
                raise Unfit("malformed", "an item without its place")
            if word(item.get("type")) not in _ITEMS:
                raise Unfit("unknown", f"an item {told_name(item.get('type'))}")
            check_error(item)
            if kind.endswith("done"):
                self._items[at] = item
        field = _PIECES.get(kind)
        if field is not None:
            place, part, delta = said.get("output_index"), said.get("content_index", 0), said.get("delta")
            if not (_is_place(place) and _is_place(part) and isinstance(delta, str)):
                raise Unfit("malformed", "a delta without its place")
            self._pieces.setdefault((place, part, field), []).append(delta)

    def answer(self) -> Answer:
        end = self._end
        if end is None:
            raise Unfit("truncated", f"the stream has no {_END}")
        if self._is_cut and _uncut({**end, "output": []}) is None:
            raise Unfit("truncated", "an event says that it is incomplete, and not for its length")
        if not end.get("output") and self._items:
            # So do servers that do not keep the response: the items were told before.
            end = {**end, "output": [self._items[at] for at in sorted(self._items)]}
        self._check_agreement(members(end.get("output"), "output"))
        repeated = self._repeated(end)
        frames = [one if isinstance(one, bytes) else self._framed(*one, repeated) for one in self._frames]
        template = b"{" + _slotted(end, self._request, repeated) + b"}"
        envelope = dump(repeated)[1:-1] if repeated else b""
        return _answer_of(end, template, envelope, b"".join(frames))

    def _check_agreement(self, output: list[dict[str, Any]]) -> None:
        """Refuse a response that is not what its events said: one of the two forms would be wrong."""
        for at, item in self._items.items():
            if at >= len(output) or any(output[at].get(key) != item.get(key) for key in ("type", "call_id")):
                raise Unfit("inconsistent", "the response has not the items of its events")
        for (at, part, field), pieces in self._pieces.items():
            holder: Any = output[at] if at < len(output) else {}
            if field in ("text", "refusal"):
                content = holder.get("content")
                holder = content[part] if isinstance(content, list) and part < len(content) else {}
            if not isinstance(holder, dict) or holder.get(field) != "".join(pieces):
                raise Unfit("inconsistent", "the response has not the words of its events")

    def _repeated(self, end: Mapping[str, Any]) -> dict[str, Any]:
        """Return what every response in the stream says: the tools of an agent are most of it."""
        shown = [one[0]["response"] for one in self._frames if isinstance(one, tuple)]
        own = {"id", "created_at", "completed_at", *_ECHOED, "instructions", "output", "status"}
        return {
            key: value
            for key, value in end.items()
            if key not in own and all(key in one and one[key] == value for one in shown)
        }

    def _framed(self, said: dict[str, Any], name: bytes, repeated: Mapping[str, Any]) -> bytes:
        response = said["response"]
        rest = dump({key: value for key, value in said.items() if key != "response"})[:-1]
        inner = _slotted(response, self._request, repeated)
        return frame(rest + b',"response":{' + inner + b"}}", name)
