"""What a hit must reach: data, and the values for the model that most people use. Pure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lix_cache.checks import given
from lix_cache.errors import InvalidInput

__all__ = ["DEFAULT_THRESHOLDS", "STRICT_THRESHOLDS", "Thresholds", "is_lexical", "is_measured_for"]

_LEXICAL = "lexical-hashing"
_MEASURED_FOR = ("all-minilm-l6-v2", _LEXICAL)
"""Parts of the ids of the embedders that the thresholds below fit: the one they were measured with, on
English texts, and the lexical one, whose near texts share nearly all words."""


def is_measured_for(embedder_id: str) -> bool:
    """Whether the default thresholds are meant for an embedder."""
    return any(name in embedder_id.lower() for name in _MEASURED_FOR)


def is_lexical(embedder_id: str) -> bool:
    """Whether an embedder sees words alone: then a response's vector says nothing about its meaning."""
    return _LEXICAL in embedder_id.lower()


@dataclass(frozen=True)
class Thresholds:
    """What a hit must reach. Similarities are cosines.

    ``Thresholds(threshold=0.90)`` alone is plain cosine: no margin, no score asked for.

    Attributes:
        threshold: least similarity of the best entry, -1 to 1.
        margin: least margin over the best entry that answers differently, 0 to 2.
        floor: the similarity of the competitor that is supposed where no nearer one is known.
        score: least sum of similarity, weighted margin and weighted votes.
        margin_weight: what a margin of 1 counts in the score.
        vote_weight: what each doubling of the votes counts in the score.
        vote_cap: more votes than this count no more.
        answer_weight: what the cosine of query and response, above 0.5, counts in the nearness.
        answer_bonus: what is added to the score where the best entry's response was compared with
            those of its neighbours by meaning.
        agree_at: cosine of two responses at which they agree by half.
        agree_width: how much above that they agree by nearly three quarters (a logistic's scale).
    """

    threshold: float
    margin: float = 0.0
    floor: float = 0.0
    score: float = -math.inf
    margin_weight: float = 0.0
    vote_weight: float = 0.0
    vote_cap: int = 8
    answer_weight: float = 0.0
    answer_bonus: float = 0.0
    agree_at: float = 0.7
    agree_width: float = 0.06

    def __post_init__(self) -> None:
        for name, low, high in (
            ("threshold", -1.0, 1.0),
            ("margin", 0.0, 2.0),
            ("floor", -1.0, 1.0),
            ("score", -math.inf, math.inf),
            ("margin_weight", 0.0, 1e6),
            ("vote_weight", 0.0, 1e6),
            ("vote_cap", 1, 1_000_000),
            ("answer_weight", 0.0, 1.0),
            ("answer_bonus", 0.0, 2.0),
            ("agree_at", -1.0, 1.0),
            ("agree_width", 1e-6, 1.0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
                raise InvalidInput(f"Thresholds.{name} must be a number from {low} to {high}, {given(value)}")
        if not isinstance(self.vote_cap, int):
            raise InvalidInput(f"Thresholds.vote_cap must be a whole number, {given(self.vote_cap)}")

    def with_threshold(self, threshold: float | None) -> Thresholds:
        """Return these thresholds with another least similarity (None: these)."""
        return self if threshold is None else replace(self, threshold=threshold)

    def with_score(self, score: float) -> Thresholds:
        """Return these thresholds with another least score."""
        return self if score == self.score else replace(self, score=score)

    def as_dict(self) -> dict[str, float | None]:
        """Return what JSON can carry: an infinite limit, which asks for nothing or all, is None."""
        return {name: None if math.isinf(value) else value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Thresholds:
        """Read what :meth:`as_dict` returned.

        Raises:
            InvalidInput: a name is unknown, missing, or its value is not a number in range.
        """
        if not isinstance(values, Mapping):
            raise InvalidInput(f"values must be a dict, {given(values)}")
        known = {field.name for field in fields(cls)}
        unknown = sorted(map(repr, set(values) - known))
        if unknown:
            raise InvalidInput(
                f"values hold unknown thresholds: {', '.join(unknown)}; known are {sorted(known)}"
            )
        if "threshold" not in values:
            raise InvalidInput("values are thresholds without a 'threshold'")
        read = dict(values)
        if "score" in read and read["score"] is None:
            read["score"] = -math.inf
        return cls(**read)


DEFAULT_THRESHOLDS = Thresholds(
    threshold=0.68,
    margin=0.05,
    floor=0.5,
    score=1.23,
    margin_weight=1.0,
    vote_weight=0.2,
    vote_cap=8,
    answer_weight=0.15,
    answer_bonus=0.30,
)
"""For all-MiniLM-L6-v2: at most 2% wrong among the hits; docs/calibration.md says on what.

An entry with no other near it must reach 0.865. Other embedders need thresholds of their own.
"""

STRICT_THRESHOLDS = replace(DEFAULT_THRESHOLDS, score=1.42)
"""The same, at most 1% wrong, for a third fewer hits.

An entry with no other near it must reach 0.96.
"""
