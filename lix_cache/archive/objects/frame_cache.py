"""Frames that were read from object storage, kept on the local disk. A cache: it may be removed at any time.

An object is written once, and a state names a frame by its place in one. So what is kept under a place is
never outdated, and a reader that has the place from a state may read it here. The CRC of each frame says
whether a file is whole; nothing is synced. What is deleted from the archive stays here for the grace period
of a collection at most, and until the machine next reads a frame.

Trouble with the disk is counted and costs a request, no more.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time
import uuid
from collections import Counter
from pathlib import Path

from lix_cache.archive.objects.records import Part
from lix_cache.daemon import start_thread
from lix_cache.errors import ArchiveError
from lix_cache.storage.files import Files

__all__ = ["FrameCache"]

#: Of the budget: what is written before the folder is looked at again, where other processes write as well.
_SHARE = 8
#: So often in the time that a frame is kept what is too old is looked for, where nothing is written.
_LOOKS = 24


class FrameCache:
    """Frames by their place. Safe between threads and processes.

    Args:
        folder: made when the first frame is kept. Holds nothing else.
        budget: bytes on disk.
        keep_seconds: what is older is removed, and read no more.
        counters: gets ``frame_cache_hits``, ``frame_cache_misses`` and ``frame_cache_failures``.
    """

    def __init__(self, folder: str, budget: int, keep_seconds: float, counters: Counter[str]) -> None:
        self._folder = Path(folder)
        self._budget, self._keep = budget, keep_seconds
        self._counters = counters
        #: Bytes that may be written before the folder is looked at.
        self._left = 0
        self._next_look = 0.0
        self._is_made = False
        self._sweeping = threading.Lock()

    def get(self, archive: str, shard: int, part: Part) -> bytes | None:
        """Return a frame that is kept; None if it is not. Its CRC is the caller's to look at."""
        path = self._path(archive, shard, part)
        if time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + self._keep / _LOOKS
            # Without a thread it is done with the next frame that is kept.
            with contextlib.suppress(RuntimeError):
                start_thread(self._sweep, "lix-cache-frames")
        try:
            with path.open("rb") as file:
                old = os.fstat(file.fileno()).st_mtime < time.time() - self._keep
                data = b"" if old else file.read(part.length + 1)
        except FileNotFoundError:
            data = b""
        except OSError:
            data = self._failed()
        self._counters.update(("frame_cache_hits" if len(data) == part.length else "frame_cache_misses",))
        return data if len(data) == part.length else None

    def put(self, archive: str, shard: int, part: Part, data: bytes) -> None:
        """Keep a frame that was read."""
        if len(data) > self._budget // _SHARE:
            return
        path = self._path(archive, shard, part)
        temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
        try:
            if not self._is_made:
                Files().make_folder(str(self._folder))
                self._is_made = True
            with open(temporary, "wb", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
                file.write(data)
            temporary.replace(path)
            self._left -= len(data)
            if self._left < 0:
                self._sweep()
        except (OSError, ArchiveError):
            # The folder may have been removed, with all that was kept.
            self._is_made = False
            self._failed()

    def forget(self, archive: str, shard: int, part: Part) -> None:
        """Remove a frame: it was damaged, or its session is deleted."""
        try:
            self._path(archive, shard, part).unlink(missing_ok=True)
        except OSError:
            self._failed()

    def _path(self, archive: str, shard: int, part: Part) -> Path:
        place = f"{archive} {shard} {part.segment} {part.offset} {part.length}"
        return self._folder / hashlib.sha256(place.encode()).hexdigest()

    def _failed(self) -> bytes:
        self._counters.update(("frame_cache_failures",))
        return b""

    def _sweep(self) -> None:
        """Remove what is too old, and the oldest until the rest is within the budget with room for more."""
        if not self._sweeping.acquire(blocking=False):
            return
        try:
            found = []
            for entry in os.scandir(self._folder) if self._folder.is_dir() else ():
                # Another process may have removed it.
                with contextlib.suppress(FileNotFoundError):
                    about = entry.stat(follow_symlinks=False)
                    found.append((about.st_mtime, about.st_size, entry.path))
            room = self._budget - self._budget // _SHARE
            before = time.time() - self._keep
            for modified, size, path in sorted(found, reverse=True):
                room -= size
                if room < 0 or modified < before:
                    Path(path).unlink(missing_ok=True)
            self._left = self._budget // _SHARE
        except OSError:
            self._failed()
        finally:
            self._sweeping.release()
