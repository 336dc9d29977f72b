"""Looking up, step by step. See lix_cache.effects.

A lookup is a cascade. The step that ends it gives the reason: policy, exact text, nearest
entries and their margin, guards, verifier. The first round trip asks for the exact text and
for what is new in the scope; everything up to the decision then happens in this process;
the second fetches the response, if its entry is still alive. Where a vector set is searched,
the second one brings candidates and responses together, before the decision.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.checks import check_number
from lix_cache.compute import Failed
from lix_cache.effects import Compute, Flow, RedisCall
from lix_cache.errors import ComputeTimeout, ConfigError, InvalidInput, MissingExtra, told
from lix_cache.hot import entries
from lix_cache.hot.answers import NO_USE, Candidate, Fetch
from lix_cache.hot.entries import Record
from lix_cache.hot.found import Exact, Following, Found, Gone, Place, Reported, Search, Served, TooOld
from lix_cache.matching.decision import ACCEPTED, Choice, choose
from lix_cache.matching.guards import Objection
from lix_cache.matching.reasons import Reason
from lix_cache.matching.thresholds import Thresholds
from lix_cache.semantic import vector_sets
from lix_cache.semantic.core import Core, Scope, query_text
from lix_cache.semantic.embedding import Spent
from lix_cache.semantic.result import Lookup, Stop
from lix_cache.semantic.scope import merged
from lix_cache.semantic.serving import served
from lix_cache.semantic.watch import Asked
from lix_cache.verifiers.protocol import verified_scores

if TYPE_CHECKING:
    from lix_cache.hot.scripts import ScriptCall
    from lix_cache.semantic.index import ScopeIndex, View
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["Query", "catch_up", "choose_among", "learned", "lookup", "news", "searched"]

#: Entries of one answer that the verifier is asked about.
_WANTED = 3
#: News from which an index is brought up to date in a thread under asyncio.
_MANY = 500
#: Numbers in an index from which it is searched in a thread under asyncio: half a millisecond's work.
_LARGE = 4_000_000


@dataclass
class Moment:
    """When something was last looked up: Unix milliseconds by the server's clock; None before."""

    ms: float | None = None


@dataclass(frozen=True)
class Query:
    """What a lookup is asked.

    Attributes:
        text: the query.
        context: what must match exactly, beside the cache's own.
        embedding: shape (dim,), if it is known already.
        threshold: in place of that of the thresholds.
        peek: only say whether there is an answer, and leave no trace in it.
        moment: is told when it was looked up.
    """

    text: str
    context: Mapping[str, Any] | None = None
    embedding: VectorLike | None = None
    threshold: float | None = None
    peek: bool = False
    moment: Moment | None = None

    def __post_init__(self) -> None:
        if self.threshold is not None:
            try:
                check_number("similarity_threshold", self.threshold, -1, 1)
            except ConfigError as error:
                raise InvalidInput(told(error)) from None


def lookup(core: Core, query: Query) -> Flow[Lookup]:
    """Look a query up: one round trip for an exact hit and for most misses, else two.

    Where a vector set is searched, two for whatever is no exact hit, and a third for a hit on a
    response of 64 kB or more, or on an entry whose time to live it prolongs.
    """
    started, spent = core.clock.monotonic(), Spent()
    flow = _lookup(core, query, spent)
    found = yield from core.redis.guarded(flow, lambda text: Lookup(False, reason=Reason.REDIS, detail=text))
    if not query.peek:
        core.stats.looked_up(found, core.clock.monotonic() - started - spent.seconds)
    return found


def _lookup(core: Core, query: Query, spent: Spent) -> Flow[Lookup]:
    try:
        return (yield from _cascade(core, query, spent))
    except Stop as stop:
        return stop.found


def _cascade(core: Core, query: Query, spent: Spent) -> Flow[Lookup]:
    text = query_text(query.text)
    context = merged(core.scopes.context, query.context)
    refusal = core.hits.policy.check_lookup(query.text, context)
    if refusal is not None:
        raise Stop(Reason.POLICY, f"{refusal.rule}: {refusal.detail}")
    scope = yield from core.scope(query.context)
    given = None if query.embedding is None else core.embedding.given(query.embedding, scope.dim)
    return (yield from core.redis.asking(scope.id, _compared(core, query, text, scope, given, spent)))


