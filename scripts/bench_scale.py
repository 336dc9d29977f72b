#!/usr/bin/env python3
"""The longest call of the server in each operation on a large scope of the semantic cache. Needs Linux.

Fills one scope with entries of real size (vectors of 384 numbers) and runs each operation of the cache on
a copy of it. While a script runs the server serves no other client, so what counts is the longest call. Of
each it takes the processor time of the server's main thread, which is the library's doing; how long that
thread waited for a processor, which is the machine's; and how long the caller waited. SLOWLOG is no measure:
it counts the waiting too, and a log of thousands of calls is work for the server's allocator, which a later
call pays. Another client's PING shows what others feel. What a large scope costs in this process is printed
as well: catching up, searching, memory.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import redis

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lix_cache import SemanticCache, SemanticSettings
from lix_cache.effects import Effect, RedisBatch, RedisCall
from lix_cache.semantic import insert
from lix_cache.semantic.insert import Answer
from tests.support import RedisServer
from tests.support.semantic import apart

Floats = npt.NDArray[np.float32]
#: Seconds between two PINGs.
SPACED = 0.0005
#: Entries that are stored in one round trip, to begin with.
AT_ONCE = 200


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


class Rows:
    """An embedder that knows a vector for ``question N``: row N of a matrix."""

    id = "rows"

    def __init__(self, rows: Floats) -> None:
        self.rows, self.dim = rows, rows.shape[1]

    def embed(self, texts: Sequence[str]) -> Floats:
        return np.stack([self.rows[int(text.split()[1]) % len(self.rows)] for text in texts])


def _ping(path: str, pipe: Connection) -> None:
    """Ask again and again until told to stop, and say how many seconds the longest answer took."""
    with socket.socket(socket.AF_UNIX) as asking:
        asking.connect(path)
        longest = 0.0
        while not pipe.poll():
            begun = time.perf_counter()
            asking.sendall(b"PING\r\n")
            asking.recv(64)
            longest = max(longest, time.perf_counter() - begun)
            time.sleep(SPACED)
    pipe.send(longest)


class Pinging:
    """Another client, in a process of its own."""

    def __init__(self, path: str) -> None:
        self._pipe, its = multiprocessing.Pipe()
        self._process = multiprocessing.Process(target=_ping, args=(path, its), daemon=True)
        self._process.start()
        time.sleep(0.2)

    def longest(self) -> float:
        """End it, and return the longest PING in milliseconds."""
        self._pipe.send(None)
        seconds: float = self._pipe.recv()
        self._process.join()
        return seconds * 1000


class Trip(NamedTuple):
    """One round trip, in milliseconds.

    Attributes:
        cpu: processor time of the server's main thread, from the request to its next sleep.
        waited: how long that thread could have run and had no processor.
        wall: as the caller measured it.
    """

    cpu: float
    waited: float
    wall: float


class Metered:
    """A cache's way to the server, on which each round trip is measured. Nobody else may ask meanwhile."""

    def __init__(self, pool: Any, pid: int) -> None:
        self._pool, self._folder = pool, Path(f"/proc/{pid}")
        self.trips: list[Trip] = []

    def _spent(self) -> tuple[int, int]:
        """Return the nanoseconds that the server's main thread has run, and has waited, once it sleeps.

        Of a thread that runs the kernel does not count the last milliseconds yet.
        """
        while (self._folder / "stat").read_text().rpartition(") ")[2][0] != "S":
            time.sleep(0.0001)
        ran, waited, _ = (self._folder / "schedstat").read_text().split()
        return int(ran), int(waited)

    def ask(self, *args: Any, **options: Any) -> Any:
        ran, waited = self._spent()
        begun = time.perf_counter_ns()
        answers = self._pool.ask(*args, **options)
        wall = time.perf_counter_ns() - begun
        ran_then, waited_then = self._spent()
        self.trips.append(Trip((ran_then - ran) / 1e6, (waited_then - waited) / 1e6, wall / 1e6))
        return answers


