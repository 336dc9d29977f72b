"""Several real Redis servers under a test's control: a cluster, or a master with replicas and sentinels."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from types import TracebackType
from typing import Any, NamedTuple

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from lix_cache.config import CacheConfig
from tests.support.redis_server import free_port, server_program, wait_until

__all__ = ["Place", "RedisCluster", "RedisSentinel", "ServerProcess"]

#: Milliseconds without an answer after which a node or a master counts as dead.
NODE_TIMEOUT_MS = 1500
_SLOTS = 16384


class Place(NamedTuple):
    """Where a server runs.

    Attributes:
        host: its address.
        enter: words that start a program there, before those of the program.
    """

    host: str = "127.0.0.1"
    enter: tuple[str, ...] = ()


class ServerProcess:
    """A server with lines of configuration, on a port of its own, with a folder of its own.

    Args:
        lines: of its configuration.
        sentinel: it is a sentinel.
        place: where it runs.
    """

    def __init__(self, *lines: str, sentinel: bool = False, place: Place = Place()) -> None:  # noqa: B008
        self.place = place
        self.directory = tempfile.mkdtemp(prefix="lix-many-")
        self._lines, self._sentinel = lines, sentinel
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0
        self.config_file = os.path.join(self.directory, "redis.conf")

    @property
    def address(self) -> str:
        return f"{self.place.host}:{self.port}"

    def start(self) -> ServerProcess:
        """Start, on the port of before if there was one, and wait until it answers."""
        for _ in range(10):
            port = self.port or _port()
            if not self.port:
                with open(self.config_file, "w") as file:
                    where = (f"port {port}", f"bind {self.place.host}", f"dir {self.directory}")
                    file.write("\n".join([*where, *self._lines, ""]))
            if self._try_to_start(port):
                self.port = port
                return self
        raise RuntimeError(f"a server did not start:\n{self.log()}")

    def _try_to_start(self, port: int) -> bool:
        with open(os.path.join(self.directory, "log"), "ab") as log:
            self._process = subprocess.Popen(
                [
                    *self.place.enter,
                    server_program(),
                    self.config_file,
                    *(["--sentinel"] if self._sentinel else []),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                return False
            try:
                with _client(self.place.host, port) as client:
                    if client.info("server")["process_id"] == self._process.pid:
                        return True
            except redis.RedisError:
                time.sleep(0.01)
        self.kill()
        return False

    def pause(self) -> None:
        """Let it hang: connections are accepted and nothing is answered."""
        self._running.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._running.send_signal(signal.SIGCONT)

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("the server does not run")
        return self._process

    def kill(self) -> None:
        """End it in the middle of whatever it does."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait(20)

    def send(self, number: signal.Signals) -> None:
        """Stop it, or let it go on."""
        if self._process is not None:
            self._process.send_signal(number)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    def client(self) -> redis.Redis:
        """Return a client of this server alone: it follows nothing."""
        return _client(self.place.host, self.port)

    def ask(self, *words: Any) -> Any:
        with self.client() as client:
            return client.execute_command(*words)

    def log(self) -> str:
        with open(os.path.join(self.directory, "log"), errors="replace") as file:
            return file.read()[-3000:]

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.directory, ignore_errors=True)


def _port() -> int:
    # The bus of a cluster listens 10,000 further.
    while True:
        port = free_port()
        if port < 50_000:
            return port


def _client(host: str, port: int) -> redis.Redis:
    return redis.Redis(
        host=host,
        port=port,
        protocol=2,
        socket_timeout=10,
        retry=Retry(NoBackoff(), 0),
        single_connection_client=True,
    )


