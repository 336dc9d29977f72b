"""The speed of what goes to Redis, in units of PING."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import os
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from _bench_report import OLD, apaired, paired, progress
from _bench_support import STEP_MS, Bench, OldPackage, Texts, on_cores, past_turns, put_windows

import lix_cache
from lix_cache import (
    CacheConfig,
    HybridConversationCache,
    SemanticCache,
    SemanticSettings,
    create_async_redis_client,
    create_redis_client,
)

URL = "https://example.org/a/page"
QUERIES = 20
#: Nearly what the last entry of a scope asks.
NEAR = "how do I do something else"


@dataclass(frozen=True)
class Settle:
    """What a script of operations needs done: a value, or an awaitable to wait for."""

    value: Any


@dataclass(frozen=True)
class Measure:
    """What it wants measured.

    Attributes:
        name: the figure's.
        db: where to PING.
        operation: called again and again; in the async variant it returns an awaitable.
        at_most: the target.
    """

    name: str
    db: int
    operation: Callable[[], Any]
    at_most: float | None = None


def speed(bench: Bench) -> None:
    """Time the operations on Redis against PING, on each transport and in both variants."""
    _make_long_session(bench)
    _make_scopes(bench)
    places: dict[str, Callable[[], contextlib.AbstractContextManager[None]]] = {
        "Speed": contextlib.nullcontext
    }
    if _can_place(bench):
        places = {
            "Speed, a core for the server and one for the client": partial(on_cores, bench.server, 2),
            "Speed, server and client on one core": partial(on_cores, bench.server, 1),
        }
    for transport in bench.server.urls:
        # The daemon's thread starts here, where it may go to any core, and stays free.
        HybridConversationCache("long", bench.config(transport))
    for section, place in places.items():
        for transport in bench.server.urls:
            progress(f"{section}: {transport}")
            with place():
                _measure_sync(bench, section, transport)
                asyncio.run(_measure_async(bench, section, transport))
        if bench.old and bench.old.settings:
            progress(f"{section}: {OLD}")
            with place(), bench.old.stepping_clock():
                _measure_old(bench, section, bench.old)


def _can_place(bench: Bench) -> bool:
    if bench.server.pid is None or not hasattr(os, "sched_getaffinity"):
        return False
    return len(os.sched_getaffinity(0)) > 1


def _make_long_session(bench: Bench) -> None:
    count = bench.size.long_session
    progress(f"adding {count:,} messages to one session")
    cache = HybridConversationCache("long", bench.config())
    for role, content in itertools.islice(itertools.cycle(bench.texts.messages), count - 1):
        cache.add_message(role, content)


def _make_scopes(bench: Bench) -> None:
    answers = _answers(bench.texts)
    for count in bench.size.scopes:
        progress(f"storing {count:,} entries in one scope")
        cache = SemanticCache(
            None,
            _with_vectors(bench.config()),
            context=_scope(count),
            settings=SemanticSettings(ttl_seconds=86_400, audit_rate=0),
        )
        for i, vector in enumerate(_scope_vectors(count)):
            query = f"question {i}" if i + 1 < count else f"{NEAR}, please"
            cache.store(query, next(answers), query_embedding=vector)


def _with_vectors(config: CacheConfig) -> CacheConfig:
    return config.replace(embedding_dim=384, embedder_id="bench")


def _scope(count: int) -> dict[str, Any]:
    return {"entries": count}


def _scope_vectors(count: int) -> Any:
    return np.random.default_rng(count).normal(size=(count, 384)).astype(np.float32)


def _measure_sync(bench: Bench, section: str, transport: str) -> None:
    config, size = bench.config(transport), bench.size
    clients = [create_redis_client(db=db, config=config) for db in (0, 1, 2)]
    for step in _settled(_operations(bench, config, "", f"{section}-{transport}-sync")):
        gc.collect()
        found = paired(clients[step.db].ping, step.operation, size.rounds, size.samples)
        bench.report.add_paired(section, step.name, f"{transport}, sync", found, step.at_most)


def _settled(script: Generator[Settle | Measure, Any, None]) -> Iterator[Measure]:
    """Yield only what is to be measured."""
    with contextlib.suppress(StopIteration):
        step = next(script)
        while True:
            if isinstance(step, Settle):
                step = script.send(step.value)
            else:
                yield step
                step = next(script)


async def _measure_async(bench: Bench, section: str, transport: str) -> None:
    config, size = bench.config(transport), bench.size
    clients = [await create_async_redis_client(db=db, config=config) for db in (0, 1, 2)]
    script = _operations(bench, config, "Async", f"{section}-{transport}-async")
    with contextlib.suppress(StopIteration):
        step = next(script)
        while True:
            if isinstance(step, Settle):
                step = script.send(await step.value)
                continue
            gc.collect()
            found = await apaired(clients[step.db].ping, step.operation, size.rounds, size.samples)
            bench.report.add_paired(section, step.name, f"{transport}, async", found, step.at_most)
            step = next(script)
    for client in clients:
        await client.connection_pool.disconnect()


def _operations(
    bench: Bench, config: CacheConfig, variant: str, name: str
) -> Generator[Settle | Measure, Any, None]:
    """Say what to measure, for both variants; ``variant`` is what the classes' names begin with."""
    yield from _on_sessions(bench, config, getattr(lix_cache, f"{variant}HybridConversationCache"), name)
    cache = getattr(lix_cache, f"{variant}SemanticCacheRedis")(name, config)
    yield from _on_queries(bench.texts, cache)
    full = getattr(lix_cache, f"{variant}SemanticCache")
    for count in bench.size.scopes:
        own = _with_vectors(config)
        # A query text that is kept beside its entry would be an exact hit the next time.
        cache = full(
            None, own, context=_scope(count), settings=SemanticSettings(ttl_seconds=86_400, audit_rate=0)
        )
        yield from _on_scope(bench.texts, cache, count)
    urls = getattr(lix_cache, f"{variant}URLEmbeddingCache")(name, config)
    yield from _on_urls(urls)


