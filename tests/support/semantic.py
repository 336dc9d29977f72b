"""Semantic caches for tests: options in one flat dictionary, and caches as of another process."""

from __future__ import annotations

import dataclasses
from typing import Any, TypeVar

from lix_cache import SemanticSettings
from lix_cache.semantic.index_pool import IndexPool
from lix_cache.semantic.store import AnswerStore

__all__ = ["apart", "with_settings"]

C = TypeVar("C")

_NAMES = frozenset(field.name for field in dataclasses.fields(SemanticSettings))


def with_settings(**options: Any) -> dict[str, Any]:
    """Return the options as the class takes them: those that are settings go into ``settings``."""
    settings = {name: value for name, value in options.items() if name in _NAMES}
    others = {name: value for name, value in options.items() if name not in _NAMES}
    return {**others, "settings": SemanticSettings(**settings)} if settings else others


def apart(cache: C) -> C:
    """Return a cache that shares no index and no notes with others, as one of another process."""
    core: Any = cache._core  # type: ignore[attr-defined]
    core.redis.store = AnswerStore(IndexPool(core.redis.store.indexes.wanted_bytes))
    return cache
