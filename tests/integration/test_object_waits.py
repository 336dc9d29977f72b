"""What an archive on object storage asks for at once: a store far away is waited for once."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable

import pytest

from lix_cache.archive.expiry import DAY, Now
from lix_cache.archive.objects import layout, segment, snapshot
from lix_cache.archive.objects.base import SHARDS_AT_ONCE
from lix_cache.archive.objects.opened import SCAN_BYTES, Kept
from lix_cache.archive.objects.records import State
from lix_cache.archive.objects.tier import ObjectTier
from tests.contract.cold_tier import append, delete, holding, long_after, said, turn
from tests.fault.test_object_faults import Memory
from tests.support.large_shard import put_large_shard

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


def test_what_is_archived_already_is_compared_once() -> None:
    bucket = Memory()
    tier = ObjectTier(bucket)
    window = [turn(n) for n in range(4)]
    append(tier, *window[:2])
    append(tier, *window[2:])
    before = Counter(bucket.requests)
    assert tier.append_many_locked({"s": window}) == {"s": 0}
    # Its two frames, and that nothing was committed since.
    assert Counter(bucket.requests) - before == Counter(get=3)
    append(ObjectTier(bucket), turn(4))
    before = Counter(bucket.requests)
    assert tier.append_many_locked({"s": [*window, turn(4)]}) == {"s": 0}
    assert said(tier.turns("s")) == [f"message {n}" for n in range(5)]


# -- shards -----------------------------------------------------------------------------------------

#: What a daemon or a page asks of all shards.
ASKS: dict[str, Callable[[ObjectTier], object]] = {
    "marks": ObjectTier.pending_sessions,
    "page": lambda tier: tier.by_last_use(10, wanted=lambda _: True),
    "expired": lambda tier: tier.expired_sessions(DAY, long_after(0)),
    "trash": lambda tier: tier.empty_trash(long_after(0), 7),
    "notes": lambda tier: tier.forget_deletions(1),
    "collect": ObjectTier.collect,
    "tidy": lambda tier: list(tier.tidy(long_after(0), 7, 1)),
}


def one_in_each(bucket: Memory, shards: int) -> list[str]:
    """Make an archive with a session in each shard."""
    tier = ObjectTier(bucket, shards=shards)
    of_shard = {layout.shard_of(name, shards): name for name in map(str, range(40 * shards))}
    names = [of_shard[shard] for shard in range(shards)]
    tier.append_many_locked({name: [turn(number)] for number, name in enumerate(names)})
    return names


@pytest.mark.parametrize("what", ASKS)
def test_shards_are_asked_side_by_side(what: str) -> None:
    bucket = Memory()
    # For tidying that is two at a time.
    one_in_each(bucket, 48)
    tier = ObjectTier(bucket)
    tier.identity()
    until_two_wait(bucket, lambda kind, name: kind == "get" and name.endswith(".seg"))
    ASKS[what](tier)


def test_no_more_shards_are_asked_at_once_than_there_are_threads_for() -> None:
    bucket = Memory()
    names = one_in_each(bucket, 2 * SHARDS_AT_ONCE)
    tier = ObjectTier(bucket)
    tier.pending_sessions()
    under_way = Counter[int]()
    most: list[int] = []

    def note(*_: str) -> None:
        under_way[threading.get_ident()] += 1
        most.append(len(+under_way))

    bucket.before, bucket.after = note, lambda *_: under_way.subtract([threading.get_ident()])
    assert len(tier.by_last_use(100, wanted=lambda _: True)) == len(names)
    assert max(most) <= SHARDS_AT_ONCE


def test_each_shard_has_its_turn_once_a_day_whichever_process_tidies() -> None:
    bucket = Memory()
    one_in_each(bucket, 48)
    for hour in range(1, 25):
        tier = ObjectTier(bucket)
        tier.identity()
        before = Counter(bucket.requests)
        assert len(list(tier.tidy(long_after(0), 7, 1))) == 1
        # Whose turn it is, noted; and for two shards: what was committed, one read and one that is not there,
        # what is behind it, a snapshot, and a listing of snapshots.
        assert Counter(bucket.requests) - before == Counter(get=1 + 2 * 2, put=1 + 2, list=2 * 3)
        assert sum(name.endswith(".idx") for name in bucket.objects) == 2 * hour


def test_an_hour_in_which_nothing_has_expired_asks_each_shard_once() -> None:
    bucket = Memory()
    one_in_each(bucket, 5)
    tier = ObjectTier(bucket)
    tier.collect()
    before = Counter(bucket.requests)
    assert tier.expired_sessions(DAY, Now(0.0, 0.0)) == []
    assert Counter(bucket.requests) - before == Counter(get=5)


# -- a shard with many sessions ---------------------------------------------------------------------


def lease(tier: ObjectTier, name: str) -> None:
    """Commit something that is no state: a lease is taken and let go."""
    held = tier.try_lock(name)
    assert held is not None
    held.release()


def test_a_look_at_all_sessions_reads_many_blocks_at_once() -> None:
    bucket = Memory()
    names = put_large_shard(bucket, 2500, 18)
    tier = ObjectTier(bucket)
    tier.pending_sessions()
    base = tier._numbered(0)
    header = base._base.header
    assert len(header.blocks) > 60
    scans = -(-sum(block.length for block in header.blocks) // (SCAN_BYTES - snapshot.BLOCK_BYTES))
    assert scans == 2
    for name in names[::100]:
        lease(ObjectTier(bucket), name)
    base.synced()
    before = Counter(bucket.requests)
    assert [meta.session_id for meta in tier.all_metadata()] == names
    # And a look for what is new. The sessions that changed are among the others: not one read for each.
    assert Counter(bucket.requests) - before == Counter(get=scans + 1)
    before = Counter(bucket.requests)
    assert base.snapshot()
    # The states and, which is less, the order by last use.
    assert Counter(bucket.requests) - before == Counter(get=scans + 1, put=1)
    assert [meta.session_id for meta in ObjectTier(bucket).all_metadata()] == names


def test_tidying_looks_at_all_sessions_of_a_shard_once() -> None:
    bucket = Memory()
    names = put_large_shard(bucket, 2500, 18)
    tier = ObjectTier(bucket)
    tier.pending_sessions()
    for name in (names[7], names[1999]):
        delete(tier, turn(9).id, session_id=name)
    tier._numbered(0).snapshot()
    scans = 2
    before = Counter(bucket.requests)
    list(tier.tidy(long_after(0), 7, 1))
    # What is new; all states, for what is alive, in the trash and noted alike; the snapshots. The log is not
    # listed: no snapshot is old.
    assert Counter(bucket.requests) - before == Counter(get=1 + scans, list=1)
    before = Counter(bucket.requests)
    list(tier.tidy(long_after(30), 7, int(long_after(30).earliest * 1000)))
    done = Counter(bucket.requests) - before
    # A block for each note that goes, a commit, and a snapshot made of that before.
    assert done["get"] == 1 + scans + 2 + scans + 1
    assert done["put"] == 2
    assert all(state.is_there for _, state in tier._numbered(0).states())


def test_marks_are_looked_for_without_reading_sessions() -> None:
    bucket = Memory()
    names = put_large_shard(bucket, 600, 18)
    daemon, writer = ObjectTier(bucket), ObjectTier(bucket)
    daemon.pending_sessions()
    for name in names[::40]:
        lease(writer, name)
    with holding(writer, names[3]):
        writer.mark_pending_locked(names[3])
    commits = 2 * len(names[::40]) + 3
    before = Counter(bucket.requests)
    assert daemon.pending_sessions() == [names[3]]
    # Each commit, and that there are no more.
    assert Counter(bucket.requests) - before == Counter(get=commits + 1)
    with holding(writer, names[3]):
        writer.unmark_pending_locked(names[3])
    assert daemon.pending_sessions() == ObjectTier(bucket).pending_sessions() == []


def test_one_budget_holds_for_what_is_kept_of_all_shards() -> None:
    bucket = Memory()
    names = put_large_shard(bucket, 600, 18, shards=4)
    tier = ObjectTier(bucket)
    assert not tier._kept.bytes
    list(tier.all_metadata())
    list(tier.tidy(Now(0.0, 0.0), 7, 1))
    assert not tier._kept.bytes, "a look at all keeps nothing"
    tier.metadata(names[0])
    each = tier._kept.bytes
    assert 16 * 1024 < each < 32 * 1024
    tier._kept._budget = int(each * 3.5)
    blocks = [block.first for block in tier._numbered(0)._base.header.blocks[:8]]

    def gets(name: str) -> int:
        before = bucket.requests["get"]
        assert tier.metadata(name) is not None
        return bucket.requests["get"] - before - 1

    for first in blocks[1:3]:
        assert gets(first) == 1
    # The one that was used just now stays, whichever was read first.
    assert gets(blocks[0]) == 0
    assert gets(blocks[3]) == 1
    assert gets(blocks[0]) == 0
    assert gets(blocks[1]) == 1
    for first in (*blocks, *blocks):
        gets(first)
        assert tier._kept.bytes <= tier._kept._budget


def test_what_is_kept_of_shards_shares_its_room() -> None:
    kept = Kept(100)
    kept.put("0000/snap/1", 0, "a", 60)
    kept.put("0001/snap/1", 0, "b", 40)
    assert (kept.get("0000/snap/1", 0), kept.bytes) == ("a", 100)
    kept.put("0001/snap/1", 9, "c", 30)
    assert [kept.get(f"000{n}/snap/1", at) for n, at in ((0, 0), (1, 0), (1, 9))] == ["a", None, "c"]
    kept.put("0001/snap/1", 9, "d", 35)
    assert kept.bytes == 95
    kept.put("0002/snap/1", 0, "too large", 101)
    assert (kept.get("0002/snap/1", 0), kept.bytes) == (None, 0)


def test_a_snapshot_that_goes_while_its_long_head_is_read_is_no_damage() -> None:
    bucket = Memory()
    ObjectTier(bucket).identity(make=True)
    # Its head takes a second request.
    waiting = {f"{n:04}" + "x" * 1000: State(pending=True) for n in range(100)}
    large, newer = layout.snap_name(0, 1), layout.snap_name(0, 2)
    bucket.create(large, snapshot.encoded(1, waiting))
    assert snapshot.HEAD.needed(bucket.objects[large][0], large) > segment.FIRST_READ

    def collected(kind: str, name: str) -> None:
        if kind == "get" and name == large and bucket.objects.pop(large, None):
            bucket.create(newer, snapshot.encoded(2, {"s": State(pending=True)}))

    bucket.after = collected
    assert ObjectTier(bucket).pending_sessions() == ["s"]
