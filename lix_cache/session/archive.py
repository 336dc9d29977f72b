"""AsyncConversationArchive: the archive for event loops."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

from lix_cache.archive.archive import IDLE_SECONDS, MAX_FRAME_MB, TRASH_DAYS, ConversationArchive
from lix_cache.archive.compaction import Compacted
from lix_cache.archive.verify import ArchiveReport
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.drivers.threads import in_disk_thread
from lix_cache.messages.message import Message
from lix_cache.messages.session_key import SessionName

if TYPE_CHECKING:
    from lix_cache.archive.expiry import Now
    from lix_cache.storage.files import Files
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncConversationArchive", "AsyncReports"]

T = TypeVar("T")


class AsyncConversationArchive:
    """Async variant of :class:`~lix_cache.ConversationArchive`: same arguments, same meaning.

    Files are touched in threads, never on the loop. A cancelled call ends before the
    cancellation is delivered, so that no write goes on behind your back.

    Attributes:
        sync: the archive behind it.
    """

    def __init__(
        self,
        archive_dir: str | os.PathLike[str],
        session_ttl_days: float = 30,
        *,
        codec: str = "huffman",
        dictionary: str | os.PathLike[str] | None = None,
        on_damage: str = "recover",
        lock_timeout_seconds: float = 30,
        trash_days: float = TRASH_DAYS,
        max_frame_mb: int = MAX_FRAME_MB,
        clock: Clock = SYSTEM_CLOCK,
        files: Files | None = None,
    ) -> None:
        self.sync = ConversationArchive(
            archive_dir,
            session_ttl_days,
            codec=codec,
            dictionary=dictionary,
            on_damage=on_damage,
            lock_timeout_seconds=lock_timeout_seconds,
            trash_days=trash_days,
            max_frame_mb=max_frame_mb,
            clock=clock,
            files=files,
        )
        self.archive_dir = self.sync.archive_dir
        self.session_ttl_days = session_ttl_days
        self.trash_days = trash_days

    @staticmethod
    async def _run(call: Callable[..., T], *args: Any) -> T:
        return await in_disk_thread(partial(call, *args), may_wait_for_lock=True)

    async def append_turn(self, session_id: SessionName, turn: Message) -> bool:
        """See :meth:`ConversationArchive.append_turn`."""
        return await self._run(self.sync.append_turn, session_id, turn)

    async def append_turns(self, session_id: SessionName, turns: Sequence[Message]) -> bool:
        """See :meth:`ConversationArchive.append_turns`."""
        return await self._run(self.sync.append_turns, session_id, turns)

    async def load_all(self, session_id: SessionName) -> list[Message] | None:
        """See :meth:`ConversationArchive.load_all`."""
        return await self._run(self.sync.load_all, session_id)

    async def load_recent(self, session_id: SessionName, n: int) -> list[Message]:
        """See :meth:`ConversationArchive.load_recent`."""
        return await self._run(self.sync.load_recent, session_id, n)

    async def search_by_text(self, session_id: SessionName, query: str, top_k: int = 5) -> list[Message]:
        """See :meth:`ConversationArchive.search_by_text`."""
        return await self._run(self.sync.search_by_text, session_id, query, top_k)

    async def search_by_embedding(
        self, session_id: SessionName, query_embedding: VectorLike, top_k: int = 5
    ) -> list[Message]:
        """See :meth:`ConversationArchive.search_by_embedding`."""
        return await self._run(self.sync.search_by_embedding, session_id, query_embedding, top_k)

    async def delete_session(self, session_id: SessionName) -> bool:
        """See :meth:`ConversationArchive.delete_session`."""
        return await self._run(self.sync.delete_session, session_id)

    async def session_exists(self, session_id: SessionName) -> bool:
        """See :meth:`ConversationArchive.session_exists`."""
        return await self._run(self.sync.session_exists, session_id)

    async def get_metadata(self, session_id: SessionName) -> dict[str, Any] | None:
        """See :meth:`ConversationArchive.get_metadata`."""
        return await self._run(self.sync.get_metadata, session_id)

    async def cleanup_expired(self, keep: Callable[[SessionName], bool] | None = None) -> int:
        """See :meth:`ConversationArchive.cleanup_expired`."""
        return await self._run(self.sync.cleanup_expired, keep)

    async def expired_sessions(self, now: Now | None = None) -> list[SessionName]:
        """See :meth:`ConversationArchive.expired_sessions`."""
        return await self._run(self.sync.expired_sessions, now)

    async def trashed(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """See :meth:`ConversationArchive.trashed`."""
        return await self._run(self.sync.trashed, namespace)

    async def restore(self, session_id: SessionName) -> bool:
        """See :meth:`ConversationArchive.restore`."""
        return await self._run(self.sync.restore, session_id)

    async def compact(
        self,
        session_ids: Iterable[SessionName] | None = None,
        *,
        idle_seconds: float = IDLE_SECONDS,
        dry_run: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Compacted:
        """See :meth:`ConversationArchive.compact`; ``on_progress`` is called in a thread."""
        return await self._run(
            partial(
                self.sync.compact,
                session_ids,
                idle_seconds=idle_seconds,
                dry_run=dry_run,
                on_progress=on_progress,
            )
        )

    async def list_sessions(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """See :meth:`ConversationArchive.list_sessions`."""
        return await self._run(self.sync.list_sessions, namespace)

    async def verify(self, session_id: SessionName) -> ArchiveReport | None:
        """See :meth:`ConversationArchive.verify`."""
        return await self._run(self.sync.verify, session_id)

    def on_change(self, hook: Callable[[frozenset[SessionName]], None]) -> Callable[[], None]:
        """See :meth:`ConversationArchive.on_change`: the hook is called in a thread, never on the loop."""
        return self.sync.on_change(hook)

    async def stamps(self) -> dict[SessionName, str]:
        """See :meth:`ConversationArchive.stamps`."""
        return await self._run(self.sync.stamps)

    def verify_all(self) -> AsyncReports:
        """See :meth:`ConversationArchive.verify_all`: ``async for``, or ``await`` for all in a list."""
        return AsyncReports(self)


class AsyncReports:
    """The reports of all files: one by one with ``async for``, in a list with ``await``."""

    def __init__(self, archive: AsyncConversationArchive) -> None:
        self._archive = archive

    async def __aiter__(self) -> AsyncIterator[ArchiveReport]:
        reports = self._archive.sync.verify_all()
        # A file at a time is read, in a thread; the loop goes on between two.
        while (
            report := await in_disk_thread(partial(next, reports, None), may_wait_for_lock=True)
        ) is not None:
            yield report

    def __await__(self) -> Generator[Any, None, list[ArchiveReport]]:
        return self._all().__await__()

    async def _all(self) -> list[ArchiveReport]:
        return [report async for report in self]
