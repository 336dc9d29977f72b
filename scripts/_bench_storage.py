"""Archive, codec, memory and offload: what sessions cost where they rest, and on their way there."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import os
import shutil
import statistics
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import _bench_support as support
from _bench_report import OLD, Figure, Report, paired, percentile, progress, seconds_of
from _bench_support import Bench, OldPackage, Texts

from lix_cache import (
    CacheConfig,
    ConversationArchive,
    HuffmanCodec,
    HybridConversationCache,
    create_redis_client,
)
from lix_cache.session.evictor import Evictor
from lix_cache.session.store import open_store

# -- archive ---------------------------------------------------------------------------------


def _turns(texts: Texts, number: int, count: int) -> list[dict[str, Any]]:
    return _as_turns(texts.session(number, count))


def _as_turns(messages: list[tuple[str, str]]) -> list[dict[str, Any]]:
    start = time.time() - support.IDLE_HOURS * 3600
    return [
        {"role": role, "content": content, "timestamp": start + 30 * i, "metadata": {}}
        for i, (role, content) in enumerate(messages)
    ]


def _turns_to(texts: Texts, count: int) -> list[dict[str, Any]]:
    """Return so many turns that end with the same ones, whatever their number."""
    return _as_turns([texts.messages[i % len(texts.messages)] for i in range(1000 - count, 1000)])


def _build_archive(archive: ConversationArchive, session_id: str, turns: list[dict[str, Any]]) -> None:
    for start in range(0, len(turns), 10):
        archive.append_turns(session_id, turns[start : start + 10])


def archive(bench: Bench) -> None:
    """Time appending and reading at different lengths: both should not depend on it."""
    section, size, report = "Archive", bench.size, bench.report
    store = ConversationArchive(os.path.join(bench.folder, "by-length"))
    for length in size.archives:
        progress(f"{section}: making one of {length:,} turns")
        _build_archive(store, f"a{length}", _turns_to(bench.texts, length))
    _read_at_lengths(bench, store)
    _append_one_turn(bench, store)

    smallest, large = size.archives[0], size.archives[min(2, len(size.archives) - 1)]
    for i in range(size.appends):
        _build_archive(store, f"small-{i}", _turns(bench.texts, i, smallest))
    batches = itertools.cycle([_turns(bench.texts, i, 10) for i in range(50)])
    small = itertools.count()
    # Both sides of a pair append the same ten turns; a small archive is used once.
    pair = {"turns": next(batches)}

    def to_small() -> None:
        pair["turns"] = next(batches)
        store.append_turns(f"small-{next(small)}", pair["turns"])

    found = paired(to_small, lambda: store.append_turns(f"a{large}", pair["turns"]), 5, size.appends // 5)
    report.add_paired(
        section,
        f"append of 10 turns to {large:,}",
        "lix_cache",
        found,
        1.2,
        f"x the same to {smallest:,}",
    )


def _read_at_lengths(bench: Bench, store: ConversationArchive) -> None:
    reads: dict[str, Callable[[str], object]] = {
        "load_recent(20)": lambda session_id: store.load_recent(session_id, 20),
        "get_metadata": store.get_metadata,
    }
    # The unit has the 20 turns that are asked for; shorter ones have less to do.
    base, *others = [length for length in bench.size.archives if length >= 20] or [bench.size.archives[0]]
    for what, read in reads.items():
        for length in bench.size.archives:
            took = statistics.median(seconds_of(partial(read, f"a{length}"), bench.size.appends))
            bench.report.add(Figure("Archive", f"{what} of {length:,} turns", "lix_cache", took * 1e6, "µs"))
        for length in others:
            found = paired(partial(read, f"a{base}"), partial(read, f"a{length}"), 5, bench.size.appends // 5)
            bench.report.add_paired(
                "Archive", f"{what} of {length:,} turns", "lix_cache", found, None, f"x that of {base:,}"
            )


def _append_one_turn(bench: Bench, store: ConversationArchive) -> None:
    """Time ``append_turn`` at turn 10 and at turn 200, and the old package's."""
    archives: dict[str, tuple[Any, int]] = {"lix_cache": (store, bench.size.appends)}
    if bench.old:
        old = bench.old.module.ConversationArchive(os.path.join(bench.folder, "old-turns"))
        archives[OLD] = (old, bench.size.slow)
    for at in (10, bench.size.old_turns[1]):
        for variant, (one, samples) in archives.items():
            for i in range(samples):
                one.append_turns(f"one-{at}-{i}", _turns(bench.texts, i, at - 1))
            turns = zip(itertools.count(), _turns(bench.texts, 0, samples), strict=False)

            def append(one: Any = one, at: int = at, turns: Any = turns) -> None:
                i, turn = next(turns)
                one.append_turn(f"one-{at}-{i}", turn)

            took = statistics.median(seconds_of(append, samples))
            bench.report.add(Figure("Archive", f"append_turn at turn {at:,}", variant, took * 1e6, "µs"))