@dataclass
class Figure:
    """One operation, measured some times.

    Attributes:
        name: of the operation.
        entries: that it was about.
        rounds: the round trips of each.
        ping_ms: the longest PING of another client in one more round.
        seconds: that the operation took in that round.
    """

    name: str
    entries: int = 0
    rounds: list[list[Trip]] = field(default_factory=list)
    ping_ms: float = 0.0
    seconds: float = 0.0

    @property
    def calls(self) -> int:
        return min(map(len, self.rounds))

    def line(self) -> str:
        trips = [trip for trips in self.rounds for trip in trips] or [Trip(0, 0, 0)]
        slowest, cpu = max(trips, key=lambda trip: trip.wall), [trip.cpu for trip in trips]
        return (
            f"| {self.name} | {self.calls:,} | {self.entries / max(1, self.calls):,.0f} "
            f"| {statistics.mean(cpu):.2f} ms | {max(cpu):.2f} ms "
            f"| {slowest.wall:.1f} ms | {slowest.cpu:.1f} ms | {slowest.waited:.1f} ms "
            f"| {self.ping_ms:.1f} ms | {self.seconds:.2f} s |"
        )


@dataclass
class Bench:
    """A scope, and copies of it to work on.

    Attributes:
        server: where it is.
        rows: vectors of its entries.
        rounds: how often each operation is measured.
        settings: of the caches.
        large_from: entries from which on a vector set answers; None: never.
    """

    server: RedisServer
    rows: Floats
    rounds: int
    large_from: int | None
    figures: dict[str, Figure] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.raw: redis.Redis = self.server.client()
        self.folder = tempfile.mkdtemp(prefix="lix-scale-")

    def cache(self, prefix: str = "full", **options: Any) -> SemanticCache:
        """Return a cache as of a new process."""
        config = self.server.config(archive_dir=self.folder, redis_key_prefix=prefix, evictor_enabled=False)
        settings = {
            "max_entries": 10**6,
            "index_bytes": 2**31,
            "embed_answers": False,
            "audit_rate": 0,
            "vector_sets_from": self.large_from,
            "eviction": "lru",
            "ttl_seconds": 86_400,
            **options,
        }
        return apart(SemanticCache(Rows(self.rows), config, settings=SemanticSettings(**settings)))

    def cpu(self) -> float:
        """Return the seconds of processor time that the server has used."""
        info: Any = self.raw.info("cpu")
        return float(info["used_cpu_user"] + info["used_cpu_sys"])

    def fill(self) -> None:
        """Store as ``store`` does, some hundreds in one round trip."""
        # A vector set would ask to be filled with each store.
        cache = self.cache(vector_sets_from=None)
        cache.store("question 0", "answer 0")

        def ask(effect: Effect) -> Generator[Effect, Any, Any]:
            return (yield effect)

        for start in range(0, len(self.rows), AT_ONCE):
            flows, calls = [], []
            for i in range(start, min(len(self.rows), start + AT_ONCE)):
                tags = ["odd" if i % 2 else "even"]
                answer = Answer(f"question {i}", f"answer {i}", embedding=self.rows[i], tags=tags)
                flows.append(insert.store(cache._core, answer))
                effect = next(flows[-1])
                if not isinstance(effect, RedisCall):
                    raise TypeError(f"a store of a known vector asks for {type(effect).__name__}")
                calls.append(effect.command)
            for flow, reply in zip(flows, cache._drive(ask(RedisBatch(tuple(calls)))), strict=True):
                with suppress(StopIteration):
                    flow.send(reply)

    def copied(self) -> str:
        """Return the prefix of a fresh copy; that of before is gone."""
        self.raw.config_set("lazyfree-lazy-user-del", "yes")
        for key in list(self.raw.scan_iter("copy:*")):
            self.raw.unlink(key)
        for key in list(self.raw.scan_iter("full:*")):
            # A vector set cannot be copied. Without it and its place another one is begun.
            if b":ans:vectors:" not in key and b":ans:followed:" not in key:
                self.raw.execute_command("COPY", key, b"copy" + key[4:])
        return "copy"

    def measure(
        self,
        name: str,
        entries: int,
        action: Callable[[SemanticCache], object],
        *,
        fresh: bool = False,
        before: Callable[[SemanticCache], object] | None = None,
        **options: Any,
    ) -> None:
        """Run an operation some times, and note the longest call that it made the server do.

        Args:
            name: of the operation.
            entries: that it is about.
            action: it.
            fresh: each time on a copy of its own, for what it changes.
            before: what is done before, and is not measured.
            options: settings of the cache.
        """
        figure = self.figures[name] = Figure(name, entries)
        for is_last in [False] * self.rounds + [True]:
            cache = self.cache(self.copied() if fresh else "full", **options)
            if before is not None:
                before(cache)
            if is_last:
                pinging, begun = Pinging(self.server.socket_path), time.perf_counter()
                action(cache)
                figure.seconds, figure.ping_ms = time.perf_counter() - begun, pinging.longest()
            else:
                figure.rounds.append(self.metered(cache, action))
        progress(figure.line())

    def metered(self, cache: SemanticCache, action: Callable[[SemanticCache], object]) -> list[Trip]:
        """Return the round trips of an operation."""
        way = vars(cache._drive)
        way["_pool"] = metered = Metered(cache._drive._pool, self.server.pid)
        action(cache)
        way["_pool"] = metered._pool
        return metered.trips

    def expire(self, _: SemanticCache) -> None:
        """Let all entries of the copy be over."""
        for key in list(self.raw.scan_iter("copy:*:ans:expiry:*")):
            self.raw.execute_command("ZUNIONSTORE", key, 1, key, "WEIGHTS", 0)

    def end_keys(self, _: SemanticCache) -> None:
        """Let Redis drop the keys by itself, as when nothing is stored for the time to live."""
        for key in list(self.raw.scan_iter("copy:*:ans:*:*")):
            self.raw.pexpire(key, 1)
        while any(True for _ in self.raw.scan_iter("copy:*:ans:*:*")):
            time.sleep(0.01)

    def close(self) -> None:
        self.raw.close()


