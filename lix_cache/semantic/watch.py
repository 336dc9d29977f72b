"""What a cache learns about its own answers: labels from misses, audits, and what follows from them.

Numbers come from and go to Redis with other requests to the scope, so that all processes learn
together and no lookup waits. No I/O; what is decided from the numbers stands in adaptive.py.
"""

from __future__ import annotations

import math
import random
import threading
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from lix_cache.evaluation.adaptive import AUDIT_HALF_LIFE, HALF_LIFE, Counts, bin_of, threshold_for
from lix_cache.hot.answers import Answers
from lix_cache.hot.found import Labels

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray

__all__ = ["Asked", "Due", "Watch", "agree"]

_SCOPES = 1024
_QUESTIONS = 1024
#: Labels that go to Redis together.
_SENT_AT_ONCE = 8
#: The part of the would-be hits that is audited while one of late was wrong, and the weight up to
#: which it counts as of late: for 23 audits.
_ALARMED, _OF_LATE = 0.5, 0.85
#: Audits beside those that are drawn, as multiples of the audit rate: while a scope has fewer than
#: so many of late, and after. Three audits in 300 hits may all miss what is wrong with most of them.
_YOUNG, _YOUNG_MORE, _MORE = 5.0, 4.0, 2.0
#: More score where the thresholds were not measured for an embedder or a language, and the labels of
#: its own after which a scope needs none of it.
_CAUTION = 0.17
_TRUSTED = 200.0
#: Cosines of two responses: from the first on they agree, below the second they clearly differ. Between
#: them nothing is learned. Chosen so that of replies to one intent 1 in 100 counts as differing.
_AGREE = 0.5
_DIFFER = 0.25
#: Labels of answers, beside which there are those of lookups and audits.
_LABELLED = ("right", "wrong")


@dataclass(frozen=True)
class Asked:
    """A question that was not answered from the cache, and what would have been the nearest.

    Attributes:
        text: of the question.
        nearest: the query text of the nearest entry.
        score: what the decision found.
        group: label of the nearest entry's response.
        answer: vector of the nearest entry's response; None if there is none, or if it recurs.
        recurs: whether responses of the nearest entry's kind are compared by equality.
        audit: ``""`` for a miss, ``"drawn"`` for a hit that the audit rate took, ``"more"`` for one
            that was looked at beside those.
    """

    text: str
    nearest: str
    score: float
    group: int
    answer: FloatArray | None
    recurs: bool
    audit: str = ""


class Due(NamedTuple):
    """What goes to Redis: how what is there fades, and what is added by name."""

    fade: float
    fade_audits: float
    added: Mapping[str, float]


@dataclass
class _Known:
    counts: Counts = field(default_factory=Counts)
    unsent: Counter[str] = field(default_factory=Counter)
    threshold: float | None = None
    was_read: bool = False
    place: int = 0
    drawn_at: int = 0