# -- codec -----------------------------------------------------------------------------------


def codec(bench: Bench) -> None:
    """Time HuffmanCodec beside zlib, on the same text."""
    section, size = "Codec", bench.size
    data = bench.texts.sample(size.codec_bytes)
    codecs: dict[str, tuple[Callable[[bytes], bytes], Callable[[bytes], bytes], int]] = {
        "HuffmanCodec": (HuffmanCodec.encode, HuffmanCodec.decode, 5 * size.slow),
        "HCv1": (partial(HuffmanCodec.encode, format=1), HuffmanCodec.decode, 5 * size.slow),
        "zlib 6": (lambda raw: zlib.compress(raw, 6), zlib.decompress, 5 * size.slow),
    }
    if bench.old:
        theirs = bench.old.module.HuffmanCodec
        codecs[OLD] = (theirs.encode, theirs.decode, 1)
    kilobytes = f"{len(data) // 1000} kB"
    for variant, (encode, decode, samples) in codecs.items():
        encoded = encode(data)
        if decode(encoded) != data:
            raise AssertionError(f"{variant} does not return what it was given")
        for what, call, argument in (("encode", encode, data), ("decode", decode, encoded)):
            took = statistics.median(seconds_of(partial(call, argument), samples))
            bench.report.add(
                Figure(section, f"{what} of {kilobytes}", variant, len(data) / took / 1e6, "MB/s")
            )
        ratio = len(encoded) / len(data)
        bench.report.add(Figure(section, f"size of {kilobytes}", variant, ratio, "of the text"))


# -- memory ----------------------------------------------------------------------------------


def _session_id(i: int) -> str:
    return f"user-{i:08d}"


def fill_idle(bench: Bench, config: CacheConfig) -> None:
    """Put sessions of 20 messages into Redis that have been idle for some hours."""
    ended_ms = int((time.time() - support.IDLE_HOURS * 3600) * 1000)
    support.put_windows(
        config,
        (
            (_session_id(i), support.past_turns(bench.texts.session(i), ended_ms - i))
            for i in range(bench.size.sessions)
        ),
        idle=True,
    )


def text_bytes(texts: Texts, sessions: int) -> int:
    return sum(len(content.encode()) for i in range(sessions) for _, content in texts.session(i))


def memory(bench: Bench) -> None:
    """Measure what sessions of 20 messages take in Redis and, once they are offloaded, on disk."""
    section, size, report = "Memory", bench.size, bench.report
    config = bench.quiet_config("memory")
    progress(f"{section}: {size.sessions:,} sessions")
    before = bench.server.used_memory()
    fill_idle(bench, config)
    used = bench.server.used_memory() - before
    text = text_bytes(bench.texts, size.sessions)
    _add_sizes(report, "in Redis", "lix_cache", used, text, size.sessions)

    # The daemon's own round, in this thread: the sessions' files are as it makes them.
    Evictor(open_store(config)).run_once()
    files = [entry for entry in os.scandir(config.archive_dir) if entry.name.endswith(".huff")]
    if len(files) != size.sessions:
        raise AssertionError(f"{len(files)} of {size.sessions} sessions are on disk")
    on_disk = sum(entry.stat().st_size for entry in files)
    _add_sizes(report, "on disk", "lix_cache", on_disk, text, size.sessions)
    blocks = sum(entry.stat().st_blocks for entry in files) * 512
    report.add(
        Figure(section, "on disk, in whole blocks", "lix_cache", blocks / size.sessions, "bytes a session")
    )
    _memory_of_json(bench)
    if bench.old:
        _memory_of_old(bench, bench.old)
    shutil.rmtree(config.archive_dir)


