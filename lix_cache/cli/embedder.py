"""A *lexical* embedder for the demo: it hashes words and letters. It knows nothing about meaning.

It stands in for a real model so that the demo needs none: two questions in almost the
same words get almost the same vector, two that mean the same in other words do not.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from hashlib import blake2b
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

__all__ = ["DIMENSION", "NAME", "embed"]

NAME = "lix-cache-demo-lexical-1"
DIMENSION = 384

_WORD = re.compile(r"\w+")
_LETTERS = 3
_FIRST_IDEOGRAPH = "\u2e80"


def embed(text: str) -> npt.NDArray[np.float32]:
    """Return a vector of length 1, shape (384,), float32."""
    sums = np.zeros(DIMENSION, dtype=np.float64)
    for feature, weight in _features(text).items():
        number = int.from_bytes(
            blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
        )
        # The sign keeps features that share a place from adding up to a likeness.
        sums[(number >> 1) % DIMENSION] += weight if number & 1 else -weight
    length = float(np.linalg.norm(sums))
    if length == 0.0:
        # Nothing to go by, but a vector must point somewhere.
        sums[0] = length = 1.0
    vector: npt.NDArray[np.float32] = (sums / length).astype(np.float32)
    return vector


def _features(text: str) -> dict[str, float]:
    """Count words and groups of three letters, and the characters of scripts without spaces."""
    features: Counter[str] = Counter()
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        features[f"word {word}"] += 1
        framed = f"<{word}>"
        features.update(framed[i : i + _LETTERS] for i in range(len(framed) - _LETTERS + 1))
        # Where a character is a word, or half of one.
        features.update(character for character in word if character >= _FIRST_IDEOGRAPH)
    # Long words say more, but a word said ten times does not say ten times as much.
    return {feature: float(np.sqrt(count)) for feature, count in features.items()}
