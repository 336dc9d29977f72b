"""What happens in an episode of the chaos test, as data: drawn from a seed, written to a file, read again.

Nothing here runs anything. The same seed gives the same schedule; a schedule that was written
to a file (and shrunk) is run again with ``--replay``.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

__all__ = ["KINDS", "Event", "Schedule", "WorkerSpec", "generate", "pruned"]

#: Every kind of event, with what it does.
KINDS = {
    "kill_worker": "SIGKILL a worker; another takes its place",
    "signals": "signals whose handlers raise, at random instants of a sync worker's calls",
    "cancel": "asyncio cancellations at random instants of an async worker's calls",
    "fork": "a sync worker forks, and the child goes on with the same objects",
    "cut": "all connections are cut once",
    "flaky": "connections are cut in the middle of requests and replies for a while",
    "outage": "Redis cannot be reached through one door or both for a while",
    "hang": "SIGSTOP the server, let its clock jump, SIGCONT",
    "kill_server": "SIGKILL the server and start it again",
    "failover": "SIGKILL the server; a replica that lagged takes its place",
    "snapshot": "SAVE and keep the file",
    "restore": "SIGKILL the server and start it from the last snapshot (or from nothing)",
    "flushall": "FLUSHALL",
    "server_clock": "the server's clock jumps",
    "worker_clock": "a worker's clock jumps",
    "calendar": "a worker's clock is weeks off when it looks for what has expired",
    "full_memory": "the server has no memory left for a while",
    "full_disk": "the archive's disk is full for a while",
    "clear": "clear() in a session",
    "delete": "delete_session() in a session",
}
#: What takes away what Redis holds; with an append-only file only a crash is of interest.
_FORGETS = {"failover", "snapshot", "restore", "flushall"}
_NEEDS_SYNC = {"signals", "fork"}
_JUMPS = (0.4, 2.0, 10.0, 133.0, 200.0, 3600.0, 2 * 86400.0)


@dataclass(frozen=True)
class WorkerSpec:
    """A process that adds and reads.

    Attributes:
        number: its place; a process that takes the place of a killed one has the same.
        kind: sync or async.
        tasks: how many tasks add at once, in an async one.
        evictor: whether the evictor runs in it.
        door: which of the two proxies it reaches Redis by.
        clock: seconds its clock differs from the machine's at the start.
    """

    number: int
    kind: Literal["sync", "async"]
    tasks: int = 1
    evictor: bool = False
    door: int = 0
    clock: float = 0.0


@dataclass(frozen=True)
class Event:
    """Something that happens.

    Attributes:
        at: seconds after the workers have begun.
        kind: one of :data:`KINDS`.
        args: what the kind needs.
    """

    at: float
    kind: str
    args: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Schedule:
    """An episode.

    Attributes:
        seed: of this episode; workers draw what they do from it.
        seconds: how long the workers go on.
        settings: of ``CacheConfig``.
        sessions: the session ids; those of ``wiped`` may be cleared and deleted.
        wiped: some of the sessions.
        aof: whether the server keeps an append-only file.
        server_clock: seconds the server's clock differs from the machine's at the start.
        workers: the processes.
        events: in order of time.
    """

    seed: int
    seconds: float
    settings: dict[str, Any]
    sessions: tuple[str, ...]
    wiped: tuple[str, ...]
    aof: bool
    server_clock: float
    workers: tuple[WorkerSpec, ...]
    events: tuple[Event, ...]

    @property
    def durability(self) -> str:
        return str(self.settings["durability"])

    def lines(self) -> list[str]:
        """Return it in a form to look at: settings, a line for each worker, a line for each event."""
        server = f"append-only file {'yes' if self.aof else 'no'}, its clock {self.server_clock:+g} s"
        found = [
            f"seed {self.seed}, {self.seconds:g} s, sessions {list(self.sessions)}, server: {server}",
            ", ".join(f"{name}={value}" for name, value in self.settings.items()),
        ]
        for worker in self.workers:
            daemon = ", evictor" if worker.evictor else ""
            found.append(
                f"worker {worker.number}: {worker.kind}, tasks {worker.tasks}, door {worker.door}, "
                f"clock {worker.clock:+g} s{daemon}"
            )
        for event in self.events:
            shown = ", ".join(f"{name} {value}" for name, value in event.args.items())
            found.append(f"{event.at:7.3f} s  {event.kind}  {shown}")
        return found

    def to_json(self) -> str:
        """Return it as text that :meth:`from_json` reads."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Schedule:
        """Read what :meth:`to_json` wrote."""
        raw = json.loads(text)
        raw["workers"] = tuple(WorkerSpec(**w) for w in raw["workers"])
        raw["events"] = tuple(Event(**e) for e in raw["events"])
        raw["sessions"], raw["wiped"] = tuple(raw["sessions"]), tuple(raw["wiped"])
        return cls(**raw)


