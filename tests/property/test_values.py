"""Values come back as they were, of the same types, or are refused; and bad bytes are errors."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import enum
import math
import os
import struct
import subprocess
import sys
import tracemalloc
import uuid
import zlib
import zoneinfo
from datetime import date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lix_cache import CodecError, InvalidInput
from lix_cache.storage.varints import put_varint
from lix_cache.values import codec
from lix_cache.values.codec import Encoded, decode_value, encode_value, read_head
from lix_cache.values.plain import MAX_DEPTH, decode_item, encode_item

pytestmark = pytest.mark.promise("bad-bytes")

ROOT = Path(__file__).resolve().parents[2]

ZONES = st.one_of(
    st.none(),
    st.just(timezone.utc),
    st.timedeltas(timedelta(hours=-23), timedelta(hours=23)).map(timezone),
    st.sampled_from(["Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"]).map(zoneinfo.ZoneInfo),
)
HASHABLE = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.integers(-(2**300), 2**300),
    st.floats(allow_nan=False),
    st.complex_numbers(allow_nan=False),
    st.text(),
    st.text(st.characters(codec=None)),
    st.binary(),
    st.dates(),
    st.datetimes(timezones=ZONES),
    st.times(timezones=st.one_of(st.none(), st.just(timezone.utc))),
    st.timedeltas(),
    st.decimals(allow_nan=False),
    st.uuids(),
)
KEYS = st.recursive(
    HASHABLE,
    lambda inner: st.one_of(st.tuples(inner), st.tuples(inner, inner), st.frozensets(HASHABLE, max_size=3)),
    max_leaves=4,
)
VALUES = st.recursive(
    st.one_of(HASHABLE, st.floats(), st.binary().map(bytearray)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.lists(inner, max_size=5).map(tuple),
        st.sets(KEYS, max_size=4),
        st.frozensets(KEYS, max_size=4),
        st.dictionaries(KEYS, inner, max_size=4),
    ),
    max_leaves=20,
)


def back(value: Any, **options: Any) -> Any:
    encoded = encode_value(value, **options)
    assert read_head(encoded.head).chunks == len(encoded.chunks)
    return decode_value(encoded.head, encoded.chunks)


def same(one: Any, two: Any) -> bool:
    """Whether two values are equal and of the same types all the way down."""
    if type(one) is not type(two):
        return False
    if isinstance(one, float):
        return struct.pack("<d", one) == struct.pack("<d", two)
    if isinstance(one, (list, tuple)):
        return len(one) == len(two) and all(same(a, b) for a, b in zip(one, two, strict=True))
    if isinstance(one, (set, frozenset)):
        kinds = [sorted(type(item).__name__ for item in items) for items in (one, two)]
        return bool(one == two) and kinds[0] == kinds[1]
    if isinstance(one, dict):
        return same(list(one.items()), list(two.items()))
    if isinstance(one, (datetime, time, Decimal, complex)):
        return repr(one) == repr(two)
    return bool(one == two)


# -- round trips ---------------------------------------------------------------------------


@settings(max_examples=300, deadline=None)
@given(VALUES, st.sampled_from([0, 50, 1024]))
def test_every_plain_value_comes_back_as_it_was(value: Any, compress_from: int) -> None:
    assert same(back(value, compress_from=compress_from), value)


@pytest.mark.parametrize(
    "value",
    [
        float("nan"),
        -0.0,
        float("inf"),
        2**63 - 1,
        2**63,
        -(2**63),
        -(2**63) - 1,
        10**5000,
        True,
        1,
        1.0,
        "",
        "\ud800",
        Decimal("NaN"),
        Decimal("-sNaN12"),
        Decimal("1E-900000"),
        Decimal("1.20"),
        datetime(2024, 10, 27, 2, 30, fold=1, tzinfo=zoneinfo.ZoneInfo("Europe/Berlin")),
        datetime.max,
        time(23, 59, 59, 999999, fold=1),
        datetime.min,
        timedelta.max,
        timedelta.min,
        date.max,
        {1: "int", "1": "str", None: "none", (1, 2): "tuple", b"1": "bytes"},
        {"a": {1, "x", frozenset({2})}},
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_special_about_a_value_is_kept(value: Any) -> None:
    assert same(back(value), value)


def test_the_bytes_are_the_same_in_every_process() -> None:
    code = (
        "from lix_cache.values.codec import encode_value\n"
        "print(encode_value({'tags': {'a', 'b', 'c', 4, None, ('x', 'y')}}).head.hex())"
    )
    printed = {
        subprocess.run(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONHASHSEED": seed},
            capture_output=True, check=True, timeout=60,
        ).stdout
        for seed in ("1", "2")
    }  # fmt: skip
    assert len(printed) == 1


def test_text_is_compressed_and_what_does_not_shrink_is_not() -> None:
    assert len(encode_value("the same words " * 1000).head) < 500
    noise = np.random.default_rng(0).bytes(500_000)
    assert len(encode_value(noise).head) < len(noise) + 30
    assert len(encode_value("short").head) < 20
    # Not worth it for the whole, though its sample says so.
    assert back(noise[:3000]) == noise[:3000]


@pytest.mark.parametrize("length", [9_999_000, 25_000_000])
def test_large_values_are_compressed_and_cut_into_chunks(length: int) -> None:
    noise = np.random.default_rng(0).bytes(length)
    encoded = encode_value({"blob": noise})
    if length < 10_000_000:
        assert encoded.chunks == ()
    else:
        assert [len(chunk) for chunk in encoded.chunks] == [8_000_000] * 3 + [1_000_013]
        assert len(encoded.head) < 30
    assert decode_value(encoded.head, encoded.chunks) == {"blob": noise}


# -- what is refused -----------------------------------------------------------------------


class Colour(enum.Enum):
    RED = 1


class Level(enum.IntEnum):
    LOW = 1


@dataclasses.dataclass
class Point:
    x: int


class Pair(NamedTuple):
    a: int


class Model:
    def model_dump(self) -> dict[str, int]:
        return {}


class Text(str):
    __slots__ = ()


class Zone(tzinfo):
    pass


@pytest.mark.parametrize(
    ("value", "advice"),
    [
        (Colour.RED, "store its .value"),
        (Level.LOW, "store its .value"),
        (Point(1), r"dataclasses\.asdict"),
        (Model(), r"model_dump\(\)"),
        (Pair(1), "plain tuple"),
        (Text("x"), "plain str"),
        (collections.OrderedDict(), "plain dict"),
        (collections.Counter("a"), "plain dict"),
        (object(), "cannot be kept"),
        (Point, "cannot be kept"),
        (len, "cannot be kept"),
        (memoryview(b"x"), "cannot be kept"),
        (range(3), "cannot be kept"),
        (datetime(2024, 1, 1, tzinfo=Zone()), "time zone"),
    ],
)
def test_what_would_come_back_as_another_is_refused_with_advice(value: Any, advice: str) -> None:
    with pytest.raises(InvalidInput, match=advice):
        encode_value(value)
    with pytest.raises(InvalidInput, match=r"^the response\[value 0\]\[1\]"):
        encode_value({"list": [0, value]})
    with pytest.raises(InvalidInput, match=r"^the response\[value 0\]\[value 0\]"):
        encode_value({10**5000: {("a", None): value}})


def test_a_set_with_something_that_cannot_be_kept_is_refused_too() -> None:
    with pytest.raises(InvalidInput, match=r"the response\[value 0\]\{…\} is a .*Colour"):
        encode_value({"s": {Colour.RED}})


def test_depth_is_bounded_both_ways() -> None:
    def nested(levels: int) -> Any:
        value: Any = []
        for _ in range(levels):
            value = [value]
        return value

    assert back(nested(MAX_DEPTH)) == nested(MAX_DEPTH)
    with pytest.raises(InvalidInput, match="deep"):
        encode_value(nested(MAX_DEPTH + 1))
    itself: list[Any] = []
    itself.append(itself)
    with pytest.raises(InvalidInput, match="contains itself"):
        encode_value(itself)
    for letter in (b"l\x01", b"t\x01", b"S\x01", b"d\x01N"):
        with pytest.raises(CodecError):
            decode_item(letter * 100_000 + b"N")


def test_a_value_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "_LARGEST_VALUE", 1000)
    with pytest.raises(InvalidInput, match="1000 is the most"):
        encode_value("x" * 1001)


# -- bad bytes -----------------------------------------------------------------------------

SAMPLES: list[Any] = [
    {
        "answer": "text " * 300,
        "score": 0.5,
        "tags": {"a", "b"},
        "when": datetime(2024, 1, 1, tzinfo=timezone.utc),
    },
    [1, 2**100, -5, 1.5, 2j, None, True, False, b"bytes", bytearray(b"x"), Decimal("1.5"), uuid.UUID(int=7)],
    (
        date(2024, 1, 1),
        time(1, 2),
        timedelta(1),
        datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("Asia/Tokyo")),
    ),
    {(1, 2): frozenset({3}), "array": np.arange(6, dtype="<i2").reshape(2, 3), "scalar": np.float32(1)},
    np.array(["aé", "b"]),
]


def error_or_value(head: bytes, chunks: Any = ()) -> None:
    with contextlib.suppress(CodecError):
        decode_value(head, chunks)


@pytest.mark.parametrize("sample", SAMPLES, ids=range(len(SAMPLES)))
def test_every_truncation_and_every_flipped_bit_is_an_error(sample: Any) -> None:
    head = encode_value(sample).head
    for length in range(len(head)):
        with pytest.raises(CodecError):
            decode_value(head[:length])
    for position in range(len(head)):
        for bit in (1, 16, 128):
            damaged = bytearray(head)
            damaged[position] ^= bit
            with pytest.raises(CodecError):
                decode_value(bytes(damaged))
    with pytest.raises(CodecError):
        decode_value(head + b"x")


@pytest.mark.parametrize("sample", SAMPLES, ids=range(len(SAMPLES)))
def test_behind_a_right_checksum_too_all_bytes_are_an_error_or_a_value(sample: Any) -> None:
    raw = encode_item(sample)
    for position in range(len(raw)):
        for byte in {0, 1, 0x7F, 0x80, 0xFF, raw[position] ^ 1, *b"lsIAbd"}:
            error_or_value(sealed(raw[:position] + bytes([byte]) + raw[position + 1 :]))
        with pytest.raises(CodecError):
            decode_value(sealed(raw[:position]))


def sealed(
    raw: bytes, *, compression: int = 0, body: bytes | None = None, length: int | None = None, chunks: int = 0
) -> bytes:
    """Return a head with a right checksum over what may be wrong."""
    body = raw if body is None else body
    head = bytearray((1, compression))
    for number in (len(raw) if length is None else length, len(body), chunks):
        put_varint(head, number)
    head += zlib.crc32(body, zlib.crc32(head)).to_bytes(4, "little")
    return bytes(head) + body


@settings(max_examples=500, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.binary(max_size=200), st.sampled_from([0, 1, 2]), st.integers(0, 1 << 40))
def test_any_bytes_are_an_error_or_a_value(data: bytes, compression: int, length: int) -> None:
    error_or_value(data)
    error_or_value(sealed(data))
    error_or_value(sealed(data, compression=compression, length=length))
    error_or_value(sealed(data, compression=1, body=zlib.compress(data)))


HUGE = b"\xff\xff\xff\xff\xff\xff\x7f"


@pytest.mark.parametrize(
    "head",
    [
        sealed(b"s" + HUGE),
        sealed(b"l" + HUGE + b"N" * 100),
        sealed(b"d" + HUGE + b"N" * 100),
        sealed(b"I" + HUGE),
        sealed(b"A" + HUGE),
        sealed(b"A\x14\x03|b1\x00\x01" + HUGE + b"\x00" * 7),
        sealed(b"A\x0e\x03<U0\x00\x01" + HUGE),
        sealed(b"A\x16\x0b<U999999999\x00\x01" + HUGE),
        sealed(b"", compression=1, body=zlib.compress(bytes(10_000_000)), length=1 << 29),
        sealed(b"", compression=1, body=zlib.compress(bytes(100_000_000)), length=1000),
        sealed(b"N", length=1 << 40),
        sealed(b"N", chunks=1 << 30),
        b"\x01\x00" + HUGE * 3 + b"0000",
    ],
)
def test_a_declared_size_is_checked_before_memory_is_taken(head: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode_value(head)
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()


def test_the_caller_bounds_the_size_of_a_value() -> None:
    head = encode_value("x" * 10_000).head
    assert decode_value(head, max_bytes=11_000) == "x" * 10_000
    with pytest.raises(CodecError, match="9000 is the most"):
        decode_value(head, max_bytes=9000)


def test_a_compressed_body_holds_what_it_says_and_nothing_else() -> None:
    raw = encode_item("x" * 2000)
    whole = zlib.compress(raw)
    assert decode_value(sealed(raw, compression=1, body=whole)) == "x" * 2000
    for body, length in (
        (whole, len(raw) - 1),
        (whole, len(raw) + 1),
        (whole[:-1], None),
        (whole + b"x", None),
    ):
        with pytest.raises(CodecError):
            decode_value(sealed(raw, compression=1, body=body, length=length))


def test_chunks_that_are_missing_mixed_or_damaged_are_errors() -> None:
    one, other = (encode_value(np.random.default_rng(seed).bytes(17_000_000)) for seed in (1, 2))
    assert len(one.chunks) == 3
    first, second, third = one.chunks
    damaged = bytearray(second)
    damaged[4_000_000] ^= 1
    wrong: list[Any] = [
        (),
        (first, second),
        (first, None, third),
        (first, third, second),
        (second, first, third),
        (first, bytes(damaged), third),
        (first, other.chunks[1], third),
        (first, second, third[:-1]),
        (first, second, third + b"x"),
        (first, second, third, b""),
    ]
    for chunks in wrong:
        with pytest.raises(CodecError):
            decode_value(one.head, chunks)
    with pytest.raises(CodecError):
        decode_value(one.head + b"x", one.chunks)
    with pytest.raises(CodecError):
        decode_value(other.head, one.chunks)
    small = encode_value("small")
    with pytest.raises(CodecError):
        decode_value(small.head, (first,))
    with pytest.raises(CodecError):
        read_head(b"")
    assert isinstance(one, Encoded)


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"?",
        b"NN",
        b"s\x01\xff",
        b"S\x02NN",
        b"d\x02NNNN",
        b"d\x01l\x00N",
        b"S\x01l\x00",
        b"m\x03abc",
        b"m\x02\xff\xff",
        b"y\x00\x00\x01\x01",
        b"D\xe8\x07\x01\x01\x19\x00\x00\x00\x00\x00\x00\x00\x00",
        b"h\x00\x00\x00\x00\x00\x00\x00\x02\x00",
        b"h\x00\x00\x00\x00\x00\x00\x00\x00\x07",
        b"h\x00\x00\x00\x00\x00\x00\x00\x00\x02\x0b../../../etc",
        b"h\x00\x00\x00\x00\x00\x00\x00\x00\x02\x04None",
        b"h\x00\x00\x00\x00\x00\x00\x00\x00\x02\xff\x7f" + b"x" * 20_000,
        b"h\x00\x00\x00\x00\x00\x00\x00\x00\x01" + b"\xff" * 7 + b"\x7f",
        b"w\xff\xff\xff\x7f\x00\x00\x00\x00\x00\x00\x00\x00",
    ],
)
def test_what_no_value_is_written_as_is_an_error(raw: bytes) -> None:
    with pytest.raises(CodecError):
        decode_value(sealed(raw))


def test_an_unknown_version_says_so() -> None:
    with pytest.raises(CodecError, match="version 2"):
        decode_value(b"\x02" + encode_value(1).head[1:])
    assert math.isnan(back(math.nan))
