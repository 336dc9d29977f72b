"""The dictionaries that ship with this package, by the index that streams carry.

An index once released means its dictionary for ever: lines are added here, never changed.
"""

from __future__ import annotations

from typing import NamedTuple

from lix_cache.errors import CodecError
from lix_cache.huffman_codec._dictionary import Dictionary

__all__ = ["DEFAULT", "SHIPPED", "default_dictionary", "find_dictionary", "index_of"]


class Shipped(NamedTuple):
    """A dictionary's name, which is its file's, and its number in hexadecimal."""

    id: str
    number: str


#: At most 15: index 15 says that a number follows.
SHIPPED: dict[int, Shipped] = {0: Shipped("lix-1", "46dfb801")}
#: The index of the dictionary that is used where none is named.
DEFAULT = 0
_dictionaries: dict[int, Dictionary] = {}


def default_dictionary() -> Dictionary | None:
    """Return the dictionary that is used where none is named."""
    return shipped_dictionary(DEFAULT) if DEFAULT in SHIPPED else None


def shipped_dictionary(index: int) -> Dictionary:
    """Return the dictionary with an index.

    Raises:
        CodecError: this version of the package has none, or its file is not the one it shipped.
    """
    dictionary = _dictionaries.get(index)
    if dictionary is None:
        if index not in SHIPPED:
            raise CodecError(
                f"the stream was written with dictionary {index} of a later version of lix_cache; update it"
            )
        shipped = SHIPPED[index]
        path = f"{__file__[: -len('_registry.py')]}tables/{shipped.id}.lixt"
        try:
            dictionary = Dictionary.load(path)
        except OSError as error:
            raise CodecError(f"dictionary {shipped.id!r} of this package cannot be read: {error}") from None
        if dictionary.number.hex() != shipped.number:
            raise CodecError(f"dictionary {shipped.id!r} of this package is not the one that was released")
        _dictionaries[index] = dictionary
    return dictionary


def find_dictionary(number: bytes, given: Dictionary | None) -> Dictionary:
    """Return the dictionary with a number: the one given, or one that ships.

    Raises:
        CodecError: neither is it; the text says what is missing.
    """
    if given is not None and given.number == number:
        return given
    for index, shipped in SHIPPED.items():
        if shipped.number == number.hex():
            return shipped_dictionary(index)
    but = f"; the one given is {given.id!r}, number {given.number.hex()}" if given is not None else ""
    raise CodecError(
        f"the stream was written with dictionary number {number.hex()}, which is not here: "
        f"name its file with dictionary={but}"
    )


def index_of(dictionary: Dictionary) -> int | None:
    """Return the index of a dictionary that ships, or None."""
    for index, shipped in _dictionaries.items():
        if shipped is dictionary or shipped.number == dictionary.number:
            return index
    for index, entry in SHIPPED.items():
        if entry.number == dictionary.number.hex():
            return index
    return None
