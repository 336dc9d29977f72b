"""Making a session's file fit to be appended to: upgrades, torn tails, lost headers."""

from __future__ import annotations

import os

from lix_cache._log import logger
from lix_cache.archive import decoding, encoding, index, legacy, reading
from lix_cache.archive import header as header_flow
from lix_cache.archive.folder import foreign
from lix_cache.archive.names import SUFFIX, file_stem, legacy_session_id
from lix_cache.archive.reader import ArchiveReader
from lix_cache.errors import (
    ArchiveCorrupt,
)
from lix_cache.messages.turn import MessageId

__all__ = ["ArchiveMending"]


class ArchiveMending(ArchiveReader):
    """What a crash, a disk or the old package left of a file becomes one that can be written to."""

    def _newest_locked(self, session_id: str) -> MessageId:
        """Return the largest id in the file, mending the file if it does not say."""
        path = self._path_of(session_id)
        tail = self._files.read_tail(path, index.TAIL_BYTES) if path else None
        frame = index.index_at_end(tail.data, tail.size) if tail else None
        if frame is not None:
            # What comes after a clear() is in the context, even if the file claims a strange clear().
            return max(frame.index.newest, frame.index.cleared, frame.index.dropped)
        # If nothing intact is left, there is no last id to ask for. That must not keep a new turn out.
        return self._writable_tail_locked(self._ready_path_locked(session_id), session_id)[0].newest

    def _ready_path_locked(self, session_id: str) -> str:
        """Return the path to append to, after upgrading a version 1 file."""
        self._make_folders()
        path = self._in_folder(file_stem(session_id) + SUFFIX)
        existing = self._path_of(session_id)
        if existing is None:
            if self._files.exists(path):
                self._make_way_locked(path, session_id)
        elif existing != path or self._is_legacy(path):
            self._upgrade_locked(existing, path, session_id)
        return path

    def _make_way_locked(self, path: str, session_id: str) -> None:
        """Give the file of the old package that has our name the one that is its own session's by now.

        The old package encoded nothing: the id of that session looks like our encoding of this one's, and
        must not keep this one, which may be another tenant's, out of the archive.
        """
        name = os.path.basename(path)
        owner = legacy_session_id(name[: -len(SUFFIX)])
        # Where case is ignored, its name tells another owner. If the owner has a newer file as well, this
        # one does not count, and may be all that an old process knows.
        if name not in self._files.names(self.folder, name) or self._path_of(owner) != path:
            raise ArchiveCorrupt(
                f"{name!r} is a version 1 file of another session; move it out of the archive folder"
            )
        if self.lock_key(owner) == self.lock_key(session_id):
            self._upgrade_locked(path, self._own_path(owner), owner)
            return
        # We hold a lock, so we do not wait for another: two that wait for each other never end.
        lock = self.try_lock(owner)
        if lock is None:
            raise self.busy_error(owner)
        with lock:
            if self._path_of(owner) == path:
                self._upgrade_locked(path, self._own_path(owner), owner)

    def _upgrade_locked(self, old: str, path: str, session_id: str) -> None:
        data = self._files.read(old) or b""
        try:
            found = legacy.parse_legacy(data)
        except ArchiveCorrupt as error:
            if old == path and decoding.scan(data).frames:
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
        header = header_flow.FileHeader(found.created_at, session_id)
        updated_ms = max(0, int(found.updated_at * 1000))
        whole = encoding.encode_file(header, found.turns, updated_ms, self._codec)
        # The new file is complete and durable before the old one goes. Between the two
        # steps the new name wins, so a crash there changes nothing that can be seen.
        self._replace_file(path, whole)
        if old != path:
            self._files.remove(old)
            self._files.sync_folder(self.folder)
        self._count("upgrades")

    def _writable_tail_locked(self, path: str, session_id: str) -> tuple[index.FrameIndex, int]:
        """Return the last index entry and the offset to append at, mending the file if need be.

        An offset of 0 means that the file is to be made.
        """
        tail = self._files.read_tail(path, index.TAIL_BYTES)
        if tail is None or tail.size == 0:
            return index.EMPTY, 0
        header = reading.read_header(self._files, path)
        if header is not None and header.session_id != session_id:
            raise foreign(os.path.basename(path), header.session_id, session_id)
        frame = index.index_at_end(tail.data, tail.size)
        if header is not None and frame is not None and self._starts_frame(path, frame):
            return frame.index, tail.size
        return self._repair_locked(path, session_id)

    def _starts_frame(self, path: str, frame: index.Frame) -> bool:
        return self._files.read_at(path, frame.offset, 4) == index.SYNC

    def _repair_locked(self, path: str, session_id: str) -> tuple[index.FrameIndex, int]:
        data = self._files.read(path) or b""
        found = decoding.scan(data)
        last = found.frames[-1].index if found.frames else index.EMPTY
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
            return index.EMPTY, 0
        header = header_flow.encode_header(
            header_flow.FileHeader(found.frames[0].index.updated_at, session_id)
        )
        frames = [data[frame.offset : frame.end] for frame in found.frames]
        whole = header + b"".join(frames[:-1]) + encoding.as_whole(frames[-1])
        self._replace_file(path, whole)
        return last, len(whole)