class Watch:
    """Safe between threads.

    Args:
        start: the threshold that was set.
        target: part of the hits that may be wrong; None: thresholds stay.
        audit_rate: part of the would-be hits that are audited.
        seed: of the draws, for tests.
    """

    def __init__(
        self, start: float, target: float | None, audit_rate: float, seed: int | None = None
    ) -> None:
        self.start, self.target, self.audit_rate = start, target, audit_rate
        self._random = random.Random(seed)
        self.renew_lock()

    def renew_lock(self) -> None:
        """In a forked child: let it not be held by a thread that was not forked with it."""
        self._lock = threading.Lock()
        self._scopes: OrderedDict[str, _Known] = OrderedDict()
        self._questions: OrderedDict[tuple[str, bytes], Asked] = OrderedDict()

    @property
    def is_on(self) -> bool:
        """Whether there is anything to learn."""
        return self.target is not None or self.audit_rate > 0

    def _known(self, scope: str) -> _Known:
        known = self._scopes.get(scope)
        if known is None:
            known = self._scopes[scope] = _Known()
            if len(self._scopes) > _SCOPES:
                self._scopes.popitem(last=False)
        self._scopes.move_to_end(scope)
        return known

    def threshold(self, scope: str, *, is_strange: bool = False) -> float:
        """Return the least score of a hit in a scope.

        Args:
            scope: its id.
            is_strange: whether what was set was not measured for such a question. It is then
                stricter, until the scope has labels enough of its own.
        """
        if math.isinf(self.start):
            return self.start
        if self.target is None:
            return self.start + (_CAUTION if is_strange else 0.0)
        with self._lock:
            known = self._known(scope)
            if known.threshold is None:
                known.threshold = threshold_for(known.counts, self.start, self.target)
            if not is_strange:
                return known.threshold
            labels = sum(known.counts.right.values()) + sum(known.counts.wrong.values())
            return known.threshold + _CAUTION * max(0.0, 1.0 - labels / _TRUSTED)

    def audit(self, scope: str) -> str:
        """Say whether to audit a would-be hit: ``""``, ``"drawn"`` or ``"more"``.

        One in each block of 1 / rate is drawn, so every would-be hit has the same chance and a block
        is never passed over; only those that are drawn measure the false-hit rate.
        """
        with self._lock:
            known = self._known(scope)
            if self.audit_rate > 0 and self._is_drawn(known):
                return "drawn"
            if self.target is None:
                return ""
            if known.counts.is_closed(self.target):
                return "more"
            return "more" if self._random.random() < self._beside(known.counts) else ""

    def _beside(self, counts: Counts) -> float:
        """Return the part of the would-be hits that is audited beside those that are drawn."""
        if self.audit_rate == 0:
            return 0.0
        if counts.recent_wrong >= _OF_LATE:
            return _ALARMED
        return self.audit_rate * (_YOUNG_MORE if counts.recent < _YOUNG else _MORE)

    def _is_drawn(self, known: _Known) -> bool:
        block = max(1, round(1 / self.audit_rate))
        if known.place == 0:
            known.drawn_at = self._random.randrange(block)
        is_drawn = known.place == known.drawn_at
        known.place = (known.place + 1) % block
        return is_drawn

    def ask(self, scope: str, digest: bytes, asked: Asked) -> None:
        """Remember a question until its answer is stored."""
        with self._lock:
            self._questions[scope, digest] = asked
            if len(self._questions) > _QUESTIONS:
                self._questions.popitem(last=False)

    def take(self, scope: str, digest: bytes) -> Asked | None:
        """Return a question whose answer is there, and forget it."""
        if not self._questions:
            return None
        with self._lock:
            return self._questions.pop((scope, digest), None)

    def label(self, scope: str, asked: Asked, is_right: bool | None) -> None:
        """Take in whether the fresh answer agreed; None: it cannot be told."""
        if is_right is None:
            return
        place = bin_of(asked.score)
        with self._lock:
            known = self._known(scope)
            if place is not None:
                known.unsent[Answers.label("right" if is_right else "wrong", place)] += 1
                known.unsent[Answers.label("seen", place)] += 1
            if asked.audit:
                known.unsent["late"] += 1
                known.unsent["late_wrong"] += not is_right
            if asked.audit == "drawn":
                known.unsent["audits"] += 1
                known.unsent["audits_wrong"] += not is_right

    def seen(self, scope: str, score: float) -> None:
        """Count a hit by its score."""
        place = bin_of(score)
        if place is not None and self.target is not None:
            with self._lock:
                self._known(scope).unsent[Answers.label("seen", place)] += 1

    def due(self, scope: str) -> Due | None:
        """Return what to tell Redis about a scope now; None if it can wait."""
        if not self.is_on:
            return None
        with self._lock:
            known = self._known(scope)
            labels = sum(known.unsent[name] for name in known.unsent if name.startswith(_LABELLED))
            audits = known.unsent["late"]
            # Where no score is asked for, the threshold is not learned, and need not be known at once.
            is_known = known.was_read or self.target is None or math.isinf(self.start)
            if is_known and labels < _SENT_AT_ONCE and not audits:
                return None
            known.was_read = True
            added, known.unsent = known.unsent, Counter()
            return Due(0.5 ** (labels / HALF_LIFE), 0.5 ** (audits / AUDIT_HALF_LIFE), added)

    def told(self, scope: str) -> Callable[[Any], None]:
        """Return what takes in the answer to :meth:`due`."""

        def take(reply: Any) -> None:
            with self._lock:
                known = self._known(scope)
                known.counts, known.threshold = Counts(*Labels.read(reply)), None

        return take

    def totals(self) -> tuple[int, int, int]:
        """Return audits, wrong ones among them, and closed scopes, of the scopes that are known here."""
        with self._lock:
            counts = [known.counts for known in self._scopes.values()]
        closed = 0 if self.target is None else sum(one.is_closed(self.target) for one in counts)
        return sum(one.audits for one in counts), sum(one.audits_wrong for one in counts), closed


def agree(asked: Asked, group: int, vector: FloatArray | None) -> bool | None:
    """Say whether a fresh answer agrees with the nearest entry's; None if it cannot be told."""
    if group == asked.group:
        return True
    if asked.recurs:
        return False
    if asked.answer is None or vector is None:
        return None
    cosine = float((asked.answer * vector).sum())
    return True if cosine >= _AGREE else False if cosine < _DIFFER else None
