"""SemanticCacheRedis and URLEmbeddingCache: shells; see flow.py."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.arguments import config_with, speaks_for_itself
from lix_cache.checks import check_rows, check_seconds, check_text, check_whole, given
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.compat.flow import QueryCache, UrlCache, checked_url
from lix_cache.compat.ring import NONCE_BYTES
from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import AsyncDriver, awaited
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import Flow, RedisCall, then
from lix_cache.errors import InvalidType, LixCacheError, told
from lix_cache.hot.breaker import breaker_for
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.keys import Keys
from lix_cache.messages.session_key import SessionName, name_fields, shown, stored_id

if TYPE_CHECKING:
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["AsyncSemanticCacheRedis", "AsyncURLEmbeddingCache", "SemanticCacheRedis", "URLEmbeddingCache"]

T = TypeVar("T")

_ENTRY = "url, query_embedding, response"


class _Shell:
    """What both caches and both variants have in common."""

    _cache: QueryCache | UrlCache

    def _begin(
        self,
        session_id: SessionName,
        config: CacheConfig,
        db: int,
        ttl_seconds: float,
        host: str | None,
        port: int | None,
        clock: Clock,
    ) -> dict[str, Any]:
        """Check and keep what every cache is given; return what its flows need of it."""
        self.session_id = shown(stored_id(session_id))
        self.ttl_seconds = ttl_seconds
        check_seconds("ttl_seconds", ttl_seconds)
        if host is not None:
            check_text("redis_host", host)
        if port is not None:
            check_whole("redis_port", port, 1, 65535)
        self._endpoint = endpoint_for(config.redis, db, host=host, port=port)
        return {
            "keys": Keys(config.redis_key_prefix, config.redis.buckets),
            "embedder": config.embedder.id,
            "dim": config.embedder.dim,
            "ttl_seconds": ttl_seconds,
            "miss_on_error": config.on_cache_error == "miss",
            "breaker": breaker_for(self._endpoint, config.redis_retry_seconds, clock),
            "clock": clock,
        }

    def _connect(self, clock: Clock) -> None:
        raise NotImplementedError

    def _guarded(self, flow: Flow[T], otherwise: T) -> Flow[T]:
        return self._cache.guarded(flow, lambda: otherwise)


class _Semantic(_Shell):
    """What both variants of the query cache are made of."""

    def __init__(
        self,
        session_id: SessionName,
        config: CacheConfig | None = None,
        *,
        ttl_seconds: float | None = None,
        similarity_threshold: float | None = None,
        max_items_per_url: int | None = None,
        redis_host: str | None = None,
        redis_port: int | None = None,
        redis_db: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        config = config_with(
            config,
            similarity_threshold=("semantic_similarity_threshold", similarity_threshold),
            max_items_per_url=("semantic_max_items_per_url", max_items_per_url),
            redis_db=("semantic_redis_db", redis_db),
        )
        settings = config.query_cache
        self.similarity_threshold = settings.similarity_threshold
        self.max_items_per_url = settings.max_items_per_url
        ttl = settings.ttl_seconds if ttl_seconds is None else ttl_seconds
        shared = self._begin(session_id, config, settings.redis_db, ttl, redis_host, redis_port, clock)
        self._cache: QueryCache = QueryCache(
            **shared,
            session_id=stored_id(session_id),
            threshold=self.similarity_threshold,
            capacity=self.max_items_per_url,
            new_nonce=lambda: os.urandom(NONCE_BYTES),
        )
        self._connect(clock)

    def _stats(self, urls: int | LixCacheError) -> dict[str, Any]:
        redis, count = (told(urls), None) if isinstance(urls, LixCacheError) else ("ok", urls)
        return {
            "backend": "redis",
            **name_fields(self.session_id),
            "cached_urls": count,
            "ttl_seconds": self.ttl_seconds,
            "similarity_threshold": self.similarity_threshold,
            "redis": redis,
            **_counts(self._cache.counters),
        }


class _Url(_Shell):
    """What both variants of the URL cache are made of."""

    def __init__(
        self,
        session_id: SessionName,
        config: CacheConfig | None = None,
        *,
        ttl_seconds: float | None = None,
        batch_size: int | None = None,
        redis_host: str | None = None,
        redis_port: int | None = None,
        redis_db: int | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        config = config_with(
            config,
            batch_size=("url_cache_batch_size", batch_size),
            redis_db=("url_cache_redis_db", redis_db),
        )
        settings = config.url_cache
        self.batch_size = settings.batch_size
        ttl = settings.ttl_seconds if ttl_seconds is None else ttl_seconds
        shared = self._begin(session_id, config, settings.redis_db, ttl, redis_host, redis_port, clock)
        self._cache: UrlCache = UrlCache(
            **shared,
            batch_size=self.batch_size,
            is_spread=self._endpoint.kind == "cluster",
        )
        self._connect(clock)

    def _storing(self, url_embeddings: Mapping[str, VectorLike]) -> Flow[dict[str, bool]]:
        return self._guarded(self._cache.set_many(url_embeddings), dict.fromkeys(url_embeddings, False))

    def _stats(self, memory: dict[str, Any] | LixCacheError) -> dict[str, Any]:
        redis, known = (told(memory), {}) if isinstance(memory, LixCacheError) else ("ok", memory)
        return {
            "backend": "redis",
            **name_fields(self.session_id),
            "redis_memory_used": known.get("used_memory_human", "unknown"),
            "ttl_seconds": self.ttl_seconds,
            "redis": redis,
            **_counts(self._cache.counters),
        }


def _counts(counters: Mapping[str, int]) -> dict[str, int]:
    return {name: counters.get(name, 0) for name in ("hits", "misses", "sets", "degraded")}


def _or_error(flow: Flow[T]) -> Flow[T | LixCacheError]:
    try:
        return (yield from flow)
    except LixCacheError as error:
        return error


def _memory() -> Flow[dict[str, Any]]:
    reply = yield RedisCall(("INFO", "memory"))
    return dict(reply)


@speaks_for_itself
class SemanticCacheRedis(_Semantic):
    """Responses of one session, found again by URL and by the meaning of the query.

    A hit is the nearest live entry of the same session, URL and embedder, if its cosine
    similarity reaches the threshold; of several equally near, the newest. No threshold is
    safe for every kind of question: see the README.

    Args:
        session_id: whose responses; no other session sees them.
        config: settings; ``CacheConfig()`` by default.
        ttl_seconds: time to live of each entry. A later entry does not prolong an earlier one's.
        similarity_threshold: least cosine similarity of a hit, -1 to 1.
        max_items_per_url: entries per URL, first in first out.
        redis_host: overrides the configuration.
        redis_port: overrides the configuration.
        redis_db: overrides ``semantic_redis_db``.
        clock: where the time comes from.

    Every method raises RedisUnavailable, RedisAuthError, RedisDatabaseError or
    RedisCommandError for trouble with Redis. With ``on_cache_error="miss"`` the first of
    them becomes a counted miss.
    """

    def _connect(self, clock: Clock) -> None:
        self._drive = SyncDriver(self._endpoint, clock)

    def get(self, url: str, query_embedding: VectorLike) -> Any:
        """Return the response to the nearest query, or None for a miss.

        One round trip for a miss, two for a hit.

        Args:
            url: what the query is about.
            query_embedding: shape (dim,).

        Raises:
            InvalidVector: not finite, not flat, empty or all zeros.
            DimensionMismatch: the URL's entries have another dimension.
        """
        return self._drive(self._guarded(self._cache.get(url, query_embedding), None))

    def set(
        self, url: str, query_embedding: VectorLike, response: Any, *, ttl_seconds: float | None = None
    ) -> None:
        """Store a response. One round trip.

        Args:
            url: what the query is about.
            query_embedding: shape (dim,).
            response: any JSON value but None.
            ttl_seconds: time to live of this entry, instead of the default.

        Raises:
            InvalidMessage: the response is not JSON.
            InvalidVector, DimensionMismatch: as :meth:`get`.
        """
        return self.batch_set([(url, query_embedding, response)], ttl_seconds=ttl_seconds)

    def batch_get(self, queries: Sequence[tuple[str, VectorLike]]) -> list[Any]:
        """Look up (url, query_embedding) pairs; None for each miss. One round trip, two with hits."""
        pairs = check_rows("queries", queries, "url, query_embedding")
        return self._drive(self._guarded(self._cache.get_many(pairs), [None] * len(pairs)))

    def batch_set(
        self, entries: Iterable[tuple[str, VectorLike, Any]], *, ttl_seconds: float | None = None
    ) -> None:
        """Store (url, query_embedding, response) triples. One round trip.

        All are checked first: if one is refused, none is stored. Only that a dimension is
        another than that of the entries in Redis is found out there; then the entries of
        other URLs are stored.
        """
        rows = check_rows("entries", entries, _ENTRY)
        return self._drive(self._guarded(self._cache.set_many(rows, ttl_seconds), None))

    def clear_session(self) -> bool:
        """Drop every response of the session. Returns True; every failure is an error."""
        return self._drive(then(self._cache.clear(), lambda _: True))

    def get_stats(self) -> dict[str, Any]:
        """Return settings, the number of URLs with entries, and this object's hits and misses."""
        return self._drive(then(_or_error(self._cache.count_urls()), self._stats))


