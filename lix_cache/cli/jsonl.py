"""Files of one JSON object per line: read with an error that names the place, and written."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import IO, Any

from lix_cache import InvalidInput
from lix_cache.cli.terminal import is_harmless

__all__ = ["Record", "read_records", "to_line"]

_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Record:
    """One object of a file.

    Attributes:
        where: file and line, or file and item, for errors.
        number: counted from 1.
        value: the object.
    """

    where: str
    number: int
    value: dict[str, Any]

    def refuse(self, what: str) -> InvalidInput:
        """Return the error that says what is wrong here."""
        return InvalidInput(f"{self.where}: {what}")


def read_records(file: IO[bytes], name: str) -> Iterator[Record]:
    """Yield the objects of a file: one per line, or the items of one JSON array.

    Raises:
        InvalidInput: not UTF-8, not JSON, or not an object; the text names file and line.
    """
    line = file.readline()
    if line.startswith(_BOM):
        line = line.removeprefix(_BOM) or b"\n"
    number = 1
    while line and not line.strip():
        line = file.readline()
        number += 1
    if line.lstrip().startswith(b"["):
        yield from _array(line + file.read(), name)
        return
    while line:
        if line.strip():
            where = f"{name}, line {number}"
            yield Record(where, number, _object(_parse(line, where), where))
        line = file.readline()
        number += 1


def _array(data: bytes, name: str) -> Iterator[Record]:
    items = _parse(data, name)
    for number, item in enumerate(items, 1):
        where = f"{name}, item {number}"
        yield Record(where, number, _object(item, where))


def _parse(data: bytes, where: str) -> Any:
    try:
        return json.loads(data.decode(), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{where}: not UTF-8 text (byte {error.start + 1})") from None
    except RecursionError:
        raise InvalidInput(f"{where}: nested too deeply") from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno} column {error.colno}" if error.lineno > 1 else f"column {error.colno}"
        raise InvalidInput(f"{where}: not JSON: {error.msg} at {place}") from None
    except ValueError as error:
        raise InvalidInput(f"{where}: {error}") from None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidInput(f"{where}: a JSON object is needed, not {kind_of(value)}")
    return value


def kind_of(value: Any) -> str:
    """Return what a JSON value is, in the words of JSON."""
    if value is None:
        return "null"
    names = {str: "a string", bool: "true or false", list: "an array", dict: "an object"}
    return names.get(type(value), "a number")


def to_line(value: Any) -> bytes:
    """Return a value as one line of JSON, readable in every script, and harmless on a terminal.

    What a terminal would obey, or not show, is escaped as JSON escapes it: the value is the same.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    if not text.isprintable():
        text = "".join(c if is_harmless(c) else json.dumps(c)[1:-1] for c in text)
    return text.encode() + b"\n"
