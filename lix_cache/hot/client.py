"""Connections to Redis: one pool per server, database and credentials, and one error for each trouble."""

from __future__ import annotations

import os
import re
import threading
import weakref
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lix_cache.arguments import config_of
from lix_cache.config import CacheConfig, check_setting
from lix_cache.errors import (
    ConfigError,
    RedisAuthError,
    RedisCommandError,
    RedisDatabaseError,
    RedisError,
    RedisUnavailable,
)

if TYPE_CHECKING:
    import asyncio

    import redis
    import redis.asyncio

__all__ = [
    "Endpoint",
    "Translating",
    "close_async_redis_clients",
    "create_async_redis_client",
    "create_redis_client",
    "endpoint_for",
    "lazy_async_client",
    "lazy_client",
    "translate",
]


@dataclass(frozen=True)
class Endpoint:
    """Everything that decides which connections may be shared.

    Two caches share a pool only if all of this is equal, the password included: a
    pool keyed by host and port alone would hand an authenticated connection to
    somebody who gave no password, or the wrong one.
    """

    scheme: str
    host: str
    port: int
    path: str
    db: int
    username: str | None
    password: str | None
    connect_timeout: float
    timeout: float
    keepalive: bool
    pool_size: int
    ca_certs: str | None
    certfile: str | None
    keyfile: str | None
    check_hostname: bool
    decode_responses: bool = False

    def __repr__(self) -> str:
        return f"Endpoint({self.label})"

    @property
    def label(self) -> str:
        """The server and database in words, without secrets."""
        where = self.path if self.scheme == "unix" else f"{self.host}:{self.port}"
        return f"{self.scheme}://{where} db {self.db}"


def endpoint_for(
    config: CacheConfig,
    db: int,
    *,
    host: str | None = None,
    port: int | None = None,
    decode_responses: bool = False,
) -> Endpoint:
    """Work out where to connect. An explicit host or port wins over ``redis_url``.

    Raises:
        ConfigError: ``redis_url`` cannot be understood, or an argument has the wrong type.
    """
    for setting, argument, value in (
        ("redis_host", "redis_host", host),
        ("redis_port", "redis_port", port),
        ("session_redis_db", "redis_db", db),
    ):
        if value is not None:
            check_setting(setting, value, argument)
    scheme = "rediss" if config.redis_ssl else "redis"
    path = ""
    username, password = config.redis_username, config.redis_password
    use_host, use_port = host or config.redis_host, port or config.redis_port
    if config.redis_url is not None and host is None and port is None:
        parts = _parse_url(config.redis_url)
        path = str(parts.get("path", ""))
        scheme = "unix" if path else config.redis_url.split("://", 1)[0]
        use_host = str(parts.get("host", "localhost"))
        use_port = int(parts.get("port", 6379))
        username = parts.get("username", username)
        password = parts.get("password", password)
    return Endpoint(
        scheme=scheme,
        host=use_host,
        port=use_port,
        path=path,
        db=db,
        username=username,
        password=password,
        connect_timeout=config.redis_socket_connect_timeout,
        timeout=config.redis_socket_timeout,
        keepalive=config.redis_socket_keepalive,
        pool_size=config.redis_pool_size,
        ca_certs=config.redis_ssl_ca_certs,
        certfile=config.redis_ssl_certfile,
        keyfile=config.redis_ssl_keyfile,
        check_hostname=config.redis_ssl_check_hostname,
        decode_responses=decode_responses,
    )


def _parse_url(url: str) -> dict[str, Any]:
    from redis.connection import parse_url

    problem, parts = _misread(url), {}
    if not problem:
        try:
            parts = dict(parse_url(url))
        except ValueError:
            problem = "its host or its port makes no sense"
    if problem:
        # Outside the handler, and without a word of the URL: any part of it may be one of
        # the password, where that holds a character which means something in a URL.
        raise ConfigError(
            f"redis_url cannot be understood: {problem}. It is scheme://[user]:[password]@host:port, or "
            "unix://[user]:[password]@/path; in a user and a password, write / ? # [ ] @ % as %2F %3F %23 "
            "%5B %5D %40 %25, or set redis_username and redis_password instead"
        )
    # An option that is dropped in silence is worse than one that is refused: the
    # certificate named in it would not be the one that is trusted.
    unknown = sorted(
        parts.keys() - {"host", "port", "path", "db", "username", "password", "connection_class"}
    )
    if unknown:
        named = [name for name in unknown if name in _options_of_redis_py()] or ["of an unknown name"]
        raise ConfigError(
            f"redis_url has options that are not read from it: {', '.join(named)}; "
            "use the settings of CacheConfig, such as redis_ssl_ca_certs or redis_socket_timeout"
        )
    if url.startswith("unix://") and not parts.get("path"):
        raise ConfigError("redis_url starts with unix:// but names no socket, as in unix:///run/redis.sock")
    return parts


