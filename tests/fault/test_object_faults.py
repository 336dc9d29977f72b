"""The archive on object storage when processes die at any step, answers are lost, and several write."""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache.archive.facts import CompactedSession
from lix_cache.archive.objects import layout
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.clock import SYSTEM_CLOCK
from lix_cache.errors import ArchiveBusy, ArchiveCorrupt, ArchiveUnavailable
from lix_cache.messages.turn import MessageId
from lix_cache.storage.objects import Listed
from tests.contract.cold_tier import BASE_MS, append, delete, holding, long_after, said, turn


class Died(BaseException):
    """The process was killed."""


class Memory:
    """A bucket in memory, each of whose requests can be the last: before it, or after it."""

    def __init__(self) -> None:
        self.objects: dict[str, tuple[bytes, float]] = {}
        self.location = f"memory://{id(self)}"
        self.requests: Counter[str] = Counter()
        #: Called with the kind and the name before a request, and after it.
        self.before: Callable[[str, str], None] = lambda *_: None
        self.after: Callable[[str, str], None] = lambda *_: None
        self.seconds = 0.0
        self._lock = threading.Lock()

    def _sent(self, kind: str, name: str, work: Callable[[], Any]) -> Any:
        self.requests.update((kind,))
        self.before(kind, name)
        with self._lock:
            result = work()
        self.after(kind, name)
        return result

    def _now(self) -> float:
        return SYSTEM_CLOCK.time() + self.seconds

    def get(self, name: str, start: int = 0, length: int | None = None) -> bytes | None:
        def work() -> bytes | None:
            found = self.objects.get(name)
            return None if found is None else found[0][start : None if length is None else start + length]

        return self._sent("get", name, work)

    def create(self, name: str, data: bytes) -> bool:
        def work() -> bool:
            return self.objects.setdefault(name, made) is made

        made = (bytes(data), self._now())
        return self._sent("put", name, work)

    def put(self, name: str, data: bytes) -> None:
        self._sent("put", name, lambda: self.objects.update({name: (bytes(data), self._now())}))

    def remove(self, name: str) -> None:
        self._sent("delete", name, lambda: self.objects.pop(name, None))

    def modified(self, name: str) -> float | None:
        found = self._sent("get", name, lambda: self.objects.get(name))
        return None if found is None else found[1]

    def names(self, start: str, after: str = "") -> Iterator[Listed]:
        def work() -> list[Listed]:
            every = sorted(self.objects.items())
            return [Listed(n, len(d), t) for n, (d, t) in every if n.startswith(start) and n > after]

        return iter(self._sent("list", start, work))


