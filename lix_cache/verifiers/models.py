"""A second opinion on whether a cached answer answers a query: cross-encoders read both texts at once."""

from __future__ import annotations

import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from lix_cache.checks import check_path, check_whole, given
from lix_cache.embedders.lazy_onnx import LazyOnnx
from lix_cache.embedders.process import PerProcess
from lix_cache.embedders.protocol import encodable
from lix_cache.embedders.torch_weights import weights_digest
from lix_cache.errors import ConfigError, LixCacheError, MissingExtra, VerifierError, told

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["VERIFIER_THRESHOLD", "CrossEncoderVerifier", "OnnxVerifier", "Verifier", "verified_scores"]

#: A pair that scores less does not mean the same.
VERIFIER_THRESHOLD = 0.70

#: What models call the label that says: these two mean the same.
_SAME = ("entailment", "paraphrase", "duplicate", "is_duplicate", "equivalent", "same", "similar", "yes")


@runtime_checkable
class Verifier(Protocol):
    """Says how surely two queries ask for the same answer.

    If a cache has one and it cannot answer, the lookup is a miss.
    """

    @property
    def id(self) -> str:
        """Name and version of what judges."""
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


def _checked_pairs(pairs: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    for pair in pairs:
        if not isinstance(pair, (tuple, list)) or len(pair) != 2 or not all(isinstance(t, str) for t in pair):
            raise VerifierError(f"pairs must be (query, cached query), got {type(pair).__name__}")
    return [(one, two) for one, two in pairs]


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
        both_ways: judge each pair in both orders and take the lower score; by default with
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

        checked = _checked_pairs(pairs)
        try:
            model = self._onnx.model()
        except (VerifierError, MissingExtra):
            raise
        except LixCacheError as error:
            raise VerifierError(str(error)) from error
        scores: FloatArray = np.ones(len(checked), dtype=np.float32)
        labels = self._judge(scores, [model.tokens(one, two) for one, two in checked])
        if labels > 2 if self._both_ways is None else self._both_ways:
            self._judge(scores, [model.tokens(two, one) for one, two in checked])
        return scores

    def _judge(self, scores: Any, tokens: list[Any]) -> int:
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
            scores[part] = np.minimum(scores[part], _probability(logits, self._config(), self._label))
        return labels

    def _config(self) -> dict[str, Any]:
        return self._onnx.files().configs.get("config.json", {})


def _probability(logits: Any, config: dict[str, Any], label: str | int | None) -> Any:
    """Return the probability of "the same", shape (n,), from logits of shape (n, labels)."""
    import numpy as np

    count = logits.shape[1]
    position = _position(count, config.get("id2label"), label)
    if count == 1 or config.get("problem_type") == "multi_label_classification":
        # Written with tanh, which does not overflow.
        return 0.5 * (1.0 + np.tanh(0.5 * logits[:, position]))
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers[:, position] / powers.sum(axis=1)


def _position(count: int, id2label: object, label: str | int | None) -> int:
    """Return which label means "the same"."""
    named = id2label if isinstance(id2label, dict) else {}
    names = [str(named.get(str(i), "")).casefold() for i in range(count)]
    if isinstance(label, str):
        if label.casefold() not in names:
            raise VerifierError(f"the model has no label {label!r}; its config.json names {names}")
        return names.index(label.casefold())
    if label is not None:
        if not 0 <= label < count:
            raise VerifierError(f"the model has no label {label}, but {count} labels")
        return label
    if count == 1:
        return 0
    known = [names.index(name) for name in _SAME if name in names]
    if known:
        return known[0]
    if count == 2:
        return 1
    raise VerifierError(
        f"which of the model's labels {names} means that two texts say the same? Name it: label="
    )


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

        checked = [(encodable(one), encodable(two)) for one, two in _checked_pairs(pairs)]
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
        probability: FloatArray = _probability(np.asarray(logits)[:, None], {}, None).astype(np.float32)
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
