"""What a lookup answers, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final

__all__ = ["Lookup", "Reason", "Report"]


class Reason:
    """The reasons of :class:`Lookup`, as plain text that can be counted and logged.

    Hits: ``exact`` and ``semantic``. Misses say which step of the cascade ended it.
    """

    #: The same wording, normalised, was stored.
    EXACT: Final = "exact"
    #: Near enough, ahead of everything that answers differently, and nobody objected.
    SEMANTIC: Final = "semantic"
    #: Nothing is stored in this scope.
    EMPTY: Final = "empty"
    #: Nothing is near enough.
    BELOW_THRESHOLD: Final = "below_threshold"
    #: Something that answers differently is nearly as near.
    MARGIN: Final = "margin"
    #: Near and ahead, but similarity, lead and witnesses together are not enough.
    EVIDENCE: Final = "evidence"
    #: A guard found that the two wordings differ in what matters.
    GUARD: Final = "guard"
    #: The verifier says that they do not ask the same.
    VERIFIER: Final = "verifier"
    #: The verifier could not answer, so nobody vouches for the hit.
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
    #: The answer was reported as wrong for this very wording.
    REPORTED: Final = "reported"
    #: What was nearest expired or was dropped in between.
    GONE: Final = "gone"
    #: Redis is away, and ``on_cache_error`` is ``"miss"``.
    REDIS: Final = "redis"

    #: The reasons of a hit.
    HITS: Final = frozenset({EXACT, SEMANTIC})


@dataclass(frozen=True)
class Lookup:
    """The answer to a lookup.

    Attributes:
        is_hit: whether there is a response. A response may be falsy, so ask this.
        response: what was stored; None for a miss. Like ``detail``, not part of the repr: that
            may end in a log.
        similarity: cosine of the nearest wording, -1 to 1; 1.0 for the exact text; 0.0
            where none was looked for or there is none.
        margin: its lead over the nearest wording that answers differently; ``inf`` if
            there is none.
        reason: one of :class:`Reason`.
        detail: the reason in words, such as what a guard objected to.
        age_seconds: since the response was stored; None for a miss.
        ttl_remaining_seconds: life that the entry has left; None for a miss.
        entry_id: for :meth:`SemanticCache.report_wrong`; None for a miss.
    """

    is_hit: bool
    response: Any = field(default=None, repr=False)
    similarity: float = 0.0
    margin: float = float("inf")
    reason: str = Reason.EMPTY
    detail: str = field(default="", repr=False)
    age_seconds: float | None = None
    ttl_remaining_seconds: float | None = None
    entry_id: str | None = None

    def __bool__(self) -> bool:
        return self.is_hit


@dataclass(frozen=True)
class Report:
    """What became of a report; true if it was noted.

    Attributes:
        noted: the answer will not be given to that wording again. False: there is no such entry
            in the scope of the report (it has ended, or is another context's), and nothing was
            written.
        dropped: an entry paired the two, and was dropped.
    """

    noted: bool
    dropped: bool = False

    def __bool__(self) -> bool:
        return self.noted
