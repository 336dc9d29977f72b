"""Whether a response is a whole answer, or an error, a fragment or a step on the way. Pure.

Understood are texts, and the mappings that OpenAI (chat completions, responses), Anthropic
and Google answer with. Of any other mapping only an ``error`` in it is understood.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["error_in", "flaw_of", "flaw_of_end"]

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
    [
        "tool_use",
        "function_call",
        "tool_call",
        "computer_call",
        "mcp_call",
        "custom_tool_call",
        "local_shell_call",
        "shell_call",
        "apply_patch_call",
    ]
)
#: What a model thought is not what it said.
_THOUGHTS = frozenset({"thinking", "redacted_thinking", "reasoning", "reasoning_text", "summary_text"})
_MOST_PARTS = 10_000


def flaw_of(response: Any, *, steps: bool = False) -> tuple[str, str] | None:
    """Return why a response is not to be kept, as a rule and a detail; None if it is whole.

    The rules are ``error``, ``empty``, ``truncated`` and ``tool_call``.

    Args:
        response: a text or a mapping.
        steps: whether calls of tools are kept as well: then they are no flaw.
    """
    if isinstance(response, BaseException):
        return "error", f"{type(response).__name__}: {response}"
    if isinstance(response, (str, bytes)):
        return ("empty", "no text") if not response.strip() else None
    if isinstance(response, Mapping):
        return _of_mapping(response, steps)
    if response is None or (isinstance(response, (list, tuple, set, frozenset)) and not response):
        return "empty", "no value"
    if isinstance(response, (list, tuple)) and len(response) <= _MOST_PARTS and _are_messages(response):
        return _of_mapping(response[-1], steps)
    return None


def _are_messages(items: list[Any] | tuple[Any, ...]) -> bool:
    return all(isinstance(item, Mapping) and ("role" in item or "type" in item) for item in items)


def _of_mapping(response: Mapping[Any, Any], steps: bool) -> tuple[str, str] | None:
    if not response:
        return "empty", "no value"
    return flaw_of_end(response, steps=steps) or _of_body(response, steps)


def flaw_of_end(response: Mapping[Any, Any], *, steps: bool = False) -> tuple[str, str] | None:
    """Return why a mapping is an error, or says that it ended early; None if it does not."""
    # A router says so of the one choice whose provider died, beside a finish reason that is none.
    for part in (response, *_parts(response)):
        error = error_in(part)
        if error is not None:
            return "error", error
    for reason in _reasons(response):
        word = reason.lower()
        if word in _FAILED:
            return "error", f"it ended with {reason!r}"
        if word in _CUT:
            return "truncated", f"it ended with {reason!r}"
        if word in _STEPS and not steps:
            return "tool_call", f"it ended with {reason!r}"
    return None


def error_in(response: Mapping[Any, Any]) -> str | None:
    """Return what tells that a mapping is an error; None if nothing does."""
    for key in ("error", "errors", "exception"):
        if response.get(key):
            return f"it has an item {key!r}"
    return "its type is 'error'" if response.get("type") == "error" else None


def _parts(response: Mapping[Any, Any]) -> Iterator[Mapping[Any, Any]]:
    """Give what may have failed by itself: choices and what they say, and the items of an output."""
    for key in ("choices", "candidates", "output"):
        for part in _list(response.get(key)):
            if isinstance(part, Mapping):
                yield part
                if isinstance(part.get("message"), Mapping):
                    yield part["message"]


def _reasons(response: Mapping[Any, Any]) -> Iterator[str]:
    """Say how it ended, in every dialect."""
    tops = [response, *_list(response.get("choices")), *_list(response.get("candidates"))]
    for top in tops:
        if isinstance(top, Mapping):
            for key in ("finish_reason", "stop_reason", "finishReason", "native_finish_reason"):
                if isinstance(top.get(key), str):
                    yield top[key]
    if response.get("object") == "response" and isinstance(response.get("status"), str):
        yield response["status"]


def _of_body(response: Mapping[Any, Any], steps: bool) -> tuple[str, str] | None:
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
    said = calls = False
    for body in bodies:
        if not isinstance(body, Mapping):
            said = True
            continue
        calls = calls or bool(body.get("tool_calls") or body.get("function_call")) or _is_step(body)
        # OpenAI's chat says in a field of its own why it does not answer.
        said = said or bool(body.get("refusal"))
        for part in _list(body.get("content", body.get("parts", body.get("text")))):
            calls = calls or _is_step(part)
            said = said or _says(part)
    if calls:
        return None if steps else ("tool_call", "it calls a tool")
    for key in ("choices", "candidates", "output"):
        if key in response and not bodies and isinstance(response[key], (list, tuple)):
            return "empty", f"nothing in {key!r}"
    return ("empty", "no text") if bodies and not said else None


def _is_step(part: Any) -> bool:
    return isinstance(part, Mapping) and (_kind(part) in _STEP_PARTS or "functionCall" in part)


def _kind(part: Mapping[Any, Any]) -> str:
    kind = part.get("type")
    return kind if isinstance(kind, str) else ""


def _says(part: Any) -> bool:
    if isinstance(part, Mapping):
        if _kind(part) in _THOUGHTS or part.get("thought") is True:
            return False
        # A part that is no text (an image, a citation) says something too.
        return bool(str(part.get("text", part.get("refusal", "?"))).strip())
    return bool(part.strip()) if isinstance(part, (str, bytes)) else part is not None


def _list(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value)[:_MOST_PARTS] if isinstance(value, (list, tuple)) else [value]
