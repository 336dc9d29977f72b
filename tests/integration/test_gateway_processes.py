"""Processes of the gateway: what fails in them is said, what ends one ends all, nothing is left undone."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from lix_cache import CacheConfig
from lix_cache.errors import ConfigError
from lix_cache.gateway.settings_file import from_file
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import free_port, wait_until
from tests.support.wire import Reply, ask, chat_body, post

ONE_AND_TWO = pytest.mark.parametrize("more", [(), ("--workers", "2")], ids=["one process", "two"])


def said_in(text: str) -> str:
    """What a log says, a line each; other lines as they are."""
    return "\n".join(
        json.loads(line)["record"]["message"] if line.startswith("{") and line.endswith("}") else line
        for line in text.split("\n")
    )


class Served:
    """A gateway as a user starts it, with its log in a file."""

    def __init__(self, folder: Path, command: Sequence[str], env: dict[str, str], port: int) -> None:
        self.log_path = folder / "gateway.log"
        self.url = f"http://127.0.0.1:{port}"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE")}
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                env={**clean, "LIX_CACHE_GATEWAY_REDIS_SECONDS": "20", **env},
                stdout=subprocess.DEVNULL,
                stderr=log,
                start_new_session=True,
            )

    @property
    def log(self) -> str:
        return said_in(self.log_path.read_text())

    def is_up(self) -> bool:
        assert self.process.poll() is None, self.log
        return self.answers()

    def answers(self) -> bool:
        try:
            return ask(self.url, "GET", "/healthz").status == 200
        except OSError:
            return False

    def workers(self) -> list[int]:
        pid = self.process.pid
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def states(self) -> set[tuple[str, int]]:
        """What the workers say of the snapshot; which of them answers is chance."""
        found = [ask(self.url, "GET", "/ready").json for _ in range(8)]
        return {(one["hydration"], one["hydrated"]) for one in found}

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait(60)
                raise


@contextmanager
def serving(folder: Path, *more: str, script: str = "", **env: str) -> Iterator[Served]:
    port = free_port()
    command = ["-c", script] if script else ["-m", "lix_cache.cli"]
    served = Served(folder, [*command, "serve", "--port", str(port), *more], env, port)
    try:
        wait_until(served.is_up, what="the gateway")
        yield served
    finally:
        served.end()


def env_of(config: CacheConfig, **more: str) -> dict[str, str]:
    return {
        "LIX_CACHE_REDIS_URL": f"redis://127.0.0.1:{config.redis_port}",
        "LIX_CACHE_REDIS_KEY_PREFIX": config.redis_key_prefix,
        **more,
    }


@pytest.fixture
def snapshot(provider: Provider, redis_config: CacheConfig, tmp_path: Path) -> tuple[Path, bytes]:
    """A snapshot with an answer whose manifest does not come: what opens it waits for who writes it."""
    folder = tmp_path / "snapshot"
    config = redis_config.replace(redis_key_prefix=redis_config.redis_key_prefix + "1")
    with RunningGateway(provider, config, snapshot=str(folder)) as gateway:
        post(gateway.url, chat_body())
    manifest = folder / "manifest.json"
    said = manifest.read_bytes()
    manifest.unlink()
    os.mkfifo(manifest)
    return folder, said


@pytest.mark.promise("no-stall")
@ONE_AND_TWO
def test_it_answers_and_heeds_signals_while_the_snapshot_hangs(
    more: tuple[str, ...],
    snapshot: tuple[Path, bytes],
    provider: Provider,
    redis_config: CacheConfig,
    tmp_path: Path,
) -> None:
    env = env_of(redis_config, LIX_CACHE_GATEWAY_SNAPSHOT=str(snapshot[0]))
    with serving(tmp_path, "--upstream", provider.url, *more, **env) as served:
        assert served.states() == {("loading", 0)}
        assert post(served.url, chat_body()).status == 200
        served.process.terminate()
        assert served.process.wait(60) == 0
    assert not served.answers()


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="the children of a process are asked of /proc"
)
def test_one_worker_reads_the_snapshot_and_one_that_takes_its_place_does_not(
    snapshot: tuple[Path, bytes], provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    folder, said = snapshot
    env = env_of(redis_config, LIX_CACHE_GATEWAY_SNAPSHOT=str(folder))
    with serving(tmp_path, "--upstream", provider.url, "--workers", "2", **env) as served:

        def replaced() -> None:
            before = served.workers()
            for pid in before:
                os.kill(pid, signal.SIGKILL)
            wait_until(
                lambda: len(served.workers()) == 2 and not set(before) & set(served.workers()), what="others"
            )
            wait_until(served.is_up, what="one of them")

        replaced()
        assert served.states() == {("loading", 0)}
        # Opens as soon as there is who reads: of two one alone would get it.
        (folder / "manifest.json").write_bytes(said)
        wait_until(lambda: served.states() == {("ok", 1)}, what="the snapshot, as both workers tell")
        calls = len(provider.calls)
        assert post(served.url, chat_body()).reason == "redis"
        assert len(provider.calls) == calls
        replaced()
        assert served.states() == {("ok", 1)}, "it was read, whichever worker is asked"
        (folder / "manifest.json").unlink()  # else the next one would wait to know what it takes the place of
        served.process.terminate()
        assert served.process.wait(60) == 0
    assert json.loads((folder / "manifest.json").read_bytes())["entries"] == 1


@pytest.mark.promise("no-loss")
def test_what_is_answered_while_workers_end_is_in_the_snapshot(
    provider: Provider, redis_config: CacheConfig, tmp_path: Path
) -> None:
    folder = tmp_path / "snapshot"
    env = env_of(redis_config, LIX_CACHE_GATEWAY_SNAPSHOT=str(folder))
    with serving(tmp_path, "--upstream", provider.url, "--workers", "2", **env) as served:
        wait_until(lambda: served.states() == {("ok", 0)}, what="the workers")
        provider.gate.clear()
        replies: list[Reply] = []
        asking = threading.Thread(target=lambda: replies.append(post(served.url, chat_body("Slow?"))))
        asking.start()
        wait_until(lambda: len(provider.calls) == 1, what="the request")
        served.process.terminate()
        wait_until(lambda: not served.answers(), what="the end of the port")
        wait_until(lambda: len(served.workers()) < 2, what="the end of the worker that has nothing to do")
        provider.gate.set()
        asking.join(60)
        assert served.process.wait(60) == 0
    assert replies[0].status == 200
    assert json.loads((folder / "manifest.json").read_bytes())["entries"] == 1


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="the children of a process are asked of /proc"
)
def test_workers_end_with_the_process_that_began_them(provider: Provider, tmp_path: Path) -> None:
    env = {"LIX_CACHE_GATEWAY_REDIS": "no"}
    with serving(tmp_path, "--upstream", provider.url, "--workers", "2", **env) as served:
        workers = served.workers()
        served.process.kill()
        served.process.wait(60)

        def are_gone() -> bool:
            return not any(_lives(pid) for pid in workers)

        wait_until(are_gone, what="the end of its workers")
        assert not served.answers(), "the port is free"
    assert "this worker ends too" in served.log


def _lives(pid: int) -> bool:
    try:
        # One that has ended, and that no process has reaped, is a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_a_file_that_makes_no_values_ends_nothing_at_a_reload(provider: Provider, tmp_path: Path) -> None:
    file = tmp_path / "gateway.yaml"
    file.write_text(f"redis: false\nupstreams: [{{name: a, url: '{provider.url}'}}]\n")
    with serving(tmp_path, "--config", str(file), "--workers", "2") as served:
        for number, text in enumerate(("ttl_seconds: !!bool x", "name: !!timestamp x"), 1):
            file.write_text(text)
            served.process.send_signal(signal.SIGHUP)
            # The workers say it, and what looks after them.
            wait_until(
                lambda count=3 * number: served.log.count("not valid YAML") >= count,  # type: ignore[misc]
                what="the word of each process",
            )
            assert post(served.url, chat_body()).status == 200


@pytest.mark.promise("no-leak")
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.yaml", "a: !!bool secret"),
        ("a.yaml", "a: !!timestamp secret"),
        ("a.yaml", "a: !!int secret"),
        ("a.yaml", "a: !!float secret"),
        ("a.yaml", "a: !!binary sécret"),
        ("a.yaml", "? [secret]\n: b"),
        ("a.yaml", "a: 2026-99-99"),
        ("a.yaml", "a: *secret"),
        ("a.yaml", "[" * 3000),
        ("a.toml", "a = 2026-99-99"),
        ("a.toml", "a = " + "[" * 3000),
    ],
)
def test_whatever_a_parser_meets_in_a_file_is_the_files_mistake(name: str, text: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_text(text)
    with pytest.raises(ConfigError, match="is not valid") as caught:
        from_file(str(file))
    assert "secret" not in str(caught.value).replace(str(file), "")


#: A gateway, with its parts changed by what stands before it.
_SCRIPT = """
import os, sys, socket
from lix_cache.gateway import workers, serve, core
{change}
from lix_cache.cli import main
main()
"""


def failing(tmp_path: Path, change: str, *more: str) -> tuple[int, str]:
    """Run a gateway that is to end by itself. Returns its exit code, and what it said."""
    command = [
        *(sys.executable, "-c", _SCRIPT.format(change=change), "serve", "--upstream", "http://127.0.0.1:9"),
        *("--port", str(free_port()), *more),
    ]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE")}
    done = subprocess.run(
        command,
        env={**env, "LIX_CACHE_GATEWAY_REDIS": "no"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    return done.returncode, " ".join(said_in(done.stderr).split())


#: Another gateway binds the port at the same time, and is the first to listen.
_TAKEN = """
listen = socket.socket.listen
def late(one, *count):
    global other
    other = socket.socket()
    other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    other.bind(one.getsockname())
    listen(other)
    listen(one, *count)
