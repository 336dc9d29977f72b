"""What must hold for a decision whatever the numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from lix_cache.matching.decision import decide
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds

pytestmark = pytest.mark.promise("right-answer")

THRESHOLDS = st.builds(
    Thresholds,
    threshold=st.floats(0, 1),
    margin=st.floats(0.001, 0.5),
    floor=st.floats(-1, 1),
    score=st.floats(0, 3),
    margin_weight=st.floats(0, 4),
    vote_weight=st.floats(0, 1),
    vote_cap=st.integers(1, 12),
) | st.just(DEFAULT_THRESHOLDS)
# A hundredth apart, so that no rounding decides.
CANDIDATES = st.lists(st.tuples(st.integers(-100, 100), st.integers(0, 4)), min_size=1, max_size=30)


def decided(candidates, thresholds, **more):
    similarities = np.array([similarity / 100 for similarity, _ in candidates], dtype=np.float64)
    return decide(similarities, np.array([group for _, group in candidates]), thresholds, **more)


@given(CANDIDATES, THRESHOLDS, st.randoms(use_true_random=False))
def test_the_order_of_the_candidates_does_not_matter(candidates, thresholds, random) -> None:
    mixed = list(candidates)
    random.shuffle(mixed)
    one, other = decided(candidates, thresholds), decided(mixed, thresholds)
    assert replace(one, index=None, best=None) == replace(other, index=None, best=None)
    assert (one.index is None) == (other.index is None)
    if one.index is not None:
        assert candidates[one.index] == mixed[other.index]


@given(CANDIDATES, THRESHOLDS, st.data())
def test_a_nearer_best_match_never_turns_a_hit_into_a_miss(candidates, thresholds, data) -> None:
    before = decided(candidates, thresholds)
    assume(before.index is not None)
    similarity, group = candidates[before.index]
    nearer = data.draw(st.integers(similarity, 100))
    changed = [*candidates]
    changed[before.index] = (nearer, group)
    after = decided(changed, thresholds)
    assert after.index == before.index
    assert after.score >= before.score


@given(CANDIDATES, THRESHOLDS, st.integers(-100, 100))
def test_another_answer_never_turns_a_miss_into_its_rivals_hit(candidates, thresholds, similarity) -> None:
    before = decided(candidates, thresholds)
    after = decided([*candidates, (similarity, 99)], thresholds)
    if after.index is not None and after.index < len(candidates):
        assert before.index is not None


@given(CANDIDATES, THRESHOLDS)
def test_a_disagreeing_entry_as_near_as_the_best_always_blocks(candidates, thresholds) -> None:
    nearest = max(similarity for similarity, _ in candidates)
    assert decided([*candidates, (nearest, 99)], thresholds).index is None


@given(CANDIDATES, THRESHOLDS, st.integers(0, 30))
def test_the_nearest_alone_are_never_more_generous_than_all(candidates, thresholds, count) -> None:
    ordered = sorted(candidates, key=lambda item: -item[0])
    kept = ordered[: max(1, count)]
    unseen = kept[-1][0] / 100 if len(kept) < len(ordered) else -1.0
    if decided(kept, thresholds, unseen=unseen).index is not None:
        assert decided(ordered, thresholds).index is not None


@given(CANDIDATES, THRESHOLDS)
def test_what_is_accepted_reaches_every_limit(candidates, thresholds) -> None:
    found = decided(candidates, thresholds)
    if found.index is None:
        assert found.reason in ("below_threshold", "margin", "score")
        return
    assert found.index == found.best
    assert found.similarity >= thresholds.threshold
    assert found.margin >= thresholds.margin
    assert found.score >= thresholds.score


@given(CANDIDATES, THRESHOLDS, st.floats(0, 1))
def test_stricter_thresholds_never_accept_more(candidates, thresholds, more) -> None:
    strict = replace(thresholds, score=thresholds.score + more)
    if decided(candidates, strict).index is not None:
        assert decided(candidates, thresholds).index is not None


def test_plain_cosine_is_a_special_case() -> None:
    for similarity, hit in ((0.89, False), (0.91, True)):
        found = decide(np.array([similarity, 0.905 - 0.01]), np.array([1, 2]), Thresholds(threshold=0.9))
        assert (found.index is not None) == hit
        assert found.similarity == pytest.approx(max(similarity, 0.895))


@given(CANDIDATES, THRESHOLDS, st.data())
def test_who_is_gone_has_no_say(candidates, thresholds, data) -> None:
    is_gone = data.draw(st.lists(st.booleans(), min_size=len(candidates), max_size=len(candidates)))
    answers = np.eye(5, dtype=np.float32)[[group for _, group in candidates]]
    living = [row for row, gone in enumerate(is_gone) if not gone]
    similarities = np.array([s / 100 for s, _ in candidates], dtype=np.float64)
    groups = np.array([group + 10 * row * (row % 2) for row, (_, group) in enumerate(candidates)])
    query = np.full(5, 0.4, dtype=np.float32)

    def decide_among(similarities, rows):
        return decide(similarities, groups[rows], thresholds, answers=answers[rows], query=query)

    alone = decide_among(similarities[living], living)
    among = decide_among(np.where(is_gone, -np.inf, similarities), list(range(len(candidates))))
    assert replace(among, index=None, best=None) == replace(alone, index=None, best=None)
    assert (among.best, among.index) == tuple(
        None if at is None else living[at] for at in (alone.best, alone.index)
    )
