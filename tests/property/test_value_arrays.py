"""Arrays and tables come back as they were, or are refused; and bad bytes are errors."""

from __future__ import annotations

import base64
import contextlib
import struct
import sys
import tracemalloc
import zlib
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lix_cache import CodecError, InvalidInput, MissingExtra
from lix_cache.storage.varints import put_varint
from lix_cache.values.codec import decode_value, encode_value
from lix_cache.values.plain import decode_item, encode_item

pytestmark = pytest.mark.promise("bad-bytes")


def back(value: Any) -> Any:
    encoded = encode_value(value)
    return decode_value(encoded.head, encoded.chunks)


def item(letter: bytes, data: bytes) -> bytes:
    out = bytearray(letter)
    put_varint(out, len(data))
    return bytes(out) + data


# -- numpy ---------------------------------------------------------------------------------

DTYPES = st.one_of(
    hnp.boolean_dtypes(),
    hnp.integer_dtypes(endianness="?"),
    hnp.floating_dtypes(endianness="?"),
    hnp.complex_number_dtypes(endianness="?"),
    hnp.byte_string_dtypes(),
    hnp.unicode_string_dtypes(endianness="?"),
    hnp.datetime64_dtypes(endianness="?"),
    hnp.timedelta64_dtypes(endianness="?"),
)


@settings(max_examples=300, deadline=None)
@given(hnp.arrays(DTYPES, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)), st.booleans())
def test_every_array_comes_back_with_type_shape_and_order(array: Any, fortran: bool) -> None:
    array = np.asfortranarray(array) if fortran else array
    again = back(array)
    assert type(again) is np.ndarray
    assert (again.dtype.str, again.shape) == (array.dtype.str, array.shape)
    assert again.tobytes() == array.tobytes()
    assert again.flags.f_contiguous == array.flags.f_contiguous
    assert again.flags.writeable


@settings(max_examples=100, deadline=None)
@given(hnp.arrays(DTYPES, ()))
def test_every_scalar_comes_back_with_its_type(array: Any) -> None:
    scalar = array[()]
    again = back([scalar])[0]
    assert type(again) is type(scalar)
    assert np.asarray(again).tobytes() == np.asarray(scalar).tobytes()


def test_views_are_kept_as_what_they_show() -> None:
    array = np.arange(24).reshape(2, 3, 4)
    for view in (array[::-1], array[:, ::2], array.T, array.transpose(1, 0, 2), np.broadcast_to(1, (2, 3))):
        assert np.array_equal(back(view), view)


@pytest.mark.parametrize(
    "value",
    [
        np.array([object()]),
        np.array([None, 1]),
        np.zeros(2, dtype="i4,f4"),
        np.zeros(2, dtype="V4"),
        np.void(b"abc"),
        np.ma.masked_array([1], [True]),
        np.zeros(2).view(np.recarray),
        np.dtype("i4"),
        np.random.default_rng(0),
    ],
)
def test_arrays_that_need_pickle_or_lose_something_are_refused(value: Any) -> None:
    with pytest.raises(InvalidInput):
        encode_value({"a": value})


def array_bytes(dtype: str, order: int, shape: list[int], data: bytes) -> bytes:
    out = bytearray()
    put_varint(out, len(dtype))
    out += dtype.encode()
    out.append(order)
    put_varint(out, len(shape))
    for length in shape:
        put_varint(out, length)
    return item(b"A", bytes(out) + data)


