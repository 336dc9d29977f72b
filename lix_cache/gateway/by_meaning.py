"""The second tier: answers by the meaning of the question, with the semantic cache's own reasons.

One cache object for each tenant, pinned to it; everything else that must match exactly is a context of the
call. So what a client can write never reaches the tenant's part of a scope.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.config import CacheConfig, SemanticSettings
from lix_cache.errors import CodecError, LixCacheError, told
from lix_cache.gateway.answer import Answer
from lix_cache.gateway.eligibility import Question
from lix_cache.gateway.headers import NOTHING_ASKED, Control, Verdict
from lix_cache.hot.breaker import PlainBreaker
from lix_cache.matching.reasons import Reason
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS
from lix_cache.semantic.cache import AsyncSemanticCache
from lix_cache.semantic.calls_in_flight import AsyncInFlightCall
from lix_cache.semantic.policy import CachePolicy
from lix_cache.semantic.result import Lookup
from lix_cache.values.streamed import Streamed

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.verifiers.protocol import Verifier

__all__ = ["ByMeaning", "Meant", "Place"]

_MOST_TENANTS = 64
#: For how long an embedder that failed is not asked again: requests must not queue up before it.
_PAUSE = 5.0
_FAILED = frozenset({Reason.EMBEDDER_FAILED, Reason.EMBEDDER_TIMEOUT})
#: How long equal questions in other words, or of other processes, wait for one another.
_LOCK_SECONDS = 5.0


@dataclass(frozen=True)
class Place:
    """Where a question belongs: tenant, and what else must match exactly."""

    tenant: str
    context: dict[str, str]
    question: Question


@dataclass(frozen=True)
class Meant:
    """What the tier says to a question: an answer, or the right to make it, or neither.

    Attributes:
        answer: found.
        verdict: how.
        lead: to be completed or failed; None if the answer is to be stored by itself, or not at all.
        reason: why nothing was found.
    """

    answer: Answer | None = None
    verdict: Verdict | None = None
    lead: AsyncInFlightCall | None = None
    reason: str = ""


class ByMeaning:
    """What goes wrong in a look or a store is a miss. A purge and an explanation raise it."""

    def __init__(
        self,
        embedder: Embedder,
        config: CacheConfig,
        clock: Clock,
        *,
        seconds: float,
        threshold: float,
        verifier: Verifier | None = None,
        verifier_threshold: float = 0.7,
    ) -> None:
        self._embedder = embedder
        self._config = config.replace(on_cache_error="miss")
        self._clock = clock
        self._seconds = seconds
        self._thresholds = DEFAULT_THRESHOLDS.with_threshold(threshold or None)
        self._verifier = verifier
        self._verifier_threshold = verifier_threshold
        self._caches: OrderedDict[str, AsyncSemanticCache] = OrderedDict()
        self.policy = CachePolicy()
        self.breaker = PlainBreaker(_PAUSE, clock)

    def cache(self, tenant: str) -> AsyncSemanticCache:
        """Return the cache of a tenant."""
        found = self._caches.get(tenant)
        if found is None:
            found = self._caches[tenant] = AsyncSemanticCache(
                self._embedder,
                self._config,
                context={"tenant": tenant},
                thresholds=self._thresholds,
                verifier=self._verifier,
                policy=self.policy,
                settings=SemanticSettings(
                    deadline_seconds=self._seconds,
                    verifier_threshold=self._verifier_threshold,
                    version="gateway-1",
                ),
            )
            if len(self._caches) > _MOST_TENANTS:
                self._caches.popitem(last=False)
        self._caches.move_to_end(tenant)
        return found

    async def begin(self, place: Place, control: Control) -> Meant:
        """Look a question up, or begin the call that answers it."""
        if self.breaker.is_open:
            return Meant(reason="embedder_paused")
        cache, question = self.cache(place.tenant), place.question
        begun: Lookup | AsyncInFlightCall
        try:
            # Who will not store must not be waited for.
            if control.threshold is None and not control.no_store and not control.only_if_cached:
                begun = await cache.begin(question.text, context=place.context, lock_seconds=_LOCK_SECONDS)
            else:
                begun = await cache.lookup(
                    question.text, context=place.context, similarity_threshold=control.threshold
                )
        except LixCacheError as error:
            logger.warning("the gateway goes without an answer by meaning: {}", told(error))
            return Meant(reason="meaning_failed")
        lead = begun if isinstance(begun, AsyncInFlightCall) else None
        found = begun.missed if isinstance(begun, AsyncInFlightCall) else begun
        if found.reason in _FAILED:
            self.breaker.trip()
        if not found.is_hit:
            return Meant(lead=lead, reason=found.reason)
        answer = _read(found.response)
        if answer is None:
            return Meant(reason="unreadable")
        if _is_too_old(found, control):
            return Meant(reason="too_old")
        return Meant(answer, self._verdict(found), reason=found.reason)

    async def explain(self, place: Place, control: Control = NOTHING_ASKED) -> dict[str, Any]:
        """Say what a request would find, and leave no trace. The answer itself is not read."""
        why = await self.cache(place.tenant).explain(
            place.question.text, context=place.context, similarity_threshold=control.threshold
        )
        found = why.found
        is_too_old = found.is_hit and _is_too_old(found, control)
        margin = found.margin if found.margin != float("inf") else None
        return {
            "cache": self._verdict(found).state if found.is_hit and not is_too_old else "miss",
            "reason": "too_old" if is_too_old else found.reason,
            "detail": found.detail,
            "similarity": round(found.similarity, 4),
            "margin": margin,
            "votes": why.votes,
            "score": why.score,
            "entries": why.entries,
            "thresholds": why.thresholds.as_dict(),
            "has_verifier": self._verifier is not None,
            "neighbours": [
                {
                    "text": one.text,
                    "similarity": one.similarity,
                    "answer": one.answer,
                    "guard": one.guard,
                    "detail": one.detail,
                    "ttl_seconds": round(one.ttl_remaining_seconds),
                }
                for one in why.neighbours
            ],
        }

    async def purge(
        self, tenant: str, model: str | None, older_than_seconds: float | None, tag: str | None = None
    ) -> int:
        """Drop a tenant's answers."""
        tags = () if tag is None else (_tag_of("tag", tag),)
        context = {"tenant": tenant, **({} if model is None else {"model": model})}
        return await self.cache(tenant).invalidate(
            context=context, tags=tags, older_than_seconds=older_than_seconds
        )

    async def forget(self, tenant: str, identity: str) -> bool:
        """Drop the answer that a provider gave this id to. False: it may be there still."""
        try:
            await self.cache(tenant).invalidate(context={}, tags=[_tag_of("id", identity)])
        except LixCacheError as error:
            logger.warning("an answer that was purged is still there: {}", told(error))
            return False
        return True

    def stats(self) -> dict[str, Any]:
        """Return what the caches counted, by tenant."""
        return {tenant: cache.local_stats for tenant, cache in self._caches.items()}

    def _verdict(self, found: Lookup) -> Verdict:
        is_verified = found.reason == Reason.SEMANTIC and self._verifier is not None
        state = "hit-l3-verified" if is_verified else "hit-l2-semantic"
        return Verdict(state, found.reason, found.age_seconds, found.similarity)

    async def store(
        self,
        place: Place,
        meant: Meant | None,
        answer: Answer,
        text: str,
        ttl_seconds: float,
        tags: Sequence[str] = (),
    ) -> None:
        """Store an answer, and hand it to those who wait for it."""
        words = [_tag_of("id", answer.id), *(_tag_of("tag", tag) for tag in tags)]
        value = Streamed(({"answer": answer.encode()},), text)
        keep: dict[str, Any] = {"ttl_seconds": ttl_seconds, "tokens": answer.saved, "tags": words}
        try:
            if meant is not None and meant.lead is not None:
                await meant.lead.complete(value, **keep)
            elif not self.breaker.is_open:
                cache = self.cache(place.tenant)
                await cache.store(place.question.text, value, context=place.context, **keep)
        except LixCacheError as error:
            logger.warning("an answer was not stored by meaning: {}", told(error))


def _tag_of(kind: str, word: str) -> str:
    """Return a tag for a word of another's: one kind is never taken for the other."""
    return f"{kind}-" + hashlib.sha256(word.encode("utf-8", "surrogatepass")).hexdigest()[:32]


def _is_too_old(found: Lookup, control: Control) -> bool:
    """Whether a request wants a younger answer, or one that lives longer."""
    if control.max_age is not None and (found.age_seconds or 0.0) > control.max_age:
        return True
    return bool(control.min_fresh) and (found.ttl_remaining_seconds or 0.0) <= control.min_fresh


def _read(response: Any) -> Answer | None:
    if not isinstance(response, Streamed) or len(response.events) != 1:
        return None
    event = response.events[0]
    data = event.get("answer") if isinstance(event, dict) else None
    try:
        return Answer.decode(data) if isinstance(data, bytes) else None
    except CodecError:
        return None
