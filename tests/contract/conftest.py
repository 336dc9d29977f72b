"""Fixtures of the suites of session memory. Suites of other classes have their own of these names."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from lix_cache.config import CacheConfig
from tests.support.twins import Twins


@pytest.fixture
def config(redis_config: CacheConfig) -> CacheConfig:
    return redis_config.replace(hot_window_size=4, archive_batch_turns=2)


@pytest.fixture
def open_cache(twins: Twins, config: CacheConfig) -> Callable[..., Any]:
    """Makes caches of one store: of the session "s" unless another is named."""

    def make(session_id: str = "s", **changes: Any) -> Any:
        return twins.make("HybridConversationCache", session_id, config.replace(**changes))

    return make


@pytest.fixture
def cache(open_cache: Callable[..., Any]) -> Any:
    return open_cache()
