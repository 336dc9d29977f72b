"""KvStore: the states of local models in a folder, safe between threads and processes.

docs/kv-layout.md is the specification. What changes the store holds its lock; what reads holds nothing.
Each change is ordered so that a crash between two steps leaves what was there before, or garbage that the
next change removes. Reading never raises for what lies in a file: that is a miss, and counted.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from lix_cache._log import logger
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.errors import ConfigError, KvBusy, KvError, KvUnavailable
from lix_cache.kv.block_file import encode, hasher
from lix_cache.kv.catalogue import NEW, SESSIONS, Catalogue, read_catalogue, state_path
from lix_cache.kv.eviction import Kept, Key, chosen
from lix_cache.kv.identity import Fingerprint, tenant_digest
from lix_cache.kv.manifest import Manifest, encode_manifest
from lix_cache.kv.purges import PurgeMarks, Seen
from lix_cache.kv.reader import KvReader
from lix_cache.kv.saving import Piece, Saved
from lix_cache.storage.files import Files, Write
from lix_cache.storage.locks import FileLock

__all__ = ["KvStore"]

#: Bytes that are encoded, written and synced at a time.
_BATCH_BYTES = 64 << 20


class KvStore(KvReader):
    """States of local models on disk.

    Args:
        folder: of the store; made when something is saved. Processes and models may share it.
        budget_bytes: the most that may lie in the folder, by all processes together. What lies there
            beyond it is removed when the store is opened.
        quotas: the most bytes of a tenant, by name; ``"*"`` is for all others.
        lock_seconds: how long a change waits for another.
        tidy: whether opening removes what is over the budget and what killed saves left.
        files, clock: for tests.

    Raises:
        ConfigError: a number is not positive.
        MissingExtra: the package for checksums is not here.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        budget_bytes: int = 16 << 30,
        quotas: Mapping[str, int] | None = None,
        lock_seconds: float = 10.0,
        tidy: bool = True,
        files: Files | None = None,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        if budget_bytes <= 0 or any(quota < 0 for quota in (quotas or {}).values()):
            raise ConfigError("the budget of the KV store must be positive, and no quota below 0")
        hasher()  # said here, and not when a conversation is to be written
        super().__init__(folder, files or Files())
        self.budget_bytes = budget_bytes
        self._quotas = dict(quotas or {})
        self._lock_seconds = lock_seconds
        self._clock = clock
        self._purges = PurgeMarks(self.folder, self._files)
        if tidy and os.path.isdir(self.folder):
            # A smaller budget than last time holds from now on, and what a kill left goes.
            try:
                self.prune()
            except KvError as error:
                # A store that cannot be changed can be read. The next save says what is wrong with it.
                self.counters["failed_changes"] += 1
                logger.warning("the KV store was not tidied up: {}", error)

    # -- changing ----------------------------------------------------------------------

    def save(
        self,
        fingerprint: Fingerprint,
        manifest: Manifest,
        pieces: Sequence[Piece],
        keep: Callable[[Manifest], Mapping[str, str]] = lambda before: before.files,
        since: Seen | None = None,
        lock_seconds: float | None = None,
    ) -> Saved:
        """Put a session's state into the store.

        Args:
            fingerprint: of the model.
            manifest: of the session; its files are filled in here.
            pieces: its files, each after the one it needs.
            keep: given the manifest before, returns the files of it that the session keeps.
            since: what :meth:`seen` said when the session was taken into memory.
            lock_seconds: how long to wait for the lock, if not as long as always.

        Raises:
            KvBusy: another process kept the lock too long.
            KvUnavailable: the disk refused.
        """
        saved = Saved()
        with self._changing(lock_seconds) as catalogue:
            if since is not None and self.is_purged(manifest.tenant, manifest.session, since):
                return Saved(is_purged=True)
            self._tidy(catalogue)
            self._make_model(catalogue, fingerprint)
            path = self._manifest_path(fingerprint.hex, manifest.tenant, manifest.session)
            before = catalogue.manifests.get(path)
            if before is not None:
                manifest = replace(manifest, pinned=before[1].pinned or manifest.pinned)
            kept = {} if before is None else keep(before[1])

            def own(there: Mapping[str, str]) -> int:
                """Return the room for a manifest that names these, in the place of the one before."""
                data = encode_manifest(manifest.with_files({**kept, **there}))
                return max(0, len(data) - (0 if before is None else before[2]))

            there = self._write_pieces(catalogue, fingerprint, manifest.tenant, path, pieces, saved, own)
            kept = {name: kept[name] for name in kept if (fingerprint.hex, name) in catalogue.files}
            manifest = manifest.with_files({**kept, **there})
            protected = {(fingerprint.hex, name) for name in there}
            if there and self._put_manifest(catalogue, path, fingerprint.hex, manifest, protected):
                self._disown(catalogue, path, {(fingerprint.hex, name) for name in manifest.files})
                saved.tokens = max(one.about.first + one.about.tokens for one in pieces if one.name in there)
            elif there:
                saved.left_out += len(there)
        self.counters.update(saves=1, written_bytes=saved.bytes, left_out=saved.left_out)
        return saved

    def pin(self, tenant: str, session: str, pinned: bool = True) -> int:
        """Keep a session's state from eviction, or no longer. Returns with how many models it is so now."""
        with self._changing() as catalogue:
            count = 0
            for path, fingerprint, one in list(catalogue.sessions(tenant, session)):
                held = {(fingerprint, name) for name in one.files}
                count += self._put_manifest(catalogue, path, fingerprint, replace(one, pinned=pinned), held)
            return count

    def purge(self, tenant: str, session: str | None = None) -> int:
        """Remove a session's state, or all of a tenant's, pinned or not. Returns how many files went.

        What another session of the tenant has as well stays, for that session.
        """
        with self._changing() as catalogue:
            before = len(catalogue.files)
            for path, _, _ in list(catalogue.sessions(tenant, session)):
                # The manifest last: stopped before, the session can be asked for again.
                self._disown(catalogue, path, set())
                self._files.remove(path)
                self._files.sync_folder(os.path.dirname(path))
                catalogue.drop(path)
            if session is None:
                for path, _ in catalogue.kept.pop(tenant_digest(tenant).hex(), ()):
                    self._files.remove(path)
            # Behind the files: a disk that refuses the mark has room now, and stopped between, the caller
            # was told nothing and asks again. Where nothing was on disk, a process may hold it in memory.
            self._purges.put(tenant, session)
            return before - len(catalogue.files)

    def keep(self, tenant: str, path: str, data: bytes, since: str | None) -> bool:
        """Write a file of a tenant that is no state, such as an agent. It is never evicted.

        Args:
            tenant: whose it is.
            path: of the file, in the folder that the layout names.
            data: all of it.
            since: the version that the caller read; None if there was none.

        Returns:
            False if another process changed it meanwhile: nothing was written.

        Raises:
            KvBusy: another process kept the lock too long.
            KvUnavailable: there is no room for it, or the disk refused.
        """
        with self._changing() as catalogue:
            if self._files.version(path) != since:
                return False
            before = os.path.getsize(path) if since is not None else 0
            if not self._make_room(catalogue, tenant, max(0, len(data) - before), set()):
                raise KvUnavailable(errno.ENOSPC, "the tenant's quota or the budget of the KV store is full")
            self._put([Write(path, None, data)])
            return True

    def seen(self, tenant: str, session: str | None) -> Seen:
        """Return which purges were seen, before a session is taken into memory.

        Raises:
            KvUnavailable: the folder cannot be read.
        """
        return self._purges.seen(tenant, session)

    def is_purged(self, tenant: str, session: str, since: Seen) -> bool:
        """Whether a session was purged since then, by any process."""
        return self._purges.is_purged(tenant, session, since)

    def prune(self, budget_bytes: int | None = None) -> int:
        """Remove what is over the budget, or over another; and what killed saves left.

        Returns:
            How many bytes went.
        """
        with self._changing() as catalogue:
            before = catalogue.total + catalogue.removed
            self._tidy(catalogue, budget_bytes)
            self._purges.tidy()
            return before - catalogue.total

    # -- steps -------------------------------------------------------------------------

    @contextlib.contextmanager
    def _changing(self, lock_seconds: float | None = None) -> Iterator[Catalogue]:
        try:
            self._files.make_folder(self.folder)
            with self._locked(self._lock_seconds if lock_seconds is None else lock_seconds):
                catalogue = read_catalogue(self.folder, self._read)
                self._remove_garbage(catalogue)
                yield catalogue
        except KvBusy:
            raise
        except OSError as error:
            raise KvUnavailable(error.errno, error.strerror) from error

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
            self._clock.sleep(0.005)
        try:
            yield lock
        finally:
            lock.release()

    def _make_model(self, catalogue: Catalogue, fingerprint: Fingerprint) -> None:
        folder = os.path.join(self.folder, fingerprint.hex)
        path = os.path.join(folder, "model.json")
        if not os.path.exists(path):
            self._files.make_folder(os.path.join(folder, SESSIONS))
            facts = {**fingerprint.facts, "first_used": int(time.time())}
            data = json.dumps(facts, indent=1, ensure_ascii=False).encode()
            # For people: what the store does not need is left out where there is no room for it.
            if self._make_room(catalogue, None, len(data), set()):
                self._put([Write(path, None, data)])
                catalogue.total += len(data)

    def _write_pieces(
        self,
        catalogue: Catalogue,
        fingerprint: Fingerprint,
        tenant: str,
        path: str,
        pieces: Sequence[Piece],
        saved: Saved,
        own: Callable[[Mapping[str, str]], int],
    ) -> dict[str, str]:
        """Write what is not there. Return name → needed name of what is there then.

        Args:
            own: returns the bytes of the manifest that names some: without it they would be lost.
        """
        there: dict[str, str] = {}
        batch: list[tuple[Piece, bytes]] = []
        full = False

        def write() -> None:
            nonlocal full
            size = sum(len(data) for _, data in batch)
            protected = {(fingerprint.hex, name) for name in there}
            while batch:
                named = {**there, **{one.name: one.needs for one, _ in batch}}
                if self._make_room(catalogue, tenant, size + own(named), protected):
                    break
                full = True
                size -= len(batch.pop()[1])
                saved.left_out += 1
            self._put(
                [
                    Write(state_path(self.folder, (fingerprint.hex, one.name)), None, data)
                    for one, data in batch
                ]
            )
            for one, data in batch:
                kept = Kept(len(data), time.time(), one.needs, {tenant}, sessions={path})
                catalogue.add((fingerprint.hex, one.name), kept)
                self._bad.discard(state_path(self.folder, (fingerprint.hex, one.name)))
                there[one.name] = one.needs
            saved.written += len(batch)
            saved.bytes += size
            batch.clear()

        for piece in pieces:
            waiting = {one.name for one, _ in batch}
            place = state_path(self.folder, (fingerprint.hex, piece.name))
            is_out = piece.needs and piece.needs not in there and piece.needs not in waiting
            # A folder of that name is not ours to remove, and no file can take its place.
            if full or is_out or os.path.isdir(place):
                saved.left_out += 1
            elif (fingerprint.hex, piece.name) in catalogue.files and place not in self._bad:
                there[piece.name] = piece.needs
                saved.shared += 1
            elif piece.name not in waiting:
                batch.append((piece, encode(piece.about, piece.ids, piece.export())))
                if sum(len(data) for _, data in batch) >= _BATCH_BYTES:
                    write()
        write()
        return there

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
        kept = catalogue.kept.get(tenant_digest(tenant).hex(), ())
        return catalogue.tenants[tenant] + sum(size for _, size in kept) - quota

    def _put_manifest(
        self, catalogue: Catalogue, path: str, fingerprint: str, manifest: Manifest, protected: set[Key]
    ) -> bool:
        """Write a manifest in the place of the one before; False if there is no room for it."""
        data = encode_manifest(manifest)
        before = catalogue.manifests.get(path)
        # The room of the one before is its own.
        catalogue.drop(path)
        if self._make_room(catalogue, manifest.tenant, len(data), protected):
            self._put([Write(path, None, data)])
            catalogue.put(path, fingerprint, manifest, len(data))
            return True
        if before is not None:
            catalogue.put(path, *before)
        return False

    def _remove_garbage(self, catalogue: Catalogue) -> None:
        """Remove what has no owner: the first step of every change, so that a purge leaves nothing behind.

        Under the lock nothing is being written, so what no manifest names is left over from a kill.
        """
        for path, size in catalogue.garbage:
            self._files.remove(path)
            catalogue.total -= size
            catalogue.removed += size
        catalogue.garbage.clear()

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

    def _put(self, writes: Sequence[Write]) -> None:
        """Write files whole: under other names, synced, renamed, and their names synced."""
        folders = {os.path.dirname(write.path) for write in writes}
        for folder in folders:
            self._files.make_folder(folder)
        news = [Write(write.path + NEW, None, write.data) for write in writes]
        for refusal in self._files.write_many(news):
            if refusal is not None:
                raise refusal
        for write in writes:
            self._files.rename(write.path + NEW, write.path)
        for folder in sorted(folders):
            self._files.sync_folder(folder)
