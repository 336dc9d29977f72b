"""The steps of which every change of the store is made: its lock, what lies there, room, and files put whole.

Under the lock is bookkeeping alone. What takes long, the export of a state and the writing of its files, is
done beside it (:mod:`lix_cache.kv.staging`): who purges, keeps a turn of an agent, or saves another session
waits for a look at the store and some renames, however much is being written.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator, Mapping, Sequence

from lix_cache.clock import Clock
from lix_cache.errors import KvBusy, KvUnavailable
from lix_cache.kv.catalogue import NEW, Catalogue, read_catalogue, state_path
from lix_cache.kv.eviction import Key, chosen
from lix_cache.kv.identity import tenant_digest
from lix_cache.kv.manifest import Manifest, encode_manifest
from lix_cache.kv.purges import PurgeMarks, Seen
from lix_cache.kv.reader import KvReader
from lix_cache.storage.files import Files, Write
from lix_cache.storage.locks import FileLock

__all__ = ["KvChanging", "told_as_ours"]

#: How often one that waits for the lock looks. Less than a save is beside it, so that one which saves
#: session after session keeps nobody out.
_LOOK_SECONDS = 0.001


class KvChanging(KvReader):
    """A store that can be changed, one change at a time.

    Attributes:
        budget_bytes: the most that may lie in the folder.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        files: Files,
        clock: Clock,
        lock_seconds: float,
        budget_bytes: int,
        quotas: Mapping[str, int],
    ) -> None:
        super().__init__(folder, files)
        self.budget_bytes = budget_bytes
        self._quotas = dict(quotas)
        self._lock_seconds = lock_seconds
        self._clock = clock
        self._purges = PurgeMarks(self.folder, self._files)

    def seen(self, tenant: str, session: str | None) -> Seen:
        """Return which purges were seen, before a session is taken into memory.

        Raises:
            KvUnavailable: the folder cannot be read.
        """
        return self._purges.seen(tenant, session)

    def is_purged(self, tenant: str, session: str, since: Seen) -> bool:
        """Whether a session was purged since then, by any process."""
        return self._purges.is_purged(tenant, session, since)

    # -- the lock ----------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self, lock_seconds: float | None = None) -> Iterator[Catalogue]:
        with told_as_ours():
            self._files.make_folder(self.folder)
            with self._locked(self._lock_seconds if lock_seconds is None else lock_seconds):
                catalogue = read_catalogue(self.folder, self._read)
                self._remove_garbage(catalogue)
                yield catalogue

    @contextlib.contextmanager
    def _locked(self, seconds: float) -> Iterator[FileLock]:
        until = self._clock.monotonic() + seconds
        path = os.path.join(self.folder, "store.lock")
        while True:
            lock = self._files.try_lock(path)
            if lock is not None:
                break
            if self._clock.monotonic() >= until:
                raise KvBusy(f"the KV store {self.folder!r} was locked for {seconds:.3g} s; try again")
            self._clock.sleep(_LOOK_SECONDS)
        try:
            yield lock
        finally:
            lock.release()

    def _remove_garbage(self, catalogue: Catalogue) -> None:
        """Remove what has no owner: the first step of every change, so that a purge leaves nothing behind.

        Under the lock what no manifest names is left over from a kill. Files of a save are its own as long
        as it holds a lock of its own: the system lets go of that one when its process ends.
        """
        for stem, one in list(catalogue.underway.items()):
            lock = self._files.try_lock(one.lock) if one.lock else None
            if lock is not None or not one.lock:
                catalogue.ended(stem)
                catalogue.garbage += one.files
                catalogue.total += sum(size for _, size in one.files)
            if lock is not None:
                lock.release()
        for path, size in catalogue.garbage:
            self._files.remove(path)
            catalogue.total -= size
            catalogue.removed += size
        catalogue.garbage.clear()

    # -- room --------------------------------------------------------------------------

    def _make_room(self, catalogue: Catalogue, tenant: str | None, size: int, protected: set[Key]) -> bool:
        """Remove files until so many bytes more fit into the tenant's quota, if it is one's, and the budget.

        Returns:
            Whether they fit. If all that may go is not enough, nothing goes.
        """
        files, of_tenant = catalogue.files, list[Key]()
        if tenant is not None:
            over = self._over_quota(catalogue, tenant) + size
            of_tenant, is_enough = chosen(files, over, protected, tenant)
            if not is_enough:
                return False
        over = catalogue.total + size - self.budget_bytes - sum(files[key].size for key in of_tenant)
        others, is_enough = chosen(files, over, protected, gone=set(of_tenant))
        if is_enough:
            self._evict(catalogue, [*of_tenant, *others])
        return is_enough

    def _over_quota(self, catalogue: Catalogue, tenant: str) -> int:
        """Return how many bytes a tenant has more than it may; below 0 if it may have more."""
        quota = self._quotas.get(tenant, self._quotas.get("*"))
        if quota is None:
            return -sys.maxsize
        digest = tenant_digest(tenant).hex()
        kept = sum(size for _, size in catalogue.kept.get(digest, ()))
        underway = sum(one.size for stem, one in catalogue.underway.items() if stem.startswith(digest))
        return catalogue.tenants[tenant] + kept + underway - quota

    def _tidy(self, catalogue: Catalogue, budget: int | None = None) -> None:
        """Remove what is over the quotas and the budget, as far as it may go."""
        for tenant in list(catalogue.tenants):
            over = self._over_quota(catalogue, tenant)
            self._evict(catalogue, chosen(catalogue.files, over, set(), tenant)[0])
        most = self.budget_bytes if budget is None else budget
        self._evict(catalogue, chosen(catalogue.files, catalogue.total - most, set())[0])

    def _disown(self, catalogue: Catalogue, path: str, files: set[Key]) -> None:
        """Remove what a session had, has no longer, and no other session has."""
        for key, kept in list(catalogue.files.items()):
            if path in kept.sessions and key not in files:
                kept.sessions.discard(path)
                if not kept.sessions:
                    self._remove(catalogue, key)

    def _evict(self, catalogue: Catalogue, keys: Sequence[Key]) -> None:
        for key in keys:
            self._remove(catalogue, key)
            self.counters["evicted_files"] += 1

    def _remove(self, catalogue: Catalogue, key: Key) -> None:
        # Not synced: what a power cut brings back is counted again, and evicted again.
        self._files.remove(state_path(self.folder, key))
        for path in catalogue.remove(key):
            self._files.remove(path)

    # -- files -------------------------------------------------------------------------

    def _put_manifest(
        self, catalogue: Catalogue, path: str, fingerprint: str, manifest: Manifest, protected: set[Key]
    ) -> bool:
        """Write a manifest in the place of the one before; False if there is no room for it."""
        data = encode_manifest(manifest)
        before = catalogue.manifests.get(path)
        # The room of the one before is its own.
        catalogue.drop(path)
        if self._make_room(catalogue, manifest.tenant, len(data), protected):
            self._put(path, data)
            catalogue.put(path, fingerprint, manifest, len(data))
            return True
        if before is not None:
            catalogue.put(path, *before)
        return False

    def _put(self, path: str, data: bytes) -> None:
        """Write a file whole: under another name, synced, renamed, and its name synced."""
        folder = os.path.dirname(path)
        self._files.make_folder(folder)
        for refusal in self._files.write_many([Write(path + NEW, None, data)]):
            if refusal is not None:
                raise refusal
        self._files.rename(path + NEW, path)
        self._files.sync_folder(folder)


@contextlib.contextmanager
def told_as_ours() -> Iterator[None]:
    """Raise what the system refuses as an error of the store."""
    try:
        yield
    except (KvBusy, KvUnavailable):
        raise
    except OSError as error:
        raise KvUnavailable(error.errno, error.strerror) from error
