"""One connection for many tasks: answers in order, one write a turn, and an end for all that waits."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from lix_cache import CacheConfig
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.pipeline import Pipeline
from lix_cache.hot.wire import pack
from tests.support import CountingProxy, RedisServer


def using(config: CacheConfig, work: Callable[[Pipeline], Awaitable[Any]], db: int = 0) -> Any:
    async def run() -> Any:
        line = Pipeline(endpoint_for(config.redis, db))
        try:
            return await work(line)
        finally:
            line.close()
            await asyncio.sleep(0)

    return asyncio.run(run())


def test_answers_are_those_of_the_questions(redis_config: CacheConfig) -> None:
    async def work(line: Pipeline) -> None:
        many = await asyncio.gather(*(line.ask(pack(("ECHO", str(i)))) for i in range(500)))
        assert many == [[str(i).encode()] for i in range(500)]
        several = await line.ask(pack(("ECHO", "a")) + pack(("NOSUCH",)) + pack(("ECHO", "b")), 3)
        assert (several[0], several[2]) == (b"a", b"b")
        assert isinstance(several[1], ResponseError)

    using(redis_config, work)


@pytest.mark.promise("one-trip")
def test_what_is_asked_in_one_turn_is_one_trip(proxy_config: CacheConfig, proxy: CountingProxy) -> None:
    async def work(line: Pipeline) -> None:
        await line.ask(pack(("PING",)))
        proxy.reset()
        await asyncio.gather(*(line.ask(pack(("PING",))) for _ in range(20)))
        assert proxy.round_trips == 1

    using(proxy_config, work)


def test_a_task_that_leaves_takes_no_answer_from_the_others(redis_config: CacheConfig) -> None:
    async def work(line: Pipeline) -> None:
        await line.ask(pack(("PING",)))
        tasks = [asyncio.ensure_future(line.ask(pack(("ECHO", str(i))))) for i in range(20)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
        assert await asyncio.gather(*tasks[1::2]) == [[str(i).encode()] for i in range(1, 20, 2)]

    using(redis_config, work)


@pytest.mark.promise("no-stall")
def test_a_server_that_hangs_or_dies_ends_all_that_waits(tmp_path: Path) -> None:
    with RedisServer(requirepass="secret", appendonly=True) as server:
        config = server.config(archive_dir=tmp_path, redis_socket_timeout=1.0)

        async def work(line: Pipeline) -> None:
            await line.ask(pack(("SET", "a", "1")))
            server.pause()
            found = await asyncio.gather(
                *(line.ask(pack(("GET", "a"))) for _ in range(5)), return_exceptions=True
            )
            assert all(isinstance(one, OSError) for one in found)
            server.resume()
            assert await line.ask(pack(("GET", "a"))) == [b"1"]
            server.kill()
            with pytest.raises(OSError):
                await line.ask(pack(("GET", "a")))
            server.start()
            assert await line.ask(pack(("GET", "a"))) == [b"1"]

        using(config, work, db=3)
        with pytest.raises(ResponseError):
            using(config.replace(redis_password="wrong"), lambda line: line.ask(pack(("GET", "a"))))


@pytest.mark.promise("no-stall")
def test_a_connection_that_ends_while_it_is_handed_out_ends_what_is_asked(redis_config: CacheConfig) -> None:
    async def work(line: Pipeline) -> None:
        opened = line._open

        async def lost() -> Any:
            wire = await opened()
            wire.fail(ConnectionError("the server died"))
            return wire

        line._open = lost  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            await asyncio.wait_for(line.ask(pack(("PING",))), 30)
        line._open = opened  # type: ignore[method-assign]
        assert await line.ask(pack(("PING",))) == [b"PONG"]

    using(redis_config, work)