def generate(seed: int, *, seconds: float = 8.0, kinds: Collection[str] = frozenset(KINDS)) -> Schedule:
    """Draw an episode.

    Args:
        seed: what it follows from, alone.
        seconds: how long the workers go on.
        kinds: which events may occur.
    """
    unknown = set(kinds) - set(KINDS)
    if unknown:
        raise ValueError(f"unknown kinds of events: {', '.join(sorted(unknown))}; known: {', '.join(KINDS)}")
    rng = random.Random(seed)
    sessions = (*(f"s{n}" for n in range(rng.choice((2, 2, 3)))), "a/../ü")
    wiped = tuple(s for s in sessions[1:] if rng.random() < 0.5)
    aof = rng.random() < 0.2 and not set(kinds) <= _FORGETS
    workers = tuple(_worker(rng, number) for number in range(rng.choice((3, 4, 4, 5))))
    drawn: list[Event] = []
    allowed = sorted(set(kinds) - (_FORGETS if aof else set()))
    # A few kinds in an episode, each more than once: faults come from what meets.
    chosen = rng.sample(allowed, min(len(allowed), rng.choice((3, 4, 5, 6))))
    for _ in range(rng.choice((4, 6, 8, 10)) if chosen else 0):
        event = _event(rng, rng.choice(chosen), seconds, workers, wiped)
        if event is not None:
            drawn.append(event)
        if event is not None and event.kind == "restore" and "snapshot" in kinds:
            # A state of a moment ago; without one the server comes back empty.
            drawn.append(Event(round(event.at * rng.uniform(0.5, 1.0), 3), "snapshot"))
    shift = rng.choice((0.0, 0.0, 0.0, 3.0, -3.0, 200.0, -200.0))
    return Schedule(
        seed=seed,
        seconds=seconds,
        settings=_settings(rng),
        sessions=sessions,
        wiped=wiped,
        aof=aof,
        server_clock=shift if "server_clock" in kinds else 0.0,
        workers=workers,
        events=tuple(sorted(drawn, key=lambda event: event.at)),
    )


def _worker(rng: random.Random, number: int) -> WorkerSpec:
    # One of each kind always, and one daemon: without it nothing moves by itself.
    kind: Literal["sync", "async"] = "sync" if number == 0 else "async" if number == 1 else "sync"
    if number > 1 and rng.random() < 0.4:
        kind = "async"
    return WorkerSpec(
        number=number,
        kind=kind,
        tasks=rng.choice((1, 2, 4, 8)) if kind == "async" else 1,
        evictor=number == 0 or rng.random() < 0.5,
        door=number % 2,
        clock=rng.choice((0.0, 0.0, 0.0, 5.0, -5.0, 100.0)),
    )


