"""What a commit looks at of a session: not more the more frames the session has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from lix_cache.archive.objects import snapshot
from lix_cache.archive.objects.records import Part, Record, State, folded
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.archive.tombstones import Deletion, note_name
from lix_cache.messages.turn import ZERO_ID, MessageId
from tests.contract.cold_tier import holding, turn
from tests.fault.test_object_faults import Memory, tier_of


class Unread(tuple[Part, ...]):
    """Parts that may be added to, and not gone through."""

    __slots__ = ()

    def __iter__(self) -> Iterator[Part]:
        raise AssertionError("every frame was looked at")


def move(tier: ObjectTier, *numbers: int) -> None:
    """Append what a window holds, as the daemon does."""
    lease = tier.try_lock("s", to_append=True)
    assert lease is not None
    with lease:
        assert tier.append_many_locked({"s": [turn(number) for number in numbers]}) == {"s": len(numbers)}


def test_a_commit_goes_through_no_frame_that_is_there() -> None:
    tier = tier_of(Memory())
    move(tier, 0, 1)
    move(tier, 2)
    shard = tier._writable("s")
    before = shard.state("s")
    before.__dict__["parts"] = Unread(before.parts)
    move(tier, 3, 4)
    assert [part.turns for part in shard.state("s").parts] == [2, 1, 2]
    assert shard.state("s").newest == turn(4).id


def test_a_state_of_a_snapshot_is_decoded_once_for_all_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    tier = tier_of(Memory(), snapshot_every=4)
    for number in range(4):
        move(tier, number)
    read: list[State] = []
    decode = snapshot.state_in

    def counted(*data: Any) -> State:
        read.append(decode(*data))
        return read[-1]

    monkeypatch.setattr(snapshot, "state_in", counted)
    for number in range(4, 7):
        move(tier, number)
    assert [len(state.parts) for state in read] == [4]
    assert len(tier._writable("s").state("s").parts) == 7


def test_deletions_that_a_copy_brings_count_for_a_session_that_was_looked_at_before() -> None:
    tier = tier_of(Memory())
    assert tier._writable("s").state("s").deletion == Deletion()
    tier.take_deletions({note_name("s"): Deletion(turn(5).id)})
    with holding(tier):
        assert tier.append_many_locked({"s": [turn(4), turn(6)]}) == {"s": 1}


def test_the_largest_id_is_that_of_the_parts_however_the_state_came_about() -> None:
    def part(ms: int) -> Part:
        return Part(0, 0, 1, 1, MessageId(ms, 0), MessageId(ms, 0))

    state = State(is_there=True, parts=(part(5),))
    assert state.newest == MessageId(5, 0)
    for ms, newest in ((9, 9), (7, 9), (11, 11)):
        state = folded(state, Record("s", 1, parts=(part(ms),)), 1)
        assert state.newest == State(parts=state.parts).newest == MessageId(newest, 0)
    assert state.but(token=b"t" * 16).newest == MessageId(11, 0)
    assert state.but(parts=(part(3),)).newest == MessageId(3, 0)
    assert state.but(largest=MessageId(20, 0)).newest == MessageId(20, 0)
    assert state.but(parts=()).newest == ZERO_ID
