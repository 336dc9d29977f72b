"""What Prometheus sees is what get_stats says; the log as JSON."""

from __future__ import annotations

import asyncio
import io
import json
import os
import sys
from pathlib import Path

import pytest
from loguru import logger

from lix_cache import AsyncSemanticCache, HybridConversationCache, Prices, SemanticCache, SemanticSettings
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, MissingExtra
from lix_cache.hot.clients import close_async_redis_clients
from lix_cache.observability.json_logs import json_logs
from lix_cache.observability.prometheus import CacheCollector, register_metrics
from tests.support.meaning import Meanings

prometheus_client = pytest.importorskip("prometheus_client")


def samples(registry: object) -> dict[str, float]:
    text = prometheus_client.generate_latest(registry).decode()
    lines = [line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#")]
    return {name: float(value) for name, value in lines}


def test_every_lookup_store_and_saving_is_seen(redis_config: CacheConfig) -> None:
    cache = SemanticCache(Meanings(), redis_config, settings=SemanticSettings(prices=Prices(1.0, 2.0, "EUR")))
    registry = prometheus_client.CollectorRegistry()
    register_metrics(registry, answers=cache)
    cache.lookup("capital of France")
    cache.store("capital of France", "Paris", tokens=(10, 20))
    cache.store("capital of France", "")
    cache.lookup("capital of France")
    cache.lookup("capital of France")
    seen = samples(registry)
    assert seen['lix_cache_lookups_total{cache="answers",outcome="hit",reason="exact"}'] == 2
    assert seen['lix_cache_lookups_total{cache="answers",outcome="miss",reason="empty"}'] == 1
    assert seen['lix_cache_stores_total{cache="answers"}'] == 1
    assert seen['lix_cache_stores_refused_total{cache="answers",rule="empty"}'] == 1
    assert seen['lix_cache_saved_tokens_total{cache="answers",kind="completion"}'] == 40
    assert seen['lix_cache_saved_money_total{cache="answers",currency="EUR"}'] == pytest.approx(1e-4)
    assert seen['lix_cache_entries{cache="answers"}'] == 1
    assert seen['lix_cache_redis_up{cache="answers"}'] == 1
    assert seen['lix_cache_steps_total{cache="answers",step="lookup"}'] == 3
    assert 0 < seen['lix_cache_latency_seconds{cache="answers",quantile="0.5",step="lookup"}'] < 1


def test_a_server_that_is_gone_is_seen_and_fails_no_scrape(redis_config: CacheConfig) -> None:
    cache = SemanticCache(config=redis_config.replace(redis_port=1))
    registry = prometheus_client.CollectorRegistry()
    collector = register_metrics(registry, gone=cache)
    seen = samples(registry)
    assert seen['lix_cache_redis_up{cache="gone"}'] == 0
    assert 'lix_cache_entries{cache="gone"}' not in seen
    registry.unregister(collector)
    assert samples(registry) == {}


def test_an_async_cache_shows_what_it_counted(redis_config: CacheConfig) -> None:
    async def main() -> dict[str, float]:
        cache = AsyncSemanticCache(config=redis_config)
        registry = prometheus_client.CollectorRegistry()
        register_metrics(registry, "app", answers=cache)
        await cache.lookup("capital of France")
        await close_async_redis_clients()
        return samples(registry)

    assert asyncio.run(main())['app_lookups_total{cache="answers",outcome="miss",reason="empty"}'] == 1


def test_the_default_registry_is_used_if_none_is_named(redis_config: CacheConfig) -> None:
    collector = register_metrics(namespace="lix_test", answers=SemanticCache(config=redis_config))
    try:
        assert 'lix_test_redis_up{cache="answers"}' in samples(prometheus_client.REGISTRY)
    finally:
        prometheus_client.REGISTRY.unregister(collector)


def test_without_the_package_the_extra_is_named(
    monkeypatch: pytest.MonkeyPatch, redis_config: CacheConfig
) -> None:
    with pytest.raises(ConfigError):
        CacheCollector({})
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtra, match=r"lix-cache\[prometheus\]"):
        CacheCollector({"answers": SemanticCache(config=redis_config)})


def test_the_log_is_written_as_json(redis_config: CacheConfig) -> None:
    sink = io.StringIO()
    handler = json_logs(sink)
    try:
        cache = SemanticCache(config=redis_config.replace(redis_port=1))
        assert cache.cached()(lambda prompt: prompt.upper())("capital of France") == "CAPITAL OF FRANCE"
    finally:
        logger.remove(handler)
        logger.disable("lix_cache")
    (line,) = sink.getvalue().splitlines()
    record = json.loads(line)["record"]
    assert record["level"]["name"] == "WARNING"
    assert "RedisUnavailable" in record["message"]


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize("kind", [str, Path])
def test_a_log_file_is_its_owners_alone(kind: type, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    before = os.umask(0)
    try:
        handler = json_logs(kind(path))
        logger.remove(handler)
    finally:
        os.umask(before)
        logger.disable("lix_cache")
    assert path.stat().st_mode & 0o777 == 0o600


def test_what_is_no_semantic_cache_is_refused_before_a_scrape_fails(redis_config: CacheConfig) -> None:
    registry = prometheus_client.CollectorRegistry()
    with pytest.raises(
        ConfigError, match="chat must be a SemanticCache or an AsyncSemanticCache, got a Hybrid"
    ):
        register_metrics(registry, chat=HybridConversationCache("s", redis_config))  # type: ignore[arg-type]
    register_metrics(registry, chat=SemanticCache(config=redis_config))
