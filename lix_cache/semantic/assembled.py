"""What the sync and the async variant of the semantic cache are put together from."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from lix_cache.arguments import config_of
from lix_cache.checks import check_has, check_is, check_number, check_seconds, check_text, check_whole, given
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.compat.caches import breaker_for
from lix_cache.compat.flow import life_ms
from lix_cache.config import CacheConfig
from lix_cache.drivers.sync import SyncDriver
from lix_cache.errors import ConfigError, LixCacheError, told
from lix_cache.hot.answers import Answers
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.entries import NONCE_BYTES
from lix_cache.hot.keys import Keys
from lix_cache.matching.guards import GUARDS, Objection, check
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds
from lix_cache.semantic.decorator import Decorating
from lix_cache.semantic.index import IndexPool
from lix_cache.semantic.policy import CachePolicy
from lix_cache.semantic.response_vectors import Meanings
from lix_cache.semantic.scheduler import Cleaner
from lix_cache.semantic.scope import frozen, merged
from lix_cache.semantic.single_flight import Flights
from lix_cache.semantic.stats import Prices
from lix_cache.semantic.store import EVICTIONS, Core
from lix_cache.semantic.watch import Watch

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.verifiers.protocol import Verifier

__all__ = ["Assembled"]


def _guards(enabled: bool | Iterable[str]) -> Callable[[str, str], Objection | None]:
    if enabled is True:
        return check
    if enabled is False:
        return lambda _query, _cached: None
    is_list = isinstance(enabled, Iterable) and not isinstance(enabled, (str, Mapping))
    names = tuple(enabled) if is_list else ()
    if not is_list or not all(isinstance(name, str) for name in names):
        raise ConfigError(f"guards must be True, False or a list of names, got a {type(enabled).__name__}")
    # A name that is no guard's would be a guard that never objects.
    unknown = next((i for i, name in enumerate(names) if name not in GUARDS), None)
    if unknown is not None:
        raise ConfigError(f"guards[{unknown}]: there is no guard of that name; there are {', '.join(GUARDS)}")
    asked = frozenset(names)
    return lambda query, cached: check(query, cached, enabled=asked)


def _large_from(wanted: int | None, max_entries: int) -> int | None:
    """Return from how many entries on vector sets are asked for, or None if no scope can have so many."""
    if wanted is None or check_whole("vector_sets_from", wanted, 1) > max_entries:
        return None
    return wanted


class Assembled(Decorating):
    """Settings checked and put together; see SemanticCache for what they mean."""

    def __init__(
        self,
        embedder: Embedder | None = None,
        config: CacheConfig | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        guards: bool | Iterable[str] = True,
        verifier: Verifier | None = None,
        verifier_threshold: float = 0.7,
        policy: CachePolicy | None = None,
        ttl_seconds: float | None = None,
        sliding_seconds: float | None = None,
        max_entries: int = 10_000,
        eviction: str = "fifo",
        embed_answers: bool = True,
        audit_rate: float = 0.01,
        target_false_hit_rate: float | None = 0.02,
        version: str = "",
        deadline_seconds: float | None = 5.0,
        index_bytes: int = 256 * 1024 * 1024,
        vector_sets_from: int | None = 20_000,
        prices: Prices | None = None,
        redis_db: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        config = config_of(config)
        if embedder is not None:
            check_has("embedder", embedder, "HashingEmbedder()", embed=True, id=False, dim=False)
        if verifier is not None:
            check_has("verifier", verifier, "OnnxVerifier(…)", scores=True, id=False)
        self.embedder = embedder
        # Frozen: its scope is remembered, and must not be that of another tenant one day.
        self.context: Mapping[str, Any] = frozen(merged({}, context))
        self.ttl_seconds: float = config.semantic_ttl_seconds if ttl_seconds is None else ttl_seconds
        check_seconds("ttl_seconds", self.ttl_seconds)
        if deadline_seconds is not None:
            check_seconds("deadline_seconds", deadline_seconds)
        if sliding_seconds is not None:
            check_seconds("sliding_seconds", sliding_seconds)
        if check_text("eviction", eviction) not in EVICTIONS:
            raise ConfigError(f"eviction must be one of {', '.join(EVICTIONS)}, {given(eviction)}")
        self._prices = None if prices is None else check_is("prices", prices, Prices)
        database = config.semantic_redis_db if redis_db is None else check_whole("redis_db", redis_db, 0)
        self._endpoint = endpoint_for(config, database)
        keys = Keys(config.redis_key_prefix, config.redis_buckets)
        self._core = Core(
            keys=keys,
            answers=Answers(keys, _large_from(vector_sets_from, check_whole("max_entries", max_entries, 1))),
            indexes=IndexPool(check_whole("index_bytes", index_bytes, 1)),
            embedder=embedder,
            context=self.context,
            thresholds=check_is("thresholds", thresholds, Thresholds),
            object_to=_guards(guards),
            verifier=verifier,
            verifier_threshold=check_number("verifier_threshold", verifier_threshold, 0, 1),
            policy=CachePolicy() if policy is None else check_is("policy", policy, CachePolicy),
            ttl_seconds=self.ttl_seconds,
            slide_ms=0 if sliding_seconds is None else life_ms(sliding_seconds),
            max_entries=max_entries,
            eviction=EVICTIONS[eviction],
            version=check_text("version", version, may_be_empty=True),
            deadline=deadline_seconds,
            miss_on_error=config.on_cache_error == "miss",
            breaker=breaker_for(self._endpoint, config, clock),
            clock=check_has("clock", clock, "SystemClock()", monotonic=True),
            new_nonce=lambda: os.urandom(NONCE_BYTES),
            embedder_id=config.embedder_id or "",
            dim=config.embedding_dim,
            watch=Watch(
                thresholds.score,
                None
                if target_false_hit_rate is None
                else check_number("target_false_hit_rate", target_false_hit_rate, 0, 1),
                check_number("audit_rate", audit_rate, 0, 1),
            ),
        )
        core = self._core
        if embed_answers and embedder is not None:
            core.meanings = Meanings(embedder, lambda error: core.stats.trouble("embedder_errors", error))
        self._flights = Flights()
        self._cleaner = Cleaner(self._core, SyncDriver(self._endpoint, clock))
        self._connect(clock)

    def _connect(self, clock: Clock) -> None:
        raise NotImplementedError

    @property
    def local_stats(self) -> dict[str, Any]:
        """What this object counted, as ``get_stats`` does, without asking Redis."""
        return self._core.stats.as_dict(self._prices)

    def _stats(self, counts: dict[str, Any] | LixCacheError) -> dict[str, Any]:
        names = (
            *("scopes", "entries", "reported_queries", "bytes"),
            *("audits", "audits_wrong", "false_hit_rate_95", "closed_scopes"),
        )
        found: dict[str, Any] = dict.fromkeys(names) if isinstance(counts, LixCacheError) else {**counts}
        indexes = self._core.indexes
        return {
            "backend": "redis",
            "redis": told(counts) if isinstance(counts, LixCacheError) else "ok",
            **found,
            "index_scopes": len(indexes),
            "index_bytes": indexes.nbytes,
            "cleanup_running": self._cleaner.is_alive,
            **self._core.stats.as_dict(self._prices),
        }
