"""What an archive on object storage asks for at once: a store far away is waited for once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from lix_cache.archive.objects import layout
from lix_cache.archive.objects.tier import ObjectTier
from tests.contract.cold_tier import append, said, turn
from tests.fault.test_object_faults import Memory

pytestmark = pytest.mark.promise("one-trip")


def until_two_wait(bucket: Memory, wanted: Callable[[str, str], bool]) -> None:
    """Have a request of a kind wait until another one of it is under way, once."""
    both = threading.Event()
    first = threading.Lock()

    def wait(kind: str, name: str) -> None:
        if wanted(kind, name):
            if not first.acquire(blocking=False):
                both.set()
            assert both.wait(60), f"nothing else was asked for beside {name}"

    bucket.before = wait


def test_many_frames_are_fetched_at_once_and_few_one_by_one() -> None:
    bucket = Memory()
    writer = ObjectTier(bucket)
    for n in range(20):
        append(writer, turn(n))
    reader = ObjectTier(bucket)
    assert said(reader.recent("s", 3)) == [f"message {n}" for n in (17, 18, 19)]
    before = Counter(bucket.requests)
    end = layout.log_name(0, len([name for name in bucket.objects if name.endswith(".seg")]))
    until_two_wait(bucket, lambda kind, name: kind == "get" and name != end)
    assert said(reader.recent("s", 12)) == [f"message {n}" for n in range(8, 20)]
    # And one look for what is new.
    assert Counter(bucket.requests) - before == Counter(get=13)


def test_a_process_that_begins_reads_many_segments_at_once() -> None:
    bucket = Memory()
    writer = ObjectTier(bucket)
    for n in range(60):
        append(writer, turn(n), session_id=f"s{n % 7}")
    under_way: set[int] = set()
    most = 0

    def note(*_: str) -> None:
        nonlocal most
        under_way.add(threading.get_ident())
        most = max(most, len(under_way))
        # Others are asked for meanwhile, if any are.
        time.sleep(0.001)

    bucket.before, bucket.after = note, lambda *_: under_way.discard(threading.get_ident())
    reader = ObjectTier(bucket)
    assert said(reader.turns("s3")) == [f"message {n}" for n in range(3, 60, 7)]
    assert most > 1
    assert reader.turns("s6") == writer.turns("s6")


def test_a_batch_over_two_shards_is_put_at_once() -> None:
    bucket = Memory()
    tier = ObjectTier(bucket, shards=2)
    names = [next(n for n in map(str, range(99)) if layout.shard_of(n, 2) == shard) for shard in (0, 1)]
    append(tier, turn(0), session_id=names[0])
    until_two_wait(bucket, lambda kind, name: kind == "put")
    assert tier.append_many_locked({name: [turn(1)] for name in names}) == dict.fromkeys(names, 1)
    assert tier.counters["appends"] == 3
    assert [len(ObjectTier(bucket).turns(name)) for name in names] == [2, 1]
