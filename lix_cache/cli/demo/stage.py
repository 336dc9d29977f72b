"""Where a demo plays: a server, keys and a folder of its own, and nothing left of them afterwards."""

from __future__ import annotations

import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from lix_cache import CacheConfig, EmbeddedRedis, HashingEmbedder, create_redis_client, ensure_redis

__all__ = ["EMBEDDER", "Stage", "set_up"]

#: Lexical: it stands in for a real model so that the demo needs none.
EMBEDDER = HashingEmbedder()

_TTL_SECONDS = 3600


@dataclass(frozen=True)
class Stage:
    """A place for one run.

    Attributes:
        config: the store: an empty one, even on a server with other users.
        folder: holds the archive.
        server: the server, in words.
        how_to_return: the options that lead to what a run with ``--keep`` left.
    """

    config: CacheConfig
    folder: str
    server: str
    how_to_return: str


@contextmanager
def set_up(base: CacheConfig, data_dir: str | None, *, url_was_given: bool, keep: bool) -> Iterator[Stage]:
    """Prepare a stage, and clear it away at the end unless it should be kept.

    Args:
        base: the user's settings.
        data_dir: folder for the private server and the archive; the usual one by default.
        url_was_given: use the server of ``base`` and no other.
        keep: leave keys and files.

    Raises:
        RedisError, NoRedisServer: there is no server to work with.
    """
    server = EmbeddedRedis(existing=base) if url_was_given else ensure_redis(base, data_dir=data_dir)
    run = f"{time.strftime('%Y%m%d-%H%M%S')}-{uuid.uuid4().hex[:6]}"
    home = str(EmbeddedRedis(data_dir).data_dir)
    folder = os.path.join(home, "demo", run)
    config = _config(server.config(base), run, os.path.join(folder, "archive"))
    try:
        create_redis_client(db=config.session_redis_db, config=config)
        os.makedirs(folder, mode=0o700)
        yield Stage(config, folder, server.source, _how_to_return(config, server, data_dir))
    finally:
        try:
            if not keep:
                _clear(config, folder)
        finally:
            server.stop()


def _config(base: CacheConfig, run: str, archive: str) -> CacheConfig:
    return base.replace(
        redis_key_prefix=f"lix-demo-{run}",
        archive_dir=archive,
        # The thread moves what overflows; who is idle is up to the story that is played.
        evictor_enabled=True,
        evict_after_minutes=120,
        session_ttl_seconds=86400,
        # Should the demo be killed, its keys go by themselves.
        disk_ttl_days=1,
        semantic_ttl_seconds=_TTL_SECONDS,
        url_cache_ttl_seconds=_TTL_SECONDS,
        embedder_id=EMBEDDER.id,
        embedding_dim=EMBEDDER.dim,
    )


def _how_to_return(config: CacheConfig, server: EmbeddedRedis, data_dir: str | None) -> str:
    options = f"--prefix {config.redis_key_prefix} --archive-dir '{config.archive_dir}'"
    if not server.is_ours:
        return f"lix-cache {options}"
    where = f"LIX_CACHE_DATA_DIR='{os.path.abspath(data_dir)}' " if data_dir else ""
    return f"{where}lix-cache --embedded {options}"


def _clear(config: CacheConfig, folder: str) -> None:
    pattern = re.sub(r"([*?\[\]\\^-])", r"\\\1", config.redis_key_prefix) + ":*"
    for db in sorted({config.session_redis_db, config.semantic_redis_db, config.url_cache_redis_db}):
        client = create_redis_client(db=db, config=config)
        for key in client.scan_iter(match=pattern, count=1000):
            client.unlink(key)
    shutil.rmtree(folder, ignore_errors=True)
