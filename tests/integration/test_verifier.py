"""Verifiers: real ONNX cross-encoders from files, and that no answer is never a yes."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import ConfigError, LixCacheError, MissingExtra, VerifierError
from lix_cache.verifiers.cross_encoder import CrossEncoderVerifier
from lix_cache.verifiers.onnx import OnnxVerifier
from lix_cache.verifiers.protocol import Verifier, verified_scores
from tests.support.models import WORDS, write_cross_encoder, write_token_model

PAIRS = [("red", "green"), ("green", "red"), ("one two three", "blue"), ("", "two"), ("red blue", "unknown")]


@pytest.fixture(autouse=True)
def _needs_the_runtime() -> None:
    pytest.importorskip("onnxruntime")


def logits(table: Any, one: str, two: str) -> Any:
    def number(word: str) -> int:
        return WORDS.index(word) if word in WORDS else 1

    first = [2, *map(number, one.split()), 3]
    second = [*map(number, two.split()), 3]
    return table[first, 0].sum(axis=0) + table[second, 1].sum(axis=0)


def sigmoid(x: Any) -> Any:
    return 1 / (1 + np.exp(-x))


def softmax(x: Any) -> Any:
    return np.exp(x) / np.exp(x).sum()


@pytest.mark.parametrize("flat", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 32])
def test_one_label_is_a_sigmoid(tmp_path: Path, batch_size: int, flat: bool) -> None:
    table = write_cross_encoder(tmp_path, flat=flat)
    verifier = OnnxVerifier(tmp_path, batch_size=batch_size, threads=1)
    assert isinstance(verifier, Verifier)
    scores = verified_scores(verifier, PAIRS)
    assert (scores.shape, scores.dtype) == ((5,), np.float32)
    assert scores == pytest.approx([sigmoid(logits(table, *pair)[0]) for pair in PAIRS], abs=1e-6)
    # The order of the texts matters to such a model.
    assert scores[0] != pytest.approx(scores[1], abs=1e-3)
    assert verifier.scores([]).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "config", "label", "position"),
    [
        (2, None, None, 1),
        (2, {"id2label": {"0": "LABEL_0", "1": "LABEL_1"}}, None, 1),
        (2, {"id2label": {"0": "Paraphrase", "1": "other"}}, None, 0),
        (2, {"id2label": {"0": "Paraphrase", "1": "other"}}, 1, 1),
        (3, {"id2label": {"0": "contradiction", "1": "ENTAILMENT", "2": "neutral"}}, None, 1),
        (3, {"id2label": {"0": "a", "1": "b", "2": "C"}}, "c", 2),
        (3, None, 0, 0),
    ],
)
def test_of_several_labels_the_one_that_means_the_same_is_taken(
    tmp_path: Path, labels: int, config: dict[str, Any] | None, label: str | int | None, position: int
) -> None:
    table = write_cross_encoder(tmp_path, labels=labels, config=config)
    scores = OnnxVerifier(tmp_path, label=label, both_ways=False).scores(PAIRS)
    expected = [softmax(logits(table, *pair))[position] for pair in PAIRS]
    assert scores == pytest.approx(expected, abs=1e-6)


def test_labels_that_do_not_exclude_each_other_are_sigmoids(tmp_path: Path) -> None:
    table = write_cross_encoder(tmp_path, labels=2, config={"problem_type": "multi_label_classification"})
    scores = OnnxVerifier(tmp_path).scores(PAIRS)
    assert scores == pytest.approx([sigmoid(logits(table, *pair)[1]) for pair in PAIRS], abs=1e-6)


def test_where_one_text_may_follow_from_the_other_both_orders_must_agree(tmp_path: Path) -> None:
    table = write_cross_encoder(tmp_path / "nli", labels=3)

    def both(position: int) -> list[float]:
        ways = [(logits(table, a, b), logits(table, b, a)) for a, b in PAIRS]
        return [min(softmax(x)[position], softmax(y)[position]) for x, y in ways]

    assert OnnxVerifier(tmp_path / "nli", label=1).scores(PAIRS) == pytest.approx(both(1), abs=1e-6)
    write_cross_encoder(tmp_path / "one")
    one_way = OnnxVerifier(tmp_path / "one").scores(PAIRS)
    two_ways = OnnxVerifier(tmp_path / "one", both_ways=True).scores(PAIRS)
    assert two_ways[0] == two_ways[1] == min(one_way[0], one_way[1])


def test_the_id_changes_with_the_model_and_with_how_it_is_used(tmp_path: Path) -> None:
    write_cross_encoder(tmp_path / "a" / "ce", labels=2)
    write_cross_encoder(tmp_path / "b" / "ce", labels=3)
    ids = [
        OnnxVerifier(tmp_path / "a" / "ce").id,
        OnnxVerifier(tmp_path / "b" / "ce").id,
        OnnxVerifier(tmp_path / "a" / "ce", label=0).id,
        OnnxVerifier(tmp_path / "a" / "ce", both_ways=True).id,
    ]
    assert all(one.startswith("onnx-verifier:ce:") for one in ids)
    assert len(set(ids)) == 4
    assert OnnxVerifier(tmp_path / "a" / "ce").id == ids[0]


# -- no answer is never a yes --------------------------------------------------------------


def test_a_model_that_is_missing_damaged_or_of_another_kind_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(VerifierError, match="no folder"):
        OnnxVerifier(tmp_path / "none").scores(PAIRS)
    write_token_model(tmp_path / "embedder")
    with pytest.raises(VerifierError, match="sequence classification"):
        OnnxVerifier(tmp_path / "embedder").scores(PAIRS)
    write_cross_encoder(tmp_path / "three", labels=3)
    with pytest.raises(VerifierError, match="label="):
        OnnxVerifier(tmp_path / "three").scores(PAIRS)
    with pytest.raises(VerifierError, match="no label 'yes'"):
        OnnxVerifier(tmp_path / "three", label="yes").scores(PAIRS)
    with pytest.raises(VerifierError, match="no label 3, but 3"):
        OnnxVerifier(tmp_path / "three", label=3).scores(PAIRS)
    (tmp_path / "three" / "model.onnx").write_bytes(b"no model")
    with pytest.raises(VerifierError, match="onnxruntime can load"):
        OnnxVerifier(tmp_path / "three", label=0).scores(PAIRS)


@pytest.mark.parametrize("package", ["onnxruntime", "tokenizers"])
def test_a_missing_package_is_named_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    write_cross_encoder(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"lix-cache\[onnx\]"):
        OnnxVerifier(tmp_path).scores(PAIRS)


def test_the_cross_encoder_without_its_package_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sentence_transformers", None)
    with pytest.raises(MissingExtra, match=r"lix-cache\[sentence-transformers\]"):
        CrossEncoderVerifier(tmp_path).scores(PAIRS)


def test_arguments_and_pairs_are_checked(tmp_path: Path) -> None:
    write_cross_encoder(tmp_path)
    for label in (True, 1.5, ["a"]):
        with pytest.raises(ConfigError, match="label"):
            OnnxVerifier(tmp_path, label=label)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="threads"):
        OnnxVerifier(tmp_path, threads=0)
    with pytest.raises(ConfigError, match="batch_size"):
        CrossEncoderVerifier(tmp_path, batch_size=0)
    wrong: Any
    for wrong in (["ab"], [("a",)], [("a", 1)], ["a"], [None]):
        with pytest.raises(VerifierError, match="pairs"):
            OnnxVerifier(tmp_path).scores(wrong)


class Custom:
    """A verifier of the user's own."""

    id = "custom"

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    def __repr__(self) -> str:
        return "Custom()"

    def scores(self, pairs: Sequence[tuple[str, str]]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.mark.parametrize(
    "answer",
    [
        [0.9],
        [[0.9, 0.9]],
        [0.9, float("nan")],
        [0.9, 1.1],
        [-0.1, 0.5],
        ["yes", "no"],
        None,
        [[0.9], [0.9, 0.8]],
        ValueError("broken"),
        TimeoutError("too late"),
        VerifierError("its own"),
        LixCacheError("other"),
    ],
)
def test_whatever_is_no_score_for_each_pair_is_an_error(answer: Any) -> None:
    with pytest.raises(VerifierError) as caught:
        verified_scores(Custom(answer), PAIRS[:2])
    assert "Custom()" in str(caught.value) or "its own" in str(caught.value)


def test_a_verifier_of_ones_own_is_asked_as_any_other() -> None:
    scores = verified_scores(Custom([0.0, 1.0]), PAIRS[:2])
    assert (scores.tolist(), scores.dtype) == ([0.0, 1.0], np.float32)
