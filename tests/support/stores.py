"""Stores of a test's own on servers that it shares with others."""

from __future__ import annotations

import os
import uuid
from typing import Any

from lix_cache.config import CacheConfig

__all__ = ["own_store"]


def own_store(server: Any, folder: str | os.PathLike[str], **settings: Any) -> CacheConfig:
    """Return a config for a server whose keys and archive no other test has, and without a daemon.

    Args:
        server: one, a cluster, or sentinels.
        folder: ``archive`` in it is the archive.
        settings: all that is not so by default.
    """
    common = {"archive_dir": os.path.join(folder, "archive"), "redis_key_prefix": f"t{uuid.uuid4().hex}"}
    # Machines stand still at times, for longer than an application would wait for its server.
    patient = {"redis_socket_timeout": 30, "redis_socket_connect_timeout": 30}
    config: CacheConfig = server.config(**{**common, **patient, "evictor_enabled": False, **settings})
    return config
