"""Plain values ⇄ bytes: a letter for the type, then what the type needs. Pure.

Only exact types: an instance of a subclass would come back as its base, which is another
value. docs/values.md lists the letters.
"""

from __future__ import annotations

import dataclasses
import enum
import struct
import sys
import uuid
import zoneinfo
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal, InvalidOperation
from typing import Any

from lix_cache.errors import CodecError, InvalidInput
from lix_cache.storage.varints import Reader, put_varint
from lix_cache.values.streamed import Streamed

__all__ = ["MAX_DEPTH", "decode_item", "encode_item"]

MAX_DEPTH = 100
_F64 = struct.Struct("<d")
_C128 = struct.Struct("<dd")
_DATE = struct.Struct("<HBB")
_TIME = struct.Struct("<BBBIB")
_DELTA = struct.Struct("<iII")
_OFFSET = struct.Struct("<q")
_NAIVE, _FIXED, _ZONE = 0, 1, 2
_LONGEST_ZONE_NAME = 255
_MICROSECOND = timedelta(microseconds=1)


def encode_item(value: Any) -> bytes:
    """Return a value as bytes.

    Raises:
        InvalidInput: a type that would not come back as it was.
        MissingExtra: a table, and pyarrow is not installed.
    """
    writer = _Writer()
    writer.put(value)
    return bytes(writer.out)


def decode_item(data: bytes) -> Any:
    """Return the value that ``data`` is, all of it.

    Raises:
        CodecError: it is not what :func:`encode_item` wrote.
        MissingExtra: an array or table, and the package it belongs to is not installed.
    """
    reader = Reader(data)
    try:
        value = _get(reader, 0)
    except (ValueError, TypeError, ArithmeticError, LookupError, struct.error, RecursionError) as error:
        if isinstance(error, CodecError):
            raise
        # Not its text, which may quote a part of the value.
        raise CodecError(f"not a value: {type(error).__name__}") from None
    if not reader.at_end:
        raise CodecError(f"{reader.remaining} bytes after the end of a value")
    return value


# -- writing -------------------------------------------------------------------------------


