"""What a hit answers: an entry's bytes and its response. See lix_cache.effects."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.effects import Compute, Flow, RedisBatch
from lix_cache.errors import CodecError
from lix_cache.hot import entries
from lix_cache.hot.entries import LARGE_BYTES, EntryId
from lix_cache.matching.reasons import Reason
from lix_cache.semantic.core import Core, Scope
from lix_cache.semantic.result import Lookup, Stop
from lix_cache.values.codec import decode_value, read_head

if TYPE_CHECKING:
    from lix_cache.hot.found import Served
    from lix_cache.matching.decision import Decision

__all__ = ["served"]


def served(
    core: Core, scope: Scope, found: Served, decision: Decision | None = None, *, peek: bool
) -> Flow[Lookup]:
    """Answer with an entry.

    Args:
        core: the cache.
        scope: of the entry.
        found: the entry.
        decision: on what grounds it answers; None: it has the very text.
        peek: leave the response out, and no trace.
    """
    now_ms, number, meta, data = found
    response = None
    if not peek:
        response = yield from _decoded(core, scope, meta.response_key, data)
        core.stats.saved(meta.tokens)
        if decision is not None:
            core.watch.seen(scope.id, decision.score)
    return Lookup(
        True,
        response,
        similarity=1.0 if decision is None else decision.similarity,
        margin=float("inf") if decision is None else decision.margin,
        reason=Reason.EXACT if decision is None else Reason.SEMANTIC,
        age_seconds=max(0.0, now_ms - meta.created_ms) / 1000,
        ttl_remaining_seconds=max(0.0, meta.expires_ms - now_ms) / 1000,
        entry_id=str(EntryId(number, meta.nonce)),
    )


def _decoded(core: Core, scope: Scope, key: bytes, head: bytes) -> Flow[Any]:
    """Read a response. One of 10 MB or more is in parts, which are another round trip."""
    try:
        parts = read_head(head)
        chunks: Sequence[bytes | None] = ()
        if parts.chunks:
            chunks = yield RedisBatch(core.redis.answers.parts(scope.id, key, parts.chunks))
            if None in chunks:
                raise Stop(Reason.GONE, "the response was dropped in between")
        if not parts.chunks and len(head) < LARGE_BYTES:
            return decode_value(parts)
        return (yield Compute(lambda: decode_value(parts, chunks), None, "decoding"))
    except CodecError as error:
        raise entries.foreign("a response", head) from error
