"""The question in a prompt, and the state of the conversation around it. Pure.

Understood are a plain text; a text with several turns in it ("User: … Assistant: …", or
``<|im_start|>user``); and lists of messages as OpenAI (chat completions and responses) and
Anthropic write them, whose content is a text or a list of parts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lix_cache.errors import InvalidInput
from lix_cache.semantic.guards import is_elliptical

__all__ = ["Prompt", "Turn", "digest_of", "read_prompt"]

_TEXT_PARTS = frozenset({"text", "input_text", "output_text"})
_CALL_PARTS = frozenset({"tool_use", "function_call", "server_tool_use", "mcp_call"})
_RESULT_PARTS = frozenset(
    {"tool_result", "function_call_output", "web_search_tool_result", "mcp_call_output"}
)
_ROLES = {
    "user": "user",
    "human": "user",
    "customer": "user",
    "question": "user",
    "assistant": "assistant",
    "ai": "assistant",
    "bot": "assistant",
    "model": "assistant",
    "answer": "assistant",
    "system": "system",
    "developer": "system",
    "tool": "tool",
    "function": "tool",
    "ipython": "tool",
}
_MARKED = re.compile(
    r"^[ \t]*(?:\*\*|#{1,4}[ \t]*)?(user|human|customer|assistant|ai|bot|system)(?:\*\*)?[ \t]*:",
    re.IGNORECASE | re.MULTILINE,
)
_CHAT_ML = re.compile(r"<\|im_start\|>[ \t]*(\w+)[ \t]*\n?")
_END_OF_TURN = re.compile(r"<\|(?:im_end|eot_id|end)\|>")


class Turn(NamedTuple):
    """One message, reduced to what matters here.

    Attributes:
        role: "user", "assistant", "system" or "tool".
        text: its readable text.
        rest: its tool calls, tool results and attachments, as they were given.
    """

    role: str
    text: str
    rest: tuple[Any, ...] = ()


@dataclass(frozen=True)
class Prompt:
    """A prompt, taken apart.

    Attributes:
        query: text of the last user turn.
        context: what the answer depends on besides, for the scope: ``system_digest`` (of
            the system prompt), ``attachments_digest`` (of images and files in the last user turn)
            and ``conversation``: the number of user turns, the digest of all tool calls and
            results after the last one, and that of everything before it if it counts.
    """

    query: str
    context: dict[str, Any] = field(default_factory=dict)


def digest_of(value: Any) -> str:
    """Return 22 characters that stand for a JSON-like value, whatever the order of its keys.

    Raises:
        InvalidInput: it holds itself, or keys that cannot be sorted.
    """
    try:
        text = json.dumps(value, sort_keys=True, ensure_ascii=False, default=repr)
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInput(f"a message cannot be read: {error}") from None
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=11).hexdigest()


def read_prompt(
    prompt: str | Sequence[Mapping[str, Any]], *, history: bool = False, system: Any = None
) -> Prompt:
    """Take a prompt apart.

    Args:
        prompt: a text, or messages.
        history: whether everything said before belongs to the context, and not only the
            number of turns. It always does if the query is a follow-up ("and the second
            one?") that means nothing without.
        system: a system prompt that is given beside the messages, as with Anthropic.

    Raises:
        InvalidInput: neither a text nor messages, or no user turn among them.
    """
    turns = list(_turns(prompt))
    last = next(
        (i for i in range(len(turns) - 1, -1, -1) if turns[i].role == "user" and turns[i].text.strip()), None
    )
    if last is None:
        raise InvalidInput("the prompt has no user turn with text in it")
    query = turns[last].text.strip()
    before = [turn for turn in turns[:last] if turn.role != "system"]
    after = turns[last + 1 :]
    context: dict[str, Any] = {}
    instructions = [turn.text for turn in turns if turn.role == "system"]
    if system is not None:
        instructions.insert(0, system)
    if instructions:
        context["system_digest"] = digest_of(instructions)
    if turns[last].rest:
        context["attachments_digest"] = digest_of(turns[last].rest)
    state: dict[str, Any] = {"turn": sum(turn.role == "user" for turn in turns[: last + 1])}
    if after:
        state["since"] = digest_of([(turn.role, turn.text, turn.rest) for turn in after])
    if before and (history or is_elliptical(query)):
        state["history"] = digest_of([(turn.role, turn.text, turn.rest) for turn in before])
    if state != {"turn": 1}:
        context["conversation"] = state
    return Prompt(query, context)


def _turns(prompt: str | Sequence[Mapping[str, Any]]) -> Iterator[Turn]:
    if isinstance(prompt, str):
        yield from _of_text(prompt)
        return
    if isinstance(prompt, Mapping) or not isinstance(prompt, Sequence):
        raise InvalidInput(f"a prompt must be a str or a list of messages, got {type(prompt).__name__}")
    for message in prompt:
        if not isinstance(message, Mapping):
            raise InvalidInput(f"a message must be a mapping, got {type(message).__name__}")
        yield from _of_message(message)


def _of_message(message: Mapping[str, Any]) -> Iterator[Turn]:
    kind = message.get("type")
    if kind in _CALL_PARTS or kind in _RESULT_PARTS or kind == "reasoning":
        # OpenAI's responses: calls and results stand beside the messages.
        yield Turn("tool", "", (dict(message),))
        return
    role = _ROLES.get(str(message.get("role", "user")).lower(), "tool")
    text, rest = _parts(message.get("content"))
    calls = [message[key] for key in ("tool_calls", "function_call", "tool_call_id") if message.get(key)]
    if role == "user" and not text.strip() and any(_is_result(part) for part in rest):
        role = "tool"  # Anthropic's tool results come in a user's message
    if role == "user" and not rest:
        yield from _of_text(text)
    else:
        yield Turn(role, text, (*rest, *calls))


def _is_result(part: Any) -> bool:
    return isinstance(part, Mapping) and part.get("type") in _RESULT_PARTS


def _parts(content: Any) -> tuple[str, tuple[Any, ...]]:
    """Return the text of a message's content, and its parts that are no text."""
    if content is None:
        return "", ()
    if isinstance(content, str):
        return content, ()
    if isinstance(content, Mapping):
        content = [content]
    if not isinstance(content, Sequence) or isinstance(content, (bytes, bytearray)):
        raise InvalidInput(
            f"the content of a message must be a str or a list of parts, got {type(content).__name__}"
        )
    texts: list[str] = []
    rest: list[Any] = []
    for part in content:
        if isinstance(part, str):
            texts.append(part)
        elif (
            isinstance(part, Mapping)
            and part.get("type", "text") in _TEXT_PARTS
            and isinstance(part.get("text"), str)
        ):
            texts.append(part["text"])
        else:
            rest.append(part)
    return "\n".join(texts), tuple(rest)


def _of_text(text: str) -> Iterator[Turn]:
    """Take the turns of a text apart; it is one user turn if it does not show several."""
    for marks in (_CHAT_ML, _MARKED):
        found = list(marks.finditer(text))
        roles = [_ROLES.get(mark.group(1).lower(), "tool") for mark in found]
        # "User:" alone may stand in any text; together with an answer it is a transcript.
        if "user" not in roles or (marks is _MARKED and "assistant" not in roles):
            continue
        if text[: found[0].start()].strip():
            yield Turn("system", text[: found[0].start()].strip())
        ends = [mark.start() for mark in found[1:]] + [len(text)]
        for role, mark, end in zip(roles, found, ends, strict=True):
            said = _END_OF_TURN.sub("", text[mark.end() : end]).strip()
            if said:
                yield Turn(role, said)
        return
    yield Turn("user", text)
