"""The scope of an answer: everything that must match exactly, as one digest. Pure.

A context is a mapping of JSON-like values. Its canonical form is a sequence of bytes in
which every value says its type and its length, and a mapping's items are in the order of
their encoded keys. So neither the order of keys nor the process, nor the kind of mapping,
changes it; and no two different contexts have the same form. Different are ``1``, ``1.0``
and ``True``, ``0.0`` and ``-0.0``, ``"1"`` and ``1``, ``"x"`` and ``b"x"``, a key with
the value None and no such key, and two spellings of one Unicode text. Lists and tuples
are the same, as in JSON. Anything else (NaN included, which equals not even itself) is
refused: a scope that is only nearly right would hand an answer to the wrong user.

The digest is BLAKE2b with 160 bits (RFC 7693).
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from lix_cache.checks import kind_of
from lix_cache.errors import InvalidContext
from lix_cache.hot.keys import digest

__all__ = ["SCOPE_VERSION", "canonical", "embedder_word", "frozen", "item_digests", "merged", "scope_of"]

#: Raised when what is stored, or the form of the exact tier's text, changes its meaning.
SCOPE_VERSION = 1

_DEEPEST = 64
_WORD_BYTES = 8


def canonical(value: Any, where: str = "the context") -> bytes:
    """Return the canonical form of a JSON-like value.

    Args:
        value: None, bool, int, float, str, bytes, or lists, tuples and mappings with
            str keys of these.
        where: what the value is, for the error.

    Raises:
        InvalidContext: it holds something else, is deeper than 64 levels, or a NaN.
    """
    parts: list[bytes] = []
    _encode(value, where, parts, 0)
    return b"".join(parts)


def _encode(value: Any, where: str, parts: list[bytes], depth: int) -> None:
    if depth > _DEEPEST:
        raise InvalidContext(f"{where} is nested more than {_DEEPEST} levels deep, or holds itself")
    if isinstance(value, Mapping):
        _encode_mapping(value, where, parts, depth)
    elif isinstance(value, (list, tuple)):
        parts.append(b"l%d:" % len(value))
        for i, item in enumerate(value):
            _encode(item, f"{where}[{i}]", parts, depth + 1)
    else:
        parts.append(_scalar(value, where))


def _encode_mapping(value: Mapping[Any, Any], where: str, parts: list[bytes], depth: int) -> None:
    items = []
    for key, item in value.items():
        if not isinstance(key, str):
            raise InvalidContext(f"{where} has a key of type {type(key).__name__}; keys must be str")
        items.append((_scalar(key, where), key, item))
    parts.append(b"m%d:" % len(items))
    for encoded, key, item in sorted(items, key=lambda triple: triple[0]):
        parts.append(encoded)
        # Deeper than the items' own names, a key may be content.
        _encode(item, f"{where}[{'…' if depth else _shown(key)}]", parts, depth + 1)


def _shown(key: str) -> str:
    """Return a key for an error. Names of items are meant to be read; anything longer may be content."""
    return repr(key) if len(key) <= 40 and key.replace(".", "_").isidentifier() else "…"


def _scalar(value: Any, where: str) -> bytes:
    if value is None:
        return b"n"
    if isinstance(value, bool):
        return b"t" if value else b"f"
    if isinstance(value, str):
        data = str.encode(value, "utf-8", "surrogatepass")
        return b"s%d:" % len(data) + data
    if isinstance(value, int):
        # Hexadecimal: Python refuses to write more than some thousands of decimal digits.
        return b"i%x:" % int(value)
    if isinstance(value, float):
        if value != value:
            raise InvalidContext(f"{where} is NaN, which equals nothing; leave it out or write it as text")
        return b"d" + struct.pack("<d", value)
    if isinstance(value, bytes):
        return b"b%d:" % len(value) + value
    raise InvalidContext(
        f"{where} holds {kind_of(value)}; a context may hold None, bool, int, float, str, bytes, "
        "and lists, tuples and mappings of these: write anything else as text that identifies it"
    )


def frozen(context: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a copy of a context that cannot change, with the same canonical form.

    Raises:
        InvalidContext: see :func:`canonical`.
    """
    if not isinstance(context, Mapping):
        raise InvalidContext(f"the context must be a mapping, got {type(context).__name__}")
    canonical(context)
    return MappingProxyType({key: _frozen(value) for key, value in context.items()})


def _frozen(value: Any) -> Any:
    if isinstance(value, Mapping):
        return MappingProxyType({key: _frozen(item) for key, item in value.items()})
    return tuple(map(_frozen, value)) if isinstance(value, (list, tuple)) else value


def merged(base: Mapping[str, Any], context: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what a cache was made for together with what a call adds.

    Raises:
        InvalidContext: not a mapping, or the call says something else about a key. What
            a cache is pinned to (its tenant, say) is not to be changed by code that may
            fill in a call's context.
    """
    if context is None:
        return dict(base)
    if not isinstance(context, Mapping):
        raise InvalidContext(f"the context must be a mapping, got {type(context).__name__}")
    both = {**base, **context}
    for key in base.keys() & context.keys():
        if canonical(base[key]) != canonical(context[key]):
            raise InvalidContext(
                f"the context says something else for {_shown(key)} than the one that the cache was made "
                "with; a call may add to the cache's context, not change it"
            )
    return both


def scope_of(context: Mapping[str, Any], embedder_id: str, dim: int, version: str = "") -> str:
    """Return the digest of a scope, 27 characters, the same in every process.

    Args:
        context: everything that must match exactly.
        embedder_id: name and version of the model that makes the vectors.
        dim: how many numbers they have.
        version: whatever else makes old answers unusable, such as that of the policy.

    Raises:
        InvalidContext: see :func:`canonical`.
    """
    form = canonical(context).decode("latin-1")
    return digest("scope", str(SCOPE_VERSION), form, embedder_id, str(dim), version)


def item_digests(context: Mapping[str, Any]) -> frozenset[bytes]:
    """Return 8 bytes for each item of a context, by which all scopes that have it are found."""
    return frozenset(
        hashlib.blake2b(canonical({key: value}), digest_size=_WORD_BYTES).digest()
        for key, value in context.items()
    )


def embedder_word(name: str, dim: int) -> bytes:
    """Return 8 bytes that stand for an embedder, beside those of a context's items."""
    # Another personalisation than above: no item of a context can pass for it.
    form = canonical([name, dim])
    return hashlib.blake2b(form, digest_size=_WORD_BYTES, person=b"embedder").digest()
