"""What a caller gives with a prompt, checked before anything is taken for it. Pure."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lix_cache.checks import kind_of
from lix_cache.errors import InvalidInput, InvalidSessionId, InvalidType
from lix_cache.kv.engine import Halt, Options

__all__ = ["checked_options", "checked_prompt", "checked_stops", "checked_whose"]

#: llama.cpp counts in 32 bits.
_MOST_TOKENS = (1 << 31) - 1
#: Below it the most probable token is the only one, and 32-bit floats divided by it overflow.
_GREEDY = 1e-9


def checked_whose(tenant: object, session: object) -> None:
    """Refuse what names no tenant or session.

    Raises:
        InvalidSessionId: one of them.
    """
    for what, text in (("a tenant", tenant), ("a session id", session)):
        if text is None and what == "a session id":
            continue
        if not isinstance(text, str):
            raise InvalidSessionId(f"{what} must be a str, got {kind_of(text)}: turn it into text")
        if not _is_text(text):
            raise InvalidSessionId(f"{what} must be encodable as UTF-8, and holds half a surrogate pair")
    if session == "":
        raise InvalidSessionId("a session id must not be empty; leave it out for a session of its own")


def checked_prompt(prompt: Any, tools: Any) -> None:
    """Refuse what is neither messages nor token ids, and tools that are none.

    Raises:
        InvalidType: another kind of thing.
        InvalidInput: messages or tools that are no JSON.
    """
    if not isinstance(prompt, (Sequence, np.ndarray)) or isinstance(prompt, (str, bytes, bytearray)):
        raise InvalidType(
            f"a prompt is a list of messages, or of token ids, got {kind_of(prompt)}: "
            'for a text [{"role": "user", "content": text}]'
        )
    # Those of an array are looked at where they are used.
    kinds = set() if isinstance(prompt, np.ndarray) else set(map(type, prompt))
    if any(issubclass(kind, Mapping) for kind in kinds):
        if not all(issubclass(kind, Mapping) for kind in kinds):
            raise InvalidType("a prompt is messages alone, each an object, or token ids alone")
        _check_json("messages", prompt)
    elif not all(issubclass(kind, (int, np.integer)) and kind is not bool for kind in kinds):
        raise InvalidType("a prompt is a list of messages, or of token ids, which are integers")
    if tools is not None:
        if not isinstance(tools, Sequence) or not all(isinstance(one, Mapping) for one in tools):
            raise InvalidType("tools are a list of objects")
        _check_json("tools", tools)


def _check_json(what: str, value: Any) -> None:
    problem = ""
    try:
        json.dumps(value, ensure_ascii=False, default=_plain, allow_nan=False).encode()
    except UnicodeEncodeError:
        problem = "half a surrogate pair, which no encoding of text has"
    except (TypeError, ValueError, RecursionError):
        problem = "what JSON has not, or itself"
    # Outside: the error that it came from quotes the text.
    if problem:
        raise InvalidInput(f"{what} hold {problem}")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError


def checked_stops(stop: Any) -> Sequence[str]:
    """Return texts that end a reply.

    Raises:
        InvalidType: they are none.
    """
    if (
        isinstance(stop, str)
        or not isinstance(stop, Sequence)
        or not all(isinstance(one, str) for one in stop)
    ):
        raise InvalidType("stop is a list of texts")
    return stop


def checked_options(max_tokens: Any, temperature: Any, top_p: Any, seed: Any, halt: Halt | None) -> Options:
    """Return how to choose tokens, as each engine can do it.

    Raises:
        InvalidType, InvalidInput: one is no number, or out of range.
    """
    _check_whole("max_tokens", max_tokens, 1, _MOST_TOKENS)
    if seed is not None:
        _check_whole("seed", seed, -1 << 63, (1 << 63) - 1)
    for name, value, most in (("temperature", temperature, math.inf), ("top_p", top_p, 1)):
        if isinstance(value, bool) or not isinstance(value, (int, float, np.floating, np.integer)):
            raise InvalidType(f"{name} must be a number, got {kind_of(value)}")
        # A number that is none is in no range.
        if not (0 <= value <= most and value < 1e30):
            raise InvalidInput(f"{name} must be {'0 or more' if most > 1 else 'from 0 to 1'}")
    heat = float(temperature)
    return Options(
        int(max_tokens),
        heat if heat >= _GREEDY else 0.0,
        float(top_p),
        None if seed is None else int(seed),
        halt,
    )


def _check_whole(name: str, value: Any, least: int, most: int) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise InvalidType(f"{name} must be a whole number, got {kind_of(value)}")
    if not least <= value <= most:
        raise InvalidInput(f"{name} must be from {least} to {most}")


def _is_text(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
