"""The packed vectors of one scope: bytes to decision, without I/O.

The layout is that of lix_cache/hot/lua/ring/set.lua: a header of 64 bytes,
then equal slots of float64 expiry (Unix milliseconds), an 8-byte nonce, and float32 numbers
of unit length. Entry number n is in slot n minus the header's first number, modulo the number
of slots.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from lix_cache.errors import InvalidVector, RedisCommandError
from lix_cache.vectors import as_float32, check_dimension

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["ROUNDING", "Match", "best_match", "make_slot", "unit_vector"]

MAGIC = b"LXS1"
HEADER_BYTES = 64
NONCE_BYTES = 8
_SLOT_HEAD = struct.Struct("<d8s")
#: How far float32 may carry a cosine from what it is.
ROUNDING = 1e-6
#: More than rounding can make of the cosine of two unit vectors.
_FARTHEST = 1.001


@dataclass(slots=True)
class Match:
    """The nearest live entry.

    Attributes:
        number: the entry's number, under which its response is found.
        nonce: what the response must begin with; another one means that the entry was
            replaced in between.
        similarity: cosine, from -1 to 1.
    """

    number: int
    nonce: bytes
    similarity: float


def unit_vector(vector: VectorLike, what: str = "the query embedding") -> FloatArray:
    """Return a checked vector of length 1.

    Raises:
        InvalidVector: not usable, or all zeros, which is near to nothing.
    """
    import numpy as np

    if type(vector) is np.ndarray and vector.ndim == 1 and vector.dtype == np.float32:
        # Nearly every vector. One that is not usable has a length that is not.
        array = vector
        exact = array.astype(np.float64)
        length = math.sqrt(exact.dot(exact))
        if 0.0 < length < math.inf:
            return (exact / length).astype("<f4")
    array = as_float32(vector, what)
    # In float64: in float32 the squares, and the length itself, may overflow or vanish.
    exact = array.astype(np.float64)
    length = float(np.linalg.norm(exact))
    if length == 0.0:
        raise InvalidVector(f"{what} of dimension {array.size} is all zeros and has no direction")
    unit: FloatArray = (exact / length).astype("<f4")
    return unit


def make_slot(unit: FloatArray, nonce: bytes, expires_ms: float) -> bytes:
    """Return the bytes of one entry."""
    return _SLOT_HEAD.pack(expires_ms, nonce) + unit.tobytes()


def _foreign(data: bytes) -> RedisCommandError:
    return RedisCommandError(f"a semantic cache key holds {len(data)} bytes of foreign data")


@lru_cache(maxsize=256)
def _header(head: bytes) -> tuple[int, int, int, int]:
    """Return dimension, slots, the number that the next entry will get, and that of the first slot."""
    try:
        if len(head) < HEADER_BYTES or head[:4] != MAGIC:
            raise ValueError
        dim, slots, following, first = (int(head[a:b]) for a, b in ((4, 14), (14, 24), (24, 44), (44, 64)))
        if min(dim, slots, following) < 1 or not 0 <= first < following:
            raise ValueError
    except ValueError:
        raise _foreign(head) from None
    return dim, slots, following, first


def best_match(data: bytes, query: FloatArray, now_ms: float, least: float = -2.0) -> Match | None:
    """Return the live entry nearest to the query, or None if there is none.

    Of several that are equally near, the newest.

    Args:
        data: the packed vectors.
        query: shape (dim,), unit length.
        now_ms: entries that expire at or before this do not count.
        least: cosine similarity below which an entry does not count.

    Raises:
        DimensionMismatch: the stored vectors have another dimension.
        RedisCommandError: the key holds something else.
    """
    import numpy as np

    dim, slots, following, first = _header(data[:HEADER_BYTES])
    check_dimension(query.size, dim, "the semantic cache")
    words = 4 + dim
    count = (len(data) - HEADER_BYTES) // (4 * words)
    if not count:
        return None
    # All slots as rows of float32, of which the first four are two numbers of 8 bytes.
    rows = np.frombuffer(data, dtype="<f4", count=count * words, offset=HEADER_BYTES).reshape(count, words)
    with np.errstate(over="ignore", invalid="ignore"):
        similarity = rows[:, 4:] @ query
    # The first NaN, if there is one, counts as the largest: one look finds every slot
    # that no writer of ours can have made.
    slot = int(similarity.argmax())
    largest = float(similarity[slot])
    if not -_FARTHEST <= largest <= _FARTHEST:
        raise _foreign(data)
    if largest < least:
        return None

    def head(number: int) -> tuple[float, bytes]:
        expires_ms, nonce = _SLOT_HEAD.unpack_from(data, HEADER_BYTES + 4 * words * number)
        return expires_ms, nonce

    if head(slot)[0] <= now_ms:
        expires = np.ndarray(count, "<f8", data, HEADER_BYTES, (4 * words,))
        similarity = np.where(expires > now_ms, similarity, -2.0)
        largest = float(similarity.max())
        if largest < max(least, -_FARTHEST):
            return None
    newest = following - 1
    last = newest - first
    # What was stored last for a query is what it gets, so of several entries that are
    # equally near, up to rounding, the newest counts.
    equal = np.flatnonzero(similarity >= largest - ROUNDING).tolist()
    if len(equal) > 1:
        equal = [one for one in equal if head(one)[0] > now_ms]
        equal.sort(key=lambda one: (last - one) % slots)
    slot = equal[0]
    return Match(
        number=newest - (last - slot) % slots,
        nonce=head(slot)[1],
        similarity=min(1.0, largest),
    )
