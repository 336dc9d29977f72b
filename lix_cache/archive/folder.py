"""The files and locks of an archive folder: names, paths, replacements, damage set aside."""

from __future__ import annotations

import errno
import os
import re
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import TypeVar

from lix_cache._log import logger
from lix_cache.archive import index, legacy, reading
from lix_cache.archive.changes import changes_of
from lix_cache.archive.codecs import packer
from lix_cache.archive.lease import let_go_of_ended, pauses, taken
from lix_cache.archive.names import SUFFIX, file_stem, is_encoded, plain_stem, stripe_of
from lix_cache.archive.tombstones import FOLDER as DELETED
from lix_cache.archive.tombstones import Tombstones
from lix_cache.archive.trash import Trash
from lix_cache.checks import given
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.errors import (
    ArchiveBusy,
    ArchiveCorrupt,
    ArchiveError,
    ArchiveUnavailable,
    ConfigError,
)
from lix_cache.messages.session_key import named
from lix_cache.storage.files import Files
from lix_cache.storage.locks import FileLock

__all__ = ["LOCKS", "PROBE", "ArchiveFolder", "foreign", "temporary_path"]

LOCKS = ".locks"
_PENDING = ".pending"
_SETTINGS = ".settings"
_UUID = "uuid of the archive"
PROBE = "probe"
_DAMAGED = re.compile(r"\.damaged-[0-9]+\Z")
#: Seconds between two tries at a lock: they grow from the one to the other.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.0005, 0.02
#: Longer than a tick of any file system's clock.
_SETTLED_SECONDS = 3
T = TypeVar("T")


