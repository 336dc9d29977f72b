"""What `make test` runs of the long tests, and `make test-all` whole.

The rule is fixed, so a run can be repeated, and it takes from every case rather than every case of some. What
the sample leaves out has the marker ``exhaustive``, and nothing is in both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import pytest

__all__ = ["Part", "in_parts", "mark_the_rest"]

T = TypeVar("T")

#: For one test of the exhaustive part, on a machine that has other work.
_SECONDS = 1800


@dataclass(frozen=True)
class Part:
    """The sample of what a test goes through, or the rest of it.

    Attributes:
        every: one in so many is in the sample.
        is_sample: this is the sample.
    """

    every: int
    is_sample: bool

    def of(self, things: Iterable[T], start: int = 0) -> Iterator[T]:
        """Yield those of this part.

        Args:
            things: in an order that is always the same.
            start: what the first one counts as: another for each case, so that the cases sample other places.
        """
        for number, thing in enumerate(things, start):
            if (number % self.every == 0) is self.is_sample:
                yield thing


def in_parts(every: int) -> pytest.MarkDecorator:
    """Run a test as two, with its argument ``part``: a sample of one in ``every``, and the rest."""
    return pytest.mark.parametrize(
        "part",
        [
            pytest.param(Part(every, is_sample=True), id="sample"),
            pytest.param(Part(every, is_sample=False), id="rest", marks=pytest.mark.exhaustive),
        ],
    )


def mark_the_rest(items: list[pytest.Item]) -> None:
    """Mark the cases that ``sampled(every, first=0)`` leaves out, and give what is exhaustive its time."""
    seen: dict[str, int] = {}
    for item in items:
        marker = item.get_closest_marker("sampled")
        if marker is not None:
            case = item.nodeid.partition("[")[0]
            every, first = (*marker.args, 0)[:2]
            number = seen[case] = seen.get(case, -1) + 1
            if number % every != first:
                item.add_marker("exhaustive")
        if item.get_closest_marker("exhaustive") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(_SECONDS))
