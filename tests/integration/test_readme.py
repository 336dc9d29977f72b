"""The examples of README and docs are run as they stand, against a real server."""

from __future__ import annotations

import importlib
import json
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import redis
from loguru import logger

import lix_cache
import lix_cache.kv
from lix_cache import StoreAdmin
from lix_cache.config import CacheConfig
from tests.support import RedisServer

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
README = ROOT / "README.md"
PAGES = [README, ROOT / "CONTRIBUTING.md", *sorted(DOCS.rglob("*.md"))]
_PYTHON, _SHELL, _DATA = ("python", "py"), ("bash",), ("json", "yaml", "toml", "diff")
#: A block that cannot run says so, and why, in a comment before it that no reader sees.
_BLOCK = re.compile(
    r"^(?:<!-- not run: (?P<why>[^\n]+) -->\n\s*)?```(?P<language>\w*)\n(?P<text>.*?)^```$"
    r"(?:\n\n<!-- what it prints -->\n\n```text\n(?P<prints>.*?)^```$)?",
    re.MULTILINE | re.DOTALL,
)


class Block(NamedTuple):
    language: str
    text: str
    #: Why it does not run; None if it does.
    why: str | None
    #: What the page says that it prints.
    prints: str | None

    def run(self, page: str, space: dict[str, Any]) -> None:
        if self.why is not None:
            return
        if self.language in _SHELL:
            said = ""
            for line in lines_of(self.text):
                code, printed = run_line(line)
                assert code == 0, f"{page}: {line}\n{printed}"
                said += printed
            assert self.prints in (None, said), f"{page}: {self.text}\n{said}"
        elif named := re.match(r"# (\w+\.py)\n", self.text):
            Path(named[1]).write_text(self.text, "utf-8")
        elif self.language == "diff":
            program = Path(re.match(r"--- (\w+\.py)\n", self.text)[1])  # type: ignore[index]
            program.write_text(changed(program.read_text("utf-8"), self.text), "utf-8")
        elif self.language in _PYTHON:
            exec(compile(self.text, page, "exec"), space)


def changed(program: str, diff: str) -> str:
    """Return what a reader has after doing what a diff of the tutorial says."""
    for hunk in re.split(r"^@@.*\n", diff, flags=re.MULTILINE)[1:]:
        lines = [line if line.strip() else " " + line for line in hunk.splitlines(keepends=True)]
        assert {line[0] for line in lines} <= set(" +-"), hunk
        before = "".join(line[1:] for line in lines if line[0] in " -")
        assert program.count(before) == 1, before
        program = program.replace(before, "".join(line[1:] for line in lines if line[0] in " +"))
    return program


def lines_of(script: str) -> list[str]:
    return [line for line in script.replace("\\\n", " ").splitlines() if line.partition("#")[0].strip()]


def run_line(line: str) -> tuple[int, str]:
    """Run one line of a shell block. Our own command runs in this process, for it takes a second to start."""
    words = shlex.split(line, comments=True)
    if words[0] == "lix-cache":
        assert not re.search(r"[|><$;&]", line.partition("#")[0]), f"for the shell: {line}"
        result = pytest.importorskip("typer.testing").CliRunner().invoke(app(), words[1:])
        return result.exit_code, result.output
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", line],
        stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    return done.returncode, done.stdout + done.stderr * (done.returncode != 0)


def app() -> Any:
    return pytest.importorskip("lix_cache.cli.app", exc_type=ImportError).app


def blocks_of(page: Path) -> list[Block]:
    return [
        Block(found["language"], found["text"], found["why"], found["prints"])
        for found in _BLOCK.finditer(page.read_text("utf-8"))
    ]


#: Each example of the README stands alone; those of another page go on from each other.
BLOCKS = [block for block in blocks_of(README) if block.language in _PYTHON]
EXAMPLES = {
    str(page.relative_to(DOCS)): blocks
    for page in PAGES
    if page.is_relative_to(DOCS)
    if (blocks := blocks_of(page)) and any(b.why is None and b.language in _PYTHON + _SHELL for b in blocks)
}


