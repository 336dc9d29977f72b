"""Which messages of a window the next model call should see. Pure: messages in, positions out.

Three rules, in this order of precedence:

1. The newest message stays, whatever it costs; if it is the result of a tool call, the call and
   its other results stay with it.
2. A tool result stays only with its call: providers refuse a result without one. What a cut
   separates from its call goes.
3. Under a token limit, system messages stay before any other. What is left of the limit goes to
   the newest messages. System messages alone may exceed it; then rule 1 adds the newest one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache.messages.message import Message

__all__ = ["Budget", "estimate_tokens"]

_SYSTEM = frozenset({"system", "developer"})
_PLAIN_ROLES = frozenset({"user", "assistant"})
#: role, content, timestamp, metadata
_USUAL_KEYS = 4
_RESULT_ROLES = frozenset({"tool", "function", "tool_result", "tool_response"})

#: How providers and frameworks name the id that ties a result to its call.
_IDS = ("tool_call_id", "tool_use_id", "call_id", "toolCallId", "toolUseId", "id", "name")
#: ``type`` of a content part or item that calls a tool, or holds its result.
_CALL_TYPES = frozenset(
    {
        "tool_use", "server_tool_use", "mcp_tool_use",  # Anthropic
        "function_call", "custom_tool_call", "computer_call", "local_shell_call",  # OpenAI responses
        "tool-call", "tool_call",  # Vercel AI SDK, LangChain
    }
)  # fmt: skip
_RESULT_TYPES = frozenset(
    {"function_call_output", "custom_tool_call_output", "computer_call_output", "local_shell_call_output"}
    | {"tool-result", "tool_result"}
)
#: Keys that hold one call, and one result: OpenAI before ``tool_calls``, Google, Bedrock.
_CALL_KEYS = ("function_call", "functionCall", "toolUse")
_RESULT_KEYS = ("function_response", "functionResponse", "toolResult")

#: What an image, a sound or a document is taken to cost, whatever its bytes.
_MEDIA_TOKENS = 1000
_MEDIA_TYPES = frozenset(
    {"image", "image_url", "input_image", "audio", "input_audio", "document", "file", "input_file", "video"}
)


def estimate_tokens(message: Message) -> int:
    """Return about how many tokens a message costs: a quarter of its UTF-8 bytes, and 4 around it.

    Tool calls and results count with all they hold; an image, a sound or a document counts 1,000.
    Good to some ten percent for European languages with today's tokenizers, and on the
    safe side for others. Give ``token_counter`` for an exact count.
    """
    content, metadata = message.get("content"), message.get("metadata")
    size = _bytes_of(content)
    for place in (message, metadata):
        if isinstance(place, Mapping):
            size += sum(_bytes_of(place[key]) for key in ("tool_calls", *_CALL_KEYS) if key in place)
    return 4 + (size + 3) // 4


def _bytes_of(value: Any) -> int:
    """Return the UTF-8 bytes of all the text in a JSON value."""
    size = 0
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            size += len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass"))
        elif isinstance(item, Mapping):
            if item.get("type") in _MEDIA_TYPES or "inlineData" in item or "inline_data" in item:
                size += 4 * _MEDIA_TOKENS
                continue
            size += sum(map(len, item))
            stack.extend(item.values())
        elif isinstance(item, (list, tuple)):
            stack.extend(item)
        elif item is not None:
            size += 4
    return size


# -- calls and results -----------------------------------------------------------------------


def _places(message: Message) -> Iterator[Mapping[str, Any]]:
    """Yield where calls and results stand: the message, its metadata, its content and the parts of it."""
    yield message
    content = message.get("content")
    for place in (message.get("metadata"), content):
        if isinstance(place, Mapping):
            yield place
            # Google nests the parts, and some keep the provider's whole message as the content.
            parts = place.get("parts") or place.get("content")
            yield from (part for part in _listed(parts) if isinstance(part, Mapping))
    yield from (part for part in _listed(content) if isinstance(part, Mapping))


def _listed(value: Any) -> Sequence[Any]:
    return value if isinstance(value, (list, tuple)) else ()


def _id_of(item: Any) -> str:
    """Return what ties a call and its result: an id; Google's name where it gives none; "" for nothing."""
    if not isinstance(item, Mapping):
        return ""
    # In OpenAI's responses an item has an "id" of its own, so "call_id" comes first.
    found = next((item[name] for name in _IDS if isinstance(item.get(name), (str, int))), None)
    return str(found or "")


def _calls(message: Message) -> set[str]:
    """Return the ids of the tool calls in a message; "" stands for one without an id."""
    found: set[str] = set()
    for place in _places(message):
        found.update(map(_id_of, _listed(place.get("tool_calls"))))
        found.update(_id_of(place[key]) for key in _CALL_KEYS if isinstance(place.get(key), Mapping))
        if place.get("type") in _CALL_TYPES:
            found.add(_id_of(place))
    return found


