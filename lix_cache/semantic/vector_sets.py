"""Scopes too large to search in this process: a vector set of Redis 8 finds candidates.

A vector set (``VADD``, ``VSIM``) is an approximate index, a graph of small worlds (Malkov and
Yashunin 2016) over vectors of 8 bits a number. It follows the scope's log inside the server
(lix_cache/hot/lua/answers/follow.lua), so writers need not know of it. What it
finds is only where to look: the decision is made from the exact vectors in the log, and an
entry must be alive in the hash of entries to answer. So it can overlook an entry, which costs
a hit or, rarely, the neighbour that would have disagreed; it cannot make up an answer.

One script searches and brings what the decision needs, and the responses of the nearest, so that
a hit needs no further round trip, unless its response is large.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lix_cache.effects import Flow, RedisCall
from lix_cache.semantic.index import ScopeIndex, View

if TYPE_CHECKING:
    from lix_cache.hot.found import Neighbours, Served
    from lix_cache.semantic.core import Core, Scope
    from lix_cache.vectors import FloatArray

__all__ = ["Nearest", "nearest"]

#: Candidates for a decision: enough that some disagree with the best, to measure its margin.
_WANTED = 64
#: Paths that a search keeps open. scripts/bench_vectors.py measures what it finds and costs.
_EFFORT = 200
#: Of how many of the nearest the responses come along. By 8 bits a number the order is nearly
#: the exact one, and all candidates of one answer share its response.
_ANSWERED = 8
#: Bytes of responses that come along, at most. The vectors are more than that.
_ROOM = 64 * 1024


@dataclass(frozen=True)
class Nearest:
    """What one search brought, all of one moment.

    Attributes:
        view: the candidates.
        brought: the reply.
    """

    view: View
    brought: Neighbours

    def answer(self, number: bytes, waited_ms: float) -> Served | None:
        """Return a candidate as if it had been admitted; None if its response did not come along.

        None also if it has expired while the client made up its mind: the server has to say.

        Args:
            number: of the candidate.
            waited_ms: since the search was sent.
        """
        found = self.brought.served(number)
        return None if found is None or found.meta.expires_ms <= found.now_ms + waited_ms else found


def nearest(
    core: Core, scope: Scope, digest: bytes, vector: FloatArray, *, peek: bool = False
) -> Flow[Nearest]:
    """Return the entries that may be nearest. One round trip.

    Where a use prolongs the time to live of an entry no response comes along, for that must be noted at
    once: until the next request the entry might have ended.

    Args:
        core: the cache.
        scope: where to look.
        digest: of the query text.
        vector: shape (dim,), unit length.
        peek: instead of responses, only say which are there.
    """
    room = -1 if peek else 0 if core.entries.use.slide_ms else _ROOM
    call = core.redis.answers.nearest(
        scope.id, digest, vector, wanted=_WANTED, effort=_EFFORT, first=_ANSWERED, room=room
    )
    brought = core.redis.answers.neighbours((yield RedisCall(call)))
    # Read and checked as the news of an index are.
    index = ScopeIndex(scope.dim)
    view = index.follow(brought.found, index.place) or index.view()
    core.stats.count("vector_set_lookups")
    return Nearest(view, brought)
