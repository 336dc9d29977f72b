"""ArchiveStore: the files of a folder, a session at a time, safe between threads and processes.

Methods that end in ``_locked`` expect the caller to hold the session's lock; every other
method may be called at any time. Every change is ordered so that a crash between two steps
leaves either what was, or what should be, or something the next writer completes.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Sequence
from functools import partial

from lix_cache._log import logger
from lix_cache.archive import index, reading
from lix_cache.archive.compaction import compaction, one_by_one
from lix_cache.archive.expiry import DAY, Now, is_expired, now_by
from lix_cache.archive.facts import CompactedSession, TrashedSession
from lix_cache.archive.folder import LOCKS, PROBE, temporary_path
from lix_cache.archive.marking import ArchiveMarker
from lix_cache.archive.names import SUFFIX, session_id_of_stem
from lix_cache.archive.restoring import restored
from lix_cache.archive.tombstones import Deletion
from lix_cache.archive.verify import ArchiveReport, verify_bytes, verify_file
from lix_cache.errors import ArchiveCorrupt, ArchiveError, ArchiveUnavailable, LixCacheError
from lix_cache.messages.turn import ZERO_ID, MessageId

__all__ = ["KEEP_NONCES_MS", "ArchiveStore"]

#: Compaction keeps the nonces of messages younger than this (docs/archive-format.md).
KEEP_NONCES_MS = 86_400_000


class ArchiveStore(ArchiveMarker):
    """What :class:`~lix_cache.archive.archive.ConversationArchive` and the hybrid store share."""

    def compact_locked(
        self, session_id: str, *, idle_seconds: float, dry_run: bool = False
    ) -> CompactedSession:
        """Merge the small frames of a session's file, if it is idle.

        Raises:
            ArchiveCorrupt: something intact cannot be decoded; the file is as it was.
        """
        path = self._path_of(session_id)
        tail = self._files.read_tail(path, index.TAIL_BYTES) if path else None
        if path is None or tail is None or self._is_legacy(path):
            # A version 1 file is one frame; its first append makes more of it.
            return CompactedSession()
        self._check_owner(path, session_id)
        now_ms = int(self._clock.time() * 1000)
        frame = index.index_at_end(tail.data, tail.size)
        if frame is not None:
            if now_ms - frame.index.updated_ms < idle_seconds * 1000:
                return CompactedSession(is_active=True)
            if frame.index.total == frame.index.count:
                return CompactedSession()
        data = self._files.read(path) or b""
        found = compaction(data, self._codec.patient(), now_ms=now_ms, keep_ms=KEEP_NONCES_MS)
        if found is None:
            return CompactedSession()
        if not dry_run:
            if found.aside:
                self._set_aside(path, found.aside)
                self._count("repairs")
            self._replace_file(path, found.data)
            self._count("compactions")
            self.changes.note(session_id)
        return CompactedSession(
            is_changed=True,
            frames_before=found.frames_before,
            frames_after=found.frames_after,
            bytes_before=len(data),
            bytes_after=len(found.data),
        )

    def compact_many(
        self, session_ids: Sequence[str], *, idle_seconds: float, dry_run: bool = False, bundle: bool = False
    ) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
        """Compact sessions one after the other: each has a file of its own. See ColdTier."""
        del bundle
        compact = partial(self.compact_locked, idle_seconds=idle_seconds, dry_run=dry_run)
        return one_by_one(self, session_ids, compact)

    def delete_locked(
        self, session_id: str, up_to: MessageId = ZERO_ID, late: Collection[bytes] = ()
    ) -> bool:
        """Remove all that a session has on disk, damage set aside included; False if nothing.

        Args:
            session_id: the session.
            up_to: the largest id that Redis may have given it. It is remembered, so that a
                Redis that goes back to an older state does not bring the session back.
            late: nonces of messages whose adds may be carried out later; remembered as well, with
                those that the file is in doubt about.
        """
        paths = list(self._paths_of(session_id))
        for path in paths:
            self._check_owner(path, session_id)
        before = self._tombstones.of(session_id)
        nonces = before.nonces.union(late, self.contested(session_id, locked=True))
        deletion = Deletion(max(up_to, before.up_to), nonces)
        unnoted = deletion != before
        if unnoted:
            # First of all: a deletion that is stopped half-way is asked for again, but what it
            # has removed must not come back from Redis meanwhile.
            try:
                self._note_deletion_locked(session_id, deletion)
                unnoted = False
            except ArchiveUnavailable:
                # A full disk. The files that are about to go make room for it.
                logger.warning("a deletion cannot be noted before its files are gone")
        # What was set aside, what is in the trash, and what a crash left of a whole-file change
        # goes before the file: it holds the session's words as well, and once the file is gone
        # nothing leads there.
        removed = self._trash.remove(session_id)
        rest = self._files.remove(temporary_path(self._own_path(session_id)))
        for path in self._set_aside_of(session_id):
            rest |= self._files.remove(path)
        # The one that counts goes last: an older one must not take its place if we stop.
        for path in reversed(paths):
            removed |= self._files.remove(path)
        if removed or rest:
            self._files.sync_folder(self.folder)
        if unnoted:
            self._note_deletion_locked(session_id, deletion)
        self.unmark_pending_locked(session_id)
        # Also where nothing was left: what a stopped deletion removed, it may have reported to no caller.
        self.changes.note(session_id)
        return removed

    def _note_deletion_locked(self, session_id: str, deletion: Deletion) -> None:
        self._make_folders()
        self._tombstones.put(session_id, deletion)

    def forget_deletions(self, older_than_ms: int) -> int:
        """Drop what is remembered of deletions when Redis can no longer hold anything older.

        Args:
            older_than_ms: Unix milliseconds.

        Returns:
            How many were dropped.
        """
        return self._tombstones.forget(older_than_ms, self._try_stripe)

    def now(self, *others: float) -> Now:
        """Return what time it is by our clock, by the file system's, and by those given."""
        clocks = [self._clock.time(), *others]
        if self._files.exists(self.folder):
            self._make_folders()
            clocks.append(self._files.now(self._in_folder(LOCKS, PROBE)))
        return now_by(clocks, "file system")

    def expired_sessions(self, ttl_seconds: float, now: Now) -> list[str]:
        """Return the sessions that have given no sign of life for so long."""
        cutoff_ms = (now.earliest - ttl_seconds) * 1000
        # One that was written to since is no candidate, whatever it says of itself: it need not be read.
        written = [(name, ms) for name, ms in self._written() if ms < cutoff_ms]
        metas = ((self._listed(name), ms / 1000) for name, ms in written)
        return [
            meta.session_id
            for meta, modified in metas
            # The last use is that of the largest id, or later.
            if meta is not None
            and is_expired(now, ttl_seconds, meta.updated_at, ZERO_ID, max(meta.last_use, modified))
        ]

    def expire_locked(self, session_id: str, ttl_seconds: float, now: Now, *, to_trash: bool) -> bool:
        """Take a session away if, looked at under its lock, it is still expired."""
        if not self._is_expired(session_id, ttl_seconds, now, locked=True):
            return False
        return self.trash_locked(session_id, now) if to_trash else self.delete_locked(session_id)

    def _is_expired(self, session_id: str, ttl_seconds: float, now: Now, *, locked: bool = False) -> bool:
        try:
            meta = self.metadata(session_id, locked=locked)
            path = self._path_of(session_id)
            if meta is None or path is None or meta.updated_at >= now.earliest - ttl_seconds:
                return False
            modified = self._files.modified(path)
            newest = self.last_index(session_id, locked=locked).newest
        except ArchiveError as error:
            self.note_not_expired(session_id, error)
            return False
        return modified is not None and is_expired(now, ttl_seconds, meta.updated_at, newest, modified)

    def trash_locked(self, session_id: str, now: Now) -> bool:
        """Move all that a session has on disk to the trash; False if there is nothing."""
        paths = list(self._paths_of(session_id))
        for path in paths:
            self._check_owner(path, session_id)
        # In the order of a deletion, and for the same reasons.
        self._files.remove(temporary_path(self._own_path(session_id)))
        ms = int(now.latest * 1000)
        for path in self._set_aside_of(session_id):
            self._trash.put(path, session_id, ms, path[path.rindex(".damaged-") :])
        for path in reversed(paths):
            self._trash.put(path, session_id, ms)
        if paths:
            self._files.sync_folder(self.folder)
        self.unmark_pending_locked(session_id)
        if paths:
            self.changes.note(session_id)
        return bool(paths)

    def restore_locked(self, session_id: str) -> bool:
        """Restore a session from the trash; False if it is not there.

        A session that has begun anew meanwhile keeps what it has: both are merged by id.
        Stopped at any step and run again: what is back already is recognised by its ids.

        Raises:
            ArchiveCorrupt: a file in the trash is invalid. It stays there; the others are back.
        """
        found = self._trash.of(session_id)
        if not found:
            return False
        self._make_folders()
        failure: ArchiveCorrupt | None = None
        for one in found:
            # A sign of life, first: what is taken back must not expire again within the hour.
            self._files.stamp(one.path)
            if one.is_damaged:
                self._files.rename(one.path, self._free_damaged(self._own_path(session_id)))
            elif not self.exists(session_id) and not self._is_legacy(one.path):
                self._files.rename(one.path, self._own_path(session_id))
            else:
                try:
                    self._merge_locked(one.path, session_id)
                except ArchiveCorrupt as error:
                    failure = failure or error
        self._files.sync_folder(self.folder)
        self.changes.note(session_id)
        if failure is not None:
            raise failure
        return True

    def _merge_locked(self, trashed: str, session_id: str) -> None:
        old = reading.parse_contents(self._files.read(trashed) or b"", os.path.basename(trashed), self._most)
        new = self.contents(session_id, locked=True)
        path = self._own_path(session_id)
        # The new file holds what can be decoded of either. The rest is kept, byte by byte.
        if old.damaged:
            self._set_aside(path, self._files.read(trashed) or b"")
        if new is not None and new.damaged:
            self._set_aside(path, self.raw(session_id) or b"")
        self._replace_file(path, restored(session_id, old, new, self._codec))
        for outdated in list(self._paths_of(session_id))[1:]:
            self._files.remove(outdated)
        # Everything is in the session's file, durably.
        self._files.remove(trashed)

    def empty_trash(self, now: Now, days: float) -> int:
        """Remove for good what has been in the trash for so many days. Returns how many files.

        Sessions whose lock is held are left for the next time: one that is being taken back
        must come back whole.
        """
        before_ms = (now.earliest - days * DAY) * 1000
        count = 0
        for number in {one.lock for one in self._trash.all() if one.ms < before_ms}:
            lock = self._try_stripe(number)
            if lock is None:
                continue
            with lock:
                count += self._trash.empty(number, before_ms)
        return count

    def trashed(self) -> Iterator[TrashedSession]:
        """Yield what is in the trash."""
        for one in self._trash.all():
            tail = None if one.is_damaged else self._files.read_tail(one.path, 0)
            if tail is not None:
                header = reading.read_header(self._files, one.path)
                session_id = session_id_of_stem(one.stem) if header is None else header.session_id
                yield TrashedSession(session_id, one.ms / 1000, tail.size)

    def tidy(self, now: Now, trash_days: float, older_than_ms: int) -> Iterator[None]:
        """Empty the trash and forget deletions. What a crash leaves is cleared away by the next writer."""
        self.empty_trash(now, trash_days)
        yield
        self.forget_deletions(older_than_ms)

    def report(self, session_id: str) -> ArchiveReport | None:
        """Check every byte of a session's file; None if there is none."""
        data = self.raw(session_id)
        return None if data is None else verify_bytes(data, session_id)

    def reports(self) -> Iterator[ArchiveReport]:
        """Yield the report of every file, by file name."""
        for name in sorted(self.session_files()):
            data = self.raw_file(name)
            if data is not None:
                yield verify_file(data, name[: -len(SUFFIX)])[1]
