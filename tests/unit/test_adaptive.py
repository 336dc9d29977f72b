"""Thresholds that calibrate themselves, audits and their intervals."""

from __future__ import annotations

import math
import random

import numpy as np
import pytest

from lix_cache.evaluation.adaptive import BINS, LOWEST, Counts, bin_of, threshold_for
from lix_cache.hot.found import Labels
from lix_cache.semantic.watch import Asked, Watch, agree

pytestmark = pytest.mark.promise("right-answer")

START = 1.25


def counts(right: float, wrong: float, place: int = 3, above: float = 5.0) -> Counts:
    seen = dict.fromkeys(range(place, place + 8), above)
    return Counts(right={place: right}, wrong={place: wrong}, seen=seen)


def test_without_labels_the_threshold_is_the_one_that_was_set() -> None:
    assert threshold_for(Counts(), START, 0.02) == START
    assert threshold_for(counts(3, 5), START, 0.02) == START  # too few to leave the prior


def test_labels_that_agree_leave_it_and_labels_that_differ_raise_it() -> None:
    assert threshold_for(counts(200, 4), START, 0.02) == START
    bad = threshold_for(counts(40, 60), START, 0.02)
    worse = threshold_for(counts(5, 95), START, 0.02)
    assert START < bad <= worse


def test_a_scope_where_everything_differs_shuts_itself_off() -> None:
    hostile = Counts(wrong=dict.fromkeys(range(BINS), 50.0), seen=dict.fromkeys(range(BINS), 50.0))
    assert threshold_for(hostile, START, 0.02) == math.inf


@pytest.mark.parametrize("scale", [1e-9, 1.0, 1e6, 1e12])
def test_the_fit_ends_for_any_counts(scale: float) -> None:
    rng = random.Random(5)
    for _ in range(50):
        labels = [{rng.randrange(BINS): rng.random() * scale for _ in range(4)} for _ in range(3)]
        found = threshold_for(Counts(*labels), START, 0.02)
        assert found >= START


def test_scores_fall_into_bins() -> None:
    assert bin_of(LOWEST - 0.001) is None
    assert bin_of(LOWEST) == 0
    assert bin_of(9.0) == BINS - 1


def test_a_scope_closes_when_audits_prove_that_too_many_hits_are_wrong() -> None:
    assert not Counts(recent=100, recent_wrong=1).is_closed(0.02)
    assert not Counts(recent=1, recent_wrong=1).is_closed(0.02)  # one audit proves nothing
    assert Counts(recent=100, recent_wrong=8).is_closed(0.02)
    assert not Counts(recent=400, recent_wrong=8).is_closed(0.02)


def test_what_redis_holds_is_believed_only_as_numbers() -> None:
    reply = [
        b"right:3",
        b"2.5",
        b"wrong:3",
        b"nan",
        b"late",
        b"-4",
        b"audits",
        b"9",
        b"audits_wrong",
        b"90",
        b"\xff",
        b"1",
        b"zz",
        b"oops",
        b"seen",
    ]
    found = Counts(*Labels.read(reply))
    assert found.right == {3: 2.5}
    assert (found.wrong, found.recent, found.audits, found.audits_wrong) == ({}, 0.0, 9, 9)


def asked(score: float = 1.1, audit: str = "", answer: object = None, *, recurs: bool = False) -> Asked:
    return Asked("q", "n", score, 7, answer, recurs, audit)  # type: ignore[arg-type]


def test_answers_agree_if_equal_or_alike_and_differ_if_clearly_different() -> None:
    one, other = np.array([1.0, 0.0], np.float32), np.array([0.1, 0.995], np.float32)
    between = np.array([0.4, 0.917], np.float32)
    assert agree(asked(answer=one), 7, None) is True
    assert agree(asked(answer=one), 8, one) is True
    assert agree(asked(answer=one), 8, other) is False
    assert agree(asked(answer=one), 8, between) is None
    assert agree(asked(answer=None), 8, one) is None
    assert agree(asked(recurs=True), 8, one) is False


class Server:
    """Keeps the numbers of a scope as the script does."""

    def __init__(self) -> None:
        self.kept: dict[str, float] = {}

    def tell(self, watch: Watch) -> None:
        words = watch.due("s")
        if words is None:
            return
        labels, audits, added = words
        factors = {"audits": 1, "audits_wrong": 1, "late": audits, "late_wrong": audits}
        for name in self.kept:
            self.kept[name] *= factors.get(name, labels)
        for name, value in added.items():
            self.kept[name] = self.kept.get(name, 0.0) + value
        flat = [part for name, value in self.kept.items() for part in (name.encode(), b"%f" % value)]
        watch.told("s")(flat)


def test_the_reported_interval_covers_the_true_rate_of_a_stream_that_drifts() -> None:
    covered = 0
    for seed in range(200):
        rng = random.Random(seed)
        watch, server = Watch(START, None, 0.05, seed), Server()
        rates = [0.01] * 1000 + [0.01 + 0.1 * i / 1000 for i in range(1000)]
        for rate in rates:
            kind = watch.audit("s")
            if kind:
                watch.label("s", asked(1.3, kind), rng.random() >= rate)
                server.tell(watch)
        reply = [p for n, v in server.kept.items() for p in (n.encode(), b"%f" % v)]
        low, high = Counts(*Labels.read(reply)).false_hit_rate()
        covered += low <= sum(rates) / len(rates) <= high
    assert covered >= 190


def test_every_hit_has_the_same_chance_of_an_audit() -> None:
    hits = [0] * 20
    for seed in range(2000):
        watch = Watch(START, None, 0.1, seed)
        for place in range(20):
            hits[place] += watch.audit("s") == "drawn"
    assert sum(hits) == 4000
    assert all(130 < count < 270 for count in hits)


@pytest.mark.parametrize(("before", "rate"), [(0, 1.0), (0, 0.6), (2000, 1.0), (2000, 0.6)])
def test_a_bad_scope_closes_within_300_hits(before: int, rate: float) -> None:
    late = 0
    for seed in range(50):
        rng = random.Random(seed)
        watch, server = Watch(START, 0.02, 0.01, seed), Server()
        for _ in range(before):
            kind = watch.audit("s")
            if kind:
                watch.label("s", asked(1.4, kind), True)
                server.tell(watch)
        for number in range(301):
            kind = watch.audit("s")
            if kind:
                watch.label("s", asked(1.4, kind), rng.random() >= rate)
                server.tell(watch)
            if watch.totals()[2]:
                break
            late += number == 300
    assert late <= 1


def test_a_good_scope_stays_open_and_its_hits_are_served() -> None:
    closed = served = 0
    for seed in range(40):
        rng = random.Random(seed)
        watch, server = Watch(START, 0.02, 0.01, seed), Server()
        is_closed = False
        for _ in range(1500):
            kind = watch.audit("s")
            served += not kind
            if kind:
                watch.label("s", asked(1.4, kind), rng.random() >= 0.01)
                server.tell(watch)
            is_closed |= watch.totals()[2] > 0
        closed += is_closed
    assert closed <= 2
    assert served > 0.88 * 40 * 1500


def test_a_closed_scope_opens_again_when_its_hits_are_right() -> None:
    watch, server = Watch(START, 0.02, 0.5, 1), Server()
    for _ in range(60):
        watch.label("s", asked(1.4, "more"), False)
        server.tell(watch)
    assert watch.audit("s")
    served = 0
    for _ in range(1000):
        kind = watch.audit("s")
        if not kind:
            served += 1
        else:
            watch.label("s", asked(1.4, kind), True)
            server.tell(watch)
    assert served