socket.socket.listen = late
"""


def test_a_port_that_is_lost_between_binding_and_listening_is_said(tmp_path: Path) -> None:
    code, said = failing(tmp_path, _TAKEN)
    assert code == 1
    assert "is in use at 127.0.0.1" in said
    assert "lix-cache gateway on" not in said, "before anything else"


@ONE_AND_TWO
def test_a_start_that_fails_says_why(more: tuple[str, ...], tmp_path: Path) -> None:
    change = "def start(*_, **__): raise RuntimeError\ncore.Core.start = start"
    code, said = failing(tmp_path, change, *more)
    assert code == (1 if more else 3)
    assert "the gateway cannot start or end: builtins.RuntimeError at line" in said
    if more:
        assert 5 <= said.count("ended with code 3") <= 6, "it is not tried for ever"
        assert "no worker of the gateway could begin to serve" in said


def test_a_worker_that_fails_before_its_server_says_why(tmp_path: Path) -> None:
    code, said = failing(tmp_path, "def run(*_): raise RuntimeError\nworkers.run = run", "--workers", "2")
    assert code == 1
    assert "a worker of the gateway failed: builtins.RuntimeError at line" in said


_NO_FORK = """
fork, calls = os.fork, []
def forked():
    calls.append(1)
    if len(calls) in (1, 3):
        raise BlockingIOError(11, "Resource temporarily unavailable")
    return fork()
