#!/usr/bin/env python3
"""Measure what it takes to list and expire an archive of many sessions, and what it takes of the disk.

    python scripts/bench_catalogue.py --sessions 200000

Makes the archive twice, of sessions of ten messages, last used within a month: as ``file://`` (compacted, and
collected a day later), and as a folder of a file for each session. The folder's files are moved there two
hours after their last message, and again all written now, as after a copy without times. Needs redis-server.
A machine that others use shows in the seconds, and not in our own work (processor seconds).
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
import tracemalloc
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lix_cache import CacheConfig, StoreAdmin
from lix_cache.archive import encoding
from lix_cache.archive.codecs import packer
from lix_cache.archive.expiry import DAY
from lix_cache.archive.facts import CompactedSession
from lix_cache.archive.header import FileHeader
from lix_cache.archive.names import SUFFIX, file_stem
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.messages.turn import MessageId, Turn, new_turn, with_id
from lix_cache.storage.objects import FolderBucket
from tests.support.redis_server import RedisServer

LIMIT = 100
MOVED_AFTER = 7200
#: Sessions that are moved in a commit: more than a daemon does, so that it is made in minutes.
PER_COMMIT = 250


class Session(NamedTuple):
    """A session to be made: its id, its last use, its messages."""

    session_id: str
    used: float
    turns: list[Turn]


def made(sessions: int) -> Iterator[Session]:
    """Yield the sessions of both archives."""
    dice, now = random.Random(7), time.time()
    turns = [new_turn("user", f"message {n} of a session", {}, None, None, os.urandom(6)) for n in range(10)]
    for number in range(sessions):
        used = now - dice.random() * 30 * DAY
        first = int(used * 1000) - len(turns)
        given = [with_id(turn, MessageId(first + n + 1, 0)) for n, turn in enumerate(turns)]
        yield Session(f"user-{number}", used, given)


def fill(folder: Path, sessions: int) -> None:
    """Write the files, without the syncs of an archive that is in use."""
    codec = packer("huffman")
    for one in made(sessions):
        moved = one.used + MOVED_AFTER
        header = FileHeader(one.used, one.session_id)
        path = folder / (file_stem(one.session_id) + SUFFIX)
        path.write_bytes(encoding.encode_file(header, one.turns, int(moved * 1000), codec, contested={}))
        os.utime(path, (moved, moved))


def fill_objects(folder: Path, sessions: int) -> None:
    """Move the sessions to a log, compact it, and collect what a day later nothing needs."""
    tier = ObjectTier(FolderBucket(str(folder)))
    rest = made(sessions)
    while some := list(islice(rest, PER_COMMIT)):
        tier.append_many_locked({one.session_id: one.turns for one in some})
    print(f"file://: {on_disk(folder) / sessions:,.0f} bytes on disk a session as it was moved; ", end="")
    began, worked = time.perf_counter(), time.process_time()
    names = [one.session_id for one in made(sessions)]
    changed = sum(
        isinstance(done, CompactedSession) and done.is_changed
        for _, done in tier.compact_many(names, idle_seconds=0, bundle=True)
    )
    took, worked = time.perf_counter() - began, time.process_time() - worked
    print(f"compacted {changed:,} in {took:.1f} s, our own work {worked:.1f} s")
    worked = time.process_time()
    tier.collect()
    print(f"a snapshot: our own work {time.process_time() - worked:.1f} s")
    for path in folder.rglob("0*.*"):
        os.utime(path, (time.time() - 90 * DAY,) * 2)
    tier.collect()


def on_disk(folder: Path) -> int:
    """Return the bytes of the blocks that the files in a folder take."""
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def listing(folder: Path) -> float:
    """Return the processor seconds that it takes to ask for the times of a folder's files, and no more."""
    worked = time.process_time()
    with os.scandir(folder) as entries:
        for entry in entries:
            entry.stat()
    return time.process_time() - worked


def pages(config: CacheConfig, count: int) -> None:
    admin = StoreAdmin(config)
    seconds: list[float] = []
    work: list[float] = []
    seen: set[object] = set()
    cursor = None
    for _ in range(count):
        began, worked = time.perf_counter(), time.process_time()
        page = admin.session_page(LIMIT, cursor)
        seconds.append(time.perf_counter() - began)
        work.append(time.process_time() - worked)
        seen.update(one.session_id for one in page.sessions)
        cursor = page.cursor
        if cursor is None:
            break
    later = sorted(seconds[1:])
    middle, most = statistics.median(later) * 1000, later[int(len(later) * 0.95)] * 1000
    print(f"pages of {LIMIT}: the first {seconds[0]:.2f} s; then median {middle:.1f} ms, ", end="")
    print(f"95 of 100 below {most:.1f} ms; {len(seen):,} sessions")
    print(f"of this our own work: {work[0]:.2f} s; then {statistics.median(work[1:]) * 1000:.1f} ms")
    began, worked = time.perf_counter(), time.process_time()
    admin.session_page(LIMIT)
    print(f"the first page again: {time.perf_counter() - began:.2f} s, ", end="")
    print(f"our own work {time.process_time() - worked:.2f} s")


def look(config: CacheConfig, count: int) -> None:
    """Print what pages and looks for expired sessions take."""
    pages(config, count)
    for days, what in ((60, "none"), (29, "a thirtieth")):
        store = StoreAdmin(config)._store.cold
        now = store.now()
        began, worked = time.perf_counter(), time.process_time()
        found = store.expired_sessions(days * DAY, now)
        took, worked = time.perf_counter() - began, time.process_time() - worked
        print(f"expired: {what}, {len(found):,}, in {took:.2f} s, our own work {worked:.2f} s")
    tracemalloc.start()
    StoreAdmin(config).session_page(LIMIT)
    print(f"memory of a listing: {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB at most")
    tracemalloc.stop()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=200_000)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--folder", help="where the files are made; by default a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place, RedisServer() as server:
        objects, folder = Path(place) / "objects", Path(place) / "folder"
        objects.mkdir()
        folder.mkdir()
        fill_objects(objects, options.sessions)
        print(f"file://: {on_disk(objects) / options.sessions:,.0f} bytes on disk a session")
        settings: dict[str, Any] = {"redis_port": server.port, "disk_ttl_days": 60}
        url = f"file://{objects}"
        look(CacheConfig(**settings, redis_key_prefix="objects", archive_url=url), options.pages)
        fill(folder, options.sessions)
        print(f"folder: {on_disk(folder) / options.sessions:,.0f} bytes on disk a session")
        print(f"the times of its files alone: our own work {listing(folder):.2f} s")
        config = CacheConfig(**settings, archive_dir=str(folder))
        look(config, options.pages)
        for path in folder.glob(f"*{SUFFIX}"):
            os.utime(path)
        print("all files written now:")
        pages(config, options.pages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
