"""Masters that die: a replica takes over, and what was acknowledged is there."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis

from lix_cache import HybridConversationCache
from lix_cache.config import CacheConfig
from lix_cache.hot.slots import slot_of
from lix_cache.session.evictor import Evictor
from tests.support.redis_cluster import RedisCluster, RedisSentinel
from tests.support.redis_server import wait_until
from tests.support.stores import own_store
from tests.support.twins import Twins

pytestmark = [pytest.mark.promise("no-loss"), pytest.mark.slow]

SESSIONS = [f"session {i}" for i in range(6)]


@pytest.fixture(scope="module", params=["cluster", "sentinel"])
def servers(request: pytest.FixtureRequest) -> Iterator[Any]:
    with RedisCluster(3, replicas=1) if request.param == "cluster" else RedisSentinel() as running:
        yield running


@pytest.fixture
def config(servers: Any, tmp_path: Path) -> CacheConfig:
    return own_store(servers, tmp_path, hot_window_size=4, archive_batch_turns=3, redis_retry_seconds=0.1)


def kill_master(servers: Any) -> Any:
    """Kill a master that has buckets in use, and wait until a replica took over."""
    if isinstance(servers, RedisSentinel):
        dead = servers.master
        dead.kill()
        wait_until(lambda: servers.master is not dead, what="the sentinels")
        return dead
    slot = slot_of(f"{{{0}}}")
    dead = servers.owner(slot)
    dead.kill()
    servers.settle()
    return dead


def bring_back(servers: Any, dead: Any) -> None:
    dead.start()
    wait_until(lambda: is_replica(dead), what="the replica")
    if isinstance(servers, RedisCluster):
        servers.settle()


def is_replica(server: Any) -> bool:
    # A sentinel closes the connections of a server that becomes a replica.
    with contextlib.suppress(redis.RedisError), server.client() as client:
        client.response_callbacks.clear()
        return b"master_link_status:up" in client.execute_command("INFO replication")
    return False


def test_a_message_that_a_replica_has_outlives_its_master(servers: Any, config: CacheConfig) -> None:
    config = config.replace(durability="replica", redis_buckets=6)
    stop = threading.Event()

    def talk(name: str) -> int:
        cache, said = HybridConversationCache(name, config), 0
        while not stop.is_set():
            cache.add_message("user", said)
            said += 1
        return said

    def move_to_disk() -> None:
        evictor = Evictor(HybridConversationCache(SESSIONS[0], config)._store)
        while not stop.wait(0.2):
            try:
                evictor.run_once()
            except ConnectionError:  # a master is away: what it has is moved by a later round
                continue

    with ThreadPoolExecutor(8) as pool:
        talks = [pool.submit(talk, name) for name in SESSIONS]
        daemon = pool.submit(move_to_disk)
        try:
            for _ in range(2):
                bring_back(servers, kill_master(servers))
        finally:
            stop.set()
        daemon.result()
        counts = [one.result() for one in talks]
    for name, count in zip(SESSIONS, counts, strict=True):
        full = HybridConversationCache(name, config).get_full()
        assert [message["content"] for message in full] == list(range(count)), name
        assert count > 0


def test_what_no_replica_had_heard_of_is_counted(twins: Twins, servers: Any, config: CacheConfig) -> None:
    if isinstance(servers, RedisSentinel):
        pytest.skip("sentinels promote no replica that has been away")
    master = servers.owner(slot_of(f"{{{0}}}"))
    replica = next(s for s in servers.servers if is_replica(s) and leads(master, s))
    config = config.replace(hot_window_size=50, redis_buckets=1)
    users = [twins.make("HybridConversationCache", "s", config), HybridConversationCache("s", config)]
    # A process that shares nothing with the others.
    users.append(HybridConversationCache("s", config.replace(redis_socket_timeout=4)))
    for number, user in enumerate(users):
        user.add_message("user", f"kept {number}")
    with master.client() as client:
        # WAIT is for what its own connection wrote, and so for all before.
        client.set("{0}mark", 1)
        assert client.execute_command("WAIT", 1, 20_000) == 1
    # A replica writes its file anew behind its first synchronisation: killed before, it forgets all.
    wait_until(lambda: has_written_its_file(replica), what="the replica's file")
    replica.kill()
    for number, user in enumerate(users):
        for i in range(number + 1):
            user.add_message("user", f"gone {number} {i}")
    master.kill()
    replica.start()
    wait_until(lambda: servers.owner(slot_of(f"{{{0}}}")) is replica, what="the replica")
    servers.settle()
    for number, user in enumerate(users):
        user.add_message("user", f"after {number}")
    counted = [user.get_stats()["counters"].get("lost_messages", 0) for user in users]
    assert sum(counted) == 6
    left = [*(f"kept {n}" for n in range(3)), *(f"after {n}" for n in range(3))]
    assert [message["content"] for message in users[0].get_full()] == left
    bring_back(servers, master)


def has_written_its_file(server: Any) -> bool:
    with server.client() as client:
        found = client.info("persistence")
    is_busy = found["aof_rewrite_in_progress"] or found["aof_rewrite_scheduled"] or found["loading"]
    return bool(found["aof_enabled"] and not is_busy and found["aof_last_bgrewrite_status"] == "ok")


def leads(master: Any, server: Any) -> bool:
    with server.client() as client:
        client.response_callbacks.clear()
        return f"master_port:{master.port}\r".encode() in client.execute_command("INFO replication")


def test_without_a_replica_a_message_is_on_disk(twins: Twins, redis_server_alone: CacheConfig) -> None:
    config = redis_server_alone.replace(durability="replica", redis_socket_timeout=2)
    cache = twins.make("HybridConversationCache", "s", config)
    for i in range(5):
        cache.add_message("user", i)
        assert cache.get_stats()["disk_turns"] == i + 1
    assert [message["content"] for message in cache.get_full()] == list(range(5))
    assert cache.get_stats()["counters"]["unreplicated_adds"] == 5


@pytest.fixture
def redis_server_alone(tmp_path: Path) -> Iterator[CacheConfig]:
    from tests.support import RedisServer

    with RedisServer() as server:
        yield server.config(archive_dir=tmp_path / "archive", evictor_enabled=False)


def test_what_a_replica_has_is_not_written_to_disk(twins: Twins, servers: Any, config: CacheConfig) -> None:
    cache = twins.make(
        "HybridConversationCache", "s", config.replace(durability="replica", hot_window_size=50)
    )
    for i in range(5):
        cache.add_message("user", i)
    stats = cache.get_stats()
    assert stats["disk_turns"] <= stats["counters"].get("unreplicated_adds", 0)
    assert [message["content"] for message in cache.get_full()] == list(range(5))
