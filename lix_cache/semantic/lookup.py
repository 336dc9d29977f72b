"""Looking up, step by step. See lix_cache.effects.

A lookup is a cascade, and whoever ends it gives the reason: policy, exact text, nearest
entries and their lead, guards, verifier. The first round trip asks for the exact text and
for what is new in the scope; everything up to the decision then happens in this process;
the second fetches the response, if its entry is still alive. Where a vector set is searched,
the second one brings candidates and responses together, before the decision.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.compute import Failed
from lix_cache.effects import Compute, Flow, RedisCall
from lix_cache.errors import ComputeTimeout, MissingExtra, told
from lix_cache.hot import answer_scripts, vector_set_scripts
from lix_cache.matching.decision import Choice, choose
from lix_cache.matching.guards import Objection
from lix_cache.matching.thresholds import Limits
from lix_cache.semantic import entry, vector_sets
from lix_cache.semantic.entry import Record
from lix_cache.semantic.result import Lookup, Reason
from lix_cache.semantic.scope import merged
from lix_cache.semantic.serving import served
from lix_cache.semantic.store import Core, Scope, Spent, Stop, wording_of
from lix_cache.semantic.watch import Asked
from lix_cache.verifiers.models import verified_scores

if TYPE_CHECKING:
    from lix_cache.hot.scripts import ScriptCall
    from lix_cache.semantic.index import ScopeIndex, View
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["Query", "catch_up", "lookup"]

#: Wordings of one answer that the verifier is asked about.
_WANTED = 3
#: News from which an index is brought up to date in a thread under asyncio.
_MANY = 500


@dataclass(frozen=True)
class Query:
    """What a lookup is asked.

    Attributes:
        text: the query.
        context: what must match exactly, beside the cache's own.
        embedding: shape (dim,), if it is known already.
        threshold: in place of that of the limits.
        peek: only say whether there is an answer, and leave no trace in it.
    """

    text: str
    context: Mapping[str, Any] | None = None
    embedding: VectorLike | None = None
    threshold: float | None = None
    peek: bool = False


def lookup(core: Core, query: Query) -> Flow[Lookup]:
    """Look a query up: one round trip for an exact hit and for most misses, else two.

    Where a vector set is searched, two for whatever is no exact hit, and a third for a hit on a
    response of 64 kB or more, or on an entry whose life it prolongs.
    """
    started, spent = core.clock.monotonic(), Spent()
    flow = _lookup(core, query, spent)
    found = yield from core.guarded(flow, lambda text: Lookup(False, reason=Reason.REDIS, detail=text))
    if not query.peek:
        core.tally.looked_up(found, core.clock.monotonic() - started - spent.seconds)
    return found


def _lookup(core: Core, query: Query, spent: Spent) -> Flow[Lookup]:
    try:
        return (yield from _cascade(core, query, spent))
    except Stop as stop:
        return stop.found


def _cascade(core: Core, query: Query, spent: Spent) -> Flow[Lookup]:
    wording = wording_of(query.text)
    limits = core.limits.with_threshold(query.threshold)
    context = merged(core.context, query.context)
    refusal = core.policy.check_lookup(query.text, context)
    if refusal is not None:
        raise Stop(Reason.POLICY, f"{refusal.rule}: {refusal.detail}")
    scope = yield from core.scope(query.context)
    given = None if query.embedding is None else core.given(query.embedding, scope)
    core.check_breaker()

    digest = entry.text_digest(wording)
    index = core.indexes.get(scope.id, scope.dim)
    reply, seen = yield from _ask(core, scope.id, digest, index, query.peek)
    if reply[0] == b"X":
        now, _, number, meta, data = reply[1:]
        return (yield from served(core, scope, (now, number, meta, data), peek=query.peek))
    near: vector_sets.Nearest | None = None
    asked = 0.0
    if reply[0] == b"V":
        vector = given if given is not None else (yield from core.vector(wording, scope.dim, spent))
        asked = core.clock.monotonic()
        near = yield from vector_sets.nearest(core, scope, digest, vector, peek=query.peek)
        view, reply = near.view, (b"V", near.now, near.reported)
    else:
        view = seen
        if not len(view.expires):
            raise Stop(Reason.EMPTY)
        vector = given if given is not None else (yield from core.vector(wording, scope.dim, spent))

    now_ms, reported = float(reply[1]), entry.unpack_clusters(reply[2])
    similarities, view = view.similarities(vector, now_ms)
    chosen = _choose(core, view, similarities, _learned(core, limits, scope, query.text), query.text, vector)
    if not chosen.rows:
        _remember(core, query, scope, digest, view, chosen)
        raise _why_not(chosen)
    if int(view.clusters[chosen.rows[0]]) in reported:
        raise _stop(chosen, Reason.REPORTED, "this answer was reported as wrong for this wording")
    rows = yield from _verified(core, query.text, view, chosen, spent)
    _audit(core, query, scope, digest, view, chosen, rows[0])
    # Whose answer may be as old as its own life allows; other wordings' only as old as this one's.
    timeless = _timeless(core, query, view, rows)
    records = [view.records[row] for row in rows]
    known = None
    if near is not None:
        known = near.answer(records[0].number, (core.clock.monotonic() - asked) * 1000)
    reply = yield from _admitted(core, query, scope.id, digest, records, timeless, known)
    # Of a vector set, the answer is known without asking whether its very response was reported.
    is_known = near is not None and len(reply) > 3
    if len(reply) == 2 or (is_known and entry.unpack_meta(reply[2]).response_label in reported):
        raise _stop(chosen, Reason.REPORTED, "this answer was reported as wrong for this wording")
    if len(reply) == 1:
        index.lose([view.records[row] for row in rows])
        raise _stop(chosen, Reason.GONE, "the entry expired or was dropped in between")
    if len(reply) == 3:
        age = float(reply[2]) / 1000
        detail = f"time: the question is about now, and the answer to another one is {age:.0f} s old"
        raise _stop(chosen, Reason.GUARD, detail)
    return (yield from served(core, scope, reply, chosen.decision, peek=query.peek))


def _learned(core: Core, limits: Limits, scope: Scope, text: str) -> Limits:
    """Return what a hit must reach in this scope, by what it has learned."""
    return limits.with_evidence(core.watch.threshold(scope.id, is_strange=core.is_strange(text)))


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
    is_near = decision.reason in ("accepted", "evidence") and chosen.objection is None
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
            decision.evidence,
            int(view.clusters[row]),
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
    known: Any,
) -> Flow[Any]:
    """Return the first of these entries that may answer, as ``ADMIT`` does.

    One round trip, or none if the best of them is known with its response; then its use is noted
    with the next request to the scope. What is too old for the question is
    turned down there, so that only an entry that answers counts as used.
    """
    most_ms = int(core.policy.time_sensitive_seconds * 1000)

    def admit(how: int) -> ScriptCall:
        touch = (0, 0) if query.peek else core.touch()
        words: list[bytes | int | str] = [digest, *touch, how]
        for record in records:
            words += [record.number, record.tag, most_ms if record.number in timeless else ""]
        return core.call(answer_scripts.ADMIT, scope_id, *words)

    if known is None:
        return (yield RedisCall(admit(int(not query.peek))))
    age_ms = float(known[0]) - entry.unpack_meta(known[2]).created_ms
    if known[1] in timeless and age_ms > most_ms:
        return known[0], 0, age_ms
    if core.eviction and not query.peek:
        core.later.add(scope_id, admit(2))
    return known


def _ask(
    core: Core, scope_id: str, digest: bytes, index: ScopeIndex, peek: bool, *, may_be_large: bool = True
) -> Flow[tuple[Any, View]]:
    """The first round trip: the exact answer, or what is new, or that a vector set has it.

    What is new comes in pages, of which nearly always one is all. Only after the last one does
    the index know every neighbour, so only then may the lookup go on.
    """
    words = None if peek else core.watch.due(scope_id)
    if words is not None:
        core.later.add(scope_id, core.call(answer_scripts.LEARN, scope_id, *words), core.watch.told(scope_id))
    while True:
        place = index.place
        call = _question(core, scope_id, digest, place, peek, may_be_large=may_be_large)
        (reply,) = yield from core.with_notes(scope_id, call)
        if reply[0] in (b"X", b"V"):
            return reply, index.view()
        view = yield from _follow(core, scope_id, index, reply, place)
        if view is not None and (reply[0] == b"N" or not reply[3]):
            return reply, view


def _question(
    core: Core,
    scope_id: str,
    digest: bytes,
    place: tuple[bytes, bytes, bytes],
    peek: bool,
    *,
    may_be_large: bool,
) -> ScriptCall:
    touch = (0, 0) if peek else core.touch()
    words = (digest, *place, *touch, int(not peek))
    if core.large_from is None or not may_be_large:
        return core.call(answer_scripts.LOOKUP, scope_id, *words)
    return core.call(vector_set_scripts.LOOKUP_LARGE, scope_id, *words, core.large_from)


def _follow(
    core: Core, scope_id: str, index: ScopeIndex, reply: Any, asked: tuple[bytes, bytes, bytes]
) -> Flow[View | None]:
    """Bring the index up to date with what a round trip brought."""
    kind, now, _, *news = reply
    news = news[1:]
    rows = news[1] if kind == b"R" else news[0] if kind == b"D" else ()

    def follow() -> View | None:
        view = index.follow(kind, news, float(now), asked)
        core.indexes.settle(scope_id)
        return view

    return follow() if len(rows) < _MANY else (yield Compute(follow, None, "the index"))


def catch_up(core: Core, scope_id: str, dim: int) -> Flow[tuple[View, float]]:
    """Return what a scope holds, and the server's time in Unix milliseconds. One round trip a page."""
    index = core.indexes.get(scope_id, dim)
    # No wording is empty, so no entry is exactly this one.
    digest = entry.text_digest("")
    reply, view = yield from _ask(core, scope_id, digest, index, peek=True, may_be_large=False)
    return view, float(reply[1])


