"""Settings of the wrong type end in an error that says what was given and what is wanted."""

from __future__ import annotations

import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import pytest

from lix_cache import (
    AsyncSemanticCache,
    CacheConfig,
    CachedEmbedder,
    CrossEncoderVerifier,
    HashingEmbedder,
    OnnxEmbedder,
    OnnxVerifier,
    OpenAIEmbedder,
    Prices,
    SemanticCache,
    SemanticCacheRedis,
    SentenceTransformerEmbedder,
    Thresholds,
    URLEmbeddingCache,
)
from lix_cache.errors import ConfigError
from lix_cache.semantic.policy import CachePolicy
from tests.support.semantic import with_settings

NO_NUMBERS: list[Any] = [
    True,
    False,
    math.nan,
    math.inf,
    -math.inf,
    -1,
    "5",
    b"5",
    [5],
    {},
    Decimal(5),
    1j,
    object(),
    int,
]
NO_COUNTS: list[Any] = [*NO_NUMBERS, 2.5, 5.0]
EMBEDDER = HashingEmbedder()


def with_setting(name: str) -> Callable[[Any], Any]:
    return lambda value: SemanticCache(EMBEDDER, CacheConfig(), **with_settings(**{name: value}))


@pytest.mark.parametrize("name", ["ttl_seconds", "sliding_seconds", "deadline_seconds", "verifier_threshold"])
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_a_number_is_a_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        with_setting(name)(value)


@pytest.mark.parametrize("name", ["max_entries", "index_bytes", "vector_sets_from", "redis_db"])
@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: type(value).__name__)
def test_a_count_is_a_whole_number(name: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=name):
        with_setting(name)(value)


@pytest.mark.parametrize("kind", [SemanticCache, AsyncSemanticCache])
@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        (
            {"embedder": HashingEmbedder},
            "such as HashingEmbedder.*the class HashingEmbedder: make an",
        ),
        ({"embedder": "all-MiniLM-L6-v2"}, "embedder.*got a str"),
        ({"embedder": len}, "embedder"),
        ({"embedder": EMBEDDER.embed}, "embedder"),
        ({"config": "redis://localhost"}, "config must be a CacheConfig or None, got a str"),
        ({"config": CacheConfig}, "config.*class"),
        ({"config": {}}, "config"),
        ({"thresholds": 0.9}, "thresholds must be a Thresholds, got a float"),
        ({"thresholds": None}, "thresholds"),
        ({"thresholds": Thresholds}, "thresholds"),
        ({"thresholds": {"threshold": 0.9}}, "thresholds"),
        ({"guards": 5}, "guards"),
        ({"guards": None}, "guards"),
        ({"guards": "numbers"}, "guards"),
        ({"guards": [["numbers"]]}, "guards"),
        ({"guards": {"numbers": False}}, "guards"),
        ({"guards": ["no such guard"]}, "there is no guard"),
        ({"verifier": OnnxVerifier}, "verifier"),
        ({"verifier": "model"}, "verifier"),
        ({"verifier": EMBEDDER}, "verifier"),
        ({"policy": "strict"}, "policy"),
        ({"policy": CachePolicy}, "policy"),
        ({"policy": {}}, "policy"),
        ({"prices": 0.15}, "prices"),
        ({"prices": (0.1, 0.2)}, "prices"),
        ({"eviction": None}, "eviction"),
        ({"eviction": ["lru"]}, "eviction"),
        ({"eviction": "LRU"}, "eviction"),
        ({"version": 1}, "version"),
        ({"version": None}, "version"),
        ({"clock": 5}, "clock"),
    ],
    ids=str,
)
def test_an_object_is_of_its_kind(kind: Any, settings: dict[str, Any], wanted: str) -> None:
    with pytest.raises(ConfigError, match=wanted):
        kind(**with_settings(**settings))


