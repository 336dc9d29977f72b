"""Vectors from an ONNX model, by onnxruntime and tokenizers (extra ``onnx``)."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.embedders.model_files import ModelFiles, find_model_files
from lix_cache.embedders.onnx_model import OnnxModel, token_limit
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import checked_texts, unit_rows
from lix_cache.errors import ConfigError, EmbedderError, EmbedderUnavailable

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["OnnxEmbedder"]

_POOLINGS = ("mean", "cls", "max")
_BATCH = 32


@dataclass(frozen=True)
class _Plan:
    """What is known of a model from its files, before it is loaded."""

    files: ModelFiles
    id: str
    pooling: str
    max_tokens: int
    batch_size: int


class OnnxEmbedder:
    """Sentence vectors from an ONNX model on this machine's processor.

    Loaded at the first use, once in each process; used by any number of threads. (A server
    that forks workers should fork before the first use: onnxruntime, once loaded, keeps a
    forked child from ending by ``sys.exit``; ``os._exit``, which multiprocessing uses, works.)
    A model may answer token vectors, which are pooled as its ``1_Pooling/config.json`` says
    (mean by default), or sentence vectors, which are taken as they are; all are brought to
    length 1.

    A model that quantises as it runs (most files named ``int8`` or ``quantized``) scales
    its numbers by all texts of a batch: the vector of a text would depend on its
    neighbours. Such a model gets one text at a time, which on a processor is no slower;
    so the same text has the same vector wherever it stands.

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
        if pooling is not None and pooling not in _POOLINGS:
            raise ConfigError(f"pooling must be one of {', '.join(_POOLINGS)}, got {pooling!r}")
        for name, value in (("max_tokens", max_tokens), ("batch_size", batch_size), ("threads", threads)):
            if value is not None and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"{name} must be a whole number larger than 0, got {value!r}")
        self._model = os.fspath(model)
        self._where: dict[str, Any] = {
            "model_file": model_file,
            "revision": revision,
            "cache_dir": cache_dir,
            "endpoint": endpoint,
        }
        self._pooling = pooling
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._threads = threads
        self._plan = PerProcess(self._make_plan)
        self._loaded = PerProcess(self._load)

    def __repr__(self) -> str:
        return f"OnnxEmbedder({self._model!r})"

    @property
    def id(self) -> str:
        """The model's name, and a digest of its file, its tokenizer and how it is used.

        Raises:
            EmbedderError, MissingExtra: the model's files cannot be found.
        """
        return self._plan().id

    @property
    def dim(self) -> int:
        """Numbers in each vector; loads the model.

        Raises:
            EmbedderError, MissingExtra: the model cannot be loaded.
        """
        return self._loaded()[1]

    def embed(self, texts: Sequence[str]) -> FloatArray:
        """Return sentence vectors, shape (n, dim), float32, each of length 1.

        Raises:
            InvalidInput: not a sequence of strings.
            EmbedderError: the model cannot be found, loaded or run.
            MissingExtra: onnxruntime or tokenizers is not installed.
        """
        import numpy as np

        checked = checked_texts(texts)
        model, dim = self._loaded()
        vectors: FloatArray = np.empty((len(checked), dim), dtype=np.float32)
        tokens = [model.tokens(text) for text in checked]
        # Equal lengths together: less padding, so less work.
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i].ids))
        for part in _parts(order, self._plan().batch_size):
            rows = self._run(model, [tokens[i] for i in part])
            vectors[part] = unit_rows(rows, len(part), dim, repr(self))
        return vectors

    def _make_plan(self) -> _Plan:
        files = find_model_files(
            self._model, **self._where, error=EmbedderError, unavailable=EmbedderUnavailable
        )
        pooling = self._pooling or _configured_pooling(files.configs.get("1_Pooling/config.json", {}))
        max_tokens = self._max_tokens or token_limit(files)
        try:
            digest, quantises = files.digest(pooling, max_tokens)
        except OSError as error:
            raise EmbedderError(f"{self!r} cannot be read: {error}") from error
        batch_size = self._batch_size or (1 if quantises else _BATCH)
        return _Plan(files, f"onnx:{files.name}:{digest}", pooling, max_tokens, batch_size)

    def _load(self) -> tuple[OnnxModel, int]:
        plan = self._plan()
        model = OnnxModel(plan.files, plan.max_tokens, self._threads, EmbedderError)
        dim = self._run(model, [model.tokens("dimension")]).shape[-1]
        return model, int(dim)

    def _run(self, model: OnnxModel, tokens: list[Any]) -> Any:
        output, mask = model.run(tokens)
        if output.ndim == 2:
            return output
        if output.ndim == 3 and output.shape[:2] == mask.shape:
            return _pooled(output, mask, self._plan().pooling)
        raise EmbedderError(
            f"{self!r} answers with an array of shape {output.shape}; "
            "a sentence model answers (texts, numbers) or (texts, tokens, numbers)"
        )


def _parts(order: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(order), size):
        yield order[start : start + size]


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
