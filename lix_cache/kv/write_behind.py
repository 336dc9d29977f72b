"""From memory to disk: when a session is idle, leaves memory, or the model is closed; never each turn.

Writing all of a state each turn would be quadratic in the length of a conversation.
"""

from __future__ import annotations

import threading
from collections import Counter
from functools import lru_cache

from lix_cache._log import logger
from lix_cache.clock import Clock
from lix_cache.errors import EngineError, told
from lix_cache.kv.engine import Engine
from lix_cache.kv.halting import current_halt, limited_to
from lix_cache.kv.identity import Fingerprint, as_ids, fingerprint_of
from lix_cache.kv.lookup import Want, kept_files, pieces
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.memory import Entry, MemoryTier
from lix_cache.kv.purges import Seen
from lix_cache.kv.saving import Saved
from lix_cache.kv.store import KvStore

__all__ = ["WriteBehind"]

#: How long an engine has for the state of a session. A server that hangs has all the time of the world.
_EXPORT_SECONDS = 120.0
#: And where the time of a close is over.
_LEAST_SECONDS = 1.0


class WriteBehind:
    """What holds sessions in memory and has a store for them.

    Attributes:
        engine: that holds the states.
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
        self.counters: Counter[str] = Counter()
        self._store = store
        self._encoding = encoding
        self._fewest = fewest_tokens
        self._clock = clock
        self._memory = MemoryTier(memory_bytes, engine.most_live)
        #: Tenants of which the log says that there was no room: once, for it is so for each of their calls.
        self._full: set[str] = set()
        #: Held by who brings a session into memory or takes it out.
        self._book = threading.RLock()

    @property
    def fingerprint(self) -> Fingerprint:
        """Of the engine, which may notice that its model was changed, and the encoding."""
        return _encoded(self.engine.fingerprint, self._encoding)

    def flush(self, idle_seconds: float = 0.0) -> int:
        """Write the sessions that were not used for so long to disk. Returns how many.

        What was written in vain is tried again when it was idle for as long once more. One that a reply is
        being made for is left for the next time: a reply may be kept open for ever.
        """
        count = 0
        for entry in self._memory.all():
            # Its own lock is enough: what is exported is not computed meanwhile, and others may be.
            if not entry.lock.acquire(blocking=False):
                continue
            try:
                if self._is_purged(entry):
                    self._drop_purged(entry)
                elif self._memory.get(entry.tenant, entry.session) is entry and entry.is_dirty:
                    is_idle = self._clock.monotonic() - max(entry.used, entry.tried) >= idle_seconds
                    count += is_idle and self._save(entry)
            finally:
                entry.lock.release()
        return count

    def _seen(self, tenant: str, session: str | None) -> Seen:
        """Return the purges to note with what is taken into memory now."""
        try:
            return (None, None) if self._store is None else self._store.seen(tenant, session)
        except OSError:
            # Any that are there then count: what may have been purged is not written.
            return None, None

    def _is_purged(self, entry: Entry) -> bool:
        """Whether another process purged what is in memory here."""
        try:
            return self._store is not None and self._store.is_purged(entry.tenant, entry.session, entry.seen)
        except OSError:
            return False  # a save cannot be made then either

    def _drop_purged(self, entry: Entry) -> None:
        """Let go of what another process purged. The entry's lock is held."""
        if self._memory.get(entry.tenant, entry.session) is entry:
            self._drop(entry)
            self.counters["purged_sessions"] += 1

    def _can_save(self, entry: Entry) -> bool:
        return self._store is not None and entry.is_dirty and len(entry.live.ids) >= self._fewest

    def _save(self, entry: Entry, until: float = 0.0) -> bool:
        """Write an entry, its lock held. Returns whether all of it is on disk now.

        No conversation depends on that, so whatever fails is counted, and not raised: an engine's own
        errors, of memory for one, as well as the disk's.

        Args:
            entry: to write.
            until: when to give up on a lock that others hold, and on the engine, by the monotonic clock; 0:
                when the store does, and after two minutes.
        """
        if self._store is None or not self._can_save(entry):
            return False
        left = max(0.0, until - self._clock.monotonic()) if until else None
        try:
            with limited_to(_EXPORT_SECONDS if left is None else max(left, _LEAST_SECONDS)):
                saved = self._write(self._store, entry, left)
        except Exception as error:  # noqa: BLE001 - see above
            self.counters["failed_saves"] += 1
            entry.tried = self._clock.monotonic()
            logger.warning("a session's state was not written: {}", told(error))
            return False
        if saved.is_purged:
            return False
        entry.saved = saved.tokens
        if entry.is_dirty:
            entry.tried = self._clock.monotonic()
            if saved.left_out and entry.tenant not in self._full:
                self._full.add(entry.tenant)
                logger.warning(
                    "no room on disk for all that tenant {!r} has: its quota or the budget is used up; "
                    "what is left out begins cold after a restart",
                    entry.tenant or "-",
                )
            return False
        self.counters["saves"] += 1
        return True

    def _write(self, store: KvStore, entry: Entry, lock_seconds: float | None) -> Saved:
        live = entry.live
        ids = as_ids(live.ids)
        # Of the model that computed it, which may be another one now.
        fingerprint = _encoded(live.fingerprint or self.engine.fingerprint, self._encoding)
        want = Want(fingerprint, entry.tenant, ids, self._encoding)
        marks = [mark for mark in entry.marks if mark.tokens <= len(ids)]
        parts = list(entry.prompt.parts) if entry.prompt is not None else []
        manifest = Manifest(entry.session, entry.tenant, {}, ids, marks, parts)
        kind = "snapshot" if self.engine.exports == "snapshots" else "tail"
        checkpoints = {name: count for name, count in entry.checkpoints.items() if count <= len(ids)}
        return store.save(
            fingerprint,
            manifest,
            pieces(self.engine, live, want, checkpoints),
            keep=lambda before: kept_files(before, want, kind, checkpoints),
            since=entry.seen,
            lock_seconds=lock_seconds,
        )

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
                        halt = current_halt()
                        if halt is not None and halt.is_set and self._can_save(entry):
                            # Who wanted the room is gone: that costs no other session its state.
                            raise EngineError("the generation was halted")
                        self._drop(entry)
                        self.counters["evictions"] += 1
                    finally:
                        entry.lock.release()

    def forget(self, tenant: str, session: str | None = None) -> int:
        """Remove a session, or all of a tenant, from memory and from disk. Returns how many files went."""
        self.forget_live(tenant, session)
        return 0 if self._store is None else self._store.purge(tenant, session)

    def forget_live(self, tenant: str, session: str | None = None) -> None:
        """Remove a session, or all of a tenant, from memory alone: for one who purges the store beside it."""
        for entry in self._memory.all(tenant):
            if session in (None, entry.session):
                with entry.lock:
                    self._drop(entry)


@lru_cache(maxsize=16)
def _encoded(fingerprint: Fingerprint, encoding: str) -> Fingerprint:
    return fingerprint_of({**fingerprint.facts, "encoding": encoding})
