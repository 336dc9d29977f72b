"""The events of a response that came at once, in the order in which OpenAI sends them. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from lix_cache.gateway.plain_json import dump
from lix_cache.gateway.sse import frame

__all__ = ["events_of"]


def events_of(response: dict[str, Any]) -> Iterator[bytes]:
    """Say in events what was said at once."""
    for number, event in enumerate(_events(response)):
        kind = event.pop("type")
        yield frame(dump({"type": kind, "sequence_number": number, **event}), kind.encode())


def _events(response: dict[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**response, "status": "in_progress", "output": [], "usage": None}
    if "completed_at" in begun:
        begun["completed_at"] = None
    yield {"type": "response.created", "response": begun}
    yield {"type": "response.in_progress", "response": begun}
    for index, item in enumerate(response["output"]):
        yield from _item(index, item)
    yield {"type": "response.completed", "response": response}


def _item(index: int, item: dict[str, Any]) -> Iterator[dict[str, Any]]:
    kind = item.get("type")
    begun = {**item, "status": "in_progress"} if "status" in item else dict(item)
    for key in _GROWING.get(str(kind), ()):
        if item.get(key) is not None:
            begun[key] = type(item[key])()
    yield {"type": "response.output_item.added", "output_index": index, "item": begun}
    place = {"item_id": item.get("id"), "output_index": index}
    if kind == "reasoning":
        yield from _parts(place, item.get("summary"), "summary_index", "response.reasoning_summary_part")
    if kind in ("message", "reasoning"):
        yield from _parts(place, item.get("content"), "content_index", "response.content_part")
    for key, name in (
        ("arguments", "function_call_arguments"),
        ("input", "custom_tool_call_input"),
    ):
        if isinstance(item.get(key), str) and key in begun and begun[key] == "":
            if item[key]:
                yield {"type": f"response.{name}.delta", **place, "delta": item[key]}
            yield {"type": f"response.{name}.done", **place, key: item[key]}
    yield {"type": "response.output_item.done", "output_index": index, "item": item}


#: What an item has not yet when it is added.
_GROWING = {
    "message": ("content",),
    "reasoning": ("summary", "content"),
    "function_call": ("arguments",),
    "custom_tool_call": ("input",),
}
#: How the text of a part is said.
_TEXT = {
    "output_text": ("text", "response.output_text"),
    "refusal": ("refusal", "response.refusal"),
    "summary_text": ("text", "response.reasoning_summary_text"),
    "reasoning_text": ("text", "response.reasoning_text"),
}


def _parts(place: dict[str, Any], parts: Any, index: str, name: str) -> Iterator[dict[str, Any]]:
    for number, part in enumerate(parts or ()):
        where = {**place, index: number}
        key, said = _TEXT.get(str(part.get("type")), ("", ""))
        lists: dict[str, Any] = {k: [] for k in ("annotations", "logprobs") if isinstance(part.get(k), list)}
        begun = {**part, **lists, key: ""} if key else part
        yield {"type": f"{name}.added", **where, "part": begun}
        if key:
            more = {"logprobs": part["logprobs"]} if isinstance(part.get("logprobs"), list) else {}
            if part[key]:
                yield {"type": f"{said}.delta", **where, "delta": part[key], **more}
            for at, note in enumerate(part.get("annotations") or ()):
                yield {
                    "type": "response.output_text.annotation.added",
                    **where,
                    "annotation_index": at,
                    "annotation": note,
                }
            yield {"type": f"{said}.done", **where, key: part[key], **more}
        yield {"type": f"{name}.done", **where, "part": part}
