"""What all flows of a semantic cache share: settings, scopes, vectors, and who is asked how."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.compat.ring import unit_vector
from lix_cache.compute import Failed
from lix_cache.effects import Compute, Flow, RedisBatch, RedisCall
from lix_cache.embedders.passages import passages
from lix_cache.errors import ComputeTimeout, ConfigError, InvalidInput, MissingExtra, RedisUnavailable, told
from lix_cache.hot import entries
from lix_cache.hot.answers import Use
from lix_cache.matching.guards import Objection
from lix_cache.matching.guards.reading import read
from lix_cache.matching.reasons import Reason
from lix_cache.matching.text import normalise
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds, is_lexical, is_measured_for
from lix_cache.semantic.deferred import Later
from lix_cache.semantic.result import Lookup
from lix_cache.semantic.scope import canonical, embedder_word, item_digests, merged, scope_of
from lix_cache.semantic.stats import Stats
from lix_cache.vectors import check_dimension

if TYPE_CHECKING:
    from lix_cache.clock import Clock
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.hot.answers import Answers
    from lix_cache.hot.breaker import Breaker
    from lix_cache.hot.keys import Keys
    from lix_cache.hot.scripts import ScriptCall
    from lix_cache.semantic.index import IndexPool
    from lix_cache.semantic.policy import CachePolicy
    from lix_cache.semantic.response_vectors import Meanings
    from lix_cache.semantic.watch import Watch
    from lix_cache.vectors import FloatArray, VectorLike
    from lix_cache.verifiers.protocol import Verifier

__all__ = ["EVICTIONS", "Core", "Scope", "Spent", "Stop", "query_text"]

T = TypeVar("T")

#: How an entry is chosen where there are too many, as the scripts name it. Of equals the oldest.
EVICTIONS = {"fifo": 0, "lru": 1, "lfu": 2}

_REMEMBERED_VECTORS = 512
_REMEMBERED_SCOPES = 1024
#: Bytes of a context (a long system prompt, say) up to which its scope is remembered.
_LARGEST_REMEMBERED = 16 * 1024


class Stop(Exception):
    """Ends a lookup with a miss.

    Attributes:
        found: what the lookup answers.
    """

    def __init__(
        self, reason: str, detail: str = "", similarity: float = 0.0, margin: float = float("inf")
    ) -> None:
        super().__init__(reason)
        self.found = Lookup(False, reason=reason, detail=detail, similarity=similarity, margin=margin)


@dataclass
class Spent:
    """Seconds that one call spent on waiting for embedder and verifier."""

    seconds: float = 0.0


@dataclass(frozen=True)
class Scope:
    """Where an answer may come from.

    Attributes:
        id: digest of everything that must match exactly.
        dim: numbers in each of its vectors; 0 if there are none.
        items: 8 bytes for each item of the context, and for the embedder.
    """

    id: str
    dim: int
    items: frozenset[bytes]


@dataclass
class Core:
    """Settings and helpers; see :class:`~lix_cache.semantic.cache.SemanticCache` for what they mean.

    Attributes:
        object_to: the guards: query and cached normalised to an objection or None.
        eviction: one of the numbers in ``EVICTIONS``.
        slide_ms: how much a hit prolongs an entry; 0 for not at all.
        deadline: seconds that embedder and verifier have for one call; None for no limit.
        new_nonce: makes 8 random bytes.
        later: notes that go with the next request to their scope.
        meanings: embeds responses behind the callers' backs; None: they are compared by equality.
        watch: what the cache learns about its own answers.
    """

    keys: Keys
    answers: Answers
    indexes: IndexPool
    embedder: Embedder | None
    context: Mapping[str, Any]
    thresholds: Thresholds
    object_to: Callable[[str, str], Objection | None]
    verifier: Verifier | None
    verifier_threshold: float
    policy: CachePolicy
    ttl_seconds: float
    slide_ms: int
    max_entries: int
    eviction: int
    version: str
    deadline: float | None
    miss_on_error: bool
    breaker: Breaker
    clock: Clock
    new_nonce: Callable[[], bytes]
    embedder_id: str
    dim: int | None
    watch: Watch
    meanings: Meanings | None = None
    stats: Stats = field(default_factory=Stats)
    later: Later = field(default_factory=Later)
    _identity: tuple[str, int] | None = None
    _vectors: OrderedDict[bytes, FloatArray] = field(default_factory=OrderedDict)
    _own: Scope | None = None
    _scopes: dict[bytes, Scope] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def renew_locks(self) -> None:
        """In a forked child: let no lock be held by a thread that was not forked with it."""
        self._lock = threading.Lock()
        self._vectors = OrderedDict()
        self.later = Later()  # the parent sends its own
        self.indexes.renew_locks()
        self.stats.renew_lock()
        self.watch.renew_lock()

    # -- Redis ----------------------------------------------------------------------------

    def with_notes(self, scope_id: str, *calls: ScriptCall) -> Flow[list[Any]]:
        """Send calls to a scope, and before them in the same round trip what waited for one."""
        notes = self.later.take(scope_id)
        if not notes:
            if len(calls) == 1:
                return [(yield RedisCall(calls[0]))]
            return list((yield RedisBatch(calls)))
        sent = (*(note.call for note in notes), *calls)
        replies = yield RedisBatch(sent, errors_as_values=True)
        for note, reply in zip(notes, replies, strict=False):
            if isinstance(reply, Exception):
                self.stats.trouble("note_errors", reply)
            elif note.then is not None:
                note.then(reply)
        asked: list[Any] = list(replies[len(notes) :])
        for reply in asked:
            if isinstance(reply, Exception):
                raise reply
        return asked

    def is_strange(self, text: str) -> bool:
        """Whether the thresholds in force were not measured for this embedder or this language."""
        if self.thresholds != DEFAULT_THRESHOLDS:
            return False
        name = "" if self._identity is None else self._identity[0]
        return not is_measured_for(name) or read(text).language != "en"

    def answer_meanings(self) -> Meanings | None:
        """Return what embeds responses; None where they are compared by equality.

        An answer need not share words with its question, and two that differ in one word may say the
        opposite. So lexical vectors of responses would cost right hits, and let wrong ones pass.
        """
        is_known_lexical = self._identity is not None and is_lexical(self._identity[0])
        return None if is_known_lexical else self.meanings

    @property
    def use(self) -> Use:
        """How a use is noted: the eviction's order, and the sliding life."""
        return Use(self.eviction, self.slide_ms)

    def guarded(self, flow: Flow[T], otherwise: Callable[[str], T]) -> Flow[T]:
        """Run a flow under the policy for trouble with Redis.

        Args:
            flow: what to do.
            otherwise: makes the answer from the trouble's text, while Redis is away and
                ``on_cache_error`` is ``"miss"``.
        """
        try:
            return (yield from flow)
        except RedisUnavailable as error:
            if not self.miss_on_error:
                raise
            if not self.breaker.is_open:
                self.stats.trouble("redis_errors", error)
                self.breaker.trip()
            self.stats.count("degraded")
            return otherwise(str(error))

    def check_breaker(self) -> None:
        """Raise at once while Redis was away a moment ago, so that not everybody waits to find out."""
        if self.miss_on_error and self.breaker.is_open:
            raise RedisUnavailable("Redis was away a moment ago")

    # -- scopes ---------------------------------------------------------------------------

    def identity(self) -> Flow[tuple[str, int]]:
        """Return the embedder's id and dimension. A model may be loaded for the answer."""
        if self._identity is None:
            embedder = self.embedder
            if embedder is None:
                self._identity = self.embedder_id, self.dim or 0
            else:
                asked = yield from self.embedding(lambda: (str(embedder.id), int(embedder.dim)), Spent())
                check_dimension(asked[1], self.dim, "the semantic cache (embedding_dim)")
                self._identity = asked
        return self._identity

    def scope(self, context: Mapping[str, Any] | None) -> Flow[Scope]:
        """Return the scope of the cache's own context and of what a call adds."""
        if context is None and self._own is not None:
            return self._own
        name, dim = yield from self.identity()
        whole = merged(self.context, context)
        # Remembered by its bytes, not by the mapping, which may change.
        form = canonical(whole)
        scope = self._scopes.get(form)
        if scope is None:
            items = item_digests(whole) | {embedder_word(name, dim)}
            scope = Scope(scope_of(whole, name, dim, self.version), dim, items)
            if len(self._scopes) >= _REMEMBERED_SCOPES:
                self._scopes.clear()
            if len(form) <= _LARGEST_REMEMBERED:
                self._scopes[form] = scope
        if context is None:
            self._own = scope
        return scope

    # -- vectors --------------------------------------------------------------------------

    def given(self, embedding: VectorLike, scope: Scope) -> FloatArray:
        """Check a vector that the application made."""
        vector = unit_vector(embedding)
        if scope.dim == 0:
            raise ConfigError(
                "a query_embedding needs a known dimension: give the cache an embedder, "
                "or set embedding_dim and embedder_id in its configuration"
            )
        check_dimension(vector.size, scope.dim, "the semantic cache")
        return vector

    def vector(self, text: str, dim: int, spent: Spent) -> Flow[FloatArray]:
        """Embed a text.

        Raises:
            Stop: it cannot be done, with the reason.
        """
        embedder = self.embedder
        if embedder is None:
            raise Stop(Reason.NO_EMBEDDING, "there is no embedder, and no query_embedding was given")
        key = entries.text_digest(text)
        with self._lock:
            known = self._vectors.get(key)
        if known is not None:
            return known

        def embed() -> FloatArray:
            parts = passages(text)
            made = _mean(embedder.embed(parts), len(parts))
            check_dimension(made.size, dim, "the semantic cache")
            return made

        vector: FloatArray = yield from self.embedding(embed, spent)
        with self._lock:
            # A miss is followed by a store of the same text.
            self._vectors[key] = vector
            if len(self._vectors) > _REMEMBERED_VECTORS:
                self._vectors.popitem(last=False)
        return vector

    def vector_or_none(self, text: str, dim: int, spent: Spent) -> Flow[FloatArray | None]:
        """Embed a text; None where that cannot be done: then only its exact words find it."""
        try:
            return (yield from self.vector(text, dim, spent))
        except Stop:
            return None

    def embedding(self, call: Callable[[], T], spent: Spent) -> Flow[T]:
        """Let the embedder work within the deadline.

        Raises:
            Stop: it did not, with the reason.
            MissingExtra: a package it needs is not installed. No later call would do better, so it
                is no miss: as a miss nobody would learn of it.
        """
        started = self.clock.monotonic()
        try:
            result: T = yield Compute(call, self.deadline, "the embedder", may_hang=True)
        except ComputeTimeout as error:
            self.stats.trouble("embedder_errors", error)
            raise Stop(Reason.EMBEDDER_TIMEOUT, str(error)) from error
        except Failed as failed:
            self.stats.trouble("embedder_errors", failed.error)
            if isinstance(failed.error, MissingExtra):
                raise failed.error from None
            raise Stop(Reason.EMBEDDER_FAILED, told(failed.error)) from failed.error
        finally:
            self.spend("embed", started, spent)
        return result

    def spend(self, what: str, started: float, spent: Spent) -> None:
        """Note how long somebody else took."""
        seconds = self.clock.monotonic() - started
        spent.seconds += seconds
        self.stats.took(what, seconds)


def _mean(vectors: Any, wanted: int) -> FloatArray:
    """Return the mean of the passages of one text."""
    if wanted == 1:
        return unit_vector(vectors, "what the embedder made")
    # Rows too few or too many would make the mean of some other text, and look like a vector all the same.
    if len(vectors) != wanted:
        raise InvalidInput(f"the embedder made {len(vectors)} vectors of {wanted} passages")
    parts = [unit_vector(vector, "what the embedder made") for vector in vectors]
    return unit_vector(sum(parts[1:], parts[0]), "what the embedder made")


def query_text(query: object) -> str:
    """Return a query in the form that the exact tier compares and the embedder sees.

    Raises:
        InvalidInput: not a str, or nothing in it.
    """
    if not isinstance(query, str):
        advice = "; CachePolicy.extract_query takes it out of messages" if isinstance(query, list) else ""
        raise InvalidInput(f"the query must be a str, got {type(query).__name__}{advice}")
    normalised = normalise(query)
    if not normalised:
        raise InvalidInput("the query is empty")
    return normalised
