#!/usr/bin/env python3
"""Let everything go wrong at once, for as long as you like, and compare every message afterwards.

    python scripts/chaos.py --minutes 30

Each episode is drawn from a seed: processes of both kinds add to a few sessions while workers
and servers are killed, calls are interrupted, clocks jump and memory and disk fill up. Then all
is healed, and everything is read in every way. A message that was acknowledged must be there
once, in its writer's order; what only a server had that lost its memory may be missing under
``durability="redis"``, and is counted. A schedule that fails is made as small as it gets, and
written to a file that ``--replay`` takes. Ends with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _chaos_checker import FAULTS
from _chaos_episode import Outcome, run_episode
from _chaos_schedule import KINDS, Schedule, generate
from _chaos_servers import build_clock
from _chaos_shrink import shrink
from _run_facts import RunFacts, write_json
from rich.console import Console
from rich.table import Table

from lix_cache.embedded import find_server_binary

_SHIFTS = {"server_clock"}


@dataclass
class Sums:
    """What all episodes together came to."""

    episodes: int = 0
    first_seed: int | None = None
    failed: list[Path] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    events: Counter[str] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    acknowledged: int = 0
    allowed: Counter[str] = field(default_factory=Counter)
    settings: Counter[str] = field(default_factory=Counter)
    disks: set[str] = field(default_factory=set)
    broken: list[int] = field(default_factory=list)

    def add(self, schedule: Schedule, outcome: Outcome) -> None:
        verdict = outcome.verdict
        self.episodes += 1
        self.events += outcome.events
        self.failures += outcome.failures
        self.acknowledged += verdict.acknowledged
        self.allowed[schedule.durability] += verdict.allowed
        self.settings[schedule.durability] += 1
        if outcome.events["full_disk"]:
            self.disks.add(outcome.disk)
        for kind in FAULTS:
            self.faults[kind] += verdict.count(kind)

    def as_dict(self) -> dict[str, Any]:
        """Return the counts; seeds and schedules of failures by their numbers."""
        return {
            "episodes": self.episodes,
            # The next episodes have the next numbers; none where a schedule was given.
            "first_seed": self.first_seed,
            "failed": len(self.failed),
            "failed_seeds": self.seeds,
            "broken_seeds": self.broken,
            "acknowledged": self.acknowledged,
            "missing_as_they_may_be": self.allowed.total(),
            "missing_by_durability": dict(self.allowed),
            "durability": dict(self.settings),
            "events": dict(self.events),
            "all_events": self.events.total(),
            "faults": {kind: self.faults[kind] for kind in FAULTS},
            "calls_that_failed": self.failures.total(),
        }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("--minutes", type=float, default=3.0, help="how long; an episode that has begun ends (default 3)")
    add("--episodes", type=int, help="at most so many")
    add("--seed", type=int, help="of the first episode; the next have the next numbers (default: drawn)")
    add("--seconds", type=float, default=8.0, help="how long the workers of an episode go on (default 8)")
    add("--events", metavar="KIND,…", help=f"only these kinds: {', '.join(KINDS)}")
    add("--replay", metavar="FILE", type=Path, help="a schedule that was written to a file")
    add("--server", metavar="PATH", help="the Redis server's program; found by itself otherwise")
    shrinking = "make the first failing schedule as small as it gets"
    add("--shrink", action=argparse.BooleanOptionalAction, default=True, help=shrinking)
    add("--tries", type=int, default=3, help="how often a smaller schedule may pass (default 3)")
    add("--out", metavar="DIR", type=Path, default=Path("chaos-results"), help="where failing schedules go")
    add("--json", metavar="FILE", help="write what all episodes came to here")
    add("--show", action="store_true", help="print each schedule")
    arguments = parser.parse_args()
    unknown = set(arguments.events.split(",")) - set(KINDS) if arguments.events else set()
    if unknown:
        parser.error(f"unknown kinds: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    return arguments


class Chaos:
    """The run: what the arguments ask for, and what came of it."""

    def __init__(self, arguments: argparse.Namespace, console: Console, scratch: Path) -> None:
        self.arguments, self.console = arguments, console
        self.facts = RunFacts()
        found = find_server_binary() if arguments.server is None else None
        if arguments.server is None and found is None:
            sys.exit("no redis-server or valkey-server was found; name one with --server")
        self.binary = found.path if found is not None else str(arguments.server)
        self.clock = build_clock(scratch)
        self.sums = Sums()
        self.smallest: Path | None = None

    def run(self) -> int:
        """Run episodes until the time is over; return the exit code."""
        if self.clock is None:
            self.console.print("no C compiler: the servers' clocks are right in this run")
        # Interrupted, it still says what it has seen.
        with contextlib.suppress(KeyboardInterrupt):
            self._run_all()
        self._table()
        if self.arguments.json:
            write_json(self.arguments.json, self.facts, self.sums.as_dict())
        if self.smallest is not None:
            self.console.print(f"the smallest failing schedule: {self.smallest}; run it with --replay")
        return 1 if self.sums.failed or self.sums.broken else 0

    def _run_all(self) -> None:
        arguments = self.arguments
        ends = time.monotonic() + arguments.minutes * 60
        most = arguments.episodes or (arguments.tries if arguments.replay else sys.maxsize)
        seed = random.SystemRandom().randrange(10**6) if arguments.seed is None else arguments.seed
        self.sums.first_seed = seed if arguments.replay is None else None
        while self.sums.episodes < most and (time.monotonic() < ends or not self.sums.episodes):
            schedule = self._schedule(seed + self.sums.episodes)
            outcome = self._episode(schedule)
            if outcome is not None and outcome.verdict.findings:
                self._tell(schedule, outcome)
                if arguments.shrink and self.smallest is None:
                    # Half as long as the run itself, or five minutes where that is less.
                    self.smallest = self._smaller(schedule, outcome, max(300.0, arguments.minutes * 30))

    def _schedule(self, seed: int) -> Schedule:
        if self.arguments.replay is not None:
            return Schedule.from_json(self.arguments.replay.read_text())
        kinds = set(self.arguments.events.split(",")) if self.arguments.events else set(KINDS)
        if self.clock is None:
            kinds -= _SHIFTS
        return generate(seed, seconds=self.arguments.seconds, kinds=kinds)

    def _episode(self, schedule: Schedule) -> Outcome | None:
        """Run one; None if it could not be carried out, which is no verdict."""
        if self.arguments.show:
            self._print(*schedule.lines())
        with self.console.status(self._progress(f"seed {schedule.seed} is running")):
            outcome = self._run(schedule, self.arguments.out / f"kept-{schedule.seed}")
        if outcome is None:
            self.sums.episodes += 1
            self.sums.broken.append(schedule.seed)
            return None
        self.sums.add(schedule, outcome)
        verdict = outcome.verdict
        result = "FAILED, " + ", ".join(sorted(verdict.kinds)) if verdict.findings else "ok"
        self._print(
            f"seed {schedule.seed}: {len(schedule.workers)} workers, {outcome.events.total()} events, "
            f"durability {schedule.durability}, {verdict.acknowledged} acknowledged, "
            f"{verdict.allowed} missing as they may be, {outcome.seconds:.0f} s: {result}"
        )
        return outcome

    def _run(self, schedule: Schedule, keep: Path | None = None) -> Outcome | None:
        try:
            return run_episode(schedule, self.binary, self.clock, keep)
        except Exception:
            # A server that did not start, say. A run of an hour goes on, and ends with 1.
            self.console.print_exception()
            return None

    def _print(self, *lines: str) -> None:
        for line in lines:
            self.console.print(line, highlight=False, markup=False, soft_wrap=True)

    def _progress(self, now: str) -> str:
        sums = self.sums
        return f"{sums.episodes} episodes, {sums.acknowledged} messages, {len(sums.failed)} failed; {now}"

    def _tell(self, schedule: Schedule, outcome: Outcome) -> None:
        path = self._write(schedule, f"failed-{schedule.seed}.json")
        self.sums.failed.append(path)
        self.sums.seeds.append(schedule.seed)
        # One fault is seen by several ways of reading: it is told once.
        told: dict[tuple[str, int, str, str], list[str]] = {}
        for finding in outcome.verdict.findings:
            session, _, view = finding.where.partition(" by ")
            told.setdefault((finding.kind, finding.count, session, finding.detail), []).append(view)
        for (kind, count, session, detail), views in list(told.items())[:10]:
            where = "; ".join(dict.fromkeys(views))
            self._print(f"  {kind}: {count} in {session}: {detail[:500]} ({where})")
        more = f"and {len(told) - 10} more findings; " if len(told) > 10 else ""
        self._print(f"  {more}schedule: {path}", *(f"    {line}" for line in schedule.lines()))

    def _write(self, schedule: Schedule, name: str) -> Path:
        self.arguments.out.mkdir(parents=True, exist_ok=True)
        path: Path = self.arguments.out / name
        path.write_text(schedule.to_json() + "\n")
        return path

    def _smaller(self, schedule: Schedule, outcome: Outcome, seconds: float) -> Path:
        """Make a failing schedule small, write it down and print it."""
        ends = time.monotonic() + seconds
        small = shrink(schedule, self._fails_like(outcome.verdict.kinds, ends))
        path = self._write(small, f"smallest-{schedule.seed}.json")
        self._print(
            f"smallest: {len(small.events)} of {len(schedule.events)} events, "
            f"{len(small.workers)} of {len(schedule.workers)} workers: {path}",
            *(f"    {line}" for line in small.lines()),
        )
        return path

    def _fails_like(self, kinds: set[str], ends: float) -> Callable[[Schedule], bool]:
        def fails(smaller: Schedule) -> bool:
            for _ in range(self.arguments.tries):
                if time.monotonic() > ends:
                    return False
                now = f"shrinking, with {len(smaller.events)} events and {len(smaller.workers)} workers"
                with self.console.status(self._progress(now)):
                    outcome = self._run(smaller)
                # Another fault would make another schedule out of this one.
                if outcome is not None and outcome.verdict.kinds & kinds:
                    return True
            return False

        return fails

    def _table(self) -> None:
        sums = self.sums
        table = Table(show_header=False)
        table.add_column()
        table.add_column(justify="right")
        table.add_row("episodes", str(sums.episodes))
        for durability, count in sorted(sums.settings.items()):
            table.add_row(f'  durability="{durability}"', str(count))
        table.add_row("failed episodes", str(len(sums.failed)))
        table.add_section()
        for kind in KINDS:
            if sums.events[kind]:
                how = f" ({', '.join(sorted(sums.disks))})" if kind == "full_disk" else ""
                table.add_row(kind + how, str(sums.events[kind]))
        table.add_section()
        table.add_row("messages acknowledged", str(sums.acknowledged))
        table.add_row("calls that failed, as they may", str(sum(sums.failures.values())))
        table.add_row("missing, as they may be", str(sums.allowed.total()))
        for kind, meaning in FAULTS.items():
            table.add_row(f"{kind}: {meaning}", str(sums.faults[kind]))
        self.console.print(table)
        if sums.seeds:
            self.console.print(f"failed seeds: {', '.join(map(str, sums.seeds))}")
        if sums.broken:
            self.console.print(f"seeds that could not be carried out: {', '.join(map(str, sums.broken))}")


def main() -> int:
    console = Console(width=None if sys.stdout.isatty() else 120)
    arguments = _arguments()
    # Servers, mounts and workers are taken down on the way out: there must be one.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with tempfile.TemporaryDirectory(prefix="lix-chaos-clock-") as scratch:
        return Chaos(arguments, console, Path(scratch)).run()


if __name__ == "__main__":
    sys.exit(main())
