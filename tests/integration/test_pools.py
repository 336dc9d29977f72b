"""The short way through a pool: as safe as the long one, and within the same limits."""

from __future__ import annotations

import asyncio
import os
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import redis

from lix_cache.config import CacheConfig
from lix_cache.hot.clients import lazy_async_client, lazy_client
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.pools import AsyncPool, Pool
from lix_cache.hot.wire import pack
from tests.support import RedisServer
from tests.support.twins import Twins
from tests.support.waiting import wait_until

DB = 3


class Both:
    """A pool of either variant and a redis-py client on it, called without ``await``."""

    def __init__(self, twins: Twins, config: CacheConfig) -> None:
        self._run = twins.run
        endpoint = endpoint_for(config.redis, DB)
        self.client: Any = (
            lazy_client(endpoint) if twins.variant == "sync" else twins.run(_lazy_async(endpoint))
        )
        self.pool: Any = self.client.connection_pool

    def ask(self, *commands: tuple[Any, ...]) -> list[Any]:
        answers: list[Any] = self._run(self.pool.ask(b"".join(map(pack, commands)), len(commands)))
        return answers

    def ping(self) -> Any:
        return self._run(self.client.ping())


async def _lazy_async(endpoint: Any) -> Any:
    return lazy_async_client(endpoint)


@pytest.fixture
def both(twins: Twins, redis_config: CacheConfig) -> Both:
    return Both(twins, redis_config)


def connections(server: RedisServer) -> int:
    """Count the connections to the database that these tests use."""
    with server.client() as admin:
        return sum(1 for one in admin.client_list() if int(one["db"]) == DB)


def test_answers_come_in_order_and_errors_in_their_places(both: Both, redis_config: CacheConfig) -> None:
    key = redis_config.redis_key_prefix
    first, error, last = both.ask(("SET", key, b"\x00\r\n"), ("INCR", key), ("GET", key))
    assert (first, last) == (b"OK", b"\x00\r\n")
    assert isinstance(error, redis.ResponseError)
    assert both.ask(("DEL", key)) == [1]


@pytest.mark.parametrize(
    "words", [("ECHO", "ü"), ("ECHO", b"\xff\x00"), ("ECHO", 2**63), ("ECHO", -1.5), ("ECHO", "")]
)
def test_words_are_sent_as_redis_py_sends_them(words: tuple[Any, ...]) -> None:
    assert pack(words) == b"".join(redis.Connection().pack_command(*words))


def test_both_ways_use_one_connection(twins: Twins, redis_server: RedisServer, tmp_path: Path) -> None:
    config = redis_server.config(archive_dir=tmp_path, redis_socket_timeout=4.25)
    before = connections(redis_server)
    both = Both(twins, config)
    for _ in range(3):
        assert both.ask(("ECHO", "x")) == [b"x"]
        assert both.ping()
    assert connections(redis_server) == before + 1
    twins.run(both.pool.disconnect())
    wait_until(lambda: connections(redis_server) == before, what="the end of the connection")


def test_a_pool_of_one_serves_both_ways(twins: Twins, redis_server: RedisServer, tmp_path: Path) -> None:
    config = redis_server.config(archive_dir=tmp_path, redis_pool_size=1)
    both = Both(twins, config)
    for _ in range(3):
        assert both.ask(("ECHO", "x")) == [b"x"]
        assert both.ping()


