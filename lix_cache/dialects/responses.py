"""Whether a response is a whole answer, or an error, a fragment or a step on the way. Pure.

Understood are texts, and the mappings that OpenAI (chat completions, responses), Anthropic
and Google answer with. Of any other mapping only an ``error`` in it is understood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["flaw_of", "flaw_of_end"]

_CUT = frozenset(
    [
        "length",
        "max_tokens",
        "max_output_tokens",
        "model_length",
        "model_context_window_exceeded",
        "content_filter",
        "incomplete",
        "cancelled",
        "in_progress",
        "queued",
        "pause_turn",
        "safety",
        "recitation",
        "prohibited_content",
        "blocklist",
        "spii",
        "language",
    ]
)
_STEPS = frozenset({"tool_calls", "tool_use", "function_call"})
_FAILED = frozenset({"failed", "error", "expired"})
_STEP_PARTS = frozenset(
    {"tool_use", "function_call", "tool_call", "computer_call", "mcp_call", "custom_tool_call"}
)
_MOST_PARTS = 10_000


def flaw_of(response: Any) -> tuple[str, str] | None:
    """Return why a response is not to be kept, as a rule and a detail; None if it is whole.

    The rules are ``error``, ``empty``, ``truncated`` and ``tool_call``.
    """
    if isinstance(response, BaseException):
        return "error", f"{type(response).__name__}: {response}"
    if isinstance(response, (str, bytes)):
        return ("empty", "no text") if not response.strip() else None
    if isinstance(response, Mapping):
        return _of_mapping(response)
    if response is None or (isinstance(response, (list, tuple, set, frozenset)) and not response):
        return "empty", "no value"
    if isinstance(response, (list, tuple)) and len(response) <= _MOST_PARTS and _are_messages(response):
        return _of_mapping(response[-1])
    return None


def _are_messages(items: list[Any] | tuple[Any, ...]) -> bool:
    return all(isinstance(item, Mapping) and ("role" in item or "type" in item) for item in items)


def _of_mapping(response: Mapping[Any, Any]) -> tuple[str, str] | None:
    if not response:
        return "empty", "no value"
    return flaw_of_end(response) or _of_body(response)


def flaw_of_end(response: Mapping[Any, Any]) -> tuple[str, str] | None:
    """Return why a mapping is an error, or says that it ended early; None if it does not."""
    for key in ("error", "errors", "exception"):
        if response.get(key):
            return "error", f"it has an item {key!r}"
    if response.get("type") == "error":
        return "error", "its type is 'error'"
    for reason in _reasons(response):
        word = reason.lower()
        if word in _FAILED:
            return "error", f"it ended with {reason!r}"
        if word in _CUT:
            return "truncated", f"it ended with {reason!r}"
        if word in _STEPS:
            return "tool_call", f"it ended with {reason!r}"
    return None


def _reasons(response: Mapping[Any, Any]) -> Iterator[str]:
    """Say how it ended, in every dialect."""
    tops = [response, *_list(response.get("choices")), *_list(response.get("candidates"))]
    for top in tops:
        if isinstance(top, Mapping):
            for key in ("finish_reason", "stop_reason", "finishReason"):
                if isinstance(top.get(key), str):
                    yield top[key]
    if response.get("object") == "response" and isinstance(response.get("status"), str):
        yield response["status"]


def _of_body(response: Mapping[Any, Any]) -> tuple[str, str] | None:
    """Look into the messages: calls of tools are steps, and nothing said is no answer."""
    bodies = [
        *(
            choice.get("message", choice)
            for choice in _list(response.get("choices"))
            if isinstance(choice, Mapping)
        ),
        *(one.get("content", one) for one in _list(response.get("candidates")) if isinstance(one, Mapping)),
        *(part for part in _list(response.get("output")) if isinstance(part, Mapping)),
    ]
    if not bodies and ("content" in response or response.get("role") == "assistant"):
        bodies = [response]
    said = False
    for body in bodies:
        if not isinstance(body, Mapping):
            said = True
            continue
        if body.get("tool_calls") or body.get("function_call") or body.get("type") in _STEP_PARTS:
            return "tool_call", "it calls a tool"
        for part in _list(body.get("content", body.get("parts", body.get("text")))):
            if isinstance(part, Mapping) and (part.get("type") in _STEP_PARTS or "functionCall" in part):
                return "tool_call", "it calls a tool"
            said = said or _says(part)
    for key in ("choices", "candidates", "output"):
        if key in response and not bodies and isinstance(response[key], (list, tuple)):
            return "empty", f"nothing in {key!r}"
    return ("empty", "no text") if bodies and not said else None


def _says(part: Any) -> bool:
    if isinstance(part, Mapping):
        # A part that is no text (an image, a citation) says something too.
        return bool(str(part.get("text", part.get("refusal", "?"))).strip())
    return bool(part.strip()) if isinstance(part, (str, bytes)) else part is not None


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value)[:_MOST_PARTS] if isinstance(value, (list, tuple)) else [value]
