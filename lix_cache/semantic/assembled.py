"""What the sync and the async variant of the semantic cache are built from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from lix_cache.arguments import config_of
from lix_cache.checks import check_has, check_is, kind_of
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.compat.flow import ttl_ms
from lix_cache.config import CacheConfig, SemanticSettings
from lix_cache.config.semantic import EVICTIONS
from lix_cache.drivers.sync import SyncDriver
from lix_cache.errors import ConfigError, LixCacheError, told
from lix_cache.hot.answers import Answers, Use
from lix_cache.hot.breaker import breaker_for
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.keys import Keys
from lix_cache.matching.guards import GUARDS, Objection, check
from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, Thresholds
from lix_cache.semantic.core import Core, EntryRules, HitRules, Scopes
from lix_cache.semantic.decorator import Decorating
from lix_cache.semantic.embedding import Embedding
from lix_cache.semantic.policy import CachePolicy
from lix_cache.semantic.scheduler import Cleaner
from lix_cache.semantic.scope import frozen, merged
from lix_cache.semantic.single_flight import Flights
from lix_cache.semantic.stats import Stats
from lix_cache.semantic.store import Backend, answer_store
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
        raise ConfigError(f"guards must be True, False or a list of names, got {kind_of(enabled)}")
    # A name that is no guard's would be a guard that never objects.
    unknown = next((i for i, name in enumerate(names) if name not in GUARDS), None)
    if unknown is not None:
        raise ConfigError(f"guards[{unknown}]: there is no guard of that name; there are {', '.join(GUARDS)}")
    asked = frozenset(names)
    return lambda query, cached: check(query, cached, enabled=asked)


class Assembled(Decorating):
    """Settings, checked and assembled; see SemanticCache for what they mean."""

    def __init__(
        self,
        embedder: Embedder | None = None,
        config: CacheConfig | None = None,
        *,
        context: Mapping[str, Any] | None = None,
        thresholds: Thresholds = DEFAULT_THRESHOLDS,
        guards: bool | Iterable[str] = True,
        verifier: Verifier | None = None,
        policy: CachePolicy | None = None,
        settings: SemanticSettings | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        config = config_of(config)
        if embedder is not None:
            check_has("embedder", embedder, "HashingEmbedder()", embed=True, id=False, dim=False)
        if verifier is not None:
            check_has("verifier", verifier, "OnnxVerifier(…)", scores=True, id=False)
        check_has("clock", clock, "lix_cache.clock.SYSTEM_CLOCK", monotonic=True)
        self.settings = settings = _settings(settings, config.semantic)
        self.embedder = embedder
        # Frozen: its scope is remembered, and must not be that of another tenant one day.
        self.context: Mapping[str, Any] = frozen(merged({}, context))
        self._endpoint = endpoint_for(config.redis, settings.redis_db or 0)
        hits = HitRules(
            policy=CachePolicy() if policy is None else check_is("policy", policy, CachePolicy),
            thresholds=check_is("thresholds", thresholds, Thresholds),
            object_to=_guards(guards),
            verifier=verifier,
            verifier_threshold=settings.verifier_threshold,
            deadline=settings.deadline_seconds,
        )
        stats = Stats()
        self._core = Core(
            scopes=Scopes(self.context, settings.version),
            embedding=Embedding(
                embedder, config.embedder, settings.deadline_seconds, settings.embed_answers, stats, clock
            ),
            hits=hits,
            entries=_entry_rules(settings),
            redis=self._backend(config, settings, stats, clock),
            watch=Watch(thresholds.score, settings.target_false_hit_rate, settings.audit_rate),
            stats=stats,
            clock=clock,
        )
        self._flights = Flights()
        self._cleaner = Cleaner(self._core, SyncDriver(self._endpoint, clock))
        self._connect(clock)

    def _backend(
        self, config: CacheConfig, settings: SemanticSettings, stats: Stats, clock: Clock
    ) -> Backend:
        redis, large = config.redis, settings.vector_sets_from
        keys = Keys(redis.key_prefix, redis.buckets)
        return Backend(
            # No scope can have more than max_entries.
            answers=Answers(keys, None if large is None or large > settings.max_entries else large),
            store=answer_store(self._endpoint, keys, settings.index_bytes),
            breaker=breaker_for(self._endpoint, redis.retry_seconds, clock),
            miss_on_error=config.on_cache_error == "miss",
            stats=stats,
        )

    def _connect(self, clock: Clock) -> None:
        raise NotImplementedError

    @property
    def local_stats(self) -> dict[str, Any]:
        """What this object counted, as ``get_stats`` does, without asking Redis."""
        return self._core.stats.as_dict(self.settings.prices)

    def _stats(self, counts: dict[str, Any] | LixCacheError) -> dict[str, Any]:
        names = (
            *("scopes", "entries", "reported_queries", "bytes"),
            *("audits", "audits_wrong", "false_hit_rate_95", "closed_scopes"),
        )
        found: dict[str, Any] = dict.fromkeys(names) if isinstance(counts, LixCacheError) else {**counts}
        indexes = self._core.redis.store.indexes
        return {
            "backend": "redis",
            "redis": told(counts) if isinstance(counts, LixCacheError) else "ok",
            **found,
            "index_scopes": len(indexes),
            "index_bytes": indexes.nbytes,
            "cleanup_running": self._cleaner.is_alive,
            **self._core.stats.as_dict(self.settings.prices),
        }


def _settings(given: SemanticSettings | None, configured: SemanticSettings) -> SemanticSettings:
    """Return what was given, with what the configuration says where that leaves it open."""
    if given is None:
        return configured
    check_is("settings", given, SemanticSettings)
    return replace(
        given,
        ttl_seconds=configured.ttl_seconds if given.ttl_seconds is None else given.ttl_seconds,
        redis_db=configured.redis_db if given.redis_db is None else given.redis_db,
    )


def _entry_rules(settings: SemanticSettings) -> EntryRules:
    slide = settings.sliding_seconds
    return EntryRules(
        ttl_seconds=settings.ttl_seconds or 0,
        max_entries=settings.max_entries,
        use=Use(EVICTIONS.index(settings.eviction), 0 if slide is None else ttl_ms(slide)),
    )
