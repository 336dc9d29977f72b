"""Clients on shared pools: one pool per endpoint, and per event loop for asyncio."""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING, Any

from lix_cache.arguments import config_of
from lix_cache.errors import ConfigError
from lix_cache.hot.endpoint import Endpoint, endpoint_for
from lix_cache.hot.trouble import raise_translated

if TYPE_CHECKING:
    import asyncio

    import redis
    import redis.asyncio

    from lix_cache.config import CacheConfig
    from lix_cache.hot.pools import AsyncPool, Pool

__all__ = [
    "async_pool_for",
    "close_async_redis_clients",
    "create_async_redis_client",
    "create_redis_client",
    "forget_closed_loops",
    "lazy_async_client",
    "lazy_client",
    "pool_for",
]


def _pool_arguments(endpoint: Endpoint) -> dict[str, Any]:
    arguments: dict[str, Any] = {
        "db": endpoint.db,
        "username": endpoint.username,
        "password": endpoint.password,
        "socket_timeout": endpoint.timeout,
        "max_connections": endpoint.pool_size,
        "decode_responses": endpoint.decode_responses,
        # A thread that finds every connection in use waits for one instead of failing.
        "timeout": endpoint.timeout,
        "protocol": 2,
        "of_master": endpoint.part_of == "sentinel",
    }
    if endpoint.scheme == "unix":
        arguments["path"] = endpoint.path
        return arguments
    arguments.update(
        host=endpoint.host,
        port=endpoint.port,
        socket_connect_timeout=endpoint.connect_timeout,
        socket_keepalive=endpoint.keepalive,
    )
    if endpoint.scheme == "rediss":
        arguments.update(
            ssl_ca_certs=endpoint.ca_certs,
            ssl_certfile=endpoint.certfile,
            ssl_keyfile=endpoint.keyfile,
            ssl_check_hostname=endpoint.check_hostname,
        )
    return arguments


_pools: dict[Endpoint, Pool] = {}


_pools_lock = threading.Lock()


_checked: set[Endpoint] = set()


# Connections of redis.asyncio belong to the loop that opened them.
_async_pools: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, dict[Endpoint, AsyncPool]] = (
    weakref.WeakKeyDictionary()
)


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held the lock, and that thread does not
    # exist here. The pools themselves notice a fork and open connections of their own.
    global _pools_lock
    _pools_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _new_sync_pool(endpoint: Endpoint) -> Pool:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from lix_cache.hot.places import CONNECTIONS
    from lix_cache.hot.pools import Pool

    # redis-py repeats a failed command by itself. A repeated "add" is a doubled
    # message, so repetition is decided in the flows, which know what is safe.
    return Pool(
        connection_class=CONNECTIONS[endpoint.scheme],
        retry=Retry(NoBackoff(), 0),
        **_pool_arguments(endpoint),
    )


def _new_async_pool(endpoint: Endpoint) -> AsyncPool:
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from lix_cache.hot.pools import ASYNC_CONNECTIONS, AsyncPool

    return AsyncPool(
        connection_class=ASYNC_CONNECTIONS[endpoint.scheme],
        retry=Retry(NoBackoff(), 0),
        **_pool_arguments(endpoint),
    )


def pool_for(endpoint: Endpoint) -> Pool:
    """Return the pool of a server; nothing is sent until it is used."""
    with _pools_lock:
        pool = _pools.get(endpoint)
        if pool is None:
            pool = _pools[endpoint] = _new_sync_pool(endpoint)
    return pool


def lazy_client(endpoint: Endpoint) -> redis.Redis:
    """Return a client on the shared pool; nothing is sent until it is used."""
    import redis

    return redis.Redis(connection_pool=pool_for(endpoint))


def forget_closed_loops() -> None:
    """Drop the pools of event loops that are closed.

    A pool's connections refer to their loop, so the weak key alone would keep both for ever in a
    program that calls asyncio.run() again and again.
    """
    with _pools_lock:
        closed = [_async_pools.pop(loop) for loop in list(_async_pools) if loop.is_closed()]
    # Without the lock: tasks may end with their connections.
    closed.clear()


def async_pool_for(endpoint: Endpoint) -> AsyncPool:
    """Return the running loop's pool of a server; nothing is sent until it is used."""
    import asyncio

    loop = asyncio.get_running_loop()
    forget_closed_loops()
    with _pools_lock:
        pools = _async_pools.setdefault(loop, {})
        pool = pools.get(endpoint)
        if pool is None:
            pool = pools[endpoint] = _new_async_pool(endpoint)
    return pool


def lazy_async_client(endpoint: Endpoint) -> redis.asyncio.Redis:
    """Return an async client on the running loop's pool; nothing is sent until it is used."""
    import redis.asyncio

    return redis.asyncio.Redis(connection_pool=async_pool_for(endpoint))


async def close_async_redis_clients() -> None:
    """Close every connection of the running loop.

    Connections belong to the loop they were opened on and cannot be closed once it has
    ended. A program that ends its loop calls this last; one that does not leaves it to
    the garbage collector, which says so with a ResourceWarning. Caches may be used
    again afterwards.
    """
    import asyncio

    with _pools_lock:
        pools = _async_pools.pop(asyncio.get_running_loop(), {})
    for pool in pools.values():
        await pool.disconnect()


def _of_one_server(endpoint: Endpoint) -> Endpoint:
    if endpoint.kind != "server":
        raise ConfigError(
            f"redis_url names several servers ({endpoint.label}), and a client is for one: use redis-py's "
            "own for them, RedisCluster or Sentinel"
        )
    return endpoint


def create_redis_client(
    host: str | None = None,
    port: int | None = None,
    db: int = 0,
    config: CacheConfig | None = None,
    *,
    decode_responses: bool = False,
) -> redis.Redis:
    """Return a client on a shared connection pool, after one PING per pool.

    Args:
        host: server; the config's by default.
        port: TCP port; the config's by default.
        db: database number.
        config: settings; ``CacheConfig()`` by default.
        decode_responses: answer with ``str`` instead of ``bytes``.

    Raises:
        RedisUnavailable: the server cannot be reached.
        RedisAuthError: the server refuses the password or the user. There is no second
            try without a password.
        RedisDatabaseError: the server has no database of that number.
        ConfigError: the configuration names a cluster, or Sentinel.
    """
    endpoint = _of_one_server(
        endpoint_for(config_of(config).redis, db, host=host, port=port, decode_responses=decode_responses)
    )
    client = lazy_client(endpoint)
    if endpoint not in _checked:
        try:
            client.ping()
        except Exception as error:  # noqa: BLE001 - raised again, translated
            raise_translated(error, endpoint)
        _checked.add(endpoint)
    return client


async def create_async_redis_client(
    host: str | None = None,
    port: int | None = None,
    db: int = 0,
    config: CacheConfig | None = None,
    *,
    decode_responses: bool = False,
) -> redis.asyncio.Redis:
    """Async variant of :func:`create_redis_client`, for the running event loop."""
    endpoint = _of_one_server(
        endpoint_for(config_of(config).redis, db, host=host, port=port, decode_responses=decode_responses)
    )
    client = lazy_async_client(endpoint)
    try:
        await client.ping()
    except Exception as error:  # noqa: BLE001 - raised again, translated
        raise_translated(error, endpoint)
    return client