@pytest.mark.parametrize(
    "raw",
    [
        array_bytes("|O", 0, [1], bytes(8)),
        array_bytes("O", 0, [1], bytes(8)),
        array_bytes("<i4,<f4", 0, [1], bytes(8)),
        array_bytes("(9,)<i4", 0, [1], bytes(36)),
        array_bytes("<i3", 0, [1], bytes(3)),
        array_bytes("<M8[lightyear]", 0, [1], bytes(8)),
        array_bytes("<i4", 2, [1], bytes(4)),
        array_bytes("<i4", 0, [1], bytes(5)),
        array_bytes("<i4", 0, [2], bytes(4)),
        array_bytes("<i4", 0, [1] * 33, bytes(4)),
        array_bytes("<i4", 0, [2**62, 2**62, 0], b""),
        array_bytes("<i4", 0, [2**63, 2], b""),
        array_bytes("<U0", 0, [2**62], b""),
        array_bytes("|b1", 0, [2], b"\x01\x02"),
        array_bytes("<U1", 0, [1], b"\xff\xff\xff\xff"),
        array_bytes(">U1", 0, [1], b"\x00\x11\x00\x00"),
        item(b"g", array_bytes("<i4", 0, [1], bytes(4))[2:]),
        item(b"A", b""),
    ],
)
def test_array_bytes_that_make_no_sense_are_errors(raw: bytes) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(CodecError):
            decode_item(raw)
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


def test_an_array_without_numpy_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    raw = encode_item(np.zeros(2))
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(CodecError, match="numpy"):
        decode_item(raw)


# -- pandas --------------------------------------------------------------------------------


def pandas_values() -> dict[str, Any]:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")
    times = pd.to_datetime(["2020-01-01", None])
    frame = pd.DataFrame(
        {
            "i": [1, 2],
            "f": [1.5, float("nan")],
            "s": ["x", None],
            "b": [True, False],
            "c": pd.Categorical(["u", "v"], categories=["v", "u"], ordered=True),
            "t": times,
            "z": times.tz_localize("Europe/Berlin"),
            "d": pd.to_timedelta([1, 2], unit="s"),
            "I": pd.array([1, None], dtype="Int64"),
        },
        index=pd.Index(["r", "s"], name="rows"),
    )
    several = pd.MultiIndex.from_tuples([("a", 1), ("b", 2)], names=["x", "y"])
    return {
        "frame": frame,
        "no index": pd.DataFrame({"a": [1, 2]}),
        "numbers as names": pd.DataFrame({1: [1], 2: [2]}),
        "many indices": frame[["i", "f"]].set_index(several),
        "many columns": pd.DataFrame([[1, 2]], columns=several),
        "empty": pd.DataFrame(),
        "no rows": frame.drop(columns="c").iloc[:0],
        "periods": pd.DataFrame({"p": pd.period_range("2020", "2021", freq="Y")}),
        "intervals": pd.DataFrame({"i": pd.interval_range(0, 2)}),
        "dates as index": pd.DataFrame({"a": [1, 2]}, index=pd.date_range("2020", periods=2)),
        "series": frame["f"],
        "nameless series": pd.Series([1, 2]),
        "series with a tuple": pd.Series([1, 2], name=("a", 1)),
        "series with a number": pd.Series(["a"], name=3),
    }


PANDAS = [
    "frame", "no index", "numbers as names", "many indices", "many columns", "empty", "no rows", "periods",
    "intervals", "dates as index", "series", "nameless series", "series with a tuple", "series with a number",
]  # fmt: skip


@pytest.mark.parametrize("name", PANDAS)
def test_pandas_tables_come_back_as_they_were(name: str) -> None:
    import pandas as pd

    value = pandas_values()[name]
    again = back({"table": value})["table"]
    if isinstance(value, pd.DataFrame):
        pd.testing.assert_frame_equal(again, value, check_freq=False)
    else:
        pd.testing.assert_series_equal(again, value, check_freq=False)
        assert type(again.name) is type(value.name)


def test_pandas_tables_that_arrow_would_change_are_refused() -> None:
    pd = pytest.importorskip("pandas")
    pytest.importorskip("pyarrow")

    class Frame(pd.DataFrame):  # type: ignore[misc]
        pass

    for value in (
        pd.DataFrame({"a": [1, "x"]}),
        pd.DataFrame({"a": [{"x": 1}, {"y": 2}]}),
        pd.DataFrame({"a": [(1, 2)]}),
        pd.DataFrame({"a": [object()]}),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pd.DataFrame({"a": [1], 2: [3]}),
        pd.DataFrame({"a": [1 + 2j]}),
        pd.DataFrame({"a": pd.Categorical(["u"])}).iloc[:0],
        pd.Series([object()]),
        pd.Series([1], name=Frame),
        pd.Timestamp("2020"),
        pd.NaT,
        pd.NA,
        pd.Index([1]),
        Frame({"a": [1]}),
    ):
        with pytest.raises(InvalidInput):
            encode_value(value)