def test_threads_that_come_both_ways_wait_for_each_other(redis_server: RedisServer, tmp_path: Path) -> None:
    config = redis_server.config(archive_dir=tmp_path, redis_pool_size=2, redis_socket_timeout=60)
    client: Any = lazy_client(endpoint_for(config.redis, DB))
    failures: list[BaseException] = []
    key = f"pools:{os.getpid()}"

    def work(short: bool) -> None:
        try:
            for _ in range(200):
                if short:
                    client.connection_pool.ask(pack(("INCR", key)))
                else:
                    client.incr(key)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(i % 2 == 0,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert int(client.getdel(key)) == 1600


def test_tasks_that_come_both_ways_wait_for_each_other(redis_server: RedisServer, tmp_path: Path) -> None:
    config = redis_server.config(archive_dir=tmp_path, redis_pool_size=2, redis_socket_timeout=60)

    async def main() -> int:
        client: Any = lazy_async_client(endpoint_for(config.redis, DB))
        key = f"apools:{os.getpid()}"

        async def work(short: bool) -> None:
            for _ in range(100):
                if short:
                    await client.connection_pool.ask(pack(("INCR", key)))
                else:
                    await client.incr(key)

        await asyncio.gather(*(work(i % 2 == 0) for i in range(8)))
        count = int(await client.getdel(key))
        await client.connection_pool.disconnect()
        return count

    assert asyncio.run(main()) == 800


def test_a_connection_that_the_server_closed_is_opened_anew(
    both: Both, twins: Twins, redis_server: RedisServer
) -> None:
    (mine,) = both.ask(("CLIENT", "ID"))
    with redis_server.client() as admin:
        admin.client_kill_filter(_id=str(mine))
    time.sleep(0.02)
    if twins.variant == "async":
        twins.run(asyncio.sleep(0.02))  # the loop has to hear of it
    (other,) = both.ask(("CLIENT", "ID"))
    assert other != mine


def test_an_answer_that_was_not_waited_for_is_not_the_next_ones(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = lazy_client(endpoint_for(redis_config.redis, DB))
    pool: Pool = client.connection_pool
    assert pool.ask(pack(("ECHO", "first"))) == [b"first"]

    def interrupted(*_: Any, **__: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(redis.connection.AbstractConnection, "read_response", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pool.ask(pack(("ECHO", "lost")))
    assert pool.ask(pack(("ECHO", "next"))) == [b"next"]


def test_an_answer_that_a_cancelled_task_did_not_wait_for_is_not_the_next_ones(
    redis_config: CacheConfig,
) -> None:
    async def main() -> None:
        client: Any = lazy_async_client(endpoint_for(redis_config.redis, DB))
        pool: AsyncPool = client.connection_pool
        assert await pool.ask(pack(("ECHO", "first"))) == [b"first"]
        task = asyncio.create_task(pool.ask(pack(("BLPOP", "a list that is not there", 1))))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert await pool.ask(pack(("ECHO", "next"))) == [b"next"]
        await pool.disconnect()

    asyncio.run(main())


def test_a_task_that_is_cancelled_at_any_step_of_asking_ends_as_cancelled(redis_config: CacheConfig) -> None:
    async def main() -> int:
        client: Any = lazy_async_client(endpoint_for(redis_config.redis, DB))
        pool: AsyncPool = client.connection_pool
        cancelled = 0
        for steps in range(200):
            task = asyncio.create_task(pool.ask(pack(("ECHO", "word"))))
            for _ in range(steps % 40):
                await asyncio.sleep(0)
            if task.cancel():
                cancelled += 1
                with pytest.raises(asyncio.CancelledError):
                    await task
            else:
                assert await task == [b"word"]
        await pool.disconnect()
        return cancelled

    assert asyncio.run(main()) > 10


def test_a_command_that_the_server_does_not_take_ends_at_the_time_limit(tmp_path: Path) -> None:
    async def main(server: RedisServer) -> None:
        config = server.config(archive_dir=tmp_path, redis_socket_timeout=1.0)
        client: Any = lazy_async_client(endpoint_for(config.redis, DB))
        pool: AsyncPool = client.connection_pool
        assert await pool.ask(pack(("ECHO", "first"))) == [b"first"]
        server.pause()
        try:
            with pytest.raises(redis.TimeoutError, match="writing"):
                await pool.ask(pack(("ECHO", b"x" * 50_000_000)))
        finally:
            server.resume()
        assert await pool.ask(pack(("ECHO", "next"))) == [b"next"]
        await pool.disconnect()

    with RedisServer() as server:
        asyncio.run(main(server))


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_ask_on_its_parents_connection(redis_config: CacheConfig) -> None:
    client: Any = lazy_client(endpoint_for(redis_config.redis, DB))
    (mine,) = client.connection_pool.ask(pack(("CLIENT", "ID")))
    child = os.fork()
    if child == 0:
        try:
            (theirs,) = client.connection_pool.ask(pack(("CLIENT", "ID")))
            os._exit(0 if theirs != mine else 1)
        except BaseException:
            os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.connection_pool.ask(pack(("CLIENT", "ID"))) == [mine]