def _results(message: Message) -> set[str]:
    """Return the ids of the calls whose results a message holds; "" stands for one that names none."""
    found = set()
    for place in _places(message):
        kind = place.get("type")
        if kind in _CALL_TYPES:
            continue
        if (
            "tool_call_id" in place
            or kind in _RESULT_TYPES
            or (isinstance(kind, str) and kind.endswith("_tool_result"))
        ):
            found.add(_id_of(place))
        found.update(_id_of(place[key]) for key in _RESULT_KEYS if isinstance(place.get(key), Mapping))
    if not found and message.get("role") in _RESULT_ROLES:
        # OpenAI before ``tool_calls`` ties by name; text alone by its place.
        return {str(message.get("name") or ""), ""}
    # A server's own tools answer in the message that calls them.
    return found - _calls(message) if found else found


def _is_system(message: Message) -> bool:
    return message.get("role") in _SYSTEM


def _is_plain(message: Message) -> bool:
    """Whether a message can neither call nor answer nor be pinned, seen at a glance."""
    return (
        type(message.get("content")) is str
        and not message.get("metadata")
        and len(message) <= _USUAL_KEYS
        and message.get("role") in _PLAIN_ROLES
    )


def _answered(messages: Sequence[Message]) -> list[int]:
    """Return for each result where its call stands, -1 if that is not among them; else its own position.

    By id, wherever the call is; where either has no id, by place: results stand behind their call.
    """
    called: dict[str, int] = {}
    last_call = -1
    positions = []
    for position, message in enumerate(messages):
        if _is_plain(message):
            last_call = -1
            positions.append(position)
            continue
        results, calls = _results(message), _calls(message)
        where = position
        if results:
            where = max((called.get(name, -1) for name in results), default=-1)
            if where < 0 and "" in results:
                where = last_call
        else:
            last_call = position if calls else -1
        called.update(dict.fromkeys(calls, position))
        positions.append(where)
    return positions


# -- the cut ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Budget:
    """How much of a session the next model call should see.

    Attributes:
        max_tokens: about so many tokens; None for no limit.
        count_tokens: tokens of one message.
    """

    max_tokens: int | None = None
    count_tokens: Callable[[Message], int] = estimate_tokens

    def kept(self, messages: Sequence[Message], count: int | None = None) -> list[int]:
        """Return the positions of the messages to keep, in order.

        Args:
            messages: oldest first.
            count: how many at most, the newest; more only where the newest message is a result
                whose call and other results are more. None for all.

        Returns:
            Nothing only where ``messages`` is empty, ``count`` is 0, or all that could be kept are
            results whose call is not among ``messages``.
        """
        total = len(messages)
        first = 0 if count is None else max(0, total - count)
        if first == total:
            return []
        if self.max_tokens is None and first == 0 and _is_plain(messages[0]):
            # As most windows are: nothing is cut off here, and no result stands at the edge.
            return list(range(total))
        answered = _answered(messages)
        chosen = set(range(first, total))
        newest = total - 1
        if self.max_tokens is not None:
            pinned = {i for i in chosen if _is_system(messages[i])}
            newest = max(chosen - pinned, default=newest)
            chosen = pinned | self._affordable(messages, pinned, first, self.max_tokens)
        chosen |= _group(answered, newest)
        return _without_orphans(messages, answered, chosen)

    def _affordable(self, messages: Sequence[Message], pinned: set[int], first: int, limit: int) -> set[int]:
        """Return the newest messages that fit beside the system messages."""
        left = limit - sum(self.count_tokens(messages[i]) for i in pinned)
        found = set()
        for position in range(len(messages) - 1, first - 1, -1):
            if position not in pinned:
                left -= self.count_tokens(messages[position])
                if left < 0:
                    break
                found.add(position)
        return found


def _group(answered: list[int], position: int) -> set[int]:
    """Return a message alone, or the call that it answers with all its results."""
    call = answered[position]
    return {position} if call < 0 else {i for i, answer in enumerate(answered) if answer == call}


def _without_orphans(messages: Sequence[Message], answered: list[int], chosen: set[int]) -> list[int]:
    """Leave out results whose call was cut off, and at the beginning those whose call is not known at all.

    Later ones of unknown calls stay: there are applications that keep the results alone.
    """
    kept: list[int] = []
    has_begun = False
    for position in sorted(chosen):
        call = answered[position]
        if call not in chosen and (call >= 0 or not has_begun):
            continue
        has_begun |= not _is_system(messages[position])
        kept.append(position)
    return kept
