"""Looking after what is stored, step by step: invalidate, report, clean up, count. See lix_cache.effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache.checks import check_duration
from lix_cache.compat.ring import unit_vector
from lix_cache.compute import Failed
from lix_cache.effects import Compute, Effect, Flow, RedisBatch, RedisCall, Sleep, ask_each
from lix_cache.errors import ConfigError, InvalidInput, LixCacheError, told
from lix_cache.evaluation.adaptive import Counts
from lix_cache.hot import entries
from lix_cache.hot.entries import EntryId
from lix_cache.hot.probe import probe, verdict
from lix_cache.semantic.core import Core, new_nonce, query_text
from lix_cache.semantic.embedding import Spent
from lix_cache.semantic.lookup import catch_up, searched
from lix_cache.semantic.result import Report, Stop
from lix_cache.semantic.scope import embedder_word, item_digests, merged
from lix_cache.vectors import check_dimension
from lix_cache.verifiers.protocol import verified_scores

__all__ = ["Criteria", "clean_up", "health", "invalidate", "report_wrong", "try_to_count"]

#: Scopes that are worked on in one round trip.
_SCOPES_AT_ONCE = 50
#: Entries that are looked at, or dropped, in one round trip. A server carries out what it has read of a
#: client in one go, so they are of all scopes together, and none waits for more than that.
_AT_ONCE = 100
_TICK_SECONDS = 0.001


@dataclass(frozen=True)
class Criteria:
    """What to drop: entries that match all given criteria.

    Attributes:
        context: items that an entry's context has.
        tags: words of which it has at least one.
        older_than_seconds: least age.
        similar_to: a text whose meaning it is near to.
        similarity: how near, a cosine.
    """

    context: Mapping[str, Any] | None = None
    tags: Sequence[str] = ()
    older_than_seconds: float | None = None
    similar_to: str | None = None
    similarity: float = 0.9

    def checked(self) -> Criteria:
        """Return itself.

        Raises:
            InvalidInput: nothing is given, which would be everything, or what is given
                makes no sense.
        """
        given = (self.context, self.older_than_seconds, self.similar_to)
        if all(value is None for value in given) and not self.tags:
            raise InvalidInput(
                "say what to invalidate: context, tags, older_than_seconds or similar_to; "
                "context={} means everything in the cache's own context"
            )
        age = self.older_than_seconds
        if age is not None and (
            isinstance(age, bool) or not isinstance(age, (int, float)) or not 0 <= age < 1e11
        ):
            raise InvalidInput("older_than_seconds must be a number of seconds, at least 0")
        near = self.similarity
        if isinstance(near, bool) or not isinstance(near, (int, float)) or not -1 <= near <= 1:
            raise InvalidInput("similarity must be a number from -1 to 1")
        return self

    @property
    def is_about_contexts_alone(self) -> bool:
        return not self.tags and self.older_than_seconds is None and self.similar_to is None

    def words(self) -> tuple[int | None, bytes]:
        """Least age in milliseconds, and the tags as bytes."""
        age = None if self.older_than_seconds is None else int(self.older_than_seconds * 1000)
        return age, entries.tag_words(self.tags)


def invalidate(core: Core, criteria: Criteria) -> Flow[int]:
    """Drop what fits. Returns how many entries that were.

    One round trip for 500 scopes that there are, and one for 50 scopes and 100 entries that
    are looked at; with ``similar_to`` three for each scope.
    """
    criteria.checked()
    criteria.words()
    context = merged(core.scopes.context, criteria.context)
    wanted = item_digests(context)
    if criteria.similar_to is not None:
        dropped = yield from _drop_similar(core, criteria, criteria.similar_to, wanted)
    else:
        scopes = yield from scopes_with(core, wanted, dropped_now=criteria)
        dropped = 0
        for start in range(0, len(scopes), _SCOPES_AT_ONCE):
            part = scopes[start : start + _SCOPES_AT_ONCE]
            if criteria.is_about_contexts_alone:
                calls = tuple(core.redis.answers.clear(scope) for scope in part)
                dropped += sum((yield RedisBatch(calls)))
            else:
                dropped += yield from _drop_pages(core, criteria, part)
    core.stats.count("invalidated", dropped)
    return dropped


def _drop_pages(core: Core, criteria: Criteria, scopes: Sequence[str]) -> Flow[int]:
    """Look at all entries of some scopes, a page of each at a time."""
    dropped = 0
    cursors: dict[str, bytes] = dict.fromkeys(scopes, b"0")
    while cursors:
        words, most = criteria.words(), _share(len(cursors))
        calls = tuple(core.redis.answers.drop(s, *words, most=most, cursor=c) for s, c in cursors.items())
        pages = [core.redis.answers.dropped(reply) for reply in (yield RedisBatch(calls))]
        dropped += sum(page.entries for page in pages)
        following = zip(cursors, pages, strict=True)
        cursors = {scope: page.cursor for scope, page in following if page.cursor is not None}
    return dropped


def _share(count: int) -> int:
    """Return how much of one round trip's work each of some scopes or buckets gets."""
    return max(1, _AT_ONCE // count)


def _drop_similar(core: Core, criteria: Criteria, text: str, wanted: frozenset[bytes]) -> Flow[int]:
    if core.embedding.embedder is None:
        raise ConfigError("similar_to needs an embedder; this cache was made without one")
    normalised = query_text(text, "similar_to")
    try:
        name, dim = yield from core.embedding.identity()
        vector = yield from core.embedding.vector(normalised, dim, Spent())
    except Stop as stop:
        # Not a miss: what should be gone is still there, and the caller must know.
        raise (stop.__cause__ or stop) from None  # it always has one
    dropped = 0
    wanted |= {embedder_word(name, dim)}
    # Of an answer that is being made it is not known how near it is: none is stored.
    for scope in (yield from scopes_with(core, wanted, dropped_now=criteria)):
        view, now_ms = yield from catch_up(core, scope, dim)
        # Its own text is near, whether or not there was a vector when it was stored.
        call = core.redis.answers.drop(scope, *criteria.words(), text_digest=entries.text_digest(normalised))
        dropped += core.redis.answers.dropped((yield RedisCall(call))).entries
        similarities = yield from searched(view, vector, now_ms)
        rows = (similarities >= criteria.similarity).nonzero()[0].tolist()
        for start in range(0, len(rows), _AT_ONCE):
            records = [view.records[row] for row in rows[start : start + _AT_ONCE]]
            named = [(record.number, record.nonce) for record in records]
            call = core.redis.answers.drop(scope, *criteria.words(), named=named)
            dropped += core.redis.answers.dropped((yield RedisCall(call))).entries
    return dropped


def scopes_with(core: Core, wanted: frozenset[bytes], dropped_now: Criteria | None = None) -> Flow[list[str]]:
    """Return the scopes whose context has all of these items. One round trip for some hundreds.

    Args:
        core: the cache.
        wanted: digests of the items.
        dropped_now: what is about to be dropped of them. It is noted before the scopes are listed, so that
            answers that are being made now are refused when they come to be stored, also in new scopes.
    """
    found: set[str] = set()
    answers = core.redis.answers
    cursors = dict.fromkeys(range(answers.keys.buckets), b"0")
    if dropped_now is not None:
        # In a trip of their own: of one batch a script that the server does not know yet is sent again
        # after the others, and a note must not come after the list.
        words = dropped_now.words()
        yield from ask_each({b: answers.invalidate(b, wanted, *words, new_nonce()) for b in cursors})
        # The server's clock counts milliseconds here, and what begins in that of the note is not stored. So
        # what begins after an invalidation has returned begins in a later one.
        yield Sleep(_TICK_SECONDS)
    while cursors:
        replies = yield from ask_each({b: answers.scopes(b, cursor) for b, cursor in cursors.items()})
        pages = {bucket: answers.listed(reply) for bucket, reply in replies.items()}
        for _, listed in pages.values():
            found.update(scope for scope, items in listed if wanted <= items)
        cursors = {bucket: cursor for bucket, (cursor, _) in pages.items() if cursor is not None}
    return sorted(found)


def report_wrong(core: Core, entry_id: str, query: str, context: Mapping[str, Any] | None) -> Flow[Report]:
    """Remember that an answer is wrong for a query. One round trip."""
    known, digest = EntryId.parse(entry_id), entries.text_digest(query_text(query))
    try:
        scope = yield from core.scope(context)
    except Stop as stop:
        raise (stop.__cause__ or stop) from None  # as in _drop_similar
    if known is None:
        return Report(noted=False)
    call = core.redis.answers.report(scope.id, digest, known.number, known.nonce)
    written = int((yield RedisCall(call)))
    if written:
        core.stats.count("wrong_reports")
    return Report(noted=written > 0, dropped=written > 1)


def clean_up(core: Core) -> Flow[int]:
    """Drop what has expired. Returns how many entries that were."""
    buckets: Sequence[int] = range(core.redis.answers.keys.buckets)
    while buckets:
        most = _share(len(buckets))
        replies = yield from ask_each({bucket: core.redis.answers.prune(bucket, most) for bucket in buckets})
        buckets = [bucket for bucket, ended in replies.items() if int(ended) >= most]
    dropped = 0
    scopes = yield from scopes_with(core, frozenset())
    for start in range(0, len(scopes), _SCOPES_AT_ONCE):
        part: Sequence[str] = scopes[start : start + _SCOPES_AT_ONCE]
        while part:
            most = _share(len(part))
            counts = yield RedisBatch(tuple(core.redis.answers.clean(scope, most) for scope in part))
            dropped += sum(counts)
            part = [scope for scope, n in zip(part, counts, strict=True) if n >= most]
    core.stats.count("expired", dropped)
    return dropped


def settle(core: Core, timeout: float | None) -> Flow[bool]:
    """Wait until responses have their vectors."""
    if timeout is not None:
        check_duration("timeout", timeout)
    meanings = core.embedding.meanings
    if meanings is None:
        return True
    return bool((yield Compute(lambda: meanings.settle(timeout), None, "the vectors of responses")))


def _count(core: Core) -> Flow[dict[str, Any]]:
    """Count what there is in the cache's own context, and what audits found there."""
    scopes = yield from scopes_with(core, item_digests(core.scopes.context))
    counted = []
    for start in range(0, len(scopes), _SCOPES_AT_ONCE):
        part = scopes[start : start + _SCOPES_AT_ONCE]
        replies = yield RedisBatch(tuple(core.redis.answers.count(scope) for scope in part))
        counted += [core.redis.answers.counted(reply) for reply in replies]
    audited = [Counts(*one.labels) for one in counted]
    audits = Counts(
        audits=sum(one.audits for one in audited), audits_wrong=sum(one.audits_wrong for one in audited)
    )
    target = core.watch.target
    return {
        "scopes": len(scopes),
        "entries": sum(one.entries for one in counted),
        "reported_queries": sum(one.reported for one in counted),
        "bytes": sum(one.size for one in counted),
        "audits": audits.audits,
        "audits_wrong": audits.audits_wrong,
        "false_hit_rate_95": audits.false_hit_rate(),
        "closed_scopes": 0 if target is None else sum(one.is_closed(target) for one in audited),
    }


def try_to_count(core: Core) -> Flow[dict[str, Any] | LixCacheError]:
    """Count what there is in the cache's own context; or return what is in the way."""
    try:
        return (yield from _count(core))
    except LixCacheError as error:
        return error


def health(core: Core) -> Flow[dict[str, Any]]:
    """Try each part once. Raises nothing: trouble is what is asked for."""
    parts: dict[str, dict[str, Any]] = {"redis": (yield from _try_redis(core))}
    embedder, verifier = core.embedding.embedder, core.hits.verifier
    if embedder is None:
        parts["embedder"] = {"status": "off"}
    else:

        def embed() -> None:
            vector = unit_vector(embedder.embed(["health check"]), "what the embedder made")
            check_dimension(vector.size, int(embedder.dim), "the semantic cache")

        found = yield from _try(core, Compute(embed, core.hits.deadline, "the embedder", may_hang=True))
        parts["embedder"] = found if found["status"] != "ok" else {**found, "id": embedder.id}
    if verifier is None:
        parts["verifier"] = {"status": "off"}
    else:

        def score() -> None:
            verified_scores(verifier, [("health check", "health check")])

        ask = Compute(score, core.hits.deadline, "the verifier", may_hang=True)
        parts["verifier"] = yield from _try(core, ask)
    down = parts["redis"]["status"] == "down"
    worse = any(part["status"] in ("down", "degraded") for part in parts.values())
    index = {
        "scopes": len(core.redis.store.indexes),
        "bytes": core.redis.store.indexes.nbytes,
        "limit_bytes": core.redis.store.indexes.budget.limit_bytes,
    }
    status = "down" if down else "degraded" if worse else "ok"
    return {
        "status": status,
        "thresholds": core.hits.fit(str(parts["embedder"].get("id", core.embedding.name))),
        "components": {**parts, "index": {"status": "ok", **index}},
    }


def _try_redis(core: Core) -> Flow[dict[str, Any]]:
    """Ask whether it answers, and whether it takes writes: answers may be served that cannot be stored."""
    found = yield from _try(core, RedisBatch(probe(core.redis.answers.keys), errors_as_values=True))
    if found["status"] != "ok":
        return found
    silent, refused = verdict(found.pop("result"))
    if silent is not None:
        return {"status": "down", "detail": told(silent)}
    return found if refused is None else {**found, "status": "degraded", "detail": told(refused)}


def _try(core: Core, effect: Effect) -> Flow[dict[str, Any]]:
    started = core.clock.monotonic()
    try:
        result = yield effect
    except (LixCacheError, Failed) as error:
        return {"status": "down", "detail": told(error.error if isinstance(error, Failed) else error)}
    found = {"status": "ok", "latency_ms": round((core.clock.monotonic() - started) * 1000, 3)}
    return found if result is None else {**found, "result": result}
