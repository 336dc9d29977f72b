"""AsyncStoreAdmin: looking after a whole store from an event loop."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from lix_cache.admin.listing import session_page
from lix_cache.admin.store import StoreAdmin
from lix_cache.drivers.threads import in_disk_thread, in_thread
from lix_cache.session.layout import AsyncStoreDriver
from lix_cache.session.store import open_store

if TYPE_CHECKING:
    from lix_cache.admin.results import (
        FileCheck,
        SessionPage,
    )
    from lix_cache.config import CacheConfig
    from lix_cache.messages.session_key import SessionName

__all__ = ["AsyncStoreAdmin"]

T = TypeVar("T")


class AsyncStoreAdmin:
    """Async variant of :class:`~lix_cache.StoreAdmin`: same arguments, same meaning.

    :meth:`session_page`, which an application may show to its users, waits on the loop. What a keeper does
    now and then runs in a thread, with connections of its own; ``on_progress`` is called there.

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

    sessions = in_thread(StoreAdmin.sessions)
    session = in_thread(StoreAdmin.session)
    messages = in_thread(StoreAdmin.messages)
    session_ids = in_thread(StoreAdmin.session_ids)
    is_of_other_prefixes = in_thread(StoreAdmin.is_of_other_prefixes)
    stats = in_thread(StoreAdmin.stats)
    offload = in_thread(StoreAdmin.offload)
    compact = in_thread(StoreAdmin.compact)
    migrate = in_thread(StoreAdmin.migrate)
    migrate_buckets = in_thread(StoreAdmin.migrate_buckets)
    adopt_archive = in_thread(StoreAdmin.adopt_archive)
    delete_namespace = in_thread(StoreAdmin.delete_namespace)
    trashed = in_thread(StoreAdmin.trashed)
    restore = in_thread(StoreAdmin.restore)
    archive_files = in_thread(StoreAdmin.archive_files)
    set_aside_files = in_thread(StoreAdmin.set_aside_files)
    unreadable_files = in_thread(StoreAdmin.unreadable_files)
    doctor = in_thread(StoreAdmin.doctor)

    async def verify(
        self,
        session_id: SessionName | None = None,
        *,
        namespace: str | None = None,
        after: str | None = None,
    ) -> list[FileCheck]:
        """Return what :meth:`StoreAdmin.verify` yields."""
        return await in_disk_thread(
            lambda: list(self.sync.verify(session_id, namespace=namespace, after=after)),
            may_wait_for_lock=True,
        )
