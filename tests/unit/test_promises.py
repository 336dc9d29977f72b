"""Each promise of the README has tests that guard it, and their marker is no other word."""

from __future__ import annotations

import re
from collections import defaultdict
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def promised() -> dict[str, str]:
    """Return the marker of each promise, by its number in the README's list: CONTRIBUTING has both."""
    text = (ROOT / "README.md").read_text("utf-8")
    section = text.partition("## What is promised")[2].partition("\n## ")[0]
    numbers = re.findall(r"^(\d+)\. \*\*", section, re.MULTILINE)
    contributing = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    markers = contributing.partition("## The promises")[2].partition("\n## ")[0]
    rows = dict(re.findall(r"^\| (\d+) \| `([\w-]+)` \|$", markers, re.MULTILINE))
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


def test_what_runs_each_time_guards_every_promise(request: pytest.FixtureRequest) -> None:
    items = [item for item in request.session.items if not item.get_closest_marker("exhaustive")]
    chosen = [marker.args[0] for item in items for marker in item.iter_markers("promise")]
    kinds = {item.path.relative_to(ROOT / "tests").parts[0] for item in items}
    if len({item.path for item in items}) < 50 or not {"contract", "fault", "integration", "unit"} <= kinds:
        pytest.skip("a part of the tests was asked for")
    assert {name: chosen.count(name) for name in promised().values() if chosen.count(name) < 5} == {}


def test_each_promise_has_tests_in_several_files_and_no_other_is_named() -> None:
    files = marked()
    names = set(promised().values())
    assert files.keys() == names
    assert {name: sorted(paths) for name, paths in files.items() if len(paths) < 3} == {}