@pytest.fixture
def reader(
    redis_server: RedisServer, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A reader's folder and process: only where the server is, and under which prefix, differs."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIX_CACHE_REDIS_URL", f"unix://{quote(str(redis_server.socket_path))}")
    # For the commands and the programs that a page writes: they are processes of their own.
    monkeypatch.setenv("LIX_CACHE_REDIS_KEY_PREFIX", redis_config.redis_key_prefix)
    monkeypatch.setenv("PATH", f"{sysconfig.get_path('scripts')}{os.pathsep}{os.environ['PATH']}")
    # The tests' server keeps nothing itself, which the doctor would refuse.
    monkeypatch.setenv("LIX_CACHE_DURABILITY", "disk")
    original = CacheConfig.__init__

    def here(self: CacheConfig, **settings: object) -> None:
        # A prefix that a page names goes behind the test's.
        prefix = str(settings.setdefault("redis_key_prefix", redis_config.redis_key_prefix))
        if not prefix.startswith(redis_config.redis_key_prefix):
            settings["redis_key_prefix"] = f"{redis_config.redis_key_prefix}:{prefix}"
        settings["redis_port"] = redis_server.port
        original(self, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(CacheConfig, "__init__", here)
    prometheus = pytest.importorskip("prometheus_client")
    monkeypatch.setattr(prometheus, "REGISTRY", prometheus.CollectorRegistry())
    yield
    logger.disable("lix_cache")
    # The tutorial's programs are other processes: nothing puts the test's prefix before theirs.
    client = redis.Redis(port=redis_server.port, db=CacheConfig().session_redis_db)
    for key in client.scan_iter("chat:*"):
        client.delete(key)
    client.close()


def test_the_page_of_ways_shows_each_of_them() -> None:
    text = "\n".join(block.text for block in EXAMPLES["ways.md"])
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
        "ensure_redis",
    ):
        assert name in text
    assert {"CacheCoordinator", ".cached"} <= set(re.findall(r"CacheCoordinator|\.cached", str(BLOCKS)))


def test_the_tutorial_ends_with_the_example() -> None:
    blocks = EXAMPLES["tutorial.md"]
    first, last = (block.text for block in blocks if block.text.startswith("# fastapi_chat.py"))
    for block in blocks:
        if block.language == "diff":
            first = changed(first, block.text)
    assert first == last
    # Its own prefix: both may run on the private Redis of one user, from two folders.
    example = (ROOT / "examples" / "fastapi_chat.py").read_text("utf-8").partition('"""\n\n')[2]
    assert last == "# fastapi_chat.py\n" + example.replace('"example-chat"', '"chat"')


def test_the_two_commands_of_the_readme_are_targets_of_make() -> None:
    [two] = [block for block in blocks_of(README) if block.text.startswith("make ")]
    targets = [line.split()[:2] for line in two.text.splitlines()]
    assert targets == [["make", "demo"], ["make", "test"]]


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
@pytest.mark.usefixtures("reader")
def test_every_example_of_the_readme_runs_and_runs_again(block: Block) -> None:
    # Pasted a second time into the same session, and into a new one.
    space = {"__name__": "readme"}
    for names in (space, space, {"__name__": "readme"}):
        block.run(str(README), names)


@pytest.mark.parametrize("page", EXAMPLES)
@pytest.mark.usefixtures("reader")
def test_every_example_of_a_page_runs_and_runs_again(page: str) -> None:
    space = {"__name__": "page"}
    for names in (space, space):
        for block in EXAMPLES[page]:
            block.run(page, names)
    again = {"__name__": "page"}
    for block in EXAMPLES[page]:
        if block.language in _PYTHON:  # every command is a new process as it is
            block.run(page, again)


@pytest.mark.usefixtures("reader")
def test_the_examples_one_after_another_twice_leave_each_other_alone() -> None:
    for _ in range(2):
        for block in BLOCKS:
            block.run(str(README), {"__name__": "readme"})
        for page, blocks in EXAMPLES.items():
            space = {"__name__": "page"}
            for block in blocks:
                if block.language in _PYTHON:
                    block.run(page, space)
    for settings in ({}, {"redis_key_prefix": "first-look"}):
        assert StoreAdmin(CacheConfig(**settings)).session_ids() == []
    assert list(Path("data").rglob("*.huff")) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_block_is_run_or_says_why_not(page: Path) -> None:
    text = page.read_text("utf-8")
    # No fence escapes the pattern: each opens or closes a block that was found.
    assert len(re.findall(r"^ *```", text, re.MULTILINE)) == 2 * sum(
        1 if block.prints is None else 2 for block in blocks_of(page)
    )
    assert text.count("<!-- not run") == sum(block.why is not None for block in blocks_of(page))
    for block in blocks_of(page):
        assert block.language in (*_PYTHON, *_SHELL, *_DATA, "text", "")
        if block.language in _PYTHON:
            compile(block.text, str(page), "exec")
        elif block.language == "json":
            json.loads(block.text)
        elif block.language == "toml" and sys.version_info >= (3, 11):
            importlib.import_module("tomllib").loads(block.text)
        elif block.language == "yaml":
            pytest.importorskip("yaml").safe_load(block.text)


def test_every_command_of_the_pages_exists_with_its_options() -> None:
    top = pytest.importorskip("typer.main").get_command(app())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    ours = [
        (page.name, shlex.split(found, comments=True))
        for page in PAGES
        for block in blocks_of(page)
        if block.language in _SHELL
        for line in lines_of(block.text)
        for found in re.findall(r"^(?:\w+=\S+ )*((?:lix-cache|make) .*)", line)
    ]
    assert len(ours) > 20
    for name, words in ours:
        if words[0] == "make":
            assert words[1] in targets, f"{name}: {words}"
            continue
        command = top
        for word in words[1:]:
            if word in getattr(command, "commands", {}):
                command = command.commands[word]
            elif re.match(r"-+\w", word):
                options = {option for one in command.params for option in one.opts}
                assert word.partition("=")[0] in options, f"{name}: {words}"


def test_the_reference_names_every_public_name_once() -> None:
    shown = re.findall(
        r"^::: ([\w.]+)$", "\n".join(page.read_text("utf-8") for page in DOCS.rglob("*.md")), re.MULTILINE
    )
    public = {f"lix_cache.{name}" for name in lix_cache.__all__ if name != "__version__"}
    public |= {f"lix_cache.kv.{name}" for name in lix_cache.kv.__all__}
    assert sorted(shown) == sorted(public)


def test_every_link_of_the_pages_leads_to_a_file() -> None:
    for page in PAGES:
        text = page.read_text("utf-8")
        for target in re.findall(r"\]\(([^)#]+)[^)]*\)", text):
            # Two pages of the site are files of the top folder.
            if "://" not in target and target not in ("changelog.md", "contributing.md"):
                assert (page.parent / target).exists(), f"{page.name}: {target}"
        for target in re.findall(r"\bdocs/[\w./-]+\.(?:md|svg)\b", text):
            assert (ROOT / target).exists(), f"{page.name}: {target}"


def test_every_place_that_readme_and_contributing_name_is_on_its_page() -> None:
    # The site's own pages are looked at where they are built: test_site.py.
    named = 0
    for page in (README, ROOT / "CONTRIBUTING.md"):
        for target, place in re.findall(r"\]\(([^)#\s]*)#([^)]+)\)", page.read_text("utf-8")):
            there = (page.parent / target if target else page).read_text("utf-8")
            headings = re.findall(r"^#+ (.+)$", there, re.MULTILINE)
            places = {re.sub(r"[^\w -]", "", one.lower()).replace(" ", "-") for one in headings}
            assert place in places, f"{page.name}: {target}#{place}"
            named += 1
    assert named


def test_every_page_that_the_code_names_is_there() -> None:
    for folder in ("lix_cache", "scripts", "tests"):
        for path in (ROOT / folder).rglob("*"):
            if path.suffix in (".py", ".lua", ".c", ".h") and "node_modules" not in path.parts:
                for target in re.findall(r"\bdocs/[\w./-]+\.md\b", path.read_text("utf-8")):
                    assert (ROOT / target).exists(), f"{path}: {target}"


def test_every_extra_stands_on_the_page_of_the_installation() -> None:
    tables = (ROOT / "pyproject.toml").read_text("utf-8").partition("[project.optional-dependencies]")[2]
    extras = set(re.findall(r"^([\w-]+) = \[", tables.partition("\n[")[0], re.MULTILINE))
    page = (DOCS / "install.md").read_text("utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page.partition("## Extras")[2], re.MULTILINE)
    shown = {name for row in rows for name in re.findall(r"`([\w-]+)`", row)}
    assert extras - {"bench", "dev", "docs", "paper"} == shown


def test_the_house_that_is_drawn_is_the_house_that_stands() -> None:
    package = ROOT / "lix_cache"
    page = (ROOT / "docs" / "architecture.md").read_text("utf-8")
    [drawing] = re.findall(r"^```(\nlix_cache/\n.*?)^```", page, re.DOTALL | re.MULTILINE)
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
    for folder in [p for p in package.iterdir() if p.is_dir() and p.name not in {"cli", "huffman_codec"}]:
        built |= {p for p in folder.glob("*.py") if p.name != "__init__.py"}
    assert {str(p.relative_to(package)) for p in built} - drawn == set()
