"""A *lexical* embedder: it hashes words and letters, and knows nothing about meaning.

Two texts in almost the same words get almost the same vector; two that mean the same in
other words do not. It needs no model and no download: for tests, demos, and as the last
resort where no model can be had.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING

from lix_cache.checks import check_whole
from lix_cache.embedders.protocol import checked_texts

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["HashingEmbedder"]

_WORD = re.compile(r"\w+")
_LETTERS = 3
_FIRST_IDEOGRAPH = "\u2e80"
_SMALLEST, _LARGEST = 8, 65536


class HashingEmbedder:
    """Lexical vectors by signed feature hashing (Weinberger et al. 2009). Not a semantic model.

    The features are words, groups of three letters in each, and, in scripts that are
    written without spaces, single characters and pairs. Equal texts have equal vectors in
    every process and version of Python.

    Args:
        dim: numbers in each vector, 8 to 65536.

    Raises:
        ConfigError: ``dim`` is out of range.
    """

    def __init__(self, dim: int = 384) -> None:
        self._dim = check_whole("dim", dim, _SMALLEST, _LARGEST)

    def __repr__(self) -> str:
        return f"HashingEmbedder(dim={self._dim})"

    @property
    def id(self) -> str:
        """``lexical-hashing-1:`` and the dimension."""
        return f"lexical-hashing-1:{self._dim}"

    @property
    def dim(self) -> int:
        """Numbers in each vector."""
        return self._dim

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return lexical vectors, shape (n, dim), float32, each of length 1.

        A text without a letter or digit gets the same vector as the empty one.

        Raises:
            InvalidInput: not a sequence of strings.
        """
        import numpy as np

        checked = checked_texts(texts)
        sums = np.zeros((len(checked), self._dim), dtype=np.float64)
        for row, text in zip(sums, checked, strict=True):
            for feature, weight in _features(text).items():
                number = int.from_bytes(
                    blake2b(feature.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
                )
                # The sign keeps features that share a place from adding up to a likeness.
                row[(number >> 1) % self._dim] += weight if number & 1 else -weight
        lengths = np.linalg.norm(sums, axis=1, keepdims=True)
        # Nothing to go by, but a vector must point somewhere.
        sums[lengths[:, 0] == 0.0, 0] = 1.0
        lengths[lengths == 0.0] = 1.0
        unit: FloatArray = (sums / lengths).astype(np.float32)
        return unit


def _features(text: str) -> dict[str, float]:
    features: Counter[str] = Counter()
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        features[f"word {word}"] += 1
        framed = f"<{word}>"
        features.update(framed[i : i + _LETTERS] for i in range(len(framed) - _LETTERS + 1))
        # Where a character is a word, or half of one.
        ideographs = [i for i, character in enumerate(word) if character >= _FIRST_IDEOGRAPH]
        features.update(word[i] for i in ideographs)
        features.update(f"pair {word[i : i + 2]}" for i in ideographs if i + 1 < len(word))
    # A word said ten times does not say ten times as much.
    return {feature: math.sqrt(count) for feature, count in features.items()}
