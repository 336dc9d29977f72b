"""Calls of tools in what a local model writes. Pure.

Chat templates teach models several forms: a ``<tool_call>`` element with JSON in it, or JSON as the whole of
what is said. Nothing is a call but JSON that names a tool of the request; all else is text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from lix_cache.errors import CodecError
from lix_cache.gateway.plain_json import dump, parse

__all__ = ["Call", "CallReader", "with_tools_as_text"]

_OPEN, _CLOSE = "<tool_call>", "</tool_call>"
#: What may stand before JSON that is the whole of what is said.
_MARKS = ("[TOOL_CALLS]", "<|python_tag|>")


@dataclass(frozen=True)
class Call:
    """One call.

    Attributes:
        name: of the tool.
        arguments: JSON of an object.
    """

    name: str
    arguments: str


class CallReader:
    """Reads pieces of text, and gives text that is none of a call, and calls.

    Args:
        names: of the tools that may be called.
    """

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._held = ""
        self._has_said = False
        self._follows_call = False

    def feed(self, piece: str) -> Iterator[str | Call]:
        """Take a piece; yield what is known to be text or a call."""
        if not self._names:
            yield piece
            return
        self._held += piece
        if not self._has_said and self._held.lstrip()[:1] in ("", "{", "[", "<"):
            start = self._held.lstrip()
            if not start.startswith("<") or any(mark.startswith(start[: len(mark)]) for mark in _MARKS):
                return  # it may be a call as a whole, which its end says
        while True:
            before, mark, rest = self._held.partition(_OPEN)
            if not mark:
                break
            inner, close, after = rest.partition(_CLOSE)
            if not close:
                break
            calls = self._calls(inner)
            if calls is None:
                yield from self._say(before + mark + inner + close)
            else:
                yield from self._say(before.rstrip())
                yield from calls
                self._follows_call = True
            self._held = after
        if _OPEN in self._held:
            return
        end = len(self._held)
        for size in range(min(len(_OPEN) - 1, end), 0, -1):
            if self._held.endswith(_OPEN[:size]):
                end -= size
                break
        # Space before a call is no text, and what follows may be one.
        end = len(self._held[:end].rstrip())
        text, self._held = self._held[:end], self._held[end:]
        yield from self._say(text)

    def finish(self) -> Iterator[str | Call]:
        """Yield what is left."""
        rest, self._held = self._held, ""
        before, mark, inner = rest.partition(_OPEN)
        if mark:
            # Some models end before they close it.
            calls = self._calls(inner)
        else:
            before, inner = "", rest.strip()
            for one in _MARKS:
                inner = inner.removeprefix(one).strip()
            calls = None if self._has_said else self._calls(inner)
        if calls is None:
            yield from self._say(rest)
        else:
            yield from self._say(before.rstrip())
            yield from calls

    def _say(self, text: str) -> Iterator[str]:
        text = text.lstrip() if self._follows_call else text
        if text:
            self._has_said, self._follows_call = True, False
            yield text

    def _calls(self, text: str) -> list[Call] | None:
        try:
            value = parse(text.strip().encode(errors="replace"))
        except CodecError:
            return None
        found = []
        for one in value if isinstance(value, list) else [value]:
            arguments = one.get("arguments", one.get("parameters", {})) if isinstance(one, Mapping) else None
            if not isinstance(arguments, Mapping) or one.get("name") not in self._names:
                return None
            found.append(Call(one["name"], dump(arguments).decode()))
        return found or None


def with_tools_as_text(
    messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> list[dict[str, Any]]:
    """Return messages for a template that knows no tools: they, calls and results are told in words."""
    made = []
    for message in messages:
        content = str(message.get("content") or "")
        for call in message.get("tool_calls") or ():
            content = f"{content}\n{_OPEN}{orjson.dumps(call['function']).decode()}{_CLOSE}".strip()
        role = message["role"]
        if role == "tool":
            role, content = "user", f"<tool_response>{content}</tool_response>"
        made.append({"role": role, "content": content})
    if tools:
        listed = "\n".join(orjson.dumps(one["function"]).decode() for one in tools)
        form = f'{_OPEN}{{"name": …, "arguments": {{…}}}}{_CLOSE}'
        said = f"Tools, one in a line:\n{listed}\nTo call one, write {form}."
        if made and made[0]["role"] == "system":
            made[0] = {"role": "system", "content": f"{made[0]['content']}\n\n{said}"}
        else:
            made.insert(0, {"role": "system", "content": said})
    return made
