"""Everything at once for a while: every answer is right or a correct error, and nothing is left behind."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from lix_cache import HashingEmbedder
from lix_cache.gateway.demo import body_of
from tests.support import RedisServer
from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, MESSAGE, chat_body

ACTS = ["ok"] * 12 + ["429", "500", "reset", "cut", "short", "malformed", "error_event", "truncated"]


def expected(path: str, body: dict[str, Any]) -> str:
    made = body_of("messages" if path == MESSAGE else "chat", body)
    return str(made["content"][0]["text"] if path == MESSAGE else made["choices"][0]["message"]["content"])


def said(path: str, is_stream: bool, data: bytes) -> str:
    if not is_stream:
        value = json.loads(data)
        return str(
            value["content"][0]["text"] if path == MESSAGE else value["choices"][0]["message"]["content"]
        )
    words = ""
    for line in data.decode().split("\n"):
        if line.startswith("data: {"):
            event = json.loads(line[6:])
            for choice in event.get("choices", ()):
                words += choice["delta"].get("content") or ""
            words += event.get("delta", {}).get("text") or ""
    return words


@pytest.mark.slow
@pytest.mark.promise("right-answer")
def test_every_answer_is_checked_and_nothing_leaks(provider: Provider, tmp_path: Path) -> None:
    chance = random.Random(7)
    seen: dict[str, int] = {"hit": 0, "miss": 0, "bypass": 0, "errors": 0, "broken": 0, "left": 0}

    async def one(session: aiohttp.ClientSession, url: str) -> None:
        path = chance.choice([CHAT, MESSAGE])
        body = chat_body(f"Question number {chance.randrange(40)}?", max_tokens=50)
        is_stream = chance.random() < 0.5
        provider.acts.append(chance.choice(ACTS))
        leaves = chance.random() < 0.1
        try:
            async with session.post(url + path, json={**body, "stream": is_stream}) as reply:
                if leaves:
                    seen["left"] += 1
                    return
                data = await reply.read()
        except aiohttp.ClientError:
            seen["broken"] += 1  # as the provider's own connection was
            return
        state = reply.headers["x-lix-cache"]
        if reply.status != 200:
            seen["errors"] += 1
            assert reply.status in (429, 500, 502)
            assert "error" in json.loads(data)
        elif state.startswith("hit") and reply.headers["x-lix-cache-reason"] != "shared":
            seen["hit"] += 1
            assert said(path, is_stream, data) == expected(path, body)
        else:
            seen[state.partition("-")[0]] += 1

    async def rounds(gateway: RunningGateway, server: RedisServer) -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=40)) as session:
            for number in range(8):
                await asyncio.gather(*(one(session, gateway.url) for _ in range(60)))
                if number == 3:
                    server.kill()
                if number == 5:
                    server.start()

    with RedisServer() as server:
        config = server.config(archive_dir=tmp_path, redis_retry_seconds=0.2)
        with RunningGateway(provider, config, embedder=HashingEmbedder(), retries=0) as gateway:
            before = gateway.do(_tasks())
            asyncio.run(rounds(gateway, server))
            gateway.settle()
            wait_until(lambda: not gateway.core.metrics.open and not gateway.core.flights)
            wait_until(lambda: gateway.do(_tasks()) <= before + 2, what="all tasks to end")
    assert seen["hit"] > 50, seen
    assert seen["errors"] > 5, seen


@pytest.mark.exhaustive
@pytest.mark.promise("right-answer")
def test_a_minute_of_the_long_soak() -> None:
    """`make soak-gateway` runs fifteen: the gateway is a process of its own, and its memory is compared."""
    script = Path(__file__).parents[2] / "scripts" / "soak_gateway.py"
    command = [sys.executable, str(script), "--minutes", "1", "--rate", "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]


async def _tasks() -> int:
    return len(asyncio.all_tasks())
