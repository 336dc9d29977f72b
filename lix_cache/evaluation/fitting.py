"""Thresholds from samples, by search over a small grid. Pure numpy.

A logistic regression of "it is right" on similarity, margin and votes gives about the same weights
where it looks at the near neighbours only, and worse ones where it looks at all: what parts right
from wrong among the far ones is of no use to a cache.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import TYPE_CHECKING, TypeAlias

from lix_cache.matching.thresholds import Thresholds

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Numbers: TypeAlias = npt.NDArray[np.float64]
    Truths: TypeAlias = npt.NDArray[np.bool_]

__all__ = ["Sample", "fit_thresholds"]

_PARTS = (0.5, 1.0, 1.5)
_AS_GOOD = 0.99
#: Of the wrong ones that are allowed among hits, the part that is among those that teach.

_MARGIN_WEIGHTS = (0.5, 1.0, 1.5, 2.0, 3.0)
_VOTE_WEIGHTS = (0.0, 0.1, 0.2, 0.3)
_MARGINS = (0.0, 0.02, 0.05, 0.08)
#: Quantiles of what was seen: a similarity means something else with every embedder.
_FLOORS = (0.25, 0.5)
_THRESHOLDS = (0.0, 0.15, 0.3, 0.45)


@dataclass(frozen=True)
class Sample:
    """The nearest entry at the moment a question was asked.

    Attributes:
        similarity: its cosine.
        other: that of the nearest entry that answers differently; -inf: there was none.
        own: cosines of the entries that answer the same, nearest first, at most as many as count as votes.
        is_right: it had the right answer.
        is_allowed: no guard objected to it.
    """

    similarity: float
    other: float
    own: tuple[float, ...]
    is_right: bool
    is_allowed: bool = True


def fit_thresholds(
    samples: Sequence[Sample], share: float, start: Thresholds, *, like: Thresholds | None = None
) -> Thresholds:
    """Return the thresholds with the most hits of which at most ``share`` are wrong, on these samples.

    Weights, floor, threshold and margin are those that do best at half, once and one and a half
    times the share together: at one of them alone, a mistake more or less would decide. Of those
    that do as well, but for a hundredth, the most careful are taken.

    Args:
        samples: what was seen.
        share: of the hits, 0 to 1.
        start: what is not looked for is taken from it.
        like: thresholds of which all is kept but the score.
    """
    if not samples:
        return start if like is None else like
    table = _Table(samples, start.vote_cap)
    if like is None:
        like = _best(table, start, share)
    return replace(like, score=table.score_for(like, share)[0])


def _best(table: _Table, start: Thresholds, share: float) -> Thresholds:
    tried = list(_candidates(table, start))
    hits = [sum(table.score_for(thresholds, share * part)[1] for part in _PARTS) for thresholds in tried]
    enough = _AS_GOOD * max(hits)
    good = [thresholds for thresholds, count in zip(tried, hits, strict=True) if count >= enough]
    return max(good, key=lambda thresholds: (thresholds.threshold, thresholds.margin, thresholds.floor))


def _candidates(table: _Table, start: Thresholds) -> Iterator[Thresholds]:
    import numpy as np

    seen = table.other[np.isfinite(table.other)]
    # Where a different answer is found, mostly: a lone entry should not have it easier than that.
    floors = np.quantile(seen, _FLOORS) if len(seen) else [start.floor]
    ahead = table.similarity[table.is_allowed & (table.similarity > table.other)]
    thresholds = np.quantile(ahead, _THRESHOLDS) if len(ahead) else [start.threshold]
    for floor, by_margin, by_vote, threshold, margin in product(
        sorted({round(float(f), 3) for f in floors}),
        _MARGIN_WEIGHTS,
        _VOTE_WEIGHTS,
        sorted({_down(float(t)) for t in thresholds}),
        _MARGINS,
    ):
        yield replace(
            start,
            threshold=max(-1.0, min(1.0, threshold)),
            margin=margin,
            floor=max(-1.0, min(1.0, floor)),
            margin_weight=by_margin,
            vote_weight=by_vote,
        )


def _down(value: float) -> float:
    return math.floor(value * 1000) / 1000


class _Table:
    """The samples as columns."""

    def __init__(self, samples: Sequence[Sample], cap: int) -> None:
        import numpy as np

        self.similarity: Numbers = np.array([s.similarity for s in samples])
        self.other: Numbers = np.array([s.other for s in samples])
        self.is_right: Truths = np.array([s.is_right for s in samples], dtype=bool)
        self.is_allowed: Truths = np.array([s.is_allowed for s in samples], dtype=bool)
        self._own = np.full((len(samples), cap), -math.inf)
        for row, sample in enumerate(samples):
            own = sample.own[:cap]
            self._own[row, : len(own)] = own
        self._ranked: dict[tuple[float, float, float], _Ranked] = {}

    def score_for(self, thresholds: Thresholds, share: float) -> tuple[float, int]:
        """Return the least score that keeps the wrong ones to their share, and the hits it allows.

        If no score does, one that none can reach is returned.
        """
        import numpy as np

        rank = self._rank(thresholds)
        passes = (rank.similarity >= thresholds.threshold) & (rank.margin >= thresholds.margin)
        score, wrong = rank.score[passes], np.cumsum(rank.is_wrong[passes])
        good = np.flatnonzero(wrong <= share * np.arange(1, len(wrong) + 1))
        if not len(good):
            most = 1.0 + thresholds.margin_weight * (1.0 - thresholds.floor)
            return _down(most + thresholds.vote_weight * math.log2(thresholds.vote_cap)) + 0.01, 0
        last = int(good[-1])
        return _down(float(score[last])), last + 1

    def _rank(self, thresholds: Thresholds) -> _Ranked:
        """Sort by score, the highest first; once for all thresholds and margins."""
        import numpy as np

        key = (thresholds.floor, thresholds.margin_weight, thresholds.vote_weight)
        if key not in self._ranked:
            competitor = np.maximum(self.other, thresholds.floor)
            votes = np.maximum(1, (self._own > competitor[:, None]).sum(axis=1))
            margin = self.similarity - competitor
            score = (
                self.similarity + thresholds.margin_weight * margin + thresholds.vote_weight * np.log2(votes)
            )
            use = np.flatnonzero(self.is_allowed & (margin >= 0))
            order = use[np.argsort(-score[use], kind="stable")]
            self._ranked[key] = _Ranked(
                score[order], self.similarity[order], margin[order], ~self.is_right[order]
            )
        return self._ranked[key]


@dataclass(frozen=True)
class _Ranked:
    score: Numbers
    similarity: Numbers
    margin: Numbers
    is_wrong: Truths