def _choose(
    core: Core, view: View, similarities: FloatArray, limits: Limits, text: str, vector: FloatArray
) -> Choice[Objection]:
    """Find the entries that may answer: accepted by their numbers, and no guard objects."""
    return choose(
        similarities,
        view.clusters,
        limits,
        lambda row: core.object_to(text, view.records[row].text),
        wanted=1 if core.verifier is None else _WANTED,
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
    """Return the entries whose wordings are not about now, if the query is."""
    if not core.policy.is_time_sensitive(query.text):
        return frozenset()
    records = [view.records[row] for row in rows]
    return frozenset(r.number for r in records if not core.policy.is_time_sensitive(r.text))


def _verified(
    core: Core, text: str, view: View, chosen: Choice[Objection], spent: Spent
) -> Flow[Sequence[int]]:
    """Ask the verifier, if there is one; who cannot answer vouches for nothing."""
    verifier = core.verifier
    if verifier is None:
        return chosen.rows
    pairs = [(text, view.records[row].text) for row in chosen.rows]

    started = core.clock.monotonic()
    try:
        scores: FloatArray = yield Compute(
            lambda: verified_scores(verifier, pairs), core.deadline, "the verifier", may_hang=True
        )
    except (ComputeTimeout, Failed) as caught:
        error = caught.error if isinstance(caught, Failed) else caught
        core.tally.trouble("verifier_errors", error)
        if isinstance(error, MissingExtra):
            # As with an embedder: it will never answer, and as a miss nobody would learn of it.
            raise error from None
        raise _stop(chosen, Reason.VERIFIER_FAILED, told(error)) from error
    finally:
        core.spend("verify", started, spent)
    good = [row for row, s in zip(chosen.rows, scores, strict=True) if s >= core.verifier_threshold]
    if not good:
        detail = f"score {float(scores.max()):.3f} is below {core.verifier_threshold:g}"
        raise _stop(chosen, Reason.VERIFIER, detail)
    return good
