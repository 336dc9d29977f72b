"""What an embedder is, and the checks that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lix_cache.checks import kind_of
from lix_cache.errors import EmbedderError, InvalidInput

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["Embedder", "checked_texts", "encodable", "unit_rows"]


@runtime_checkable
class Embedder(Protocol):
    """Turns texts into vectors of length 1.

    Whatever has these three members is one; nothing need be inherited. One object may be
    used by several threads at once.
    """

    @property
    def id(self) -> str:
        """Name and version of what makes the vectors. Another id: vectors that never meet."""
        ...

    @property
    def dim(self) -> int:
        """Numbers in each vector."""
        ...

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return an array of shape (n, dim), float32, each row of length 1.

        Raises:
            InvalidInput: not a sequence of strings.
            EmbedderError: no vectors could be made; nothing in their place is returned.
        """
        ...


def checked_texts(texts: object) -> list[str]:
    """Return the texts as a list.

    Raises:
        InvalidInput: a single string, or something in it that is none.
    """
    if isinstance(texts, (str, bytes)) or not isinstance(texts, Sequence):
        raise InvalidInput(f"texts must be a list of str, got {kind_of(texts)}; embed([text]) for one")
    for position, text in enumerate(texts):
        if not isinstance(text, str):
            raise InvalidInput(f"text {position} of {len(texts)} must be a str, got {kind_of(text)}")
    return list(texts)


def encodable(text: str) -> str:
    """Return the text with lone surrogates, which UTF-8 does not know, replaced."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode("utf-8")


def unit_rows(rows: Any, count: int, dim: int | None, who: str) -> FloatArray:
    """Return what a model answered as float32 rows of length 1.

    Args:
        rows: what should have the shape (count, dim).
        count: texts that were asked for.
        dim: numbers that a row must have; None takes what comes.
        who: named in errors.

    Raises:
        EmbedderError: another shape, a number that is not finite, or a row without direction.
    """
    import numpy as np

    try:
        array = np.asarray(rows, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise EmbedderError(f"{who} did not answer with rows of numbers ({type(error).__name__})") from None
    if array.ndim != 2 or array.shape[0] != count or array.shape[1] < 1:
        raise EmbedderError(f"{who} answered {count} texts with an array of shape {array.shape}")
    if dim is not None and array.shape[1] != dim:
        raise EmbedderError(f"{who} answered with {array.shape[1]} numbers per text, expected {dim}")
    if not np.isfinite(array).all():
        raise EmbedderError(f"{who} answered with numbers that are not finite")
    # Scaled first: the square of a large number may not be finite.
    peaks = np.abs(array).max(axis=1, keepdims=True) if count else np.ones((0, 1))
    if not peaks.all():
        raise EmbedderError(f"{who} answered with a vector of zeros, which points nowhere")
    scaled = array / peaks
    unit: FloatArray = (scaled / np.linalg.norm(scaled, axis=1, keepdims=True)).astype(np.float32)
    return unit
