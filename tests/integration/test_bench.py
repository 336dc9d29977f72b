"""The benchmark runs, and its report holds every figure that was promised. No timing is checked here."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import RedisServer

pytestmark = pytest.mark.exhaustive

ROOT = Path(__file__).resolve().parents[2]
MARKED = "before\n<!-- bench:begin -->\nold table\n<!-- bench:end -->\nafter\n"


def bench(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench.py"), "--quick", *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Conversations in both forms that are read, so that no other data is needed."""
    folder = tmp_path_factory.mktemp("conversations")
    lines = {
        "messages.jsonl": {"messages": [_message(i, "résumé ") for i in range(30)]},
        "turns.jsonl": {
            "turns": [*(_message(i, "天気 ") for i in range(30)), {"role": "tool", "content": None}]
        },
    }
    for name, line in lines.items():
        (folder / name).write_text(json.dumps(line) + "\n\n", encoding="utf-8")
    return folder


def _message(i: int, text: str) -> dict[str, str]:
    return {"role": ("user", "assistant")[i % 2], "content": text * (5 + i % 7)}


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """One quick run of everything: exit code, output, report, and the document it wrote."""
    folder = tmp_path_factory.mktemp("bench")
    document = folder / "page.md"
    document.write_text(MARKED, encoding="utf-8")
    target = folder / "results" / "bench.json"
    work = folder / "work"
    work.mkdir()
    done = bench("--json", target, "--data", data, "--work-dir", work, "--write-docs", document)
    assert done.returncode == 0, done.stderr[-3000:]
    return {
        "report": json.loads(target.read_text(encoding="utf-8")),
        "output": done.stdout,
        "document": document.read_text(encoding="utf-8"),
        "left": os.listdir(work),
    }


def figures(run: dict[str, Any], **wanted: str) -> list[dict[str, Any]]:
    found = run["report"]["figures"]
    return [figure for figure in found if all(figure[key] == value for key, value in wanted.items())]


def test_every_figure_is_a_finite_positive_number_with_a_place_in_a_table(run: dict[str, Any]) -> None:
    assert run["report"]["figures"]
    for figure in run["report"]["figures"]:
        assert math.isfinite(figure["value"])
        assert figure["value"] > 0
        assert all(isinstance(figure[key], str) for key in ("section", "name", "variant", "unit", "target"))


@pytest.mark.parametrize(
    ("name", "at_most"),
    [
        ("add, message 20", 2.0),
        ("add, message 200", 2.0),
        ("get_context, 20 messages", 3.5),
        ("semantic miss, 50 entries", 2.5),
        ("semantic hit, 50 entries", 3.5),
        ("semantic set, 50 entries", 2.5),
        ("lookup, exact, 50 in a scope", 2.5),
        ("lookup, miss, 50 in a scope", 2.5),
        ("lookup, hit, 50 in a scope", 3.5),
        ("lookup, miss, 100 in a scope", None),
        ("store", 2.5),
        ("URL get", 1.5),
    ],
)
def test_speed_is_measured_in_both_variants_on_both_transports_beside_its_target(
    run: dict[str, Any], name: str, at_most: float | None
) -> None:
    ours = [
        figure
        for figure in figures(run, name=name)
        if figure["section"].startswith("Speed") and not figure["variant"].startswith("lix-open-cache")
    ]
    assert {figure["variant"] for figure in ours} == {
        "tcp, sync",
        "tcp, async",
        "unix, sync",
        "unix, async",
    }
    for figure in ours:
        assert figure["at_most"] == at_most
        assert figure["unit"] == "x PING"
        found = figure["detail"]
        assert found["lowest"] <= figure["value"] <= found["highest"]
        assert min(found["unit_us"], found["median_us"]) <= found["p95_us"]


@pytest.mark.parametrize(
    ("section", "name", "variants"),
    [
        ("Archive", "append of 10 turns to 100", {"lix_cache"}),
        ("Archive", "load_recent(20) of 10 turns", {"lix_cache"}),
        ("Archive", "load_recent(20) of 100 turns", {"lix_cache"}),
        ("Archive", "get_metadata of 10 turns", {"lix_cache"}),
        ("Archive", "get_metadata of 100 turns", {"lix_cache"}),
        ("Archive", "append_turn at turn 10", {"lix_cache", "lix-open-cache"}),
        ("Codec", "encode of 5 kB", {"HuffmanCodec", "HCv1", "zlib 6", "lix-open-cache"}),
        ("Codec", "decode of 5 kB", {"HuffmanCodec", "HCv1", "zlib 6", "lix-open-cache"}),
        ("Codec", "size of 5 kB", {"HuffmanCodec", "HCv1", "zlib 6", "lix-open-cache"}),
        ("Memory", "in Redis", {"lix_cache", "lix-open-cache"}),
        ("Hot codec", "in Redis", {"stored", "huffman"}),
        ("Hot codec", "add", {"huffman"}),
        ("Hot codec", "get_context, 20 messages", {"huffman"}),
        ("Memory", "on disk", {"lix_cache", "JSON", "JSON, zlib 6", "lix-open-cache"}),
        (
            "Offload",
            "idle sessions offloaded",
            {"alone", "adds in the same process", "adds in another process"},
        ),
        ("Offload", "add meanwhile, median", {"adds in the same process", "adds in another process"}),
    ],
)
def test_what_rests_is_measured_beside_what_it_is_compared_with(
    run: dict[str, Any], section: str, name: str, variants: set[str]
) -> None:
    if not has_old_package(run):
        variants = variants - {"lix-open-cache"}
    assert {figure["variant"] for figure in figures(run, section=section, name=name)} == variants


