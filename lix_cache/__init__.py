"""Session memory that never loses a message, and caches that pay no model twice.

::

    from lix_cache import CacheConfig, CacheCoordinator

    cache = CacheCoordinator("user-abc", CacheConfig(redis_host="localhost"))
    cache.add_message_to_context("user", "What's the weather in Tokyo?")
    history = cache.get_context_messages()

Names are loaded when they are first used: the codec and the archive work without Redis
or numpy being imported.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lix_cache.admin import StoreAdmin
    from lix_cache.archive.archive import ConversationArchive
    from lix_cache.config import CacheConfig
    from lix_cache.coordinator import AsyncCacheCoordinator, CacheCoordinator
    from lix_cache.embedded import EmbeddedRedis, ensure_redis
    from lix_cache.embedders.cached import CachedEmbedder
    from lix_cache.embedders.hashing import HashingEmbedder
    from lix_cache.embedders.http import OpenAIEmbedder
    from lix_cache.embedders.onnx import OnnxEmbedder
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.embedders.running import aembed, embed_within
    from lix_cache.embedders.sentence_transformer import SentenceTransformerEmbedder
    from lix_cache.errors import (
        ArchiveBusy,
        ArchiveCorrupt,
        ArchiveError,
        ArchiveUnavailable,
        CodecError,
        ComputeTimeout,
        ConfigError,
        DimensionMismatch,
        EmbedderError,
        EmbedderUnavailable,
        InvalidContext,
        InvalidInput,
        InvalidMessage,
        InvalidSessionId,
        InvalidVector,
        LixCacheError,
        MissingExtra,
        MissingTable,
        NoRedisServer,
        RedisAuthError,
        RedisCommandError,
        RedisDatabaseError,
        RedisError,
        RedisUnavailable,
        VerifierError,
    )
    from lix_cache.hot.client import (
        close_async_redis_clients,
        create_async_redis_client,
        create_redis_client,
    )
    from lix_cache.huffman_codec import HuffmanCodec
    from lix_cache.huffman_codec._phrase_table import PhraseTable
    from lix_cache.huffman_codec.training import train_table
    from lix_cache.semantic.cache import (
        AsyncSemanticCacheRedis,
        AsyncURLEmbeddingCache,
        SemanticCacheRedis,
        URLEmbeddingCache,
    )
    from lix_cache.semantic.decide import Limits
    from lix_cache.semantic.full import AsyncSemanticCache, SemanticCache
    from lix_cache.semantic.lookup import Lookup, Reason
    from lix_cache.semantic.policy import CachePolicy
    from lix_cache.semantic.tally import Prices
    from lix_cache.session.archive import AsyncConversationArchive
    from lix_cache.session.cache import AsyncHybridConversationCache, HybridConversationCache
    from lix_cache.session.evictor import Evictor
    from lix_cache.session.window import AsyncSessionContextWindow, SessionContextWindow

__version__ = "1.0.0"

_ERRORS = (
    "ArchiveBusy",
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveUnavailable",
    "CodecError",
    "ComputeTimeout",
    "ConfigError",
    "DimensionMismatch",
    "EmbedderError",
    "EmbedderUnavailable",
    "InvalidContext",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidVector",
    "LixCacheError",
    "MissingExtra",
    "MissingTable",
    "NoRedisServer",
    "RedisAuthError",
    "RedisCommandError",
    "RedisDatabaseError",
    "RedisError",
    "RedisUnavailable",
    "VerifierError",
)

_HOMES = {
    **dict.fromkeys(_ERRORS, "errors"),
    "AsyncCacheCoordinator": "coordinator",
    "AsyncConversationArchive": "session.archive",
    "AsyncHybridConversationCache": "session.cache",
    "AsyncSemanticCache": "semantic.full",
    "AsyncSemanticCacheRedis": "semantic.cache",
    "AsyncSessionContextWindow": "session.window",
    "AsyncURLEmbeddingCache": "semantic.cache",
    "CacheConfig": "config",
    "CacheCoordinator": "coordinator",
    "CachePolicy": "semantic.policy",
    "CachedEmbedder": "embedders.cached",
    "ConversationArchive": "archive.archive",
    "EmbeddedRedis": "embedded",
    "Embedder": "embedders.protocol",
    "Evictor": "session.evictor",
    "HashingEmbedder": "embedders.hashing",
    "HuffmanCodec": "huffman_codec",
    "HybridConversationCache": "session.cache",
    "Limits": "semantic.decide",
    "Lookup": "semantic.lookup",
    "OnnxEmbedder": "embedders.onnx",
    "OpenAIEmbedder": "embedders.http",
    "PhraseTable": "huffman_codec._phrase_table",
    "Prices": "semantic.tally",
    "Reason": "semantic.lookup",
    "SemanticCache": "semantic.full",
    "SemanticCacheRedis": "semantic.cache",
    "SentenceTransformerEmbedder": "embedders.sentence_transformer",
    "SessionContextWindow": "session.window",
    "StoreAdmin": "admin",
    "URLEmbeddingCache": "semantic.cache",
    "aembed": "embedders.running",
    "close_async_redis_clients": "hot.client",
    "create_async_redis_client": "hot.client",
    "create_redis_client": "hot.client",
    "embed_within": "embedders.running",
    "ensure_redis": "embedded",
    "train_table": "huffman_codec.training",
}

__all__ = [
    "ArchiveBusy",
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveUnavailable",
    "AsyncCacheCoordinator",
    "AsyncConversationArchive",
    "AsyncHybridConversationCache",
    "AsyncSemanticCache",
    "AsyncSemanticCacheRedis",
    "AsyncSessionContextWindow",
    "AsyncURLEmbeddingCache",
    "CacheConfig",
    "CacheCoordinator",
    "CachePolicy",
    "CachedEmbedder",
    "CodecError",
    "ComputeTimeout",
    "ConfigError",
    "ConversationArchive",
    "DimensionMismatch",
    "EmbeddedRedis",
    "Embedder",
    "EmbedderError",
    "EmbedderUnavailable",
    "Evictor",
    "HashingEmbedder",
    "HuffmanCodec",
    "HybridConversationCache",
    "InvalidContext",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidVector",
    "Limits",
    "LixCacheError",
    "Lookup",
    "MissingExtra",
    "MissingTable",
    "NoRedisServer",
    "OnnxEmbedder",
    "OpenAIEmbedder",
    "PhraseTable",
    "Prices",
    "Reason",
    "RedisAuthError",
    "RedisCommandError",
    "RedisDatabaseError",
    "RedisError",
    "RedisUnavailable",
    "SemanticCache",
    "SemanticCacheRedis",
    "SentenceTransformerEmbedder",
    "SessionContextWindow",
    "StoreAdmin",
    "URLEmbeddingCache",
    "VerifierError",
    "__version__",
    "aembed",
    "close_async_redis_clients",
    "create_async_redis_client",
    "create_redis_client",
    "embed_within",
    "ensure_redis",
    "train_table",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module 'lix_cache' has no attribute {name!r}")
    value = getattr(import_module(f"lix_cache.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
