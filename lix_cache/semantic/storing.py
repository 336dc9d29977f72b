"""Storing, step by step. See lix_cache.effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.checks import check_seconds
from lix_cache.effects import Compute, Flow, RedisBatch, RedisCall
from lix_cache.errors import InvalidContext, InvalidInput
from lix_cache.hot import answer_scripts, vector_set_scripts
from lix_cache.semantic import entry
from lix_cache.semantic.core import Core, Scope, Spent, Stop, wording_of
from lix_cache.semantic.entry import LARGE_BYTES, EntryId, Tokens
from lix_cache.semantic.flow import life_ms
from lix_cache.semantic.lookup import Reason
from lix_cache.semantic.scope import canonical, merged
from lix_cache.semantic.tally import about_tokens
from lix_cache.semantic.values import Encoded, encode_value

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["Answer", "store"]


@dataclass(frozen=True)
class Answer:
    """What is to be stored.

    Attributes:
        text: the query.
        response: anything but None.
        context: what must match exactly, beside the cache's own.
        embedding: of the query, shape (dim,), if it is known already.
        ttl_seconds: life, if it is to be another one than the policy's.
        tags: words to invalidate it by.
        tokens: of the prompt and of the completion, where they are known.
    """

    text: str
    response: Any
    context: Mapping[str, Any] | None = None
    embedding: VectorLike | None = None
    ttl_seconds: float | None = None
    tags: Sequence[str] = ()
    tokens: tuple[int, int] | None = None


@dataclass(frozen=True)
class _Packed:
    """An answer as bytes."""

    wording: str
    response: Encoded
    cluster: bytes
    life_ms: int
    tags: bytes
    tokens: Tokens


def store(core: Core, answer: Answer) -> Flow[str | None]:
    """Store a response: one round trip. Returns the entry's id; None if it was not to be stored."""
    started, spent = core.clock.monotonic(), Spent()

    def unavailable(_: str) -> None:
        core.tally.refused(Reason.REDIS)

    stored = yield from core.guarded(_store(core, answer, spent), unavailable)
    core.tally.took("store", core.clock.monotonic() - started - spent.seconds)
    return stored


def _store(core: Core, answer: Answer, spent: Spent) -> Flow[str | None]:
    wording, tags = wording_of(answer.text), entry.tag_words(answer.tags)
    if answer.response is None:
        raise InvalidInput("the response must not be None: None is what a miss answers")
    tokens = None if answer.tokens is None else Tokens.of(answer.tokens)
    if answer.ttl_seconds is not None:
        check_seconds("ttl_seconds", answer.ttl_seconds)
    context = merged(core.context, answer.context)
    refusal = core.policy.check_store(answer.text, answer.response, context)
    if refusal is not None:
        core.tally.refused(refusal.rule)
        return None
    seconds = answer.ttl_seconds
    if seconds is None:
        seconds = core.policy.ttl_for(answer.text, core.ttl_seconds)
    response, cluster = yield from _encoded(answer.response)
    try:
        scope = yield from core.scope(answer.context)
    except Stop as stop:
        core.tally.refused(stop.found.reason)
        return None
    given = None if answer.embedding is None else core.given(answer.embedding, scope)
    core.check_breaker()
    if tokens is None:
        length = len(answer.response) if isinstance(answer.response, str) else _size(response)
        tokens = Tokens(about_tokens(len(answer.text)), about_tokens(length))
    vector = given
    if vector is None and core.embedder is not None:
        # Whatever keeps the embedder from answering, the response is not lost: its exact
        # words find it again.
        vector = yield from core.vector_or_none(wording, scope.dim, spent)
    meaning = None
    if core.same_answer is not None and vector is not None and isinstance(answer.response, str):
        meaning = yield from core.vector_or_none(answer.response, scope.dim, spent)
        if meaning is not None:
            cluster = _same_as(core, scope, meaning, core.same_answer) or cluster
    packed = _Packed(wording, response, cluster, life_ms(seconds), tags, tokens)
    return (yield from _put(core, scope, packed, vector, meaning))


def _put(
    core: Core, scope: Scope, packed: _Packed, vector: FloatArray | None, meaning: FloatArray | None
) -> Flow[str | None]:
    import numpy as np

    digest, tag = entry.text_digest(packed.wording), core.new_tag()
    fixed = entry.pack_fixed(
        response_key=entry.response_key(packed.response.head, *packed.response.chunks),
        wording=digest,
        cluster=packed.cluster,
        tag=tag,
        epoch=core.epoch,
        tokens=packed.tokens,
        tags=packed.tags,
    )
    record = entry.pack_record(
        tag=tag,
        cluster=packed.cluster,
        text=packed.wording,
        vector=np.empty(0, np.float32) if vector is None else vector,
        answer=meaning,
    )
    # A sliding life begins with one step, and can grow to the whole.
    first = min(packed.life_ms, core.slide_ms) if core.slide_ms else packed.life_ms
    put = core.call(
        answer_scripts.STORE,
        scope.id,
        digest,
        first,
        packed.life_ms,
        fixed,
        record,
        packed.response.head,
        core.max_entries,
        core.eviction,
        core.new_tag(),
        scope.id,
        b"".join(sorted(scope.items)),
        *packed.response.chunks,
    )
    if core.large_from is None:
        reply = yield RedisCall(put)
    else:
        reply, _ = yield RedisBatch((put, core.call(vector_set_scripts.FOLLOW, scope.id, 8, core.large_from)))
    if reply == b"REPORTED":
        core.tally.refused(Reason.REPORTED)
        return None
    core.tally.count("stored")
    core.tally.count("evicted", int(reply[1]))
    return str(EntryId(bytes(reply[0]), tag))


def _same_as(core: Core, scope: Scope, meaning: FloatArray, least: float) -> bytes | None:
    """Return the cluster of the nearest response, if it says the same; None if none does.

    Looked for among what this process knows of the scope, which is what its last lookup
    brought. Two processes that store the same answer at once may give it two clusters:
    that costs hits, for each is the other's neighbour that answers differently.
    """
    import numpy as np

    view = core.indexes.get(scope.id, scope.dim).view()
    if view.answers is None or not len(view.answers):
        return None
    similarities: FloatArray = np.einsum("ij,j->i", view.answers, meaning)
    similarities[view.expires <= 0] = -2.0
    best = int(similarities.argmax())
    return view.records[best].cluster if float(similarities[best]) >= least else None


def _size(response: Encoded) -> int:
    return len(response.head) + sum(map(len, response.chunks))


def _encoded(response: Any) -> Flow[tuple[Encoded, bytes]]:
    """Return a response's bytes and its cluster: equal responses answer the same."""

    def encode() -> tuple[Encoded, bytes]:
        encoded = encode_value(response)
        try:
            # The order of a mapping's keys is no difference.
            key = entry.response_key(canonical(response))
        except InvalidContext:
            key = entry.response_key(encoded.head, *encoded.chunks)
        return encoded, key[: entry.CLUSTER_BYTES]

    is_small = isinstance(response, (bool, int, float)) or (
        isinstance(response, (str, bytes)) and len(response) < LARGE_BYTES
    )
    result: tuple[Encoded, bytes] = encode() if is_small else (yield Compute(encode, None, "encoding"))
    return result
