"""The command line against real servers and real files."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import (
    ArchiveUnavailable,
    CacheConfig,
    CacheCoordinator,
    ConversationArchive,
    EmbeddedRedis,
    HashingEmbedder,
    HybridConversationCache,
    SemanticCache,
    SemanticCacheRedis,
    SemanticSettings,
    StoreAdmin,
    URLEmbeddingCache,
)
from lix_cache.admin import files
from lix_cache.cli.app import app
from lix_cache.cli.output import write_all
from lix_cache.session import rounds
from lix_cache.session.store import open_store
from lix_cache.storage.files import Files
from tests.support import RedisServer
from tests.support.meaning import ANYTHING, Meanings, mix
from tests.support.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = (
    *("demo", "doctor", "sessions", "show", "stats", "offload", "compact", "verify", "restore", "export"),
    *("import", "migrate", "eval", "calibrate", "codec", "top"),
)
HOSTILE = [
    "../evil",
    "a/b\\c",
    "nul\0byte",
    "\x1b[31mred\x1b[0m\x07",
    "two\nlines\r",
    "\x9b2J c1",
    "glob*?[a-z]\\",
    "right\u202eto left",
    "[bold]markup[/bold] :smile:",
    "日本語🙂",
    "-starts-with-a-dash",
    "x" * 10_000,
]


class Result:
    """What a command wrote and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code = code
        self.out = out
        self.err = err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Result]


def options(config: CacheConfig) -> list[str]:
    password = f":{config.redis_password}@" if config.redis_password else ""
    return [
        f"--redis-url=redis://{password}127.0.0.1:{config.redis_port}",
        f"--prefix={config.redis_key_prefix}",
        f"--archive-dir={config.archive_dir}",
    ]


def run_cli(config: CacheConfig, *arguments: str, stdin: bytes | None = None) -> Result:
    with contextlib.suppress(OSError):
        if "doctor" not in arguments:
            os.mkdir(config.archive_dir)  # as the first add does
    result = CliRunner().invoke(app, [*options(config), *arguments], input=stdin, prog_name="lix-cache")
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert "Traceback" not in result.stderr
    return Result(result.exit_code, result.stdout, result.stderr)


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LIX_CACHE_") and name != "LIX_CACHE_SHARED":
            monkeypatch.delenv(name)


@pytest.fixture
def cli(redis_config: CacheConfig) -> Cli:
    return lambda *arguments, **options: run_cli(redis_config, *arguments, **options)


def fill(config: CacheConfig, session_id: str, count: int, *, cold: bool = False) -> HybridConversationCache:
    cache = HybridConversationCache(session_id, config)
    for number in range(count):
        cache.add_message("user" if number % 2 == 0 else "assistant", f"message {number}")
    if cold:
        cache.flush_to_disk()
    return cache


# -- help and errors -----------------------------------------------------------------------


def test_the_help_names_every_command_and_each_command_shows_an_example() -> None:
    runner = CliRunner()
    overview = runner.invoke(app, ["--help"])
    assert overview.exit_code == 0
    for command in COMMANDS:
        assert re.search(rf"^\W*{command}\s+[A-Z]", overview.stdout, re.MULTILINE), command
        shown = runner.invoke(app, [command, "--help"])
        assert shown.exit_code == 0
        assert re.search(rf"Example: lix-cache .*{command}", shown.stdout), command


def test_the_help_fills_its_lines_however_the_docstring_was_broken() -> None:
    def words_of(*arguments: str) -> list[list[str]]:
        shown = CliRunner().invoke(app, [*arguments, "--help"]).stdout
        return [line.split() for line in shown.splitlines()]

    # Lines of a paragraph end where the next word would not have fitted into 80 columns.
    for arguments in (["codec", "train"], ["demo"], ["eval"], ["import"]):
        lines = words_of(*arguments)
        about = lines[: next(n for n, line in enumerate(lines) if line and line[0].startswith("╭"))]
        for line, after in itertools.pairwise(about):
            if line and after:
                assert len(" ".join([*line, after[0]])) > 76, line


def test_the_version_is_the_package_s() -> None:
    import lix_cache

    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"lix-cache {lix_cache.__version__}\n")


def test_an_unreachable_server_is_one_line_with_what_to_do(redis_config: CacheConfig) -> None:
    gone = redis_config.replace(redis_port=free_port())
    for arguments in (["sessions"], ["stats", "--json"], ["show", "a"], ["offload", "--all"], ["export"]):
        result = run_cli(gone, *arguments)
        assert result.code == 1
        assert result.out == ""
        error, advice = result.err.splitlines()
        assert error.startswith("error: redis://127.0.0.1:")
        assert "cannot be reached" in error
        assert "--redis-url" in advice


