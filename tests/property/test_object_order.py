"""The order by last use of an archive on object storage, whatever is done to its sessions."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lix_cache.archive.catalogue import Place
from lix_cache.archive.facts import SessionMetadata
from lix_cache.archive.objects import snapshot
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.messages.turn import MessageId
from tests.contract.cold_tier import BASE_MS, append, delete, holding, turn
from tests.fault.test_object_faults import Memory, tier_of

NAMES = st.sampled_from(["a", "b", "c", "漢", "a b", "%64", "z" * 300])
STEPS = st.one_of(
    st.tuples(st.just("append"), NAMES, st.integers(0, 40)),
    st.tuples(st.just("delete"), NAMES, st.integers(0, 40)),
    st.tuples(st.just("clear"), NAMES, st.just(0)),
    st.tuples(st.just("lease"), NAMES, st.just(0)),
    st.tuples(st.sampled_from(["mark", "unmark"]), NAMES, st.just(0)),
    st.tuples(st.sampled_from(["compact", "collect", "look"]), st.just(""), st.just(0)),
)


def carried_out(tier: ObjectTier, kind: str, name: str, number: int) -> None:
    if kind == "append":
        append(tier, turn(number, nonce=number), session_id=name)
    elif kind == "delete":
        delete(tier, MessageId(BASE_MS + number, 0), session_id=name)
    elif kind == "compact":
        list(
            tier.compact_many([meta.session_id for meta in tier.all_metadata()], idle_seconds=0, bundle=True)
        )
    elif kind == "collect":
        tier.collect()
    elif kind == "look":
        pages(tier, 3)
    else:
        with holding(tier, name):
            if kind == "clear":
                tier.clear_locked(name)
            if kind == "mark":
                tier.mark_pending_locked(name)
            if kind == "unmark":
                tier.unmark_pending_locked(name)


def pages(tier: ObjectTier, count: int) -> list[tuple[Place, SessionMetadata]]:
    found: list[tuple[Place, SessionMetadata]] = []
    after = None
    while page := tier.by_last_use(count, after=after, wanted=lambda _: True):
        found += page
        after = page[-1][0]
    return found


@pytest.mark.promise("no-false-empty")
@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), STEPS), max_size=25), st.integers(1, 4), st.integers(2, 6))
def test_every_session_is_on_one_page_and_none_before_its_last_use(
    steps: list[tuple[bool, tuple[str, str, int]]], count: int, every: int
) -> None:
    bucket = Memory()
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(snapshot, "BLOCK_BYTES", 120)
        patched.setattr(snapshot, "RUN_BYTES", 60)
        tiers = [tier_of(bucket, snapshot_every=every, shards=2) for _ in range(2)]
        for first, step in steps:
            carried_out(tiers[first], *step)
        for tier in (*tiers, tier_of(bucket)):
            there = {meta.session_id: meta for meta in tier.all_metadata()}
            found = pages(tier, count)
            assert sorted(meta.session_id for _, meta in found) == sorted(there)
            assert all(later < earlier for (earlier, _), (later, _) in itertools.pairwise(found))
            for place, meta in found:
                own = there[meta.session_id]
                assert place.ms <= round(own.last_use * 1000)
                assert meta == replace(own, last_use=place.ms / 1000)
            # A mark is known without a look at the state.
            every = [(name, state) for _, name, state in tier._every_state()]
            assert sorted(tier.pending_sessions()) == sorted(name for name, state in every if state.pending)
            # What has gone idle is found by that order.
            now = tier.now()
            expired = tier.expired_sessions(-3600, now)
            assert sorted(expired) == sorted(there)
            assert tier.expired_sessions(3600, now) == []
