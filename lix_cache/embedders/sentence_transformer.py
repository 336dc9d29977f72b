"""Vectors from the sentence-transformers package (extra ``sentence-transformers``)."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.checks import check_path, check_whole
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import checked_texts, encodable, unit_rows
from lix_cache.embedders.torch_weights import weights_digest
from lix_cache.errors import EmbedderError, MissingExtra

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["SentenceTransformerEmbedder"]


class SentenceTransformerEmbedder:
    """Sentence vectors from a ``SentenceTransformer``, on any device it knows.

    Loaded at the first use, once in each process. Code that a model brings along is never
    run (``trust_remote_code`` stays off).

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: ``"cpu"``, ``"cuda"``, ...; by default the package's choice.
        batch_size: texts in one run of the model.
        revision: branch, tag or commit on the hub. Pin a commit: a branch may change.
        cache_dir: where downloads are kept; the package's own place by default.
        local_files_only: never ask the hub.

    Raises:
        ConfigError: ``batch_size`` is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        device: str | None = None,
        batch_size: int = 32,
        revision: str | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        self._model = check_path("model", model)
        self._batch_size = batch_size
        self._options: dict[str, Any] = {
            "device": device,
            "revision": revision,
            "cache_folder": cache_dir,
            "local_files_only": local_files_only,
            "trust_remote_code": False,
        }
        self._loaded = PerProcess(self._load)

    def __repr__(self) -> str:
        return f"SentenceTransformerEmbedder({self._model!r})"

    @property
    def id(self) -> str:
        """The model's name and a digest of its weights; loads the model.

        Raises:
            EmbedderError, MissingExtra: the model cannot be loaded.
        """
        return self._loaded()[3]

    @property
    def dim(self) -> int:
        """Numbers in each vector; loads the model.

        Raises:
            EmbedderError, MissingExtra: the model cannot be loaded.
        """
        return self._loaded()[2]

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return sentence vectors, shape (n, dim), float32, each of length 1.

        Raises:
            InvalidInput: not a sequence of strings.
            EmbedderError: the model cannot be loaded or run.
            MissingExtra: sentence-transformers is not installed.
        """
        import numpy as np

        checked = [encodable(text) for text in checked_texts(texts)]
        model, lock, dim, _ = self._loaded()
        if not checked:
            return np.empty((0, dim), dtype=np.float32)
        # Its tokenizer is set anew for every batch, and refuses a second thread meanwhile.
        with lock:
            rows = self._encode(model, checked)
        return unit_rows(rows, len(checked), dim, repr(self))

    def _encode(self, model: Any, texts: list[str]) -> Any:
        try:
            return model.encode(
                texts, batch_size=self._batch_size, convert_to_numpy=True, show_progress_bar=False
            )
        except Exception as error:  # whatever torch raises; its errors have no base
            # Not its text, which may quote what was to be embedded.
            raise EmbedderError(
                f"{self!r} failed: {type(error).__module__}.{type(error).__qualname__}"
            ) from error

    def _load(self) -> tuple[Any, threading.Lock, int, str]:
        try:
            from sentence_transformers import SentenceTransformer
        except ImportError:
            raise MissingExtra("sentence-transformers", "sentence-transformers", repr(self)) from None
        try:
            model = SentenceTransformer(self._model, **self._options)
            digest = weights_digest(model, model.max_seq_length)
        except Exception as error:  # whatever the hub, the files or torch raise
            raise EmbedderError(f"{self!r} cannot be loaded: {error}") from error
        dim = self._encode(model, ["dimension"]).shape[1]
        name = os.path.basename(os.path.abspath(self._model)) if os.path.isdir(self._model) else self._model
        return model, threading.Lock(), int(dim), f"sentence-transformers:{name}:{digest}"
