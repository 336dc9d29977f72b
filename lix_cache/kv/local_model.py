"""LocalModel: a model whose conversations resume without prefill, after a restart too.

What a gateway calls. It decides where the state of a prompt comes from (memory, disk, or computing it),
and when it goes to disk: when a session is idle, leaves memory, or the model is closed; never each turn.
No conversation depends on the store: what goes wrong with it is counted, and the prompt is computed.
"""

from __future__ import annotations

import contextlib
import threading
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lix_cache._log import logger
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.daemon import Bell, start_thread
from lix_cache.errors import EngineBusy, EngineError, KvError
from lix_cache.kv.encodings import check_encoding
from lix_cache.kv.engine import Engine, Halt, Live, Options
from lix_cache.kv.identity import BLOCK_TOKENS, Ids, as_ids
from lix_cache.kv.lookup import Want, copied, covering, load, nearest_known, stored
from lix_cache.kv.manifest import Manifest, mark_of
from lix_cache.kv.memory import Entry
from lix_cache.kv.miss import Miss, common_prefix, miss_between
from lix_cache.kv.prompts import Prompt, prompt_of
from lix_cache.kv.rates import Rates
from lix_cache.kv.reply import Reply, Usage
from lix_cache.kv.store import KvStore
from lix_cache.kv.tensors import State
from lix_cache.kv.write_behind import WriteBehind

__all__ = ["LocalModel"]

#: Places where text and tokens meet that a session keeps.
_MOST_MARKS = 64


