"""Many small sessions on object storage: bundles, few snapshots, and what dies or changes meanwhile."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lix_cache.archive import decoding
from lix_cache.archive.objects import segment, snapshot
from lix_cache.archive.objects.records import Record
from lix_cache.archive.objects.shard import Commit
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.errors import ArchiveCorrupt, ArchiveUnavailable
from lix_cache.messages.turn import MessageId, Turn
from lix_cache.storage.objects import FolderBucket
from tests.contract.cold_tier import BASE_MS, append, delete, holding, long_after, said, turn
from tests.fault.test_object_faults import Died, LaterClock, Memory, compact_all, tier_of

NAMES = [f"s{n:03}" for n in range(40)]


@pytest.fixture
def bucket() -> Memory:
    return Memory()


def alone(tier: ObjectTier, names: list[str] = NAMES) -> None:
    """Move sessions one by one: each has a segment of its own."""
    for number, name in enumerate(names):
        append(tier, turn(number), session_id=name)


def compact(tier: ObjectTier, names: list[str] = NAMES, **options: Any) -> dict[str, Any]:
    return dict(tier.compact_many(names, **{"idle_seconds": 0, "bundle": True, **options}))


def a_day_later(bucket: Memory) -> None:
    bucket.objects = {name: (data, at - 2 * 86_400) for name, (data, at) in bucket.objects.items()}


def segments(bucket: Memory) -> list[str]:
    return [name for name in bucket.objects if name.endswith(".seg")]


def all_said(tier: ObjectTier) -> dict[str, list[str]]:
    return {name: said(tier.turns(name)) for name in NAMES}


EXPECTED = {name: [f"message {number}"] for number, name in enumerate(NAMES)}


def test_sessions_that_were_moved_alone_are_put_together(bucket: Memory) -> None:
    tier = tier_of(bucket)
    alone(tier)
    before = len(segments(bucket))
    dry = compact(tier, dry_run=True)
    assert len(segments(bucket)) == before >= len(NAMES)
    found = compact(tier)
    assert found == dry
    assert all(one.is_changed and one.bytes_before and one.frames_after == 1 for one in found.values())
    assert all_said(tier) == all_said(tier_of(bucket)) == EXPECTED
    # Once is enough.
    assert not any(one.is_changed for one in compact(tier_of(bucket)).values())
    tier.collect()
    a_day_later(bucket)
    tier.collect()
    assert len(segments(bucket)) == 1
    assert all_said(tier_of(bucket)) == EXPECTED


def test_a_small_session_takes_no_block_of_the_file_system(tmp_path: Path) -> None:
    names = [f"user-{n}" for n in range(300)]
    tier = ObjectTier(FolderBucket(str(tmp_path)))
    for start in range(0, len(names), 3):
        leases = [tier.try_lock(name, to_append=True) for name in names[start : start + 3]]
        tier.append_many_locked({name: [turn(n)] for n, name in enumerate(names[start : start + 3])})
        for lease in leases:
            assert lease is not None
            lease.release()
    compact(tier, names)
    tier.collect()
    for path in tmp_path.rglob("0*.*"):
        os.utime(path, (1, 1))
    tier.collect()
    files = [path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()]
    assert sum(-(-size // 4096) * 4096 for size in files) < 600 * len(names)
    assert len(ObjectTier(FolderBucket(str(tmp_path))).turns("user-299")) == 1


@pytest.mark.promise("no-loss")
def test_a_bundle_leaves_out_what_changes_while_it_is_made(bucket: Memory) -> None:
    tier, other = tier_of(bucket), tier_of(bucket)
    alone(tier)
    lease = holding(other, "s001")
    real, done = bucket.create, []

    def interrupted(name: str, data: bytes) -> bool:
        if not done:
            done.append(name)
            append(other, turn(100), session_id="s002")
            delete(other, MessageId(BASE_MS + 50, 0), session_id="s003")
        return real(name, data)

    bucket.create = interrupted  # type: ignore[method-assign]
    found = compact(tier)
    assert done
    assert [name for name in NAMES if found[name].is_active] == ["s001", "s002", "s003"]
    lease.release()
    wanted = {**EXPECTED, "s002": ["message 2", "message 100"], "s003": []}
    assert all_said(tier) == all_said(tier_of(bucket)) == wanted
    assert append(tier_of(bucket), turn(3), session_id="s003", from_window=True) == 0


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_compaction_that_is_killed_at_any_request_loses_and_doubles_nothing(when: str) -> None:
    for step in range(100):
        bucket = Memory()
        alone(tier_of(bucket), NAMES[:4])
        append(tier_of(bucket), turn(9), session_id="s001")
        left = [None] * step

        def dies(kind: str, name: str, left: list[None] = left) -> None:
            if not left:
                raise Died
            left.pop()

        setattr(bucket, when, dies)
        try:
            compact(tier_of(bucket), NAMES[:4])
            # It needed fewer requests.
            break
        except Died:
            pass
        bucket.before = bucket.after = lambda *_: None
        tier = tier_of(bucket)
        assert [said(tier.turns(name)) for name in NAMES[:4]] == [
            ["message 0"], ["message 1", "message 9"], ["message 2"], ["message 3"],
        ]  # fmt: skip
        compact(tier, NAMES[:4])
        assert append(tier, turn(1), turn(9), session_id="s001", from_window=True) == 0
    assert step > 5


def test_a_page_and_a_look_for_what_expired_read_no_state(
    bucket: Memory, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [f"user-{n:04}" for n in range(900)]
    tier = tier_of(bucket)
    leases = [tier.try_lock(name, to_append=True) for name in names]
    tier.append_many_locked({name: [turn(n)] for n, name in enumerate(names)})
    for lease in leases:
        assert lease is not None
        lease.release()
    tier.collect()
    decoded: list[bytes] = []
    real = snapshot.state_in
    monkeypatch.setattr(snapshot, "state_in", lambda data, name: decoded.append(data) or real(data, name))
    late = tier_of(bucket)
    bucket.requests.clear()
    page = late.by_last_use(50, wanted=lambda _: True)
    assert [meta.session_id for _, meta in page] == names[:-51:-1]
    # The store's note, the snapshots, the newest one, its log's end, and a run.
    assert sum(bucket.requests.values()) <= 7
    bucket.requests.clear()
    assert len(late.by_last_use(50, after=page[-1][0], wanted=lambda _: True)) == 50
    assert sum(bucket.requests.values()) <= 2
    assert late.expired_sessions(3600, late.now()) == []
    assert decoded == []
    assert sum(1 for _ in late.all_metadata()) == len(decoded) == len(names)


def test_a_session_that_is_moved_every_day_expires_all_the_same(bucket: Memory) -> None:
    clock = LaterClock()
    day = 86_400.0
    tier = tier_of(bucket, clock=clock)
    alone(tier, NAMES[:3])
    for number in range(1, 15):
        bucket.seconds = clock.seconds = number * day - 100
        young = f"young-{number}"
        append(tier, turn(50), session_id=young)
        assert compact_all(tier)["s000"].is_changed
        tier.collect()
        tier = tier_of(bucket, clock=clock)
        assert tier.expired_sessions(14 * day, tier.now()) == []
    bucket.seconds = clock.seconds = 14.01 * day
    assert tier.expired_sessions(14 * day, tier.now()) == ["s002", "s001", "s000"]
    with holding(tier, "s000"):
        assert tier.expire_locked("s000", 14 * day, tier.now(), to_trash=True)
    # What is added is a sign of life, by the store's clock too.
    append(tier_of(bucket), turn(70), session_id="s001")
    assert tier.expired_sessions(14 * day, tier.now()) == ["s002"]
    with holding(tier, "s000"):
        assert tier.restore_locked("s000")
    assert tier.expired_sessions(14 * day, tier.now()) == ["s002"]


@pytest.mark.promise("no-loss")
def test_a_damaged_session_stays_where_it_is(bucket: Memory) -> None:
    tier = tier_of(bucket)
    alone(tier)
    append(tier, turn(50), session_id="s007")
    holds = (name for name in sorted(segments(bucket)) if b"s007" in bucket.objects[name][0])
    name = next(name for name in holds if b"LXf" in bucket.objects[name][0])
    data, at = bucket.objects[name]
    bucket.objects[name] = data[:-3] + b"???", at
    late = tier_of(bucket)
    found = compact(late)
    assert [one for one in NAMES if not found[one].is_changed] == ["s007"]
    raising = tier_of(bucket, on_damage="raise")
    append(raising, turn(60), session_id="s008")
    again = dict(raising.compact_many(["s007", "s008"], idle_seconds=0))
    assert isinstance(again["s007"], ArchiveCorrupt)
    assert again["s008"].is_changed
    assert said(late.turns("s007")) == ["message 50"]
    assert said(late.turns("s008")) == ["message 8", "message 60"]


def the_newest_alone(bucket: Memory) -> None:
    """Collect the snapshots but the newest."""
    snaps = sorted(name for name in bucket.objects if name.endswith(".idx"))
    for name in snaps[:-1]:
        del bucket.objects[name]


@pytest.mark.promise("no-false-empty")
def test_a_process_whose_snapshot_was_collected_goes_on_with_a_newer_one(bucket: Memory) -> None:
    names = [f"{name}-{'x' * 800}" for name in NAMES]
    other = tier_of(bucket)
    alone(other, names)
    other.collect()
    process, lister, pager = tier_of(bucket), tier_of(bucket), tier_of(bucket)
    assert said(process.turns(names[0])) == ["message 0"]
    listed = lister.all_metadata()
    found = [next(listed).session_id]
    page = pager.by_last_use(3, wanted=lambda _: True)
    append(other, turn(90), session_id=names[39])
    other.collect()
    the_newest_alone(bucket)
    # Of these it has read no block.
    assert said(process.turns(names[39])) == ["message 39", "message 90"]
    found += [one.session_id for one in listed]
    assert found == names
    paged = [meta.session_id for _, meta in page]
    while page:
        page = pager.by_last_use(3, after=page[-1][0], wanted=lambda _: True)
        paged += [meta.session_id for _, meta in page]
    assert paged == names[::-1]


@pytest.mark.promise("no-loss")
def test_a_commit_whose_snapshot_is_collected_decides_anew(bucket: Memory) -> None:
    names = [f"{name}-{'x' * 800}" for name in NAMES]
    other = tier_of(bucket)
    alone(other, names)
    other.collect()
    process = tier_of(bucket)
    assert process.exists(names[0])
    append(other, turn(1, "of the other", nonce=77), session_id=names[39])
    other.collect()
    the_newest_alone(bucket)
    # By what it knew, the first turn's id is free.
    batch = {names[20]: [turn(50)], names[39]: [turn(1, "of this one", nonce=78)]}
    leases = [process.try_lock(name, to_append=True) for name in batch]
    assert process.append_many_locked(batch) == {names[20]: 1, names[39]: 1}
    for lease in leases:
        assert lease is not None
        lease.release()
    late = tier_of(bucket)
    assert said(late.turns(names[39])) == ["of the other", "of this one", "message 39"]
    assert said(late.turns(names[20])) == ["message 20", "message 50"]
    assert len({one.id for one in late.turns(names[39])}) == 3


@pytest.mark.promise("no-loss")
def test_what_is_decided_on_two_snapshots_is_decided_again(bucket: Memory) -> None:
    names = [f"{name}-{'x' * 800}" for name in NAMES]
    other = tier_of(bucket)
    alone(other, names)
    other.collect()
    shard = tier_of(bucket)._numbered(0)
    seen: list[tuple[int, int]] = []

    def decide() -> Commit:
        first = shard.state(names[0]).total
        if not seen:
            append(other, turn(70), session_id=names[0])
            append(other, turn(71), session_id=names[39])
            other.collect()
            the_newest_alone(bucket)
        seen.append((first, 0))
        seen[-1] = first, shard.state(names[39]).total
        return Commit([Record(names[5], 1, token=b"t" * 16)])

    assert shard.commit(decide, is_known=True)
    assert seen == [(1, 0), (2, 2)]


def test_few_snapshots_are_kept_and_segments_are_collected_all_the_same(bucket: Memory) -> None:
    clock = LaterClock()
    tier = tier_of(bucket, clock=clock)
    most, removed = 0, 0
    for hour in range(72):
        bucket.seconds = clock.seconds = 3600.0 * hour
        for number in range(3):
            append(tier, turn(10 * hour + number), session_id=f"s{number}")
        compact(tier, ["s0", "s1", "s2"])
        removed += tier.collect().segments
        most = max(most, len([name for name in bucket.objects if name.endswith(".idx")]))
    assert most <= 11
    # All but those of the last day and a bit.
    assert removed > 4 * 40
    assert len(tier_of(bucket).turns("s1")) == 72


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize("has_snapshot", [False, True])
def test_a_copy_with_a_gap_is_refused_and_not_written_to(bucket: Memory, has_snapshot: bool) -> None:
    tier = tier_of(bucket)
    alone(tier, NAMES[:3])
    if has_snapshot:
        tier.collect()
    append(tier, turn(7), session_id="s001")
    missing = max(segments(bucket))
    append(tier, turn(8), session_id="s001")
    lost = bucket.objects.pop(missing)
    before = dict(bucket.objects)
    copy = tier_of(bucket)
    for _ in range(2):
        with pytest.raises(ArchiveCorrupt, match="missing"):
            copy.turns("s001")
        with pytest.raises(ArchiveCorrupt, match="missing"):
            append(copy, turn(9), session_id="s002")
    assert segments(bucket) == [name for name in before if name.endswith(".seg")]
    bucket.objects[missing] = lost
    assert said(copy.turns("s001")) == ["message 1", "message 7", "message 8"]


@pytest.mark.promise("no-false-empty")
def test_what_others_commit_while_the_log_is_opened_is_no_gap(bucket: Memory) -> None:
    tier = tier_of(bucket)
    alone(tier, NAMES[:3])
    real = bucket.names

    def listed(start: str, after: str = "") -> Any:
        if "/log/" in start:
            bucket.names = real  # type: ignore[method-assign]
            append(tier, turn(7), session_id="s001")
            append(tier, turn(8), session_id="s001")
        return real(start, after)

    late = tier_of(bucket)
    bucket.names = listed  # type: ignore[method-assign]
    assert said(late.turns("s001")) == ["message 1", "message 7", "message 8"]


@pytest.mark.promise("no-false-empty")
def test_a_log_of_which_a_part_was_read_is_read_again_and_not_taken_for_all(bucket: Memory) -> None:
    tier = tier_of(bucket)
    for number in range(4):
        append(tier, turn(number), session_id="s001")
    last = max(segments(bucket))
    real = bucket.get

    def refusing(name: str, *place: int) -> Any:
        if name == last:
            bucket.get = real  # type: ignore[method-assign]
            raise ArchiveUnavailable(f"cannot read {name}")
        return real(name, *place)

    known, late = tier._shard("s001"), tier_of(bucket)
    assert known is not None
    bucket.get = refusing  # type: ignore[method-assign]
    shard = late._shard("s001", make=True)
    assert shard is not None
    with pytest.raises(ArchiveUnavailable):
        shard.synced()
    assert shard.state("s001") == known.state("s001")


def test_what_another_program_left_in_a_log_is_no_segment(bucket: Memory) -> None:
    tier = tier_of(bucket)
    append(tier, turn(1), session_id="s001")
    segment = max(segments(bucket))
    bucket.objects[segment.rpartition("/")[0] + "/Thumbs.db"] = bucket.objects[segment]
    assert said(tier_of(bucket).turns("s001")) == ["message 1"]


# -- what was deleted leaves the store --------------------------------------------------------


def stored_texts(bucket: Memory) -> list[str]:
    """Return the texts of all frames in all segments, whether anything refers to them or not."""
    texts: list[str] = []
    for name in segments(bucket):
        data = bucket.objects[name][0]
        at = segment.parsed(data, 0, name).begin
        while at < len(data):
            frame = decoding.frame_at(data, at)
            assert frame is not None
            texts += said(decoding.decode(data[at : at + frame.length], frame, 1 << 20).turns)
            at += frame.length
    return texts


def together(tier: ObjectTier, batch: dict[str, list[Turn]]) -> None:
    """Move the windows of several sessions in one commit."""
    leases = [tier.try_lock(name, to_append=True) for name in batch]
    tier.append_many_locked(batch)
    for lease in leases:
        assert lease is not None
        lease.release()


def days_of_care(bucket: Memory, tier: ObjectTier, days: int, idle_seconds: float = 0) -> None:
    """Let days pass, each with a compaction and a clean-up."""
    for _ in range(days):
        bucket.objects = {name: (data, at - 86_401) for name, (data, at) in bucket.objects.items()}
        compact_all(tier, idle_seconds)
        tier.collect()


@pytest.mark.promise("no-loss")
def test_a_bundle_does_not_write_again_what_was_deleted_while_it_was_made(bucket: Memory) -> None:
    tier, other = tier_of(bucket), tier_of(bucket)
    alone(tier, NAMES[:5])
    real, done = bucket.create, []

    def interrupted(name: str, data: bytes) -> bool:
        if not done:
            done.append(name)
            delete(other, turn(50).id, session_id="s003")
        return real(name, data)

    bucket.create = interrupted  # type: ignore[method-assign]
    compact_all(tier)
    assert done
    made = segments(bucket)[-1]
    bucket.objects = {name: one for name, one in bucket.objects.items() if name in (made, "store")}
    assert stored_texts(bucket) == ["message 0", "message 1", "message 2", "message 4"]


BIG = [turn(n, os.urandom(2000).hex()) for n in range(100)]


def deleted(tier: ObjectTier) -> None:
    delete(tier, turn(900).id, session_id="s")


def popped(tier: ObjectTier) -> None:
    with holding(tier):
        tier.take_out_locked("s", [turn(500)])


def edited(tier: ObjectTier) -> None:
    with holding(tier):
        tier.take_out_locked("s", [turn(500)], turn(500, "better", nonce=77))


def replaced(tier: ObjectTier) -> None:
    with holding(tier):
        tier.replace_locked("s", [turn(800, "new")], 50)


def deleted_and_begun_anew(tier: ObjectTier) -> None:
    deleted(tier)
    append(tier, turn(950, "new"))


def moved_and_deleted(tier: ObjectTier) -> None:
    append(tier, turn(600, "more"))
    assert compact(tier, ["s"], bundle=False)["s"].is_changed
    deleted(tier)


def expired_and_thrown_away(tier: ObjectTier) -> None:
    with holding(tier):
        assert tier.expire_locked("s", 1, long_after(365), to_trash=True)
    append(tier, turn(950, "new"))
    assert compact(tier, ["s"], bundle=False) != {}
    assert tier.empty_trash(long_after(800), 1) == 1


ERASING = [
    deleted, popped, edited, replaced, deleted_and_begun_anew, moved_and_deleted, expired_and_thrown_away,
]  # fmt: skip


@pytest.mark.parametrize("rest", ["idle", "active", "trashed", "both"])
@pytest.mark.parametrize("erase", ERASING, ids=lambda one: one.__name__)
def test_what_was_deleted_leaves_the_store_although_others_share_its_segment(
    bucket: Memory, erase: Callable[[ObjectTier], None], rest: str
) -> None:
    """Gone after the grace period, the next compaction, and once more the grace period."""
    tier = tier_of(bucket)
    shared = {"other": BIG, "s": [turn(500, "private")]}
    together(tier, shared)
    if rest in ("trashed", "both"):
        with holding(tier, "other"):
            assert tier.expire_locked("other", 1, long_after(3650), to_trash=True)
    if rest == "both":
        append(tier, turn(700, "of now"), session_id="other")
    erase(tier)
    assert "private" in stored_texts(bucket)
    days_of_care(bucket, tier, 3, idle_seconds=0 if rest == "idle" else 7200)
    found = stored_texts(bucket)
    assert "private" not in found
    late = tier_of(bucket)
    if rest in ("trashed", "both"):
        with holding(late, "other"):
            assert late.restore_locked("other")
    assert {one.body["content"] for one in BIG} <= set(said(late.turns("other")))
    assert len(late.turns("other")) == 100 + (rest == "both")
    assert all(one.is_intact for one in late.reports())


def test_copies_that_a_session_left_behind_are_no_reason_to_move_all_others(bucket: Memory) -> None:
    tier = tier_of(bucket)
    together(tier, {"other": BIG, "s": [turn(500)]})
    append(tier, turn(501))
    days_of_care(bucket, tier, 1)
    place = tier._state("other").parts
    assert tier._state("s").parts[0].segment != place[0].segment
    days_of_care(bucket, tier, 5)
    assert tier._state("other").parts == place


def test_a_session_that_was_left_under_a_lease_by_a_killed_process_keeps_nothing_for_ever(
    bucket: Memory,
) -> None:
    tier = tier_of(bucket)
    together(tier, {"other": BIG, "s": [turn(500, "private")]})
    deleted(tier)
    holding(tier_of(bucket), "other")
    tier._held._holders.clear()
    days_of_care(bucket, tier, 4)
    assert "private" not in stored_texts(bucket)
    assert len(tier_of(bucket).turns("other")) == 100


def test_a_segment_whose_index_is_damaged_is_left_by_what_is_intact(bucket: Memory) -> None:
    tier = tier_of(bucket)
    together(tier, {"other": BIG, "s": [turn(500, "private")]})
    deleted(tier)
    tier.collect()
    place = tier._state("other").parts[0].segment
    name = f"0000/log/{place:012d}.seg"
    data, at = bucket.objects[name]
    bucket.objects[name] = data[:13] + bytes([data[13] ^ 1]) + data[14:], at
    late = tier_of(bucket)
    days_of_care(bucket, late, 3)
    assert late.counters["damaged_reads"] == 1
    assert name not in bucket.objects
    assert len(tier_of(bucket).turns("other")) == 100


# -- a compaction comes to rest -----------------------------------------------------------------


def no_other(bucket: Memory, tier: ObjectTier) -> None:
    del bucket, tier


def an_active_one(bucket: Memory, tier: ObjectTier) -> None:
    append(tier, turn(2), session_id="active")


def a_leased_one(bucket: Memory, tier: ObjectTier) -> None:
    append(tier, turn(2), session_id="leased")
    other = tier_of(bucket, lease_seconds=600)
    other._held = type(tier._held)()
    holding(other, "leased")


def a_trashed_one(bucket: Memory, tier: ObjectTier) -> None:
    append(tier, turn(2), session_id="trashed")
    with holding(tier, "trashed"):
        assert tier.expire_locked("trashed", 1, long_after(365), to_trash=True)


def a_damaged_one(bucket: Memory, tier: ObjectTier) -> None:
    append(tier, turn(2), session_id="damaged")
    name = f"0000/log/{tier._state('damaged').parts[0].segment:012d}.seg"
    data, at = bucket.objects[name]
    bucket.objects[name] = data[:-3] + b"???", at


def a_popped_one_under_a_lease(bucket: Memory, tier: ObjectTier) -> None:
    append(tier, turn(2), turn(3), session_id="leased")
    with holding(tier, "leased"):
        tier.take_out_locked("leased", [turn(2)])
    a_leased_one(bucket, tier)


def very_small_ones(bucket: Memory, tier: ObjectTier) -> None:
    for start in range(0, 2400, 300):
        together(tier, {f"small-{n}": [turn(n)] for n in range(start, start + 300)})


@pytest.mark.parametrize(
    "other",
    [
        no_other, an_active_one, a_leased_one, a_trashed_one, a_damaged_one, a_popped_one_under_a_lease,
        very_small_ones,
    ],
    ids=lambda one: one.__name__,
)  # fmt: skip
@pytest.mark.parametrize("idle", [1, 3])
def test_a_compaction_where_nothing_is_to_be_won_puts_nothing(
    bucket: Memory, other: Callable[[Memory, ObjectTier], None], idle: int
) -> None:
    clock = LaterClock()
    tier = tier_of(bucket, clock=clock)
    alone(tier, NAMES[:idle])
    clock.seconds = bucket.seconds = 3 * 3600.0
    other(bucket, tier)
    if other is very_small_ones:
        clock.seconds = bucket.seconds = 6 * 3600.0
    # All that is to be won is won at once.
    compact_all(tier, 7200)
    for _ in range(4):
        tier.collect()
        bucket.objects = {name: (data, at - 86_401) for name, (data, at) in bucket.objects.items()}
        late = tier_of(bucket, clock=clock)
        bucket.requests.clear()
        found = compact_all(late, 7200)
        assert bucket.requests["put"] == 0
        assert not any(one.is_changed for one in found.values())
