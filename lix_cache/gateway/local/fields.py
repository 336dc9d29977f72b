"""Which fields of a request a local model carries out, which it may leave out; it refuses all others. Pure.

A list of what may pass, not of what may not: a field that nobody thought of would be left out in silence.
What is left out is told in docs/local-models.md by name, with the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from lix_cache.gateway.errors import Refused

__all__ = ["LEFT_OUT", "check_fields", "check_message", "check_tool"]

#: Whether a value of a field may pass.
_Passes: TypeAlias = Callable[[Any], bool]
#: Fields of an object that may pass: what their values must be, or their own fields.
_Fields: TypeAlias = Mapping[str, "_Passes | _Fields"]


def _of(*values: Any) -> _Passes:
    # In Python true is 1: a truth value is no number here.
    return lambda given: any(
        given == one and isinstance(given, bool) is isinstance(one, bool) for one in values
    )


def _list_of(one: _Passes) -> _Passes:
    return lambda given: isinstance(given, list) and all(map(one, given))


def _all(*names: str) -> dict[str, _Passes | _Fields]:
    return dict.fromkeys(names, lambda _: True)


def _clears_thinking(edit: Any) -> bool:
    # What clears calls or shortens would change the prompt; earlier thinking is in none.
    return isinstance(edit, Mapping) and str(edit.get("type")).startswith("clear_thinking_")


def _is_thinking(given: Any) -> bool:
    # Each allows thinking, of so many tokens at most, and obliges to none.
    return isinstance(given, Mapping) and given.get("type") in ("enabled", "adaptive", "disabled")


#: Names that only tell who asks, and how a provider caches prompts.
_BESIDE = _all(
    *("user", "safety_identifier", "metadata", "client_metadata"),
    *("prompt_cache_key", "prompt_cache_retention", "prompt_cache_options"),
)
#: What no answer depends on, and hints that oblige to nothing: these pass, and are left out.
LEFT_OUT: Mapping[str, _Fields] = {
    "chat": {
        **_BESIDE,
        **_all("reasoning_effort", "verbosity"),
        "service_tier": _of("auto", "default"),
        "store": _of(False),
    },
    "messages": {
        **_all("metadata", "cache_control"),
        "context_management": {"edits": _list_of(_clears_thinking)},
        "output_config": _all("effort"),
        "service_tier": _of("auto", "standard_only"),
        "speed": _of("standard"),
        "thinking": _is_thinking,
    },
    "responses": {
        **_BESIDE,
        # There is no reasoning that it could be the contents of.
        "include": _list_of(_of("reasoning.encrypted_content")),
        "reasoning": _all("effort", "summary", "generate_summary"),
        "service_tier": _of("auto", "default"),
        "store": _of(False),
        "text": {"format": _of({"type": "text"}), "verbosity": lambda _: True},
    },
}
#: What is carried out. Where a value is read, it is told what it must be.
_CARRIED: Mapping[str, _Fields] = {
    "chat": {
        **_all("model", "messages", "tools", "tool_choice", "max_tokens", "max_completion_tokens"),
        **_all("stop", "temperature", "top_p", "seed"),
        "stream": _of(True, False),
        "parallel_tool_calls": _of(True, False),
        "stream_options": _all("include_usage", "include_obfuscation"),
        "response_format": _of({"type": "text"}),
        "modalities": _of(["text"]),
    },
    "messages": {
        **_all("model", "system", "messages", "tools", "tool_choice", "max_tokens"),
        **_all("stop_sequences", "temperature", "top_p", "seed"),
        "stream": _of(True, False),
    },
    "responses": {
        **_all("model", "instructions", "input", "tools", "tool_choice", "max_output_tokens"),
        **_all("stop", "temperature", "top_p", "seed"),
        "stream": _of(True, False),
        "parallel_tool_calls": _of(True, False),
        "stream_options": _all("include_obfuscation"),
        "truncation": _of("disabled"),
    },
}
#: Values with which a field asks for what happens without it.
_NEUTRAL: _Fields = {
    **dict.fromkeys(("background", "echo", "ignore_eos", "logprobs"), _of(False)),
    **dict.fromkeys(("best_of", "n", "repetition_penalty"), _of(1)),
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "min_p", "min_tokens", "top_logprobs"), _of(0)),
    "logit_bias": _of({}),
    "top_k": _of(0, -1),
}
_ALLOWED = {name: {**_NEUTRAL, **_CARRIED[name], **LEFT_OUT[name]} for name in _CARRIED}
#: What to send in the place of a field of another protocol, or of an older form.
_INSTEAD = {
    "functions": "send tools",
    "function_call": "send tool_choice",
    "messages.function_call": "send tool_calls",
    "max_tokens": "send max_output_tokens",
    "max_completion_tokens": "send max_tokens, or max_output_tokens for responses",
    "max_output_tokens": "send max_tokens",
    "stop": "send stop_sequences",
    "stop_sequences": "send stop",
    "system": "send a message of the role system, or instructions for responses",
    "instructions": "send a message of the role system, or system for messages",
}
_FUNCTION = _all("name", "description", "parameters", "strict")
_TOOL: Mapping[str, _Fields] = {
    "chat": {"type": _of("function"), "function": _FUNCTION},
    "messages": {
        **_all("type", "name", "description", "input_schema", "strict", "cache_control"),
        # All tools are told at once, and a call is streamed when it is complete.
        **_all("defer_loading", "eager_input_streaming"),
        "allowed_callers": _of(["direct"]),
    },
    "responses": {"type": _of("function"), **_FUNCTION},
}
_SAID = _all("role", "content", "cache_control")
#: Where an item of responses stands in the answer that it is of.
_ITEM = _all("type", "id", "status", "call_id")
#: Messages by role, items by type. No template is told a `name`: here the role says who speaks.
_MESSAGE: Mapping[str, Mapping[str, _Fields]] = {
    "chat": {
        "assistant": {
            **_SAID,
            **_all("name", "tool_calls", "refusal", "annotations", "id"),
            # Of earlier turns: thinking is told to no model again.
            **_all("reasoning", "reasoning_content", "reasoning_details", "thinking_blocks"),
        },
        "tool": {**_SAID, **_all("name", "tool_call_id")},
    },
    "messages": {},
    "responses": {
        "message": {**_SAID, **_ITEM, **_all("phase")},
        "function_call": {**_ITEM, **_all("name", "arguments")},
        "function_call_output": {**_ITEM, **_all("output")},
    },
}


def check_fields(protocol: str, body: Mapping[str, Any]) -> None:
    """Refuse fields of a request that a local model neither carries out nor may leave out.

    Args:
        protocol: ``chat``, ``messages`` or ``responses``.
        body: of the request.

    Raises:
        Refused: names the field, and what to do.
    """
    _check("", body, _ALLOWED[protocol])


def check_tool(protocol: str, tool: Mapping[str, Any]) -> None:
    """Refuse fields of a tool that the model is not told of. As :func:`check_fields`."""
    _check("tools.", tool, _TOOL[protocol])


def check_message(protocol: str, message: Mapping[str, Any], kind: str) -> None:
    """Refuse fields of a message, or an item, that the model is not told of. As :func:`check_fields`.

    Args:
        protocol: as there.
        message: of the request.
        kind: its role, or the type of an item.
    """
    within = "input." if protocol == "responses" else "messages."
    _check(within, message, _MESSAGE[protocol].get(kind, _SAID))


def _check(within: str, given: Mapping[str, Any], fields: _Fields) -> None:
    name = _refused(given, fields)
    if name:
        shown = name[:60].encode("ascii", "replace").decode()
        instead = _INSTEAD.get(within + name, "leave it out")
        raise Refused(400, "invalid_body", f"this model does not do {within}{shown}; {instead}")


def _refused(given: Mapping[str, Any], fields: _Fields) -> str:
    """Return the first field that may not pass, or "". Null and an empty list ask for nothing."""
    for name, value in given.items():
        if value is None or value == []:
            continue
        allowed = fields.get(name)
        if isinstance(allowed, Mapping) and isinstance(value, Mapping):
            inner = _refused(value, allowed)
            if inner:
                return f"{name}.{inner}"
        elif allowed is None or isinstance(allowed, Mapping) or not allowed(value):
            return name
    return ""
