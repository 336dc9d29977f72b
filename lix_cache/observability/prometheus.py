"""Semantic caches for Prometheus.

The collector reads ``get_stats()`` when it is scraped and keeps nothing of its own, so there
is one place that counts.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from lix_cache.checks import given
from lix_cache.errors import ConfigError, MissingExtra

if TYPE_CHECKING:
    from prometheus_client.core import Metric
    from prometheus_client.registry import CollectorRegistry

__all__ = ["CacheCollector", "register_metrics"]


class _Cache(Protocol):
    def get_stats(self) -> Any: ...

    @property
    def local_stats(self) -> dict[str, Any]: ...


#: Item of get_stats -> name and help of a counter.
_COUNTERS = {
    "stored": ("stores", "Responses stored."),
    "evicted": ("evictions", "Entries that had to go for others."),
    "wrong_reports": ("wrong_reports", "Hits that were reported as wrong."),
    "invalidated": ("invalidations", "Entries that were invalidated."),
    "expired": ("expirations", "Expired entries that were cleaned up."),
    "degraded": ("degraded", "Calls that went without Redis."),
    "shared_runs": ("shared_runs", "Calls that got the result of another call's run."),
    "refreshed": ("refreshes", "Answers renewed while old ones were served."),
    "uncacheable": ("uncacheable", "Calls of cached functions without a question in them."),
}
_TROUBLES = ("embedder", "verifier", "redis", "cleanup", "single_flight", "refresh")
_GAUGES = {
    "entries": "Entries alive.",
    "scopes": "Scopes with entries.",
    "bytes": "Memory of the entries in Redis.",
    "index_bytes": "Memory of the vectors in this process.",
    "audits": "Hits that ran the function anyway, to be compared.",
    "audits_wrong": "Of these, hits that would have been wrong.",
    "closed_scopes": "Scopes that answer nothing by meaning, because audits proved too many hits wrong.",
}
_QUANTILES = {"p50_ms": "0.5", "p95_ms": "0.95", "p99_ms": "0.99"}


class CacheCollector:
    """What Prometheus asks about semantic caches; see :func:`register_metrics`.

    Args:
        caches: name to cache. Of an async cache only what this process counted is shown,
            because a scrape cannot wait for its event loop.
        namespace: what the metrics' names begin with.

    Raises:
        MissingExtra: ``prometheus-client`` is not installed.
    """

    def __init__(self, caches: Mapping[str, _Cache], namespace: str = "lix_cache") -> None:
        try:
            from prometheus_client import core
        except ImportError:
            raise MissingExtra("prometheus-client", "prometheus", "exporting metrics") from None
        if not caches:
            raise ConfigError("a collector needs at least one cache")
        self._core = core
        self._caches = dict(caches)
        self._namespace = namespace

    def describe(self) -> Iterator[Metric]:
        """Return nothing: what there is to tell is known when it is asked for."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Return the metrics of all caches as they are now."""
        stats = {name: _stats_of(cache) for name, cache in self._caches.items()}
        yield from self._lookups(stats)
        yield from self._counted(stats)
        yield from self._saved(stats)
        yield from self._gauges(stats)
        yield from self._false_hits(stats)
        yield from self._latencies(stats)

    def _counter(self, name: str, text: str, *labels: str) -> Any:
        return self._core.CounterMetricFamily(f"{self._namespace}_{name}", text, labels=["cache", *labels])

    def _gauge(self, name: str, text: str, *labels: str) -> Any:
        return self._core.GaugeMetricFamily(f"{self._namespace}_{name}", text, labels=["cache", *labels])

    def _lookups(self, stats: Mapping[str, dict[str, Any]]) -> Iterator[Metric]:
        lookups = self._counter(
            "lookups", "Lookups by outcome and by the reason for it.", "outcome", "reason"
        )
        refused = self._counter("stores_refused", "Responses that were not stored, by rule.", "rule")
        for cache, found in stats.items():
            for outcome in ("hit", "miss"):
                of_reason = found["hits_by_reason" if outcome == "hit" else "misses_by_reason"]
                for reason, number in of_reason.items():
                    lookups.add_metric([cache, outcome, reason], number)
            for rule, number in found["stores_refused"].items():
                refused.add_metric([cache, rule], number)
        yield lookups
        yield refused

    def _counted(self, stats: Mapping[str, dict[str, Any]]) -> Iterator[Metric]:
        for item, (name, text) in _COUNTERS.items():
            counter = self._counter(name, text)
            for cache, found in stats.items():
                counter.add_metric([cache], found[item])
            yield counter
        errors = self._counter("errors", "Trouble that did not fail the call it happened in.", "component")
        for cache, found in stats.items():
            for component in _TROUBLES:
                errors.add_metric([cache, component], found[f"{component}_errors"])
        yield errors

    def _saved(self, stats: Mapping[str, dict[str, Any]]) -> Iterator[Metric]:
        tokens = self._counter("saved_tokens", "Tokens of the model that hits saved.", "kind")
        money = self._counter("saved_money", "What they would have cost.", "currency")
        for cache, found in stats.items():
            saved = found["saved"]
            for kind in ("prompt", "completion"):
                tokens.add_metric([cache, kind], saved[f"{kind}_tokens"])
            if "money" in saved:
                money.add_metric([cache, saved["currency"]], saved["money"])
        yield tokens
        yield money

    def _gauges(self, stats: Mapping[str, dict[str, Any]]) -> Iterator[Metric]:
        up = self._gauge("redis_up", "Whether Redis answered this scrape.")
        for cache, found in stats.items():
            if "redis" in found:
                up.add_metric([cache], 1 if found["redis"] == "ok" else 0)
        yield up
        for name, text in _GAUGES.items():
            gauge = self._gauge(name, text)
            for cache, found in stats.items():
                if found.get(name) is not None:
                    gauge.add_metric([cache], found[name])
            yield gauge

    def _false_hits(self, stats: Mapping[str, dict[str, Any]]) -> Iterator[Metric]:
        rate = self._gauge(
            "false_hit_rate", "Exact 95 % interval of the part of hits that are wrong.", "bound"
        )
        for cache, found in stats.items():
            if found.get("audits"):
                for bound, value in zip(("lower", "upper"), found["false_hit_rate_95"], strict=True):
                    rate.add_metric([cache, bound], value)
        yield rate

    def _latencies(self, stats: Mapping[str, dict[str, Any]]) -> Iterator[Metric]:
        seconds = self._gauge("latency_seconds", "How long a step takes, by quantile.", "step", "quantile")
        count = self._counter("steps", "How often a step was taken.", "step")
        for cache, found in stats.items():
            for step, times in found["latency"].items():
                for item, quantile in _QUANTILES.items():
                    seconds.add_metric([cache, step, quantile], times[item] / 1000)
                count.add_metric([cache, step], times["count"])
        yield seconds
        yield count


