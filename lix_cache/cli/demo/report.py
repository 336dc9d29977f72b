"""The summary of a replay, for people and for programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

from rich.console import Console
from rich.table import Table
from rich.text import Text

from lix_cache.cli.demo.check import Verdict
from lix_cache.cli.demo.measure import Totals
from lix_cache.cli.output import human_bytes, visible

__all__ = ["Report"]

#: Name, value and note of a line.
Row: TypeAlias = "tuple[str, str, str]"


@dataclass(frozen=True)
class Report:
    """What a replay came to.

    Attributes:
        totals: what happened.
        verdict: whether everything came back.
        latencies: how long the operations took, by name.
        seconds: how long the replay took.
        model_seconds: how long a model is assumed to need for an answer.
        window: messages of a window.
        threshold: least similarity of a semantic hit.
        server: the server, in words.
        kept: how to look at what was left; None where nothing was.
    """

    totals: Totals
    verdict: Verdict
    latencies: dict[str, dict[str, float]]
    seconds: float
    model_seconds: float
    window: int
    threshold: float
    server: str
    kept: str | None = None

    def as_dict(self) -> dict[str, Any]:
        """Return everything, in units that the names say."""
        t, v = self.totals, self.verdict
        return {
            **t.as_dict(),
            "redis_bytes_per_raw_byte": _ratio(t.redis_bytes, t.redis_raw_bytes),
            "disk_bytes_per_raw_byte": _ratio(t.disk_bytes, t.disk_raw_bytes),
            "hit_ratio": _ratio(t.hits, t.lookups),
            "similarity_threshold": self.threshold,
            "embedder": "lexical",
            "model_calls_avoided": t.hits,
            "seconds_saved": t.hits * self.model_seconds,
            "assumed_model_seconds": self.model_seconds,
            "latencies": self.latencies,
            "seconds": self.seconds,
            "server": self.server,
            "kept": self.kept,
            "check": {
                "passed": v.passed,
                "messages": v.messages,
                "lost": v.lost,
                "doubled": v.doubled,
                "conversations_out_of_order": v.out_of_order,
                "examples": v.examples,
            },
        }

    def show(self, console: Console) -> None:
        """Print the table and, last, what the check found."""
        console.print(self._table())
        self._show_verdict(console)
        if self.kept:
            console.print(Text(f"  kept: {visible(self.kept)} sessions", style="dim"), soft_wrap=True)

    def _table(self) -> Table:
        table = Table(box=None, show_header=False, padding=(0, 1), pad_edge=False)
        table.add_column(style="bold")
        table.add_column(justify="right", style="cyan", no_wrap=True)
        table.add_column(style="dim")
        parts = {
            "Memory": self._memory(),
            "Bytes": self._bytes(),
            "Caches": self._caches(),
            "Speed (median)": self._speed(),
        }
        for title, rows in parts.items():
            table.add_row()
            table.add_row(Text(title, style="magenta"))
            for name, value, note in rows:
                table.add_row(Text(f"  {name}"), Text(value), Text(note))
        table.add_row()
        return table

    def _memory(self) -> list[Row]:
        t = self.totals
        both = max(0, t.hot_messages + t.cold_messages - t.messages)
        return [
            ("messages in", f"{t.messages:,}", f"{t.conversations:,} conversations, {t.visits:,} visits"),
            ("hot in Redis", f"{t.hot_messages:,}", f"{t.hot_sessions:,} sessions, when the last visit ends"),
            ("cold on disk", f"{t.cold_messages:,}", f"{both:,} of them hot as well"),
            ("overflowed", f"{t.spilled_messages:,}", f"messages beyond the window of {self.window} → .huff"),
            (
                "offloaded",
                f"{t.offloaded_sessions:,}",
                f"idle sessions, {t.offloaded_messages:,} messages → .huff",
            ),
            ("rehydrated", f"{t.rehydrations:,}", "cold sessions, when their user comes back"),
        ]

    def _bytes(self) -> list[Row]:
        t = self.totals
        in_redis = f"{human_bytes(t.redis_bytes)} for the {human_bytes(t.redis_raw_bytes)} that were hot"
        on_disk = f"{human_bytes(t.disk_bytes)} for all of it"
        return [
            ("raw", human_bytes(t.raw_bytes), "UTF-8 of roles, contents and tool calls"),
            ("in Redis", _times(t.redis_bytes, t.redis_raw_bytes), in_redis),
            ("on disk", _times(t.disk_bytes, t.disk_raw_bytes), on_disk),
        ]

    def _caches(self) -> list[Row]:
        t = self.totals
        lexical = f"of these hits; lexical embedder, cosine ≥ {self.threshold:g}"
        saved = f"assuming a model needs {self.model_seconds:g} s per answer"
        return [
            ("hits", _percent(t.hits, t.lookups), f"{t.hits:,} of {t.lookups:,} questions, semantic cache"),
            ("not as recorded", f"{t.other_answers:,}", lexical),
            ("calls avoided", f"{t.hits:,}", "to a model"),
            ("time saved", _duration(t.hits * self.model_seconds), saved),
            ("URLs reused", _percent(t.url_reused, t.url_lookups), f"of {t.url_lookups:,} vectors asked for"),
        ]

    def _speed(self) -> list[Row]:
        rows = []
        for name, numbers in self.latencies.items():
            note = f"p95 {numbers['p95_ms']:.2f} ms, {numbers['calls']:,.0f} calls"
            if name != "PING":
                note = f"{numbers['pings']:.1f} × PING, {note}"
            rows.append((name, f"{numbers['median_ms']:.2f} ms", note))
        return rows

    def _show_verdict(self, console: Console) -> None:
        v = self.verdict
        if v.passed:
            text = f"✓ all {v.messages:,} messages came back once, in order and unchanged"
            console.print(Text(text, style="bold green"))
            return
        console.print(
            Text(
                f"✗ of {v.messages:,} messages {v.lost:,} were lost and {v.doubled:,} doubled or changed; "
                f"{v.out_of_order:,} conversations are out of order",
                style="bold red",
            )
        )
        for example in v.examples:
            console.print(Text(f"  {visible(example)}", style="red"))


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _times(part: int, whole: int) -> str:
    return f"× {part / whole:.2f}" if whole else "–"


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.1f} min" if minutes < 60 else f"{minutes / 60:.1f} h"
