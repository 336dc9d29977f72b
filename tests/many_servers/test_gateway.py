"""The gateway on a cluster and behind Sentinel: all that it keeps in Redis goes to whose slot it is."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.config import CacheConfig
from lix_cache.effects import RedisBatch
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.snapshot import load_snapshot
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.hot.keys import digest
from lix_cache.hot.spread import SCAN_AGAIN
from lix_cache.storage.objects import FolderBucket
from tests.support.dropping import look
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_cluster import RedisCluster
from tests.support.wire import chat_body, post

pytestmark = pytest.mark.promise("right-answer")

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"
#: So many keys are in the slots of all nodes.
MANY = 12


def tenants(**limits: int) -> tuple[TenantSettings, ...]:
    return (
        TenantSettings("ann", (digest_of_key(ANN),), **limits),  # type: ignore[arg-type]
        TenantSettings("bob", (digest_of_key(BOB),)),
    )


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as running:
        yield running


def fill(gateway: RunningGateway, key: str = ANN) -> None:
    for number in range(MANY):
        assert post(gateway.url, chat_body(str(number)), authorization=key).status == 200
    gateway.settle()


def test_answers_are_shared_and_a_purge_reaches_every_node(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with (
        RunningGateway(provider, redis_config, tenants=tenants()) as one,
        RunningGateway(provider, redis_config, tenants=tenants()) as other,
    ):
        fill(one)
        fill(one, BOB)
        calls = len(provider.calls)
        replies = [post(other.url, chat_body(str(n)), authorization=ANN) for n in range(MANY)]
        assert {reply.reason for reply in replies} == {"redis"}
        assert len(provider.calls) == calls
        post(other.url, chat_body("3"), authorization=BOB)
        assert one.do(one.core.purge("ann", None, None))["redis"] == MANY
        look(other)
        assert {entry.tenant for entry in other.core.memory._entries.values()} == {"bob"}
        one.forget()
        assert post(one.url, chat_body("3"), authorization=ANN).state == "miss"
        assert post(one.url, chat_body("3"), authorization=BOB).reason == "redis"
        for gateway in (one, other):
            assert gateway.core.redis is not None
            assert (gateway.core.redis.troubles, gateway.core.redis.last_trouble) == (0, "")


def test_limits_and_minutes_are_those_of_all_workers(provider: Provider, redis_config: CacheConfig) -> None:
    limited = tenants(requests_per_minute=1000, tokens_per_day=10)
    with (
        RunningGateway(provider, redis_config, tenants=limited) as one,
        RunningGateway(provider, redis_config, tenants=limited) as other,
    ):
        assert post(one.url, chat_body(), authorization=ANN).status == 200
        one.settle()
        assert post(other.url, chat_body("Another?"), authorization=ANN).status == 429
        one.do(one.core.timeline.tell())
        minute = int(time.time() // 60)
        found, workers, is_whole = other.do(other.core.timeline.read(minute - 5, minute))
        assert is_whole
        assert one.core.timeline.worker in workers
        assert any(label[0] == "ann" for minute in found.values() for label in minute.requests)
        for gateway in (one, other):
            assert gateway.core.redis is not None
            assert (gateway.core.redis.troubles, gateway.core.redis.last_trouble) == (0, "")


def test_a_snapshot_has_the_answers_of_all_nodes(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    folder = str(tmp_path / "snapshot")
    with RunningGateway(provider, redis_config, tenants=tenants(), snapshot=folder) as first:
        fill(first)
    elsewhere = redis_config.replace(redis_key_prefix=f"{redis_config.redis_key_prefix}x")
    with RunningGateway(provider, elsewhere, tenants=tenants()) as second:
        redis = second.core.redis
        assert redis is not None
        assert second.do(load_snapshot(redis, FolderBucket(folder), {digest("ann")})) == MANY
        assert post(second.url, chat_body("3"), authorization=ANN).reason == "redis"


def test_a_purge_begins_again_when_the_masters_have_changed(
    provider: Provider, cluster: RedisCluster, tmp_path: Path
) -> None:
    config = cluster.config(archive_dir=tmp_path, redis_key_prefix=f"t{tmp_path.name}{id(tmp_path)}")
    with RunningGateway(provider, config, tenants=tenants()) as gateway:
        fill(gateway)
        redis = gateway.core.redis
        assert redis is not None
        assert redis._driver is not None
        scans: list[Any] = []
        perform, nodes = redis._driver._perform, redis._driver._routes.nodes  # type: ignore[union-attr]

        async def performed(effect: Any) -> Any:
            if isinstance(effect, RedisBatch) and effect.commands[0][0] == "SCAN":  # type: ignore[index]
                scans.append(effect.commands[0][1])  # type: ignore[index]
                if len(scans) == 2:
                    nodes.generation += 1
            return await perform(effect)

        redis._driver._perform = performed  # type: ignore[method-assign]
        assert gateway.do(gateway.core.purge("ann", None, None))["redis"] == MANY
        assert scans.count(0) == 2, f"after {SCAN_AGAIN}"
        assert not redis.breaker.is_open
