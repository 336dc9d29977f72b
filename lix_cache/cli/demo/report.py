"""The summary of a replay, for people and for programs."""

from __future__ import annotations

import statistics
from dataclasses import asdict
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lix_cache.cli.demo.replay import Totals
from lix_cache.cli.output import visible

__all__ = ["as_dict", "show"]


def as_dict(totals: Totals) -> dict[str, Any]:
    """Return everything, in units that the names say."""
    found = asdict(totals)
    del found["seconds"]
    return {**found, "passed": totals.passed, "median_ms": _medians(totals)}


def show(console: Console, totals: Totals) -> None:
    """Print the table and, last, what the check found."""
    t = totals
    rows = [
        ("messages", f"{t.messages:,}", f"{t.conversations:,} conversations, {t.visits:,} visits"),
        ("hot in Redis", f"{t.hot_messages:,}", f"{_times(t.redis_bytes, t.hot_raw_bytes)} their text"),
        (
            "cold on disk",
            f"{t.cold_messages:,}",
            f"brought back: in both; in the end all, {_times(t.disk_bytes, t.raw_bytes)} their text",
        ),
        (
            "moved to disk",
            f"{t.offloaded_sessions:,}",
            "idle sessions, beside what overflowed",
        ),
        ("brought back", f"{t.rehydrations:,}", "when their users returned"),
        (
            "answers reused",
            _percent(t.hits, t.lookups),
            f"of {t.lookups:,} questions; compared by words alone",
        ),
        ("URLs reused", _percent(t.url_reused, t.url_lookups), f"of {t.url_lookups:,} vectors asked for"),
        *((name, f"{ms:.2f} ms", "median") for name, ms in _medians(t).items()),
    ]
    table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
    table.add_column(style="bold")
    table.add_column(justify="right", style="cyan", no_wrap=True)
    table.add_column(style="dim")
    for row in rows:
        table.add_row(*map(Text, row))
    console.print(table)
    if t.passed:
        text = f"✓ all {t.messages:,} messages came back once, in order and unchanged"
        console.print(Text(text, style="bold green"))
        return
    text = (
        f"✗ of {t.messages:,} messages {t.lost:,} were lost and {t.doubled:,} doubled or changed; "
        f"{t.out_of_order:,} conversations are out of order"
    )
    console.print(Text(text, style="bold red"))
    for example in t.examples:
        console.print(Text(f"  {visible(example)}", style="red"))


def _medians(totals: Totals) -> dict[str, float]:
    return {name: statistics.median(seconds) * 1000 for name, seconds in totals.seconds.items()}


def _times(part: int, whole: int) -> str:
    return f"{part / whole:.2f} ×" if whole else "0 ×"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"
