"""docs/codec.md: its examples run, and its tables are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "codec.md").read_text("utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_every_example_of_the_page_runs(block: str) -> None:
    exec(compile(block, "codec.md", "exec"), {"__name__": "page"})


def test_the_tables_of_a_run_are_on_the_page() -> None:
    assert BLOCKS
    _, _, measured = PAGE.partition("<!-- measured -->\n")
    for kind in ("messages, share", "messages of at most 500 bytes, share", "10-turn frames, share", "MB/s"):
        assert kind in measured
