"""The embedder and the verifier on the sentence-transformers package, with real, tiny, random models."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import ConfigError, EmbedderError, InvalidInput, SentenceTransformerEmbedder, VerifierError
from lix_cache.verifiers.cross_encoder import CrossEncoderVerifier
from lix_cache.verifiers.protocol import verified_scores
from tests.support.models import WORDS

pytestmark = pytest.mark.filterwarnings("ignore")

package = pytest.importorskip(
    "sentence_transformers", reason="the extra sentence-transformers is not installed"
)


def write_bert(folder: Path, *, labels: int = 0, seed: int = 0) -> None:
    """Write a tiny BERT with random weights as transformers saves it."""
    import torch
    import transformers

    torch.manual_seed(seed)
    folder.mkdir(parents=True)
    (folder / "vocab.txt").write_text("\n".join([*WORDS, "[MASK]"]), "utf-8")
    sizes = {
        "vocab_size": len(WORDS) + 1,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    }
    if labels:
        config = transformers.BertConfig(**sizes, num_labels=labels)
        transformers.BertForSequenceClassification(config).save_pretrained(folder)
    else:
        transformers.BertModel(transformers.BertConfig(**sizes)).save_pretrained(folder)
    transformers.BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(folder)


def embedder(folder: Path, **options: Any) -> SentenceTransformerEmbedder:
    return SentenceTransformerEmbedder(folder, device="cpu", local_files_only=True, **options)


TEXTS = ["red", "green blue one", "", "red", "\ud800 two"]


def test_the_packages_vectors_are_returned_with_length_one(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert")
    made = embedder(tmp_path / "bert", batch_size=2)
    vectors = made.embed(TEXTS)
    assert (vectors.shape, vectors.dtype, made.dim) == ((5, 16), np.float32, 16)
    plain = package.SentenceTransformer(str(tmp_path / "bert"), device="cpu")
    expected = plain.encode(["red", "green blue one", ""], normalize_embeddings=True)
    assert vectors[:3] == pytest.approx(expected, abs=1e-5)
    assert made.embed([]).shape == (0, 16)
    with pytest.raises(InvalidInput):
        made.embed("red")


def test_the_id_is_that_of_the_weights(tmp_path: Path) -> None:
    write_bert(tmp_path / "a" / "bert")
    write_bert(tmp_path / "b" / "bert", seed=1)
    one = embedder(tmp_path / "a" / "bert").id
    assert one.startswith("sentence-transformers:bert:")
    assert embedder(tmp_path / "a" / "bert").id == one
    assert embedder(tmp_path / "b" / "bert").id != one


def test_threads_share_a_model(tmp_path: Path) -> None:
    write_bert(tmp_path / "bert")
    made = embedder(tmp_path / "bert")
    expected = made.embed(TEXTS)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(made.embed(TEXTS))) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 6
    assert all(np.allclose(result, expected, atol=1e-6) for result in results)


def test_a_model_that_cannot_be_loaded_or_run_is_an_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(EmbedderError, match="cannot be loaded"):
        embedder(tmp_path / "empty").id  # noqa: B018
    with pytest.raises(VerifierError, match="cannot be loaded"):
        CrossEncoderVerifier(tmp_path / "empty", local_files_only=True).scores([("a", "b")])
    with pytest.raises(ConfigError, match="batch_size"):
        embedder(tmp_path, batch_size=0)
    write_bert(tmp_path / "bert")
    made = embedder(tmp_path / "bert")
    assert made.dim == 16

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(package.SentenceTransformer, "encode", fail)
    with pytest.raises(EmbedderError, match="out of memory"):
        made.embed(["red"])


def test_a_cross_encoder_scores_pairs_from_zero_to_one(tmp_path: Path) -> None:
    write_bert(tmp_path / "ce", labels=1)
    verifier = CrossEncoderVerifier(tmp_path / "ce", device="cpu", local_files_only=True)
    pairs = [("red", "green"), ("one two", "one two"), ("", "blue")]
    scores = verified_scores(verifier, pairs)
    assert (scores.shape, scores.dtype) == ((3,), np.float32)
    plain = package.CrossEncoder(str(tmp_path / "ce"), device="cpu")
    assert scores == pytest.approx(plain.predict(pairs), abs=1e-5)
    assert verifier.id.startswith("cross-encoder:")
    assert verifier.scores([]).shape == (0,)
    assert repr(verifier) == f"CrossEncoderVerifier({str(tmp_path / 'ce')!r})"


def test_a_cross_encoder_that_fails_or_has_several_labels_is_no_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_bert(tmp_path / "ce", labels=3)
    verifier = CrossEncoderVerifier(tmp_path / "ce", device="cpu", local_files_only=True)
    with pytest.raises(VerifierError, match="OnnxVerifier takes such a model"):
        verifier.scores([("red", "green")])

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("out of memory")

    monkeypatch.setattr(package.CrossEncoder, "predict", fail)
    with pytest.raises(VerifierError, match="out of memory"):
        verifier.scores([("red", "green")])
