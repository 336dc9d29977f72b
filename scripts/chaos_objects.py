#!/usr/bin/env python3
"""Kill whatever works on an archive on object storage, and the store itself, and compare every message.

    python scripts/chaos_objects.py --minutes 5
    python scripts/chaos_objects.py --minutes 60 --s3 http://127.0.0.1:7310 --kill-command 'killall -9 …'

Writers add to sessions of their own, delete them and pop; movers take windows to the archive; compactors
merge, make snapshots and collect. Each is a process that is killed at any moment and started anew. Between
them and the store stands a proxy that is killed as well, and that cuts connections: of requests, and of
answers to requests that were done. In the end everything is read: what was acknowledged must be there once
and in order, and what was deleted must not. Ends with 1 if anything was wrong. Needs redis-server, and moto
(a mock of S3) unless a server is named, whose key is AK and whose secret is SK.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from lix_cache import CacheConfig, HybridConversationCache, LixCacheError, StoreAdmin
from lix_cache.archive.objects.leases import Tokens
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.session.store import open_store

SESSIONS = 4
WRITERS, MOVERS, COMPACTORS = 2, 2, 1


def hurried(tier: Any) -> ObjectTier:
    """Let leases end, snapshots come and collections remove within seconds."""
    assert isinstance(tier, ObjectTier)
    tier._tokens = Tokens(2.0)
    tier._grace, tier._every = 20.0, 24
    return tier


# -- workers ---------------------------------------------------------------------------------------


class Log:
    """What a writer asked for, and what was acknowledged: on disk before it goes on."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, *words: Any) -> None:
        self._file.write(json.dumps(words).encode() + b"\n")


def write(config: CacheConfig, path: Path, seed: int) -> None:
    dice, log = random.Random(seed), Log(path)
    caches = {
        f"{path.stem}-{n}": HybridConversationCache(f"{path.stem}-{n}", config) for n in range(SESSIONS)
    }
    for cache in caches.values():
        hurried(cache._store.cold)
    while True:
        session, cache = dice.choice(list(caches.items()))
        drawn = dice.random()
        try:
            if drawn < 0.02:
                log.note("delete?", session)
                cache.delete_session()
                log.note("deleted", session)
            elif drawn < 0.06:
                log.note("pop?", session)
                popped = cache.pop_last()
                log.note("popped", session, None if popped is None else popped.message["content"])
            elif drawn < 0.2:
                cache.get_context()
            else:
                text = uuid.uuid4().hex
                log.note("add?", session, text)
                cache.add_message("user", text)
                log.note("added", session, text)
        except LixCacheError as error:
            log.note("failed", session, type(error).__name__)
        time.sleep(dice.random() * 0.01)


def move(config: CacheConfig, seed: int) -> None:
    dice, admin = random.Random(seed), StoreAdmin(config)
    hurried(admin._store.cold)
    while True:
        with contextlib.suppress(LixCacheError):
            admin.offload(dice.choice([0, 0, 0.2]))
        time.sleep(dice.random() * 0.1)


def compact(config: CacheConfig, seed: int) -> None:
    dice, tier = random.Random(seed), hurried(open_store(config).cold)
    while True:
        with contextlib.suppress(LixCacheError):
            for meta in list(tier.all_metadata()):
                lease = tier.try_lock(meta.session_id)
                if lease is not None:
                    with lease:
                        tier.compact_locked(meta.session_id, idle_seconds=0)
            tier.collect()
        time.sleep(dice.random() * 0.5)


def proxy(port: int, target: int, seed: int) -> None:
    """Pass bytes on, and now and then cut a connection: before its request is sent, or before its answer."""
    dice = random.Random(seed)
    server = socket.create_server(("127.0.0.1", port))

    def serve(client: socket.socket) -> None:
        with client, socket.create_connection(("127.0.0.1", target)) as store:
            cut = dice.choice(("request", "answer")) if dice.random() < 0.03 else None
            while True:
                for ready in select.select([client, store], [], [])[0]:
                    data = ready.recv(1 << 16)
                    if (
                        not data
                        or (cut == "request" and ready is client)
                        or (cut == "answer" and ready is store)
                    ):
                        return
                    (store if ready is client else client).sendall(data)

    while True:
        client, _ = server.accept()
        threading.Thread(target=_quietly, args=(serve, client), daemon=True).start()


