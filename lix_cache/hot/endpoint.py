"""Where a Redis is and how it is reached: everything that decides which connections may be shared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lix_cache.config import RedisSettings, check_setting
from lix_cache.errors import ConfigError

__all__ = ["Endpoint", "endpoint_for"]


@dataclass(frozen=True)
class Endpoint:
    """Everything that decides which connections may be shared.

    Two caches share a pool only if all of this is equal, the password included: a
    pool keyed by host and port alone would hand an authenticated connection to
    a caller that gave no password, or the wrong one.
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
    redis: RedisSettings,
    db: int,
    *,
    host: str | None = None,
    port: int | None = None,
    decode_responses: bool = False,
) -> Endpoint:
    """Work out where to connect. An explicit host or port overrides ``redis_url``.

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
    scheme = "rediss" if redis.ssl else "redis"
    path = ""
    username, password = redis.username, redis.password
    use_host, use_port = host or redis.host, port or redis.port
    if redis.url is not None and host is None and port is None:
        parts = _parse_url(redis.url)
        path = str(parts.get("path", ""))
        scheme = "unix" if path else redis.url.split("://", 1)[0]
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
        connect_timeout=redis.connect_timeout,
        timeout=redis.timeout,
        keepalive=redis.keepalive,
        pool_size=redis.pool_size,
        ca_certs=redis.ssl_ca_certs,
        certfile=redis.ssl_certfile,
        keyfile=redis.ssl_keyfile,
        check_hostname=redis.ssl_check_hostname,
        decode_responses=decode_responses,
    )


def _parse_url(url: str) -> dict[str, Any]:
    from redis.connection import parse_url

    problem, parts = _misread(url), {}
    if not problem:
        try:
            parts = dict(parse_url(url))
        except ValueError:
            problem = "its host or its port is invalid"
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
        return "its host or its port is invalid"
    if parts.fragment or url.endswith("#"):
        return "it has a part after #, which has no meaning"
    if parts.scheme == "unix":
        if parts.netloc and not parts.netloc.endswith("@"):
            return "between unix:// and the path is no user and password that end in @"
        return "it has an @ in its options" if "@" in parts.query else ""
    if "@" in parts.path or "@" in parts.query:
        return "it has an @ after the host"
    return "its port is invalid" if port == 0 else ""


def _options_of_redis_py() -> set[str]:
    """Return the option names that may be shown: any other may be a piece of a password."""
    import inspect

    import redis

    kinds = (*redis.SSLConnection.__mro__[:-1], redis.BlockingConnectionPool, redis.ConnectionPool)
    return {name for kind in kinds for name in inspect.signature(kind).parameters}
