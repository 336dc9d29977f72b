"""A cluster that says CLUSTERDOWN: no call waits long for it, and adds go to disk."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from lix_cache import HybridConversationCache
from lix_cache.hot.slots import slot_of
from tests.support.redis_cluster import RedisCluster, ServerProcess
from tests.support.twins import Twins
from tests.support.waiting import wait_until

pytestmark = pytest.mark.slow

NAMES = [f"s{i}" for i in range(30)]


def is_down(server: ServerProcess) -> bool:
    return "cluster_state:fail" in str(server.ask("CLUSTER", "INFO"))


def refused(server: ServerProcess) -> int:
    """Return how many commands a server has turned down unseen."""
    with server.client() as client:
        return sum(one.get("rejected_calls", 0) for one in client.info("commandstats").values())


@pytest.fixture
def nodes() -> Iterator[RedisCluster]:
    # As Redis is by default: where one slot is not served, none is.
    with RedisCluster(3) as running:
        yield running


@pytest.mark.promise("no-stall")
@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("variant", ["sync", "async"])
def test_one_call_waits_for_a_cluster_that_is_down_and_no_other(
    nodes: RedisCluster, variant: str, tmp_path: Path
) -> None:
    # Each name of the clusters is an endpoint of its own, with a memory of its own.
    config = nodes.config(
        archive_dir=tmp_path / "archive",
        evictor_enabled=False,
        redis_retry_seconds=600,
        redis_socket_timeout=30,
    )
    twins = Twins(variant)
    caches = {name: twins.make("HybridConversationCache", name, config) for name in NAMES}
    for name, cache in caches.items():
        cache.add_message("user", f"{name} 0")
    window = HybridConversationCache("s", config)._store.hot.keys.window
    on = {name: nodes.owner(slot_of(window(name))) for name in NAMES}
    dead = nodes.owner(slot_of("{0}"))
    dead.kill()
    first, second = nodes.running
    wait_until(lambda: is_down(first) and is_down(second))
    nodes_of = {server: [name for name in NAMES if on[name] is server] for server in (first, second)}
    before = refused(second)
    # Whoever is first may hope that it passes, the same for all nodes.
    assert caches[nodes_of[first][0]].add_message("user", f"{nodes_of[first][0]} 1")
    for name in nodes_of[second]:
        assert caches[name].add_message("user", f"{name} 1")
    assert refused(second) - before == 1
    twins.close()
