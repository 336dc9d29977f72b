"""The canonical answer: what a provider said, in a form that serves streamed and unstreamed requests. Pure.

An answer keeps the provider's own JSON, unstreamed and, if it came so, as events. Both are *templates*:
bytes with slots for what each replay fills in anew. A slot is NUL and a letter. JSON never has a NUL
byte, so nothing that a model says can look like a slot, and a replay parses nothing.

=====================  ===================================================================
``NUL i``              the id, as a JSON string
``NUL t``              the time, in Unix seconds
``NUL e``              what all events begin with (``envelope``): stored once, not in each event
``NUL u``              ``,"usage":null`` where the request asked for usage, else nothing
``NUL [``              … ``NUL ]``: only where the request asked for usage
``NUL {``              … ``NUL }``: only where it did not
``NUL m n k s o``      what the provider repeats of the request: see protocols/responses.py
=====================  ===================================================================
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from lix_cache.errors import CodecError
from lix_cache.values.codec import decode_value, encode_value

__all__ = ["LARGEST_ANSWER", "Answer", "Incomplete", "Usage", "fill"]

_FORM = 1
#: Bytes of the largest answer that is kept, body and events together. Below 10 MB the codec needs no chunks.
LARGEST_ANSWER: Final = 8_000_000
#: Largest stream that is held in pieces as well: what is larger is split each time.
_LARGEST_SPLIT = 1 << 18
_MOST_FINISHES = 1_000
_SLOT = re.compile(rb"\x00(.?)", re.DOTALL)
_SLOTS: Final = frozenset(bytes((letter,)) for letter in b"iteu[]{}mnkso")
_MARK = re.compile(rb"\x00([\[\]{}])")
_OPENING = (b"[", b"{")
_CLOSING = (b"]", b"}")


@dataclass(frozen=True)
class Incomplete:
    """Why something that a provider sent is not an answer to keep.

    Attributes:
        rule: ``error``, ``truncated``, ``empty``, ``malformed``, ``unknown`` (of a kind that this version
            does not know, and so cannot put together), ``inconsistent`` or ``too_large``.
        detail: what was seen, without content.
        cut: as much of the answer as came, where a limit of length ended it. Its client saw it, so it is a
            turn of a conversation, and nothing else.
    """

    rule: str
    detail: str
    cut: Answer | None = field(default=None, repr=False, compare=False)

    @property
    def reason(self) -> str:
        return f"{self.rule}: {self.detail}"


class Usage(NamedTuple):
    """Tokens, as the provider counted them for the answer that was made.

    Attributes:
        input: of the prompt, those that the provider had cached included.
        output: of the answer, reasoning included.
        cached: those of ``input`` that the provider read from its own cache.
    """

    input: int = 0
    output: int = 0
    cached: int = 0

    @property
    def total(self) -> int:
        return self.input + self.output


@dataclass(frozen=True)
class Answer:
    """A complete answer.

    Attributes:
        protocol: the name of the protocol that it was given in.
        id: the provider's own id of it, for what refers to it later.
        model: the model, as the provider names it.
        finish: how it ended, one word for each choice, in the protocol's own words.
        usage: the tokens; None if the provider did not tell.
        has_tool_calls: whether it calls tools: such an answer is only for the exact same request.
        lacks_usage: whether the provider was not asked for the tokens, so that it could not tell them.
        body: the template of the unstreamed form.
        envelope: the template of what ``NUL e`` stands for.
        events: the template of the events as they came; None if the answer came unstreamed.
    """

    protocol: str
    id: str = field(repr=False)
    model: str
    finish: tuple[str, ...]
    usage: Usage | None
    has_tool_calls: bool
    lacks_usage: bool
    body: bytes = field(repr=False)
    envelope: bytes = field(default=b"", repr=False)
    events: bytes | None = field(default=None, repr=False)
    _between: dict[bool, list[bytes]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def saved(self) -> tuple[int, int] | None:
        """Tokens of the prompt and of the completion that saying it again saves; None if not told."""
        return None if self.usage is None else (self.usage.input, self.usage.output)

    @property
    def size(self) -> int:
        """Bytes it holds in memory, about."""
        events = len(self.events or b"")
        return 512 + len(self.body) + len(self.envelope) + events * (2 if events <= _LARGEST_SPLIT else 1)

    def events_between(self, fixed: bytes, *, asked: bool) -> list[bytes]:
        """Return what stands between the slots ``NUL e`` of the events: with one join they are filled.

        Remembered, for a stream that is said again is mostly said again in the same form.

        Args:
            fixed: what stands for ``NUL u``, the same for all requests with this ``asked``.
            asked: whether the request asked for usage in the stream.
        """
        known: dict[bool, list[bytes]] = self._between
        found = known.get(asked)
        if found is None:
            events = self.events or b""
            found = _shown(events, asked).replace(b"\0u", fixed).split(b"\0e")
            if len(events) <= _LARGEST_SPLIT:
                known.clear()  # one form at a time is in the size
                known[asked] = found
        return found

    def encode(self) -> bytes:
        """Return its stored form."""
        usage = None if self.usage is None else list(self.usage)
        head = [_FORM, self.protocol, self.id, self.model, list(self.finish), usage, self.has_tool_calls]
        return encode_value([*head, self.lacks_usage, self.body, self.envelope, self.events]).head

    @classmethod
    def decode(cls, data: bytes) -> Answer:
        """Read the stored form.

        Raises:
            CodecError: these are not the bytes of an answer, or of one of another version.
        """
        return _answer_of(decode_value(data, max_bytes=2 * LARGEST_ANSWER))


def _answer_of(fields: Any) -> Answer:
    if not isinstance(fields, list) or not fields or fields[0] != _FORM or isinstance(fields[0], bool):
        raise CodecError(f"not an answer of form {_FORM}")
    kinds: tuple[Callable[[Any], bool], ...] = (
        *(_is_text, _is_text, _is_text, _are_finishes, _is_usage),
        *(_is_flag, _is_flag, _is_template, _is_template),
        lambda one: one is None or _is_template(one),
    )
    if len(fields) != 1 + len(kinds) or not all(
        fits(one) for fits, one in zip(kinds, fields[1:], strict=True)
    ):
        raise CodecError("the fields of an answer have the wrong types")
    _, protocol, identity, model, finish, usage, calls, lacks, body, envelope, events = fields
    told = None if usage is None else Usage(*usage)
    return Answer(protocol, identity, model, tuple(finish), told, calls, lacks, body, envelope, events)


def _is_text(one: Any) -> bool:
    return isinstance(one, str) and len(one) <= 4_096


def _is_flag(one: Any) -> bool:
    return isinstance(one, bool)


def _are_finishes(one: Any) -> bool:
    return isinstance(one, list) and len(one) <= _MOST_FINISHES and all(map(_is_text, one))


def _is_usage(one: Any) -> bool:
    if one is None:
        return True
    return isinstance(one, list) and len(one) == 3 and all(type(n) is int and n >= 0 for n in one)


def _is_template(one: Any) -> bool:
    """Whether all its slots are known: no other NUL may reach a client."""
    return isinstance(one, bytes) and (b"\0" not in one or _SLOTS.issuperset(_SLOT.findall(one)))


def fill(template: bytes, values: Mapping[bytes, bytes], *, asked: bool = False) -> bytes:
    """Fill the slots of a template.

    Args:
        template: with slots.
        values: by letter; a slot without one stays empty.
        asked: whether the request asked for usage in the stream.
    """
    if b"\0" not in template:
        return template
    first, *parts = template.split(b"\0")
    filled = [first]
    is_shown = True
    for part in parts:
        letter = part[:1]
        if letter in _OPENING:
            is_shown = asked is (letter == b"[")
        elif letter in _CLOSING:
            is_shown = True
        elif is_shown:
            filled.append(values.get(letter, b""))
        if is_shown:
            filled.append(part[1:])
    return b"".join(filled)


def _shown(template: bytes, asked: bool) -> bytes:
    """Return what of a template is for this request; its other slots stay."""
    first, *parts = _MARK.split(template)
    shown, is_shown = [first], True
    for mark, part in zip(parts[::2], parts[1::2], strict=True):
        is_shown = asked is (mark == b"[") if mark in _OPENING else True
        if is_shown:
            shown.append(part)
    return b"".join(shown)
