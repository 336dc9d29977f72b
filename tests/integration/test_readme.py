"""The examples of README and docs are run as they stand, against a real server."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from loguru import logger

from lix_cache import StoreAdmin
from lix_cache.config import CacheConfig
from tests.support import RedisServer

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"


def blocks_of(page: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", page.read_text("utf-8"), re.DOTALL)


#: Each example of the README stands alone; those of another page go on from each other.
BLOCKS = blocks_of(README)
PAGES = {page.name: blocks for page in sorted((ROOT / "docs").glob("*.md")) if (blocks := blocks_of(page))}


@pytest.fixture
def reader(
    redis_server: RedisServer, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A reader's folder and process: only where the server is, and under which prefix, differs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIX_CACHE_REDIS_URL", f"unix://{quote(str(redis_server.socket_path))}")
    original = CacheConfig.__init__

    def here(self: CacheConfig, **settings: object) -> None:
        settings.setdefault("redis_key_prefix", redis_config.redis_key_prefix)
        settings["redis_port"] = redis_server.port
        original(self, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(CacheConfig, "__init__", here)
    prometheus = pytest.importorskip("prometheus_client")
    monkeypatch.setattr(prometheus, "REGISTRY", prometheus.CollectorRegistry())
    yield
    logger.disable("lix_cache")


def test_the_readme_shows_each_of_the_ways_to_use_it() -> None:
    text = "\n".join(BLOCKS)
    for name in (
        "CacheCoordinator",
        "HybridConversationCache",
        "ConversationArchive",
        "HuffmanCodec",
        "SemanticCache",
        ".cached(",
        "CachePolicy",
        "register_metrics",
        "health_check",
    ):
        assert name in text


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
@pytest.mark.usefixtures("reader")
def test_every_example_of_the_readme_runs_and_runs_again(block: str) -> None:
    # Pasted a second time into the same session, and into a new one.
    space = {"__name__": "readme"}
    for names in (space, space, {"__name__": "readme"}):
        exec(compile(block, str(README), "exec"), names)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.usefixtures("reader")
def test_every_example_of_a_page_runs_and_runs_again(page: str) -> None:
    space = {"__name__": "page"}
    for names in (space, space, {"__name__": "page"}):
        for block in PAGES[page]:
            exec(compile(block, page, "exec"), names)


@pytest.mark.usefixtures("reader")
def test_the_examples_one_after_another_twice_leave_each_other_alone() -> None:
    for _ in range(2):
        for block in BLOCKS:
            exec(compile(block, str(README), "exec"), {"__name__": "readme"})
        for page, blocks in PAGES.items():
            space = {"__name__": "page"}
            for block in blocks:
                exec(compile(block, page, "exec"), space)
    assert StoreAdmin(CacheConfig(archive_dir="./data/conversations")).session_ids() == []
    assert list(Path("data").rglob("*.huff")) == []


def test_every_link_of_the_pages_leads_to_a_file() -> None:
    for page in (README, ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
        for target in re.findall(r"\bdocs/[\w./-]+\.(?:md|svg)\b", text):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_the_quality_that_the_readme_states_is_what_was_measured() -> None:
    stated = re.findall(
        r"^\| (default|strict|cosine 0\.90) \| (.*) \|$", README.read_text("utf-8"), re.MULTILINE
    )
    assert [name for name, _ in stated] == ["default", "strict", "cosine 0.90"]
    measured = (ROOT / "docs" / "calibration.md").read_text("utf-8")
    for name, figures in stated:
        assert re.search(
            rf"^\| .*{re.escape(name)}\)? \| {re.escape(figures)} \|$", measured, re.MULTILINE
        ), name


def test_every_extra_stands_in_the_readme() -> None:
    tables = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^([\w-]+) = \[", tables.partition("\n[")[0], re.MULTILINE))
    rows = re.findall(r"^\| (`.*?) \|", README.read_text("utf-8").partition("## Extras")[2], re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert extras - {"bench", "dev", "paper"} == shown


def test_the_house_that_is_drawn_is_the_house_that_stands() -> None:
    package = ROOT / "lix_cache"
    drawing = (ROOT / "docs" / "architecture.md").read_text("utf-8").split("```")[1]
    drawn, room = set(), ""
    for line in drawing.splitlines()[2:]:
        indent = len(line) - len(line.lstrip())
        names = re.match(r"(?: *[\w.]+(?:\.py|\.c|/)(?= ))+", line)
        assert names, line
        for name in names[0].split():
            room = name if indent == 2 and name.endswith("/") else room if indent == 4 else ""
            path = (room if indent == 4 else "") + name
            assert (package / path).exists(), path
            drawn.add(path.rstrip("/"))
    built = {p for p in package.iterdir() if p.name.endswith(".py") or (p / "__init__.py").exists()}
    for folder in [
        p
        for p in package.iterdir()
        if p.is_dir() and p.name not in {"cli", "admin", "embedded", "huffman_codec"}
    ]:
        built |= {p for p in folder.glob("*.py") if p.name != "__init__.py"}
    assert {str(p.relative_to(package)) for p in built} - drawn == set()
