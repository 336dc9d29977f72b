"""Exact limits: as the tables and scipy have them."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest

from lix_cache.errors import InvalidInput
from lix_cache.evaluation.binomial import clopper_pearson, hits_needed, lower_limit, upper_limit


@pytest.mark.parametrize(
    ("wrong", "total", "confidence", "low", "high"),
    [
        # As R's binom.test prints them.
        (0, 10, 0.95, 0.0, 0.3084971),
        (3, 10, 0.95, 0.0667395, 0.6524529),
        (10, 10, 0.95, 0.6915029, 1.0),
    ],
)
def test_the_interval_is_the_published_one(
    wrong: int, total: int, confidence: float, low: float, high: float
) -> None:
    assert clopper_pearson(wrong, total, confidence) == pytest.approx((low, high), abs=5e-8)


@pytest.mark.parametrize("total", [1, 2, 17, 400, 30_000, 2_000_000])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.02, 0.5, 0.97, 1.0])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_both_limits_agree_with_scipy(total: int, share: float, confidence: float) -> None:
    beta = pytest.importorskip("scipy.stats").beta
    wrong = round(share * total)
    high = 1.0 if wrong == total else float(beta.ppf(confidence, wrong + 1, total - wrong))
    low = 0.0 if wrong == 0 else float(beta.ppf(1 - confidence, wrong, total - wrong + 1))
    assert upper_limit(wrong, total, confidence) == pytest.approx(high, rel=1e-7)
    assert lower_limit(wrong, total, confidence) == pytest.approx(low, rel=1e-7)


@pytest.mark.parametrize(("wrong", "total"), [(0, 1), (0, 150), (4, 60), (59, 60), (17, 900)])
@pytest.mark.parametrize("confidence", [0.6, 0.9, 0.99])
def test_the_limit_is_where_so_few_would_be_seen_with_the_rest_of_the_probability(
    wrong: int, total: int, confidence: float
) -> None:
    p = Fraction(upper_limit(wrong, total, confidence))
    seen = sum(math.comb(total, k) * p**k * (1 - p) ** (total - k) for k in range(wrong + 1))
    assert float(seen) == pytest.approx(1 - confidence, rel=1e-9)


def test_of_nothing_nothing_is_known() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)


def test_so_many_hits_without_a_mistake_prove_a_bound_and_one_less_does_not() -> None:
    assert hits_needed(0.02) == 149
    assert upper_limit(0, 149) < 0.02 < upper_limit(0, 148)


@pytest.mark.parametrize("arguments", [(-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0)])
def test_what_makes_no_sense_is_refused(arguments: tuple[float, ...]) -> None:
    with pytest.raises(InvalidInput):
        upper_limit(*arguments)  # type: ignore[arg-type]
    with pytest.raises(InvalidInput):
        lower_limit(*arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(("bound", "confidence"), [(0.0, 0.9), (1.0, 0.9), (0.1, 1.0)])
def test_a_bound_lies_between_0_and_1(bound: float, confidence: float) -> None:
    with pytest.raises(InvalidInput):
        hits_needed(bound, confidence)
