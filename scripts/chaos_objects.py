#!/usr/bin/env python3
"""Kill whatever works on an archive on object storage, and the store itself, and compare every message.

    python scripts/chaos_objects.py --kills 300
    python scripts/chaos_objects.py --kills 1000 --minutes 60 --s3 http://127.0.0.1:7310 \\
        --kill-command 'kill -9 $(cat DATA/gateway.pid)'     (scripts/radosgw.sh run FOLDER DATA 7310)

Writers add to sessions of their own, delete them and pop; movers take windows to the archive; compactors
do what `lix-cache compact` and the daemon's clean-up do. Each is a process that is killed at any moment of
its work and started anew. Between them and the store stands a proxy that is killed as well, and that cuts
connections: of requests, and of answers to requests that were done. In the end everything is read: what was
acknowledged must be there once and in order, and what was deleted must not: a compaction and two grace
periods later, in no object. Ends with 1 if anything was wrong. Needs redis-server, and moto (a mock of S3)
unless a server is named, whose key is AK and whose secret is SK.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import select
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

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from _chaos_objects_checker import compared, hurried

from lix_cache import CacheConfig, HybridConversationCache, LixCacheError, StoreAdmin

SESSIONS = 4
WRITERS, MOVERS, COMPACTORS = 2, 2, 1
#: At most so many seconds between two kills; and how often it is the way to the store that is cut.
PAUSE, STORE_SHARE = 0.8, 0.15
#: They come out of a process that has imported all: at work at once, not after an import each.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["lix_cache.archive.objects.tier", "lix_cache.session.store", "lix_cache"])


# -- workers ---------------------------------------------------------------------------------------


class Log:
    """What a writer asked for, and what was acknowledged: on disk before it goes on."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("ab", buffering=0)

    def note(self, *words: Any) -> None:
        self._file.write(json.dumps(words).encode() + b"\n")


def write(config: CacheConfig, path: Path, seed: int, at_work: Path) -> None:
    dice, log = random.Random(seed), Log(path)
    caches = {
        f"{path.stem}-{n}": HybridConversationCache(f"{path.stem}-{n}", config) for n in range(SESSIONS)
    }
    for cache in caches.values():
        hurried(cache._store.cold)
    while True:
        at_work.touch()
        session, cache = dice.choice(list(caches.items()))
        drawn = dice.random()
        try:
            if drawn < 0.05:
                log.note("delete?", session)
                cache.delete_session()
                log.note("deleted", session)
            elif drawn < 0.15:
                log.note("pop?", session)
                popped = cache.pop_last()
                log.note("popped", session, None if popped is None else popped.message["content"])
            elif drawn < 0.25:
                cache.get_context()
            else:
                text = uuid.uuid4().hex
                log.note("add?", session, text)
                cache.add_message("user", text)
                log.note("added", session, text)
        except LixCacheError as error:
            log.note("failed", session, type(error).__name__)
        time.sleep(dice.random() * 0.01)


def move(config: CacheConfig, seed: int, at_work: Path) -> None:
    dice, admin = random.Random(seed), StoreAdmin(config)
    hurried(admin._store.cold)
    while True:
        at_work.touch()
        with contextlib.suppress(LixCacheError):
            admin.offload(dice.choice([0, 0, 0.2]))
        time.sleep(dice.random() * 0.1)


def compact(config: CacheConfig, path: Path, seed: int, at_work: Path) -> None:
    """Compact as ``lix-cache compact`` does, sessions in use as well or not, and clean up."""
    dice, admin, log = random.Random(seed), StoreAdmin(config), Log(path)
    tier = hurried(admin._store.cold)
    while True:
        at_work.touch()
        with contextlib.suppress(LixCacheError):
            done = admin.compact(dice.choice([0, 0, 7200]))
            log.note(done.compacted, done.failed)
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
    with client, contextlib.suppress(OSError):
        serve(client)


# -- the parent ------------------------------------------------------------------------------------


