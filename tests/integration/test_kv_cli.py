"""``lix-cache kv``: what it says of a store is so, and it takes nothing that it was not asked to take."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lix_cache.cli.app import app
from lix_cache.kv.identity import tenant_digest
from lix_cache.kv.manifest import Manifest, Part
from lix_cache.kv.store import KvStore
from tests.support.kv import FINGERPRINT, as_ids, pieces_of, save_tokens, tokens


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = KvStore(tmp_path / "kv")
    prefix = tokens(600)
    for number in range(3):
        save_tokens(store, f"s{number}", as_ids([*prefix, *tokens(100, number + 1)]), "ann")
    save_tokens(store, "other", tokens(300, 9), "bob", pinned=True)
    return tmp_path / "kv"


def run(*arguments: Any, code: int = 0) -> Any:
    done = CliRunner().invoke(app, ["kv", *map(str, arguments)])
    assert done.exit_code == code, done.output
    return done.stdout


def said(*arguments: Any, code: int = 0) -> Any:
    return json.loads(run(*arguments, "--json", code=code))


def test_list_and_stats_count_what_is_there(folder: Path) -> None:
    found = said("list", "--dir", folder)
    assert {
        (one["session"], one["tenant"], one["tokens"], one["stored_tokens"], one["pinned"]) for one in found
    } == {
        ("s0", "ann", 700, 700, False),
        ("s1", "ann", 700, 700, False),
        ("s2", "ann", 700, 700, False),
        ("other", "bob", 300, 300, True),
    }
    assert all("none" in one["model"] for one in found)
    stats = said("stats", "--dir", folder)
    # Two blocks that three sessions share, a tail for each, and a block and a tail of another.
    assert (stats["files"], stats["sessions"], stats["shared_files"], stats["tenants"]) == (7, 4, 2, 2)
    assert stats["bytes"] == sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    assert "s1" in run("list", "--dir", folder)
    assert "shared" in run("stats", "--dir", folder)


@pytest.mark.promise("bad-bytes")
def test_verify_finds_a_flipped_bit_and_a_file_under_another_name(folder: Path) -> None:
    assert said("verify", "--dir", folder) == {"files": 7, "damaged": []}
    first, second = sorted(folder.rglob("*.safetensors"))[:2]
    data = bytearray(first.read_bytes())
    data[-1] ^= 1
    first.write_bytes(data)
    third = sorted(folder.rglob("*.safetensors"))[2]
    second.write_bytes(third.read_bytes())
    found = said("verify", "--dir", folder, code=1)
    assert {one["file"].split("/")[-1] for one in found["damaged"]} == {first.name, second.name}
    assert "2 damaged" in run("verify", "--dir", folder, code=1)


def test_looking_removes_nothing(folder: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    for command in ("list", "stats", "verify"):
        run(command, "--dir", folder)
    run("explain", "s0", "--dir", folder, "--tenant", "ann")
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before


def test_prune_takes_what_it_was_asked_to(folder: Path) -> None:
    assert said("prune", "--dir", folder)["files"] == 0
    assert said("prune", "--dir", folder, "--tenant", "ann", "--session", "s0")["files"] == 1
    assert {one["session"] for one in said("list", "--dir", folder)} == {"s1", "s2", "other"}
    assert said("prune", "--dir", folder, "--bytes", 0)["files"] == 4
    # Pinned: only by its name.
    assert {one["session"] for one in said("list", "--dir", folder)} == {"other"}
    assert said("prune", "--dir", folder, "--tenant", "bob", "--whole-tenant")["files"] == 2
    assert said("list", "--dir", folder) == []


@pytest.mark.promise("no-loss")
def test_prune_of_a_whole_tenant_keeps_what_its_agents_were_told_unless_told_otherwise(folder: Path) -> None:
    agent = folder / "agents" / tenant_digest("ann").hex() / "agent-1.json"
    assert KvStore(folder).keep("ann", str(agent), b"{}", None)
    whole = ("--dir", folder, "--tenant", "ann", "--whole-tenant")
    run("prune", "--dir", folder, "--tenant", "ann", "--agents", code=2)
    assert "1 agent kept" in run("prune", *whole)
    assert agent.exists()
    assert {one["tenant"] for one in said("list", "--dir", folder)} == {"bob"}
    assert said("prune", *whole)["agents"] == 0
    assert "1 agent removed" in run("prune", *whole, "--agents")
    assert not agent.exists()


def test_explain_names_the_message_that_differs(folder: Path) -> None:
    store = KvStore(folder)
    ids = as_ids([*tokens(600)[:50], 7, *tokens(600)[51:]])
    manifest = Manifest("clock", "ann", ids=ids, parts=[Part(80, "system"), Part(600, "message 2 (user)")])
    store.save(FINGERPRINT, manifest, pieces_of(ids, "ann"))
    found = said("explain", "clock", "--dir", folder, "--tenant", "ann")
    assert (found["part"], found["token"], found["token_in_part"]) == ("system", 51, 51)
    assert "token 51 of system" in run("explain", "clock", "--dir", folder, "--tenant", "ann")
    assert said("explain", "other", "--dir", folder, "--tenant", "bob") is None
    run("explain", "nobody", "--dir", folder, code=2)


def test_a_folder_that_is_not_there_is_said(tmp_path: Path) -> None:
    for command in ("list", "stats", "verify", "prune"):
        done = CliRunner().invoke(app, ["kv", command, "--dir", str(tmp_path / "none")])
        assert done.exit_code == 2
        assert "appears with the first save" in " ".join(done.output.split())
    assert not (tmp_path / "none").exists()


def test_a_session_that_is_not_there_is_said_with_where_it_may_be(folder: Path) -> None:
    for command in (["explain", "s0"], ["prune", "--session", "s0"], ["prune", "--session", "s0", "--json"]):
        done = CliRunner().invoke(app, ["kv", *command, "--dir", str(folder)])
        assert done.exit_code == 2
        assert "one of that name is of 'ann': give --tenant" in " ".join(done.output.split())
    done = CliRunner().invoke(app, ["kv", "explain", "s9", "--dir", str(folder)])
    assert "idle_seconds" in done.output
    assert {one["session"] for one in said("list", "--dir", folder)} == {"s0", "s1", "s2", "other"}


def test_a_list_keeps_ids_on_one_line_at_80_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    session = "auto-0123456789abcdef"
    save_tokens(KvStore(folder), session, tokens(300, 5), "shop-number-1")
    out = io.StringIO()
    monkeypatch.setattr("lix_cache.cli.commands.kv.for_humans", lambda: Console(file=out, width=80))
    run("list", "--dir", folder)
    assert session in out.getvalue()
    assert max(map(len, out.getvalue().splitlines())) <= 80
    assert "…" not in out.getvalue().replace("shop…er-1", "")


@pytest.mark.parametrize("name", ["-", "local", ""])
def test_the_tenant_without_a_name_is_found_by_the_names_that_it_is_shown_under(
    folder: Path, name: str
) -> None:
    save_tokens(KvStore(folder), "conv", tokens(300, 5))
    tenant = ["--tenant", name] if name else []
    assert "no other session" in run("explain", "conv", "--dir", folder, *tenant)
    assert "0 state files" not in run("prune", "--session", "conv", "--dir", folder, *tenant)
    assert "conv" not in run("list", "--dir", folder)


def test_a_tenant_that_has_such_a_name_is_itself(folder: Path) -> None:
    save_tokens(KvStore(folder), "conv", tokens(300, 5))
    save_tokens(KvStore(folder), "conv", tokens(300, 6), "local")
    run("prune", "--session", "conv", "--tenant", "local", "--dir", folder)
    left = {one["tenant"] for one in said("list", "--dir", folder) if one["session"] == "conv"}
    assert left == {""}
