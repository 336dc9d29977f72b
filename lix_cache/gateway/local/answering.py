"""One answer of a local model, piece by piece. Runs in a thread: all of it may block."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lix_cache.errors import EngineError
from lix_cache.gateway.local.asking import Asked
from lix_cache.gateway.local.calls import Call, CallReader, with_tools_as_text
from lix_cache.gateway.local.forced import forced_call
from lix_cache.gateway.local.saying import Ended
from lix_cache.kv.engine import Engine, Halt
from lix_cache.kv.local_model import LocalModel
from lix_cache.kv.miss import Miss
from lix_cache.kv.reply import Reply, Usage

__all__ = ["Begun", "Whose", "answering", "knows_tools"]

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
    """

    usage: Usage
    miss: Miss | None


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
        yield from _said(reply, CallReader(frozenset(one["function"]["name"] for one in tools)))
    finally:
        reply.close()


def _said(reply: Reply, reader: CallReader) -> Iterator[Begun | str | Call | Ended]:
    has_begun, has_called = False, False
    for piece in reply:
        if not has_begun:
            has_begun = True
            yield Begun(reply.usage, reply.miss)
        for one in reader.feed(piece):
            has_called |= isinstance(one, Call)
            yield one
    if not has_begun:
        yield Begun(reply.usage, reply.miss)
    for one in reader.finish():
        has_called |= isinstance(one, Call)
        yield one
    reason = "tool_calls" if has_called else reply.finish_reason or "length"
    yield Ended(reason, reply.stopped_by, reply.usage)


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
    yield Begun(first.usage, first.miss)
    prompt = list(first.prompt)

    def complete(written: str, stops: Sequence[str], most: int) -> str:
        ids = [*prompt, *model.engine.tokenize(written)]
        reply = model.generate(ids, session=first.session, stop=stops, max_tokens=most, **options)
        try:
            return reply.all()
        finally:
            reply.close()

    tools = [one for one in asked.tools if asked.tool in ("", one["function"]["name"])]
    call, text = forced_call(tools, complete)
    yield call
    made = len(model.engine.tokenize(text))
    yield Ended("tool_calls", None, replace(first.usage, completion_tokens=made))
