"""Session memory and semantic caching for applications that talk to language models, on Redis.

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
    from lix_cache.admin import (
        AsyncStoreAdmin,
        Check,
        Deleted,
        FileCheck,
        Migrated,
        Offloaded,
        SessionInfo,
        SessionPage,
        StoreAdmin,
        StoreStats,
    )
    from lix_cache.archive.archive import ConversationArchive
    from lix_cache.archive.compaction import Compacted
    from lix_cache.archive.verify import ArchiveReport
    from lix_cache.clock import Clock
    from lix_cache.compat.caches import (
        AsyncSemanticCacheRedis,
        AsyncURLEmbeddingCache,
        SemanticCacheRedis,
        URLEmbeddingCache,
    )
    from lix_cache.config import CacheConfig, Prices, SemanticSettings
    from lix_cache.coordinator import AsyncCacheCoordinator, CacheCoordinator
    from lix_cache.embedded import EmbeddedRedis, ensure_redis
    from lix_cache.embedded.binary import ServerBinary
    from lix_cache.embedders.cached import CachedEmbedder, EmbeddingStore
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
        ArchiveMismatch,
        ArchiveTooLarge,
        ArchiveUnavailable,
        CodecError,
        ComputeTimeout,
        ConfigError,
        DimensionMismatch,
        EmbedderError,
        EmbedderUnavailable,
        EngineBusy,
        EngineError,
        InvalidContext,
        InvalidInput,
        InvalidMessage,
        InvalidSessionId,
        InvalidType,
        InvalidVector,
        KeyReused,
        KvBusy,
        KvError,
        KvUnavailable,
        LayoutMismatch,
        LixCacheError,
        MessageNotFound,
        MissingDictionary,
        MissingExtra,
        NoRedisServer,
        RedisAuthError,
        RedisCommandError,
        RedisDatabaseError,
        RedisError,
        RedisUnavailable,
        RevisionMismatch,
        StreamInterrupted,
        VerifierError,
    )
    from lix_cache.evaluation.calibration import Calibration, CalibrationPoint, calibrate, calibration_curve
    from lix_cache.evaluation.evaluate import (
        Evaluation,
        Mistake,
        Pair,
        PairEvaluation,
        evaluate,
        evaluate_pairs,
    )
    from lix_cache.evaluation.question_log import QuestionLog
    from lix_cache.evaluation.questions import Labelled, Question, questions_from_log, questions_from_pairs
    from lix_cache.evaluation.thresholds_file import load_thresholds, save_thresholds
    from lix_cache.hot.clients import (
        close_async_redis_clients,
        create_async_redis_client,
        create_redis_client,
    )
    from lix_cache.huffman_codec import HuffmanCodec
    from lix_cache.huffman_codec._dictionary import Dictionary
    from lix_cache.huffman_codec.training import TrainingOptions, train_dictionary
    from lix_cache.matching.reasons import Reason
    from lix_cache.matching.thresholds import DEFAULT_THRESHOLDS, STRICT_THRESHOLDS, Thresholds
    from lix_cache.messages.session_key import SessionKey
    from lix_cache.observability.json_logs import json_logs
    from lix_cache.observability.prometheus import CacheCollector, register_metrics
    from lix_cache.semantic.cache import AsyncSemanticCache, SemanticCache
    from lix_cache.semantic.calls_in_flight import AsyncInFlightCall, InFlightCall
    from lix_cache.semantic.explain import Explanation, Neighbour
    from lix_cache.semantic.policy import CachePolicy, Refusal
    from lix_cache.semantic.result import Lookup, Report, Stored
    from lix_cache.session.archive import AsyncConversationArchive, AsyncReports
    from lix_cache.session.cache import AsyncHybridConversationCache, HybridConversationCache
    from lix_cache.session.evictor import Evictor
    from lix_cache.session.offload import Moved
    from lix_cache.session.results import AddedMessages, StoredMessage
    from lix_cache.session.window import AsyncSessionContextWindow, SessionContextWindow
    from lix_cache.values.streamed import Streamed
    from lix_cache.verifiers.cross_encoder import CrossEncoderVerifier
    from lix_cache.verifiers.onnx import OnnxVerifier
    from lix_cache.verifiers.protocol import Verifier

__version__ = "1.0.0.dev0"

#: Where the public names are made; the others are errors.
_HOMES = {
    "ArchiveReport": "archive.verify",
    "AsyncReports": "session.archive",
    "CacheCollector": "observability.prometheus",
    "Check": "admin",
    "Clock": "clock",
    "Compacted": "archive.compaction",
    "Deleted": "admin",
    "EmbeddingStore": "embedders.cached",
    "FileCheck": "admin",
    "Labelled": "evaluation.questions",
    "Migrated": "admin",
    "Mistake": "evaluation.evaluate",
    "Moved": "session.offload",
    "Offloaded": "admin",
    "Refusal": "semantic.policy",
    "ServerBinary": "embedded.binary",
    "SessionInfo": "admin",
    "StoreStats": "admin",
    "TrainingOptions": "huffman_codec.training",
    "AddedMessages": "session.results",
    "AsyncCacheCoordinator": "coordinator",
    "AsyncConversationArchive": "session.archive",
    "AsyncHybridConversationCache": "session.cache",
    "AsyncInFlightCall": "semantic.calls_in_flight",
    "AsyncSemanticCache": "semantic.cache",
    "AsyncSemanticCacheRedis": "compat.caches",
    "AsyncSessionContextWindow": "session.window",
    "AsyncStoreAdmin": "admin",
    "AsyncURLEmbeddingCache": "compat.caches",
    "CacheConfig": "config",
    "CacheCoordinator": "coordinator",
    "CachePolicy": "semantic.policy",
    "CachedEmbedder": "embedders.cached",
    "Calibration": "evaluation.calibration",
    "CalibrationPoint": "evaluation.calibration",
    "ConversationArchive": "archive.archive",
    "CrossEncoderVerifier": "verifiers.cross_encoder",
    "DEFAULT_THRESHOLDS": "matching.thresholds",
    "EmbeddedRedis": "embedded",
    "Embedder": "embedders.protocol",
    "Evictor": "session.evictor",
    "Explanation": "semantic.explain",
    "HashingEmbedder": "embedders.hashing",
    "HuffmanCodec": "huffman_codec",
    "HybridConversationCache": "session.cache",
    "InFlightCall": "semantic.calls_in_flight",
    "Neighbour": "semantic.explain",
    "Thresholds": "matching.thresholds",
    "Lookup": "semantic.result",
    "OnnxEmbedder": "embedders.onnx",
    "OnnxVerifier": "verifiers.onnx",
    "OpenAIEmbedder": "embedders.http",
    "Pair": "evaluation.evaluate",
    "PairEvaluation": "evaluation.evaluate",
    "Dictionary": "huffman_codec._dictionary",
    "Prices": "config",
    "Question": "evaluation.questions",
    "QuestionLog": "evaluation.question_log",
    "Reason": "matching.reasons",
    "Report": "semantic.result",
    "Evaluation": "evaluation.evaluate",
    "STRICT_THRESHOLDS": "matching.thresholds",
    "SemanticCache": "semantic.cache",
    "SemanticCacheRedis": "compat.caches",
    "SemanticSettings": "config",
    "SentenceTransformerEmbedder": "embedders.sentence_transformer",
    "SessionContextWindow": "session.window",
    "SessionKey": "messages.session_key",
    "SessionPage": "admin",
    "StoreAdmin": "admin",
    "Stored": "semantic.result",
    "StoredMessage": "session.results",
    "Streamed": "values.streamed",
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
    "evaluate_pairs": "evaluation.evaluate",
    "load_thresholds": "evaluation.thresholds_file",
    "questions_from_log": "evaluation.questions",
    "questions_from_pairs": "evaluation.questions",
    "register_metrics": "observability.prometheus",
    "evaluate": "evaluation.evaluate",
    "save_thresholds": "evaluation.thresholds_file",
    "train_dictionary": "huffman_codec.training",
}

__all__ = [
    "DEFAULT_THRESHOLDS",
    "STRICT_THRESHOLDS",
    "AddedMessages",
    "ArchiveBusy",
    "ArchiveCorrupt",
    "ArchiveError",
    "ArchiveMismatch",
    "ArchiveReport",
    "ArchiveTooLarge",
    "ArchiveUnavailable",
    "AsyncCacheCoordinator",
    "AsyncConversationArchive",
    "AsyncHybridConversationCache",
    "AsyncInFlightCall",
    "AsyncReports",
    "AsyncSemanticCache",
    "AsyncSemanticCacheRedis",
    "AsyncSessionContextWindow",
    "AsyncStoreAdmin",
    "AsyncURLEmbeddingCache",
    "CacheCollector",
    "CacheConfig",
    "CacheCoordinator",
    "CachePolicy",
    "CachedEmbedder",
    "Calibration",
    "CalibrationPoint",
    "Check",
    "Clock",
    "CodecError",
    "Compacted",
    "ComputeTimeout",
    "ConfigError",
    "ConversationArchive",
    "CrossEncoderVerifier",
    "Deleted",
    "Dictionary",
    "DimensionMismatch",
    "EmbeddedRedis",
    "Embedder",
    "EmbedderError",
    "EmbedderUnavailable",
    "EmbeddingStore",
    "EngineBusy",
    "EngineError",
    "Evaluation",
    "Evictor",
    "Explanation",
    "FileCheck",
    "HashingEmbedder",
    "HuffmanCodec",
    "HybridConversationCache",
    "InFlightCall",
    "InvalidContext",
    "InvalidInput",
    "InvalidMessage",
    "InvalidSessionId",
    "InvalidType",
    "InvalidVector",
    "KeyReused",
    "KvBusy",
    "KvError",
    "KvUnavailable",
    "Labelled",
    "LayoutMismatch",
    "LixCacheError",
    "Lookup",
    "MessageNotFound",
    "Migrated",
    "MissingDictionary",
    "MissingExtra",
    "Mistake",
    "Moved",
    "Neighbour",
    "NoRedisServer",
    "Offloaded",
    "OnnxEmbedder",
    "OnnxVerifier",
    "OpenAIEmbedder",
    "Pair",
    "PairEvaluation",
    "Prices",
    "Question",
    "QuestionLog",
    "Reason",
    "RedisAuthError",
    "RedisCommandError",
    "RedisDatabaseError",
    "RedisError",
    "RedisUnavailable",
    "Refusal",
    "Report",
    "RevisionMismatch",
    "SemanticCache",
    "SemanticCacheRedis",
    "SemanticSettings",
    "SentenceTransformerEmbedder",
    "ServerBinary",
    "SessionContextWindow",
    "SessionInfo",
    "SessionKey",
    "SessionPage",
    "StoreAdmin",
    "StoreStats",
    "Stored",
    "StoredMessage",
    "StreamInterrupted",
    "Streamed",
    "Thresholds",
    "TrainingOptions",
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
    "evaluate",
    "evaluate_pairs",
    "json_logs",
    "load_thresholds",
    "questions_from_log",
    "questions_from_pairs",
    "register_metrics",
    "save_thresholds",
    "train_dictionary",
]


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'lix_cache' has no attribute {name!r}")
    value = getattr(import_module(f"lix_cache.{_HOMES.get(name, 'errors')}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