class _Many:
    """What both kinds have in common."""

    servers: list[ServerProcess]
    #: Those that hold data.
    data: list[ServerProcess]

    @property
    def url(self) -> str:
        raise NotImplementedError

    def config(self, *, archive_dir: str | os.PathLike[str], **overrides: Any) -> CacheConfig:
        """Return a config that names these servers."""
        values = {"redis_url": self.url, "archive_dir": os.fspath(archive_dir), **overrides}
        return CacheConfig(**values)

    def pause(self) -> None:
        """Let all that hold data hang."""
        for server in self.data:
            server.pause()

    def resume(self) -> None:
        """Let them go on."""
        for server in self.data:
            server.resume()

    def reset_stats(self) -> None:
        """Start counting anew."""
        for server in self.data:
            server.ask("CONFIG", "RESETSTAT")

    def command_stats(self) -> Counter[str]:
        """Return how often each command ran on all servers since ``reset_stats``.

        What the servers say to each other is left out, and so is what the tests ask them.
        """
        counts: Counter[str] = Counter()
        for server in self.data:
            with server.client() as client:
                for name, values in client.info("commandstats").items():
                    counts[name.removeprefix("cmdstat_")] += values["calls"]
        between = ("ping", "publish", "replconf", "info", "config", "cluster", "role", "subscribe")
        return Counter({name: n for name, n in counts.items() if name.split("|")[0] not in between})

    def close(self) -> None:
        for server in self.servers:
            server.close()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class RedisCluster(_Many):
    """A cluster of masters, each with as many replicas.

    Args:
        masters: how many.
        replicas: for each.
        places: of the first servers, which are the masters; the others run here.
        node_timeout_ms: after so long without an answer a node counts as dead.
    """

    def __init__(
        self,
        masters: int = 3,
        replicas: int = 0,
        places: Sequence[Place] = (),
        *,
        node_timeout_ms: int = NODE_TIMEOUT_MS,
    ) -> None:
        self.masters, self.replicas = masters, replicas
        #: Servers that cannot be reached from here now.
        self.cut_off: set[ServerProcess] = set()
        count = masters * (1 + replicas)
        self.data = self.servers = [
            ServerProcess(
                "cluster-enabled yes",
                f"cluster-node-timeout {node_timeout_ms}",
                "cluster-replica-validity-factor 0",
                "repl-diskless-sync-delay 0",
                'save ""',
                "appendonly yes",
                "protected-mode no",
                "repl-ping-replica-period 1",
                place=place,
            )
            for place in (*places, *[Place()] * (count - len(places)))
        ]

    @property
    def url(self) -> str:
        return "redis+cluster://" + ",".join(server.address for server in self.servers[:2])

    def __enter__(self) -> RedisCluster:
        for server in self.servers:
            server.start()
        first = self.servers[0]
        for number, server in enumerate(self.servers):
            server.ask("CLUSTER", "SET-CONFIG-EPOCH", number + 1)
            if number < self.masters:
                start, end = (_SLOTS * n // self.masters for n in (number, number + 1))
                server.ask("CLUSTER", "ADDSLOTS", *range(start, end))
        for server in self.servers[1:]:
            first.ask("CLUSTER", "MEET", server.place.host, server.port)
        wait_until(lambda: all(len(self.nodes_of(s)) == len(self.servers) for s in self.servers))
        for number, server in enumerate(self.servers[self.masters :]):
            server.ask("CLUSTER", "REPLICATE", self.id_of(self.servers[number % self.masters]))
        self.settle()
        return self

    @staticmethod
    def nodes_of(server: ServerProcess) -> list[list[str]]:
        """Return what a node says of all, word by word."""
        with server.client() as client:
            client.response_callbacks.clear()
            text = client.execute_command("CLUSTER NODES")
        return [line.split() for line in text.decode().splitlines()]

    def views(self) -> str:
        """Return what each running node says of all, for a wait that is over."""
        said = []
        for server in self.running:
            try:
                said += [f"{server.address}:", *("  " + " ".join(words) for words in self.nodes_of(server))]
            except Exception as error:
                said.append(f"{server.address}: {error!r}")
        return "\n".join(said)

    @staticmethod
    def id_of(server: ServerProcess) -> str:
        return str(server.ask("CLUSTER", "MYID").decode())

    @property
    def running(self) -> list[ServerProcess]:
        return [server for server in self.servers if server.is_running and server not in self.cut_off]

    def settle(self) -> None:
        """Wait until all that run agree on who serves what, and every replica has caught up."""
        wait_until(self._is_settled, what="the cluster")

    def _is_settled(self) -> bool:
        views, replicas, told = set(), 0, set[int]()
        for server in self.running:
            with server.client() as client:
                client.response_callbacks.clear()
                if b"cluster_state:ok" not in client.execute_command("CLUSTER INFO"):
                    return False
                replication = client.execute_command("INFO replication")
                if b"role:slave" in replication:
                    replicas += 1
                    if b"master_link_status:up" not in replication:
                        return False
                slots = client.execute_command("CLUSTER SLOTS")
                views.add(str(sorted((s[0], s[1], s[2][1], sorted(r[1] for r in s[3:])) for s in slots)))
                told.add(len({r[1] for s in slots for r in s[3:]}))
                if len({s[2][1] for s in slots}) < self.masters:
                    return False
        # From Redis 7 on a replica is named only when something has come from its master.
        return len(views) == 1 and min(told) >= replicas

    def owner(self, slot: int) -> ServerProcess:
        """Return the server that the others say serves a slot."""
        with self.running[0].client() as client:
            client.response_callbacks.clear()
            for first, last, master, *_ in client.execute_command("CLUSTER SLOTS"):
                if first <= slot <= last:
                    address = f"{master[0].decode()}:{master[1]}"
                    return next(server for server in self.servers if server.address == address)
        raise AssertionError(f"no server has slot {slot}")

    def move(self, slot: int, to: ServerProcess, at_once: int = 10) -> None:
        """Move a slot with its keys, as ``redis-cli --cluster reshard`` does."""
        source = self.owner(slot)
        if source is not to:
            self.move_from(source, slot, to, at_once)

    def move_from(self, source: ServerProcess, slot: int, to: ServerProcess, at_once: int = 10) -> None:
        """Move a slot whose server is known."""
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", self.id_of(source))
        source.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", self.id_of(to))
        while keys := source.ask("CLUSTER", "GETKEYSINSLOT", slot, at_once):
            source.ask("MIGRATE", to.place.host, to.port, "", 0, 5000, "KEYS", *keys)
        for server in (to, source):
            server.ask("CLUSTER", "SETSLOT", slot, "NODE", self.id_of(to))

    def client(self, db: int = 0, **_: Any) -> redis.RedisCluster:
        """Return redis-py's client of the whole."""
        return redis.RedisCluster(host=self.running[0].place.host, port=self.running[0].port)


class RedisSentinel(_Many):
    """A master with replicas, and three sentinels that look after them.

    Args:
        replicas: how many.
        node_timeout_ms: after so long without an answer a master counts as dead.
    """

    def __init__(self, replicas: int = 1, *, node_timeout_ms: int = NODE_TIMEOUT_MS) -> None:
        self._node_timeout_ms = node_timeout_ms
        self.data = [ServerProcess('save ""', "appendonly yes", "repl-diskless-sync-delay 0")]
        self._replicas = replicas
        self.sentinels: list[ServerProcess] = []

    @property
    def servers(self) -> list[ServerProcess]:  # type: ignore[override]
        return [*self.sentinels, *self.data]

    @property
    def url(self) -> str:
        return f"redis+sentinel://{','.join(s.address for s in self.sentinels)}/service-1"

    def __enter__(self) -> RedisSentinel:
        master = self.data[0].start()
        of_master = f"replicaof 127.0.0.1 {master.port}"
        for _ in range(self._replicas):
            lines = ('save ""', "appendonly yes", of_master, "repl-diskless-sync-delay 0")
            self.data.append(ServerProcess(*lines).start())
        for _ in range(3):
            self.sentinels.append(
                ServerProcess(
                    f"sentinel monitor service-1 127.0.0.1 {master.port} 2",
                    f"sentinel down-after-milliseconds service-1 {self._node_timeout_ms}",
                    "sentinel failover-timeout service-1 5000",
                    sentinel=True,
                ).start()
            )
        wait_until(self._is_settled, what="the sentinels")
        return self

    def _is_settled(self) -> bool:
        for sentinel in self.sentinels:
            with sentinel.client() as client:
                client.response_callbacks.clear()
                flat = client.execute_command("SENTINEL", "MASTER", "service-1")
            said = dict(zip(flat[::2], flat[1::2], strict=True))
            if said[b"num-other-sentinels"] != b"2" or int(said[b"num-slaves"]) < self._replicas:
                return False
        replication = self.master.ask("INFO", "replication")
        return f"connected_slaves:{self._replicas}" in str(replication) or (
            isinstance(replication, dict) and replication["connected_slaves"] == self._replicas
        )

    @property
    def master(self) -> ServerProcess:
        """The server that a sentinel names."""
        with self.sentinels[0].client() as client:
            client.response_callbacks.clear()
            _, port = client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "service-1")
        return next(server for server in self.data if server.port == int(port))

    def client(self, db: int = 0, **options: Any) -> redis.Redis:
        """Return a client of the master of now."""
        return redis.Redis(port=self.master.port, db=db, protocol=2, **options)