@pytest.mark.parametrize(
    "make",
    [
        lambda v: CachePolicy(time_sensitive_seconds=v),
        lambda v: Prices(prompt=v, completion=1),
        lambda v: Prices(prompt=1, completion=v),
        lambda v: SemanticCacheRedis("s", ttl_seconds=v),
        lambda v: SemanticCacheRedis("s", similarity_threshold="0.9" if v in (-1, False) else v),
        lambda v: SemanticCacheRedis("s", redis_port=v),
        lambda v: URLEmbeddingCache("s", ttl_seconds=v),
        lambda v: OpenAIEmbedder("m", timeout_seconds=v),
        lambda v: OpenAIEmbedder("m", max_wait_seconds=v),
        lambda v: SemanticCache().start_cleanup(v),
    ],
)
@pytest.mark.parametrize("value", NO_NUMBERS, ids=lambda value: type(value).__name__)
def test_so_are_those_of_other_classes(make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ConfigError):
        make(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda v: HashingEmbedder(v),
        lambda v: CachedEmbedder(EMBEDDER, memory_items=v),
        lambda v: OpenAIEmbedder("m", batch_size=v),
        lambda v: OpenAIEmbedder("m", dimensions=v),
        lambda v: OpenAIEmbedder("m", retries=v),
        lambda v: OnnxEmbedder("m", max_tokens=v),
        lambda v: OnnxEmbedder("m", threads=v),
        lambda v: SentenceTransformerEmbedder("m", batch_size=v),
        lambda v: OnnxVerifier("m", batch_size=v),
        lambda v: CrossEncoderVerifier("m", batch_size=v),
        lambda v: CrossEncoderVerifier("m", max_tokens=v),
        lambda v: CachePolicy(max_query_chars=v),
        lambda v: SemanticCacheRedis("s", max_items_per_url=v),
        lambda v: URLEmbeddingCache("s", batch_size=v),
    ],
)
@pytest.mark.parametrize("value", NO_COUNTS, ids=lambda value: type(value).__name__)
def test_counts_of_other_classes_too(make: Callable[[Any], Any], value: Any) -> None:
    with pytest.raises(ConfigError):
        make(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: CachedEmbedder(HashingEmbedder),  # type: ignore[arg-type]
        lambda: CachedEmbedder("model"),  # type: ignore[arg-type]
        lambda: CachedEmbedder(EMBEDDER, "redis://"),  # type: ignore[arg-type]
        lambda: CachedEmbedder(EMBEDDER, URLEmbeddingCache),  # type: ignore[arg-type]
        lambda: OnnxEmbedder(5),  # type: ignore[arg-type]
        lambda: OnnxEmbedder(HashingEmbedder),  # type: ignore[arg-type]
        lambda: OnnxEmbedder("m", pooling=["mean"]),  # type: ignore[arg-type]
        lambda: SentenceTransformerEmbedder(5),  # type: ignore[arg-type]
        lambda: OnnxVerifier(None),  # type: ignore[arg-type]
        lambda: CrossEncoderVerifier(5),  # type: ignore[arg-type]
        lambda: OpenAIEmbedder(5),  # type: ignore[arg-type]
        lambda: OpenAIEmbedder("m", api_key=5),  # type: ignore[arg-type]
        lambda: OpenAIEmbedder("m", headers=5),  # type: ignore[arg-type]
        lambda: OpenAIEmbedder("m", base_url="http://["),
        lambda: SemanticCacheRedis("s", "redis://localhost"),  # type: ignore[arg-type]
        lambda: SemanticCacheRedis("s", redis_host=5),  # type: ignore[arg-type]
        lambda: URLEmbeddingCache("s", {}),  # type: ignore[arg-type]
        lambda: Prices(1, 1, currency=5),  # type: ignore[arg-type]
    ],
)
def test_wrong_kinds_are_refused_everywhere(make: Callable[[], Any]) -> None:
    with pytest.raises(ConfigError):
        make()


def test_checking_an_embedder_loads_nothing() -> None:
    class Lazy:
        def embed(self, texts: Any) -> Any:
            raise AssertionError

        @property
        def id(self) -> str:
            raise AssertionError

        @property
        def dim(self) -> int:
            raise AssertionError

    SemanticCache(Lazy())  # type: ignore[arg-type]
    CachedEmbedder(Lazy())  # type: ignore[arg-type]
