"""``lix-cache top``: what it shows, on a terminal and without one, and what it does while Redis is away."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lix_cache import CacheConfig, HashingEmbedder, HybridConversationCache, SemanticCache, SessionKey
from lix_cache.cli.commands.top import ended_by_signals
from lix_cache.cli.live import metrics
from tests.support import RedisServer
from tests.support.redis_server import wait_until

ROOT = Path(__file__).resolve().parents[2]
EXPOSED = b"""# HELP lix_cache_lookups_total Lookups
# TYPE lix_cache_lookups_total counter
lix_cache_lookups_total{cache="answers",outcome="hit",reason="exact"} 41.0
lix_cache_lookups_total{cache="answers",outcome="hit",reason="semantic"} 7.0
lix_cache_lookups_total{cache="answers",outcome="miss",reason="guard"} 3.0
lix_cache_lookups_total{cache="others",outcome="hit",reason="exact"} 1.0
lix_cache_latency_seconds{cache="answers",step="lookup",quantile="0.5"} 0.00025
lix_cache_latency_seconds{cache="answers",step="lookup",quantile="0.95"} 0.002
lix_cache_gateway_requests_total{tenant="a",protocol="chat",cache="hit",reason="semantic"} 5
lix_cache_gateway_added_seconds_bucket{cache="hit",le="0.001"} 60
lix_cache_gateway_added_seconds_bucket{cache="hit",le="0.01"} 99
lix_cache_gateway_added_seconds_bucket{cache="hit",le="+Inf"} 100
broken line {
other_total 9
"""


class Terminal:
    """A command on a pseudo terminal, and all that it has written there."""

    def __init__(self, config: CacheConfig, *arguments: str, stdout: int | None = None) -> None:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE_")}
        environment = {
            **kept,
            "PYTHONPATH": str(ROOT),
            "TERM": "xterm-256color",
            "COLUMNS": "110",
            "LINES": "40",
        }
        options = [
            f"--redis-url=redis://127.0.0.1:{config.redis_port}",
            f"--prefix={config.redis_key_prefix}",
        ]
        options.append(f"--archive-dir={config.archive_dir}")
        ours, theirs = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "lix_cache.cli", *options, "top", *arguments],
            env=environment, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        )  # fmt: skip
        os.close(theirs)
        self._shown = b""
        self._reader = threading.Thread(target=self._read, args=(ours,), daemon=True)
        self._reader.start()

    def _read(self, ours: int) -> None:
        with os.fdopen(ours, "rb", buffering=0) as file:
            while True:
                try:
                    part = file.read(65536)
                except OSError:  # the other end is closed
                    return
                if not part:
                    return
                self._shown += part

    @property
    def shown(self) -> str:
        return self._shown.decode("utf-8", "replace")

    def end(self) -> int:
        code = self.process.wait(60)
        self._reader.join(60)
        return code


@contextmanager
def top(config: CacheConfig, *arguments: str) -> Iterator[Terminal]:
    terminal = Terminal(config, *arguments)
    try:
        yield terminal
    finally:
        terminal.process.kill()
        terminal.process.wait()


@contextmanager
def exposing(body: bytes, *, key: str = "", elsewhere: str = "") -> Iterator[str]:
    """Serve metrics, behind a key or at another address, and yield where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if elsewhere:
                self.send_response(302)
                self.send_header("Location", elsewhere)
            elif key and self.headers["Authorization"] != f"Bearer {key}":
                self.send_response(401)
            else:
                self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def filled(redis_config: CacheConfig) -> CacheConfig:
    for name in ("first", SessionKey("acme", "second")):
        cache = HybridConversationCache(name, redis_config)
        for number in range(3):
            cache.add_message("user", f"message {number}")
    cached = SemanticCache(HashingEmbedder(), redis_config, context={"tenant": "a"})
    cached.store("Where is my order?", "On its way.")
    return redis_config


Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(filled: CacheConfig) -> Run:
    def once(*arguments: str, config: CacheConfig = filled) -> subprocess.CompletedProcess[str]:
        options = [
            f"--redis-url=redis://127.0.0.1:{config.redis_port}",
            f"--prefix={config.redis_key_prefix}",
        ]
        command = [
            sys.executable,
            "-m",
            "lix_cache.cli",
            *options,
            f"--archive-dir={config.archive_dir}",
            "top",
        ]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE_")}
        return subprocess.run(
            [*command, *arguments], capture_output=True, text=True, check=False, timeout=120,
            env={**environment, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"},
        )  # fmt: skip

    return once


def test_one_look_shows_sessions_windows_and_answers(run: Run) -> None:
    done = run("--once")
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout
    lines = done.stdout.splitlines()
    assert any("hot sessions" in line and " 2 " in line and "6 messages" in line for line in lines)
    assert any("cached answers" in line and " 1 " in line for line in lines)
    assert any(line.startswith("second") and "acme" in line and " 3 " in line for line in lines)
    assert any("--metrics URL" in line for line in lines)
    assert run().stdout.splitlines()[3:5] == lines[3:5]  # no terminal: as --once


def test_json_is_one_object_a_line(run: Run) -> None:
    with exposing(EXPOSED) as url:
        done = run("--once", "--json", "--limit", "1", "--metrics", url)
    (line,) = done.stdout.splitlines()
    found = json.loads(line)
    assert (found["store"]["hot_sessions"], found["store"]["hot_messages"]) == (2, 6)
    assert found["store"]["evictor_runs"] is False
    assert found["store"]["overdue_sessions"] == 0
    assert [(one["namespace"], one["hot_messages"]) for one in found["sessions"]] == [("acme", 3)]
    assert (found["answers"]["entries"], found["answers"]["audits"]) == (1, 0)
    (process,) = found["processes"]
    assert process["lookups"]["hit"] == {"exact": 42, "semantic": 12}
    assert found["trouble"] is None


def test_metrics_of_caches_and_of_a_gateway_are_understood() -> None:
    found = metrics.read("http://here/metrics", EXPOSED.decode())
    assert found.lookups == {"hit": {"exact": 42, "semantic": 12}, "miss": {"guard": 3}}
    assert found.latency_ms["lookup"] == {"0.5": 0.25, "0.95": 2.0}
    assert found.latency_ms["gateway, hit"] == {"0.5": 1.0, "0.95": 10.0, "0.99": 10.0}


def test_metrics_behind_a_key_are_read_with_the_key_of_a_variable(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GATEWAY_KEY", "a key of the admin's")
    with exposing(EXPOSED, key="a key of the admin's") as url:
        done = run("--once", "--metrics", url)
        assert done.returncode == 1
        assert metrics.KEY_VARIABLE in " ".join(done.stdout.split())
        done = run("--once", "--json", "--metrics", url, "--metrics-key-env", "GATEWAY_KEY")
        assert (done.returncode, json.loads(done.stdout)["processes"][0]["error"]) == (0, None)
        # One of several is enough: the others are shown with what is wrong.
        done = run(
            "--once", "--metrics", url, "--metrics", "http://127.0.0.1:1/", "--metrics-key-env=GATEWAY_KEY"
        )
        assert done.returncode == 0
    wrong = run("--once", "--metrics", url, "--metrics-key-env", "NOT_SET")
    assert (wrong.returncode, wrong.stdout) == (2, "")


def test_the_variable_of_the_key_is_no_misspelt_setting() -> None:
    CacheConfig.from_env("LIX_CACHE", {metrics.KEY_VARIABLE: "a key"})


@pytest.mark.promise("no-leak")
def test_the_key_of_metrics_does_not_follow_a_redirection() -> None:
    with exposing(EXPOSED, key="secret") as behind, exposing(b"", elsewhere=behind) as first:
        assert metrics.fetch(behind, "secret").error is None
        found = metrics.fetch(first, "secret")
    assert (found.error or "").startswith("HTTP 401")
    assert "secret" not in repr(found)


@pytest.mark.promise("no-leak")
def test_a_process_that_does_not_answer_is_named_without_its_password(run: Run) -> None:
    done = run("--once", "--metrics", "http://user:hush@127.0.0.1:1/metrics?token=hush")
    assert done.returncode == 1, "all metrics failed"
    assert "http://127.0.0.1:1/metrics" in done.stdout
    assert "hush" not in done.stdout + done.stderr
    assert "hot sessions" in done.stdout
    wrong = run("--once", "--metrics", "file:///etc/passwd")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "http://" in wrong.stderr


@pytest.mark.promise("no-false-empty")
def test_without_redis_one_look_is_an_error_and_shows_nothing(run: Run, filled: CacheConfig) -> None:
    away = filled.replace(redis_port=1)
    for arguments in (("--once",), ("--once", "--json"), ()):
        done = run(*arguments, config=away)
        assert (done.returncode, done.stdout) == (1, "")
        assert "cannot be reached" in done.stderr


@pytest.mark.promise("no-false-empty")
def test_on_a_terminal_it_goes_on_while_redis_is_away(tmp_path: Path) -> None:
    with RedisServer(appendonly=True) as server:
        config = server.config(archive_dir=tmp_path / "archive", evictor_enabled=False)
        HybridConversationCache("a-session", config).add_message("user", "hello")
        with top(config, "--interval", "0.1") as terminal:
            wait_until(lambda: "a-session" in terminal.shown, what="the first look")
            assert "\x1b[?1049h" in terminal.shown  # on a screen of its own
            server.stop()
            wait_until(lambda: "cannot be read" in terminal.shown, what="the trouble")
            after = terminal.shown.index("cannot be read")
            wait_until(lambda: "what follows is" in terminal.shown[after:], what="that the rest is old")
            assert "ensure_redis" not in terminal.shown[after:], "a function, which no command line calls"
            wait_until(lambda: "a-session" in terminal.shown[after:], what="what was seen last")
            server.restart()
            back = len(terminal.shown)
            wait_until(lambda: "looked in" in terminal.shown[back:], what="the next look")
            terminal.process.send_signal(signal.SIGINT)
            assert terminal.end() == 0
            assert terminal.shown.rindex("\x1b[?1049l") > terminal.shown.rindex("looked in")


def test_a_signal_leaves_the_terminal_as_it_was(filled: CacheConfig) -> None:
    with top(filled, "--interval", "0.1") as terminal:
        wait_until(lambda: "first" in terminal.shown, what="the first look")
        terminal.process.send_signal(signal.SIGTERM)
        assert terminal.end() == 143
        assert "\x1b[?1049l" in terminal.shown
        assert "\x1b[?25h" in terminal.shown  # the cursor is back
        assert "Traceback" not in terminal.shown


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_in_a_destructor_ends_it_as_well(number: signal.Signals) -> None:
    class Late:
        def __del__(self) -> None:
            os.kill(os.getpid(), number)

    before = signal.getsignal(number)
    code: object = 0
    try:
        with ended_by_signals() as is_ended:
            assert not is_ended()
            Late()
            assert is_ended()
    except SystemExit as error:
        code = error.code
    assert code == (0 if number == signal.SIGINT else 143)
    assert signal.getsignal(number) is before


def test_json_goes_on_until_its_reader_leaves(filled: CacheConfig) -> None:
    options = [f"--redis-url=redis://127.0.0.1:{filled.redis_port}", f"--prefix={filled.redis_key_prefix}"]
    command = [sys.executable, "-m", "lix_cache.cli", *options, f"--archive-dir={filled.archive_dir}", "top"]
    with subprocess.Popen(
        [*command, "--json", "--interval", "0.1"],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as running:
        assert running.stdout is not None
        looks = [json.loads(running.stdout.readline()) for _ in range(3)]
        running.stdout.close()
        assert running.wait(60) == 0
    assert [look["store"]["hot_sessions"] for look in looks] == [2, 2, 2]
    assert looks[0]["at"] < looks[1]["at"] < looks[2]["at"]
