"""KvStore: the states of local models in a folder, safe between threads and processes.

docs/kv-layout.md is the specification. What changes the store holds its lock; what reads holds nothing.
Each change is ordered so that a crash between two steps leaves what was there before, or garbage that the
next change removes. Reading never raises for what lies in a file: that is a miss, and counted.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import replace

from lix_cache._log import logger
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.errors import ConfigError, KvBusy, KvError, KvUnavailable
from lix_cache.kv.block_file import hasher
from lix_cache.kv.identity import tenant_digest
from lix_cache.kv.saving import KvSaving
from lix_cache.kv.staging import stem_of
from lix_cache.storage.files import Files

__all__ = ["KvStore"]


class KvStore(KvSaving):
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
        super().__init__(folder, files or Files(), clock, lock_seconds, budget_bytes, quotas or {})
        if tidy and os.path.isdir(self.folder):
            # A smaller budget than last time holds from now on, and what a kill left goes.
            try:
                self.prune()
            except KvError as error:
                # A store that cannot be changed can be read. The next save says what is wrong with it.
                self.counters["failed_changes"] += 1
                logger.warning("the KV store was not tidied up: {}", error)

    def pin(self, tenant: str, session: str, pinned: bool = True) -> int:
        """Keep a session's state from eviction, or no longer. Returns with how many models it is so now."""
        with self._changing() as catalogue:
            count = 0
            for path, fingerprint, one in list(catalogue.sessions(tenant, session)):
                held = {(fingerprint, name) for name in one.files}
                count += self._put_manifest(catalogue, path, fingerprint, replace(one, pinned=pinned), held)
            return count

    def purge(self, tenant: str, session: str | None = None, *, agents: bool = True) -> int:
        """Remove a session's state, or all of a tenant's, pinned or not. Returns how many files went.

        What another session of the tenant has as well stays, for that session.

        Args:
            tenant: whose.
            session: this one alone.
            agents: of a whole tenant the conversations of its agents too, which nothing computes again.

        Raises:
            KvBusy: the lock was kept too long, or one that saves it did not notice the purge so soon.
            KvUnavailable: the disk refused.
        """
        begin = stem_of(tenant, session)
        with self._changing() as catalogue:
            before = len(catalogue.files)
            for path, _, _ in list(catalogue.sessions(tenant, session)):
                # The manifest last: stopped before, the session can be asked for again.
                self._disown(catalogue, path, set())
                self._files.remove(path)
                self._files.sync_folder(os.path.dirname(path))
                catalogue.drop(path)
            if session is None and agents:
                for path, _ in catalogue.kept.pop(tenant_digest(tenant).hex(), ()):
                    self._files.remove(path)
            # Behind the files: a disk that refuses the mark has room now, and stopped between, the caller
            # was told nothing and asks again. Where nothing was on disk, a process may hold it in memory.
            self._purges.put(tenant, session)
            removed = before - len(catalogue.files)
            writing = {stem for stem in catalogue.underway if stem.startswith(begin)}
        # One that is writing it at this moment sees the mark before its files get names, and removes them.
        until = self._clock.monotonic() + self._lock_seconds
        while writing:
            if self._clock.monotonic() >= until:
                raise KvBusy("what was purged is being saved; it is removed when that ends, or try again")
            self._clock.sleep(0.01)
            with self._changing() as catalogue:
                writing &= catalogue.underway.keys()
        return removed

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
            self._put(path, data)
            return True

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
