"""Arrays and tables ⇄ bytes: numpy by its own buffers, pandas and polars by Arrow IPC.

A table is decoded again before its bytes are given out: Arrow has no place for everything
that pandas can hold, and an answer that would come back as another is refused at the store.
"""

from __future__ import annotations

import math
import re
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lix_cache.compute import Failed, settled
from lix_cache.errors import CodecError, InvalidInput, MissingExtra
from lix_cache.storage.varints import Reader, put_varint
from lix_cache.values.arrow import table_from_bytes, table_to_bytes
from lix_cache.values.plain import decode_item, encode_item

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["decode_array", "encode_array"]

#: Booleans, integers, reals, complex numbers, bytes, text, times and spans of time. Not
#: objects (they would need pickle), and not records.
_DTYPE = re.compile(r"[<>|][biufcSUMm][0-9]{1,9}(\[[0-9]{0,9}[a-zA-Z]{1,7}\])?")
_MOST_DIMENSIONS = 32
_LARGEST_CODE_POINT = 0x10FFFF
_C_ORDER, _FORTRAN = 0, 1
_SERIES = "values"


def encode_array(value: Any, where: str) -> tuple[bytes, bytes] | None:
    """Return a letter and bytes, or None for what is neither array nor table.

    Args:
        value: something from numpy, pandas or polars.
        where: named in errors.

    Raises:
        InvalidInput: it would not come back as it is.
        MissingExtra: a table, and pyarrow is not installed.
    """
    numpy, pandas, polars = (sys.modules.get(name) for name in ("numpy", "pandas", "polars"))
    if numpy is not None:
        if type(value) is numpy.ndarray:
            return b"A", _from_numpy(value, where)
        if isinstance(value, numpy.generic):
            return b"g", _from_numpy(numpy.asarray(value), where)
    if pandas is not None and type(value) in (pandas.DataFrame, pandas.Series):
        letter = b"P" if type(value) is pandas.DataFrame else b"p"
        return letter, _from_table(letter, value, where, "pandas")
    if polars is not None and type(value) in (polars.DataFrame, polars.Series):
        letter = b"L" if type(value) is polars.DataFrame else b"q"
        return letter, _from_table(letter, value, where, "polars")
    return None


def decode_array(letter: bytes, data: bytes) -> Any:
    """Return the array, scalar, frame or series that the bytes are.

    Raises:
        CodecError: they are none.
        MissingExtra: the package it belongs to is not installed.
    """
    if letter in b"Ag":
        array = _to_numpy(data)
        if letter == b"A":
            return array
        if array.shape != ():
            raise CodecError(f"a scalar of shape {array.shape}")
        return array[()]
    return _DECODE[letter](data)


# -- numpy ---------------------------------------------------------------------------------


def _from_numpy(array: npt.NDArray[Any], where: str) -> bytes:
    import numpy as np

    dtype = array.dtype.str
    if not _DTYPE.fullmatch(dtype) or array.dtype.names is not None:
        raise InvalidInput(
            f"{where} is an array of {array.dtype}; arrays of numbers, booleans, times, and text or bytes of "
            "fixed length can be kept: store a list, or one array for each field"
        )
    fortran = array.flags.f_contiguous and not array.flags.c_contiguous
    out = bytearray()
    put_varint(out, len(dtype))
    out += dtype.encode()
    out.append(_FORTRAN if fortran else _C_ORDER)
    put_varint(out, array.ndim)
    for length in array.shape:
        put_varint(out, length)
    out += (array.T if fortran else np.ascontiguousarray(array)).tobytes()
    return bytes(out)


def _to_numpy(data: bytes) -> npt.NDArray[Any]:
    try:
        import numpy as np
    except ImportError:
        raise CodecError("an array, and numpy is not installed") from None
    reader = Reader(data)
    name = reader.take(reader.varint()).decode("ascii", "replace")
    if not _DTYPE.fullmatch(name):
        raise CodecError(f"an array of the unknown type {name!r:.40}")
    try:
        dtype = np.dtype(name)
    except (TypeError, ValueError) as error:
        raise CodecError(f"an array of the unknown type {name!r}: {error}") from None
    order = reader.take(1)[0]
    dimensions = reader.varint()
    if order not in (_C_ORDER, _FORTRAN) or dimensions > _MOST_DIMENSIONS:
        raise CodecError(f"an array of order {order} with {dimensions} dimensions")
    shape = tuple(reader.varint() for _ in range(dimensions))
    if dtype.itemsize * math.prod(shape) != reader.remaining:
        raise CodecError(f"an array of {name} and shape {shape} in {reader.remaining} bytes")
    if dtype.itemsize == 0 and math.prod(shape) > 0:
        # Text of no length: so many items would need no byte.
        raise CodecError("an array of items without a size")
    flat = np.frombuffer(reader.take(reader.remaining), dtype=dtype)
    _check_numbers(flat)
    try:
        array: npt.NDArray[Any] = flat.reshape(shape[::-1] if order == _FORTRAN else shape).copy()
        return array.T if order == _FORTRAN else array
    except ValueError as error:
        raise CodecError(f"an array of shape {shape}: {error}") from None


