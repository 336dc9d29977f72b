"""The settings of one subject each, as the code below the constructors takes them.

They have no defaults and no checks of their own: :class:`~lix_cache.config.CacheConfig` makes them, says
what each setting means, and has checked it. The name of a setting without its subject is the name here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

__all__ = [
    "ArchiveSettings",
    "EmbedderSettings",
    "QueryCacheSettings",
    "RedisSettings",
    "SessionSettings",
    "UrlCacheSettings",
]


@dataclass(frozen=True, kw_only=True)
class RedisSettings:
    """Where Redis is, how it is reached, and under which names things are kept there."""

    host: str
    port: int
    password: str | None = field(repr=False)
    url: str | None = field(repr=False)
    username: str | None
    key_prefix: str
    buckets: int
    pool_size: int
    connect_timeout: float
    timeout: float
    keepalive: bool
    retry_seconds: float
    ssl: bool
    ssl_ca_certs: str | None
    ssl_certfile: str | None
    ssl_keyfile: str | None
    ssl_check_hostname: bool
    cluster: bool
    sentinel_password: str | None = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class SessionSettings:
    """The windows of sessions, when they move to disk, and what their flows do in trouble.

    Attributes:
        ttl_seconds: time to live of a session's keys in Redis.
        batch: turns that a window may grow beyond its size.
        is_coded: whether messages in Redis are code words.
        idle_seconds: of idleness after which a session moves to disk.
    """

    redis_db: int
    window_size: int
    ttl_seconds: int
    batch: int
    is_coded: bool
    durability: Literal["redis", "replica", "disk"]
    on_redis_error: Literal["archive", "raise"]
    on_archive_error: Literal["hot", "raise"]
    idle_seconds: float
    evictor_interval_seconds: float
    flush_on_exit: bool


@dataclass(frozen=True, kw_only=True)
class ArchiveSettings:
    """Where sessions are archived, how, and for how long."""

    place: str
    ttl_days: float
    trash_days: float
    codec: str
    dictionary: str | None
    on_damage: Literal["recover", "raise"]
    lock_timeout_seconds: float
    max_frame_mb: int
    cache_mb: int
    cache_folder: str


@dataclass(frozen=True, kw_only=True)
class QueryCacheSettings:
    """The semantic query cache of one session, by URL."""

    redis_db: int
    ttl_seconds: float
    similarity_threshold: float
    max_items_per_url: int


@dataclass(frozen=True, kw_only=True)
class UrlCacheSettings:
    """The cache of URL embeddings."""

    redis_db: int
    ttl_seconds: float
    batch_size: int


@dataclass(frozen=True, kw_only=True)
class EmbedderSettings:
    """Which vectors may meet.

    Attributes:
        id: of the model that makes them; "" where none was named.
        dim: that every vector must have; None for whatever fits what is stored.
    """

    id: str
    dim: int | None
