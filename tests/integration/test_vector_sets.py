"""Large scopes on Redis 8: a vector set says where to look, and nothing else changes.

They need a server of version 8 or later: ``LIX_CACHE_REDIS8`` names its program.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from lix_cache import SemanticSettings
from lix_cache.config import CacheConfig
from lix_cache.errors import ConfigError, RedisCommandError
from lix_cache.hot.scripts import Script, ScriptCall
from lix_cache.matching.thresholds import Thresholds
from lix_cache.semantic.deferred import Deferred
from tests.support import CountingProxy, RedisServer
from tests.support.meaning import Meanings
from tests.support.semantic import apart, with_settings
from tests.support.twins import Twins
from tests.support.waiting import Life

THRESHOLDS = Thresholds(threshold=0.8, margin=0.05)
DIM = 32
FROM = 100


@pytest.fixture(scope="session")
def redis8() -> Iterator[RedisServer]:
    binary = os.environ.get("LIX_CACHE_REDIS8")
    if not binary:
        pytest.skip("no server with vector sets; set LIX_CACHE_REDIS8 to a redis-server of version 8")
    with RedisServer(binary=binary) as server:
        yield server


@pytest.fixture
def config(redis8: RedisServer, tmp_path: Path) -> CacheConfig:
    name = f"t{uuid.uuid4().hex}"
    return redis8.config(archive_dir=tmp_path, redis_key_prefix=name, embedder_id="test", embedding_dim=DIM)


@pytest.fixture
def make(twins: Twins, config: CacheConfig) -> Any:
    def build(**options: Any) -> Any:
        settings = {
            "config": config,
            "thresholds": THRESHOLDS,
            "guards": False,
            "vector_sets_from": FROM,
            "audit_rate": 0,
            **options,
        }
        embedder, config_ = settings.pop("embedder", None), settings.pop("config")
        return apart(twins.make("SemanticCache", embedder, config_, **with_settings(**settings)))

    return build


@pytest.fixture
def raw(redis8: RedisServer) -> Iterator[redis.Redis]:
    client = redis8.client(db=0)
    yield client
    client.close()


def vectors(count: int, seed: int = 0) -> Any:
    rows = np.random.default_rng(seed).normal(size=(count, DIM))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def near(row: Any, seed: int = 0, share: float = 0.3) -> Any:
    moved = row + share * vectors(1, seed)[0]
    return moved / np.linalg.norm(moved)


def fill(cache: Any, rows: Any, start: int = 0, **options: Any) -> None:
    for i, row in enumerate(rows, start):
        cache.store(f"question {i}", f"answer {i}", query_embedding=row, **options)


def keys_of(raw: redis.Redis, config: CacheConfig, name: str) -> list[bytes]:
    return sorted(raw.scan_iter(f"{config.redis_key_prefix}:{{0}}:ans:{name}:*"))


def size_of(raw: redis.Redis, config: CacheConfig) -> int:
    return sum(int(raw.execute_command("VCARD", key)) for key in keys_of(raw, config, "vectors"))


def used(cache: Any) -> int:
    return int(cache.get_stats()["vector_set_lookups"])


def test_large_scopes_are_answered_by_a_vector_set_as_by_exact_search(make: Any) -> None:
    cache, exact = make(), make(vector_sets_from=None)
    rows = vectors(400)
    fill(cache, rows)
    same = 0
    for i in range(200):
        query = near(rows[2 * i], seed=i, share=0.2 + 0.006 * i)
        one = cache.lookup("new words", query_embedding=query)
        two = exact.lookup("new words", query_embedding=query)
        same += (one.is_hit, one.response, one.reason) == (two.is_hit, two.response, two.reason)
        if one.is_hit and two.is_hit:
            assert one.similarity == pytest.approx(two.similarity, abs=1e-6)
            assert one.margin == pytest.approx(two.margin, abs=1e-6)
            assert one.entry_id == two.entry_id
    assert same >= 199
    stats = cache.get_stats()
    assert 50 < stats["hits"] < 200
    assert (used(cache), used(exact)) == (200, 0)
    # The process has no copy of them.
    assert stats["index_bytes"] < exact.get_stats()["index_bytes"] / 10


def crowd(cache: Any, query: Any) -> None:
    """Store more entries near a query than are brought, which answer alike, and right behind them another."""
    for i in range(1, 81):
        cache.store(f"alike {i}", "the one answer", query_embedding=near(query, i, 0.2))
    cache.store("question 999", "another answer", query_embedding=near(query, 99, 0.21))


@pytest.mark.promise("right-answer")
def test_an_answer_right_behind_as_many_candidates_as_are_brought_is_reckoned_with(make: Any) -> None:
    cache, exact = make(), make(vector_sets_from=None)
    query = vectors(1)[0]
    fill(cache, vectors(120, seed=7))
    crowd(cache, query)
    for one in (cache, exact):
        found = one.lookup("new words", query_embedding=query)
        assert (found.is_hit, found.reason) == (False, "margin")
    assert used(cache) == 1


@pytest.mark.promise("right-answer")
def test_candidates_that_were_dropped_meanwhile_hide_no_other_answer(make: Any) -> None:
    cache, exact = make(), make(vector_sets_from=None)
    query = vectors(1)[0]
    fill(cache, vectors(120, seed=7))
    for i in range(60):
        cache.store(f"old {i}", "an old answer", query_embedding=near(query, i + 200, 0.1), tags=["old"])
    crowd(cache, query)
    cache.invalidate(tags=["old"])
    for one in (cache, cache, exact):
        assert one.lookup("new words", query_embedding=query).reason == "margin"


@pytest.mark.promise("right-answer")
def test_an_entry_that_the_set_does_not_have_yet_is_no_measure_of_what_is_in_it(make: Any) -> None:
    cache, exact = make(), make(vector_sets_from=None)
    query = vectors(1)[0]
    fill(cache, vectors(120, seed=7))
    crowd(cache, query)
    # By a process that keeps no set.
    fill(exact, vectors(12, seed=8), 2000)
    for one in (cache, exact):
        assert one.lookup("new words", query_embedding=query).reason == "margin"


def test_small_scopes_are_searched_in_the_process(make: Any, raw: redis.Redis, config: CacheConfig) -> None:
    cache = make()
    rows = vectors(FROM - 1)
    fill(cache, rows)
    assert cache.lookup("new words", query_embedding=near(rows[7])).response == "answer 7"
    assert used(cache) == 0
    # It is on its way, so that it is ready when it is needed.
    assert 0 < size_of(raw, config) < FROM
    small = make(context={"other": 1})
    fill(small, rows[:40])
    assert len(keys_of(raw, config, "vectors")) == 1


def test_where_no_scope_can_be_large_the_server_is_not_even_asked(
    make: Any, redis8: RedisServer, raw: redis.Redis, config: CacheConfig
) -> None:
    for options in ({"max_entries": FROM - 1}, {"vector_sets_from": None}):
        cache = make(context=options, **options)
        redis8.reset_stats()
        fill(cache, vectors(60))
        cache.lookup("x", query_embedding=vectors(1)[0])
        assert not {"vcard", "vadd", "vsim"} & set(redis8.command_stats())
    assert keys_of(raw, config, "vectors") == []
    with pytest.raises(ConfigError, match="vector_sets_from"):
        make(vector_sets_from=0)


def test_a_server_without_vector_sets_answers_all_the_same(
    make: Any, redis_server: RedisServer, redis_config: CacheConfig
) -> None:
    if int(redis_server.client().info("server")["redis_version"].split(".")[0]) >= 8:
        pytest.skip("the server of the tests has vector sets: LIX_CACHE_TEST_SERVER may name another")
    cache = make(config=redis_config.replace(embedder_id="test", embedding_dim=DIM), vector_sets_from=10)
    rows = vectors(40)
    fill(cache, rows)
    assert cache.lookup("new words", query_embedding=near(rows[7])).response == "answer 7"
    assert used(cache) == 0


def test_a_vector_set_takes_over_a_scope_that_is_large_already(
    make: Any, raw: redis.Redis, config: CacheConfig
) -> None:
    rows = vectors(300)
    fill(make(vector_sets_from=None), rows)
    assert keys_of(raw, config, "vectors") == []
    cache = make()
    for _ in range(60):
        # Until it has nearly all, the process searches by itself: no answer is missed.
        assert cache.lookup("new words", query_embedding=near(rows[299])).response == "answer 299"
        assert cache.lookup("new words", query_embedding=near(rows[0])).response == "answer 0"
    assert size_of(raw, config) == 300
    assert 50 < used(cache) < 120


def test_what_is_dropped_or_expired_never_answers(make: Any, raw: redis.Redis, config: CacheConfig) -> None:
    cache = make()
    rows = vectors(200)
    fill(cache, rows[:150])
    fill(cache, rows[150:160], 150, tags=["old"])
    fill(cache, rows[170:], 170)
    life = Life(0.5)
    fill(cache, rows[160:170], 160, ttl_seconds=life.seconds)
    assert cache.lookup("w", query_embedding=near(rows[155])).is_hit
    assert cache.lookup("w", query_embedding=near(rows[165])).is_hit or life.may_be_over
    assert cache.invalidate(tags=["old"]) == 10
    time.sleep(0.55)
    for i in range(150, 170):
        assert not cache.lookup("w", query_embedding=near(rows[i])).is_hit
    cache.cleanup_expired()
    for i in (0, 175):
        assert cache.lookup("w", query_embedding=near(rows[i])).response == f"answer {i}"
    assert size_of(raw, config) == 180
    assert used(cache) == 24


def test_eviction_keeps_the_vector_set_in_step(make: Any, raw: redis.Redis, config: CacheConfig) -> None:
    cache = make(max_entries=120)
    rows = vectors(300)
    fill(cache, rows)
    assert not cache.lookup("w", query_embedding=near(rows[100])).is_hit
    assert cache.lookup("w", query_embedding=near(rows[250])).response == "answer 250"
    assert size_of(raw, config) == 120
    assert used(cache) == 2


def test_a_scope_that_is_cleared_leaves_nothing_and_begins_anew(
    make: Any, raw: redis.Redis, config: CacheConfig
) -> None:
    cache = make()
    rows = vectors(150)
    fill(cache, rows)
    assert cache.lookup("w", query_embedding=near(rows[3])).is_hit
    assert cache.invalidate(context={}) == 150
    assert keys_of(raw, config, "vectors") + keys_of(raw, config, "followed") == []
    assert cache.lookup("w", query_embedding=near(rows[3])).reason == "empty"
    fill(cache, vectors(150, seed=1))
    assert not cache.lookup("w", query_embedding=near(rows[3])).is_hit
    assert cache.lookup("w", query_embedding=near(vectors(150, seed=1)[3])).response == "answer 3"


@pytest.mark.parametrize("name", ["vectors", "followed"])
def test_a_vector_set_that_is_lost_is_filled_anew(
    make: Any, raw: redis.Redis, config: CacheConfig, name: str
) -> None:
    cache = make()
    rows = vectors(150)
    fill(cache, rows)
    assert cache.lookup("w", query_embedding=near(rows[3])).is_hit
    raw.delete(*keys_of(raw, config, name))
    for _ in range(30):
        assert cache.lookup("w", query_embedding=near(rows[3])).response == "answer 3"
    assert size_of(raw, config) == 150


def test_the_newest_entries_are_found_before_the_vector_set_has_them(make: Any, raw: redis.Redis) -> None:
    rows = vectors(160)
    writer, cache = make(vector_sets_from=None), make()
    fill(cache, rows[:120])
    # As if by an older version of the library, that does not know of vector sets.
    fill(writer, rows[120:150], 120)
    found = [cache.lookup("w", query_embedding=near(rows[i])).response for i in (149, 148, 3)]
    assert found == ["answer 149", "answer 148", "answer 3"]
    assert used(cache) == 3


def test_the_keys_live_as_long_as_the_scope(make: Any, raw: redis.Redis, config: CacheConfig) -> None:
    cache = make(ttl_seconds=1000)
    fill(cache, vectors(120))
    for name in ("vectors", "followed"):
        (key,) = keys_of(raw, config, name)
        assert 900_000 < raw.pttl(key) <= 1_250_000  # a quarter more than the entries


def test_scopes_stay_apart(make: Any) -> None:
    mine, theirs = make(context={"tenant": "mine"}), make(context={"tenant": "theirs"})
    rows = vectors(120)
    fill(mine, rows)
    fill(theirs, vectors(120, seed=1))
    for i in range(0, 120, 10):
        assert mine.lookup("w", query_embedding=near(rows[i])).is_hit
        assert not theirs.lookup("w", query_embedding=near(rows[i])).is_hit
    assert used(theirs) == 12


def test_a_wrong_report_holds_here_too(make: Any) -> None:
    cache = make()
    rows = vectors(150)
    fill(cache, rows)
    found = cache.lookup("w", query_embedding=near(rows[3]))
    cache.report_wrong(found.entry_id, "w")
    assert cache.lookup("w", query_embedding=near(rows[3])).reason == "reported"
    assert cache.lookup("v", query_embedding=near(rows[3])).is_hit


def test_entries_without_a_vector_are_found_by_their_words(
    make: Any, raw: redis.Redis, config: CacheConfig
) -> None:
    cache = make()
    fill(cache, vectors(100))
    for i in range(60):
        cache.store(f"only words {i}", i)
    assert cache.lookup("only words 7").response == 7
    assert cache.lookup("w", query_embedding=near(vectors(100)[3])).response == "answer 3"
    assert size_of(raw, config) == 100


@pytest.fixture
def behind(redis8: RedisServer, config: CacheConfig, raw: redis.Redis, twins: Twins) -> Iterator[Any]:
    """Return what makes a cache of 150 entries, warm, behind a proxy that counts, and the proxy."""
    rows = vectors(150)
    table = {f"question {i}": row for i, row in enumerate(rows)}
    table |= {f"near {i}": near(row, share=0.1) for i, row in enumerate(rows)}
    table |= {"far": vectors(1, seed=9)[0], "question 149": near(rows[149])}
    raw.script_load(Script("answers/admit").source)
    with CountingProxy(redis8.port) as proxy:
        way = config.replace(redis_port=proxy.port, embedder_id=None)

        def build(responses: Any = None, *, store: bool = True, **options: Any) -> Any:
            settings = {
                "thresholds": THRESHOLDS,
                "guards": False,
                "vector_sets_from": FROM,
                "audit_rate": 0,
                **options,
            }
            cache = twins.make("SemanticCache", Meanings(table, dim=DIM), way, **with_settings(**settings))
            for i in range(150 if store else 0):
                cache.store(f"question {i}", (responses or {}).get(i, i))
            for query in ("near 149", "near 148") if store else ():
                cache.lookup(query)
            proxy.reset()
            return cache

        yield build, proxy


def test_an_exact_hit_is_one_round_trip_and_all_else_two(behind: Any) -> None:
    build, proxy = behind
    cache = build()
    for query, reason, trips in (
        ("question 5", "exact", 1),
        ("far", "below_threshold", 2),
        ("near 3", "semantic", 2),
        ("near 7", "semantic", 2),
    ):
        proxy.reset()
        found = cache.lookup(query)
        assert (found.reason, len(proxy.batches)) == (reason, trips)
        assert not found or found.response == int(query.split()[1])
        assert not found or 0 < found.ttl_remaining_seconds <= 300
    proxy.reset()
    assert cache.check_availability("near 9").reason == "semantic"
    assert not cache.check_availability("far")
    assert len(proxy.batches) == 4
    proxy.reset()
    cache.store("question 151", 151)
    assert len(proxy.batches) == 1
    assert used(cache) == 7


def test_the_first_lookup_of_a_process_costs_no_more(behind: Any) -> None:
    build, proxy = behind
    build()
    for query, trips in (("question 5", 1), ("far", 2), ("near 3", 2)):
        cache = build(store=False)
        found = cache.lookup(query)
        assert bool(found) == (query != "far")
        assert len(proxy.batches) == trips
        assert used(cache) == trips - 1


@pytest.mark.parametrize(("eviction", "gone"), [("fifo", 3), ("lru", 4), ("lfu", 4)])
def test_a_use_is_noted_for_the_eviction_without_a_round_trip(behind: Any, eviction: str, gone: int) -> None:
    build, proxy = behind
    cache = build(eviction=eviction, max_entries=150)
    for i in range(3):
        assert cache.lookup(f"question {i}").is_hit
    proxy.reset()
    assert cache.lookup("near 3").response == 3
    assert cache.lookup("far").reason == "below_threshold"
    assert len(proxy.batches) == 4
    for i in range(4 if eviction == "fifo" else 1):
        cache.store(f"more {i}", i)
    assert not cache.check_availability(f"question {gone}")
    assert cache.check_availability("question 9")


def test_a_use_that_prolongs_a_life_is_noted_at_once(behind: Any, raw: redis.Redis) -> None:
    build, proxy = behind
    cache = build(sliding_seconds=100)
    before = cache.check_availability("near 3").ttl_remaining_seconds
    time.sleep(0.05)
    proxy.reset()
    found = cache.lookup("near 3")
    assert (found.response, len(proxy.batches)) == (3, 3)
    assert found.ttl_remaining_seconds >= before
    proxy.reset()
    assert cache.check_availability("near 3").is_hit
    assert len(proxy.batches) == 2


def test_a_large_response_costs_a_round_trip_more(behind: Any) -> None:
    build, proxy = behind
    large, parted, fits = os.urandom(65_600), os.urandom(11_000_000), os.urandom(65_000)
    cache = build({3: large, 4: parted, 5: fits})
    for i, response, trips in ((3, large, 3), (4, parted, 3), (5, fits, 2), (6, 6, 2)):
        proxy.reset()
        assert cache.lookup(f"near {i}").response == response
        assert len(proxy.batches) == trips


def test_a_life_that_ends_while_the_client_thinks_ends_the_lookup(make: Any) -> None:
    rows = vectors(150)

    class Slow:
        id = "slow"
        came_late = False

        def scores(self, pairs: Any) -> Any:
            self.came_late |= life.may_be_over
            time.sleep(life.seconds + 0.05)
            return np.ones(len(pairs), np.float32)

    verifier = Slow()
    cache = make(verifier=verifier)
    fill(cache, rows[:140])
    life = Life(0.6)
    fill(cache, rows[140:], 140, ttl_seconds=life.seconds)
    found = cache.lookup("w", query_embedding=near(rows[145]))
    assert not found.is_hit
    assert found.reason == "gone" or verifier.came_late or life.may_be_over
    assert cache.lookup("w", query_embedding=near(rows[5])).response == "answer 5"


def test_notes_that_cannot_be_sent_are_bounded() -> None:
    deferred = Deferred(limit_bytes=2_500, each=3)
    calls = [ScriptCall(Script("answers/fill"), (str(i),), ()) for i in range(5)]
    for call in calls:
        deferred.add("a", call)
    assert [note.call for note in deferred.take("a")] == calls[2:]
    assert (deferred.take("a"), deferred.nbytes) == ((), 0)
    for scope in "abc":
        deferred.add(scope, calls[0])
    assert [len(deferred.take(scope)) for scope in "abc"] == [0, 1, 1]
    assert deferred.nbytes == 0


def test_notes_of_a_thousand_scopes_wait_for_theirs_within_a_limit() -> None:
    deferred = Deferred()
    for i in range(1_000):
        deferred.add(str(i), ScriptCall(Script("answers/attach"), (), (bytes(2_000),)))
    assert all(len(deferred.take(str(i))) == 1 for i in range(1_000))
    for i in range(50_000):
        deferred.add(str(i), ScriptCall(Script("answers/attach"), (), (bytes(2_000),)))
    assert deferred.nbytes <= 16 * 1024 * 1024
    assert deferred.take("49999")


def test_a_note_that_is_refused_fails_no_lookup(behind: Any, raw: redis.Redis, config: CacheConfig) -> None:
    build, _ = behind
    cache = build(eviction="lru")
    assert cache.lookup("near 3").response == 3
    (entries,) = keys_of(raw, config, "entries")
    (log,) = keys_of(raw, config, "log")
    number = raw.xrange(log, count=4)[3][0]
    meta = raw.hget(entries, number)
    raw.hset(entries, number, b"foreign")
    assert cache.lookup("question 9").response == 9
    stats = cache.get_stats()
    assert stats["note_errors"] == 1
    assert "foreign data" in stats["last_error"]
    raw.hset(entries, number, meta)
    # Nor does a note hide what the lookup itself runs into.
    assert cache.lookup("near 7").response == 7
    (head,) = keys_of(raw, config, "head")
    raw.delete(head)
    raw.set(head, b"foreign")
    with pytest.raises(RedisCommandError):
        cache.lookup("far")


def test_a_full_server_still_finds_what_it_has(twins: Twins, tmp_path: Path) -> None:
    binary = os.environ.get("LIX_CACHE_REDIS8")
    if not binary:
        pytest.skip("no server with vector sets; set LIX_CACHE_REDIS8 to a redis-server of version 8")
    with RedisServer(binary=binary) as server:
        config = server.config(archive_dir=tmp_path, embedder_id="test", embedding_dim=DIM)
        writer = twins.make(
            "SemanticCache",
            None,
            config,
            thresholds=THRESHOLDS,
            guards=False,
            settings=SemanticSettings(vector_sets_from=None, audit_rate=0),
        )
        rows = vectors(150)
        fill(writer, rows)
        cache = twins.make(
            "SemanticCache",
            None,
            config,
            thresholds=THRESHOLDS,
            guards=False,
            settings=SemanticSettings(vector_sets_from=FROM, audit_rate=0),
        )
        for _ in range(5):
            assert cache.lookup("w", query_embedding=near(rows[3])).response == "answer 3"
        server.client().config_set("maxmemory", "1mb")
        for _ in range(20):
            assert cache.lookup("w", query_embedding=near(rows[3])).response == "answer 3"
        server.client().config_set("maxmemory", "0")
        for _ in range(20):
            assert cache.lookup("w", query_embedding=near(rows[3])).response == "answer 3"
        assert used(cache) > 0
