"""Measure several servers: an add beside that to one server, the daemon's rounds.

Starts three masters and one server of its own. What is compared is measured in turn, round by round, and
given as the median of the rounds' ratios: machines are noisy. Processor time stands beside the clock's.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lix_cache import CacheConfig, HybridConversationCache, URLEmbeddingCache
from lix_cache.session.evictor import Evictor
from tests.support import RedisServer
from tests.support.redis_cluster import RedisCluster

TEXT = "What does the second chapter say about the harbour, and who wrote it?"


def timed(call: Callable[[], Any], count: int) -> tuple[float, float]:
    """Return microseconds of the clock and of this process for one call."""
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in range(count):
        call()
    return (time.perf_counter() - wall) / count * 1e6, (time.process_time() - cpu) / count * 1e6


def ratios(one: Callable[[], Any], other: Callable[[], Any], rounds: int, count: int) -> dict[str, float]:
    """Return how much longer the first takes than the second."""
    for call in (one, other):
        timed(call, count)
    walls, cpus, firsts = [], [], []
    for _ in range(rounds):
        (wall, cpu), (wall_2, cpu_2) = timed(one, count), timed(other, count)
        walls.append(wall / wall_2)
        cpus.append(cpu / cpu_2)
        firsts.append(wall)
    return {
        "ratio": statistics.median(walls),
        "cpu_ratio": statistics.median(cpus),
        "microseconds": min(firsts),
    }


def add_beside_one_server(there: CacheConfig, here: CacheConfig, rounds: int, count: int) -> dict[str, float]:
    many, one = (HybridConversationCache("s", c.replace(hot_window_size=1_000_000)) for c in (there, here))
    return ratios(
        lambda: many.add_message("user", TEXT), lambda: one.add_message("user", TEXT), rounds, count
    )


def urls_beside_one_server(
    there: CacheConfig, here: CacheConfig, rounds: int, count: int
) -> dict[str, float]:
    names = [f"https://example.org/{i}" for i in range(32)]
    many, one = (URLEmbeddingCache("s", config) for config in (there, here))
    for cache in (many, one):
        cache.batch_set({name: [0.5] * 384 for name in names})
    return ratios(lambda: many.batch_get(names), lambda: one.batch_get(names), rounds, count)


def new_file(folder: str) -> float:
    """Return microseconds for making an empty file: what the disk asks at each session's first move."""
    names = (f"{folder}/new {number}" for number in range(500))
    wall, _ = timed(lambda: Path(next(names)).touch(), 500)
    return wall


def rounds_of_the_daemon(config: CacheConfig, sessions: int) -> dict[str, float]:
    caches = [HybridConversationCache(f"evicted {i}", config) for i in range(sessions)]
    for cache in caches:
        for number in range(10):
            cache.add_message("user", f"{number} {TEXT}")
    evictor = Evictor(caches[0]._store)
    evictor.use(0.0)
    began, worked = time.perf_counter(), time.process_time()
    moved = evictor.run_once()
    took, cpu = time.perf_counter() - began, time.process_time() - worked
    empty = [timed(evictor.run_once, 1) for _ in range(20)]
    return {
        "evictions_per_second": moved.sessions / took,
        "eviction_cpu_us": cpu / moved.sessions * 1e6,
        "empty_round_ms": min(wall for wall, _ in empty) / 1000,
        "empty_round_cpu_ms": min(cpu for _, cpu in empty) / 1000,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a smoke run: the numbers mean nothing")
    parser.add_argument("--json", metavar="FILE", help="where the figures go")
    parser.add_argument("--archive", metavar="FOLDER", help="where the archives are made, and removed again")
    chosen = parser.parse_args()
    rounds, count, sessions = (2, 20, 60) if chosen.quick else (15, 100, 1000)
    with (
        RedisCluster(3) as cluster,
        RedisServer(appendonly=True) as server,
        tempfile.TemporaryDirectory(dir=chosen.archive) as folder,
    ):
        there = cluster.config(archive_dir=f"{folder}/there", evictor_enabled=False)
        here = server.config(archive_dir=f"{folder}/here", evictor_enabled=False)
        figures = {
            "add": add_beside_one_server(there, here, rounds, count),
            "32 urls": urls_beside_one_server(there, here, rounds, count // 4),
            "daemon, 1,024 buckets": {
                **rounds_of_the_daemon(there, sessions),
                "new_file_us": new_file(folder),
            },
        }
    for name, found in figures.items():
        print(f"{name}: " + ", ".join(f"{what} {value:.3g}" for what, value in found.items()))
    if chosen.json:
        Path(chosen.json).write_text(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
