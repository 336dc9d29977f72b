"""Is the nearest entry near enough to answer? Numbers in, a decision with its reason out: no I/O.

No similarity is safe by itself: "sort ascending" and "sort descending" are closer than most
paraphrases. What tells a right neighbour from a wrong one is the company it keeps. Entries that
answer the same are one *cluster*. Three numbers are looked at:

* **similarity** of the best entry;
* **margin**: its lead over the best entry that answers differently;
* **witnesses**: how many entries that answer the same are nearer than the best one that does not.

Each has its own minimum (witnesses: one, the best entry itself), and they are also weighed together::

    evidence = similarity + margin_weight * margin + witness_weight * log2(witnesses)

so that a small lead can be made up for by many witnesses and the other way round. It is the linear
part of a logistic regression on these three, with the weight of the similarity put to 1; the number
of neighbours before the first that disagrees is worth more than the number among the k nearest,
and needs no sorting.

A cache that holds nothing else near the query proves little: the entry that would have answered
differently may not have arrived yet. So a competitor of similarity ``floor`` is always supposed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lix_cache.errors import InvalidInput

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from lix_cache.vectors import FloatArray

__all__ = ["DEFAULT_LIMITS", "STRICT_LIMITS", "Choice", "Decision", "Limits", "choose", "decide"]

_Objection = TypeVar("_Objection")

#: Wordings of one answer that are held against the query, at most.
_TRIES = 3


@dataclass(frozen=True)
class Limits:
    """What a hit must reach. Similarities are cosines.

    ``Limits(threshold=0.90)`` alone is plain cosine: no margin, no evidence asked for.

    Attributes:
        threshold: least similarity of the best entry, -1 to 1.
        margin: least lead over the best entry that answers differently, 0 to 2.
        floor: the similarity of the competitor that is supposed where no nearer one is known.
        evidence: least sum of similarity, weighted margin and weighted witnesses.
        margin_weight: what a margin of 1 counts in the evidence.
        witness_weight: what each doubling of the witnesses counts in the evidence.
        witness_cap: more witnesses than this count no more.
        learn_evidence: evidence from which a hit's wording may be kept beside the entry that answered
            it; infinite: never.
    """

    threshold: float
    margin: float = 0.0
    floor: float = 0.0
    evidence: float = -math.inf
    margin_weight: float = 0.0
    witness_weight: float = 0.0
    witness_cap: int = 8
    learn_evidence: float = math.inf

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", -1.0, 1.0),
            ("margin", 0.0, 2.0),
            ("floor", -1.0, 1.0),
            ("evidence", -math.inf, math.inf),
            ("margin_weight", 0.0, 1e6),
            ("witness_weight", 0.0, 1e6),
            ("witness_cap", 1, 1_000_000),
            ("learn_evidence", -math.inf, math.inf),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InvalidInput(f"Limits.{name} must be a number from {low} to {high}, got {value!r}")
        if not isinstance(self.witness_cap, int):
            raise InvalidInput(f"Limits.witness_cap must be a whole number, got {self.witness_cap!r}")

    def with_threshold(self, threshold: float | None) -> Limits:
        """Return these limits with another least similarity (None: these)."""
        return self if threshold is None else replace(self, threshold=threshold)

    def as_dict(self) -> dict[str, float | None]:
        """Return what JSON can carry: an infinite limit, which asks for nothing or all, is None."""
        return {name: None if math.isinf(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Limits:
        """Read what :meth:`as_dict` returned.

        Raises:
            InvalidInput: a name is unknown, missing, or its value is not a number in range.
        """
        known = {field.name for field in fields(cls)}
        unknown = sorted(set(values) - known)
        if unknown:
            raise InvalidInput(f"unknown limits {unknown}; known are {sorted(known)}")
        if "threshold" not in values:
            raise InvalidInput("limits without a 'threshold'")
        infinite = {"evidence": -math.inf, "learn_evidence": math.inf}
        given: dict[str, Any] = {
            name: infinite[name] if value is None and name in infinite else value
            for name, value in values.items()
        }
        return cls(**given)


@dataclass(frozen=True)
class Decision:
    """What was decided, and on what grounds.

    Attributes:
        index: the candidate that is accepted; None: none is.
        best: the nearest candidate, accepted or not; None if there was none.
        similarity: of the nearest candidate; 0.0 if there was none.
        margin: its lead over the nearest one that answers differently; infinite if there is none.
            Where the lead was not enough, the one that was counted, over the supposed competitor if
            no nearer one is known.
        reason: ``accepted``, ``empty``, ``below_threshold``, ``margin`` or ``evidence``: the first
            limit that was not reached.
        witnesses: candidates of the same answer nearer than any other answer.
        evidence: the weighted sum; 0.0 if there was no candidate.
        is_confident: accepted with so much evidence that the query's wording may be learned.
    """

    index: int | None
    best: int | None
    similarity: float
    margin: float
    reason: str
    witnesses: int = 0
    evidence: float = 0.0
    is_confident: bool = False


_EMPTY = Decision(None, None, 0.0, math.inf, "empty")


def decide(
    similarities: FloatArray,
    clusters: npt.NDArray[np.integer[Any]],
    limits: Limits,
    *,
    unseen: float = -1.0,
) -> Decision:
    """Decide whether the nearest candidate answers the query.

    Costs five passes over the candidates, no sorting: some 10 µs for 50 of them.

    Args:
        similarities: cosines of the query and each candidate, shape (n,).
        clusters: a label for each candidate, shape (n,); equal labels answer the same.
        limits: what a hit must reach.
        unseen: where only the nearest candidates are given, the similarity of the last of them: one
            that answers differently may stand right behind it.

    The order of the candidates does not matter, but that of equal ones decides which of them is named.
    """
    if len(similarities) == 0:
        return _EMPTY
    best = int(similarities.argmax())
    similarity = float(similarities[best])
    same = (clusters == clusters[best]).nonzero()[0]
    has_others = len(same) < len(similarities)
    nearest_other = -math.inf
    if has_others:
        # Copied whole and overwritten in few places: a selection of nearly all costs several times that.
        others = similarities.copy()
        others[same] = -math.inf
        nearest_other = float(others[others.argmax()])
    competitor = max(nearest_other, limits.floor, unseen)
    # Of equal similarity is not nearer; but the best one itself always counts.
    witnesses = 1 if len(same) == 1 else max(1, int((similarities[same] > competitor).sum()))
    lead = similarity - competitor
    evidence = (
        similarity
        + limits.margin_weight * lead
        + limits.witness_weight * math.log2(min(witnesses, limits.witness_cap))
    )
    if similarity < limits.threshold:
        reason = "below_threshold"
    elif lead < limits.margin:
        reason = "margin"
    elif evidence < limits.evidence:
        reason = "evidence"
    else:
        reason = "accepted"
    accepted = reason == "accepted"
    margin = similarity - max(nearest_other, unseen) if has_others or unseen > -1.0 else math.inf
    if reason in ("margin", "evidence"):
        margin = lead
    return Decision(
        index=best if accepted else None,
        best=best,
        similarity=similarity,
        margin=margin,
        reason=reason,
        witnesses=witnesses,
        evidence=evidence,
        is_confident=accepted and evidence >= limits.learn_evidence,
    )


@dataclass(frozen=True)
class Choice(Generic[_Objection]):
    """A decision, and the candidates that may answer after somebody was asked for objections.

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
    clusters: npt.NDArray[np.integer[Any]],
    limits: Limits,
    object_to: Callable[[int], _Objection | None],
    *,
    wanted: int = 1,
    unseen: float = -1.0,
) -> Choice[_Objection]:
    """Decide, and ask for objections to the wording that would answer.

    Where there is one, another wording of the same answer may do, if it passes by its own numbers
    without those that were objected to.

    Args:
        similarities: as in :func:`decide`; not changed.
        clusters: as in :func:`decide`.
        limits: what a hit must reach.
        object_to: returns what there is against a candidate, or None. Asked for three at most.
        wanted: candidates to return, at most.
        unseen: as in :func:`decide`.
    """
    first = decision = decide(similarities, clusters, limits, unseen=unseen)
    if first.index is None:
        return Choice(first, (), None)
    left = similarities
    rows: list[int] = []
    objection: _Objection | None = None
    for _ in range(_TRIES):
        row = decision.index
        if row is None or clusters[row] != clusters[first.index]:
            break
        found = object_to(row)
        if found is None:
            rows.append(row)
            if len(rows) == wanted:
                break
        objection = objection if objection is not None else found
        if left is similarities:
            left = similarities.copy()
        left[row] = -math.inf
        decision = decide(left, clusters, limits, unseen=unseen)
    return Choice(first, tuple(rows), objection)


DEFAULT_LIMITS = Limits(
    threshold=0.68,
    margin=0.05,
    floor=0.5,
    evidence=1.23,
    margin_weight=1.0,
    witness_weight=0.2,
    witness_cap=8,
    learn_evidence=1.6,
)
"""For all-MiniLM-L6-v2: at most 2% wrong among the hits; docs/calibration.md says on what.

An entry with no other near it must reach 0.865. Other embedders need limits of their own.
"""

STRICT_LIMITS = replace(DEFAULT_LIMITS, evidence=1.42, learn_evidence=math.inf)
"""The same, at most 1% wrong, for a third fewer hits; nothing is learned from a hit.

An entry with no other near it must reach 0.96.
"""
