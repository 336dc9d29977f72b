"""The phrase tables that ship with this package, by the index that streams carry.

An index once released means its table for ever: lines are added here, never changed.
"""

from __future__ import annotations

from typing import NamedTuple

from lix_cache.errors import CodecError
from lix_cache.huffman_codec._phrase_table import PhraseTable

__all__ = ["DEFAULT", "SHIPPED", "default_table", "find_table", "index_of"]


class Shipped(NamedTuple):
    """A table's name, which is its file's, and its number in hexadecimal."""

    id: str
    number: str


#: At most 15: index 15 says that a number follows.
SHIPPED: dict[int, Shipped] = {0: Shipped("lix-1", "46dfb801")}
#: The index of the table that is used where none is named.
DEFAULT = 0
_tables: dict[int, PhraseTable] = {}


def default_table() -> PhraseTable | None:
    """Return the table that is used where none is named."""
    return shipped_table(DEFAULT) if DEFAULT in SHIPPED else None


def shipped_table(index: int) -> PhraseTable:
    """Return the table with an index.

    Raises:
        CodecError: this version of the package has none, or its file is not the one it shipped.
    """
    table = _tables.get(index)
    if table is None:
        if index not in SHIPPED:
            raise CodecError(
                f"the stream was written with phrase table {index} of a later version of lix_cache; update it"
            )
        shipped = SHIPPED[index]
        path = f"{__file__[: -len('_registry.py')]}tables/{shipped.id}.lixt"
        try:
            table = PhraseTable.load(path)
        except OSError as error:
            raise CodecError(f"phrase table {shipped.id!r} of this package cannot be read: {error}") from None
        if table.number.hex() != shipped.number:
            raise CodecError(f"phrase table {shipped.id!r} of this package is not the one that was released")
        _tables[index] = table
    return table


def find_table(number: bytes, given: PhraseTable | None) -> PhraseTable:
    """Return the table with a number: the one given, or one that ships.

    Raises:
        CodecError: neither is it; the text says what is missing.
    """
    if given is not None and given.number == number:
        return given
    for index, shipped in SHIPPED.items():
        if shipped.number == number.hex():
            return shipped_table(index)
    but = f"; the one given is {given.id!r}, number {given.number.hex()}" if given is not None else ""
    raise CodecError(
        f"the stream was written with phrase table number {number.hex()}, which is not here: "
        f"name its file with table={but}"
    )


def index_of(table: PhraseTable) -> int | None:
    """Return the index of a table that ships, or None."""
    for index, shipped in _tables.items():
        if shipped is table or shipped.number == table.number:
            return index
    for index, entry in SHIPPED.items():
        if entry.number == table.number.hex():
            return index
    return None
