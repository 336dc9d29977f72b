"""The packed vectors of one scope: bytes to decision, without I/O.

The layout is that of ``SEMANTIC_SET`` in lix_cache/hot/scripts.py: a header of 64 bytes,
then equal slots of float64 expiry (Unix milliseconds), an 8-byte tag, and float32 numbers
of unit length. Entry number n is in slot n modulo the number of slots.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lix_cache.errors import InvalidVector, RedisCommandError
from lix_cache.vectors import as_float32, check_dimension

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["ROUNDING", "Match", "best_match", "make_slot", "unit_vector"]

MAGIC = b"LXS1"
HEADER_BYTES = 64
TAG_BYTES = 8
_SLOT_HEAD = struct.Struct("<d8s")
#: How far float32 may carry a cosine from what it is.
ROUNDING = 1e-6
#: More than rounding can make of the cosine of two unit vectors.
_FARTHEST = 1.001


@dataclass(frozen=True)
class Match:
    """The nearest live entry.

    Attributes:
        number: the entry's number, under which its response is found.
        tag: what the response must begin with; another one means that the entry was
            replaced in between.
        similarity: cosine, from -1 to 1.
    """

    number: int
    tag: bytes
    similarity: float


def unit_vector(vector: VectorLike, what: str = "the query embedding") -> FloatArray:
    """Return a checked vector of length 1.

    Raises:
        InvalidVector: not usable, or all zeros, which is near to nothing.
    """
    import numpy as np

    array = as_float32(vector, what)
    # In float64: in float32 the squares, and the length itself, may overflow or vanish.
    exact = array.astype(np.float64)
    length = float(np.linalg.norm(exact))
    if length == 0.0:
        raise InvalidVector(f"{what} of dimension {array.size} is all zeros and has no direction")
    unit: FloatArray = (exact / length).astype("<f4")
    return unit


def make_slot(unit: FloatArray, tag: bytes, expires_ms: float) -> bytes:
    """Return the bytes of one entry."""
    return _SLOT_HEAD.pack(expires_ms, tag) + unit.tobytes()


def _foreign(data: bytes) -> RedisCommandError:
    return RedisCommandError(f"a semantic cache key holds foreign data that starts with {data[:64]!r}")


def _header(data: bytes) -> tuple[int, int, int]:
    """Return dimension, slots, and the number the next entry will get."""
    try:
        if len(data) < HEADER_BYTES or data[:4] != MAGIC:
            raise ValueError
        dim, slots, following = int(data[4:14]), int(data[14:24]), int(data[24:44])
        if min(dim, slots, following) < 1:
            raise ValueError
    except ValueError:
        raise _foreign(data) from None
    return dim, slots, following


def best_match(data: bytes, query: FloatArray, now_ms: float) -> Match | None:
    """Return the live entry nearest to the query, or None if there is none.

    Of several that are equally near, the newest.

    Args:
        data: the packed vectors.
        query: shape (dim,), unit length.
        now_ms: entries that expire at or before this do not count.

    Raises:
        DimensionMismatch: the stored vectors have another dimension.
        RedisCommandError: the key holds something else.
    """
    import numpy as np

    dim, slots, following = _header(data)
    check_dimension(query.size, dim, "the semantic cache")
    kind = np.dtype([("expires", "<f8"), ("tag", "<u8"), ("vector", "<f4", (dim,))])
    count = (len(data) - HEADER_BYTES) // kind.itemsize
    entries = np.frombuffer(data, dtype=kind, count=count, offset=HEADER_BYTES)
    alive = entries["expires"] > now_ms
    if not alive.any():
        return None
    with np.errstate(over="ignore", invalid="ignore"):
        similarity = np.where(alive, entries["vector"] @ query, -2.0)
    # The first NaN, if there is one, counts as the largest: one look finds every slot
    # that no writer of ours can have made.
    slot = int(np.argmax(similarity))
    if not -_FARTHEST <= similarity[slot] <= _FARTHEST:
        raise _foreign(data)
    newest = following - 1
    # What was stored last for a query is what it gets, so of several entries that are
    # equally near, up to rounding, the newest counts.
    slot = min(
        np.flatnonzero(similarity >= similarity[slot] - ROUNDING).tolist(),
        key=lambda equal: (newest - equal) % slots,
    )
    return Match(
        number=newest - (newest - slot) % slots,
        tag=int(entries["tag"][slot]).to_bytes(TAG_BYTES, "little"),
        similarity=min(1.0, float(similarity[slot])),
    )