def _misread(url: str) -> str:
    """Say what shows that a piece of the password is taken for another part of the URL; "" for nothing."""
    from urllib.parse import urlsplit

    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "its host or its port makes no sense"
    if parts.fragment or url.endswith("#"):
        return "it has a part after #, which has no meaning"
    if parts.scheme == "unix":
        if parts.netloc and not parts.netloc.endswith("@"):
            return "between unix:// and the path is no user and password that end in @"
        return "it has an @ in its options" if "@" in parts.query else ""
    if "@" in parts.path or "@" in parts.query:
        return "it has an @ after the host"
    return "its port makes no sense" if port == 0 else ""


def _options_of_redis_py() -> set[str]:
    """Return the option names that may be shown: any other may be a piece of a password."""
    import inspect

    import redis

    kinds = (*redis.SSLConnection.__mro__[:-1], redis.BlockingConnectionPool, redis.ConnectionPool)
    return {name for kind in kinds for name in inspect.signature(kind).parameters}


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


_pools: dict[Endpoint, redis.ConnectionPool] = {}
_pools_lock = threading.Lock()
_checked: set[Endpoint] = set()
# Connections of redis.asyncio belong to the loop that opened them.
_async_pools: weakref.WeakKeyDictionary[
    asyncio.AbstractEventLoop, dict[Endpoint, redis.asyncio.ConnectionPool]
] = weakref.WeakKeyDictionary()


def _after_fork_in_child() -> None:
    # Another thread of the parent may have held the lock, and that thread does not
    # exist here. The pools themselves notice a fork and open connections of their own.
    global _pools_lock
    _pools_lock = threading.Lock()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _new_sync_pool(endpoint: Endpoint) -> redis.ConnectionPool:
    from redis.backoff import NoBackoff
    from redis.retry import Retry

    from lix_cache.hot.pools import CONNECTIONS, Pool

    # redis-py repeats a failed command by itself. A repeated "add" is a doubled
    # message, so repetition is decided in the flows, which know what is safe.
    return Pool(
        connection_class=CONNECTIONS[endpoint.scheme],
        retry=Retry(NoBackoff(), 0),
        **_pool_arguments(endpoint),
    )


def _new_async_pool(endpoint: Endpoint) -> redis.asyncio.ConnectionPool:
    import redis.asyncio
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff

    from lix_cache.hot.pools import AsyncPool

    kinds = {
        "unix": redis.asyncio.UnixDomainSocketConnection,
        "rediss": redis.asyncio.SSLConnection,
        "redis": redis.asyncio.Connection,
    }
    return AsyncPool(
        connection_class=kinds[endpoint.scheme],
        retry=Retry(NoBackoff(), 0),
        **_pool_arguments(endpoint),
    )


def lazy_client(endpoint: Endpoint) -> redis.Redis:
    """Return a client on the shared pool; nothing is sent until it is used."""
    import redis

    with _pools_lock:
        pool = _pools.get(endpoint)
        if pool is None:
            pool = _pools[endpoint] = _new_sync_pool(endpoint)
    return redis.Redis(connection_pool=pool)


