"""The semantic query cache, in both variants: one suite."""

from __future__ import annotations

import json
import math
import struct
import threading
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import redis
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

from lix_cache import SemanticCacheRedis
from lix_cache.config import CacheConfig
from lix_cache.drivers.sync import SyncDriver
from lix_cache.errors import (
    ConfigError,
    DimensionMismatch,
    InvalidInput,
    InvalidMessage,
    InvalidVector,
    RedisAuthError,
    RedisCommandError,
    RedisUnavailable,
)
from lix_cache.hot import breaker as breaker_module
from lix_cache.hot.keys import Keys
from lix_cache.messages.session_key import stored_id
from tests.support import CountingProxy, RedisServer
from tests.support.redis_server import nowhere, wait_until
from tests.support.twins import ManualClock, Twins

DIM = 8
URL = "https://weather.example/tokyo"


def axis(i: int, dim: int = DIM) -> np.ndarray:
    """Return a vector that is at a right angle to every other axis."""
    return np.eye(dim)[i]


def at_cosine(cosine: float, dim: int = DIM) -> np.ndarray:
    """Return a vector whose cosine to ``axis(0)`` is the given one."""
    return cosine * axis(0, dim) + math.sqrt(1 - cosine * cosine) * axis(1, dim)


@pytest.fixture(autouse=True)
def _own_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are shared by the whole process, and a port may be used by two tests.
    monkeypatch.setattr(breaker_module, "_breakers", {})


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def raw(redis_server: RedisServer) -> Iterator[redis.Redis]:
    """A plain client on the database of the semantic cache."""
    client = redis_server.client(db=0)
    yield client
    client.close()


def keys_of(cache: Any, url: str = URL) -> tuple[str, str, str]:
    """Return the names of the vectors, the responses and the index."""
    inner = cache._cache
    scope = inner._scope(url)
    return inner._vectors(scope), inner._responses(scope), inner.keys.semantic_scopes(inner.session_id)


# -- hit and miss --------------------------------------------------------------------------


