"""What can be compared by content, and what that takes. Pure."""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import itertools
import types
import uuid
from typing import Any

from lix_cache.errors import InvalidInput
from lix_cache.values.identity import digest_of

__all__ = ["content", "cost_of"]

#: Letters or bytes that cost as much as a value.
_PAGE = 4096
_SAMPLE = 8
_PLAIN = (
    type(None), bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset,
    enum.Enum, decimal.Decimal, uuid.UUID, datetime.date, datetime.time, datetime.timedelta,
)  # fmt: skip


def content(value: Any) -> str | None:
    """Return a digest of what can be compared, None of anything else."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind = type(value)
        fields = {
            field.name: content(getattr(value, field.name, None)) for field in dataclasses.fields(value)
        }
        whole = [kind.__module__, kind.__qualname__, fields]
        return None if None in fields.values() else digest_of(whole)
    if type(value) is types.SimpleNamespace:
        return content(["a namespace", vars(value)])
    try:
        return digest_of(value, "")
    except InvalidInput:
        return None


def cost_of(value: Any, most: int) -> int | None:
    """Return how many values it takes to compare one: 0 if it cannot be, None if more than so many."""
    cost, todo = 0, [value]
    while todo:
        one = todo.pop()
        kind = type(one)
        cost += 1 + _bytes_of(one) // _PAGE
        if kind in (list, tuple, dict, set, frozenset):
            parts = (one, one.values()) if kind is dict else (one,)
            try:
                if len(one) > most - cost:
                    # Many objects count by name, as one does.
                    some = [item for part in parts for item in itertools.islice(part, _SAMPLE)]
                    return None if all(map(_is_plain, some)) else 0
                for part in parts:
                    todo += part
            except RuntimeError:  # another thread changes it
                return None
        elif not _is_plain(one):
            return 0
        elif kind is types.SimpleNamespace:
            todo += vars(one).values()
        elif dataclasses.is_dataclass(one):
            todo += [getattr(one, field.name, None) for field in dataclasses.fields(one)]
        if cost > most:
            return None
    return cost


def _bytes_of(value: Any) -> int:
    if isinstance(value, (str, bytes, bytearray)):
        return len(value)
    if isinstance(value, int):
        return value.bit_length() // 8
    return int(getattr(value, "nbytes", 0)) if type(value).__module__ == "numpy" else 0


def _is_plain(value: Any) -> bool:
    kind = type(value)
    is_data = dataclasses.is_dataclass(value) and not isinstance(value, type)
    return is_data or kind.__module__ == "numpy" or isinstance(value, (*_PLAIN, types.SimpleNamespace))
