"""docs/codec.md: its tables are there."""

from __future__ import annotations

from pathlib import Path

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "codec.md").read_text("utf-8")


def test_the_tables_of_a_run_are_on_the_page() -> None:
    _, _, measured = PAGE.partition("<!-- measured -->\n")
    for kind in ("messages, share", "messages of at most 500 bytes, share", "10-turn frames, share", "MB/s"):
        assert kind in measured