def test_none_is_a_miss_and_a_hit_is_the_response(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    assert cache.get(URL, axis(0)) is None
    assert cache.set(URL, axis(0), {"answer": "22 °C"}) is None
    assert cache.get(URL, axis(0)) == {"answer": "22 °C"}
    assert cache.get(URL, 1000 * axis(0)) == {"answer": "22 °C"}
    assert cache.get(URL, axis(1)) is None
    assert cache.get(URL + "/", axis(0)) is None


def test_a_hit_needs_the_threshold(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.set(URL, axis(0), "near enough")
    assert cache.similarity_threshold == 0.90
    assert cache.get(URL, at_cosine(0.901)) == "near enough"
    assert cache.get(URL, at_cosine(0.899)) is None


@pytest.mark.parametrize("threshold", [0.0, -1.0])
def test_a_threshold_of_zero_or_less_is_taken_at_its_word(
    twins: Twins, redis_config: CacheConfig, threshold: float
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, similarity_threshold=threshold)
    cache.set(URL, axis(0), "far away")
    assert cache.get(URL, at_cosine(0.05)) == "far away"
    assert (cache.get(URL, -axis(0)) is None) is (threshold == 0.0)


def test_the_same_vector_reaches_a_threshold_of_one(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, similarity_threshold=1.0)
    rng = np.random.default_rng(7)
    vectors = rng.standard_normal((40, 384))
    cache.batch_set([(str(i), vector, i) for i, vector in enumerate(vectors)])
    found = cache.batch_get([(str(i), vector) for i, vector in enumerate(vectors)])
    assert found == list(range(40))
    assert cache.get("0", vectors[0] + 0.01 * rng.standard_normal(384)) is None


def test_the_nearest_of_several_wins(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    for cosine in (0.93, 0.99, 0.96):
        cache.set(URL, at_cosine(cosine), cosine)
    assert cache.get(URL, axis(0)) == 0.99


def test_what_was_stored_last_for_a_query_is_what_it_gets(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, max_items_per_url=7)
    rng = np.random.default_rng(3)
    for _ in range(5):
        query = rng.standard_normal(384)
        for i in range(9):
            cache.set(URL, query * rng.uniform(0.1, 10), i)
            assert cache.get(URL, query) == i
            cache.set(URL, rng.standard_normal(384), "something else")


def test_arguments_win_over_the_configuration(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make(
        "SemanticCacheRedis",
        session_id="s",
        config=redis_config,
        ttl_seconds=7,
        similarity_threshold=0.5,
        max_items_per_url=3,
        redis_host="127.0.0.1",
        redis_port=redis_config.redis_port,
        redis_db=5,
    )
    assert (cache.session_id, cache.ttl_seconds, cache.similarity_threshold, cache.max_items_per_url) == (
        "s",
        7,
        0.5,
        3,
    )
    cache.set(url=URL, query_embedding=axis(0), response=1)
    assert cache.get(url=URL, query_embedding=at_cosine(0.6)) == 1
    assert twins.make("SemanticCacheRedis", "s", redis_config).get(URL, axis(0)) is None


@pytest.mark.parametrize(
    "arguments",
    [
        {"ttl_seconds": 0},
        {"ttl_seconds": -1},
        {"ttl_seconds": math.nan},
        {"ttl_seconds": math.inf},
        {"ttl_seconds": "300"},
        {"similarity_threshold": 1.01},
        {"similarity_threshold": math.nan},
        {"max_items_per_url": 0},
        {"max_items_per_url": 2.5},
        {"redis_db": -1},
    ],
)
def test_an_argument_that_makes_no_sense_is_refused_by_name(
    twins: Twins, redis_config: CacheConfig, arguments: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match=next(iter(arguments)).removeprefix("max_")):
        twins.make("SemanticCacheRedis", "s", redis_config, **arguments)


@pytest.mark.parametrize("seconds", [0, -5, math.nan, math.inf, "60"])
def test_a_life_of_one_entry_that_makes_no_sense_is_refused(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, seconds: Any
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    with pytest.raises(ConfigError, match="ttl_seconds"):
        cache.set(URL, axis(0), 1, ttl_seconds=seconds)
    assert not raw.exists(*keys_of(cache))


# -- life ----------------------------------------------------------------------------------


def test_a_later_entry_does_not_prolong_an_earlier_ones_life(
    twins: Twins, redis_config: CacheConfig, clock: ManualClock
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, ttl_seconds=300, clock=clock)
    cache.set(URL, axis(0), "first")
    clock.advance(200)
    cache.set(URL, axis(1), "second")
    clock.advance(99)
    assert cache.get(URL, axis(0)) == "first"
    clock.advance(1)
    assert cache.get(URL, axis(0)) is None
    assert cache.get(URL, axis(1)) == "second"
    clock.advance(200)
    assert cache.get(URL, axis(1)) is None


def test_an_expired_entry_does_not_hide_a_living_one(
    twins: Twins, redis_config: CacheConfig, clock: ManualClock
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, clock=clock)
    cache.set(URL, axis(0), "nearest", ttl_seconds=10)
    cache.set(URL, at_cosine(0.95), "near", ttl_seconds=20)
    assert cache.get(URL, axis(0)) == "nearest"
    clock.advance(10)
    assert cache.get(URL, axis(0)) == "near"


def test_each_entry_of_a_batch_can_be_given_a_life(
    twins: Twins, redis_config: CacheConfig, clock: ManualClock
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, clock=clock)
    cache.batch_set([("a", axis(0), "a"), ("b", axis(0), "b")], ttl_seconds=10)
    cache.batch_set([("c", axis(0), "c")])
    clock.advance(10)
    assert cache.batch_get([("a", axis(0)), ("b", axis(0)), ("c", axis(0))]) == [None, None, "c"]


def ttls(raw: redis.Redis, cache: Any) -> list[int]:
    """Return how many milliseconds each of the cache's keys has left."""
    return [raw.pttl(key) for key in keys_of(cache)]


def test_the_keys_live_as_long_as_the_longest_lived_entry(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, ttl_seconds=1000)
    cache.set(URL, axis(0), 1)
    assert all(900_000 < ttl <= 1_000_000 for ttl in ttls(raw, cache))
    cache.set(URL, axis(1), 2, ttl_seconds=100)
    assert all(900_000 < ttl <= 1_000_000 for ttl in ttls(raw, cache))
    cache.set(URL, axis(2), 3, ttl_seconds=2000)
    assert all(1_900_000 < ttl <= 2_000_000 for ttl in ttls(raw, cache))


@pytest.mark.parametrize("size", [2, 40])
@pytest.mark.promise("isolation")
def test_another_number_of_items_does_not_shorten_the_life_of_those_kept(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, size: int
) -> None:
    twins.make("SemanticCacheRedis", "s", redis_config).set(URL, axis(0), 1, ttl_seconds=1000)
    cache = twins.make("SemanticCacheRedis", "s", redis_config, max_items_per_url=size)
    cache.set(URL, axis(1), 2, ttl_seconds=10)
    assert all(900_000 < ttl <= 1_000_000 for ttl in ttls(raw, cache))


def test_redis_forgets_what_has_expired(twins: Twins, redis_config: CacheConfig, raw: redis.Redis) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, ttl_seconds=0.05)
    cache.set(URL, axis(0), 1)
    wait_until(lambda: not raw.exists(*keys_of(cache)), what="the end of all keys")
    assert cache.get(URL, axis(0)) is None
    assert cache.get_stats()["cached_urls"] == 0


# -- first in, first out -------------------------------------------------------------------


def test_the_oldest_entry_makes_room(twins: Twins, redis_config: CacheConfig, raw: redis.Redis) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, max_items_per_url=3)
    for i in range(5):
        cache.set(URL, axis(i), i)
    assert [cache.get(URL, axis(i)) for i in range(5)] == [None, None, 2, 3, 4]
    assert raw.hlen(keys_of(cache)[1]) == 3
    cache.set("another url", axis(0), "not counted together")
    assert cache.get(URL, axis(2)) == 2


@given(st.lists(st.integers(1, 9), min_size=1, max_size=25))
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example([5, 5, 5, 5, 5, 5, 5, 2, 9, 9, 9, 9])
@example([3, 3, 3, 3, 7, 7, 7, 7, 7, 7, 7, 3, 3, 1, 4])
def test_the_number_of_items_may_change_between_any_two_sets(
    redis_config: CacheConfig, raw: redis.Redis, sizes: list[int]
) -> None:
    session = uuid.uuid4().hex
    dim = len(sizes) + 1
    kept: list[int] = []
    for i, size in enumerate(sizes):
        cache = SemanticCacheRedis(session, redis_config, max_items_per_url=size)
        cache.set(URL, axis(i, dim), i)
        kept = [*kept, i][-size:]
        found = cache.batch_get([(URL, axis(j, dim)) for j in range(i + 1)])
        assert [x for x in found if x is not None] == kept
        vectors, responses, _ = keys_of(cache)
        assert raw.hlen(responses) == len(kept)
        assert raw.strlen(vectors) <= 64 + size * (16 + 4 * dim)


def test_writers_at_one_time_lose_no_entry(redis_config: CacheConfig) -> None:
    cache = SemanticCacheRedis("s", redis_config, max_items_per_url=100)
    started = threading.Barrier(4)

    def write(first: int) -> None:
        started.wait()
        for i in range(first, 100, 4):
            cache.set(URL, axis(i, 100), i)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert cache.batch_get([(URL, axis(i, 100)) for i in range(100)]) == list(range(100))


# -- vectors -------------------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_a_vector_of_another_dimension_is_refused_with_both_named(
    twins: Twins, redis_config: CacheConfig
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.set(URL, axis(0), "kept")
    for call in (
        lambda: cache.get(URL, np.ones(DIM + 1)),
        lambda: cache.set(URL, np.ones(DIM + 1), "refused"),
        lambda: cache.batch_get([("elsewhere", axis(0)), (URL, np.ones(DIM + 1))]),
        lambda: cache.batch_set([("elsewhere", axis(0), 1), (URL, np.ones(DIM + 1), "refused")]),
    ):
        with pytest.raises(DimensionMismatch, match=rf"dimension {DIM}\b.*dimension {DIM + 1}\b") as caught:
            call()
        assert (caught.value.expected, caught.value.got) == (DIM, DIM + 1)
    assert cache.get(URL, axis(0)) == "kept"
    assert cache.get("elsewhere", axis(0)) == 1
    assert cache.get("yet elsewhere", np.ones(DIM + 1)) is None


def test_the_configured_dimension_is_asked_for_before_anything_is_sent(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config.replace(embedding_dim=DIM))
    for call in (
        lambda: cache.get(URL, np.ones(3)),
        lambda: cache.set(URL, np.ones(3), 1),
        lambda: cache.batch_set([(URL, axis(0), 1), (URL, np.ones(3), 2)]),
    ):
        with pytest.raises(DimensionMismatch, match=rf"dimension {DIM}\b.*dimension 3\b"):
            call()
    assert not raw.exists(*keys_of(cache))


BAD_VECTORS: dict[str, Any] = {
    "nan": [1.0, math.nan],
    "infinite": [1.0, math.inf],
    "negative infinite": [-math.inf, 1.0],
    "infinite in float32": [1e300, 1.0],
    "zero": [0.0, 0.0],
    "zero in float32": [1e-300, 0.0],
    "empty": [],
    "a number": 1.0,
    "two rows": [[1.0, 2.0], [3.0, 4.0]],
    "ragged": [[1.0], [2.0, 3.0]],
    "text": "1.0",
    "texts": ["1.0", "2.0"],
    "none": None,
    "nones": [None, None],
    "complex": [1j, 1.0],
    "bools": [True, False],
    "bytes": b"\0\0\x80?",
    "dict": {"0": 1.0},
}


@pytest.mark.parametrize("vector", BAD_VECTORS.values(), ids=BAD_VECTORS)
def test_what_is_no_vector_is_refused_and_nothing_is_stored(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, vector: Any
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    for call in (
        lambda: cache.get(URL, vector),
        lambda: cache.set(URL, vector, 1),
        lambda: cache.batch_get([(URL, [1.0, 0.0]), (URL, vector)]),
        lambda: cache.batch_set([(URL, [1.0, 0.0], 1), (URL, vector, 2)]),
    ):
        with pytest.raises(InvalidVector):
            call()
    assert not raw.exists(*keys_of(cache))


@pytest.mark.parametrize("number", [math.nan, math.inf])
def test_a_number_that_is_not_finite_is_named_with_its_place_and_the_dimension(
    twins: Twins, redis_config: CacheConfig, number: float
) -> None:
    vector = axis(0)
    vector[3] = number
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    with pytest.raises(InvalidVector, match=rf"dimension {DIM} holds {number} at position 3"):
        cache.get(URL, vector)


@pytest.mark.parametrize(
    "vector",
    [
        [3, 0, 4],
        (3.0, 0.0, 4.0),
        np.array([[3.0, 0.0, 4.0]]),
        np.array([[3], [0], [4]], dtype=np.int8),
        np.array([3, 0, 4], dtype=">f8"),
        np.array([3, 0, 4], dtype=np.float16),
        np.array([3e38, 0, 4e38 / 1.5], dtype=np.float64) / 1.5,
        np.array([3, 9, 0, 9, 4, 9], dtype=np.float32)[::2],
    ],
    ids=["ints", "tuple", "row", "column", "big endian", "half", "huge", "strided"],
)
def test_a_vector_may_come_in_any_usual_form(twins: Twins, redis_config: CacheConfig, vector: Any) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, similarity_threshold=0.9)
    cache.set(URL, vector, "found")
    assert cache.get(URL, vector) == "found"
    assert cache.get(URL, [0.6, 0.0, 0.8]) == "found"
    assert cache.get(URL, [0.0, 1.0, 0.0]) is None


def test_vectors_of_different_embedders_never_meet(twins: Twins, redis_config: CacheConfig) -> None:
    names = [None, "a", "b", "a ", "A"]
    caches = {
        name: twins.make("SemanticCacheRedis", "s", redis_config.replace(embedder_id=name)) for name in names
    }
    for dim, (name, cache) in enumerate(caches.items(), start=2):
        assert cache.get(URL, axis(0, dim)) is None
        # Not even another dimension is in the way.
        cache.set(URL, axis(0, dim), f"by {name}")
    for dim, (name, cache) in enumerate(caches.items(), start=2):
        assert cache.get(URL, axis(0, dim)) == f"by {name}"


# -- no caller reaches another's data -----------------------------------------------------

HOSTILE = [
    "a",
    "a:b",
    "b",
    ":",
    "*",
    "?",
    "a*",
    "[a-z]*",
    "a\\",
    "{0}",
    "}{",
    "a\0b",
    "a\nb",
    "a b",
    "../a",
    "%s",
    "\r\nFLUSHALL\r\n",
    "сессия",
    "セッション",
    "🙂",
    "x" * 10_000,
]


@pytest.mark.promise("isolation")
def test_no_session_sees_anothers_whatever_the_ids_look_like(twins: Twins, redis_config: CacheConfig) -> None:
    caches = [twins.make("SemanticCacheRedis", name, redis_config) for name in HOSTILE]
    for name, cache in zip(HOSTILE, caches, strict=True):
        cache.batch_set([(url, axis(0), [name, url]) for url in HOSTILE])
    for name, cache in zip(HOSTILE, caches, strict=True):
        found = cache.batch_get([(url, axis(0)) for url in [*HOSTILE, "never set"]])
        assert found == [*([name, url] for url in HOSTILE), None]
        assert cache.get_stats()["cached_urls"] == len(HOSTILE)


SEPARATORS = st.text(alphabet=":*?[]\\{}/ \0\nab", max_size=6)
ANY_TEXT = st.text(max_size=12)
SESSIONS = st.one_of(SEPARATORS, ANY_TEXT).filter(bool)
TRIPLES = st.tuples(SESSIONS, st.one_of(SEPARATORS, ANY_TEXT), st.one_of(SEPARATORS, ANY_TEXT))


@given(TRIPLES, TRIPLES, st.integers(1, 3))
@settings(max_examples=400, deadline=None)
@example(("a", "b:c", ""), ("a:b", "c", ""), 1)
@example(("a", "bc", "d"), ("ab", "c", "d"), 1)
@example(("a", "b", "c"), ("a", "", "bc"), 1)
@example((":", "", ""), ("\x1f0\x80\x80\x80", "", ""), 2)
@pytest.mark.promise("isolation")
def test_no_two_scopes_have_a_key_in_common(
    first: tuple[str, str, str], second: tuple[str, str, str], buckets: int
) -> None:
    assume(first != second)
    keys = Keys("p", buckets)

    def names(triple: tuple[str, str, str]) -> set[str]:
        session, url, embedder = triple
        cache = SemanticCacheRedis(session, CacheConfig(embedder_id=embedder, redis_buckets=buckets))
        vectors, responses, index = keys_of(cache, url)
        assert len({vectors, responses, index}) == 3
        # All of them are of one slot of a cluster, whatever is in the id.
        tags = {name[name.index("{") + 1 : name.index("}")] for name in (vectors, responses, index)}
        assert tags == {str(keys.bucket(stored_id(session)))}
        return {vectors, responses} | ({index} if first[0] != second[0] else set())

    assert not names(first) & names(second)


@given(TRIPLES, TRIPLES)
@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@example(("a", "b:c", ""), ("a:b", "c", ""))
@example(("a", "b", ""), ("a*", "b", ""))
@pytest.mark.promise("isolation")
def test_no_two_scopes_share_an_entry(
    redis_config: CacheConfig, first: tuple[str, str, str], second: tuple[str, str, str]
) -> None:
    assume(first != second)
    prefix = redis_config.redis_key_prefix + uuid.uuid4().hex
    mine, theirs = (
        SemanticCacheRedis(session, redis_config.replace(redis_key_prefix=prefix, embedder_id=embedder))
        for session, _, embedder in (first, second)
    )
    mine.set(first[1], axis(0), "mine")
    assert theirs.get(second[1], axis(0)) is None
    theirs.set(second[1], axis(0), "theirs")
    assert mine.get(first[1], axis(0)) == "mine"
    if first[0] != second[0]:
        theirs.clear_session()
        assert mine.get(first[1], axis(0)) == "mine"


def test_two_prefixes_are_two_caches(twins: Twins, redis_config: CacheConfig) -> None:
    twins.make("SemanticCacheRedis", "s", redis_config).set(URL, axis(0), 1)
    other = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "x")
    assert twins.make("SemanticCacheRedis", "s", other).get(URL, axis(0)) is None


@pytest.mark.parametrize("url", [None, 7, b"url", ["url"]])
def test_a_url_that_is_no_text_is_refused(twins: Twins, redis_config: CacheConfig, url: Any) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    with pytest.raises(InvalidInput, match="URL must be a str"):
        cache.get(url, axis(0))
    with pytest.raises(InvalidInput, match="URL must be a str"):
        cache.set(url, axis(0), 1)


def test_any_text_can_be_a_url(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    for url in ("", "\ud800", "x" * 1_000_000):
        cache.set(url, axis(0), len(url))
        assert cache.get(url, axis(0)) == len(url)


# -- batches -------------------------------------------------------------------------------


def test_a_batch_answers_in_order_with_none_for_each_miss(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.batch_set([("a", axis(0), "a0"), ("b", axis(0), "b0"), ("a", axis(1), "a1")])
    queries = [("a", axis(1)), ("b", axis(1)), ("b", axis(0)), ("c", axis(0)), ("a", axis(0)), ("a", axis(1))]
    assert cache.batch_get(queries) == ["a1", None, "b0", None, "a0", "a1"]


def test_an_empty_batch_sends_nothing(twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy) -> None:
    cache = twins.make("SemanticCacheRedis", "s", proxy_config)
    assert cache.batch_get([]) == []
    assert cache.batch_set([]) is None
    assert proxy.round_trips == 0


def test_entries_of_a_batch_may_come_from_a_generator(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.batch_set((URL, axis(i), i) for i in range(3))
    assert cache.batch_get([(URL, axis(i)) for i in range(3)]) == [0, 1, 2]


def test_in_a_batch_the_first_in_is_the_first_out(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, max_items_per_url=2)
    cache.batch_set([(URL, axis(i), i) for i in range(4)])
    assert cache.batch_get([(URL, axis(i)) for i in range(4)]) == [None, None, 2, 3]


# -- clearing ------------------------------------------------------------------------------


@pytest.mark.promise("isolation")
def test_clearing_drops_this_session_and_no_other(
    twins: Twins, redis_config: CacheConfig, redis_server: RedisServer, raw: redis.Redis
) -> None:
    others = ["a", "ab", "a*b", "a?", "a:", "*", "\\"]
    caches = {name: twins.make("SemanticCacheRedis", name, redis_config) for name in ["a*", *others]}
    for cache in caches.values():
        cache.batch_set([(url, axis(0), url) for url in ("u", "v", "*")])
    other_model = twins.make("SemanticCacheRedis", "a*", redis_config.replace(embedder_id="other"))
    other_model.set("u", axis(0), "other model")

    redis_server.reset_stats()
    assert caches["a*"].clear_session() is True
    assert not {"keys", "scan", "flushdb"} & redis_server.command_stats().keys()

    assert caches["a*"].batch_get([(url, axis(0)) for url in ("u", "v", "*")]) == [None] * 3
    assert other_model.get("u", axis(0)) is None
    assert not raw.exists(*keys_of(caches["a*"], "u"), *keys_of(other_model, "u"))
    assert caches["a*"].get_stats()["cached_urls"] == 0
    for name in others:
        assert caches[name].batch_get([(url, axis(0)) for url in ("u", "v", "*")]) == ["u", "v", "*"]
    assert caches["a*"].clear_session() is True


@pytest.mark.promise("isolation")
def test_a_cleared_session_can_be_used_again(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.set(URL, axis(0), "old")
    cache.clear_session()
    # Even with another embedder's vectors.
    cache.set(URL, axis(0, 3), "new")
    assert cache.get(URL, axis(0, 3)) == "new"


# -- an entry replaced between the two round trips -----------------------------------------


def replace_all(cache: SemanticCacheRedis) -> None:
    cache.clear_session()
    cache.set(URL, axis(1), "another answer")


def push_out(cache: SemanticCacheRedis) -> None:
    cache.set(URL, axis(1), "another answer")


def drop(cache: SemanticCacheRedis) -> None:
    cache.clear_session()


@pytest.mark.parametrize("meanwhile", [replace_all, push_out, drop])
@pytest.mark.parametrize("many", [False, True], ids=["get", "batch_get"])
def test_an_entry_replaced_between_the_round_trips_of_a_hit_is_a_miss_and_never_a_wrong_answer(
    redis_config: CacheConfig, meanwhile: Any, many: bool
) -> None:
    cache = SemanticCacheRedis("s", redis_config, max_items_per_url=1)
    cache.set(URL, axis(0), "the answer")
    perform = SyncDriver(cache._endpoint)._perform
    flow = cache._cache.get_many([(URL, axis(0))]) if many else cache._cache.get(URL, axis(0))

    effect = flow.send(perform(flow.send(None)))
    meanwhile(cache)
    with pytest.raises(StopIteration) as done:
        flow.send(perform(effect))

    assert done.value.value == ([None] if many else None)
    assert cache.get_stats()["misses"] == 1
    assert cache.get_stats()["hits"] == 0


@pytest.mark.promise("isolation")
def test_an_entry_that_stays_is_served_though_others_come_in_between(redis_config: CacheConfig) -> None:
    cache = SemanticCacheRedis("s", redis_config, max_items_per_url=3)
    cache.set(URL, axis(0), "the answer")
    perform = SyncDriver(cache._endpoint)._perform
    flow = cache._cache.get(URL, axis(0))
    effect = flow.send(perform(flow.send(None)))
    cache.set(URL, axis(1), "another")
    SemanticCacheRedis("s", redis_config, max_items_per_url=9).set(URL, axis(2), "in a larger ring")
    with pytest.raises(StopIteration) as done:
        flow.send(perform(effect))
    assert done.value.value == "the answer"


@pytest.mark.parametrize("nonce", [b"\xff" * 8, b"\x00" * 8, b"\x00" * 7 + b"\x80", b"\r\n\r\n\r\n\r\n"])
def test_all_64_bits_of_a_nonce_count(twins: Twins, redis_config: CacheConfig, nonce: bytes) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache._cache.new_nonce = lambda: nonce
    cache.set(URL, axis(0), "found")
    assert cache.get(URL, axis(0)) == "found"


@pytest.mark.parametrize("bit", [0, 31, 32, 52, 53, 62, 63])
@pytest.mark.promise("isolation")
def test_a_nonce_that_differs_in_one_bit_is_another_entry(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, bit: int
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.set(URL, axis(0), "found")
    responses = keys_of(cache)[1]
    stored = raw.hget(responses, "0")
    changed = (int.from_bytes(stored[:8], "little") ^ (1 << bit)).to_bytes(8, "little")
    raw.hset(responses, "0", changed + stored[8:])
    assert cache.get(URL, axis(0)) is None


def test_nonces_are_new_for_every_entry(redis_config: CacheConfig) -> None:
    cache = SemanticCacheRedis("s", redis_config)
    nonces = {cache._cache.new_nonce() for _ in range(1000)}
    assert len(nonces) == 1000
    assert {len(nonce) for nonce in nonces} == {8}


# -- responses -----------------------------------------------------------------------------

RESPONSES: dict[str, Any] = {
    "object": {"answer": "22 °C", "sources": ["a", "b"], "nested": {"a": {"b": [None]}}},
    "empty object": {},
    "list": [1, "two", None, 3.5],
    "empty list": [],
    "text": "plain",
    "empty text": "",
    "zero": 0,
    "int": 2**70,
    "float": -0.1,
    "false": False,
    "true": True,
    "other scripts": "天気は晴れ 🙂 \u0000 \ud800",
    "large": "x" * 1_000_000,
}


@pytest.mark.parametrize("response", RESPONSES.values(), ids=RESPONSES)
def test_a_response_of_every_json_type_comes_back_as_it_was(
    twins: Twins, redis_config: CacheConfig, response: Any
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.set(URL, axis(0), response)
    found = cache.get(URL, axis(0))
    assert found == response
    assert type(found) is type(response)


@pytest.mark.parametrize(
    "response",
    [None, math.nan, {"a": math.inf}, b"bytes", {1: "key"}, {"a": {2, 3}}, [object()], "deep"],
    ids=["None", "nan", "inf", "bytes", "key", "set", "object", "deep"],
)
def test_a_response_that_would_not_come_back_is_refused_and_nothing_stored(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, response: Any
) -> None:
    if response == "deep":
        for _ in range(300):
            response = [response]
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    with pytest.raises(InvalidMessage, match="the response"):
        cache.set(URL, axis(0), response)
    with pytest.raises(InvalidMessage, match="the response"):
        cache.batch_set([(URL, axis(0), "good"), (URL, axis(1), response)])
    assert not raw.exists(*keys_of(cache))


def test_a_response_handed_out_is_the_callers_own(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    given_response = {"list": [1]}
    cache.set(URL, axis(0), given_response)
    given_response["list"].append(2)
    cache.get(URL, axis(0))["list"].append(3)
    assert cache.get(URL, axis(0)) == {"list": [1]}


# -- what is stored ------------------------------------------------------------------------


@pytest.mark.promise("bad-bytes")
def test_an_entry_is_stored_binary_at_four_bytes_a_number(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, clock: ManualClock
) -> None:
    dim, count, response = 384, 50, {"answer": "x" * 100}
    cache = twins.make("SemanticCacheRedis", "s", redis_config, ttl_seconds=300, clock=clock)
    vectors = np.random.default_rng(1).standard_normal((count, dim))
    cache.batch_set([(URL, vector, response) for vector in vectors])
    name, responses, _ = keys_of(cache)
    data = raw.get(name)
    assert len(data) == 64 + count * (8 + 8 + 4 * dim)
    assert data[:64] == b"LXS1%010d%010d%020d%020d" % (dim, 50, count, 0)
    expires, nonce, numbers = struct.unpack_from("<d8s1536s", data, 64 + 7 * 1552)
    assert expires == (clock.now + 300) * 1000
    unit = vectors[7] / np.linalg.norm(vectors[7])
    assert np.frombuffer(numbers, "<f4") == pytest.approx(unit, abs=1e-7)
    assert raw.hget(responses, "7") == nonce + json.dumps(response, separators=(",", ":")).encode()
    # The server keeps a string that grows in a block of up to twice its size; as text
    # the same numbers would take some 7,500 bytes an entry.
    assert raw.memory_usage(name) < 2 * len(data) + 1000
    assert raw.memory_usage(responses, samples=0) < count * (8 + 115 + 100)


# -- foreign data --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"{}" * 100,
        b"LXS1" + b"?" * 60,
        b"LXS1" + b"0" * 60,
        b"LXS1%010d%010d%020d" % (DIM, 50, 1),
        b"LXS0%010d%010d%020d%20s" % (DIM, 50, 1, b"") + bytes(48),
        b"LXS1%010d%010d%020d%020d" % (DIM, 50, 1, 0) + struct.pack(f"<dQ{DIM}f", 9e99, 1, *[math.nan] * DIM),
    ],
    ids=["short", "json", "no numbers", "zeros", "cut header", "other version", "nan"],
)
@pytest.mark.promise("bad-bytes")
@pytest.mark.promise("no-false-empty")
def test_foreign_data_under_our_key_is_an_error_and_never_an_answer(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, data: bytes
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    name = keys_of(cache)[0]
    raw.set(name, data)
    with pytest.raises(RedisCommandError):
        cache.get(URL, axis(0))
    with pytest.raises(RedisCommandError):
        cache.batch_get([("u", axis(0)), (URL, axis(0))])


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b"{}" * 100,
        b"LXS1" + b"?" * 60,
        b"LXS1" + b"0" * 60,
        b"LXS0%010d%010d%020d%20s" % (8, 50, 1, b""),
    ],
    ids=["short", "json", "no numbers", "zeros", "other version"],
)
@pytest.mark.promise("bad-bytes")
def test_foreign_data_under_our_key_is_not_overwritten(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, data: bytes
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    name, responses, index = keys_of(cache)
    raw.set(name, data)
    with pytest.raises(RedisCommandError, match="foreign"):
        cache.set(URL, axis(0), 1)
    with pytest.raises(RedisCommandError, match="foreign"):
        cache.batch_set([(URL, axis(0), 1), (URL, axis(1), 2)])
    assert raw.get(name) == data
    assert not raw.exists(responses, index)
    assert cache.get_stats()["sets"] == 0


@pytest.mark.parametrize("which", [0, 1, 2], ids=["vectors", "responses", "index"])
@pytest.mark.promise("isolation")
@pytest.mark.promise("no-false-empty")
def test_a_key_of_another_type_is_an_error_and_stays(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis, which: int
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    names = keys_of(cache)
    raw.rpush(names[which], "foreign")
    with pytest.raises(RedisCommandError, match="WRONGTYPE"):
        cache.set(URL, axis(0), 1)
    # All of the script's work, or none of it.
    assert raw.exists(*names) == 1
    assert raw.lrange(names[which], 0, -1) == [b"foreign"]
    if which == 0:
        with pytest.raises(RedisCommandError, match="WRONGTYPE"):
            cache.get(URL, axis(0))


@pytest.mark.promise("no-false-empty")
def test_a_response_that_is_not_json_is_an_error(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.set(URL, axis(0), "good")
    responses = keys_of(cache)[1]
    stored = raw.hget(responses, "0")
    for bad in (b"", b"{", b"\xff\xfe", b"[" * 100_000):
        raw.hset(responses, "0", stored[:8] + bad)
        with pytest.raises(RedisCommandError, match="foreign"):
            cache.get(URL, axis(0))


def test_a_response_that_is_gone_is_a_miss(twins: Twins, redis_config: CacheConfig, raw: redis.Redis) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.set(URL, axis(0), "evicted by maxmemory")
    raw.delete(keys_of(cache)[1])
    assert cache.get(URL, axis(0)) is None
    cache.set(URL, axis(0), "new")
    assert cache.get(URL, axis(0)) == "new"


def test_responses_whose_vectors_are_gone_do_not_stay(
    twins: Twins, redis_config: CacheConfig, raw: redis.Redis
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config)
    cache.batch_set([(URL, axis(i), i) for i in range(5)])
    vectors, responses, _ = keys_of(cache)
    raw.delete(vectors)
    assert cache.get(URL, axis(0)) is None
    cache.set(URL, axis(0), "new")
    assert raw.hlen(responses) == 1
    assert cache.get(URL, axis(0)) == "new"


# -- trouble with Redis --------------------------------------------------------------------


@pytest.mark.promise("no-false-empty")
def test_trouble_is_an_error_and_not_a_miss(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", nowhere(redis_config))
    for call in (
        lambda: cache.get(URL, axis(0)),
        lambda: cache.set(URL, axis(0), 1),
        lambda: cache.batch_get([(URL, axis(0))]),
        lambda: cache.batch_set([(URL, axis(0), 1)]),
        cache.clear_session,
    ):
        with pytest.raises(RedisUnavailable):
            call()
    stats = cache.get_stats()
    assert stats["cached_urls"] is None
    assert stats["redis"].startswith("RedisUnavailable: ")
    assert (stats["hits"], stats["misses"], stats["sets"], stats["degraded"]) == (0, 0, 0, 0)


def test_under_the_policy_miss_trouble_is_a_counted_miss(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", nowhere(redis_config, on_cache_error="miss"))
    assert cache.get(URL, axis(0)) is None
    assert cache.set(URL, axis(0), 1) is None
    assert cache.batch_get([(URL, axis(0)), (URL, axis(1))]) == [None, None]
    assert cache.batch_set([(URL, axis(0), 1)]) is None
    stats = cache.get_stats()
    assert stats["degraded"] == 4
    assert (stats["hits"], stats["misses"], stats["sets"]) == (0, 0, 0)
    # Who asks for a session to be cleared must hear that it was not.
    with pytest.raises(RedisUnavailable):
        cache.clear_session()


def test_the_policy_miss_is_for_an_absent_server_alone(twins: Twins, redis_config: CacheConfig) -> None:
    config = redis_config.replace(on_cache_error="miss")
    wrong = twins.make("SemanticCacheRedis", "s", config.replace(redis_password="wrong"))
    with pytest.raises(RedisAuthError):
        wrong.get(URL, axis(0))
    cache = twins.make("SemanticCacheRedis", "s", config)
    with pytest.raises(InvalidVector):
        cache.get(URL, np.zeros(DIM))
    cache.set(URL, axis(0), 1)
    with pytest.raises(DimensionMismatch):
        cache.get(URL, np.ones(DIM + 1))
    assert cache.get_stats()["degraded"] == 0


def test_under_the_policy_miss_an_absent_server_is_not_asked_again_at_once(
    twins: Twins, proxy_config: CacheConfig, proxy: CountingProxy, clock: ManualClock
) -> None:
    config = proxy_config.replace(on_cache_error="miss", redis_retry_seconds=1)
    cache = twins.make("SemanticCacheRedis", "s", config, clock=clock)
    cache.set(URL, axis(0), "there")
    proxy.refuse()
    assert cache.get(URL, axis(0)) is None
    proxy.allow()
    proxy.reset()
    clock.advance(0.99)
    # Another cache of the same server has heard of it too.
    for late in (cache, twins.make("SemanticCacheRedis", "other", config, clock=clock)):
        assert late.get(URL, axis(0)) is None
        assert late.get_stats()["degraded"] >= 1
    assert [names for names in proxy.batches if "GET" in names] == []
    clock.advance(0.01)
    assert cache.get(URL, axis(0)) == "there"


@pytest.mark.promise("no-false-empty")
def test_bad_input_is_refused_though_the_server_is_known_to_be_away(
    twins: Twins, redis_config: CacheConfig
) -> None:
    cache = twins.make("SemanticCacheRedis", "s", nowhere(redis_config, on_cache_error="miss"))
    assert cache.get(URL, axis(0)) is None
    with pytest.raises(InvalidVector):
        cache.get(URL, np.zeros(DIM))
    with pytest.raises(InvalidMessage):
        cache.set(URL, axis(0), None)


# -- stats ---------------------------------------------------------------------------------


def test_stats_count_what_this_object_did(twins: Twins, redis_config: CacheConfig) -> None:
    cache = twins.make("SemanticCacheRedis", "s", redis_config, ttl_seconds=60, similarity_threshold=0.8)
    cache.set("a", axis(0), 1)
    cache.batch_set([("b", axis(0), 2), ("b", axis(1), 3)])
    cache.get("a", axis(0))
    cache.batch_get([("a", axis(0)), ("a", axis(1)), ("c", axis(0))])
    assert cache.get_stats() == {
        "backend": "redis",
        "session_id": "s",
        "cached_urls": 2,
        "ttl_seconds": 60,
        "similarity_threshold": 0.8,
        "redis": "ok",
        "hits": 2,
        "misses": 2,
        "sets": 3,
        "degraded": 0,
    }
