"""From memory to disk: when a session is idle, leaves memory, or the model is closed; never each turn.

Writing all of a state each turn would be quadratic in the length of a conversation.
"""

from __future__ import annotations

import threading
from collections import Counter

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.errors import KvError
from lix_cache.kv.engine import Engine
from lix_cache.kv.identity import Fingerprint, as_ids, fingerprint_of
from lix_cache.kv.lookup import Want, kept_files, pieces
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.memory import Entry, MemoryTier
from lix_cache.kv.store import KvStore

__all__ = ["WriteBehind"]


class WriteBehind:
    """What holds sessions in memory and has a store for them.

    Attributes:
        engine: that holds the states.
        fingerprint: of the engine and the encoding.
        counters: what happened, by name.
    """

    def __init__(
        self,
        engine: Engine,
        store: KvStore | None,
        memory_bytes: int,
        encoding: str,
        fewest_tokens: int,
        clock: Clock,
    ) -> None:
        self.engine = engine
        self.fingerprint: Fingerprint = fingerprint_of({**engine.fingerprint.facts, "encoding": encoding})
        self.counters: Counter[str] = Counter()
        self._store = store
        self._encoding = encoding
        self._fewest = fewest_tokens
        self._clock = clock
        self._memory = MemoryTier(memory_bytes, engine.most_live)
        #: Held by who brings a session into memory or takes it out.
        self._book = threading.RLock()

    def flush(self, idle_seconds: float = 0.0) -> int:
        """Write the sessions that were not used for so long to disk. Returns how many."""
        count = 0
        for entry in self._memory.all():
            if self._clock.monotonic() - entry.used >= idle_seconds and entry.is_dirty:
                count += self._locked_save(entry)
        return count

    def _locked_save(self, entry: Entry) -> bool:
        # Its own lock is enough: what is exported is not computed meanwhile, and others may be.
        with entry.lock:
            return self._memory.get(entry.tenant, entry.session) is entry and self._save(entry)

    def _save(self, entry: Entry) -> bool:
        live = entry.live
        if self._store is None or not entry.is_dirty or len(live.ids) < self._fewest:
            return False
        ids = as_ids(live.ids)
        want = Want(self.fingerprint, entry.tenant, ids, self._encoding)
        marks = [mark for mark in entry.marks if mark.tokens <= len(ids)]
        parts = list(entry.prompt.parts) if entry.prompt is not None else []
        manifest = Manifest(entry.session, entry.tenant, {}, ids, marks, parts)
        kind = "snapshot" if self.engine.exports == "snapshots" else "tail"
        checkpoints = {name: count for name, count in entry.checkpoints.items() if count <= len(ids)}
        try:
            self._store.save(
                self.fingerprint,
                manifest,
                pieces(self.engine, live, want, checkpoints),
                keep=lambda before: kept_files(before, want, kind, checkpoints),
            )
        except KvError as error:
            self.counters["failed_saves"] += 1
            logger.warning("a session's state was not written: {}", error)
            return False
        entry.saved = len(ids)
        self.counters["saves"] += 1
        return True

    def _drop(self, entry: Entry) -> None:
        """Let an entry go from memory. Its lock is held."""
        self._memory.remove(entry)
        self.engine.release(entry.live)

    def _make_room(self, keep: Entry | None = None, room: int = 0) -> None:
        with self._book:
            for entry in self._memory.surplus(keep, room):
                # One that is being computed stays: its reply makes room when it is over.
                if entry.lock.acquire(blocking=False):
                    try:
                        self._save(entry)
                        self._drop(entry)
                        self.counters["evictions"] += 1
                    finally:
                        entry.lock.release()

    def forget(self, tenant: str, session: str | None = None) -> int:
        """Remove a session, or all of a tenant, from memory and from disk. Returns how many files went."""
        for entry in self._memory.all(tenant):
            if session in (None, entry.session):
                with entry.lock:
                    self._drop(entry)
        return 0 if self._store is None else self._store.purge(tenant, session)
