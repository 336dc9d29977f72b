"""Paired timing, and a report of what was found."""

from __future__ import annotations

import itertools
import os
import statistics
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OLD = "lix-open-cache"

# -- timing --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Paired:
    """An operation and its unit, timed in turn.

    Attributes:
        ratio: median over the rounds of (median operation / median unit).
        lowest: smallest ratio of a round.
        highest: largest ratio of a round.
        median_us: of the operation, over all rounds.
        p95_us: of the operation, over all rounds.
        unit_us: median of the unit, over all rounds.
        rounds: how many.
        samples: pairs in each.
    """

    ratio: float
    lowest: float
    highest: float
    median_us: float
    p95_us: float
    unit_us: float
    rounds: int
    samples: int

    @classmethod
    def of(cls, rounds: Sequence[tuple[list[float], list[float]]]) -> Paired:
        ratios = [statistics.median(took) / statistics.median(unit) for unit, took in rounds]
        units = [second for unit, _ in rounds for second in unit]
        all_took = [second for _, took in rounds for second in took]
        return cls(
            ratio=statistics.median(ratios),
            lowest=min(ratios),
            highest=max(ratios),
            median_us=statistics.median(all_took) * 1e6,
            p95_us=percentile(all_took, 95) * 1e6,
            unit_us=statistics.median(units) * 1e6,
            rounds=len(rounds),
            samples=len(rounds[0][0]),
        )


def percentile(values: Sequence[float], percent: float) -> float:
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def paired(unit: Callable[[], object], operation: Callable[[], object], rounds: int, samples: int) -> Paired:
    """Time unit, operation, unit, operation …: what disturbs one disturbs the other."""
    clock = time.perf_counter
    found = []
    for _ in range(rounds):
        units, took = [], []
        for _ in range(samples):
            start = clock()
            unit()
            between = clock()
            operation()
            end = clock()
            units.append(between - start)
            took.append(end - between)
        found.append((units, took))
    return Paired.of(found)


async def apaired(
    unit: Callable[[], Awaitable[object]],
    operation: Callable[[], Awaitable[object]],
    rounds: int,
    samples: int,
) -> Paired:
    """Async variant of :func:`paired`."""
    clock = time.perf_counter
    found = []
    for _ in range(rounds):
        units, took = [], []
        for _ in range(samples):
            start = clock()
            await unit()
            between = clock()
            await operation()
            end = clock()
            units.append(between - start)
            took.append(end - between)
        found.append((units, took))
    return Paired.of(found)


def seconds_of(operation: Callable[[], object], samples: int) -> list[float]:
    """Return how long each of so many calls took."""
    took = []
    for _ in range(samples):
        start = time.perf_counter()
        operation()
        took.append(time.perf_counter() - start)
    return took


def sync_seconds(folder: str) -> float:
    """Return the median of writing and syncing 4 kB: what any durable write costs on this disk."""
    path = os.path.join(folder, "probe")
    fd = os.open(path, os.O_RDWR | os.O_CREAT)
    try:
        size = itertools.count()

        def write() -> None:
            os.pwrite(fd, bytes(4096), 4096 * next(size))
            os.fsync(fd)

        return statistics.median(seconds_of(write, 50))
    finally:
        os.close(fd)
        os.unlink(path)


