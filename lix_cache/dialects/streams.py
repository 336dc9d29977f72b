"""Whether a stream of events is a whole answer. Pure.

Understood are texts, the events of OpenAI (chat completions, responses) and Anthropic as mappings,
and the same as server-sent events: texts or bytes with ``data:`` lines.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from lix_cache.dialects.responses import flaw_of, flaw_of_end
from lix_cache.values.streamed import Streamed

__all__ = ["flaw_of_stream"]

#: The last event of a protocol, by what tells that it is spoken.
_ENDS = {
    "message_start": ("message_stop",),
    "response.created": ("response.completed", "response.incomplete", "response.failed"),
}
_TOOL_ITEMS = (
    *("tool", "function_call", "custom_tool_call", "computer_call", "mcp_call"),
    *("local_shell_call", "shell_call", "apply_patch_call"),
)


def flaw_of_stream(streamed: Streamed) -> tuple[str, str] | None:
    """Return why a stream is not to be kept, as a rule and a detail; None if it is whole.

    The rules are those of :func:`~lix_cache.dialects.responses.flaw_of`. A stream that began in one of
    the protocols and lacks its end is ``truncated``: connections that break look like ends.
    """
    if streamed.final is not None:
        flaw = flaw_of(streamed.final)
        if flaw is not None:
            return flaw
    events = list(_protocol_events(streamed.events))
    for event in events:
        flaw = _of_event(event)
        if flaw is not None:
            return flaw
    if _lacks_its_end(events):
        return "truncated", "the stream has no last event"
    return None if events else flaw_of(streamed.body)


def _protocol_events(events: tuple[Any, ...]) -> Iterator[Mapping[Any, Any]]:
    if all(isinstance(event, (str, bytes)) for event in events):
        # An event may be cut anywhere, also inside a line.
        kind = bytes if events and isinstance(events[0], bytes) else str
        if all(isinstance(event, kind) for event in events):
            yield from _sent(kind().join(events))
        return
    for event in events:
        if isinstance(event, Mapping):
            yield event
        elif isinstance(event, (str, bytes)):
            yield from _sent(event)


def _sent(data: str | bytes) -> Iterator[Mapping[Any, Any]]:
    """Read server-sent events; a text that is none has none."""
    text = data.decode("utf-8", "replace") if isinstance(data, bytes) else data
    if "data:" not in text:
        return
    for line in text.splitlines():
        if not line.startswith("data:"):
            continue
        try:
            event = json.loads(line[len("data:") :])
        except (ValueError, RecursionError):
            continue  # [DONE], or not of these protocols
        if isinstance(event, Mapping):
            yield event


def _of_event(event: Mapping[Any, Any]) -> tuple[str, str] | None:
    flaw = flaw_of_end(event)
    inner = event.get("delta"), event.get("response"), event.get("message")
    for part in inner:
        if flaw is None and isinstance(part, Mapping):
            flaw = flaw_of_end(part) if event.get("type") not in _BEGUN else None
    if flaw is not None:
        return flaw
    choices = event.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        delta = choice.get("delta") if isinstance(choice, Mapping) else None
        if isinstance(delta, Mapping) and (delta.get("tool_calls") or delta.get("function_call")):
            return "tool_call", "it calls a tool"
    block = event.get("content_block", event.get("item"))
    kind = block.get("type") if isinstance(block, Mapping) else None
    if isinstance(kind, str) and kind.startswith(_TOOL_ITEMS):
        return "tool_call", "it calls a tool"
    return None


#: Events whose response is under way: its status says so, and is no flaw.
_BEGUN = ("response.created", "response.queued", "response.in_progress")


def _lacks_its_end(events: list[Mapping[Any, Any]]) -> bool:
    kinds = {event["type"] for event in events if isinstance(event.get("type"), str)}
    for first, ends in _ENDS.items():
        if first in kinds and kinds.isdisjoint(ends):
            return True
    chunks = [event for event in events if event.get("object") == "chat.completion.chunk"]
    return bool(chunks) and not any(_finishes(chunk) for chunk in chunks)


def _finishes(chunk: Mapping[Any, Any]) -> bool:
    choices = chunk.get("choices")
    return isinstance(choices, list) and any(
        isinstance(choice, Mapping) and choice.get("finish_reason") for choice in choices
    )