def _add_sizes(report: Report, where: str, variant: str, used: int, text: int, sessions: int) -> None:
    detail = {"bytes": used, "text_bytes": text, "sessions": sessions, "messages": 20 * sessions}
    add = report.add
    add(Figure("Memory", where, variant, used / sessions, "bytes a session", detail=detail))
    add(Figure("Memory", where, variant, used / (20 * sessions), "bytes a message"))
    add(Figure("Memory", where, variant, used / text, "x the text"))


def _memory_of_json(bench: Bench) -> None:
    """What the same sessions would take as plain JSON, and as JSON under zlib."""
    sessions = bench.size.sessions
    text = text_bytes(bench.texts, sessions)
    plain = packed = 0
    for i in range(sessions):
        data = json.dumps(_turns(bench.texts, i, 20), ensure_ascii=False, separators=(",", ":")).encode()
        plain += len(data)
        packed += len(zlib.compress(data, 6))
    _add_sizes(bench.report, "on disk", "JSON", plain, text, sessions)
    _add_sizes(bench.report, "on disk", "JSON, zlib 6", packed, text, sessions)


def _memory_of_old(bench: Bench, old: OldPackage) -> None:
    sessions = bench.size.old_sessions
    text = text_bytes(bench.texts, sessions)
    progress(f"Memory: {sessions:,} sessions of {OLD}")
    folder = os.path.join(bench.folder, "old-memory")
    if old.settings:
        config = old.config(folder)
        before = bench.server.used_memory()
        with old.stepping_clock():
            for i in range(sessions):
                cache = old.module.HybridConversationCache(_session_id(i), config)
                for role, content in bench.texts.session(i):
                    cache.add_message(role, content)
        used = bench.server.used_memory() - before
        _add_sizes(bench.report, "in Redis", OLD, used, text, sessions)
    archived = old.module.ConversationArchive(folder)
    few = max(1, sessions // 5)
    for i in range(few):
        archived.append_turns(_session_id(i), _turns(bench.texts, i, 20))
    on_disk = sum(entry.stat().st_size for entry in os.scandir(folder))
    _add_sizes(bench.report, "on disk", OLD, on_disk, text_bytes(bench.texts, few), few)


# -- eviction --------------------------------------------------------------------------------


def offload(bench: Bench) -> None:
    """Offload idle sessions: alone, and while others are added to, by a thread and by a process."""
    _offload(bench, "alone", None)
    _offload(bench, "adds in the same process", _daemon_thread)
    _offload(bench, "adds in another process", _daemon_process)
    if bench.old:
        bench.report.note(f"The evictor of {OLD} moves nothing: there is no speed to compare.")


@contextlib.contextmanager
def _daemon_thread(config: CacheConfig) -> Iterator[Callable[[], None]]:
    """Yield a function that starts the daemon in a thread of this process."""
    evictor = Evictor(open_store(config))

    def begin() -> None:
        evictor.start()
        evictor.wake()

    yield begin
    evictor.stop()
    if not evictor.join(60):
        raise AssertionError("the evictor does not stop")


@contextlib.contextmanager
def _daemon_process(config: CacheConfig) -> Iterator[Callable[[], None]]:
    """Yield a function that starts the daemon in a process of its own."""
    spawn = multiprocessing.get_context("spawn")
    ready, begin, end = spawn.Event(), spawn.Event(), spawn.Event()
    process = spawn.Process(target=_be_daemon, args=(config, ready, begin, end))
    process.start()
    try:
        if not ready.wait(60):
            raise AssertionError("the daemon's process does not start")
        yield begin.set
    finally:
        begin.set()
        end.set()
        process.join(60)


def _be_daemon(config: CacheConfig, ready: Any, begin: Any, end: Any) -> None:
    with _daemon_thread(config) as start:
        ready.set()
        begin.wait()
        start()
        end.wait()


class _Adder:
    """Adds to some sessions of its own, one message every few milliseconds."""

    def __init__(self, bench: Bench, config: CacheConfig) -> None:
        self._contents = bench.texts.contents()
        self._caches = itertools.cycle([HybridConversationCache(f"busy-{i}", config) for i in range(500)])
        for _ in range(500):
            next(self._caches).add_message("user", next(self._contents))

    def run(self, until: Callable[[], bool]) -> list[float]:
        """Return the seconds each add took. A real load has pauses: back to back adds measure themselves."""
        took = []
        due = time.perf_counter()
        while not until():
            due += 0.002
            pause = due - time.perf_counter()
            if pause > 0:
                time.sleep(pause)
            start = time.perf_counter()
            next(self._caches).add_message("user", next(self._contents))
            took.append(time.perf_counter() - start)
        return took


def _offload(bench: Bench, how: str, daemon: Any) -> None:
    section, size, report = "Offload", bench.size, bench.report
    config = bench.quiet_config(f"offload-{how.replace(' ', '-')}")
    progress(f"{section}: {size.sessions:,} idle sessions, {how}")
    fill_idle(bench, config)
    store = open_store(config)
    client = create_redis_client(db=config.session_redis_db, config=config)
    active = store.hot.keys.active(0)
    latest_idle = int((time.time() - support.IDLE_HOURS * 1800) * 1000)

    def all_gone() -> bool:
        return client.zcount(active, "-inf", latest_idle) == 0

    detail: dict[str, Any] = {"sessions": size.sessions}
    if daemon is None:
        start = time.perf_counter()
        Evictor(store).run_once()
        took = time.perf_counter() - start
    else:
        adder = _Adder(bench, config)
        pause_until = time.perf_counter() + size.seconds
        before = adder.run(lambda: time.perf_counter() > pause_until)
        with daemon(config) as begin:
            gone = threading.Event()
            start = time.perf_counter()
            begin()
            watcher = threading.Thread(target=_watch, args=(all_gone, gone), daemon=True)
            watcher.start()
            during = adder.run(gone.is_set)
            took = time.perf_counter() - start
        detail["adds"] = len(during)
        for what, find in (("median", statistics.median), ("95th percentile", _p95)):
            values = {"before_us": find(before) * 1e6, "during_us": find(during) * 1e6}
            report.add(
                Figure(
                    section,
                    f"add meanwhile, {what}",
                    how,
                    values["during_us"] / values["before_us"],
                    "x before",
                    2.0 if what == "median" else None,
                    detail={**values, "median_us": values["during_us"]},
                )
            )
    if not all_gone():
        raise AssertionError("idle sessions are left in Redis")
    moved = sum(
        meta.num_turns for meta in store.archive.store.all_metadata() if meta.session_id.startswith("user-")
    )
    if moved != 20 * size.sessions:
        raise AssertionError(f"{moved} of {20 * size.sessions} messages are on disk")
    report.add(
        Figure(
            section,
            "idle sessions offloaded",
            how,
            size.sessions / took,
            "a second",
            at_least=1000,
            detail=detail,
        )
    )
    shutil.rmtree(config.archive_dir)


def _p95(values: list[float]) -> float:
    return percentile(values, 95)


def _watch(all_gone: Callable[[], bool], gone: threading.Event) -> None:
    try:
        while not all_gone():
            time.sleep(0.02)
    finally:
        gone.set()
