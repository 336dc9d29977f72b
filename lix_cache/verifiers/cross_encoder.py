"""A cross-encoder of the sentence-transformers package."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.checks import check_path, check_whole
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import encodable
from lix_cache.embedders.torch_weights import weights_digest
from lix_cache.errors import MissingExtra, VerifierError
from lix_cache.verifiers.labels import probability_of_same
from lix_cache.verifiers.protocol import checked_pairs

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["CrossEncoderVerifier"]


class CrossEncoderVerifier:
    """A ``CrossEncoder`` of the sentence-transformers package (extra ``sentence-transformers``).

    For models with one label. Loaded at the first use, once in each process; code that a
    model brings along is never run.

    Args:
        model: a folder, or a name on the Hugging Face hub.
        device: ``"cpu"``, ``"cuda"``, ...; by default the package's choice.
        batch_size: pairs in one run of the model.
        max_tokens: longer pairs are cut; by default what the model says.
        revision: branch, tag or commit on the hub.
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
        max_tokens: int | None = None,
        revision: str | None = None,
        local_files_only: bool = False,
    ) -> None:
        check_whole("batch_size", batch_size, 1)
        if max_tokens is not None:
            check_whole("max_tokens", max_tokens, 1)
        self._model = check_path("model", model)
        self._batch_size = batch_size
        self._options: dict[str, Any] = {
            "device": device,
            "max_length": max_tokens,
            "revision": revision,
            "local_files_only": local_files_only,
            "trust_remote_code": False,
        }
        self._loaded = PerProcess(self._load)

    def __repr__(self) -> str:
        return f"CrossEncoderVerifier({self._model!r})"

    @property
    def id(self) -> str:
        """The model's name and a digest of its weights; loads the model.

        Raises:
            VerifierError: the model cannot be loaded.
            MissingExtra: sentence-transformers is not installed.
        """
        return self._loaded()[2]

    def scores(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return a score for each pair, shape (n,), float32, 0 to 1.

        Raises:
            VerifierError: the model cannot be loaded or run.
            MissingExtra: sentence-transformers is not installed.
        """
        import numpy as np

        checked = [(encodable(one), encodable(two)) for one, two in checked_pairs(pairs)]
        model, lock, _ = self._loaded()
        if not checked:
            return np.empty(0, dtype=np.float32)
        try:
            with lock:
                logits = self._predict(model, checked)
        except Exception as error:
            # Whatever torch raises; its errors have no base.
            raise VerifierError(f"{self!r} failed: {error}") from error
        if np.shape(logits) != (len(checked),):
            raise VerifierError(f"{self!r} has several labels; OnnxVerifier takes such a model with label=")
        probability: FloatArray = probability_of_same(np.asarray(logits)[:, None], {}, None).astype(
            np.float32
        )
        return probability

    def _predict(self, model: Any, pairs: list[tuple[str, str]]) -> Any:
        import torch

        # The logits as they are: some models say "identity", some "sigmoid", and scores are 0 to 1.
        return model.predict(
            pairs,
            batch_size=self._batch_size,
            activation_fn=torch.nn.Identity(),
            convert_to_numpy=True,
            show_progress_bar=False,
        )

    def _load(self) -> tuple[Any, threading.Lock, str]:
        try:
            from sentence_transformers import CrossEncoder
        except ImportError:
            raise MissingExtra("sentence-transformers", "sentence-transformers", repr(self)) from None
        try:
            model = CrossEncoder(self._model, **self._options)
            digest = weights_digest(model.model)
        except Exception as error:
            # Whatever the hub, the files or torch raise.
            raise VerifierError(f"{self!r} cannot be loaded: {error}") from error
        return model, threading.Lock(), f"cross-encoder:{self._model}:{digest}"
