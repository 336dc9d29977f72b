"""The documentation's site builds strictly, works from a folder without a network, and has no broken link."""

from __future__ import annotations

import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

ROOT = Path(__file__).resolve().parents[2]

pytestmark = pytest.mark.slow


class Page(HTMLParser):
    """What a page loads, where it links to, and which places it has."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.loads: list[str] = []
        self.links: list[str] = []
        self.places: set[str] = {""}
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.places |= {found[name] for name in ("id", "name") if name in found}
        if "src" in found or (tag == "link" and found.get("rel") != "canonical"):
            self.loads.append(found.get("src") or found["href"])
        elif tag == "a" and "href" in found:
            self.links.append(found["href"])


def test_the_site_is_whole_and_needs_no_other_machine(tmp_path: Path) -> None:
    # One test: processes that share the tests would each build it.
    site = built(tmp_path / "site")
    every_link_leads_to_a_page_and_a_place_on_it(site)
    nothing_is_loaded_from_elsewhere(site)
    what_is_made_from_the_code_is_there(site)


def test_a_page_that_is_made_from_the_code_says_so_to_readers_of_the_file() -> None:
    pages = [path.read_text("utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")]
    made = [page for page in pages if "\n::: " in page or "\n<!-- generated: " in page]
    assert len(made) >= 14
    for page in made:
        assert "by `make docs`. Where you read it as a file" in page


def built(folder: Path) -> dict[Path, Page]:
    pytest.importorskip("mkdocs")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return {path: Page(path.read_text("utf-8")) for path in folder.rglob("*.html")}


def every_link_leads_to_a_page_and_a_place_on_it(site: dict[Path, Page]) -> None:
    seen = 0
    for path, page in site.items():
        if path.name == "404.html":
            continue  # a server shows it at any address, so its links begin at the top
        for link in page.links + page.loads:
            parts = urlsplit(link)
            if parts.scheme:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            assert target.exists(), f"{path.name}: {link}"
            if parts.fragment and target in site:
                assert unquote(parts.fragment) in site[target].places, f"{path.name}: {link}"
            seen += 1
    assert seen > 1000


def nothing_is_loaded_from_elsewhere(site: dict[Path, Page]) -> None:
    for path, page in site.items():
        assert [one for one in page.loads if urlsplit(one).scheme or one.startswith("//")] == [], path.name


def what_is_made_from_the_code_is_there(site: dict[Path, Page]) -> None:
    texts = {path.stem: path.read_text("utf-8") for path in site}
    assert not [name for name, text in texts.items() if "<!-- generated: " in text]
    assert "hot_window_size" in texts["configuration"]
    assert "vector_sets_from" in texts["configuration"]
    assert "lix-cache kv explain" in texts["command-line"]
    assert "lix_cache_lookups_total" in texts["metrics"]
    assert "EngineBusy" in texts["errors"]
    assert not [name for name, text in texts.items() if "Where you read it as a file" in text]
    # Roles of docstrings have become links.
    assert not [name for name, text in texts.items() if ":meth:" in text or ":class:" in text]
