"""Measure this checkout against another one, in turn: A B A B, each in processes of its own.

    git worktree add ../before COMMIT
    python scripts/bench_against.py ../before

Every figure is a ratio to PING on the same connection in the same process, so that a machine that
gets slower or faster meanwhile slows down or speeds up both; what is printed is how the ratios of
the two checkouts compare, as the median over the rounds. Sizes and counts are exact.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parents[1]
_TEXT = "I would like to change the delivery address of my order, please. It is number 4711."


def _median_us(call: Callable[[int], object], count: int) -> float:
    times = []
    for number in range(count):
        began = time.perf_counter()
        call(number)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


async def _async_median_us(call: Callable[[int], Awaitable[object]], count: int) -> float:
    times = []
    for number in range(count):
        began = time.perf_counter()
        await call(number)
        times.append(time.perf_counter() - began)
    return statistics.median(times) * 1e6


class _Vectors:
    """An embedder that knows its answers: what is measured is the cache."""

    id = "bench"
    dim = 384

    def __init__(self) -> None:
        import numpy as np

        self._made: dict[str, Any] = {}
        self._random = np.random.default_rng(7)

    def embed(self, texts: Any) -> Any:
        import numpy as np

        for text in texts:
            if text not in self._made:
                vector = self._random.standard_normal(self.dim).astype("float32")
                self._made[text] = vector / np.linalg.norm(vector)
        return np.stack([self._made[text] for text in texts])


def measure(port: int, folder: str, count: int) -> dict[str, float]:
    """Measure the checkout that this process imports. Microseconds, as multiples of PING."""
    import redis

    import lix_cache
    from lix_cache import (
        CacheConfig,
        ConversationArchive,
        HybridConversationCache,
        SemanticCache,
        SemanticCacheRedis,
        URLEmbeddingCache,
    )

    config = CacheConfig(redis_host="127.0.0.1", redis_port=port, archive_dir=folder, evictor_enabled=False)
    client = redis.Redis(port=port)
    pings = [_median_us(lambda _: client.ping(), count)]
    found: dict[str, float] = {}

    def note(name: str, us: float) -> None:
        pings.append(_median_us(lambda _: client.ping(), count))
        found[name] = us / statistics.mean(pings[-2:])

    cache = HybridConversationCache("bench", config.replace(hot_window_size=20, archive_batch_turns=4096))
    for _ in range(30):
        cache.add_message("user", _TEXT)
    note("add_message", _median_us(lambda _: cache.add_message("user", _TEXT), count))
    note("get_context, 20 messages", _median_us(lambda _: cache.get_context(), count))
    note("get_full, hot", _median_us(lambda _: cache.get_full(), count // 4))
    synced = HybridConversationCache("synced", config.replace(durability="disk"))
    note("add_message, durability=disk", _median_us(lambda _: synced.add_message("user", _TEXT), count // 8))

    drop_in = SemanticCacheRedis("bench", config)
    vectors = _Vectors().embed([f"text {n}" for n in range(64)])
    for number in range(50):
        drop_in.set("https://example.com", vectors[number], {"answer": number})
    note(
        "drop-in semantic hit",
        _median_us(lambda n: drop_in.get("https://example.com", vectors[n % 50]), count),
    )
    note(
        "drop-in semantic miss", _median_us(lambda _: drop_in.get("https://example.com", vectors[60]), count)
    )
    note(
        "drop-in semantic set",
        _median_us(lambda n: drop_in.set("https://example.com", vectors[n % 50], {"answer": n}), count),
    )
    urls = URLEmbeddingCache("bench", config)
    urls.set("https://example.com", vectors[0])
    note("URL get", _median_us(lambda _: urls.get("https://example.com"), count))

    own: dict[str, Any] = {"audit_rate": 0}
    if hasattr(lix_cache, "SemanticSettings"):  # the other checkout may be older
        own = {"settings": lix_cache.SemanticSettings(**own)}
    answers = SemanticCache(_Vectors(), config, context={"tenant": "bench"}, **own)
    for number in range(50):
        answers.store(f"How do I reach the office number {number} by train?", f"Take line {number}.")
    note(
        "SemanticCache exact hit",
        _median_us(lambda _: answers.lookup("How do I reach the office number 7 by train?"), count),
    )
    note("SemanticCache miss", _median_us(lambda n: answers.lookup(f"Another question, {n}"), count))
    note("SemanticCache store", _median_us(lambda n: answers.store(f"A new one, {n}", "Yes."), count // 2))

    turn = {"role": "user", "content": _TEXT, "timestamp": 1.7e9, "metadata": {}}
    archive = ConversationArchive(os.path.join(folder, "alone"))
    note("archive append, 10 turns", _median_us(lambda _: archive.append_turns("s", [turn] * 10), count // 8))
    note("archive load_recent, 10 turns", _median_us(lambda _: archive.load_recent("s", 10), count))
    note("archive get_metadata", _median_us(lambda _: archive.get_metadata("s"), count))

    found.update(asyncio.run(_measure_async(config, count)))
    found["sessions moved to disk, each"] = _moved(config, note_ping=statistics.mean(pings))
    return found


async def _measure_async(config: Any, count: int) -> dict[str, float]:
    from lix_cache import (
        AsyncHybridConversationCache,
        close_async_redis_clients,
        create_async_redis_client,
    )

    client = await create_async_redis_client(config=config)
    cache = AsyncHybridConversationCache(
        "bench-async", config.replace(hot_window_size=20, archive_batch_turns=4096)
    )
    for _ in range(30):
        await cache.add_message("user", _TEXT)
    found = {}
    for name, call in (
        ("async add_message", lambda _: cache.add_message("user", _TEXT)),
        ("async get_context, 20 messages", lambda _: cache.get_context()),
    ):
        ping = await _async_median_us(lambda _: client.ping(), count)
        found[name] = await _async_median_us(call, count) / ping
    await close_async_redis_clients()
    return found


def _moved(config: Any, note_ping: float) -> float:
    from lix_cache import HybridConversationCache, StoreAdmin

    mine = config.replace(redis_key_prefix="moved")
    sessions = 300
    for number in range(sessions):
        cache = HybridConversationCache(f"s{number}", mine)
        for _ in range(20):
            cache.add_message("user", _TEXT)
    began = time.perf_counter()
    StoreAdmin(mine).offload(0)
    return (time.perf_counter() - began) / sessions * 1e6 / note_ping


def _one_round(checkout: Path, port: int, count: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "PYTHONPATH": str(checkout)}
        command = [sys.executable, str(Path(__file__).resolve()), "--measure", str(port), folder]
        done = subprocess.run(
            [*command, "--count", str(count)],
            env=env,
            cwd=checkout,
            capture_output=True,
            text=True,
            check=False,
        )
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr[-2000:]}")
    result: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return result


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", nargs="?", help="a checkout of the commit to compare with")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--count", type=int, default=800, help="calls of each kind in a round")
    parser.add_argument("--measure", nargs=2, metavar=("PORT", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        port, folder = options.measure
        print(json.dumps(measure(int(port), folder, options.count)))
        return
    if not options.other:
        parser.error("name a checkout to compare with")
    sys.path.insert(0, str(HERE))
    from tests.support.redis_server import RedisServer

    checkouts = {"other": Path(options.other).resolve(), "this": HERE}
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in checkouts}
    for number in range(options.rounds):
        for name, checkout in checkouts.items():
            with RedisServer() as server:
                rounds[name].append(_one_round(checkout, server.port, options.count))
            print(f"round {number + 1} of {options.rounds}: {name} done", file=sys.stderr)
    print(f"{'multiples of PING':34}{'other':>9}{'this':>9}{'this / other':>14}")
    for figure in rounds["this"][0]:
        ours = [one[figure] for one in rounds["this"]]
        theirs = [one[figure] for one in rounds["other"]]
        ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
        print(f"{figure:34}{statistics.median(theirs):9.2f}{statistics.median(ours):9.2f}{ratio:14.3f}")


if __name__ == "__main__":
    main()
