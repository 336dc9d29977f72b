#!/usr/bin/env python3
"""Nearest vectors among many: exact search in this process, and Redis 8's vector sets.

The vectors are embeddings of real queries, each moved by a little noise until there are
enough, as if each user asked in words of their own; so are the queries. For each size it
prints the median time of a search, how often a vector set finds the very nearest one
(recall@1) for several search efforts, what an insert costs, and the memory it takes.

    LIX_CACHE_REDIS8=/path/to/redis-server scripts/bench_vectors.py --sizes 10000 100000
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import redis

from lix_cache import OnnxEmbedder

T = TypeVar("T")
Floats = npt.NDArray[np.float32]
ROOT = Path(__file__).resolve().parents[1]
#: Cosine of a text and a paraphrase by another writer, about: 1 / sqrt(1 + NOISE²).
NOISE = 0.35
EFFORTS = (0, 50, 100, 200, 400)
PIPELINE = 200


def progress(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)


def load_texts(shared: Path, most: int) -> list[str]:
    """Return different real queries, in a fixed order."""
    texts: dict[str, None] = {}
    for name in ("intent_banking77", "intent_clinc150"):
        with open(shared / "data" / name / "queries.jsonl", encoding="utf-8") as file:
            texts.update((json.loads(line)["text"], None) for line in file)
    return list(texts)[:most]


def moved(base: Floats, count: int, rng: np.random.Generator) -> Floats:
    """Return vectors near those of the base, each as often as the next, shape (count, dim)."""
    dim = base.shape[1]
    out = np.empty((count, dim), dtype=np.float32)
    for start in range(0, count, 50_000):
        rows = np.arange(start, min(count, start + 50_000))
        noise = rng.standard_normal((len(rows), dim), dtype=np.float32) * np.float32(NOISE / np.sqrt(dim))
        part = base[rows % len(base)] + noise
        out[rows] = part / np.linalg.norm(part, axis=1, keepdims=True)
    return out


@contextmanager
def server(binary: str) -> Iterator[redis.Redis]:
    """Start a server without persistence on a socket of its own."""
    folder = tempfile.mkdtemp(prefix="lix-scale-")
    path = os.path.join(folder, "redis.sock")
    arguments = ["--port", "0", "--unixsocket", path, "--dir", folder, "--save", "", "--appendonly", "no"]
    process = subprocess.Popen([binary, *arguments], stdout=subprocess.DEVNULL)
    try:
        client = redis.Redis(unix_socket_path=path, protocol=2)
        for _ in range(200):
            try:
                client.ping()
                break
            except redis.ConnectionError:
                time.sleep(0.05)
        yield client
    finally:
        process.terminate()
        process.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def timed(call: Callable[[Floats], T], queries: Floats) -> tuple[float, list[T]]:
    """Return the median milliseconds of a call with each query, and the results."""
    times, results = [], []
    for query in queries:
        begun = time.perf_counter()
        results.append(call(query))
        times.append(time.perf_counter() - begun)
    return statistics.median(times) * 1000, results


def exact(vectors: Floats, queries: Floats) -> tuple[float, list[int]]:
    """Search as the library's process-local index does."""
    return timed(lambda query: int(np.einsum("ij,j->i", vectors, query).argmax()), queries)


def insert(client: redis.Redis, vectors: Floats, quantisation: str) -> float:
    """Fill the vector set; return milliseconds for each insert."""
    client.flushall()
    begun = time.perf_counter()
    for start in range(0, len(vectors), PIPELINE):
        pipe = client.pipeline(transaction=False)
        for row in range(start, min(len(vectors), start + PIPELINE)):
            # As semantic/vector_sets.py writes them: the attribute is the entry's expiry.
            words = (
                "VADD",
                "v",
                "FP32",
                vectors[row].tobytes(),
                row,
                quantisation,
                "SETATTR",
                '{"e":2000000000000}',
            )
            pipe.execute_command(*words)
        pipe.execute()
        if start and start % 50_000 == 0:
            progress(f"{start} inserted, {(time.perf_counter() - begun) / start * 1000:.3f} ms each")
    return (time.perf_counter() - begun) / len(vectors) * 1000