def _compared(
    core: Core, query: Query, text: str, scope: Scope, given: FloatArray | None, spent: Spent
) -> Flow[Lookup]:
    """Ask for a scope's entries, and decide among them."""
    thresholds = core.hits.thresholds.with_threshold(query.threshold)
    digest = entries.text_digest(text)
    index = core.redis.store.indexes.get(scope.id, scope.dim)
    first, seen = yield from _ask(core, scope.id, digest, index, query.peek)
    if query.moment is not None:
        query.moment.ms = first.served.now_ms if isinstance(first, Exact) else first.now_ms
    if isinstance(first, Exact):
        return (yield from served(core, scope, first.served, peek=query.peek))
    near: vector_sets.Nearest | None = None
    asked = 0.0
    following: Following
    if isinstance(first, Search):
        vector = given if given is not None else (yield from core.embedding.vector(text, scope.dim, spent))
        asked = core.clock.monotonic()
        near = yield from vector_sets.nearest(core, scope, digest, vector, peek=query.peek)
        view, following = near.view, near.brought.found
    else:
        view, following = seen, first
        if not len(view.expires):
            raise Stop(Reason.EMPTY)
        vector = given if given is not None else (yield from core.embedding.vector(text, scope.dim, spent))

    reported = following.reported
    similarities = yield from searched(view, vector, following.now_ms)
    thresholds = learned(core, thresholds, scope, query.text)
    chosen = choose_among(core, view, similarities, thresholds, query.text, vector, near)
    if not chosen.rows:
        _remember(core, query, scope, digest, view, chosen)
        raise _why_not(chosen)
    if int(view.groups[chosen.rows[0]]) in reported:
        raise _stop(chosen, Reason.REPORTED, "this answer was reported as wrong for this query")
    rows = yield from _verified(core, query.text, view, chosen, spent)
    _audit(core, query, scope, digest, view, chosen, rows[0])
    # Whose answer may be as old as its own time to live allows; other paraphrases' only as old as this one's.
    timeless = _timeless(core, query, view, rows)
    records = [view.records[row] for row in rows]
    known: Served | None = None
    if near is not None:
        known = near.answer(records[0].number, (core.clock.monotonic() - asked) * 1000)
    found = yield from _admitted(core, query, scope.id, digest, records, timeless, known)
    # Of a vector set, the answer is known without asking whether its very response was reported.
    if near is not None and isinstance(found, Served) and found.meta.response_label in reported:
        found = Reported()
    if isinstance(found, Gone):
        index.lose(records)
    return (yield from served(core, scope, _still_there(chosen, found), chosen.decision, peek=query.peek))


def _still_there(chosen: Choice[Objection], found: Served | Gone | Reported | TooOld) -> Served:
    """Return the answer that was chosen; a Stop if it must not be served after all."""
    if isinstance(found, Reported):
        raise _stop(chosen, Reason.REPORTED, "this answer was reported as wrong for this query")
    if isinstance(found, Gone):
        raise _stop(chosen, Reason.GONE, "the entry expired or was dropped in between")
    if isinstance(found, TooOld):
        age = found.age_ms / 1000
        detail = f"time: the question is about now, and the answer to another one is {age:.0f} s old"
        raise _stop(chosen, Reason.GUARD, detail)
    return found


def learned(core: Core, thresholds: Thresholds, scope: Scope, text: str) -> Thresholds:
    """Return what a hit must reach in this scope, by what it has learned."""
    is_strange = core.hits.is_strange(core.embedding.name, text)
    return thresholds.with_score(core.watch.threshold(scope.id, is_strange=is_strange))


def _audit(
    core: Core, query: Query, scope: Scope, digest: bytes, view: View, chosen: Choice[Objection], row: int
) -> None:
    """Make a miss of some hits, so that their answers are made anew and compared."""
    audit = "" if query.peek else core.watch.audit(scope.id)
    if audit:
        _remember(core, query, scope, digest, view, chosen, row, audit)
        raise _stop(chosen, Reason.AUDIT, "a hit that is looked at: the answer is made anew and compared")