class _Writer:
    """Appends values, and knows where it is for the sake of errors."""

    def __init__(self) -> None:
        self.out = bytearray()
        # Formatted only for an error: (how, position).
        self._path: list[tuple[str, int | None]] = []

    def put(self, value: Any) -> None:
        put = _PUT.get(type(value))
        if put is not None:
            put(self, value)
            return
        home = type(value).__module__.partition(".")[0]
        if home in ("numpy", "pandas", "polars") and home in sys.modules:
            from lix_cache.values.arrays import encode_array

            found = encode_array(value, self.where())
            if found is not None:
                letter, data = found
                self._sized(letter, data)
                return
        raise InvalidInput(f"{self.where()} is a {_name(value)}, {_advice(value)}")

    def where(self) -> str:
        return "the response" + "".join(how.format(place) for how, place in self._path)

    def _sized(self, letter: bytes, data: bytes | bytearray) -> None:
        self.out += letter
        put_varint(self.out, len(data))
        self.out += data

    def _inside(self, how: str, place: int | None, value: Any) -> None:
        if len(self._path) >= MAX_DEPTH:
            raise InvalidInput(f"the response is more than {MAX_DEPTH} deep, or contains itself")
        self._path.append((how, place))
        self.put(value)
        self._path.pop()

    def constant(self, value: bool | None) -> None:
        self.out += b"N" if value is None else b"T" if value else b"F"

    def integer(self, value: int) -> None:
        if -(2**63) <= value < 2**63:
            self.out += b"i"
            put_varint(self.out, value << 1 if value >= 0 else (-value << 1) - 1)
        else:
            self._sized(b"I", value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True))

    def real(self, value: float) -> None:
        self.out += b"f" + _F64.pack(value)

    def complex_number(self, value: complex) -> None:
        self.out += b"c" + _C128.pack(value.real, value.imag)

    def text(self, value: str) -> None:
        self._sized(b"s", value.encode("utf-8", "surrogatepass"))

    def octets(self, value: bytes | bytearray) -> None:
        self._sized(b"b" if type(value) is bytes else b"B", value)

    def sequence(self, value: list[Any] | tuple[Any, ...]) -> None:
        self.out += b"l" if type(value) is list else b"t"
        put_varint(self.out, len(value))
        for position, item in enumerate(value):
            self._inside("[{}]", position, item)

    def members(self, value: set[Any] | frozenset[Any]) -> None:
        items = []
        for item in value:
            single = _Writer()
            single._path = [*self._path]
            single._inside("{{…}}", None, item)
            items.append(bytes(single.out))
        self.out += b"S" if type(value) is set else b"Z"
        put_varint(self.out, len(items))
        # The order in a set depends on the process.
        for data in sorted(items):
            self.out += data

    def mapping(self, value: dict[Any, Any]) -> None:
        self.out += b"d"
        put_varint(self.out, len(value))
        # By position: keys are content.
        for position, (key, item) in enumerate(value.items()):
            self._inside(", key {}", position, key)
            self._inside("[value {}]", position, item)

    def stream(self, value: Streamed) -> None:
        self.out += b"E"
        put_varint(self.out, len(value.events))
        for position, event in enumerate(value.events):
            self._inside(", event {}", position, event)
        self._inside(", final value", None, value.final)

    def moment(self, value: datetime) -> None:
        self.out += b"D" + _DATE.pack(value.year, value.month, value.day)
        self._clock(value)

    def day(self, value: date) -> None:
        self.out += b"y" + _DATE.pack(value.year, value.month, value.day)

    def time_of_day(self, value: time) -> None:
        self.out += b"h"
        self._clock(value)

    def _clock(self, value: datetime | time) -> None:
        self.out += _TIME.pack(value.hour, value.minute, value.second, value.microsecond, value.fold)
        zone = value.tzinfo
        if zone is None:
            self.out.append(_NAIVE)
        elif type(zone) is timezone:
            self.out.append(_FIXED)
            self.out += _OFFSET.pack(zone.utcoffset(None) // _MICROSECOND)
        elif type(zone) is zoneinfo.ZoneInfo and zone.key:
            self.out.append(_ZONE)
            name = zone.key.encode()
            put_varint(self.out, len(name))
            self.out += name
        else:
            raise InvalidInput(
                f"{self.where()} has a time zone of {_name(zone)}; zones of datetime.timezone and named "
                "ones of zoneinfo can be kept: value.astimezone(...)"
            )

    def span(self, value: timedelta) -> None:
        self.out += b"w" + _DELTA.pack(value.days, value.seconds, value.microseconds)

    def decimal(self, value: Decimal) -> None:
        self._sized(b"m", str(value).encode())

    def unique_id(self, value: uuid.UUID) -> None:
        self.out += b"u" + value.bytes


_PUT: dict[type, Callable[[_Writer, Any], None]] = {
    type(None): _Writer.constant,
    bool: _Writer.constant,
    int: _Writer.integer,
    float: _Writer.real,
    complex: _Writer.complex_number,
    str: _Writer.text,
    bytes: _Writer.octets,
    bytearray: _Writer.octets,
    list: _Writer.sequence,
    tuple: _Writer.sequence,
    set: _Writer.members,
    frozenset: _Writer.members,
    dict: _Writer.mapping,
    Streamed: _Writer.stream,
    datetime: _Writer.moment,
    date: _Writer.day,
    time: _Writer.time_of_day,
    timedelta: _Writer.span,
    Decimal: _Writer.decimal,
    uuid.UUID: _Writer.unique_id,
}


def _name(value: Any) -> str:
    kind = type(value)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _advice(value: Any) -> str:
    """Say why a type cannot be kept, and what to do."""
    if isinstance(value, enum.Enum):
        return "an Enum: store its .value, or its .name"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return "a dataclass: store dataclasses.asdict(value), and build it anew from that"
    if callable(getattr(value, "model_dump", None)):
        return "a model: store value.model_dump(), and validate that anew"
    for kind in (bool, int, float, str, bytes, tuple, list, dict, set, frozenset, datetime):
        if isinstance(value, kind):
            plain = kind.__name__
            return f"a kind of {plain} that would come back as another type; store it as a plain {plain}"
    return "which cannot be kept; store plain values, arrays or tables (pickle is never used)"


# -- reading -------------------------------------------------------------------------------


def _get(reader: Reader, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise CodecError(f"a value more than {MAX_DEPTH} deep")
    letter = reader.take(1)
    get = _GET.get(letter)
    if get is None:
        raise CodecError(f"a value of the unknown type {letter!r}")
    return get(reader, depth)


def _sized(reader: Reader) -> bytes:
    return reader.take(reader.varint())


def _integer(reader: Reader, _: int) -> int:
    number = reader.varint()
    return -(number >> 1) - 1 if number & 1 else number >> 1


def _text(reader: Reader, _: int) -> str:
    return reader.text(reader.varint())


def _items(reader: Reader, depth: int, *, each: int = 1) -> list[Any]:
    count = reader.varint()
    # An item takes a byte at least: a count beyond that is refused before anything is made.
    if count * each > reader.remaining:
        raise CodecError(f"{count} items in {reader.remaining} bytes")
    return [_get(reader, depth + 1) for _ in range(count * each)]


def _set(reader: Reader, depth: int) -> set[Any]:
    items = _items(reader, depth)
    found = set(items)
    if len(found) != len(items):
        raise CodecError("a set with an item twice")
    return found


def _dict(reader: Reader, depth: int) -> dict[Any, Any]:
    items = _items(reader, depth, each=2)
    found = dict(zip(items[::2], items[1::2], strict=True))
    if 2 * len(found) != len(items):
        raise CodecError("a dict with a key twice")
    return found


def _streamed(reader: Reader, depth: int) -> Streamed:
    return Streamed(tuple(_items(reader, depth)), _get(reader, depth + 1))


def _date(reader: Reader, _: int) -> date:
    return date(*_DATE.unpack(reader.take(_DATE.size)))


def _clock(reader: Reader) -> tuple[tuple[int, int, int, int], int, tzinfo | None]:
    hour, minute, second, microsecond, fold = _TIME.unpack(reader.take(_TIME.size))
    kind = reader.take(1)[0]
    zone: tzinfo | None = None
    if kind == _FIXED:
        zone = timezone(timedelta(microseconds=_OFFSET.unpack(reader.take(_OFFSET.size))[0]))
    elif kind == _ZONE:
        length = reader.varint()
        if length > _LONGEST_ZONE_NAME:
            raise CodecError(f"a time zone with a name of {length} bytes")
        try:
            zone = zoneinfo.ZoneInfo(reader.take(length).decode())
        except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise CodecError(f"a time zone that is not known here ({type(error).__name__})") from None
    elif kind != _NAIVE:
        raise CodecError(f"a time zone of the unknown kind {kind}")
    return (hour, minute, second, microsecond), fold, zone


def _datetime(reader: Reader, depth: int) -> datetime:
    day = _date(reader, depth)
    clock, fold, zone = _clock(reader)
    return datetime(day.year, day.month, day.day, *clock, tzinfo=zone, fold=fold)


def _time(reader: Reader, _: int) -> time:
    clock, fold, zone = _clock(reader)
    return time(*clock, tzinfo=zone, fold=fold)


def _delta(reader: Reader, _: int) -> timedelta:
    days, seconds, microseconds = _DELTA.unpack(reader.take(_DELTA.size))
    return timedelta(days, seconds, microseconds)


def _decimal(reader: Reader, _: int) -> Decimal:
    try:
        return Decimal(_sized(reader).decode("ascii"))
    except InvalidOperation:
        raise CodecError("a decimal that is no number") from None


def _array(letter: bytes) -> Callable[[Reader, int], Any]:
    def get(reader: Reader, _: int) -> Any:
        from lix_cache.values.arrays import decode_array

        return decode_array(letter, _sized(reader))

    return get


_GET: dict[bytes, Callable[[Reader, int], Any]] = {
    b"N": lambda _reader, _depth: None,
    b"T": lambda _reader, _depth: True,
    b"F": lambda _reader, _depth: False,
    b"i": _integer,
    b"I": lambda reader, _: int.from_bytes(_sized(reader), "little", signed=True),
    b"f": lambda reader, _: reader.float64(),
    b"c": lambda reader, _: complex(*_C128.unpack(reader.take(_C128.size))),
    b"s": _text,
    b"b": lambda reader, _: _sized(reader),
    b"B": lambda reader, _: bytearray(_sized(reader)),
    b"l": _items,
    b"t": lambda reader, depth: tuple(_items(reader, depth)),
    b"S": _set,
    b"Z": lambda reader, depth: frozenset(_set(reader, depth)),
    b"d": _dict,
    b"E": _streamed,
    b"D": _datetime,
    b"y": _date,
    b"h": _time,
    b"w": _delta,
    b"m": _decimal,
    b"u": lambda reader, _: uuid.UUID(bytes=reader.take(16)),
    **{letter: _array(letter) for letter in (b"A", b"g", b"P", b"p", b"L", b"q")},
}