def _on_sessions(
    bench: Bench, config: CacheConfig, kind: Any, name: str
) -> Generator[Settle | Measure, Any, None]:
    count = bench.size.rounds * bench.size.samples
    sessions = {f"{name}-{i}": bench.texts.session(i) for i in range(count)}
    now_ms = int(time.time() * 1000) - STEP_MS
    put_windows(
        config,
        ((sid, past_turns(messages[:18], now_ms)) for sid, messages in sessions.items()),
        idle=False,
    )
    caches = [(kind(session_id, config), messages) for session_id, messages in sessions.items()]
    for cache, messages in caches:
        # An object's first add asks the archive where the session stands: not what is measured.
        yield Settle(cache.add_message(*messages[18]))
    twentieth = ((cache.add_message, messages[19]) for cache, messages in caches)

    def add_twentieth() -> Any:
        add_message, message = next(twentieth)
        return add_message(*message)

    yield Measure("add, message 20", 2, add_twentieth, 2.0)
    window = caches[0][0]
    _check_length((yield Settle(window.get_context())))
    yield Measure("get_context, 20 messages", 2, window.get_context, 3.5)

    long, contents = kind("long", config), bench.texts.contents()
    yield Settle(long.add_message("user", next(contents)))
    yield Measure(
        f"add, message {bench.size.long_session:,}", 2, lambda: long.add_message("user", next(contents)), 2.0
    )


def _on_queries(texts: Texts, cache: Any) -> Generator[Settle | Measure, Any, None]:
    entries, hits, misses = _vectors()
    answers = _answers(texts)
    yield Settle(cache.batch_set([(URL, vector, next(answers)) for vector in entries]))
    for queries, expected in ((hits, True), (misses, False)):
        for query in queries:
            _check_found((yield Settle(cache.get(URL, query))), expected)
    hit, miss = itertools.cycle(hits), itertools.cycle(misses)
    yield Measure("semantic miss, 50 entries", 0, lambda: cache.get(URL, next(miss)), 2.5)
    yield Measure("semantic hit, 50 entries", 0, lambda: cache.get(URL, next(hit)), 3.5)
    yield Measure("semantic set, 50 entries", 0, lambda: cache.set(URL, next(miss), next(answers)), 2.5)


def _on_scope(texts: Texts, cache: Any, count: int) -> Generator[Settle | Measure, Any, None]:
    """Look up without the embedding: the vector is given."""
    rng = np.random.default_rng(1)
    miss = rng.normal(size=384).astype(np.float32)
    hit = _scope_vectors(count)[-1] + rng.normal(scale=0.1, size=384).astype(np.float32)

    def lookup(query: str, vector: Any) -> Any:
        return cache.lookup(query, query_embedding=vector)

    for query, vector, reason in (
        ("question 7", miss, "exact"),
        (NEAR, hit, "semantic"),
        (NEAR, miss, "below_threshold"),
    ):
        found = yield Settle(lookup(query, vector))
        if found.reason != reason:
            raise AssertionError(f"expected {reason}, got {found}")
    name = f"{count:,} in a scope"
    few = count <= 50
    yield Measure(f"lookup, exact, {name}", 0, lambda: lookup("question 7", miss), 2.5 if few else None)
    yield Measure(f"lookup, miss, {name}", 0, lambda: lookup(NEAR, miss), 2.5 if few else None)
    yield Measure(f"lookup, hit, {name}", 0, lambda: lookup(NEAR, hit), 3.5 if few else None)
    if few:
        answers, far = _answers(texts), -hit
        yield Measure("store", 0, lambda: cache.store("question 7", next(answers), query_embedding=far), 2.5)