# -- report --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Attributes:
        section: the table it stands in.
        name: its row.
        variant: its column.
        value: the number.
        unit: of the number.
        at_most: the target, if the number should be small.
        at_least: the target, if the number should be large.
        detail: everything else that was found.
    """

    section: str
    name: str
    variant: str
    value: float
    unit: str
    at_most: float | None = None
    at_least: float | None = None
    detail: dict[str, Any] = field(default_factory=dict)

    @property
    def target(self) -> str:
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return f"≥ {self.at_least:,g}" if self.at_least is not None else ""

    @property
    def cell(self) -> str:
        text = f"{self.value:,.2f}" if self.value < 100 else f"{self.value:,.0f}"
        took = self.detail.get("median_us")
        if took is None:
            return text
        return f"{text} ({_duration(took)})"


def _duration(us: float) -> str:
    if us < 1000:
        return f"{us:.0f} µs"
    return f"{us / 1000:.1f} ms" if us < 1e6 else f"{us / 1e6:.2f} s"


class Report:
    """Collects figures and shows them as text, Markdown and JSON."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.notes: list[str] = []

    def add(self, figure: Figure) -> None:
        self.figures.append(figure)
        target = f"  (target {figure.target})" if figure.target else ""
        progress(f"  {figure.name}, {figure.variant}: {figure.cell} {figure.unit}{target}")

    def add_paired(
        self,
        section: str,
        name: str,
        variant: str,
        found: Paired,
        at_most: float | None = None,
        unit: str = "x PING",
    ) -> None:
        self.add(Figure(section, name, variant, found.ratio, unit, at_most, detail=asdict(found)))

    def note(self, text: str) -> None:
        self.notes.append(text)
        progress(f"  note: {text}")

    def tables(self) -> Iterator[tuple[str, list[str], list[list[str]]]]:
        """Yield (title, heads, rows) of each section: a row for each name, a column for each variant."""
        for section in dict.fromkeys(figure.section for figure in self.figures):
            mine = [figure for figure in self.figures if figure.section == section]
            variants = list(dict.fromkeys(figure.variant for figure in mine))
            rows = []
            for name, unit in dict.fromkeys((figure.name, figure.unit) for figure in mine):
                cells = {f.variant: f for f in mine if (f.name, f.unit) == (name, unit)}
                target = next((f.target for f in cells.values() if f.target), "")
                rows.append(
                    [f"{name}, {unit}", target, *(cells[v].cell if v in cells else "" for v in variants)]
                )
            yield section, ["", "target", *variants], rows

    def text(self) -> str:
        out = []
        for title, heads, rows in self.tables():
            widths = [max(len(row[i]) for row in [heads, *rows]) for i in range(len(heads))]
            lines = [
                "  ".join(
                    cell.ljust(width) if i == 0 else cell.rjust(width)
                    for i, (cell, width) in enumerate(zip(row, widths, strict=True))
                )
                for row in [heads, *rows]
            ]
            out += ["", title, "-" * max(map(len, lines)), *lines]
        return "\n".join([*out, "", *(f"note: {note}" for note in self.notes)])

    def markdown(self, environment: dict[str, Any]) -> str:
        machine, server, libraries = environment["machine"], environment["server"], environment["libraries"]
        old = libraries.get(OLD)
        line = (
            f"Measured {environment['when'][:10]}: {machine['cpus']} cores ({machine['architecture']}), "
            f"Python {machine['python']}, {server['name']} {server['version']}, "
            f"redis-py {libraries['redis']} with hiredis {libraries['hiredis']}, "
            f"{OLD} {old or 'not installed'}; writing and syncing 4 kB: {machine['sync_us']:.0f} µs. "
            f"Texts: {', '.join(file['name'] for file in environment['texts']['files'])}."
        )
        out = [line]
        for title, heads, rows in self.tables():
            out += ["", f"### {title}", "", _row(heads), _row(["---", *["--:"] * (len(heads) - 1)])]
            out += [_row(row) for row in rows]
        return "\n".join([*out, *("\n" + note for note in self.notes)])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def progress(text: str) -> None:
    """Say what is going on; standard output is kept for the result."""
    print(text, file=sys.stderr, flush=True)


def write_between_marks(path: Path, text: str) -> None:
    """Put text between the ``bench`` marks of a document, in place of what is there."""
    begin, end = "<!-- bench:begin -->", "<!-- bench:end -->"
    document = path.read_text(encoding="utf-8")
    before, found, rest = document.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end:
        raise SystemExit(f"{path} has no place for the table: {begin} … {end}")
    path.write_text(f"{before}{begin}\n\n{text}\n\n{end}{after}", encoding="utf-8")
