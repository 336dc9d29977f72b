"""The semantic cache with a real embedder on a real Redis, with the defaults people get."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lix_cache import OnnxEmbedder, Reason, SemanticSettings
from lix_cache.config import CacheConfig
from tests.support.twins import Twins

pytestmark = pytest.mark.shared


@pytest.fixture(scope="module")
def embedder(shared_dir: Path) -> OnnxEmbedder:
    pytest.importorskip("onnxruntime")
    pytest.importorskip("tokenizers")
    folder = shared_dir / "models" / "all-MiniLM-L6-v2"
    if not folder.is_dir():
        pytest.skip(f"no model at {folder}")
    return OnnxEmbedder(str(folder))


def test_another_paraphrase_hits_and_its_opposite_does_not(
    twins: Twins, embedder: OnnxEmbedder, redis_config: CacheConfig
) -> None:
    cache = twins.make("SemanticCache", embedder, redis_config, context={"tenant": "a"})
    for stored, again, opposite in (
        ("How do I reset my password?", "how can I reset my password", "how do I delete my password"),
        (
            "How do I sort the list in ascending order?",
            "sort the list in ascending order, how",
            "How do I sort the list in descending order?",
        ),
        ("How do I turn the lights on?", "How can I turn the lights on", "How do I turn the lights off?"),
        (
            "How do I enable two-factor login?",
            "How can I enable two-factor login?",
            "How do I disable two-factor login?",
        ),
    ):
        cache.store(stored, stored.upper())
        assert cache.lookup(stored).reason == Reason.EXACT
        found = cache.lookup(again)
        assert (found.reason, found.response) == (Reason.SEMANTIC, stored.upper())
        assert 0.8 < found.similarity <= 1.0
        other = cache.lookup(opposite)
        assert not other.is_hit
        assert other.similarity > 0.6
    other_tenant = twins.make("SemanticCache", embedder, redis_config, context={"tenant": "b"})
    assert other_tenant.lookup("How do I reset my password?").reason == Reason.EMPTY


def test_a_stream_of_real_questions_is_answered_as_the_counters_say(
    twins: Twins, embedder: OnnxEmbedder, redis_config: CacheConfig, shared_dir: Path
) -> None:
    with open(shared_dir / "data" / "intent_banking77" / "queries.jsonl", encoding="utf-8") as file:
        rows = [json.loads(line) for line, _ in zip(file, range(4000), strict=False)]
    asked: list[Any] = rows[:: len(rows) // 250]
    cache = twins.make("SemanticCache", embedder, redis_config, settings=SemanticSettings(ttl_seconds=3600))
    hits = wrong = 0
    for row in asked:
        found = cache.lookup(row["text"])
        if found.is_hit:
            hits += 1
            wrong += found.response != row["intent"]
        else:
            cache.store(row["text"], row["intent"])
    stats = cache.get_stats()
    assert (stats["hits"], stats["misses"]) == (hits, len(asked) - hits)
    assert stats["entries"] == stats["stored"]
    assert sum(stats["misses_by_reason"].values()) == stats["misses"]
    assert hits > 10
    assert wrong <= hits / 10  # the proportion itself is measured by 'lix-cache eval'
    # Another process finds the same entries.
    other = twins.make("SemanticCache", embedder, redis_config, settings=SemanticSettings(ttl_seconds=3600))
    for row in asked[:20]:
        assert other.lookup(row["text"]).is_hit == cache.check_availability(row["text"]).is_hit
