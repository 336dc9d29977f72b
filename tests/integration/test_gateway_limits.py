"""Limits and budgets of tenants: of all processes together, and of each while Redis is away."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.gateway import timeline
from lix_cache.gateway.errors import Refused
from lix_cache.gateway.limits import Limits
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import Tenant, digest_of_key
from lix_cache.gateway.tiers import RedisTier
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.twins import ManualClock
from tests.support.waiting import until, wait_until
from tests.support.wire import chat_body, post

ANN, BOB = "ann-key-0123456789abcdef", "bob-key-0123456789abcdef"


def tenants(**limits: int) -> tuple[TenantSettings, ...]:
    return (
        TenantSettings("ann", (digest_of_key(ANN),), **limits),  # type: ignore[arg-type]
        TenantSettings("bob", (digest_of_key(BOB),)),
    )


def test_workers_count_requests_together(redis_config: CacheConfig) -> None:
    limited = tenants(requests_per_minute=30)
    with (
        Provider() as provider,
        RunningGateway(provider, redis_config, tenants=limited) as one,
        RunningGateway(provider, redis_config, tenants=limited) as other,
    ):
        began = time.monotonic()
        replies = [post((one, other)[n % 2].url, chat_body(), authorization=ANN) for n in range(60)]
        more = (time.monotonic() - began) / 2
        assert {reply.status for reply in replies} == {200, 429}
        assert 28 <= sum(reply.status == 200 for reply in replies) <= 31 + more, "a minute may turn meanwhile"
        refused = next(reply for reply in replies if reply.status == 429)
        assert 1 <= int(refused.headers["retry-after"]) <= 60
        assert post(one.url, chat_body(), authorization=BOB).status == 200


def test_workers_count_tokens_together(redis_config: CacheConfig) -> None:
    limited = tenants(tokens_per_day=10)
    with (
        Provider() as provider,
        RunningGateway(provider, redis_config, tenants=limited) as one,
        RunningGateway(provider, redis_config, tenants=limited) as other,
    ):
        assert post(one.url, chat_body(), authorization=ANN).status == 200
        one.settle()
        assert post(other.url, chat_body("Another?"), authorization=ANN).status == 429
        assert post(other.url, chat_body(), authorization=ANN).state == "hit-l1-exact", "a hit costs nothing"
        assert post(other.url, chat_body("Another?"), authorization=BOB).status == 200


def test_without_redis_each_process_counts_and_no_request_waits(tmp_path: Path) -> None:
    limited = tenants(requests_per_minute=5, tokens_per_day=1_000_000)
    with RedisServer() as server, Provider() as provider:
        config = server.config(archive_dir=tmp_path)
        with RunningGateway(provider, config, tenants=limited) as gateway:
            server.kill()
            replies = [post(gateway.url, chat_body(), authorization=ANN) for _ in range(12)]
            assert sorted({reply.status for reply in replies}) == [200, 429]
            assert sum(reply.status == 200 for reply in replies) == 5


def test_the_window_slides_and_what_is_refused_does_not_count(redis_config: CacheConfig) -> None:
    async def work() -> None:
        clock = ManualClock(60 * 30_000_000.0)
        redis = RedisTier(redis_config, clock)
        limits = Limits(redis, clock)
        tenant = Tenant("ann", requests_per_minute=10)

        refused: list[tuple[int, str, bool]] = []

        async def admitted(count: int) -> int:
            found = 0
            for _ in range(count):
                try:
                    await limits.admit(tenant)
                    found += 1
                except Refused as error:
                    refused.append((error.status, error.code, error.retry_after is not None))
            return found

        assert await admitted(25) == 10
        clock.advance(61)
        assert await admitted(5) == 0, "the minute that has just gone was full"
        clock.advance(29)
        assert await admitted(20) == 5
        clock.advance(90)
        assert await admitted(20) == 10
        assert set(refused) == {(429, "rate_limit", True)}
        redis.close()

    asyncio.run(work())


@pytest.mark.promise("no-loss")
def test_tokens_spent_while_redis_was_away_are_told_later(tmp_path: Path) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path)

        async def work() -> None:
            clock = ManualClock(time.time() // 86_400 * 86_400 + 43_200)  # noon: no day turns
            redis = RedisTier(config, clock)
            limits, tenant = Limits(redis, clock), Tenant("ann", tokens_per_day=100)
            server.kill()
            assert limits.spent(tenant, 40)
            await limits.tell()
            await limits.check_budget(tenant)
            server.start()
            clock.advance(60)
            assert limits.spent(tenant, 50)
            await asyncio.gather(limits.tell(), limits.tell())
            other, stranger = Limits(redis, clock), Tenant("ann", tokens_per_day=91)
            await other.check_budget(stranger)
            with pytest.raises(Refused) as caught:
                await other.check_budget(Tenant("ann", tokens_per_day=90))
            assert caught.value.code == "budget_spent"
            assert not limits.spent(Tenant("bob"), 5), "who has no budget costs no trip"
            redis.close()

        asyncio.run(work())


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("way", ["timer", "close"])
def test_what_was_spent_while_redis_was_away_is_told_without_another_call(
    way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(timeline, "_PAUSE", 0.01 if way == "timer" else 3600.0)
    limited = tenants(tokens_per_day=10)
    with RedisServer() as server, Provider() as provider:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=0.05)
        with RunningGateway(provider, config, tenants=limited) as one:
            server.kill()
            assert post(one.url, chat_body(), authorization=ANN).status == 200
            one.settle()
            assert one.core.limits._untold
            server.start()
            if way == "timer":
                wait_until(lambda: not one.core.limits._untold, what="the telling")
            else:
                assert one.core.redis is not None
                breaker = one.core.redis.breaker
                wait_until(lambda: not breaker.is_open, what="the breaker")
        with RunningGateway(provider, config, tenants=limited) as other:
            assert post(other.url, chat_body("Another?"), authorization=ANN).status == 429


@pytest.mark.promise("no-loss")
def test_what_was_being_told_at_the_end_is_told_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timeline, "_PAUSE", 0.0)
    asked: list[tuple[object, ...]] = []

    class Slow:
        async def ask(self, *commands: tuple[object, ...]) -> list[object]:
            asked.append(commands[0])
            if len(asked) == 1:
                await asyncio.Event().wait()
            return list(commands)

        def name(self, kind: str, tenant: str, name: str) -> str:
            return f"{kind}:{tenant}:{name}"

    async def work() -> None:
        found = timeline.Timeline(Slow(), ManualClock())  # type: ignore[arg-type]
        found.start()
        found.answered("ann", "miss", "empty", 0.1, 0.2)
        await until(lambda: asked, what="the first telling")
        await found.close()
        assert [command[0] for command in asked] == ["HSET", "HSET"]
        assert asked[0] == asked[1]
        assert not found.minutes.changed

    asyncio.run(work())