def nearest(client: redis.Redis, effort: int, wanted: int, query: Floats) -> list[int]:
    words: tuple[Any, ...] = ("VSIM", "v", "FP32", query.tobytes(), "COUNT", wanted)
    words += (*(("EF", effort) if effort else ()), "FILTER", ".e > 1000000000000")
    reply: Any = client.execute_command(*words)
    return [int(element) for element in reply]


def measure(client: redis.Redis, base: Floats, size: int, arguments: argparse.Namespace) -> dict[str, Any]:
    rng = np.random.default_rng(arguments.seed)
    vectors = moved(base, size, rng)
    queries = moved(base[rng.permutation(len(base))], arguments.queries, rng)
    exact_ms, best = exact(vectors, queries)
    progress(f"{size} vectors: exact search {exact_ms:.2f} ms")
    insert_ms = insert(client, vectors, arguments.quantisation)
    memory: Any = client.info("memory")
    result: dict[str, Any] = {
        "vectors": size,
        "dim": base.shape[1],
        "exact_p50_ms": exact_ms,
        "insert_ms": insert_ms,
        "bytes_per_vector": memory["used_memory"] / size,
        "quantisation": arguments.quantisation,
        "efforts": {},
    }
    for effort in EFFORTS:
        p50, found = timed(partial(nearest, client, effort, arguments.wanted), queries)
        # The library looks at all that were found, by their exact vectors.
        hits = sum(row in rows for rows, row in zip(found, best, strict=True))
        result["efforts"][str(effort or "default")] = {"p50_ms": p50, "recall_at_1": hits / len(queries)}
    return result


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--sizes", type=int, nargs="+", default=[10_000, 100_000])
    add("--queries", type=int, default=500)
    add("--texts", type=int, default=12_000, help="real queries that the vectors are made from")
    add("--wanted", type=int, default=50, help="neighbours that are asked for")
    add("--quantisation", choices=["Q8", "NOQUANT", "BIN"], default="Q8")
    add("--seed", type=int, default=0)
    add("--redis8", default=os.environ.get("LIX_CACHE_REDIS8"), help="redis-server of version 8 or later")
    add("--shared", default=os.environ.get("LIX_CACHE_SHARED", str(ROOT.parent / "shared")))
    add("--json", metavar="FILE", default="bench-results/vectors.json")
    arguments = parser.parse_args()
    if not arguments.redis8:
        parser.error("name a redis-server of version 8 or later: --redis8 or LIX_CACHE_REDIS8")
    shared = Path(arguments.shared)
    texts = load_texts(shared, arguments.texts)
    progress(f"embedding {len(texts)} queries")
    base = OnnxEmbedder(shared / "models" / "all-MiniLM-L6-v2").embed(texts)
    results = []
    target = Path(arguments.json)
    target.parent.mkdir(parents=True, exist_ok=True)
    with server(arguments.redis8) as client:
        info: Any = client.info("server")
        for size in arguments.sizes:
            results.append(measure(client, base, size, arguments))
            document = {"redis": info["redis_version"], "results": results, "arguments": vars(arguments)}
            target.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    print(f"Redis {info['redis_version']}, {base.shape[1]} dimensions, {arguments.quantisation}\n")
    print("| vectors | exact p50 | insert | bytes each | EF | p50 | recall@1 |")
    print("|---|---|---|---|---|---|---|")
    for one in results:
        head = f"{one['vectors']:,} | {one['exact_p50_ms']:.2f} ms | {one['insert_ms']:.2f} ms"
        for effort, figure in one["efforts"].items():
            p50, recall = figure["p50_ms"], figure["recall_at_1"]
            print(f"| {head} | {one['bytes_per_vector']:,.0f} | {effort} | {p50:.2f} ms | {recall:.3f} |")


if __name__ == "__main__":
    main()
