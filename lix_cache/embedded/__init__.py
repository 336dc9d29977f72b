"""A Redis server of one's own, for those who have none."""

from __future__ import annotations

from lix_cache.embedded.binary import ServerBinary, find_server_binary
from lix_cache.embedded.server import (
    DATA_DIR_VARIABLE,
    URL_VARIABLE,
    EmbeddedRedis,
    configured_or_private,
    ensure_redis,
)

__all__ = [
    "DATA_DIR_VARIABLE",
    "URL_VARIABLE",
    "EmbeddedRedis",
    "ServerBinary",
    "configured_or_private",
    "ensure_redis",
    "find_server_binary",
]
