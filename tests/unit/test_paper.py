"""The paper says no figure that the committed data does not hold, and can be set from it alone."""

from __future__ import annotations

import importlib.util
import json
import math
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lix_cache import DEFAULT_THRESHOLDS, STRICT_THRESHOLDS, SemanticSettings
from lix_cache.matching import decision
from tests.support import paper_claims

ROOT = Path(__file__).resolve().parents[2]
PAPER = ROOT / "docs" / "paper"
TEXT = PAPER / "paper.typ"
#: Functions of lib.typ that look a number up, with a file's name first; and those that find a curve's point.
LOOKUPS = (
    *("num", "pct", "part", "times", "each", "fewer", "audited", "rate", "interval", "pair", "points"),
    *("none-of", "first-half", "range-of", "spread", "value", "kilobytes", "megabytes", "audit"),
)
POINTS = ("wrong-at", "hits-at", "limits-at", "least")
OTHERS = ("software", "load")
#: Functions that take no file: a constant of the rule, and the days of all files.
PLAIN = ("constant", "days")
_CALL = re.compile(r"#?(?<![-\w])(" + "|".join((*LOOKUPS, *POINTS, *OTHERS, *PLAIN)) + r")\(")
_ARGUMENT = re.compile(r'"([^"]*)"|(\d+(?:\.\d+)?)|([a-z]+): *("[^"]*"|\d+)|([a-z-]+)')
#: Words that say how many or how large, as digits do. "Two" and "one" count the parts of a design on every
#: page, so they are looked for where they make a share or a multiple.
_WORDS = re.compile(
    r"\b(three|four|five|six|seven|eight|nine|ten|eleven|twelve|twenty|thirty|forty|fifty|sixty|seventy|eighty"
    r"|ninety|hundreds?|thousands?|millions?|half|halves|halv\w+|thirds?|quarters?|fifths?|tenths?|twice|dozens?"
    r"|doubl\w+|tripl\w+|two (?:times|in|of)|one (?:of|in) (?:a|two|three|\w+ty|ten)\b|times as|hardly any"
    r"|nearly|next to nothing|most of|mostly|majority|few|as many|every stream|none|no faster)\b",
    re.IGNORECASE,
)


