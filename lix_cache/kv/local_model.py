"""LocalModel: a model whose conversations resume without prefill, after a restart too.

What a gateway calls. It decides where the state of a prompt comes from (memory, disk, or computing it),
and when it goes to disk: when a session is idle, leaves memory, or the model is closed; never each turn.
No conversation depends on the store: what goes wrong with it is counted, and the prompt is computed.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.daemon import Bell, start_thread
from lix_cache.errors import EngineBusy, EngineError, KvError
from lix_cache.kv.encodings import check_encoding
from lix_cache.kv.engine import Engine, Halt, Options
from lix_cache.kv.manifest import mark_of
from lix_cache.kv.memory import Entry
from lix_cache.kv.miss import Miss
from lix_cache.kv.placing import Placing
from lix_cache.kv.prompts import Prompt, prompt_of
from lix_cache.kv.rates import Rates
from lix_cache.kv.reply import Reply, Usage
from lix_cache.kv.store import KvStore

__all__ = ["LocalModel"]

#: Places where text and tokens meet that a session keeps.
_MOST_MARKS = 64


class LocalModel(Placing):
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
