"""One answer of a local model, piece by piece. Runs in a thread: all of it may block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lix_cache.errors import EngineError, InvalidInput
from lix_cache.gateway.local.asking import Asked
from lix_cache.gateway.local.calls import Call, CallReader, with_tools_as_text
from lix_cache.gateway.local.forced import forced_call
from lix_cache.gateway.local.saying import Ended
from lix_cache.kv.engine import Engine, Halt
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.miss import Miss
from lix_cache.kv.reply import Reply, Usage

__all__ = ["Begun", "Whose", "answering", "knows_tools"]

#: Tokens of one value of a forced call: a model that never ends a text would fill the context with it.
_LONGEST_VALUE = 2048
_PROBE = [
    {
        "type": "function",
        "function": {"name": "probe_7f", "description": "", "parameters": {"type": "object"}},
    }
]


@dataclass(frozen=True)
class Begun:
    """The first token is there.

    Attributes:
        usage: of the prompt.
        miss: why the prompt was not known, or None.
        identity: of the model that made it.
    """

    usage: Usage
    miss: Miss | None
    identity: str


@dataclass(frozen=True)
class Whose:
    """Whose state an answer goes on from.

    Attributes:
        tenant: nothing is shared between two of them.
        session: of the tenant; None finds the one that the prompt goes on from.
    """

    tenant: str
    session: str | None


def knows_tools(engine: Engine) -> bool:
    """Whether a model's chat template tells it of tools."""
    try:
        return "probe_7f" in engine.render([{"role": "user", "content": "x"}], _PROBE)
    except EngineError:
        return False


def answering(
    model: LocalModel, templates_tools: bool, asked: Asked, whose: Whose, halt: Halt
) -> Iterator[Begun | str | Call | Ended]:
    """Yield that it began, texts and calls, and how it ended.

    Args:
        model: that answers.
        templates_tools: whether its template knows tools.
        asked: the request.
        whose: whose it is.
        halt: ends it.

    Raises:
        InvalidInput: the prompt is too long.
        EngineError: the engine failed, or was halted.
    """
    messages: Sequence[Mapping[str, Any]] = asked.messages
    tools = asked.offered
    if not templates_tools and (
        tools or any(one.get("tool_calls") or one["role"] == "tool" for one in messages)
    ):
        messages, told = with_tools_as_text(messages, tools), None
    else:
        told = tools or None
    options: dict[str, Any] = {
        "tenant": whose.tenant,
        "temperature": asked.temperature,
        "top_p": asked.top_p,
        "seed": asked.seed,
        "halt": halt,
    }
    if asked.is_forced:
        yield from _forced(model, asked, messages, told, whose, options)
        return
    most = model.engine.context_tokens if asked.max_tokens is None else asked.max_tokens
    reply = model.generate(
        messages, tools=told, session=whose.session, stop=asked.stop, max_tokens=most, **options
    )
    try:
        reader = CallReader(frozenset(one["function"]["name"] for one in tools))
        yield from _said(model, reply, reader, is_single=asked.is_single)
    finally:
        reply.close()


def _said(
    model: LocalModel, reply: Reply, reader: CallReader, *, is_single: bool
) -> Iterator[Begun | str | Call | Ended]:
    has_begun, has_called = False, False
    for one in _read(reply, reader):
        if not has_begun:
            has_begun = True
            yield Begun(reply.usage, reply.miss, model.fingerprint.hex)
        has_called |= isinstance(one, Call)
        if one:
            yield one
        if has_called and is_single:
            # The next one, if the model made it at all, was not to be made.
            reply.close()
            break
    reason = "tool_calls" if has_called else reply.finish_reason or "length"
    yield Ended(reason, reply.stopped_by, reply.usage)


def _read(reply: Reply, reader: CallReader) -> Iterator[str | Call]:
    """Yield texts and calls; a text that is empty with each piece, so that it is seen to begin."""
    for piece in reply:
        yield ""
        yield from reader.feed(piece)
    yield ""
    yield from reader.finish()


def _forced(
    model: LocalModel,
    asked: Asked,
    messages: Sequence[Mapping[str, Any]],
    told: Sequence[Mapping[str, Any]] | None,
    whose: Whose,
    options: Mapping[str, Any],
) -> Iterator[Begun | str | Call | Ended]:
    # One token for the state and the tokens of the prompt; what it says is not used.
    first = model.generate(messages, tools=told, session=whose.session, max_tokens=1, **options)
    first.all()
    yield Begun(first.usage, first.miss, model.fingerprint.hex)
    parts = _Parts(model, asked, first, options)
    reason, stopped_by = "tool_calls", None
    try:
        yield forced_call(asked.forced, parts.complete)[0]
    except _Cut as cut:
        # Half a call is none: what was filled in until then might be taken for all of it.
        reason, stopped_by = cut.reason, cut.stopped_by
    yield Ended(reason, stopped_by, replace(first.usage, completion_tokens=parts.made))


class _Cut(Exception):
    """An answer that ends before its call is complete."""

    def __init__(self, reason: str, stopped_by: str | None) -> None:
        super().__init__(reason)
        self.reason, self.stopped_by = reason, stopped_by


class _Parts:
    """The values of a call, which the model makes one by one: one answer, with one limit and one count.

    Attributes:
        made: tokens that the model made for them.
    """

    def __init__(self, model: LocalModel, asked: Asked, first: Reply, options: Mapping[str, Any]) -> None:
        self._model, self._asked, self._first, self._options = model, asked, first, options
        self.made = 0

    def complete(self, written: str, stops: Sequence[str], most: int | None) -> str:
        """Return what the model goes on with.

        Raises:
            _Cut: the limit, or the end of the context, is reached, or a stop text of the request.
        """
        limit = self._asked.max_tokens
        left = _LONGEST_VALUE if limit is None else min(limit - self.made, _LONGEST_VALUE)
        if left <= 0:
            raise _Cut("length", None)
        try:
            reply = self._model.generate(
                [*self._first.prompt, *self._model.engine.tokenize(written)],
                session=self._first.session,
                # One that is the structure's own ends a value, and not the answer.
                stop=[*stops, *self._asked.stop],
                max_tokens=left if most is None else min(most, left),
                is_part=True,
                **self._options,
            )
        except InvalidInput:
            # The prompt fitted, and was begun: what was filled in since has taken the rest of the context.
            raise _Cut("length", None) from None
        try:
            text = reply.all()
        finally:
            reply.close()
            self.made += reply.count
        if reply.stopped_by is not None and reply.stopped_by not in stops:
            raise _Cut("stop", reply.stopped_by)
        if reply.finish_reason == "length" and (most is None or left <= most):
            raise _Cut("length", None)
        return text
