"""The semantic cache while its parts fail: the application's own call goes on, within a deadline,
counted and visible, and nothing wrong is served."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache import AsyncSemanticCache, OnnxEmbedder, Reason, SemanticCache, SemanticSettings
from lix_cache.config import CacheConfig
from lix_cache.effects import Compute, RedisCall
from lix_cache.errors import ComputeTimeout, MissingExtra, RedisAuthError, RedisUnavailable
from lix_cache.hot import breaker as breaker_module
from lix_cache.hot.clients import close_async_redis_clients
from lix_cache.matching.thresholds import Thresholds
from lix_cache.semantic import embedding as embedding_module
from lix_cache.semantic import insert, lookup
from lix_cache.semantic import store as store_module
from lix_cache.semantic.embedding import memory_of
from tests.support import CountingProxy, RedisServer
from tests.support.forks import Child, Report
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.models import write_token_model
from tests.support.semantic import apart, with_settings
from tests.support.twins import Twins
from tests.support.waiting import until, wait_until

TABLE = {"q": mix(a=1), "like q": mix(a=1, b=0.1), "far": mix(c=1)}
THRESHOLDS = Thresholds(threshold=0.9, margin=0.05)
SECONDS = 0.15


@pytest.fixture(autouse=True)
def _own_breakers(monkeypatch: pytest.MonkeyPatch) -> None:
    # They are shared by the whole process, and a port may be used by two tests.
    monkeypatch.setattr(breaker_module, "_breakers", {})


@pytest.fixture
def embedder() -> Meanings:
    return Meanings(TABLE)


@pytest.fixture
def make(twins: Twins, embedder: Meanings, proxy_config: CacheConfig) -> Any:
    def build(embedder: Any = embedder, config: CacheConfig = proxy_config, **options: Any) -> Any:
        settings = {
            "thresholds": THRESHOLDS,
            "guards": False,
            "policy": ANYTHING,
            "audit_rate": 0,
            "deadline_seconds": SECONDS,
            **options,
        }
        return twins.make("SemanticCache", embedder, config, **with_settings(**settings))

    return build


# -- the embedder --------------------------------------------------------------------------


@pytest.mark.promise("no-stall")
def test_a_hung_embedder_makes_a_miss_within_the_deadline(make: Any, embedder: Meanings) -> None:
    cache = make()
    cache.store("q", "Q")
    embedder.gate.clear()
    found = cache.lookup("like q")
    assert not embedder.gate.is_set()  # it still hangs
    assert (found.is_hit, found.reason) == (False, Reason.EMBEDDER_TIMEOUT)
    assert "the embedder did not answer within 0.15 s" in found.detail
    # The exact tier needs no embedder.
    assert cache.lookup("q").response == "Q"
    stats = cache.get_stats()
    assert stats["embedder_errors"] == 1
    assert stats["misses_by_reason"] == {"embedder_timeout": 1}
    assert "ComputeTimeout" in stats["last_error"]
    embedder.gate.set()
    assert cache.lookup("like q").is_hit


def test_a_response_is_kept_under_its_exact_text_while_the_embedder_fails(
    make: Any, embedder: Meanings
) -> None:
    cache = make()
    cache.lookup("far")
    embedder.error = RuntimeError("no model")
    assert cache.store("q", "Q") is not None
    assert cache.lookup("q").response == "Q"
    embedder.error = None
    assert cache.lookup("like q").reason == Reason.EMPTY
    cache.store("q", "Q")
    assert cache.lookup("like q").is_hit


@pytest.mark.parametrize(
    "answer",
    [
        np.full((1, 16), np.nan),
        np.zeros((1, 16)),
        np.ones((2, 16)),
        np.ones((1, 8)),
        [["a"] * 16],
        None,
        [],
    ],
    ids=["nan", "zeros", "two rows", "another dimension", "words", "none", "nothing"],
)
def test_an_embedder_that_answers_with_no_vector_makes_a_miss(
    make: Any, embedder: Meanings, answer: Any
) -> None:
    cache = make()
    cache.store("q", "Q")
    embedder.embed = lambda texts: answer  # type: ignore[method-assign]
    found = cache.lookup("like q")
    assert (found.is_hit, found.reason) == (False, Reason.EMBEDDER_FAILED)
    assert found.detail
    assert cache.get_stats()["embedder_errors"] == 1


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("surplus", [-1, 1], ids=["one too few", "one too many"])
def test_an_embedder_that_miscounts_the_passages_of_a_long_text_makes_a_miss(
    make: Any, embedder: Meanings, surplus: int
) -> None:
    cache = make()
    cache.store("q", "Q")
    embedder.embed = lambda texts: np.ones((len(texts) + surplus, 16))  # type: ignore[method-assign]
    found = cache.lookup("some words that go on and on " * 20)
    assert (found.is_hit, found.reason) == (False, Reason.EMBEDDER_FAILED)


class Broken(Meanings):
    """An embedder whose model cannot even be loaded."""

    is_broken = True

    @property
    def dim(self) -> int:
        if self.is_broken:
            raise OSError("no such file")
        return 16

    @dim.setter
    def dim(self, value: int) -> None:
        """The base class says it."""


def test_an_embedder_that_cannot_be_loaded_makes_misses_until_it_can(make: Any) -> None:
    embedder = Broken(TABLE)
    cache = make(embedder)
    found = cache.lookup("q")
    assert found.reason == Reason.EMBEDDER_FAILED
    assert found.detail.startswith("builtins.OSError")  # a foreign error's text may quote anything
    assert cache.store("q", "Q") is None
    assert cache.get_stats()["stores_refused"] == {"embedder_failed": 1}
    assert cache.health_check()["status"] == "degraded"
    embedder.is_broken = False
    cache.store("q", "Q")
    assert cache.lookup("like q").is_hit


def test_an_embedder_whose_package_is_not_installed_is_an_error_and_no_miss(
    make: Any, embedder: Meanings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_token_model(tmp_path)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    cache = make(OnnxEmbedder(tmp_path), deadline_seconds=5)
    for call in (lambda: cache.lookup("q"), lambda: cache.store("q", "Q"), lambda: cache.lookup("q")):
        with pytest.raises(MissingExtra, match=r"onnxruntime.*lix-cache\[onnx\]"):
            call()
    assert cache.get_stats()["embedder_errors"] == 3
    # Its name and dimension may be known before it is asked for a vector.
    late = make()
    late.store("q", "Q")
    embedder.error = MissingExtra("x", "onnx", "it")
    for late_call in (lambda: late.lookup("like q"), lambda: late.store("far", "F")):
        with pytest.raises(MissingExtra):
            late_call()
    embedder.error = RuntimeError("busy")
    assert late.lookup("like q").reason == Reason.EMBEDDER_FAILED


def test_a_verifier_whose_package_is_not_installed_is_an_error_and_no_miss(make: Any) -> None:
    class Verifier:
        id = "not installed"

        def scores(self, pairs: Any) -> Any:
            raise MissingExtra("x", "onnx", "it")

    cache = make(verifier=Verifier())
    cache.store("q", "Q")
    with pytest.raises(MissingExtra):
        cache.lookup("like q")
    assert cache.get_stats()["verifier_errors"] == 1


@pytest.mark.promise("no-stall")
def test_without_a_deadline_an_embedder_that_raises_makes_a_miss_too(make: Any, embedder: Meanings) -> None:
    cache = make(deadline_seconds=None)
    cache.store("q", "Q")
    embedder.error = RuntimeError("no model")
    assert cache.lookup("like q").reason == Reason.EMBEDDER_FAILED


def test_what_cannot_be_compared_is_not_dropped_in_silence(make: Any, embedder: Meanings) -> None:
    cache = make()
    cache.store("q", "Q")
    embedder.error = RuntimeError("no model")
    with pytest.raises(RuntimeError, match="no model"):
        cache.invalidate(similar_to="like q")
    embedder.error = None
    embedder.gate.clear()
    with pytest.raises(ComputeTimeout):
        cache.invalidate(similar_to="like q")
    embedder.gate.set()
    assert cache.invalidate(similar_to="like q") == 1


@pytest.mark.promise("no-stall")
def test_the_event_loop_goes_on_while_the_embedder_hangs(
    embedder: Meanings, redis_config: CacheConfig
) -> None:
    async def main() -> None:
        cache = AsyncSemanticCache(
            embedder,
            redis_config,
            thresholds=THRESHOLDS,
            policy=ANYTHING,
            guards=False,
            settings=SemanticSettings(audit_rate=0, deadline_seconds=60),
        )
        await cache.store("q", "Q")
        embedder.gate.clear()
        lookup = asyncio.create_task(cache.lookup("like q"))
        await until(lambda: len(embedder.asked) == 2)
        for _ in range(10):
            await asyncio.sleep(0.005)
        assert not lookup.done()
        embedder.gate.set()  # by the loop: were it held, the embedder would hang until its deadline
        assert (await lookup).is_hit
        await close_async_redis_clients()

    asyncio.run(main())


def test_a_cancelled_lookup_leaves_the_cache_usable(embedder: Meanings, redis_config: CacheConfig) -> None:
    async def main() -> None:
        cache = AsyncSemanticCache(
            embedder,
            redis_config,
            thresholds=THRESHOLDS,
            policy=ANYTHING,
            guards=False,
            settings=SemanticSettings(audit_rate=0, deadline_seconds=30),
        )
        await cache.store("q", "Q")
        embedder.gate.clear()
        lookup = asyncio.create_task(cache.lookup("like q"))
        while len(embedder.asked) < 2:
            await asyncio.sleep(0.005)
        lookup.cancel()
        with pytest.raises(asyncio.CancelledError):
            await lookup
        embedder.gate.set()
        assert (await cache.lookup("like q")).is_hit
        await close_async_redis_clients()

    asyncio.run(main())


class Verifies:
    """A verifier that hangs until it may answer."""

    id = "verifies"

    def __init__(self) -> None:
        self.gate = threading.Event()

    def scores(self, pairs: Any) -> Any:
        self.gate.wait(60)
        return np.ones(len(pairs), np.float32)


@pytest.mark.promise("no-stall")
def test_a_hung_verifier_makes_a_miss_within_the_deadline(make: Any) -> None:
    verifier = Verifies()
    cache = make(verifier=verifier)
    cache.store("q", "Q")
    found = cache.lookup("like q")
    assert not verifier.gate.is_set()  # it still hangs
    assert (found.is_hit, found.reason) == (False, Reason.VERIFIER_FAILED)
    assert cache.get_stats()["verifier_errors"] == 1
    verifier.gate.set()
    assert cache.lookup("like q").is_hit


# -- Redis ---------------------------------------------------------------------------------


def test_without_redis_a_lookup_raises_by_default(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    cache.store("q", "Q")
    proxy.refuse()
    for call in (
        lambda: cache.lookup("q"),
        lambda: cache.store("q", "Q"),
        lambda: cache.invalidate(context={}),
        lambda: cache.cleanup_expired(),
    ):
        with pytest.raises(RedisUnavailable):
            call()
    stats = cache.get_stats()
    assert stats["redis"].startswith("RedisUnavailable")
    assert (stats["entries"], stats["bytes"]) == (None, None)
    health = cache.health_check()
    assert (health["status"], health["components"]["redis"]["status"]) == ("down", "down")
    proxy.allow()
    assert cache.lookup("q").is_hit


def test_without_redis_a_lookup_is_a_counted_miss_where_that_is_the_policy(
    make: Any, proxy: CountingProxy, proxy_config: CacheConfig
) -> None:
    cache = make(config=proxy_config.replace(on_cache_error="miss", redis_retry_seconds=0.2))
    cache.store("q", "Q")
    proxy.refuse()
    for _ in range(3):
        found = cache.lookup("q")
        assert (found.is_hit, found.reason) == (False, Reason.REDIS)
        assert found.detail
        assert cache.store("q", "other") is None
    stats = cache.get_stats()
    assert stats["misses_by_reason"] == {"redis": 3}
    assert stats["stores_refused"] == {"redis": 3}
    assert stats["degraded"] == 6
    assert stats["redis_errors"] >= 1
    # What drops things never pretends to have done it.
    with pytest.raises(RedisUnavailable):
        cache.invalidate(context={})
    proxy.allow()
    wait_until(lambda: cache.lookup("q").is_hit, what="the first hit after the outage")
    assert cache.lookup("q").response == "Q"


def test_while_redis_was_away_a_moment_ago_no_call_waits_for_it(
    make: Any, proxy: CountingProxy, proxy_config: CacheConfig
) -> None:
    cache = make(config=proxy_config.replace(on_cache_error="miss", redis_retry_seconds=60))
    cache.store("q", "Q")
    proxy.refuse()
    cache.lookup("q")
    proxy.allow()
    proxy.reset()
    assert cache.lookup("q").reason == Reason.REDIS
    assert proxy.round_trips == 0
    with pytest.raises(ValueError):
        cache.lookup("")


def test_a_connection_that_breaks_between_the_two_round_trips_serves_nothing_wrong(
    make: Any, proxy: CountingProxy, proxy_config: CacheConfig
) -> None:
    cache = make(config=proxy_config.replace(on_cache_error="miss", redis_retry_seconds=0))
    cache.store("q", "Q")
    cache.lookup("like q")
    proxy.cut(1)
    assert cache.lookup("like q").reason == Reason.REDIS
    for when in ("before", "after"):
        cache.store("q", "Q2")
        proxy.cut(1, when)  # type: ignore[arg-type]
        assert cache.lookup("q").response in (None, "Q2")
        assert cache.lookup("like q").response == "Q2"


def test_a_store_that_was_carried_out_unseen_is_found_again(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    cache.lookup("q")
    cache.store("far", "F")
    proxy.cut(1, "after")
    with pytest.raises(RedisUnavailable):
        cache.store("q", "Q")
    assert cache.lookup("q").response == "Q"
    cache.store("q", "Q")
    assert cache.get_stats()["entries"] == 2


def test_a_wrong_password_is_an_error_under_every_policy(
    twins: Twins, embedder: Meanings, tmp_path: Any
) -> None:
    with RedisServer(requirepass="right") as server:
        config = server.config(archive_dir=tmp_path, redis_password="wrong", on_cache_error="miss")
        cache = twins.make("SemanticCache", embedder, config)
        with pytest.raises(RedisAuthError):
            cache.lookup("q")
        with pytest.raises(RedisAuthError):
            cache.store("q", "Q")


def test_a_full_server_still_answers(twins: Twins, embedder: Meanings, tmp_path: Any) -> None:
    with RedisServer(maxmemory="4mb") as server, server.client() as client:
        config = server.config(archive_dir=tmp_path)
        cache = twins.make(
            "SemanticCache",
            embedder,
            config,
            thresholds=Thresholds(threshold=0.9),
            guards=False,
            settings=SemanticSettings(eviction="lru", sliding_seconds=50),
        )
        cache.store("q", "Q")
        client.config_set("maxmemory", "1")
        assert cache.lookup("q").response == "Q"
        assert cache.lookup("like q").response == "Q"
        with pytest.raises(RedisUnavailable):
            cache.store("far", "F")
        client.config_set("maxmemory", "0")
        assert cache.lookup("like q").response == "Q"


def test_a_server_that_lost_its_memory_is_an_empty_cache(
    twins: Twins, embedder: Meanings, tmp_path: Any
) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path)
        cache = twins.make(
            "SemanticCache",
            embedder,
            config,
            thresholds=THRESHOLDS,
            policy=ANYTHING,
            guards=False,
            settings=SemanticSettings(audit_rate=0),
        )
        cache.store("q", "Q")
        assert cache.lookup("like q").is_hit
        with server.client() as client:
            client.flushall()
        assert cache.lookup("like q").reason == Reason.EMPTY
        cache.store("far", "F")
        assert cache.lookup("like q").reason == Reason.BELOW_THRESHOLD
        with server.client() as client:
            client.flushall()
            client.script_flush()
        other = twins.make(
            "SemanticCache",
            embedder,
            config,
            thresholds=THRESHOLDS,
            policy=ANYTHING,
            guards=False,
            settings=SemanticSettings(audit_rate=0),
        )
        other.store("like q", "new")
        assert cache.lookup("q").response == "new"


# -- between the round trips, by hand ------------------------------------------------------


def drive_until(flow: Any, cache: SemanticCache, number: int) -> Any:
    """Run a flow up to its n-th Redis call, which is returned undone."""
    result = None
    while True:
        effect = flow.send(result)
        if isinstance(effect, RedisCall):
            number -= 1
            if number == 0:
                return effect
        result = effect.call() if isinstance(effect, Compute) else cache._drive._perform(effect)


@pytest.mark.parametrize(
    "change", ["replace", "invalidate", "evict", "expire", "report", "renumber", "flush"]
)
def test_what_happens_between_the_two_round_trips_is_seen(
    redis_config: CacheConfig, redis_server: RedisServer, change: str
) -> None:
    made = [
        apart(
            SemanticCache(
                Meanings(TABLE),
                redis_config,
                thresholds=THRESHOLDS,
                policy=ANYTHING,
                guards=False,
                settings=SemanticSettings(audit_rate=0, max_entries=2),
            )
        )
        for _ in range(2)
    ]
    cache, other = made
    entry_id = cache.store("q", "Q", ttl_seconds=1.5 if change == "expire" else None)
    assert entry_id is not None
    if change == "expire":
        cache.store("far", "F")  # else the keys would end with the entry
    flow = lookup.lookup(cache._core, lookup.Query("like q"))
    effect = drive_until(flow, cache, 2)
    if change == "replace":
        other.store("q", "other")
    elif change == "invalidate":
        other.invalidate(context={})
    elif change == "evict":
        other.store("far", 1)
        other.store("farther", 2)
    elif change == "expire":
        time.sleep(1.55)
    elif change == "report":
        other.report_wrong(entry_id, "like q")
    elif change == "renumber":
        # As after a loss of memory, if a clock went back: the number is another entry's now.
        number = entry_id.split(".")[0]
        with redis_server.client() as client:
            (entries,) = client.scan_iter(f"{redis_config.redis_key_prefix}:*:ans:entries:*")
            other.store("far", "F")
            meta = next(meta for n, meta in client.hgetall(entries).items() if n.decode() != number)
            client.hset(entries, number, meta)
    else:
        with redis_server.client() as client:
            client.flushall()
    with pytest.raises(StopIteration) as ended:
        flow.send(cache._drive._perform(effect))
    found = ended.value.value
    reason = Reason.REPORTED if change == "report" else Reason.GONE
    assert (found.is_hit, found.response, found.reason) == (False, None, reason)
    assert found.similarity > 0.9


@pytest.mark.parametrize("step", [1, 2])
@pytest.mark.parametrize("policy", ["raise", "miss"])
def test_a_lookup_stopped_at_any_step_leaves_a_cache_that_works(
    redis_config: CacheConfig, step: int, policy: Any
) -> None:
    config = redis_config.replace(on_cache_error=policy, redis_retry_seconds=0)
    cache = SemanticCache(
        Meanings(TABLE),
        config,
        thresholds=THRESHOLDS,
        policy=ANYTHING,
        guards=False,
        settings=SemanticSettings(audit_rate=0),
    )
    cache.store("q", "Q")
    for stop in (RedisUnavailable("gone"), KeyboardInterrupt(), GeneratorExit()):
        flow = lookup.lookup(cache._core, lookup.Query("like q"))
        drive_until(flow, cache, step)
        if policy == "miss" and isinstance(stop, RedisUnavailable):
            with pytest.raises(StopIteration) as ended:
                flow.throw(stop)
            assert ended.value.value.reason == Reason.REDIS
        else:
            with pytest.raises(type(stop)):
                flow.throw(stop)
        assert cache.lookup("like q").response == "Q"


def test_a_store_stopped_before_it_is_sent_stores_nothing(redis_config: CacheConfig) -> None:
    cache = SemanticCache(
        Meanings(TABLE),
        redis_config,
        thresholds=THRESHOLDS,
        policy=ANYTHING,
        guards=False,
        settings=SemanticSettings(audit_rate=0),
    )
    flow = insert.store(cache._core, insert.Answer("q", "Q"))
    drive_until(flow, cache, 1)
    with pytest.raises(KeyboardInterrupt):
        flow.throw(KeyboardInterrupt())
    assert cache.lookup("q").reason == Reason.EMPTY


# -- threads and forks ---------------------------------------------------------------------


def test_many_threads_share_one_cache(redis_config: CacheConfig) -> None:
    table = {f"t{i}": mix(24, **{chr(ord("a") + i): 1.0}) for i in range(8)}
    near = {f"like t{i}": table[f"t{i}"] + 0.01 for i in range(8)}
    cache = SemanticCache(
        Meanings({**table, **near}, dim=24),
        redis_config,
        thresholds=THRESHOLDS,
        policy=ANYTHING,
        guards=False,
        settings=SemanticSettings(audit_rate=0),
    )
    failures: list[str] = []

    def work(i: int) -> None:
        for n in range(30):
            cache.store(f"t{i}", f"{i} {n}")
            for query in (f"t{i}", f"like t{i}"):
                found = cache.lookup(query)
                if found.response != f"{i} {n}":
                    failures.append(f"{query}: {found}")

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    stats = cache.get_stats()
    assert (stats["hits"], stats["stored"], stats["entries"]) == (480, 240, 8)


def test_many_tasks_share_one_cache(redis_config: CacheConfig) -> None:
    async def main() -> Any:
        cache = AsyncSemanticCache(
            Meanings(TABLE),
            redis_config,
            thresholds=THRESHOLDS,
            policy=ANYTHING,
            guards=False,
            settings=SemanticSettings(audit_rate=0),
        )
        await cache.store("q", "Q")
        found = await asyncio.gather(*(cache.lookup("like q" if i % 2 else "q") for i in range(100)))
        await close_async_redis_clients()
        return [one.response for one in found]

    assert asyncio.run(main()) == ["Q"] * 100


def test_a_forked_child_goes_on_with_the_cache(redis_config: CacheConfig) -> None:
    cache = SemanticCache(
        Meanings(TABLE),
        redis_config,
        thresholds=THRESHOLDS,
        policy=ANYTHING,
        guards=False,
        settings=SemanticSettings(audit_rate=0),
    )
    cache.store("q", "Q")
    assert cache.lookup("like q").is_hit
    cache.start_cleanup(60)
    # Held by a thread that the child does not have.
    core = cache._core
    store = core.redis.store
    assert cache.embedder is not None
    memory = memory_of(cache.embedder)
    locks = [store_module._lock, embedding_module._memories_lock, breaker_module._lock]
    locks += [store.indexes.budget.lock, store.deferred._lock, memory._lock, memory.meanings._lock]
    with contextlib.ExitStack() as held:
        for lock in (*locks, core.stats._lock, core.watch._lock, cache._cleaner._lock):
            held.enter_context(lock)

        def work(report: Report) -> None:
            report("h", int(cache.lookup("like q").is_hit))
            report("a", int(cache._cleaner.is_alive))
            cache.store("far", "F")

        with Child(work) as child:
            assert child.records() == [("h", 1), ("a", 1)]
            assert child.wait() == 0
    assert cache.lookup("far").is_hit
    cache.stop_cleanup()


# -- the background thread -----------------------------------------------------------------


def test_the_background_thread_cleans_up_until_it_is_stopped(make: Any) -> None:
    cache = make()
    cache.store("far", "F")
    cache.store("q", "Q", ttl_seconds=0.05)
    cache.start_cleanup(0.02)
    cache.start_cleanup(0.01)
    wait_until(lambda: cache.get_stats()["expired"] == 1, what="the clean-up")
    assert cache.get_stats()["cleanup_running"] is True
    cache.stop_cleanup()
    assert cache._cleaner.join(10)
    assert cache.get_stats()["cleanup_running"] is False
    cache.store("q", "Q", ttl_seconds=0.02)
    time.sleep(0.1)
    assert cache.get_stats()["expired"] == 1
    cache.start_cleanup(0.01)
    wait_until(lambda: cache.get_stats()["expired"] == 2, what="the clean-up after a new start")
    cache.stop_cleanup()
    for wrong in (0, -1, "1", True):
        with pytest.raises(ValueError):
            cache.start_cleanup(wrong)


def test_the_background_thread_survives_trouble_and_tells_of_it(make: Any, proxy: CountingProxy) -> None:
    cache = make()
    cache.store("far", "F")
    proxy.refuse()
    cache.start_cleanup(0.01)
    wait_until(lambda: cache._core.stats.counters["cleanup_errors"] > 0, what="the trouble")
    wait_until(lambda: cache._cleaner.last_error is not None)
    assert "RedisUnavailable" in cache._cleaner.last_error
    proxy.allow()
    cache.store("q", "Q", ttl_seconds=0.02)
    wait_until(lambda: cache.get_stats()["expired"] == 1, what="the clean-up after the outage")
    wait_until(lambda: cache._cleaner.last_error is None)
    cache.stop_cleanup()


def test_the_background_thread_survives_the_unexpected(make: Any, monkeypatch: Any) -> None:
    cache = make()
    cache.store("far", "F")
    calls: list[int] = []
    original = cache._cleaner._drive

    def drive(flow: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            flow.close()
            raise LookupError("unexpected")
        return original(flow)

    monkeypatch.setattr(cache._cleaner, "_drive", drive)
    cache.start_cleanup(0.01)
    wait_until(lambda: len(calls) > 2)
    assert cache._core.stats.counters["cleanup_errors"] == 1
    cache.stop_cleanup()