class World:
    """The processes, and who is killed next."""

    def __init__(self, options: argparse.Namespace, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.dice = random.Random(options.seed)
        self.kills: Counter[str] = Counter()
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.workers: dict[str, Any] = {}
        self.redis_port, self.proxy_port = free_port(), free_port()
        self.spawn(
            "redis", "redis-server", "--port", str(self.redis_port), "--save", "", "--dir", str(folder)
        )
        endpoint = options.s3
        if endpoint is None:
            port = free_port()
            moto = ("-W", "ignore", "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
            self.spawn("store", sys.executable, *moto)
            endpoint = f"http://127.0.0.1:{port}"
        self.target = int(endpoint.rpartition(":")[2])
        for port in (self.redis_port, self.target):
            wait_for(port)
        self.bucket = f"lix-{uuid.uuid4().hex[:12]}"
        self.make_bucket(endpoint)
        # Of this process too, which all others come out of.
        os.environ.update({
            "AWS_ENDPOINT": f"http://127.0.0.1:{self.proxy_port}",
            "AWS_ACCESS_KEY_ID": "AK",
            "AWS_SECRET_ACCESS_KEY": "SK",
            "AWS_REGION": "us-east-1",
            "AWS_ALLOW_HTTP": "true",
        })  # fmt: skip
        self.start("proxy")

    def make_bucket(self, endpoint: str) -> None:
        import boto3

        keys = {"aws_access_key_id": "AK", "aws_secret_access_key": "SK", "region_name": "us-east-1"}
        boto3.client("s3", endpoint_url=endpoint, **keys).create_bucket(Bucket=self.bucket)

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

    def spawn(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.err").open("ab") as errors:
            self.processes[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=errors)

    def start(self, name: str) -> None:
        seed = self.dice.randrange(1 << 30)
        self.at_work(name).unlink(missing_ok=True)
        words = {"name": name, "folder": self.folder, "seed": seed, "at_work": self.at_work(name)}
        words |= {"config": self.config(), "port": self.proxy_port, "target": self.target}
        self.workers[name] = FORKS.Process(target=work, args=(words,), daemon=True)
        self.workers[name].start()
        if name == "proxy":
            wait_for(self.proxy_port)

    def at_work(self, name: str) -> Path:
        return self.folder / f"{name}.at_work"

    def kill(self, name: str) -> None:
        worker = self.workers.pop(name)
        until = time.monotonic() + 60
        # Who has only begun to start has nothing that a kill could cut in two.
        while name != "proxy" and not self.at_work(name).exists() and time.monotonic() < until:
            time.sleep(0.01)
        worker.kill()
        worker.join()
        self.kills[name.partition("-")[0]] += 1

    def run(self) -> None:
        counts = {"writer": WRITERS, "mover": MOVERS, "compactor": COMPACTORS}
        names = [f"{kind}-{n}" for kind, count in counts.items() for n in range(count)]
        for name in names:
            self.start(name)
        began, told = time.monotonic(), 0
        while self.kills.total() < self.options.kills:
            minutes = (time.monotonic() - began) / 60
            if minutes > self.options.minutes:
                break
            if self.kills.total() >= told + 50:
                told = self.kills.total()
                print(f"{told} kills in {minutes:.1f} minutes: {dict(self.kills)}", flush=True)
            time.sleep(self.dice.random() * PAUSE)
            if self.dice.random() < STORE_SHARE:
                self.kill("proxy")
                if self.options.kill_command:
                    subprocess.run(self.options.kill_command, shell=True, check=True)
                    self.kills["store"] += 1
                time.sleep(self.dice.random())
                self.start("proxy")
            else:
                name = self.dice.choice(names)
                self.kill(name)
                self.start(name)
        for name in names:
            self.kill(name)

    def end(self) -> None:
        for worker in self.workers.values():
            worker.kill()
            worker.join()
        for process in self.processes.values():
            process.kill()
            process.wait()


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
    name, folder, seed = words["name"], words["folder"], words["seed"]
    with (folder / f"{name}.err").open("ab") as errors:
        os.dup2(errors.fileno(), sys.stderr.fileno())
    if name == "proxy":
        proxy(words["port"], words["target"], seed)
        return
    config, at_work = CacheConfig(**words["config"]), words["at_work"]
    if name.startswith("writer"):
        write(config, folder / f"{name}.log", seed, at_work)
    elif name.startswith("mover"):
        move(config, seed, at_work)
    else:
        compact(config, folder / f"{name}.log", seed, at_work)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kills", type=int, default=300, help="the end, if it comes first")
    parser.add_argument("--minutes", type=float, default=15, help="the end, if it comes first")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    parser.add_argument(
        "--s3", help="endpoint of a server of S3 on this machine; its key is AK, its secret SK"
    )
    parser.add_argument("--kill-command", help="kills that server, which comes back")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="lix-chaos-") as place:
        folder = Path(place)
        world = World(options, folder)
        try:
            world.run()
            os.environ["AWS_ENDPOINT"] = f"http://127.0.0.1:{world.target}"
            config = CacheConfig(**{**world.config(), "archive_lock_timeout_seconds": 60})
            wrong, seen = compared(config, folder)
        finally:
            world.end()
    print(f"seed {options.seed}: {world.kills.total()} kills {dict(world.kills)}, {dict(seen)}")
    print("\n".join(wrong[:40]) if wrong else "0 lost, 0 doubled, nothing deleted came back or is stored")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
