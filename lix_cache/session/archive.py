"""AsyncConversationArchive: the archive for event loops."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Generator
from functools import partial
from typing import TYPE_CHECKING, Any

from lix_cache.archive.archive import MAX_FRAME_MB, TRASH_DAYS, ConversationArchive
from lix_cache.archive.verify import ArchiveReport
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.drivers.threads import in_disk_thread, in_thread
from lix_cache.messages.session_key import SessionName

if TYPE_CHECKING:
    from lix_cache.storage.files import Files

__all__ = ["AsyncConversationArchive", "AsyncReports"]


class AsyncConversationArchive:
    """Async variant of :class:`~lix_cache.ConversationArchive`: same arguments, same meaning.

    Files are touched in threads, never on the loop. A cancelled call ends before the
    cancellation is delivered, so that no write goes on behind your back. What is called back
    (``on_progress``, the hooks of :meth:`on_change`) is called in a thread, too.

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

    append_turn = in_thread(ConversationArchive.append_turn)
    append_turns = in_thread(ConversationArchive.append_turns)
    load_all = in_thread(ConversationArchive.load_all)
    load_recent = in_thread(ConversationArchive.load_recent)
    search_by_text = in_thread(ConversationArchive.search_by_text)
    search_by_embedding = in_thread(ConversationArchive.search_by_embedding)
    delete_session = in_thread(ConversationArchive.delete_session)
    session_exists = in_thread(ConversationArchive.session_exists)
    get_metadata = in_thread(ConversationArchive.get_metadata)
    cleanup_expired = in_thread(ConversationArchive.cleanup_expired)
    expired_sessions = in_thread(ConversationArchive.expired_sessions)
    trashed = in_thread(ConversationArchive.trashed)
    restore = in_thread(ConversationArchive.restore)
    compact = in_thread(ConversationArchive.compact)
    list_sessions = in_thread(ConversationArchive.list_sessions)
    verify = in_thread(ConversationArchive.verify)
    stamps = in_thread(ConversationArchive.stamps)

    def on_change(self, hook: Callable[[frozenset[SessionName]], None]) -> Callable[[], None]:
        """See :meth:`ConversationArchive.on_change`: the hook is called in a thread, never on the loop."""
        return self.sync.on_change(hook)

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
