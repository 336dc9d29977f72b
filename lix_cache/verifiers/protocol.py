"""A second opinion on whether a cached answer answers a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from lix_cache.errors import MissingExtra, VerifierError, told

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["Verifier", "checked_pairs", "verified_scores"]


@runtime_checkable
class Verifier(Protocol):
    """Says how surely two queries ask for the same answer.

    If a cache has one and it cannot answer, the lookup is a miss.
    """

    @property
    def id(self) -> str:
        """Name and version of what scores."""
        ...

    def scores(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return an array of shape (n,), 0 (something else) to 1 (the same).

        Args:
            pairs: (query, cached query).

        Raises:
            VerifierError: it cannot answer.
            MissingExtra: it never will, because a package is not installed.
        """
        ...


def verified_scores(verifier: Verifier, pairs: Sequence[tuple[str, str]]) -> FloatArray:
    """Return a verifier's scores, shape (n,), float32, checked.

    Raises:
        VerifierError: whatever went wrong in it, or an answer that is no score for each pair.
        MissingExtra: a package it needs is not installed.
    """
    import numpy as np

    try:
        raw = verifier.scores(pairs)
    except (VerifierError, MissingExtra):
        raise
    except Exception as error:
        # Whatever it is: there is no answer.
        # Not its text, which may quote what it was asked.
        raise VerifierError(f"{verifier!r} failed: {told(error)}") from error
    try:
        scores: FloatArray = np.asarray(raw, dtype=np.float32)
    except (ValueError, TypeError) as error:
        raise VerifierError(f"{verifier!r} did not answer with numbers ({type(error).__name__})") from None
    if scores.shape != (len(pairs),):
        raise VerifierError(f"{verifier!r} answered {len(pairs)} pairs with an array of shape {scores.shape}")
    # Written so that a NaN fails too.
    if not bool(((scores >= 0) & (scores <= 1)).all()):
        raise VerifierError(f"{verifier!r} answered with scores outside 0 to 1")
    return scores


def checked_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
            raise VerifierError(f"pairs must be (query, cached query), got {type(pair).__name__}")
    return [(one, two) for one, two in pairs]
