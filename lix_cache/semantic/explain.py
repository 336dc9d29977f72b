"""Why a question would hit or miss: the decision, and the entries that it was made among."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from lix_cache.checks import check_whole
from lix_cache.effects import Flow
from lix_cache.hot.answers import NO_USE
from lix_cache.hot.entries import text_digest
from lix_cache.hot.found import Exact, Place, Search
from lix_cache.matching.reasons import Reason
from lix_cache.matching.thresholds import Thresholds
from lix_cache.semantic import lookup, vector_sets
from lix_cache.semantic.core import Core, query_text
from lix_cache.semantic.embedding import Spent
from lix_cache.semantic.result import Lookup, Stop

if TYPE_CHECKING:
    from lix_cache.hot.scripts import ScriptCall
    from lix_cache.semantic.index import View
    from lix_cache.vectors import FloatArray

__all__ = ["Explanation", "Neighbour", "explain"]

#: With these no entry was looked at, and none may be: there is no scope, no vector or no server.
_BLIND = frozenset(
    {
        Reason.POLICY,
        Reason.REDIS,
        Reason.EMPTY,
        Reason.NO_EMBEDDING,
        Reason.EMBEDDER_FAILED,
        Reason.EMBEDDER_TIMEOUT,
    }
)
#: Guards read the texts of this many neighbours at most.
_MOST = 50


@dataclass(frozen=True)
class Neighbour:
    """An entry near a question.

    Attributes:
        text: the question that it was stored under. Like ``detail`` not part of the repr.
        similarity: cosine, -1 to 1.
        answer: a number; equal where entries answer the same, 0 for the nearest one's answer.
        guard: which guard objects; "" for none.
        detail: what that guard found, in words.
        ttl_remaining_seconds: time to live that it has left.
    """

    text: str = field(repr=False)
    similarity: float
    answer: int
    guard: str = ""
    detail: str = field(default="", repr=False)
    ttl_remaining_seconds: float = 0.0


@dataclass(frozen=True)
class Explanation:
    """What a lookup would find, and why.

    Attributes:
        found: as :meth:`SemanticCache.check_availability` returns it.
        thresholds: what a hit must reach in this scope now, with what the scope has learned.
        entries: how many there are in the scope, or how many of them were candidates.
        votes: entries of the nearest answer that are nearer than any other answer's.
        score: similarity, weighted margin and weighted votes; None where nothing was compared.
        neighbours: the nearest first.
    """

    found: Lookup
    thresholds: Thresholds
    entries: int = 0
    votes: int = 0
    score: float | None = None
    neighbours: tuple[Neighbour, ...] = ()


def explain(core: Core, query: lookup.Query, limit: int) -> Flow[Explanation]:
    """Look a question up without a trace, and show what the decision was made among.

    The entries are read once more after the decision, so that the decision is the very one of a lookup. An
    entry that is stored in between is shown and was not asked.
    """
    check_whole("limit", limit, 1, _MOST)
    found = yield from lookup.lookup(core, replace(query, peek=True))
    thresholds = core.hits.thresholds.with_threshold(query.threshold)
    if found.reason in _BLIND:
        return Explanation(found, thresholds)
    return (
        yield from core.redis.guarded(
            _shown(core, query, found, limit), lambda _: Explanation(found, thresholds)
        )
    )


def _shown(core: Core, query: lookup.Query, found: Lookup, limit: int) -> Flow[Explanation]:
    scope = yield from core.scope(query.context)
    thresholds = lookup.learned(core, core.hits.thresholds.with_threshold(query.threshold), scope, query.text)
    try:
        if query.embedding is not None:
            vector = core.embedding.given(query.embedding, scope.dim)
        else:
            vector = yield from core.embedding.vector(query_text(query.text), scope.dim, Spent())
    except Stop:
        return Explanation(found, thresholds)  # an exact hit needs no vector
    # No text is empty, so no entry is exactly this one, and all that is near is brought.
    digest = text_digest("")

    def ask(place: Place) -> ScriptCall:
        return core.redis.answers.lookup(scope.id, digest, place, NO_USE, fetch=False)

    first, view = yield from lookup.news(
        core, scope.id, core.redis.store.indexes.get(scope.id, scope.dim), ask
    )
    near: vector_sets.Nearest | None = None
    if isinstance(first, Search):
        near = yield from vector_sets.nearest(core, scope, digest, vector, peek=True)
        view, now_ms = near.view, near.brought.found.now_ms
    else:
        now_ms = first.served.now_ms if isinstance(first, Exact) else first.now_ms
    similarities = yield from lookup.searched(view, vector, now_ms)
    alive = int((similarities > -math.inf).sum())
    decision = lookup.choose_among(core, view, similarities, thresholds, query.text, vector, near).decision
    return Explanation(
        found,
        thresholds,
        alive,
        decision.votes if decision.best is not None else 0,
        decision.score if math.isfinite(decision.score) else None,
        _neighbours(core, query.text, view, similarities, now_ms, min(limit, alive)),
    )


def _neighbours(
    core: Core, text: str, view: View, similarities: FloatArray, now_ms: float, limit: int
) -> tuple[Neighbour, ...]:
    rows = (-similarities).argsort(kind="stable")[:limit].tolist()
    answers: dict[int, int] = {}
    shown = []
    for row in rows:
        record = view.records[row]
        objection = core.hits.object_to(text, record.text)
        shown.append(
            Neighbour(
                record.text,
                float(similarities[row]),
                answers.setdefault(int(view.groups[row]), len(answers)),
                "" if objection is None else objection.guard,
                "" if objection is None else objection.detail,
                max(0.0, (float(view.expires[row]) - now_ms) / 1000),
            )
        )
    return tuple(shown)