def test_a_wrong_setting_is_wrong_use_and_names_the_variable(
    cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIX_CACHE_HOT_WINDOW_SIZE", "many")
    result = cli("stats")
    assert result.code == 2
    assert "LIX_CACHE_HOT_WINDOW_SIZE" in result.err


def test_an_empty_session_id_is_wrong_use(cli: Cli) -> None:
    result = cli("show", "")
    assert (result.code, result.out) == (2, "")
    assert "must not be empty" in result.err


def test_a_traceback_is_shown_when_asked_for(redis_config: CacheConfig) -> None:
    os.mkdir(redis_config.archive_dir)
    gone = redis_config.replace(redis_port=free_port())
    result = CliRunner().invoke(app, [*options(gone), "--traceback", "stats"])
    assert type(result.exception).__name__ == "RedisUnavailable"


def test_settings_come_from_variables_with_the_prefix_that_was_named(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(redis_config, "a", 3)
    monkeypatch.setenv("SHOP_REDIS_URL", f"redis://127.0.0.1:{redis_config.redis_port}")
    monkeypatch.setenv("SHOP_REDIS_KEY_PREFIX", redis_config.redis_key_prefix)
    monkeypatch.setenv("SHOP_ARCHIVE_DIR", redis_config.archive_dir)
    result = CliRunner().invoke(app, ["--env-prefix", "SHOP", "sessions", "--json"])
    assert [s["session_id"] for s in json.loads(result.stdout)["sessions"]] == ["a"]


def test_interrupting_is_said_in_a_line(redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(self: StoreAdmin) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(StoreAdmin, "stats", interrupt)
    result = run_cli(redis_config, "stats")
    assert (result.code, result.err) == (130, "error: interrupted\n")


def test_a_folder_that_is_none_is_said_without_numbers(redis_config: CacheConfig, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    result = run_cli(redis_config.replace(archive_dir=str(tmp_path / "file")), "verify")
    assert (result.code, result.out) == (1, "")
    assert result.err == f"error: cannot list '{tmp_path}/file': a part of the path is not a folder\n"


@pytest.fixture
def data_dir(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The folder of a private server; that server is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="lix-cli-") as path:
        monkeypatch.setenv("LIX_CACHE_DATA_DIR", path)
        with EmbeddedRedis(path):
            yield path


def test_embedded_is_the_private_server_where_the_one_of_the_environment_does_not_answer(
    data_dir: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = EmbeddedRedis(data_dir).start()
    fill(own.config(CacheConfig(archive_dir=str(tmp_path), evictor_enabled=False)), "mine", 1)
    monkeypatch.setenv("LIX_CACHE_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    arguments = [f"--archive-dir={tmp_path}", "--embedded", "sessions", "--json"]
    # A process of its own, which leaves the server at its end: in ours that is after the folder was removed.
    command = [sys.executable, "-m", "lix_cache.cli", *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert [one["session_id"] for one in json.loads(result.stdout)["sessions"]] == ["mine"]
    own.stop()


def test_with_embedded_too_an_option_wins_over_the_environment(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(redis_config, "theirs", 1)
    monkeypatch.setenv("LIX_CACHE_REDIS_URL", f"redis://127.0.0.1:{free_port()}")
    result = run_cli(redis_config, "--embedded", "sessions", "--json")
    assert [one["session_id"] for one in result.json["sessions"]] == ["theirs"]


# -- sessions ------------------------------------------------------------------------------


def test_sessions_lists_hot_and_cold_together_with_exact_numbers(
    cli: Cli, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    fill(redis_config, "cold", 7, cold=True)
    fill(redis_config, "hot", 5)
    both = fill(redis_config, "both", 25, cold=True)
    both.get_context()  # brings 20 back
    both.add_message("user", "one more")
    listed = cli("sessions", "--json").json
    assert listed["has_more"] is False
    found = {s["session_id"]: s for s in listed["sessions"]}
    assert {sid: (s["hot_messages"], s["cold_messages"]) for sid, s in found.items()} == {
        "both": (21, 25),
        "hot": (5, 0),
        "cold": (0, 7),
    }
    assert [s["session_id"] for s in listed["sessions"]] == ["both", "hot", "cold"]
    client = redis_server.client(db=redis_config.session_redis_db)
    window = f"{redis_config.redis_key_prefix}:{{0}}:win:hot"
    assert found["hot"]["redis_bytes"] == client.memory_usage(window, samples=0)
    assert found["cold"]["redis_bytes"] == 0
    assert found["cold"]["disk_bytes"] == os.path.getsize(f"{redis_config.archive_dir}/cold.huff")
    assert all(abs(s["last_use"] - time.time()) < 60 for s in listed["sessions"])


@pytest.mark.promise("isolation")
def test_a_prefix_under_which_the_archive_was_never_used_is_said_to_be_that(
    cli: Cli, redis_config: CacheConfig
) -> None:
    fill(redis_config, "theirs", 2, cold=True)
    wrong = redis_config.replace(redis_key_prefix=f"{redis_config.redis_key_prefix}-slip")
    for command in (["sessions"], ["show", "theirs"]):
        said = run_cli(wrong, *command)
        assert said.code == 0
        assert "no process has used this archive under the prefix" in said.err
        assert "no process" not in cli(*command).err
    checks = {one.name: one for one in StoreAdmin(wrong).doctor()}
    assert checks["prefix"].status == "warn"
    assert "prefix" not in {one.name for one in StoreAdmin(redis_config).doctor()}
    # Two applications that agree on one archive use it under two prefixes.
    fill(wrong, "ours", 1)
    assert "no process" not in run_cli(wrong, "sessions").err


def test_sessions_says_when_there_are_more(cli: Cli, redis_config: CacheConfig) -> None:
    for number in range(4):
        fill(redis_config, f"s{number}", 1)
        time.sleep(0.002)
    listed = cli("sessions", "--limit", "3", "--json").json
    assert [s["session_id"] for s in listed["sessions"]] == ["s3", "s2", "s1"]
    assert listed["has_more"] is True
    result = cli("sessions", "--limit", "3")
    assert "s3" in result.out
    assert "s0" not in result.out
    assert "--limit 0" in result.err
    assert "s0" in cli("sessions", "--limit", "0").out


def test_an_empty_store_says_so_and_is_no_error(cli: Cli) -> None:
    result = cli("sessions")
    assert (result.code, result.out) == (0, "")
    assert "no sessions" in result.err
    assert cli("sessions", "--json").json == {
        "sessions": [],
        "has_more": False,
        "unreadable_files": [],
    }


def test_a_window_whose_life_ended_is_no_session(
    cli: Cli, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    fill(redis_config, "gone", 3)
    redis_server.client(db=redis_config.session_redis_db).delete(
        f"{redis_config.redis_key_prefix}:{{0}}:win:gone"
    )
    assert cli("sessions", "--json").json["sessions"] == []


def test_no_session_is_missing_because_others_were_used_meanwhile(redis_config: CacheConfig) -> None:
    names = {f"session {number}" for number in range(300)}
    for name in names:
        fill(redis_config, name, 1)
    store = open_store(redis_config)
    drive = StoreAdmin(redis_config)._drive
    listing = rounds.list_hot(store, page=50)
    effect = next(listing)
    pages = 0
    while True:
        answer = drive._perform(effect)
        pages += 1
        # The longest idle session is used: the ranks of all others change.
        oldest = drive.client.zrange(store.hot.keys.active(0), 0, 0)[0].decode()
        HybridConversationCache(oldest, redis_config).get_context()
        try:
            effect = listing.send(answer)
        except StopIteration as stop:
            found = stop.value
            break
    assert pages > 1
    assert set(found) == names


# -- hostile ids ---------------------------------------------------------------------------


def is_plain(text: str) -> bool:
    return all(c == "\n" or not unicodedata.category(c).startswith("C") for c in text)


@pytest.mark.promise("isolation")
def test_hostile_ids_are_listed_shown_and_moved_without_reaching_the_terminal(
    cli: Cli, redis_config: CacheConfig
) -> None:
    for session_id in HOSTILE:
        fill(redis_config, session_id, 2)
    # Evicting moves nothing outside the archive folder.
    before = set(os.listdir(os.path.dirname(redis_config.archive_dir)))
    assert cli("offload", "--all", "--json").json["sessions"] == len(HOSTILE)
    assert set(os.listdir(os.path.dirname(redis_config.archive_dir))) == before | {"archive"}
    for arguments in (["sessions"], ["verify"], ["stats"]):
        result = cli(*arguments)
        assert result.code == 0
        assert is_plain(result.out), arguments
        assert is_plain(result.err), arguments
    assert "[bold]markup[/bold] :smile:" in cli("sessions").out
    assert r"\x1b[31mred\x1b[0m\x07" in cli("sessions").out
    listed = cli("sessions", "--json")
    assert listed.out.isascii()
    assert {s["session_id"] for s in listed.json["sessions"]} == set(HOSTILE)
    for session_id in HOSTILE:
        if "\0" not in session_id:  # no shell can pass one
            shown = cli("show", "--json", "--", session_id)
            assert [m["content"] for m in shown.json["messages"]] == ["message 0", "message 1"]
            assert cli("verify", "--", session_id).code == 0
            assert cli("offload", "--json", f"--session={session_id}").json["sessions"] == 0
            fill(redis_config, session_id, 1)
            assert cli("offload", "--json", f"--session={session_id}").json["sessions"] == 1


@pytest.mark.promise("isolation")
def test_an_unknown_hostile_id_is_escaped_in_the_error(cli: Cli, redis_config: CacheConfig) -> None:
    Path(redis_config.archive_dir).mkdir(parents=True, exist_ok=True)
    for command in ("show", "verify"):
        result = cli(command, "\x1b[2J\u202eboo")
        assert result.code == 1
        assert is_plain(result.err)
        assert "boo" in result.err


# -- show ----------------------------------------------------------------------------------


def test_show_gives_the_whole_history_and_brings_nothing_back(cli: Cli, redis_config: CacheConfig) -> None:
    cache = fill(redis_config, "a", 30, cold=True)
    shown = cli("show", "a", "--json").json
    assert shown["messages"] == cache.get_full()
    assert shown["total"] == 30
    assert cli("show", "a", "--recent", "2", "--json").json["messages"] == cache.get_full()[-2:]
    assert cli("sessions", "--json").json["sessions"][0]["hot_messages"] == 0


def test_show_prints_roles_contents_tool_calls_and_vectors_for_people(
    cli: Cli, redis_config: CacheConfig
) -> None:
    cache = HybridConversationCache("a", redis_config)
    cache.add_message("user", "what is the weather?", embedding=[0.5, 0.25])
    cache.add_message("assistant", None, {"tool_calls": [{"name": "weather"}]})
    cache.add_message("tool", [{"type": "text", "text": "晴れ"}], timestamp=1e300)
    cache.add_message("user", "bye", timestamp=None)
    result = cli("show", "a", "--recent", "3")
    assert result.code == 0
    assert "1 earlier messages" in result.out
    assert '"tool_calls": [{"name": "weather"}]' in result.out
    assert "晴れ" in result.out
    assert "1e+300" in result.out
    ConversationArchive(redis_config.archive_dir).append_turn("bare", {"text": "x", "timestamp": "noon"})
    bare = cli("show", "bare").out
    assert "?" in bare
    assert 'text: "x"' in bare
    assert "embedding: 2 numbers" in cli("show", "a").out


def test_show_makes_contents_harmless_and_keeps_their_lines(cli: Cli, redis_config: CacheConfig) -> None:
    cache = HybridConversationCache("a", redis_config)
    cache.add_message("us\x1ber", "line 1\nline 2\t\x1b]0;title\x07 \u202e \x9b \ud800 👩\u200d💻")
    out = cli("show", "a").out
    assert not set("\x1b\x07\u202e\x9b") & set(out)
    assert "  line 1\n  line 2" in out
    assert r"\x1b]0;title\x07" in out
    assert "👩\u200d💻" in out
    assert json.loads(cli("show", "a", "--json").out)["messages"] == cache.get_full()


def test_on_a_terminal_long_lines_are_wrapped_and_stay_indented(
    cli: Cli, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "40")
    HybridConversationCache("a", redis_config).add_message("user", "word " * 30)
    _, *lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in cli("show", "a").out.rstrip().split("\n")]
    assert len(lines) > 3
    assert all(line.startswith("  word") and len(line) <= 40 for line in lines)


def test_show_of_no_session_is_a_problem(cli: Cli) -> None:
    result = cli("show", "nobody")
    assert (result.code, result.out) == (1, "")
    assert "there is no session 'nobody'" in result.err


# -- stats ---------------------------------------------------------------------------------


def test_stats_counts_this_store_alone_whatever_its_prefix_looks_like(
    redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    other = redis_config.redis_key_prefix + "xyz"
    config = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "*[x-z]?\\")
    for number, prefix in enumerate((other, config.redis_key_prefix)):
        one = config.replace(redis_key_prefix=prefix, archive_dir=f"{config.archive_dir}{number}")
        coordinator = CacheCoordinator("a", one)
        coordinator.add_message_to_context("user", "hello")
        coordinator.cache_semantic_response("http://x/1", [1.0, 0.0], "yes")
        coordinator.cache_semantic_response("http://x/2", [1.0, 0.0], "yes")
        SemanticCache(HashingEmbedder(), one, context={"tenant": "acme"}).store("what is a cache?", "a store")
        coordinator.batch_cache_url_embeddings({f"http://x/{i}": [1.0] for i in range(3)})
    config = config.replace(archive_dir=f"{config.archive_dir}1")
    fill(config, "b", 12, cold=True)
    redis_server.reset_stats()
    found = run_cli(config, "stats", "--json").json
    assert "keys" not in redis_server.command_stats()
    server = redis_server.client().info("server")["redis_version"]
    assert (found["server"], found["server_version"]) == ("redis", server)
    assert (found["hot_sessions"], found["hot_messages"]) == (1, 1)
    assert (found["archive_files"], found["archive_turns"]) == (1, 12)
    assert found["archive_bytes"] == os.path.getsize(f"{config.archive_dir}/b.huff")
    assert (found["semantic_scopes"], found["answer_scopes"], found["url_embeddings"]) == (2, 1, 3)
    assert found["window_bytes"] > 0
    assert (found["unreadable_files"], found["set_aside_files"], found["pending_sessions"]) == (0, 0, 0)


def test_stats_for_people_points_at_what_needs_a_look(cli: Cli, redis_config: CacheConfig) -> None:
    fill(redis_config, "a", 3, cold=True)
    calm = cli("stats").out
    assert re.search(r"archived messages +3 ", calm)
    assert "lix-cache verify" not in calm
    Path(redis_config.archive_dir, "b.huff").write_bytes(b"CAv2 and then nonsense")
    Path(redis_config.archive_dir, "a.huff.damaged-1").write_bytes(b"?")
    store = StoreAdmin(redis_config)._store.archive.store
    with store.lock("c"):
        store.mark_pending_locked("c")
    out = cli("stats").out
    assert "1 archive files cannot be read" in out
    assert "1 files hold damaged bytes" in out
    assert "1 sessions were written to while Redis was away" in out


# -- evict ---------------------------------------------------------------------------------


def test_offload_moves_idle_sessions_alone_unless_told_otherwise(cli: Cli, redis_config: CacheConfig) -> None:
    for name in ("a", "b", "c"):
        fill(redis_config, name, 4)
    assert cli("offload", "--json").json["sessions"] == 0
    assert cli("offload", "--idle-minutes", "5", "--json").json["sessions"] == 0
    assert cli("offload", "--session", "b", "--json").json == {
        "sessions": 1,
        "messages": 4,
        "reconciled": 0,
        "failed": {},
    }
    result = cli("offload", "--all")
    assert (result.code, result.out) == (0, "2 sessions moved to disk, 8 messages\n")
    assert cli("offload", "--idle-minutes", "0", "--json").json["sessions"] == 0
    contents = [m["content"] for m in HybridConversationCache("a", redis_config).get_full()]
    assert contents == [f"message {number}" for number in range(4)]


def test_offload_moves_more_sessions_than_fit_into_one_round(cli: Cli, redis_config: CacheConfig) -> None:
    for number in range(70):
        fill(redis_config, f"s{number}", 2)
    moved = cli("offload", "--all", "--json").json
    assert (moved["sessions"], moved["messages"]) == (70, 140)
    assert cli("stats", "--json").json["archive_turns"] == 140


def test_on_a_terminal_offload_shows_a_bar_on_stderr_alone(
    cli: Cli, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for number in range(3):
        fill(redis_config, f"s{number}", 2)
    result = cli("offload", "--all", "--json")
    assert result.json["sessions"] == 3
    assert "moving to disk" in result.err
    assert "3/3" in re.sub(r"\x1b\[[0-9;]*m", "", result.err)


def test_offload_waits_for_a_session_that_is_busy_and_says_which_stays_hot(
    cli: Cli, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIX_CACHE_ARCHIVE_LOCK_TIMEOUT_SECONDS", "0.05")
    fill(redis_config, "busy", 3)
    fill(redis_config, "free", 3)
    with StoreAdmin(redis_config)._store.archive.store.lock("busy"):
        result = cli("offload", "--all", "--json")
    assert result.code == 1
    assert (result.json["sessions"], result.json["messages"]) == (1, 3)
    assert list(result.json["failed"]) == ["busy"]
    assert "'busy' stays hot" in result.err
    assert len(HybridConversationCache("busy", redis_config).get_full()) == 3


def test_offload_reconciles_what_an_outage_left(cli: Cli, redis_config: CacheConfig) -> None:
    cache = fill(redis_config, "a", 3)
    away = redis_config.replace(redis_port=free_port(), redis_retry_seconds=0)
    HybridConversationCache("a", away).add_message("user", "said while Redis was away")
    result = cli("offload")
    assert result.out == "0 sessions moved to disk, 0 messages; 1 reconciled after an outage\n"
    assert len(cache.get_full()) == 4
    assert cli("stats", "--json").json["pending_sessions"] == 0


def test_a_session_that_cannot_be_reconciled_does_not_keep_the_others_hot(
    cli: Cli, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    fill(redis_config, "bad", 1)
    fill(redis_config, "good", 2)
    client = redis_server.client(db=redis_config.session_redis_db)
    client.xadd(f"{redis_config.redis_key_prefix}:{{0}}:win:bad", {"m": b"\xff not ours"})
    store = StoreAdmin(redis_config)._store.archive.store
    with store.lock("bad"):
        store.mark_pending_locked("bad")
    result = cli("offload", "--all", "--json")
    assert result.code == 1
    assert list(result.json["failed"]) == ["bad"]
    assert StoreAdmin(redis_config).session("good").hot_messages == 0


def test_offload_of_a_session_that_is_not_there_is_a_problem_and_moves_nothing(
    cli: Cli, redis_config: CacheConfig
) -> None:
    fill(redis_config, "a", 2)
    result = cli("offload", "--session", "a", "--session", "nobody")
    assert result.code == 1
    assert "there is no session 'nobody'" in result.err
    assert cli("stats", "--json").json["hot_sessions"] == 1
    assert cli("offload", "--session", "a").out == "1 session moved to disk, 2 messages\n"


def test_offload_takes_one_way_of_choosing(cli: Cli) -> None:
    result = cli("offload", "--all", "--idle-minutes", "3")
    assert result.code == 2
    assert "one of" in result.err


# -- compact -------------------------------------------------------------------------------


def small_frames(config: CacheConfig, session_id: str) -> None:
    archive = ConversationArchive(config.archive_dir)
    for number in range(30):
        archive.append_turn(session_id, {"role": "user", "content": f"message {number}"})


def test_compact_merges_frames_of_idle_sessions_and_needs_no_redis(
    redis_config: CacheConfig, offline: CacheConfig
) -> None:
    for name in ("a", "b"):
        small_frames(redis_config, name)
    result = run_cli(offline, "compact")
    assert (result.code, result.out) == (0, "0 of 2 files compacted; 2 skipped, used lately\n")
    would_be = run_cli(offline, "compact", "--idle-minutes", "0", "--dry-run", "--json").json
    assert (would_be["dry_run"], would_be["compacted"], would_be["frames_after"]) == (True, 2, 2)
    shown = run_cli(offline, "compact", "--idle-minutes", "0", "--dry-run").out
    assert shown.startswith("2 of 2 files would be compacted: 60 frames → 2, ")
    done = run_cli(offline, "compact", "--idle-minutes", "0", "--session", "b", "--json").json
    assert done == {
        **would_be,
        "dry_run": False,
        "files": 1,
        "compacted": 1,
        "frames_before": 30,
        "frames_after": 1,
        "bytes_before": done["bytes_before"],
        "bytes_after": Path(redis_config.archive_dir, "b.huff").stat().st_size,
    }
    assert done["bytes_after"] < done["bytes_before"] / 3
    assert run_cli(offline, "verify").code == 0
    contents = [m["content"] for m in HybridConversationCache("b", redis_config).get_full()]
    assert contents == [f"message {number}" for number in range(30)]


def test_compact_says_which_file_stays_as_it_is(cli: Cli, redis_config: CacheConfig) -> None:
    small_frames(redis_config, "a")
    small_frames(redis_config, "b")
    path = Path(redis_config.archive_dir, "b.huff")
    data = path.read_bytes()
    # Under another session's name.
    path.rename(Path(redis_config.archive_dir, "c.huff"))
    result = cli("compact", "--idle-minutes", "0", "--session", "c", "--session", "a")
    assert result.code == 1
    assert "1 of 2 files compacted: 30 frames → 1" in result.out
    assert "session 'c' stays as it is: ArchiveCorrupt" in result.err
    assert Path(redis_config.archive_dir, "c.huff").read_bytes() == data


def test_compact_of_a_session_without_a_file_is_a_problem(cli: Cli, redis_config: CacheConfig) -> None:
    small_frames(redis_config, "a")
    result = cli("compact", "--idle-minutes", "0", "--session", "a", "--session", "nobody")
    assert (result.code, result.out) == (1, "")
    assert "there is no archive file of session 'nobody'" in result.err


def test_on_a_terminal_compact_shows_a_bar_on_stderr_alone(
    cli: Cli, redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name in ("a", "b", "c"):
        small_frames(redis_config, name)
    result = cli("compact", "--idle-minutes", "0", "--json")
    assert result.json["compacted"] == 3
    assert "3/3" in re.sub(r"\x1b\[[0-9;]*m", "", result.err)


# -- migrate -------------------------------------------------------------------------------


def old_session(config: CacheConfig, server: RedisServer, session_id: str, count: int) -> None:
    """Write what lix-open-cache 0.1.0 writes; test_moving_over.py runs the package itself."""
    start = config.redis_key_prefix
    with server.client(db=config.session_redis_db) as client:
        for number in range(count):
            message = {"role": "user", "content": f"m{number}", "timestamp": 1.7e9 + number, "metadata": {}}
            client.set(f"{start}:session_context:{session_id}:{number}", json.dumps(message))
            client.lpush(f"{start}:session_order:{session_id}", number)


def test_migrate_moves_what_the_old_package_left(
    cli: Cli, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    old_session(redis_config, redis_server, "a", 3)
    old_session(redis_config, redis_server, HOSTILE[3], 4)
    # Before they have moved, too, they are sessions like others.
    assert len(cli("sessions", "--json").json["sessions"]) == 2
    assert cli("show", "a").out.count("m") >= 3
    assert len(cli("export").out.splitlines()) == 2
    for name in ("a", HOSTILE[3]):
        HybridConversationCache(name, redis_config).delete_session()
    old_session(redis_config, redis_server, "a", 3)
    old_session(redis_config, redis_server, HOSTILE[3], 4)
    assert cli("migrate", "--dry-run").out == "2 sessions would be moved, at most 7 messages\n"
    done = {"sessions": 2, "messages": 7, "failed": {}, "dry_run": False}
    assert cli("migrate", "--json").json == done
    assert cli("migrate").out == "0 sessions moved, 0 messages\n"
    assert len(HybridConversationCache(HOSTILE[3], redis_config).get_full()) == 4


@pytest.mark.promise("no-loss")
def test_migrate_goes_over_to_another_number_of_buckets(cli: Cli, redis_config: CacheConfig) -> None:
    cache = HybridConversationCache("a", redis_config.replace(redis_buckets=7))
    for text in ("one", "two"):
        cache.add_message("user", text)
    refused = cli("migrate")
    assert (refused.code, refused.out) == (2, "")
    assert "redis_buckets is 1" in refused.err
    assert "migrate --new-buckets" in refused.err
    assert (
        cli("migrate", "--new-buckets", "--dry-run").out == "1 session would be moved, at most 2 messages\n"
    )
    assert cli("migrate", "--new-buckets").out == "1 session moved, 2 messages\n"
    assert len(HybridConversationCache("a", redis_config).get_full()) == 2
    assert cli("show", "a").code == 0


def test_migrate_says_which_session_stays_where_it_is(
    cli: Cli, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    old_session(redis_config, redis_server, "a", 3)
    with redis_server.client(db=redis_config.session_redis_db) as client:
        client.set(f"{redis_config.redis_key_prefix}:session_order:b\x1b", "no list")
    result = cli("migrate")
    assert (result.code, result.out) == (1, "1 session moved, 3 messages\n")
    assert "stays where it is: RedisCommandError" in result.err
    assert "\x1b[31m" not in result.out


def test_migrate_on_a_terminal_shows_a_bar(
    cli: Cli, redis_config: CacheConfig, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    for name in ("a", "b", "c"):
        old_session(redis_config, redis_server, name, 2)
    result = cli("migrate", "--json")
    assert result.json["sessions"] == 3
    assert "3/3" in re.sub(r"\x1b\[[0-9;]*m", "", result.err)


# -- verify --------------------------------------------------------------------------------


def damage(config: CacheConfig, session_id: str) -> str:
    path = Path(config.archive_dir, f"{session_id}.huff")
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0x40
    path.write_bytes(data)
    return path.name


@pytest.fixture
def offline(redis_config: CacheConfig) -> CacheConfig:
    return redis_config.replace(redis_port=free_port())


def test_verify_needs_no_redis_and_finds_a_flipped_bit(
    redis_config: CacheConfig, offline: CacheConfig
) -> None:
    for name in ("a", "b", "c"):
        fill(redis_config, name, 40, cold=True)
    result = run_cli(offline, "verify")
    assert result.code == 0
    assert re.search(r"3 files in .*, \d+ frames, 120 messages: all intact", result.out.replace("\n", " "))
    name = damage(redis_config, "b")
    result = run_cli(offline, "verify", "--json")
    assert result.code == 1
    assert result.json["damaged"] == 1
    bad = [check for check in result.json["files"] if not check["is_intact"]]
    assert [(check["file"], check["session_id"]) for check in bad] == [(name, "b")]
    assert bad[0]["problems"]
    for_people = run_cli(offline, "verify")
    assert for_people.code == 1
    assert "✗ b.huff" in for_people.out
    assert "1 damaged of 3 files" in for_people.out
    # A check that was stopped goes on behind the file that it named.
    rest = run_cli(offline, "verify", "--json", "--after", name)
    assert rest.code == 0
    assert [check["file"] for check in rest.json["files"]] == ["c.huff"]


def test_restore_lists_the_trash_and_takes_back_from_it(
    redis_config: CacheConfig, offline: CacheConfig
) -> None:
    archive = ConversationArchive(redis_config.archive_dir)
    for name in ("a", "b", "c"):
        fill(redis_config, name, 5, cold=True)
    for name in ("a", "b"):
        with archive.store.lock(name):
            archive.store.trash_locked(name, archive.store.now())
    assert "2 sessions in the trash" in run_cli(offline, "restore").out
    listed = run_cli(offline, "restore", "--json").json["trashed"]
    assert sorted(one["session_id"] for one in listed) == ["a", "b"]
    assert run_cli(offline, "restore", "a").code == 0
    assert len(archive.load_all("a") or []) == 5
    missing = run_cli(offline, "restore", "c")
    assert missing.code == 1
    assert "no session in the trash" in missing.err
    assert run_cli(offline, "restore", "--all", "--json").json == {"restored": ["b"]}
    assert run_cli(offline, "restore", "--all", "c").code == 2
    assert archive.trashed() == []


def test_verify_of_one_session_looks_at_its_file_alone(
    redis_config: CacheConfig, offline: CacheConfig
) -> None:
    for name in ("a", "b"):
        fill(redis_config, name, 5, cold=True)
    damage(redis_config, "b")
    assert [c["file"] for c in run_cli(offline, "verify", "a", "--json").json["files"]] == ["a.huff"]
    assert run_cli(offline, "verify", "a").code == 0
    assert run_cli(offline, "verify", "b").code == 1
    missing = run_cli(offline, "verify", "c")
    assert (missing.code, missing.out) == (1, "")
    assert "there is no archive file of session 'c'" in missing.err


def test_verify_reads_no_other_file_to_find_the_one_that_is_meant(
    redis_config: CacheConfig, offline: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c\x07"):
        fill(redis_config, name, 5, cold=True)
    checked: list[str] = []
    check = files._read
    monkeypatch.setattr(files, "_read", lambda archive, name: checked.append(name) or check(archive, name))
    assert run_cli(offline, "verify", "a").code == 0
    assert len(checked) == 1
    assert run_cli(offline, "verify", "d").code == 1
    assert len(checked) == 1
    assert run_cli(offline, "verify", "c\\x07").code == 0
    assert len(checked) == 2


@pytest.mark.promise("right-answer")
def test_audit_counts_the_scopes_that_are_closed_at_the_target_of_the_caches(
    redis_config: CacheConfig,
) -> None:
    embedder = Meanings({"one": mix(a=1.0), "two": mix(a=0.9, b=0.436), "three": mix(a=0.95, c=0.31)})
    cache = SemanticCache(
        embedder, redis_config, guards=False, policy=ANYTHING, settings=SemanticSettings(audit_rate=1.0)
    )
    cache.store("one", 1)
    cache.store("two", 1)
    for answer in (2, 3, 4):
        assert not cache.lookup("three").is_hit
        cache.store("three", answer)
        cache.lookup("far from everything")
        cache.invalidate(similar_to="three", similarity=0.999)
    by_default, lenient = run_cli(redis_config, "audit"), run_cli(redis_config, "audit", "--target", "0.9")
    assert "3 hits audited, 3 of them wrong" in by_default.out
    assert "1 of 1 scopes are closed where the target is 2.00%" in by_default.out
    assert "closed" not in lenient.out
    found = run_cli(redis_config, "audit", "--json", "--target", "0.9").json
    assert (found["audits"], found["closed_scopes"], found["target"]) == (3, 0, 0.9)
    assert run_cli(redis_config, "audit", "--target", "2").code == 2


def test_verify_names_bytes_that_were_set_aside_and_files_in_the_wrong_place(
    redis_config: CacheConfig, offline: CacheConfig
) -> None:
    fill(redis_config, "a", 5, cold=True)
    path = Path(redis_config.archive_dir, "a.huff")
    with path.open("ab") as file:
        file.write(b"half a frame")
    fill(redis_config, "a", 1, cold=True)  # the repair
    result = run_cli(offline, "verify")
    assert result.code == 0
    assert "! a.huff.damaged-1" in result.out
    assert run_cli(offline, "verify", "--json").json["set_aside"] == ["a.huff.damaged-1"]
    path.rename(path.with_name("stray.huff"))
    result = run_cli(offline, "verify")
    assert result.code == 1
    assert "looked for in 'a.huff'" in result.out


def test_a_file_whose_name_is_no_text_breaks_no_command(cli: Cli, redis_config: CacheConfig) -> None:
    fill(redis_config, "a", 2, cold=True)
    with open(os.fsencode(redis_config.archive_dir) + b"/\xff.huff", "wb") as file:
        file.write(b"CAv2 and then nonsense")
    listed = cli("sessions", "--json").json
    assert [s["session_id"] for s in listed["sessions"]] == ["a"]
    assert listed["unreadable_files"] == ["\udcff.huff"]
    for command in (["sessions"], ["sessions", "--json"], ["sessions", "--limit", "1"]):
        assert cli(*command).code == 1
    assert "1 archive files cannot be read" in cli("sessions").err
    assert cli("stats", "--json").json["unreadable_files"] == 1
    result = cli("verify")
    assert result.code == 1
    assert "\\udcff.huff" in result.out
    assert ConversationArchive(redis_config.archive_dir).cleanup_expired() == 0


def test_verify_does_not_take_an_append_under_way_for_damage(
    redis_config: CacheConfig, offline: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(redis_config, "a", 5, cold=True)
    archive = StoreAdmin(redis_config)._store.archive
    whole = archive.store.raw_file("a.huff")
    assert whole is not None
    answers = iter([whole[:-3], whole])
    monkeypatch.setattr(type(archive.store), "raw_file", lambda self, name: next(answers))
    assert run_cli(offline, "verify").code == 0
    assert next(answers, None) is None


def test_verify_believes_in_damage_where_no_writer_can_be_waited_for(
    redis_config: CacheConfig, offline: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIX_CACHE_ARCHIVE_LOCK_TIMEOUT_SECONDS", "0.05")
    fill(redis_config, "a", 5, cold=True)
    damage(redis_config, "a")
    with StoreAdmin(redis_config)._store.archive.store.lock("a"):
        assert run_cli(offline, "verify").code == 1


def test_verify_reads_version_1_files_under_their_plain_names(offline: CacheConfig, shared_dir: Path) -> None:
    samples = sorted((shared_dir / "golden").rglob("*.huff"))
    if not samples:
        pytest.skip("no version 1 archives in the evaluation data")
    os.makedirs(offline.archive_dir)
    Path(offline.archive_dir, "old session.huff").write_bytes(samples[0].read_bytes())
    result = run_cli(offline, "verify", "old session", "--json")
    assert (result.code, result.json["files"][0]["version"]) == (0, 1)


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize(
    "command", [["verify"], ["verify", "a"], ["compact"], ["restore"], ["codec", "train", "-o", "table.lixt"]]
)
def test_a_folder_that_is_not_there_is_an_error_and_no_empty_archive(
    offline: CacheConfig, tmp_path: Path, command: list[str]
) -> None:
    missing = tmp_path / "no" / "typo"
    result = run_cli(offline.replace(archive_dir=str(missing)), *command)
    assert (result.code, result.out) == (1, "")
    assert f"{str(missing)!r} does not exist" in result.err
    assert not missing.parent.exists()


def test_a_folder_with_nothing_in_it_has_nothing_damaged(offline: CacheConfig) -> None:
    os.makedirs(offline.archive_dir, exist_ok=True)
    assert run_cli(offline, "verify", "--json").json == {"files": [], "damaged": 0, "set_aside": []}


# -- export and import ---------------------------------------------------------------------


def a_rich_store(config: CacheConfig) -> None:
    hybrid = HybridConversationCache("rich", config)
    hybrid.add_message("system", "Be kind. \x00\x1b🙂", {"n": 1, "deep": [{"x": None}]}, [0.1, 0.2, 0.3])
    hybrid.add_message("assistant", None, {"tool_calls": [{"arguments": '{"a": 1}'}]}, timestamp=12.5)
    hybrid.add_message("tool", {"a lone surrogate": "\ud83d", "big": 2**70}, embedding=[1.0, 2.0])
    fill(config, "hot", 8)
    fill(config, "../cold/日本", 33, cold=True)
    mixed = fill(config, "mixed", 25, cold=True)
    mixed.get_context()
    mixed.add_message("user", "again")
    # The archive alone takes turns of any shape.
    ConversationArchive(config.archive_dir).append_turns(
        "bare", [{"text": "no role"}, {"role": "user", "content": "x", "timestamp": 3, "extra": [1]}]
    )


def test_what_was_exported_and_imported_is_exported_the_same(
    cli: Cli, redis_config: CacheConfig, tmp_path: Path
) -> None:
    a_rich_store(redis_config)
    first, second = tmp_path / "first.jsonl", tmp_path / "second.jsonl"
    result = cli("export", "-o", str(first))
    assert (result.code, result.out) == (0, "")
    assert "5 sessions" in result.err
    copy = redis_config.replace(
        redis_key_prefix=redis_config.redis_key_prefix + "2", archive_dir=str(tmp_path / "copy")
    )
    imported = run_cli(copy, "import", str(first))
    assert (imported.code, imported.out) == (0, "5 sessions, 72 messages imported\n")
    assert run_cli(copy, "export", "-o", str(second)).code == 0
    assert second.read_bytes() == first.read_bytes()
    for session_id in ("rich", "hot", "../cold/日本", "mixed", "bare"):
        original = HybridConversationCache(session_id, redis_config).get_full()
        assert HybridConversationCache(session_id, copy).get_full() == original
    assert sorted(os.listdir(tmp_path)) == ["archive", "copy", "first.jsonl", "second.jsonl"]


def test_export_to_stdout_is_jsonl_and_nothing_else(cli: Cli, redis_config: CacheConfig) -> None:
    fill(redis_config, "a", 3)
    fill(redis_config, "b", 2, cold=True)
    fill(redis_config, "c", 1)
    result = cli("export", "--session", "b", "--session", "a", "--session", "b")
    lines = [json.loads(line) for line in result.out.splitlines()]
    assert [(line["session_id"], len(line["messages"])) for line in lines] == [("b", 2), ("a", 3)]
    assert list(lines[0]["messages"][0]) == ["role", "content", "timestamp", "metadata"]
    assert result.err == "2 sessions, 5 messages\n"


def test_a_stdout_that_takes_a_part_at_a_time_gets_all_of_it() -> None:
    class Narrow(io.RawIOBase):
        taken = b""

        def write(self, data: Any) -> int:
            part = bytes(data[:3])
            self.taken += part
            return len(part)

    narrow = Narrow()
    write_all(narrow, b"0123456789")  # type: ignore[arg-type]
    assert narrow.taken == b"0123456789"


def test_an_export_into_no_folder_names_the_folder(cli: Cli, tmp_path: Path) -> None:
    result = cli("export", "--output", str(tmp_path / "none" / "x.jsonl"))
    assert result.code == 2
    assert f"there is no folder '{tmp_path / 'none'}' to write 'x.jsonl' into" in result.err


def test_an_export_that_fails_leaves_the_old_file(
    cli: Cli, redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(redis_config, "a", 3)
    target = tmp_path / "backup.jsonl"
    target.write_text("yesterday's")
    unknown = cli("export", "--session", "nobody", "-o", str(target))
    assert unknown.code == 1
    assert "there is no session 'nobody'" in unknown.err

    def fail(self: StoreAdmin, session: object) -> None:
        raise OSError(28, "No space left on device", "disk")

    monkeypatch.setattr(StoreAdmin, "messages", fail)
    result = cli("export", "-o", str(target))
    assert (result.code, result.err) == (1, "error: disk: No space left on device\n")
    assert target.read_text() == "yesterday's"
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["backup.jsonl"]


def test_an_export_says_what_it_could_not_read_and_saves_the_rest(
    cli: Cli, redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    for name in ("a", "b", "c"):
        fill(redis_config, name, 2, cold=True)
    fill(redis_config, "d", 1)
    Path(redis_config.archive_dir, "b.huff").write_bytes(b"CAv2 and then nonsense")
    client = redis_server.client(db=redis_config.session_redis_db)
    client.xadd(f"{redis_config.redis_key_prefix}:{{0}}:win:d", {"m": b"\xff not ours"})
    result = cli("export")
    assert result.code == 1
    assert [json.loads(line)["session_id"] for line in result.out.splitlines()] == ["a", "c"]
    assert "file 'b.huff' cannot be read" in result.err
    assert "session 'd' is not in it" in result.err


def line_of(session_id: str, *contents: str) -> str:
    messages = [{"role": "user", "content": c, "timestamp": 5.0, "metadata": {}} for c in contents]
    return json.dumps({"session_id": session_id, "messages": messages}) + "\n"


def test_import_refuses_a_session_that_exists_and_then_imports_nothing(
    cli: Cli, redis_config: CacheConfig, tmp_path: Path
) -> None:
    fill(redis_config, "hot", 2)
    fill(redis_config, "cold", 2, cold=True)
    file = tmp_path / "in.jsonl"
    for name in ("hot", "cold"):
        file.write_text(line_of("new", "x") + "\n" + line_of(name, "x"))
        result = cli("import", str(file))
        assert result.code == 2
        assert f"in.jsonl, line 3: session '{name}' exists; nothing was imported" in result.err
        assert "--append" in result.err
        assert StoreAdmin(redis_config).session("new") is None
    file.write_text(line_of("new", "x") + line_of("new", "y"))
    assert "line 2: session 'new' comes twice" in cli("import", str(file)).err
    assert StoreAdmin(redis_config).session("new") is None


def test_import_append_puts_the_messages_behind_those_that_are_there(
    cli: Cli, redis_config: CacheConfig
) -> None:
    cache = fill(redis_config, "hot", 3)
    lines = line_of("hot", "x", "y") + line_of("new", "1") + line_of("new", "2")
    result = cli("import", "-", "--append", stdin=lines.encode())
    assert (result.code, result.out) == (0, "3 sessions, 4 messages imported\n")
    contents = ["message 0", "message 1", "message 2", "x", "y"]
    assert [m["content"] for m in cache.get_full()] == contents
    assert [m["content"] for m in cache.get_context()] == contents
    assert [m["timestamp"] for m in cache.get_full()][-2:] == [5.0, 5.0]
    cache.add_message("user", "after")
    assert [m["content"] for m in cache.get_full()] == [*contents, "after"]
    new = HybridConversationCache("new", redis_config)
    assert [m["content"] for m in new.get_full()] == ["1", "2"]


def test_import_skip_existing_makes_a_second_import_harmless(cli: Cli, redis_config: CacheConfig) -> None:
    lines = (line_of("a", "1", "2") + line_of("b", "3")).encode()
    assert cli("import", "-", stdin=lines).code == 0
    again = cli("import", "-", "--skip-existing", stdin=lines + line_of("c", "4").encode())
    assert again.out == "1 session, 1 message imported\n"
    assert cli("stats", "--json").json["archive_turns"] == 4
    assert cli("import", "-", "--append", "--skip-existing", stdin=lines).code == 2


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not JSON"),
        ("[1]", "item 1: a JSON object is needed, not a number"),
        ('"text"', "a JSON object is needed, not a string"),
        ('{"messages": [{}]}', '"session_id" is missing'),
        ('{"session_id": 5, "messages": [{}]}', '"session_id" must be a string, not a number'),
        ('{"session_id": "a"}', '"messages" must be an array'),
        ('{"session_id": "a", "messages": []}', "at least one message"),
        ('{"session_id": "a", "messages": [null]}', "messages[0] must be an object, not null"),
        ('{"session_id": "a", "messages": [{"x": NaN}]}', "NaN is not a JSON number"),
        ('{"session_id": "a", "messages": [{"x": ' + "[" * 300 + "]" * 300 + "}]}", "nested"),
        ('{"session_id": "", "messages": [{}]}', "must not be empty"),
        ('{"session_id": "a\\ud800", "messages": [{}]}', "encodable as UTF-8"),
    ],
)
def test_import_says_where_and_what_is_wrong(cli: Cli, tmp_path: Path, line: str, what: str) -> None:
    file = tmp_path / "in.jsonl"
    file.write_text(line)
    result = cli("import", str(file))
    assert (result.code, result.out) == (2, "")
    assert what in result.err
    assert "in.jsonl" in result.err


def test_import_of_what_is_not_text_or_not_there_is_said(cli: Cli, tmp_path: Path) -> None:
    file = tmp_path / "in.jsonl"
    file.write_bytes(line_of("a", "x").encode() + b'{"session_id": "\xff"}')
    assert "in.jsonl, line 2: not UTF-8 text (byte 17)" in cli("import", str(file)).err
    file.write_bytes(b"{}" * 100_000 + b"[" * 100_000)
    assert cli("import", str(file)).code == 2
    file.write_bytes(b'{"a":' + b"[" * 200_000)
    assert "nested too deeply" in cli("import", str(file)).err
    assert "No such file" in cli("import", str(tmp_path / "nowhere")).err


# -- doctor --------------------------------------------------------------------------------


@pytest.fixture
def own_server() -> Iterator[RedisServer]:
    with RedisServer() as server:
        yield server


def diagnose(config: CacheConfig) -> dict[str, tuple[str, str, str]]:
    result = run_cli(config, "doctor", "--json")
    checks = result.json["checks"]
    assert result.code == int(any(check["status"] == "fail" for check in checks))
    for check in checks:
        assert check["advice"] or check["status"] == "ok", check
    return {check["name"]: (check["status"], check["found"], check["advice"]) for check in checks}


def test_the_doctor_finds_a_good_store_good_and_leaves_nothing_behind(tmp_path: Path) -> None:
    with RedisServer(appendonly=True) as server:
        config = server.config(archive_dir=tmp_path / "archive")
        os.makedirs(config.archive_dir)
        found = diagnose(config)
        assert {name: status for name, (status, _, _) in found.items() if status != "ok"} == {}
        assert set(found) >= {
            "server", "version", "permissions", "persistence", "maxmemory-policy", "memory", "clock",
            "evictor", "archive folder", "disk", "outages",
        }  # fmt: skip
        assert os.listdir(config.archive_dir) == []
        assert server.client(db=2).keys() == []
        assert server.client(db=0).keys() == []
        # A URL's vector has no command that removes it; it expires in a second.
        assert all(server.client(db=1).pttl(key) <= 1000 for key in server.client(db=1).scan_iter())
        for_people = run_cli(config, "doctor")
        assert for_people.code == 0
        assert "✓ persistence" in for_people.out


def test_the_doctor_tells_the_kinds_of_persistence_apart(own_server: RedisServer, tmp_path: Path) -> None:
    config = own_server.config(archive_dir=tmp_path)
    client = own_server.client()
    status, text, advice = diagnose(config)["persistence"]
    assert (status, "loses every message" in text, "appendonly yes" in advice) == ("fail", True, True)
    client.config_set("save", "3600 1")
    status, text, _ = diagnose(config)["persistence"]
    assert (status, "snapshots only (save 3600 1)" in text) == ("warn", True)
    client.config_set("appendonly", "yes")
    assert diagnose(config)["persistence"][:2] == ("ok", "append-only file, synced everysec")
    client.config_set("appendfsync", "no")
    assert diagnose(config)["persistence"][0] == "warn"


def test_the_doctor_minds_persistence_less_where_every_message_is_on_disk_first(
    own_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIX_CACHE_DURABILITY", "disk")
    assert diagnose(own_server.config(archive_dir=tmp_path))["persistence"][0] == "ok"


def test_the_doctor_warns_of_a_policy_that_drops_sessions(own_server: RedisServer, tmp_path: Path) -> None:
    config = own_server.config(archive_dir=tmp_path)
    client = own_server.client()
    for policy in ("allkeys-lru", "volatile-ttl"):
        client.config_set("maxmemory", 0)
        client.config_set("maxmemory-policy", policy)
        assert diagnose(config)["maxmemory-policy"][0] == "warn"
        client.config_set("maxmemory", "100mb")
        status, text, advice = diagnose(config)["maxmemory-policy"]
        assert (status, policy in text, "noeviction" in advice) == ("fail", True, True)


def test_the_doctor_sees_that_memory_is_nearly_full(own_server: RedisServer, tmp_path: Path) -> None:
    config = own_server.config(archive_dir=tmp_path)
    client = own_server.client()
    for number in range(500):  # in parts: what a client sends counts as used for a while
        client.set(f"ballast {number}", b"x" * 100_000)
    used = client.info("memory")["used_memory"]
    client.config_set("maxmemory", int(used / 0.85))
    assert diagnose(config)["memory"][0] == "warn"
    client.config_set("maxmemory", int(used / 0.99))
    assert diagnose(config)["memory"][0] == "fail"


def test_the_doctor_tells_an_unreachable_server_from_a_wrong_password(tmp_path: Path) -> None:
    with RedisServer(requirepass="right") as server:
        config = server.config(archive_dir=tmp_path)
        assert diagnose(config)["server"][0] == "ok"
        status, text, _ = diagnose(config.replace(redis_password="wrong"))["server"]
        assert (status, "refused the default user" in text) == ("fail", True)
        assert "right" not in run_cli(config, "doctor").out
        status, text, _ = diagnose(config.replace(redis_port=free_port()))["server"]
        assert (status, "cannot be reached" in text) == ("fail", True)


def test_the_doctor_names_a_database_that_does_not_exist(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with RedisServer(databases=2) as server:
        status, text, _ = diagnose(server.config(archive_dir=tmp_path))["server"]
        assert (status, text.startswith("session_redis_db:")) == ("fail", True)


def test_the_doctor_names_what_the_user_may_not_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rules = {
        "all": "~lix:* +@all",
        "plain": "~lix:* +@all -@dangerous",
        "reader": "~lix:* +@all -@dangerous +info -xtrim",
        "elsewhere": "~other:* +@all",
    }
    with RedisServer(acl=[f"{name} on >pw {rule}" for name, rule in rules.items()]) as server:
        base = server.config(archive_dir=tmp_path, redis_password="pw")
        found = {}
        for name in rules:
            monkeypatch.setenv("LIX_CACHE_REDIS_USERNAME", name)
            result = CliRunner().invoke(
                app, [f"--redis-url=redis://{name}:pw@127.0.0.1:{base.redis_port}",
                      f"--archive-dir={tmp_path}", "doctor", "--json"],
            )  # fmt: skip
            checks = {check["name"]: check for check in json.loads(result.stdout)["checks"]}
            found[name] = checks["permissions"]
        assert found["all"]["status"] == "ok"
        assert found["plain"]["status"] == "warn"
        assert "INFO" in found["plain"]["found"]
        assert found["reader"]["status"] == "fail"
        assert "a window" in found["reader"]["found"]
        assert found["elsewhere"]["status"] == "fail"
        assert "ACL SETUSER elsewhere ~lix:*" in found["elsewhere"]["advice"]


def test_the_doctor_looks_at_the_archive_folder(redis_config: CacheConfig, tmp_path: Path) -> None:
    assert diagnose(redis_config)["archive folder"][0] == "ok"  # not there yet
    assert not os.path.exists(redis_config.archive_dir)
    in_the_way = tmp_path / "file"
    in_the_way.write_bytes(b"")
    status, text, _ = diagnose(redis_config.replace(archive_dir=str(in_the_way / "archive")))[
        "archive folder"
    ]
    assert (status, "is a file, not a folder" in text) == ("fail", True)
    # A name that leads nowhere cannot be written to by any user.
    loop = tmp_path / "loop"
    os.makedirs(redis_config.archive_dir)
    loop.symlink_to("/proc/self/fdinfo" if os.path.isdir("/proc/self/fdinfo") else "/dev/null")
    status, _, advice = diagnose(redis_config.replace(archive_dir=str(loop)))["archive folder"]
    assert (status, "archive_dir" in advice) == ("fail", True)


def test_the_doctor_finds_a_folder_where_locks_mean_nothing(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.makedirs(redis_config.archive_dir)

    class Lock:
        def release(self) -> None: ...

    monkeypatch.setattr(Files, "try_lock", lambda self, path: Lock())
    assert diagnose(redis_config)["archive locks"][0] == "fail"

    def refuse(self: Files, path: str) -> None:
        raise ArchiveUnavailable(95, "cannot lock: not supported")

    monkeypatch.setattr(Files, "try_lock", refuse)
    found = diagnose(redis_config)
    assert found["archive folder"][:2] == ("fail", "cannot lock: not supported")
    assert found["archive locks"][0] == "fail"
    assert os.listdir(redis_config.archive_dir) == []


def test_the_doctor_knows_a_folder_that_this_user_may_not_make(
    redis_config: CacheConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    status, text, _ = diagnose(redis_config)["archive folder"]
    assert (status, "may not make it" in text) == ("fail", True)


def test_the_doctor_sees_outages_repairs_and_overdue_sessions(
    redis_config: CacheConfig, redis_server: RedisServer
) -> None:
    fill(redis_config, "a", 3)
    store = StoreAdmin(redis_config)._store
    with store.archive.store.lock("b"):
        store.archive.store.mark_pending_locked("b")
    Path(redis_config.archive_dir, "a.huff.damaged-1").write_bytes(b"?")
    assert diagnose(redis_config)["evictor"][0] == "ok"
    client = redis_server.client(db=redis_config.session_redis_db)
    client.zadd(store.hot.keys.active(0), {"a": (time.time() - 3 * 3600) * 1000})
    found = diagnose(redis_config)
    assert found["evictor"][:2] == ("warn", "1 sessions have been idle for too long and are still hot")
    assert found["outages"][0] == "warn"
    assert found["repairs"][0] == "warn"
    cache = HybridConversationCache("c", redis_config)
    cache.evictor.run_once()
    assert diagnose(redis_config)["evictor"] == ("ok", "a process moves idle sessions to disk", "")


# -- as a real process ---------------------------------------------------------------------


def process(*arguments: str, code: str | None = None, **kwargs: Any) -> subprocess.CompletedProcess[bytes]:
    start = ["-c", code] if code is not None else ["-m", "lix_cache.cli"]
    return subprocess.run(
        [sys.executable, *start, *arguments],
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"},
        **kwargs,
    )


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_its_packages_the_command_line_says_what_to_install(missing: str) -> None:
    code = f"""
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == {missing!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from lix_cache.cli import main
main()
"""
    ended = process(code=code)
    assert ended.returncode == 1
    assert ended.stdout == b""
    assert b"pip install 'lix-cache[cli]'" in ended.stderr
    assert missing.encode() in ended.stderr
    assert b"Traceback" not in ended.stderr


def test_a_mistake_of_ours_is_not_mistaken_for_a_missing_package() -> None:
    code = """
import sys
sys.modules["lix_cache.cli.settings"] = None
from lix_cache.cli import main
main()
"""
    ended = process(code=code)
    assert b"ModuleNotFoundError: import of lix_cache.cli.settings" in ended.stderr
    assert b"pip install" not in ended.stderr


def test_a_process_writes_json_to_stdout_and_its_errors_to_stderr(redis_config: CacheConfig) -> None:
    fill(redis_config, "日本\x1b", 3)
    ended = process(*options(redis_config), "sessions", "--json")
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert json.loads(ended.stdout)["sessions"][0]["session_id"] == "日本\x1b"
    ended = process(*options(redis_config), "show", "nobody", "--json")
    assert (ended.returncode, ended.stdout) == (1, b"")
    assert ended.stderr.startswith(b"error: ")


def test_the_caches_are_found_by_the_library_after_the_doctor_was_here(redis_config: CacheConfig) -> None:
    # The doctor's probes must not meet real entries, whatever their dimension.
    answers = SemanticCacheRedis("a", redis_config)
    answers.set("url", [1.0, 0.0, 0.0], "kept")
    vectors = URLEmbeddingCache("a", redis_config)
    vectors.set("url", [1.0, 2.0, 3.0])
    diagnose(redis_config)
    assert answers.get("url", [1.0, 0.0, 0.0]) == "kept"
    found = vectors.get("url")
    assert found is not None
    assert found.tolist() == [1.0, 2.0, 3.0]


# -- what a newcomer does --------------------------------------------------------------------


@pytest.mark.promise("no-false-empty")
@pytest.mark.parametrize(
    "command",
    [
        "sessions",
        "sessions --json",
        "show a",
        "stats",
        "export",
        "export --session a",
        "offload --all",
        "verify",
    ],
)
def test_a_folder_that_is_not_there_is_an_error_and_none_is_made(
    cli: Cli, redis_config: CacheConfig, tmp_path: Path, command: str
) -> None:
    fill(redis_config, "a", 3)
    folder = tmp_path / "mistyped"
    result = cli(f"--archive-dir={folder}", *command.split())
    assert (result.code, result.out) == (1, "")
    assert f"the archive folder {str(folder)!r} does not exist; name it with --archive-dir" in result.err
    assert not folder.exists()
    assert HybridConversationCache("a", redis_config).get_stats()["hot_messages"] == 3


@pytest.mark.promise("no-false-empty")
def test_a_store_that_was_not_used_yet_is_empty_and_one_that_was_is_not(
    redis_config: CacheConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    start = options(redis_config)[:2]
    for command in ("sessions --json", "stats --json", "top --once --json"):
        result = CliRunner().invoke(app, [*start, *command.split()])
        assert result.exit_code == 0, result.output
    assert os.listdir() == [], "a look makes nothing"
    # In a wrong place, what only Redis has does not pass for the whole.
    fill(redis_config, "a", 3)
    for command in ("sessions", "stats", "top --once"):
        result = CliRunner().invoke(app, [*start, *command.split()])
        assert result.exit_code == 2, result.output
        assert "archive adopt" in result.output


def test_an_export_into_a_file_with_a_mistyped_folder_leaves_no_file(cli: Cli, tmp_path: Path) -> None:
    output = tmp_path / "backup.jsonl"
    assert cli("--archive-dir=/no/such/folder", "export", "-o", str(output)).code == 1
    assert not output.exists()


@pytest.mark.parametrize(
    "session_id", ["bad\x1b[31mid", "new\nline", "right\u202eto left", "日本語", "x" * 100]
)
def test_an_id_that_was_printed_can_be_pasted(cli: Cli, redis_config: CacheConfig, session_id: str) -> None:
    fill(redis_config, session_id, 1, cold=True)
    fill(redis_config, "another", 1)
    listed = cli("sessions").out.splitlines()
    printed = next(line.split("   ")[0].rstrip() for line in listed[1:] if not line.startswith("another"))
    as_json = json.dumps(session_id)[1:-1]
    for pasted in {printed, as_json, repr(session_id)[1:-1], session_id}:
        assert cli("show", "--json", "--", pasted).json["session_id"] == session_id
        assert cli("verify", "--json", "--", pasted).json["files"][0]["session_id"] == session_id
        assert json.loads(cli("export", "--session", pasted).out)["session_id"] == session_id


def test_an_id_that_is_written_as_another_is_printed_is_itself(cli: Cli, redis_config: CacheConfig) -> None:
    for session_id in ("a\x1bb", r"a\x1bb", "x" * 100, "x" * 101):
        fill(redis_config, session_id, 1)
    assert cli("show", "--json", r"a\x1bb").json["session_id"] == r"a\x1bb"
    both = cli("show", f"{'x' * 29}…{'x' * 29}")
    assert both.code == 1
    assert "may be 2 sessions" in both.err


def test_a_flag_is_shown_without_a_type() -> None:
    for command in ("sessions", "offload", "codec train", "import"):
        shown = CliRunner().invoke(app, [*command.split(), "--help"]).stdout
        assert "bool" not in shown.lower()