def calls(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Yield start, end, name and arguments of each call of a function that looks something up."""
    for found in _CALL.finditer(text):
        depth, place = 1, found.end()
        while depth:
            depth += {"(": 1, ")": -1}.get(text[place], 0)
            place += 1
        yield found.start(), place, found[1], text[found.end() : place - 1]


def listed(name: str) -> dict[str, str]:
    """Return what a list of docs/paper allows in the text, with the reasons."""
    lines = (PAPER / f"{name}.txt").read_text(encoding="utf-8").splitlines()
    pairs = (tuple(line.split("\t", 1)) for line in lines if line and not line.startswith("#"))
    return dict(pairs)


def prose(text: str) -> str:
    """Return the text without comments, lookups, references, layout and paths: what a reader reads."""
    text = re.sub(r"(?m)(?<!:)//.*$", "", text)
    for start, end, _, _ in sorted(calls(text), reverse=True):
        text = text[:start] + text[end:]
    text = re.sub(r'image\("[^"]*", width: \d+%\)', "", text)
    text = re.sub(r"\brange\(\d+\)|digits: \d+|(?:columns|divide): \([^)]*\)", "", text)
    return " ".join(re.sub(r"[@<][a-z][a-z0-9-]*>?", "", text).split())


def without(text: str, *allowed: Iterable[str]) -> str:
    """Return the text without the phrases that are allowed in it, the longest first."""
    for words in sorted((one for many in allowed for one in many), key=len, reverse=True):
        text = text.replace(words, "·")
    return text


def around(found: re.Match[str]) -> str:
    return found.string[max(0, found.start() - 50) : found.end() + 50]


def bare_digits(text: str) -> list[str]:
    """Return where a digit stands that is neither looked up nor a constant."""
    rest = without(prose(text), listed("constants"))
    return [around(found) for found in re.finditer(r"\d+", rest)]


def bare_words(text: str) -> list[str]:
    """Return where a number word stands that is neither allowed nor proven on the data."""
    rest = without(prose(text), listed("words"), paper_claims.CLAIMS)
    return [around(found) for found in _WORDS.finditer(rest)]


def missing_headlines(text: str) -> list[str]:
    """Return the headline figures that no longer stand beside the words that name them."""
    plain = " ".join(text.split())
    return [one for one in paper_claims.HEADLINES if one not in plain]


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
    told = "measured? Then look it up (lib.typ); else name it in docs/paper/constants.txt"
    bare = bare_digits(TEXT.read_text(encoding="utf-8"))
    assert not bare, "\n".join([*bare, told])


def test_no_number_word_stands_in_the_text_that_is_neither_proven_nor_allowed() -> None:
    told = "measured? Then prove it (paper_claims.py); else name it in docs/paper/words.txt"
    bare = bare_words(TEXT.read_text(encoding="utf-8"))
    assert not bare, "\n".join([*bare, told])


@pytest.mark.parametrize("words", paper_claims.CLAIMS)
def test_what_the_text_says_in_words_the_data_shows(words: str) -> None:
    assert words in prose(TEXT.read_text(encoding="utf-8")), f"no longer in the text: {words!r}"
    assert paper_claims.CLAIMS[words](data), words


def test_the_headline_figures_are_those_that_their_words_name() -> None:
    assert missing_headlines(TEXT.read_text(encoding="utf-8")) == []


def test_the_constants_of_the_rule_are_those_of_the_code() -> None:
    for curve in data("thresholds")["sets"].values():
        points = [one["thresholds"] for one in curve["lix-cache"]]
        assert DEFAULT_THRESHOLDS.as_dict() in points
        assert STRICT_THRESHOLDS.as_dict() in points
    text = prose(TEXT.read_text(encoding="utf-8"))
    assert f"which is {STRICT_THRESHOLDS.score}" in text
    assert f"From the strict {STRICT_THRESHOLDS.score} on" in text
    assert f"the default score, {DEFAULT_THRESHOLDS.score}," in text
    assert STRICT_THRESHOLDS.with_score(DEFAULT_THRESHOLDS.score) == DEFAULT_THRESHOLDS
    assert (1 / 2, 2, math.log(256)) == (decision._FITS, decision._KNOWN_AT, decision._GROWN)
    assert "w_a (cos(q, r_x) - 1/2)" in text
    assert "min(1, (k - 1) \\/ 2) dot min(1, log_256 N)" in text
    assert "block of a hundred would-be hits" in text
    # The class has the default; that of the initialiser is another in all tests.
    assert SemanticSettings.audit_rate == data("audits")["audit_rate"] == 1 / 100
    assert SemanticSettings.target_false_hit_rate == data("audits")["target"]
    figures = (ROOT / "scripts" / "paper_figures.py").read_text(encoding="utf-8")
    assert "fewer than twenty hits" in text
    assert "LEAST_HITS = 20\n" in figures


def test_every_constant_and_word_is_in_the_text_and_has_a_reason() -> None:
    text = prose(TEXT.read_text(encoding="utf-8"))
    for words, reason in {**listed("constants"), **listed("words")}.items():
        assert words in text, f"no longer in the text: {words!r}"
        assert len(reason.split()) > 1, f"a reason is a few words: {words!r}"


def test_every_number_that_is_looked_up_is_in_the_data() -> None:
    text = TEXT.read_text(encoding="utf-8")
    looked = 0
    for _, _, name, given in calls(text):
        path = arguments(given)
        if name in POINTS:
            if len(path) == 3 or (name == "least" and len(path) == 2):
                curve = data("thresholds")["sets"][path[0]][path[1]]
                key = "score" if path[1] == "lix-cache" else "threshold"
                assert name == "least" or any(abs(one["thresholds"][key] - path[2]) < 1e-3 for one in curve)
                looked += 1
            continue
        if not path or name in PLAIN:
            continue
        found = data(str(path[0]))
        if name in OTHERS:
            assert found["run"]["date"]
            continue
        for key in path[1:]:
            found = found[int(key) if isinstance(key, float) else key]
        looked += 1
    assert looked > 60


@pytest.mark.parametrize(
    ("finds", "before", "after"),
    [
        (bare_digits, "wrong cost more than either", "wrong cost 12.3 % more than either"),
        (bare_words, "wrong cost more than either", "wrong cost ninety times as much as either"),
        (bare_words, "we missed it", "we missed it by a third"),
        (bare_words, "more than a quarter of the hits", "more than half of the hits"),
        (missing_headlines, '"faults", "lost") others', '"faults", "hung") others'),
        (missing_headlines, '"chaos", "acknowledged") messages', '"chaos", "all_events") messages'),
    ],
)
def test_a_figure_that_the_data_does_not_hold_is_found(
    finds: Callable[[str], list[str]], before: str, after: str
) -> None:
    text = TEXT.read_text(encoding="utf-8")
    assert before in text
    assert finds(text) == []
    assert finds(text.replace(before, after)) != []


def test_what_is_looked_up_is_no_bare_digit() -> None:
    assert prose('We measured #pct("a", "b 0.5", digits: 2) on it @huffman1952 <t1>.').split()[-3:] == [
        *("on", "it", ".")
    ]
    assert arguments('"codec", "sizes", 1, of: "raw", digits: 0') == ["codec", "sizes", 1.0]


def test_no_semicolon_is_swallowed() -> None:
    """Typst takes one after a call as the call's end, and does not set it."""
    text = TEXT.read_text(encoding="utf-8")
    assert [text[start : end + 1] for start, end, _, _ in calls(text) if text[end] == ";"] == []


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
