#!/usr/bin/env python3
"""What the live audit of a scope does with streams of hits whose true false-hit rate is known.

    python scripts/audit_drill.py --json audits.json

Drives the class that watches a process's scopes, with the counts that Redis would keep, and no Redis. Each
stream is drawn from a seed of its own; nothing here is a time.
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Sequence
from typing import Any

from _run_facts import RunFacts, write_json

from lix_cache import SemanticSettings
from lix_cache.evaluation.adaptive import Counts
from lix_cache.evaluation.binomial import clopper_pearson
from lix_cache.hot.found import Labels
from lix_cache.semantic.watch import Asked, Watch

START = 1.25
SCORE = 1.4
#: What a cache does if nothing is set.
RATE, TARGET = SemanticSettings().audit_rate, SemanticSettings().target_false_hit_rate


class Scope:
    """A scope whose hits are wrong at a rate that the drill sets, and the numbers that Redis keeps of it."""

    def __init__(self, seed: int, audit_rate: float, target: float | None) -> None:
        self._random = random.Random(seed)
        self._watch = Watch(START, target, audit_rate, seed)
        self._kept: dict[str, float] = {}

    def hit(self, wrong_rate: float) -> str:
        """Let a hit come; return how it was audited, or nothing if it was served."""
        kind = self._watch.audit("s")
        if kind:
            asked = Asked("q", "n", SCORE, 7, None, False, kind)
            self._watch.label("s", asked, self._random.random() >= wrong_rate)
            self._send()
        return str(kind)

    @property
    def is_closed(self) -> bool:
        return bool(self._watch.totals()[2])

    def interval(self) -> tuple[float, float]:
        return Counts(*Labels.read(self._reply())).false_hit_rate()

    def _reply(self) -> list[bytes]:
        return [part for name, value in self._kept.items() for part in (name.encode(), b"%f" % value)]

    def _send(self) -> None:
        """Do what the script in Redis does: let old counts fade, and add the new ones."""
        words = self._watch.due("s")
        if words is None:
            return
        labels, audits, added = words
        fading = {"audits": 1.0, "audits_wrong": 1.0, "late": audits, "late_wrong": audits}
        for name in self._kept:
            self._kept[name] *= fading.get(name, labels)
        for name, value in added.items():
            self._kept[name] = self._kept.get(name, 0.0) + value
        self._watch.told("s")(self._reply())


def drifting(streams: int, audit_rate: float, target: float | None) -> dict[str, Any]:
    """The rate rises in the second half; how often does the reported interval hold the true mean?"""
    rates = [0.01] * 1000 + [0.01 + 0.1 * i / 1000 for i in range(1000)]
    true = sum(rates) / len(rates)
    covered, width = 0, 0.0
    for seed in range(streams):
        scope = Scope(seed, audit_rate, target)
        for rate in rates:
            scope.hit(rate)
        low, high = scope.interval()
        covered += low <= true <= high
        width += (high - low) / streams
    return {
        "streams": streams,
        "audit_rate": audit_rate,
        "target": target,
        "hits": len(rates),
        "drawn": round(len(rates) * audit_rate),
        "true_rate": true,
        "mean_width": width,
        **_share("covered", covered, streams),
    }


def closing(streams: int, wrong_rate: float, good_before: int) -> dict[str, Any]:
    """Hits are suddenly wrong at a rate; after how many does the scope close?"""
    took: list[int] = []
    for seed in range(streams):
        scope = Scope(seed, RATE, TARGET)
        for _ in range(good_before):
            scope.hit(0.0)
        number = 0
        while number < 1000 and not scope.is_closed:
            scope.hit(wrong_rate)
            number += 1
        took.append(number)
    return {
        "streams": streams,
        "wrong_rate": wrong_rate,
        "good_before": good_before,
        **_share("within_300", sum(number <= 300 for number in took), streams),
        "median": _quantile(took, 0.5),
        "p95": _quantile(took, 0.95),
        "most": max(took),
    }


def staying(streams: int, wrong_rate: float, hits: int) -> dict[str, Any]:
    """Hits are seldom wrong; how many scopes stay open, and how many of their hits are served?"""
    stayed = served = 0
    for seed in range(streams):
        scope, was_closed = Scope(seed, RATE, TARGET), False
        for _ in range(hits):
            served += not scope.hit(wrong_rate)
            was_closed |= scope.is_closed
        stayed += not was_closed
    return {
        "streams": streams,
        "wrong_rate": wrong_rate,
        "hits": hits,
        **_share("stayed_open", stayed, streams),
        "served": served / (streams * hits),
    }


def _share(name: str, count: int, streams: int) -> dict[str, Any]:
    """Return the share of the streams, and its exact 95% interval."""
    return {name: count / streams, f"{name}_interval": clopper_pearson(count, streams)}


def _quantile(numbers: Sequence[int], share: float) -> int:
    return sorted(numbers)[min(len(numbers) - 1, int(len(numbers) * share))]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--streams", type=int, default=300, help="of each kind")
    parser.add_argument("--json", metavar="FILE", help="write the figures here")
    arguments = parser.parse_args()
    facts = RunFacts()
    streams = arguments.streams
    found = {
        "audit_rate": RATE,
        "target": TARGET,
        "drifting": [drifting(streams, 0.05, None), drifting(streams, RATE, TARGET)],
        "closing": [closing(streams, rate, before) for before in (0, 2000) for rate in (1.0, 0.6, 0.3, 0.1)],
        "staying": [staying(streams, rate, 5000) for rate in (0.0, 0.01)],
    }
    for name, value in found.items():
        print(name, *(value if isinstance(value, list) else [value]), sep="\n  ")
    if arguments.json:
        write_json(arguments.json, facts, found)


if __name__ == "__main__":
    main()
