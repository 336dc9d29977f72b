"""docs/codec.md: its rows are those of the committed data, for the sets that are there."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "codec.md").read_text("utf-8")
DATA = json.loads((ROOT / "docs" / "paper" / "data" / "codec.json").read_text("utf-8"))


def rows_of(kind: str) -> tuple[list[str], dict[str, list[str]]]:
    """Return the head of a table and its rows by set, without the marks of the smallest."""
    section = PAGE.partition(f"\n{kind}, share of the raw bytes:\n\n")[2].partition("\n\n")[0]
    head, _, *rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in section.splitlines()
    ]
    return head, {row[0]: row for row in rows}


def test_the_tables_say_what_was_measured() -> None:
    compared = 0
    for name, kinds in DATA["sizes"].items():
        for kind, measured in kinds.items():
            head, rows = rows_of(kind)
            raw = measured["bytes"]["raw"]
            shares = {what: f"{size / raw:.3f}" for what, size in measured["bytes"].items() if what != "raw"}
            shown = dict(zip(head, rows[name], strict=True))
            assert shown["texts"] == str(measured["texts"])
            assert {what: shown[what] for what in shares} == shares, (kind, name)
            compared += len(shares)
    assert compared > 100


def test_the_smallest_that_does_not_know_the_set_is_marked() -> None:
    for line in PAGE.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if marked := [cell for cell in cells if cell.startswith("**") and cell.endswith("**")]:
            assert len(marked) == 1, line
            others = [float(cell) for cell in cells[4:] if cell.replace(".", "").isdigit()]
            # The last ones know the set: their dictionary was trained on it.
            assert float(marked[0].strip("*")) <= min(others[:6]), line
