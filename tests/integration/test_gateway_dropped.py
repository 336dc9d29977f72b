"""Processes heed what one of them has dropped, also where Redis was away, was empty, or told nonsense."""

from __future__ import annotations

import asyncio
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import RedisUnavailable
from lix_cache.gateway import deletions, drop_stream, keeping, undone
from lix_cache.gateway.core import Core
from lix_cache.gateway.deletions import Drop
from lix_cache.gateway.settings import TenantSettings
from lix_cache.gateway.tenants import digest_of_key
from lix_cache.gateway.tiers import RedisTier
from tests.support import RedisServer
from tests.support.dropping import BODY, PATH, Keeper, Line, drop, held, is_served, look, made, nothing
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import chat_body, post

pytestmark = pytest.mark.promise("right-answer")
DROPS = ["deletion", "purge"]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(keeping, "_LOOK_SECONDS", 0.1)


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    found, real = Line(), RedisTier.ask

    async def asking(redis: RedisTier, *commands: Any) -> Any:
        names = [str(words[0]) for words in commands]
        found.asked += [(redis, name) for name in names]
        return None if found.lost(redis, set(names)) else await real(redis, *commands)

    monkeypatch.setattr(RedisTier, "ask", asking)
    return found


@pytest.mark.parametrize("step", ["", "EVAL", "SET", "XADD", "GET", "UNLINK"])
def test_a_deletion_that_redis_did_not_take_whole_is_done_again(
    step: str, keeper: Keeper, redis_config: CacheConfig, line: Line
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        identity = made(one)
        assert is_served(other)
        line.lost = lambda redis, names: redis is one.core.redis and (not step or step in names)
        drop(one, identity)
        line.asked.clear()
        wait_until(lambda: (step or "EVAL") in line.names(one), what="another try")
        assert one.core.undone
        line.lost = nothing
        wait_until(lambda: not len(one.core.undone), what="the deletion to be done")
        look(other)
        assert not held(other)
        assert not is_served(other)


@pytest.mark.parametrize("step", ["XADD", "SCAN"])
def test_a_purge_that_was_not_told_or_not_done_is_an_error_and_may_be_repeated(
    step: str, keeper: Keeper, redis_config: CacheConfig, line: Line
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        identity = made(one)
        assert is_served(other)
        line.lost = lambda _, names: step in names
        with pytest.raises(RedisUnavailable, match="ask for it again"):
            drop(one, identity, "purge")
        line.lost = nothing
        drop(one, identity, "purge")
        look(other)
        assert not held(other)
        assert not is_served(other)


@pytest.mark.parametrize("what", DROPS)
def test_what_was_dropped_before_a_process_first_saw_redis_is_heeded(
    what: str, keeper: Keeper, redis_config: CacheConfig, line: Line
) -> None:
    with RunningGateway(keeper.url, redis_config) as one:
        line.lost = lambda redis, _: redis is not one.core.redis
        with RunningGateway(keeper.url, redis_config) as other:
            identity = made(one)
            ((key, entry),) = one.core.memory._entries.items()
            other.core.memory.put(key, entry)
            drop(one, identity, what)
            line.lost = nothing
            wait_until(lambda: not held(other), what="the first look")
            assert not is_served(other)


@pytest.mark.parametrize("is_told_before", [True, False])
@pytest.mark.parametrize("what", DROPS)
def test_what_is_dropped_in_a_redis_that_came_back_empty_is_heeded(
    what: str, is_told_before: bool, keeper: Keeper, tmp_path: Path, line: Line
) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=0.001)
        with RunningGateway(keeper.url, config) as one, RunningGateway(keeper.url, config) as other:
            identity = made(one)
            assert is_served(other)
            if is_told_before:
                drop(one, "resp_of_before")
                look(other)
            line.lost = lambda redis, _: redis is other.core.redis
            server.kill()
            server.start()
            wait_until(lambda: one.do(one.core.redis.ping()), what="Redis to be seen")  # type: ignore[union-attr]
            drop(one, identity, what)
            wait_until(lambda: not len(one.core.undone), what="the deletion to be told")
            line.lost = nothing
            look(other)
            assert not is_served(other)


@pytest.mark.parametrize("what", DROPS)
def test_what_was_dropped_while_it_came_is_not_kept_where_redis_does_not_tell(
    what: str, keeper: Keeper, redis_config: CacheConfig, line: Line
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        keeper.gate.clear()
        with ThreadPoolExecutor() as pool:
            try:
                asking = pool.submit(made, other)
                wait_until(lambda: keeper.made, what="a call under way")
                drop(one, keeper.made[-1], what)
                look(other)
                line.lost = lambda redis, _: redis is other.core.redis
            finally:
                keeper.gate.set()
            asking.result()
        assert not held(other)
        line.lost = nothing
        assert not is_served(other)


@pytest.mark.parametrize("said", ["too much", "nonsense", "of another version", "trimmed"])
def test_a_process_that_cannot_know_what_was_dropped_forgets_all(
    said: str,
    keeper: Keeper,
    redis_config: CacheConfig,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(drop_stream, "_MOST_TOLD", 1)
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        identity = made(one)
        assert is_served(other)
        redis, client = one.core.redis, redis_server.client()
        assert redis is not None
        stream = redis.drops._name
        if said == "too much":
            # Redis drops entries by the hundred.
            monkeypatch.setattr(other.core, "look", lambda _: asyncio.sleep(0))
            drop(one, identity)
            one.do(_told_often(one.core, 300))
            monkeypatch.undo()
        elif said == "trimmed":
            client.xtrim(stream, maxlen=0)
        else:
            words = b"nonsense" if said == "nonsense" else b'{"tenant":"local","at":1.0,"more":"?"}'
            client.xadd(stream, {"drop": words})
        for gateway in (one, other):
            look(gateway)
        assert not held(other)
        identity = made(one)
        assert is_served(other)
        drop(one, identity)
        look(other)
        assert not held(other), "it goes on from there"


async def _told_often(core: Core, count: int) -> None:
    assert core.redis is not None
    await asyncio.gather(*(core.redis.drops.tell(Drop("local", 0.0, "resp_unknown")) for _ in range(count)))


def test_a_look_that_fails_is_not_the_last_one(
    keeper: Keeper, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        identity, looks = made(one), []
        assert is_served(other)

        async def fails(*_: Any) -> None:
            looks.append(1)
            raise RuntimeError("scripted")

        with monkeypatch.context() as patch:
            patch.setattr(other.core.redis.drops, "since", fails)
            wait_until(lambda: looks, what="a look")
        drop(one, identity)
        wait_until(lambda: not held(other), what="the next look")


def test_a_deletion_drops_one_response_and_ends_the_sharing_of_no_other(
    keeper: Keeper, redis_config: CacheConfig
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        first = made(one)
        second = made(one, input="Another?")
        assert is_served(other)
        assert is_served(other, input="Another?")
        keeper.gate.clear()
        with ThreadPoolExecutor() as pool:
            try:
                asking = [pool.submit(made, other, input="Under way?")]
                wait_until(lambda: other.core.flights, what="a call under way")
                (flight,) = other.core.flights.values()
                drop(one, first)
                for gateway in (one, other):
                    look(gateway)
                    assert held(gateway) == [second]
                assert list(other.core.flights.values()) == [flight]
                asking.append(pool.submit(made, other, input="Under way?"))
                wait_until(lambda: len(flight._readers) == 2, what="another that follows")
            finally:
                keeper.gate.set()
            assert len({reply.result() for reply in asking}) == 1


def test_no_new_request_follows_a_response_that_is_deleted_as_it_comes(
    provider: Provider, redis_config: CacheConfig
) -> None:
    body = {"model": "m-1", "input": "Streamed?", "stream": True}

    def ids(gateway: RunningGateway) -> list[bytes]:
        begun = b"".join(chunk for flight in gateway.core.flights.values() for chunk in flight.chunks)
        return re.findall(rb'"id": ?"(resp_[^"]*)"', begun)

    with RunningGateway(provider, redis_config) as one, RunningGateway(provider, redis_config) as other:
        provider.gate.clear()
        with ThreadPoolExecutor() as pool:
            try:
                asking = pool.submit(post, other.url, body, PATH)
                wait_until(lambda: ids(other), what="the begin of the answer")
                drop(one, ids(other)[0].decode())
                look(other)
                assert not other.core.flights
            finally:
                provider.gate.set()
            assert asking.result().is_whole
        other.settle()
        assert not held(other)


@pytest.mark.parametrize("what", ["mark", "name"])
def test_a_clock_that_is_behind_does_no_harm_to_a_deletion(
    what: str,
    keeper: Keeper,
    redis_config: CacheConfig,
    redis_server: RedisServer,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        identity = made(one)
        if what == "mark":  # the name of its answer is not known: the mark alone is left
            client = redis_server.client()
            client.delete(*client.keys(f"{redis_config.redis_key_prefix}:*:gw:id:*"))
        late = SimpleNamespace(time=lambda: time.time() - 3600, monotonic=time.monotonic)
        monkeypatch.setattr(other.core, "clock", late)
        drop(other, identity)
        look(one)
        assert not is_served(one)
        monkeypatch.undo()
        assert not is_served(other)


def test_who_asks_after_another_process_has_purged_follows_no_call_from_before(
    provider: Provider, redis_config: CacheConfig
) -> None:
    with RunningGateway(provider, redis_config) as one, RunningGateway(provider, redis_config) as other:
        provider.gate.clear()
        with ThreadPoolExecutor() as pool:
            first = pool.submit(post, other.url, chat_body())
            wait_until(lambda: len(provider.calls) == 1 and other.core.flights, what="a call under way")
            one.do(one.core.purge("local", None, None))
            wait_until(lambda: not other.core.flights, what="a look at what was purged")
            second = pool.submit(post, other.url, chat_body())
            wait_until(lambda: len(provider.calls) == 2, what="a call of its own")
            provider.gate.set()
            assert [reply.result().state for reply in (first, second)] == ["miss", "miss"]


@pytest.mark.promise("one-trip")
@pytest.mark.parametrize(("store", "trips"), [(False, 1), (True, 2), (None, 2)])
def test_only_a_hit_of_what_the_provider_keeps_looks_for_a_deletion(
    store: bool | None, trips: int, keeper: Keeper, redis_config: CacheConfig, line: Line
) -> None:
    more = {} if store is None else {"store": store}
    with RunningGateway(keeper.url, redis_config) as gateway:
        made(gateway, **more)
        gateway.forget()
        line.asked.clear()
        assert is_served(gateway, **more)
        assert sum(line.names(gateway).count(name) for name in ("GET", "ZMSCORE")) == trips


def test_what_redis_said_before_a_process_forgot_all_is_not_served(
    keeper: Keeper, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = RedisTier.ask
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        monkeypatch.setattr(other.core, "look", lambda _: asyncio.sleep(0))
        made(one, store=False)

        async def late(redis: RedisTier, *commands: Any) -> Any:
            answers = await real(redis, *commands)
            if redis is other.core.redis and commands[0][0] == "GET":
                monkeypatch.setattr(RedisTier, "ask", real)
                await asyncio.to_thread(drop, one, "", "purge")
                other.core.dropped.position = None
                await Core.look(other.core, redis)
            return answers

        monkeypatch.setattr(RedisTier, "ask", late)
        assert not is_served(other, store=False)
        assert not held(other)


def test_what_is_done_again_holds_up_no_look(
    keeper: Keeper, redis_config: CacheConfig, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        made(one)
        assert is_served(other)
        line.lost = lambda redis, names: redis is other.core.redis and "EVAL" in names
        drop(other, "resp_unknown")
        line.lost = nothing
        hangs, goes_on = list[int](), threading.Event()

        async def hanging(*_: Any) -> bool:
            hangs.append(1)
            await asyncio.to_thread(goes_on.wait, 60)
            return True

        monkeypatch.setattr(other.core.redis, "forget_named", hanging)
        try:
            wait_until(lambda: hangs, what="another try")
            drop(one, "", "purge")
            wait_until(lambda: not held(other), what="a look beside it")
        finally:
            goes_on.set()
        wait_until(lambda: not len(other.core.undone), what="the end of it")


def test_more_deletions_than_are_remembered_while_redis_is_away_are_all_done(
    keeper: Keeper, redis_config: CacheConfig, line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(undone, "_MOST", 2)
    with RunningGateway(keeper.url, redis_config) as one, RunningGateway(keeper.url, redis_config) as other:
        made_here = {made(one, input=f"{number}?"): f"{number}?" for number in range(6)}
        for asked in made_here.values():
            assert is_served(other, input=asked)
        line.lost = lambda redis, _: redis is one.core.redis
        for identity in made_here:
            drop(one, identity)
            assert len(one.core.undone) <= 3
        line.lost = nothing
        wait_until(lambda: not len(one.core.undone), what="all of it to be done")
        look(other)
        for asked in made_here.values():
            assert not is_served(other, input=asked)
        assert one.do(_records(one.core)) == [], "none would be in the next snapshot"


async def _records(core: Core) -> list[bytes]:
    assert core.redis is not None
    return [name async for name, _ in core.redis.records()]


@pytest.mark.promise("isolation")
def test_one_tenant_that_deletes_much_makes_no_process_forget_what_others_have(
    provider: Provider, redis_config: CacheConfig, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {name: f"key-of-{name}-0123456789abcdef" for name in ("ann", "bob")}
    settings = {"tenants": tuple(TenantSettings(n, (digest_of_key(key),)) for n, key in keys.items())}
    ann, bob = ({"authorization": f"Bearer {key}"} for key in keys.values())
    with (
        RunningGateway(provider, redis_config, **settings) as one,
        RunningGateway(provider, redis_config, **settings) as other,
    ):
        post(other.url, chat_body(), **bob)
        anns = post(one.url, BODY, PATH, **ann).json["id"]
        one.settle()
        assert post(other.url, BODY, PATH, **ann).reason == "redis"
        provider.gate.clear()
        with ThreadPoolExecutor() as pool:
            try:
                asking = pool.submit(post, other.url, chat_body("slow?"), **bob)
                wait_until(lambda: other.core.flights, what="a call under way")
                with monkeypatch.context() as patch:
                    patch.setattr(other.core, "look", lambda _: asyncio.sleep(0))
                    one.do(_deleted_often(one.core, "ann", 3000))
                    one.do(one.core.forget_response(one.core.tenants.tenants["ann"], anns))
                    wait_until(lambda: not len(one.core.undone), what="all to be told")
                look(other)
                assert [entry.tenant for entry in other.core.memory._entries.values()] == ["bob"]
                assert other.core.flights
            finally:
                provider.gate.set()
            assert asking.result().state == "miss"
        other.settle()
        assert post(other.url, chat_body("slow?"), **bob).reason == "memory"
        assert post(other.url, chat_body(), **bob).reason == "memory"
        assert post(other.url, BODY, PATH, cache_control="only-if-cached", **ann).status == 504
        assert len(list(redis_server.client().scan_iter(f"{redis_config.redis_key_prefix}:*deleted*"))) == 1


async def _deleted_often(core: Core, tenant: str, count: int) -> None:
    of = core.tenants.tenants[tenant]
    await asyncio.gather(*(core.forget_response(of, f"resp_none_{number}") for number in range(count)))


def test_marks_of_a_tenant_are_bounded_and_what_they_said_still_holds(
    keeper: Keeper, redis_config: CacheConfig, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deletions, "_MOST_MARKS", 20)
    monkeypatch.setattr(deletions, "_MARKS_AT_ONCE", 5)
    client, prefix = redis_server.client(), redis_config.redis_key_prefix
    with RunningGateway(keeper.url, redis_config) as gateway:
        identity = made(gateway)
        client.delete(*client.keys(f"{prefix}:*:gw:id:*"))  # the mark alone is left to say it
        drop(gateway, identity)
        gateway.forget()
        assert not is_served(gateway)
        for number in range(60):
            drop(gateway, f"resp_none_{number}")
        (key,) = client.keys(f"{prefix}:*:gw:deleted:*")
        assert client.zcard(key) <= 20
        assert 0 < client.ttl(key) <= deletions._MARK_SECONDS
        gateway.forget()
        assert not is_served(gateway), "its own mark is gone"
        made(gateway)
        gateway.forget()
        assert is_served(gateway), "what is made later is kept"


def test_places_of_the_stream_that_a_process_lost_are_forgotten(
    keeper: Keeper, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RunningGateway(keeper.url, redis_config) as gateway:
        assert gateway.core.redis is not None
        with monkeypatch.context() as patch:
            patch.setattr(gateway.core, "look", lambda _: asyncio.sleep(0))
            gateway.do(_told_often(gateway.core, 10))
            gateway.core.dropped.position = None
        for _ in range(3):
            look(gateway)
        assert not gateway.core.redis.drops._own
