"""An object store that takes requests and does not answer: who waits, and what everybody is told."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from lix_cache.archive.objects.shard import Shard
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.errors import ArchiveCorrupt, ArchiveUnavailable
from tests.contract.cold_tier import append, said, turn
from tests.fault.test_object_faults import Memory, tier_of
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("no-stall")

NAMES = [f"s{n}" for n in range(10)]


def silence(kind: str) -> ArchiveUnavailable:
    error = ArchiveUnavailable(f"no answer to a {kind}")
    error.unanswered = kind
    return error


class Queue:
    """The lock of a shard, and how many have come to it."""

    def __init__(self, shard: Shard) -> None:
        self._lock: Any = shard._lock
        self.came = 0
        shard._lock = self  # type: ignore[assignment]

    def __enter__(self) -> None:
        self.came += 1
        self._lock.acquire()

    def __exit__(self, *_: object) -> None:
        self._lock.release()


def ends_of(calls: dict[str, Callable[[], Any]], begin: Callable[[str], None]) -> dict[str, Any]:
    """Make calls side by side; return what each came to, an error as well."""
    ends: dict[str, Any] = {}

    def work(name: str) -> None:
        try:
            ends[name] = calls[name]()
        except Exception as error:
            ends[name] = error

    threads = [threading.Thread(target=work, args=(name,), daemon=True) for name in calls]
    for thread, name in zip(threads, calls, strict=True):
        begin(name)
        thread.start()
    for thread in threads:
        thread.join(60)
    return ends


@contextmanager
def held_up(
    bucket: Memory, tier: ObjectTier, wanted: str, error: Exception, others: int
) -> Iterator[Callable[[str], None]]:
    """Let the first request of a kind end in an error, when so many others wait for the shard.

    Yields what is called before each caller begins: the others when the first one has sent its request.
    """
    queue = Queue(tier._numbered(0))
    sent = threading.Event()

    def fail(kind: str, _: str) -> None:
        if kind == wanted and not sent.is_set():
            already = queue.came
            sent.set()
            wait_until(lambda: queue.came == already + others)
            raise error

    begun: list[str] = []

    def begin(name: str) -> None:
        if begun:
            assert sent.wait(60)
        begun.append(name)

    bucket.before = fail
    try:
        yield begin
    finally:
        bucket.before = lambda *_: None


@pytest.fixture
def bucket() -> Memory:
    return Memory()


@pytest.fixture
def tier(bucket: Memory) -> ObjectTier:
    """An archive in which ten sessions have a message each."""
    made = tier_of(bucket)
    for name in NAMES:
        append(made, turn(0), session_id=name)
    return made


def readers(tier: ObjectTier) -> dict[str, Callable[[], Any]]:
    return {name: lambda name=name: tier.turns(name) for name in NAMES}  # type: ignore[misc]


def writers(tier: ObjectTier) -> dict[str, Callable[[], Any]]:
    # As a daemon does it: under a place in the process, which asks the store for nothing.
    return {name: lambda name=name: append(tier, turn(1), session_id=name) for name in NAMES}  # type: ignore[misc]


@pytest.mark.promise("no-false-empty")
def test_who_waits_for_a_reader_that_gets_no_answer_fails_with_it(bucket: Memory, tier: ObjectTier) -> None:
    asked = bucket.requests.copy()
    with held_up(bucket, tier, "get", silence("get"), 9) as begin:
        ends = ends_of(readers(tier), begin)
    assert bucket.requests - asked == Counter(get=1), "one has found out for all"
    assert all(isinstance(end, ArchiveUnavailable) for end in ends.values())
    assert [end.unanswered for end in ends.values()].count("get") == 1
    assert sum("nothing was asked" in str(end) for end in ends.values()) == 9
    assert [said(tier.turns(name)) for name in NAMES] == [["message 0"]] * 10


@pytest.mark.promise("no-loss")
def test_who_waits_for_a_put_that_gets_no_answer_fails_with_it_and_nothing_is_doubled(
    bucket: Memory, tier: ObjectTier
) -> None:
    sent: list[Callable[[], bool]] = []
    create = bucket.create

    def lost(name: str, data: bytes) -> bool:
        sent.append(lambda: create(name, data))
        raise silence("put")

    bucket.create = lost  # type: ignore[method-assign]
    batches = {name: lambda name=name: tier.append_many_locked({name: [turn(1)]})[name] for name in NAMES}  # type: ignore[misc]
    # It looks whether the put was done, and gets no answer either.
    with held_up(bucket, tier, "get", silence("get"), 9) as begin:
        ends = ends_of(batches, begin)
    bucket.create = create  # type: ignore[method-assign]
    assert len(sent) == 1
    assert all(isinstance(end, ArchiveUnavailable) for end in ends.values())
    assert [end.unanswered for end in ends.values()].count("put") == 1
    # What was sent arrives late; and all is done again, as what an error came to is.
    assert sent[0]()
    for name in NAMES:
        tier.append_many_locked({name: [turn(1)]})
    fresh = tier_of(bucket)
    assert [said(fresh.turns(name)) for name in NAMES] == [["message 0", "message 1"]] * 10


def test_a_put_that_gets_no_answer_keeps_no_reader(bucket: Memory, tier: ObjectTier) -> None:
    calls = {"first": lambda: tier.append_many_locked({"s0": [turn(1)]})["s0"], **readers(tier)}
    with held_up(bucket, tier, "put", silence("put"), 10) as begin:
        ends = ends_of(calls, begin)
    assert isinstance(ends.pop("first"), ArchiveUnavailable)
    assert [said(end) for end in ends.values()] == [["message 0"]] * 10


@pytest.mark.parametrize(
    "error",
    [
        ArchiveUnavailable("the credentials are wrong"),
        ArchiveCorrupt("an index is damaged"),
        ValueError("our own"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_was_answered_is_the_affair_of_the_one_who_asked(
    bucket: Memory, tier: ObjectTier, error: Exception
) -> None:
    with held_up(bucket, tier, "get", error, 9) as begin:
        ends = ends_of(readers(tier), begin)
    assert ends.pop("s0") is error
    assert [said(end) for end in ends.values()] == [["message 0"]] * 9


def test_a_conflict_is_no_silence(bucket: Memory, tier: ObjectTier) -> None:
    append(tier_of(bucket), turn(5), session_id="other")
    ends = ends_of(writers(tier), lambda _: None)
    assert list(ends.values()) == [1] * 10
    assert tier.counters["object_conflicts"] >= 1


@pytest.mark.promise("no-false-empty")
def test_who_holds_a_lease_reads_what_is_kept_though_the_store_is_away(
    bucket: Memory, tier: ObjectTier, tmp_path: Any
) -> None:
    tier.cache_frames(str(tmp_path), 1 << 20)
    assert said(tier.turns("s3")) == ["message 0"]
    lease = tier.try_lock("s3")
    assert lease is not None

    def away(kind: str, _: str) -> None:
        raise silence(kind)

    bucket.before = away
    assert said(tier.turns("s3", locked=True)) == ["message 0"]
    for read in (tier.turns, tier.exists, tier.summary, tier.look):
        with pytest.raises(ArchiveUnavailable):
            read("s4")
    bucket.before = lambda *_: None
    lease.release()