def _on_urls(urls: Any) -> Generator[Settle | Measure, Any, None]:
    (vector, *_), _, _ = _vectors()
    yield Settle(urls.set(URL, vector))
    _check_found((yield Settle(urls.get(URL))), True)
    yield Measure("URL get", 1, lambda: urls.get(URL), 1.5)
    yield Measure("URL set", 1, lambda: urls.set(URL, vector))


def _vectors() -> tuple[list[Any], list[Any], list[Any]]:
    """Return the vectors of 50 entries, of queries that hit the last of them, and of queries that miss."""
    rng = np.random.default_rng(20240501)
    entries = list(rng.normal(size=(50, 384)).astype(np.float32))
    hits = [entries[-1] + rng.normal(scale=0.1, size=384).astype(np.float32) for _ in range(QUERIES)]
    return entries, hits, list(rng.normal(size=(QUERIES, 384)).astype(np.float32))


def _answers(texts: Texts) -> Iterator[dict[str, str]]:
    return ({"response": content} for content in texts.contents())


def _check_found(value: Any, expected: bool) -> None:
    if (value is not None) is not expected:
        raise AssertionError(f"a {'hit' if expected else 'miss'} was to be measured, and was not")


def _check_length(messages: list[Any]) -> None:
    if len(messages) != 20:
        raise AssertionError(f"a context of 20 messages was to be measured, not of {len(messages)}")


# -- the old package -----------------------------------------------------------------------


def _measure_old(bench: Bench, section: str, old: OldPackage) -> None:
    config = old.config(os.path.join(bench.folder, section))
    clients = [create_redis_client(db=db, config=bench.config("tcp")) for db in (0, 1, 2)]
    for step, samples in _old_operations(bench, old.module, config, section):
        found = paired(clients[step.db].ping, step.operation, 1, samples)
        bench.report.add_paired(section, step.name, f"{OLD}, tcp", found)


def _old_operations(bench: Bench, module: Any, config: Any, name: str) -> Iterator[tuple[Measure, int]]:
    """Yield what to measure, and how often."""
    texts, slow = bench.texts, bench.size.slow
    often = 10 * slow
    contents = texts.contents()
    short = [module.HybridConversationCache(f"{name}-{i}", config) for i in range(often)]
    for i, cache in enumerate(short):
        for role, content in texts.session(i, 19):
            cache.add_message(role, content)
    twentieth = iter(short)
    yield Measure("add, message 20", 2, lambda: next(twentieth).add_message("user", next(contents))), often
    _check_length(short[0].get_context())
    yield Measure("get_context, 20 messages", 2, short[0].get_context), often

    # One by one this would take minutes: what is older than the window goes to its
    # archive at once, which is where message by message would have put it.
    turns = bench.size.old_turns[0]
    long = module.HybridConversationCache(f"{name}-long", config)
    messages = [
        {"role": role, "content": content, "timestamp": float(i), "metadata": {}}
        for i, (role, content) in enumerate(texts.session(0, turns))
    ]
    long.archive.append_turns(f"{name}-long", messages[:-20])
    for message in messages[-20:]:
        long.add_message(message["role"], message["content"])
    yield Measure(f"add, message {turns:,}", 2, lambda: long.add_message("user", next(contents))), slow

    cache = module.SemanticCacheRedis(name, config)
    scripts = (_on_queries(texts, _OldQueries(cache)), _on_urls(module.URLEmbeddingCache(name, config)))
    for script in scripts:
        for step in _settled(script):
            yield step, often


class _OldQueries:
    """The old query cache with the one method of ours that it lacks."""

    def __init__(self, cache: Any) -> None:
        self.get = cache.get
        self.set = cache.set

    def batch_set(self, entries: list[tuple[str, Any, Any]]) -> None:
        for url, vector, answer in entries:
            self.set(url, vector, answer)
