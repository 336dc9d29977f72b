"""The drills of ``failover.py``: a real cluster under load, faults, and then every message compared."""

from __future__ import annotations

import contextlib
import json
import random
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _chaos_checker import Verdict, check
from _chaos_log import Evidence, parse_logs
from _chaos_process import Process
from _failover_sides import Sides

from lix_cache import CacheConfig, HybridConversationCache
from lix_cache.hot.keys import Keys
from lix_cache.hot.slots import SLOTS, slot_of
from tests.support.redis_cluster import RedisCluster, ServerProcess
from tests.support.redis_server import wait_until

__all__ = ["Outcome", "Plan", "fail_over", "reshard"]

Say = Callable[[str], None]

_WRITER = Path(__file__).with_name("_failover_writer.py")
_MASTERS = 3
_BUCKETS = 1024
#: Seconds of load between two faults, and of a cut at least.
_CALM = 0.7
_CUT = 2.5
#: How long a machine that many share may take for a step.
_PATIENCE = 120.0


@dataclass(frozen=True)
class Plan:
    """How much is to be done.

    Attributes:
        kills, partitions: of masters.
        slots: that move.
        pace: seconds between two calls of a writer.
        seed: which masters, in which order.
    """

    kills: int
    partitions: int
    slots: int
    pace: float
    seed: int


@dataclass
class Outcome:
    """What a drill came to.

    Attributes:
        verdict: what the comparison says; its ``lost`` are acknowledged messages that are in no tier.
        done: the faults.
        counters: of ``get_stats``, summed over the writers.
        failed: calls that failed, by the name of the error.
        longest: seconds of the longest calls.
        calls: how many there were.
    """

    verdict: Verdict = field(default_factory=Verdict)
    done: Counter[str] = field(default_factory=Counter)
    counters: Counter[str] = field(default_factory=Counter)
    failed: Counter[str] = field(default_factory=Counter)
    longest: list[float] = field(default_factory=list)
    calls: int = 0

    @property
    def lost(self) -> int:
        return self.verdict.count("lost")

    @property
    def reported(self) -> int:
        return self.counters["lost_messages"]

    def others(self) -> list[str]:
        """Return what is wrong besides messages that are lost."""
        found = [one for one in self.verdict.findings if one.kind != "lost"]
        return [f"{one.kind}: {one.count} in {one.where}: {one.detail[:300]}" for one in found]

    def as_dict(self) -> dict[str, Any]:
        return {
            "faults": dict(self.done),
            "acknowledged": self.verdict.acknowledged,
            "lost": self.lost,
            "lost_as_get_stats_says": self.reported,
            "doubled": self.verdict.count("doubled"),
            "other_findings": self.others(),
            "calls": self.calls,
            "calls_that_failed": dict(self.failed),
            "longest_call_ms": round(max(self.longest, default=0.0) * 1000, 1),
            "counters": dict(sorted(self.counters.items())),
        }


class _Load:
    """Writers, and what came of them.

    Args:
        settings: of their caches.
        folder: for their files.
        plan: their pace.
    """

    def __init__(self, settings: dict[str, Any], folder: Path, plan: Plan) -> None:
        self.settings, self.folder, self.plan = settings, folder, plan
        self.writers: list[Process] = []
        self.sessions: set[str] = set()

    def start(self, name: str, sessions: Sequence[str], enter: Sequence[str] = ()) -> None:
        spec = {
            "name": name,
            "sessions": list(sessions),
            "config": self.settings,
            "seed": f"{self.plan.seed}{name}",
            "pace": self.plan.pace,
            "log": str(self.folder / f"{name}.jsonl"),
            "result": str(self.folder / f"{name}.result"),
        }
        self.sessions |= set(sessions)
        self.writers.append(Process(name, spec, self.folder, program=_WRITER, enter=enter))

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        try:
            for writer in self.writers:
                writer.wait_until_ready()
            for writer in self.writers:
                writer.tell("begin")
            yield
        finally:
            for writer in self.writers:
                writer.tell("end")
            codes = [writer.ended(_PATIENCE) for writer in self.writers]
            for writer in self.writers:
                writer.close()
        if any(codes):
            raise RuntimeError(f"a writer ended with {codes}; see {self.folder}")

    def compared(self, done: Counter[str]) -> Outcome:
        """Read everything as a process that knows nothing, and compare."""
        lines: list[str] = []
        for path in sorted(self.folder.glob("*.jsonl")):
            lines += path.read_text().splitlines()
        evidence = parse_logs(lines, {})
        self._read(evidence)
        outcome = Outcome(check(evidence), done)
        for path in sorted(self.folder.glob("*.result")):
            found: Mapping[str, Any] = json.loads(path.read_text())
            outcome.counters.update(found["counters"])
            outcome.failed.update(found["failed"])
            outcome.longest += found["longest"]
            outcome.calls += found["calls"]
        return outcome

    def _read(self, evidence: Evidence) -> None:
        config = CacheConfig(**{**self.settings, "evictor_enabled": False})
        views: dict[str, dict[str, list[Any]]] = {"get_full": {}, "get_full, once on disk": {}}
        for session in sorted(self.sessions):
            cache = HybridConversationCache(session, config)
            for view in views:
                views[view][session] = [message["content"] for message in cache.get_full()]
                cache.flush_to_disk()
        evidence.full = views


class _Names:
    """Sessions by the master that has their slots at the start."""

    def __init__(self, prefix: str) -> None:
        self._keys, self._next = Keys(prefix, _BUCKETS), 0

    def slot(self, session: str) -> int:
        return slot_of(self._keys.window(session))

    def of(self, shard: int, count: int) -> list[str]:
        found: list[str] = []
        while len(found) < count:
            name = f"session {self._next}"
            self._next += 1
            if self.slot(name) * _MASTERS // SLOTS == shard:
                found.append(name)
        return found


