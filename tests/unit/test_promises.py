"""Each promise of the README has tests that guard it, and their marker is no other word."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def promised() -> dict[str, str]:
    """Return the marker of each promise, by its number in the README's list."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("## What is promised")[2].partition("\n## ")[0]
    numbers = re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE)
    rows = dict(re.findall(r"^\| (\d+) \| `([\w-]+)` \|$", section, re.MULTILINE))
    assert list(rows) == numbers, "a marker for each, in their order"
    assert len(set(rows.values())) == len(rows)
    return rows


def marked() -> dict[str, set[str]]:
    """Return the files with tests of each marker."""
    found: dict[str, set[str]] = defaultdict(set)
    for path in (ROOT / "tests").rglob("*.py"):
        text = path.read_text("utf-8")
        uses = re.findall(r"\bmark\.promise\b(?:\(([^)]*)\))?", text)
        for name in uses:
            named = re.fullmatch(r'"([\w-]+)"', name)
            assert named, f"{path}: one promise in quotes, not {name!r}"
            found[named[1]].add(str(path.relative_to(ROOT)))
    return found


def test_each_promise_has_tests_in_several_files_and_no_other_is_named() -> None:
    files = marked()
    names = set(promised().values())
    assert files.keys() == names
    assert {name: sorted(paths) for name, paths in files.items() if len(paths) < 3} == {}
