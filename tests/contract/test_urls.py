"""The cache of URL embeddings, in both variants: one suite."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from lix_cache import URLEmbeddingCache
from lix_cache.config import CacheConfig
from lix_cache.errors import (
    ConfigError,
    DimensionMismatch,
    InvalidInput,
    InvalidVector,
    RedisAuthError,
    RedisCommandError,
    RedisUnavailable,
)
from lix_cache.hot import breaker as breaker_module
from tests.support import CountingProxy, RedisServer
from tests.support.redis_server import nowhere, wait_until
from tests.support.twins import ManualClock, Twins

URL = "https://example.org/page?q=1#top"
VECTOR = np.array([0.25, -1.5, 3.0], dtype=np.float32)


@pytest.fixture(autouse=True)
def _own_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are shared by the whole process, and a port may be used by two tests.
    monkeypatch.setattr(breaker_module, "_breakers", {})


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client on the database of the URL cache."""
    client = redis_server.client(db=1)
    yield client
    client.close()


def key_of(cache: Any, url: str = URL) -> Any:
    return cache._cache._key(url)


# -- hit and miss --------------------------------------------------------------------------


def test_none_is_a_miss_and_a_hit_is_the_vector_bit_for_bit(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    assert cache.get(URL) is None
    assert cache.set(URL, VECTOR) is True
    found = cache.get(URL)
    assert found.dtype == np.float32
    assert found.shape == (3,)
    assert found.tobytes() == VECTOR.tobytes()
    assert cache.get(URL + "x") is None


@given(
    hnp.arrays(
        np.float32, st.integers(1, 500), elements=st.floats(width=32, allow_nan=False, allow_infinity=False)
    )
)
@settings(
    max_examples=50,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(np.zeros(4, dtype=np.float32))
@example(np.array([-0.0, 1e-45, 3.4e38], dtype=np.float32))
def test_every_finite_vector_comes_back_bit_for_bit(redis_config: CacheConfig, vector: np.ndarray) -> None:
    cache = URLEmbeddingCache("s", redis_config)
    cache.set(URL, vector)
    found = cache.get(URL)
    assert found is not None
    assert found.tobytes() == vector.tobytes()


def test_a_vector_handed_out_is_the_callers_own(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    cache.set(URL, VECTOR)
    found = cache.get(URL)
    found[0] = 99
    cache.batch_get([URL])[URL][0] = 99
    assert cache.get(URL).tolist() == VECTOR.tolist()


def test_a_later_set_replaces_the_vector_whatever_its_dimension(
    twins: Twins, redis_config: CacheConfig
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    cache.set(URL, VECTOR)
    cache.set(URL, [1.0])
    assert cache.get(URL).tolist() == [1.0]


@pytest.mark.parametrize(
    "vector",
    [
        [1, 2, 3],
        (1.0, 2.0, 3.0),
        np.array([[1.0, 2.0, 3.0]]),
        np.array([[1], [2], [3]], dtype=np.int8),
        np.array([1, 2, 3], dtype=">f8"),
        np.array([1, 9, 2, 9, 3, 9], dtype=np.float32)[::2],
    ],
    ids=["ints", "tuple", "row", "column", "big endian", "strided"],
)
def test_a_vector_may_come_in_any_usual_form(twins: Twins, redis_config: CacheConfig, vector: Any) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    assert cache.set(URL, vector) is True
    assert cache.get(URL).tolist() == [1.0, 2.0, 3.0]


def test_entries_are_shared(twins: Twins, redis_config: CacheConfig) -> None:
    twins.make("URLEmbeddingCache", "one", redis_config).set(URL, VECTOR)
    for session in ("two", "*", "one:" + URL):
        assert twins.make("URLEmbeddingCache", session, redis_config).get(URL).tolist() == VECTOR.tolist()


def test_arguments_win_over_the_configuration(
    twins: Twins, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    cache = twins.make(
        "URLEmbeddingCache",
        session_id="s",
        config=redis_config,
        ttl_seconds=7,
        batch_size=3,
        redis_host="127.0.0.1",
        redis_port=redis_config.redis_port,
        redis_db=6,
    )
    assert (cache.session_id, cache.ttl_seconds, cache.batch_size) == ("s", 7, 3)
    cache.set(url=URL, embedding=VECTOR)
    assert cache.get(url=URL) is not None
    assert twins.make("URLEmbeddingCache", "s", redis_config).get(URL) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": -1},
        {"ttl_seconds": math.nan},
        {"ttl_seconds": math.inf},
        {"ttl_seconds": "300"},
        {"batch_size": 0},
        {"batch_size": 1.5},
        {"redis_db": -1},
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(
    twins: Twins, redis_config: CacheConfig, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments))):
        twins.make("URLEmbeddingCache", "s", redis_config, **arguments)


# -- life ----------------------------------------------------------------------------------


def test_an_entry_has_the_configured_life(twins: Twins, redis_config: CacheConfig, raw: redis.Redis) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    assert cache.ttl_seconds == 86400
    cache.set(URL, VECTOR)
    assert 86_000_000 < raw.pttl(key_of(cache)) <= 86_400_000
    short = twins.make("URLEmbeddingCache", "s", redis_config, ttl_seconds=100)
    short.batch_set({URL: VECTOR, "other": VECTOR})
    for url in (URL, "other"):
        assert 90_000 < raw.pttl(key_of(short, url)) <= 100_000


def test_a_life_longer_than_redis_can_count_is_as_good_as_for_ever(
    twins: Twins, redis_config: CacheConfig
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config, ttl_seconds=1e300)
    cache.set(URL, VECTOR)
    assert cache.get(URL) is not None


def test_an_expired_entry_is_a_miss(twins: Twins, redis_config: CacheConfig, raw: redis.Redis) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config, ttl_seconds=0.05)
    cache.set(URL, VECTOR)
    wait_until(lambda: not raw.exists(key_of(cache)), what="the end of the entry")
    assert cache.get(URL) is None


# -- vectors -------------------------------------------------------------------------------


def test_the_configured_dimension_is_asked_for_with_both_named(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config.replace(embedding_dim=3))
    cache.set(URL, VECTOR)
    for call in (
        lambda: cache.set("other", np.ones(4)),
        lambda: cache.batch_set({"another": VECTOR, "other": np.ones(4)}),
    ):
        with pytest.raises(DimensionMismatch, match=r"dimension 3\b.*dimension 4\b"):
            call()
    assert not raw.exists(key_of(cache, "other"), key_of(cache, "another"))
    later = twins.make("URLEmbeddingCache", "s", redis_config.replace(embedding_dim=4))
    for call in (lambda: later.get(URL), lambda: later.batch_get([URL])):
        with pytest.raises(DimensionMismatch, match=r"\b4\b.*\b3\b"):
            call()


BAD_VECTORS: dict[str, Any] = {
    "nan": [1.0, math.nan],
    "infinite": [1.0, -math.inf],
    "infinite in float32": [1e300, 1.0],
    "empty": [],
    "a number": 1.0,
    "two rows": [[1.0, 2.0], [3.0, 4.0]],
    "ragged": [[1.0], [2.0, 3.0]],
    "text": "1.0",
    "none": None,
    "complex": [1j],
    "bools": [True],
    "bytes": b"\0\0\x80?",
}


@pytest.mark.parametrize("vector", BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_what_is_no_vector_is_refused_and_nothing_is_stored(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, vector: Any
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    with pytest.raises(InvalidVector):
        cache.set(URL, vector)
    with pytest.raises(InvalidVector):
        cache.batch_set({"good": VECTOR, URL: vector})
    assert not raw.exists(key_of(cache), key_of(cache, "good"))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_named_with_its_place_and_the_dimension(
    twins: Twins, redis_config: CacheConfig, number: float
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    with pytest.raises(InvalidVector, match=rf"dimension 3 holds {number} at position 1"):
        cache.set(URL, [0.0, number, 1.0])


def test_vectors_of_different_embedders_never_meet(twins: Twins, redis_config: CacheConfig) -> None:
    names = [None, "a", "b", "a ", "A"]
    caches = [twins.make("URLEmbeddingCache", "s", redis_config.replace(embedder_id=name)) for name in names]
    for i, cache in enumerate(caches):
        assert cache.get(URL) is None
        cache.set(URL, [float(i)])
    assert [cache.get(URL).tolist() for cache in caches] == [[0.0], [1.0], [2.0], [3.0], [4.0]]


# -- URLs are data -------------------------------------------------------------------------

HOSTILE = [
    "",
    "a",
    "a:b",
    ":",
    "*",
    "?",
    "a*",
    "[a-z]*",
    "a\\",
    "{0}",
    "a\0b",
    "a\nb",
    "a b",
    "../a",
    "%s",
    "\r\nFLUSHALL\r\n",
    "пример",
    "例え",
    "🙂",
    "\ud83d\ude42",
    "\ud800",
    "x" * 100_000,
]


def test_no_url_is_taken_for_another_whatever_it_looks_like(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    for i, url in enumerate(HOSTILE):
        assert cache.get(url) is None
        cache.set(url, [float(i)])
    assert [cache.get(url).tolist() for url in HOSTILE] == [[float(i)] for i in range(len(HOSTILE))]
    found = cache.batch_get(HOSTILE)
    assert {url: vector.tolist() for url, vector in found.items()} == {
        url: [float(i)] for i, url in enumerate(HOSTILE)
    }


TEXTS = st.one_of(st.text(alphabet=":*?[]\\{}/ \0\nab", max_size=6), st.text(max_size=12))
PAIRS = st.tuples(TEXTS, TEXTS)


@given(PAIRS, PAIRS)
@settings(max_examples=400, deadline=None)
@example(("a:b", ""), ("b", "a"))
@example(("", "a"), ("a", ""))
def test_no_two_pairs_of_url_and_embedder_share_a_key(
    first: tuple[str, str], second: tuple[str, str]
) -> None:
    assume(first != second)
    keys = [
        key_of(URLEmbeddingCache("s", CacheConfig(embedder_id=embedder)), url)
        for url, embedder in (first, second)
    ]
    assert keys[0] != keys[1]


def test_two_prefixes_are_two_caches(twins: Twins, redis_config: CacheConfig) -> None:
    twins.make("URLEmbeddingCache", "s", redis_config).set(URL, VECTOR)
    other = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "x")
    assert twins.make("URLEmbeddingCache", "s", other).get(URL) is None


@pytest.mark.parametrize("url", [None, 7, b"url"])
def test_a_url_that_is_no_text_is_refused(twins: Twins, redis_config: CacheConfig, url: Any) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    for call in (
        lambda: cache.get(url),
        lambda: cache.set(url, VECTOR),
        lambda: cache.batch_get([URL, url]),
        lambda: cache.batch_set({URL: VECTOR, url: VECTOR}),
    ):
        with pytest.raises(InvalidInput, match="URL must be a str"):
            call()
    assert cache.get(URL) is None


# -- batches -------------------------------------------------------------------------------


@pytest.mark.parametrize("batch_size", [1, 2, 7, 100])
def test_a_batch_stores_and_reads_all_in_the_order_of_the_urls(
    twins: Twins, redis_config: CacheConfig, batch_size: int
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config, batch_size=batch_size)
    vectors = {f"u{i}": np.array([i, -i], dtype=np.float32) for i in range(15)}
    assert cache.batch_set(vectors) == dict.fromkeys(vectors, True)
    urls = ["none", *reversed(vectors), "u3", "none", "nothing"]
    found = cache.batch_get(urls)
    assert list(found) == list(dict.fromkeys(urls))
    assert found["none"] is None
    assert found["nothing"] is None
    for url, vector in vectors.items():
        assert found[url].dtype == np.float32
        assert found[url].tolist() == vector.tolist()


def test_an_empty_batch_sends_nothing(twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy) -> None:
    cache = twins.make("URLEmbeddingCache", "s", proxy_config)
    assert cache.batch_set({}) == {}
    assert cache.batch_get([]) == {}
    assert proxy.round_trips == 0


# -- what is stored ------------------------------------------------------------------------


def test_a_vector_is_stored_as_four_bytes_a_number_and_nothing_else(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    vector = np.random.default_rng(1).standard_normal(384)
    cache.set(URL, vector)
    assert raw.get(key_of(cache)) == vector.astype("<f4").tobytes()
    assert raw.memory_usage(key_of(cache)) < 4 * 384 + len(key_of(cache)) + 400


@pytest.mark.parametrize("data", [b"", b"x", b"\0" * 6, b'{"a": 1}x'])
@pytest.mark.promise("no-false-empty")
def test_foreign_data_under_our_key_is_an_error_and_not_a_vector(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, data: bytes
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    raw.set(key_of(cache), data)
    with pytest.raises(RedisCommandError, match="foreign"):
        cache.get(URL)
    with pytest.raises(RedisCommandError, match="foreign"):
        cache.batch_get(["other", URL])
    # It is a cache: storing the embedding again mends it.
    cache.set(URL, VECTOR)
    assert cache.get(URL).tolist() == VECTOR.tolist()


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_stored_number_that_is_not_finite_never_reaches_a_caller(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, number: float
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    raw.set(key_of(cache), np.array([1.0, number], dtype="<f4").tobytes())
    with pytest.raises(RedisCommandError, match="foreign"):
        cache.get(URL)


@pytest.mark.promise("no-false-empty")
def test_a_key_of_another_type_is_an_error(twins: Twins, redis_config: CacheConfig, raw: redis.Redis) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config)
    raw.rpush(key_of(cache), "foreign")
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        cache.get(URL)


# -- trouble with Redis --------------------------------------------------------------------


@pytest.mark.promise("no-false-empty")
def test_trouble_is_an_error_and_not_a_miss(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("URLEmbeddingCache", "s", nowhere(redis_config))
    for call in (
        lambda: cache.get(URL),
        lambda: cache.set(URL, VECTOR),
        lambda: cache.batch_get([URL]),
        lambda: cache.batch_set({URL: VECTOR}),
    ):
        with pytest.raises(RedisUnavailable):
            call()
    stats = cache.get_stats()
    assert stats["redis_memory_used"] == "unknown"
    assert stats["redis"].startswith("RedisUnavailable: ")
    assert (stats["hits"], stats["misses"], stats["sets"], stats["degraded"]) == (0, 0, 0, 0)


def test_under_the_policy_miss_trouble_is_a_counted_miss(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("URLEmbeddingCache", "s", nowhere(redis_config, on_cache_error="miss"))
    assert cache.get(URL) is None
    assert cache.set(URL, VECTOR) is False
    assert cache.batch_get([URL, "other", URL]) == {URL: None, "other": None}
    assert cache.batch_set({URL: VECTOR, "other": VECTOR}) == {URL: False, "other": False}
    stats = cache.get_stats()
    assert stats["degraded"] == 4
    assert (stats["hits"], stats["misses"], stats["sets"]) == (0, 0, 0)


def test_the_policy_miss_is_for_an_absent_server_alone(twins: Twins, redis_config: CacheConfig) -> None:
    config = redis_config.replace(on_cache_error="miss")
    with pytest.raises(RedisAuthError):
        twins.make("URLEmbeddingCache", "s", config.replace(redis_password="wrong")).get(URL)
    away = twins.make("URLEmbeddingCache", "s", nowhere(config))
    for _ in range(2):
        with pytest.raises(InvalidVector):
            away.set(URL, [math.nan])
        assert away.get(URL) is None


def test_under_the_policy_miss_an_absent_server_is_not_asked_again_at_once(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy
) -> None:
    clock = ManualClock()
    config = proxy_config.replace(on_cache_error="miss", redis_retry_seconds=1)
    cache = twins.make("URLEmbeddingCache", "s", config, clock=clock)
    cache.set(URL, VECTOR)
    proxy.refuse()
    assert cache.get(URL) is None
    proxy.allow()
    proxy.reset()
    clock.advance(0.99)
    assert cache.get(URL) is None
    assert proxy.round_trips == 0
    clock.advance(0.01)
    assert cache.get(URL) is not None


# -- stats ---------------------------------------------------------------------------------


def test_stats_count_what_this_object_did(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("URLEmbeddingCache", "s", redis_config, ttl_seconds=60)
    cache.set("a", VECTOR)
    cache.batch_set({"b": VECTOR, "c": VECTOR})
    cache.get("a")
    cache.get(uuid.uuid4().hex)
    cache.batch_get(["a", "b", "none"])
    stats = cache.get_stats()
    assert stats.pop("redis_memory_used").endswith(("K", "M"))
    assert stats == {
        "backend": "redis",
        "session_id": "s",
        "ttl_seconds": 60,
        "redis": "ok",
        "hits": 3,
        "misses": 2,
        "sets": 3,
        "degraded": 0,
    }
