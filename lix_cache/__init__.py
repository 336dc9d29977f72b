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
        ArchiveTooLarge,
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
    from lix_cache.semantic.calibration import Calibration, CalibrationPoint, calibrate, calibration_curve
    from lix_cache.semantic.full import AsyncSemanticCache, SemanticCache
    from lix_cache.semantic.limits import DEFAULT_LIMITS, STRICT_LIMITS, Limits
    from lix_cache.semantic.limits_file import load_limits, save_limits
    from lix_cache.semantic.lookup import Lookup, Reason, Report
    from lix_cache.semantic.metrics import json_logs, register_metrics
    from lix_cache.semantic.policy import CachePolicy
    from lix_cache.semantic.question_log import QuestionLog
    from lix_cache.semantic.questions import Question, questions_from_log, questions_from_pairs
    from lix_cache.semantic.replay import Pair, PairTally, Replay, judge_pairs, replay
    from lix_cache.semantic.tally import Prices
    from lix_cache.semantic.verifier import CrossEncoderVerifier, OnnxVerifier, Verifier
    from lix_cache.session.archive import AsyncConversationArchive
    from lix_cache.session.cache import AsyncHybridConversationCache, HybridConversationCache
    from lix_cache.session.evictor import Evictor
    from lix_cache.session.window import AsyncSessionContextWindow, SessionContextWindow

__version__ = "1.0.0.dev0"

_ERRORS = (
    "ArchiveBusy",
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveTooLarge",
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
    "Calibration": "semantic.calibration",
    "CalibrationPoint": "semantic.calibration",
    "ConversationArchive": "archive.archive",
    "CrossEncoderVerifier": "semantic.verifier",
    "DEFAULT_LIMITS": "semantic.limits",
    "EmbeddedRedis": "embedded",
    "Embedder": "embedders.protocol",
    "Evictor": "session.evictor",
    "HashingEmbedder": "embedders.hashing",
    "HuffmanCodec": "huffman_codec",
    "HybridConversationCache": "session.cache",
    "Limits": "semantic.limits",
    "Lookup": "semantic.lookup",
    "OnnxEmbedder": "embedders.onnx",
    "OnnxVerifier": "semantic.verifier",
    "OpenAIEmbedder": "embedders.http",
    "Pair": "semantic.replay",
    "PairTally": "semantic.replay",
    "PhraseTable": "huffman_codec._phrase_table",
    "Prices": "semantic.tally",
    "Question": "semantic.questions",
    "QuestionLog": "semantic.question_log",
    "Reason": "semantic.lookup",
    "Report": "semantic.lookup",
    "Replay": "semantic.replay",
    "STRICT_LIMITS": "semantic.limits",
    "SemanticCache": "semantic.full",
    "SemanticCacheRedis": "semantic.cache",
    "SentenceTransformerEmbedder": "embedders.sentence_transformer",
    "SessionContextWindow": "session.window",
    "StoreAdmin": "admin",
    "URLEmbeddingCache": "semantic.cache",
    "Verifier": "semantic.verifier",
    "aembed": "embedders.running",
    "calibrate": "semantic.calibration",
    "calibration_curve": "semantic.calibration",
    "close_async_redis_clients": "hot.client",
    "create_async_redis_client": "hot.client",
    "create_redis_client": "hot.client",
    "embed_within": "embedders.running",
    "ensure_redis": "embedded",
    "json_logs": "semantic.metrics",
    "judge_pairs": "semantic.replay",
    "load_limits": "semantic.limits_file",
    "questions_from_log": "semantic.questions",
    "questions_from_pairs": "semantic.questions",
    "register_metrics": "semantic.metrics",
    "replay": "semantic.replay",
    "save_limits": "semantic.limits_file",
    "train_table": "huffman_codec.training",
}

__all__ = [
    "DEFAULT_LIMITS",
    "STRICT_LIMITS",
    "ArchiveBusy",
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveTooLarge",
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
    "Calibration",
    "CalibrationPoint",
    "CodecError",
    "ComputeTimeout",
    "ConfigError",
    "ConversationArchive",
    "CrossEncoderVerifier",
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
    "OnnxVerifier",
    "OpenAIEmbedder",
    "Pair",
    "PairTally",
    "PhraseTable",
    "Prices",
    "Question",
    "QuestionLog",
    "Reason",
    "RedisAuthError",
    "RedisCommandError",
    "RedisDatabaseError",
    "RedisError",
    "RedisUnavailable",
    "Replay",
    "Report",
    "SemanticCache",
    "SemanticCacheRedis",
    "SentenceTransformerEmbedder",
    "SessionContextWindow",
    "StoreAdmin",
    "URLEmbeddingCache",
    "Verifier",
    "VerifierError",
    "__version__",
    "aembed",
    "calibrate",
    "calibration_curve",
    "close_async_redis_clients",
    "create_async_redis_client",
    "create_redis_client",
    "embed_within",
    "ensure_redis",
    "json_logs",
    "judge_pairs",
    "load_limits",
    "questions_from_log",
    "questions_from_pairs",
    "register_metrics",
    "replay",
    "save_limits",
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
