#!/usr/bin/env python3
"""The gateway under load and faults, for as long as you like: every answer is checked, leaks are looked for.

    python scripts/soak_gateway.py --minutes 15 --rate 150

A gateway in a process of its own, a scripted provider, a real Redis. So many requests a second are sent, of
all protocols, streamed or not, equal ones at once among them. Some meet a fault of the provider, some clients
leave, and Redis is killed and comes back, again and again. A hit must be what the provider says to that
question, word for word, and so must a miss that asked for no fault. What a fault left of an answer must be
its beginning. Memory, tasks and sockets of the gateway are compared once it is warm and at the end, at rest.
Ends with 1 if anything was wrong.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1]))

from lix_cache.gateway.demo import body_of
from tests.support.provider import Provider
from tests.support.redis_server import RedisServer, free_port

FAULTS = ("400", "429", "500", "reset", "cut", "short", "malformed", "error_event", "truncated", "unknown")
_FAULTY, _LEAVING = 0.08, 0.03
#: Few enough that all that is kept of them is there when it is warm, and too many for the memory of answers.
_QUESTIONS = 120
_MOST_AT_ONCE = 200
_REDIS_EVERY, _REDIS_AWAY = 40.0, 4.0
#: What may be left at rest: a few tasks of the server's own, connections that are kept alive.
_MORE_TASKS, _MORE_SOCKETS, _MORE_MB = 4, 12, 24
_PATHS = {
    "/v1/chat/completions": "chat",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
    "/v1/embeddings": "embeddings",
}


def question(number: int, path: str) -> dict[str, Any]:
    text = f"What is the price of article number {number}?"
    if path == "/v1/responses":
        return {"model": "m-1", "input": text, "store": False}
    if path == "/v1/embeddings":
        return {"model": "m-1", "input": [text, f"article {number // 7}"]}
    return {"model": "m-1", "max_tokens": 50, "messages": [{"role": "user", "content": text}]}


def words(protocol: str, value: dict[str, Any]) -> str:
    """Return what an unstreamed answer says."""
    if protocol == "chat":
        return str(value["choices"][0]["message"]["content"])
    if protocol == "messages":
        return str(value["content"][0]["text"])
    if protocol == "responses":
        return str(value["output"][0]["content"][0]["text"])
    return json.dumps([one["embedding"] for one in value["data"]])


def streamed_words(data: bytes) -> str:
    """Return what a stream says, as far as it came."""
    found = ""
    for line in data.split(b"\n"):
        if not line.startswith(b"data: {"):
            continue
        try:
            event = json.loads(line[6:])
        except ValueError:
            continue
        for choice in event.get("choices") or ():
            found += choice["delta"].get("content") or ""
        delta = event.get("delta")
        if isinstance(delta, dict):
            found += delta.get("text") or ""
        elif isinstance(delta, str) and event["type"] == "response.output_text.delta":
            found += delta
    return found


def is_ended(protocol: str, data: bytes) -> bool:
    """Whether a stream came to its own end."""
    last = {"chat": b"[DONE]", "messages": b'"message_stop"', "responses": b'"response.completed"'}
    return last[protocol] in data


class Soak:
    """All requests, and what was wrong with their answers."""

    def __init__(self, url: str, seed: int) -> None:
        self.url = url
        self.chance = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.added = 0.0
        self.added_away = 0.0
        self.is_away = False
        self._open: set[asyncio.Task[None]] = set()

    async def one(self, session: aiohttp.ClientSession) -> None:
        chance = self.chance
        path = chance.choices(list(_PATHS), (5, 4, 4, 2))[0]
        is_stream = path != "/v1/embeddings" and chance.random() < 0.5
        # Old questions and new ones: what is stored is pushed out and comes back.
        number = int(chance.paretovariate(0.4)) % _QUESTIONS
        body = {**question(number, path), **({"stream": True} if is_stream else {})}
        act = chance.choice(FAULTS) if chance.random() < _FAULTY else "ok"
        leaves = chance.random() < _LEAVING
        headers = {"x-act": act}
        if chance.random() < 0.2:
            headers["cache-control"] = chance.choice(["no-cache", "no-store", "max-age=5"])
        label = f"{path} stream={is_stream} act={act} {headers.get('cache-control', '')}"
        shared = False
        try:
            async with session.post(self.url + path, json=body, headers=headers) as reply:
                shared = reply.headers.get("x-lix-cache-reason") == "shared"
                if leaves:
                    self.seen["left"] += 1
                    return
                data = await reply.read()
        except (aiohttp.ClientError, asyncio.TimeoutError) as error:
            # So a provider's connection breaks, for the one who asked for it and for those who follow.
            self.seen["broken"] += 1
            if (act == "ok" and not shared) or isinstance(error, asyncio.TimeoutError):
                self.wrong.append(f"{label}: {type(error).__name__}")
            return
        self._check(label, _PATHS[path], act, is_stream, body, reply, data)

    def _check(
        self, label: str, protocol: str, act: str, is_stream: bool, body: Any, reply: Any, data: bytes
    ) -> None:
        state = reply.headers.get("x-lix-cache", "none")
        reason = reply.headers.get("x-lix-cache-reason", "")
        added = float(reply.headers.get("x-lix-cache-added-ms", 0))
        self.added = max(self.added, added)
        if self.is_away:
            self.added_away = max(self.added_away, added)
        is_shared = reason == "shared"
        self.seen["shared" if is_shared else state if reply.status == 200 else str(reply.status)] += 1
        expected = words(protocol, body_of(protocol, body))
        # Only the provider's own faults reach a client, and only one that met one, by itself or by following.
        may_fail = act != "ok" or is_shared or state == "bypass"
        if reply.status != 200:
            if not may_fail or reply.status not in (400, 429, 500, 502) or b'"error"' not in data:
                self.wrong.append(f"{label}: {state} {reason} {reply.status} {data[:100]!r}")
            return
        try:
            said = streamed_words(data) if is_stream else words(protocol, json.loads(data))
        except (ValueError, LookupError, TypeError):
            said = "?"
        is_whole = said == expected and (not is_stream or is_ended(protocol, data))
        is_start = said == "?" or expected.startswith(said)
        if not is_whole and not (may_fail and is_start and not (state.startswith("hit") and not is_shared)):
            self.wrong.append(f"{label}: {state} {reason} said {said[:80]!r} for {expected[:80]!r}")

    async def load(self, session: aiohttp.ClientSession, seconds: float, rate: float) -> None:
        """Send so many requests a second, whether or not the earlier ones have been answered."""
        began, sent = time.monotonic(), 0
        while (now := time.monotonic() - began) < seconds:
            due = min(int(now * rate) - sent, _MOST_AT_ONCE - len(self._open))
            for _ in range(due):
                task = asyncio.get_running_loop().create_task(self.one(session))
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            sent += max(0, int(now * rate) - sent)  # what could not be sent in time is not sent later
            await asyncio.sleep(0.005)
        if self._open:
            await asyncio.wait(self._open, timeout=60)


async def at_rest(url: str, pid: int) -> dict[str, float]:
    """Return what the gateway holds when nothing is asked of it."""
    wanted = ("tasks", "open_requests", "flights", "memory_entries", "memory_bytes")
    found: dict[str, float] = {}
    deadline = time.monotonic() + 45  # connections to the provider are kept for 30 s
    while time.monotonic() < deadline:
        async with aiohttp.ClientSession() as session, session.get(f"{url}/metrics") as reply:
            lines = (await reply.text()).splitlines()
        found = {name: value for name, value in _gauges(lines) if name in wanted}
        found["sockets"] = sum("socket" in link for link in _links(pid))
        if not found["open_requests"] > 1 and found["sockets"] <= 6:
            break
        await asyncio.sleep(1)
    found["mb"] = resident_mb(pid)
    return found


def resident_mb(pid: int) -> float:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _gauges(lines: list[str]) -> list[tuple[str, float]]:
    pairs = [line.split() for line in lines if line.startswith("lix_cache_gateway_") and "{" not in line]
    return [(name.removeprefix("lix_cache_gateway_"), float(value)) for name, value in pairs]


def _links(pid: int) -> list[str]:
    links = []
    for name in os.listdir(f"/proc/{pid}/fd"):
        try:
            links.append(os.readlink(f"/proc/{pid}/fd/{name}"))
        except OSError:
            continue
    return links


async def _with_redis_going(soak: Soak, server: RedisServer, over: asyncio.Event) -> None:
    while not over.is_set():
        try:
            await asyncio.wait_for(over.wait(), _REDIS_EVERY)
        except asyncio.TimeoutError:
            soak.is_away = True
            server.kill()
            await asyncio.sleep(_REDIS_AWAY)
            await asyncio.to_thread(server.start)
            soak.is_away = False
            soak.seen["redis restarts"] += 1


async def soaked(url: str, process: Any, server: RedisServer, options: argparse.Namespace) -> int:
    soak = Soak(url, options.seed)
    total = options.minutes * 60
    warm = min(60.0, total / 4)

    def client() -> aiohttp.ClientSession:
        limits = aiohttp.ClientTimeout(total=30)
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=_MOST_AT_ONCE), timeout=limits)

    async with client() as session:
        await soak.load(session, warm, options.rate)
    before = await at_rest(url, process.pid)
    print(json.dumps({"warm": before, **soak.seen}), flush=True)
    over = asyncio.Event()
    redis = asyncio.ensure_future(_with_redis_going(soak, server, over))
    ends = time.monotonic() + total - warm
    while time.monotonic() < ends and process.poll() is None:
        async with client() as session:
            await soak.load(session, min(60.0, ends - time.monotonic()), options.rate)
        told = {"left_s": round(ends - time.monotonic()), "mb": round(resident_mb(process.pid), 1)}
        print(json.dumps({**told, **soak.seen}), flush=True)
    over.set()
    await redis
    after = await at_rest(url, process.pid)
    report = {
        "wrong": len(soak.wrong),
        "before": before,
        "after": after,
        "most_added_ms": soak.added,
        "most_added_ms_without_redis": soak.added_away,
        "seen": dict(soak.seen),
    }
    print(json.dumps(report, indent=1))
    for line in soak.wrong[:20]:
        print("wrong:", line)
    bounds = {"tasks": _MORE_TASKS, "sockets": _MORE_SOCKETS, "mb": _MORE_MB, "flights": 0}
    leaks = [name for name, more in bounds.items() if after[name] > before[name] + more]
    if leaks:
        print("leaked:", ", ".join(leaks))
    return int(bool(soak.wrong or leaks or process.poll() is not None))


def main() -> int:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n", 1)[0])
    parser.add_argument("--minutes", type=float, default=15.0)
    parser.add_argument("--rate", type=float, default=150.0, help="requests a second")
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    logging.getLogger("aiohttp.server").setLevel(logging.CRITICAL)  # clients that leave are a part of it
    with tempfile.TemporaryDirectory() as folder, RedisServer() as server, Provider() as provider:
        provider.seconds = 0.01
        port = free_port()
        env = {name: value for name, value in os.environ.items() if not name.startswith("LIX_CACHE")}
        env |= {
            "LIX_CACHE_REDIS_URL": f"redis://127.0.0.1:{server.port}",
            "LIX_CACHE_ARCHIVE_DIR": folder,
            "LIX_CACHE_REDIS_RETRY_SECONDS": "0.5",
            "LIX_CACHE_GATEWAY_MEMORY_BYTES": str(100_000),
            "LIX_CACHE_GATEWAY_TTL_SECONDS": "20",
            "LIX_CACHE_GATEWAY_RETRIES": "0",
            "LIX_CACHE_GATEWAY_ACCESS_LOG": "false",
        }
        command = [sys.executable, "-m", "lix_cache.cli", "serve", "--port", str(port)]
        command += ["--upstream", provider.url, "--embedder", "lexical"]
        process = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL)
        try:
            url = f"http://127.0.0.1:{port}"
            asyncio.run(_until_up(url))
            return asyncio.run(soaked(url, process, server, options))
        finally:
            process.terminate()
            process.wait(60)


async def _until_up(url: str) -> None:
    for _ in range(600):
        try:
            async with aiohttp.ClientSession() as session, session.get(f"{url}/healthz"):
                return
        except aiohttp.ClientError:
            await asyncio.sleep(0.1)
    raise SystemExit("the gateway did not start")


if __name__ == "__main__":
    sys.exit(main())
