"""A process of the chaos test: adds, reads and moves messages, and notes what was acknowledged.

Started by the executor with a file that says what it is; takes commands as lines of JSON. What
both kinds do is written once, as generators that yield calls; how a call is made, and how it is
interrupted, is what differs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import faulthandler
import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter, deque
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from _chaos_log import Log, message_text

from lix_cache import (
    AsyncHybridConversationCache,
    CacheConfig,
    HybridConversationCache,
    LixCacheError,
    close_async_redis_clients,
)
from lix_cache.archive.files import Files, Write
from lix_cache.errors import ArchiveUnavailable

Call: TypeAlias = "Callable[[Any], Any]"
Step: TypeAlias = Generator["tuple[str, Call]", Any, None]

#: How long a worker tries to add when all is well again.
_PATIENCE = 12.0
#: What it does, and how often.
_MIX = {"add": 72, "context": 14, "full": 4, "flush": 3, "round": 3, "stats": 2, "idle": 2}


class SoftLimit(Exception):
    """What a task queue raises out of a signal's handler when a task takes too long."""


class OffsetClock:
    """The machine's clock, and as much as it is wrong."""

    def __init__(self, offset: float) -> None:
        self.offset = offset
        self.ahead = 0.0

    def time(self) -> float:
        return time.time() + self.offset

    def monotonic(self) -> float:
        return time.monotonic() + self.ahead

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


class FullFiles(Files):
    """The real file system; there is no room on it while a file of that name exists."""

    def __init__(self, flag: str) -> None:
        self._flag = flag

    def append(self, path: str, offset: int, data: bytes) -> None:
        self._check(path)
        super().append(path, offset, data)

    def write_synced(self, path: str, data: bytes) -> None:
        self._check(path)
        super().write_synced(path, data)

    def write_many(self, writes: Sequence[Write]) -> list[ArchiveUnavailable | None]:
        if os.path.exists(self._flag):
            return [ArchiveUnavailable(errno.ENOSPC, "the disk is full (injected)") for _ in writes]
        return super().write_many(writes)

    def _check(self, path: str) -> None:
        if os.path.exists(self._flag):
            raise ArchiveUnavailable(errno.ENOSPC, f"cannot write to {path!r}: the disk is full (injected)")


class Writer:
    """Adds messages one after the other, and reads.

    Args:
        name: nobody else's.
        log: where it notes what was acknowledged.
        rng: what it does follows from this.
        sessions: where.
    """

    def __init__(self, name: str, log: Log, rng: random.Random, sessions: Sequence[str]) -> None:
        self.name, self.log, self.rng, self.sessions = name, log, rng, sessions
        self._next = 0
        self._wipes = 0
        self._told: Counter[str] = Counter()
        self._acked: dict[str, list[int]] = {session: [] for session in sessions}
        # Most go to one session: faults of messages that come close together need that.
        self._weights = [3 * len(sessions), *([1] * (len(sessions) - 1))]
        self._failures: list[str] = []

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
            self._acked[session].append(number)

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
        mine = [message_text(session, self.name, number) in there for number in self._acked[session]]
        first = 0 if kind == "full" else mine.index(True) if True in mine else len(mine)
        missed = [n for n, seen in zip(self._acked[session][first:], mine[first:], strict=True) if not seen]
        if missed:
            self.log.write("missed", session=session, kind=kind, writer=self.name, numbers=missed, began=began)

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
        for session in self.sessions:
            deadline = time.monotonic() + _PATIENCE
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


class Worker:
    """What both kinds have: the objects, and the commands."""

    def __init__(self, spec: dict[str, Any]) -> None:
        self.spec = spec
        self.name: str = spec["name"]
        self.rng = random.Random(spec["seed"])
        self.clock = OffsetClock(spec["clock"])
        self.config = CacheConfig(**spec["settings"])
        self.files = FullFiles(spec["flag"]) if spec["flag"] else None
        self.commands: deque[dict[str, Any]] = deque()
        self.ended = False
        self.disturbed_until = 0.0

    def open(self, kind: type[Any]) -> dict[str, Any]:
        return {
            session: kind(session, self.config, clock=self.clock, files=self.files)
            for session in self.spec["sessions"]
        }

    def writer(self, suffix: str) -> Writer:
        name = self.name + suffix
        log = Log(os.path.join(self.spec["logs"], f"{name}.jsonl"))
        return Writer(name, log, random.Random(f"{self.spec['seed']}{suffix}"), self.spec["sessions"])

    def listen(self) -> None:
        """Take commands in a thread. The end of the input is the end of this process."""

        def read() -> None:
            for line in sys.stdin:
                self.commands.append(json.loads(line))
            os._exit(3)

        threading.Thread(target=read, daemon=True).start()
        print("ready", flush=True)
        while not self.commands:
            time.sleep(0.005)

    def obeyed(self, caches: dict[str, Any], writer: Writer) -> Step:
        """Do what the executor has asked for since the last time."""
        while self.commands:
            command = self.commands.popleft()
            what = command["do"]
            if what == "clock":
                self.clock.offset += command["jump"]
            elif what in ("signals", "cancel"):
                self.disturbed_until = time.monotonic() + command["seconds"]
            elif what in ("clear", "delete"):
                yield from writer.wipe(command["session"], what)
            elif what == "calendar":
                self._look_for_expired(caches, command["days"])
            elif what == "fork":
                self.fork(command["seconds"])
            elif what == "end":
                self.ended, self.disturbed_until = True, 0.0

    def _look_for_expired(self, caches: dict[str, Any], days: float) -> None:
        self.clock.offset += days * 86400
        self.clock.ahead += 3700
        try:
            with contextlib.suppress(LixCacheError):
                next(iter(caches.values())).evictor.run_once()
        finally:
            self.clock.offset -= days * 86400

    def fork(self, seconds: float) -> None:
        """Go on in a child too. Only a sync worker can."""