def near(rows: Floats, row: int, rng: np.random.Generator) -> Floats:
    """Return a vector with a cosine of about 0.97 to a row."""
    moved = rows[row] + np.float32(0.25 / np.sqrt(rows.shape[1])) * rng.standard_normal(rows.shape[1])
    return np.asarray(moved / np.linalg.norm(moved), np.float32)


def follow(cache: SemanticCache, bench: Bench) -> None:
    """Ask what is certainly not there, so that all that is new comes."""
    cache.lookup("question 0 in no words that are there", query_embedding=bench.rows[0])


def reading(bench: Bench) -> None:
    """Measure what changes nothing."""
    rng, rows = np.random.default_rng(1), bench.rows

    def ask(text: str) -> Callable[[SemanticCache], None]:
        def asking(cache: SemanticCache) -> None:
            for i in range(100):
                cache.lookup(text.format(i), query_embedding=near(rows, i, rng))

        return asking

    def late(cache: SemanticCache) -> SemanticCache:
        follow(cache, bench)
        bench.cache("copy").invalidate(tags=["odd"])
        return cache

    def known(cache: SemanticCache) -> None:
        follow(cache, bench)

    bench.measure("catch-up of a new process", len(rows), known)
    bench.measure("catch-up with half dropped", len(rows) // 2, known, fresh=True, before=late)
    bench.measure("lookup, exact hit", 100, ask("question {}"), before=known)
    bench.measure("lookup, by meaning", 100, ask("question {} in other words"), before=known)
    bench.measure("explain", 1, lambda c: c.explain("question 1, or so"), before=known)
    bench.measure("get_stats", 1, lambda c: c.get_stats())


def writing(bench: Bench) -> None:
    """Measure what changes a scope."""
    count = len(bench.rows)

    def store(cache: SemanticCache) -> None:
        for i in range(500):
            cache.store(f"question {i} anew", f"answer {i}")

    def report(cache: SemanticCache) -> None:
        for i in range(100):
            cache.report_wrong(str(cache.lookup(f"question {i}").entry_id), f"question {i}")

    def drop(**criteria: Any) -> Callable[[SemanticCache], int]:
        return lambda cache: cache.invalidate(**criteria)

    measure = partial(bench.measure, fresh=True)
    measure("store", 500, store)
    for eviction in ("fifo", "lru", "lfu"):
        measure(f"store at the limit, {eviction}", 500, store, max_entries=count, eviction=eviction)
    measure("store, the limit lowered to half", 500, store, max_entries=count // 2)
    measure("report_wrong", 100, report)
    measure("invalidate by tag", count, drop(tags=["odd"]))
    measure("invalidate by age", count, drop(older_than_seconds=0))
    measure("invalidate by meaning", 1, drop(similar_to="question 7"))
    measure("invalidate by meaning, all of it", count, drop(similar_to="question 7", similarity=-1))
    measure("invalidate a context", count, drop(context={}))
    measure("cleanup_expired", count, lambda cache: cache.cleanup_expired(), before=bench.expire)
    for setting in ("no", "yes"):
        bench.raw.config_set("lazyfree-lazy-expire", setting)
        measure(f"keys expire, lazyfree-lazy-expire {setting}", count, bench.end_keys)


def in_this_process(bench: Bench) -> dict[str, float]:
    """Return what a large scope costs here."""
    rows, rng = bench.rows, np.random.default_rng(2)
    before = resource.getrusage(resource.RUSAGE_SELF)
    its = bench.cpu()
    begun = time.perf_counter()
    cache = bench.cache(vector_sets_from=None)
    cache.lookup("question nowhere 0", query_embedding=rows[0])
    wall = time.perf_counter() - begun
    after = resource.getrusage(resource.RUSAGE_SELF)
    found = {
        "catch_up_seconds": wall,
        "catch_up_client_cpu": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "catch_up_server_cpu": bench.cpu() - its,
        "index_megabytes": cache.get_stats()["index_bytes"] / 2**20,
    }

    def median(call: Callable[[int], object], count: int = 60) -> float:
        times = []
        for i in range(count):
            begun = time.perf_counter()
            call(i)
            times.append(time.perf_counter() - begun)
        return statistics.median(times) * 1000

    queries = [near(rows, i, rng) for i in range(60)]
    found["search_ms"] = median(lambda i: np.einsum("ij,j->i", rows, queries[i]))
    found["exact_hit_ms"] = median(lambda i: cache.lookup(f"question {i}"))
    found["lookup_ms"] = median(
        lambda i: cache.lookup(f"question {i} in other words", query_embedding=queries[i])
    )
    with_one_gone = cache.store(
        "question 1 for a moment", "answer", query_embedding=rows[1], ttl_seconds=0.001
    )
    assert with_one_gone is not None
    time.sleep(0.01)
    found["lookup_with_one_gone_ms"] = median(
        lambda i: cache.lookup(f"question {i} in other words", query_embedding=queries[i])
    )
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--entries", type=int, default=100_000, help="in the one scope (default: 100,000)")
    add("--dim", type=int, default=384, help="numbers of a vector (default: 384)")
    add(
        "--rounds",
        type=int,
        default=3,
        help="of each operation; the table has the longest of all (default: 3)",
    )
    add(
        "--server", metavar="PROGRAM", help="a redis-server or valkey-server instead of the one that is found"
    )
    add("--vector-sets", action="store_true", help="let a vector set of Redis 8 or later answer")
    add("--json", metavar="FILE", default="bench-results/scale.json")
    arguments = parser.parse_args()
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((arguments.entries, arguments.dim), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    with RedisServer(binary=arguments.server) as server:
        bench = Bench(server, rows, arguments.rounds, 1 if arguments.vector_sets else None)
        try:
            progress(f"filling a scope with {arguments.entries:,} entries")
            bench.fill()
            local = in_this_process(bench)
            reading(bench)
            writing(bench)
            version: Any = bench.raw.info("server") | bench.raw.info("memory")
        finally:
            bench.close()
    target = Path(arguments.json)
    target.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "redis": version["redis_version"],
        "allocator": version["mem_allocator"],
        "arguments": vars(arguments),
        "operations": [asdict(figure) for figure in bench.figures.values()],
        "in_this_process": local,
    }
    target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    program = f"Redis {version['redis_version']} ({version['mem_allocator']})"
    print(f"{program}, {arguments.entries:,} entries of {arguments.dim} numbers\n")
    print("| operation | calls | entries each | processor, a call | longest ", end="")
    print("| slowest trip | its processor | it waited | longest PING | in all |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for figure in bench.figures.values():
        print(figure.line())
    print()
    for name, value in local.items():
        print(f"{name}: {value:.2f}")


if __name__ == "__main__":
    main()
