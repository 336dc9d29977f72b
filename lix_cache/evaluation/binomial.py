"""Exact limits of a proportion. Pure.

k of n were wrong: how large may the true proportion be? Clopper and Pearson (Biometrika 26,
1934) answer it exactly, by the binomial distribution itself: the limit is the proportion at
which k or fewer would have been seen with probability ``1 - confidence``. That is a quantile of
the beta distribution, found here by bisection on its distribution function, which is summed as
a continued fraction (DLMF 8.17.22, by the modified Lentz method).
"""

from __future__ import annotations

import math

from lix_cache.checks import given
from lix_cache.errors import InvalidInput

__all__ = ["clopper_pearson", "hits_needed", "lower_limit", "upper_limit"]

_TINY = 1e-300


def upper_limit(wrong: int, total: int, confidence: float = 0.95) -> float:
    """Return the one-sided upper limit: the true proportion is below it with this confidence.

    Args:
        wrong: how many of them, 0 to ``total``.
        total: how many were looked at. Of none, nothing is known: the limit is 1.
        confidence: above 0, below 1.

    Raises:
        InvalidInput: an argument is out of range.
    """
    _check(wrong, total, confidence)
    if wrong == total:
        return 1.0
    # P(at most `wrong` of n | p) = 1 - I_p(wrong + 1, n - wrong).
    return _beta_quantile(confidence, wrong + 1, total - wrong)


def lower_limit(wrong: int, total: int, confidence: float = 0.95) -> float:
    """Return the one-sided lower limit: the true proportion is above it with this confidence."""
    _check(wrong, total, confidence)
    if wrong == 0:
        return 0.0
    return _beta_quantile(1.0 - confidence, wrong, total - wrong + 1)


def clopper_pearson(wrong: int, total: int, confidence: float = 0.95) -> tuple[float, float]:
    """Return both limits of the interval that holds the true proportion with this confidence."""
    _check(wrong, total, confidence)
    one_sided = (1.0 + confidence) / 2.0
    return lower_limit(wrong, total, one_sided), upper_limit(wrong, total, one_sided)


def hits_needed(bound: float, confidence: float = 0.95) -> int:
    """Return how many hits without a mistake prove that fewer than ``bound`` of them are wrong."""
    if not 0.0 < bound < 1.0 or not 0.0 < confidence < 1.0:
        raise InvalidInput(
            f"bound and confidence lie between 0 and 1, {given(bound)} and {given(confidence)}"
        )
    return math.ceil(math.log(1.0 - confidence) / math.log1p(-bound))


def _check(wrong: int, total: int, confidence: float) -> None:
    if not 0 <= wrong <= total:
        raise InvalidInput(f"0 <= wrong <= total is needed, {given(wrong)} of {given(total)}")
    if isinstance(confidence, bool) or not isinstance(confidence, (int, float)) or not 0 < confidence < 1:
        raise InvalidInput(f"confidence must be a number between 0 and 1, {given(confidence)}")


def _beta_quantile(probability: float, a: float, b: float) -> float:
    low, high = 0.0, 1.0
    # Halved until no number lies between: the limit is exact to the last place or two.
    while True:
        middle = (low + high) / 2.0
        if middle in (low, high):
            return middle
        if _beta_cdf(middle, a, b) < probability:
            low = middle
        else:
            high = middle


def _beta_cdf(x: float, a: float, b: float) -> float:
    """Return the regularised incomplete beta function I_x(a, b)."""
    if x <= 0.0 or x >= 1.0:
        return float(x >= 1.0)
    scale = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges fast on this side of the mean; the other side is its mirror image.
    if x < (a + 1.0) / (a + b + 2.0):
        return scale * _fraction(x, a, b) / a
    return 1.0 - scale * _fraction(1.0 - x, b, a) / b


def _fraction(x: float, a: float, b: float) -> float:
    c, d = 1.0, 1.0 / _away_from_zero(1.0 - (a + b) * x / (a + 1.0))
    result = d
    # About sqrt(max(a, b)) steps are taken.
    for m in range(1, 100_000):
        for term in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1.0 / _away_from_zero(1.0 + term * d)
            c = _away_from_zero(1.0 + term / c)
            result *= c * d
        if abs(c * d - 1.0) < 1e-15:
            break
    return result


def _away_from_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