def _settings(rng: random.Random) -> dict[str, Any]:
    return {
        "durability": rng.choice(("redis", "redis", "disk")),
        "on_redis_error": rng.choice(("archive", "archive", "raise")),
        "hot_codec": rng.choice(("stored", "huffman")),
        "archive_codec": rng.choice(("huffman", "huffman", "deflate", "stored", "lz4", "zstd")),
        "hot_window_size": rng.choice((3, 8, 20)),
        "archive_batch_turns": rng.choice((1, 5, 10)),
        "redis_buckets": rng.choice((1, 1, 4)),
        "redis_pool_size": rng.choice((2, 6, 50)),
        "redis_retry_seconds": rng.choice((0.0, 0.05, 0.5)),
        "redis_socket_timeout": rng.choice((0.5, 1.0)),
        "redis_socket_connect_timeout": 1.0,
        "evict_after_minutes": rng.choice((0.01, 0.02, 5.0)),
        "evictor_interval_seconds": rng.choice((0.1, 0.5)),
        "archive_lock_timeout_seconds": 5.0,
    }


def _event(
    rng: random.Random,
    kind: str,
    seconds: float,
    workers: tuple[WorkerSpec, ...],
    wiped: tuple[str, ...],
) -> Event | None:
    at = round(rng.uniform(0.3, seconds - 0.3), 3)
    span = round(rng.uniform(0.2, 1.5), 3)
    worker = rng.choice(workers).number
    if kind in _NEEDS_SYNC:
        worker = rng.choice([w.number for w in workers if w.kind == "sync"])
    if kind == "cancel":
        worker = rng.choice([w.number for w in workers if w.kind == "async"])
    if kind in ("clear", "delete"):
        return Event(at, kind, {"worker": worker, "session": rng.choice(wiped)}) if wiped else None
    if kind == "failover":
        # The replica needs a moment to attach before it can begin to lag.
        at = round(rng.uniform(0.4 * seconds, seconds - 0.3), 3)
    sign = rng.choice((1, -1))
    jump = sign * rng.choice(_JUMPS)
    makers: dict[str, Callable[[], dict[str, Any]]] = {
        "kill_worker": lambda: {"worker": worker},
        "signals": lambda: {"worker": worker, "seconds": span * 2},
        "cancel": lambda: {"worker": worker, "seconds": span * 2},
        "fork": lambda: {"worker": worker, "seconds": span},
        "flaky": lambda: {"seconds": span, "rate": rng.choice((0.005, 0.02, 0.1))},
        "outage": lambda: {"seconds": span, "doors": rng.choice(([0], [1], [0, 1]))},
        "hang": lambda: {"seconds": span + 0.5, "jump": rng.choice((0.0, 133.0, 200.0))},
        "kill_server": lambda: {"down": rng.choice((0.0, span))},
        "failover": lambda: {
            "lag": round(rng.uniform(0.0, min(3.0, at - 0.2)), 3),
            "skew": rng.choice((0.0, -1.0, -2.0, -5.0, 5.0)),
            "down": rng.choice((0.0, span / 2)),
        },
        "restore": lambda: {"down": rng.choice((0.0, span / 2))},
        "server_clock": lambda: {"jump": jump},
        "worker_clock": lambda: {"worker": worker, "jump": jump},
        "calendar": lambda: {"worker": worker, "days": rng.choice((-20.0, 15.0, 40.0))},
        "full_memory": lambda: {"seconds": span},
        "full_disk": lambda: {"seconds": span},
    }
    return Event(at, kind, makers[kind]() if kind in makers else {})


def pruned(schedule: Schedule) -> Schedule:
    """Return it without what can no longer happen, and no longer than its last event needs."""
    numbers = {worker.number for worker in schedule.workers}
    events = tuple(e for e in schedule.events if e.args.get("worker", min(numbers)) in numbers)
    last = max((e.at + float(e.args.get("seconds", e.args.get("down", 0.0))) for e in events), default=0.0)
    return replace(schedule, events=events, seconds=min(schedule.seconds, round(last + 1.5, 3)))