# -- polars --------------------------------------------------------------------------------


def polars_values() -> dict[str, Any]:
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    from datetime import date, datetime, timedelta
    from decimal import Decimal

    frame = pl.DataFrame(
        {
            "i": [1, None],
            "u": pl.Series([1, 2], dtype=pl.UInt8),
            "f": [1.5, float("nan")],
            "s": ["x", None],
            "b": [True, None],
            "x": [b"a", b"b"],
            "c": pl.Series(["u", "v"], dtype=pl.Categorical),
            "e": pl.Series(["u", "v"], dtype=pl.Enum(["v", "u"])),
            "t": [datetime(2020, 1, 1), None],
            "d": [date(2020, 1, 1), None],
            "w": [timedelta(1), None],
            "m": [Decimal("1.5"), None],
            "l": [[1, 2], []],
            "n": [{"a": 1}, {"a": 2}],
        }
    )
    return {
        "frame": frame,
        "no rows": frame.clear(),
        "empty": pl.DataFrame(),
        "zone": pl.DataFrame({"z": [datetime(2020, 1, 1)]}).select(
            pl.col("z").dt.replace_time_zone("Europe/Berlin")
        ),
        "series": frame["s"],
        "nameless": pl.Series([1.5, None]),
        "nulls": pl.Series("n", [None, None]),
        "nameless column": pl.DataFrame({"": [1], "a": [2]}),
    }


@pytest.mark.parametrize(
    "name", ["frame", "no rows", "empty", "zone", "series", "nameless", "nulls", "nameless column"]
)
def test_polars_tables_come_back_as_they_were(name: str) -> None:
    import polars.testing as plt

    value = polars_values()[name]
    again = back([value])[0]
    assert type(again) is type(value)
    equal = plt.assert_frame_equal if hasattr(value, "schema") else plt.assert_series_equal
    equal(again, value, categorical_as_str=True)


def test_polars_objects_and_other_things_are_refused() -> None:
    pl = pytest.importorskip("polars")
    pytest.importorskip("pyarrow")
    for value in (
        pl.DataFrame({"o": [object()]}),
        pl.Series([object()]),
        pl.col("a"),
        pl.LazyFrame({"a": [1]}),
    ):
        with pytest.raises(InvalidInput):
            encode_value(value)


# -- what is missing -----------------------------------------------------------------------


@pytest.mark.parametrize(("package", "name"), [("pandas", "series"), ("polars", "frame")])
def test_a_missing_package_is_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, package: str, name: str
) -> None:
    value = (pandas_values() if package == "pandas" else polars_values())[name]
    raw = encode_item(value)
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(MissingExtra, match=rf"pyarrow.*lix-cache\[{package}\]"):
            encode_item(value)
        with pytest.raises(MissingExtra, match="pyarrow"):
            decode_item(raw)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=rf"lix-cache\[{package}\]"):
        decode_item(raw)


# -- bad tables ----------------------------------------------------------------------------


def stream(table: Any, **options: Any) -> bytes:
    pa = pytest.importorskip("pyarrow")
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def tables() -> list[Any]:
    pa = pytest.importorskip("pyarrow")
    return [
        pa.table({"a": list(range(1000))}),
        pa.table({"a": pa.array(["u", "v"] * 500).dictionary_encode()}),
    ]


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("codec", ["lz4", "zstd"])
def test_compressed_tables_which_declare_any_size_are_refused(number: int, codec: str) -> None:
    pytest.importorskip("polars")
    table = tables()[number]
    assert decode_item(item(b"L", stream(table))).height == 1000
    with pytest.raises(CodecError, match="compressed"):
        decode_item(item(b"L", stream(table, compression=codec)))