def _quietly(serve: Any, client: socket.socket) -> None:
    try:
        serve(client)
    except OSError:
        client.close()


# -- the parent ------------------------------------------------------------------------------------


class World:
    """The processes, and who is killed next."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.dice = random.Random(options.seed)
        self.kills: Counter[str] = Counter()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.redis_port, self.proxy_port = free_port(), free_port()
        self.spawn(
            "redis", ["redis-server", "--port", str(self.redis_port), "--save", "", "--dir", str(folder)]
        )
        endpoint = options.s3
        if endpoint is None:
            port = free_port()
            self.spawn(
                "store",
                [sys.executable, "-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
            )
            endpoint = f"http://127.0.0.1:{port}"
        self.target = int(endpoint.rpartition(":")[2])
        for port in (self.redis_port, self.target):
            wait_for(port)
        self.bucket = f"lix-{uuid.uuid4().hex[:12]}"
        self.environment = {
            **os.environ,
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.proxy_port}",
            "AWS_ACCESS_KEY_ID": "AK",
            "AWS_SECRET_ACCESS_KEY": "SK",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        }
        self.start_proxy()
        self.make_bucket(endpoint)

    def make_bucket(self, endpoint: str) -> None:
        if self.options.s3 is None:
            request = Request(f"{endpoint}/{self.bucket}", method="PUT")
            urlopen(request, timeout=30).close()
            return
        import boto3

        client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="AK", aws_secret_access_key="SK",
                              region_name="us-east-1")  # fmt: skip
        client.create_bucket(Bucket=self.bucket)

    def config(self) -> dict[str, Any]:
        return {
            "redis_port": self.redis_port,
            "archive_url": f"s3://{self.bucket}/chaos",
            "hot_window_size": 4,
            "archive_batch_turns": 2,
            "redis_buckets": 2,
            "evictor_enabled": False,
            "archive_lock_timeout_seconds": 10,
        }

    def spawn(self, name: str, command: list[str], environment: dict[str, str] | None = None) -> None:
        self.processes[name] = subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=self.err(name)
        )

    def err(self, name: str) -> Any:
        return (self.folder / f"{name}.err").open("ab")

    def start(self, name: str) -> None:
        seed = self.dice.randrange(1 << 30)
        words = json.dumps({"name": name, "config": self.config(), "folder": str(self.folder), "seed": seed})
        self.spawn(name, [sys.executable, __file__, "--worker", words], self.environment)

    def start_proxy(self) -> None:
        words = {
            "name": "proxy",
            "port": self.proxy_port,
            "target": self.target,
            "seed": self.dice.randrange(1 << 30),
        }
        self.spawn("proxy", [sys.executable, __file__, "--worker", json.dumps(words)])
        wait_for(self.proxy_port)

    def kill(self, name: str) -> None:
        process = self.processes.pop(name)
        process.send_signal(signal.SIGKILL)
        process.wait()
        self.kills[name.partition("-")[0]] += 1

    def run(self) -> None:
        counts = {"writer": WRITERS, "mover": MOVERS, "compactor": COMPACTORS}
        names = [f"{kind}-{n}" for kind, count in counts.items() for n in range(count)]
        for name in names:
            self.start(name)
        until = time.monotonic() + self.options.minutes * 60
        while time.monotonic() < until:
            time.sleep(self.dice.random() * 1.5)
            if self.dice.random() < 0.15:
                self.kill("proxy")
                if self.options.kill_command:
                    subprocess.run(self.options.kill_command, shell=True, check=False)
                    self.kills["store"] += 1
                time.sleep(self.dice.random() * 2)
                self.start_proxy()
            else:
                name = self.dice.choice(names)
                self.kill(name)
                self.start(name)
        for name in names:
            self.kill(name)

    def end(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


def wrong_in(lines: list[list[Any]], found: dict[str, list[str]]) -> tuple[list[str], Counter[str]]:
    """Compare what a writer noted with what is there."""
    must: dict[str, list[str]] = {}
    may: dict[str, set[str]] = {}
    seen: Counter[str] = Counter()
    for what, session, *rest in lines:
        there, doubtful = must.setdefault(session, []), may.setdefault(session, set())
        if what == "add?":
            doubtful.add(rest[0])
        elif what == "added":
            there.append(rest[0])
            seen["acknowledged"] += 1
        elif what == "delete?":
            doubtful.update(there)
            there.clear()
        elif what == "deleted":
            doubtful.clear()
            seen["deleted"] += 1
        elif what == "pop?":
            # Until it is said which: any of those that may be last.
            doubtful.update(there[-1:])
            del there[-1:]
        elif what == "popped" and rest[0] is not None:
            popped = rest[0]
            there[:] = [one for one in there if one != popped]
            doubtful.discard(popped)
            seen["popped"] += 1
    wrong = []
    for session, messages in must.items():
        have = found.get(session, [])
        wrong += [f"{session}: {one} is lost" for one in messages if one not in have]
        wrong += [f"{session}: {one} is there twice" for one, n in Counter(have).items() if n > 1]
        known = {*messages, *may[session]}
        wrong += [f"{session}: {one} came back" for one in have if one not in known]
        kept = [one for one in have if one in set(messages)]
        if kept != [one for one in messages if one in set(have)]:
            wrong.append(f"{session}: the order is another")
    return wrong, seen


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def wait_for(port: int) -> None:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        with socket.socket() as tried:
            if tried.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {port}")


def work(words: dict[str, Any]) -> None:
    """Be one of the processes."""
    name = words["name"]
    if name == "proxy":
        proxy(words["port"], words["target"], words["seed"])
        return
    config = CacheConfig(**words["config"])
    if name.startswith("writer"):
        write(config, Path(words["folder"]) / f"{name}.log", words["seed"])
    elif name.startswith("mover"):
        move(config, words["seed"])
    else:
        compact(config, words["seed"])


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=3)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument(
        "--s3", help="endpoint of a server of S3 on this machine; its key is AK, its secret SK"
    )
    parser.add_argument("--kill-command", help="kills and starts that server")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        work(json.loads(options.worker))
        return 0
    with tempfile.TemporaryDirectory(prefix="lix-chaos-") as place:
        folder = Path(place)
        world = World(options, folder)
        try:
            world.run()
            os.environ.update(world.environment)
            os.environ["AWS_ENDPOINT"] = f"http://127.0.0.1:{world.target}"
            config = CacheConfig(**{**world.config(), "archive_lock_timeout_seconds": 60})
            wrong: list[str] = []
            seen: Counter[str] = Counter()
            for path in sorted(folder.glob("writer-*.log")):
                lines = [json.loads(line) for line in path.read_bytes().splitlines()]
                found = {}
                for session in sorted({line[1] for line in lines}):
                    cache = HybridConversationCache(session, config)
                    hurried(cache._store.cold)
                    first = [message["content"] for message in cache.get_full()]
                    cache.flush_to_disk()
                    found[session] = [message["content"] for message in cache.get_full()]
                    if first != found[session]:
                        wrong.append(f"{session}: another history once it is on disk")
                    seen["there"] += len(found[session])
                bad, counted = wrong_in(lines, found)
                wrong += bad
                seen += counted
                seen["failed calls"] += sum(line[0] == "failed" for line in lines)
            checks = list(StoreAdmin(config).verify())
            wrong += [f"{one.session_id}: {one.problems}" for one in checks if not one.is_intact]
            traces = [text for path in folder.glob("*-*.err") if "Traceback" in (text := path.read_text())]
            wrong += [text[-1500:] for text in traces]
        finally:
            world.end()
    print(f"seed {options.seed}: kills {dict(world.kills)}, {dict(seen)}")
    print("\n".join(wrong[:40]) if wrong else "0 lost, 0 doubled, nothing deleted came back")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
