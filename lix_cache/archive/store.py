"""ArchiveStore: the files of a folder, a session at a time, safe between threads and processes.

Methods that end in ``_locked`` expect the caller to hold the session's lock; every other
method may be called at any time. Every change is ordered so that a crash between two steps
leaves either what was, or what should be, or something the next writer completes.
"""

from __future__ import annotations

import errno
import os
import random
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from lix_cache._log import logger
from lix_cache.archive import format as fmt
from lix_cache.archive import legacy, reading
from lix_cache.archive.codecs import packer
from lix_cache.archive.compaction import Compaction, compaction
from lix_cache.archive.doubts import Doubts, Link, doubts_about
from lix_cache.archive.expiry import DAY, Now, is_expired
from lix_cache.archive.files import FileLock, Files, Write
from lix_cache.archive.identity import Known, newcomers
from lix_cache.archive.names import SUFFIX, file_stem, is_encoded, plain_stem, session_id_of_stem, stripe_of
from lix_cache.archive.restoring import restored
from lix_cache.archive.salvage import all_doubts
from lix_cache.archive.tombstones import FOLDER as DELETED
from lix_cache.archive.tombstones import Deletion, Tombstones
from lix_cache.archive.trash import Trash
from lix_cache.checks import given
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.errors import (
    ArchiveBusy,
    ArchiveCorrupt,
    ArchiveError,
    ArchiveUnavailable,
    ConfigError,
    LixCacheError,
)
from lix_cache.messages import ZERO_ID, MessageId, Turn, once, with_id

__all__ = ["ArchiveStore", "Extent", "lock_pauses"]

_LOCKS = ".locks"
_PENDING = ".pending"
_PROBE = "probe"
_DAMAGED = re.compile(r"\.damaged-[0-9]+\Z")
_LOCAL_SEQ = 1 << 46
#: Beyond what a double holds exactly, in which Redis compares numbers.
_LARGEST_SEQ = 1 << 52
#: Compaction keeps the nonces of messages younger than this (docs/archive-format.md).
KEEP_NONCES_MS = 86_400_000

T = TypeVar("T")


@dataclass(frozen=True)
class _Append:
    """What is to be written to a session's file.

    Attributes:
        path: the file.
        offset: its end; 0 where it is to be made.
        data: the bytes.
        count: turns in them.
        unsure: the file's name may not be durable yet.
    """

    path: str
    offset: int
    data: bytes
    count: int
    unsure: bool

    @property
    def write(self) -> Write:
        """The write to do; a file is made under another name first (see ``_replace_file``)."""
        if self.offset:
            return Write(self.path, self.offset, self.data)
        return Write(_temporary(self.path), None, self.data)


@dataclass(frozen=True)
class Extent:
    """How far a session has come.

    Attributes:
        newest: the largest id that was ever given to a message of it.
        cleared: messages up to here are history, no longer part of the context.
        deleted: messages up to here are gone.
        contested: messages of which Redis may hold or get copies under other ids, with their own id
            in the archive; ZERO_ID where they were deleted. Such copies do not count.
    """

    newest: MessageId = ZERO_ID
    cleared: MessageId = ZERO_ID
    deleted: MessageId = ZERO_ID
    contested: Mapping[bytes, MessageId] = field(default_factory=dict)


@dataclass(frozen=True)
class _File:
    """A session's file as a writer found it.

    Attributes:
        path: the file.
        index: its last index entry.
        size: its bytes up to the end of the last frame; 0 where it is to be made.
    """

    path: str
    index: fmt.FrameIndex
    size: int