def _check_numbers(flat: npt.NDArray[Any]) -> None:
    """Refuse what numpy itself would take and stumble over later."""
    import numpy as np

    if flat.dtype.kind == "b" and flat.size and flat.view(np.uint8).max() > 1:
        raise CodecError("an array of booleans that are neither 0 nor 1")
    if flat.dtype.kind == "U" and flat.size:
        order = flat.dtype.byteorder
        if flat.view(np.dtype(np.uint32).newbyteorder(order)).max() > _LARGEST_CODE_POINT:
            raise CodecError("an array of text with characters that do not exist")


# -- tables --------------------------------------------------------------------------------


def _from_table(letter: bytes, value: Any, where: str, package: str) -> bytes:
    import_arrow(package)

    def there_and_back() -> tuple[bytes, Any]:
        data = _ENCODE[letter](value)
        return data, _DECODE[letter](data)

    try:
        data, back = settled(there_and_back)
    except Failed as failed:
        # Whatever Arrow, pandas or polars raise for what they cannot convert.
        if isinstance(failed.error, MissingExtra):
            raise failed.error from None
        # Neither its text nor the error itself: Arrow quotes the cell that it cannot hold.
        kind = type(failed.error).__name__
        raise InvalidInput(f"{where} is a {package} table that Arrow cannot hold ({kind})") from None
    if not _SAME[letter](value, back):
        raise InvalidInput(
            f"{where} is a {package} table that would come back from Arrow as another; columns of plain "
            "numbers, text, times and categories can be kept"
        )
    return data


def import_arrow(package: str) -> None:
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        raise MissingExtra("pyarrow", package, f"keeping {package} tables") from None


def _import(package: str) -> Any:
    try:
        return __import__(package)
    except ImportError:
        raise MissingExtra(package, package, f"reading a {package} table") from None


def _pandas_frame_to(frame: Any) -> bytes:
    import pyarrow

    if len({type(name) for name in frame.columns}) > 1:
        # It would warn, and then change the names.
        raise InvalidInput("columns with names of several types")
    return table_to_bytes(pyarrow.Table.from_pandas(frame))


def _pandas_frame_from(data: bytes) -> Any:
    _import("pandas")
    return _converted(lambda: table_from_bytes(data).to_pandas())


def _pandas_series_to(series: Any) -> bytes:
    # The name may be any plain value; a column's name may not.
    name = encode_item(series.name)
    out = bytearray()
    put_varint(out, len(name))
    return bytes(out) + name + _pandas_frame_to(series.to_frame(_SERIES))


def _pandas_series_from(data: bytes) -> Any:
    reader = Reader(data)
    name = decode_item(reader.take(reader.varint()))
    frame = _pandas_frame_from(reader.take(reader.remaining))
    if frame.shape[1] != 1:
        raise CodecError(f"a series of {frame.shape[1]} columns")
    series = frame.iloc[:, 0]

    def named() -> Any:
        series.name = name
        return series

    return _converted(named)


def _polars_frame_to(frame: Any) -> bytes:
    return table_to_bytes(frame.to_arrow())


def _polars_frame_from(data: bytes) -> Any:
    polars = _import("polars")

    def read() -> Any:
        table = table_from_bytes(data)
        frame = polars.from_arrow(table)
        # It calls a column without a name "column_0".
        frame.columns = table.column_names
        return frame

    return _converted(read)


def _polars_series_to(series: Any) -> bytes:
    return _polars_frame_to(series.to_frame())


def _polars_series_from(data: bytes) -> Any:
    frame = _polars_frame_from(data)
    if frame.width != 1:
        raise CodecError(f"a series of {frame.width} columns")
    return frame.to_series()


def _converted(convert: Callable[[], Any]) -> Any:
    try:
        return settled(convert)
    except Failed as failed:
        # Whatever is raised for an invalid schema.
        if isinstance(failed.error, (CodecError, MissingExtra)):
            raise failed.error from None
        kind = type(failed.error).__name__
    except BaseException as error:
        # Polars' panics are no Exception.
        kind = type(error).__name__
        if kind != "PanicException":
            raise
    raise CodecError(f"a table that cannot be read ({kind})")


def _same_pandas_frame(one: Any, two: Any) -> bool:
    return (
        type(one.index) is type(two.index)
        and one.index.equals(two.index)
        and list(one.index.names) == list(two.index.names)
        and one.columns.equals(two.columns)
        and list(one.columns.names) == list(two.columns.names)
        and list(one.dtypes) == list(two.dtypes)
        and bool(one.equals(two))
    )


def _same_pandas_series(one: Any, two: Any) -> bool:
    return one.name == two.name and _same_pandas_frame(one.to_frame(_SERIES), two.to_frame(_SERIES))


def _same_polars_frame(one: Any, two: Any) -> bool:
    return bool(one.schema == two.schema) and bool(one.equals(two, null_equal=True))


def _same_polars_series(one: Any, two: Any) -> bool:
    return _same_polars_frame(one.to_frame(), two.to_frame())


_ENCODE = {b"P": _pandas_frame_to, b"p": _pandas_series_to, b"L": _polars_frame_to, b"q": _polars_series_to}
_DECODE = {
    b"P": _pandas_frame_from,
    b"p": _pandas_series_from,
    b"L": _polars_frame_from,
    b"q": _polars_series_from,
}
_SAME = {
    b"P": _same_pandas_frame,
    b"p": _same_pandas_series,
    b"L": _same_polars_frame,
    b"q": _same_polars_series,
}
