"""The command line where a store has namespaces: what is said of one is done to it alone."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from lix_cache import CacheConfig, ConversationArchive, HybridConversationCache, SessionKey
from tests.integration.test_cli import Cli, cli, line_of, no_settings_from_outside, run_cli

__all__ = ["cli", "no_settings_from_outside"]

pytestmark = pytest.mark.promise("isolation")


def fill_namespaces(config: CacheConfig) -> None:
    for number, session in enumerate(
        ("x", SessionKey("acme", "x"), SessionKey("acme", "y"), SessionKey("b", "x"))
    ):
        cache = HybridConversationCache(session, config)
        for _ in range(number + 1):
            cache.add_message("user", f"of number {number}")


def test_sessions_are_listed_by_namespace(cli: Cli, redis_config: CacheConfig) -> None:
    fill_namespaces(redis_config)
    listed = cli("sessions", "--json").json["sessions"]
    names = {(one.get("namespace"), one["session_id"]) for one in listed}
    assert names == {(None, "x"), ("acme", "x"), ("acme", "y"), ("b", "x")}
    listed = cli("sessions", "--json", "--namespace", "acme").json["sessions"]
    assert {(one["namespace"], one["session_id"]) for one in listed} == {("acme", "x"), ("acme", "y")}
    table = cli("sessions").out
    assert "namespace" in table.splitlines()[0]
    assert re.search(r"acme\s+y", table)
    assert "\x1f" not in table
    none = cli("sessions", "--namespace", "nobody")
    assert none.code == 0
    assert "in the namespace 'nobody'" in none.err
    assert "namespace" not in cli("sessions", "--limit", "0", "--namespace", "nobody").out


def test_an_id_that_another_namespace_has_is_said_to_be_there(cli: Cli, redis_config: CacheConfig) -> None:
    fill_namespaces(redis_config)
    cli("offload", "--all")
    for command in ("show", "verify"):
        assert "--namespace acme" in cli(command, "y").err
        assert "--namespace acme" in cli(command, "y", "--namespace", "b").err
        assert "'lix-cache sessions' lists them" in cli(command, "z").err
    HybridConversationCache("alone", redis_config).add_message("user", "x")
    assert "leave --namespace out" in cli("show", "alone", "--namespace", "acme").err


def test_a_command_looks_in_the_namespace_it_was_told(cli: Cli, redis_config: CacheConfig) -> None:
    fill_namespaces(redis_config)
    assert cli("show", "x", "--json").json["total"] == 1
    shown = cli("show", "x", "--namespace", "acme", "--json").json
    assert (shown["session_id"], shown["namespace"], shown["total"]) == ("x", "acme", 2)
    for arguments in (("y",), ("y", "--namespace", "b"), ("\x1facme\x1fx",), ("x", "--namespace", "ACME")):
        missing = cli("show", *arguments)
        assert missing.code == 1
        assert "there is no session" in missing.err
    for bad in ("", "a\x1fb", "x" * 256):
        assert cli("show", "x", "--namespace", bad).code == 2
    assert cli("offload", "--session", "x", "--namespace", "acme", "--json").json["messages"] == 2
    assert cli("offload", "--all", "--namespace", "acme", "--json").json["messages"] == 3
    assert cli("offload", "--idle-minutes", "0", "--namespace", "nobody", "--json").json["messages"] == 0
    assert cli("offload", "--all", "--json").json["messages"] == 5
    checked = cli("verify", "x", "--namespace", "b", "--json").json["files"]
    assert [(one["namespace"], one["session_id"], one["turns"]) for one in checked] == [("b", "x", 4)]
    checked = cli("verify", "--namespace", "acme", "--json").json["files"]
    assert [(one["namespace"], one["session_id"]) for one in checked] == [("acme", "x"), ("acme", "y")]
    assert cli("verify", "--namespace", "nobody", "--json").json["files"] == []
    assert cli("verify").code == 0
    done = cli("compact", "--namespace", "acme", "--idle-minutes", "0", "--json").json
    assert (done["files"], done["failed"]) == (2, {})
    # Of none there is nothing, and not everything.
    assert cli("compact", "--namespace", "nobody", "--idle-minutes", "0", "--json").json["files"] == 0
    assert cli("compact", "--namespace", "acme", "--session", "y", "--json").json["files"] == 1


def test_export_and_import_keep_the_namespace(cli: Cli, redis_config: CacheConfig, tmp_path: Path) -> None:
    fill_namespaces(redis_config)
    everything = cli("export").out
    lines = [json.loads(line) for line in everything.splitlines()]
    assert [(line.get("namespace"), line["session_id"], len(line["messages"])) for line in lines] == [
        (None, "x", 1),
        ("acme", "x", 2),
        ("acme", "y", 3),
        ("b", "x", 4),
    ]
    assert list(lines[0]) == ["session_id", "messages"]
    one = cli("export", "--namespace", "acme").out
    assert [json.loads(line)["session_id"] for line in one.splitlines()] == ["x", "y"]
    alone = cli("export", "--namespace", "acme", "--session", "y").out
    assert alone == one.splitlines(keepends=True)[1]

    copy = redis_config.replace(redis_key_prefix="copy", archive_dir=str(tmp_path / "copy"))
    assert run_cli(copy, "import", "-", stdin=everything.encode()).out == "4 sessions, 10 messages imported\n"
    assert run_cli(copy, "export").out == everything
    refused = run_cli(copy, "import", "-", stdin=one.encode())
    assert refused.code == 2
    assert "session 'x' of namespace 'acme' exists; nothing was imported" in refused.err


def test_import_puts_sessions_into_a_namespace_and_moves_none_from_one_to_another(
    cli: Cli, redis_config: CacheConfig
) -> None:
    plain, other = line_of("x", "1", "2"), json.dumps({"namespace": "b", **json.loads(line_of("x", "3"))})
    refused = cli("import", "-", "--namespace", "acme", stdin=f"{plain}{other}".encode())
    assert refused.code == 2
    assert "line 2: session 'x' is of the namespace 'b', not 'acme'" in refused.err
    assert cli("sessions", "--json").json["sessions"] == []
    assert cli("import", "-", "--namespace", "acme", stdin=plain.encode()).code == 0
    assert cli("import", "-", "--namespace", "b", stdin=other.encode()).code == 0
    assert len(HybridConversationCache(SessionKey("acme", "x"), redis_config).get_full()) == 2
    assert len(HybridConversationCache(SessionKey("b", "x"), redis_config).get_full()) == 1
    assert HybridConversationCache("x", redis_config).get_full() == []
    for bad in ("5", '""', '"a\\u001fb"', '"a\\ud800"', "[]"):
        line = f'{{"session_id": "z", "namespace": {bad}, "messages": [{{"role": "user", "content": "x"}}]}}'
        result = cli("import", "-", stdin=f"{plain}{line}".encode())
        assert result.code == 2
        assert "line 2" in result.err
        assert "namespace" in result.err
    assert len(cli("sessions", "--json").json["sessions"]) == 2


def test_restore_takes_back_the_session_of_the_namespace_alone(cli: Cli, redis_config: CacheConfig) -> None:
    fill_namespaces(redis_config)
    cli("offload", "--all")
    time.sleep(0.01)
    assert ConversationArchive(redis_config.archive_dir, 1e-9).cleanup_expired() == 4
    listed = cli("restore", "--json").json["trashed"]
    assert {(one.get("namespace"), one["session_id"]) for one in listed} == {
        (None, "x"),
        ("acme", "x"),
        ("acme", "y"),
        ("b", "x"),
    }
    assert cli("restore", "--namespace", "acme").out.count("acme  ") == 2
    back = cli("restore", "x", "--namespace", "acme", "--json").json["restored"]
    assert back == [{"session_id": "x", "namespace": "acme"}]
    assert cli("restore", "y").code == 1
    assert cli("restore", "--all", "--namespace", "acme").out == "1 session restored\n"
    assert cli("restore", "x", "--json").json["restored"] == ["x"]
    assert [one["namespace"] for one in cli("restore", "--json").json["trashed"]] == ["b"]


def test_failures_in_a_namespace_are_told_by_namespace_and_id(cli: Cli, redis_config: CacheConfig) -> None:
    fill_namespaces(redis_config)
    cli("offload", "--all")
    for path in Path(redis_config.archive_dir).glob("%1Facme*.huff"):
        path.write_bytes(path.read_bytes()[:40] + bytes(30))
    result = cli("export")
    assert result.code == 1
    assert "session 'y' of namespace 'acme' is not in it" in result.err or "cannot be read" in result.err
    assert "\x1f" not in result.out + result.err
    listed = cli("verify", "--json").json["files"]
    assert {(one["session_id"], one.get("namespace")) for one in listed if not one["is_intact"]} == {
        ("x", "acme"),
        ("y", "acme"),
    }
    assert "session y, namespace acme" in cli("verify").out


def test_a_namespace_cannot_speak_to_the_terminal(cli: Cli, redis_config: CacheConfig) -> None:
    evil = SessionKey("\x1b[31mred\nerror: none\u202e", "x\x1b[2J")
    HybridConversationCache(evil, redis_config).add_message("user", "hello")
    for arguments in (
        ("sessions",),
        ("show", "y", "--namespace", str(evil.namespace)),
        ("show", evil.id, "--namespace", str(evil.namespace)),
        ("offload", "--all"),
        ("verify",),
        ("export",),
        ("sessions", "--namespace", "\x1b[31m"),
    ):
        result = cli(*arguments)
        for text in (result.out, result.err):
            assert "\x1b" not in text
            assert "\u202e" not in text
            assert "\nerror: none" not in text
