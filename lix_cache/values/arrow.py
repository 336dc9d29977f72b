"""Arrow tables ⇄ bytes of Arrow's IPC stream: uncompressed, checked, and with no foreign code.

Two things in an IPC stream could do harm, and are refused: extension types that carry a
pickle, and compressed buffers, which declare any size they like.
"""

from __future__ import annotations

import struct
from typing import Any

from lix_cache.errors import CodecError, MissingExtra

__all__ = ["table_from_bytes", "table_to_bytes"]

_EXTENSION = b"ARROW:extension:name"
_PICKLED = b"arrow.py_extension_type"
#: Positions in Arrow's schema for messages (format/Message.fbs).
_HEADER = 2
_BATCH_OF_DICTIONARY = 1
_COMPRESSION = 3
_DICTIONARY_MESSAGE, _BATCH_MESSAGE = "dictionary", "record batch"
_MOST_LEVELS = 64


def table_to_bytes(table: Any) -> bytes:
    """Return an Arrow table as an IPC stream."""
    import pyarrow

    sink = pyarrow.BufferOutputStream()
    with pyarrow.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def table_from_bytes(data: bytes) -> Any:
    """Return the Arrow table of an IPC stream, every value of it checked.

    Raises:
        CodecError: not a stream that :func:`table_to_bytes` could have written.
        MissingExtra: pyarrow is not installed.
    """
    try:
        import pyarrow
    except ImportError:
        raise MissingExtra("pyarrow", "pandas", "reading a table") from None
    try:
        _refuse_compressed(pyarrow, data)
        with pyarrow.ipc.open_stream(data) as reader:
            for field in reader.schema:
                _check(pyarrow, field, 0)
            table = reader.read_all()
        table.validate(full=True)
    except (pyarrow.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, CodecError):
            raise
        raise CodecError(f"not an Arrow stream: {error}") from None
    return table


def _check(pyarrow: Any, field: Any, level: int) -> None:
    """Refuse a column that carries a pickle, or names that are no text."""
    if level > _MOST_LEVELS:
        raise CodecError("an Arrow schema that is nested too deep")
    kind = field.type
    metadata = dict(field.metadata or {})
    if isinstance(kind, pyarrow.BaseExtensionType):
        metadata[_EXTENSION] = kind.extension_name.encode()
        kind = kind.storage_type
    if metadata.get(_EXTENSION) == _PICKLED:
        raise CodecError("an Arrow column of a pickled type")
    for text in (*metadata, *metadata.values()):
        # UnicodeDecodeError is a ValueError. polars would not raise, but panic.
        text.decode("utf-8")
    if isinstance(kind, pyarrow.DictionaryType):
        _check(pyarrow, pyarrow.field("values", kind.value_type), level + 1)
    for position in range(kind.num_fields):
        _check(pyarrow, kind.field(position), level + 1)


def _refuse_compressed(pyarrow: Any, data: bytes) -> None:
    messages = pyarrow.ipc.MessageReader.open_stream(data)
    while True:
        try:
            message = messages.read_next_message()
        except StopIteration:
            return
        if message.type in (_BATCH_MESSAGE, _DICTIONARY_MESSAGE):
            _refuse_compressed_batch(bytes(message.metadata), message.type)


def _refuse_compressed_batch(metadata: bytes, kind: str) -> None:
    try:
        table: int | None = _table_at(metadata, 0)
        table = _field(metadata, table, _HEADER)
        if kind == _DICTIONARY_MESSAGE:
            table = _field(metadata, table, _BATCH_OF_DICTIONARY)
        compressed = _field(metadata, table, _COMPRESSION)
    except struct.error:
        raise CodecError("an Arrow message whose header is cut short") from None
    if compressed is not None:
        raise CodecError("an Arrow stream with compressed buffers")


def _table_at(data: bytes, position: int) -> int:
    """Follow a FlatBuffers offset."""
    return position + int(struct.unpack_from("<I", data, position)[0])


def _field(data: bytes, table: int | None, number: int) -> int | None:
    """Return where a table's field of type table is, or None if it is not there."""
    if table is None:
        return None
    vtable = table - int(struct.unpack_from("<i", data, table)[0])
    if vtable < 0:
        raise CodecError("an Arrow message whose header points before its beginning")
    slot = 4 + 2 * number
    if slot + 2 > int(struct.unpack_from("<H", data, vtable)[0]):
        return None
    offset = int(struct.unpack_from("<H", data, vtable + slot)[0])
    return _table_at(data, table + offset) if offset else None
