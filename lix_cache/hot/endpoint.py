"""Where a Redis is and how it is reached: everything that decides which connections may be shared."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, TypeAlias

from lix_cache.config import RedisSettings, check_setting
from lix_cache.errors import ConfigError

__all__ = ["Endpoint", "endpoint_for", "unused_db"]

Kind: TypeAlias = Literal["server", "cluster", "sentinel"]

_SENTINEL_PORT = 26379


@dataclass(frozen=True)
class Endpoint:
    """Everything that decides which connections may be shared.

    Two caches share a pool only if all of this is equal, the password included: a
    pool keyed by host and port alone would hand an authenticated connection to
    a caller that gave no password, or the wrong one.

    Attributes:
        kind: one server, the nodes of a cluster, or those that Sentinel names.
        nodes: addresses of some nodes of the cluster, or of the sentinels.
        service: the name of the servers that Sentinel looks after.
        part_of: what this is one server of, "sentinels" for one of these; "server" where it is the only one.
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
    kind: Kind = "server"
    nodes: tuple[tuple[str, int], ...] = ()
    service: str = ""
    sentinel_password: str | None = None
    part_of: Kind | Literal["sentinels"] = "server"

    def __repr__(self) -> str:
        return f"Endpoint({self.label})"

    @property
    def label(self) -> str:
        """The server and database in words, without secrets."""
        if self.kind != "server":
            where = ",".join(f"{host}:{port}" for host, port in self.nodes)
            end = f"/{self.service} db {self.db}" if self.service else ""
            return f"{self.scheme}+{self.kind}://{where}{end}"
        where = self.path if self.scheme == "unix" else f"{self.host}:{self.port}"
        return f"{self.scheme}://{where} db {self.db}"

    def at(self, host: str, port: int) -> Endpoint:
        """Return one server of several."""
        return replace(
            self,
            host=host,
            port=port,
            kind="server",
            nodes=(),
            service="",
            sentinel_password=None,
            part_of=self.kind,
        )

    def sentinel(self, host: str, port: int) -> Endpoint:
        """Return one of the sentinels, which have one database, no users and a password of their own."""
        one = self.at(host, port)
        return replace(one, db=0, username=None, password=self.sentinel_password, part_of="sentinels")


def endpoint_for(
    redis: RedisSettings,
    db: int,
    *,
    host: str | None = None,
    port: int | None = None,
    decode_responses: bool = False,
) -> Endpoint:
    """Work out where to connect. An explicit host or port overrides ``redis_url``.

    A cluster has one database, whose number is 0: the layers are told apart by their keys.

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
    kind: Kind = "cluster" if redis.cluster else "server"
    where = _Where(kind, "rediss" if redis.ssl else "redis", ((host or redis.host, port or redis.port),))
    if redis.url is not None and host is None and port is None:
        where = _where(redis.url, kind)
    use_host, use_port = where.nodes[0]
    return Endpoint(
        scheme=where.scheme,
        host=use_host,
        port=use_port,
        path=where.path,
        db=0 if where.kind == "cluster" else db,
        username=redis.username if where.username is None else where.username,
        password=redis.password if where.password is None else where.password,
        connect_timeout=redis.connect_timeout,
        timeout=redis.timeout,
        keepalive=redis.keepalive,
        pool_size=redis.pool_size,
        ca_certs=redis.ssl_ca_certs,
        certfile=redis.ssl_certfile,
        keyfile=redis.ssl_keyfile,
        check_hostname=redis.ssl_check_hostname,
        decode_responses=decode_responses,
        kind=where.kind,
        nodes=() if where.kind == "server" else where.nodes,
        service=where.service,
        sentinel_password=redis.sentinel_password if where.kind == "sentinel" else None,
    )


def unused_db(redis: RedisSettings) -> int:
    """Return the number of a database in ``redis_url``, which chooses none; 0 where there is none."""
    if redis.url is None:
        return 0
    _, urls, _ = _split(redis.url, "server")
    return int(_parse_url(urls[0]).get("db", 0))


class _Where(NamedTuple):
    """What an address says."""

    kind: Kind
    scheme: str
    nodes: tuple[tuple[str, int], ...]
    path: str = ""
    service: str = ""
    username: str | None = None
    password: str | None = None


def _where(url: str, kind: Kind) -> _Where:
    kind, urls, service = _split(url, kind)
    parts = [_parse_url(one) for one in urls]
    path = str(parts[0].get("path", ""))
    if kind == "cluster" and path:
        raise ConfigError("redis_cluster needs addresses of nodes in redis_url, and it names a unix socket")
    default = _SENTINEL_PORT if kind == "sentinel" else 6379
    return _Where(
        kind,
        "unix" if path else urls[0].split("://", 1)[0],
        tuple([(str(part.get("host", "localhost")), int(part.get("port", default))) for part in parts]),
        path,
        service,
        parts[0].get("username"),
        parts[0].get("password"),
    )


def _split(url: str, kind: Kind) -> tuple[Kind, list[str], str]:
    """Split an address of several servers into one URL for each, and the name of the service."""
    scheme, _, rest = url.partition("://")
    scheme, _, of_many = scheme.partition("+")
    if not of_many:
        return kind, [url], ""
    where, _, path = rest.partition("/")
    user, at, hosts = where.rpartition("@")
    service, mark, options = path.partition("?")
    if "@" in path or not all(hosts.split(",")):
        raise ConfigError(
            "redis_url cannot be understood: before the path is no [user]:[password]@host:port,host:port. "
            "In a user and a password, write / ? # [ ] @ % as %2F %3F %23 %5B %5D %40 %25, or set "
            "redis_username and redis_password instead"
        )
    if of_many == "sentinel" and (not service or "/" in service):
        raise ConfigError(
            "redis_url of Sentinel must end in the name of its service: redis+sentinel://host:port/service"
        )
    if of_many == "cluster" and service.strip("0"):
        raise ConfigError("redis_url of a cluster ends after its nodes: redis+cluster://host:port,host:port")
    first, *others = hosts.split(",")
    urls = [f"{scheme}://{user}{at}{first}{mark and '/'}{mark}{options}"]
    urls += [f"{scheme}://{other}" for other in others]
    return ("cluster", urls, "") if of_many == "cluster" else ("sentinel", urls, service)


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
