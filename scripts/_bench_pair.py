"""One side of a paired run: prepares its figures, and measures slices of them when it is told to.

Run by ``bench_against.py``, with the checkout that is to be measured first on PYTHONPATH. It must work
with older checkouts, so it uses the public API alone. On standard input comes a line for each slice,
``NUMBER COUNT``; the answer is what that many calls of the figure took.
"""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import redis

import lix_cache
from lix_cache import (
    CacheConfig,
    ConversationArchive,
    HuffmanCodec,
    HybridConversationCache,
    SemanticCache,
    SemanticCacheRedis,
    StoreAdmin,
    URLEmbeddingCache,
    create_redis_client,
)

TEXT = "I would like to change the delivery address of my order, please. It is number 4711."
URL = "https://example.com"
SESSIONS = 50

#: Calls ``count`` times what is measured.
Run = Callable[[int], object]


class _Vectors:
    """An embedder that knows its answers: what is measured is the cache."""

    id = "bench"
    dim = 384

    def __init__(self) -> None:
        self._made: dict[str, Any] = {}
        self._random = np.random.default_rng(7)

    def embed(self, texts: Any) -> Any:
        for text in texts:
            if text not in self._made:
                vector = self._random.standard_normal(self.dim).astype("float32")
                self._made[text] = vector / np.linalg.norm(vector)
        return np.stack([self._made[text] for text in texts])


