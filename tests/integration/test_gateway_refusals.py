"""What Redis refuses of one request is that request's trouble: all others are answered from it as before."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from lix_cache import CacheConfig
from lix_cache.clock import SYSTEM_CLOCK
from lix_cache.embedders.hashing import HashingEmbedder
from lix_cache.gateway.redis_line import RedisLine
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.twins import Twins
from tests.support.wire import chat_body, post

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"


@pytest.fixture
def server() -> Iterator[RedisServer]:
    with RedisServer() as running:
        yield running


def config_of(server: RedisServer, folder: Path) -> CacheConfig:
    # For longer than any test: a breaker that has tripped stays so.
    return server.config(archive_dir=folder, redis_retry_seconds=3600, evictor_enabled=False)


def fill(server: RedisServer) -> None:
    """Let a server refuse whatever needs memory."""
    server.client().config_set("maxmemory", "1")


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("how", ["full", "not allowed", "a number that overflows"])
def test_a_refused_write_of_one_tenant_leaves_the_others_their_hits(
    how: str, server: RedisServer, provider: Provider, tmp_path: Path
) -> None:
    tenants = (
        TenantSettings("ann", (digest_of_key(ANN),)),
        TenantSettings("bob", (digest_of_key(BOB),), tokens_per_day=10**9),
    )
    with RunningGateway(provider, config_of(server, tmp_path), tenants=tenants) as gateway:
        core, client = gateway.core, server.client()
        assert core.redis is not None
        post(gateway.url, chat_body(), authorization=ANN)
        post(gateway.url, chat_body("budget"), authorization=BOB)
        gateway.forget()
        if how == "full":
            fill(server)
        elif how == "not allowed":
            client.execute_command("ACL SETUSER default -eval")
        else:
            (counter,) = client.scan_iter("*:gw:tokens:*")
            client.set(counter, 2**63 - 1)
            # Spent by calls that ran already.
            bob = core.tenants.tenants["bob"]
            assert core.limits.spent(bob, 5)
            gateway.do(core.limits.tell())
        if how != "a number that overflows":
            assert post(gateway.url, chat_body("another"), authorization=BOB).state == "miss"
        gateway.forget()
        assert core.redis.troubles > 0
        assert not core.redis.breaker.is_open
        assert post(gateway.url, chat_body(), authorization=ANN).reason == "redis"


def test_silence_stops_the_asking_at_once(server: RedisServer, provider: Provider, tmp_path: Path) -> None:
    with RunningGateway(provider, config_of(server, tmp_path)) as gateway:
        post(gateway.url, chat_body())
        gateway.forget()
        server.kill()
        assert post(gateway.url, chat_body()).state == "miss"
        gateway.settle()
        redis = gateway.core.redis
        assert redis is not None
        assert redis.breaker.is_open
        before = redis.troubles
        assert post(gateway.url, chat_body("another")).state == "miss"
        gateway.settle()
        assert redis.troubles == before, "it was asked nothing"


@pytest.mark.parametrize("greeting", ["a password that is wrong", "a database that is not there"])
def test_a_refused_greeting_stops_the_asking_at_once(
    greeting: str, server: RedisServer, tmp_path: Path
) -> None:
    config = config_of(server, tmp_path)
    if greeting == "a password that is wrong":
        server.client().execute_command("ACL SETUSER default >right")
        config = config.replace(redis_password="wrong")
    else:
        config = config.replace(semantic_redis_db=99)
    line = RedisLine(config, SYSTEM_CLOCK)
    assert asyncio.run(line.ask(("PING",))) is None
    assert line.breaker.is_open


@pytest.mark.parametrize(
    ("said", "is_of_all"),
    [
        ("LOADING Redis is loading the dataset in memory", True),
        ("MASTERDOWN Link with MASTER is down", True),
        ("CLUSTERDOWN The cluster is down", True),
        ("BUSY Redis is busy running a script", True),
        ("NOAUTH Authentication required.", True),
        ("NOPERM this user has no permissions to run the 'eval' command", False),
        ("OOM command not allowed when used memory > 'maxmemory'.", False),
        ("MISCONF Redis is configured to save RDB snapshots, but it's unable to persist to disk", False),
        ("READONLY You can't write against a read only replica.", False),
        ("NOREPLICAS Not enough good replicas to write.", False),
        ("TRYAGAIN Multiple keys request during rehashing of slot", False),
        ("WRONGTYPE Operation against a key holding the wrong kind of value", False),
        ("ERR increment or decrement would overflow", False),
    ],
)
def test_a_refusal_of_all_commands_stops_the_asking_and_that_of_one_does_not(
    said: str, is_of_all: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Wire:
        async def ask(self, _: bytes, count: int) -> list[Any]:
            return [b"1"] * (count - 1) + [ResponseError(said)]

    line = RedisLine(CacheConfig(), SYSTEM_CLOCK)
    monkeypatch.setattr(line, "_line", Wire)
    assert asyncio.run(line.ask(("GET", "a"), ("SET", "a", "b"))) is None
    assert line.breaker.is_open is is_of_all
    assert said.split()[0] in line.last_trouble
    assert line.troubles == 1


def test_what_is_no_trouble_of_redis_is_a_miss_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wire:
        async def ask(self, *_: object) -> list[Any]:
            raise ZeroDivisionError

    line = RedisLine(CacheConfig(), SYSTEM_CLOCK)
    monkeypatch.setattr(line, "_line", Wire)
    assert asyncio.run(line.ask(("GET", "a"))) is None
    assert not line.breaker.is_open


@pytest.mark.promise("isolation")
def test_a_refused_store_leaves_a_cache_by_meaning_its_hits(
    server: RedisServer, tmp_path: Path, twins: Twins
) -> None:
    config = config_of(server, tmp_path).replace(on_cache_error="miss")
    cache = twins.make("SemanticCache", HashingEmbedder(), config)
    cache.store("Where is the billing page?", "There.")
    fill(server)
    cache.store("How do I sign out?", "So.")
    assert cache.lookup("Where is the billing page?").response == "There."


@pytest.mark.promise("isolation")
def test_a_refused_store_leaves_a_cache_of_vectors_its_hits(
    server: RedisServer, tmp_path: Path, twins: Twins
) -> None:
    cache = twins.make("URLEmbeddingCache", "s", config_of(server, tmp_path).replace(on_cache_error="miss"))
    assert cache.set("https://a.example", [1.0, 0.0])
    fill(server)
    assert not cache.set("https://b.example", [1.0, 0.0])
    assert cache.get("https://a.example") is not None
