"""The checker of the chaos test finds what it is there for. One that cannot fail is worth nothing."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.chaos import checker, log

FAULTS = checker.FAULTS
check = checker.check
text = log.message_text

SESSIONS = ("s0", "a/../ü")
WRITERS = ("w0i0", "w1i0.t0")
EACH = 12
WINDOW = 5


def good() -> Any:
    """Evidence of an episode without a fault: two writers, one after the other, in two sessions."""
    evidence = log.Evidence(window=WINDOW)
    contents: dict[str, list[str]] = {}
    now = 10.0
    for session in SESSIONS:
        for number in range(EACH):
            for writer in WRITERS:
                evidence.acknowledged.append(log.Acknowledged(session, writer, number, now, now + 0.5))
                contents.setdefault(session, []).append(text(session, writer, number))
                now += 1.0
    for view in ("sync after a round", "async after a round", "the archive"):
        evidence.full[view] = {session: list(texts) for session, texts in contents.items()}
    for view in ("sync after a round", "async after a round"):
        evidence.context[view] = {s: (texts[-WINDOW:], list(texts)) for s, texts in contents.items()}
    return evidence


def everywhere(evidence: Any, change: Callable[[list[Any]], None], session: str = "s0") -> None:
    """Change what every way of reading has found, contexts included."""
    for view in evidence.full.values():
        change(view[session])
    for view in evidence.context.values():
        full = view[session][1]
        change(full)
        view[session] = (full[-evidence.window :], full)


def kinds(evidence: Any) -> set[str]:
    return set(check(evidence).kinds)


def test_an_episode_without_a_fault_passes() -> None:
    verdict = check(good())
    assert verdict.findings == []
    assert verdict.acknowledged == len(SESSIONS) * len(WRITERS) * EACH
    assert verdict.allowed == 0


def test_nothing_acknowledged_and_nothing_read_passes() -> None:
    assert check(log.Evidence()).findings == []


# -- lost ----------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, EACH, 2 * EACH - 1])
def test_a_lost_message_is_found_wherever_it_stood(position: int) -> None:
    evidence = good()
    everywhere(evidence, lambda texts: texts.pop(position))
    verdict = check(evidence)
    assert verdict.kinds == {"lost"}
    assert verdict.count("lost") == 1


@pytest.mark.parametrize("view", ["sync after a round", "async after a round", "the archive"])
def test_a_message_that_one_way_of_reading_misses_is_found(view: str) -> None:
    evidence = good()
    evidence.full[view]["s0"].pop(3)
    verdict = check(evidence)
    assert verdict.kinds == {"lost"}
    assert view in verdict.findings[0].where


def test_a_lost_session_is_found() -> None:
    evidence = good()
    everywhere(evidence, lambda texts: texts.clear())
    assert check(evidence).count("lost") == len(WRITERS) * EACH


def test_what_several_ways_of_reading_miss_is_counted_once() -> None:
    evidence = good()
    everywhere(evidence, lambda texts: texts.__delitem__(slice(2, 6)))
    assert check(evidence).count("lost") == 4


def test_what_only_a_dead_server_had_may_be_missing_and_is_counted() -> None:
    evidence = good()
    evidence.may_miss = {"s0": {text("s0", WRITERS[0], 4)}}
    everywhere(evidence, lambda texts: texts.remove(text("s0", WRITERS[0], 4)))
    verdict = check(evidence)
    assert verdict.findings == []
    assert verdict.allowed == 1


def test_what_may_be_missing_and_is_there_is_not_counted() -> None:
    evidence = good()
    evidence.may_miss = {"s0": {text("s0", WRITERS[0], 4)}}
    assert check(evidence).allowed == 0


def test_no_other_message_may_be_missing_instead() -> None:
    evidence = good()
    evidence.may_miss = {"s0": {text("s0", WRITERS[0], 4)}}
    everywhere(evidence, lambda texts: texts.remove(text("s0", WRITERS[0], 5)))
    verdict = check(evidence)
    assert verdict.kinds == {"lost"}
    assert verdict.allowed == 0


def test_what_may_be_missing_in_one_session_may_not_in_another() -> None:
    evidence = good()
    evidence.may_miss = {SESSIONS[1]: {text("s0", WRITERS[0], 4)}}
    everywhere(evidence, lambda texts: texts.remove(text("s0", WRITERS[0], 4)))
    assert kinds(evidence) == {"lost"}


# -- doubled and foreign ---------------------------------------------------------------------


@pytest.mark.parametrize("gap", [1, 5, 2 * EACH])
def test_a_doubled_message_is_found_next_to_itself_and_far_away(gap: int) -> None:
    evidence = good()
    everywhere(evidence, lambda texts: texts.insert(gap, texts[0]))
    verdict = check(evidence)
    assert "doubled" in verdict.kinds
    assert verdict.count("doubled") == 1


def test_a_message_that_was_refused_may_be_there_once_and_not_twice() -> None:
    evidence = good()
    everywhere(evidence, lambda texts: texts.append(text("s0", "w0i0", 99)))
    assert kinds(evidence) == set()
    everywhere(evidence, lambda texts: texts.append(text("s0", "w0i0", 99)))
    assert kinds(evidence) == {"doubled"}


@pytest.mark.parametrize("found", ["nonsense", None, 7, {"a": 1}, text("s0", "w0i0", 3) + "x"])
def test_what_no_worker_has_written_is_found(found: Any) -> None:
    evidence = good()
    everywhere(evidence, lambda texts: texts.append(found))
    assert "foreign" in kinds(evidence)


def test_a_message_of_another_session_is_found() -> None:
    evidence = good()
    everywhere(evidence, lambda texts: texts.append(text(SESSIONS[1], WRITERS[0], 0)))
    assert kinds(evidence) == {"foreign"}


# -- order -----------------------------------------------------------------------------------


def test_two_messages_of_one_writer_that_changed_places_are_found() -> None:
    evidence = good()

    def swap(texts: list[Any]) -> None:
        texts[4], texts[6] = texts[6], texts[4]

    everywhere(evidence, swap)
    verdict = check(evidence)
    assert verdict.kinds == {"disorder"}
    assert verdict.count("disorder") == 1


def test_messages_of_two_writers_may_stand_in_any_order() -> None:
    evidence = good()

    def swap(texts: list[Any]) -> None:
        texts[4], texts[5] = texts[5], texts[4]

    everywhere(evidence, swap)
    assert kinds(evidence) == set()


def test_a_message_that_was_refused_may_be_stored_late() -> None:
    evidence = good()
    late = log.Acknowledged("s0", WRITERS[0], 2, 0, 0)
    evidence.acknowledged = [a for a in evidence.acknowledged if a.text != late.text]

    def move(texts: list[Any]) -> None:
        texts.append(texts.pop(texts.index(late.text)))

    everywhere(evidence, move)
    assert kinds(evidence) == set()


# -- the context -----------------------------------------------------------------------------


def set_context(evidence: Any, context: list[Any]) -> None:
    for view in evidence.context.values():
        view["s0"] = (context, view["s0"][1])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda full: full[:WINDOW],
        lambda full: [],
        lambda full: full[-WINDOW:-1],
        lambda full: full[-WINDOW + 1 :],
        lambda full: full[-WINDOW - 1 :],
        lambda full: [*full[-WINDOW:-1], full[-WINDOW]],
    ],
    ids=["the beginning", "nothing", "without the last", "too few", "too many", "another order"],
)
def test_a_context_that_is_not_the_end_of_the_session_is_found(
    wrong: Callable[[list[Any]], list[Any]],
) -> None:
    evidence = good()
    set_context(evidence, wrong(evidence.full["the archive"]["s0"]))
    assert kinds(evidence) == {"context"}


def test_a_cleared_context_holds_what_came_after_the_clear_alone() -> None:
    evidence = good()
    full = evidence.full["the archive"]["s0"]
    third_last = next(a for a in evidence.acknowledged if a.text == full[-3])
    evidence.wipes = [log.Wipe("s0", "clear", third_last.began - 0.4, third_last.began - 0.1, True)]
    set_context(evidence, full[-3:])
    assert kinds(evidence) == set()
    set_context(evidence, full[-2:])
    assert kinds(evidence) == {"context"}
    set_context(evidence, full[-4:])
    assert kinds(evidence) == {"came back"}


def test_a_clear_that_failed_may_have_cleared_or_not() -> None:
    evidence = good()
    evidence.wipes = [log.Wipe("s0", "clear", 0.0, math.inf, False)]
    for kept in (0, 3, WINDOW):
        full = evidence.full["the archive"]["s0"]
        set_context(evidence, full[len(full) - kept :])
        assert kinds(evidence) == set()


# -- deleted sessions --------------------------------------------------------------------------


def test_what_was_added_before_or_during_a_deletion_may_be_gone_and_what_came_after_may_not() -> None:
    evidence = good()
    middle = next(a for a in evidence.acknowledged if a.session == "s0" and a.number == 6)
    evidence.wipes = [log.Wipe("s0", "delete", middle.began + 0.1, middle.ended + 0.1, True)]
    everywhere(evidence, lambda texts: texts.__delitem__(slice(0, texts.index(middle.text) + 1)))
    assert kinds(evidence) == set()
    everywhere(evidence, lambda texts: texts.pop(0))
    assert kinds(evidence) == {"lost"}


def test_what_was_deleted_and_is_there_again_is_found_unless_the_server_went_back() -> None:
    evidence = good()
    middle = next(a for a in evidence.acknowledged if a.session == "s0" and a.number == 6)
    evidence.wipes = [log.Wipe("s0", "delete", middle.began - 0.4, middle.began - 0.3, True)]
    assert kinds(evidence) == {"came back"}
    evidence.rollbacks = [middle.began - 0.35]
    assert kinds(evidence) == set()
    evidence.rollbacks = [middle.began - 0.5]
    assert kinds(evidence) == {"came back"}


def test_a_deletion_excuses_no_loss_in_another_session() -> None:
    evidence = good()
    evidence.wipes = [log.Wipe(SESSIONS[1], "delete", 0.0, math.inf, False)]
    everywhere(evidence, lambda texts: texts.pop(0))
    assert kinds(evidence) == {"lost"}


# -- what workers saw --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["context", "full"])
def test_a_session_with_messages_that_was_read_as_empty_is_found(kind: str) -> None:
    evidence = good()
    evidence.empty_reads = [log.Read("s0", kind, 10.2)]
    assert kinds(evidence) == set(), "the first add had not returned"
    evidence.empty_reads = [log.Read("s0", kind, 10.7)]
    assert kinds(evidence) == {"empty"}
    evidence.may_miss = {"s0": {evidence.acknowledged[0].text}}
    assert kinds(evidence) == set(), "only a server that lost its memory had it"


def test_a_message_that_its_own_writer_did_not_see_is_found() -> None:
    evidence = good()
    evidence.missed = [log.Missed("s0", "context", WRITERS[0], [3], 100.0)]
    assert kinds(evidence) == {"unseen"}
    evidence.may_miss = {"s0": {text("s0", WRITERS[0], 3)}}
    assert kinds(evidence) == set()


@pytest.mark.parametrize("kind", ["doubled", "foreign", "error", "stuck", "hung"])
def test_what_a_worker_found_wrong_is_a_finding(kind: str) -> None:
    evidence = good()
    evidence.troubles = [log.Trouble(kind, "something")]
    assert kinds(evidence) == {kind}
    assert kind in FAULTS


# -- the log -----------------------------------------------------------------------------------


def test_a_log_says_what_was_acknowledged_and_what_was_begun(tmp_path: Path) -> None:
    path = tmp_path / "w.jsonl"
    written = log.Log(str(path))
    written.write("add", session="s0", writer="w0i0", number=3, began=1.0, ended=2.0)
    written.write("failed", error="RedisUnavailable")
    written.write("wipe begins", writer="w0i0", number=0, session="s0", kind="clear", began=3.0)
    written.write("wipe ends", writer="w0i0", number=0, ended=4.0, done=True)
    written.write("wipe begins", writer="w0i0", number=1, session="s0", kind="delete", began=5.0)
    written.write("empty", session="s0", kind="full", began=6.0)
    written.write("missed", session="s0", kind="full", writer="w0i0", numbers=[3], began=7.0)
    written.write("trouble", kind="error", detail="x")
    lines = path.read_text().splitlines()
    assert all(json.loads(line)["op"] for line in lines)
    found = log.parse_logs(lines, {"w0i0": 9.0})
    assert found.acknowledged == [log.Acknowledged("s0", "w0i0", 3, 1.0, 2.0)]
    done, killed = found.wipes
    assert (done.kind, done.began, done.ended, done.done) == ("clear", 3.0, 4.0, True)
    assert (killed.kind, killed.began, killed.done) == ("delete", 5.0, False)
    assert 9.0 < killed.ended < math.inf
    assert log.parse_logs(lines, {}).wipes[1].ended == math.inf
    assert found.failures == {"RedisUnavailable": 1}
    assert (len(found.empty_reads), len(found.missed), len(found.troubles)) == (1, 1, 1)


def test_a_message_names_its_session_its_writer_and_its_place() -> None:
    seen = set()
    for session in SESSIONS:
        for number in range(300):
            said = text(session, "w0i0", number)
            assert log.split_text(said) == (session, "w0i0", number)
            seen.add(len(said))
    assert len(seen) > 50, "sizes vary"