def has_old_package(run: dict[str, Any]) -> bool:
    return run["report"]["environment"]["libraries"]["lix-open-cache"] is not None


def test_the_targets_of_disk_and_offload_are_printed_beside_their_figures(run: dict[str, Any]) -> None:
    (append,) = figures(run, name="append of 10 turns to 100")
    assert append["at_most"] == 1.2
    assert {figure["at_least"] for figure in figures(run, name="idle sessions offloaded")} == {1000}
    assert {figure["at_most"] for figure in figures(run, name="add meanwhile, median")} == {2.0}
    for text in ("≤ 1.2", "≥ 1,000", "≤ 3.5"):
        assert text in run["output"]


def test_the_codec_is_compared_on_one_text(run: dict[str, Any]) -> None:
    sizes = {figure["variant"]: figure["value"] for figure in figures(run, name="size of 5 kB")}
    assert sizes["zlib 6"] < 1
    if has_old_package(run):
        # Both make an optimal code of the same bytes, and write it down in the same way.
        assert sizes["HCv1"] == sizes["lix-open-cache"]


def test_the_report_says_what_its_numbers_depend_on(run: dict[str, Any], data: Path) -> None:
    environment = run["report"]["environment"]
    assert environment["quick"] is True
    assert environment["machine"]["cpus"] == os.cpu_count()
    assert environment["server"]["version"].count(".") >= 1
    assert environment["server"]["transports"] == ["tcp", "unix"]
    assert environment["libraries"]["redis"]
    assert [(file["name"], file["messages"]) for file in environment["texts"]["files"]] == [
        ("messages.jsonl", 30),
        ("turns.jsonl", 30),
    ]
    assert str(data) not in json.dumps(run["report"])


def test_the_tables_replace_what_is_between_the_marks_and_nothing_else(run: dict[str, Any]) -> None:
    before, _, rest = run["document"].partition("<!-- bench:begin -->")
    table, _, after = rest.partition("<!-- bench:end -->")
    assert (before, after) == ("before\n", "\nafter\n")
    assert "old table" not in table
    assert "| add, message 20, x PING | ≤ 2 |" in table


def test_nothing_is_left_in_the_working_folder(run: dict[str, Any]) -> None:
    assert run["left"] == []


def test_a_server_that_was_given_is_left_as_it_was(
    redis_server: RedisServer, data: Path, tmp_path: Path
) -> None:
    clients = [redis_server.client(db) for db in (0, 1, 2)]
    for client in clients:
        client.set("theirs", "untouched")
    before = [set(client.keys()) for client in clients]
    target = tmp_path / "bench.json"
    url = f"redis://127.0.0.1:{redis_server.port}"
    done = bench("--redis-url", url, "--json", target, "--data", data, "--only", "speed", "memory")
    assert done.returncode == 0, done.stderr[-3000:]
    # Keys of other tests may expire meanwhile; none may come.
    for client, keys in zip(clients, before, strict=True):
        assert set(client.keys()) <= keys
        assert client.get("theirs") == b"untouched"
    assert json.loads(target.read_text(encoding="utf-8"))["environment"]["server"]["given"] is True


def test_without_the_old_package_it_says_so_and_goes_on(data: Path, tmp_path: Path) -> None:
    hidden = tmp_path / "lix_open_cache"
    hidden.mkdir()
    (hidden / "__init__.py").write_text("raise ImportError('hidden by the test')\n", encoding="utf-8")
    target = tmp_path / "bench.json"
    search = f"{tmp_path}{os.pathsep}{ROOT}"
    done = bench("--json", target, "--data", data, "--only", "codec", PYTHONPATH=search)
    assert done.returncode == 0, done.stderr[-3000:]
    report = json.loads(target.read_text(encoding="utf-8"))
    assert any("not installed" in note for note in report["notes"])
    assert {figure["variant"] for figure in report["figures"]} == {"HuffmanCodec", "HCv1", "zlib 6"}


def test_a_document_without_marks_is_refused_and_left_alone(data: Path, tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("no place here\n", encoding="utf-8")
    done = bench(
        "--json", tmp_path / "bench.json", "--data", data, "--only", "codec", "--write-docs", document
    )
    assert done.returncode != 0
    assert "has no place for the table" in done.stderr
    assert document.read_text(encoding="utf-8") == "no place here\n"


@pytest.mark.parametrize("other", ["HEAD", str(ROOT)])
def test_a_paired_run_measures_both_sides_and_leaves_no_checkout(other: str) -> None:
    def worktrees() -> str:
        return subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "list"], capture_output=True, text=True, check=False
        ).stdout

    before = worktrees()
    if other == "HEAD" and not before:
        pytest.skip("not a git checkout")
    few = ["--turns", "1", "--rounds", "2", "--count", "3", "--only", "PING", "--only", "codec, bytes"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_against.py"), other, *few],
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr
    rows = {line.split("  ")[0]: line.split() for line in done.stdout.splitlines()}
    assert "1.000" in rows["codec, bytes"]
    assert "[" in "".join(rows["PING"])
    # Others may have come and gone meanwhile.
    assert "lix-before-" not in worktrees() or "lix-before-" in before


def test_a_paired_run_names_what_is_neither_commit_nor_folder() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "bench_against.py"), "no-such-commit"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode != 0
    assert "no-such-commit is neither a commit nor a folder" in done.stderr