class ArchiveStore:
    """What :class:`~lix_cache.archive.archive.ConversationArchive` and the hybrid store share."""

    def __init__(
        self,
        folder: str,
        *,
        codec: str = "huffman",
        table: str | os.PathLike[str] | None = None,
        on_damage: str = "recover",
        lock_timeout_seconds: float = 30,
        max_frame_bytes: int = fmt.MAX_DECODED,
        clock: Clock = SYSTEM_CLOCK,
        files: Files | None = None,
    ) -> None:
        if on_damage not in ("recover", "raise"):
            raise ConfigError(f"on_damage must be 'recover' or 'raise', {given(on_damage)}")
        self.folder = folder
        self.lock_timeout_seconds = lock_timeout_seconds
        #: ``damaged_reads``, ``repairs``, ``upgrades``, ``compactions`` and ``appends`` of this object.
        self.counters: Counter[str] = Counter()
        self._codec = packer(codec, table)
        self._raise_on_damage = on_damage == "raise"
        self._most = max_frame_bytes
        self._clock = clock
        self._files = files or Files()
        self._trash = Trash(self._files, folder)
        self._tombstones = Tombstones(self._files, folder, self._note_damage)
        self._have_folders = False

    # -- locks -------------------------------------------------------------------------

    @staticmethod
    def stripe(session_id: str) -> int:
        """Return which of the locks guards a session; several sessions may share one."""
        return stripe_of(session_id)

    def try_lock(self, session_id: str) -> FileLock | None:
        """Take the session's lock now, or return None if somebody has it."""
        return self._try_stripe(f"{stripe_of(session_id):03x}")

    def _try_stripe(self, number: str) -> FileLock | None:
        self._make_folders()
        path = self._in_folder(_LOCKS, number)
        try:
            return self._files.try_lock(path)
        except ArchiveUnavailable as error:
            if error.errno != errno.ENOENT:
                raise
        # The folder was removed since we made it. Whoever did that wants it empty, not us to fail.
        self._have_folders = False
        self._make_folders()
        return self._files.try_lock(path)

    def lock(self, session_id: str) -> FileLock:
        """Wait for the session's lock.

        Raises:
            ArchiveBusy: not to be had within ``lock_timeout_seconds``.
        """
        deadline = self._clock.monotonic() + self.lock_timeout_seconds
        for pause in lock_pauses():
            lock = self.try_lock(session_id)
            if lock is not None:
                return lock
            if self._clock.monotonic() > deadline:
                break
            self._clock.sleep(pause)
        raise self.busy_error(session_id)

    def busy_error(self, session_id: str) -> ArchiveBusy:
        return ArchiveBusy(
            f"the archive of session {session_id[:60]!r} was locked by another writer for more than "
            f"{self.lock_timeout_seconds} s; raise archive_lock_timeout_seconds or look for a stuck process"
        )

    def check_writable(self) -> None:
        """Write something to the folder, and make a lock there.

        Raises:
            ArchiveUnavailable: one of them was refused.
        """
        self._make_folders()
        # As much as a frame takes at least: a full disk has room for an empty file.
        self._files.write_synced(self._in_folder(_LOCKS, _PROBE), bytes(4096))
        lock = self._files.try_lock(self._in_folder(_LOCKS, f"{stripe_of('a probe'):03x}"))
        if lock is not None:
            lock.release()

    # -- reading -----------------------------------------------------------------------

    def exists(self, session_id: str) -> bool:
        """Whether the session has a file. One stat."""
        return self._path_of(session_id) is not None

    def contents(self, session_id: str, *, locked: bool = False) -> reading.Contents | None:
        """Read a session's whole file; None if there is none.

        Raises:
            ArchiveCorrupt: nothing is intact, or anything is not and damage raises.
        """
        return self._of_file(session_id, lambda path: self._contents_at(path, session_id, locked=locked))

    def turns(self, session_id: str, *, locked: bool = False) -> list[Turn]:
        """Return every turn, sorted by id."""
        found = self.contents(session_id, locked=locked)
        return [] if found is None else found.turns

    def recent(
        self, session_id: str, count: int, *, in_context: bool = False, locked: bool = False
    ) -> list[Turn]:
        """Return the last ``count`` turns, oldest first, reading no more than their frames.

        Args:
            in_context: leave out what :meth:`clear_locked` took out of the context.
            locked: whether the caller holds the session's lock.
        """
        if count <= 0:
            return []

        def read(path: str) -> tuple[list[Turn], MessageId] | None:
            self._check_owner(path, session_id)
            try:
                return reading.last_turns(self._files, path, count, self._most)
            except reading.TailUnreadable:
                # The long way, which also decides whether it is damage or a writer at work.
                found = self._contents_at(path, session_id, locked=locked)
                return None if found is None else (found.turns[-count:], found.index.cleared)

        turns, cleared = self._of_file(session_id, read) or ([], ZERO_ID)
        return [turn for turn in turns if turn.id > cleared] if in_context else turns

    def last_index(self, session_id: str, *, locked: bool = False) -> fmt.FrameIndex:
        """Return the last index entry (totals, largest id, what was cleared): one small read."""

        def read(path: str) -> fmt.FrameIndex | None:
            tail = self._files.read_tail(path, fmt.TAIL_BYTES)
            frame = fmt.index_at_end(tail.data, tail.size) if tail else None
            if frame is not None:
                return frame.index
            found = self._contents_at(path, session_id, locked=locked)
            return None if found is None else found.index

        return self._of_file(session_id, read) or fmt.EMPTY

    def look(self, session_id: str, *, locked: bool = False) -> Extent:
        """Return how far a session has come, as far as the disk knows. Two small reads."""
        index = self.last_index(session_id, locked=locked)
        gone = self._tombstones.of(session_id)
        contested = self._contested(session_id, index, gone)
        # What a damaged index says was cleared counts too: a smaller id would not be in the context.
        newest = max(index.newest, index.cleared, gone.up_to)
        return Extent(newest, index.cleared, gone.up_to, contested)

    def contested(self, session_id: str, *, locked: bool = False) -> Mapping[bytes, MessageId]:
        """Return ``contested`` of :meth:`look`; of a damaged file what can be read."""
        gone = self._tombstones.of(session_id)
        try:
            index = self.last_index(session_id, locked=locked)
            return self._contested(session_id, index, gone)
        except ArchiveCorrupt:
            # Counted and logged there.
            return dict.fromkeys(gone.nonces, ZERO_ID)

    def _contested(self, session_id: str, index: fmt.FrameIndex, gone: Deletion) -> Mapping[bytes, MessageId]:
        found = dict.fromkeys(gone.nonces, ZERO_ID)
        path = self._path_of(session_id)
        if path is None or not index.contested_at:
            return found
        tail = self._files.read_tail(path, 0)
        chain, _ = self._doubts(_File(path, index, 0 if tail is None else tail.size))
        # The last link counts, which comes first.
        for link in reversed(chain):
            found.update(link.items())
        return found

    def metadata(self, session_id: str, *, locked: bool = False) -> dict[str, Any] | None:
        """Return the metadata of a session's file, or None if there is none."""
        return self._of_file(session_id, lambda path: self._metadata_at(path, session_id, locked=locked))

    def all_metadata(self) -> Iterator[dict[str, Any]]:
        """Yield the metadata of every file; unreadable ones are counted and logged."""
        for name in list(self.session_files()):
            try:
                meta = self._metadata_at(self._in_folder(name), None)
            except (ArchiveCorrupt, UnicodeEncodeError) as error:
                # The latter: a name that is no UTF-8 stands for no session at all.
                self._note_damage(f"{name!r}: {error}" if isinstance(error, UnicodeError) else str(error))
                continue
            if meta is not None:
                yield meta

    def session_files(self) -> Iterator[str]:
        """Yield the file names of the sessions."""
        for name in self._files.names(self.folder):
            if name.endswith(SUFFIX) and not name.startswith("."):
                yield name

    def raw(self, session_id: str) -> bytes | None:
        """Return the bytes of a session's file."""
        return self._of_file(session_id, self._files.read)

    def raw_file(self, name: str) -> bytes | None:
        """Return the bytes of one of :meth:`session_files`."""
        return self._files.read(self._in_folder(name))

    # -- writing -----------------------------------------------------------------------

    def number_locked(
        self, session_id: str, turns: Sequence[Turn], *, after: MessageId = ZERO_ID
    ) -> list[Turn]:
        """Return the turns with local ids, larger than any in the file, any deleted, and ``after``."""
        taken = max(after, self._newest_locked(session_id), self.deleted_up_to(session_id))
        first = _local_id(taken, self._clock.time())
        # One after the other: the first is where no other writer is, and ids that only count
        # take no room in a frame.
        return [with_id(turn, MessageId(first.ms, first.seq + i)) for i, turn in enumerate(turns)]

    def append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes] = False,
        from_window: bool = False,
    ) -> int:
        """Append turns under their ids, leaving out those the file has. Synced.

        Args:
            session_id: the session.
            turns: in any order.
            contested: Redis may hold them as well, or those with these nonces
                (docs/archive-format.md, "What is one message").
            from_window: they are what a window holds, not what is added now: what was deleted
                stays so.

        Returns:
            How many were new.

        Raises:
            ArchiveUnavailable: the disk refused. The file is as it was, or has a torn
                tail that the next append sets aside.
        """
        made, count = self._append_locked(session_id, turns, contested=contested, from_window=from_window)
        if made:
            self.sync_names()
        return count

    def append_many_locked(
        self, batch: Mapping[str, Sequence[Turn]], contested: Mapping[str, Collection[bytes]] | None = None
    ) -> dict[str, int | LixCacheError]:
        """Append to several sessions whose locks are held, syncing the folder once.

        Args:
            batch: the turns of each session, in any order.
            contested: of sessions the nonces of those turns of which Redis may get another copy.

        Returns:
            For each session how many turns were new, or why it failed; the others are
            not affected. What is counted is durable.
        """
        results: dict[str, int | LixCacheError] = {}
        ready: dict[str, tuple[str, _Append]] = {}
        alone: list[str] = []
        for session_id, turns in batch.items():
            try:
                append = self._ready_append_locked(
                    session_id, turns, contested=(contested or {}).get(session_id, ()), from_window=True
                )
            except LixCacheError as error:
                results[session_id] = error
                continue
            if append is None:
                results[session_id] = 0
            elif append.path.lower() in ready:
                # A file system that ignores case may have one file for both.
                alone.append(session_id)
            else:
                ready[append.path.lower()] = session_id, append
        if len(ready) == 1:
            alone += [session_id for session_id, _ in ready.values()]
            ready.clear()
        refusals = self._files.write_many([append.write for _, append in ready.values()])
        unsure = False
        for (session_id, append), refusal in zip(ready.values(), refusals, strict=True):
            try:
                if refusal is not None:
                    raise refusal
                unsure |= self._after_write(append)
                results[session_id] = append.count
            except LixCacheError as error:
                results[session_id] = error
        if unsure:
            self.sync_names()
        for session_id in alone:
            try:
                results[session_id] = self.append_locked(
                    session_id,
                    batch[session_id],
                    contested=(contested or {}).get(session_id, ()),
                    from_window=True,
                )
            except LixCacheError as error:
                results[session_id] = error
        return results

    def append_outage_locked(
        self, session_id: str, turn: Turn, *, contested: bool, after: MessageId = ZERO_ID
    ) -> MessageId:
        """Keep a message that Redis could not take; return the id it was given.

        The mark comes first: a message on disk that nobody knows must be brought
        together with the hot ones would be missing from the context; a mark without a
        message costs one look.
        """
        self.mark_pending_locked(session_id)
        numbered = self.number_locked(session_id, [turn], after=after)
        self.append_locked(session_id, numbered, contested=contested)
        return numbered[0].id

    def find_nonce_locked(self, session_id: str, nonce: bytes) -> MessageId | None:
        """Return the id under which a message was archived, if it was. Reads the whole file if need be."""
        path = self._path_of(session_id)
        if path is None:
            return None
        try:
            for _, turns in reading.walk_back(self._files, path, self._most):
                for turn in turns:
                    if turn.nonce == nonce:
                        return turn.id
        except reading.TailUnreadable:
            found = self.turns(session_id, locked=True)
            return next((turn.id for turn in found if turn.nonce == nonce), None)
        return None

    def sync_names(self) -> None:
        """Make the names of new files durable."""
        self._files.sync_folder(self.folder)

    def _append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes],
        from_window: bool,
    ) -> tuple[bool, int]:
        """Append; return whether the file's name may not be durable yet, and how many were new."""
        append = self._ready_append_locked(session_id, turns, contested=contested, from_window=from_window)
        if append is None:
            return False, 0
        write = append.write
        if write.offset is None:
            self._files.write_synced(write.path, write.data)
        else:
            self._files.append(write.path, write.offset, write.data)
        return self._after_write(append), append.count

    def _after_write(self, append: _Append) -> bool:
        """Finish an append whose bytes are synced; return whether the file's name may not be durable yet."""
        if append.offset == 0:
            self._files.rename(append.write.path, append.path)
        if append.count:
            self._count("appends")
        return append.unsure

    def _ready_append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes],
        from_window: bool,
    ) -> _Append | None:
        """Make everything ready for an append but the write itself. None if there is nothing to do."""
        if not turns:
            return None
        path = self._ready_path_locked(session_id)
        before, size = self._writable_tail_locked(path, session_id)
        file = _File(path, before, size)
        chain, is_whole = self._doubts(file)
        fresh = self._newcomers_locked(
            session_id, file, once(turns), chain, contested=bool(contested), from_window=from_window
        )
        # A message that comes again although it is in doubt is one whose frame was damaged.
        named = () if isinstance(contested, bool) else contested
        own = doubts_about(fresh) if contested is True else doubts_about(fresh, named, *chain)
        # A process that wrote the whole file may have been stopped before its name was durable;
        # what the file holds now, and what comes to it, is to be acknowledged all the same.
        unsure = size == 0 or before.whole or before == fmt.EMPTY
        if not fresh and not size:
            return None
        if not fresh:
            # What was found may be in the file by a writer that died before its sync.
            return _Append(path, size, b"", 0, unsure)
        now_ms = int(self._clock.time() * 1000)
        if size == 0:
            header = fmt.FileHeader(now_ms / 1000, session_id)
            data = fmt.encode_file(header, fresh, now_ms, self._codec, contested=own)
        else:
            doubts: Doubts | None = None
            if not is_whole:
                # All that is in doubt is in hand: it begins a chain that can be read.
                doubts = Doubts.alone({**dict(chain[0].items()), **own}, size)
            elif own:
                doubts = Doubts.linked(own, size, before.contested_at, chain)
            # One frame, however many turns: after a crash all of them are there, or none. (Only
            # what comes to more than a GiB does not fit into one.)
            data = fmt.encode_frames(fresh, before, now_ms, self._codec, doubts=doubts)
        return _Append(path, size, data, len(fresh), unsure)

    def clear_locked(self, session_id: str) -> None:
        """Take everything archived so far out of the context; it stays in the history."""
        if not self.exists(session_id):
            return
        path = self._ready_path_locked(session_id)
        before, size = self._writable_tail_locked(path, session_id)
        if size and before.cleared < before.newest:
            now_ms = int(self._clock.time() * 1000)
            self._files.append(path, size, fmt.encode_mark(before, now_ms, before.newest))
            if before.whole or before == fmt.EMPTY:
                self.sync_names()

    def compact_locked(
        self, session_id: str, *, idle_seconds: float, dry_run: bool = False
    ) -> tuple[Compaction | None, bool, int]:
        """Merge the small frames of a session's file, if it is idle.

        Returns:
            What was done, or would be (None if there is nothing to win); whether the
            session was idle for so long; the bytes of its file.

        Raises:
            ArchiveCorrupt: something intact cannot be decoded; the file is as it was.
        """
        path = self._path_of(session_id)
        tail = self._files.read_tail(path, fmt.TAIL_BYTES) if path else None
        if path is None or tail is None or self._is_legacy(path):
            # A version 1 file is one frame; its first append makes more of it.
            return None, True, 0
        self._check_owner(path, session_id)
        now_ms = int(self._clock.time() * 1000)
        frame = fmt.index_at_end(tail.data, tail.size)
        if frame is not None:
            if now_ms - frame.index.updated_ms < idle_seconds * 1000:
                return None, False, tail.size
            if frame.index.total == frame.index.count:
                return None, True, tail.size
        data = self._files.read(path) or b""
        found = compaction(data, self._codec.patient(), now_ms=now_ms, keep_ms=KEEP_NONCES_MS)
        if found is not None and not dry_run:
            if found.aside:
                self._set_aside(path, found.aside)
                self._count("repairs")
            self._replace_file(path, found.data)
            self._count("compactions")
        return found, True, len(data)

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
        rest = self._files.remove(_temporary(self._own_path(session_id)))
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
        return removed

    def _note_deletion_locked(self, session_id: str, deletion: Deletion) -> None:
        self._make_folders()
        self._tombstones.put(session_id, deletion)

    def deleted_up_to(self, session_id: str) -> MessageId:
        """Return the largest id that the session may have had when it was last deleted."""
        return self._tombstones.of(session_id).up_to

    def forget_deletions(self, older_than_ms: int) -> int:
        """Drop what is remembered of deletions when Redis can no longer hold anything older.

        Args:
            older_than_ms: Unix milliseconds.

        Returns:
            How many were dropped.
        """
        return self._tombstones.forget(older_than_ms, self._try_stripe)

    # -- sessions past their life ----------------------------------------------------------

    def now(self, *others: float) -> Now:
        """Return what time it is by our clock, by the file system's, and by those given."""
        clocks = [self._clock.time(), *others]
        if self._files.exists(self.folder):
            self._make_folders()
            clocks.append(self._files.now(self._in_folder(_LOCKS, _PROBE)))
        found = Now(min(clocks), max(clocks))
        if found.disagrees:
            logger.warning(
                "the clocks of this machine, the file system and Redis are {:.1f} days apart: "
                "sessions expire by the one that is furthest behind",
                (found.latest - found.earliest) / DAY,
            )
        return found

    def is_expired(self, session_id: str, life_seconds: float, now: Now, *, locked: bool = False) -> bool:
        """Whether a session has given no sign of life for so long."""
        meta = self.metadata(session_id, locked=locked)
        path = self._path_of(session_id)
        if meta is None or path is None or meta["updated_at"] >= now.earliest - life_seconds:
            return False
        modified = self._files.modified(path)
        newest = self.last_index(session_id, locked=locked).newest
        return modified is not None and is_expired(now, life_seconds, meta["updated_at"], newest, modified)

    def trash_locked(self, session_id: str, now: Now) -> bool:
        """Move all that a session has on disk to the trash; False if there is nothing."""
        paths = list(self._paths_of(session_id))
        for path in paths:
            self._check_owner(path, session_id)
        # In the order of a deletion, and for the same reasons.
        self._files.remove(_temporary(self._own_path(session_id)))
        ms = int(now.latest * 1000)
        for path in self._set_aside_of(session_id):
            self._trash.put(path, session_id, ms, path[path.rindex(".damaged-") :])
        for path in reversed(paths):
            self._trash.put(path, session_id, ms)
        if paths:
            self._files.sync_folder(self.folder)
        self.unmark_pending_locked(session_id)
        return bool(paths)

    def restore_locked(self, session_id: str) -> bool:
        """Take a session back from the trash; False if it is not there.

        A session that has begun anew meanwhile keeps what it has: both are put together by id.
        Stopped at any step and run again: what is back already is recognised by its ids.

        Raises:
            ArchiveCorrupt: a file in the trash makes no sense. It stays there; the others are back.
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
                    self._put_together_locked(one.path, session_id)
                except ArchiveCorrupt as error:
                    failure = failure or error
        self._files.sync_folder(self.folder)
        if failure is not None:
            raise failure
        return True

    def _put_together_locked(self, trashed: str, session_id: str) -> None:
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

        Sessions whose lock somebody holds are left for the next time: one that is being taken back
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

    def trashed(self) -> Iterator[dict[str, Any]]:
        """Yield ``session_id``, ``trashed_at`` (Unix seconds) and ``size_bytes`` of what is in the trash."""
        for one in self._trash.all():
            tail = None if one.is_damaged else self._files.read_tail(one.path, 0)
            if tail is not None:
                header = reading.read_header(self._files, one.path)
                yield {
                    "session_id": session_id_of_stem(one.stem) if header is None else header.session_id,
                    "trashed_at": one.ms / 1000,
                    "size_bytes": tail.size,
                }

    # -- sessions written to while Redis was away ----------------------------------------

    def mark_pending_locked(self, session_id: str) -> None:
        """Note durably that hot and cold of this session must be brought together."""
        self._files.make_folder(self._in_folder(_PENDING))
        path = self._in_folder(_PENDING, file_stem(session_id))
        # Its contents are looked at, because a crash may have left the name without them.
        if self._files.read(path) != session_id.encode():
            self._files.write_synced(path, session_id.encode())
            self._files.sync_folder(self._in_folder(_PENDING))

    def unmark_pending_locked(self, session_id: str) -> None:
        self._files.remove(self._in_folder(_PENDING, file_stem(session_id)))

    def is_pending(self, session_id: str) -> bool:
        """Whether the session was written to while Redis was away."""
        return self._files.exists(self._in_folder(_PENDING, file_stem(session_id)))

    def pending_sessions(self) -> list[str]:
        """Return the sessions that were written to while Redis was away."""
        found = []
        for name in list(self._files.names(self._in_folder(_PENDING))):
            data = self._files.read(self._in_folder(_PENDING, name))
            session_id = (data or b"").decode("utf-8", "replace")
            # A crash may have left the name without its contents; then nothing was
            # archived either, because the mark comes first, and the next one is made anew.
            if session_id and file_stem(session_id) == name:
                found.append(session_id)
        return found

    # -- inside --------------------------------------------------------------------------

    def _in_folder(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)

    def _count(self, name: str) -> None:
        # In one call into C, which neither threads nor signals can come between.
        self.counters.update((name,))

    def note_not_expired(self, session_id: str, error: ArchiveError) -> None:
        """Count and log that a session could not be looked at or moved, which keeps no other."""
        self._count("expiry_failures")
        logger.warning("session {!r} is not expired: {}", session_id[:60], error)

    def _note_damage(self, text: str) -> None:
        self._count("damaged_reads")
        logger.warning("archive damage: {}", text)

    def _make_folders(self) -> None:
        if not self._have_folders:
            for parts in ((), (_LOCKS,), (_PENDING,), (DELETED,)):
                self._files.make_folder(self._in_folder(*parts))
            self._have_folders = True

    def _own_path(self, session_id: str) -> str:
        """Return the path of the session's file under its own name."""
        return self._in_folder(file_stem(session_id) + SUFFIX)

    def _set_aside_of(self, session_id: str) -> list[str]:
        """Return the files of a session's damaged bytes: listed, because numbers may be missing."""
        own = file_stem(session_id) + SUFFIX
        names = self._files.names(self.folder, f"{own}.damaged-")
        return [self._in_folder(name) for name in list(names) if _DAMAGED.sub("", name) == own]

    def _of_file(self, session_id: str, read: Callable[[str], T | None]) -> T | None:
        """Return what is read of a session's file; None if there is none.

        Args:
            session_id: the session.
            read: reads the file of that path; None if it is gone.
        """
        # A reader holds no lock: another process may rename the file between the look and the
        # read. Gone from that path is not yet gone.
        while (path := self._path_of(session_id)) is not None:
            found = read(path)
            if found is not None:
                return found
        return None

    def _path_of(self, session_id: str) -> str | None:
        """Return the session's file: under its own name, or as the old package named it."""
        path = next(self._paths_of(session_id), None)
        if path is None and plain_stem(session_id) is not None:
            # An upgrade makes the one name before it removes the other. Between our two looks it
            # may have done both.
            path = next(self._paths_of(session_id), None)
        return path

    def _paths_of(self, session_id: str) -> Iterator[str]:
        """Yield the session's files: two only where a crash stopped an upgrade, the one that counts first."""
        stem, plain = file_stem(session_id), plain_stem(session_id)
        path = self._in_folder(stem + SUFFIX)
        # Under an encoded name only a version 2 file is ours: a version 1 file there is
        # one that the old package wrote for a session whose id looks like our encoding.
        if self._files.exists(path) and (stem == session_id or not self._is_legacy(path)):
            yield path
        if plain is not None:
            # And under the plain name only a version 1 file is: a version 2 file there
            # is the encoded one of another session. (Where no encoding could have made the
            # name, damaged bytes are ours as well: they must not look like no session.)
            old = self._in_folder(plain + SUFFIX)
            if self._files.exists(old) and (self._is_legacy(old) or not is_encoded(plain)):
                yield old

    def _is_legacy(self, path: str) -> bool:
        return self._files.read_at(path, 0, 4) == legacy.MAGIC

    def _contents_at(self, path: str, session_id: str, *, locked: bool) -> reading.Contents | None:
        """Read a whole file. Damage is believed only of a file that nobody is writing to."""
        name = os.path.basename(path)
        try:
            data = self._files.read(path)
            found = None if data is None else reading.parse_contents(data, name, self._most)
            if found is None or not found.damaged:
                return self._checked_owner(found, session_id, name)
        except ArchiveCorrupt as error:
            if locked:
                self._note_damage(str(error))
                raise
        if not locked:
            try:
                lock = self.lock(session_id)
            except ArchiveUnavailable:
                # A folder that cannot be written to has no writers to wait for.
                return self._contents_at(path, session_id, locked=True)
            with lock:
                return self._contents_at(path, session_id, locked=True)
        assert found is not None  # noqa: S101 - without damage or an error it was returned above
        text = f"{name!r} is damaged; {len(found.turns)} turns in it are intact"
        self._note_damage(text)
        if self._raise_on_damage:
            raise ArchiveCorrupt(
                f"{text}. 'lix-cache verify' says more; on_archive_damage='recover' reads on"
            )
        return self._checked_owner(found, session_id, name)

    @staticmethod
    def _checked_owner(found: reading.Contents | None, session_id: str, name: str) -> reading.Contents | None:
        # A file system that ignores case gives two sessions one name.
        if found is not None and found.session_id not in (None, session_id):
            raise ArchiveCorrupt(
                f"{name!r} belongs to session {str(found.session_id)[:60]!r}, not {session_id[:60]!r}"
            )
        return found

    def _metadata_at(
        self, path: str, session_id: str | None, *, locked: bool = False
    ) -> dict[str, Any] | None:
        """Return a file's metadata; with None for the id, whoever's file it is."""
        tail = self._files.read_tail(path, fmt.TAIL_BYTES)
        if tail is None:
            return None
        frame = fmt.index_at_end(tail.data, tail.size)
        header = reading.read_header(self._files, path)
        old = None
        # Looked at once: the file may be replaced, or renamed, at any moment.
        head = b"" if header is not None else self._files.read_at(path, 0, legacy.HEADER_BYTES)
        if head is None:
            return None
        if head[:4] == legacy.MAGIC:
            old = legacy.legacy_metadata(head)
            stem = os.path.basename(path)[: -len(SUFFIX)]
            if session_id is None and self._path_of(stem) != path:
                # What an upgrade that a crash stopped left beside the session's own file.
                return None
            session_id = stem
        elif session_id is None:
            stem = os.path.basename(path)[: -len(SUFFIX)]
            session_id = session_id_of_stem(stem) if header is None else header.session_id
        elif header is not None and header.session_id != session_id:
            raise _foreign(os.path.basename(path), header.session_id, session_id)
        if frame is not None and header is not None:
            created, updated, count = header.created_at, frame.index.updated_at, frame.index.total
        elif old is not None:
            created, updated, count = old
        else:
            found = self._contents_at(path, session_id, locked=locked)
            if found is None:
                return None
            created, updated, count = found.created_at, found.updated_at, len(found.turns)
        return {
            "session_id": session_id,
            "created_at": created,
            "updated_at": updated,
            "num_turns": count,
            "size_bytes": tail.size,
        }

    def _newest_locked(self, session_id: str) -> MessageId:
        """Return the largest id in the file, mending the file if it does not say."""
        path = self._path_of(session_id)
        tail = self._files.read_tail(path, fmt.TAIL_BYTES) if path else None
        frame = fmt.index_at_end(tail.data, tail.size) if tail else None
        if frame is not None:
            # What comes after a clear() is in the context, also where the file claims a strange one.
            return max(frame.index.newest, frame.index.cleared)
        # Where nothing intact is left there is no last id to ask for, and that must not
        # keep a new turn out.
        return self._writable_tail_locked(self._ready_path_locked(session_id), session_id)[0].newest

    def _check_owner(self, path: str, session_id: str) -> None:
        """Refuse another session's file: a file system that ignores case gives two ids one name."""
        header = reading.read_header(self._files, path)
        if header is not None and header.session_id != session_id:
            raise _foreign(os.path.basename(path), header.session_id, session_id)

    def _ready_path_locked(self, session_id: str) -> str:
        """Return the path to append to, after upgrading a version 1 file."""
        self._make_folders()
        path = self._in_folder(file_stem(session_id) + SUFFIX)
        existing = self._path_of(session_id)
        if existing is None:
            if self._files.exists(path):
                raise ArchiveCorrupt(
                    f"{os.path.basename(path)!r} is a version 1 file of another session; "
                    "move it out of the archive folder"
                )
        elif existing != path or self._is_legacy(path):
            self._upgrade_locked(existing, path, session_id)
        return path

    def _upgrade_locked(self, old: str, path: str, session_id: str) -> None:
        data = self._files.read(old) or b""
        try:
            found = legacy.parse_legacy(data)
        except ArchiveCorrupt as error:
            if old == path and fmt.scan(data).frames:
                # Version 2 after all, with a damaged magic: the repair of the tail mends it.
                return
            logger.warning("archive damage: {!r} is set aside: {}", os.path.basename(old), error)
            self._set_aside(path, data)
            self._files.remove(old)
            self._files.sync_folder(self.folder)
            self._count("repairs")
            return
        if found.missing:
            # Beside the new name, where a deletion looks for it.
            self._set_aside(path, data)
            self._count("repairs")
        header = fmt.FileHeader(found.created_at, session_id)
        updated_ms = max(0, int(found.updated_at * 1000))
        whole = fmt.encode_file(header, found.turns, updated_ms, self._codec)
        # The new file is complete and durable before the old one goes. Between the two
        # steps the new name wins, so a crash there changes nothing that can be seen.
        self._replace_file(path, whole)
        if old != path:
            self._files.remove(old)
            self._files.sync_folder(self.folder)
        self._count("upgrades")

    def _writable_tail_locked(self, path: str, session_id: str) -> tuple[fmt.FrameIndex, int]:
        """Return the last index entry and the offset to append at, mending the file if need be.

        An offset of 0 means that the file is to be made.
        """
        tail = self._files.read_tail(path, fmt.TAIL_BYTES)
        if tail is None or tail.size == 0:
            return fmt.EMPTY, 0
        header = reading.read_header(self._files, path)
        if header is not None and header.session_id != session_id:
            raise _foreign(os.path.basename(path), header.session_id, session_id)
        frame = fmt.index_at_end(tail.data, tail.size)
        if header is not None and frame is not None and self._starts_frame(path, frame):
            return frame.index, tail.size
        return self._repair_locked(path, session_id)

    def _starts_frame(self, path: str, frame: fmt.Frame) -> bool:
        return self._files.read_at(path, frame.offset, 4) == fmt.SYNC

    def _repair_locked(self, path: str, session_id: str) -> tuple[fmt.FrameIndex, int]:
        data = self._files.read(path) or b""
        found = fmt.scan(data)
        last = found.frames[-1].index if found.frames else fmt.EMPTY
        name = os.path.basename(path)
        if found.header is not None:
            if found.end < len(data):
                count = len(data) - found.end
                logger.warning("archive damage: the last {} bytes of {!r} are set aside", count, name)
                # The copy is durable before the original is cut.
                self._set_aside(path, data[found.end :])
                self._files.truncate(path, found.end)
                self._count("repairs")
            return last, found.end
        logger.warning("archive damage: {!r} has no intact header; all of it is set aside", name)
        self._set_aside(path, data)
        self._count("repairs")
        if not found.frames:
            self._files.remove(path)
            self._files.sync_folder(self.folder)
            return fmt.EMPTY, 0
        header = fmt.encode_header(fmt.FileHeader(found.frames[0].index.updated_at, session_id))
        frames = [data[frame.offset : frame.end] for frame in found.frames]
        whole = header + b"".join(frames[:-1]) + fmt.as_whole(frames[-1])
        self._replace_file(path, whole)
        return last, len(whole)

    def _set_aside(self, path: str, data: bytes) -> None:
        self._files.write_synced(self._free_damaged(path), data)
        self._files.sync_folder(self.folder)

    def _free_damaged(self, path: str) -> str:
        number = 1
        while self._files.exists(f"{path}.damaged-{number}"):
            number += 1
        return f"{path}.damaged-{number}"

    def _replace_file(self, path: str, data: bytes, *, sync_name: bool = True) -> None:
        temporary = _temporary(path)
        # Synced before it gets the name, so that the name never stands for half a
        # file; the folder synced after, so that the name survives a power cut.
        self._files.write_synced(temporary, data)
        self._files.rename(temporary, path)
        if sync_name:
            self._files.sync_folder(self.folder)

    def _doubts(self, file: _File) -> tuple[list[Link], bool]:
        """Return what is in doubt in a file, and whether its chain says so.

        Where the chain is broken (a repair moved it) the whole file is looked through.
        """
        try:
            return reading.doubts(self._files, file.path, file.size, file.index.contested_at), True
        except reading.TailUnreadable:
            data = self._files.read(file.path) or b""
            return [Link.of(all_doubts(data, fmt.scan(data), self._most))], False

    def _newcomers_locked(
        self,
        session_id: str,
        file: _File,
        turns: list[Turn],
        chain: list[Link],
        *,
        contested: bool,
        from_window: bool,
    ) -> list[Turn]:
        """Leave out turns that the file has already, and number anew those whose id it has given away.

        Args:
            session_id: the session.
            file: where they go.
            turns: sorted by id.
            chain: what is in doubt.
            contested: Redis may have some as well, and may have moved them here.
            from_window: they are what a window holds, not what is added now.
        """
        before = file.index
        if from_window:
            # Redis may have gone back to a state in which the session was not yet deleted, or may
            # have carried out an add after the deletion that was sent before it.
            gone = self._tombstones.of(session_id)
            turns = [turn for turn in turns if turn.id > gone.up_to and turn.nonce not in gone.nonces]
        if not turns or file.size == 0:
            return turns
        # The copy of a contested message may be anywhere: a server that hung carries out an add,
        # and a daemon moves it here, at whatever time. Else the file is read whole only where a
        # nonce is met that is in doubt.
        everywhere = contested or any(turn.nonce in link for link in chain for turn in turns)
        if turns[0].id > before.newest and not everywhere:
            return turns
        known = Known()
        try:
            for frame, found in reading.walk_back(self._files, file.path, self._most):
                known.add(found)
                if not everywhere and reading.largest_before(frame) < turns[0].id:
                    break
        except reading.TailUnreadable:
            known.add(self.turns(session_id, locked=True))
        return newcomers(turns, known)


def _temporary(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.tmp")


def _foreign(name: str, owner: str, session_id: str) -> ArchiveCorrupt:
    return ArchiveCorrupt(f"{name!r} belongs to session {owner[:60]!r}, not {session_id[:60]!r}")


def lock_pauses() -> Iterator[float]:
    """Yield, without end, how many seconds to wait before trying a lock again."""
    pause = 0.0005
    while True:
        yield pause * (0.5 + random.random())
        pause = min(pause * 1.5, 0.02)


def _local_id(last: MessageId, now: float) -> MessageId:
    """Return an id larger than ``last`` that Redis will never give (docs/archive-format.md)."""
    ms = int(now * 1000)
    if last.ms < ms or last.seq > _LARGEST_SEQ:
        return MessageId(max(ms, last.ms + 1), _LOCAL_SEQ | random.getrandbits(46))
    if last.seq >= _LOCAL_SEQ:
        return MessageId(last.ms, last.seq + 1 + random.getrandbits(16))
    return MessageId(last.ms, _LOCAL_SEQ | random.getrandbits(46))
