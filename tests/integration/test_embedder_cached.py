"""CachedEmbedder: no vector is made twice, by threads, processes or calls."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from lix_cache import (
    CacheConfig,
    CachedEmbedder,
    ConfigError,
    Embedder,
    EmbedderError,
    HashingEmbedder,
    InvalidInput,
    RedisUnavailable,
    URLEmbeddingCache,
    aembed,
    create_redis_client,
)
from tests.support.forks import Child


class Counting(HashingEmbedder):
    """Notes what it is asked, and does what a test says before it answers."""

    def __init__(self, dim: int = 16, before: Callable[[], Any] = lambda: None, name: str = "c") -> None:
        super().__init__(dim)
        self.asked: list[list[str]] = []
        self.before = before
        self.name = name

    @property
    def id(self) -> str:
        return f"counting-{self.name}"

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked.append(list(texts))
        self.before()
        return super().embed(texts)


PLAIN = HashingEmbedder(16)


def store(config: CacheConfig) -> URLEmbeddingCache:
    return URLEmbeddingCache("s", config)


def test_each_text_is_embedded_once_and_misses_go_in_one_batch() -> None:
    inner = Counting()
    cached = CachedEmbedder(inner)
    assert isinstance(cached, Embedder)
    assert (cached.id, cached.dim) == (inner.id, 16)
    assert np.array_equal(cached.embed(["a", "b", "a"]), PLAIN.embed(["a", "b", "a"]))
    assert np.array_equal(cached.embed(["c", "b", "d"]), PLAIN.embed(["c", "b", "d"]))
    assert inner.asked == [["a", "b"], ["c", "d"]]
    assert cached.embed([]).shape == (0, 16)
    stats = cached.get_stats()
    assert stats == {"memory": 1, "cache": 0, "waited": 0, "embedded": 4, "refused": 0}
    assert repr(cached) == f"CachedEmbedder({inner!r})"


def test_what_a_caller_does_to_its_vectors_changes_no_others() -> None:
    cached = CachedEmbedder(Counting())
    cached.embed(["a"])[0] = 0
    cached.embed(["a"])[0] = 0
    assert np.array_equal(cached.embed(["a"]), PLAIN.embed(["a"]))


def test_the_memory_is_bounded_and_keeps_what_was_used_last() -> None:
    inner = Counting()
    cached = CachedEmbedder(inner, memory_items=2)
    for text in "abacaab":
        cached.embed([text])
    assert [text for asked in inner.asked for text in asked] == ["a", "b", "c", "b"]
    none = CachedEmbedder(Counting(), memory_items=0)
    assert np.array_equal(none.embed(["a", "b"]), PLAIN.embed(["a", "b"]))
    assert none.embed(["a"]).shape == (1, 16)
    assert none.get_stats()["embedded"] == 3
    with pytest.raises(ConfigError, match="memory_items"):
        CachedEmbedder(inner, memory_items=-1)


def test_processes_share_vectors_through_the_url_cache(redis_config: CacheConfig) -> None:
    texts = [f"text {i}" for i in range(250)]
    first = CachedEmbedder(Counting(), store(redis_config))
    expected = first.embed(texts)
    inner = Counting()
    second = CachedEmbedder(inner, store(redis_config))
    assert np.array_equal(second.embed([*texts, "new"])[:-1], expected)
    assert inner.asked == [["new"]]
    assert second.get_stats() == {"memory": 0, "cache": 250, "waited": 0, "embedded": 1, "refused": 0}


def test_vectors_of_different_embedders_never_meet(redis_config: CacheConfig) -> None:
    for name in ("one", "two"):
        inner = Counting(name=name)
        CachedEmbedder(inner, store(redis_config)).embed(["a"])
        assert inner.asked == [["a"]]


def test_no_text_and_no_pages_embedding_is_mixed_up_with_another(redis_config: CacheConfig) -> None:
    cache = store(redis_config)
    cached = CachedEmbedder(Counting(), cache)
    secret = "my card number is 4711"
    cached.embed([secret, "\ud800"])
    assert cache.get(secret) is None
    client = create_redis_client(db=redis_config.url_cache_redis_db, config=redis_config)
    keys = [key.decode() for key in client.scan_iter(match=f"{redis_config.redis_key_prefix}:*")]
    assert len(keys) == 2
    assert not any("4711" in key for key in keys)


def test_a_damaged_vector_in_the_cache_is_made_anew_and_counted(redis_config: CacheConfig) -> None:
    cache = store(redis_config)
    CachedEmbedder(Counting(), cache).embed(["a", "b"])
    client = create_redis_client(db=redis_config.url_cache_redis_db, config=redis_config)
    one, two = client.scan_iter(match=f"{redis_config.redis_key_prefix}:*")
    client.set(one, np.ones(16, dtype="<f4").tobytes())  # not of length 1
    client.set(two, np.array([1.0], dtype="<f4").tobytes())  # another dimension
    again = CachedEmbedder(Counting(), cache)
    assert np.array_equal(again.embed(["a", "b"]), PLAIN.embed(["a", "b"]))
    assert again.get_stats()["refused"] == 2
    assert CachedEmbedder(Counting(), cache).embed(["a"]).shape == (1, 16)
    third = CachedEmbedder(Counting(), cache)
    third.embed(["a", "b"])
    assert third.get_stats()["cache"] == 2


def test_equal_texts_asked_for_at_once_are_embedded_once() -> None:
    go_on = threading.Event()
    inner = Counting(before=lambda: go_on.wait(10))
    cached = CachedEmbedder(inner)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.append(cached.embed(["a", "b"]))) for _ in range(20)]
    for thread in threads:
        thread.start()
    while cached.get_stats()["waited"] < 38:
        time.sleep(0.001)
    go_on.set()
    for thread in threads:
        thread.join(10)
    assert inner.asked == [["a", "b"]]
    assert all(np.array_equal(result, PLAIN.embed(["a", "b"])) for result in results)
    assert len(results) == 20


def test_threads_that_want_each_others_texts_do_not_wait_for_ever() -> None:
    both = threading.Barrier(2, timeout=10)
    inner = Counting(before=both.wait)
    cached = CachedEmbedder(inner)
    results: list[Any] = []

    def want(*texts: str) -> None:
        results.append(cached.embed(texts))

    first = threading.Thread(target=want, args=("a", "b"))
    first.start()
    while not inner.asked:
        time.sleep(0.001)
    second = threading.Thread(target=want, args=("b", "c", "a"))
    second.start()
    first.join(10)
    second.join(10)
    assert len(results) == 2
    assert inner.asked == [["a", "b"], ["c"]]


def test_a_failure_reaches_all_who_waited_and_none_after() -> None:
    waiting = threading.Event()

    def fail() -> None:
        waiting.wait(10)
        raise EmbedderError("broken")

    inner = Counting(before=fail)
    cached = CachedEmbedder(inner)
    errors: list[Exception] = []

    def want() -> None:
        try:
            cached.embed(["a"])
        except EmbedderError as error:
            errors.append(error)

    threads = [threading.Thread(target=want) for _ in range(3)]
    for thread in threads:
        thread.start()
    while cached.get_stats()["waited"] < 2:
        time.sleep(0.001)
    waiting.set()
    for thread in threads:
        thread.join(10)
    assert [str(error) for error in errors] == ["broken"] * 3
    inner.before = lambda: None
    assert np.array_equal(cached.embed(["a"]), PLAIN.embed(["a"]))


def test_a_forked_process_waits_for_no_thread_it_left_behind() -> None:
    go_on = threading.Event()
    inner = Counting(before=lambda: go_on.wait(10))
    cached = CachedEmbedder(inner)
    thread = threading.Thread(target=cached.embed, args=(["a"],))
    thread.start()
    while not inner.asked:
        time.sleep(0.001)

    def work(report: Any) -> None:
        go_on.set()
        report("s", int(np.array_equal(cached.embed(["a"]), PLAIN.embed(["a"]))))

    with Child(work) as child:
        assert child.records() == [("s", 1)]
        assert child.wait() == 0
    go_on.set()
    thread.join(10)


def test_trouble_with_the_cache_is_handled_as_the_cache_is_set_up(redis_config: CacheConfig) -> None:
    away = redis_config.replace(redis_port=1)
    inner = Counting()
    with pytest.raises(RedisUnavailable):
        CachedEmbedder(inner, store(away)).embed(["a"])
    assert inner.asked == []
    cache = store(away.replace(on_cache_error="miss", redis_key_prefix="other"))
    assert np.array_equal(CachedEmbedder(inner, cache).embed(["a"]), PLAIN.embed(["a"]))
    assert cache.get_stats()["degraded"] >= 1


def test_a_hundred_tasks_on_one_loop_embed_a_text_once(redis_config: CacheConfig) -> None:
    inner = Counting(before=lambda: time.sleep(0.05))
    cached = CachedEmbedder(inner, store(redis_config))

    async def main() -> list[Any]:
        return await asyncio.gather(*[aembed(cached, ["a"], 10) for _ in range(50)])

    results = asyncio.run(main())
    assert all(np.array_equal(result, PLAIN.embed(["a"])) for result in results)
    assert inner.asked == [["a"]]


@pytest.mark.parametrize("wrong", [np.ones((1, 15)), np.ones((2, 16)), np.ones(16), np.full((1, 16), np.nan)])
def test_an_embedder_that_answers_something_else_is_an_error_and_nothing_is_kept(
    wrong: Any, redis_config: CacheConfig
) -> None:
    class Wrong(Counting):
        def embed(self, texts: Sequence[str]) -> Any:
            return wrong if not self.asked else super().embed(texts)

    inner = Wrong()
    cached = CachedEmbedder(inner, store(redis_config))
    with pytest.raises(EmbedderError, match="its dim is 16"):
        cached.embed(["a"])
    inner.asked.append([])
    assert np.array_equal(cached.embed(["a"]), PLAIN.embed(["a"]))


def test_what_is_no_list_of_texts_is_refused_before_anything_is_done() -> None:
    inner = Counting()
    for texts in ("a", ["a", 1]):
        with pytest.raises(InvalidInput):
            CachedEmbedder(inner).embed(texts)  # type: ignore[arg-type]
    assert inner.asked == []
