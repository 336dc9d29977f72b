"""Reading the store: no lock is taken, and what is wrong with a file is a miss that is counted."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from lix_cache._log import logger
from lix_cache.errors import ArchiveUnavailable
from lix_cache.kv.block_file import Description, NotThisState, decode
from lix_cache.kv.catalogue import ENDING, SESSIONS, Catalogue, Manifests, read_catalogue, state_path
from lix_cache.kv.identity import Fingerprint, Ids, session_name
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.mapped import READING, Found, inside, mapped
from lix_cache.kv.tensors import Tensor
from lix_cache.storage.files import Files

__all__ = ["KvReader"]

#: That look at files at a time: more do not make memory faster.
_MOST_THREADS = 4


class KvReader:
    """What can be looked up in a store.

    Attributes:
        folder: of the store.
        counters: what happened, by name.
    """

    def __init__(self, folder: str | os.PathLike[str], files: Files) -> None:
        self.folder = os.path.abspath(os.path.expanduser(os.fspath(folder)))
        self.counters: Counter[str] = Counter()
        self._files = files
        self._read = Manifests()
        #: Paths of files that were there and could not be used: the next save writes them anew.
        self._bad: set[str] = set()

    def has(self, fingerprint: Fingerprint, name: str) -> bool:
        """Whether there is a file of that name. What is in it is not looked at."""
        return os.path.isfile(state_path(self.folder, (fingerprint.hex, name)))

    def partials(self, fingerprint: Fingerprint, link: str) -> list[tuple[int, str]]:
        """Return tokens and names of the tails and snapshots that begin with a block, most tokens first."""
        folder = os.path.join(self.folder, fingerprint.hex, link[:2])
        found = []
        with contextlib.suppress(OSError):
            for name in os.listdir(folder):
                if name.startswith(link + "-") and name.endswith(ENDING):
                    count = name.split("-")[1]
                    if count.isdecimal() and len(count) <= 12:
                        found.append((int(count), name.removesuffix(ENDING)))
        return sorted(found, reverse=True)

    def load(
        self, fingerprint: Fingerprint, files: Sequence[tuple[str, Description, Ids]]
    ) -> list[dict[str, Tensor]]:
        """Return the tensors of state files up to the first of which not every byte and token is right.

        They lie in the mapped files: copy what you need longer than a moment.

        Args:
            fingerprint: of the model.
            files: name of each, what it must say of itself, and its token ids.
        """
        paths = [state_path(self.folder, (fingerprint.hex, name)) for name, _, _ in files]
        read: list[memoryview] = []
        refused: list[Exception] = []
        try:
            # All before any is looked at: mapping beside a thread that reads makes each wait for the other.
            read.extend(map(mapped, paths))
        except OSError as error:
            refused.append(error)  # what is behind it is of no use

        def look(first: int, end: int) -> list[dict[str, Tensor] | Exception]:
            return [_looked_at(read[at], *files[at][1:]) for at in range(first, end)]

        # A stretch for each thread, not a file: checksums let go of the interpreter, and nothing else does.
        threads = max(1, min(len(read), os.cpu_count() or 1, _MOST_THREADS))
        bounds = [len(read) * number // threads for number in range(threads + 1)]
        with ThreadPoolExecutor(threads) as pool:
            others = [pool.submit(look, *stretch) for stretch in pairwise(bounds[1:])]
            looked = look(0, bounds[1])
            looked += [one for other in others for one in other.result()]
        made = []
        for number, found in enumerate([*looked, *refused]):
            if isinstance(found, Exception):
                self._count(paths[number], found)
                break
            self.counters["loaded_files"] += 1
            self.counters["loaded_bytes"] += len(read[number])
            made.append(found)
        return made

    def _count(self, path: str, error: Exception) -> None:
        """Note why a file is not used. One that is not there was evicted, and nothing is wrong."""
        if not isinstance(error, FileNotFoundError):
            self._bad.add(path)
        if isinstance(error, NotThisState):
            self.counters["bad_files"] += 1
            logger.warning("KV state file {} is not used: {}", os.path.basename(path)[:16], error)
        elif not isinstance(error, FileNotFoundError):
            self.counters["unreadable_files"] += 1
            logger.warning("a KV state file cannot be read: {}", type(error).__name__)

    def prefetch(self, fingerprint: Fingerprint, names: Iterable[str]) -> None:
        """Ask the system to read files ahead, and wait for nothing: they will be loaded in a moment."""
        if not hasattr(
            os, "posix_fadvise"
        ):  # pragma: no cover - a system without it reads when it is asked to
            return
        for name in names:
            with contextlib.suppress(OSError):
                fd = os.open(state_path(self.folder, (fingerprint.hex, name)), READING)
                try:
                    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_WILLNEED)
                finally:
                    os.close(fd)

    def used(self, fingerprint: Fingerprint, names: Sequence[str]) -> None:
        """Note that files were used now. Every process sees it: it is their time of modification."""
        for name in names:
            # Read-only file systems and files that were evicted meanwhile lose nothing but their turn.
            with contextlib.suppress(ArchiveUnavailable):
                self._files.stamp(state_path(self.folder, (fingerprint.hex, name)))

    def manifest(self, fingerprint: Fingerprint, tenant: str, session: str) -> Manifest | None:
        """Return a session's manifest, if there is an intact one that is its own."""
        path = self._manifest_path(fingerprint.hex, tenant, session)
        try:
            stat = os.stat(path, follow_symlinks=False)
        except OSError:
            return None
        stamp = (stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns)
        folder, name = os.path.split(path)
        found = self._read.of(Found(folder, name, stat.st_size, stat.st_mtime, stamp))
        if found is None or (found.tenant, found.session) != (tenant, session):
            return None
        return found

    def manifests(self, fingerprint: Fingerprint, tenant: str) -> Iterator[Manifest]:
        """Yield the manifests of a tenant's sessions with a model, as they are now."""
        try:
            for found in inside(os.path.join(self.folder, fingerprint.hex, SESSIONS)):
                manifest = self._read.of(found) if found.name.endswith(".json") else None
                if manifest is not None and manifest.tenant == tenant:
                    yield manifest
        except OSError as error:
            self.counters["unreadable_folders"] += 1
            logger.warning("a folder of the KV store cannot be read: {}", type(error).__name__)

    def catalogue(self) -> Catalogue:
        """Return what is there, for people. Without the lock it may be out of date by a save."""
        return read_catalogue(self.folder, self._read)

    def _manifest_path(self, fingerprint: str, tenant: str, session: str) -> str:
        return os.path.join(self.folder, fingerprint, SESSIONS, session_name(tenant, session) + ".json")


def _looked_at(data: memoryview, about: Description, ids: Ids) -> dict[str, Tensor] | Exception:
    try:
        return decode(data, about, ids)
    except NotThisState as error:
        return error
