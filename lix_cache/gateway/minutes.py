"""What a gateway did, minute by minute: counts that add up, bounded, without contents and keys. Pure.

Kept for a day, for the page. What is to be kept for longer is Prometheus' work (metrics.py).
"""

from __future__ import annotations

from bisect import bisect_left
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from typing import Any

import orjson

__all__ = ["DAY", "EDGES", "Minute", "Minutes", "quantile"]

#: Minutes that are kept.
DAY = 1440
#: Upper edges of the classes of durations, seconds: eight to a decade, from 50 µs to 50 s.
EDGES = tuple(5e-5 * 10 ** (i / 8) for i in range(49))
#: Rows of one minute, and of all minutes together. Models are named by clients, so there is no end to them.
_MOST_ROWS = 200
_MOST_KEPT = 20_000
_LONGEST_NAME = 100
_LONGEST_RECORD = 256 << 10
_OTHER = "(other)"
_HALF_A_CLASS = 10 ** (1 / 16)


class Minute:
    """The counts of one minute.

    Attributes:
        requests: tenant, state, reason -> how many.
        tokens: tenant, model -> saved prompt, saved answer, spent prompt, spent answer.
        added: state -> requests by class of the seconds that the gateway itself took.
        whole: state -> requests by class of the seconds until the answer's end.
    """

    __slots__ = ("added", "requests", "tokens", "whole")

    def __init__(self) -> None:
        self.requests: dict[tuple[str, str, str], int] = {}
        self.tokens: dict[tuple[str, str], list[int]] = {}
        self.added: dict[str, list[int]] = {}
        self.whole: dict[str, list[int]] = {}

    @property
    def rows(self) -> int:
        """How much there is of it."""
        return len(self.requests) + len(self.tokens)

    def answered(self, tenant: str, state: str, reason: str, added: float, whole: float) -> None:
        """Count a request."""
        label = (tenant, state, reason)
        if label not in self.requests and self.rows >= _MOST_ROWS:
            label = (tenant, state, _OTHER)
        self.requests[label] = self.requests.get(label, 0) + 1
        for classes, seconds in ((self.added, added), (self.whole, whole)):
            counts = classes.get(state)
            if counts is None:
                counts = classes[state] = [0] * (len(EDGES) + 1)
            counts[bisect_left(EDGES, seconds)] += 1

    def counted(self, tenant: str, model: str, usage: tuple[int, int], *, are_saved: bool) -> None:
        """Count tokens."""
        name = model[:_LONGEST_NAME]
        # Half a character, which JSON cannot carry, would keep the whole minute back.
        label = (tenant, name if name.isascii() else name.encode("utf-8", "replace").decode())
        if label not in self.tokens and self.rows >= _MOST_ROWS:
            label = (tenant, _OTHER)
        counts = self.tokens.setdefault(label, [0, 0, 0, 0])
        first = 0 if are_saved else 2
        counts[first] += usage[0]
        counts[first + 1] += usage[1]

    def add(self, other: Minute, tenant: str | None = None) -> None:
        """Add another one's counts; with a tenant, of that one alone, whose durations are not known apart."""
        for label, count in other.requests.items():
            if tenant is None or label[0] == tenant:
                self.requests[label] = self.requests.get(label, 0) + count
        for row, counts in other.tokens.items():
            if tenant is None or row[0] == tenant:
                mine = self.tokens.setdefault(row, [0, 0, 0, 0])
                self.tokens[row] = [a + b for a, b in zip(mine, counts, strict=True)]
        for mine_, others in ((self.added, other.added), (self.whole, other.whole)):
            for state, classes in others.items():
                known = mine_.get(state, [0] * len(classes))
                mine_[state] = [a + b for a, b in zip(known, classes, strict=True)]

    def encode(self) -> bytes:
        """Return it as JSON."""
        return orjson.dumps(
            {
                "r": [[*label, count] for label, count in self.requests.items()],
                "t": [[*label, *counts] for label, counts in self.tokens.items()],
                "a": _sparse(self.added),
                "w": _sparse(self.whole),
            }
        )

    @classmethod
    def decode(cls, data: bytes) -> Minute | None:
        """Return what :meth:`encode` made; None for anything else."""
        found = cls()
        try:
            value = orjson.loads(data) if len(data) <= _LONGEST_RECORD else {}
            for tenant, state, reason, count in value["r"]:
                found.requests[_text(tenant), _text(state), _text(reason)] = _count(count)
            for tenant, model, *counts in value["t"]:
                if len(counts) != 4:
                    return None
                found.tokens[_text(tenant), _text(model)] = [_count(one) for one in counts]
            found.added, found.whole = _classes(value["a"]), _classes(value["w"])
        except (ValueError, TypeError, KeyError, AttributeError):
            return None
        return found


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError
    return value


def _count(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise TypeError
    return value


def _sparse(classes: Mapping[str, list[int]]) -> dict[str, list[tuple[int, int]]]:
    """Return the classes that have counts: most have none."""
    return {state: [(i, one) for i, one in enumerate(counts) if one] for state, counts in classes.items()}


def _classes(value: Mapping[str, Any]) -> dict[str, list[int]]:
    found = {}
    for state, pairs in value.items():
        counts = found[_text(state)] = [0] * (len(EDGES) + 1)
        for number, count in pairs:
            if not 0 <= _count(number) < len(counts):
                raise ValueError
            counts[number] = _count(count)
    return found


class Minutes:
    """The minutes of one process, the last day's, or fewer where there is much in them."""

    def __init__(self) -> None:
        self._kept: OrderedDict[int, Minute] = OrderedDict()
        #: Minutes that have changed since they were last handed on.
        self.changed: set[int] = set()

    def at(self, now: float) -> Minute:
        """Return the minute of a time, to be counted in."""
        number = int(now // 60)
        self.changed.add(number)
        found = self._kept.get(number)
        if found is None:
            found = self._kept[number] = Minute()
            self._trim(number)
        return found

    def _trim(self, newest: int) -> None:
        rows = sum(one.rows for one in self._kept.values())
        for number in sorted(self._kept):
            if number == newest or (number > newest - DAY and rows <= _MOST_KEPT):
                break
            rows -= self._kept.pop(number).rows
            self.changed.discard(number)

    def between(self, first: int, last: int) -> dict[int, Minute]:
        """Return the minutes from ``first`` to ``last`` that have counts."""
        return {number: one for number, one in self._kept.items() if first <= number <= last}

    def get(self, number: int) -> Minute | None:
        """Return one minute."""
        return self._kept.get(number)


def quantile(counts: Iterable[int], part: float) -> float | None:
    """Return the duration that this part of the requests did not exceed; None without requests.

    The middle of its class, which is at most a sixth away. What lies inside a class is not known, and is not
    made up: a single request has one duration, whichever part is asked for.
    """
    counts = list(counts)
    total = sum(counts)
    if not total:
        return None
    wanted, seen = part * total, 0.0
    for number, count in enumerate(counts):
        if count and seen + count >= wanted:
            return EDGES[min(number, len(EDGES) - 1)] / _HALF_A_CLASS
        seen += count
    return EDGES[-1]