def _remember(
    core: Core,
    query: Query,
    scope: Scope,
    digest: bytes,
    view: View,
    chosen: Choice[Objection],
    row: int | None = None,
    audit: str = "",
) -> None:
    """Keep a question that is not answered, to compare its fresh answer with the nearest entry's."""
    decision = chosen.decision
    is_near = decision.reason in (ACCEPTED, Reason.SCORE) and chosen.objection is None
    if query.peek or not core.watch.is_on or decision.best is None or not (audit or is_near):
        return
    row = decision.best if row is None else row
    answer = None if view.answers is None else view.answers[row].copy()
    has_answer = answer is not None and bool(answer.any())
    record = view.records[row]
    core.watch.ask(
        scope.id,
        digest,
        Asked(
            query.text,
            record.text,
            decision.score,
            int(view.groups[row]),
            answer if has_answer and decision.is_compared else None,
            has_answer and not decision.is_compared,
            audit,
        ),
    )


def _admitted(
    core: Core,
    query: Query,
    scope_id: str,
    digest: bytes,
    records: Sequence[Record],
    timeless: frozenset[bytes],
    known: Served | None,
) -> Flow[Served | Reported | TooOld | Gone]:
    """Return the first of these entries that may answer.

    One round trip, or none if the best of them is known with its response; then its use is noted
    with the next request to the scope. What is too old for the question is
    turned down there, so that only an entry that answers counts as used.
    """
    most_ms = int(core.hits.policy.time_sensitive_seconds * 1000)

    def admit(fetch: Fetch) -> ScriptCall:
        candidates = [
            Candidate(r.number, r.nonce, most_ms if r.number in timeless else None) for r in records
        ]
        use = NO_USE if query.peek else core.entries.use
        return core.redis.answers.admit(scope_id, digest, candidates, use, fetch)

    if known is None:
        fetch = Fetch.LOOK if query.peek else Fetch.RESPONSE
        return core.redis.answers.admitted((yield RedisCall(admit(fetch))))
    age_ms = known.now_ms - known.meta.created_ms
    if known.number in timeless and age_ms > most_ms:
        return TooOld(age_ms)
    if core.entries.use.eviction and not query.peek:
        core.redis.store.deferred.add(scope_id, admit(Fetch.NOTE))
    return known


def _ask(core: Core, scope_id: str, digest: bytes, index: ScopeIndex, peek: bool) -> Flow[tuple[Found, View]]:
    """The first round trip: the exact answer, or what is new, or that a vector set has it."""
    due = None if peek else core.watch.due(scope_id)
    if due is not None:
        learn = core.redis.answers.learn(scope_id, *due)
        core.redis.store.deferred.add(scope_id, learn, core.watch.told(scope_id))
    use = NO_USE if peek else core.entries.use

    def ask(place: Place) -> ScriptCall:
        return core.redis.answers.lookup(scope_id, digest, place, use, fetch=not peek)

    return (yield from news(core, scope_id, index, ask))


def news(
    core: Core, scope_id: str, index: ScopeIndex, ask: Callable[[Place], ScriptCall]
) -> Flow[tuple[Found, View]]:
    """Ask until the index is up to date.

    What is new comes in pages, of which nearly always one is all. Only after the last one does
    the index know every neighbour, so only then may the lookup go on.
    """
    while True:
        place = index.place
        (reply,) = yield from core.redis.with_notes(scope_id, ask(place))
        found = core.redis.answers.found(reply)
        if isinstance(found, (Exact, Search)):
            return found, index.view()
        view = yield from _follow(core, scope_id, index, found, place)
        if view is not None and not found.more:
            return found, view


