"""What a whole store comes to: sessions, files, keys and bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lix_cache.admin import files, flows
from lix_cache.admin.probe import GRACE_SECONDS
from lix_cache.admin.results import StoreStats
from lix_cache.drivers.sync import SyncDriver
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.slots import nodes_for
from lix_cache.session import rounds

if TYPE_CHECKING:
    from lix_cache.config import CacheConfig
    from lix_cache.session.layout import StoreDriver
    from lix_cache.session.store import SessionStore

__all__ = ["totals"]


def totals(store: SessionStore, config: CacheConfig, drive: StoreDriver) -> StoreStats:
    """Count what there is, in Redis and on disk."""
    info = dict(drive(flows.ask(("INFO",))))
    hot = drive(rounds.list_hot(store))
    sizes = drive(flows.window_sizes(store, hot)).values()
    archive = store.archive
    names = files.session_files(archive)
    metas = list(archive.store.all_metadata())
    keys = store.hot.keys

    def count(db: int, pattern: str) -> int:
        there = SyncDriver(endpoint_for(config.redis, db), store.clock)
        return len(there(flows.find_keys(pattern)))

    overdue = drive(flows.server_time()) - store.settings.idle_seconds - GRACE_SECONDS
    is_valkey = "valkey_version" in info
    return StoreStats(
        server="valkey" if is_valkey else "redis",
        server_version=str(info.get("valkey_version" if is_valkey else "redis_version", "unknown")),
        server_memory_bytes=int(info.get("used_memory", 0)),
        hot_sessions=sum(1 for messages, _ in sizes if messages),
        hot_messages=sum(messages for messages, _ in sizes),
        window_bytes=sum(size for _, size in sizes),
        archive_files=len(names),
        archive_turns=sum(meta.num_turns for meta in metas),
        archive_bytes=sum(meta.size_bytes for meta in metas),
        unreadable_files=len(files.unreadable(archive)),
        set_aside_files=len(files.set_aside(archive)),
        pending_sessions=len(archive.store.pending_sessions()),
        overdue_sessions=sum(1 for used in hot.values() if used < overdue),
        evictor_runs=bool(drive(flows.ask(("EXISTS", keys.rounds())))),
        semantic_scopes=count(config.semantic_redis_db, keys.semantic_scope_pattern()),
        answer_scopes=count(config.semantic_redis_db, keys.answer_scope_pattern()),
        url_embeddings=count(config.url_cache_redis_db, keys.url_pattern()),
        masters=len(nodes_for(store.endpoint).masters) if store.endpoint.kind == "cluster" else 1,
    )
