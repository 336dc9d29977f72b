"""One episode of the chaos test: carry out a schedule and collect the evidence."""

from __future__ import annotations

import contextlib
import heapq
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from _chaos_checker import Verdict, check
from _chaos_log import Evidence, Trouble, parse_logs
from _chaos_schedule import Schedule
from _chaos_world import World

__all__ = ["Outcome", "run_episode"]

_READER = Path(__file__).with_name("_chaos_reader.py")
#: How long workers may take for their last adds, and the reader for everything. A machine that
#: many share is slow; what hangs hangs for ever.
_END_SECONDS = 45.0
_READ_SECONDS = 180.0


@dataclass(frozen=True)
class Outcome:
    """What came of an episode.

    Attributes:
        verdict: what the checker says.
        events: how often each kind of event took place.
        failures: adds and reads that failed as they may, by the name of the error.
        disk: how the disk was filled up, in words.
        seconds: how long it took.
    """

    verdict: Verdict
    events: Counter[str]
    failures: Counter[str]
    disk: str
    seconds: float


def run_episode(schedule: Schedule, binary: str, clock: Path | None, keep: Path | None = None) -> Outcome:
    """Carry out a schedule, and check what was read in the end.

    Args:
        schedule: what is to happen.
        binary: the Redis server's program.
        clock: the compiled ``chaos_clock.c``; without it servers' clocks are right.
        keep: where the folder of an episode that failed goes.
    """
    began = time.monotonic()
    memory = Path("/dev/shm")
    root = memory if memory.is_dir() and os.access(memory, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(prefix="lix-chaos-", dir=root))
    try:
        with _world(schedule, binary, clock, folder / "w") as world:
            _play(world)
            troubles = _end(world)
            evidence = _collect(world)
            evidence.troubles += troubles
            verdict = check(evidence)
            if verdict.findings and keep is not None:
                _keep(folder / "w", keep)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(verdict, world.done, evidence.failures, world.disk.how, time.monotonic() - began)


@contextlib.contextmanager
def _world(schedule: Schedule, binary: str, clock: Path | None, folder: Path) -> Iterator[World]:
    world = World(schedule, binary, clock, folder)
    try:
        world.start()
        yield world
    finally:
        world.close()


def _play(world: World) -> None:
    """Let everything happen at its time."""
    schedule = world.schedule
    order = itertools.count()
    plan: list[tuple[float, int, Callable[[], Any]]] = []

    def put(at: float, what: Callable[[], Any]) -> None:
        heapq.heappush(plan, (at, next(order), what))

    for event in schedule.events:
        if event.kind == "failover":
            put(event.at - float(event.args["lag"]), world.begin_lag)
        put(event.at, partial(world.happen, event))
    for worker in world.workers.values():
        worker.tell("begin")
    start = time.monotonic()
    while plan and plan[0][0] < schedule.seconds:
        at, _, what = heapq.heappop(plan)
        time.sleep(max(0.0, start + at - time.monotonic()))
        for delay, later in what() or ():
            put(time.monotonic() - start + delay, later)
    time.sleep(max(0.0, start + schedule.seconds - time.monotonic()))
    world.heal()


def _end(world: World) -> list[Trouble]:
    """Let the workers come to their end, which shows that they have recovered."""
    for worker in world.workers.values():
        worker.tell("end")
    deadline = time.monotonic() + _END_SECONDS
    troubles = []
    for worker in world.workers.values():
        code = worker.ended(max(0.1, deadline - time.monotonic()))
        if code is None:
            worker.signal(signal.SIGUSR1)  # it writes down where its threads stand
            time.sleep(0.3)
            troubles.append(Trouble("hung", f"{worker.name}: {_stacks(world, worker.name)}"))
        elif code != 0:
            errors = world.folder / f"{worker.name}.err"
            said = _stacks(world, worker.name) if code < 0 else _last_line(errors)
            troubles.append(Trouble("error", f"{worker.name} ended with code {code}: {said}"))
        worker.close()
    return troubles


def _stacks(world: World, name: str) -> str:
    """Return where the main thread stood, the innermost call first."""
    text = (world.folder / f"{name}.err").read_text(errors="replace")
    stack = text.rpartition("Current thread")[2].partition("\n\n")[0]
    lines = [line.strip() for line in stack.splitlines() if line.startswith("  File")]
    here = os.path.dirname(os.path.dirname(__file__)) + "/"
    return " < ".join(line.replace("File ", "").replace(here, "") for line in lines[:12])


def _last_line(path: Path) -> str:
    lines = path.read_text(errors="replace").strip().splitlines()
    return lines[-1][:300] if lines else "(nothing said)"


def _collect(world: World) -> Evidence:
    """Read the logs, and everything else in a fresh process."""
    lines: list[str] = []
    for path in sorted((world.folder / "logs").iterdir()):
        lines += path.read_text().splitlines()
    evidence = parse_logs(lines, world.deaths)
    evidence.window = int(world.schedule.settings["hot_window_size"])
    evidence.may_miss, evidence.rollbacks = world.may_miss, world.rollbacks
    spec = world.folder / "reader.json"
    spec.write_text(json.dumps({"settings": world.settings(), "sessions": world.schedule.sessions}))
    try:
        done = subprocess.run(
            [sys.executable, str(_READER), str(spec)], capture_output=True, timeout=_READ_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        evidence.troubles.append(Trouble("hung", "the reader of everything"))
        return evidence
    (world.folder / "reader.err").write_bytes(done.stderr)
    if done.returncode != 0:
        last = _last_line(world.folder / "reader.err")
        evidence.troubles.append(Trouble("error", f"the reader of everything: {last}"))
        return evidence
    found = json.loads(done.stdout)
    evidence.full = found["full"]
    evidence.context = {
        view: {session: (pair[0], pair[1]) for session, pair in sessions.items()}
        for view, sessions in found["context"].items()
    }
    evidence.troubles += [Trouble(**trouble) for trouble in found["troubles"]]
    return evidence


def _keep(folder: Path, target: Path) -> None:
    shutil.rmtree(target, ignore_errors=True)
    ignored = shutil.ignore_patterns("sock", ".ballast")
    shutil.copytree(folder, target, ignore=ignored)
