"""AsyncStoreAdmin: looking after a whole store from an event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache.admin.listing import session_page
from lix_cache.admin.store import StoreAdmin
from lix_cache.drivers.threads import in_disk_thread
from lix_cache.session.layout import AsyncStoreDriver
from lix_cache.session.store import open_store

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lix_cache.admin.results import Check, Evicted, SessionInfo, SessionPage, StoreStats
    from lix_cache.archive.compaction import Compacted
    from lix_cache.config import CacheConfig

__all__ = ["AsyncStoreAdmin"]


class AsyncStoreAdmin:
    """Async twin of :class:`~lix_cache.StoreAdmin`: same arguments, same meaning.

    :meth:`session_page`, which an application may show to its users, waits on the loop. What a keeper does
    now and then runs in a thread, with connections of its own.

    Attributes:
        sync: the twin behind it.

    .. versionadded:: 1.0.0
    """

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.sync = StoreAdmin(config)
        self.config = self.sync.config
        self._store = open_store(self.config)
        self._drive = AsyncStoreDriver(self._store, notes=False)

    async def session_page(self, limit: int = 100, cursor: str | None = None) -> SessionPage:
        """See :meth:`StoreAdmin.session_page`."""
        return await self._drive(session_page(self._store, limit, cursor))

    async def sessions(self, limit: int | None = None) -> list[SessionInfo]:
        """See :meth:`StoreAdmin.sessions`."""
        return await in_disk_thread(partial(self.sync.sessions, limit), may_wait_for_lock=True)

    async def session(self, session_id: str) -> SessionInfo | None:
        """See :meth:`StoreAdmin.session`."""
        return await in_disk_thread(partial(self.sync.session, session_id), may_wait_for_lock=True)

    async def stats(self) -> StoreStats:
        """See :meth:`StoreAdmin.stats`."""
        return await in_disk_thread(self.sync.stats, may_wait_for_lock=True)

    async def evict(
        self, idle_seconds: float | None = None, *, session_ids: Iterable[str] | None = None
    ) -> Evicted:
        """See :meth:`StoreAdmin.evict`."""
        call = partial(self.sync.evict, idle_seconds, session_ids=session_ids)
        return await in_disk_thread(call, may_wait_for_lock=True)

    async def compact(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[str] | None = None,
        dry_run: bool = False,
    ) -> Compacted:
        """See :meth:`StoreAdmin.compact`."""
        call = partial(self.sync.compact, idle_seconds, session_ids=session_ids, dry_run=dry_run)
        return await in_disk_thread(call, may_wait_for_lock=True)

    async def trashed(self) -> list[dict[str, Any]]:
        """See :meth:`StoreAdmin.trashed`."""
        return await in_disk_thread(self.sync.trashed, may_wait_for_lock=True)

    async def restore(self, session_id: str) -> bool:
        """See :meth:`StoreAdmin.restore`."""
        return await in_disk_thread(partial(self.sync.restore, session_id), may_wait_for_lock=True)

    async def doctor(self) -> list[Check]:
        """See :meth:`StoreAdmin.doctor`."""
        return await in_disk_thread(self.sync.doctor, may_wait_for_lock=True)
