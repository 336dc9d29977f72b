"""A process of the chaos test: adds, reads and moves messages, and notes what was acknowledged.

Started by the executor with a file that says what it is; takes commands as lines of JSON. What
both kinds do is written once, in ``_chaos_writer.py``; how a call is made, and how it is
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
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _chaos_log import Log
from _chaos_writer import Call, SoftLimit, Step, Writer

from lix_cache import (
    AsyncHybridConversationCache,
    CacheConfig,
    HybridConversationCache,
    LixCacheError,
    close_async_redis_clients,
)
from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.files import Files, Write


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
        self.looks = 0

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
            elif what == "look":
                self.looks += 1
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

    def a_moment(self) -> float:
        """Return after how long a call is interrupted: in a short one and in a long one alike."""
        return self.rng.uniform(0, self.rng.choice((0.001, 0.005, 0.02)))

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
            self.drive(writer.look(self.looks))
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
            signal.setitimer(signal.ITIMER_REAL, 0.00005 + self.a_moment())
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
            await self._drive(writer.look(self.looks), caches)
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
        done, _ = await asyncio.wait({task}, timeout=self.a_moment())
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