class LaterClock:
    """A clock that is some seconds ahead."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def time(self) -> float:
        return SYSTEM_CLOCK.time() + self.seconds

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic() + self.seconds

    def sleep(self, seconds: float) -> None:
        self.seconds += seconds


@pytest.fixture
def bucket() -> Memory:
    return Memory()


def tier_of(bucket: Memory, **options: Any) -> ObjectTier:
    return ObjectTier(bucket, **{"lease_seconds": -5, **options})


def compact_all(tier: ObjectTier, idle_seconds: float = 0) -> dict[str, CompactedSession]:
    """Compact as ``lix-cache compact`` does."""
    names = [meta.session_id for meta in tier.all_metadata()]
    found = dict(tier.compact_many(names, idle_seconds=idle_seconds, bundle=True))
    assert sorted(found) == sorted(names)
    return {name: one for name, one in found.items() if isinstance(one, CompactedSession)}


def holder_dies(bucket: Memory, tier: ObjectTier) -> None:
    """Forget what a killed process held: its table of leases went with it."""
    tier._held._holders.clear()
    tier._leases.clear()


def steps_of(bucket: Memory, work: Callable[[], Any]) -> int:
    sent = 0

    def count(*_: str) -> None:
        nonlocal sent
        sent += 1

    bucket.before = count
    work()
    bucket.before = lambda *_: None
    return sent


def dying_at(bucket: Memory, step: int, when: str) -> None:
    left = step

    def die(*_: str) -> None:
        nonlocal left
        if left == 0:
            bucket.before = bucket.after = lambda *_: None
            raise Died
        left -= 1

    setattr(bucket, when, die)


def changes(tier: ObjectTier) -> dict[str, tuple[Callable[[], object], list[str], list[str]]]:
    """Return operations on four messages, and what must be there when they were not, or were, done."""

    def locked(work: Callable[[], object]) -> Callable[[], object]:
        def held() -> object:
            with holding(tier):
                return work()

        return held

    four = ["message 1", "message 2", "message 3", "message 4"]
    return {
        "append": (lambda: append(tier, turn(5)), four, [*four, "message 5"]),
        "many": (
            locked(lambda: tier.append_many_locked({"s": [turn(5)], "t": [turn(6)]})),
            four,
            [*four, "message 5"],
        ),
        "outage": (
            locked(lambda: tier.append_outage_locked("s", [turn(9, "away")], contested=True)),
            four,
            [*four, "away"],
        ),
        "take out": (locked(lambda: tier.take_out_locked("s", [turn(2)])), four, [four[0], *four[2:]]),
        "edit": (
            locked(lambda: tier.take_out_locked("s", [turn(2)], turn(2, "new", nonce=99))),
            four,
            [four[0], "new", *four[2:]],
        ),
        "replace": (locked(lambda: tier.replace_locked("s", [turn(8, "all")], 50)), four, ["all"]),
        "delete": (locked(lambda: tier.delete_locked("s", turn(4).id)), four, []),
        "compact": (lambda: compact_all(tier), four, four),
        "trash": (
            locked(lambda: tier.expire_locked("s", 1, long_after(60 * 365), to_trash=True)),
            four,
            [],
        ),
    }


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("name", list(changes(tier_of(Memory()))))
def test_a_kill_at_any_request_leaves_all_or_nothing(name: str, when: str) -> None:
    def world() -> tuple[Memory, ObjectTier]:
        bucket = Memory()
        tier = tier_of(bucket, snapshot_every=3)
        append(tier, turn(1), turn(2))
        append(tier, turn(3))
        append(tier, turn(4))
        return bucket, tier

    bucket, tier = world()
    steps = steps_of(bucket, changes(tier)[name][0])
    assert steps >= 2
    for step in range(steps):
        bucket, tier = world()
        work, before, after = changes(tier)[name]
        dying_at(bucket, step, when)
        with pytest.raises(Died):
            work()
        bucket.before = bucket.after = lambda *_: None
        holder_dies(bucket, tier)
        other = tier_of(bucket, snapshot_every=3)
        found = said(other.turns("s"))
        assert found in (before, after)
        # Its lease ends by time, and what it did can be done again.
        other.lock("s").release()
        if name not in ("trash", "take out", "edit", "replace"):
            changes(other)[name][0]()
            assert said(other.turns("s")) == after
        assert said(tier_of(bucket).turns("s")) == said(other.turns("s"))
        assert all(one.is_intact for one in other.reports())


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_kill_in_a_collection_takes_nothing_that_counts(when: str) -> None:
    def world() -> tuple[Memory, ObjectTier]:
        bucket = Memory()
        tier = tier_of(bucket, snapshot_every=1000)
        for n in range(6):
            append(tier, turn(n))
            append(tier, turn(n), session_id="t")
        compact_all(tier)
        tier.collect()
        bucket.seconds = -3 * 86_400.0
        bucket.objects = {name: (data, at - 3 * 86_400) for name, (data, at) in bucket.objects.items()}
        bucket.seconds = 0.0
        append(tier, turn(9))
        return bucket, tier

    bucket, tier = world()
    before = len(bucket.objects)
    steps = steps_of(bucket, tier.collect)
    assert len(bucket.objects) < before, "what the compaction left is gone"
    for step in range(steps):
        bucket, tier = world()
        dying_at(bucket, step, when)
        with pytest.raises(Died):
            tier.collect()
        bucket.before = bucket.after = lambda *_: None
        for other in (tier_of(bucket), tier):
            assert said(other.turns("s")) == [f"message {n}" for n in (*range(6), 9)]
            assert said(other.turns("t")) == [f"message {n}" for n in range(6)]
        tier_of(bucket).collect()
        assert append(tier, turn(10)) == 1
        assert all(one.is_intact for one in tier_of(bucket).reports())


@pytest.mark.promise("no-loss")
def test_a_put_whose_answer_was_lost_is_recognised(bucket: Memory) -> None:
    tier = tier_of(bucket)
    append(tier, turn(1))

    def refused_although_done(kind: str, name: str) -> None:
        if kind == "put":
            bucket.after = lambda *_: None
            raise ArchiveUnavailable("the answer was lost")

    bucket.after = refused_although_done
    assert append(tier, turn(2)) == 1
    real = bucket.create

    def repeated(name: str, data: bytes) -> bool:
        # As a client does that sends a put again: the second one finds the first.
        real(name, data)
        return real(name, data)

    bucket.create = repeated  # type: ignore[method-assign]
    assert append(tier, turn(3)) == 1
    assert tier.counters["object_conflicts"] == 0
    assert said(tier_of(bucket).turns("s")) == ["message 1", "message 2", "message 3"]


@pytest.mark.promise("no-loss")
def test_a_put_that_arrives_late_does_nothing_twice(bucket: Memory) -> None:
    tier = tier_of(bucket)
    append(tier, turn(1))
    late: list[tuple[str, bytes]] = []
    real = bucket.create

    def delayed(name: str, data: bytes) -> bool:
        late.append((name, data))
        raise ArchiveUnavailable("no answer")

    lease = holding(tier)
    bucket.create = delayed  # type: ignore[method-assign]
    with pytest.raises(ArchiveUnavailable):
        tier.append_locked("s", [turn(2)])
    bucket.create = real  # type: ignore[method-assign]
    for name, data in late:
        assert real(name, data), "nobody took the number: it is a commit like any other"
    assert tier.append_locked("s", [turn(2)]) == 0
    lease.release()
    assert said(tier_of(bucket).turns("s")) == ["message 1", "message 2"]


@pytest.mark.promise("no-loss")
def test_racing_spillers_and_a_deleter_lose_and_double_nothing(bucket: Memory) -> None:
    """Three movers of the same windows and a deleter: what was deleted stays so, the rest is there once."""
    sessions = [f"s{n}" for n in range(6)]
    deleted: dict[str, int] = {}
    ended = threading.Event()

    def mover(number: int) -> None:
        tier, dice = tier_of(bucket, snapshot_every=16, lease_seconds=36_000), random.Random(number)
        for start in range(0, 60, 3):
            # Each has what the windows hold: they overlap.
            batch = {
                s: [turn(n) for n in range(max(0, start - dice.randrange(6)), start + 3)] for s in sessions
            }
            left = dict(batch)
            while left:
                done = tier.append_many_locked(left)
                left = {s: batch[s] for s, result in done.items() if isinstance(result, ArchiveBusy)}

    def deleter() -> None:
        tier, dice = tier_of(bucket, snapshot_every=16, lease_seconds=36_000), random.Random(99)
        while not ended.is_set():
            session = dice.choice(sessions)
            lease = tier.try_lock(session)
            if lease is None:
                continue
            with lease:
                up_to = tier.summary(session, locked=True).newest
                if up_to > tier.deleted_up_to(session):
                    tier.delete_locked(session, up_to)
                    deleted[session] = up_to.ms - BASE_MS

    movers = [threading.Thread(target=mover, args=(number,)) for number in range(3)]
    other = threading.Thread(target=deleter)
    for thread in (*movers, other):
        thread.start()
    for thread in movers:
        thread.join()
    ended.set()
    other.join()
    tier = tier_of(bucket)
    for session in sessions:
        gone = deleted.get(session, -1)
        assert said(tier.turns(session)) == [f"message {n}" for n in range(gone + 1, 60)]


@pytest.mark.promise("no-loss")
def test_two_that_take_the_same_lease_never_both_have_it(bucket: Memory) -> None:
    one, two = tier_of(bucket, lease_seconds=600), tier_of(bucket, lease_seconds=600)
    two._held = type(one._held)()  # another process has a table of its own
    lease = holding(one)
    assert two.try_lock("s") is None
    # Who moves windows takes no lease there, and is refused.
    with two.try_lock("s", to_append=True) or holding(two):
        [busy] = two.append_many_locked({"s": [turn(1)]}).values()
        assert isinstance(busy, ArchiveBusy)
    assert one.append_locked("s", [turn(1)]) == 1
    lease.release()
    with holding(two):
        assert two.append_many_locked({"s": [turn(1), turn(2)]}) == {"s": 1}


@pytest.mark.promise("no-loss")
def test_a_holder_that_was_late_changes_nothing(bucket: Memory) -> None:
    slow, quick = tier_of(bucket), tier_of(bucket)
    quick._held = type(slow._held)()
    append(slow, turn(1))
    lease = holding(slow)
    taken = quick.lock("s")
    for change in (
        lambda: slow.delete_locked("s", turn(5).id),
        lambda: slow.append_locked("s", [turn(2)]),
        lambda: slow.take_out_locked("s", [turn(1)]),
    ):
        with pytest.raises(ArchiveBusy):
            change()
    lease.release()
    assert quick.append_locked("s", [turn(3)]) == 1, "letting go takes nothing from the next holder"
    taken.release()
    assert said(tier_of(bucket).turns("s")) == ["message 1", "message 3"]


@pytest.mark.promise("no-loss")
def test_a_process_that_slept_through_a_collection_starts_over(bucket: Memory) -> None:
    clock = LaterClock()
    sleeper, other = tier_of(bucket, clock=clock), tier_of(bucket, snapshot_every=4)
    append(sleeper, turn(1))
    for n in range(2, 8):
        append(other, turn(n))
    compact_all(other)
    other.collect()
    bucket.objects = {name: (data, at - 3 * 86_400) for name, (data, at) in bucket.objects.items()}
    assert other.collect().segments > 0
    # The name of its next segment is free again.
    clock.seconds = 2 * 86_400
    assert layout.log_name(0, sleeper._numbered(0)._next) not in bucket.objects
    assert append(sleeper, turn(8)) == 1
    assert (
        said(sleeper.turns("s")) == said(tier_of(bucket).turns("s")) == [f"message {n}" for n in range(1, 9)]
    )


@pytest.mark.promise("no-loss")
def test_a_put_that_slept_through_a_collection_does_not_count(bucket: Memory) -> None:
    clock = LaterClock()
    sleeper, other = tier_of(bucket, clock=clock), tier_of(bucket, snapshot_every=4)
    append(sleeper, turn(1))
    real, slept = bucket.create, []

    def sleeps(name: str, data: bytes) -> bool:
        if not slept and name.endswith(".seg"):
            slept.append(name)
            for n in range(2, 8):
                append(other, turn(n))
            compact_all(other)
            other.collect()
            bucket.objects = {n: (d, at - 3 * 86_400) for n, (d, at) in bucket.objects.items()}
            other.collect()
            clock.seconds = 2 * 86_400
            assert name not in bucket.objects
        return real(name, data)

    with sleeper.try_lock("s", to_append=True) or holding(sleeper):
        sleeper._held._holders.clear()
        bucket.create = sleeps  # type: ignore[method-assign]
        assert sleeper.append_locked("s", [turn(8)]) == 1
    assert slept
    assert said(tier_of(bucket).turns("s")) == [f"message {n}" for n in range(1, 9)]


@pytest.mark.promise("no-loss")
def test_one_answer_that_was_damaged_takes_no_message_from_what_is_restored(bucket: Memory) -> None:
    tier = tier_of(bucket)
    append(tier, *(turn(n) for n in range(5)))
    append(tier, *(turn(n) for n in range(5, 10)))
    with holding(tier):
        tier.expire_locked("s", 1, long_after(10_000), to_trash=True)
    append(tier, turn(20))
    other, read = tier_of(bucket), bucket.get
    damaged: list[str] = []

    def once(name: str, start: int = 0, length: int | None = None) -> bytes | None:
        data = read(name, start, length)
        if name.endswith(".seg") and not damaged and data is not None and data[:4] != b"LXS1":
            damaged.append(name)
            return data[:-9] + bytes(byte ^ 1 for byte in data[-9:])
        return data

    bucket.get = once  # type: ignore[method-assign]
    with holding(other):
        assert other.restore_locked("s")
    assert damaged
    assert said(tier_of(bucket).turns("s")) == [f"message {n}" for n in (*range(10), 20)]


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize("on_damage", ["recover", "raise"])
def test_damage_is_no_empty_session(bucket: Memory, on_damage: str) -> None:
    tier = tier_of(bucket)
    append(tier, turn(1))
    append(tier, turn(2))
    damaged = next(n for n in sorted(bucket.objects) if bucket.objects[n][0][12:].find(b"LXf") >= 0)
    data, at = bucket.objects[damaged]
    bucket.objects[damaged] = data[:-20] + bytes(byte ^ 1 for byte in data[-20:]), at
    other = tier_of(bucket, on_damage=on_damage)
    if on_damage == "raise":
        with pytest.raises(ArchiveCorrupt):
            other.turns("s")
    else:
        assert said(other.turns("s")) == ["message 2"]
        assert other.counters["damaged_reads"] == 1
    assert not all(one.is_intact for one in other.reports())
    # An index that is damaged says nothing of which session it is.
    bucket.objects[damaged] = data[:20] + bytes([data[20] ^ 1]) + data[21:], at
    with pytest.raises(ArchiveCorrupt):
        tier_of(bucket).turns("s")


@pytest.mark.promise("no-false-empty")
def test_a_frame_that_was_moved_and_collected_is_found_again(bucket: Memory) -> None:
    reader, other = tier_of(bucket), tier_of(bucket)
    append(other, turn(1), turn(2))
    append(other, turn(3))
    assert len(reader.turns("s")) == 3
    real = bucket.get

    def moved_meanwhile(name: str, start: int = 0, length: int | None = None) -> bytes | None:
        if name.endswith(".seg") and start:
            bucket.get = real  # type: ignore[method-assign]
            compact_all(other)
            other.collect()
            bucket.objects = {n: (d, at - 3 * 86_400) for n, (d, at) in bucket.objects.items()}
            other.collect()
        return real(name, start, length)

    bucket.get = moved_meanwhile  # type: ignore[method-assign]
    assert said(reader.turns("s")) == ["message 1", "message 2", "message 3"]


def test_what_was_deleted_is_collected(bucket: Memory) -> None:
    tier = tier_of(bucket, snapshot_every=1000)
    for n in range(5):
        append(tier, turn(n, f"private {n}"))
    delete(tier, MessageId(BASE_MS + 10, 0))
    tier.collect()
    bucket.objects = {name: (data, at - 3 * 86_400) for name, (data, at) in bucket.objects.items()}
    tier.collect()
    assert [name for name in bucket.objects if name.endswith(".seg")] == []
    assert tier_of(bucket).deleted_up_to("s") == MessageId(BASE_MS + 10, 0)
    assert append(tier_of(bucket), turn(3), from_window=True) == 0


def test_a_tier_in_a_folder_leaves_no_temporary_file(tmp_path: Path) -> None:
    from lix_cache.storage.objects import FolderBucket

    tier = ObjectTier(FolderBucket(str(tmp_path)))
    append(tier, turn(1))
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".")]


def test_who_only_reads_keeps_no_log_in_memory(bucket: Memory) -> None:
    reader, writer = tier_of(bucket, snapshot_every=4), tier_of(bucket, snapshot_every=4)
    for n in range(100):
        append(writer, turn(n), session_id=f"s{n % 7}")
        assert len(reader.turns(f"s{n % 7}")) == n // 7 + 1
    shard = reader._numbered(0)
    assert shard._next - shard._base.number <= 12
    assert not reader._leases
    assert not writer._leases


def test_the_daemon_tidies_and_survives_a_store_that_refuses(bucket: Memory) -> None:
    tier = tier_of(bucket)
    append(tier, turn(1))

    def refused(kind: str, name: str) -> None:
        raise ArchiveUnavailable("away")

    bucket.before = refused
    assert len(list(tier.tidy(long_after(0), 7, 0))) == 1
    assert tier.counters["collection_failures"] == 1
    bucket.before = lambda *_: None
    assert len(list(tier.tidy(long_after(0), 7, 0))) == 1
    assert any(name.endswith(".idx") for name in bucket.objects)