class ArchiveFolder:
    """The names of a folder's files, and what may be done to a file whatever is in it."""

    def __init__(
        self,
        folder: str,
        *,
        codec: str = "huffman",
        dictionary: str | os.PathLike[str] | None = None,
        on_damage: str = "recover",
        lock_timeout_seconds: float = 30,
        max_frame_bytes: int = index.MAX_DECODED,
        clock: Clock = SYSTEM_CLOCK,
        files: Files | None = None,
    ) -> None:
        if on_damage not in ("recover", "raise"):
            raise ConfigError(f"on_damage must be 'recover' or 'raise', {given(on_damage)}")
        self.folder = folder
        self.lock_timeout_seconds = lock_timeout_seconds
        #: ``damaged_reads``, ``repairs``, ``upgrades``, ``compactions`` and ``appends`` of this object.
        self.counters: Counter[str] = Counter()
        self._codec = packer(codec, dictionary)
        self._raise_on_damage = on_damage == "raise"
        self._most = max_frame_bytes
        self.changes = changes_of(self.location)
        self._clock = clock
        self._files = files or Files()
        self._trash = Trash(self._files, folder)
        self._tombstones = Tombstones(self._files, folder, self._note_damage)
        self._have_folders = False

    @property
    def location(self) -> str:
        return os.path.abspath(self.folder)

    @staticmethod
    def lock_key(session_id: str) -> int:
        """Return which of the locks guards a session; several sessions may share one."""
        return stripe_of(session_id)

    def try_lock(self, session_id: str, *, to_append: bool = False) -> FileLock | None:
        """Take the session's lock now, or return None if it is held."""
        del to_append  # a file's end has room for one writer
        return self._try_stripe(f"{stripe_of(session_id):03x}")

    def _try_stripe(self, number: str) -> FileLock | None:
        let_go_of_ended()
        self._make_folders()
        path = self._in_folder(LOCKS, number)
        try:
            return self._files.try_lock(path)
        except ArchiveUnavailable as error:
            if error.errno != errno.ENOENT:
                raise
        # The folder was removed since we made it. The intent was an empty folder, not a failure here.
        self._have_folders = False
        self._make_folders()
        return self._files.try_lock(path)

    def lock(self, session_id: str) -> FileLock:
        """Wait for the session's lock.

        Raises:
            ArchiveBusy: not to be had within ``lock_timeout_seconds``.
        """
        lock = taken(partial(self.try_lock, session_id), self.lock_pauses(), self._clock)
        if lock is None:
            raise self.busy_error(session_id)
        return lock

    def lock_pauses(self) -> Iterator[float]:
        """Return how many seconds to wait before each try. See lease.py."""
        return pauses(_FIRST_PAUSE, _LONGEST_PAUSE, self.lock_timeout_seconds)

    def busy_error(self, session_id: str) -> ArchiveBusy:
        return ArchiveBusy(
            f"the archive of session {named(session_id)} was locked by another writer for more than "
            f"{self.lock_timeout_seconds} s; raise archive_lock_timeout_seconds or look for a stuck process"
        )

    def check_writable(self) -> None:
        """Write something to the folder, and make a lock there.

        Raises:
            ArchiveUnavailable: one of them was refused.
        """
        self._make_folders()
        # As much as a frame takes at least: a full disk has room for an empty file.
        self._files.write_synced(self._in_folder(LOCKS, PROBE), bytes(4096))
        lock = self._files.try_lock(self._in_folder(LOCKS, f"{stripe_of('a probe'):03x}"))
        if lock is not None:
            lock.release()

    def exists(self, session_id: str) -> bool:
        """Whether the session has a file. One stat."""
        return self._path_of(session_id) is not None

    def session_files(self) -> Iterator[str]:
        """Yield the file names of the sessions."""
        for name in self._files.names(self.folder):
            if name.endswith(SUFFIX) and not name.startswith("."):
                yield name

    def _written(self, later_ms: int = 0) -> Iterator[tuple[str, int]]:
        """Yield the file names of the sessions, and when each was written to, in Unix milliseconds."""
        for name, modified in self._files.listed(self.folder, SUFFIX):
            if name[0] != ".":
                yield name, int(modified * 1000) + later_ms

    def _names_state(self) -> int | None:
        """Return what is another after files came or went; None while that cannot be told."""
        modified = self._files.modified(self.folder)
        if modified is None or abs(self._clock.time() - modified) < _SETTLED_SECONDS:
            # Of two changes within a tick of its clock the second one leaves no trace.
            return None
        return int(modified * 1e6)

    def raw(self, session_id: str) -> bytes | None:
        """Return the bytes of a session's file."""
        return self._of_file(session_id, self._files.read)

    def raw_file(self, name: str) -> bytes | None:
        """Return the bytes of one of :meth:`session_files`."""
        return self._files.read(self._in_folder(name))

    def sync_names(self) -> None:
        """Make the names of new files durable."""
        self._files.sync_folder(self.folder)

    def mark_pending_locked(self, session_id: str) -> None:
        """Note durably that hot and cold of this session must be reconciled."""
        self._files.make_folder(self._in_folder(_PENDING))
        path = self._in_folder(_PENDING, file_stem(session_id))
        # Its contents are looked at, because a crash may have left the name without them.
        if self._files.read(path) != session_id.encode():
            self._files.write_synced(path, session_id.encode())
            self._files.sync_folder(self._in_folder(_PENDING))

    def unmark_pending_locked(self, session_id: str) -> None:
        self._files.remove(self._in_folder(_PENDING, file_stem(session_id)))

    def is_pending(self, session_id: str, *, just_read: bool = False) -> bool:  # noqa: ARG002 - cheap
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

    def setting(self, name: str) -> str | None:
        """Return what is noted under a name."""
        data = self._files.read(self._setting_path(name))
        return None if data is None else data.decode("utf-8", "replace")

    def note_setting(self, name: str, value: str, *, anew: bool = False) -> str:
        """Note a value that all processes must agree on; the first note stays unless it is made anew."""
        # Under the lock of a name that no session has: two processes may be the first at once.
        with self.lock(f"\0setting {name}"):
            noted = None if anew else self.setting(name)
            if noted is None:
                self._files.make_folder(self._in_folder(_SETTINGS))
                self._replace_file(self._setting_path(name), value.encode(), sync_name=False)
                self._files.sync_folder(self._in_folder(_SETTINGS))
        return value if noted is None else noted

    def archive_id(self, *, make: bool = False) -> str | None:
        """Return the UUID of the archive; None where it has none, and none is to be made."""
        found = self.setting(_UUID)
        return self.note_setting(_UUID, str(uuid.uuid4())) if found is None and make else found

    def _setting_path(self, name: str) -> str:
        return self._in_folder(_SETTINGS, file_stem(name))

    def _in_folder(self, *parts: str) -> str:
        return os.path.join(self.folder, *parts)

    def _count(self, name: str) -> None:
        # In one call into C, which neither threads nor signals can come between.
        self.counters.update((name,))

    def note_not_expired(self, session_id: str, error: ArchiveError) -> None:
        """Count and log that a session could not be looked at or moved, which keeps no other."""
        self._count("expiry_failures")
        logger.warning("session {} is not expired: {}", named(session_id), error)

    def _note_damage(self, text: str) -> None:
        self._count("damaged_reads")
        logger.warning("archive damage: {}", text)

    def _make_folders(self) -> None:
        if not self._have_folders:
            for parts in ((), (LOCKS,), (_PENDING,), (DELETED,)):
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
        # A reader holds no lock, so another process may rename the file between the look and the
        # read. A file that left this path may still exist.
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

    def _check_owner(self, path: str, session_id: str) -> None:
        """Refuse another session's file: a file system that ignores case gives two ids one name."""
        header = reading.read_header(self._files, path)
        if header is not None and header.session_id != session_id:
            raise foreign(os.path.basename(path), header.session_id, session_id)

    def _set_aside(self, path: str, data: bytes) -> None:
        self._files.write_synced(self._free_damaged(path), data)
        self._files.sync_folder(self.folder)

    def _free_damaged(self, path: str) -> str:
        number = 1
        while self._files.exists(f"{path}.damaged-{number}"):
            number += 1
        return f"{path}.damaged-{number}"

    def _replace_file(self, path: str, data: bytes, *, sync_name: bool = True) -> None:
        temporary = temporary_path(path)
        # Synced before it gets the name, so that the name never stands for half a
        # file; the folder synced after, so that the name survives a power cut.
        self._files.write_synced(temporary, data)
        self._files.rename(temporary, path)
        if sync_name:
            self._files.sync_folder(self.folder)


def temporary_path(path: str) -> str:
    folder, name = os.path.split(path)
    return os.path.join(folder, f".{name}.tmp")


def foreign(name: str, owner: str, session_id: str) -> ArchiveCorrupt:
    return ArchiveCorrupt(f"{name!r} belongs to session {named(owner)}, not {named(session_id)}")
