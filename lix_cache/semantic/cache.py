"""SemanticCache and its async variant: thin shells. See lookup.py, insert.py and maintenance.py."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.arguments import speaks_for_itself
from lix_cache.clock import Clock
from lix_cache.drivers.aio import AsyncDriver, awaited
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import then
from lix_cache.semantic import calls_in_flight, explain, insert, lookup, maintenance
from lix_cache.semantic.assembled import Assembled
from lix_cache.semantic.calls_in_flight import AsyncInFlightCall, InFlightCall, alanded, landed
from lix_cache.semantic.explain import Explanation
from lix_cache.semantic.result import Lookup, Report

if TYPE_CHECKING:
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncSemanticCache", "SemanticCache"]


@speaks_for_itself
class SemanticCache(Assembled):
    """A cache that finds responses by the meaning of the question. Every lookup gives its reason.

    A lookup is a cascade: the policy, the exact text, the nearest stored queries and their
    margin over entries that answer differently, the guards, the verifier. It sees only entries of
    the same *scope*: everything in the context, the embedder's id and its dimension must match
    exactly.

    Creating one is cheap: it sends nothing and loads no model before the first call. One object
    serves any number of threads.

    Args:
        embedder: makes the vectors. Without one, the cache finds exact texts, and vectors passed to
            each call (then set ``embedding_dim`` in the configuration).
        config: settings; ``CacheConfig()`` by default.
        context: what all calls have in common: tenant, model, system prompt and so on. A call
            may add to it but not change it.
        thresholds: what a semantic hit must reach.
        guards: False for none, or the names of the guards to ask.
        verifier: asked last. If it cannot answer, the lookup is a miss.
        policy: what is not cached, and how long everything else lives.
        settings: how the cache keeps entries, learns, and spends memory and time; by default what the
            configuration says.
        clock: source of durations. Times to live follow the clock of Redis.

    Every method raises RedisUnavailable, RedisAuthError, RedisDatabaseError or
    RedisCommandError if Redis fails. With ``on_cache_error="miss"``, RedisUnavailable becomes a
    counted miss of :meth:`lookup`, and a None of :meth:`store`.
    """

    def _connect(self, clock: Clock) -> None:
        self._drive = SyncDriver(self._endpoint, clock)

    def lookup(
        self,
        query: str,
        *,
        context: Mapping[str, Any] | None = None,
        query_embedding: VectorLike | None = None,
        similarity_threshold: float | None = None,
    ) -> Lookup:
        """Look for a response. One round trip for an exact hit and for most misses, else two.

        Args:
            query: its text.
            context: what must match exactly, beside the cache's own context.
            query_embedding: shape (dim,), if you have it already.
            similarity_threshold: overrides ``thresholds.threshold``.

        Raises:
            InvalidInput: the query is empty or no str.
            InvalidContext: it holds a value that cannot be compared exactly, or contradicts the
                cache's own context.
            InvalidVector, DimensionMismatch: the vector is not usable.
            MissingExtra: the embedder or the verifier needs a package that is not installed.
        """
        query_ = lookup.Query(query, context, query_embedding, similarity_threshold)
        return self._drive(lookup.lookup(self._core, query_))

    def begin(
        self,
        query: str,
        *,
        context: Mapping[str, Any] | None = None,
        query_embedding: VectorLike | None = None,
        lock_seconds: float = 30.0,
    ) -> Lookup | InFlightCall:
        """Look up an answer; on a miss, begin the call that makes it. For callers that stream.

        Of equal calls (the same text and context) one begins. The others wait for it, in this process
        and in others, and get its answer. If the call is recorded (:meth:`InFlightCall.record`),
        waiting calls of this process get its events as they come. If it fails without an error, is
        dropped or takes longer than ``lock_seconds``, one of the others starts over. Do not begin a call
        inside an equal one: it waits for itself until then.

        Args:
            query: its text.
            context: what must match exactly, beside the cache's own context.
            query_embedding: shape (dim,), if you have it already.
            lock_seconds: how long equal calls wait for one another.

        Returns:
            For a hit a lookup with a response. The response of a stream is an iterable of its events:
            ``Streamed``, or an iterator if the stream still runs. For a miss an in-flight call.

        Raises:
            Exception: a copy of the equal call's error.
            InvalidInput, InvalidContext, InvalidVector, DimensionMismatch, MissingExtra: as
                :meth:`lookup`.
        """
        asked = (query, context, query_embedding, lock_seconds)
        begun = self._drive(calls_in_flight.begin(self._core, self._flights, asked, landed))
        return begun if isinstance(begun, Lookup) else InFlightCall(begun, self._drive)

    def check_availability(
        self,
        query: str,
        *,
        context: Mapping[str, Any] | None = None,
        query_embedding: VectorLike | None = None,
        similarity_threshold: float | None = None,
    ) -> Lookup:
        """Say whether a lookup would hit, without the response and without a trace.

        It counts nothing, prolongs no time to live and keeps no query text. Arguments, errors and
        round trips are those of :meth:`lookup`.
        """
        query_ = lookup.Query(query, context, query_embedding, similarity_threshold, peek=True)
        return self._drive(lookup.lookup(self._core, query_))

    def explain(
        self,
        query: str,
        *,
        context: Mapping[str, Any] | None = None,
        query_embedding: VectorLike | None = None,
        similarity_threshold: float | None = None,
        limit: int = 8,
    ) -> Explanation:
        """Say why a lookup would hit or miss, without a trace: the decision, and the nearest entries.

        Arguments and errors are those of :meth:`lookup`. It costs two round trips, or three.

        Args:
            limit: neighbours to return, 50 at most.
        """
        query_ = lookup.Query(query, context, query_embedding, similarity_threshold)
        return self._drive(explain.explain(self._core, query_, limit))

    def store(
        self,
        query: str,
        response: Any,
        *,
        context: Mapping[str, Any] | None = None,
        query_embedding: VectorLike | None = None,
        ttl_seconds: float | None = None,
        tags: Sequence[str] = (),
        tokens: tuple[int, int] | None = None,
    ) -> str | None:
        """Store a response. It replaces one for the same text. One round trip.

        Args:
            query: its text.
            response: anything but None that ``lix_cache.values`` can carry.
            context: what must match exactly, beside the cache's own context.
            query_embedding: shape (dim,), if you have it already. If none can be made, the
                response is still stored, and found by its exact text.
            ttl_seconds: time to live of this entry, instead of the policy's.
            tags: words to invalidate it by.
            tokens: of the prompt and of the completion, to count savings; estimated from the
                lengths by default.

        Returns:
            The entry's id. None if it was not stored, because the policy excludes it or the answer was
            reported as wrong for this text; ``get_stats`` counts that under ``stores_refused``.

        Raises:
            InvalidInput: the query, the response, the tags or the tokens are not usable.
            InvalidContext, InvalidVector, DimensionMismatch, MissingExtra: as :meth:`lookup`.
        """
        answer = insert.Answer(query, response, context, query_embedding, ttl_seconds, tags, tokens)
        return self._drive(then(insert.store(self._core, answer), lambda stored: stored.entry_id))

    def invalidate(
        self,
        *,
        context: Mapping[str, Any] | None = None,
        tags: Sequence[str] = (),
        older_than_seconds: float | None = None,
        similar_to: str | None = None,
        similarity: float = 0.9,
    ) -> int:
        """Drop the entries that match all given criteria. Returns their number.

        Args:
            context: items of the context. Matches all scopes that have them, with any other items
                and any embedder. The cache's own context is always included; ``{}`` adds nothing
                to it.
            tags: entries with at least one of these words match.
            older_than_seconds: least age.
            similar_to: entries of this embedder near this text match.
            similarity: how near, a cosine.

        Raises:
            InvalidInput: no criterion, or an invalid one.
            ComputeTimeout: no vector of ``similar_to`` in time; nothing was dropped.
        """
        criteria = maintenance.Criteria(context, tags, older_than_seconds, similar_to, similarity)
        return self._drive(maintenance.invalidate(self._core, criteria))

    def report_wrong(self, entry_id: str, query: str, *, context: Mapping[str, Any] | None = None) -> Report:
        """Report that a response does not answer a query. One round trip.

        The cache never again answers that query with that answer, nor stores it for it. It remembers
        this for a year after the last report or store in the scope.

        Args:
            entry_id: of the lookup that answered, or of the store.
            query: the question that got the wrong answer.
            context: as in that lookup or store. An id of another context is no entry here.

        Returns:
            Whether the report was noted, and whether an entry that paired the two was dropped. A report
            about an entry that has expired, or is not in this context, is not noted.

        Raises:
            InvalidInput: not an entry's id, or an empty query.
            InvalidContext: as :meth:`lookup`.
        """
        return self._drive(maintenance.report_wrong(self._core, entry_id, query, context))

    def cleanup_expired(self) -> int:
        """Drop expired entries, in all scopes under the prefix. Returns their number.

        Expired entries never answer; this frees their memory.
        """
        return self._drive(maintenance.clean_up(self._core))

    def start_cleanup(self, interval_seconds: float = 60.0) -> None:
        """Clean up in a background thread at this interval, until :meth:`stop_cleanup`."""
        self._cleaner.start(interval_seconds)

    def stop_cleanup(self) -> None:
        """Ask the background thread to end."""
        self._cleaner.stop()

    def settle(self, timeout: float | None = None) -> bool:
        """Wait until the responses stored so far have their vectors; False if that took longer.

        No other method needs it: it is for tests and repeatable measurements.
        """
        return self._drive(maintenance.settle(self._core, timeout))

    def get_stats(self) -> dict[str, Any]:
        """Return the counts of this object, and what Redis holds in its context.

        Costs one round trip for 500 scopes and one for each 50 of them: do not call it per request.
        """
        return self._drive(then(maintenance.try_to_count(self._core), self._stats))

    def health_check(self) -> dict[str, Any]:
        """Try Redis, embedder and verifier once. Returns their states; raises nothing.

        ``status`` is ``ok``, ``degraded`` (fewer answers, or none can be stored) or ``down`` (no answers).
        It also asks whether Redis takes writes, and leaves nothing behind.
        """
        return self._drive(maintenance.health(self._core))


@speaks_for_itself
class AsyncSemanticCache(Assembled):
    """Async variant of :class:`SemanticCache`: same arguments, same meaning.

    Embedder and verifier work in threads, so the event loop never waits for them.
    """

    def _connect(self, clock: Clock) -> None:  # noqa: ARG002 - the loop keeps this variant's time
        self._drive = AsyncDriver(self._endpoint)

    lookup = awaited(SemanticCache.lookup)

    async def begin(
        self,
        query: str,
        *,
        context: Mapping[str, Any] | None = None,
        query_embedding: VectorLike | None = None,
        lock_seconds: float = 30.0,
    ) -> Lookup | AsyncInFlightCall:
        """See :meth:`SemanticCache.begin`."""
        asked = (query, context, query_embedding, lock_seconds)
        begun = await self._drive(calls_in_flight.begin(self._core, self._flights, asked, alanded))
        return begun if isinstance(begun, Lookup) else AsyncInFlightCall(begun, self._drive)

    check_availability = awaited(SemanticCache.check_availability)

    explain = awaited(SemanticCache.explain)

    store = awaited(SemanticCache.store)
    invalidate = awaited(SemanticCache.invalidate)
    report_wrong = awaited(SemanticCache.report_wrong)
    cleanup_expired = awaited(SemanticCache.cleanup_expired)

    async def start_cleanup(self, interval_seconds: float = 60.0) -> None:
        """See :meth:`SemanticCache.start_cleanup`."""
        self._cleaner.start(interval_seconds)

    async def stop_cleanup(self) -> None:
        """See :meth:`SemanticCache.stop_cleanup`."""
        self._cleaner.stop()

    settle = awaited(SemanticCache.settle)

    get_stats = awaited(SemanticCache.get_stats)
    health_check = awaited(SemanticCache.health_check)
