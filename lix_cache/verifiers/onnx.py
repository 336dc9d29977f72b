"""A cross-encoder, which reads both texts at once, from an ONNX file."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.checks import given
from lix_cache.embedders.lazy_onnx import LazyOnnx
from lix_cache.errors import ConfigError, LixCacheError, MissingExtra, VerifierError
from lix_cache.verifiers.labels import probability_of_same
from lix_cache.verifiers.protocol import checked_pairs

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["OnnxVerifier"]


class OnnxVerifier:
    """A cross-encoder from an ONNX file, by onnxruntime and tokenizers (extra ``onnx``).

    The model is one for sequence classification. With one label its logit goes through a
    sigmoid; with more the score is the softmax (or, where ``config.json`` says
    ``multi_label_classification``, the sigmoid) of the label that means "the same": the one
    given, else the one so named in ``config.json`` (``entailment``, ``paraphrase``,
    ``duplicate``, ...), else the second of two.

    Args:
        model: a folder with an ONNX file, ``tokenizer.json`` and ``config.json``, or a name
            on the Hugging Face hub.
        label: name or number of the label that means "the same".
        both_ways: score each pair in both orders and take the lower score; by default with
            three labels or more, where one text may follow from the other and not mean the same.
        model_file: which ONNX file; see :class:`lix_cache.OnnxEmbedder`.
        max_tokens: longer pairs are cut; by default what the model's files say.
        batch_size: pairs in one run; by default 32, or 1 for a model that quantises as it runs.
        threads: processor threads for one run; by default as many as there are cores.
        revision: branch, tag or commit on the hub.
        cache_dir: where downloads are kept.
        endpoint: URL of the hub, if it is another one.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        label: str | int | None = None,
        both_ways: bool | None = None,
        model_file: str | None = None,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        if label is not None and (isinstance(label, bool) or not isinstance(label, (str, int))):
            raise ConfigError(f"label must be a name or a number, {given(label)}")
        self._label = label
        self._both_ways = both_ways
        self._onnx = LazyOnnx(
            model,
            model_file=model_file,
            max_tokens=max_tokens,
            batch_size=batch_size,
            threads=threads,
            where={"revision": revision, "cache_dir": cache_dir, "endpoint": endpoint},
            error=VerifierError,
            unavailable=VerifierError,
        )

    def __repr__(self) -> str:
        return f"OnnxVerifier({self._onnx.name!r})"

    @property
    def id(self) -> str:
        """The model's name, and a digest of its files and of how it is used.

        Raises:
            VerifierError: the model's files cannot be found.
        """
        return self._onnx.id("onnx-verifier", self._label, self._both_ways, self._config())

    def scores(self, pairs: Sequence[tuple[str, str]]) -> FloatArray:
        """Return a score for each pair, shape (n,), float32, 0 to 1.

        Raises:
            VerifierError: the model cannot be found, loaded or run, or a pair is none.
            MissingExtra: onnxruntime or tokenizers is not installed.
        """
        import numpy as np

        checked = checked_pairs(pairs)
        try:
            model = self._onnx.model()
        except (VerifierError, MissingExtra):
            raise
        except LixCacheError as error:
            raise VerifierError(str(error)) from error
        scores: FloatArray = np.ones(len(checked), dtype=np.float32)
        labels = self._score(scores, [model.tokens(one, two) for one, two in checked])
        if labels > 2 if self._both_ways is None else self._both_ways:
            self._score(scores, [model.tokens(two, one) for one, two in checked])
        return scores

    def _score(self, scores: Any, tokens: list[Any]) -> int:
        """Lower the scores to what the model says, and return how many labels it has."""
        import numpy as np

        labels = 0
        for part, output, _ in self._onnx.run(tokens):
            logits = np.asarray(output, dtype=np.float64)
            logits = logits[:, None] if logits.ndim == 1 else logits
            if logits.ndim != 2 or len(logits) != len(part) or not np.isfinite(logits).all():
                raise VerifierError(
                    f"{self!r} answers with an array of shape {output.shape}, or with numbers that are not "
                    "finite; a model for sequence classification answers (pairs, labels)"
                )
            labels = logits.shape[1]
            scores[part] = np.minimum(scores[part], probability_of_same(logits, self._config(), self._label))
        return labels

    def _config(self) -> dict[str, Any]:
        return self._onnx.files().configs.get("config.json", {})
