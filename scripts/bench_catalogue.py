#!/usr/bin/env python3
"""Measure what it takes to list, expire and check an archive folder of many sessions.

    python scripts/bench_catalogue.py --sessions 200000

Makes the folder (a file of ten messages for each session, last used within a month), with the files moved
there two hours after their last message, and again with all of them written now, as after a copy without
times. Needs redis-server. A machine that others use shows in the seconds, and not in our own work.
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
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lix_cache import CacheConfig, StoreAdmin
from lix_cache.archive import encoding
from lix_cache.archive.codecs import packer
from lix_cache.archive.expiry import DAY
from lix_cache.archive.header import FileHeader
from lix_cache.archive.names import SUFFIX, file_stem
from lix_cache.messages.turn import MessageId, new_turn, with_id
from tests.support.redis_server import RedisServer

LIMIT = 100
MOVED_AFTER = 7200


def fill(folder: Path, sessions: int) -> None:
    """Write the files, without the syncs of an archive that is in use."""
    dice, codec, now = random.Random(7), packer("stored"), time.time()
    turns = [new_turn("user", f"message {n} of a session", {}, None, None, os.urandom(6)) for n in range(10)]
    for number in range(sessions):
        session_id = f"user-{number}"
        used = now - dice.random() * 30 * DAY
        first = int(used * 1000) - len(turns)
        given = [with_id(turn, MessageId(first + n + 1, 0)) for n, turn in enumerate(turns)]
        data = encoding.encode_file(
            FileHeader(used, session_id), given, int((used + MOVED_AFTER) * 1000), codec, contested={}
        )
        path = folder / (file_stem(session_id) + SUFFIX)
        path.write_bytes(data)
        os.utime(path, (used + MOVED_AFTER, used + MOVED_AFTER))


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


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--sessions", type=int, default=200_000)
    parser.add_argument("--pages", type=int, default=200)
    parser.add_argument("--folder", help="where the files are made; by default a temporary folder")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as place, RedisServer() as server:
        folder = Path(place)
        fill(folder, options.sessions)
        config = CacheConfig(redis_port=server.port, archive_dir=place, disk_ttl_days=60)
        pages(config, options.pages)
        store = StoreAdmin(config)._store.cold
        for days, what in ((60, "none"), (29, "a thirtieth")):
            began, worked = time.perf_counter(), time.process_time()
            found = store.expired_sessions(days * DAY, store.now())
            took, worked = time.perf_counter() - began, time.process_time() - worked
            print(f"expired: {what}, {len(found):,}, in {took:.2f} s, our own work {worked:.2f} s")
        tracemalloc.start()
        began = time.perf_counter()
        StoreAdmin(config).session_page(LIMIT)
        print(f"memory of a listing: {tracemalloc.get_traced_memory()[1] / 1e6:.0f} MB at most")
        tracemalloc.stop()
        for path in folder.glob(f"*{SUFFIX}"):
            os.utime(path)
        print("all files written now:")
        pages(config, options.pages)
    return 0


if __name__ == "__main__":
    sys.exit(main())
