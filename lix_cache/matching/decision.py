"""Is the nearest entry near enough to answer? Numbers in, a decision with its reason out: no I/O.

No similarity is safe by itself: "sort ascending" and "sort descending" are closer than most
paraphrases. What tells a right neighbour from a wrong one is the company it keeps, and what that
company answers. Whether two entries agree is a matter of degree:

* equal responses form one *answer group* and agree wholly;
* a response that recurs is canonical (a label, an FAQ text, a row): whatever differs from it disagrees;
* responses that a model wrote anew for each question agree as far as their vectors say, by a logistic
  of their cosine. Where a response has no vector, it disagrees with all that are not equal.

Three numbers are looked at:

* **nearness** of the best entry: its cosine, corrected by how well its response fits the query
  (``answer_weight`` times the cosine of the two above 0.5, where neighbours' answers are known as well:
  an entry that stands alone counts as if its response had no vector);
* **margin**: how much nearer it is than its competitor, the highest nearness × (1 - agreement with the
  best entry);
* **votes**: how many entries of its answer group are nearer than that competitor.

Each has its own minimum (votes: one, the best entry itself), and they are also weighed together::

    score = nearness + margin_weight * margin + vote_weight * log2(votes) + bonus

It is the linear part of a logistic regression, with the weight of the nearness put to 1. Where
responses are canonical, votes make up for a small margin. Where they are not, there are none; but
the neighbours' answers are known, and a competitor that is left after comparing them is a weak one,
which is what the bonus stands for. It is given in proportion to the neighbours, up to two (of an
entry that stands alone nothing is known), and to the logarithm of the entries, up to 256.

A cache that holds nothing else near the query proves little: the entry that would have answered
differently may not have arrived yet. So a competitor of nearness ``floor`` is always supposed.
docs/calibration.md says what was measured, and what was tried and not kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lix_cache.matching.reasons import Reason
from lix_cache.matching.thresholds import Thresholds

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lix_cache.vectors import FloatArray

__all__ = ["ACCEPTED", "Choice", "Decision", "agreement", "choose", "decide"]

_Objection = TypeVar("_Objection")

#: Entries that agree which are held against the query, at most.
_TRIES = 3
#: The nearest entries whose answers are compared. All others count as disagreeing.
_COMPARED = 1024
#: The cosine of a query and a response that says nothing about whether the response fits.
_FITS = 0.5
#: The reason of a decision that accepts; those of one that does not are a lookup's.
ACCEPTED = "accepted"
#: Neighbours with known answers that make the neighbourhood known.
_KNOWN_AT = 2.0
#: The logarithm of the entries from which on a cache has seen what there is to see.
_GROWN = math.log(256)


@dataclass(frozen=True)
class Decision:
    """What was decided, and on what grounds.

    Attributes:
        index: the candidate that is accepted; None: none is.
        best: the nearest candidate, accepted or not; None if there was none.
        similarity: of the nearest candidate; 0.0 if there was none.
        margin: how much nearer it is than the nearest candidate that answers differently; infinite if
            there is none. Where the margin or the score was too low, it is the margin that was
            compared, if need be with the supposed competitor.
        reason: ``accepted``, or the :class:`~lix_cache.matching.reasons.Reason` of the first
            threshold that was not reached.
        votes: candidates of the same answer nearer than any other answer.
        score: the weighted sum; 0.0 if there was no candidate.
        is_compared: the best candidate's response was compared by its meaning, not by equality.
    """

    index: int | None
    best: int | None
    similarity: float
    margin: float
    reason: str
    votes: int = 0
    score: float = 0.0
    is_compared: bool = False


_EMPTY = Decision(None, None, 0.0, math.inf, Reason.EMPTY)


def agreement(cosine: FloatArray, thresholds: Thresholds) -> FloatArray:
    """Return to what degree responses of these cosines agree, 0 to 1."""
    import numpy as np

    # Of a narrow width the power would leave the range of float32.
    power = np.minimum((thresholds.agree_at - cosine) / thresholds.agree_width, 80.0)
    degrees: FloatArray = 1.0 / (1.0 + np.exp(power))
    return degrees


def decide(
    similarities: FloatArray,
    groups: npt.NDArray[np.integer[Any]],
    thresholds: Thresholds,
    *,
    unseen: float = -1.0,
    answers: FloatArray | None = None,
    query: FloatArray | None = None,
) -> Decision:
    """Decide whether the nearest candidate answers the query.

    Costs a few passes over the candidates, no sorting: some 10 µs for 50 of them.

    Args:
        similarities: cosines of the query and each candidate, shape (n,); minus infinity for what is none.
        groups: a label for each candidate, shape (n,); equal labels answer the same.
        thresholds: what a hit must reach.
        unseen: where only the nearest candidates are given, the similarity of the last of them: one
            that answers differently may stand right behind it.
        answers: vectors of the candidates' responses, shape (n, dim), all zeros where there is none.
        query: the query's vector, shape (dim,); needed with ``answers``.

    The order of the candidates does not matter, but that of equal ones decides which of them is named.
    """
    return _Scene(similarities, groups, thresholds, unseen, answers, query).decide()


class _Scene:
    """The candidates of one query, and what they answer."""

    def __init__(
        self,
        similarities: FloatArray,
        groups: npt.NDArray[np.integer[Any]],
        thresholds: Thresholds,
        unseen: float,
        answers: FloatArray | None,
        query: FloatArray | None,
    ) -> None:
        import numpy as np

        self.similarities, self.groups, self.thresholds, self.unseen = (
            similarities,
            groups,
            thresholds,
            unseen,
        )
        self.nearness = similarities
        self.compared: npt.NDArray[np.intp] | None = None
        self.known = 0.0
        if answers is None or query is None or len(similarities) == 0:
            return
        # Who is farther than that cannot rise above the competitor that is always supposed.
        least = thresholds.floor - thresholds.answer_weight
        rows = (similarities > least).nonzero()[0]
        if len(rows) > _COMPARED:
            rows = rows[np.argpartition(-similarities[rows], _COMPARED)[:_COMPARED]]
        vectors = answers[rows]
        has = np.einsum("ij,ij->i", vectors, vectors) > 0.5
        if not has.any():
            return
        rows, vectors = rows[has], vectors[has]
        self.compared, self.vectors = rows, vectors
        # Of an entry that stands alone nothing is known, whether its response has a vector or not.
        near = int((similarities[rows] >= thresholds.floor).sum())
        self.known = min(1.0, max(0, near - 1) / _KNOWN_AT)
        if thresholds.answer_weight and self.known:
            fits = np.einsum("ij,j->i", vectors, query) - _FITS
            self.nearness = similarities.copy()
            self.nearness[rows] += thresholds.answer_weight * fits
        # What recurs among the near ones is canonical.
        _, inverse, counts = np.unique(groups[rows], return_inverse=True, return_counts=True)
        self.recurs = counts[inverse] > 1

    def agreement(self, best: int) -> FloatArray | None:
        """Return to what degree each compared candidate agrees with the best; None: by equality alone."""
        if self.compared is None:
            return None
        at = (self.compared == best).nonzero()[0]
        if len(at) == 0 or self.recurs[at[0]]:
            return None
        import numpy as np

        degrees = agreement(np.einsum("ij,j->i", self.vectors, self.vectors[at[0]]), self.thresholds)
        degrees[self.recurs] = 0.0
        return degrees

    def agrees(self, row: int, other: int) -> bool:
        """Whether one may answer in place of the other."""
        if self.groups[row] == self.groups[other]:
            return True
        degrees = self.agreement(other)
        return degrees is not None and bool((degrees[self.compared == row] >= 0.5).any())

    def decide(self, without: Sequence[int] = ()) -> Decision:
        """Decide, as if some candidates were not there."""
        thresholds, nearness = self.thresholds, self.nearness
        if len(nearness) == 0:
            return _EMPTY
        if without:
            nearness = nearness.copy()
            nearness[list(without)] = -math.inf
        best = int(nearness.argmax())
        near, similarity = float(nearness[best]), float(self.similarities[best])
        if math.isinf(near):
            return _EMPTY
        same = (self.groups == self.groups[best]).nonzero()[0]
        degrees = self.agreement(best)
        nearest_other = -math.inf
        if len(same) < len(nearness):
            # Copied whole and overwritten in few places: a selection of nearly all costs several times that.
            others = nearness.copy()
            if degrees is not None:
                # What is below zero is no competitor, whatever it answers.
                others[self.compared] = others[self.compared].clip(0.0) * (1.0 - degrees)
            others[same] = -math.inf
            nearest_other = float(others[others.argmax()])
        has_others = not math.isinf(nearest_other)
        competitor = max(nearest_other, thresholds.floor, self.unseen)
        # Of equal nearness is not nearer; but the best one itself always counts.
        votes = 1 if len(same) == 1 else max(1, int((nearness[same] > competitor).sum()))
        margin = near - competitor
        score = (
            near
            + thresholds.margin_weight * margin
            + thresholds.vote_weight * math.log2(min(votes, thresholds.vote_cap))
        )
        if degrees is not None:
            grown = math.log((self.similarities > -math.inf).sum()) / _GROWN
            score += thresholds.answer_bonus * self.known * min(1.0, grown)
        if similarity < thresholds.threshold:
            reason = Reason.BELOW_THRESHOLD
        elif margin < thresholds.margin:
            reason = Reason.MARGIN
        elif score < thresholds.score:
            reason = Reason.SCORE
        else:
            reason = ACCEPTED
        accepted = reason == ACCEPTED
        if reason not in (Reason.MARGIN, Reason.SCORE):
            # The supposed competitor decided nothing, so it is not reported.
            margin = near - max(nearest_other, self.unseen) if has_others or self.unseen > -1.0 else math.inf
        return Decision(
            index=best if accepted else None,
            best=best,
            similarity=similarity,
            margin=margin,
            reason=reason,
            votes=votes,
            score=score,
            is_compared=degrees is not None,
        )


@dataclass(frozen=True)
class Choice(Generic[_Objection]):
    """A decision, and the candidates that may answer after the guards were asked for objections.

    Attributes:
        decision: on the numbers alone.
        rows: candidates of the accepted answer without an objection, best first.
        objection: what was held against the best of those that were looked at; None: nothing.
    """

    decision: Decision
    rows: tuple[int, ...]
    objection: _Objection | None


def choose(
    similarities: FloatArray,
    groups: npt.NDArray[np.integer[Any]],
    thresholds: Thresholds,
    object_to: Callable[[int], _Objection | None],
    *,
    wanted: int = 1,
    unseen: float = -1.0,
    answers: FloatArray | None = None,
    query: FloatArray | None = None,
) -> Choice[_Objection]:
    """Decide, and ask for objections to the entry that would answer.

    Where there is one, another entry that agrees may do, if it passes by its own numbers without
    those that were objected to.

    Args:
        similarities: as in :func:`decide`; not changed.
        groups: as in :func:`decide`.
        thresholds: what a hit must reach.
        object_to: returns what there is against a candidate, or None. Asked for three at most.
        wanted: candidates to return, at most.
        unseen: as in :func:`decide`.
        answers: as in :func:`decide`.
        query: as in :func:`decide`.
    """
    scene = _Scene(similarities, groups, thresholds, unseen, answers, query)
    first = decision = scene.decide()
    if first.index is None:
        return Choice(first, (), None)
    rows: list[int] = []
    tried: list[int] = []
    objection: _Objection | None = None
    while decision.index is not None and scene.agrees(decision.index, first.index):
        row = decision.index
        found = object_to(row)
        if found is None:
            rows.append(row)
        objection = objection if objection is not None else found
        tried.append(row)
        if len(rows) == wanted or len(tried) == _TRIES:
            break
        decision = scene.decide(tried)
    return Choice(first, tuple(rows), objection)