def test_pickled_types_are_refused_wherever_they_hide() -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("polars")
    # What pyarrow once loaded by itself: a pickle that runs a function.
    pickle = base64.b64decode("Y3Bvc2l4CnN5c3RlbQooUydleGl0IDcnCnRSLg==")
    marked = {"ARROW:extension:name": "arrow.py_extension_type", "ARROW:extension:metadata": pickle}
    column = pa.array([1, 2])
    plain = pa.field("a", pa.int64(), metadata=marked)
    nested = pa.field("s", pa.struct([plain]))
    listed = pa.field("l", pa.list_(plain))
    for field, data in (
        (plain, column),
        (nested, pa.array([{"a": 1}, {"a": 2}], nested.type)),
        (listed, pa.array([[1], [2]], listed.type)),
    ):
        table = pa.Table.from_arrays([data], schema=pa.schema([field]))
        for letter in b"LP":
            with pytest.raises(CodecError, match="pickled"):
                decode_item(item(bytes([letter]), stream(table)))


def test_column_metadata_that_is_no_text_is_refused() -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("polars")
    for metadata in ({b"\xff": b"x"}, {b"x": b"\xff"}):
        table = pa.Table.from_arrays(
            [pa.array([1])], schema=pa.schema([pa.field("a", pa.int64(), metadata=metadata)])
        )
        with pytest.raises(CodecError, match="utf-8"):
            decode_item(item(b"L", stream(table)))


def test_a_schema_nested_without_end_is_refused() -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("polars")
    kind = pa.int64()
    for _ in range(70):
        kind = pa.struct([pa.field("a", kind)])
    sink = pa.BufferOutputStream()
    pa.ipc.new_stream(sink, pa.schema([pa.field("a", kind)])).close()
    with pytest.raises(CodecError, match="nested too deep"):
        decode_item(item(b"L", bytes(sink.getvalue())))


def test_a_table_of_two_columns_is_no_series() -> None:
    pa = pytest.importorskip("pyarrow")
    pytest.importorskip("polars")
    pytest.importorskip("pandas")
    data = stream(pa.table({"a": [1], "b": [2]}))
    with pytest.raises(CodecError, match="2 columns"):
        decode_item(item(b"q", data))
    with pytest.raises(CodecError, match="2 columns"):
        decode_item(item(b"p", b"\x01N" + data))
    with pytest.raises(CodecError, match="TypeError"):
        decode_item(item(b"p", b"\x02l\x00" + stream(pa.table({"a": [1]}))))


SMALL = ["frame", "series"]


@pytest.mark.parametrize("package", ["pandas", "polars"])
@pytest.mark.parametrize("name", SMALL)
def test_a_damaged_table_is_an_error_or_a_table(package: str, name: str) -> None:
    """Also behind a right checksum: nothing crashes, and nothing takes memory without end."""
    value = (pandas_values() if package == "pandas" else polars_values())[name]
    raw = encode_item(value)
    rng = np.random.default_rng(0)
    for length in rng.integers(0, len(raw), 60):
        with pytest.raises(CodecError):
            decode_item(raw[:length])
    for position in rng.integers(0, len(raw), 700):
        damaged = bytearray(raw)
        damaged[position] = rng.choice([0, 1, 0x7F, 0x80, 0xFF, damaged[position] ^ 1])
        with contextlib.suppress(CodecError):
            decode_item(bytes(damaged))
    for position in rng.integers(0, len(raw) - 8, 200):
        damaged = bytearray(raw)
        damaged[position : position + 8] = struct.pack(
            "<Q", (2**31, 2**40, 2**63, 2**64 - 1)[rng.integers(4)]
        )
        with contextlib.suppress(CodecError):
            decode_item(bytes(damaged))
    head = encode_value(value).head
    for position in range(0, len(head), 7):
        damaged = bytearray(head)
        damaged[position] ^= 4
        with pytest.raises(CodecError):
            decode_value(bytes(damaged))
    assert zlib.crc32(raw) == zlib.crc32(encode_item(value))
