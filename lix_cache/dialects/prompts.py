"""The question in a prompt, and everything around it that the answer may depend on. Pure.

Understood are a plain text, and lists of messages as OpenAI (chat completions and responses) and
Anthropic write them, whose content is a text or a list of parts. Of messages, the last text of
the last user turn is the question; all the rest counts exactly as it stands: roles, order, names,
other parts, attachments, tool calls.

Two conveniences give some of that up for more hits, and must be asked for: that only the number
of the turns before counts (``history=False``), and that a text with several turns in it ("User: …
Assistant: …", or ``<|im_start|>user``) is taken apart like messages (``transcripts=True``).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from lix_cache.errors import InvalidInput
from lix_cache.matching.guards import is_elliptical
from lix_cache.values.identity import digest_of

__all__ = ["Prompt", "Turn", "has_turns", "read_prompt"]

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
#: A role and a colon anywhere: two of them make a text look like a transcript.
_SPEAKER = re.compile(
    r"(?<![^\W_])(?:user|human|customer|client|assistant|agent|ai|bot|system)[*_]{0,2}[ \t]?:", re.IGNORECASE
)
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
        query: the question's text, as it stands: what may be dropped around it, the exact tier decides.
        context: what the answer depends on besides, for the scope. ``messages_digest``: of everything
            but the question; ``conversation``: there, with the number of user turns, where other turns
            belong to it; ``system_digest``: of a system prompt that was given beside. Empty for a
            question that stands alone. With a convenience, instead of ``messages_digest``:
            ``system_digest``, ``attachments_digest`` (of what else is in the last user turn), and in
            ``conversation`` the digests of what came after it and, where it counts, before it.
    """

    query: str
    context: dict[str, Any] = field(default_factory=dict)


def has_turns(text: str) -> bool:
    """Whether a text looks as if several had a say in it."""
    return "<|" in text or sum(1 for _ in _SPEAKER.finditer(text)) > 1


def read_prompt(
    prompt: str | Sequence[Mapping[str, Any]],
    *,
    history: bool = True,
    transcripts: bool = False,
    system: Any = None,
) -> Prompt:
    """Take a prompt apart.

    Args:
        prompt: a text, or messages.
        history: whether everything said before belongs to the context, and not only the
            number of turns. It always does if the query is a follow-up ("and the second
            one?") that means nothing without.
        transcripts: whether to look for turns in a text.
        system: a system prompt that is given beside the messages, as with Anthropic.

    Raises:
        InvalidInput: neither a text nor messages, or no user turn among them.
        InvalidContext: a message holds something that cannot be compared exactly.
    """
    if isinstance(prompt, str) and not transcripts:
        if not prompt.strip():
            raise InvalidInput("the prompt has no text in it")
        return Prompt(prompt, {} if system is None else {"system_digest": digest_of([system])})
    if isinstance(prompt, str):
        return _in_short(list(_of_text(prompt)), history=history, system=system)
    messages = _messages(prompt)
    if history:
        return _exactly(messages, system)
    turns = [turn for message in messages for turn in _of_message(message)]
    return _in_short(turns, history=False, system=system)


def _messages(prompt: Any) -> list[Mapping[str, Any]]:
    if isinstance(prompt, (str, bytes, Mapping)) or not isinstance(prompt, Sequence):
        raise InvalidInput(f"a prompt must be a str or a list of messages, got {type(prompt).__name__}")
    for message in prompt:
        if not isinstance(message, Mapping):
            raise InvalidInput(f"a message must be a mapping, got {type(message).__name__}")
    return list(prompt)


def _exactly(messages: list[Mapping[str, Any]], system: Any) -> Prompt:
    """Take the question out; the place where it was, and all the rest, is the context."""
    found = next(
        (place for place in map(_question_in, range(len(messages) - 1, -1, -1), reversed(messages)) if place),
        None,
    )
    if found is None:
        raise InvalidInput("the prompt has no user turn with text in it")
    text, at, part, hollow = found
    context: dict[str, Any] = {} if system is None else {"system_digest": digest_of([system])}
    if len(messages) == 1 and hollow == {"role": "user", "content": None}:
        return Prompt(text, context)
    rest = [*messages[:at], hollow, *messages[at + 1 :]]
    # With the place of the question, so that nothing that stands in the rest can pass for it.
    context["messages_digest"] = digest_of([at, part, [dict(message) for message in rest]])
    roles = [_role(message) for message in messages]
    if len(messages) - roles.count("system") > 1:
        context["conversation"] = {"turn": roles[: at + 1].count("user")}
    return Prompt(text, context)


def _question_in(at: int, message: Mapping[str, Any]) -> tuple[str, int, int | None, dict[str, Any]] | None:
    """Return the last text of a user's message, where it is, and the message without it."""
    kind, content = message.get("type"), message.get("content")
    if _role(message) != "user" or kind in _CALL_PARTS or kind in _RESULT_PARTS or kind == "reasoning":
        return None
    if isinstance(content, str):
        return (content, at, None, {**message, "content": None}) if content.strip() else None
    _parts(content)  # refuses what is no content
    parts = [content] if isinstance(content, Mapping) else list(content or ())
    for i in range(len(parts) - 1, -1, -1):
        text = _text_of(parts[i])
        if text is not None and text.strip():
            hollow = None if isinstance(parts[i], str) else {**parts[i], "text": None}
            filled = [*parts[:i], hollow, *parts[i + 1 :]]
            whole: Any = filled[0] if isinstance(content, Mapping) else filled
            if isinstance(content, tuple):
                whole = tuple(filled)
            return text, at, i, {**message, "content": whole}
    return None


def _role(message: Mapping[str, Any]) -> str:
    return _ROLES.get(str(message.get("role", "user")).lower(), "tool")


def _text_of(part: Any) -> str | None:
    if isinstance(part, str):
        return part
    if (
        isinstance(part, Mapping)
        and part.get("type", "text") in _TEXT_PARTS
        and isinstance(part.get("text"), str)
    ):
        return str(part["text"])
    return None


def _in_short(turns: list[Turn], *, history: bool, system: Any) -> Prompt:
    """Keep of what was said before no more than is asked for."""
    last = next(
        (i for i in range(len(turns) - 1, -1, -1) if turns[i].role == "user" and turns[i].text.strip()), None
    )
    if last is None:
        raise InvalidInput("the prompt has no user turn with text in it")
    query = turns[last].text
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
        state["since"] = digest_of([tuple(turn) for turn in after])
    if before and (history or is_elliptical(query)):
        state["history"] = digest_of([tuple(turn) for turn in before])
    if state != {"turn": 1}:
        context["conversation"] = state
    return Prompt(query, context)


def _of_message(message: Mapping[str, Any]) -> Iterator[Turn]:
    kind = message.get("type")
    if kind in _CALL_PARTS or kind in _RESULT_PARTS or kind == "reasoning":
        # OpenAI's responses: calls and results stand beside the messages.
        yield Turn("tool", "", (dict(message),))
        return
    role = _role(message)
    text, rest = _parts(message.get("content"))
    calls = [message[key] for key in ("tool_calls", "function_call", "tool_call_id") if message.get(key)]
    if role == "user" and not text.strip() and any(_is_result(part) for part in rest):
        role = "tool"  # Anthropic's tool results come in a user's message
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
        text = _text_of(part)
        if text is None:
            rest.append(part)
        else:
            texts.append(text)
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
            said = _END_OF_TURN.sub("", text[mark.end() : end])
            said = said.removeprefix(" ").removesuffix("\n")  # these belong to the mark and to the next one
            if said.strip():
                yield Turn(role, said)
        return
    yield Turn("user", text)
