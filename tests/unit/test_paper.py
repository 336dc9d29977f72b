"""The paper says no figure that the committed data does not hold, and can be set from it alone."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "docs" / "paper"
TEXT = PAPER / "paper.typ"
#: Functions of lib.typ that look a number up, with a file's name first; and those that find a curve's point.
LOOKUPS = ("num", "pct", "part", "rate", "interval", "value", "kilobytes", "megabytes", "audit")
POINTS = ("wrong-at", "hits-at", "least")
OTHERS = ("day", "software", "load")
_CALL = re.compile(r"#?\b(" + "|".join((*LOOKUPS, *POINTS, *OTHERS)) + r")\(")
_ARGUMENT = re.compile(r'"([^"]*)"|(\d+(?:\.\d+)?)|([a-z]+): *("[^"]*"|\d+)|([a-z-]+)')


def calls(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield start, end, name and arguments of each call of a function that looks something up."""
    for found in _CALL.finditer(text):
        depth, place = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            place += 1
        yield found.start(), place, found[1], text[found.end() : place - 1]


def constants() -> dict[str, str]:
    lines = (PAPER / "constants.txt").read_text(encoding="utf-8").splitlines()
    pairs = (tuple(line.split("\t", 1)) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def prose(text: str) -> str:
    """Return the text without comments, lookups, references, layout and paths: what a reader reads."""
    text = re.sub(r"(?m)(?<!:)//.*$", "", text)
    for start, end, _, _ in sorted(calls(text), reverse=True):
        text = text[:start] + text[end:]
    text = re.sub(r'image\("[^"]*", width: \d+%\)', "", text)
    text = re.sub(r"\brange\(\d+\)|digits: \d+|columns: \([^)]*\)", "", text)
    return re.sub(r"[@<][a-z][a-z0-9-]*>?", "", text)


def arguments(text: str) -> list[str | float]:
    """Return the leading literal arguments of a call: a name of a loop ends them."""
    found: list[str | float] = []
    for quoted, number, named, _, word in _ARGUMENT.findall(text):
        if named or word:
            break
        found.append(float(number) if number else quoted)
    return found


def data(name: str) -> Any:
    return json.loads((PAPER / "data" / f"{name}.json").read_text(encoding="utf-8"))


def test_no_digit_stands_in_the_text_that_is_neither_looked_up_nor_a_constant() -> None:
    text = prose(TEXT.read_text(encoding="utf-8"))
    for words in sorted(constants(), key=len, reverse=True):
        text = text.replace(words.strip("`").strip('"'), "")
    bare = [
        f"{number}: {line.strip()}"
        for number, line in enumerate(text.splitlines(), 1)
        if re.search(r"\d", line)
    ]
    told = "measured? Then look it up (lib.typ); else name it in docs/paper/constants.txt"
    assert not bare, "\n".join([*bare, told])


def test_every_constant_is_in_the_text_and_has_a_reason() -> None:
    text = TEXT.read_text(encoding="utf-8")
    for words, reason in constants().items():
        assert words.strip("`").strip('"') in text, f"no longer in the text: {words!r}"
        assert len(reason) > 5


def test_every_number_that_is_looked_up_is_in_the_data() -> None:
    text = TEXT.read_text(encoding="utf-8")
    looked = 0
    for _, _, name, given in calls(text):
        path = arguments(given)
        if name in POINTS:
            if len(path) == 3 or (name == "least" and len(path) == 2):
                curve = data("thresholds")["sets"][path[0]][path[1]]
                key = "threshold" if path[1] == "plain cosine" else "score"
                assert name == "least" or any(abs(one["thresholds"][key] - path[2]) < 1e-3 for one in curve)
                looked += 1
            continue
        if not path:
            continue
        found = data(str(path[0]))
        if name in OTHERS:
            assert found["run"]["date"]
            continue
        for key in path[1:]:
            found = found[int(key) if isinstance(key, float) else key]
        looked += 1
    assert looked > 60


def test_a_figure_that_the_data_does_not_hold_is_found(tmp_path: Path) -> None:
    assert re.search(r"\d", prose("We measured 12.3 % on it."))
    assert not re.search(r"\d", prose('We measured #pct("a", "b 0.5", digits: 2) on it @huffman1952 <t1>.'))
    assert arguments('"codec", "sizes", 1, of: "raw", digits: 0') == ["codec", "sizes", 1.0]


def test_all_data_tells_how_it_was_measured() -> None:
    names = {path.stem for path in (PAPER / "data").glob("*.json")}
    used = set(re.findall(r'json\("data/([a-z]+)\.json"\)', (PAPER / "lib.typ").read_text(encoding="utf-8")))
    assert names == used
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for name in names:
        run = data(name)["run"]
        assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ", run["date"])
        script = run["command"].split()[1]
        assert (ROOT / script).is_file(), "a figure's script is in the repository"
        assert run["machine"]["cpus"]
        assert run["versions"]["python"]
        assert f"$(PAPER_DATA)/{name}.json" in makefile, "make paper-data makes it again"


def test_every_reference_is_cited_and_every_citation_is_there() -> None:
    entries = set(re.findall(r"(?m)^@[a-z]+\{([a-z0-9]+),", (PAPER / "references.bib").read_text("utf-8")))
    text = TEXT.read_text(encoding="utf-8")
    labels = set(re.findall(r"<([a-z][a-z-]*)>", text))
    cited = set(re.findall(r"@([a-z][a-z0-9-]*)", text))
    assert cited - labels == entries


@pytest.mark.slow
def test_the_paper_is_set_from_what_is_committed(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="matplotlib draws the figures: make paper installs it")
    if importlib.util.find_spec("typst") is None:
        pytest.skip("typst sets the paper: make paper installs it")
    target = tmp_path / "paper.pdf"
    # A copy: another version of matplotlib draws other bytes, and a test changes nothing in the tree.
    folder = tmp_path / "paper"
    shutil.copytree(PAPER, folder)
    script = ROOT / "scripts" / "paper_figures.py"
    command = [sys.executable, script, "--folder", folder, "--pdf", target]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    pdf = target.read_bytes()
    assert pdf.startswith(b"%PDF")
    assert 8 <= len(re.findall(rb"/Type\s*/Page\b", pdf)) <= 12
