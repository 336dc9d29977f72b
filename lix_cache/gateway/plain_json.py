"""JSON from strangers, and back without loss. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, NoReturn

import orjson

from lix_cache.errors import CodecError

__all__ = ["canonical", "dump", "parse", "parse_object", "parser_of", "put_before_last", "spelled"]

#: orjson reads an integer of more than 64 bits as a float, which is another number. All digits made one
#: digit, so that nineteen of them are found at the speed of memory.
_DIGITS = bytes.maketrans(b"123456789", b"0" * 9)
_LONG = b"0" * 19
_SPACE = re.compile(r"[ \t\r\n]*")
# Numbers stay as they are: one of thousands of digits cannot be read.
_decode = json.JSONDecoder(parse_int=str, parse_float=str).raw_decode
#: The fields of requests that hold turns.
_TURNS = frozenset({"messages", "input", "system"})


def parse(data: bytes) -> Any:
    """Read JSON.

    Raises:
        CodecError: it is none, is nested too deeply, or holds a number that JSON has not.
    """
    try:
        if not _has_long_numbers(data):
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
    return _object(parse(data))


def parser_of(whole: bytes) -> Callable[[bytes], dict[str, Any]]:
    """Return :func:`parse_object` for the parts of something, looked through for long numbers once."""
    return parse_object if _has_long_numbers(whole) else _parse_short


def _parse_short(data: bytes) -> dict[str, Any]:
    try:
        return _object(orjson.loads(data))
    except ValueError as error:
        raise (error if isinstance(error, CodecError) else CodecError("not valid JSON")) from None


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        raise CodecError("not a JSON object")
    return value


def _has_long_numbers(data: bytes) -> bool:
    return _LONG in data.translate(_DIGITS)


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


def spelled(value: Any) -> bytes:
    """Write what sessions hold, without spaces; where they hold half a surrogate pair, in escapes."""
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(value, separators=(",", ":")).encode()


def put_before_last(data: bytes, field: str, items: list[Any]) -> bytes:
    """Return an object with more items before the last one of a list in it, and all else byte for byte.

    Written again, ``1e400`` would be another value, and a long fraction another number.

    Args:
        data: what :func:`parse_object` has read; its names differ.
        field: whose value is a list with an item or more, or one text of a user instead.
        items: what comes before the last one.
    """
    text = data.decode()
    start, end = _span_of(text, field)
    new = spelled(items).decode()[1:-1]
    if text[start] != "[":
        turn = '{"role":"user","content":' + text[start:end] + "}"
        return f"{text[:start]}[{new},{turn}]{text[end:]}".encode()
    at = last = _after_space(text, start + 1)
    while text[at] != "]":
        last = at
        at = _after_space(text, _decode(text, at)[1])
        if text[at] == ",":
            at = _after_space(text, at + 1)
    return f"{text[:last]}{new},{text[last:]}".encode()


def _span_of(text: str, field: str) -> tuple[int, int]:
    """Return where the value of a field begins and ends."""
    at = _after_space(text, 0)
    while text[at] != "}":
        name, at = _decode(text, _after_space(text, at + 1))
        start = _after_space(text, _after_space(text, at) + 1)
        end = _decode(text, start)[1]
        if name == field:
            return start, end
        at = _after_space(text, end)
    raise CodecError("the field is not there")


def _after_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return at if found is None else found.end()


def canonical(body: dict[str, Any]) -> dict[str, Any]:
    """Return a request with the names of its own, of its turns and of their parts in one order.

    All below keeps its order: a model reads the properties of a schema, and the arguments of a call, as they
    stand, and fills them in so.
    """
    return {
        name: [_sorted(turn) for turn in body[name]]
        if name in _TURNS and type(body[name]) is list
        else body[name]
        for name in sorted(body)
    }


def _sorted(turn: Any) -> Any:
    if type(turn) is not dict:
        return turn
    return {
        name: [
            {key: part[key] for key in sorted(part)} if type(part) is dict else part
            for part in turn["content"]
        ]
        if name == "content" and type(turn["content"]) is list
        else turn[name]
        for name in sorted(turn)
    }


def _refuse(_constant: str) -> NoReturn:
    raise ValueError
