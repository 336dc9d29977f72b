"""The decision: each limit by itself, and what it says."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from lix_cache.errors import InvalidInput
from lix_cache.matching.decision import Decision, choose, decide
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, STRICT_THRESHOLDS, Thresholds

PLAIN = Thresholds(threshold=0.9)


def numbers(*values: float) -> npt.NDArray[np.float32]:
    return np.array(values, dtype=np.float32)


def labels(*values: int) -> npt.NDArray[np.int64]:
    return np.array(values, dtype=np.int64)


def decided(
    thresholds: Thresholds, similarities: tuple[float, ...], groups: tuple[int, ...], **more: Any
) -> Decision:
    return decide(numbers(*similarities), labels(*groups), thresholds, **more)


def test_nothing_to_choose_from_is_no_hit() -> None:
    found = decided(PLAIN, (), ())
    assert (found.index, found.best, found.similarity, found.reason) == (None, None, 0.0, "empty")
    assert found.margin == math.inf


def test_a_threshold_alone_is_plain_cosine() -> None:
    assert decided(PLAIN, (0.3, 0.91, 0.909), (1, 2, 3)).index == 1
    assert decided(PLAIN, (0.3, 0.89), (1, 2)).reason == "below_threshold"
    assert decided(PLAIN, (0.3, 0.89), (1, 2)).index is None
    assert decided(PLAIN, (0.3, 0.89), (1, 2)).best == 1


def test_a_near_entry_that_answers_differently_blocks() -> None:
    thresholds = Thresholds(threshold=0.8, margin=0.05)
    found = decided(thresholds, (0.95, 0.92), (1, 2))
    assert found.reason == "margin"
    assert found.margin == pytest.approx(0.03, abs=1e-6)
    assert decided(thresholds, (0.95, 0.92), (1, 1)).index == 0
    assert decided(thresholds, (0.95, 0.89), (1, 2)).index == 0


def test_where_nothing_else_is_near_a_competitor_is_supposed() -> None:
    thresholds = Thresholds(threshold=0.5, margin=0.2, floor=0.6)
    lonely = decided(thresholds, (0.79,), (1,))
    # Over the competitor that was supposed: what was not enough is a number.
    assert (lonely.reason, lonely.margin) == ("margin", pytest.approx(0.19, abs=1e-6))
    distant = decided(thresholds, (0.79, 0.1), (1, 2))
    assert (distant.reason, distant.margin) == ("margin", pytest.approx(0.19, abs=1e-6))
    weak = decided(Thresholds(threshold=0.5, score=2.0), (0.79,), (1,))
    assert (weak.reason, weak.margin) == ("score", pytest.approx(0.79, abs=1e-6))
    assert decided(thresholds, (0.81,), (1,)).index == 0
    assert decided(thresholds, (0.81,), (1,)).margin == math.inf


def test_what_was_not_looked_at_may_stand_right_behind_the_last_one() -> None:
    thresholds = Thresholds(threshold=0.5, margin=0.1)
    assert decided(thresholds, (0.9, 0.85), (1, 1)).index == 0
    blocked = decided(thresholds, (0.9, 0.85), (1, 1), unseen=0.85)
    assert blocked.reason == "margin"
    assert blocked.margin == pytest.approx(0.05, abs=1e-6)


def test_votes_are_those_nearer_than_any_other_answer() -> None:
    found = decided(PLAIN, (0.95, 0.93, 0.80, 0.85, 0.70), (1, 1, 1, 2, 1))
    assert found.votes == 2
    assert decided(PLAIN, (0.95, 0.95), (1, 2)).votes == 1


def test_the_score_is_the_weighted_sum() -> None:
    thresholds = Thresholds(threshold=0.5, score=1.29, margin_weight=2.0, vote_weight=0.1)
    found = decided(thresholds, (0.8, 0.75, 0.6), (1, 1, 2))
    assert found.score == pytest.approx(0.8 + 2 * 0.2 + 0.1 * 1, abs=1e-6)
    assert found.index == 0
    assert decided(thresholds, (0.8, 0.55, 0.6), (1, 1, 2)).reason == "score"


def test_more_votes_than_the_cap_count_no_more() -> None:
    thresholds = Thresholds(threshold=0.0, vote_weight=1.0, vote_cap=4)
    many = decided(thresholds, (0.9,) * 50, (1,) * 50)
    assert many.score == pytest.approx(0.9 + 2.0)
    assert many.votes == 50


def test_the_default_thresholds_refuse_a_lone_entry_that_is_not_very_near() -> None:
    assert decided(DEFAULT_THRESHOLDS, (0.86,), (1,)).reason == "score"
    assert decided(DEFAULT_THRESHOLDS, (0.87,), (1,)).index == 0
    assert decided(STRICT_THRESHOLDS, (0.955,), (1,)).index is None
    assert decided(STRICT_THRESHOLDS, (0.965,), (1,)).index == 0


def test_the_similarities_are_not_changed() -> None:
    given = numbers(0.99, 0.98, 0.97)
    choose(given, labels(1, 1, 1), PLAIN, lambda row: "no" if row == 0 else None, wanted=2)
    assert given.tolist() == numbers(0.99, 0.98, 0.97).tolist()


class TestObjections:
    def test_another_paraphrase_of_the_answer_may_do(self) -> None:
        found = choose(
            numbers(0.99, 0.98, 0.2), labels(1, 1, 2), PLAIN, lambda row: "not" if row == 0 else None
        )
        assert found.rows == (1,)
        assert found.objection == "not"
        assert found.decision.index == 0

    def test_only_if_it_passes_by_its_own_numbers(self) -> None:
        found = choose(numbers(0.99, 0.85), labels(1, 1), PLAIN, lambda row: "not" if row == 0 else None)
        assert found.rows == ()
        assert found.objection == "not"

    def test_another_answer_never_steps_in(self) -> None:
        found = choose(numbers(0.99, 0.98), labels(1, 2), PLAIN, lambda row: "not" if row == 0 else None)
        assert found.rows == ()

    def test_three_are_asked_at_most(self) -> None:
        asked: list[int] = []

        def no(row: int) -> str:
            asked.append(row)
            return "no"

        assert choose(numbers(*[0.99] * 9), labels(*[1] * 9), PLAIN, no).rows == ()
        assert len(asked) == 3

    def test_no_guard_is_asked_where_the_numbers_say_no(self) -> None:
        def never(row: int) -> str:
            raise AssertionError("asked")

        assert choose(numbers(0.5), labels(1), PLAIN, never).decision.reason == "below_threshold"

    def test_as_many_as_wanted_are_named_best_first(self) -> None:
        found = choose(numbers(0.95, 0.99, 0.97, 0.96), labels(1, 1, 1, 1), PLAIN, lambda row: None, wanted=3)
        assert found.rows == (1, 2, 3)
        assert found.objection is None


class TestThresholds:
    @pytest.mark.parametrize("thresholds", [DEFAULT_THRESHOLDS, STRICT_THRESHOLDS, PLAIN])
    def test_json_gives_back_the_same(self, thresholds: Thresholds) -> None:
        text = json.dumps(thresholds.as_dict(), allow_nan=False)
        assert Thresholds.from_dict(json.loads(text)) == thresholds

    @pytest.mark.parametrize(
        ("values", "named"),
        [
            ({"threshold": 1.5}, "threshold"),
            ({"threshold": math.nan}, "threshold"),
            ({"threshold": "0.9"}, "threshold"),
            ({"threshold": True}, "threshold"),
            ({"threshold": 0.9, "margin": -0.1}, "margin"),
            ({"threshold": 0.9, "vote_cap": 0}, "vote_cap"),
            ({"threshold": 0.9, "vote_cap": 2.5}, "vote_cap"),
            ({"threshold": 0.9, "margin": None}, "margin"),
            ({"threshold": 0.9, "margni": 0.1}, "margni"),
            ({"margin": 0.1}, "threshold"),
        ],
    )
    def test_what_makes_no_sense_is_refused_by_name(self, values: dict[str, Any], named: str) -> None:
        with pytest.raises(InvalidInput, match=named):
            Thresholds.from_dict(values)

    def test_another_threshold_leaves_the_rest(self) -> None:
        assert DEFAULT_THRESHOLDS.with_threshold(None) is DEFAULT_THRESHOLDS
        changed = DEFAULT_THRESHOLDS.with_threshold(0.95)
        assert changed.threshold == 0.95
        assert changed.score == DEFAULT_THRESHOLDS.score


# -- answers that a model wrote --------------------------------------------------------------

ANSWERED = Thresholds(
    threshold=0.5, floor=0.5, score=1.25, margin_weight=1.0, answer_weight=0.15, answer_bonus=0.32
)


def unit(*values: float) -> npt.NDArray[np.float32]:
    vector = np.array([*values, 0.0], dtype=np.float32)
    vector[-1] = math.sqrt(max(0.0, 1.0 - float((vector**2).sum())))
    return vector


QUERY = np.array([0, 0, 1], np.float32)
HERE, ALIKE, ELSEWHERE, NONE = unit(0.866, 0), unit(0.86, 0.1), unit(0, 0.866), np.zeros(3, np.float32)


def compare(similarities: tuple[float, ...], answers: list[Any], groups: Any = None, **more: Any) -> Decision:
    many = len(similarities)
    # Entries far away: a cache that has grown.
    far = numbers(*similarities, *[0.1] * 300)
    own = labels(*(groups or range(many)), *range(1000, 1300))
    vectors = np.stack([*answers, *[NONE] * 300])
    return decide(far, own, ANSWERED, answers=vectors, query=QUERY, **more)


@pytest.mark.promise("right-answer")
def test_neighbours_whose_answers_agree_are_no_competitors() -> None:
    assert compare((0.85, 0.84, 0.83), [HERE, ALIKE, ALIKE]).index == 0
    assert compare((0.85, 0.84, 0.83), [HERE, ELSEWHERE, ELSEWHERE]).index is None


@pytest.mark.promise("right-answer")
def test_an_answer_without_a_vector_disagrees_with_all_that_are_not_equal() -> None:
    assert compare((0.85, 0.84, 0.83), [HERE, NONE, ALIKE]).index is None
    assert compare((0.85, 0.84, 0.6), [HERE, NONE, ALIKE], groups=(1, 1, 2)).index == 0


@pytest.mark.promise("right-answer")
def test_what_differs_from_a_response_that_recurs_disagrees_however_alike() -> None:
    same = compare((0.9, 0.7, 0.88), [HERE, HERE, ALIKE], groups=(1, 1, 2))
    assert not same.is_compared
    assert same.index is None
    assert compare((0.9, 0.7, 0.88), [HERE, HERE, ALIKE], groups=(1, 3, 2)).index == 0


def test_an_entry_without_neighbours_gets_no_bonus() -> None:
    alone = compare((0.85,), [HERE])
    company = compare((0.85, 0.55, 0.55), [HERE, ALIKE, ALIKE])
    assert company.score == pytest.approx(alone.score + 0.32, abs=1e-4)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("similarity", [0.84, 0.86, 0.87, 0.9])
@pytest.mark.parametrize("others", [(), (0.4, 0.3)])
def test_an_entry_that_stands_alone_is_decided_the_same_before_and_after_its_vector(
    similarity: float, others: tuple[float, ...]
) -> None:
    unfit = np.array([1, 0, 0], np.float32)
    before = compare((similarity, *others), [NONE, *[NONE for _ in others]])
    after = compare((similarity, *others), [unfit, *[unfit for _ in others]])
    assert (before.index, before.reason) == (after.index, after.reason)
    assert before.score == pytest.approx(after.score)


def test_a_response_that_fits_the_query_is_nearer() -> None:
    fits, does_not = np.array([0, 0, 1], np.float32), np.array([1, 0, 0], np.float32)
    found = compare((0.8, 0.8, 0.6), [does_not, fits, fits])
    assert found.best == 1
    assert found.similarity == pytest.approx(0.8)


@pytest.mark.promise("right-answer")
def test_an_entry_that_agrees_may_answer_where_a_guard_objects_to_the_first() -> None:
    vectors = np.stack([HERE, ALIKE, ELSEWHERE, *[NONE] * 300])
    near = numbers(0.95, 0.94, 0.6, *[0.1] * 300)
    own = labels(*range(303))
    chosen = choose(near, own, ANSWERED, lambda row: "no" if row == 0 else None, answers=vectors, query=QUERY)
    assert chosen.rows == (1,)
    vectors[1] = ELSEWHERE
    again = choose(near, own, ANSWERED, lambda row: "no" if row == 0 else None, answers=vectors, query=QUERY)
    assert again.rows == ()
