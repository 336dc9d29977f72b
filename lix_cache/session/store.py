"""What all caches of one store share: names, archive, counters, and whether Redis is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import repeat

from lix_cache.archive.archive import ConversationArchive
from lix_cache.archive.files import Files
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.hot.breaker import Breaker
from lix_cache.hot.client import Endpoint, endpoint_for
from lix_cache.hot.keys import Keys
from lix_cache.hot.window import HotWindow
from lix_cache.messages import NONCE_BYTES

__all__ = ["SessionStore", "StoreIdentity", "open_store"]


@dataclass(frozen=True)
class StoreIdentity:
    """Which data a store is about: two configurations with the same identity share it."""

    endpoint: Endpoint
    prefix: str
    archive_dir: str


@dataclass
class SessionStore:
    """The hot and the cold tier of many sessions.

    Attributes:
        config: settings.
        endpoint: the Redis of the session windows.
        hot: commands on windows.
        archive: the cold tier.
        breaker: whether Redis was gone a moment ago.
        counters: what happened, for ``get_stats``.
        outage_sessions: sessions this process wrote to while Redis was away.
        last_error: the last trouble that did not fail the call it happened in.
        clock: time.
        new_nonce: makes 6 random bytes.
    """

    config: CacheConfig
    endpoint: Endpoint
    hot: HotWindow
    archive: ConversationArchive
    breaker: Breaker
    clock: Clock = SYSTEM_CLOCK
    counters: Counter[str] = field(default_factory=Counter)
    outage_sessions: set[str] = field(default_factory=set)
    last_error: str | None = None
    new_nonce: Callable[[], bytes] = lambda: os.urandom(NONCE_BYTES)

    @property
    def identity(self) -> StoreIdentity:
        return StoreIdentity(
            self.endpoint, self.config.redis_key_prefix, os.path.abspath(self.archive.archive_dir)
        )

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter; safe between threads."""
        # Counted in one call into C. A lock could be left held by an exception out of a
        # signal handler, or by a thread that was not forked.
        self.counters.update(repeat(name, by))


def open_store(
    config: CacheConfig,
    *,
    host: str | None = None,
    port: int | None = None,
    db: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
    files: Files | None = None,
) -> SessionStore:
    """Describe the store a configuration means. Nothing is opened or sent.

    Args:
        config: settings.
        host: wins over the configuration.
        port: wins over the configuration.
        db: wins over ``session_redis_db``.
        clock: time.
        files: the file system.
    """
    endpoint = endpoint_for(config, config.session_redis_db if db is None else db, host=host, port=port)
    return SessionStore(
        config=config,
        endpoint=endpoint,
        hot=HotWindow(
            keys=Keys(config.redis_key_prefix, config.redis_buckets),
            life_ms=config.hot_life_seconds * 1000,
            batch=config.archive_batch_turns,
            coded=config.hot_codec == "huffman",
        ),
        archive=ConversationArchive(
            config.archive_dir,
            config.disk_ttl_days,
            codec=config.archive_codec,
            table=config.archive_table,
            on_damage=config.on_archive_damage,
            lock_timeout_seconds=config.archive_lock_timeout_seconds,
            clock=clock,
            files=files,
        ),
        breaker=Breaker(config.redis_retry_seconds, clock),
        clock=clock,
    )
