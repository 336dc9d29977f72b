"""Scopes too large to search in this process: a vector set of Redis 8 finds candidates.

A vector set (``VADD``, ``VSIM``) is an approximate index, a graph of small worlds (Malkov and
Yashunin 2016) over vectors of 8 bits a number. It follows the scope's log inside the server
(see ``FOLLOW`` in lix_cache/hot/answer_scripts.py), so writers need not know of it. What it
finds is only where to look: the decision is made from the exact vectors in the log, and an
entry must be alive in the hash of entries to answer. So it can overlook an entry, which costs
a hit or, rarely, the neighbour that would have disagreed; it cannot make up an answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lix_cache.effects import Flow, RedisCall
from lix_cache.hot import answer_scripts
from lix_cache.semantic.index import ScopeIndex, View

if TYPE_CHECKING:
    from lix_cache.semantic.core import Core, Scope
    from lix_cache.vectors import FloatArray

__all__ = ["large_from", "nearest"]

#: Candidates for a decision: enough that some disagree with the best, for the lead over them.
_WANTED = 64
#: Paths that a search keeps open. scripts/bench_scale.py measures what it finds and costs.
_EFFORT = 200


def large_from(core: Core) -> Flow[int | None]:
    """Return from how many entries on a vector set answers; None if the server has none.

    One round trip, once in a process, if scopes can grow so large.
    """
    if core.large_from is not None and core.has_vector_sets is None:
        call = core.call(answer_scripts.HAS_VECTOR_SETS, "probe")
        core.has_vector_sets = bool((yield RedisCall(call)))
    return core.large_from if core.has_vector_sets else None


def nearest(core: Core, scope: Scope, digest: bytes, vector: FloatArray) -> Flow[tuple[View, Any]]:
    """Return the entries that may be nearest as a view, and the script's answer. One round trip."""
    call = core.call(answer_scripts.NEAREST, scope.id, digest, vector.tobytes(), _WANTED, _EFFORT)
    now, reported, rows = yield RedisCall(call)
    # Read and checked as the news of an index are, whose order is that of the log.
    index = ScopeIndex(scope.dim)
    different = {bytes(row[0]): row for row in rows}
    view = index.follow(b"R", (b"candidates", sorted(different.values(), key=_order), b"0-0"), float(now))
    core.tally.count("vector_set_lookups")
    return view, (b"V", now, reported)


def _order(row: Any) -> tuple[int, int]:
    ms, _, n = bytes(row[0]).partition(b"-")
    return int(ms), int(n)
