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
    from lix_cache.compat.caches import (
        AsyncSemanticCacheRedis,
        AsyncURLEmbeddingCache,
        SemanticCacheRedis,
        URLEmbeddingCache,
    )
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
        EngineError,
        InvalidContext,
        InvalidInput,
        InvalidMessage,
        InvalidSessionId,
        InvalidVector,
        KvBusy,
        KvError,
        KvUnavailable,
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
    from lix_cache.evaluation.calibration import Calibration, CalibrationPoint, calibrate, calibration_curve
    from lix_cache.evaluation.question_log import QuestionLog
    from lix_cache.evaluation.questions import Question, questions_from_log, questions_from_pairs
    from lix_cache.evaluation.replay import Pair, PairTally, Replay, judge_pairs, replay
    from lix_cache.evaluation.thresholds_file import load_limits, save_limits
    from lix_cache.hot.clients import (
        close_async_redis_clients,
        create_async_redis_client,
        create_redis_client,
    )
    from lix_cache.huffman_codec import HuffmanCodec
    from lix_cache.huffman_codec._phrase_table import PhraseTable
    from lix_cache.huffman_codec.training import train_table
    from lix_cache.matching.thresholds import DEFAULT_LIMITS, STRICT_LIMITS, Limits
    from lix_cache.observability.json_logs import json_logs
    from lix_cache.observability.prometheus import register_metrics
    from lix_cache.semantic.cache import AsyncSemanticCache, SemanticCache
    from lix_cache.semantic.policy import CachePolicy
    from lix_cache.semantic.result import Lookup, Reason, Report
    from lix_cache.semantic.stats import Prices
    from lix_cache.session.archive import AsyncConversationArchive
    from lix_cache.session.cache import AsyncHybridConversationCache, HybridConversationCache
    from lix_cache.session.evictor import Evictor
    from lix_cache.session.window import AsyncSessionContextWindow, SessionContextWindow
    from lix_cache.verifiers.cross_encoder import CrossEncoderVerifier
    from lix_cache.verifiers.onnx import OnnxVerifier
    from lix_cache.verifiers.protocol import Verifier

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
    "EngineError",
    "InvalidContext",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidVector",
    "KvBusy",
    "KvError",
    "KvUnavailable",
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
    "AsyncSemanticCache": "semantic.cache",
    "AsyncSemanticCacheRedis": "compat.caches",
    "AsyncSessionContextWindow": "session.window",
    "AsyncURLEmbeddingCache": "compat.caches",
    "CacheConfig": "config",
    "CacheCoordinator": "coordinator",
    "CachePolicy": "semantic.policy",
    "CachedEmbedder": "embedders.cached",
    "Calibration": "evaluation.calibration",
    "CalibrationPoint": "evaluation.calibration",
    "ConversationArchive": "archive.archive",
    "CrossEncoderVerifier": "verifiers.cross_encoder",
    "DEFAULT_LIMITS": "matching.thresholds",
    "EmbeddedRedis": "embedded",
    "Embedder": "embedders.protocol",
    "Evictor": "session.evictor",
    "HashingEmbedder": "embedders.hashing",
    "HuffmanCodec": "huffman_codec",
    "HybridConversationCache": "session.cache",
    "Limits": "matching.thresholds",
    "Lookup": "semantic.result",
    "OnnxEmbedder": "embedders.onnx",
    "OnnxVerifier": "verifiers.onnx",
    "OpenAIEmbedder": "embedders.http",
    "Pair": "evaluation.replay",
    "PairTally": "evaluation.replay",
    "PhraseTable": "huffman_codec._phrase_table",
    "Prices": "semantic.stats",
    "Question": "evaluation.questions",
    "QuestionLog": "evaluation.question_log",
    "Reason": "semantic.result",
    "Report": "semantic.result",
    "Replay": "evaluation.replay",
    "STRICT_LIMITS": "matching.thresholds",
    "SemanticCache": "semantic.cache",
    "SemanticCacheRedis": "compat.caches",
    "SentenceTransformerEmbedder": "embedders.sentence_transformer",
    "SessionContextWindow": "session.window",
    "StoreAdmin": "admin",
    "URLEmbeddingCache": "compat.caches",
    "Verifier": "verifiers.protocol",
    "aembed": "embedders.running",
    "calibrate": "evaluation.calibration",
    "calibration_curve": "evaluation.calibration",
    "close_async_redis_clients": "hot.clients",
    "create_async_redis_client": "hot.clients",
    "create_redis_client": "hot.clients",
    "embed_within": "embedders.running",
    "ensure_redis": "embedded",
    "json_logs": "observability.json_logs",
    "judge_pairs": "evaluation.replay",
    "load_limits": "evaluation.thresholds_file",
    "questions_from_log": "evaluation.questions",
    "questions_from_pairs": "evaluation.questions",
    "register_metrics": "observability.prometheus",
    "replay": "evaluation.replay",
    "save_limits": "evaluation.thresholds_file",
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
    "EngineError",
    "Evictor",
    "HashingEmbedder",
    "HuffmanCodec",
    "HybridConversationCache",
    "InvalidContext",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidVector",
    "KvBusy",
    "KvError",
    "KvUnavailable",
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
