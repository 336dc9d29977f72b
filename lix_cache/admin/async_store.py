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

    from lix_cache.admin.results import Check, Deleted, Offloaded, SessionInfo, SessionPage, StoreStats
    from lix_cache.archive.compaction import Compacted
    from lix_cache.config import CacheConfig
    from lix_cache.messages.session_key import SessionName

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

    async def session_page(
        self, limit: int = 100, cursor: str | None = None, *, namespace: str | None = None
    ) -> SessionPage:
        """See :meth:`StoreAdmin.session_page`."""
        return await self._drive(session_page(self._store, limit, cursor, namespace))

    async def sessions(self, limit: int | None = None, *, namespace: str | None = None) -> list[SessionInfo]:
        """See :meth:`StoreAdmin.sessions`."""
        call = partial(self.sync.sessions, limit, namespace=namespace)
        return await in_disk_thread(call, may_wait_for_lock=True)

    async def delete_namespace(self, namespace: str) -> Deleted:
        """See :meth:`StoreAdmin.delete_namespace`."""
        return await in_disk_thread(partial(self.sync.delete_namespace, namespace), may_wait_for_lock=True)

    async def session(self, session_id: SessionName) -> SessionInfo | None:
        """See :meth:`StoreAdmin.session`."""
        return await in_disk_thread(partial(self.sync.session, session_id), may_wait_for_lock=True)

    async def stats(self) -> StoreStats:
        """See :meth:`StoreAdmin.stats`."""
        return await in_disk_thread(self.sync.stats, may_wait_for_lock=True)

    async def offload(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[SessionName] | None = None,
        namespace: str | None = None,
    ) -> Offloaded:
        """See :meth:`StoreAdmin.offload`."""
        call = partial(self.sync.offload, idle_seconds, session_ids=session_ids, namespace=namespace)
        return await in_disk_thread(call, may_wait_for_lock=True)

    async def compact(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[SessionName] | None = None,
        dry_run: bool = False,
    ) -> Compacted:
        """See :meth:`StoreAdmin.compact`."""
        call = partial(self.sync.compact, idle_seconds, session_ids=session_ids, dry_run=dry_run)
        return await in_disk_thread(call, may_wait_for_lock=True)

    async def trashed(self) -> list[dict[str, Any]]:
        """See :meth:`StoreAdmin.trashed`."""
        return await in_disk_thread(self.sync.trashed, may_wait_for_lock=True)

    async def restore(self, session_id: SessionName) -> bool:
        """See :meth:`StoreAdmin.restore`."""
        return await in_disk_thread(partial(self.sync.restore, session_id), may_wait_for_lock=True)

    async def doctor(self) -> list[Check]:
        """See :meth:`StoreAdmin.doctor`."""
        return await in_disk_thread(self.sync.doctor, may_wait_for_lock=True)
