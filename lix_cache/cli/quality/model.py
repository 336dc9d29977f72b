"""The embedder that a user names."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from lix_cache import Embedder, HashingEmbedder, InvalidInput, OnnxEmbedder
from lix_cache.cli.quality.sets import shared_folder

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Vectors = npt.NDArray[np.float32]

__all__ = ["Remembering", "find_embedder"]

MODEL_VARIABLE = "LIX_CACHE_MODEL"
_USUAL = os.path.join("models", "all-MiniLM-L6-v2")
_AT_A_TIME = 64


def find_embedder(model: str | None) -> Embedder:
    """Return the embedder: a folder or hub name for OnnxEmbedder, or ``lexical``.

    Raises:
        InvalidInput: none was named, and the usual one is not there.
    """
    model = model or os.environ.get(MODEL_VARIABLE)
    if model == "lexical":
        return HashingEmbedder()
    if model is None:
        folder = shared_folder()
        model = os.path.join(folder, _USUAL) if folder else None
        if model is None or not os.path.isdir(model):
            raise InvalidInput(
                f"which model? Name a folder with an ONNX model, or its name on the hub, with --model "
                f"or {MODEL_VARIABLE}; 'lexical' needs none, but knows words only"
            )
    return OnnxEmbedder(model)


class Remembering:
    """An embedder that embeds a text once, however often it is asked."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self._known: dict[str, Vectors] = {}

    @property
    def id(self) -> str:
        return self._embedder.id

    @property
    def dim(self) -> int:
        return self._embedder.dim

    def embed(self, texts: Sequence[str]) -> Vectors:
        """Return vectors of length 1, shape (n, dim), float32."""
        return self.prepare(texts, lambda done, total: None)  # noqa: ARG005

    def prepare(self, texts: Sequence[str], tell: Callable[[int, int], None]) -> Vectors:
        """The same, telling how many of how many are done."""
        import numpy as np

        missing = [text for text in dict.fromkeys(texts) if text not in self._known]
        for start in range(0, len(missing), _AT_A_TIME):
            part = missing[start : start + _AT_A_TIME]
            self._known.update(zip(part, self._embedder.embed(part), strict=True))
            tell(min(start + _AT_A_TIME, len(missing)), len(missing))
        if not texts:
            return np.empty((0, self.dim), dtype=np.float32)
        return np.stack([self._known[text] for text in texts])
