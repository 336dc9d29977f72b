"""An evaluation counts what the cache did, mistakes included. The cache here is a dictionary."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lix_cache.evaluation.binomial import clopper_pearson
from lix_cache.evaluation.evaluate import Pair, evaluate, evaluate_pairs
from lix_cache.evaluation.questions import Question


class Found:
    def __init__(self, response: Any) -> None:
        self.is_hit = response is not None
        self.response = response
        self.similarity = 0.9 if self.is_hit else 0.0
        self.reason = "semantic" if self.is_hit else "empty"


class FirstLetterCache:
    """Answers what begins with the same letter, within a context."""

    def __init__(self) -> None:
        self.held: dict[tuple[str, str], Any] = {}

    def lookup(self, query: str, *, context: Mapping[str, Any] | None = None) -> Found:
        return Found(self.held.get((str(context), query[0])))

    def store(self, query: str, response: Any, *, context: Mapping[str, Any] | None = None) -> None:
        assert (str(context), query[0]) not in self.held
        self.held[str(context), query[0]] = response


def test_a_miss_stores_the_right_answer_and_mistakes_stay_in() -> None:
    asked = [Question("ant", "1"), Question("apple", "2"), Question("art", "1"), Question("bee", "2")]
    told: list[tuple[int, int]] = []
    run = evaluate(FirstLetterCache(), asked, progress=lambda *step: told.append(step))
    assert (run.questions, run.hits, run.wrong) == (4, 2, 1)
    assert run.reasons == {"empty": 2, "semantic": 2}
    assert (run.hit_ratio, run.false_hit_rate) == (0.5, 0.5)
    mistake = run.mistakes[0]
    assert (mistake.question, mistake.right, mistake.served) == ("apple", "2", "1")
    assert told == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_the_thresholds_are_the_exact_ones() -> None:
    run = evaluate(FirstLetterCache(), [Question(f"a{n}", "1") for n in range(30)])
    assert run.hit_interval() == clopper_pearson(29, 30)
    assert run.false_hit_interval(0.9) == clopper_pearson(0, 29, 0.9)


def test_questions_of_different_scopes_never_meet() -> None:
    run = evaluate(FirstLetterCache(), [Question("a", "1", "s"), Question("a", "1", "t"), Question("a", "1")])
    assert run.hits == 0


def test_of_no_questions_there_are_no_hits() -> None:
    run = evaluate(FirstLetterCache(), [])
    assert (run.hit_ratio, run.false_hit_rate, run.lookup_ms) == (0.0, 0.0, (0.0, 0.0, 0.0))


def test_pairs_are_evaluated_each_by_itself() -> None:
    pairs = [
        Pair("ant", "apple", True),
        Pair("ant", "bee", True),
        Pair("art", "army", False),
        Pair("cat", "dog", False),
    ]
    result = evaluate_pairs(FirstLetterCache(), pairs)
    assert (result.same, result.true_accepts, result.different, result.false_accepts) == (2, 1, 2, 1)
    assert result.true_accepts_interval() == result.false_accepts_interval() == clopper_pearson(1, 2)
    assert result.reasons == {"semantic": 2, "empty": 2}