def fail_over(durability: str, plan: Plan, sides: Sides, say: Say) -> Outcome:
    """Kill masters and cut one off, under load, and compare every message."""
    done: Counter[str] = Counter()
    with _folder() as folder:
        places = [sides.there, *[sides.here] * (2 * _MASTERS - 1)]
        with RedisCluster(_MASTERS, replicas=1, places=places) as cluster:
            # The other side knows a server of each side by its configuration.
            settings = _settings(cluster, folder, durability=durability)
            load, names = _Load(settings, folder, plan), _Names("drill")
            shared = names.of(0, 1)
            for number in range(2):
                load.start(f"there {number}", [*names.of(0, 3), *shared], sides.there.enter)
                load.start(
                    f"here {number}", [*(n for shard in range(3) for n in names.of(shard, 2)), *shared]
                )
            steps = ["kill"] * plan.kills + ["partition"] * plan.partitions
            random.Random(plan.seed).shuffle(steps)
            with load.at_work():
                for number, step in enumerate(steps, 1):
                    time.sleep(_CALM)
                    say(f"durability {durability}: {number} of {len(steps)}: {step}")
                    if step == "kill":
                        _kill(cluster, done["kill"] % _MASTERS)
                    else:
                        _partition(cluster, sides)
                    done[step] += 1
                time.sleep(_CALM)
            say(f"durability {durability}: comparing")
            return load.compared(done)


def _kill(cluster: RedisCluster, shard: int) -> None:
    # What a cut held up, and comes after it, may turn a node's view back until the next ping: a replica that
    # takes its master for its own replica never takes over, if that one dies before (seen with Redis 6.2).
    cluster.settle()
    slot = SLOTS * shard // _MASTERS
    dead = _master(cluster, slot)
    dead.kill()
    _wait(lambda: cluster.owner(slot) is not dead, "a replica takes over", cluster)
    cluster.settle()
    time.sleep(_CALM)
    dead.start()
    _wait(lambda: _is_replica(dead), "the killed master follows")
    cluster.settle()


def _partition(cluster: RedisCluster, sides: Sides) -> None:
    master = cluster.servers[0]
    if _master(cluster, 0) is not master:
        master.ask("CLUSTER", "FAILOVER")
        _wait(lambda: cluster.owner(0) is master, "the other side has a master")
        cluster.settle()
        time.sleep(_CALM)
    cluster.cut_off.add(master)
    began = time.monotonic()
    sides.cut(master)
    try:
        _wait(lambda: cluster.owner(0) is not master, "a replica takes over", cluster)
        time.sleep(max(0.0, began + _CUT - time.monotonic()))
    finally:
        sides.heal(master)
        cluster.cut_off.clear()
    _wait(lambda: _is_replica(master), "the master that was cut off follows")
    cluster.settle()


def _master(cluster: RedisCluster, slot: int) -> ServerProcess:
    # Nodes of a busy machine may take each other for dead for a moment.
    _wait(lambda: cluster.owner(slot).is_running, "the slot has a master")
    return cluster.owner(slot)


def _is_replica(server: ServerProcess) -> bool:
    with contextlib.suppress(Exception), server.client() as client:
        client.response_callbacks.clear()
        return b"master_link_status:up" in client.execute_command("INFO replication")
    return False


def _wait(condition: Callable[[], bool], what: str, cluster: RedisCluster | None = None) -> None:
    def is_so() -> bool:
        # A server that is cut off, or starts, may not answer.
        with contextlib.suppress(Exception):
            return condition()
        return False

    wait_until(
        is_so, _PATIENCE, what if cluster is None else lambda: f"as its nodes say\n{cluster.views()}\n{what}"
    )


def reshard(plan: Plan, say: Say) -> Outcome:
    """Move slots from the first master to the second under load, and compare every message."""
    done: Counter[str] = Counter()
    with _folder() as folder, RedisCluster(_MASTERS) as cluster:
        # Every error is seen: none is made up for by the disk.
        settings = _settings(cluster, folder, on_redis_error="raise")
        load, names = _Load(settings, folder, plan), _Names("drill")
        for number in range(3):
            load.start(f"writer {number}", [*names.of(0, 12), *names.of(1, 2), *names.of(2, 2)])
        used = {names.slot(name) for name in load.sessions if names.slot(name) * _MASTERS < SLOTS}
        # Those with sessions spread among those without.
        others = [slot for slot in range(SLOTS // _MASTERS) if slot not in used]
        slots = sorted([*used, *others[: max(0, plan.slots - len(used))]])[: plan.slots]
        random.Random(plan.seed).shuffle(slots)
        source, to = cluster.servers[0], cluster.servers[1]
        with load.at_work():
            time.sleep(_CALM)
            for slot in slots:
                cluster.move_from(source, slot, to)
                done["slots moved"] += 1
                if done["slots moved"] % 50 == 0:
                    say(f"resharding: {done['slots moved']} of {len(slots)} slots")
            time.sleep(_CALM)
        say("resharding: comparing")
        return load.compared(done)


def _settings(cluster: RedisCluster, folder: Path, **more: Any) -> dict[str, Any]:
    return {
        "redis_url": cluster.url,
        "redis_key_prefix": "drill",
        "archive_dir": str(folder / "archive"),
        "redis_socket_timeout": 2.0,
        "redis_socket_connect_timeout": 1.0,
        "redis_retry_seconds": 0.5,
        **more,
    }


@contextlib.contextmanager
def _folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="lix-failover-") as name:
        yield Path(name)
