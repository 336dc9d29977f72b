"""Who asks an object store that does not answer, and who is spared: driven by hand, with no store."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from lix_cache.errors import ArchiveUnavailable
from lix_cache.storage.presence import MOST_PROBES, PROBED_EVERY, WAITED_FOR, Presence
from tests.fault.test_object_faults import LaterClock
from tests.support.waiting import wait_until

pytestmark = pytest.mark.promise("no-stall")


class Store:
    """What is asked: it answers, refuses to connect, or hangs."""

    def __init__(self) -> None:
        self.answers = True
        self.opened = threading.Event()
        self.opened.set()
        self.probes = 0

    def probe(self) -> bool:
        self.probes += 1
        self.opened.wait(60)
        return self.answers


class HandClock(LaterClock):
    """Time that goes on only while somebody sleeps, or when told to."""

    def monotonic(self) -> float:
        return self.seconds


@pytest.fixture
def store() -> Iterator[Store]:
    made = Store()
    yield made
    made.opened.set()


@pytest.fixture
def clock() -> HandClock:
    return HandClock()


@pytest.fixture
def presence(store: Store, clock: HandClock) -> Presence:
    return Presence(store.probe, clock)


def probed(presence: Presence, store: Store, count: int) -> None:
    """Wait until so many probes were sent and have ended."""
    wait_until(lambda: store.probes == count and not len(presence._crew))


def test_a_store_that_answers_is_not_probed(presence: Presence, store: Store, clock: HandClock) -> None:
    for _ in range(3):
        presence.check()
        presence.answers()
    assert store.probes == 0
    assert clock.seconds == 0


def test_while_it_is_away_nothing_is_sent_and_a_call_waits_for_a_part_of_a_probe_at_most(
    presence: Presence, store: Store, clock: HandClock
) -> None:
    store.opened.clear()
    presence.fails("it hangs")
    for _ in range(20):
        with pytest.raises(ArchiveUnavailable, match=r"nothing was sent.*it hangs") as refused:
            presence.check()
        assert refused.value.unanswered == "", "what was not sent is not done"
    # All of them together.
    assert WAITED_FOR <= clock.seconds < WAITED_FOR + 0.1
    wait_until(lambda: store.probes == 1)


def test_the_first_call_after_it_came_back_succeeds(
    presence: Presence, store: Store, clock: HandClock
) -> None:
    store.answers = False
    presence.fails("refused")
    probed(presence, store, 1)
    with pytest.raises(ArchiveUnavailable):
        presence.check()
    store.answers = True
    clock.seconds += PROBED_EVERY
    # Time stands still: however slow this machine is, the probe ends in time.
    clock.sleep = lambda _: time.sleep(0.001)  # type: ignore[method-assign]
    presence.check()
    assert store.probes == 2


def test_one_request_that_is_at_fault_itself_keeps_no_other(
    presence: Presence, store: Store, clock: HandClock
) -> None:
    for count in range(1, 4):
        presence.fails("a large put took too long")
        probed(presence, store, count)
        presence.check()
    assert clock.seconds == 0, "nothing was waited for"


def test_an_answer_to_anything_says_that_it_is_there(presence: Presence, store: Store) -> None:
    store.opened.clear()
    presence.fails("it hangs")
    presence.answers()
    presence.check()


def test_probes_that_hang_are_few_and_end_with_the_calls(
    presence: Presence, store: Store, clock: HandClock
) -> None:
    store.answers = False
    store.opened.clear()
    presence.fails("it hangs")
    for _ in range(3 * MOST_PROBES):
        clock.seconds += PROBED_EVERY
        with pytest.raises(ArchiveUnavailable):
            presence.check()
    assert store.probes == MOST_PROBES
    store.opened.set()
    probed(presence, store, MOST_PROBES)
    clock.seconds += 1000 * PROBED_EVERY
    assert store.probes == MOST_PROBES, "who asks for nothing sends no probes"
    store.answers = True
    presence.fails("a request that was sent long ago")
    probed(presence, store, MOST_PROBES + 1)
    presence.check()


def test_without_threads_a_call_now_and_then_finds_out_itself(
    presence: Presence, clock: HandClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object) -> None:
        raise RuntimeError("can't create new thread at interpreter shutdown")

    monkeypatch.setattr("lix_cache.daemon.start_thread", none_left)
    presence.fails("it hangs")
    sent = 0
    for _ in range(40):
        clock.seconds += PROBED_EVERY / 10
        try:
            presence.check()
            sent += 1
        except ArchiveUnavailable:
            pass
    assert 2 <= sent <= 5
