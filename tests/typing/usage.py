"""How a user's type checker sees the public names. Never run: mypy checks it (``make types``).

A line that must be refused carries ``type: ignore[code]``; with ``warn_unused_ignores``, part of
strict, the check fails where it is not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import redis
import redis.asyncio

import lix_cache
from lix_cache import (
    ArchiveBusy,
    ArchiveUnavailable,
    AsyncCacheCoordinator,
    AsyncConversationArchive,
    AsyncHybridConversationCache,
    AsyncInFlightCall,
    AsyncSemanticCache,
    AsyncSemanticCacheRedis,
    AsyncSessionContextWindow,
    AsyncURLEmbeddingCache,
    CacheConfig,
    CacheCoordinator,
    CachedEmbedder,
    CachePolicy,
    CodecError,
    ConfigError,
    ConversationArchive,
    DimensionMismatch,
    EmbeddedRedis,
    Embedder,
    Evictor,
    HashingEmbedder,
    HuffmanCodec,
    HybridConversationCache,
    InFlightCall,
    InvalidVector,
    LixCacheError,
    Lookup,
    MissingExtra,
    OnnxEmbedder,
    OpenAIEmbedder,
    Prices,
    Reason,
    RedisAuthError,
    RedisUnavailable,
    Report,
    SemanticCache,
    SemanticCacheRedis,
    SemanticSettings,
    SentenceTransformerEmbedder,
    SessionContextWindow,
    SessionKey,
    StoreAdmin,
    Stored,
    Streamed,
    Thresholds,
    URLEmbeddingCache,
    aembed,
    create_async_redis_client,
    create_redis_client,
    embed_within,
    ensure_redis,
)
from lix_cache.huffman_codec import decode_bytes, encode_str

if sys.version_info >= (3, 11):
    from typing import assert_type
else:
    from typing_extensions import assert_type

Message = dict[str, Any]
Vector = npt.NDArray[np.float32]


def settings() -> CacheConfig:
    config = CacheConfig(redis_host="localhost", redis_port=6379, session_max_tokens=None)
    assert_type(config.redis_port, int)
    assert_type(config.redis_password, str | None)
    assert_type(config.semantic_similarity_threshold, float)
    assert_type(config.evict_after_minutes, float)
    assert_type(config.archive_dir, str)
    assert_type(CacheConfig.from_env("MYAPP"), CacheConfig)
    assert_type(CacheConfig.from_env(environ=dict(os.environ)), CacheConfig)
    assert_type(config.replace(hot_window_size=5), CacheConfig)
    CacheConfig(redis_port="6379")  # type: ignore[arg-type]
    CacheConfig(redis_prot=6379)  # type: ignore[call-arg]
    CacheConfig(durability="tape")  # type: ignore[arg-type]
    assert_type(lix_cache.__version__, str)
    return config


def coordinator(config: CacheConfig) -> None:
    cache = CacheCoordinator(session_id="s", config=config)
    CacheCoordinator("s", redis_host="localhost", redis_port=6379, redis_password="secret")
    CacheCoordinator("s", None)
    assert_type(cache.add_message_to_context("user", "text", {"any": "thing"}), int)
    assert_type(cache.add_message_to_context(role="user", content=[{"type": "text"}], metadata=None), int)
    assert_type(cache.get_context_messages(), list[Message])
    assert_type(cache.get_formatted_context(max_lines=5), str)
    assert_type(cache.get_semantic_response("url", [0.1, 0.2]), Any)
    assert_type(cache.get_url_embedding("url"), Vector | None)
    assert_type(cache.cache_url_embedding("url", np.zeros(3)), bool)
    assert_type(cache.batch_cache_url_embeddings({"url": [1.0], "other": np.ones(1)}), dict[str, bool])
    assert_type(cache.clear_session_cache(), bool)
    assert_type(cache.clear_context(), bool)
    assert_type(cache.get_stats(), dict[str, Any])
    assert_type(cache.get_cache_stats(), dict[str, Any])
    assert_type(cache.context_window, SessionContextWindow)
    assert_type(cache.semantic_cache, SemanticCacheRedis)
    assert_type(cache.url_embedding_cache, URLEmbeddingCache)
    cache.cache_semantic_response(url="url", query_embedding=np.ones(3), response={"any": ["json"]})
    CacheCoordinator(b"bytes")  # type: ignore[arg-type]
    cache.get_url_embedding("url").sum()  # type: ignore[union-attr]


async def async_coordinator(config: CacheConfig) -> None:
    cache = AsyncCacheCoordinator("s", config)
    assert_type(await cache.add_message_to_context("user", "text"), int)
    assert_type(await cache.get_context_messages(), list[Message])
    assert_type(await cache.get_formatted_context(), str)
    assert_type(await cache.get_semantic_response("url", [0.1]), Any)
    assert_type(await cache.get_url_embedding("url"), Vector | None)
    assert_type(await cache.batch_cache_url_embeddings({"url": [1.0]}), dict[str, bool])
    assert_type(await cache.clear_session_cache(), bool)
    assert_type(await cache.get_stats(), dict[str, Any])
    assert_type(cache.context_window, AsyncSessionContextWindow)
    assert_type(cache.semantic_cache, AsyncSemanticCacheRedis)
    assert_type(cache.url_embedding_cache, AsyncURLEmbeddingCache)
    later = cache.get_context_messages()
    await assert_type(later, Coroutine[Any, Any, list[Message]])
    cache.get_context_messages()  # type: ignore[unused-coroutine]


def hybrid(config: CacheConfig) -> None:
    cache = HybridConversationCache(
        "s", config, hot_window_size=5, redis_ttl=60, redis_db=3, evict_after_minutes=0.5
    )
    assert_type(cache.add_message("user", "text", None, [0.1, 0.2]), int)
    assert_type(cache.add_message("user", "text", embedding=np.ones(3, dtype=np.float32)), int)
    assert_type(cache.add_message("user", {"tool": "call"}, timestamp=1.5), int)
    assert_type(cache.get_context(), list[Message])
    assert_type(cache.get_full(), list[Message])
    HybridConversationCache("s", token_counter=lambda message: len(message))
    assert_type(cache.smart_context("query", query_embedding=None, recent_k=1), dict[str, list[Message]])
    assert_type(cache.get_formatted_context(), str)
    assert_type(cache.flush_to_disk(), bool)
    assert_type(cache.clear(), bool)
    assert_type(cache.delete_session(), bool)
    assert_type(cache.get_stats(), dict[str, Any])
    assert_type(cache.archive, ConversationArchive)
    assert_type(cache.evictor, Evictor)
    cache.evictor.start()
    cache.evictor.stop(flush=True)
    assert_type(cache.evictor.join(5), bool)
    assert_type(cache.evictor.is_alive, bool)


async def async_hybrid(config: CacheConfig) -> None:
    cache = AsyncHybridConversationCache("s", config)
    assert_type(await cache.add_message("user", "text"), int)
    assert_type(await cache.get_full(), list[Message])
    assert_type(await cache.smart_context("query"), dict[str, list[Message]])
    assert_type(await cache.delete_session(), bool)


def window(config: CacheConfig) -> None:
    cache = SessionContextWindow(
        "s", config, window_size=5, ttl_seconds=60, max_tokens=100, token_counter=lambda message: len(message)
    )
    assert_type(cache.add_message("user", "text", {}), int)
    assert_type(cache.get_context(), list[Message])
    assert_type(cache.get_full_history(), list[Message])
    assert_type(cache.smart_context("query", [0.1]), dict[str, list[Message]])
    assert_type(cache.hybrid, HybridConversationCache)
    assert_type(cache.window_size, int)
    assert_type(cache.max_tokens, int | None)


async def async_window(config: CacheConfig) -> None:
    cache = AsyncSessionContextWindow("s", config)
    assert_type(await cache.get_context(), list[Message])
    assert_type(cache.hybrid, AsyncHybridConversationCache)


def namespaces(config: CacheConfig, folder: Path) -> None:
    key = SessionKey("acme", "s")
    assert_type(key.namespace, str | None)
    assert_type(key.id, str)
    CacheCoordinator(key, config)
    cache = HybridConversationCache(key)
    assert_type(cache.session_id, str | SessionKey)
    HybridConversationCache(cache.session_id)
    store = ConversationArchive(folder)
    assert_type(store.load_all(key), list[Message] | None)
    assert_type(store.expired_sessions(), list[str | SessionKey])
    assert_type(store.list_sessions("acme"), list[dict[str, Any]])
    admin = StoreAdmin(config)
    assert_type(admin.session_ids(namespace="acme"), list[str | SessionKey])
    assert_type(admin.delete_namespace("acme").failed, dict[str | SessionKey, str])
    HybridConversationCache(("acme", "s"))  # type: ignore[arg-type]
    SessionKey("acme")  # type: ignore[call-arg]


def archive(folder: Path) -> None:
    store = ConversationArchive(folder, session_ttl_days=30)
    ConversationArchive("folder", 0.5, codec="lz4", on_damage="raise")
    assert_type(store.append_turn("s", {"role": "user", "content": "text"}), bool)
    assert_type(store.append_turns("s", [{"role": "user"}]), bool)
    assert_type(store.load_all("s"), list[Message] | None)
    assert_type(store.load_recent("s", 5), list[Message])
    assert_type(store.search_by_text("s", "query", top_k=1), list[Message])
    assert_type(store.search_by_embedding("s", [0.1], top_k=1), list[Message])
    assert_type(store.delete_session("s"), bool)
    assert_type(store.session_exists("s"), bool)
    assert_type(store.get_metadata("s"), dict[str, Any] | None)
    assert_type(store.cleanup_expired(), int)
    assert_type(store.list_sessions(), list[dict[str, Any]])
    report = store.verify("s")
    if report is not None:
        assert_type(report.is_intact, bool)
    assert_type(store.archive_dir, str)
    len(store.load_all("s"))  # type: ignore[arg-type]


async def async_archive(folder: Path) -> None:
    store = AsyncConversationArchive(folder, codec="stored")
    assert_type(await store.append_turn("s", {}), bool)
    assert_type(await store.load_all("s"), list[Message] | None)
    assert_type(await store.cleanup_expired(keep=lambda session_id: session_id == "kept"), int)
    AsyncConversationArchive(folder, kodec="lz4")  # type: ignore[call-arg]


def semantic(config: CacheConfig) -> None:
    cache = SemanticCacheRedis(
        "s", config, ttl_seconds=0.5, similarity_threshold=0.8, max_items_per_url=5, redis_db=3
    )
    cache.set("url", [1, 2, 3], "text", ttl_seconds=5)
    assert_type(cache.get("url", (0.1, 0.2)), Any)
    assert_type(cache.batch_get([("url", [0.1]), ("url", np.ones(1))]), list[Any])
    cache.batch_set(("url", [float(i)], i) for i in range(3))
    assert_type(cache.clear_session(), bool)
    assert_type(cache.get_stats(), dict[str, Any])
    assert_type(cache.ttl_seconds, float)
    SemanticCacheRedis("s", max_items_per_url="50")  # type: ignore[arg-type]


async def async_semantic(config: CacheConfig) -> None:
    cache = AsyncSemanticCacheRedis("s", config)
    await cache.set("url", [1.0], {"a": 1})
    assert_type(await cache.batch_get([("url", [0.1])]), list[Any])
    assert_type(await cache.clear_session(), bool)


class _Embedder:
    id = "mine-1"
    dim = 3

    def embed(self, texts: Sequence[str]) -> Vector:
        return np.ones((len(texts), 3), np.float32)


def answers(config: CacheConfig) -> None:
    cache = SemanticCache(
        _Embedder(),
        config,
        context={"tenant": "a", "temperature": 0.0},
        thresholds=Thresholds(threshold=0.9, margin=0.1),
        guards=["numbers"],
        policy=CachePolicy(),
        settings=SemanticSettings(eviction="lru", prices=Prices(prompt=1, completion=2)),
    )
    found = cache.lookup("q", context={"url": "u"}, query_embedding=[0.1], similarity_threshold=0.5)
    assert_type(found, Lookup)
    assert_type(found.is_hit, bool)
    assert_type(found.response, Any)
    assert_type(found.reason, str)
    assert_type(found.age_seconds, float | None)
    assert_type(found.entry_id, str | None)
    assert_type(Reason.EXACT in Reason.HITS, bool)
    assert_type(cache.store("q", {"a": 1}, tags=["t"], ttl_seconds=5, tokens=(10, 20)), str | None)
    assert_type(cache.invalidate(tags=("t",), older_than_seconds=3), int)
    assert_type(cache.report_wrong("id", "q"), Report)
    assert_type(cache.cleanup_expired(), int)
    assert_type(cache.check_availability("q"), Lookup)
    assert_type(cache.health_check(), dict[str, Any])

    begun = cache.begin("q", context={"url": "u"}, lock_seconds=5)
    if isinstance(begun, Lookup):
        assert_type(begun.response, Any)
    else:
        assert_type(begun, InFlightCall)
        assert_type(begun.missed, Lookup)
        assert_type(begun.stored, Stored | None)
        assert_type(begun.complete({"a": 1}, tags=["t"]), Stored)
        assert_type(begun.fail(ValueError()), None)
        assert_type(list(begun.record(["a"])), list[Any])
    assert_type(Streamed(("a",), final="a").events, tuple[Any, ...])

    @cache.cached
    def stream(prompt: str) -> Iterator[str]:
        yield prompt

    assert_type(stream("q"), Iterator[str])

    @cache.cached
    def ask(prompt: str, size: int = 1) -> str:
        return prompt * size

    @cache.cached(ignore=["size"])
    def ask_more(prompt: str, size: int = 1) -> list[str]:
        return [prompt] * size

    assert_type(ask("q", size=2), str)
    assert_type(ask_more("q"), list[str])
    ask(1)  # type: ignore[arg-type]
    SemanticCache("mine")  # type: ignore[arg-type]
    assert_type(CacheCoordinator("s", config, embedder=_Embedder()).answers, SemanticCache | None)


async def async_answers(config: CacheConfig) -> None:
    cache = AsyncSemanticCache(None, config)
    assert_type(await cache.lookup("q"), Lookup)
    assert_type(await cache.store("q", 1), str | None)
    begun = await cache.begin("q")
    if isinstance(begun, AsyncInFlightCall):
        assert_type(await begun.complete(1), Stored)
        assert_type(await begun.fail(), None)


def urls(config: CacheConfig) -> None:
    cache = URLEmbeddingCache("s", config, ttl_seconds=60, batch_size=10)
    assert_type(cache.get("url"), Vector | None)
    assert_type(cache.set("url", [0.1]), bool)
    assert_type(cache.batch_get(["url"]), dict[str, Vector | None])
    assert_type(cache.batch_set({"url": [0.1]}), dict[str, bool])


async def async_urls(config: CacheConfig) -> None:
    cache = AsyncURLEmbeddingCache("s", config)
    assert_type(await cache.get("url"), Vector | None)
    assert_type(await cache.batch_set({"url": np.ones(3)}), dict[str, bool])


class OwnEmbedder:
    id, dim = "own", 2

    def embed(self, texts: Sequence[str]) -> Vector:
        return np.ones((len(texts), 2), dtype=np.float32)


def embedders(config: CacheConfig) -> None:
    own: Embedder = OwnEmbedder()
    for made in (
        HashingEmbedder(64),
        OnnxEmbedder("folder", threads=1),
        OpenAIEmbedder("model", base_url="http://localhost:8000/v1", dimensions=256),
        SentenceTransformerEmbedder("name", device="cpu"),
        CachedEmbedder(own, URLEmbeddingCache("s", config)),
    ):
        embedder: Embedder = made
        assert_type(embedder.embed(["text"]), Vector)
    assert_type(embed_within(own, ["text"], 1.5), Vector)
    HashingEmbedder("64")  # type: ignore[arg-type]


async def async_embedders() -> None:
    assert_type(await aembed(HashingEmbedder(), ["text"]), Vector)


def codec() -> None:
    assert_type(HuffmanCodec.encode(b"bytes"), bytes)
    assert_type(HuffmanCodec.decode(b""), bytes)
    assert_type(encode_str("text"), bytes)
    assert_type(decode_bytes(b""), str)
    HuffmanCodec.encode("text")  # type: ignore[arg-type]


def clients(config: CacheConfig) -> None:
    assert_type(create_redis_client("localhost", 6379, 2, config), redis.Redis)
    assert_type(create_redis_client(config=config, decode_responses=True), redis.Redis)


async def async_clients() -> None:
    assert_type(await create_async_redis_client(db=1), redis.asyncio.Redis)


def embedded() -> None:
    with ensure_redis() as server:
        assert_type(server, EmbeddedRedis)
        assert_type(server.config(CacheConfig()), CacheConfig)


def errors(config: CacheConfig) -> str:
    try:
        CacheCoordinator("s", config).get_context_messages()
    except DimensionMismatch as error:
        assert_type(error.expected, int)
        assert_type(error.got, int)
    except RedisUnavailable as error:
        assert_type(error.maybe_done, bool)
        assert_type(error.timed_out, bool)
        network: ConnectionError = error
        return str(network)
    except (RedisAuthError, PermissionError) as error:
        builtin: PermissionError = error
        return str(builtin)
    except (CodecError, ConfigError, InvalidVector) as error:
        value: ValueError = error
        return str(value)
    except MissingExtra as error:
        missing: ImportError = error
        return str(missing)
    except (ArchiveBusy, ArchiveUnavailable) as error:
        system: OSError = error
        return str(system)
    except LixCacheError as error:
        return str(error)
    return ""
