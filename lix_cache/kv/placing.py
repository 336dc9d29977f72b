"""Where the state of a prompt comes from: memory, disk, or nothing; and where it leaves what there is."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Sequence
from typing import Literal

from lix_cache._log import logger
from lix_cache.errors import EngineError
from lix_cache.kv.engine import Live
from lix_cache.kv.identity import BLOCK_TOKENS, Ids, as_ids
from lix_cache.kv.lookup import Want, copied, covering, load, names_of, nearest_known, stored
from lix_cache.kv.manifest import Manifest
from lix_cache.kv.memory import Entry
from lix_cache.kv.miss import Miss, common_prefix, miss_between
from lix_cache.kv.prompts import Prompt
from lix_cache.kv.purges import Seen
from lix_cache.kv.rates import Rates
from lix_cache.kv.tensors import State
from lix_cache.kv.write_behind import WriteBehind

__all__ = ["Placing"]


class Placing(WriteBehind):
    """The part of a local model that finds the longest state a prompt can go on from."""

    #: Of loading and computing: what is worth loading.
    rates: Rates

    def _placed(
        self,
        entry: Entry | None,
        prompt: Prompt,
        tenant: str,
        session: str | None,
        known: Manifest,
        seen: Seen,
        held: contextlib.ExitStack,
    ) -> tuple[Entry, Literal["memory", "disk"]]:
        """Return an entry, its lock taken, whose state is a beginning of the prompt; and its source."""
        copy = None
        if entry is None and session is None:
            entry = self._continued(prompt, tenant, held)
            copy = self._copied(prompt, tenant) if entry is None else None
        in_memory = copy[2] if copy else 0 if entry is None else self._cut(entry, prompt)
        live = self._restored(prompt, tenant, known.ids, entry, in_memory)
        source: Literal["memory", "disk"] = "memory" if live is None else "disk"
        saved = 0 if live is None else len(live.ids)
        if live is None and copy is not None:
            live = self._taken_in([copy[0]], *copy[1:])
        if entry is None or self._memory.get(tenant, entry.session) is not entry or not in_memory:
            name = session if entry is None else entry.session
            # What a session knew of its text holds as far as its tokens are still those.
            common = common_prefix(prompt.ids, known.ids)
            marks = [mark for mark in known.marks if mark.tokens <= common] if entry is None else entry.marks
            if entry is not None:
                self._drop(entry)
            if live is None:
                self._make_room(room=1)
                live = self.engine.begin()
            is_named = session is not None if entry is None else entry.is_named
            name = name or f"auto-{uuid.uuid4().hex[:16]}"
            entry = Entry(tenant, name, live, marks, saved=saved, is_named=is_named, seen=seen)
            held.enter_context(entry.lock)
            self._memory.put(entry)
        count = prompt.system_tokens
        entry.checkpoints = {"system": count} if self._fewest <= count < len(prompt.tokens) else {}
        entry.used = self._clock.monotonic()
        return entry, source

    def _cut(self, entry: Entry, prompt: Prompt) -> int:
        """Cut a state down to what it has in common with a prompt. Return how many tokens that is."""
        live = entry.live
        count = min(common_prefix(prompt.ids, as_ids(live.ids)), len(prompt.tokens) - 1)
        lost = len(live.ids) - count
        # What is cut off is written first where it is worth it: an earlier branch can then resume.
        if lost >= BLOCK_TOKENS or (lost and not self.engine.cuts):
            self._save(entry)
        # Those of another branch would give its tokens to a text that comes again.
        entry.marks = [mark for mark in entry.marks if mark.tokens <= count]
        if lost and not self.engine.cut(live, count):
            return 0
        entry.saved = min(entry.saved, count)
        live.snapshots = {at: state for at, state in live.snapshots.items() if at <= count}
        return count

    def _continued(self, prompt: Prompt, tenant: str, held: contextlib.ExitStack) -> Entry | None:
        """Return the session without a name of its own whose whole state a prompt goes on from."""
        for one in sorted(self._memory.all(tenant), key=lambda entry: -len(entry.live.ids)):
            if one.is_named or not one.lock.acquire(blocking=False):
                continue
            count = len(one.live.ids)
            if 0 < count < len(prompt.tokens) and common_prefix(prompt.ids, as_ids(one.live.ids)) == count:
                held.callback(one.lock.release)
                return one
            one.lock.release()
        return None

    def _restored(
        self, prompt: Prompt, tenant: str, before: Ids, entry: Entry | None, in_memory: int
    ) -> Live | None:
        """Return a state from disk, if it is longer than what memory has and worth loading.

        Args:
            prompt: to be answered.
            tenant: whose it is.
            before: what the session had on disk: a state of it is cut to what the prompt begins with.
            entry: the session in memory, if it is there. What is loaded takes its place.
            in_memory: tokens that it has.
        """
        if self._store is None:
            return None
        want = Want(self.fingerprint, tenant, prompt.ids, self._encoding)
        found = stored(self._store, want, self.engine.exports)
        count = found.tokens
        common = min(common_prefix(prompt.ids, before), len(prompt.tokens) - 1)
        if self.engine.cuts and common > count:
            want, count = Want(self.fingerprint, tenant, before, self._encoding), common
            found = covering(want, common, self.engine.exports)
        if count < in_memory + self._fewest or not self.rates.should_load(count, count - in_memory):
            return None
        began = self._clock.monotonic()
        states, tokens = load(self._store, want, found)
        if not states or min(count, tokens) <= in_memory:
            return None
        if entry is not None:
            self._drop(entry)
        live = self._taken_in(states, want.ids[:tokens].tolist(), min(count, tokens))
        if live is not None:
            self.rates.loaded(tokens, self._clock.monotonic() - began)
            self.counters["restores"] += 1
        return live

    def _copied(self, prompt: Prompt, tenant: str) -> tuple[State, list[int], int] | None:
        """Return a copy of a state in memory for a prompt of no session."""
        try:
            return copied(self.engine, self._memory, tenant, prompt.ids, self._fewest)
        except EngineError as error:
            logger.warning("a state in memory was not copied: {}", error)
            return None

    def _taken_in(self, states: Sequence[State], ids: list[int], count: int) -> Live | None:
        """Give states to the engine, and cut them to the tokens that are wanted."""
        self._make_room(room=1)
        try:
            live = self.engine.restore(states, ids)
            self.engine.cut(live, count)
        except EngineError as error:
            self.counters["failed_restores"] += 1
            logger.warning("a state was not taken by the engine: {}", error)
            return None
        return live

    def _known(self, entry: Entry | None, tenant: str, session: str | None) -> Manifest:
        """Return what is on disk of a session that is not in memory; an empty manifest if nothing is."""
        found = None
        if entry is None and session is not None and self._store is not None:
            found = self._store.manifest(self.fingerprint, tenant, session)
            if found is not None:
                # While the prompt is tokenised.
                want = Want(self.fingerprint, tenant, found.ids, self._encoding)
                whole = covering(want, len(found.ids), self.engine.exports)
                self._store.prefetch(self.fingerprint, names_of(want, whole))
        return found or Manifest(session or "", tenant)

    def _nearest(self, prompt: Prompt, before: Sequence[int], tenant: str, session: str) -> tuple[Ids, str]:
        own = (as_ids(before), session)
        return nearest_known(self._memory, self._store, self.fingerprint, tenant, prompt.ids, own)

    def _miss(self, prompt: Prompt, nearest: Ids, name: str, cached: int) -> Miss | None:
        """Return where a prompt leaves the nearest sequence, behind what was found of it."""
        if not len(nearest) or common_prefix(prompt.ids, nearest) in (len(nearest), len(prompt.ids)):
            return None
        miss = miss_between(prompt.ids, nearest, prompt.parts, name, cached)
        if miss is not None:
            self.counters["misses"] += 1
            logger.info("KV miss: {}", miss)
        return miss
