"""Marks and deletions that a folder takes over from another archive."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial

from lix_cache.archive import encoding, reading
from lix_cache.archive.changing import ArchiveChanger
from lix_cache.archive.facts import Marks
from lix_cache.archive.header import FileHeader
from lix_cache.archive.lease import taken
from lix_cache.archive.restoring import whole_file
from lix_cache.archive.tombstones import Deletion
from lix_cache.errors import ArchiveBusy, LixCacheError
from lix_cache.messages.turn import ZERO_ID, Turn

__all__ = ["ArchiveMarker"]


class ArchiveMarker(ArchiveChanger):
    """What is remembered of sessions beside their messages."""

    def mark_many_locked(self, batch: Mapping[str, Marks]) -> dict[str, LixCacheError]:
        """Take over what another archive remembers of sessions. See ColdTier."""
        failed: dict[str, LixCacheError] = {}
        for session_id, marks in batch.items():
            try:
                self._mark_locked(session_id, marks)
            except LixCacheError as error:
                failed[session_id] = error
        return failed

    def _mark_locked(self, session_id: str, marks: Marks) -> None:
        if marks.pending:
            self.mark_pending_locked(session_id)
        lacking = marks.lacking(self.marks(session_id, locked=True))
        is_new = lacking.cleared != ZERO_ID and not self.exists(session_id)
        if lacking.said or lacking.dropped != ZERO_ID or is_new:
            self._change_locked(session_id, [], encoding.Change(dropped=lacking.dropped), lacking.said)
        if lacking.cleared != ZERO_ID:
            # A frame of its own, behind the other: after a crash between the two it is still lacking.
            self._clear_locked(session_id, lacking.cleared)

    def renew_locked(self, session_id: str, turns: Sequence[Turn], marks: Marks) -> None:
        """Put turns under their own ids, and marks, in the place of all there are. See ColdTier."""
        if marks.pending:
            self.mark_pending_locked(session_id)
        path = self._ready_path_locked(session_id)
        before, size = self._writable_tail_locked(path, session_id)
        now_ms = int(self._clock.time() * 1000)
        header = reading.read_header(self._files, path) if size else None
        header = header or FileHeader(now_ms / 1000, session_id)
        last = replace(before, cleared=marks.cleared, changes=before.changes + 1, dropped=marks.dropped)
        # Another name until all of it is on disk: a crash leaves the old file or the new one.
        self._replace_file(path, whole_file(header, turns, now_ms, self._codec.patient(), marks.said, last))
        self._count("changes")
        self.changes.note(session_id)

    def deletions(self) -> Iterator[tuple[str, Deletion]]:
        """Yield what is remembered of deletions, by the names of the notes."""
        return self._tombstones.all()

    def take_deletions(self, notes: Mapping[str, Deletion]) -> int:
        """Remember deletions that another archive remembers. See ColdTier."""
        count = 0
        for name, deletion in notes.items():
            before = self._tombstones.named(name)
            if before.joined(deletion) == before:
                continue
            lock = taken(partial(self._try_stripe, name[:3]), self.lock_pauses(), self._clock)
            if lock is None:
                raise ArchiveBusy("the note of a deletion was locked by another writer for too long")
            with lock:
                # Looked at again: the session may have been deleted here meanwhile.
                self._tombstones.put_named(name, self._tombstones.named(name).joined(deletion))
            count += 1
        return count
