"""Real Redis servers of the chaos test, with clocks that can be wrong, and the disk that can be full."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from pathlib import Path
from random import SystemRandom

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

__all__ = ["Disk", "Node", "build_clock", "free_port"]

_START_SECONDS = 30.0


def free_port() -> int:
    """Return a port that nothing listens at, outside of those the system gives to connections.

    One of those could be taken by a connection while a door is closed.
    """
    for _ in range(1000):
        port = SystemRandom().randrange(15000, 32000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            return port
    raise RuntimeError("no free port from 15000 to 32000")


def build_clock(folder: Path) -> Path | None:
    """Compile the library that shifts a server's clock; None where there is no compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    target = folder / "chaos_clock.so"
    source = Path(__file__).with_name("chaos_clock.c")
    command = [compiler, "-shared", "-fPIC", "-O1", "-o", str(target), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return target if done.returncode == 0 else None


class Node:
    """A Redis server in a folder of its own. Tests speak to it by a unix socket, workers through a door.

    Args:
        binary: the program.
        folder: where its files go; made anew.
        clock: the compiled ``chaos_clock.c``, or None.
        shift: seconds its clock differs from the machine's.
        aof: whether it keeps an append-only file.
    """

    def __init__(
        self, binary: str, folder: Path, *, clock: Path | None, shift: float = 0.0, aof: bool = False
    ) -> None:
        self._binary, self._folder, self._aof = binary, folder, aof
        self._process: subprocess.Popen[bytes] | None = None
        self._library = clock
        folder.mkdir(parents=True)
        self.socket = str(folder / "sock")
        self.port = free_port()
        self.shift = 0.0
        self._clock_file = folder / "clock"
        self._clock_file.write_bytes(struct.pack("=q", 0))
        self.jump(shift)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def jump(self, seconds: float) -> None:
        """Let the server's clock jump."""
        self.shift += seconds
        with self._clock_file.open("r+b") as file:
            file.write(struct.pack("=q", int(self.shift * 1e6)))

    def start(self) -> None:
        """Start it, on what its folder holds, and wait until it answers."""
        environment = dict(os.environ)
        if self._library is not None:
            environment |= {"LD_PRELOAD": str(self._library), "CHAOS_CLOCK": str(self._clock_file)}
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "unixsocket": self.socket,
            "dir": str(self._folder),
            "save": "",
            "appendonly": "yes" if self._aof else "no",
            # With everysec an answer may come before the write, where the disk is slow.
            "appendfsync": "always",
            "maxmemory-policy": "noeviction",
            "repl-diskless-sync": "yes",
            "repl-diskless-sync-delay": "0",
            "repl-timeout": "100000000",  # a jump of the clock is no silence
            "logfile": str(self._folder / "log"),
        }
        words = [word for name, value in options.items() for word in (f"--{name}", value)]
        self._process = subprocess.Popen(
            [self._binary, *words],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            with contextlib.suppress(redis.RedisError):
                if self.client().ping():
                    return
            if self._process.poll() is not None:
                break
            time.sleep(0.02)
        self.kill()
        raise RuntimeError(f"the Redis server {self._binary} did not start; see {self._folder}/log")

    def client(self) -> redis.Redis:
        """Return a client that does not try again."""
        return redis.Redis(
            unix_socket_path=self.socket, socket_timeout=20, retry=Retry(NoBackoff(), 0), protocol=2
        )

    def kill(self) -> None:
        """SIGKILL."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()

    def pause(self) -> None:
        """SIGSTOP: connections are accepted, and nothing is answered."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)

    def follow(self, master: Node) -> None:
        """Become a replica that has all that the master has."""
        client = self.client()
        client.execute_command("REPLICAOF", "127.0.0.1", str(master.port))
        deadline = time.monotonic() + _START_SECONDS
        while client.info("replication").get("master_link_status") != "up":
            if time.monotonic() > deadline:
                raise RuntimeError(f"the replica did not attach; see {self._folder}/log")
            time.sleep(0.02)

    def lag(self) -> None:
        """Hear nothing of the master from now on, and keep what is there."""
        # A port where nothing listens: the link is down, and the data stays.
        self.client().execute_command("REPLICAOF", "127.0.0.1", "1")

    def promote(self) -> None:
        """Be a master."""
        self.client().execute_command("REPLICAOF", "NO", "ONE")

    def limit_memory(self, size: int) -> None:
        """Take no writes that need memory beyond so many bytes; 0 for no limit."""
        self.client().config_set("maxmemory", size)

    def flush(self) -> None:
        """FLUSHALL."""
        self.client().flushall()

    def snapshot(self) -> None:
        """SAVE, and keep a copy of the file."""
        # A replica that has just come makes its master save in the background, and SAVE is refused meanwhile.
        give_up = time.monotonic() + 30
        while True:
            try:
                self.client().save()
                break
            except redis.ResponseError as error:
                if "in progress" not in str(error) or time.monotonic() > give_up:
                    raise
                time.sleep(0.05)
        shutil.copyfile(self._folder / "dump.rdb", self._folder / "kept.rdb")

    def put_back(self) -> None:
        """While it is down: take the last snapshot for its data, or nothing if there was none."""
        kept, data = self._folder / "kept.rdb", self._folder / "dump.rdb"
        data.unlink(missing_ok=True)
        if kept.exists():
            shutil.copyfile(kept, data)

    def forget(self) -> None:
        """While it is down: lose the data, as a server without files does."""
        if not self._aof:
            (self._folder / "dump.rdb").unlink(missing_ok=True)


class Disk:
    """The folder of the archives: a small disk of its own where that is permitted.

    Attributes:
        folder: for ``archive_dir``.
        how: in words, how it is filled up.
    """

    def __init__(self, folder: Path, *, small: bool) -> None:
        folder.mkdir()
        self.folder = folder
        self._mounted = small and _mount(folder)
        self.how = "a tmpfs of 64 MB that is filled" if self._mounted else "errors from an injected Files"
        self._ballast = folder.parent / "ballast" if not self._mounted else folder / ".ballast"

    @property
    def flag(self) -> Path | None:
        """While this file is there, workers' writes fail; None if the disk really fills up."""
        return None if self._mounted else self._ballast

    def fill(self) -> None:
        """Leave no room."""
        if not self._mounted:
            self._ballast.touch()
            return
        fd = os.open(self._ballast, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            for size in (1 << 20, 1 << 12, 1):
                with contextlib.suppress(OSError):
                    while True:
                        os.write(fd, b"\0" * size)
        finally:
            os.close(fd)

    def free(self) -> None:
        """Make room again."""
        self._ballast.unlink(missing_ok=True)

    def close(self) -> None:
        if self._mounted:
            subprocess.run(["umount", "-l", str(self.folder)], check=False, capture_output=True)


def _mount(folder: Path) -> bool:
    if os.geteuid() != 0 or shutil.which("mount") is None:
        return False
    command = ["mount", "-t", "tmpfs", "-o", "size=64m,mode=0755", "lix-chaos", str(folder)]
    return subprocess.run(command, check=False, capture_output=True).returncode == 0
