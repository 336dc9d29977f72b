"""Reading a session's file: all of it, its end, or what it says of itself."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

from lix_cache._cached_property import cached_property
from lix_cache.archive import decoding, legacy, parts, reading
from lix_cache.archive import index as index_flow
from lix_cache.archive.catalogue import Catalogue, Place, Wanted, placed
from lix_cache.archive.changes import SessionStamp
from lix_cache.archive.doubts import Link, found_in, id_before, is_gone, is_repeat
from lix_cache.archive.facts import Extent, Marks, SessionMetadata, Summary
from lix_cache.archive.folder import ArchiveFolder, foreign
from lix_cache.archive.names import SUFFIX, legacy_session_id, session_id_of_stem
from lix_cache.archive.salvage import all_doubts
from lix_cache.archive.tombstones import Deletion
from lix_cache.errors import (
    ArchiveCorrupt,
    ArchiveUnavailable,
)
from lix_cache.messages.turn import LARGEST_MS, ZERO_ID, MessageId, Turn

__all__ = ["ArchiveReader", "SessionFile"]


@dataclass(frozen=True)
class SessionFile:
    """A session's file as a writer found it.

    Attributes:
        path: the file.
        index: its last index entry.
        size: its bytes up to the end of the last frame; 0 where it is to be made.
    """

    path: str
    index: index_flow.FrameIndex
    size: int


#: A file system's clock may be so far behind that of Redis, by its ticks alone by some milliseconds.
_SLACK_MS = 1000


class ArchiveReader(ArchiveFolder):
    """What can be learnt of sessions without changing anything."""

    @cached_property
    def _catalogues(self) -> dict[int, Catalogue]:
        return {}

    @property
    def _catalogue(self) -> Catalogue:
        # By process: a lock that another thread held at a fork is never let go in the child.
        found = self._catalogues.get(os.getpid())
        if found is None:
            # A message can be so young at most.
            listed = partial(self._written, _SLACK_MS)
            made = Catalogue(listed, self.session_files, self._placed_at, self._names_state)
            found = self._catalogues.setdefault(os.getpid(), made)
        return found

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
                return parts.last_turns(self._files, path, count, self._most)
            except reading.TailUnreadable:
                # Read the whole file, which also tells damage from a writer at work.
                found = self._contents_at(path, session_id, locked=locked)
                return None if found is None else (found.turns[-count:], found.index.cleared)

        turns, cleared = self._of_file(session_id, read) or ([], ZERO_ID)
        return [turn for turn in turns if turn.id > cleared] if in_context else turns

    def between(
        self,
        session_id: str,
        count: int,
        *,
        after: MessageId = ZERO_ID,
        before: MessageId | None = None,
        newest: bool,
        locked: bool = False,
    ) -> list[Turn]:
        """Return turns between two ids, oldest first, decoding no more than their frames.

        Args:
            session_id: the session.
            count: how many at most.
            after: only larger ids.
            before: only smaller ids.
            newest: the last of them; else the first.
            locked: whether the caller holds the session's lock.
        """
        if not count:
            return []
        end = before or MessageId(LARGEST_MS + 1, 0)

        def read(path: str) -> list[Turn] | None:
            self._check_owner(path, session_id)
            find = parts.newest_between if newest else parts.oldest_between
            try:
                return find(self._files, path, count, after, end, self._most)
            except reading.TailUnreadable:
                found = self._contents_at(path, session_id, locked=locked)
            if found is None:
                return None
            turns = [turn for turn in found.turns if after < turn.id < end]
            return turns[-count:] if newest else turns[:count]

        return self._of_file(session_id, read) or []

    def last_index(self, session_id: str, *, locked: bool = False) -> index_flow.FrameIndex:
        """Return the last index entry (totals, largest id, what was cleared): one small read."""

        def read(path: str) -> index_flow.FrameIndex | None:
            tail = self._files.read_tail(path, index_flow.TAIL_BYTES)
            frame = index_flow.index_at_end(tail.data, tail.size) if tail else None
            if frame is not None:
                return frame.index
            found = self._contents_at(path, session_id, locked=locked)
            return None if found is None else found.index

        return self._of_file(session_id, read) or index_flow.EMPTY

    def summary(self, session_id: str, *, locked: bool = False) -> Summary:
        """Return what the last index entry says, for those who know nothing of frames."""
        index = self.last_index(session_id, locked=locked)
        return Summary(index.visible, index.newest, index.cleared, index.changes)

    def look(self, session_id: str, *, locked: bool = False) -> Extent:
        """Return how far a session has come, as far as the disk knows. Two small reads."""
        index = self.last_index(session_id, locked=locked)
        gone = self._tombstones.of(session_id)
        contested, taken_out, repeats = self._contested(session_id, index, gone)
        # What a damaged index says was cleared counts too: a smaller id would not be in the context.
        newest = max(index.newest, index.cleared, index.dropped, gone.up_to)
        dropped, given = max(gone.up_to, index.dropped), max(newest, taken_out)
        return Extent(newest, index.cleared, dropped, gone.up_to, contested, repeats, given)

    def contested(self, session_id: str, *, locked: bool = False) -> Mapping[bytes, MessageId]:
        """Return ``contested`` of :meth:`look`; of a damaged file what can be read."""
        gone = self._tombstones.of(session_id)
        try:
            index = self.last_index(session_id, locked=locked)
            return self._contested(session_id, index, gone)[0]
        except ArchiveCorrupt:
            # Counted and logged there.
            return dict.fromkeys(gone.nonces, ZERO_ID)

    def _contested(
        self, session_id: str, index: index_flow.FrameIndex, gone: Deletion
    ) -> tuple[Mapping[bytes, MessageId], MessageId, frozenset[bytes]]:
        """Return what is in doubt, the largest id of those that were taken out, and which are repeats."""
        found, taken_out = dict.fromkeys(gone.nonces, ZERO_ID), ZERO_ID
        said_last: dict[bytes, MessageId] = {}
        # The last link counts, which comes first.
        for link in reversed(self._chain(session_id, index)):
            said_last.update(link.items())
            ids = (id_before(said) for _, said in link.items() if is_gone(said))
            taken_out = max(taken_out, max(ids, default=ZERO_ID))
        for sign, said in said_last.items():
            found[sign] = ZERO_ID if is_gone(said) else id_before(said)
        return found, taken_out, frozenset(sign for sign, said in said_last.items() if is_repeat(said))

    def _chain(self, session_id: str, index: index_flow.FrameIndex) -> list[Link]:
        path = self._path_of(session_id)
        if path is None or not index.contested_at:
            return []
        tail = self._files.read_tail(path, 0)
        return self._doubts(SessionFile(path, index, 0 if tail is None else tail.size))[0]

    def marks(self, session_id: str, *, locked: bool = False) -> Marks:
        """Return what is remembered of a session beside its messages. See ColdTier."""
        # The mark first, which comes before what it stands for.
        pending = self.is_pending(session_id)
        index = self.last_index(session_id, locked=locked)
        said: dict[bytes, MessageId] = {}
        for link in reversed(self._chain(session_id, index)):
            said.update(link.items())
        return Marks(index.cleared, index.dropped, said, pending)

    def metadata(self, session_id: str, *, locked: bool = False) -> SessionMetadata | None:
        """Return the metadata of a session's file, or None if there is none."""
        return self._of_file(session_id, lambda path: self._metadata_at(path, session_id, locked=locked))

    def all_metadata(self) -> Iterator[SessionMetadata]:
        """Yield the metadata of every file; unreadable ones are counted and logged."""
        for name in list(self.session_files()):
            meta = self._listed(name)
            if meta is not None:
                yield meta

    def _listed(self, name: str) -> SessionMetadata | None:
        try:
            return self._metadata_at(self._in_folder(name), None)
        except (ArchiveCorrupt, UnicodeEncodeError) as error:
            # The latter: a name that is no UTF-8 stands for no session at all.
            self._note_damage(f"{name!r}: {error}" if isinstance(error, UnicodeError) else str(error))
            return None

    def by_last_use(
        self, count: int, *, after: Place | None = None, wanted: Wanted
    ) -> list[tuple[Place, SessionMetadata]]:
        """Return sessions by last use, the last used first. See ColdTier."""
        return self._catalogue.after(count, after, wanted)

    def _placed_at(self, name: str) -> tuple[Place, SessionMetadata] | None:
        path = self._in_folder(name)
        # Before what is in the file: it may be written to in between.
        written = self._files.modified(path)
        meta = None if written is None else self._listed(name)
        return (
            None if meta is None or written is None else (placed(meta, int(written * 1000) + _SLACK_MS), meta)
        )

    def stamps(self) -> Iterator[SessionStamp]:
        """Yield what tells whether a session's file is the same: its inode, size and time of writing."""
        for name in list(self.session_files()):
            stamp = self._files.version(self._in_folder(name))
            session_id = None if stamp is None else self._owner_by_name(name)
            if stamp is not None and session_id is not None:
                yield SessionStamp(session_id, stamp)

    def _owner_by_name(self, name: str) -> str | None:
        """Return whose file it is, from its name where that says it; None where it is of no session."""
        stem = name[: -len(SUFFIX)]
        try:
            stem.encode()
        except UnicodeEncodeError:
            return None
        if "%" not in stem and not stem.startswith("~"):
            return legacy_session_id(stem)
        path = self._in_folder(name)
        header = reading.read_header(self._files, path)
        if header is not None:
            return header.session_id
        if not self._is_legacy(path):
            return session_id_of_stem(stem)
        # A crash may have stopped an upgrade. What it left beside the session's own file does not count.
        session_id = legacy_session_id(stem)
        return session_id if self._path_of(session_id) == path else None

    def find_nonces_locked(
        self, session_id: str, nonces: Collection[bytes], *, since_ms: int = 0
    ) -> dict[bytes, MessageId]:
        """Return the ids of those messages that are archived, or were. Reads the whole file if need be.

        Args:
            session_id: the session.
            nonces: of the messages.
            since_ms: what was archived before this time need not be looked at.
        """
        path = self._path_of(session_id)
        found: dict[bytes, MessageId] = {}
        if path is None:
            return found
        try:
            for frame, decoded in reading.walk_back(self._files, path, self._most):
                if frame.index.updated_ms < since_ms:
                    break
                # The last frame counts: a repeat yielded to the first copy.
                here = {turn.nonce: turn.id for turn in decoded.turns if turn.nonce in nonces}
                found = {**here, **found}  # type: ignore[dict-item]
                if len(found) == len(nonces):
                    break
        except reading.TailUnreadable:
            turns = self.turns(session_id, locked=True)
            found = {turn.nonce: turn.id for turn in turns if turn.nonce in nonces}  # type: ignore[misc]
        missing = [nonce for nonce in nonces if nonce not in found]
        index = self.last_index(session_id, locked=True) if missing else index_flow.EMPTY
        if index.contested_at:
            # Deleted before it came here, or merged away since.
            tail = self._files.read_tail(path, 0)
            chain, _ = self._doubts(SessionFile(path, index, 0 if tail is None else tail.size))
            for nonce in missing:
                said = found_in(chain, nonce)
                if said is not None and is_gone(said):
                    found[nonce] = id_before(said)
        return found

    def deleted_up_to(self, session_id: str) -> MessageId:
        """Return the largest id that the session may have had when it was last deleted."""
        return self._tombstones.of(session_id).up_to

    def _contents_at(self, path: str, session_id: str, *, locked: bool) -> reading.Contents | None:
        """Read a whole file. Damage is believed only of a file without a writer."""
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
            raise foreign(name, str(found.session_id), session_id)
        return found

    def _metadata_at(
        self, path: str, session_id: str | None, *, locked: bool = False
    ) -> SessionMetadata | None:
        """Return a file's metadata; with None for the id, of any owner."""
        tail = self._files.read_tail(path, index_flow.TAIL_BYTES)
        if tail is None:
            return None
        frame = index_flow.index_at_end(tail.data, tail.size)
        header = reading.read_header(self._files, path)
        old = None
        # Looked at once: the file may be replaced, or renamed, at any moment.
        head = b"" if header is not None else self._files.read_at(path, 0, legacy.HEADER_BYTES)
        if head is None:
            return None
        if head[:4] == legacy.MAGIC:
            old = legacy.legacy_metadata(head)
            owner = legacy_session_id(os.path.basename(path)[: -len(SUFFIX)])
            if session_id is None and self._path_of(owner) != path:
                # What an upgrade that a crash stopped left beside the session's own file.
                return None
            session_id = owner
        elif session_id is None:
            stem = os.path.basename(path)[: -len(SUFFIX)]
            session_id = session_id_of_stem(stem) if header is None else header.session_id
        elif header is not None and header.session_id != session_id:
            raise foreign(os.path.basename(path), header.session_id, session_id)
        if frame is not None and header is not None:
            created, updated, count = header.created_at, frame.index.updated_at, frame.index.visible
            used = frame.index.last_use
        elif old is not None:
            created, updated, count = old
            used = updated
        else:
            found = self._contents_at(path, session_id, locked=locked)
            if found is None:
                return None
            created, updated, count = found.created_at, found.updated_at, len(found.turns)
            used = found.index.last_use
        return SessionMetadata(session_id, created, updated, count, tail.size, used)

    def _doubts(self, file: SessionFile) -> tuple[list[Link], bool]:
        """Return what is in doubt in a file, and whether its chain says so.

        Where the chain is broken (a repair moved it) the whole file is looked through.
        """
        try:
            return reading.doubts(self._files, file.path, file.size, file.index.contested_at), True
        except reading.TailUnreadable:
            data = self._files.read(file.path) or b""
            return [Link.of(all_doubts(data, decoding.scan(data), self._most))], False
