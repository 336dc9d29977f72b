"""An embedder whose texts mean what a test says, and that makes trouble on demand."""

from __future__ import annotations

import threading
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from lix_cache import CachePolicy

__all__ = ["ANYTHING", "Meanings", "mix", "spelled"]

#: Short names for queries would count as follow-ups.
ANYTHING = CachePolicy(follow_ups=True)


def mix(dim: int = 16, **shares: float) -> np.ndarray:
    """Return a unit vector: ``mix(a=0.9, b=0.1)``. Letters are axes at right angles to each other."""
    vector = np.zeros(dim)
    for letter, share in shares.items():
        vector[ord(letter) - ord("a")] = share
    return vector / np.linalg.norm(vector)


class Meanings:
    """Texts to vectors by a table; texts that are not in it are far from everything.

    Args:
        table: text to vector.
        dim: numbers in each vector.
        name: id of the embedder.
    """

    def __init__(
        self, table: Mapping[str, Any] | None = None, *, dim: int = 16, name: str = "meanings-1"
    ) -> None:
        self.id = name
        self.dim = dim
        self.table = dict(table or {})
        #: Texts that were embedded, in order.
        self.asked: list[str] = []
        #: Raised instead of an answer.
        self.error: BaseException | None = None
        #: The answer waits for it.
        self.gate = threading.Event()
        self.gate.set()
        #: Threads that embedded.
        self.threads: list[threading.Thread] = []

    def embed(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        self.threads.append(threading.current_thread())
        self.gate.wait(60)
        if self.error is not None:
            raise self.error
        return np.array([self._one(text) for text in texts], dtype=np.float32)

    def _one(self, text: str) -> np.ndarray:
        if text in self.table:
            return np.asarray(self.table[text])
        rng = np.random.default_rng(zlib.crc32(text.encode("utf-8", "surrogatepass")))
        vector = rng.standard_normal(self.dim)
        return vector / np.linalg.norm(vector)


def spelled(value: Any) -> Any:
    """Return a value that is equal to another one's exactly if the two are the same to a context."""
    if isinstance(value, dict):
        return ("map", frozenset((key, spelled(item)) for key, item in value.items()))
    if isinstance(value, (list, tuple)):
        return ("list", tuple(spelled(item) for item in value))
    return (type(value).__name__, repr(value))
