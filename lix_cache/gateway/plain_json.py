"""JSON from strangers, and back without loss. Pure."""

from __future__ import annotations

import json
from typing import Any, NoReturn

import orjson

from lix_cache.errors import CodecError

__all__ = ["dump", "parse", "parse_object"]

#: orjson reads an integer of more than 64 bits as a float, which is another number. All digits made one
#: digit, so that nineteen of them are found at the speed of memory.
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19


def parse(data: bytes) -> Any:
    """Read JSON.

    Raises:
        CodecError: it is none, is nested too deeply, or holds a number that JSON has not.
    """
    try:
        if _LONG not in data.translate(_DIGITS):
            return orjson.loads(data)
        return json.loads(data.decode(), parse_constant=_refuse)
    except (ValueError, RecursionError):
        # Not its text, which quotes the document.
        raise CodecError("not valid JSON") from None


def parse_object(data: bytes) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CodecError: it is not one.
    """
    value = parse(data)
    if not isinstance(value, dict):
        raise CodecError("not a JSON object")
    return value


def dump(value: Any) -> bytes:
    """Write what :func:`parse` read, without spaces.

    Raises:
        CodecError: it is nested too deeply, or has half a surrogate pair in it.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        pass  # more than 64 bits, or too deep
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (ValueError, RecursionError):
        raise CodecError("JSON that cannot be written again") from None


def _refuse(_constant: str) -> NoReturn:
    raise ValueError
