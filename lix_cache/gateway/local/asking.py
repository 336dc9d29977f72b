"""A request of any of the protocols, as a local model is asked it. Pure.

What the model cannot do is refused by name: an answer that left it out in silence would be another answer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from lix_cache.gateway.errors import Refused
from lix_cache.gateway.local.fields import check_fields, check_message, check_tool
from lix_cache.gateway.local.forced import check_forced

__all__ = ["Asked", "asked_of", "check_told"]

_MOST_STOPS = 16
_LIMITS = {
    "chat": ("max_completion_tokens", "max_tokens"),
    "messages": ("max_tokens",),
    "responses": ("max_output_tokens",),
}


@dataclass(frozen=True)
class Asked:
    """What is asked.

    Attributes:
        messages: as chat templates take them; arguments of calls are objects.
        tools: in OpenAI's form.
        choice: ``auto``, ``none`` or ``required``.
        tool: the one tool that must be called.
        is_single: whether one call is the most.
        stop: texts that end the answer.
        max_tokens: the most to make; None for as many as there is room.
        temperature, top_p, seed: how to choose.
        is_stream: whether events are wanted.
        wants_usage: whether a stream is to end with the tokens.
        body: of the request.
    """

    messages: list[dict[str, Any]] = field(repr=False)
    tools: list[dict[str, Any]] = field(default_factory=list, repr=False)
    choice: str = "auto"
    tool: str = ""
    is_single: bool = False
    stop: tuple[str, ...] = ()
    max_tokens: int | None = None
    temperature: float = 1.0
    top_p: float = 1.0
    seed: int | None = None
    is_stream: bool = False
    wants_usage: bool = False
    body: Mapping[str, Any] = field(default_factory=dict, repr=False)

    @property
    def is_forced(self) -> bool:
        """Whether a tool must be called."""
        return bool(self.tools) and (self.choice == "required" or bool(self.tool))

    @property
    def forced(self) -> list[dict[str, Any]]:
        """The tools one of which must be called."""
        return [one for one in self.tools if self.tool in ("", one["function"]["name"])]

    @property
    def offered(self) -> list[dict[str, Any]]:
        """The tools that may be called."""
        return [] if self.choice == "none" else self.tools


def asked_of(protocol: str, body: Mapping[str, Any], *, is_counted: bool = False) -> Asked:
    """Return what a request asks.

    Args:
        protocol: ``chat``, ``messages`` or ``responses``.
        body: of the request.
        is_counted: it is not answered: its tokens are counted.

    Raises:
        Refused: it makes no sense, or the model cannot do it.
    """
    check_told(body)
    check_fields(protocol, body)
    read = {"chat": _chat, "messages": _messages, "responses": _responses}[protocol]
    messages = list(read(body))
    if not any(one["role"] != "system" for one in messages):
        raise _bad("there is no message to answer")
    if messages[-1]["role"] == "assistant" and not is_counted:
        # A template would end it and begin another, which most models leave empty.
        raise _bad("this model does not go on with an answer that is begun; end with a message of the user")
    named = next((name for name in _LIMITS[protocol] if body.get(name) is not None), "")
    most = body.get(named)
    tools = _tools(protocol, body.get("tools"))
    choice, tool = _choice(body.get("tool_choice"), {one["function"]["name"] for one in tools})
    options = body.get("stream_options")
    made = Asked(
        messages,
        tools,
        choice,
        tool,
        body.get("parallel_tool_calls") is False or _is_single(body.get("tool_choice")),
        _stops(body.get("stop_sequences" if protocol == "messages" else "stop")),
        None if most is None else int(_number(most, named, 1, (1 << 31) - 1, whole=True)),
        _number(body.get("temperature"), "temperature", 0, 2, 1.0),
        _number(body.get("top_p"), "top_p", 0, 1, 1.0),
        None
        if body.get("seed") is None
        else int(_number(body["seed"], "seed", -1 << 62, 1 << 62, whole=True)),
        body.get("stream") is True,
        isinstance(options, Mapping) and options.get("include_usage") is True,
        body,
    )
    if made.is_forced:
        check_forced(made.forced)
    return made


def _bad(message: str) -> Refused:
    return Refused(400, "invalid_body", message)


def check_told(body: Mapping[str, Any]) -> None:
    """Refuse what no template can be told and no file can hold: it would fail far from here.

    Raises:
        Refused: names the field.
    """
    for name, value in body.items():
        try:
            orjson.dumps(value)
        except (TypeError, ValueError, RecursionError):
            named = name[:40].encode("ascii", "replace").decode()
        else:
            continue
        raise _bad(f"{named} holds half a surrogate pair, an integer of more than 64 bits, or is too deep")


def _number(
    value: Any, name: str, least: float, most: float, otherwise: float = 0.0, *, whole: bool = False
) -> float:
    if value is None:
        return otherwise
    if isinstance(value, bool) or not isinstance(value, int if whole else (int, float)):
        raise _bad(f"{name} must be a {'whole ' if whole else ''}number")
    if not least <= value <= most:
        raise _bad(f"{name} must be from {least} to {most}")
    return value


def _stops(value: Any) -> tuple[str, ...]:
    stops = [value] if isinstance(value, str) else value or []
    if not isinstance(stops, list) or not all(isinstance(one, str) for one in stops):
        raise _bad("stop must be a text, or a list of texts")
    if len(stops) > _MOST_STOPS:
        raise _bad(f"there may be {_MOST_STOPS} stop texts")
    return tuple(one for one in stops if one)


# -- messages ----------------------------------------------------------------------------


def _list(value: Any, name: str) -> list[Mapping[str, Any]]:
    if not isinstance(value, list) or not all(isinstance(one, Mapping) for one in value):
        raise _bad(f"{name} must be a list of objects")
    return value


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    pieces = []
    for part in _list(content, "content"):
        kind = part.get("type")
        if kind in ("thinking", "redacted_thinking"):
            continue
        text = part.get("refusal" if kind == "refusal" else "text")
        if kind not in ("text", "input_text", "output_text", "refusal") or not isinstance(text, str):
            raise _bad(f"this model reads text alone, no content of type {str(kind)[:40]!r}")
        pieces.append(text)
    return "\n".join(pieces)


def _call(identity: Any, name: Any, arguments: Any) -> dict[str, Any]:
    if isinstance(arguments, str):
        try:
            arguments = orjson.loads(arguments or "{}")
        except orjson.JSONDecodeError:
            arguments = None
    if not isinstance(name, str) or not isinstance(arguments, Mapping):
        raise _bad("a call of a tool needs a name, and arguments that are a JSON object")
    return {
        "id": str(identity or ""),
        "type": "function",
        "function": {"name": name, "arguments": dict(arguments)},
    }


def _role(message: Mapping[str, Any], roles: tuple[str, ...]) -> str:
    role = message.get("role")
    if role not in roles:
        raise _bad(f"the role of a message must be one of {', '.join(roles)}")
    return "system" if role == "developer" else str(role)


def _chat(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    for message in _list(body.get("messages"), "messages"):
        role = _role(message, ("system", "developer", "user", "assistant", "tool"))
        check_message("chat", message, role)
        said = message.get("content") or message.get("refusal")
        made: dict[str, Any] = {"role": role, "content": _text(said)}
        if role == "tool":
            made["tool_call_id"] = str(message.get("tool_call_id") or "")
        calls = message.get("tool_calls") if role == "assistant" else None
        if calls:
            inner = [(one, one.get("function") or {}) for one in _list(calls, "tool_calls")]
            made["tool_calls"] = [_call(one.get("id"), f.get("name"), f.get("arguments")) for one, f in inner]
        yield made


def _messages(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if body.get("system"):
        yield {"role": "system", "content": _text(body["system"])}
    for message in _list(body.get("messages"), "messages"):
        role, content = _role(message, ("system", "user", "assistant")), message.get("content")
        check_message("messages", message, role)
        if not isinstance(content, list):
            yield {"role": role, "content": _text(content)}
            continue
        blocks = _list(content, "content")
        said = [one for one in blocks if one.get("type") not in ("tool_use", "tool_result")]
        for one in blocks:
            if one.get("type") == "tool_result":
                identity = str(one.get("tool_use_id") or "")
                yield {"role": "tool", "tool_call_id": identity, "content": _text(one.get("content"))}
        calls = [
            _call(one.get("id"), one.get("name"), one.get("input"))
            for one in blocks
            if one.get("type") == "tool_use"
        ]
        if said or calls:
            yield {
                "role": role,
                "content": _text(said) if said else "",
                **({"tool_calls": calls} if calls else {}),
            }


def _responses(body: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    if body.get("instructions"):
        yield {"role": "system", "content": _text(body["instructions"])}
    given = body.get("input")
    if isinstance(given, str):
        yield {"role": "user", "content": given}
        return
    for item in _list(given, "input"):
        kind = item.get("type", "message")
        if kind in ("message", "function_call", "function_call_output"):
            check_message("responses", item, kind)
        if kind == "message":
            role = _role(item, ("system", "developer", "user", "assistant"))
            yield {"role": role, "content": _text(item.get("content"))}
        elif kind == "function_call":
            call = _call(item.get("call_id"), item.get("name"), item.get("arguments"))
            yield {"role": "assistant", "content": "", "tool_calls": [call]}
        elif kind == "function_call_output":
            identity = str(item.get("call_id") or "")
            yield {"role": "tool", "tool_call_id": identity, "content": _text(item.get("output"))}
        elif kind != "reasoning":
            raise _bad(f"this model takes no items of type {str(kind)[:40]!r}")


# -- tools -------------------------------------------------------------------------------


def _tools(protocol: str, given: Any) -> list[dict[str, Any]]:
    found = []
    for one in _list(given, "tools") if given else ():
        inner = one.get("function") if protocol == "chat" else one
        kind = one.get("type", "custom" if protocol == "messages" else None)
        if kind != ("custom" if protocol == "messages" else "function") or not isinstance(inner, Mapping):
            raise _bad(f"this model takes tools of the client alone, not {str(kind)[:40]!r}")
        check_tool(protocol, one)
        schema = inner.get("input_schema" if protocol == "messages" else "parameters")
        if not isinstance(inner.get("name"), str) or not isinstance(schema or {}, Mapping):
            raise _bad("a tool needs a name, and a schema that is an object")
        function = {
            "name": inner["name"],
            "description": str(inner.get("description") or ""),
            "parameters": dict(schema or {"type": "object", "properties": {}}),
        }
        found.append({"type": "function", "function": function})
    return found


def _is_single(choice: Any) -> bool:
    return isinstance(choice, Mapping) and choice.get("disable_parallel_tool_use") is True


def _choice(value: Any, names: set[str]) -> tuple[str, str]:
    kind, name = value, ""
    if isinstance(value, Mapping):
        kind = value.get("type")
        inner = value.get("function")
        name = value.get("name") or (inner.get("name") if isinstance(inner, Mapping) else "") or ""
    kind = {None: "auto", "any": "required", "function": "required", "tool": "required"}.get(kind, kind)
    if kind not in ("auto", "none", "required"):
        raise _bad("tool_choice must be auto, none, required (any), or name a tool")
    if name and name not in names:
        raise _bad("tool_choice names a tool that is not there")
    if kind == "required" and not names:
        raise _bad("tool_choice asks for a tool, and there are none")
    return kind, str(name)
