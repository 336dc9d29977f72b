"""Vectors from an ONNX model, by onnxruntime and tokenizers (extra ``onnx``)."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.checks import check_text, given
from lix_cache.embedders.lazy_onnx import LazyOnnx
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import checked_texts, unit_rows
from lix_cache.errors import ConfigError, EmbedderError, EmbedderUnavailable

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["OnnxEmbedder"]

_POOLINGS = ("mean", "cls", "max")


class OnnxEmbedder:
    """Sentence vectors from an ONNX model on this machine's processor.

    Loaded at the first use, once in each process; used by any number of threads. (A server
    that forks workers should fork before the first use: onnxruntime, once loaded, keeps a
    forked child from ending by ``sys.exit``; ``os._exit``, which multiprocessing uses, works.)
    A model may answer token vectors, which are pooled as its ``1_Pooling/config.json`` says
    (mean by default), or sentence vectors, which are taken as they are; all are brought to
    length 1.

    A model that quantises as it runs (most files named ``int8`` or ``quantized``) scales
    its numbers by all texts of a batch, so the vector of a text would depend on its
    neighbours. It gets one text at a time, which on a processor is no slower: the same
    text has the same vector wherever it stands.

    Args:
        model: a folder with an ONNX file and ``tokenizer.json``, or a name on the Hugging
            Face hub, from where what is needed is downloaded once.
        model_file: which ONNX file; by default the first there of ``int8.onnx``,
            ``model.onnx``, ``onnx/model.onnx``, ``model_int8.onnx``, ...
        pooling: ``"mean"``, ``"cls"`` or ``"max"``; by default what the model's files say.
        max_tokens: longer texts are cut; by default what the model's files say, else 512.
        batch_size: texts in one run of the model; by default 32, or 1 as said above.
        threads: processor threads for one run; by default as many as there are cores.
        revision: branch, tag or commit on the hub. Pin a commit: a branch may change.
        cache_dir: where downloads are kept; the hub library's own place by default.
        endpoint: URL of the hub, if it is another one.

    Raises:
        ConfigError: an argument is out of range.
    """

    def __init__(
        self,
        model: str | os.PathLike[str],
        *,
        model_file: str | None = None,
        pooling: str | None = None,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        threads: int | None = None,
        revision: str | None = None,
        cache_dir: str | None = None,
        endpoint: str | None = None,
    ) -> None:
        if pooling is not None and check_text("pooling", pooling) not in _POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(_POOLINGS)}, {given(pooling)}")
        self._onnx = LazyOnnx(
            model,
            model_file=model_file,
            max_tokens=max_tokens,
            batch_size=batch_size,
            threads=threads,
            where={"revision": revision, "cache_dir": cache_dir, "endpoint": endpoint},
            error=EmbedderError,
            unavailable=EmbedderUnavailable,
        )
        self._asked_pooling = pooling
        self._dim = PerProcess(self._find_dim)

    def __repr__(self) -> str:
        return f"OnnxEmbedder({self._onnx.name!r})"

    @property
    def id(self) -> str:
        """The model's name, and a digest of its file, its tokenizer and how it is used.

        Raises:
            EmbedderError, MissingExtra: the model's files cannot be found.
        """
        return self._onnx.id("onnx", self._pooling())

    @property
    def dim(self) -> int:
        """Numbers in each vector; loads the model.

        Raises:
            EmbedderError, MissingExtra: the model cannot be loaded.
        """
        return self._dim()

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return sentence vectors, shape (n, dim), float32, each of length 1.

        Raises:
            InvalidInput: not a sequence of strings.
            EmbedderError: the model cannot be found, loaded or run.
            MissingExtra: onnxruntime or tokenizers is not installed.
        """
        import numpy as np

        checked = checked_texts(texts)
        dim = self._dim()
        model = self._onnx.model()
        vectors: FloatArray = np.empty((len(checked), dim), dtype=np.float32)
        for part, output, mask in self._onnx.run([model.tokens(text) for text in checked]):
            vectors[part] = unit_rows(self._rows(output, mask), len(part), dim, repr(self))
        return vectors

    def _pooling(self) -> str:
        config = self._onnx.files().configs.get("1_Pooling/config.json", {})
        return self._asked_pooling or _configured_pooling(config)

    def _find_dim(self) -> int:
        output, mask = self._onnx.model().run([self._onnx.model().tokens("dimension")])
        return int(self._rows(output, mask).shape[-1])

    def _rows(self, output: Any, mask: Any) -> Any:
        """Return one row for each text, for either answer of a model."""
        if output.ndim == 2:
            return output
        if output.ndim == 3 and output.shape[:2] == mask.shape:
            return _pooled(output, mask, self._pooling())
        raise EmbedderError(
            f"{self!r} answers with an array of shape {output.shape}; "
            "a sentence model answers (texts, numbers) or (texts, tokens, numbers)"
        )


def _configured_pooling(config: dict[str, Any]) -> str:
    """Return what a sentence-transformers pooling configuration asks for."""
    asked = [name.removeprefix("pooling_mode_") for name, on in config.items() if on is True]
    names = {"mean_tokens": "mean", "cls_token": "cls", "max_tokens": "max"}
    asked = [name for name in asked if name != "include_prompt"]
    if not asked:
        return "mean"
    if len(asked) > 1 or asked[0] not in names:
        raise EmbedderError(
            f"the model's pooling {' + '.join(asked)} is not one of {', '.join(_POOLINGS)}; "
            "choose one with pooling="
        )
    return names[asked[0]]


def _pooled(output: Any, mask: Any, pooling: str) -> Any:
    """Return one row per text of token vectors, shape (n, tokens, dim); padding counts for nothing."""
    import numpy as np

    if pooling == "cls":
        return output[:, 0]
    there = mask[..., None].astype(bool)
    if pooling == "max":
        return np.where(there, output, -np.inf).max(axis=1)
    return np.where(there, output, 0.0).sum(axis=1) / np.maximum(there.sum(axis=1), 1)