@speaks_for_itself
class AsyncSemanticCacheRedis(_Semantic):
    """Async variant of :class:`SemanticCacheRedis`: same arguments, same meaning."""

    def _connect(self, clock: Clock) -> None:  # noqa: ARG002 - the loop keeps this variant's time
        self._drive = AsyncDriver(self._endpoint)

    get = awaited(SemanticCacheRedis.get)
    set = awaited(SemanticCacheRedis.set)
    batch_get = awaited(SemanticCacheRedis.batch_get)
    batch_set = awaited(SemanticCacheRedis.batch_set)
    clear_session = awaited(SemanticCacheRedis.clear_session)
    get_stats = awaited(SemanticCacheRedis.get_stats)


@speaks_for_itself
class URLEmbeddingCache(_Url):
    """Embeddings of URLs as float32, shared by all sessions, so that each is computed once.

    Args:
        session_id: named in ``get_stats``; the entries are shared by all sessions.
        config: settings; ``CacheConfig()`` by default.
        ttl_seconds: time to live of an entry.
        batch_size: URLs per round trip of the batch calls.
        redis_host: overrides the configuration.
        redis_port: overrides the configuration.
        redis_db: overrides ``url_cache_redis_db``.
        clock: where the time comes from.

    Errors are those of :class:`SemanticCacheRedis`.
    """

    def _connect(self, clock: Clock) -> None:
        self._drive = SyncDriver(self._endpoint, clock)

    def get(self, url: str) -> FloatArray | None:
        """Return the URL's embedding, shape (dim,) float32, or None for a miss. One round trip."""
        return self._drive(self._guarded(self._cache.get(url), None))

    def set(self, url: str, embedding: VectorLike) -> bool:
        """Store an embedding of shape (dim,). One round trip.

        Returns:
            True; False only under ``on_cache_error="miss"`` while Redis is away.

        Raises:
            InvalidVector: not finite, not flat, or empty.
            DimensionMismatch: not of the configured ``embedding_dim``.
        """
        return self._drive(
            then(self._storing({checked_url(url): embedding}), lambda is_stored: is_stored[url])
        )

    def batch_get(self, urls: Sequence[str]) -> dict[str, FloatArray | None]:
        """Return the embedding, or None, for each URL. One round trip per ``batch_size``."""
        each = [checked_url(url) for url in check_rows("urls", urls)]
        return self._drive(self._guarded(self._cache.get_many(each), dict.fromkeys(each)))

    def batch_set(self, url_embeddings: Mapping[str, VectorLike]) -> dict[str, bool]:
        """Store embeddings. One round trip per ``batch_size``; all are checked first."""
        if not isinstance(url_embeddings, Mapping):
            raise InvalidType(f"url_embeddings must be a dict of embeddings by URL, {given(url_embeddings)}")
        return self._drive(self._storing(url_embeddings))

    def get_stats(self) -> dict[str, Any]:
        """Return settings, the server's memory, and this object's hits and misses."""
        return self._drive(then(_or_error(_memory()), self._stats))


@speaks_for_itself
class AsyncURLEmbeddingCache(_Url):
    """Async variant of :class:`URLEmbeddingCache`: same arguments, same meaning."""

    def _connect(self, clock: Clock) -> None:  # noqa: ARG002 - the loop keeps this variant's time
        self._drive = AsyncDriver(self._endpoint)

    get = awaited(URLEmbeddingCache.get)
    set = awaited(URLEmbeddingCache.set)
    batch_get = awaited(URLEmbeddingCache.batch_get)
    batch_set = awaited(URLEmbeddingCache.batch_set)
    get_stats = awaited(URLEmbeddingCache.get_stats)
