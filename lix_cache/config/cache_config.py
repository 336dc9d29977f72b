"""CacheConfig: every setting in one place, checked where it is given."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal, get_type_hints

from lix_cache.config.environment import read_environment
from lix_cache.config.fields import check_field, refuse_unknown
from lix_cache.config.semantic import SemanticSettings
from lix_cache.config.subjects import (
    ArchiveSettings,
    EmbedderSettings,
    QueryCacheSettings,
    RedisSettings,
    SessionSettings,
    UrlCacheSettings,
)
from lix_cache.errors import ConfigError

__all__ = ["CacheConfig", "check_setting"]

#: Buckets of a cluster: its masters have about as many each, the fullest of six 5 % more.
_CLUSTER_BUCKETS = 1024


@dataclass
class CacheConfig:
    """All settings of the library.

    Every field can be given by keyword, or from the environment with
    :meth:`from_env`. Unknown names, wrong types and values out of range raise
    :class:`~lix_cache.errors.ConfigError`.

    Attributes:
        redis_host: server name or address.
        redis_port: TCP port.
        redis_password: password of the user, or of the server where it has no users.
        redis_key_prefix: first part of every key; must not contain ``{`` or ``}``.
        redis_socket_connect_timeout: seconds to wait for a connection.
        redis_socket_keepalive: TCP keep-alive on every connection.
        redis_pool_size: connections per process, server and database.
        redis_url: ``redis://``, ``rediss://`` or ``unix://`` address; it overrides host and
            port. A database number in it is ignored: each layer has a setting of its own.
            ``redis+cluster://host:port,host:port`` names some nodes of a cluster,
            ``redis+sentinel://host:port,host:port/service`` all sentinels of a service;
            ``rediss+`` for TLS.
        redis_username: ACL user name (Redis 6 and later).
        redis_socket_timeout: seconds to wait for an answer.
        redis_ssl: speak TLS to ``redis_host`` (a ``rediss://`` address implies it).
        redis_ssl_ca_certs: file with the certificate authorities to trust.
        redis_ssl_certfile: client certificate, for servers that ask for one.
        redis_ssl_keyfile: key of the client certificate.
        redis_ssl_check_hostname: refuse a certificate made for another name.
        redis_retry_seconds: after a failed connection, how long the next operations go
            straight to the archive before Redis is tried again; on a cluster those of that node.
        redis_buckets: hash tags that sessions are spread over; None for one, which is right for a
            single server, and 1,024 on a cluster. A store keeps its number: another one is a
            LayoutMismatch, which says how to migrate.
        redis_cluster: the server is a node of a Redis Cluster, which has one database: the numbers
            of databases mean nothing there.
        redis_sentinel_password: password of the sentinels themselves.
        session_redis_db: database of the session windows.
        session_ttl_seconds: a session idle for longer is moved to disk, also if
            ``evict_after_minutes`` is longer.
        hot_window_size: messages of a session that ``get_context`` returns.
        hot_codec: ``stored`` keeps messages in Redis as JSON; ``huffman`` compresses
            those of up to 16 kB if the C extension is there: less memory for a slower add. Both are
            read under either setting.
        session_max_tokens: the context leaves out its oldest messages until about this many tokens
            remain; system messages and the newest one always stay. None for no limit.
        semantic_redis_db: database of the semantic query cache.
        semantic_ttl_seconds: time to live of a cached response.
        semantic_similarity_threshold: least cosine similarity of a hit, from -1 to 1.
        semantic_max_items_per_url: responses kept per session and URL, first in first out.
        url_cache_redis_db: database of the URL embeddings.
        url_cache_ttl_seconds: time to live of a URL's embedding.
        url_cache_batch_size: URLs sent to Redis in one round trip by the batch calls.
        archive_dir: folder of the ``.huff`` files.
        archive_url: the archive is on object storage instead: ``s3://bucket/prefix``, ``gs://…``, ``az://…``
            or ``file:///folder`` (docs/object-layout.md); None for ``archive_dir``.
        disk_ttl_days: days after its last use that an archived session goes to the trash.
        evict_after_minutes: a session idle for longer is moved to disk.
        archive_codec: codec of the archive: ``huffman``, ``deflate``, ``lz4``, ``zstd`` or ``stored``.
        archive_dictionary: file of a dictionary of your own for ``huffman``, instead of the one that
            ships; every process that reads the archive needs it.
        archive_batch_turns: turns a window may grow beyond its size before the surplus is
            moved to disk, and so the usual number of turns in a frame.
        archive_lock_timeout_seconds: how long to wait for another process that holds a
            session's archive.
        archive_trash_days: days for which expired sessions can be restored; 0 removes them at once.
        archive_max_frame_mb: an archive frame that decodes to more is not read, from 1 to 1024.
        archive_cache_mb: with ``archive_url``, megabytes of ``archive_dir`` for what was read there; 0: none.
        on_archive_damage: ``recover`` returns what is intact, counts and logs the rest;
            ``raise`` raises :class:`~lix_cache.errors.ArchiveCorrupt`.
        durability: ``redis`` acknowledges a message when Redis has it; ``replica`` when a replica
            has it too, or the disk where none does in time; ``disk`` when it is on disk as well.
        on_redis_error: ``archive`` goes on with the disk alone while Redis is away;
            ``raise`` raises :class:`~lix_cache.errors.RedisUnavailable`.
        on_archive_error: what an add does once the archive folder has begun to refuse: ``hot`` goes
            on in Redis, where messages stay until the folder takes them; ``raise`` raises
            :class:`~lix_cache.errors.ArchiveUnavailable`. A folder that refuses at the first
            add is an error under both.
        on_cache_error: what the semantic and the URL cache do while Redis is away: ``raise``
            raises; ``miss`` answers None and counts it under ``degraded`` in ``get_stats``.
        evictor_enabled: start the evictor with the first session cache.
        evictor_interval_seconds: pause between two looks for idle sessions.
        flush_on_exit: move this process's sessions to disk when the interpreter exits.
        embedder_id: name and version of the model that makes the vectors; vectors of
            different embedders never meet.
        embedding_dim: dimension every vector must have; None to accept any that fits what
            is stored.
    """

    redis_host: str = "localhost"
    redis_port: int = 6379
    redis_password: str | None = field(default=None, repr=False)
    redis_key_prefix: str = "lix"
    redis_socket_connect_timeout: float = 5
    redis_socket_keepalive: bool = True
    redis_pool_size: int = 50

    session_redis_db: int = 2
    session_ttl_seconds: int = 86400
    hot_window_size: int = 20
    session_max_tokens: int | None = None

    semantic_redis_db: int = 0
    semantic_ttl_seconds: int = 300
    semantic_similarity_threshold: float = 0.90
    semantic_max_items_per_url: int = 50

    url_cache_redis_db: int = 1
    url_cache_ttl_seconds: int = 86400
    url_cache_batch_size: int = 100

    archive_dir: str = "./data/conversations"
    disk_ttl_days: int = 14

    evict_after_minutes: float = 120

    archive_url: str | None = None

    redis_url: str | None = field(default=None, repr=False)
    redis_username: str | None = None
    redis_socket_timeout: float = 5
    redis_ssl: bool = False
    redis_ssl_ca_certs: str | None = None
    redis_ssl_certfile: str | None = None
    redis_ssl_keyfile: str | None = None
    redis_ssl_check_hostname: bool = True
    redis_retry_seconds: float = 1
    redis_buckets: int | None = None
    redis_cluster: bool = False
    redis_sentinel_password: str | None = field(default=None, repr=False)

    hot_codec: Literal["stored", "huffman"] = "stored"
    archive_codec: str = "huffman"
    archive_dictionary: str | None = None
    archive_batch_turns: int = 10
    archive_lock_timeout_seconds: float = 30
    archive_trash_days: float = 7
    archive_max_frame_mb: int = 1024
    archive_cache_mb: int = 0
    on_archive_damage: Literal["recover", "raise"] = "recover"

    durability: Literal["redis", "replica", "disk"] = "redis"
    on_redis_error: Literal["archive", "raise"] = "archive"
    on_archive_error: Literal["hot", "raise"] = "hot"
    on_cache_error: Literal["raise", "miss"] = "raise"
    evictor_enabled: bool = True
    evictor_interval_seconds: float = 5
    flush_on_exit: bool = False

    embedder_id: str | None = None
    embedding_dim: int | None = None

    def __new__(cls, *args: Any, **kwargs: Any) -> CacheConfig:
        known = [f.name for f in dataclasses.fields(cls)]
        refuse_unknown(kwargs, known)
        if len(args) > len(known):
            raise ConfigError(f"CacheConfig takes at most {len(known)} values, got {len(args)}")
        return super().__new__(cls)

    def __setattr__(self, name: str, value: Any) -> None:
        if len(self.__dict__) == len(self.__dataclass_fields__):
            # What is changed is checked like what is new.
            value = getattr(self.replace(**{name: value}), name)
        super().__setattr__(name, value)

    def __post_init__(self) -> None:
        if isinstance(self.archive_dir, os.PathLike):
            object.__setattr__(self, "archive_dir", os.fspath(self.archive_dir))
        hints = _field_types()
        for f in dataclasses.fields(self):
            check_field(f.name, getattr(self, f.name), hints[f.name])
        if self.redis_cluster and (self.redis_url or "").partition("://")[0].endswith(("+sentinel", "unix")):
            raise ConfigError("redis_cluster needs the addresses of nodes: redis_url names something else")

    @classmethod
    def from_env(cls, prefix: str = "", environ: Mapping[str, str] | None = None) -> CacheConfig:
        """Read one environment variable for every field.

        With prefix ``MYAPP`` the field ``redis_host`` is read from
        ``MYAPP_REDIS_HOST``; with no prefix, from ``REDIS_HOST``. Variables that
        are not set keep the default; an empty one means None where the field may
        be None. A ``~`` at the start of a path is the home folder here;
        ``CacheConfig(...)`` takes it for a name.

        Variables that begin with the prefix and are like no setting are the
        application's own. One that nearly is a setting, such as
        ``MYAPP_REDIS_HOTS``, ``MYAPP_REDIS_PASS`` or ``myapp_redis_host``, is an error, unless the
        setting that is meant has its variable too. Under the prefix ``LIX_CACHE`` so is one that
        leaves out words (``URL`` for ``REDIS_URL``). Without a prefix there is no telling whose a
        variable is, and misspelt ones are not found.

        Args:
            prefix: first part of the variables' names, in any case.
            environ: where to read; ``os.environ`` by default.

        Raises:
            ConfigError: a variable's value has the wrong type or is out of range, or its
                name is nearly that of a setting; the text names the variable.
        """
        start, values = read_environment(prefix, environ, _field_types())
        try:
            return cls(**values)
        except ConfigError as error:
            # Every message about a setting begins with its name.
            variable = start + str(error).split(" ", 1)[0].upper()
            raise ConfigError(f"{error} (read from the environment variable {variable})") from None

    def replace(self, **changes: Any) -> CacheConfig:
        """Return a copy with some settings changed, checked like a new one; itself if none is."""
        if not changes:
            return self
        known = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return type(self)(**{**known, **changes})

    @property
    def idle_seconds(self) -> float:
        """Seconds of idleness after which a session is moved to disk."""
        return min(self.evict_after_minutes * 60, float(self.session_ttl_seconds))

    @property
    def archive_place(self) -> str:
        """Where the archive is: ``archive_url`` if there is one, else ``archive_dir``."""
        return self.archive_url or self.archive_dir

    @property
    def hot_ttl_seconds(self) -> int:
        """Time to live of a session's keys in Redis: the archive's, never shorter.

        Redis must not forget what the disk would have kept; moving a session to
        disk is the evictor's task, not an expiry's.
        """
        return max(self.disk_ttl_days * 86400, self.session_ttl_seconds)

    # -- by subject ---------------------------------------------------------------------------

    @property
    def redis(self) -> RedisSettings:
        """Where Redis is, and how it is reached."""
        is_cluster = self.redis_cluster or (self.redis_url or "").split("://")[0].endswith("+cluster")
        return RedisSettings(
            host=self.redis_host,
            port=self.redis_port,
            password=self.redis_password,
            url=self.redis_url,
            username=self.redis_username,
            key_prefix=self.redis_key_prefix,
            buckets=self.redis_buckets or (_CLUSTER_BUCKETS if is_cluster else 1),
            pool_size=self.redis_pool_size,
            connect_timeout=self.redis_socket_connect_timeout,
            timeout=self.redis_socket_timeout,
            keepalive=self.redis_socket_keepalive,
            retry_seconds=self.redis_retry_seconds,
            ssl=self.redis_ssl,
            ssl_ca_certs=self.redis_ssl_ca_certs,
            ssl_certfile=self.redis_ssl_certfile,
            ssl_keyfile=self.redis_ssl_keyfile,
            ssl_check_hostname=self.redis_ssl_check_hostname,
            cluster=is_cluster,
            sentinel_password=self.redis_sentinel_password,
        )

    @property
    def session(self) -> SessionSettings:
        """The windows of sessions, when they move to disk, and what their flows do in trouble."""
        return SessionSettings(
            redis_db=self.session_redis_db,
            window_size=self.hot_window_size,
            ttl_seconds=self.hot_ttl_seconds,
            batch=self.archive_batch_turns,
            is_coded=self.hot_codec == "huffman",
            durability=self.durability,
            on_redis_error=self.on_redis_error,
            on_archive_error=self.on_archive_error,
            idle_seconds=self.idle_seconds,
            evictor_interval_seconds=self.evictor_interval_seconds,
            flush_on_exit=self.flush_on_exit,
        )

    @property
    def archive(self) -> ArchiveSettings:
        """Where sessions are archived, how, and for how long."""
        return ArchiveSettings(
            place=self.archive_place,
            ttl_days=self.disk_ttl_days,
            trash_days=self.archive_trash_days,
            codec=self.archive_codec,
            dictionary=self.archive_dictionary,
            on_damage=self.on_archive_damage,
            lock_timeout_seconds=self.archive_lock_timeout_seconds,
            max_frame_mb=self.archive_max_frame_mb,
            cache_mb=self.archive_cache_mb,
            cache_folder=self.archive_dir,
        )

    @property
    def semantic(self) -> SemanticSettings:
        """What a SemanticCache takes if it is given no settings of its own."""
        return SemanticSettings(ttl_seconds=self.semantic_ttl_seconds, redis_db=self.semantic_redis_db)

    @property
    def query_cache(self) -> QueryCacheSettings:
        """The semantic query cache by URL."""
        return QueryCacheSettings(
            redis_db=self.semantic_redis_db,
            ttl_seconds=self.semantic_ttl_seconds,
            similarity_threshold=self.semantic_similarity_threshold,
            max_items_per_url=self.semantic_max_items_per_url,
        )

    @property
    def url_cache(self) -> UrlCacheSettings:
        """The cache of URL embeddings."""
        return UrlCacheSettings(
            redis_db=self.url_cache_redis_db,
            ttl_seconds=self.url_cache_ttl_seconds,
            batch_size=self.url_cache_batch_size,
        )

    @property
    def embedder(self) -> EmbedderSettings:
        """Which vectors may meet."""
        return EmbedderSettings(id=self.embedder_id or "", dim=self.embedding_dim)


@lru_cache(maxsize=1)
def _field_types() -> dict[str, Any]:
    return get_type_hints(CacheConfig)  # its fields, in their order


def check_setting(name: str, value: Any, given_as: str | None = None) -> None:
    """Check an argument that stands for a setting.

    Args:
        name: of the setting.
        value: what was given.
        given_as: the argument, where it is called otherwise.

    Raises:
        ConfigError: wrong type, or out of range; the text begins with the argument's name.
    """
    check_field(name, value, _field_types()[name], given_as)