class SyncWorker(Worker):
    """One thread; signals may interrupt its calls."""

    def run(self) -> None:
        self.caches = self.open(HybridConversationCache)
        self._armed = False
        self._children: list[int] = []
        for number in (signal.SIGALRM, signal.SIGINT):
            signal.signal(number, self._interrupt)
        self.listen()
        writer = self.writer("")
        while not self.ended:
            self.drive(self.obeyed(self.caches, writer))
            self.drive(writer.draw())
            time.sleep(self.rng.choice((0.0, 0.0005, 0.002, 0.005)))
        for child in self._children:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(child, 0)
        self.drive(writer.last_adds())

    def drive(self, step: Step) -> None:
        try:
            session, call = next(step)
            while True:
                try:
                    result = self._call(call, self.caches[session])
                except BaseException as error:
                    session, call = step.throw(error)
                else:
                    session, call = step.send(result)
        except StopIteration:
            return

    def _call(self, call: Call, cache: Any) -> Any:
        if time.monotonic() >= self.disturbed_until:
            return call(cache)
        try:
            self._armed = True
            signal.setitimer(signal.ITIMER_REAL, self.rng.uniform(0.00005, self.rng.choice((0.001, 0.005, 0.02))))
            return call(cache)
        finally:
            self._armed = False
            signal.setitimer(signal.ITIMER_REAL, 0)

    def _interrupt(self, number: int, _: Any) -> None:
        # Once for each call, and never in what this worker does for itself.
        if self._armed:
            self._armed = False
            raise KeyboardInterrupt if number == signal.SIGINT else SoftLimit

    def fork(self, seconds: float) -> None:
        child = os.fork()
        if child:
            self._children.append(child)
            return
        code = 1
        try:
            self.disturbed_until = 0.0
            writer = self.writer(f".f{len(self._children)}")
            until = time.monotonic() + seconds
            while time.monotonic() < until:
                self.drive(writer.draw())
                time.sleep(0.002)
            code = 0
        finally:
            os._exit(code)


class AsyncWorker(Worker):
    """One loop; its calls may be cancelled."""

    def run(self) -> None:
        # Made outside of the loop, as the library allows.
        shared = self.open(AsyncHybridConversationCache) if self.rng.random() < 0.5 else None
        caches = [shared or self.open(AsyncHybridConversationCache) for _ in range(self.spec["tasks"])]
        self.listen()
        asyncio.run(self._main(caches))

    async def _main(self, caches: list[dict[str, Any]]) -> None:
        tasks = [self._work(own, self.writer(f".t{number}"), number) for number, own in enumerate(caches)]
        await asyncio.gather(*tasks)
        await close_async_redis_clients()

    async def _work(self, caches: dict[str, Any], writer: Writer, number: int) -> None:
        # Commands have a writer of their own, so that its wipes have one log.
        obeying = self.writer("") if number == 0 else None
        while not self.ended:
            if obeying is not None:
                await self._drive(self.obeyed(caches, obeying), caches)
            await self._drive(writer.draw(), caches)
            await asyncio.sleep(self.rng.choice((0.0, 0.0005, 0.002, 0.005)))
        await self._drive(writer.last_adds(), caches)

    async def _drive(self, step: Step, caches: dict[str, Any]) -> None:
        try:
            session, call = next(step)
            while True:
                try:
                    result = await self._call(call, caches[session])
                except (Exception, asyncio.CancelledError) as error:
                    session, call = step.throw(error)
                else:
                    session, call = step.send(result)
        except StopIteration:
            return

    async def _call(self, call: Call, cache: Any) -> Any:
        if time.monotonic() >= self.disturbed_until:
            return await call(cache)
        task = asyncio.ensure_future(call(cache))
        done, _ = await asyncio.wait({task}, timeout=self.rng.uniform(0, self.rng.choice((0.001, 0.005, 0.02))))
        if not done:
            task.cancel()
        return await task


def main() -> None:
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    spec = json.loads(Path(sys.argv[1]).read_text())
    worker = SyncWorker(spec) if spec["kind"] == "sync" else AsyncWorker(spec)
    worker.run()
    # Not by way of the exit handlers: where a thread hangs there, the executor would wait for it.
    sys.stdout.flush()
    os._exit(0)


if __name__ == "__main__":
    main()
