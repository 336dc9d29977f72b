"""Vectors in and out: checked once, at the door."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from lix_cache.checks import kind_of
from lix_cache.errors import DimensionMismatch, InvalidVector

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    FloatArray: TypeAlias = npt.NDArray[np.float32]
    VectorLike: TypeAlias = npt.ArrayLike | Sequence[float]

__all__ = ["Vector", "as_float32", "check_dimension", "pack_vector", "unpack_vector"]

_DTYPES = {0: "<f4", 1: "<f8"}
_ITEM_SIZE = {0: 4, 1: 8}
#: Every integer up to here is a float64.
_EXACT = 2.0**53 - 1


@dataclass(frozen=True)
class Vector:
    """A vector as it is stored.

    Attributes:
        kind: 0 for float32, 1 for float64.
        data: little-endian numbers.
    """

    kind: int
    data: bytes

    @property
    def dim(self) -> int:
        return len(self.data) // _ITEM_SIZE[self.kind]


def _checked(value: Any, what: str) -> npt.NDArray[Any]:

    if isinstance(value, (str, bytes, bytearray)):
        # Numpy takes it for one item without a shape.
        raise InvalidVector(
            f"{what} must be a flat sequence of numbers, got text or bytes ({type(value).__name__})"
        )
    array = _as_array(value)
    if array is None:
        # Raised out here: numpy's own error, which the text would hang on, may quote an item.
        raise InvalidVector(f"{what} must be a flat sequence of numbers, got items that make no array")
    if array.ndim == 2 and 1 in array.shape:
        # Embedding models answer one text with shape (1, dim).
        array = array.reshape(-1)
    if array.ndim == 0:
        raise InvalidVector(f"{what} must be a flat sequence of numbers, got {kind_of(value)}")
    if array.ndim != 1 or array.size == 0:
        raise InvalidVector(f"{what} must be flat and not empty, got shape {array.shape}")
    if array.dtype.kind not in "fiu":
        raise InvalidVector(f"{what} must hold real numbers, got {array.dtype}")
    return array


def _as_array(value: Any) -> npt.NDArray[Any] | None:
    import numpy as np

    try:
        return np.asarray(value)
    except (ValueError, TypeError):
        return None


def _refuse_not_finite(array: npt.NDArray[Any], what: str) -> None:
    import numpy as np

    finite = np.isfinite(array)
    if not finite.all():
        position = int(np.argmin(finite))
        raise InvalidVector(
            f"{what} of dimension {array.size} holds {array[position]} at position {position}"
        )


def as_float32(value: VectorLike, what: str = "the embedding") -> FloatArray:
    """Return a flat, finite, contiguous float32 array of shape (dim,).

    Raises:
        InvalidVector: not flat, empty, not numbers, or not finite in float32.
    """
    import numpy as np

    array = _checked(value, what)
    with np.errstate(over="ignore"):
        converted = np.ascontiguousarray(array, dtype="<f4")
    _refuse_not_finite(converted, what)
    return converted


def check_dimension(dim: int, expected: int | None, where: str) -> None:
    """Raise :class:`DimensionMismatch` unless ``dim`` is what was expected (None: anything)."""
    if expected is not None and dim != expected:
        raise DimensionMismatch(expected, dim, where)


def pack_vector(value: VectorLike) -> Vector:
    """Store a message's embedding: as float32 where that changes no number, else as float64.

    An embedding is a vector of real numbers: integers come back as floats of the same value.

    Raises:
        InvalidVector: not flat, empty, not numbers, not finite, or an integer that no float64
            is equal to.
    """
    import numpy as np

    array = _checked(value, "the embedding")
    _refuse_not_finite(array, "the embedding")
    _refuse_changed(value, array)
    with np.errstate(over="ignore"):
        single = array.astype("<f4")
        if array.dtype == np.float32 or bool(np.all(single == array)):
            return Vector(0, single.tobytes())
        double = array.astype("<f8")
    # Numbers of more than 64 bits may not fit.
    _refuse_not_finite(double, "the embedding")
    return Vector(1, double.tobytes())


def _refuse_changed(value: Any, array: npt.NDArray[Any]) -> None:
    """Refuse an embedding with an integer that no float64 is equal to."""
    import numpy as np

    if array.dtype.kind in "iu":
        with np.errstate(invalid="ignore"):
            changed = array.astype("<f8").astype(array.dtype) != array
    elif isinstance(value, (list, tuple)) and float(np.abs(array).max()) > _EXACT:
        # Integers among floats are floats already in the array.
        flat = value[0] if len(value) == 1 and isinstance(value[0], (list, tuple)) else value
        changed = np.array([isinstance(number, int) and int(float(number)) != number for number in flat])
    else:
        return
    if changed.any():
        position = int(np.argmax(changed))
        raise InvalidVector(
            f"the embedding holds an integer at position {position} that no float64 is equal to; "
            "keep it in the metadata"
        )


def unpack_vector(vector: Vector) -> list[float]:
    """Return a stored embedding as plain numbers, as JSON would have carried it."""
    return as_array(vector).tolist()  # type: ignore[no-any-return]


def as_array(vector: Vector) -> npt.NDArray[Any]:
    """Return a stored embedding as an array of shape (dim,), without copying."""
    import numpy as np

    return np.frombuffer(vector.data, dtype=_DTYPES[vector.kind])