class Side:
    """The figures of a checkout.

    Args:
        port: of the server, which both sides share, so that it is equally warm for both.
        prefix: of its keys, as long as that of the other side.
        folder: for its archives.
    """

    def __init__(self, port: int, prefix: str, folder: str) -> None:
        self.config = CacheConfig(
            redis_host="127.0.0.1",
            redis_port=port,
            redis_key_prefix=prefix,
            archive_dir=os.path.join(folder, "archive"),
            evictor_enabled=False,
            archive_batch_turns=4096,
        )
        self._folder = folder
        self._loop = asyncio.new_event_loop()
        self._serial = 0
        self.server = redis.Redis(port=port)
        #: Name and run of each; those that end in ``, bytes`` return a size instead.
        self.figures: list[tuple[str, Run]] = []
        for add in (
            self._add_sessions,
            self._add_drop_in,
            self._add_semantic,
            self._add_archive,
            self._add_async,
        ):
            try:
                add()
            except (AttributeError, TypeError) as error:
                # An older checkout cannot do it: these figures are left out.
                print(f"{prefix}: {error}", file=sys.stderr)

    def _each(self, name: str, call: Callable[[int], object]) -> None:
        def run(count: int) -> None:
            for number in range(self._serial, self._serial + count):
                call(number)
            self._serial += count

        self.figures.append((name, run))

    def _add_sessions(self) -> None:
        client = create_redis_client(db=2, config=self.config)
        self._each("PING", lambda _: client.ping())
        caches = [HybridConversationCache(f"s{n}", self.config) for n in range(SESSIONS)]
        for cache in caches:
            for _ in range(30):
                cache.add_message("user", TEXT)
        self._each("add_message", lambda n: caches[n % SESSIONS].add_message("user", TEXT))
        read = HybridConversationCache("read", self.config)
        for _ in range(20):
            read.add_message("user", TEXT)
        self._each("get_context, 20 messages", lambda _: read.get_context())
        self._each("get_full, 20 messages", lambda _: read.get_full())
        synced = HybridConversationCache("synced", self.config.replace(durability="disk"))
        synced.add_message("user", TEXT)
        self._each("add_message, durability=disk", lambda _: synced.add_message("user", TEXT))

    def _add_drop_in(self) -> None:
        cache = SemanticCacheRedis("bench", self.config)
        vectors = _Vectors().embed([f"text {n}" for n in range(64)])
        for number in range(50):
            cache.set(URL, vectors[number], {"answer": number})
        self._each("drop-in semantic hit", lambda n: cache.get(URL, vectors[n % 50]))
        self._each("drop-in semantic miss", lambda _: cache.get(URL, vectors[60]))
        self._each("drop-in semantic set", lambda n: cache.set(URL, vectors[n % 50], {"answer": n}))
        urls = URLEmbeddingCache("bench", self.config)
        urls.set(URL, vectors[0])
        self._each("URL get", lambda _: urls.get(URL))
        self._each("URL set", lambda _: urls.set(URL, vectors[0]))

    def _add_semantic(self) -> None:
        own: dict[str, Any] = {"audit_rate": 0, "max_entries": 2000}
        if hasattr(lix_cache, "SemanticSettings"):  # the other checkout may be older
            own = {"settings": lix_cache.SemanticSettings(**own)}
        near = np.ones(384, np.float32)
        for count in (50, 1000):
            cache = SemanticCache(_Vectors(), self.config, context={"tenant": f"of {count}"}, **own)
            for number in range(count):
                cache.store(f"How do I reach the office number {number} by train?", f"Take line {number}.")
            cache.store("how do I do something else, please", "So.", query_embedding=near)
            self._add_lookups(cache, near, f"{count:,} entries")

    def _add_lookups(self, cache: Any, near: Any, size: str) -> None:
        cases = {
            "exact": ("How do I reach the office number 7 by train?", None),
            "semantic": ("how do I do something else", near),
            "below_threshold": ("how do I do something else", -near),
        }
        for reason, (question, vector) in cases.items():
            found = cache.lookup(question, query_embedding=vector)
            if found.reason != reason:
                raise AssertionError(f"expected {reason}, got {found.reason}")

            def look(_: int, question: str = question, vector: Any = vector) -> object:
                return cache.lookup(question, query_embedding=vector)

            self._each(f"SemanticCache {reason}, {size}", look)
        if size == "50 entries":
            self._each(
                "SemanticCache store", lambda n: cache.store("a new one", f"{n}.", query_embedding=-near)
            )

    def _add_archive(self) -> None:
        turn = {"role": "user", "content": TEXT, "timestamp": 1.7e9, "metadata": {}}
        archive = ConversationArchive(os.path.join(self._folder, "alone"))
        archive.append_turns("s", [turn] * 1000)
        self._each("archive append, 10 turns", lambda _: archive.append_turns("s", [turn] * 10))
        self._each("archive load_recent, 10 turns", lambda _: archive.load_recent("s", 10))
        self._each("archive get_metadata", lambda _: archive.get_metadata("s"))
        text = " ".join(f"{TEXT} Item {n}." for n in range(1000)).encode()
        coded = HuffmanCodec.encode(text)
        self._each("codec encode, 94 kB", lambda _: HuffmanCodec.encode(text))
        self._each("codec decode, 94 kB", lambda _: HuffmanCodec.decode(coded))
        self.figures.append(("codec, bytes", lambda _: len(coded)))
        self.figures.append(("in Redis, a session of 20, bytes", lambda _: self._in_redis()))
        self.figures.append(("on disk, 300 sessions of 20, bytes", lambda _: self._offloaded()[0]))
        self.figures.append(("offload, a session of 20", lambda _: self._offloaded()[1]))

    def _add_async(self) -> None:
        self._loop.run_until_complete(self._add_async_figures())

    async def _add_async_figures(self) -> None:
        kinds = (lix_cache.AsyncHybridConversationCache, lix_cache.AsyncSemanticCacheRedis)
        cache, answers = kinds[0]("async", self.config), kinds[1]("async", self.config)
        for _ in range(20):
            await cache.add_message("user", TEXT)
        vector = np.ones(384, np.float32)
        await answers.set(URL, vector, {"answer": 1})
        self._each_async("async get_context, 20 messages", lambda: cache.get_context())
        self._each_async("async add_message", lambda: cache.add_message("user", TEXT))
        self._each_async("async drop-in semantic hit", lambda: answers.get(URL, vector))

    def _each_async(self, name: str, call: Callable[[], Any]) -> None:
        async def calls(count: int) -> None:
            for _ in range(count):
                await call()

        self.figures.append((name, lambda count: self._loop.run_until_complete(calls(count))))

    def _in_redis(self) -> int:
        """Return what the window of a session takes, its times of use included."""
        server, name = redis.Redis(port=self.config.redis_port, db=2), self.config.redis_key_prefix
        keys = [key for key in server.scan_iter(f"{name}:*") if key.endswith(b":read")]
        return sum(int(server.memory_usage(key, samples=0) or 0) for key in keys)

    def _offloaded(self) -> tuple[int, float]:
        """Move sessions to disk; return what they take there, and the processor's seconds for each."""
        count = 300
        folder = os.path.join(self._folder, f"offloaded-{self._serial}")
        self._serial += 1
        mine = self.config.replace(
            redis_key_prefix=f"{self.config.redis_key_prefix}-{self._serial}", archive_dir=folder
        )
        for number in range(count):
            cache = HybridConversationCache(f"s{number}", mine)
            for place in range(20):
                cache.add_message("user", f"{TEXT} {place}", timestamp=1.7e9 + place)
        began = time.process_time()
        admin: Any = StoreAdmin(mine)
        (admin.offload if hasattr(admin, "offload") else admin.evict)(0)  # the other checkout may be older
        seconds = (time.process_time() - began) / count
        sizes = [
            os.path.getsize(os.path.join(at, name)) for at, _, names in os.walk(folder) for name in names
        ]
        return sum(sizes), seconds

    def slice(self, number: int, count: int) -> dict[str, float]:
        """Measure so many calls of a figure: microseconds of each, or bytes."""
        name, run = self.figures[number]
        if name.endswith(", bytes"):
            return {"bytes": float(run(1))}  # type: ignore[arg-type]
        if name.startswith("offload"):
            return {"client": float(run(1)) * 1e6}  # type: ignore[arg-type]
        server = self._server_seconds()
        began, cpu = time.perf_counter(), time.process_time()
        run(count)
        cpu, wall = time.process_time() - cpu, time.perf_counter() - began
        used = {"client": cpu, "server": self._server_seconds() - server, "time": wall}
        return {what: seconds / count * 1e6 for what, seconds in used.items()}

    def _server_seconds(self) -> float:
        info: Any = self.server.info("cpu")
        return float(info["used_cpu_user"]) + float(info["used_cpu_sys"])


def main() -> None:
    port, prefix, folder = sys.argv[1:]
    side = Side(int(port), prefix, folder)
    gc.collect()
    gc.freeze()
    print(json.dumps([name for name, _ in side.figures]), flush=True)
    for line in sys.stdin:
        number, count = map(int, line.split())
        print(json.dumps(side.slice(number, count)), flush=True)


if __name__ == "__main__":
    main()