def lazy_async_client(endpoint: Endpoint) -> redis.asyncio.Redis:
    """Return an async client on the running loop's pool; nothing is sent until it is used."""
    import asyncio

    import redis.asyncio

    loop = asyncio.get_running_loop()
    with _pools_lock:
        # A pool's connections refer to their loop, so the weak key alone would keep
        # both for ever in a program that calls asyncio.run() again and again.
        for closed in [other for other in _async_pools if other.is_closed()]:
            del _async_pools[closed]
        pools = _async_pools.setdefault(loop, {})
        pool = pools.get(endpoint)
        if pool is None:
            pool = pools[endpoint] = _new_async_pool(endpoint)
    return redis.asyncio.Redis(connection_pool=pool)


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
    """
    endpoint = endpoint_for(config_of(config), db, host=host, port=port, decode_responses=decode_responses)
    client = lazy_client(endpoint)
    if endpoint not in _checked:
        with Translating(endpoint):
            client.ping()
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
    """Async twin of :func:`create_redis_client`, for the running event loop."""
    endpoint = endpoint_for(config_of(config), db, host=host, port=port, decode_responses=decode_responses)
    client = lazy_async_client(endpoint)
    with Translating(endpoint):
        await client.ping()
    return client


#: Reply codes that mean "not now": waiting, or another server, may mend them.
_FOR_NOW = frozenset(
    {"LOADING", "READONLY", "OOM", "MISCONF", "MASTERDOWN", "CLUSTERDOWN", "TRYAGAIN", "BUSY", "NOREPLICAS"}
)
_DENIED = frozenset({"WRONGPASS", "NOAUTH", "NOPERM"})
#: redis-py takes the code off the text of the replies it has a class for.
_CODE_OF_CLASS = {
    "BusyLoadingError": "LOADING",
    "ReadOnlyError": "READONLY",
    "OutOfMemoryError": "OOM",
    "MasterDownError": "MASTERDOWN",
    "ClusterDownError": "CLUSTERDOWN",
    "TryAgainError": "TRYAGAIN",
    "AuthenticationError": "WRONGPASS",
    "AuthenticationWrongNumberOfArgsError": "WRONGPASS",
    "AuthorizationError": "NOPERM",
    "NoPermissionError": "NOPERM",
}
_A_CODE = re.compile(r"[A-Z]{3,}\Z")
#: Redis 6 wraps what a command inside a script answered: "Error running script (call
#: to f_...): @user_script:1: @user_script: 1: -READONLY You can't write ...".
_CODE_IN_SCRIPT = re.compile(r"\A(?:ERR )?Error running script .*?: -([A-Z]+) ", re.DOTALL)
#: The same for a missing permission, in Redis 6 and in Redis 7, which give no code.
_DENIED_IN_SCRIPT = ("The user executing the script can't", "ACL failure in script")


def _reply_code(error: BaseException) -> str:
    """Return the code of an error reply, ``READONLY`` for one; "" for anything else."""
    import redis.exceptions as rx

    # The versions of redis-py that keep it: most take it off the text.
    kept: str = getattr(error, "status_code", None) or ""
    code = _CODE_OF_CLASS.get(type(error).__name__)
    if code is not None:
        return kept if kept in _DENIED else code
    if not isinstance(error, rx.ResponseError):
        return ""
    text = str(error)
    inner = _CODE_IN_SCRIPT.match(text)
    if inner:
        return inner.group(1)
    if any(sign in text for sign in _DENIED_IN_SCRIPT):
        return "NOPERM"
    word = text.split(" ", 1)[0]
    # "DB index is out of range" and its like have lost their ERR.
    return kept or (word if _A_CODE.match(word) else "ERR")


def _never_sent(error: BaseException) -> bool:
    """Tell whether the connection was not even opened, so that nothing can have been done."""
    # redis-py has no class for it, and the cause is only on some of its errors.
    text = str(error)
    return (
        text.startswith("Timeout connecting")
        or (text.startswith("Error") and " connecting to " in text)
        or "No connection available" in text
    )


def translate(error: BaseException, endpoint: Endpoint) -> BaseException:
    """Turn what redis-py raised into the error of ours that says what to do.

    Anything that is not Redis trouble is returned as it is.
    """
    import redis.exceptions as rx

    if isinstance(error, RedisError) or not isinstance(error, (rx.RedisError, OSError)):
        return error
    if type(error) is rx.ConnectionError and isinstance(error.__cause__, rx.RedisError):
        # The async client wraps what a unix socket's server says during the greeting.
        error = error.__cause__
    text = str(error)
    if endpoint.password and endpoint.password in text:
        # Old servers and proxies repeat what they do not understand. The cause of our error
        # is shown as well.
        text = text.replace(endpoint.password, "***")
        error.args = (text,)
    where = endpoint.label
    code = _reply_code(error)
    if code not in text:
        text = f"{code} {text}"
    if code in _DENIED:
        who = f"user {endpoint.username!r}" if endpoint.username else "the default user"
        given = "a password was given" if endpoint.password else "no password was given"
        return RedisAuthError(
            f"{where} refused {who} ({given}): {text}. Check redis_password and redis_username",
            code=code,
        )
    if "DB index is out of range" in text or "invalid DB index" in text:
        return RedisDatabaseError(
            f"{where} does not exist: {text}. Raise 'databases' in redis.conf or choose "
            "another number in session_redis_db, semantic_redis_db or url_cache_redis_db",
            code=code,
        )
    if code in _FOR_NOW:
        return RedisUnavailable(f"{where} cannot serve now: {text}", code=code)
    if isinstance(error, rx.ResponseError):
        return RedisCommandError(f"{where} refused a command: {text}", code=code)
    maybe_done = not _never_sent(error)
    if isinstance(error, rx.TimeoutError):
        return RedisUnavailable(
            f"{where} did not answer in time: {text}", maybe_done=maybe_done, timed_out=maybe_done
        )
    if isinstance(error, (rx.ConnectionError, OSError)):
        reason = getattr(error.__cause__ or error.__context__, "strerror", None)
        if reason and reason not in text:
            # Some versions of redis-py leave out what a certificate was refused for.
            text = f"{text} {reason}"
        return RedisUnavailable(
            f"{where} cannot be reached: {text.rstrip('.')}. Is the server running, and is it this address?",
            maybe_done=maybe_done,
        )
    return RedisCommandError(f"{where}: {type(error).__name__}: {text}")


class Translating:
    """A ``with`` block whose Redis trouble comes out as errors of ours. Async code may use it too."""

    __slots__ = ("_endpoint",)

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    def __enter__(self) -> None:
        """Nothing to prepare."""

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if error is not None:
            ours = translate(error, self._endpoint)
            if ours is not error:  # "from" itself would be a chain without an end
                raise ours from error
