"""Connections: each trouble has its own error, and no caller gets another's connection."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis

from lix_cache import AsyncHybridConversationCache, HybridConversationCache, close_async_redis_clients
from lix_cache.config import CacheConfig
from lix_cache.errors import (
    ConfigError,
    RedisAuthError,
    RedisCommandError,
    RedisDatabaseError,
    RedisError,
    RedisUnavailable,
)
from lix_cache.hot import clients as clients_flow
from lix_cache.hot.clients import create_async_redis_client, create_redis_client, lazy_client
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.trouble import raise_translated, translate
from tests.support import CountingProxy, RedisServer
from tests.support.redis_server import free_port

Connect = Callable[..., Any]


@pytest.fixture(scope="module")
def guarded() -> Iterator[RedisServer]:
    """A server with a password, two more users and four databases."""
    rules = ["bob on >builder ~* +@all -flushall", "reader on >page ~* +@read +@connection"]
    with RedisServer(requirepass="right", acl=rules, databases=4) as server:
        yield server


def _connect_async(config: CacheConfig, db: int = 0) -> Any:
    async def ping() -> Any:
        client = await create_async_redis_client(config=config, db=db)
        try:
            return await client.ping()
        finally:
            await client.connection_pool.disconnect()

    return asyncio.run(ping())


def _connect_sync(config: CacheConfig, db: int = 0) -> Any:
    return create_redis_client(config=config, db=db).ping()


@pytest.fixture(params=[_connect_sync, _connect_async], ids=["sync", "async"])
def connect(request: pytest.FixtureRequest) -> Connect:
    found: Connect = request.param
    return found


def translated(action: Callable[[], Any], config: CacheConfig) -> BaseException:
    """Run something that fails, and return what the library makes of it."""
    with pytest.raises(Exception) as caught:
        action()
    return translate(caught.value, endpoint_for(config.redis, 0))


def test_the_right_password_is_let_in(guarded: RedisServer, tmp_path: Path, connect: Connect) -> None:
    assert connect(guarded.config(archive_dir=tmp_path))


@pytest.mark.promise("isolation")
def test_a_wrong_password_is_an_error_and_never_retried_without_one(
    redis_server: RedisServer, guarded: RedisServer, tmp_path: Path, connect: Connect
) -> None:
    with CountingProxy(guarded.port) as proxy:
        config = guarded.config(archive_dir=tmp_path, redis_port=proxy.port, redis_password="wrong")
        with pytest.raises(RedisAuthError, match="a password was given"):
            connect(config)
        assert proxy.batches == [["AUTH"]]
    # Where no password is needed, a second try without one would even succeed.
    with CountingProxy(redis_server.port) as proxy:
        config = redis_server.config(archive_dir=tmp_path, redis_port=proxy.port, redis_password="wrong")
        with pytest.raises(RedisAuthError):
            connect(config)
        assert proxy.batches == [["AUTH"]]


def test_no_password_where_one_is_needed_is_an_error(
    guarded: RedisServer, tmp_path: Path, connect: Connect
) -> None:
    with pytest.raises(RedisAuthError, match="no password was given"):
        connect(guarded.config(archive_dir=tmp_path, redis_password=None))


@pytest.mark.promise("no-leak")
def test_an_error_names_the_server_but_not_the_password(guarded: RedisServer, tmp_path: Path) -> None:
    with pytest.raises(RedisAuthError) as caught:
        _connect_sync(guarded.config(archive_dir=tmp_path, redis_password="hunter2"))
    assert f"127.0.0.1:{guarded.port}" in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "hunter2" not in repr(endpoint_for(guarded.config(archive_dir=tmp_path).redis, 0))


def test_a_database_that_does_not_exist_is_an_error_of_its_own(
    guarded: RedisServer, tmp_path: Path, connect: Connect
) -> None:
    config = guarded.config(archive_dir=tmp_path)
    assert connect(config, db=3)
    with pytest.raises(RedisDatabaseError, match="db 4"):
        connect(config, db=4)


def test_an_unreachable_server_is_an_error_of_its_own_and_has_done_nothing(
    tmp_path: Path, connect: Connect
) -> None:
    for config in (
        CacheConfig(redis_host="127.0.0.1", redis_port=free_port()),
        CacheConfig(redis_url=f"unix://{tmp_path}/no.sock"),
        CacheConfig(redis_host="no-such-host.invalid"),
    ):
        with pytest.raises(RedisUnavailable) as caught:
            connect(config)
        assert not caught.value.maybe_done


@pytest.mark.promise("no-stall")
def test_a_server_that_hangs_is_unavailable_within_the_timeout(tmp_path: Path) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_socket_timeout=0.3)
        client = create_redis_client(config=config)
        server.pause()
        began = time.monotonic()
        error = translated(lambda: client.set("a", 1), config)
        server.resume()
        assert time.monotonic() - began < 30
        assert isinstance(error, RedisUnavailable)
        assert error.maybe_done


def test_the_three_troubles_are_told_apart_by_their_class() -> None:
    for one in (RedisAuthError, RedisDatabaseError, RedisUnavailable):
        assert issubclass(one, RedisError)
        for other in (RedisAuthError, RedisDatabaseError, RedisUnavailable):
            assert one is other or not issubclass(one, other)


@pytest.mark.promise("isolation")
def test_a_user_of_the_access_list_is_let_in_with_the_own_password(
    guarded: RedisServer, tmp_path: Path, connect: Connect
) -> None:
    config = guarded.config(archive_dir=tmp_path, redis_username="bob", redis_password="builder")
    assert connect(config)
    with pytest.raises(RedisAuthError, match="'bob'"):
        connect(config.replace(redis_password="right"))
    with pytest.raises(RedisAuthError, match="'nobody'"):
        connect(config.replace(redis_username="nobody"))


def test_a_missing_permission_is_an_auth_error_inside_a_script_too(
    guarded: RedisServer, tmp_path: Path
) -> None:
    config = guarded.config(archive_dir=tmp_path, redis_username="bob", redis_password="builder")
    client = create_redis_client(config=config)
    assert isinstance(translated(client.flushall, config), RedisAuthError)
    assert isinstance(translated(lambda: client.eval("redis.call('flushall')", 0), config), RedisAuthError)


def test_a_word_in_an_error_does_not_make_it_an_auth_error(redis_config: CacheConfig) -> None:
    client = create_redis_client(config=redis_config)
    for words in ("NOAUTH", "WRONGPASS", "AUTH", "NOPERM", "OOM", "-READONLY "):
        script = "return redis.error_reply('ERR about ' .. ARGV[1])"
        error = translated(partial(client.eval, script, 0, words), redis_config)
        assert type(error) is RedisCommandError
    unreachable = CacheConfig(redis_host="AUTH-server.invalid")
    with pytest.raises(RedisUnavailable):
        create_redis_client(config=unreachable)


def test_a_full_server_is_unavailable_for_now(tmp_path: Path) -> None:
    with RedisServer(maxmemory="1") as server:
        config = server.config(archive_dir=tmp_path)
        client = create_redis_client(config=config)
        assert isinstance(translated(lambda: client.set("a", 1), config), RedisUnavailable)
        inside = translated(lambda: client.eval("return redis.call('set', KEYS[1], 1)", 1, "a"), config)
        assert isinstance(inside, RedisUnavailable)


def test_a_read_only_replica_is_unavailable_for_now(tmp_path: Path) -> None:
    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path)
        client = create_redis_client(config=config)
        server.client().replicaof("127.0.0.1", free_port())
        assert isinstance(translated(lambda: client.set("a", 1), config), RedisUnavailable)
        inside = translated(lambda: client.eval("return redis.call('set', KEYS[1], 1)", 1, "a"), config)
        assert isinstance(inside, RedisUnavailable)


def test_a_refused_command_is_a_command_error(redis_config: CacheConfig) -> None:
    client = create_redis_client(config=redis_config)
    key = redis_config.redis_key_prefix
    client.set(key, "text")
    assert type(translated(lambda: client.lpush(key, 1), redis_config)) is RedisCommandError
    assert type(translated(lambda: client.eval("nonsense(", 0), redis_config)) is RedisCommandError


@pytest.mark.parametrize(
    ("scheme", "path", "advice"),
    [("redis+cluster", "", "redis:// without redis_cluster"), ("redis+sentinel", "/main", "no sentinel")],
)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_a_single_server_behind_another_kind_of_address_is_said(
    redis_config: CacheConfig, scheme: str, path: str, advice: str, is_async: bool
) -> None:
    url = f"{scheme}://127.0.0.1:{redis_config.redis_port}{path}"
    config = CacheConfig(redis_url=url, archive_dir=redis_config.archive_dir, on_redis_error="raise")

    async def add() -> None:
        try:
            await AsyncHybridConversationCache("s", config).add_message("user", "x")
        finally:
            await close_async_redis_clients()

    with pytest.raises(RedisError, match=advice):
        if is_async:
            asyncio.run(add())
        else:
            HybridConversationCache("s", config).add_message("user", "x")


def test_a_server_that_is_not_there_is_told_with_what_starts_one() -> None:
    config = CacheConfig(redis_host="127.0.0.1", redis_port=1)
    assert "ensure_redis()" in str(translated(lambda: _connect_sync(config), config))


def test_something_else_than_redis_is_a_command_error_not_a_miss(tmp_path: Path) -> None:
    with CountingProxy(free_port(), tls=True) as not_redis:
        config = CacheConfig(redis_host="127.0.0.1", redis_port=not_redis.port, redis_socket_timeout=1)
        with pytest.raises(RedisError):
            create_redis_client(config=config)


def test_an_error_that_has_nothing_to_do_with_redis_is_left_alone(redis_config: CacheConfig) -> None:
    endpoint = endpoint_for(redis_config.redis, 0)
    for error in (ValueError("no"), KeyboardInterrupt(), RedisUnavailable("already ours")):
        assert translate(error, endpoint) is error
    assert type(translate(redis.exceptions.DataError("odd"), endpoint)) is RedisCommandError


@pytest.mark.parametrize("kind", [redis.exceptions.DataError, ZeroDivisionError], ids=["ours", "another's"])
def test_an_error_that_is_let_go_lets_go_of_the_connection(
    redis_config: CacheConfig, kind: type[Exception]
) -> None:
    class Connection:
        pass

    def use(connection: Connection) -> None:
        try:
            raise kind(f"trouble on {type(connection).__name__}")
        except Exception as error:
            raise_translated(error, endpoint_for(redis_config.redis, 0))

    gc.disable()
    try:
        connection = Connection()
        gone = weakref.ref(connection)
        with contextlib.suppress(Exception):
            use(connection)
        del connection
        assert gone() is None, "an error keeps itself alive, and the connection with it"
    finally:
        gc.enable()


@pytest.mark.parametrize(("when", "times"), [("before", 0), ("after", 1)])
def test_a_command_whose_reply_was_lost_is_not_sent_twice(
    proxy: CountingProxy, proxy_config: CacheConfig, when: Any, times: int
) -> None:
    client = create_redis_client(config=proxy_config)
    key = proxy_config.redis_key_prefix
    proxy.cut(when=when)
    error = translated(lambda: client.rpush(key, "once"), proxy_config)
    assert isinstance(error, RedisUnavailable)
    assert error.maybe_done, "it cannot be known, so it must not be called undone"
    assert client.llen(key) == times


def test_a_client_goes_on_when_the_server_is_back(proxy: CountingProxy, proxy_config: CacheConfig) -> None:
    client = create_redis_client(config=proxy_config)
    proxy.refuse()
    while True:  # the first call may still meet the connection that was cut
        error = translated(client.ping, proxy_config)
        assert isinstance(error, RedisUnavailable)
        if not error.maybe_done:
            break
    proxy.allow()
    assert client.ping()


def test_a_client_goes_on_after_a_restart_and_finds_what_was_acknowledged(tmp_path: Path) -> None:
    with RedisServer(appendonly=True) as server:
        client = create_redis_client(config=server.config(archive_dir=tmp_path))
        client.rpush("list", "a")
        for end in (server.stop, server.kill):
            end()
            server.start()
            with contextlib.suppress(redis.exceptions.ConnectionError):
                client.ping()
            assert client.lrange("list", 0, -1) == [b"a"]


def test_an_answer_that_comes_too_late_leaves_open_whether_it_was_done(
    proxy: CountingProxy, proxy_config: CacheConfig
) -> None:
    config = proxy_config.replace(redis_socket_timeout=1.0)
    client = create_redis_client(config=config)
    key = config.redis_key_prefix
    proxy.delay(2.0)
    error = translated(lambda: client.rpush(key, "once"), config)
    proxy.delay(0)
    assert isinstance(error, RedisUnavailable)
    assert error.maybe_done
    assert client.llen(key) == 1


def test_a_command_is_one_call_at_the_server(tmp_path: Path) -> None:
    with RedisServer() as server:
        client = create_redis_client(config=server.config(archive_dir=tmp_path))
        server.reset_stats()
        client.set("a", 1)
        client.eval("return redis.call('get', KEYS[1])", 1, "a")
        assert server.command_stats() == {"set": 1, "eval": 1, "get": 1}


def test_tls_with_a_trusted_authority_is_let_in(
    redis_server: RedisServer, tmp_path: Path, connect: Connect
) -> None:
    with CountingProxy(redis_server.port, tls=True) as proxy:
        by_url = CacheConfig(redis_url=f"rediss://localhost:{proxy.port}", redis_ssl_ca_certs=proxy.ca_file)
        by_name = CacheConfig(
            redis_host="127.0.0.1", redis_port=proxy.port, redis_ssl=True, redis_ssl_ca_certs=proxy.ca_file
        )
        for config in (by_url, by_name):
            assert endpoint_for(config.redis, 0).scheme == "rediss"
            assert connect(config)


def test_tls_with_an_unknown_authority_is_refused(redis_server: RedisServer, connect: Connect) -> None:
    with CountingProxy(redis_server.port, tls=True) as proxy:
        with pytest.raises(RedisUnavailable, match=r"(?i)certificate") as caught:
            connect(CacheConfig(redis_url=f"rediss://localhost:{proxy.port}"))
        assert not caught.value.maybe_done
        assert proxy.round_trips == 0


def test_tls_with_another_servers_certificate_is_refused(redis_server: RedisServer, connect: Connect) -> None:
    with CountingProxy(redis_server.port, tls=True, names=["redis.example"]) as proxy:
        config = CacheConfig(redis_url=f"rediss://127.0.0.1:{proxy.port}", redis_ssl_ca_certs=proxy.ca_file)
        with pytest.raises(RedisUnavailable, match=r"(?i)certificate"):
            connect(config)
        assert connect(config.replace(redis_ssl_check_hostname=False))


def test_a_unix_socket_is_let_in(redis_server: RedisServer, connect: Connect) -> None:
    assert connect(CacheConfig(redis_url=redis_server.unix_url), db=2)


def test_a_unix_socket_takes_a_password(guarded: RedisServer, connect: Connect) -> None:
    assert connect(CacheConfig(redis_url=guarded.unix_url, redis_password="right"))
    assert connect(CacheConfig(redis_url=f"unix://bob:builder@{guarded.socket_path}"))
    with pytest.raises(RedisAuthError):
        connect(CacheConfig(redis_url=guarded.unix_url))


def test_the_url_wins_over_host_and_port(redis_server: RedisServer, connect: Connect) -> None:
    config = CacheConfig(
        redis_host="no-such-host.invalid", redis_port=1, redis_url=f"redis://127.0.0.1:{redis_server.port}"
    )
    assert connect(config)


def test_an_explicit_host_and_port_win_over_the_url(redis_server: RedisServer) -> None:
    config = CacheConfig(redis_url="redis://no-such-host.invalid:1")
    assert create_redis_client("127.0.0.1", redis_server.port, config=config).ping()


@pytest.mark.promise("isolation")
def test_the_urls_user_and_password_win_and_its_database_is_ignored(guarded: RedisServer) -> None:
    config = CacheConfig(
        redis_url=f"redis://bob:builder@127.0.0.1:{guarded.port}/9",
        redis_username="nobody",
        redis_password="wrong",
    )
    client = create_redis_client(config=config, db=1)
    assert client.acl_whoami() == "bob"
    assert endpoint_for(config.redis, 1).db == 1


@pytest.mark.promise("no-leak")
def test_a_password_may_hold_any_character(tmp_path: Path) -> None:
    with RedisServer(requirepass="p@:/?#[]%20") as server:
        assert create_redis_client(config=server.config(archive_dir=tmp_path)).ping()
        quoted = "p%40%3A%2F%3F%23%5B%5D%2520"
        config = CacheConfig(redis_url=f"redis://:{quoted}@127.0.0.1:{server.port}")
        assert create_redis_client(config=config).ping()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("redis://h:notaport", "cannot be understood"),
        ("unix://", "names no socket"),
        ("rediss://h?ssl_cert_reqs=none", "ssl_cert_reqs"),
        ("redis://h?socket_timeout=3", "socket_timeout"),
    ],
)
def test_a_url_that_would_be_misread_is_a_config_error(url: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        create_redis_client(config=CacheConfig(redis_url=url))


def test_nothing_is_sent_before_a_lazy_client_is_used() -> None:
    lazy_client(endpoint_for(CacheConfig(redis_port=free_port()).redis, 0))


def test_a_pool_is_shared_only_when_everything_is_equal(redis_server: RedisServer, tmp_path: Path) -> None:
    config = redis_server.config(archive_dir=tmp_path)
    pool = lazy_client(endpoint_for(config.redis, 0)).connection_pool
    assert (
        lazy_client(endpoint_for(config.replace(archive_dir="/elsewhere").redis, 0)).connection_pool is pool
    )
    changes: list[dict[str, Any]] = [
        {"redis_host": "localhost"},
        {"redis_port": 1},
        {"redis_password": "x"},
        {"redis_username": "x"},
        {"redis_url": "redis://h"},
        {"redis_socket_timeout": 1},
        {"redis_socket_connect_timeout": 1},
        {"redis_socket_keepalive": False},
        {"redis_pool_size": 1},
        {"redis_ssl": True},
    ]
    others = [
        lazy_client(endpoint_for(config.replace(**change).redis, 0)).connection_pool for change in changes
    ]
    others.append(lazy_client(endpoint_for(config.redis, 1)).connection_pool)
    others.append(lazy_client(endpoint_for(config.redis, 0, decode_responses=True)).connection_pool)
    tls = config.replace(redis_ssl=True)
    for change in (
        {"redis_ssl_ca_certs": "x"},
        {"redis_ssl_certfile": "x"},
        {"redis_ssl_keyfile": "x"},
        {"redis_ssl_check_hostname": False},
    ):
        others.append(lazy_client(endpoint_for(tls.replace(**change).redis, 0)).connection_pool)
    assert len({id(each) for each in [pool, *others]}) == 1 + len(others)


@pytest.mark.promise("isolation")
def test_a_connection_with_a_password_is_not_lent_to_a_config_without_one(
    guarded: RedisServer, tmp_path: Path
) -> None:
    config = guarded.config(archive_dir=tmp_path)
    assert create_redis_client(config=config).ping()
    for password in (None, "wrong"):
        with pytest.raises(RedisAuthError):
            create_redis_client(config=config.replace(redis_password=password))


def test_a_new_client_on_a_known_pool_costs_no_round_trip(
    proxy: CountingProxy, proxy_config: CacheConfig
) -> None:
    create_redis_client(config=proxy_config)
    proxy.reset()
    client = create_redis_client(config=proxy_config)
    assert proxy.round_trips == 0
    client.ping()
    assert proxy.batches == [["PING"]]


def test_a_pipeline_is_one_round_trip_however_large(proxy: CountingProxy, proxy_config: CacheConfig) -> None:
    client = create_redis_client(config=proxy_config)
    key = proxy_config.redis_key_prefix
    proxy.reset()
    with client.pipeline(transaction=False) as pipeline:
        for number in range(300):
            pipeline.rpush(key, str(number) * 1000)
        pipeline.llen(key)
        assert pipeline.execute()[-1] == 300
    assert proxy.round_trips == 1
    assert proxy.batches == [["RPUSH"] * 300 + ["LLEN"]]


def test_a_thread_that_finds_all_connections_in_use_waits_for_one(
    redis_server: RedisServer, tmp_path: Path
) -> None:
    config = redis_server.config(archive_dir=tmp_path, redis_pool_size=2, redis_key_prefix="pool")
    client = create_redis_client(config=config, db=3)
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(50):
                client.incr("pool:count")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert int(client.get("pool:count") or 0) == 400


def test_a_pool_with_no_free_connection_says_so_and_has_done_nothing(redis_server: RedisServer) -> None:
    config = CacheConfig(redis_url=redis_server.unix_url, redis_pool_size=1, redis_socket_timeout=1.0)
    client = create_redis_client(config=config)
    with client.pipeline() as held:
        held.watch("a key")
        error = translated(client.ping, config)
    assert isinstance(error, RedisUnavailable)
    assert not error.maybe_done


def test_answers_are_text_only_when_asked_for(redis_config: CacheConfig) -> None:
    key = redis_config.redis_key_prefix
    create_redis_client(config=redis_config).set(key, "ü")
    assert create_redis_client(config=redis_config).get(key) == "ü".encode()
    assert create_redis_client(config=redis_config, decode_responses=True).get(key) == "ü"


def test_async_clients_of_one_loop_share_a_pool_and_those_of_two_do_not(redis_config: CacheConfig) -> None:
    async def pools() -> list[Any]:
        clients = [await create_async_redis_client(config=redis_config) for _ in range(2)]
        await clients[0].connection_pool.disconnect()
        return [client.connection_pool for client in clients]

    first, second = asyncio.run(pools()), asyncio.run(pools())
    assert first[0] is first[1]
    assert second[0] is second[1]
    assert first[0] is not second[0]


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_event_loops_that_ended_leave_no_pools_behind(redis_config: CacheConfig) -> None:
    async def use() -> None:
        await (await create_async_redis_client(config=redis_config)).ping()

    for _ in range(10):
        asyncio.run(use())
    gc.collect()
    assert len(clients_flow._async_pools) <= 1


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_gets_connections_of_its_own(redis_config: CacheConfig) -> None:
    client = create_redis_client(config=redis_config)
    mine = client.client_id()
    # As if another thread were making a pool at the moment of the fork.
    with clients_flow._pools_lock:
        child = os.fork()
        if child == 0:
            try:
                theirs = create_redis_client(config=redis_config).client_id()
                os._exit(0 if theirs != mine else 1)
            except BaseException:
                os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert client.client_id() == mine