class LocalModel(WriteBehind):
    """A loaded model with a store behind it.

    Args:
        engine: that runs the model.
        store: where states are kept; None keeps them in memory alone.
        memory_bytes: the most bytes of states in memory.
        idle_seconds: a session that was not used for so long is written to disk.
        encoding: ``native`` is bit-equal, ``zstd`` smaller and as exact, ``q8`` and ``q4`` are lossy.
        fewest_tokens: of prompt and reply together; shorter sequences are neither stored nor loaded.
        clock: for tests.
    """

    def __init__(
        self,
        engine: Engine,
        store: KvStore | None = None,
        *,
        memory_bytes: int = 2 << 30,
        idle_seconds: float = 60.0,
        encoding: str = "native",
        fewest_tokens: int = 32,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        check_encoding(encoding)
        super().__init__(engine, store, memory_bytes, encoding, fewest_tokens, clock)
        self.rates = Rates()
        self._idle_seconds = idle_seconds
        #: One sequence at a time, where the engine asks for it. A reply may end in another thread.
        self._turn = threading.Lock()
        self._bell = Bell()
        self._closed = False
        self._running = 0

    # -- calls -------------------------------------------------------------------------

    def generate(
        self,
        prompt: Sequence[Mapping[str, Any]] | Sequence[int],
        *,
        session: str | None = None,
        tenant: str = "",
        tools: Sequence[Mapping[str, Any]] | None = None,
        stop: Sequence[str] = (),
        max_tokens: int = 256,
        temperature: float = 0.0,
        top_p: float = 1.0,
        seed: int | None = None,
        halt: Halt | None = None,
    ) -> Reply:
        """Begin a reply.

        Args:
            prompt: messages, or token ids.
            session: whose conversation it is; without one, the session whose state it continues is found.
            tenant: nothing is shared between two of them.
            tools: for the chat template.
            stop: texts that end the reply, and are not in it.
            max_tokens, temperature, top_p, seed, halt: of :class:`~lix_cache.kv.engine.Options`.

        Raises:
            InvalidInput: there is no prompt, or it is too long.
            EngineError: the engine failed.
        """
        options = Options(max_tokens, temperature, top_p, seed, halt)
        held = contextlib.ExitStack()
        with self._book:
            if self._closed:
                raise EngineBusy("the model is closed, or about to be exchanged; try again")
            self._running += 1
        held.callback(self._leave)
        try:
            if self.engine.is_serial:
                held.enter_context(self._turn)
            while True:
                entry = self._taken(tenant, session, held)
                known = self._known(entry, tenant, session)
                marks = known.marks if entry is None else entry.marks
                before = known.ids.tolist() if entry is None else entry.live.ids
                asked = prompt_of(self.engine, prompt, tools, marks, before)
                # Before the state is looked for: what is cut off of it then is still compared.
                nearest = self._nearest(asked, before, tenant, session or "")
                with self._book:
                    # Another first call of the session may have come before: then it is in memory now.
                    if entry is not None or self._memory.get(tenant, session or "") is None:
                        entry, source = self._placed(entry, asked, tenant, session, known, held)
                        break
            miss = self._miss(asked, *nearest, len(entry.live.ids))
            return self._reply(entry, asked, source, miss, stop, options, held)
        except BaseException:
            held.close()
            raise

    def _leave(self) -> None:
        with self._book:
            self._running -= 1

    def _taken(self, tenant: str, session: str | None, held: contextlib.ExitStack) -> Entry | None:
        """Return a session that is in memory, its lock taken; None if it is not there."""
        while session is not None:
            entry = self._memory.get(tenant, session)
            if entry is None:
                return None
            # Not with the book's lock: another reply of this session may take long.
            entry.lock.acquire()
            if self._memory.get(tenant, session) is entry:
                held.callback(entry.lock.release)
                return entry
            entry.lock.release()
        return None

    def _reply(
        self,
        entry: Entry,
        prompt: Prompt,
        source: Literal["memory", "disk"],
        miss: Miss | None,
        stop: Sequence[str],
        options: Options,
        held: contextlib.ExitStack,
    ) -> Reply:
        cached = len(entry.live.ids)
        entry.live.evaluated = 0
        entry.prompt = prompt
        usage = Usage(len(prompt.tokens), cached, 0, source if cached else "none")

        def over(reply: Reply) -> None:
            try:
                self._after(entry, reply, prompt)
            finally:
                held.close()

        tokens = self._made(entry, prompt, options)
        self.counters["calls"] += 1
        detokenize, ends = self.engine.detokenize, self.engine.end_ids
        live = entry.live
        return Reply(
            entry.session,
            usage,
            miss,
            tokens,
            detokenize,
            stop,
            ends,
            over,
            lambda: live.evaluated,
            prompt.tokens,
        )

    def _made(self, entry: Entry, prompt: Prompt, options: Options) -> Iterator[int]:
        """Yield the tokens of a reply; take the snapshots that are worth it on the way."""
        live, began = entry.live, self._clock.monotonic()
        start = len(live.ids)
        if self.engine.exports == "snapshots":
            # A whole state can only be had while the sequence stands there.
            for count in sorted(entry.checkpoints.values()):
                if len(live.ids) < count < len(prompt.tokens):
                    if options.is_halted:
                        raise EngineError("the generation was halted")
                    self.engine.prefill(live, prompt.tokens[len(live.ids) : count])
                    live.snapshots[count] = self.engine.export(live, 0, count)
        passed = len(live.ids) - start
        is_first = True
        with contextlib.closing(
            self.engine.generate(live, prompt.tokens[len(live.ids) :], options)  # type: ignore[type-var]
        ) as tokens:
            for token in tokens:
                if is_first:
                    is_first = False
                    live.evaluated += passed
                    self.rates.prefilled(live.evaluated, self._clock.monotonic() - began)
                yield token

    def _after(self, entry: Entry, reply: Reply, prompt: Prompt) -> None:
        live, count = entry.live, len(prompt.tokens)
        cached = reply.usage.cached_tokens
        reply.usage = replace(reply.usage, completion_tokens=len(reply.ids))
        self.counters.update(prompt_tokens=count, cached_tokens=cached, completion_tokens=len(reply.ids))
        if reply.ids:
            source = reply.usage.source if cached else "none"
            self.counters["recomputed_tokens"] += count - cached
            self.counters[f"hits_{source}"] += 1
            self.counters["restored_tokens"] += cached if source == "disk" else 0
        if prompt.text and len(live.ids) >= count:
            made = live.ids[count:]
            entry.marks = [mark for mark in entry.marks if mark.tokens < count][-_MOST_MARKS:]
            entry.marks.append(mark_of(prompt.text, count))
            # A token that leaves no text is not in the text that comes back.
            if made and self.engine.special_ids.isdisjoint(made):
                entry.marks.append(mark_of(prompt.text + self.engine.detokenize(made), len(live.ids)))
        entry.used = self._clock.monotonic()
        self._make_room(keep=entry)

    # -- where the state comes from ----------------------------------------------------

    def _placed(
        self,
        entry: Entry | None,
        prompt: Prompt,
        tenant: str,
        session: str | None,
        known: Manifest,
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
            entry = Entry(tenant, name or f"auto-{uuid.uuid4().hex[:16]}", live, marks, saved=saved)
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
            if not one.session.startswith("auto-") or not one.lock.acquire(blocking=False):
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
        if count < in_memory + self._fewest or not self.rates.should_load():
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
                self._store.prefetch(self.fingerprint, found.files)
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

    # -- life --------------------------------------------------------------------------

    def start(self, interval: float = 5.0) -> None:
        """Write idle sessions behind, from a thread of its own, until :meth:`close`."""

        def work() -> None:
            while not self._bell.wait(interval):
                with contextlib.suppress(KvError):
                    self.flush(self._idle_seconds)

        start_thread(work, "lix-cache-kv")

    def drain(self, seconds: float) -> bool:
        """Take no more calls, and wait for the replies that are being made.

        Returns:
            Whether they ended in time. If not, calls are taken again.
        """
        with self._book:
            self._closed = True
        until = self._clock.monotonic() + seconds
        while self._running:
            if self._clock.monotonic() >= until:
                self._closed = False
                return False
            self._clock.sleep(0.01)
        return True

    def close(self) -> None:
        """Write everything to disk and let go of it. The engine stays: it is its owner's."""
        self._closed = True
        self._bell.set()
        for entry in self._memory.all():
            self._locked_save(entry)
            with entry.lock:
                self._drop(entry)

    def stats(self) -> dict[str, Any]:
        """Return what happened, and what is in memory."""
        entries = self._memory.all()
        store = {} if self._store is None else {f"store_{k}": v for k, v in self._store.counters.items()}
        return {
            **self.counters,
            **store,
            "live_sessions": len(entries),
            "live_bytes": sum(one.size for one in entries),
            "load_seconds_per_token": self.rates.load,
            "prefill_seconds_per_token": self.rates.prefill,
        }
