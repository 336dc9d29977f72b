"""What a lookup answers, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from lix_cache.matching.reasons import Reason

__all__ = ["Lookup", "Reason", "Report", "Stop", "Stored"]


@dataclass(frozen=True)
class Lookup:
    """The answer to a lookup.

    Attributes:
        is_hit: whether there is a response. A response may be falsy, so ask this.
        response: what was stored; None for a miss. Like ``detail``, not part of the repr: that
            may end in a log.
        similarity: cosine of the nearest entry, -1 to 1; 1.0 for the exact text; 0.0
            where none was looked for or there is none.
        margin: how much nearer it is than the nearest entry that answers differently; ``inf`` if
            there is none.
        reason: one of :class:`Reason`.
        detail: the reason in words, such as what a guard objected to.
        age_seconds: since the response was stored; None for a miss.
        ttl_remaining_seconds: time to live that the entry has left; None for a miss.
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
    """What happened to a report; true if it was noted.

    Attributes:
        noted: the answer will not be given to that query again. False: there is no such entry
            in the scope of the report (it has ended, or is another context's), and nothing was
            written.
        dropped: an entry paired the two, and was dropped.
    """

    noted: bool
    dropped: bool = False

    def __bool__(self) -> bool:
        return self.noted


@dataclass(frozen=True)
class Stored:
    """What happened to an answer to store; true if it was.

    Attributes:
        entry_id: for :meth:`SemanticCache.report_wrong`; None if nothing was stored.
        refused: why not, as ``get_stats`` counts it under ``stores_refused``: a rule of the policy,
            ``too_large`` or ``not_plain`` of a stream, ``empty``, ``changed``, ``nested`` (the call is
            inside an equal one), ``unshared`` (the equal call that it waited for had an answer that
            could not be shared), ``reported``, ``invalidated`` (while it was made), ``redis``, or the name
            of an error.
    """

    entry_id: str | None = None
    refused: str = ""

    def __bool__(self) -> bool:
        return self.entry_id is not None


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
