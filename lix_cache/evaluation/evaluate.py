"""Labelled questions put to a cache, and what it did with them.

Online: a hit serves what the cache holds, whether right or wrong, a miss stores the right answer,
and mistakes stay in. The cache is whatever has ``lookup`` and ``store``.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from lix_cache.evaluation.binomial import clopper_pearson
from lix_cache.evaluation.questions import Question

__all__ = ["Evaluation", "Mistake", "Pair", "PairEvaluation", "evaluate", "evaluate_pairs"]


class _Found(Protocol):
    @property
    def is_hit(self) -> bool: ...
    @property
    def response(self) -> Any: ...
    @property
    def similarity(self) -> float: ...
    @property
    def reason(self) -> str: ...
    @property
    def detail(self) -> str: ...


class _Cache(Protocol):
    def lookup(self, query: str, *, context: Mapping[str, Any] | None = None) -> _Found: ...
    def store(self, query: str, response: Any, *, context: Mapping[str, Any] | None = None) -> Any: ...


@dataclass(frozen=True)
class Mistake:
    """A hit that served a wrong answer.

    Attributes:
        question: what was asked.
        right: the right answer.
        served: what the cache answered.
        similarity: of the entry that answered.
        reason: why it was a hit.
    """

    question: str
    right: str
    served: str
    similarity: float
    reason: str


@dataclass(frozen=True)
class Evaluation:
    """What a cache did with a stream of questions.

    Attributes:
        questions: how many were asked.
        hits: how many were answered from the cache.
        reasons: of hits and misses, and how many of each.
        mistakes: the hits that served a wrong answer, in order.
        lookup_ms: the 50th, 95th and 99th hundredth of the lookups' times, embedding included.
    """

    questions: int
    hits: int
    reasons: Mapping[str, int]
    mistakes: Sequence[Mistake]
    lookup_ms: tuple[float, float, float]

    @property
    def wrong(self) -> int:
        """How many hits served a wrong answer."""
        return len(self.mistakes)

    @property
    def hit_ratio(self) -> float:
        """Hits among the questions, 0 to 1."""
        return self.hits / self.questions if self.questions else 0.0

    @property
    def false_hit_rate(self) -> float:
        """Wrong among the hits, 0 to 1."""
        return self.wrong / self.hits if self.hits else 0.0

    def hit_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact confidence interval of the true hit ratio."""
        return clopper_pearson(self.hits, self.questions, confidence)

    def false_hit_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact confidence interval of the true proportion of wrong answers among the hits."""
        return clopper_pearson(self.wrong, self.hits, confidence)


def evaluate(
    cache: _Cache,
    questions: Sequence[Question],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Ask one question after another; store the right answer after every miss.

    The stored answer is the question's own reply, if it has one. Then no two responses are equal, as in
    front of a language model. A hit is right if the reply was written for a question of the same answer.

    Args:
        cache: preferably an empty one, whose entries outlive the run.
        questions: in the order to ask them; a question's scope, if it has
            one, is passed on as ``context={"scope": ...}``.
        progress: told how many of how many are done.
    """
    reasons: Counter[str] = Counter()
    mistakes: list[Mistake] = []
    times: list[float] = []
    hits = 0
    said = {question.reply: question.answer for question in questions if question.reply}
    settle = getattr(cache, "settle", None)
    for done, question in enumerate(questions, 1):
        context = {"scope": question.scope} if question.scope else None
        began = time.perf_counter()
        found = cache.lookup(question.text, context=context)
        times.append(time.perf_counter() - began)
        # Which guard it was stands before the colon.
        guard = f" {found.detail.partition(':')[0]}" if found.reason == "guard" else ""
        reasons[found.reason + guard] += 1
        if not found.is_hit:
            cache.store(question.text, question.reply or question.answer, context=context)
            if settle is not None:
                settle()
        else:
            hits += 1
            served = said.get(found.response, found.response)
            if served != question.answer:
                mistakes.append(
                    Mistake(question.text, question.answer, str(served), found.similarity, found.reason)
                )
        if progress is not None:
            progress(done, len(questions))
    return Evaluation(len(questions), hits, dict(reasons), tuple(mistakes), _quantiles(times))


@dataclass(frozen=True)
class Pair:
    """Two texts, and whether one answer fits both."""

    a: str
    b: str
    is_same: bool


@dataclass(frozen=True)
class PairEvaluation:
    """What a cache did with pairs.

    Attributes:
        same: pairs with one answer.
        true_accepts: of these, those that were a hit.
        different: pairs that answer differently.
        false_accepts: of these, those that were a hit.
        reasons: of all, and how many of each.
    """

    same: int
    true_accepts: int
    different: int
    false_accepts: int
    reasons: Mapping[str, int]

    def true_accepts_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact confidence interval of the proportion of true accepts."""
        return clopper_pearson(self.true_accepts, self.same, confidence)

    def false_accepts_interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Return the exact confidence interval of the proportion of false accepts."""
        return clopper_pearson(self.false_accepts, self.different, confidence)


def evaluate_pairs(
    cache: _Cache,
    pairs: Sequence[Pair],
    *,
    progress: Callable[[int, int], None] | None = None,
) -> PairEvaluation:
    """Store the first text of each pair, ask the second; every pair in a scope of its own."""
    reasons: Counter[str] = Counter()
    asked: Counter[bool] = Counter()
    accepted: Counter[bool] = Counter()
    for done, pair in enumerate(pairs, 1):
        context = {"pair": done}
        cache.store(pair.a, "the answer", context=context)
        found = cache.lookup(pair.b, context=context)
        reasons[found.reason] += 1
        asked[pair.is_same] += 1
        accepted[pair.is_same] += found.is_hit
        if progress is not None:
            progress(done, len(pairs))
    return PairEvaluation(asked[True], accepted[True], asked[False], accepted[False], dict(reasons))


def _quantiles(times: list[float]) -> tuple[float, float, float]:
    ordered = sorted(times)
    if not ordered:
        return 0.0, 0.0, 0.0
    half, most, nearly_all = (
        round(ordered[int(part * (len(ordered) - 1))] * 1000, 3) for part in (0.5, 0.95, 0.99)
    )
    return half, most, nearly_all