os.fork = forked
"""


@pytest.mark.skipif(
    not Path("/proc/self/task").exists(), reason="the children of a process are asked of /proc"
)
def test_a_fork_that_fails_is_said_and_tried_again(provider: Provider, tmp_path: Path) -> None:
    env = {"LIX_CACHE_GATEWAY_REDIS": "no"}
    script = _SCRIPT.format(change=_NO_FORK)
    more = ("--upstream", provider.url, "--workers", "2")
    with serving(tmp_path, *more, script=script, **env) as served:
        wait_until(lambda: len(served.workers()) == 2, what="both workers")
        served.process.terminate()
        assert served.process.wait(60) == 0
    assert served.log.count("Resource temporarily unavailable") == 2


_SPANS = """
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
# Sent once in an hour, or at the end.
way = BatchSpanProcessor(ConsoleSpanExporter(out=open({path!r}, "a")), schedule_delay_millis=3_600_000)
kept = TracerProvider()
kept.add_span_processor(way)
trace.set_tracer_provider(kept)
"""


def test_the_last_spans_of_a_worker_are_sent(provider: Provider, tmp_path: Path) -> None:
    pytest.importorskip("opentelemetry.sdk")
    spans = tmp_path / "spans"
    env = {"LIX_CACHE_GATEWAY_REDIS": "no", "LIX_CACHE_GATEWAY_TRACES": "yes"}
    script = _SCRIPT.format(change=_SPANS.format(path=str(spans)))
    more = ("--upstream", provider.url, "--workers", "2")
    with serving(tmp_path, *more, script=script, **env) as served:
        assert post(served.url, chat_body()).status == 200
        served.process.terminate()
        assert served.process.wait(60) == 0
    assert spans.read_text().count('"gen_ai.request.model"') == 1


_SESSIONS = """
from lix_cache import CacheConfig, HybridConversationCache
kept = []
def run(*_):
    cache = HybridConversationCache("s", CacheConfig.from_env("LIX_CACHE_").replace(flush_on_exit=True))
    cache.add_message("user", "kept")
    kept.append(cache)
    return True
workers.run = run
"""


@pytest.mark.promise("no-loss")
def test_a_worker_moves_its_sessions_to_disk_at_its_end_where_that_is_asked(
    redis_config: CacheConfig, tmp_path: Path
) -> None:
    archive = tmp_path / "archive"
    command = [sys.executable, "-c", _SCRIPT.format(change=_SESSIONS), "serve", "--workers", "2"]
    env = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE")}
    done = subprocess.run(
        [*command, "--upstream", "http://127.0.0.1:9", "--port", str(free_port())],
        env={**env, **env_of(redis_config, LIX_CACHE_ARCHIVE_DIR=str(archive))},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert [one for one in archive.rglob("*") if one.is_file()], done.stderr
