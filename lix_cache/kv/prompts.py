"""A prompt as text, tokens and messages: what is known of it before any state is looked for."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache._cached_property import cached_property
from lix_cache.errors import EngineError, InvalidInput
from lix_cache.kv.engine import Engine
from lix_cache.kv.identity import Ids, as_ids
from lix_cache.kv.manifest import Mark, Part, mark_of

__all__ = ["Prompt", "prompt_of"]

_MOST_MESSAGES_NAMED = 200


@dataclass(frozen=True)
class Prompt:
    """What is to be answered.

    Attributes:
        engine: that renders and tokenises it.
        text: rendered; "" where token ids were given.
        tokens: of it, those that the model made before taken as they were.
        messages: it was made of.
        tools: that stand in it.
    """

    engine: Engine
    text: str
    tokens: list[int]
    messages: Sequence[Mapping[str, Any]] = ()
    tools: Sequence[Mapping[str, Any]] | None = None

    @cached_property
    def ids(self) -> Ids:
        return as_ids(self.tokens)

    @cached_property
    def parts(self) -> list[Part]:
        """Where its messages end, in tokens. Costs as much as tokenising it: asked for when it is needed."""
        found, start, tokens = [], 0, len(self.engine.start_ids)
        for count in range(1, min(len(self.messages), _MOST_MESSAGES_NAMED) + 1):
            end, name = self._end(count)
            if end > start:
                tokens += len(self.engine.tokenize(self.text[start:end]))
                found.append(Part(tokens, name))
                start = end
        return found

    @cached_property
    def system_tokens(self) -> int:
        """How many tokens the system prompt and the tools are; 0 if there are none."""
        if not self.messages or self.messages[0].get("role") not in ("system", "developer"):
            return 0
        end, _ = self._end(1)
        return len(self.engine.start_ids) + len(self.engine.tokenize(self.text[:end])) if end else 0

    def _end(self, count: int) -> tuple[int, str]:
        """Return where a message ends in the text, 0 if that cannot be said, and what it is."""
        role = str(self.messages[count - 1].get("role", "?"))
        name = role if role == "system" else f"message {count} ({role})"
        # Templates refuse some beginnings of a conversation.
        with contextlib.suppress(EngineError):
            part = self.engine.render(self.messages[:count], self.tools, reply=False)
            if self.text.startswith(part):
                return len(part), name
        return 0, name


def prompt_of(
    engine: Engine,
    given: Sequence[Mapping[str, Any]] | Sequence[int],
    tools: Sequence[Mapping[str, Any]] | None,
    marks: Sequence[Mark],
    before: Sequence[int],
) -> Prompt:
    """Return a prompt of messages or token ids.

    Args:
        engine: of the model.
        given: messages or token ids.
        tools: for the chat template.
        marks: where text and tokens of the sequence before meet.
        before: the sequence before.

    Raises:
        InvalidInput: there is none, or it is too long.
    """
    if len(given) and not isinstance(given[0], Mapping):
        prompt = Prompt(engine, "", as_ids(given).tolist())  # type: ignore[arg-type]
    else:
        messages: Sequence[Mapping[str, Any]] = given  # type: ignore[assignment]
        text = engine.render(messages, tools) if messages else ""
        prompt = Prompt(engine, text, _tokens(engine, text, marks, before), messages, tools)
    if not 0 < len(prompt.tokens) < engine.context_tokens:
        most = engine.context_tokens - 1
        raise InvalidInput(f"a prompt of {len(prompt.tokens)} tokens; 1 to {most} are possible")
    return prompt


def _tokens(engine: Engine, text: str, marks: Sequence[Mark], before: Sequence[int]) -> list[int]:
    """Return rendered text as tokens: those that were made, as far as the text is the same.

    Text that is tokenised again may give other tokens than the model made of it, and their state is lost.
    """
    for mark in sorted(marks, key=lambda one: -one.characters):
        fits = mark.tokens <= len(before) and mark.characters <= len(text)
        if fits and mark_of(text[: mark.characters], mark.tokens) == mark:
            return [*before[: mark.tokens], *engine.tokenize(text[mark.characters :])]
    return [*engine.start_ids, *engine.tokenize(text)]
