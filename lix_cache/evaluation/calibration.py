"""Thresholds from questions whose right answer is known, with a proof of what they do. Pure.

The questions are split in two by a hash of their words. On one half the thresholds are *fitted*: those
with the most hits of which at most a given part is wrong. On the other half, which the fit has not
seen, a few sets of thresholds that were chosen beforehand are *tried*: each is played through online,
and an exact upper limit of the true false-hit rate is worked out (Clopper and Pearson).
Those whose limit lies below the bound are proven; the one with the most hits is returned. As several
are tried, each is held to a stricter confidence, so that all statements together hold at the one that
was asked for (Bonferroni).

What it rests on: the questions to come are like these. And hits depend on earlier ones (a mistake
can repeat itself while the right answer has not come in), so the exact limit is exact for independent
trials only; the more varied the questions, the nearer these are to that.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from hashlib import blake2b
from typing import TYPE_CHECKING

from lix_cache.errors import InvalidInput
from lix_cache.evaluation.binomial import hits_needed, upper_limit
from lix_cache.evaluation.fitting import Sample, fit_thresholds
from lix_cache.evaluation.offline import ObjectTo, new_texts, play
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from lix_cache.evaluation.questions import Question
    from lix_cache.vectors import FloatArray

__all__ = ["Calibration", "CalibrationPoint", "calibrate", "calibration_curve", "halves"]

#: Parts of the bound at which thresholds are fitted, to be tried on the other half.
_TRIED = (0.1, 0.2, 0.35, 0.5)
#: Parts of the bound that the printed curve shows beside them.
_SHOWN = (0.65, 0.8, 1.0, 1.5, 2.0, 3.0)
#: The part of the bound that thresholds are fitted to while samples are taken.
_CAREFUL = 0.5
#: Rounds of playing and fitting: what the cache holds depends on the thresholds.
_ROUNDS = 2


@dataclass(frozen=True)
class CalibrationPoint:
    """What one set of thresholds did on the half that was not fitted.

    Attributes:
        thresholds: the set.
        questions: asked, each in words that had not been used before.
        hits: answered from the cache.
        wrong: of these, with another answer than the right one.
        upper: exact upper limit of the true false-hit rate, at the confidence
            asked for; for a set that was tried, at the stricter one.
        is_tried: chosen beforehand to be proven; the others are there to be looked at.
        is_proven: tried, and ``upper`` is below the bound.
    """

    thresholds: Thresholds
    questions: int
    hits: int
    wrong: int
    upper: float
    is_tried: bool = False
    is_proven: bool = False

    @property
    def hit_ratio(self) -> float:
        """Hits among the questions, 0 to 1."""
        return self.hits / self.questions if self.questions else 0.0

    @property
    def false_hit_rate(self) -> float:
        """Wrong among the hits, 0 to 1."""
        return self.wrong / self.hits if self.hits else 0.0


@dataclass(frozen=True)
class Calibration:
    """The outcome.

    Attributes:
        best: the proven set of thresholds with the most hits; None: there is no proof for any.
        points: all that was measured, strictest first.
        bound: the false-hit rate that was allowed.
        confidence: of the statement about ``best``.
        questions: how many there were, repeated texts included.
        needed: hits without any mistake that it would take to prove the bound at all.
    """

    best: CalibrationPoint | None
    points: tuple[CalibrationPoint, ...]
    bound: float
    confidence: float
    questions: int
    needed: int

    @property
    def thresholds(self) -> Thresholds | None:
        """The thresholds to use; None if none are proven."""
        return None if self.best is None else self.best.thresholds


def halves(questions: Sequence[Question]) -> tuple[list[int], list[int]]:
    """Split by a hash of the words: the places of those to fit on, and of those to try on."""
    parts: tuple[list[int], list[int]] = [], []
    for number, question in enumerate(questions):
        words = " ".join(question.text.casefold().split()).encode("utf-8", "surrogatepass")
        parts[blake2b(words, digest_size=1, person=b"lix-calibrate").digest()[0] & 1].append(number)
    return parts


def calibrate(
    questions: Sequence[Question],
    vectors: FloatArray,
    *,
    bound: float = 0.02,
    confidence: float = 0.95,
    start: Thresholds = DEFAULT_THRESHOLDS,
    guards: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Calibration:
    """Find the thresholds with the most hits of which at most ``bound`` are wrong, and prove it.

    Args:
        questions: in the order in which they were asked. Some thousands; below some hundreds
            nothing can be proven.
        vectors: theirs, shape (n, dim), of length 1.
        bound: the allowed proportion of wrong ones among the hits, such as 0.02.
        confidence: of the statement.
        start: thresholds to begin with; what is not fitted is taken from them.
        guards: whether the cache that will use the thresholds has guards.
        progress: told how many steps of how many are done.

    Raises:
        InvalidInput: vectors and questions do not match, or bound or confidence is out of range.
    """
    if len(questions) != len(vectors):
        raise InvalidInput(f"{len(questions)} questions, but {len(vectors)} vectors")
    object_to = _guards() if guards else None
    strict = 1.0 - (1.0 - confidence) / len(_TRIED)
    fresh = new_texts(questions)
    fit_on, try_on = halves(asked := [questions[number] for number in fresh])
    total = _ROUNDS + len(_TRIED) + len(_SHOWN)
    steps = iter(range(total))

    def tell() -> None:
        if progress is not None:
            progress(1 + next(steps), total)

    def part(numbers: list[int]) -> tuple[list[Question], FloatArray]:
        return [asked[n] for n in numbers], vectors[[fresh[n] for n in numbers]]

    thresholds, samples = _fitted(*part(fit_on), bound, start, object_to, tell)
    points: dict[Thresholds, CalibrationPoint] = {}
    for share in (*_TRIED, *_SHOWN):
        tried = share in _TRIED
        fitted = fit_thresholds(samples, bound * share, start, like=thresholds)
        if fitted not in points:
            sure = strict if tried else confidence
            point = _measure(*part(try_on), fitted, confidence=sure, object_to=object_to)
            points[fitted] = replace(point, is_tried=tried, is_proven=tried and point.upper < bound)
        tell()
    proven = (point for point in points.values() if point.is_proven)
    return Calibration(
        best=max(proven, key=lambda point: point.hits, default=None),
        points=tuple(sorted(points.values(), key=lambda point: -point.thresholds.score)),
        bound=bound,
        confidence=confidence,
        questions=len(questions),
        needed=hits_needed(bound, strict),
    )


def _fitted(
    questions: Sequence[Question],
    vectors: FloatArray,
    bound: float,
    start: Thresholds,
    object_to: ObjectTo | None,
    tell: Callable[[], None],
) -> tuple[Thresholds, list[Sample]]:
    """Return thresholds that fit, and what was seen under the last but one of them."""
    thresholds, samples = start, list[Sample]()
    for _ in range(_ROUNDS):
        # With fewer mistakes than are allowed.
        samples = list(_samples(questions, vectors, thresholds, object_to))
        thresholds = fit_thresholds(samples, bound * _CAREFUL, start)
        tell()
    return thresholds, samples


def _measure(
    questions: Sequence[Question],
    vectors: FloatArray,
    thresholds: Thresholds,
    *,
    confidence: float = 0.95,
    object_to: ObjectTo | None = None,
) -> CalibrationPoint:
    """Play the questions through, and count."""
    hits = wrong = 0
    for step in play(questions, vectors, thresholds, object_to=object_to):
        hits += step.is_hit
        wrong += step.is_wrong
    return CalibrationPoint(thresholds, len(questions), hits, wrong, upper_limit(wrong, hits, confidence))


def calibration_curve(
    questions: Sequence[Question],
    vectors: FloatArray,
    many: Sequence[Thresholds],
    *,
    guards: bool = True,
) -> list[CalibrationPoint]:
    """Measure several sets of thresholds on the same questions; texts used before are left out."""
    fresh = new_texts(questions)
    asked, theirs = [questions[number] for number in fresh], vectors[fresh]
    object_to = _guards() if guards else None
    return [_measure(asked, theirs, thresholds, object_to=object_to) for thresholds in many]


def _guards() -> ObjectTo:
    from lix_cache.matching.guards import check

    return check


def _samples(
    questions: Sequence[Question], vectors: FloatArray, thresholds: Thresholds, object_to: ObjectTo | None
) -> Iterator[Sample]:
    """Play the questions through, and note what the nearest entry looked like and whether it was right."""
    import numpy as np

    for step in play(questions, vectors, thresholds, object_to=object_to, ask_always=True):
        best = step.decision.best
        if best is None:
            continue
        same = step.groups == step.groups[best]
        others = step.similarities[~same]
        own = np.sort(step.similarities[same])[::-1][: thresholds.vote_cap]
        yield Sample(
            similarity=step.decision.similarity,
            other=float(others.max()) if len(others) else -math.inf,
            own=tuple(map(float, own)),
            is_right=int(step.groups[best]) == step.answer,
            is_allowed=not step.is_objected,
        )
