"""Thresholds that calibrate themselves: counts in, a threshold out. Pure.

No threshold holds everywhere: one that keeps 2 % wrong on a bank's questions gives 10 % on requests
to an assistant. But each miss is a free label: the fresh answer agrees with that of the nearest
entry, or it does not. The labels of a scope are kept as a histogram of the scores that the decision
found, and decay, so that a scope whose meaning changes is learned anew.

The chance that a hit is right is a logistic of the score, fitted to these labels under a prior:
without labels the prior stands, and a few labels move it a little. The threshold is the lowest edge of
the histogram above which the estimated false-hit rate is small enough, and never lower than the
one that was set: labels come from below it, and what lies above is known from audits alone.

The prior and the bounds were chosen offline; docs/calibration.md says on what.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from lix_cache.evaluation.binomial import clopper_pearson, lower_limit

__all__ = ["BINS", "LOWEST", "Counts", "bin_of", "threshold_for"]

LOWEST = 1.0
"""The score below which nothing is counted: no threshold is so low."""
STEP = 0.05
BINS = 24

#: Labels that halve the weight of earlier ones; audits, that of earlier audits.
HALF_LIFE = 400.0
AUDIT_HALF_LIFE = 100.0
#: Labels before the prior is left.
_FIRST = 10.0
_CENTRE = 1.1
_PRIOR = (2.21, 6.27)
_SPREAD = (1.5, 1.0)
_STEPS = 30
#: What the estimate may be above the target: the part of wrong ones among labels is above that among
#: hits, because a label comes from below the threshold.
_SLACK = 1.25
#: What is seen in no lookup still counts a little, so that empty bins have a mean.
_FAINT = 1e-3


@dataclass(frozen=True)
class Counts:
    """What is known of a scope.

    Attributes:
        right: labels by bin: the fresh answer agreed. Decayed, like all but the last two.
        wrong: labels by bin: it did not.
        seen: lookups by bin.
        recent: audits of late.
        recent_wrong: of these, hits that would have been wrong.
        audits: all audits that were drawn at the audit rate.
        audits_wrong: of these, hits that would have been wrong.
    """

    right: Mapping[int, float] = field(default_factory=dict)
    wrong: Mapping[int, float] = field(default_factory=dict)
    seen: Mapping[int, float] = field(default_factory=dict)
    recent: float = 0.0
    recent_wrong: float = 0.0
    audits: int = 0
    audits_wrong: int = 0

    def false_hit_rate(self) -> tuple[float, float]:
        """Return the exact 95 % interval of the part of hits that are wrong."""
        return clopper_pearson(self.audits_wrong, self.audits)

    def is_closed(self, target: float) -> bool:
        """Whether the audits of late prove that more hits are wrong than allowed."""
        wrong = int(self.recent_wrong + 0.5)
        total = max(wrong, int(self.recent + 0.5))
        return wrong > 1 and lower_limit(wrong, total, 0.975) > target


def bin_of(score: float) -> int | None:
    """Return the bin of a score; None if it is too low to count."""
    if score < LOWEST:
        return None
    return min(BINS - 1, int((score - LOWEST) / STEP))


def threshold_for(counts: Counts, start: float, target: float) -> float:
    """Return the least score of a hit; infinite if no hit is sure enough.

    Args:
        counts: of the scope.
        start: the threshold that was set; it is never lower.
        target: the part of hits that may be wrong.
    """
    if sum(counts.right.values()) + sum(counts.wrong.values()) < _FIRST:
        return start
    intercept, slope = _fit(counts)
    wrong_above = seen_above = 0.0
    lowest = math.inf
    for place in reversed(range(BINS)):
        seen = counts.seen.get(place, 0.0) + _FAINT
        wrong_above += seen * _sigmoid(-(intercept + slope * _middle(place)))
        seen_above += seen
        if wrong_above > _SLACK * target * seen_above:
            break
        lowest = LOWEST + STEP * place
    return max(start, lowest)


def _middle(place: int) -> float:
    return LOWEST + STEP * (place + 0.5) - _CENTRE


def _sigmoid(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x > -700.0 else 0.0


def _fit(counts: Counts) -> tuple[float, float]:
    """Return the logistic that is likeliest under the prior: Newton's method, halved where it overshoots."""
    rows = [
        (_middle(place), counts.right.get(place, 0.0), counts.wrong.get(place, 0.0)) for place in range(BINS)
    ]
    rows = [row for row in rows if row[1] + row[2] > 0.0]

    def likelihood(a: float, b: float) -> float:
        total = -sum(((x - m) / s) ** 2 for x, m, s in zip((a, b), _PRIOR, _SPREAD, strict=True)) / 2.0
        for x, right, wrong in rows:
            z = a + b * x
            # log(sigmoid(z)) and log(sigmoid(-z)), without overflow
            soft = math.log1p(math.exp(-abs(z)))
            total -= right * (soft + max(0.0, -z)) + wrong * (soft + max(0.0, z))
        return total

    a, b = _PRIOR
    best = likelihood(a, b)
    for _ in range(_STEPS):
        ga, gb = (_PRIOR[0] - a) / _SPREAD[0] ** 2, (_PRIOR[1] - b) / _SPREAD[1] ** 2
        haa, hab, hbb = 1 / _SPREAD[0] ** 2, 0.0, 1 / _SPREAD[1] ** 2
        for x, right, wrong in rows:
            p = _sigmoid(a + b * x)
            g, v = right - (right + wrong) * p, (right + wrong) * p * (1.0 - p)
            ga, gb = ga + g, gb + g * x
            haa, hab, hbb = haa + v, hab + v * x, hbb + v * x * x
        det = haa * hbb - hab * hab
        da, db = (hbb * ga - hab * gb) / det, (haa * gb - hab * ga) / det
        size = 1.0
        while size > 1e-3 and likelihood(a + size * da, b + size * db) < best:
            size /= 2.0
        a, b = a + size * da, b + size * db
        now = likelihood(a, b)
        if now - best < 1e-7:
            break
        best = now
    return a, b
