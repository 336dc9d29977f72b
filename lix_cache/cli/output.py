"""What is written where: results on stdout, everything else on stderr; `top` alone moves the cursor."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from lix_cache.admin import StoreStats
from lix_cache.cli.terminal import SafeConsole, in_plain_letters, visible

__all__ = [
    "ago",
    "counted",
    "for_humans",
    "human_bytes",
    "id_text",
    "print_indented",
    "print_json",
    "progress",
    "server_memory",
    "to_stderr",
    "visible",
    "write_all",
]

#: Width where there is no terminal to ask: wide enough for a table, and the same everywhere.
_FILE_WIDTH = 120


def for_humans() -> Console:
    """Return the console of stdout. Made when needed, for the stdout of that moment."""
    return _console(stderr=False)


def to_stderr() -> Console:
    """Return the console of stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    console = SafeConsole(stderr=stderr, highlight=False, markup=False, emoji=False)
    if not console.is_terminal:
        console.width = _FILE_WIDTH
    return console


def print_json(value: Any) -> None:
    """Write a value as JSON, in ASCII: nothing in it can be mistaken by a terminal or an encoding."""
    write_all(sys.stdout.buffer, json.dumps(value, indent=2).encode("ascii") + b"\n")
    sys.stdout.buffer.flush()


def write_all(file: IO[bytes], data: bytes) -> None:
    """Write all of it: an unbuffered stdout may take a part and say so, and no more."""
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]


def human_bytes(count: float) -> str:
    """Return ``1.5 kB`` for 1,500."""
    for unit in ("B", "kB", "MB"):
        if abs(count) < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


def server_memory(stats: StoreStats) -> str:
    """Return what a store's servers use, in words."""
    used = f"{human_bytes(stats.server_memory_bytes)} in use, for all clients"
    return used if stats.masters == 1 else f"{used}; {stats.masters} masters together"


def counted(count: int, what: str) -> str:
    """Return ``1 session``, ``2 sessions``."""
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"


def ago(moment: float) -> str:
    """Return how long ago a moment in Unix seconds was."""
    seconds = time.time() - moment
    if seconds < 1:
        return "now"
    for size, unit in ((86400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.0f} {unit} ago"
    return f"{seconds:.0f} s ago"


@contextmanager
def progress(what: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on stderr while something goes on; yields the function to tell it (done, total).

    Nothing is shown where stderr is no terminal.
    """
    console = to_stderr()
    if not console.is_terminal:
        yield lambda done, total: None  # noqa: ARG005
        return
    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
    )
    with bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def print_indented(console: Console, text: Text) -> None:
    """Print text two columns in, and its wrapped lines as well; to a file, without wrapping it."""
    lines = text.wrap(console, console.width - 2) if console.is_terminal else text.split("\n")
    for line in lines:
        console.print(Text("  ").append_text(line), soft_wrap=True)


def id_text(session_id: str, limit: int = 60) -> Text:
    """Return a session id for a table, cut in the middle where it is too long."""
    shown = visible(session_id)
    try:
        shown.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        shown = in_plain_letters(shown)  # as it will be written: its width counts
    if len(shown) > limit:
        half = (limit - 1) // 2
        shown = f"{shown[:half]}…{shown[-half:]}"
    return Text(shown, overflow="fold")
