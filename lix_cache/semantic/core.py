"""A semantic cache as its flows see it: by subject, see :class:`~lix_cache.SemanticCache`."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from lix_cache.effects import Flow
from lix_cache.errors import InvalidInput
from lix_cache.hot.answers import Use
from lix_cache.hot.entries import NONCE_BYTES
from lix_cache.matching.guards import Objection
from lix_cache.matching.guards.reading import read
from lix_cache.matching.text import normalise
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds, is_measured_for
from lix_cache.semantic.scope import canonical, embedder_word, item_digests, merged, scope_of

if TYPE_CHECKING:
    from lix_cache.clock import Clock
    from lix_cache.semantic.embedding import Embedding
    from lix_cache.semantic.policy import CachePolicy
    from lix_cache.semantic.stats import Stats
    from lix_cache.semantic.store import Backend
    from lix_cache.semantic.watch import Watch
    from lix_cache.verifiers.protocol import Verifier

__all__ = ["Core", "EntryRules", "HitRules", "Scope", "Scopes", "new_nonce", "query_text"]

_REMEMBERED_SCOPES = 1024
#: Bytes of a context (a long system prompt, say) up to which its scope is remembered.
_LARGEST_REMEMBERED = 16 * 1024


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
class Scopes:
    """The scopes that a cache reaches.

    Attributes:
        context: what every call is about.
        version: whatever else makes old answers unusable.
    """

    context: Mapping[str, Any]
    version: str
    _own: Scope | None = None
    _known: dict[bytes, Scope] = field(default_factory=dict)

    def of(self, context: Mapping[str, Any] | None, embedding: Embedding) -> Flow[Scope]:
        """Return the scope of the cache's own context and of what a call adds."""
        if context is None and self._own is not None:
            return self._own
        name, dim = yield from embedding.identity()
        whole = merged(self.context, context)
        # Remembered by its bytes, not by the mapping, which may change.
        form = canonical(whole)
        scope = self._known.get(form)
        if scope is None:
            items = item_digests(whole) | {embedder_word(name, dim)}
            scope = Scope(scope_of(whole, name, dim, self.version), dim, items)
            if len(self._known) >= _REMEMBERED_SCOPES:
                self._known.clear()
            if len(form) <= _LARGEST_REMEMBERED:
                self._known[form] = scope
        if context is None:
            self._own = scope
        return scope


@dataclass(frozen=True)
class HitRules:
    """What a lookup must pass to be a hit.

    Attributes:
        policy: what is not to be cached at all.
        thresholds: what an entry must reach by its numbers.
        object_to: the guards: query and cached normalised to an objection or None.
        verifier: asked last.
        verifier_threshold: least score that it must give.
        deadline: seconds that it has for one call; None for no limit.
    """

    policy: CachePolicy
    thresholds: Thresholds
    object_to: Callable[[str, str], Objection | None]
    verifier: Verifier | None
    verifier_threshold: float
    deadline: float | None

    def fit(self, embedder: str) -> str:
        """Return what the thresholds are for an embedder: measured, cautious, or the user's own."""
        if self.thresholds != DEFAULT_THRESHOLDS:
            return "own"
        return "measured" if is_measured_for(embedder) else "cautious"

    def is_strange(self, embedder: str, text: str) -> bool:
        """Whether the thresholds in force were not measured for this embedder or this language."""
        fit = self.fit(embedder)
        return fit == "cautious" or (fit == "measured" and read(text).language != "en")


@dataclass(frozen=True)
class EntryRules:
    """How entries are kept.

    Attributes:
        ttl_seconds: their time to live, unless the policy or a call says otherwise.
        max_entries: of one scope.
        use: how a use is noted: the eviction's order, and the sliding time to live.
    """

    ttl_seconds: float
    max_entries: int
    use: Use


@dataclass
class Core:
    """A semantic cache, put together.

    Attributes:
        scopes: where answers may come from.
        embedding: how texts become vectors.
        hits: what a hit must pass.
        entries: how entries are kept.
        redis: where they are kept.
        watch: what the cache learns about its own answers.
        stats: what it counts.
        clock: for durations. Times to live go by the clock of Redis.
    """

    scopes: Scopes
    embedding: Embedding
    hits: HitRules
    entries: EntryRules
    redis: Backend
    watch: Watch
    stats: Stats
    clock: Clock

    def scope(self, context: Mapping[str, Any] | None) -> Flow[Scope]:
        """Return the scope of the cache's own context and of what a call adds."""
        return self.scopes.of(context, self.embedding)

    def renew_locks(self) -> None:
        """In a forked child: let no lock be held by a thread that was not forked with it."""
        self.stats.renew_lock()
        self.watch.renew_lock()


def new_nonce() -> bytes:
    """Return random bytes that tell an entry, a generation or a caller from all others."""
    return os.urandom(NONCE_BYTES)


def query_text(query: object, name: str = "the query") -> str:
    """Return a query in the form that the exact tier compares and the embedder sees.

    Args:
        query: what was given.
        name: of the argument, for errors.

    Raises:
        InvalidInput: not a str, or nothing in it.
    """
    if not isinstance(query, str):
        advice = "; CachePolicy.extract_query takes it out of messages" if isinstance(query, list) else ""
        raise InvalidInput(f"{name} must be a str, got {type(query).__name__}{advice}")
    normalised = normalise(query)
    if not normalised:
        raise InvalidInput(f"{name} is empty")
    return normalised
