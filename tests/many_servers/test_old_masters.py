"""Servers that were masters: a process that had nothing to ask for a while is not misled by them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from lix_cache import HybridConversationCache
from lix_cache.config import CacheConfig
from tests.support.redis_cluster import RedisSentinel
from tests.support.redis_server import wait_until
from tests.support.twins import Twins

pytestmark = [pytest.mark.promise("no-loss"), pytest.mark.slow]


@pytest.fixture
def servers() -> Iterator[RedisSentinel]:
    with RedisSentinel() as running:
        yield running


@pytest.fixture
def config(servers: RedisSentinel, tmp_path: Path) -> CacheConfig:
    return servers.config(archive_dir=tmp_path, evictor_enabled=False)


def from_elsewhere(config: CacheConfig) -> HybridConversationCache:
    """A cache that shares no connections, and nothing that is known of the servers, with the others."""
    return HybridConversationCache("s", config.replace(redis_socket_timeout=4))


def texts(cache: HybridConversationCache) -> list[str]:
    return [message["content"] for message in cache.get_full()]


def wait_for_replica(servers: RedisSentinel) -> None:
    with servers.master.client() as client:
        # WAIT is for what its own connection wrote, and so for all before.
        client.set("mark", 1)
        assert client.execute_command("WAIT", 1, 20_000) == 1


def test_nothing_is_added_to_a_master_that_was_down_and_does_not_know_that_it_is_none(
    twins: Twins, servers: RedisSentinel, config: CacheConfig
) -> None:
    idle = twins.make("HybridConversationCache", "s", config)
    idle.add_message("user", "before")
    wait_for_replica(servers)
    old = servers.master
    old.kill()
    wait_until(lambda: servers.master is not old, what="the sentinels")
    # The sentinels tell it after some seconds; until then it takes what comes.
    old.start()
    idle.add_message("user", "after")
    assert texts(from_elsewhere(config)) == ["before", "after"]
    assert texts(idle) == ["before", "after"]


def test_what_a_replica_has_that_was_the_master_is_not_taken_for_all(
    twins: Twins, servers: RedisSentinel, config: CacheConfig
) -> None:
    old = servers.master
    with old.client() as client:
        # So it gets nothing from the new master, as if the line between them were cut.
        client.config_set("masterauth", "wrong")
    idle = twins.make("HybridConversationCache", "s", config)
    idle.add_message("user", "before")
    wait_for_replica(servers)
    with servers.sentinels[0].client() as client:
        client.execute_command("SENTINEL", "FAILOVER", "service-1")
    wait_until(lambda: servers.master is not old, what="the sentinels")

    def knows() -> bool:
        try:
            with old.client() as client:
                return bool(client.info("replication")["role"] == "slave")
        except redis.ConnectionError:
            # The sentinels end all its connections when they tell it.
            return False

    wait_until(knows, what="the old master")
    from_elsewhere(config).add_message("user", "after")
    assert texts(idle) == ["before", "after"]
    assert [message["content"] for message in idle.get_context()] == ["before", "after"]
