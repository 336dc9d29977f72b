"""What a value is, as bytes, and a copy of it that no other caller holds. Pure.

Two values have the same form only if a function that receives one in place of the other cannot
tell: types are kept apart (``1``, ``1.0``, ``True`` and ``"1"``; a list and a tuple), and so are
keys by their types. The order of a dict's keys and of a set is no difference. Arrays are compared
by type, shape and bytes in C order, however they lie in memory. What has no content that could be
compared (a client, a function, an object with an address for a repr) is refused, because any form
of it would be a guess.

The form is made of the copy, so what is compared is what the copy holds, whatever happens to the
original meanwhile.
"""

from __future__ import annotations

import enum
import hashlib
from decimal import Decimal
from typing import Any

from lix_cache.errors import InvalidContext, InvalidInput, LixCacheError
from lix_cache.values.plain import encode_item

__all__ = ["digest_of", "take"]

_DEEPEST = 64
_DIGEST_BYTES = 20


def take(value: Any, where: str) -> tuple[Any, bytes]:
    """Return a copy of a value, and its form.

    Args:
        value: None, bool, int, float, complex, str, bytes, bytearray, Decimal, UUID, dates and times,
            members of an Enum, numpy arrays and scalars; lists, tuples, sets and dicts of these.
        where: what the value is, for the error.

    Raises:
        InvalidContext: it is, or holds, something else or NaN; or is nested too deeply. The numbers
            of an array are its content, so NaN among them is compared by its bytes.
    """
    parts: list[bytes] = []
    copy = _take(value, where, parts, 0)
    return copy, b"".join(parts)


def digest_of(value: Any, where: str = "a message") -> str:
    """Return 40 characters that stand for a value.

    Raises:
        InvalidContext: as :func:`take`.
    """
    return hashlib.blake2b(take(value, where)[1], digest_size=_DIGEST_BYTES).hexdigest()


def _take(value: Any, where: str, parts: list[bytes], depth: int) -> Any:
    if depth > _DEEPEST:
        raise InvalidContext(f"{where} is nested more than {_DEEPEST} levels deep, or holds itself")
    kind = type(value)
    if kind in (list, tuple):
        parts.append(b"%c%d:" % (b"l" if kind is list else b"t", len(value)))
        return kind([_take(item, where, parts, depth + 1) for item in list(value)])
    if kind is dict:
        return _of_dict(value, where, parts, depth)
    if kind in (set, frozenset):
        return kind(_in_order(list(value), where, parts, depth, b"S" if kind is set else b"Z"))
    if isinstance(value, enum.Enum):
        _sized(parts, b"E", f"{kind.__module__}.{kind.__qualname__}".encode("utf-8", "surrogatepass"))
        _take(value.value, where, parts, depth + 1)
        return value
    if _is_nan(value, kind):
        raise InvalidContext(f"{where} is, or holds, NaN, which equals nothing; pass None or a text instead")
    is_array = kind.__module__ == "numpy" and kind.__name__ == "ndarray"
    copy: Any = value.copy(order="K") if is_array else bytearray(value) if kind is bytearray else value
    try:
        if kind.__module__.partition(".")[0] in ("pandas", "polars"):
            raise InvalidInput("a table would be compared by the bytes of its columns, not by its content")
        # In C order: where an equal array lies in memory is no difference. 0 dimensions stay 0.
        content = copy.copy(order="C") if is_array and not copy.flags.c_contiguous else copy
        # Sized, so that no value's bytes can pass for the beginning of the next.
        _sized(parts, b"v", encode_item(content))
    except LixCacheError:
        raise InvalidContext(
            f"{where} is, or holds, {_name(kind)}{_why_not(value)}, which cannot be compared exactly; "
            f"{_instead(value)}"
        ) from None
    return copy


def _why_not(value: Any) -> str:
    dtype = getattr(value, "dtype", None) if type(value).__module__ == "numpy" else None
    if getattr(dtype, "names", None) is not None:
        return " of records"
    return " of objects" if getattr(dtype, "kind", "") == "O" else ""


def _instead(value: Any) -> str:
    why = _why_not(value)
    if why == " of records":
        return "pass an array for each field, as a dict of them"
    return "pass a list of plain values" if why else "pass plain values, bytes or arrays"


def _is_nan(value: Any, kind: type) -> bool:
    """Whether a single number or time equals nothing, in any of the types that have such a value."""
    if kind is Decimal:
        return bool(value.is_nan())  # a signalling one may not even be compared
    if isinstance(value, (float, complex)):
        return value != value
    # Scalars: real and complex numbers, times and spans of time.
    return (
        kind.__module__ == "numpy"
        and kind.__name__ != "ndarray"
        and (
            getattr(getattr(value, "dtype", None), "kind", "") in ("f", "c", "M", "m")
            and bool(value != value)
        )
    )


def _of_dict(value: dict[Any, Any], where: str, parts: list[bytes], depth: int) -> dict[Any, Any]:
    copies, forms = {}, []
    for key, item in list(value.items()):
        form: list[bytes] = []
        own = _take(key, where, form, depth + 1)
        copies[own] = _take(item, where, form, depth + 1)
        forms.append(b"".join(form))
    parts.append(b"d%d:" % len(forms))
    for one in sorted(forms):
        _sized(parts, b"", one)
    return copies


def _in_order(items: list[Any], where: str, parts: list[bytes], depth: int, letter: bytes) -> list[Any]:
    copies, forms = [], []
    for item in items:
        form: list[bytes] = []
        copies.append(_take(item, where, form, depth + 1))
        forms.append(b"".join(form))
    parts.append(b"%c%d:" % (letter, len(forms)))
    for one in sorted(forms):
        _sized(parts, b"", one)
    return copies


def _sized(parts: list[bytes], letter: bytes, data: bytes) -> None:
    parts.append(b"%s%d:" % (letter, len(data)))
    parts.append(data)


def _name(kind: type) -> str:
    return (
        f"a {kind.__qualname__}"
        if kind.__module__ == "builtins"
        else f"a {kind.__module__}.{kind.__qualname__}"
    )
