#!/usr/bin/env python3
"""Count what an archive on object storage sends: requests and dollars for a million messages, and times.

    python scripts/bench_objects.py
    python scripts/bench_objects.py --s3 http://127.0.0.1:7310     (key AK, secret SK)

The counts are exact and the same on any machine; of the times only those of a real server say something.
The workload: sessions that get 10 messages at a time, which a daemon moves in rounds of 32 sessions. Then
some are brought back by another process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import sys
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lix_cache.archive.objects import writer
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.messages.turn import MessageId, Turn, new_turn, with_id
from lix_cache.storage.objects import ObjectBucket

#: Amazon S3 Standard, us-east-1, as on https://aws.amazon.com/s3/pricing/ in January 2025: dollars a request.
#: Deletions are free there.
PRICES = {"put": 0.005 / 1000, "list": 0.005 / 1000, "get": 0.0004 / 1000, "delete": 0.0}
PRICED = "Amazon S3 Standard, us-east-1, aws.amazon.com/s3/pricing, January 2025"
ROUND, BATCH = 32, 10
TEXT = (
    "the order is on its way and will arrive Tuesday between nine noon please be at home we could not find "
    "your account number maybe it was closed last year would you like me to open another one for no thanks i "
    "call bank later today about that invoice from march"
)
WORDS = TEXT.split()
DICE = random.Random(7)


def turns_of(start: int) -> list[Turn]:
    return [
        with_id(
            new_turn("user", " ".join(DICE.choices(WORDS, k=30)), {}, None, None, uuid.uuid4().bytes[:6]),
            MessageId(1_700_000_000_000 + start + n, 0),
        )
        for n in range(BATCH)
    ]


def dollars(requests: Mapping[str, float]) -> float:
    return sum(PRICES[kind] * count for kind, count in requests.items())


def told(requests: Mapping[str, float]) -> str:
    return ", ".join(f"{round(count, 2):,} {kind}" for kind, count in sorted(requests.items()) if count)


class Commits(NamedTuple):
    """What commits of ``ROUND`` sessions took, in seconds: medians.

    Attributes:
        whole: of a commit.
        put: of the one request in it.
        encoding: of this process, for what goes into the object: frames of compressed messages.
        work: of this process besides.
        bare: of obstore alone, which puts the same bytes under another name in the same round.
        ratio: whole to bare, round by round.
        size: bytes of the object.
        late: of this process besides, in the last eighth of the rounds.
        frames: of a session by then.
    """

    whole: float
    put: float
    encoding: float
    work: float
    bare: float
    ratio: float
    size: float
    late: float = 0
    frames: int = 0


def moved(bucket: ObjectBucket, store: Any, messages: int) -> tuple[Commits, Counter[str]]:
    """Move so many messages in rounds; return what that took, and the requests."""
    import obstore

    tier = ObjectTier(bucket)
    sessions = [f"session-{n}" for n in range(ROUND * 8)]
    rounds: list[Commits] = []
    last: list[Any] = []
    done = 0
    patched: Any = writer
    create, encode = bucket.create, patched.encode_frames
    encoded = 0.0

    def timed_encoding(*parts: Any) -> Any:
        nonlocal encoded
        worked = time.thread_time()
        frames = encode(*parts)
        encoded += time.thread_time() - worked
        return frames

    def timed(name: str, data: bytes) -> bool:
        began, worked = time.perf_counter(), time.thread_time()
        is_new = create(name, data)
        last[:] = data, time.perf_counter() - began, time.thread_time() - worked
        return is_new

    def bare() -> float:
        began = time.perf_counter()
        obstore.put(store, f"bare/{len(rounds)}", last[0], mode="create", use_multipart=False)
        return time.perf_counter() - began

    bucket.create = timed  # type: ignore[method-assign]
    patched.encode_frames = timed_encoding
    before = Counter(bucket.requests)
    while done < messages:
        group = sessions[(done // BATCH) % len(sessions) :][:ROUND]
        batch = {session: turns_of(done) for session in group}
        leases = [tier.try_lock(session, to_append=True) for session in group]
        encoded, began, worked = 0.0, time.perf_counter(), time.thread_time()
        result = tier.append_many_locked(batch)
        work, whole = time.thread_time() - worked, time.perf_counter() - began
        data, put, put_work = last
        assert all(result[session] == BATCH for session in group), result
        for lease in leases:
            assert lease is not None
            lease.release()
        alone = bare()
        own = work - put_work - encoded
        rounds.append(Commits(whole, put, encoded, own, alone, whole / alone, len(data)))
        done += len(group) * BATCH
    del bucket.create
    patched.encode_frames = encode
    medians = Commits(*(statistics.median(column) for column in zip(*rounds, strict=True)))
    late = statistics.median(one.work for one in rounds[-(len(rounds) // 8 or 1) :])
    medians = medians._replace(late=late, frames=done // (len(sessions) * BATCH))
    return medians, Counter(bucket.requests) - before


def rehydrated(bucket: ObjectBucket) -> tuple[float, float, dict[str, float]]:
    """Bring sessions back as the flow does; return seconds, those for reading, and requests of one."""
    tier = ObjectTier(bucket)
    list(tier.all_metadata())
    whole, reading = [], []
    before = Counter(bucket.requests)
    count = 20
    for number in range(count):
        session = f"session-{number}"
        began = time.perf_counter()
        lease = tier.try_lock(session)
        assert lease is not None
        read = time.perf_counter()
        assert len(tier.recent(session, 20, in_context=True, locked=True)) == 20
        tier.summary(session, locked=True)
        reading.append(time.perf_counter() - read)
        lease.release()
        whole.append(time.perf_counter() - began)
    sent = Counter(bucket.requests) - before
    # Not whole: now and then there is a snapshot among them.
    each = {kind: number / count for kind, number in sent.items()}
    return statistics.median(whole), statistics.median(reading), each


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--s3", help="endpoint of a server of S3; its key is AK, its secret SK")
    parser.add_argument(
        "--messages", type=int, default=100_000, help="how many to move; the rest is arithmetic"
    )
    options = parser.parse_args()
    from obstore.store import MemoryStore, S3Store

    store: Any = MemoryStore()
    where = "in memory"
    if options.s3:
        import boto3

        name = f"lix-{uuid.uuid4().hex[:12]}"
        keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=options.s3, **keys).create_bucket(Bucket=name)
        address = {"endpoint": options.s3, "access_key_id": "AK", "secret_access_key": "SK"}
        store = S3Store(name, region="us-east-1", client_options={"allow_http": True}, **address)
        where = options.s3
    bucket = ObjectBucket(store, "bench", f"bench-{uuid.uuid4().hex}")
    commit, requests = moved(bucket, store, options.messages)
    times = 1_000_000 / options.messages
    million = Counter({kind: round(count * times) for kind, count in requests.items()})
    whole, reading, one = rehydrated(bucket)
    print(f"store: {where}; prices: {PRICED}")
    sent = f"{told(million)}: ${dollars(million):.4f}"
    print(f"a million messages, {BATCH} at a time, {ROUND} sessions a commit: {sent}")
    print(
        f"a commit of {ROUND} sessions: median {commit.whole * 1000:.1f} ms, of which its put of "
        f"{commit.size / 1000:.0f} kB {commit.put * 1000:.1f} ms, encoding {ROUND * BATCH} messages "
        f"{commit.encoding * 1000:.1f} ms, our own work besides {commit.work * 1000:.1f} ms "
        f"({commit.late * 1000:.1f} in the last ones, with {commit.frames} frames a session); "
        f"{commit.ratio:.1f} times a bare put of the same bytes ({commit.bare * 1000:.1f} ms)"
    )
    print(f"a session brought back: {told(one)}, ${dollars(one) * 1e6:.2f} a million; ", end="")
    print(f"median {whole * 1000:.1f} ms, of which {reading * 1000:.1f} ms for reading")
    print(f"a message on its own under durability='disk': 3 put, ${3 * PRICES['put'] * 1e6:.2f} a million")
    return 0


if __name__ == "__main__":
    sys.exit(main())
