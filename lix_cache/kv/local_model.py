"""LocalModel: a model whose conversations resume without prefill, after a restart too.

What a gateway calls. It decides where the state of a prompt comes from (memory, disk, or computing it),
and when it goes to disk: when a session is idle, leaves memory, or the model is closed; never each turn.
No conversation depends on the store: what goes wrong with it is counted, and the prompt is computed.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from lix_cache._log import logger
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.daemon import Bell, start_thread
from lix_cache.errors import EngineBusy, EngineError, told
from lix_cache.kv.arguments import checked_options, checked_prompt, checked_stops, checked_whose
from lix_cache.kv.encodings import check_encoding
from lix_cache.kv.engine import Engine, Halt, Made, Options
from lix_cache.kv.halting import halted_by, limited_to
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
#: How often one that waits for its turn looks whether it is still wanted.
_LOOK_SECONDS = 0.1
#: How long the engine has to tell the text of a reply that is over: nobody is left to halt it.
_AFTER_SECONDS = 10.0
#: How long a reply has to notice that it was halted, when the model is closed.
_NOTICE_SECONDS = 2.0


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
        #: Held while it is looked whether calls are taken. The book may be held for long.
        self._gate = threading.Lock()
        self._closed = False
        self._is_over = False
        #: What ends the calls that are being made.
        self._running: list[Halt] = []

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
        is_part: bool = False,
    ) -> Reply:
        """Begin a reply.

        Args:
            prompt: messages, or token ids.
            session: whose conversation it is; without one, the session whose state it continues is found.
            tenant: nothing is shared between two of them.
            tools: for the chat template.
            stop: texts that end the reply, and are not in it.
            max_tokens, temperature, top_p, seed, halt: of :class:`~lix_cache.kv.engine.Options`.
            is_part: it goes on with what a call before began, so only what it makes is counted.

        Raises:
            InvalidInput: there is no prompt, it is too long, or another argument makes no sense.
            EngineError: the engine failed.
        """
        checked_whose(tenant, session)
        checked_prompt(prompt, tools)
        stop = checked_stops(stop)
        halt = Halt() if halt is None else halt  # that of a model that is closed, at least
        options = checked_options(max_tokens, temperature, top_p, seed, halt)
        held = contextlib.ExitStack()
        try:
            self._enter(halt, held)
            with halted_by(halt):
                self.engine.look()
                while True:
                    seen = self._seen(tenant, session)
                    entry = self._taken(tenant, session, halt, held)
                    known = self._known(entry, tenant, session)
                    marks = known.marks if entry is None else entry.marks
                    before = known.ids.tolist() if entry is None else entry.live.ids
                    asked = prompt_of(self.engine, prompt, tools, marks, before)
                    # Before the state is looked for: what is cut off of it then is still compared.
                    nearest = self._nearest(asked, before, tenant, session or "")
                    with _held(self._book, halt):
                        # Another first call of the session may have come before: then it is in memory now.
                        if entry is not None or self._memory.get(tenant, session or "") is None:
                            entry, source = self._placed(entry, asked, tenant, session, known, seen, held)
                            break
            if not is_part:
                self.counters["calls"] += 1
            miss = None if is_part else self._miss(asked, *nearest, len(entry.live.ids))
            return self._reply(entry, asked, source, miss, stop, options, held, is_part=is_part)
        except BaseException:
            held.close()
            raise

    def _enter(self, halt: Halt, held: contextlib.ExitStack) -> None:
        """Begin a call: it is waited for before the model is exchanged, and has its turn."""
        with self._gate:
            if self._closed:
                raise EngineBusy("the model is closed, or about to be exchanged; try again")
            self._running.append(halt)
        held.callback(self._leave, halt)
        if self.engine.is_serial:
            _acquire(self._turn, halt)
            held.callback(self._turn.release)
            if self._is_over:
                raise EngineBusy("the model was closed meanwhile; try again")

    def _leave(self, halt: Halt) -> None:
        with self._gate:
            self._running.remove(halt)

    def _taken(
        self, tenant: str, session: str | None, halt: Halt, held: contextlib.ExitStack
    ) -> Entry | None:
        """Return a session that is in memory, its lock taken; None if it is not there."""
        while session is not None:
            entry = self._memory.get(tenant, session)
            if entry is None:
                return None
            # Not with the book's lock: another reply of this session may take long.
            _acquire(entry.lock, halt)
            if self._memory.get(tenant, session) is entry and not self._is_purged(entry):
                held.callback(entry.lock.release)
                entry.is_named = True  # by its name, it is one's own
                return entry
            self._drop_purged(entry)
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
        *,
        is_part: bool,
    ) -> Reply:
        cached = len(entry.live.ids)
        entry.live.evaluated = 0
        entry.prompt = prompt
        usage = Usage(len(prompt.tokens), cached, 0, source if cached else "none")

        def over(reply: Reply) -> None:
            try:
                self._count(reply, is_part=is_part)
                self._after(entry, prompt)
            finally:
                if self._is_over:
                    self._drop(entry)  # the model was closed, and could not wait
                held.close()

        tokens = _Halted(self._made(entry, prompt, options), options.halt or Halt())
        live = entry.live
        return Reply(
            entry.session,
            usage,
            miss,
            tokens,
            stop,
            over,
            lambda: live.evaluated,
            prompt.tokens,
        )

    def _made(self, entry: Entry, prompt: Prompt, options: Options) -> Iterator[Made]:
        """Yield the tokens of a reply; take the snapshots that are worth it on the way."""
        live, began = entry.live, self._clock.monotonic()
        start = len(live.ids)
        if self.engine.exports == "snapshots":
            # A whole state can only be had while the sequence stands there.
            for count in sorted(entry.checkpoints.values()):
                if len(live.ids) < count < len(prompt.tokens):
                    self.engine.prefill(live, prompt.tokens[len(live.ids) : count], options)
                    live.snapshots[count] = self.engine.export(live, 0, count)
        passed = len(live.ids) - start
        is_first = True
        with contextlib.closing(
            self.engine.generate(live, prompt.tokens[len(live.ids) :], options)  # type: ignore[type-var]
        ) as tokens:
            for made in tokens:
                if is_first:
                    is_first = False
                    live.evaluated += passed
                    self.rates.prefilled(live.evaluated, self._clock.monotonic() - began)
                yield made

    def _count(self, reply: Reply, *, is_part: bool) -> None:
        count, cached = reply.usage.prompt_tokens, reply.usage.cached_tokens
        reply.usage = replace(reply.usage, completion_tokens=reply.count)
        self.counters["completion_tokens"] += reply.count
        if is_part:
            return
        self.counters.update(prompt_tokens=count, cached_tokens=cached)
        if reply.count:
            source = reply.usage.source
            self.counters["recomputed_tokens"] += count - cached
            self.counters[f"hits_{source}"] += 1
            self.counters["restored_tokens"] += cached if source == "disk" else 0

    def _after(self, entry: Entry, prompt: Prompt) -> None:
        live, count = entry.live, len(prompt.tokens)
        if prompt.text and len(live.ids) >= count:
            made = live.ids[count:]
            entry.marks = [mark for mark in entry.marks if mark.tokens < count][-_MOST_MARKS:]
            entry.marks.append(mark_of(prompt.text, count))
            # A token that leaves no text is not in the text that comes back.
            if made and self.engine.special_ids.isdisjoint(made):
                with limited_to(_AFTER_SECONDS):
                    text = self.engine.detokenize(made)
                entry.marks.append(mark_of(prompt.text + text, len(live.ids)))
        entry.used = self._clock.monotonic()
        self._make_room(keep=entry)

    # -- life --------------------------------------------------------------------------

    def start(self, interval: float = 5.0) -> None:
        """Write idle sessions behind, from a thread of its own, until :meth:`close`."""

        def work() -> None:
            while not self._bell.wait(interval):
                try:
                    self.flush(self._idle_seconds)
                except Exception as error:  # noqa: BLE001 - the thread must outlive what an engine raises
                    self.counters["failed_flushes"] += 1
                    logger.warning("idle sessions were not written: {}", told(error))

        start_thread(work, "lix-cache-kv")

    def drain(self, seconds: float, is_wanted: Callable[[], bool] = lambda: True) -> bool:
        """Take no more calls, and wait for the replies that are being made.

        Args:
            seconds: how long.
            is_wanted: whether to go on waiting.

        Returns:
            Whether they ended in time. If not, calls are taken again.
        """
        with self._gate:
            self._closed = True
        until = self._clock.monotonic() + seconds
        while self._running:
            if self._clock.monotonic() >= until or not is_wanted():
                self._closed = self._is_over
                return False
            self._clock.sleep(0.01)
        return True

    def close(self, seconds: float = 30.0) -> None:
        """Write everything to disk and let go of it. The engine stays: it is its owner's.

        What cannot be written is let go of all the same, and told in the log. A reply that is still being
        made then is halted.

        Args:
            seconds: how long to wait for replies, for what another process keeps from being written, and for
                a server that does not answer.
        """
        with self._gate:
            self._closed = self._is_over = True
        self._bell.set()
        until, lost = self._clock.monotonic() + seconds, 0
        for entry in self._memory.all():
            if not entry.lock.acquire(timeout=max(0.0, until - self._clock.monotonic())):
                self._halt_all()
                if not entry.lock.acquire(timeout=_NOTICE_SECONDS):
                    # Its reply was begun and is read by nobody, or is in a step that nothing can end.
                    lost += self._can_save(entry)
                    continue
            try:
                self._save(entry, until)
                lost += self._can_save(entry) and not self._is_purged(entry)
                self._drop(entry)
            except Exception as error:  # noqa: BLE001 - it goes with its engine
                logger.warning("the engine did not let go of a state: {}", told(error))
            finally:
                entry.lock.release()
        # Those that wait for their turn, or have no session in memory yet.
        self._halt_all()
        if lost:
            self.counters["lost_sessions"] += lost
            logger.warning("{} sessions were not written; they begin cold next time", lost)

    def _halt_all(self) -> None:
        with self._gate:
            running = [*self._running]
        for halt in running:
            halt.set()

    def counting(self) -> Callable[[], dict[str, int]]:
        """Return what tells what happened, when the model itself is gone too."""
        own, store = self.counters, Counter[str]() if self._store is None else self._store.counters
        return lambda: {**own, **{f"store_{name}": count for name, count in store.items()}}

    def stats(self) -> dict[str, Any]:
        """Return what happened, and what is in memory."""
        entries = self._memory.all()
        return {
            **self.counting()(),
            "live_sessions": len(entries),
            "live_bytes": sum(one.size for one in entries),
            "load_seconds_per_token": self.rates.load,
            "prefill_seconds_per_token": self.rates.prefill,
        }


def _acquire(lock: threading.Lock | threading.RLock, halt: Halt) -> None:
    """Take a lock, unless the one who waits is halted before.

    Raises:
        EngineError: it was halted.
    """
    while not lock.acquire(timeout=_LOOK_SECONDS):
        if halt.is_set:
            raise EngineError("the generation was halted")


@contextlib.contextmanager
def _held(lock: threading.RLock, halt: Halt) -> Iterator[None]:
    _acquire(lock, halt)
    try:
        yield
    finally:
        lock.release()


class _Halted(Iterator[Made]):
    """The tokens of a reply; what the engine does for one of them, and behind the last, ends with a halt."""

    def __init__(self, made: Iterator[Made], halt: Halt) -> None:
        self._made, self._halt = made, halt

    def __next__(self) -> Made:
        with halted_by(self._halt):
            return next(self._made)

    def close(self) -> None:
        with halted_by(self._halt):
            self._made.close()  # type: ignore[attr-defined]
