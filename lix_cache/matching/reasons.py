"""Why a lookup is a hit or a miss: the one list of reasons. Pure."""

from __future__ import annotations

from typing import Final

__all__ = ["Reason"]


class Reason:
    """The reasons of a ``Lookup``, as plain text that can be counted and logged.

    Hits: ``exact``, ``semantic`` and ``shared``. Misses say which step of the cascade ended it.
    """

    #: The same text, normalised, was stored.
    EXACT: Final = "exact"
    #: Near enough, ahead of everything that answers differently, and no guard objected.
    SEMANTIC: Final = "semantic"
    #: An equal call was under way, and this is its answer.
    SHARED: Final = "shared"
    #: Nothing is stored in this scope.
    EMPTY: Final = "empty"
    #: Nothing is near enough.
    BELOW_THRESHOLD: Final = "below_threshold"
    #: Something that answers differently is nearly as near.
    MARGIN: Final = "margin"
    #: Near and ahead, but similarity, margin and votes add up to too low a score.
    SCORE: Final = "score"
    #: A guard found that the two queries differ in what matters.
    GUARD: Final = "guard"
    #: The verifier says that they do not ask the same.
    VERIFIER: Final = "verifier"
    #: The verifier could not answer, so nothing vouches for the hit.
    VERIFIER_FAILED: Final = "verifier_failed"
    #: The embedder raised, or made something that is no vector.
    EMBEDDER_FAILED: Final = "embedder_failed"
    #: The embedder did not answer within the deadline.
    EMBEDDER_TIMEOUT: Final = "embedder_timeout"
    #: There is no embedder and no vector was given; the exact text is not stored.
    NO_EMBEDDING: Final = "no_embedding"
    #: The policy says that this query is not to be answered from a cache.
    POLICY: Final = "policy"
    #: It would have been a hit; the function runs all the same, to measure how many hits are wrong.
    AUDIT: Final = "audit"
    #: The answer was reported as wrong for this very query.
    REPORTED: Final = "reported"
    #: What was nearest expired or was dropped in between.
    GONE: Final = "gone"
    #: Redis is away, and ``on_cache_error`` is ``"miss"``.
    REDIS: Final = "redis"

    #: The reasons of a hit.
    HITS: Final = frozenset({EXACT, SEMANTIC, SHARED})
