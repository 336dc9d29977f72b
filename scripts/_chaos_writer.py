"""What a writer of the chaos test does, for both kinds of workers: generators that yield calls.

How a call is made, awaited and interrupted is the worker's affair; see ``_chaos_worker.py``.
"""

from __future__ import annotations

import asyncio
import os
import random
import time
import traceback
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from typing import Any, TypeAlias

from _chaos_log import Log, message_text

from lix_cache import HybridConversationCache, LixCacheError

__all__ = ["Call", "SoftLimit", "Step", "Writer"]

Call: TypeAlias = "Callable[[Any], Any]"
#: Yields a session and what to call with its object; receives the result, or the error.
Step: TypeAlias = Generator["tuple[str, Call]", Any, None]

#: How long a worker tries to add to its sessions when all is well again.
_PATIENCE = 15.0
#: What it does, and how often.
_MIX = {"add": 72, "context": 14, "full": 4, "flush": 3, "round": 3, "stats": 2, "idle": 2}


class SoftLimit(Exception):
    """What a task queue raises out of a signal's handler when a task takes too long."""


class Writer:
    """Adds messages one after the other, and reads.

    Args:
        name: unique.
        log: where it notes what was acknowledged.
        rng: what it does follows from this.
        sessions: where.
    """

    def __init__(self, name: str, log: Log, rng: random.Random, sessions: Sequence[str]) -> None:
        self.name, self.log, self.rng, self.sessions = name, log, rng, sessions
        self._next = 0
        self._wipes = 0
        self._told: Counter[str] = Counter()
        self._acked: dict[str, list[tuple[int, str]]] = {session: [] for session in sessions}
        # Most go to one session: faults of messages that come close together need that.
        self._weights = [3 * len(sessions), *([1] * (len(sessions) - 1))]
        self._failures: list[str] = []
        #: How often it has looked because it was asked to.
        self.looks = 0

    def draw(self) -> Step:
        """Return what to do next."""
        what = self.rng.choices(list(_MIX), list(_MIX.values()))[0]
        session = self.rng.choices(self.sessions, self._weights)[0]
        if what == "add":
            return self.add(session)
        if what in ("context", "full"):
            return self.read(session, what)
        return self.plain(session, what)

    def add(self, session: str) -> Step:
        number, self._next = self._next, self._next + 1
        text = message_text(session, self.name, number)
        began = time.monotonic()
        if (yield from self._tried(session, lambda cache: cache.add_message("user", text))) is not None:
            self.log.write(
                "add", session=session, writer=self.name, number=number, began=began, ended=time.monotonic()
            )
            self._acked[session].append((number, text))

    def read(self, session: str, kind: str) -> Step:
        before = yield from self._degraded_reads(session)
        began = time.monotonic()

        def call(cache: Any) -> Any:
            return cache.get_full() if kind == "full" else cache.get_context()

        found = yield from self._tried(session, call)
        if found is None:
            return
        after = yield from self._degraded_reads(session)
        texts = [message["content"] for message in found]
        if not texts:
            self.log.write("empty", session=session, kind=kind, began=began)
        doubled = [text for text, count in Counter(texts).items() if count > 1]
        if doubled:
            self._tell("doubled", f"{kind} of {session!r} had {len(doubled)} twice: {doubled[0][:40]}")
        foreign = [text for text in texts if not str(text).startswith(session + "|")]
        if foreign:
            self._tell("foreign", f"{kind} of {session!r} had {foreign[0][:40]!r}")
        # While Redis is away a read answers from the disk alone, says so, and may be incomplete.
        if before is not None and before == after:
            self._compare(session, kind, began, {str(text) for text in texts})

    def _degraded_reads(self, session: str) -> Generator[tuple[str, Call], Any, Any]:
        stats = yield from self._tried(session, lambda cache: cache.get_stats())
        return stats and stats["counters"].get("degraded_reads", 0)

    def _compare(self, session: str, kind: str, began: float, there: set[str]) -> None:
        """Look for what this writer has added and does not see.

        A context is the end of a session: what comes after something that is there is there too.
        """
        mine = self._acked[session]
        seen = [text in there for _, text in mine]
        first = 0 if kind == "full" else seen.index(True) if True in seen else len(seen)
        missed = [
            number for (number, _), is_there in zip(mine[first:], seen[first:], strict=True) if not is_there
        ]
        if missed:
            self.log.write(
                "missed", session=session, kind=kind, writer=self.name, numbers=missed, began=began
            )

    def look(self, times: int) -> Step:
        """Read every context, unless it was done so often: what is wrong after a fault may soon pass by."""
        if self.looks < times:
            self.looks = times
            for session in self.sessions:
                yield from self.read(session, "context")

    def plain(self, session: str, what: str) -> Step:
        calls: dict[str, Call] = {
            "flush": lambda cache: cache.flush_to_disk(),
            "stats": lambda cache: cache.get_stats(),
            # A daemon's round is a call without a twin: an async worker leaves it to its daemon.
            "round": lambda cache: cache.evictor.run_once() if _is_sync(cache) else cache.get_stats(),
            "idle": lambda cache: time.sleep(0.01) if _is_sync(cache) else asyncio.sleep(0.01),
        }
        yield from self._tried(session, calls[what])

    def wipe(self, session: str, kind: str) -> Step:
        number, self._wipes = self._wipes, self._wipes + 1
        self.log.write(
            "wipe begins", writer=self.name, number=number, session=session, kind=kind, began=time.monotonic()
        )

        def call(cache: Any) -> Any:
            return cache.clear() if kind == "clear" else cache.delete_session()

        done = (yield from self._tried(session, call)) is not None
        self.log.write("wipe ends", writer=self.name, number=number, ended=time.monotonic(), done=done)

    def last_adds(self) -> Step:
        """Add to every session, now that all is well; it must succeed in a while."""
        deadline = time.monotonic() + _PATIENCE
        for session in self.sessions:
            before = self._next
            while True:
                failures: list[str] = []
                yield from self._noting(failures, self.add(session))
                if not failures:
                    break
                if time.monotonic() > deadline:
                    tries = self._next - before
                    self._tell("stuck", f"{self.name}: {session!r} after {tries} tries: {failures[0]}")
                    break
                yield from self.plain(session, "idle")

    def _noting(self, failures: list[str], step: Step) -> Step:
        self._failures = failures
        try:
            yield from step
        finally:
            self._failures = []

    def _tried(self, session: str, call: Call) -> Generator[tuple[str, Call], Any, Any]:
        """Make a call; None if it failed, as it may. No call here returns None when it succeeds."""
        try:
            result = yield session, call
            return True if result is None else result
        except (SoftLimit, KeyboardInterrupt, asyncio.CancelledError) as error:
            self._failed(error)
        except LixCacheError as error:
            self._failed(error)
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{os.path.basename(last.filename)}:{last.lineno}"
            self._tell("error", f"{type(error).__name__}: {str(error)[:200]} at {place}")
            traceback.print_exc()
            self._failed(error)
        return None

    def _failed(self, error: BaseException) -> None:
        self.log.write("failed", error=type(error).__name__)
        self._failures.append(f"{type(error).__name__}: {str(error)[:200]}")

    def _tell(self, kind: str, detail: str) -> None:
        self._told[kind] += 1
        if self._told[kind] <= 3:
            self.log.write("trouble", kind=kind, detail=detail)


def _is_sync(cache: Any) -> bool:
    return isinstance(cache, HybridConversationCache)
