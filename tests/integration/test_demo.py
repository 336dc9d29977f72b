"""The demo: its own conversations, real ones, and files that are no conversations."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lix_cache import SessionContextWindow, StoreAdmin
from lix_cache.admin import Offloaded
from lix_cache.cli.app import app
from lix_cache.cli.conversations import Conversation, Message, load
from lix_cache.cli.demo.replay import Totals
from lix_cache.cli.output import ago, human_bytes
from tests.support import RedisServer
from tests.support.redis_server import free_port

ROOT = Path(__file__).resolve().parents[2]
OWN_CONVERSATIONS, OWN_MESSAGES = 14, 559


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("LIX_CACHE_") and name != "LIX_CACHE_SHARED":
            monkeypatch.delenv(name)


Demo = Callable[..., Any]


@pytest.fixture
def demo(redis_server: RedisServer, tmp_path: Path) -> Demo:
    def run(*arguments: str, code: int = 0) -> Any:
        url = f"redis://127.0.0.1:{redis_server.port}"
        result = CliRunner().invoke(
            app, ["--redis-url", url, "demo", "--data-dir", str(tmp_path / "data"), *arguments]
        )
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        assert "Traceback" not in result.stderr
        assert result.exit_code == code, result.stderr
        return result

    return run


def everything(server: RedisServer) -> dict[int, set[bytes]]:
    return {db: set(server.client(db=db).scan_iter(count=1000)) for db in range(3)}


def left_behind(server: RedisServer, before: dict[int, set[bytes]]) -> set[bytes]:
    """Return the keys that have come since. Those of other tests may have expired meanwhile."""
    return {key for db, keys in everything(server).items() for key in keys - before[db]}


# -- the own set ---------------------------------------------------------------------------


def test_the_demo_brings_every_message_of_its_own_set_back_and_leaves_nothing(
    demo: Demo, redis_server: RedisServer, tmp_path: Path
) -> None:
    before = everything(redis_server)
    result = demo("--json")
    found = json.loads(result.stdout)
    assert found["passed"] is True
    assert (found["lost"], found["doubled"], found["out_of_order"], found["examples"]) == (0, 0, 0, [])
    assert (found["conversations"], found["messages"]) == (OWN_CONVERSATIONS, OWN_MESSAGES)
    conversations = load([], None)
    assert found["raw_bytes"] == sum(m.size for c in conversations for m in c.messages)
    visits = [len(c.by_visit()) for c in conversations]
    assert found["visits"] == sum(visits)
    # All are idle after every visit but come back after all but the last.
    assert found["offloaded_sessions"] == sum(visits)
    assert found["rehydrations"] == sum(visits) - OWN_CONVERSATIONS
    assert found["hot_messages"] + found["cold_messages"] >= OWN_MESSAGES
    assert 0 < found["hits"] < found["lookups"]
    urls = [m.url for c in conversations for m in c.messages if m.url]
    assert found["url_lookups"] == len(urls)
    assert found["url_reused"] == len(urls) - len(set(urls))
    assert 0 < found["disk_bytes"] < found["raw_bytes"]
    assert 0 < found["hot_raw_bytes"] < found["redis_bytes"]
    assert set(found["median_ms"]) >= {"add", "get_context", "get_context, cold", "semantic get", "URL get"}
    assert not left_behind(redis_server, before)
    assert os.listdir(tmp_path / "data" / "demo") == []


def test_the_summary_is_for_people_and_the_green_line_comes_last(demo: Demo) -> None:
    result = demo("--limit", "3")
    lines = [line.rstrip() for line in result.stdout.splitlines()]
    messages = sum(len(c.messages) for c in load([], 3))
    assert lines[-1] == f"✓ all {messages:,} messages came back once, in order and unchanged"
    for word in ("hot in Redis", "cold on disk", "brought back", "answers reused", "by words alone"):
        assert word in result.stdout
    assert "3 conversations" in result.stderr


def test_keep_leaves_a_store_that_the_command_it_names_can_show(
    demo: Demo, redis_server: RedisServer, tmp_path: Path
) -> None:
    result = demo("--limit", "2", "--keep")
    kept = result.stdout.split("kept: lix-cache ")[1].split(" sessions")[0]
    options = [word.strip("'") for word in kept.split()]
    listed = CliRunner().invoke(
        app, ["--redis-url", f"redis://127.0.0.1:{redis_server.port}", *options, "sessions", "--json"]
    )
    sessions = json.loads(listed.stdout)["sessions"]
    assert {s["session_id"] for s in sessions} == {c.id for c in load([], 2)}
    assert {s["hot_messages"] for s in sessions} == {0}


@pytest.mark.parametrize(
    ("trouble", "what"),
    [
        (lambda messages: messages[1:], "1 were lost"),
        (lambda messages: [*messages, messages[0]], "1 doubled"),
        (lambda messages: [messages[1], messages[0], *messages[2:]], "1 conversations are out of order"),
        (lambda messages: [{**messages[0], "content": "other"}, *messages[1:]], "1 were lost and 1 doubled"),
    ],
)
def test_the_check_fails_when_one_message_is_lost_doubled_moved_or_changed(
    demo: Demo, monkeypatch: pytest.MonkeyPatch, trouble: Callable[[Any], Any], what: str
) -> None:
    whole = SessionContextWindow.get_full_history
    monkeypatch.setattr(SessionContextWindow, "get_full_history", lambda self: trouble(whole(self)))
    result = demo("--limit", "1", code=1)
    assert "✗ of" in result.stdout
    assert what in result.stdout
    assert "came back once" not in result.stdout


def test_a_session_that_cannot_be_moved_is_an_error_of_the_demo(
    demo: Demo, redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(redis_server)
    failed = Offloaded(failed={"travel-bike-alps": "ArchiveUnavailable: the disk is full"})
    monkeypatch.setattr(StoreAdmin, "offload", lambda self, idle: failed)
    result = demo("--limit", "1", code=1)
    assert (
        "'travel-bike-alps' could not be moved to disk: ArchiveUnavailable: the disk is full" in result.stderr
    )
    assert result.stdout == ""
    assert not left_behind(redis_server, before)


def test_an_interrupted_demo_clears_up(
    demo: Demo, redis_server: RedisServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = everything(redis_server)
    monkeypatch.setattr(StoreAdmin, "sessions", lambda self: (_ for _ in ()).throw(KeyboardInterrupt))
    result = demo(code=130)
    assert "interrupted" in result.stderr
    assert not left_behind(redis_server, before)
    assert os.listdir(tmp_path / "data" / "demo") == []


def test_without_a_server_the_demo_starts_a_private_one_and_stops_it(tmp_path: Path) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "LIX_CACHE_REDIS_PORT": str(free_port()),
        "LIX_CACHE_REDIS_HOST": "127.0.0.1",
    }
    arguments = ["demo", "--limit", "2", "--data-dir", str(tmp_path), "--json", "--keep"]
    ended = subprocess.run(
        [sys.executable, "-m", "lix_cache.cli", *arguments],
        cwd=ROOT, env=environment, capture_output=True, timeout=120,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr.decode()
    found = json.loads(ended.stdout)
    assert found["passed"] is True
    assert "--embedded" in found["kept"]
    assert not (tmp_path / "redis" / "redis.sock").exists()
    # And the way back that it names leads to what it left.
    options = found["kept"].split("--embedded ")[1].replace("'", "").split()
    again = subprocess.run(
        [sys.executable, "-m", "lix_cache.cli", "--embedded", *options, "stats", "--json"],
        cwd=ROOT, env={**environment, "LIX_CACHE_DATA_DIR": str(tmp_path)}, capture_output=True, timeout=120,
    )  # fmt: skip
    assert json.loads(again.stdout)["archive_turns"] == found["messages"]


def test_on_a_terminal_the_progress_moves_on_stderr_and_stdout_stays_json(
    demo: Demo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    result = demo("--limit", "2", "--json")
    assert json.loads(result.stdout)["passed"] is True
    assert "replaying" in result.stderr
    # The last picture is wiped away.
    assert result.stderr.endswith("\x1b[2K")


# -- real conversations --------------------------------------------------------------------


@pytest.mark.shared
@pytest.mark.parametrize(
    ("name", "limit"), [("conv_oasst_sample", 120), ("conv_taubench_airline", 30), ("conv_crosswoz_zh", 80)]
)
def test_real_conversations_come_back_whole(demo: Demo, shared_dir: Path, name: str, limit: int) -> None:
    path = shared_dir / "data" / name / "conversations.jsonl"
    with path.open() as file:
        expected = [len(json.loads(line)["turns"]) for line, _ in zip(file, range(limit), strict=False)]
    found = json.loads(demo("--input", str(path), "--limit", str(limit), "--json").stdout)
    assert found["passed"] is True
    assert found["messages"] == sum(expected)
    assert found["conversations"] == len(expected)
    # Every opening question is looked up; each is a user's first.
    assert found["lookups"] <= len(expected)
    assert found["rehydrations"] == found["visits"] - len(expected)


def test_several_inputs_are_one_run_and_the_limit_is_for_all(demo: Demo, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hi"}]
    chat = {"id": "same", "turns": turns}
    first, second = write(tmp_path / "1.jsonl", chat, chat), write(tmp_path / "2.jsonl", chat, chat)
    found = json.loads(demo("--input", first, "--input", second, "--limit", "3", "--json").stdout)
    assert (found["conversations"], found["messages"], found["passed"]) == (3, 6, True)
    assert (found["lookups"], found["hits"]) == (3, 2)


# -- input ---------------------------------------------------------------------------------


def write(path: Path, *lines: Any) -> str:
    path.write_text("".join((x if isinstance(x, str) else json.dumps(x)) + "\n" for x in lines))
    return str(path)


def test_openai_sharegpt_and_turns_are_read_alike(demo: Demo, tmp_path: Path) -> None:
    calls = [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]
    chats = write(
        tmp_path / "chats.jsonl",
        {"messages": [
            {"role": "user", "content": [{"type": "text", "text": "hi"}]},
            {"role": "assistant", "content": None, "tool_calls": calls},
            {"role": "assistant", "tool_calls": calls},
            {"role": "tool", "content": "", "tool_call_id": "1"},
        ]},
        "",
        {"id": "s", "conversations": [
            {"from": "system", "value": "be kind"},
            {"from": "human", "value": "lone \ud800"},
            {"from": "gpt", "value": "yes"},
            {"from": "observation", "value": "7"},
            {"from": "narrator", "value": "…", "weight": 1},
        ]},
        {"id": "s", "sessions": 9, "turns": [{"role": "user", "content": "x"}] * 3},
        {"session_id": "own", "title": "\x1b", "sessions": "no", "turns": [{"role": "a", "content": 1.5}]},
    )  # fmt: skip
    conversations = load([chats], None)
    assert [c.id for c in conversations] == ["conversation 1", "s", "s #2", "own"]
    assert [m.role for m in conversations[1].messages] == ["system", "user", "assistant", "tool", "narrator"]
    assert conversations[0].messages[1] == Message("assistant", None, {"tool_calls": calls})
    assert conversations[1].messages[-1].metadata == {"weight": 1}
    assert [len(visit) for visit in conversations[2].by_visit()] == [1, 1, 1]
    found = json.loads(demo("--input", chats, "--json").stdout)
    assert found["passed"] is True
    assert found["messages"] == 13


def test_a_json_array_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "dump.json"
    path.write_bytes(
        b"\xef\xbb\xbf\n" + json.dumps([{"conversations": [{"from": "human", "value": "x"}]}] * 2).encode()
    )
    assert [c.where for c in load([str(path)], None)] == ["dump.json, item 1", "dump.json, item 2"]


def test_a_limit_stops_reading_where_it_is_reached(tmp_path: Path) -> None:
    path = write(tmp_path / "in.jsonl", {"turns": [{"role": "user", "content": "x"}]}, "nonsense")
    assert len(load([path], 1)) == 1


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("{", "not JSON: "),
        ("5", "a JSON object is needed, not a number"),
        ("null", "a JSON object is needed, not null"),
        ("true", "a JSON object is needed, not true or false"),
        ({"text": "hi"}, 'no messages; a conversation has "messages"'),
        ({"messages": "hi"}, '"messages" must be an array, not a string'),
        ({"turns": []}, '"turns" is empty'),
        ({"turns": ["hi"]}, "turns[0] must be an object, not a string"),
        ({"turns": [{"content": "hi"}]}, '"role" of turns[0] is missing'),
        ({"turns": [{"role": {}, "content": "hi"}]}, '"role" of turns[0] must be a string, not an object'),
        ({"messages": [{"role": "user"}]}, '"content" of messages[0] is missing'),
        ({"conversations": [{"from": "human"}]}, '"value" of conversations[0] is missing'),
        ('{"turns": [{"role": "user", "content": NaN}]}', "NaN is not a JSON number"),
        ({"turns": [{"role": "user", "content": json.loads("[" * 250 + "]" * 250)}]}, "nested more than"),
    ],
)
def test_a_bad_input_is_wrong_use_and_the_place_is_named(
    demo: Demo, redis_server: RedisServer, tmp_path: Path, line: Any, what: str
) -> None:
    before = everything(redis_server)
    good = {"turns": [{"role": "user", "content": "x"}]}
    result = demo("--input", write(tmp_path / "in.jsonl", good, line), code=2)
    assert result.stdout == ""
    assert "in.jsonl, line 2: " in result.stderr
    assert what in result.stderr
    assert not left_behind(redis_server, before)


def test_a_file_that_is_not_there_or_empty_is_wrong_use(demo: Demo, tmp_path: Path) -> None:
    assert "No such file" in demo("--input", str(tmp_path / "nowhere"), code=2).stderr
    assert "Is a directory" in demo("--input", str(tmp_path), code=2).stderr
    empty = write(tmp_path / "empty.jsonl", "", "  ")
    assert "there is no conversation in" in demo("--input", empty, code=2).stderr


# -- parts ---------------------------------------------------------------------------------


def test_visits_are_all_of_the_conversation_and_begin_with_the_user() -> None:
    for conversation in load([], None):
        visits = conversation.by_visit()
        assert [m for visit in visits for m in visit] == conversation.messages
        assert len(visits) == conversation.visits
        assert all(visit[0].role == "user" for visit in visits[1:])
    silent = Conversation("a", "a", [Message("assistant", str(i)) for i in range(9)], 3, "here")
    assert silent.by_visit() == [silent.messages]


def test_the_check_counts_what_is_lost_doubled_and_moved_apart() -> None:
    sent = [Message("user", "a"), Message("user", "a"), Message("assistant", "b", {"x": 1})]
    back = [{"role": m.role, "content": m.content, "metadata": m.metadata} for m in sent]
    totals = Totals()
    totals.compare("fine", sent, back)
    assert totals.passed
    totals.compare("lost", sent, back[1:])
    totals.compare("moved", sent, back[::-1])
    totals.compare("metadata", sent, [*back[:2], {**back[2], "metadata": {}}])
    assert (totals.lost, totals.doubled, totals.out_of_order) == (2, 1, 1)
    assert totals.examples == [
        "lost: 1 lost, 0 too many",
        "moved: out of order",
        "metadata: 1 lost, 1 too many",
    ]


def test_numbers_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    assert [human_bytes(n) for n in (0, 999, 1500, 2.5e6, 7e12)] == [
        "0 B", "999 B", "1.5 kB", "2.5 MB", "7000.0 GB",
    ]  # fmt: skip
    monkeypatch.setattr("time.time", lambda: 1_000_000.0)
    ages = [ago(1_000_000.0 - seconds) for seconds in (-5, 0, 42, 90, 7200, 200_000)]
    assert ages == ["now", "now", "42 s ago", "2 min ago", "2 h ago", "2 d ago"]
