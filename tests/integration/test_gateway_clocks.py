"""Gateways whose machines do not agree about the time purge what was asked for before, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.clock import SystemClock
from lix_cache.gateway.shared_clock import SharedClock
from lix_cache.gateway.snapshot import load_snapshot, save_snapshot
from lix_cache.hot.keys import digest
from tests.support.dropping import look
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import chat_body, post

pytestmark = pytest.mark.promise("right-answer")


class Wrong(SystemClock):
    """A clock that is ahead of the right one."""

    def __init__(self, ahead: float) -> None:
        self.ahead = ahead

    def time(self) -> float:
        return time.time() + self.ahead


class Still(SystemClock):
    """A clock that stands where it is put."""

    now = 0.0

    def time(self) -> float:
        return self.now


@pytest.fixture(params=[-300.0, 300.0])
def gateways(
    request: pytest.FixtureRequest, provider: Provider, redis_config: CacheConfig
) -> Iterator[tuple[RunningGateway, RunningGateway]]:
    """Two that share a Redis; the clock of the second is wrong. Both have looked at what was dropped."""
    with (
        RunningGateway(provider, redis_config) as one,
        RunningGateway(provider, redis_config, clock=Wrong(request.param)) as other,
    ):
        for gateway in (one, other):
            look(gateway)
        yield one, other


@pytest.mark.parametrize("ahead", [-300.0, 300.0])
def test_what_is_under_way_elsewhere_is_not_kept_after_a_purge(
    ahead: float, provider: Provider, redis_config: CacheConfig
) -> None:
    with (
        RunningGateway(provider, redis_config) as one,
        RunningGateway(provider, redis_config, clock=Wrong(ahead)) as other,
    ):
        look(other)
        provider.gate.clear()
        with ThreadPoolExecutor() as pool:
            try:
                asking = pool.submit(post, other.url, chat_body())
                wait_until(lambda: other.core.flights, what="a call under way")
                one.do(one.core.purge("local", None, None))
            finally:
                provider.gate.set()
            assert asking.result().state == "miss"
        other.settle()
        for gateway in (one, other):
            gateway.forget()
            assert post(gateway.url, chat_body(), cache_control="only-if-cached").status == 504


def test_what_is_asked_for_after_a_purge_is_kept(gateways: tuple[RunningGateway, RunningGateway]) -> None:
    one, other = gateways
    other.do(other.core.purge("local", None, None))
    for gateway in (one, other):
        look(gateway)
    for asked, at, elsewhere in (("one?", one, other), ("other?", other, one)):
        assert post(at.url, chat_body(asked)).state == "miss"
        at.settle()
        assert post(at.url, chat_body(asked)).reason == "memory"
        reply = post(elsewhere.url, chat_body(asked))
        assert reply.reason == "redis"
        assert float(reply.headers["age"]) < 100


def test_a_purge_by_age_goes_by_one_clock(gateways: tuple[RunningGateway, RunningGateway]) -> None:
    one, other = gateways
    post(one.url, chat_body())
    one.settle()
    assert other.do(other.core.purge("local", None, 60.0))["redis"] == 0
    assert other.do(other.core.purge("local", None, 0.0))["redis"] == 1


@pytest.mark.parametrize("ahead", [-300.0, 300.0])
def test_a_snapshot_is_older_than_what_was_dropped_after_it_by_any_clock(
    ahead: float, provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    with RunningGateway(provider, redis_config, snapshot=str(tmp_path)) as gateway:
        redis, objects, known = gateway.core.redis, gateway.core.snapshot.objects, {digest("local")}
        assert redis is not None
        assert objects is not None
        post(gateway.url, chat_body())
        gateway.settle()

        def restored() -> int:
            gateway.do(redis.ask(("UNLINK", redis._purged("local", ""))))  # as in a Redis that is empty
            return int(gateway.do(load_snapshot(redis, objects, known)))

        assert gateway.do(save_snapshot(redis, objects, Wrong(ahead))) == 1
        gateway.do(gateway.core.purge("local", None, None))
        assert restored() == 0
        post(gateway.url, chat_body())
        gateway.settle()
        assert gateway.do(save_snapshot(redis, objects, Wrong(ahead))) == 1
        gateway.do(redis.purge("local", lambda _: True))
        assert restored() == 1, "it began after the purge"


def test_a_clock_is_set_no_further_than_is_sure() -> None:
    own = Still()
    clock = SharedClock(own)
    for before, told, now, shared in (
        (100.0, 100.5, 101.0, 101.0),  # it may be right
        (100.0, 160.0, 101.0, 160.0),  # at the answer it is at least what was told
        (101.0, 161.5, 103.0, 162.0),  # that still fits
        (103.0, 50.0, 104.0, 51.0),  # and at the question at most
    ):
        own.now = now
        clock.learn(before, told)
        assert clock.time() == shared
