#!/usr/bin/env python3
"""Record ``lix-cache demo``, as ``make demo`` runs it, on a terminal: docs/pictures/demo.svg.

python scripts/record_demo.py
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COLUMNS = 84
#: What moves the cursor: bars that were drawn over. What is left is what stays on the screen.
_MOVES = re.compile(r"\x1b\[(?:\?25[lh]|\d*[A-HJK]|2K)")


def record(*arguments: str) -> str:
    """Run the demo on a pseudo terminal; return all that it wrote there."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "COLUMNS": str(COLUMNS), "TERM": "xterm-256color"}
    with subprocess.Popen(
        [sys.executable, "-m", "lix_cache.cli", "demo", *arguments],
        stdin=subprocess.DEVNULL, stdout=theirs, stderr=subprocess.DEVNULL, env=environment, cwd=ROOT,
    ) as running:  # fmt: skip
        os.close(theirs)
        shown = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # the other end is closed
                break
            if not part:
                break
            shown += part
    os.close(ours)
    if running.returncode:
        raise SystemExit(f"the demo ended with {running.returncode}:\n{shown.decode()}")
    return shown.decode()


def as_svg(shown: str) -> str:
    """Return the last state of the screen as a picture of a terminal."""
    text = Text.from_ansi(_MOVES.sub("", shown.replace("\r\n", "\n")))
    console = Console(
        record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, legacy_windows=False
    )
    console.print(Text("$ make demo", style="bold"))
    console.print(text)
    svg = console.export_svg(title="make demo", theme=MONOKAI, unique_id="lix-cache-demo")
    # The fonts that rich names are on a server of others: a reader's own do as well.
    return re.sub(r"@font-face \{.*?\}\n?", "", svg, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "pictures" / "demo.svg")
    arguments = parser.parse_args()
    arguments.output.write_text(as_svg(record()), encoding="utf-8")
    print(arguments.output)


if __name__ == "__main__":
    main()
