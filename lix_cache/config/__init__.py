"""Every setting: :class:`CacheConfig` as applications give it, and a frozen object for each subject.

Constructors take a ``CacheConfig``. What is below them takes the object of its own subject.
"""

from __future__ import annotations

from lix_cache.config.cache_config import CacheConfig, check_setting
from lix_cache.config.semantic import Prices, SemanticSettings
from lix_cache.config.subjects import (
    ArchiveSettings,
    EmbedderSettings,
    QueryCacheSettings,
    RedisSettings,
    SessionSettings,
    UrlCacheSettings,
)

__all__ = [
    "ArchiveSettings",
    "CacheConfig",
    "EmbedderSettings",
    "Prices",
    "QueryCacheSettings",
    "RedisSettings",
    "SemanticSettings",
    "SessionSettings",
    "UrlCacheSettings",
    "check_setting",
]
