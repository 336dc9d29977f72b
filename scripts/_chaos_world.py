"""Where an episode takes place: servers, doors, disk and workers, and what each event does to them."""

from __future__ import annotations

import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from _chaos_door import Door
from _chaos_process import Worker
from _chaos_schedule import Event, Schedule, WorkerSpec
from _chaos_servers import Disk, Node

from lix_cache import CacheConfig, ConversationArchive
from lix_cache.session.base import Session
from lix_cache.session.layout import StoreDriver
from lix_cache.session.read import get_full
from lix_cache.session.store import open_store

__all__ = ["Later", "World"]

#: What an event leaves to be done, and after how many seconds.
Later: TypeAlias = "tuple[float, Callable[[], None]]"


class World:
    """Everything of an episode.

    Attributes:
        may_miss: for each session what only a server had that lost its memory.
        rollbacks: when a server went back.
        deaths: when which worker was killed.
        done: how often each kind of event took place.
    """

    def __init__(self, schedule: Schedule, binary: str, clock: Path | None, folder: Path) -> None:
        self.schedule, self._binary, self._clock, self.folder = schedule, binary, clock, folder
        self.may_miss: dict[str, set[str]] = {}
        self.rollbacks: list[float] = []
        self.deaths: dict[str, float] = {}
        self.done: Counter[str] = Counter()
        self.workers: dict[int, Worker] = {}
        self.doors: list[Door] = []
        self._closed = [0, 0]
        self._hung = False
        self._nodes: list[Node] = []
        self._replica: Node | None = None
        self._incarnations: Counter[int] = Counter()
        kinds = [event.kind for event in schedule.events]
        if schedule.aof and {"failover", "restore", "flushall"} & set(kinds):
            raise ValueError("a server with an append-only file knows no failover, restore or flushall here")
        self._failovers = kinds.count("failover")
        (folder / "logs").mkdir(parents=True)
        self.disk = Disk(folder / "archive", small="full_disk" in kinds)

    def start(self) -> None:
        """Start everything; workers wait for their first command."""
        self.master = self._node(self.schedule.server_clock)
        self._attach()
        self.doors = [Door(self.master.socket, self.schedule.seed + n) for n in (0, 1)]
        for spec in self.schedule.workers:
            self._spawn(spec)
        for worker in self.workers.values():
            worker.wait_until_ready()

    def close(self) -> None:
        """Leave nothing behind but the folder."""
        for worker in self.workers.values():
            worker.close()
        for door in self.doors:
            door.close()
        for node in self._nodes:
            node.kill()
        self.disk.close()

    def settings(self, **changes: Any) -> dict[str, Any]:
        """Return the settings of ``CacheConfig`` for who reaches the server directly."""
        return {
            **self.schedule.settings,
            "redis_url": f"unix://{self.master.socket}",
            "archive_dir": str(self.disk.folder),
            "evictor_enabled": False,
            **changes,
        }

    # -- servers and workers --------------------------------------------------------------

    def _node(self, shift: float) -> Node:
        node = Node(
            self._binary,
            self.folder / f"node{len(self._nodes)}",
            clock=self._clock,
            shift=shift,
            aof=self.schedule.aof,
        )
        self._nodes.append(node)
        node.start()
        return node

    def _attach(self) -> None:
        """Have a replica, if there is a failover to come."""
        if self._failovers:
            self._replica = self._node(self.master.shift)
            self._replica.follow(self.master)

    def _spawn(self, spec: WorkerSpec) -> None:
        number = self._incarnations[spec.number]
        self._incarnations[spec.number] += 1
        name = f"w{spec.number}i{number}"
        settings = {
            **self.schedule.settings,
            "redis_host": "127.0.0.1",
            "redis_port": self.doors[spec.door].port,
            "archive_dir": str(self.disk.folder),
            "evictor_enabled": spec.evictor,
        }
        self.workers[spec.number] = Worker(
            name,
            spec,
            {
                "name": name,
                "seed": f"{self.schedule.seed}/{name}",
                "kind": spec.kind,
                "tasks": spec.tasks,
                "clock": spec.clock,
                "settings": settings,
                "sessions": self.schedule.sessions,
                "logs": str(self.folder / "logs"),
                "flag": None if self.disk.flag is None else str(self.disk.flag),
            },
            self.folder,
        )

    def _shut(self, *doors: int) -> None:
        for door in doors:
            self._closed[door] += 1
            self.doors[door].shut()

    def _open(self, *doors: int) -> None:
        for door in doors:
            self._closed[door] -= 1
            if not self._closed[door]:
                self.doors[door].open()
                self._look()

    def _look(self) -> None:
        """Let the workers read at once what a server has that went back, before new messages hide it."""
        for worker in self.workers.values():
            worker.tell("look")

    # -- what a server takes with it -------------------------------------------------------

    def hot(self) -> dict[str, set[str]]:
        """Return what the server has and any disk has not: the windows alone."""
        nowhere = str(self.folder / "nowhere")
        store = open_store(CacheConfig(**self.settings(archive_dir=nowhere, on_redis_error="raise")))
        # Not by the public API, which refuses another archive than that of the sessions.
        drive = StoreDriver(store).unchecked
        return {
            session: {
                turn.body["content"]
                for turn in drive(get_full(Session(store, session, store.settings.window_size)))
            }
            for session in self.schedule.sessions
        }

    def _settled(self) -> dict[str, set[str]]:
        """Return what it has when it has carried out all that was sent to it."""
        found = self.hot()
        while True:
            time.sleep(0.05)
            again = self.hot()
            if again == found:
                return found
            found = again

    def _loses(self, change: Callable[[], None]) -> None:
        """Let the server go back to an older state, and note what only it had."""
        before = self._settled()
        archive = ConversationArchive(self.disk.folder)
        change()
        after = self.hot()
        self.rollbacks.append(time.monotonic())
        if self.schedule.durability == "disk":
            return  # nothing that was acknowledged may be missing
        for session, texts in before.items():
            # The disk is read last: what the dead server had and a daemon has just moved counts as there.
            cold = {m["content"] for m in archive.load_all(session) or []}
            self.may_miss.setdefault(session, set()).update(texts - after[session] - cold)

    def _dies(self, change: Callable[[], None], down: float) -> list[Later]:
        """Kill the server at a random instant of all work; another state takes its place."""
        # From the workers' side this is the kill: what is in flight is cut, and no answer comes.
        self._shut(0, 1)
        self._resume()
        self._loses(change)
        for door in self.doors:
            door.target = self.master.socket
        return [(down, lambda: self._open(0, 1))]

    def _resume(self) -> None:
        self._hung = False
        self.master.resume()

    # -- events -----------------------------------------------------------------------------

    def happen(self, event: Event) -> list[Later]:
        """Let an event happen; return what is to be done later."""
        server = {"failover", "snapshot", "restore", "flushall", "full_memory", "kill_server"}
        if self._hung and event.kind in server - {"failover", "restore", "kill_server"}:
            return []
        self.done[event.kind] += 1
        later: list[Later] = getattr(self, f"_{event.kind}")(**event.args) or []
        return later

    def begin_lag(self) -> None:
        """Cut the replica off from its master; a failover follows."""
        if self._replica is not None:
            self._replica.lag()

    def _kill_worker(self, worker: int) -> None:
        process = self.workers[worker]
        process.kill()
        self.deaths[process.name] = time.monotonic()
        self._spawn(process.spec)
        # It begins at its first command; the pipe keeps that until it is there.
        self.workers[worker].tell("begin")

    def _signals(self, worker: int, seconds: float) -> list[Later]:
        process = self.workers[worker]
        process.tell("signals", seconds=seconds)
        moments = [seconds * part / 20 for part in range(1, 20)]
        return [(at, lambda: process.signal(signal.SIGINT)) for at in moments]

    def _cancel(self, worker: int, seconds: float) -> None:
        self.workers[worker].tell("cancel", seconds=seconds)

    def _fork(self, worker: int, seconds: float) -> None:
        self.workers[worker].tell("fork", seconds=seconds)

    def _clear(self, worker: int, session: str) -> None:
        self.workers[worker].tell("clear", session=session)

    def _delete(self, worker: int, session: str) -> None:
        self.workers[worker].tell("delete", session=session)

    def _worker_clock(self, worker: int, jump: float) -> None:
        self.workers[worker].tell("clock", jump=jump)

    def _calendar(self, worker: int, days: float) -> None:
        self.workers[worker].tell("calendar", days=days)

    def _cut(self) -> None:
        for door in self.doors:
            door.cut()

    def _flaky(self, seconds: float, rate: float) -> list[Later]:
        def set_rate(value: float) -> None:
            for door in self.doors:
                door.rate = value

        set_rate(rate)
        return [(seconds, lambda: set_rate(0.0))]

    def _outage(self, seconds: float, doors: list[int]) -> list[Later]:
        self._shut(*doors)
        return [(seconds, lambda: self._open(*doors))]

    def _hang(self, seconds: float, jump: float) -> list[Later]:
        self.master.pause()
        self._hung = True
        # What it was sent it carries out by the clock that it has when it goes on.
        self.master.jump(jump)
        return [(seconds, self._resume)]

    def _server_clock(self, jump: float) -> None:
        self.master.jump(jump)

    def _full_memory(self, seconds: float) -> list[Later]:
        self.master.limit_memory(1)
        return [(seconds, self._free_memory)]

    def _free_memory(self) -> None:
        if not self._hung:
            self.master.limit_memory(0)

    def _full_disk(self, seconds: float) -> list[Later]:
        self.disk.fill()
        return [(seconds, self.disk.free)]

    def _snapshot(self) -> None:
        self.master.snapshot()

    def _flushall(self) -> None:
        for door in self.doors:
            door.hold()
        try:
            self._loses(self.master.flush)
        finally:
            for door in self.doors:
                door.release()
            self._look()

    def _kill_server(self, down: float) -> list[Later]:
        def again() -> None:
            self.master.kill()
            self.master.forget()
            self.master.start()

        if not self.schedule.aof:
            return self._dies(again, down)
        # It forgets nothing, so nothing need be asked of it before: a kill at any instant.
        self.master.kill()
        self._shut(0, 1)
        self._hung = False
        self.master.start()
        return [(down, lambda: self._open(0, 1))]

    def _restore(self, down: float) -> list[Later]:
        def again() -> None:
            self.master.kill()
            self.master.put_back()
            self.master.start()

        return self._dies(again, down)

    def _failover(self, lag: float, skew: float, down: float) -> list[Later]:
        del lag  # the link was cut so long ago
        if self._replica is None:
            return []
        replica, self._replica = self._replica, None

        def promote() -> None:
            self.master.kill()
            replica.jump(skew)
            replica.promote()
            self.master = replica

        later = self._dies(promote, down)
        self._failovers -= 1
        self._attach()
        return later

    # -- afterwards ---------------------------------------------------------------------------

    def heal(self) -> None:
        """End every fault. Clocks stay where they are: they are not a fault that ends."""
        self._resume()
        self.master.limit_memory(0)
        self.disk.free()
        for number, door in enumerate(self.doors):
            door.rate = 0.0
            door.release()
            self._closed[number] = 0
            door.open()
