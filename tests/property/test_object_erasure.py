"""Object storage, whatever is done to sessions: what was deleted leaves it, and compaction comes to rest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache.archive.objects import bundling, emptying
from lix_cache.archive.objects.tier import ObjectTier
from tests.contract.cold_tier import append, delete, holding, long_after, said, turn
from tests.fault.test_object_bundles import days_of_care, stored_texts, together
from tests.fault.test_object_faults import Memory, compact_all, tier_of

NAMES = st.sampled_from(["a", "b", "c", "d"])
KINDS = ["add", "pop", "delete", "trash", "restore", "throw away", "compact", "tidy", "a day"]
STEPS = st.tuples(st.sampled_from(["add", "together", *KINDS]), NAMES, NAMES)


@dataclass
class Model:
    """What must be there.

    Attributes:
        lives: the texts of each session.
        trash: of each that is in the trash, what it would bring back.
        ever: texts of each since it was last deleted: of a session in the trash, all may be stored.
    """

    lives: dict[str, list[int]] = field(default_factory=dict)
    trash: dict[str, list[int]] = field(default_factory=dict)
    ever: dict[str, set[int]] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=lambda: count(1))

    def new(self, name: str) -> int:
        number = next(self.numbers)
        self.lives.setdefault(name, []).append(number)
        self.ever.setdefault(name, set()).add(number)
        return number

    def texts(self, name: str) -> list[str]:
        return [f"message {number}" for number in sorted(self.lives.get(name, []))]

    def may_be_stored(self) -> set[str]:
        numbers = {one for every in self.lives.values() for one in every}
        numbers |= {one for name in self.trash for one in self.ever[name]}
        return {f"message {number}" for number in numbers}


def carried_out(bucket: Memory, tier: ObjectTier, model: Model, kind: str, name: str, other: str) -> None:
    lives = model.lives.get(name, [])
    if kind == "add":
        append(tier, turn(model.new(name)), session_id=name)
    elif kind == "together":
        together(tier, {one: [turn(model.new(one))] for one in {name, other}})
    elif kind == "pop" and lives:
        with holding(tier, name):
            tier.take_out_locked(name, [turn(lives.pop())])
    elif kind == "delete":
        delete(tier, session_id=name)
        for every in (model.lives, model.trash, model.ever):
            every.pop(name, None)
    elif kind == "trash" and lives:
        with holding(tier, name):
            assert tier.expire_locked(name, 1, long_after(3650), to_trash=True)
        model.trash.setdefault(name, []).extend(model.lives.pop(name))
    elif kind == "restore" and name in model.trash:
        with holding(tier, name):
            assert tier.restore_locked(name)
        model.lives.setdefault(name, []).extend(model.trash.pop(name))
        model.lives[name].sort()
    elif kind == "throw away":
        tier.empty_trash(long_after(7300), 1)
        model.trash.clear()
    elif kind == "compact":
        compact_all(tier, 0 if name < other else 7200)
    elif kind == "tidy":
        tier.collect()
    elif kind == "a day":
        bucket.objects = {one: (data, at - 86_401) for one, (data, at) in bucket.objects.items()}


@pytest.mark.promise("no-loss")
@settings(max_examples=120, deadline=None)
@given(st.lists(st.tuples(st.booleans(), STEPS), max_size=30), st.sampled_from([0, 300]), st.booleans())
def test_what_was_deleted_is_in_no_object_and_all_else_is(
    steps: list[tuple[bool, tuple[str, str, str]]], small: int, is_idle: bool
) -> None:
    bucket, model = Memory(), Model()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(emptying, "SMALL_BYTES", small)
        patched.setattr(bundling, "BUNDLE_BYTES", 2 * small or 600)
        tiers = [tier_of(bucket, snapshot_every=5, shards=2) for _ in range(2)]
        for first, step in steps:
            carried_out(bucket, tiers[first], model, *step)
        late = tier_of(bucket)
        days_of_care(bucket, late, 4, idle_seconds=0 if is_idle else 7200)
        for tier in (late, tier_of(bucket)):
            for name in "abcd":
                assert said(tier.turns(name)) == model.texts(name)
            assert all(one.is_intact for one in tier.reports())
        assert set(stored_texts(bucket)) <= model.may_be_stored()
        bucket.requests.clear()
        compact_all(tier_of(bucket), 0 if is_idle else 7200)
        assert bucket.requests["put"] == 0
