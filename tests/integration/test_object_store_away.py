"""A store whose bucket takes requests and never answers: what is asked of it, and what everybody is told.

A mock of S3 in a process of its own, behind a proxy that falls silent.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lix_cache import CacheConfig, ConversationArchive, HybridConversationCache
from lix_cache.errors import ArchiveUnavailable, LixCacheError
from lix_cache.storage import objects
from tests.support.redis_server import RedisServer
from tests.support.s3_server import S3, moto_server
from tests.support.silent_proxy import SilentProxy
from tests.support.twins import Twins
from tests.support.waiting import wait_until

pytestmark = [pytest.mark.slow, pytest.mark.promise("no-stall")]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3]:
    with moto_server() as server:
        yield server


@pytest.fixture
def way(s3: S3, monkeypatch: pytest.MonkeyPatch) -> Iterator[SilentProxy]:
    """The way to the store. A request has five seconds, and one try."""
    with SilentProxy(s3.endpoint) as proxy:
        for name, value in s3.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.endpoint)
        monkeypatch.setenv("AWS_ENDPOINT", proxy.endpoint)
        monkeypatch.setenv("AWS_TIMEOUT", "5s")
        monkeypatch.setattr(objects, "_RETRY_SECONDS", 0)
        yield proxy


@pytest.fixture
def url(s3: S3, way: SilentProxy) -> str:
    return f"s3://{s3.new_bucket()}/chats"


def asked(way: SilentProxy) -> Counter[str]:
    """Return what was sent since it fell silent, but for probes."""
    return Counter(one.split()[0] for one in way.asked if "/probe-" not in one)


def comes_back(way: SilentProxy, works: Callable[[], object]) -> None:
    """Lose what is under way, and wait until something works again."""
    way.cut()
    way.release()

    def tried() -> bool:
        try:
            works()
        except LixCacheError:
            return False
        return True

    wait_until(tried)


def said(messages: Any) -> list[Any]:
    return [message["content"] for message in messages]


def ends_of(calls: list[Callable[[], Any]]) -> list[Any]:
    """Make calls side by side; return what each came to."""
    ends: list[Any] = [None] * len(calls)

    def work(n: int) -> None:
        try:
            ends[n] = calls[n]()
        except LixCacheError as error:
            ends[n] = error

    threads = [threading.Thread(target=work, args=(n,), daemon=True) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    return ends


@pytest.mark.promise("no-loss")
@pytest.mark.promise("no-false-empty")
def test_one_request_finds_out_for_ten_sessions_of_a_shard_and_for_other_clients(
    way: SilentProxy, url: str
) -> None:
    archive, other = ConversationArchive(url), ConversationArchive(url)
    names = [f"s{n}" for n in range(10)]
    for name in names:
        archive.append_turn(name, {"role": "user", "content": f"{name} says 1"})
    assert len(other.list_sessions()) == 10

    def reads(one: ConversationArchive) -> list[Callable[[], Any]]:
        return [lambda name=name: one.load_all(name) for name in names]  # type: ignore[misc]

    def appends(one: ConversationArchive) -> list[Callable[[], Any]]:
        turn = {"role": "user", "content": "never told that it is stored"}
        return [lambda name=name: one.append_turn(name, turn) for name in names]  # type: ignore[misc]

    way.hold()
    for calls in (reads(archive), reads(other), appends(archive), appends(other)):
        assert [type(end) for end in ends_of(calls)] == [ArchiveUnavailable] * 10
    assert asked(way) == Counter(GET=1)
    comes_back(way, lambda: archive.load_all("s0"))
    way.hold("PUT")
    # It answers whatever is read, and no write.
    ends = ends_of(appends(archive))
    assert [type(end) for end in ends] == [ArchiveUnavailable] * 10
    assert asked(way)["PUT"] <= 2, "one, and perhaps one that came late"
    assert [said(archive.load_all(name) or []) for name in names] == [[f"{name} says 1"] for name in names]
    comes_back(way, lambda: archive.append_turn("s0", {"role": "user", "content": "s0 says 2"}))
    fresh = ConversationArchive(url)
    for name in names:
        told = [f"{name} says 1", "s0 says 2"][: 1 + (name == "s0")]
        assert said(fresh.load_all(name) or []) == told


@pytest.fixture
def config(redis_config: CacheConfig, url: str) -> CacheConfig:
    return redis_config.replace(archive_url=url, hot_window_size=4, archive_batch_turns=2)


@pytest.mark.promise("no-loss")
def test_a_round_of_the_daemon_asks_once_and_the_next_one_moves_all(
    way: SilentProxy, config: CacheConfig
) -> None:
    caches = [HybridConversationCache(f"s{n}", config) for n in range(70)]
    for cache in caches:
        cache.add_messages([{"role": "user", "content": f"m{n}"} for n in range(7)])
    daemon = caches[0].evictor
    way.hold()
    for _ in range(3):
        with pytest.raises(ArchiveUnavailable):
            daemon.run_once()
    assert sum(asked(way).values()) == 1
    assert caches[0].get_stats()["archive"]
    comes_back(way, daemon.run_once)
    assert daemon.run_once().messages == 0
    counters = caches[0].get_stats()["process_counters"]
    assert counters["spilled_messages"] == 70 * 3
    for cache in caches[::9]:
        assert said(cache.get_full()) == [f"m{n}" for n in range(7)]


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize(("policy", "durability"), [("hot", "redis"), ("raise", "redis"), ("hot", "disk")])
def test_adds_wait_for_no_more_than_one_request(
    way: SilentProxy, config: CacheConfig, twins: Twins, policy: str, durability: str
) -> None:
    config = config.replace(on_archive_error=policy, durability=durability)
    caches = [twins.make("HybridConversationCache", f"s{n}", config) for n in range(4)]
    stored: dict[str, list[str]] = {cache.session_id: ["m0"] for cache in caches}
    for cache in caches:
        cache.add_message("user", "m0")
    way.hold()
    refused = 0
    # No daemon runs: who makes a window too long spills it.
    for n in range(1, 40):
        for cache in [*caches, *([twins.make("HybridConversationCache", "new", config)] if n == 20 else [])]:
            try:
                cache.add_message("user", f"m{n}")
                stored.setdefault(cache.session_id, []).append(f"m{n}")
            except ArchiveUnavailable:
                refused += 1
    assert sum(asked(way).values()) == 1
    if durability == "disk":
        assert refused == 4 * 39 + 1, "what the disk does not take is not acknowledged"
    elif policy == "raise":
        assert 0 < refused < 4 * 39, "from the first failure on"
    else:
        assert refused == 0
        assert caches[0].get_stats()["process_counters"]["spill_failures"] > 4
    for cache in caches:
        if durability == "redis":
            assert said(cache.get_context()) == stored[cache.session_id][-4:], "Redis has it"
    comes_back(way, caches[0].flush_to_disk)
    for cache in caches[1:]:
        cache.flush_to_disk()
    for name, told in stored.items():
        assert said(HybridConversationCache(name, config).get_full()) == told


@pytest.mark.promise("no-loss")
def test_a_redis_that_is_full_meanwhile_says_so_at_once(way: SilentProxy, url: str, tmp_path: Any) -> None:
    with RedisServer() as server, server.client() as client:
        config = server.config(
            archive_dir=tmp_path, archive_url=url, hot_window_size=4, archive_batch_turns=2
        ).replace(evictor_enabled=False)
        cache = HybridConversationCache("s", config)
        cache.add_message("user", "m0")
        way.hold()
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 200_000)
        stored = ["m0"]
        # Messages stay in Redis while the bucket is away, and there is an end of that.
        with pytest.raises(ArchiveUnavailable):
            for n in range(1, 10_000):
                cache.add_message("user", f"m{n} {'x' * 1000}")
                stored.append(f"m{n} {'x' * 1000}")
        assert 10 < len(stored) < 1_000
        assert sum(asked(way).values()) == 1
        client.config_set("maxmemory", 0)
        comes_back(way, cache.flush_to_disk)
        assert said(HybridConversationCache("s", config).get_full()) == stored
