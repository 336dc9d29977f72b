"""The settings of :class:`~lix_cache.SemanticCache` that are numbers, names and switches."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from lix_cache.checks import (
    check_flag,
    check_is,
    check_number,
    check_seconds,
    check_text,
    check_whole,
    given,
)
from lix_cache.config.fields import refuse_unknown
from lix_cache.errors import ConfigError

__all__ = ["EVICTIONS", "Prices", "SemanticSettings"]

#: How an entry is chosen where there are too many. Of equals the oldest.
EVICTIONS = ("fifo", "lru", "lfu")


@dataclass(frozen=True)
class Prices:
    """What the model costs.

    Attributes:
        prompt: for a million tokens of input.
        completion: for a million tokens of output.
        currency: of both.
    """

    prompt: float
    completion: float
    currency: str = "USD"

    def __post_init__(self) -> None:
        for name in ("prompt", "completion"):
            check_number(f"Prices.{name}", getattr(self, name), 0, 1e12)
        check_text("Prices.currency", self.currency)

    def of(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Return what so many tokens cost."""
        check_number("prompt_tokens", prompt_tokens, 0, 1e18)
        check_number("completion_tokens", completion_tokens, 0, 1e18)
        return (self.prompt * prompt_tokens + self.completion * completion_tokens) / 1e6


@dataclass(frozen=True, kw_only=True)
class SemanticSettings:
    """How a :class:`~lix_cache.SemanticCache` keeps entries, learns, and spends memory and time.

    Attributes:
        ttl_seconds: time to live of an entry; ``semantic_ttl_seconds`` of the configuration by default. A
            hit does not prolong it unless ``sliding_seconds`` is set.
        sliding_seconds: an entry expires if it is not used for so long. Each hit prolongs it, up to
            its ``ttl_seconds``.
        max_entries: bound of one scope.
        eviction: which entries go beyond the bound: ``fifo``, ``lru`` or ``lfu``.
        version: any text; a new one leaves all old entries behind.
        verifier_threshold: least score that the verifier must give.
        embed_answers: embed responses that are prose, after ``store`` has returned, so that
            paraphrased answers agree. Without it there are few hits where a model writes each answer
            anew.
        audit_rate: part of the semantic hits that run the function anyway, to measure the false-hit
            rate (``get_stats``, ``audit``); 0 for none.
        target_false_hit_rate: part of the hits that may be wrong. A scope raises its threshold as its
            own misses and audits require, and closes if audits prove a higher rate. None: fixed
            thresholds.
        deadline_seconds: how long the embedder, and then the verifier, may take before the
            lookup is a miss; None: no limit, in the calling thread.
        index_bytes: memory for the vectors of the scopes used last. All caches of the process share
            it, and the largest limit counts.
        vector_sets_from: scopes of at least so many entries are searched by a vector set of the
            server (Redis 8) instead of exactly in this process. That costs one more round trip and
            misses some nearest neighbours (docs/benchmarks.md says how many). None: never. It has no
            effect if ``max_entries`` is smaller.
        prices: of the model, to count savings.
        redis_db: the database; ``semantic_redis_db`` of the configuration by default.

    Raises:
        ConfigError: a setting makes no sense; the text begins with its name.
    """

    ttl_seconds: float | None = None
    sliding_seconds: float | None = None
    max_entries: int = 10_000
    eviction: str = "fifo"
    version: str = ""
    verifier_threshold: float = 0.7
    embed_answers: bool = True
    audit_rate: float = 0.01
    target_false_hit_rate: float | None = 0.02
    deadline_seconds: float | None = 5.0
    index_bytes: int = 256 * 1024 * 1024
    vector_sets_from: int | None = 20_000
    prices: Prices | None = None
    redis_db: int | None = None

    def __new__(cls, **settings: Any) -> SemanticSettings:
        known = [f.name for f in dataclasses.fields(cls)]
        refuse_unknown(settings, known)
        return super().__new__(cls)

    def __post_init__(self) -> None:
        for name in ("ttl_seconds", "sliding_seconds", "deadline_seconds"):
            self._check_unless_none(check_seconds, name)
        self._check_unless_none(check_whole, "vector_sets_from", 1)
        self._check_unless_none(check_whole, "redis_db", 0)
        self._check_unless_none(check_number, "target_false_hit_rate", 0, 1)
        self._check_unless_none(check_is, "prices", Prices)
        for name in ("max_entries", "index_bytes"):
            check_whole(name, getattr(self, name), 1)
        for name in ("verifier_threshold", "audit_rate"):
            check_number(name, getattr(self, name), 0, 1)
        check_flag("embed_answers", self.embed_answers)
        check_text("version", self.version, may_be_empty=True)
        if check_text("eviction", self.eviction) not in EVICTIONS:
            raise ConfigError(f"eviction must be one of {', '.join(EVICTIONS)}, {given(self.eviction)}")

    def _check_unless_none(self, check: Callable[..., Any], name: str, *bounds: Any) -> None:
        value = getattr(self, name)
        if value is not None:
            check(name, value, *bounds)
