"""What a state is the state of: a model (fingerprint), a tenant, and tokens (a chain of blocks). Pure."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lix_cache.errors import InvalidInput

__all__ = [
    "BLOCK_TOKENS",
    "Fingerprint",
    "Ids",
    "as_ids",
    "chain_of",
    "fingerprint_of",
    "ids_bytes",
    "name_of",
    "partial_name",
    "session_name",
    "tenant_digest",
]

BLOCK_TOKENS = 256
LAYOUT = 1

#: Token ids: an array of uint32, little-endian.
Ids = np.ndarray[tuple[int], np.dtype[np.uint32]]


@dataclass(frozen=True)
class Fingerprint:
    """Everything that changes what a state means.

    Attributes:
        hex: its digest, a folder's name.
        facts: what it was made of, for people.
    """

    hex: str
    facts: Mapping[str, Any] = field(compare=False, repr=False)

    @property
    def bytes(self) -> bytes:
        return bytes.fromhex(self.hex)


def fingerprint_of(facts: Mapping[str, Any]) -> Fingerprint:
    """Return the fingerprint of a model, an engine and a setting.

    Args:
        facts: digests and settings, representable as JSON.
    """
    whole = {**facts, "layout": LAYOUT}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return Fingerprint(hashlib.sha256(text.encode()).hexdigest(), whole)


def as_ids(ids: Sequence[int] | Ids) -> Ids:
    """Return token ids as an array.

    Raises:
        InvalidInput: one of them is no token id.
    """
    try:
        given = np.asarray(ids)
        if given.size and given.dtype.kind not in "iu":
            raise TypeError  # a fraction would be cut off in silence
        wide = given.astype(np.int64)
    except (TypeError, ValueError, OverflowError):
        raise InvalidInput("token ids are integers") from None
    if wide.ndim != 1 or (wide.size and (int(wide.min()) < 0 or int(wide.max()) >= 1 << 32)):
        raise InvalidInput("token ids are a flat sequence of integers from 0 to 2³² − 1")
    return wide.astype("<u4")


def ids_bytes(ids: Ids) -> bytes:
    """Return token ids as they are hashed and stored."""
    return np.ascontiguousarray(ids, dtype="<u4").tobytes()


def tenant_digest(tenant: str) -> bytes:
    """Return the salt of a tenant. Nothing that has one salt is found with another."""
    return _digest(b"tenant", tenant.encode("utf-8", "surrogatepass"))


def chain_of(fingerprint: Fingerprint, tenant: str, ids: Ids) -> list[str]:
    """Return the names of the full blocks of a sequence; first that of the empty sequence."""
    link = _digest(b"root", fingerprint.bytes, tenant_digest(tenant))
    chain = [link.hex()]
    for start in range(0, len(ids) - BLOCK_TOKENS + 1, BLOCK_TOKENS):
        link = _digest(b"block", link, ids_bytes(ids[start : start + BLOCK_TOKENS]))
        chain.append(link.hex())
    return chain


def partial_name(link: str, ids: Ids, count: int) -> str:
    """Return the name of the state at exactly ``count`` tokens.

    Args:
        link: name of the last full block before it.
        ids: the sequence, from its first token.
        count: at most as many as there are ids.
    """
    return name_of("tail", link, ids[count // BLOCK_TOKENS * BLOCK_TOKENS : count], count)


def name_of(kind: str, parent: str, ids: Ids, count: int) -> str:
    """Return the name of a state file by what is in it.

    Args:
        kind: ``block``, ``tail`` or ``snapshot``.
        parent: name of the block before.
        ids: of the file: of a snapshot all, of others its own.
        count: tokens of the sequence up to its end.
    """
    if kind == "block":
        return _digest(b"block", bytes.fromhex(parent), ids_bytes(ids)).hex()
    own = ids[count // BLOCK_TOKENS * BLOCK_TOKENS :] if kind == "snapshot" else ids
    return f"{parent}-{count}-{_digest(b'rest', bytes.fromhex(parent), ids_bytes(own))[:16].hex()}"


def session_name(tenant: str, session: str) -> str:
    """Return the name of a session's manifest."""
    return _digest(b"session", tenant_digest(tenant), session.encode("utf-8", "surrogatepass")).hex()


def _digest(what: bytes, *parts: bytes) -> bytes:
    # The fields before the last have fixed lengths, so no two inputs are written alike.
    return hashlib.sha256(b"".join((b"lix-kv/1 ", what, b"\0", *parts))).digest()
