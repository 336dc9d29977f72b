"""AsyncStoreAdmin: looking after a whole store from an event loop."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.admin.listing import session_page
from lix_cache.admin.progress import OnProgress, silent
from lix_cache.admin.store import StoreAdmin
from lix_cache.drivers.threads import in_disk_thread
from lix_cache.session.layout import AsyncStoreDriver
from lix_cache.session.store import open_store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from lix_cache.admin.results import (
        Check,
        Deleted,
        FileCheck,
        Migrated,
        Offloaded,
        SessionInfo,
        SessionPage,
        StoreStats,
    )
    from lix_cache.archive.compaction import Compacted
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

    @staticmethod
    async def _run(call: Callable[..., T], *args: Any) -> T:
        return await in_disk_thread(partial(call, *args), may_wait_for_lock=True)

    async def session_page(
        self, limit: int = 100, cursor: str | None = None, *, namespace: str | None = None
    ) -> SessionPage:
        """See :meth:`StoreAdmin.session_page`."""
        return await self._drive(session_page(self._store, limit, cursor, namespace))

    async def sessions(self, limit: int | None = None, *, namespace: str | None = None) -> list[SessionInfo]:
        """See :meth:`StoreAdmin.sessions`."""
        return await self._run(partial(self.sync.sessions, limit, namespace=namespace))

    async def delete_namespace(self, namespace: str, *, on_progress: OnProgress = silent) -> Deleted:
        """See :meth:`StoreAdmin.delete_namespace`."""
        return await self._run(partial(self.sync.delete_namespace, namespace, on_progress=on_progress))

    async def session(self, session_id: SessionName) -> SessionInfo | None:
        """See :meth:`StoreAdmin.session`."""
        return await self._run(self.sync.session, session_id)

    async def session_ids(self, *, namespace: str | None = None) -> list[SessionName]:
        """See :meth:`StoreAdmin.session_ids`."""
        return await self._run(partial(self.sync.session_ids, namespace=namespace))

    async def stats(self) -> StoreStats:
        """See :meth:`StoreAdmin.stats`."""
        return await self._run(self.sync.stats)

    async def offload(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[SessionName] | None = None,
        namespace: str | None = None,
        on_progress: OnProgress = silent,
    ) -> Offloaded:
        """See :meth:`StoreAdmin.offload`."""
        call = partial(
            self.sync.offload, session_ids=session_ids, namespace=namespace, on_progress=on_progress
        )
        return await self._run(call, idle_seconds)

    async def compact(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[SessionName] | None = None,
        dry_run: bool = False,
        on_progress: OnProgress = silent,
    ) -> Compacted:
        """See :meth:`StoreAdmin.compact`."""
        call = partial(self.sync.compact, session_ids=session_ids, dry_run=dry_run, on_progress=on_progress)
        return await self._run(call, idle_seconds)

    async def migrate(self, *, dry_run: bool = False, on_progress: OnProgress = silent) -> Migrated:
        """See :meth:`StoreAdmin.migrate`."""
        return await self._run(partial(self.sync.migrate, dry_run=dry_run, on_progress=on_progress))

    async def migrate_buckets(self, *, dry_run: bool = False) -> Migrated:
        """See :meth:`StoreAdmin.migrate_buckets`."""
        return await self._run(partial(self.sync.migrate_buckets, dry_run=dry_run))

    async def adopt_archive(self) -> None:
        """See :meth:`StoreAdmin.adopt_archive`."""
        await self._run(self.sync.adopt_archive)

    async def trashed(self, *, namespace: str | None = None) -> list[dict[str, Any]]:
        """See :meth:`StoreAdmin.trashed`."""
        return await self._run(partial(self.sync.trashed, namespace=namespace))

    async def restore(self, session_id: SessionName) -> bool:
        """See :meth:`StoreAdmin.restore`."""
        return await self._run(self.sync.restore, session_id)

    async def archive_files(self) -> list[str]:
        """See :meth:`StoreAdmin.archive_files`."""
        return await self._run(self.sync.archive_files)

    async def set_aside_files(self) -> list[str]:
        """See :meth:`StoreAdmin.set_aside_files`."""
        return await self._run(self.sync.set_aside_files)

    async def unreadable_files(self) -> list[str]:
        """See :meth:`StoreAdmin.unreadable_files`."""
        return await self._run(self.sync.unreadable_files)

    async def verify(self, session_id: SessionName | None = None) -> list[FileCheck]:
        """Return what :meth:`StoreAdmin.verify` yields."""
        return await self._run(lambda: list(self.sync.verify(session_id)))

    async def doctor(self) -> list[Check]:
        """See :meth:`StoreAdmin.doctor`."""
        return await self._run(self.sync.doctor)
