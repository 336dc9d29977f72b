"""What users pass and receive: ``{"role", "content", "timestamp", "metadata"}``, and its JSON. Pure."""

from __future__ import annotations

import json
import math
from typing import Any, TypeAlias

from lix_cache.checks import kind_of
from lix_cache.errors import InvalidMessage

__all__ = [
    "Message",
    "check_json",
    "decode_json",
    "decoder",
    "encode_json",
    "encoder",
    "message_text",
]


#: What users pass and receive.
Message: TypeAlias = dict[str, Any]


MAX_DEPTH = 200


#: Python lets no limit for the digits of an integer be less than 640.
_SURELY_WRITTEN_BITS = 2000


#: Keys that every message has: they are named in errors.
_OWN_KEYS = frozenset(("role", "content", "timestamp", "metadata", "embedding"))


def check_json(value: Any, where: str, error: type[Exception] = InvalidMessage) -> None:
    """Refuse what JSON would lose or change: NaN, bytes, objects, keys that are not text.

    Tuples are accepted and come back as lists. Nesting is limited to 200 levels, so
    that whatever was stored can be read back.
    """
    stack: list[tuple[Any, str, int]] = [(value, where, 0)]
    while stack:
        item, path, depth = stack.pop()
        if item is None or isinstance(item, str):
            continue
        if isinstance(item, int):
            if item.bit_length() > _SURELY_WRITTEN_BITS and not _is_written(item):
                raise error(f"{path} is an integer of more digits than Python writes; keep it as text")
        elif isinstance(item, float):
            if not math.isfinite(item):
                raise error(f"{path} is {item}, which JSON cannot carry; use None or a string")
        elif depth >= MAX_DEPTH:
            raise error(f"{where} is nested more than {MAX_DEPTH} levels deep")
        elif isinstance(item, (list, tuple)):
            stack.extend((child, f"{path}[{i}]", depth + 1) for i, child in enumerate(item))
        elif isinstance(item, dict):
            for number, (key, child) in enumerate(item.items(), 1):
                if not isinstance(key, str):
                    kind = type(key).__name__
                    raise error(f"{path} has a key of type {kind}, key number {number}; JSON keys are text")
                # A key may be content, as its value may.
                shown = repr(key) if not depth and key in _OWN_KEYS else f"key number {number}"
                stack.append((child, f"{path}[{shown}]", depth + 1))
        else:
            raise error(
                f"{path} is {kind_of(item)}, which JSON cannot carry; "
                "convert it to text, numbers, lists or dicts first"
            )


def _is_written(number: int) -> bool:
    try:
        return bool(encoder(number))
    except ValueError:
        return False


encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


decoder = json.JSONDecoder().raw_decode


def encode_json(value: Any) -> bytes:
    """Encode a checked value compactly. Lone surrogates survive (see docs/archive-format.md)."""
    try:
        return encoder(value).encode("utf-8", "surrogatepass")
    except ValueError:
        pass
    # Raised out here: Python's own errors may carry the value.
    raise InvalidMessage(
        "a value cannot be written as JSON; Python writes no integer of more than some 4,300 digits"
    )


def decode_json(data: bytes) -> Any:
    """Decode what :func:`encode_json` wrote.

    Raises:
        ValueError: the bytes are not JSON.
    """
    text = data.decode("utf-8", "surrogatepass")
    try:
        try:
            value, end = decoder(text)
        except ValueError:
            end = -1
        # What we wrote has no space around it, and looking for some takes longer than
        # reading a short message. json.loads has the last word on anything else.
        return value if end == len(text) else json.loads(text)
    except RecursionError:
        raise ValueError("JSON nested too deeply") from None


def message_text(message: Message) -> str:
    """Return the readable text of a message: its content, or the text parts of a list."""
    content = message.get("content")
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = [p if isinstance(p, str) else p.get("text") for p in content if isinstance(p, (str, dict))]
        joined = " ".join(t for t in texts if isinstance(t, str))
        if joined:
            return joined
    return "" if content is None else encode_json(content).decode("utf-8", "replace")
