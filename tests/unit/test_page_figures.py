"""The figures of README and docs are those of the committed data: docs/paper/data/*.json."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("page_figures", ROOT / "scripts" / "page_figures.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_page_says_what_the_data_says(script: ModuleType) -> None:
    marked = 0
    for page in script.pages():
        text = (ROOT / page).read_text("utf-8")
        marked += text.count("<!-- figures: ")
        assert script.renewed(page, text) == text, f"{page}: run scripts/page_figures.py --write"
    assert marked >= len(script.TABLES)


def test_a_figure_that_was_changed_by_hand_is_found(script: ModuleType) -> None:
    for page in script.pages():
        text = (ROOT / page).read_text("utf-8")
        tables = re.findall(r"<!-- figures: .+? -->.*?<!-- end -->", text, re.DOTALL)
        spans = [re.search(r"\d[\d.,]*", table.partition("|---")[2]) for table in tables]
        for table, found in zip(tables, spans, strict=True):
            assert found is not None
            changed = table.replace(found[0], "77.7", 1)
            assert script.renewed(page, text.replace(table, changed)) == text
    for page, pattern, figures in script.FIGURES:
        text = (ROOT / page).read_text("utf-8")
        found = re.search(pattern.replace(" ", r"\s+"), text, re.DOTALL)
        assert found is not None
        for number in range(1, len(figures()) + 1):
            start, end = found.span(number)
            other = re.sub(r"\d", lambda digit: "8" if digit[0] == "9" else "9", text[start:end])
            assert script.renewed(page, text[:start] + other + text[end:]) == text


def test_a_sentence_that_lost_its_figure_is_an_error(script: ModuleType) -> None:
    text = (ROOT / "docs" / "faq.md").read_text("utf-8")
    with pytest.raises(ValueError, match=r"docs/faq\.md: 0 places"):
        script.renewed("docs/faq.md", text.replace("of the semantic hits", "of the hits"))
