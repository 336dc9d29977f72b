"""The live progress of a replay, on stderr."""

from __future__ import annotations

from types import TracebackType

from rich.console import Group
from rich.live import Live
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn
from rich.text import Text

from lix_cache.cli.demo.measure import Totals
from lix_cache.cli.output import to_stderr, visible

__all__ = ["Screen"]

_TITLE = 44


class Screen:
    """A bar, who is speaking, and the numbers so far; silent where stderr is no terminal.

    Args:
        total: messages there will be.
    """

    def __init__(self, total: int) -> None:
        console = to_stderr()
        self._bar = Progress(
            SpinnerColumn(),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TextColumn("messages"),
            console=console,
        )
        self._task = self._bar.add_task("", total=total)
        self._what = ""
        self._totals = Totals()
        self._live = (
            Live(get_renderable=self._render, console=console, transient=True, refresh_per_second=10)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Screen:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def watch(self, totals: Totals) -> None:
        """Show these numbers from now on."""
        self._totals = totals

    def say(self, what: str) -> None:
        """Show what goes on now."""
        self._what = what

    def added(self, count: int = 1) -> None:
        """Move the bar."""
        self._bar.advance(self._task, count)

    def _render(self) -> Group:
        totals = self._totals
        numbers = {
            "overflowed": totals.spilled_messages,
            "offloaded": totals.offloaded_sessions,
            "rehydrated": totals.rehydrations,
            "cache hits": totals.hits,
            "URLs reused": totals.url_reused,
        }
        line = Text("  ")
        for name, value in numbers.items():
            line.append(f"{value:,}", style="bold cyan").append(f" {name}  ", style="dim")
        what = visible(self._what)
        shown = f"{what[: _TITLE - 1]}…" if len(what) > _TITLE else what
        return Group(self._bar, Text(f"  {shown}", style="italic"), line)