def _stats_of(cache: _Cache) -> dict[str, Any]:
    if inspect.iscoroutinefunction(cache.get_stats):
        return cache.local_stats
    stats: dict[str, Any] = cache.get_stats()
    return stats


def register_metrics(
    registry: CollectorRegistry | None = None, namespace: str = "lix_cache", **caches: _Cache
) -> CacheCollector:
    """Show caches to Prometheus: ``register_metrics(answers=cache)``.

    Args:
        registry: of ``prometheus_client``; its default one if none is given.
        namespace: what the metrics' names begin with.
        caches: under the names that the label ``cache`` is to have.

    Returns:
        The collector, to unregister it.

    Raises:
        ConfigError: one of them is no :class:`SemanticCache` or :class:`AsyncSemanticCache`.
        MissingExtra: ``prometheus-client`` is not installed.
    """
    for name, cache in caches.items():
        # At once: at the first scrape it would take all other metrics of the page with it.
        if "hits_by_reason" not in getattr(cache, "local_stats", ()):
            raise ConfigError(f"{name} must be a SemanticCache or an AsyncSemanticCache, {given(cache)}")
    collector = CacheCollector(caches, namespace)
    from prometheus_client import REGISTRY

    (REGISTRY if registry is None else registry).register(collector)
    return collector