def _follow(
    core: Core, scope_id: str, index: ScopeIndex, found: Following, asked: Place
) -> Flow[View | None]:
    """Bring the index up to date with what a round trip brought."""

    def follow() -> View | None:
        view = index.follow(found, asked)
        core.redis.store.indexes.settle(scope_id)
        return view

    # A large one is copied now and then, to grow or to let go of the dead, however little is new.
    is_small = len(found.rows) < _MANY and len(index) * index.dim < _LARGE
    return follow() if is_small else (yield Compute(follow, None, "the index"))


def catch_up(core: Core, scope_id: str, dim: int) -> Flow[tuple[View, float]]:
    """Return what a scope holds, and the server's time in Unix milliseconds. One round trip a page."""
    # No text is empty, so no entry is exactly this one.
    digest = entries.text_digest("")

    def ask(place: Place) -> ScriptCall:
        return core.redis.answers.lookup(scope_id, digest, place, NO_USE, fetch=False, may_search=False)

    found, view = yield from news(core, scope_id, core.redis.store.indexes.get(scope_id, dim), ask)
    return view, found.served.now_ms if isinstance(found, Exact) else found.now_ms


def searched(view: View, vector: FloatArray, now_ms: float) -> Flow[FloatArray]:
    """Return the similarity of a vector and each entry, as :meth:`View.similarities` does."""

    def search() -> FloatArray:
        return view.similarities(vector, now_ms)

    return search() if view.vectors.size < _LARGE else (yield Compute(search, None, "the search"))


def choose_among(
    core: Core,
    view: View,
    similarities: FloatArray,
    thresholds: Thresholds,
    text: str,
    vector: FloatArray,
    near: vector_sets.Nearest | None,
) -> Choice[Objection]:
    """Find the entries that may answer: accepted by their numbers, and no guard objects."""
    return choose(
        similarities,
        view.groups,
        thresholds,
        lambda row: core.hits.object_to(text, view.records[row].text),
        wanted=1 if core.hits.verifier is None else _WANTED,
        unseen=-1.0 if near is None else near.brought.unseen,
        answers=view.answers,
        query=vector,
    )


def _stop(choice: Choice[Objection], reason: str, detail: str = "") -> Stop:
    return Stop(reason, detail, choice.decision.similarity, choice.decision.margin)


def _why_not(choice: Choice[Objection]) -> Stop:
    objection = choice.objection
    if objection is not None:
        return _stop(choice, Reason.GUARD, f"{objection.guard}: {objection.detail}")
    return _stop(choice, choice.decision.reason)


def _timeless(core: Core, query: Query, view: View, rows: Sequence[int]) -> frozenset[bytes]:
    """Return the entries whose queries are not about now, if the query is."""
    if not core.hits.policy.is_time_sensitive(query.text):
        return frozenset()
    records = [view.records[row] for row in rows]
    return frozenset(r.number for r in records if not core.hits.policy.is_time_sensitive(r.text))


def _verified(
    core: Core, text: str, view: View, chosen: Choice[Objection], spent: Spent
) -> Flow[Sequence[int]]:
    """Ask the verifier, if there is one; who cannot answer vouches for nothing."""
    verifier = core.hits.verifier
    if verifier is None:
        return chosen.rows
    pairs = [(text, view.records[row].text) for row in chosen.rows]

    started = core.clock.monotonic()
    try:
        scores: FloatArray = yield Compute(
            lambda: verified_scores(verifier, pairs), core.hits.deadline, "the verifier", may_hang=True
        )
    except (ComputeTimeout, Failed) as caught:
        error = caught.error if isinstance(caught, Failed) else caught
        core.stats.trouble("verifier_errors", error)
        if isinstance(error, MissingExtra):
            # As with an embedder: it will never answer, and as a miss it would stay unnoticed.
            raise error from None
        raise _stop(chosen, Reason.VERIFIER_FAILED, told(error)) from error
    finally:
        spent.add(core.stats, "verify", core.clock.monotonic() - started)
    good = [row for row, s in zip(chosen.rows, scores, strict=True) if s >= core.hits.verifier_threshold]
    if not good:
        detail = f"score {float(scores.max()):.3f} is below {core.hits.verifier_threshold:g}"
        raise _stop(chosen, Reason.VERIFIER, detail)
    return good
