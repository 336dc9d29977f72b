"""Chunks of OpenAI's chat put together to the message that they come to. Pure.

What this version does not know how to put together is refused: a guess would be served for days.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lix_cache.errors import CodecError
from lix_cache.gateway.plain_json import parse
from lix_cache.gateway.protocols.protocol import Unfit, check_error, members, told_name

__all__ = ["Assembly", "check_message"]

#: Texts that come in pieces. Servers name what a model thought in three ways.
_TEXTS = frozenset({"content", "refusal", "reasoning_content", "reasoning", "reasoning_text"})
#: What a chunk's choice has that says nothing but its delta, if the others are null.
_BARE = frozenset({"index", "delta", "finish_reason", "logprobs"})
_LISTS = frozenset({"annotations"})
#: What a message may have besides, whole: unstreamed only: no document says how its pieces fit together.
_WHOLE = frozenset({"reasoning_details"})
#: Of a chunk or a choice, what grows or is told last.
_LATEST = frozenset(
    [
        "service_tier",
        "system_fingerprint",
        "x_groq",
        "timings",
        "citations",
        "search_results",
        "content_filter_results",
        "content_filter_offsets",
        "stop_reason",
        "matched_stop",
        "native_finish_reason",
    ]
)


def check_message(message: Any) -> list[dict[str, Any]]:
    """Return the calls of a message.

    Raises:
        Unfit: it is no message, has parts of an unknown kind, or a call that is not whole.
    """
    if not isinstance(message, dict):
        raise Unfit("malformed", "a choice has no message")
    for key, value in message.items():
        is_text = isinstance(value, str) and (key in _TEXTS or key == "role")
        if value and not is_text and key not in _LISTS and key not in _WHOLE and key != "tool_calls":
            raise Unfit("unknown", f"a message with {told_name(key)}")
    calls = members(message.get("tool_calls") or [], "tool_calls")
    for call in calls:
        check_error(call)
        kind = call.get("type", "function")
        inner = call.get(kind) if kind in ("function", "custom") else None
        if not isinstance(inner, dict) or not inner.get("name") or not isinstance(inner["name"], str):
            raise Unfit("unknown", "a call of a tool without a name")
        if kind == "function":
            _check_arguments(inner.get("arguments"))
    return calls


def _check_arguments(arguments: Any) -> None:
    """Refuse what is cut: finish reasons do not always tell."""
    if not isinstance(arguments, str):
        raise Unfit("malformed", "the arguments of a call are no text")
    if arguments.strip():
        try:
            parse(arguments.encode())
        except (CodecError, UnicodeEncodeError):
            raise Unfit("truncated", "the arguments of a call are not whole") from None


class Assembly:
    """All chunks of a stream, as one unstreamed body."""

    def __init__(self) -> None:
        self._top: dict[str, Any] = {}
        self._choices: dict[int, _Choice] = {}
        self._usage: Any = None

    def take(self, chunk: Mapping[str, Any], choices: list[dict[str, Any]], usage: Any) -> None:
        """Add a chunk, its choices and its usage beside it."""
        for key, value in chunk.items():
            # Some servers give each chunk the time when it was made.
            if key != "created" or not self._top.get("created"):
                _set(self._top, key, value)
        if usage is not None:
            self._usage = usage
        seen: set[int] = set()
        for choice in choices:
            index = choice.get("index")
            if type(index) is not int or index < 0:
                raise Unfit("malformed", "a choice without an index")
            if index in seen:
                raise Unfit("inconsistent", "two choices in one place")
            seen.add(index)
            self._choices.setdefault(index, _Choice(index)).take(choice)

    def growing(self, choice: Mapping[str, Any]) -> tuple[str, list[str]] | None:
        """Return key and pieces of the text that a choice has just extended, if it did nothing else."""
        return self._choices[choice["index"]].growing(choice)

    def body(self) -> dict[str, Any]:
        choices = [self._choices[index].whole() for index in sorted(self._choices)]
        body = {**self._top, "object": "chat.completion", "choices": choices}
        return body if self._usage is None else {**body, "usage": self._usage}


def _set(there: dict[str, Any], key: str, value: Any) -> None:
    before = there.get(key)
    if not before or key in _LATEST:
        if value is not None or key not in there:
            there[key] = value
    elif value is not None and value not in ("", before):
        raise Unfit("unknown", f"two values of {told_name(key)}")


class _Choice:
    def __init__(self, index: int) -> None:
        self._fields: dict[str, Any] = {"index": index}
        self._finish: str | None = None
        self._message: dict[str, Any] = {}
        self._texts: dict[str, list[str]] = {}
        self._lists: dict[str, list[Any]] = {}
        self._calls: dict[int, _Call] = {}
        self._logprobs: dict[str, list[Any] | None] = {}

    def take(self, choice: Mapping[str, Any]) -> None:
        delta = choice.get("delta")
        if delta is not None and not isinstance(delta, dict):
            raise Unfit("malformed", "a delta is no object")
        for key, value in (delta or {}).items():
            self._add(key, value)
        for key, value in choice.items():
            if key == "logprobs":
                self._add_logprobs(value)
            elif key not in ("index", "delta", "finish_reason"):
                _set(self._fields, key, value)
        finish = choice.get("finish_reason")
        if finish is not None:
            if self._finish not in (None, finish):
                raise Unfit("inconsistent", "a choice ends in two ways")
            self._finish = finish

    def growing(self, choice: Mapping[str, Any]) -> tuple[str, list[str]] | None:
        """Return the text that a piece of this choice has just extended, if it did nothing else."""
        delta = choice.get("delta")
        if type(delta) is not dict or len(delta) != 1 or self._finish is not None:
            return None
        (key,) = delta
        if not delta[key] or key not in self._texts or not choice.keys() <= _BARE:
            return None
        return None if choice.get("logprobs") is not None else (key, self._texts[key])

    def _add(self, key: str, value: Any) -> None:
        if value and self._finish is not None and key != "role":
            raise Unfit("inconsistent", "a choice goes on after its end")
        if key == "role":
            _set(self._message, key, value)
        elif key in _TEXTS and (value is None or isinstance(value, str)):
            self._message.setdefault(key, None)
            if value is not None:
                self._texts.setdefault(key, []).append(value)
        elif key in _LISTS and isinstance(value, list):
            self._lists.setdefault(key, []).extend(value)
        elif key == "tool_calls" and value:
            for call in members(value, "tool_calls"):
                index = call.get("index")
                if type(index) is not int or index < 0:
                    raise Unfit("unknown", "a call of a tool without an index")
                self._calls.setdefault(index, _Call()).take(call)
        elif value:
            raise Unfit("unknown", f"a delta with {told_name(key)}")

    def _add_logprobs(self, value: Any) -> None:
        self._fields.setdefault("logprobs", None)
        if value is None:
            return
        if not isinstance(value, dict):
            raise Unfit("malformed", "logprobs are no object")
        for key, some in value.items():
            if some is None:
                self._logprobs.setdefault(key, None)
            elif isinstance(some, list):
                there = self._logprobs.get(key)
                if there is None:
                    self._logprobs[key] = there = []
                there.extend(some)
            else:
                raise Unfit("unknown", f"logprobs with {told_name(key)}")

    def whole(self) -> dict[str, Any]:
        if self._finish is None:
            raise Unfit("truncated", "a choice has no finish reason")
        message = {"role": "assistant", "content": None, **self._message, **self._lists}
        message.update({key: "".join(pieces) for key, pieces in self._texts.items()})
        if self._calls:
            message["tool_calls"] = [self._calls[index].whole() for index in sorted(self._calls)]
        if self._logprobs:
            self._fields["logprobs"] = self._logprobs
        return {**self._fields, "message": message, "finish_reason": self._finish}


class _Call:
    """One call of a tool."""

    def __init__(self) -> None:
        self._fields: dict[str, Any] = {}
        self._function: dict[str, Any] = {}
        self._arguments: list[str] = []

    def take(self, call: Mapping[str, Any]) -> None:
        for key, value in call.items():
            if key == "function":
                self._take_function(value)
            elif key != "index":
                _set(self._fields, key, value)

    def _take_function(self, function: Any) -> None:
        if not isinstance(function, dict):
            raise Unfit("malformed", "a function is no object")
        for key, value in function.items():
            if key == "arguments":
                if isinstance(value, str):
                    self._arguments.append(value)
                elif value is not None:
                    raise Unfit("malformed", "the arguments of a call are no text")
            elif key == "name" and value and self._function.get("name"):
                # A name in pieces, or repeated: clients do not agree which, so the call is unknown.
                raise Unfit("inconsistent", "a call of a tool is named twice")
            else:
                _set(self._function, key, value)

    def whole(self) -> dict[str, Any]:
        return {**self._fields, "function": {**self._function, "arguments": "".join(self._arguments)}}
