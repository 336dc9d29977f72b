"""Storing, step by step. See lix_cache.effects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.checks import check_seconds
from lix_cache.compat.flow import ttl_ms
from lix_cache.effects import Compute, Flow
from lix_cache.errors import InvalidContext, InvalidInput
from lix_cache.hot import entries
from lix_cache.hot.answers import NewEntry
from lix_cache.hot.entries import LARGE_BYTES, EntryId, Tokens
from lix_cache.matching.reasons import Reason
from lix_cache.semantic.core import Core, Scope, new_nonce, query_text
from lix_cache.semantic.embedding import Spent
from lix_cache.semantic.response_vectors import text_of
from lix_cache.semantic.result import Stop, Stored
from lix_cache.semantic.scope import canonical, merged
from lix_cache.semantic.stats import about_tokens
from lix_cache.semantic.watch import agree
from lix_cache.values.codec import Encoded, encode_value
from lix_cache.values.streamed import Streamed

if TYPE_CHECKING:
    from lix_cache.semantic.policy import Refusal
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["Answer", "store"]

#: Entries that a vector set takes over with each store.
_FILLED_AT_ONCE = 8


@dataclass(frozen=True)
class Answer:
    """What to store.

    Attributes:
        text: the query.
        response: anything but None.
        context: what must match exactly, beside the cache's own.
        embedding: of the query, shape (dim,), if it is known already.
        ttl_seconds: time to live, instead of the policy's.
        tags: words to invalidate it by.
        tokens: of the prompt and of the completion, where they are known.
        began_ms: when its making began, by the server's clock, if that is known.
    """

    text: str
    response: Any
    context: Mapping[str, Any] | None = None
    embedding: VectorLike | None = None
    ttl_seconds: float | None = None
    tags: Sequence[str] = ()
    tokens: tuple[int, int] | None = None
    began_ms: float | None = None


@dataclass(frozen=True)
class _Packed:
    """An answer as bytes."""

    text: str
    response: Encoded
    group: bytes
    ttl_ms: int
    tags: bytes
    tokens: Tokens
    began_ms: float | None


def store(core: Core, answer: Answer) -> Flow[Stored]:
    """Store a response: one round trip."""
    started, spent = core.clock.monotonic(), Spent()
    flow = _store(core, answer, spent)
    stored = yield from core.redis.guarded(flow, lambda _: Stored(refused=Reason.REDIS))
    if stored.refused:
        core.stats.refused(stored.refused)
    core.stats.took("store", core.clock.monotonic() - started - spent.seconds)
    return stored


def _store(core: Core, answer: Answer, spent: Spent) -> Flow[Stored]:
    text, tags = query_text(answer.text), entries.tag_words(answer.tags)
    if answer.response is None:
        raise InvalidInput("the response must not be None: None is what a miss answers")
    tokens = None if answer.tokens is None else Tokens.of(answer.tokens)
    if answer.ttl_seconds is not None:
        check_seconds("ttl_seconds", answer.ttl_seconds)
    context = merged(core.scopes.context, answer.context)
    is_stream = isinstance(answer.response, Streamed)

    def check() -> Refusal | None:
        return core.hits.policy.check_store(answer.text, answer.response, context)

    # Of a stream each event is read, and there may be thousands.
    refusal = (yield Compute(check, None, "the policy")) if is_stream else check()
    if refusal is not None:
        return Stored(refused=refusal.rule)
    seconds = answer.ttl_seconds
    if seconds is None:
        seconds = core.hits.policy.ttl_for(answer.text, core.entries.ttl_seconds)
    response, group = yield from _encoded(answer.response)
    try:
        scope = yield from core.scope(answer.context)
    except Stop as stop:
        return Stored(refused=stop.found.reason)
    given = None if answer.embedding is None else core.embedding.given(answer.embedding, scope.dim)
    if tokens is None:
        said = answer.response.body if is_stream else answer.response
        length = len(said) if isinstance(said, str) else _size(response)
        tokens = Tokens(about_tokens(len(answer.text)), about_tokens(length))
    packed = _Packed(text, response, group, ttl_ms(seconds), tags, tokens, answer.began_ms)
    return (yield from core.redis.asking(scope.id, _embedded(core, answer, scope, packed, given, spent)))


def _embedded(
    core: Core, answer: Answer, scope: Scope, packed: _Packed, vector: FloatArray | None, spent: Spent
) -> Flow[Stored]:
    """Store an answer with its vector."""
    if vector is None and core.embedding.embedder is not None:
        # Whatever keeps the embedder from answering, the response is not lost: its exact
        # words find it again.
        vector = yield from core.embedding.vector_or_none(packed.text, scope.dim, spent)
    stored = yield from _put(core, scope, packed, vector)
    entry = stored if isinstance(stored, EntryId) else None
    _compare(core, scope, packed, None if vector is None else answer.response, entry)
    return Stored(refused=str(stored)) if entry is None else Stored(str(entry))


def _compare(core: Core, scope: Scope, packed: _Packed, response: Any, stored: EntryId | None) -> None:
    """Learn from a fresh answer, and have its text embedded once the store has answered."""
    asked = core.watch.take(scope.id, entries.text_digest(packed.text))
    if asked is not None and core.hits.object_to(asked.text, asked.nearest) is not None:
        asked = None
    label = int.from_bytes(packed.group, "little", signed=True)
    text = text_of(response)
    meanings = core.embedding.answer_meanings()
    if meanings is None or text is None or stored is None:
        if asked is not None:
            # What has no meaning to compare is another answer if it is not equal.
            core.watch.label(scope.id, asked, label == asked.group)
        return
    number, nonce = stored.number, stored.nonce

    def embedded(vector: FloatArray) -> None:
        if vector.size != scope.dim:
            return
        row = entries.pack_meaning(number, nonce, vector)
        core.redis.store.deferred.add(scope.id, core.redis.answers.attach(scope.id, number, nonce, row))
        if asked is not None:
            core.watch.label(scope.id, asked, agree(asked, label, vector))

    meanings.add(text, embedded, core.embedding.trouble)


def _put(core: Core, scope: Scope, packed: _Packed, vector: FloatArray | None) -> Flow[EntryId | str]:
    import numpy as np

    digest, nonce = entries.text_digest(packed.text), new_nonce()
    # A sliding time to live begins with one step, and can grow to the whole.
    first = min(packed.ttl_ms, core.entries.use.slide_ms) if core.entries.use.slide_ms else packed.ttl_ms
    response = packed.response
    new = NewEntry(
        text_digest=digest,
        meta=entries.pack_fixed(
            response_key=entries.response_key(response.head, *response.chunks),
            text_digest=digest,
            group=packed.group,
            nonce=nonce,
            tokens=packed.tokens,
            tags=packed.tags,
        ),
        record=entries.pack_record(
            nonce=nonce,
            group=packed.group,
            text=packed.text,
            vector=np.empty(0, np.float32) if vector is None else vector,
        ),
        response=response.head,
        chunks=response.chunks,
        ttl_ms=first,
        longest_ms=packed.ttl_ms,
    )
    answers = core.redis.answers
    calls = [
        answers.store(
            scope.id,
            new,
            scope.items,
            most=core.entries.max_entries,
            eviction=core.entries.use.eviction,
            generation=new_nonce(),
            began_ms=packed.began_ms,
        )
    ]
    if answers.large_from is not None:
        calls.append(answers.fill(scope.id, _FILLED_AT_ONCE))
    put = answers.stored((yield from core.redis.with_notes(scope.id, *calls))[0])
    if isinstance(put, str):
        return put
    core.stats.count("stored")
    core.stats.count("evicted", put.evicted)
    return EntryId(put.number, nonce)


def _size(response: Encoded) -> int:
    return len(response.head) + sum(map(len, response.chunks))


def _encoded(response: Any) -> Flow[tuple[Encoded, bytes]]:
    """Return a response's bytes and its answer group: equal responses answer the same."""

    def encode() -> tuple[Encoded, bytes]:
        encoded = encode_value(response)
        try:
            # The order of a mapping's keys is no difference.
            # Nor is it how a stream was cut into events.
            body = response.body if isinstance(response, Streamed) else response
            key = entries.response_key(canonical(body))
        except InvalidContext:
            key = entries.response_key(encoded.head, *encoded.chunks)
        return encoded, key[: entries.GROUP_BYTES]

    is_small = isinstance(response, (bool, int, float)) or (
        isinstance(response, (str, bytes)) and len(response) < LARGE_BYTES
    )
    result: tuple[Encoded, bytes] = encode() if is_small else (yield Compute(encode, None, "encoding"))
    return result
