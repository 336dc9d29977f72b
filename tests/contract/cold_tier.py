"""What every cold tier must do: the docstrings of lix_cache/archive/cold_tier.py as tests.

An implementation is tested by a class that inherits :class:`ColdTierContract` and gives it two
fixtures; see ``test_cold_tier.py``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lix_cache.archive.cold_tier import ColdTier
from lix_cache.archive.expiry import DAY, Now
from lix_cache.archive.facts import CompactedSession, Extent, Marks, SessionMetadata, Summary
from lix_cache.archive.lease import Lease
from lix_cache.archive.tombstones import Deletion, note_name
from lix_cache.config import CacheConfig
from lix_cache.errors import ArchiveBusy, ArchiveUnavailable, RevisionMismatch
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, new_turn, sign_of_id, with_id
from lix_cache.session import changes, read, rounds, whole
from tests.support import CountingProxy
from tests.support.lab import Process, World

Make = Callable[..., ColdTier]
Refusing = Callable[[ColdTier], AbstractContextManager[object]]

BASE_MS = 1_700_000_000_000
SESSIONS = ["s", "../s", "S", "s/", "", "\0", "%73", ".s", "s.huff", "漢字", "x" * 3000]


def turn(number: int, text: Any = None, *, nonce: int | None = None) -> Turn:
    """Return the message of a number under an id of Redis."""
    own = (number if nonce is None else nonce).to_bytes(6, "big")
    made = new_turn("user", f"message {number}" if text is None else text, {"n": number}, None, None, own)
    return with_id(made, MessageId(BASE_MS + number, 0))


def said(turns: Iterable[Turn]) -> list[Any]:
    return [one.body["content"] for one in turns]


def holding(tier: ColdTier, session_id: str = "s") -> Lease:
    lease = tier.try_lock(session_id)
    assert lease is not None, "another process holds the lease"
    return lease


def append(tier: ColdTier, *turns: Turn, session_id: str = "s", **options: Any) -> int:
    with holding(tier, session_id):
        return tier.append_locked(session_id, turns, **options)


def delete(tier: ColdTier, *args: Any, session_id: str = "s") -> bool:
    with holding(tier, session_id):
        return tier.delete_locked(session_id, *args)


def compact(tier: ColdTier, session_id: str = "s", **options: Any) -> CompactedSession:
    [(found, done)] = tier.compact_many([session_id], **{"idle_seconds": 0, **options})
    assert found == session_id
    assert isinstance(done, CompactedSession)
    return done


def long_after(days: float) -> Now:
    """Return a time so many days after all that the tests did."""
    import time

    then = time.time() + days * DAY
    return Now(then, then)


class ColdTierContract:
    """Inherit it and override both fixtures."""

    @pytest.fixture
    def make(self, tmp_path: Path) -> Make:
        """Makes tiers of one location, each as another process has it; takes ``lock_timeout_seconds``."""
        raise NotImplementedError

    @pytest.fixture
    def refusing(self, make: Make) -> Refusing:
        """While it is entered, the tier's storage refuses every write."""
        raise NotImplementedError

    @pytest.fixture
    def tier(self, make: Make) -> ColdTier:
        return make()

    # -- appending and reading ------------------------------------------------------------

    @pytest.mark.promise("no-false-empty")
    def test_a_unused_session_is_empty(self, tier: ColdTier) -> None:
        assert not tier.exists("s")
        assert tier.turns("s") == tier.recent("s", 5) == []
        assert tier.summary("s") == Summary()
        assert tier.look("s") == Extent()
        assert tier.contested("s") == {}
        assert tier.metadata("s") is None
        assert tier.pending_sessions() == list(tier.all_metadata()) == list(tier.trashed()) == []
        assert tier.deleted_up_to("s") == ZERO_ID
        with holding(tier):
            assert tier.find_nonces_locked("s", [b"absent"]) == {}
            tier.clear_locked("s")
            tier.unmark_pending_locked("s")
            assert not tier.restore_locked("s")
            assert not tier.delete_locked("s")
            assert tier.append_locked("s", []) == 0
        assert not tier.exists("s"), "nothing of this makes a session"

    @pytest.mark.promise("no-loss")
    def test_what_was_appended_is_there_for_others_when_it_returns(self, make: Make) -> None:
        vector = np.array([0.25, -1.0], np.float32)
        body = new_turn("tool", {"deep": [1, None, "é🙂"]}, {"k": "v"}, vector, None, b"nonces")
        turns = [turn(1), turn(2), with_id(body, MessageId(BASE_MS + 2, 7))]
        assert append(make(), *turns) == 3
        found = make().turns("s")
        assert [(t.id, t.body, t.nonce, t.vector) for t in found] == [
            (t.id, t.body, t.nonce, t.vector) for t in turns
        ]
        assert make().exists("s")

    @pytest.mark.promise("no-loss")
    def test_turns_come_back_in_the_order_of_their_ids(self, tier: ColdTier) -> None:
        for numbers in ((5, 3), (4,), (9, 1)):
            append(tier, *map(turn, numbers))
        assert [t.body["metadata"]["n"] for t in tier.turns("s")] == [1, 3, 4, 5, 9]
        for count in (1, 3, 5, 50):
            assert tier.recent("s", count) == tier.turns("s")[-count:]
        assert tier.recent("s", 0) == []

    @pytest.mark.promise("no-loss")
    def test_an_append_that_is_repeated_adds_nothing(self, make: Make) -> None:
        first = [turn(n) for n in range(5)]
        assert append(make(), *first) == 5
        assert append(make(), *first[2:], turn(5)) == 1
        assert append(make(), *first, turn(5), from_window=True) == 0
        assert make().turns("s") == [*first, turn(5)]

    @pytest.mark.promise("no-loss")
    def test_two_messages_under_one_id_both_stay(self, tier: ColdTier) -> None:
        append(tier, turn(1), turn(2))
        other = with_id(turn(1, "of another server", nonce=77), turn(1).id)
        assert append(tier, other) == 1
        assert append(tier, other) == 0, "it is recognised under its new id"
        found = tier.turns("s")
        assert said(found) == ["message 1", "of another server", "message 2"]
        assert len({one.id for one in found}) == 3

    @pytest.mark.promise("no-loss")
    def test_a_contested_message_is_recognised_under_another_id(self, tier: ColdTier) -> None:
        append(tier, turn(1))
        append(tier, turn(8), contested=True)
        append(tier, *(turn(n) for n in range(10, 15)))
        copy = with_id(turn(8), MessageId(BASE_MS + 20, 0))
        assert append(tier, copy, turn(21), from_window=True) == 1
        assert copy.nonce is not None
        assert tier.contested("s")[copy.nonce] == turn(8).id
        assert tier.look("s").contested[copy.nonce] == turn(8).id

    @pytest.mark.promise("no-loss")
    def test_many_sessions_are_appended_to_each_by_itself(self, make: Make) -> None:
        tier = make()
        append(tier, turn(1), session_id="old")
        batch = {"old": [turn(1), turn(2)], "new": [turn(3)], "same": [turn(3)], "none": []}
        # Sessions with one key share a lease.
        leases = {tier.lock_key(session_id): session_id for session_id in batch}
        held = [holding(tier, session_id) for session_id in leases.values()]
        assert tier.append_many_locked(batch, {"new": {turn(3).nonce or b""}}) == {
            "old": 1,
            "new": 1,
            "same": 1,
            "none": 0,
        }
        assert tier.append_many_locked(batch) == dict.fromkeys(batch, 0)
        for lease in held:
            lease.release()
        later = make()
        assert {s: said(later.turns(s)) for s in batch} == {s: said(batch[s]) for s in batch}
        assert turn(3).nonce in later.contested("new")

    def test_a_part_of_a_session_is_what_lies_between_two_ids(self, make: Make) -> None:
        tier = make()
        for n in range(0, 30, 3):
            append(tier, turn(n + 1), turn(n + 2), turn(n + 3))
        every = make().turns("s")
        for count in (0, 1, 4, 100):
            for first, last in ((0, 30), (4, 9), (10, 11), (29, 30), (12, 12)):
                after, before = turn(first).id, turn(last).id
                there = [one for one in every if after < one.id < before]
                newest = tier.between("s", count, after=after, before=before, newest=True)
                oldest = tier.between("s", count, after=after, before=before, newest=False)
                assert said(newest) == said(there[-count:] if count else [])
                assert said(oldest) == said(there[:count])
        assert tier.between("other", 5, newest=True) == []

    @pytest.mark.promise("no-loss")
    def test_what_an_outage_added_again_yields_to_the_first_copy(self, make: Make) -> None:
        tier = make()
        append(tier, turn(1))
        with holding(tier, "s"):
            first, new = tier.append_outage_locked("s", [turn(2), turn(9)], contested=False, keyed=True)
            late, _ = tier.append_outage_locked("s", [turn(8)], contested=False, keyed=True)
        # Redis took one before the outage, and carries one out when it goes on.
        came_late = with_id(turn(8), MessageId(late[0].ms + 1, 0))
        assert append(make(), turn(2), turn(3), came_late, from_window=True) == 1
        for later in (tier, make()):
            assert [one.id for one in later.turns("s")] == [turn(n).id for n in (1, 2, 3)] + [first[1], *late]
            known = later.look("s").contested
            assert known[sign_of_id(first[0])] == turn(2).id
            assert known[sign_of_id(came_late.id)] == late[0]
            assert said(later.between("s", 2, newest=True)) == said([turn(9), turn(8)])
            with holding(later, "s"):
                assert later.find_nonces_locked("s", [turn(2).nonce or b""]) == {turn(2).nonce: turn(2).id}
        assert append(make(), turn(2), turn(3), came_late, from_window=True) == 0
        assert new == 2

    @pytest.mark.promise("no-loss")
    def test_what_an_outage_added_twice_is_there_once(self, make: Make) -> None:
        tier = make()
        with holding(tier, "s"):
            first, new = tier.append_outage_locked("s", [turn(1), turn(2)], contested=True)
            again, added = tier.append_outage_locked("s", [turn(2), turn(3)], contested=True)
        assert (new, added) == (2, 1)
        assert again[0] == first[1] < again[1]
        assert len(make().turns("s")) == 3

    @pytest.mark.promise("no-loss")
    def test_threads_that_append_to_one_session_lose_nothing(self, make: Make) -> None:
        def work(worker: int) -> None:
            tier = make()
            for n in range(8):
                number = worker * 100 + n
                while (lease := tier.try_lock("s")) is None:
                    pass
                with lease:
                    tier.append_locked("s", [turn(number)])

        threads = [threading.Thread(target=work, args=(worker,)) for worker in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        expected = [f"message {worker * 100 + n}" for worker in range(4) for n in range(8)]
        assert said(make().turns("s")) == expected

    def test_a_summary_tells_what_the_archive_holds(self, tier: ColdTier) -> None:
        append(tier, turn(1), turn(2))
        append(tier, turn(9))
        assert tier.summary("s") == Summary(total=3, newest=turn(9).id)
        meta = tier.metadata("s")
        assert isinstance(meta, SessionMetadata)
        assert (meta.session_id, meta.num_turns) == ("s", 3)
        assert meta.size_bytes > 0
        assert meta.created_at <= meta.updated_at
        assert [one.session_id for one in tier.all_metadata()] == ["s"]
        with holding(tier):
            wanted = turn(2).nonce or b""
            assert tier.find_nonces_locked("s", [wanted, b"absent"]) == {wanted: turn(2).id}
            assert tier.find_nonces_locked("s", [b"absent"]) == {}
            # The holder reads as all do.
            assert tier.turns("s", locked=True) == tier.turns("s")
            assert tier.recent("s", 2, locked=True) == tier.turns("s")[-2:]
            assert tier.summary("s", locked=True) == tier.summary("s")
            assert tier.look("s", locked=True) == tier.look("s")
            assert tier.metadata("s", locked=True) == meta

    def test_the_last_use_is_that_of_the_last_message_or_change_and_not_of_the_append(
        self, tier: ColdTier
    ) -> None:
        append(tier, turn(1), turn(2))
        append(tier, turn(5))
        (listed,) = tier.all_metadata()
        assert listed.last_use == turn(5).id.timestamp < listed.updated_at
        assert listed == tier.metadata("s")
        before = time.time()
        with holding(tier):
            tier.clear_locked("s")
        (listed,) = tier.all_metadata()
        assert before - 0.001 <= listed.last_use <= time.time()
        with holding(tier):
            tier.take_out_locked("s", tier.turns("s")[:1])
        (changed,) = tier.all_metadata()
        assert changed.last_use >= listed.last_use

    @staticmethod
    def _pages(tier: ColdTier, count: int, between: Callable[[], None] = lambda: None) -> list[str]:
        found: list[str] = []
        after = None
        while page := tier.by_last_use(count, after=after, wanted=lambda _: True):
            assert len(page) <= count
            found += [meta.session_id for _, meta in page]
            after = page[-1][0]
            between()
        return found

    def test_sessions_are_listed_by_their_last_use_some_at_a_time(self, make: Make) -> None:
        tier = make()
        uses = {"old": 1, "漢": 5, "a b": 9, "%64": 4, "young": 12, "twin": 9}
        for session_id, number in uses.items():
            append(make(), turn(0), turn(number), session_id=session_id)
        wanted = ["young", "twin", "a b", "漢", "%64", "old"]
        for count in (1, 2, 3, 10):
            assert self._pages(tier, count) == wanted
        some = tier.by_last_use(10, wanted=lambda one: one in ("old", "漢"))
        assert [meta.session_id for _, meta in some] == ["漢", "old"]
        place, meta = some[0]
        assert place == (turn(5).id.ms, "漢".encode())
        assert meta == tier.metadata("漢")

    @pytest.mark.promise("no-false-empty")
    def test_what_changes_between_two_pages_hides_no_other_session(self, make: Make) -> None:
        tier, steps = make(), iter(range(4))
        for number in range(8):
            append(make(), turn(10 * number), session_id=f"s{number}")

        def between() -> None:
            step = next(steps, None)
            if step == 0:
                # By another process: one to the front, one that is new, one that goes.
                append(make(), turn(200), session_id="s1")
                append(make(), turn(25), session_id="new")
                delete(make(), session_id="s3")
            if step == 1:
                delete(make(), session_id="s2")
                append(make(), turn(5), session_id="s2")

        found = self._pages(tier, 2, between)
        assert found[:4] == ["s7", "s6", "s5", "s4"]
        assert {"new", "s0"} <= set(found) <= {"s7", "s6", "s5", "s4", "new", "s2", "s0"}
        assert len(set(found)) == len(found)
        assert self._pages(tier, 3)[0] == "s1"

    # -- isolation --------------------------------------------------------------------------

    @pytest.mark.promise("isolation")
    def test_no_session_reaches_another(self, tier: ColdTier) -> None:
        named = [session_id for session_id in SESSIONS if session_id]
        for number, session_id in enumerate(named):
            append(tier, turn(number), session_id=session_id)
            with holding(tier, session_id):
                tier.mark_pending_locked(session_id)
        for number, session_id in enumerate(named):
            assert said(tier.turns(session_id)) == [f"message {number}"]
        assert sorted(meta.session_id for meta in tier.all_metadata()) == sorted(named)
        assert sorted(tier.pending_sessions()) == sorted(named)
        for number, session_id in enumerate(named):
            assert delete(tier, MessageId(BASE_MS + 50, 0), session_id=session_id)
            rest = named[number + 1 :]
            assert sorted(meta.session_id for meta in tier.all_metadata()) == sorted(rest)
            assert all(tier.deleted_up_to(other) == ZERO_ID for other in rest)
            assert sorted(tier.pending_sessions()) == sorted(rest)

    # -- leases -----------------------------------------------------------------------------

    @pytest.mark.promise("no-loss")
    def test_a_lease_has_one_holder(self, make: Make) -> None:
        one, other = make(), make()
        lease = holding(one)
        assert lease.is_held
        assert one.try_lock("s") is None
        assert other.try_lock("s") is None
        lease.release()
        assert not lease.is_held
        lease.release()
        second = holding(other)
        lease.release()
        assert second.is_held
        assert one.try_lock("s") is None, "letting go twice takes nothing from the next holder"
        with second:
            pass
        assert not second.is_held

    def test_who_waits_for_a_lease_gives_up_in_time(self, make: Make) -> None:
        tier = make(lock_timeout_seconds=0.05)
        pauses = list(tier.lock_pauses())
        assert pauses[0] == 0
        assert all(pause > 0 for pause in pauses[1:])
        assert sum(pauses) > 0.05
        assert isinstance(tier.busy_error("s"), ArchiveBusy)
        assert len(list(make(lock_timeout_seconds=0).lock_pauses())) == 2

    # -- what all processes agree on -----------------------------------------------------------

    @pytest.mark.promise("no-loss")
    def test_the_first_note_stays(self, make: Make) -> None:
        assert make().setting("a") is None
        assert make().note_setting("a", "1") == "1"
        assert make().note_setting("a", "2") == make().setting("a") == "1"
        assert make().setting("A") is make().setting("../a") is None
        assert make().note_setting("a", "3", anew=True) == make().setting("a") == "3"
        assert list(make().all_metadata()) == make().pending_sessions() == []

    # -- outages ------------------------------------------------------------------------------

    @pytest.mark.promise("no-loss")
    def test_a_message_of_an_outage_gets_an_id_that_is_larger_than_all(self, make: Make) -> None:
        tier = make()
        far = MessageId(BASE_MS * 2, 3)
        append(tier, with_id(turn(1), far))
        with holding(tier):
            [first], _ = tier.append_outage_locked("s", [turn(2)], contested=False)
            beyond = MessageId(first.ms + 10, 0)
            [second], _ = tier.append_outage_locked("s", [turn(3)], contested=True, after=beyond)
        assert far < first < beyond < second
        assert said(make().turns("s")) == ["message 1", "message 2", "message 3"]
        assert make().is_pending("s")
        assert make().pending_sessions() == ["s"]
        assert list(make().contested("s").values()) == [second]
        with holding(tier):
            tier.unmark_pending_locked("s")
        assert not make().is_pending("s")
        assert make().pending_sessions() == []

    @pytest.mark.promise("no-loss")
    def test_a_message_of_an_outage_comes_after_a_deletion(self, tier: ColdTier) -> None:
        gone = MessageId(BASE_MS * 2, 0)
        delete(tier, gone)
        with holding(tier):
            assert tier.append_outage_locked("s", [turn(2)], contested=False)[0][0] > gone
        assert said(tier.turns("s")) == ["message 2"]

    # -- clearing and deleting ------------------------------------------------------------------

    @pytest.mark.promise("no-loss")
    def test_what_was_cleared_stays_in_the_history(self, make: Make) -> None:
        tier = make()
        append(tier, turn(1), turn(2))
        for _ in range(2):
            with holding(tier):
                tier.clear_locked("s")
        assert make().recent("s", 5, in_context=True) == []
        assert len(make().recent("s", 5)) == len(make().turns("s")) == 2
        assert make().look("s").cleared == make().summary("s").cleared == turn(2).id
        append(tier, turn(3))
        assert said(make().recent("s", 5, in_context=True)) == ["message 3"]
        assert make().summary("s").cleared == turn(2).id

    # -- taking out ------------------------------------------------------------------------

    @pytest.mark.promise("no-loss")
    @pytest.mark.parametrize("compacted", [False, True])
    def test_what_was_taken_out_is_gone_for_readers_and_does_not_come_back(
        self, make: Make, compacted: bool
    ) -> None:
        tier = make()
        append(tier, *(turn(n) for n in range(1, 7)))
        new = with_id(turn(5, "edited", nonce=500), turn(5).id)
        with holding(tier):
            # One of them is in Redis alone.
            tier.take_out_locked("s", [turn(2), turn(9)])
            tier.take_out_locked("s", [turn(5)], new)
        if compacted:
            assert compact(tier).is_changed
        expected = ["message 1", "message 3", "message 4", "edited", "message 6"]
        late = make()
        assert said(late.turns("s")) == expected
        assert said(late.recent("s", 3)) == expected[-3:]
        assert said(late.between("s", 2, after=turn(1).id, newest=False)) == expected[1:3]
        assert said(late.between("s", 2, before=turn(6).id, newest=True)) == expected[2:4]
        assert late.summary("s").total == 5
        assert late.summary("s").changes == 2
        meta = late.metadata("s")
        assert meta is not None
        assert meta.num_turns == 5
        # The largest id that was given: also of one that never came here.
        assert late.look("s").given == turn(9).id
        contested = late.look("s").contested
        assert [contested[one.nonce or b""] for one in (turn(2), turn(5), turn(9))] == [ZERO_ID] * 3
        with holding(late):
            found = late.find_nonces_locked("s", [turn(2).nonce or b"", turn(9).nonce or b""])
        assert sorted(found.values()) == [turn(2).id, turn(9).id]
        # Whatever brings them: a window, an add that was late, an outage.
        copies = [turn(2), turn(5), turn(9), new, turn(6)]
        assert append(late, *copies, from_window=True) == 0
        assert append(late, *copies) == 0
        assert said(make().turns("s")) == expected

    @pytest.mark.promise("no-loss")
    @pytest.mark.parametrize("compacted", [False, True])
    def test_what_was_replaced_does_not_come_back_from_a_window(self, make: Make, compacted: bool) -> None:
        tier = make()
        append(tier, *(turn(n) for n in range(1, 5)))
        with holding(tier):
            ids = tier.replace_locked("s", [turn(90, "new"), turn(91, "newer")], 50)
        if compacted:
            compact(tier)
        assert turn(4).id < ids[0] < ids[1] < turn(5).id
        assert tier.look("s").deleted == turn(4).id
        assert append(tier, turn(2), turn(4), from_window=True) == 0
        assert append(tier, turn(5), from_window=True) == 1
        assert said(make().turns("s")) == ["new", "newer", "message 5"]
        with holding(tier):
            assert tier.replace_locked("s", [], 50) == []
        assert make().turns("s") == []
        assert make().summary("s").total == 0
        assert make().look("s").newest >= turn(5).id

    @pytest.mark.promise("no-loss")
    def test_what_was_deleted_does_not_come_back_from_a_window(self, make: Make) -> None:
        tier = make()
        append(tier, turn(1), turn(2), contested=True)
        late = b"latest"
        assert delete(tier, turn(5).id, {late})
        assert not delete(tier)
        assert make().turns("s") == []
        assert make().metadata("s") is None
        assert make().deleted_up_to("s") == make().look("s").deleted == turn(5).id
        assert make().look("s").newest == turn(5).id
        nonces = {turn(1).nonce, turn(2).nonce, late}
        assert make().contested("s") == dict.fromkeys(nonces, ZERO_ID)
        again = [turn(1), turn(4), with_id(turn(2), turn(9).id), with_id(turn(8), turn(8).id)]
        assert append(tier, *again, from_window=True) == 1
        assert said(make().turns("s")) == ["message 8"]
        # What is added now is no copy of what was deleted.
        assert append(tier, turn(3)) == 1
        assert tier.forget_deletions(turn(5).id.ms) == 0
        assert tier.forget_deletions(turn(6).id.ms) == 1
        assert make().look("s").deleted == ZERO_ID

    # -- what another archive takes over ---------------------------------------------------

    @pytest.mark.promise("no-loss")
    def test_marks_that_were_taken_over_are_as_good_as_its_own(self, make: Make) -> None:
        one = make()
        append(one, *(turn(n) for n in range(6)))
        with holding(one):
            one.take_out_locked("s", [turn(2), turn(9)])
            one.clear_locked("s")
            one.mark_pending_locked("s")
            one.append_outage_locked("s", [turn(30, nonce=30)], contested=True, keyed=True)
        marks = make().marks("s")
        assert marks.pending
        with holding(one, "other"):
            one.append_locked("other", one.turns("s"))
            assert one.mark_many_locked({"other": marks}) == {}
            assert one.mark_many_locked({"other": marks}) == {}, "again: it is all there"
        two = make()
        assert marks.lacking(two.marks("other")) == Marks()
        assert two.contested("other") == two.contested("s")
        assert two.look("other").repeats == two.look("s").repeats == {(30).to_bytes(6, "big")}
        assert two.look("other").given == two.look("s").given
        assert said(two.recent("other", 9, in_context=True)) == said(two.recent("s", 9, in_context=True))
        assert set(two.pending_sessions()) == {"s", "other"}
        assert two.turns("other") == two.turns("s")
        assert append(two, turn(2), turn(9), session_id="other", from_window=True) == 0
        with holding(two, "other"):
            found = two.find_nonces_locked("other", [(2).to_bytes(6, "big"), (9).to_bytes(6, "big")])
        assert sorted(found.values()) == [turn(2).id, turn(9).id]
        # The first copy still takes the place of the one that was sent again.
        for name in ("s", "other"):
            append(two, turn(7, nonce=30), session_id=name, from_window=True)
        assert [t.id for t in two.turns("other")] == [t.id for t in two.turns("s")]
        assert turn(7).id in [t.id for t in make().turns("other")]

    @pytest.mark.promise("no-loss")
    def test_marks_of_a_session_without_messages_make_it(self, make: Make) -> None:
        one = make()
        marks = {
            "cleared": Marks(cleared=turn(3).id),
            "dropped": Marks(dropped=turn(3).id),
            "marked": Marks(pending=True),
        }
        for name, own in marks.items():
            with holding(one, name):
                assert one.mark_many_locked({name: own}) == {}
        assert {name: make().marks(name) for name in marks} == marks
        assert {meta.session_id for meta in make().all_metadata()} == {"cleared", "dropped"}
        assert append(make(), turn(3), turn(4), session_id="dropped", from_window=True) == 1
        append(make(), turn(3), turn(4), session_id="cleared")
        assert said(make().recent("cleared", 9, in_context=True)) == ["message 4"]

    @pytest.mark.promise("no-loss")
    @pytest.mark.parametrize("is_emptied", [False, True])
    def test_a_session_that_is_renewed_is_what_was_given(self, make: Make, is_emptied: bool) -> None:
        one = make()
        append(one, *(turn(n) for n in range(6)))
        with holding(one):
            one.take_out_locked("s", [turn(2)])
            one.clear_locked("s")
        before = one.summary("s")
        # What was there, and what was taken out, comes again under other ids.
        turns = [] if is_emptied else [turn(11, nonce=1), turn(12, nonce=2), turn(13)]
        gone = {(5).to_bytes(6, "big"): MessageId(turn(5).id.ms | 1 << 63, 0)}
        marks = Marks(turn(11).id, turn(10).id, {**gone, (13).to_bytes(6, "big"): turn(13).id}, pending=True)
        for _ in range(2):
            with holding(one):
                one.renew_locked("s", turns, marks)
            two = make()
            assert two.turns("s") == two.recent("s", 9) == turns
            assert said(two.recent("s", 9, in_context=True)) == said(turns)[1:]
            assert two.marks("s") == marks
            assert two.summary("s").total == len(turns)
            assert two.summary("s").changes > before.changes, "the revision tells of it"
            assert compact(two).is_changed in (False, True)
        assert append(two, turn(5), turn(7), turn(13), turn(14), from_window=True) == 1 + is_emptied
        assert said(make().turns("s"))[-1] == "message 14"
        assert said(make().turns("s"))[: len(turns)] == said(turns)

    @pytest.mark.promise("no-loss")
    def test_a_deletion_that_was_taken_over_keeps_what_comes_late(self, make: Make) -> None:
        one = make()
        # Of a session that is there, and of ones that never were.
        append(one, turn(1), turn(8), session_id="here")
        notes = {
            note_name("away"): Deletion(turn(5).id, frozenset({(7).to_bytes(6, "big")})),
            note_name("far"): Deletion(turn(9).id),
            note_name("here"): Deletion(turn(6).id),
        }
        assert one.take_deletions(notes) == 3
        assert make().take_deletions(notes) == 0, "again: nothing is new"
        assert dict(make().deletions()) == notes
        two = make()
        assert two.deleted_up_to("away") == two.look("away").forgotten == turn(5).id
        assert set(two.contested("away")) == {(7).to_bytes(6, "big")}
        assert said(two.turns("here")) == ["message 1", "message 8"]
        assert append(two, turn(2), session_id="here", from_window=True) == 0
        assert append(two, turn(5), turn(7), session_id="away", from_window=True) == 0
        assert append(two, turn(6), session_id="away", from_window=True) == 1
        assert append(make(), turn(4), session_id="away", from_window=True) == 0
        assert two.take_deletions({note_name("away"): Deletion(turn(3).id)}) == 0, "less than it knows"
        assert two.take_deletions({note_name("far"): Deletion(turn(10).id)}) == 1
        delete(two, turn(8).id, session_id="here")
        assert dict(make().deletions())[note_name("here")].up_to == turn(8).id
        assert make().forget_deletions(turn(5).id.ms) == 0
        assert make().forget_deletions(turn(99).id.ms) >= 3
        assert list(make().deletions()) == []
        assert make().deleted_up_to("far") == make().deleted_up_to("away") == ZERO_ID

    @pytest.mark.promise("no-loss")
    @pytest.mark.parametrize("bundle", [False, True])
    def test_many_sessions_are_compacted_beside_what_is_in_use(self, make: Make, bundle: bool) -> None:
        names = [f"s{n}" for n in range(6)]
        for name in names:
            for number in range(3):
                append(make(), turn(number, f"{name} {number}"), session_id=name)
        tier = make()
        before = {name: tier.turns(name) for name in names}
        wanted = {"idle_seconds": 0, "bundle": bundle}
        with holding(make(), "s2"):
            dry = dict(tier.compact_many([*names, "nobody"], **wanted, dry_run=True))
            assert {name: make().turns(name) for name in names} == before
            found = dict(tier.compact_many([*names, "nobody"], **wanted))
        assert found == dry
        assert [name for name, done in found.items() if done.is_changed] == ["s0", "s1", "s3", "s4", "s5"]
        assert [name for name, done in found.items() if done.is_active] == ["s2"]
        assert {name: make().turns(name) for name in names} == before
        recent = dict(make().compact_many(names, idle_seconds=3600, bundle=bundle))
        assert not any(done.is_changed for done in recent.values())
        for name in names:
            assert append(make(), *before[name], turn(9), session_id=name) == 1

    @pytest.mark.promise("no-loss")
    def test_compaction_keeps_every_message(self, make: Make) -> None:
        tier = make()
        for n in range(6):
            append(tier, turn(n), contested=n == 2)
        with holding(tier):
            tier.clear_locked("s")
        append(tier, turn(6))
        before, extent = tier.turns("s"), tier.look("s")
        assert compact(tier, idle_seconds=3600).is_active
        dry = compact(tier, dry_run=True)
        assert dry.is_changed
        assert dry.frames_after < dry.frames_before
        assert compact(tier) == dry
        assert not compact(tier).is_changed
        assert not compact(tier, "nobody").is_changed
        assert make().turns("s") == before
        assert make().look("s") == extent
        assert said(make().recent("s", 9, in_context=True)) == ["message 6"]
        assert append(tier, *before) == 0

    # -- expiry -------------------------------------------------------------------------------

    @pytest.mark.promise("no-loss")
    def test_what_has_expired_can_be_taken_back(self, make: Make) -> None:
        tier = make()
        append(tier, turn(1), turn(2))
        append(tier, turn(3), session_id="other")
        assert tier.expired_sessions(10 * DAY, tier.now()) == []
        later = long_after(11)
        assert sorted(tier.expired_sessions(10 * DAY, later)) == ["other", "s"]
        with holding(tier):
            assert not tier.expire_locked("s", 10 * DAY, tier.now(), to_trash=True)
            assert tier.expire_locked("s", 10 * DAY, later, to_trash=True)
            assert not tier.expire_locked("s", 10 * DAY, later, to_trash=True)
        assert not make().exists("s")
        assert [one.session_id for one in make().trashed()] == ["s"]
        assert make().empty_trash(later, 7) == 0
        append(tier, turn(2), turn(4))
        with holding(tier):
            assert tier.restore_locked("s")
            assert not tier.restore_locked("s")
        assert said(make().turns("s")) == ["message 1", "message 2", "message 4"]
        assert list(make().trashed()) == []
        assert said(make().turns("other")) == ["message 3"]

    @pytest.mark.promise("no-loss")
    @pytest.mark.parametrize("is_empty", [True, False])
    def test_a_session_that_is_taken_back_keeps_what_is_known_of_its_changes(
        self, make: Make, is_empty: bool
    ) -> None:
        tier = make()
        append(tier, turn(1), turn(2))
        with holding(tier):
            tier.take_out_locked("s", [turn(1), turn(2)])
            assert tier.expire_locked("s", 10 * DAY, long_after(11), to_trash=True)
        append(tier, turn(4), turn(5))
        with holding(tier):
            tier.take_out_locked("s", [turn(5), *([turn(4)] if is_empty else [])])
            assert tier.restore_locked("s")
        late = make()
        assert said(late.turns("s")) == ([] if is_empty else ["message 4"])
        assert late.summary("s").changes == 2
        extent = late.look("s")
        assert extent.given == turn(5).id
        gone = [turn(1), turn(2), turn(5), *([turn(4)] if is_empty else [])]
        assert {nonce for nonce, said_of in extent.contested.items() if said_of == ZERO_ID} == {
            one.nonce for one in gone
        }
        # A window that still holds them adds nothing.
        with holding(late):
            late.append_many_locked({"s": [turn(1), turn(2), turn(5)]})
        assert said(make().turns("s")) == ([] if is_empty else ["message 4"])

    def test_what_stays_in_the_trash_goes_for_good(self, tier: ColdTier) -> None:
        append(tier, turn(1))
        append(tier, turn(1), session_id="no trash")
        later = long_after(11)
        with holding(tier):
            assert tier.expire_locked("s", 10 * DAY, later, to_trash=True)
        with holding(tier, "no trash"):
            assert tier.expire_locked("no trash", 10 * DAY, later, to_trash=False)
        with holding(tier):
            assert tier.empty_trash(long_after(20), 7) == 0, "its lease is held"
        assert tier.empty_trash(long_after(20), 7) == 1
        assert list(tier.trashed()) == []
        with holding(tier):
            assert not tier.restore_locked("s")

    def test_a_deletion_takes_what_is_in_the_trash(self, tier: ColdTier) -> None:
        append(tier, turn(1))
        with holding(tier):
            tier.expire_locked("s", DAY, long_after(2), to_trash=True)
            assert tier.delete_locked("s")
            assert not tier.restore_locked("s")

    # -- what follows the archive -----------------------------------------------------------

    @pytest.fixture
    def changing(self, make: Make) -> list[tuple[str, Callable[[], object]]]:
        """Everything that changes a session, in an order in which each does."""
        tier = make()

        def locked(work: Callable[[], object]) -> object:
            with holding(tier):
                return work()

        return [
            ("append", lambda: append(tier, turn(1), turn(2))),
            ("append of a window", lambda: locked(lambda: tier.append_many_locked({"s": [turn(3)]}))),
            ("outage", lambda: locked(lambda: tier.append_outage_locked("s", [turn(4)], contested=False))),
            ("clear", lambda: locked(lambda: tier.clear_locked("s"))),
            ("take out", lambda: locked(lambda: tier.take_out_locked("s", [turn(9)]))),
            ("compact", lambda: compact(tier)),
            (
                "expire",
                lambda: locked(lambda: tier.expire_locked("s", DAY, long_after(60 * 365), to_trash=True)),
            ),
            ("restore", lambda: locked(lambda: tier.restore_locked("s"))),
            ("delete", lambda: delete(tier)),
        ]

    def test_a_hook_hears_of_every_change_when_it_is_durable(
        self, make: Make, changing: list[tuple[str, Callable[[], object]]]
    ) -> None:
        heard: list[tuple[frozenset[str], list[Any]]] = []
        changes = make().changes
        unfollow = changes.follow(lambda ids: heard.append((ids, said(make().turns("s")))))
        expected = ["message 1", "message 2"]
        for number, (what, change) in enumerate(changing):
            expected += {1: ["message 3"], 2: ["message 4"]}.get(number, [])
            change()
            assert changes.wait(30)
            there = [] if what in ("expire", "delete") else expected
            assert (frozenset({"s"}), there) in heard, what
            heard.clear()
        unfollow()
        append(make(), turn(1))
        assert changes.wait(30)
        assert heard == []

    def test_several_sessions_of_one_append_are_all_heard_of(self, make: Make) -> None:
        tier, heard = make(), set[str]()
        unfollow = tier.changes.follow(heard.update)
        batch = {f"session {n}": [turn(n)] for n in range(5)}
        leases = [holding(tier, s) for s in {tier.lock_key(s): s for s in batch}.values()]
        tier.append_many_locked(batch)
        for lease in leases:
            lease.release()
        assert tier.changes.wait(30)
        unfollow()
        assert heard == set(batch)

    @pytest.mark.promise("no-loss")
    @pytest.mark.promise("no-stall")
    def test_a_hook_that_fails_or_hangs_keeps_nothing(
        self, make: Make, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("lix_cache.archive.changes.MOST_WAITING", 4)
        tier, changes = make(), make().changes
        heard: list[frozenset[str]] = []
        began, go_on = threading.Event(), threading.Event()

        def hangs(_: frozenset[str]) -> None:
            began.set()
            assert go_on.wait(30)
            raise ValueError("secret of a hook")

        def ends(_: frozenset[str]) -> None:
            raise SystemExit

        stops = [changes.follow(hook) for hook in (hangs, ends, heard.append)]
        append(tier, turn(0), session_id="first")
        assert began.wait(30)
        for n in range(10):
            append(tier, turn(n), session_id=f"session {n}")
            with holding(tier, f"session {n}"):
                assert tier.delete_locked(f"session {n}")
        assert not changes.wait(0.01)
        go_on.set()
        assert changes.wait(30)
        for stop in stops:
            stop()
        assert heard[0] == {"first"}
        assert frozenset() in heard, "more than could be remembered: compare the stamps"
        assert changes.counters["hook_failures"] == 2 * len(heard)
        assert changes.counters["hook_overflows"] >= 1
        assert "secret" not in str(changes.last_error)
        assert said(make().turns("first")) == ["message 0"]

    @pytest.mark.promise("no-loss")
    def test_what_a_hook_missed_is_found_by_the_stamps(
        self, make: Make, changing: list[tuple[str, Callable[[], object]]]
    ) -> None:
        append(make(), turn(1), session_id="other")
        known = dict(make().stamps())
        assert list(known) == ["other"]
        for what, change in changing:
            change()
            now = dict(make().stamps())
            assert now.get("s") != known.get("s") or what == "delete", what
            assert ("s" in now) == (what not in ("expire", "delete"))
            assert now["other"] == known["other"]
            assert dict(make().stamps()) == now, "reading changes no stamp"
            known = now

    @pytest.mark.promise("isolation")
    def test_each_session_has_a_stamp_of_its_own(self, tier: ColdTier) -> None:
        named = [session_id for session_id in SESSIONS if session_id]
        for session_id in named:
            append(tier, turn(1), session_id=session_id)
        assert sorted(one.session_id for one in tier.stamps()) == sorted(named)

    # -- trouble --------------------------------------------------------------------------------

    @pytest.mark.promise("no-false-empty")
    def test_a_storage_that_refuses_is_an_error_and_changes_nothing(
        self, make: Make, refusing: Refusing
    ) -> None:
        tier = make()
        tier.check_writable()
        append(tier, turn(1), turn(2))
        append(tier, turn(1), session_id="t")
        lease, other = holding(tier), holding(tier, "t")
        with refusing(tier):
            with pytest.raises(ArchiveUnavailable):
                tier.check_writable()
            for change in (
                lambda: tier.append_locked("s", [turn(3)]),
                lambda: tier.append_outage_locked("s", [turn(3)], contested=False),
                lambda: tier.clear_locked("s"),
            ):
                with pytest.raises(ArchiveUnavailable):
                    change()
            failed = tier.append_many_locked({"s": [turn(3)], "t": [turn(3)]})
            assert [type(one) for one in failed.values()] == [ArchiveUnavailable] * 2
        assert said(tier.turns("s")) == ["message 1", "message 2"]
        assert tier.append_many_locked({"s": [turn(3)], "t": [turn(3)]}) == {"s": 1, "t": 1}
        lease.release()
        other.release()
        assert said(make().turns("s")) == ["message 1", "message 2", "message 3"]
        assert said(make().recent("s", 9, in_context=True)) == said(make().turns("s"))

    # -- the flows --------------------------------------------------------------------------------

    @pytest.fixture
    def config(self, redis_config: CacheConfig) -> CacheConfig:
        return redis_config.replace(hot_window_size=4, archive_batch_turns=2)

    @pytest.fixture
    def process(self, make: Make, config: CacheConfig) -> Callable[..., Process]:
        """Makes processes whose flows use the tier."""

        def made(**changes: Any) -> Process:
            process = Process(config.replace(**changes))
            process.store.cold = make()
            return process

        return made

    @pytest.mark.promise("no-loss")
    @pytest.mark.parametrize("durability", ["redis", "disk"])
    def test_flows_lose_nothing_on_it(
        self, process: Callable[..., Process], config: CacheConfig, durability: str
    ) -> None:
        world = World(config)
        world.process = process  # type: ignore[method-assign]
        one, two = process(durability=durability), process()
        for n in range(9):
            world.add(one, f"message {n}")
        moved = one.drive(rounds.spill_overflow(one.store))
        assert moved.messages > 0
        world.add(two, "of another process")
        world.check(two.full())
        assert two.context() == two.full()[-4:]
        two.drive(rounds.offload_idle(two.store, 0))
        assert one.hot() == 0
        assert one.context() == one.full()[-4:]
        assert one.hot() == 4, "the end of a cold session is brought back"
        world.check_all()

    @pytest.mark.promise("no-loss")
    def test_an_outage_ends_in_one_history(
        self, process: Callable[..., Process], config: CacheConfig, proxy: CountingProxy
    ) -> None:
        world = World(config)
        world.process = process  # type: ignore[method-assign]
        one = process(on_redis_error="archive", redis_port=proxy.port)
        world.add(one, "before")
        proxy.refuse()
        world.add(one, "away 1", "away 2")
        assert one.store.cold.pending_sessions() == ["s"]
        assert one.context() == ["away 1", "away 2"]
        proxy.allow()
        world.check_all()
        assert process().store.cold.pending_sessions() == []

    @pytest.mark.promise("no-loss")
    @pytest.mark.parametrize("moved", [False, True])
    def test_flows_change_what_it_holds(self, process: Callable[..., Process], moved: bool) -> None:
        one, two = process(), process()
        for text in "abcdef":
            one.add(text)
        if moved:
            one.flush()
        ids = [turn.id for turn in one.drive(read.get_full(one.session))]
        popped = two.drive(changes.pop_last(two.session))
        assert popped is not None
        assert said([popped]) == ["f"]
        assert one.drive(changes.delete_message(one.session, ids[1]))

        def edited(old: Turn) -> Turn:
            return Turn(old.id, {**old.body, "content": "C"}, old.vector)

        two.drive(changes.edit(two.session, ids[2], edited))
        for _ in range(2):
            for each in (one, two, process()):
                assert each.full() == ["a", "C", "d", "e"]
                assert each.context() == ["a", "C", "d", "e"]
            one.flush()
        revision = one.drive(changes.revision(one.session))
        two.add("g")
        with pytest.raises(RevisionMismatch):
            one.drive(changes.replace_all(one.session, [one.turn("x")], revision))
        one.drive(changes.replace_all(one.session, [one.turn("x")], None))
        two.add("y")
        assert one.full() == two.full() == process().context() == ["x", "y"]

    @pytest.mark.promise("no-loss")
    def test_what_lands_below_the_last_turn_counts_as_a_change(self, tier: ColdTier) -> None:
        append(tier, turn(5))
        append(tier, turn(6), turn(7))
        assert tier.summary("s").changes == 0
        append(tier, turn(3), turn(8))
        assert tier.summary("s").changes == 1
        append(tier, turn(3), turn(9))
        assert tier.summary("s").changes == 1, "what was there already changes nothing"
        for others in ("s", "new"):
            with holding(tier, others):
                tier.append_outage_locked(others, [turn(0, nonce=1)], contested=False)
        assert tier.summary("s").changes == 2
        assert tier.summary("new").changes == 1

    @pytest.mark.promise("no-loss")
    def test_whole_sessions_are_cleared_deleted_and_expire(
        self, process: Callable[..., Process], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        one, two = process(), process()
        for text in ("a", "b", "c"):
            one.add(text)
        one.drive(whole.clear(one.session))
        assert two.context() == []
        assert two.full() == ["a", "b", "c"]
        two.add("d")
        assert one.context() == ["d"]
        assert one.drive(whole.delete(one.session))
        assert two.full() == two.context() == []
        assert not two.drive(whole.delete(two.session))
        two.add("new")
        two.flush()
        assert one.full() == ["new"]
        assert two.drive(rounds.clean_up(two.store)) == 0
        one.add("newer")
        assert two.full() == ["new", "newer"]
        monkeypatch.setattr(two.store.cold, "now", lambda *_: long_after(30))
        assert two.drive(rounds.clean_up(two.store)) == 0, "it is hot, and so alive"
        one.flush()
        assert two.drive(rounds.clean_up(two.store)) == 1
        assert one.full() == []
        assert [trashed.session_id for trashed in one.store.cold.trashed()] == ["s"]
