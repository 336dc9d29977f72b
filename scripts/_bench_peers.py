"""The gateways of others that the gateway's bench measures beside ours, in rounds that all take part in."""

from __future__ import annotations

import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from _bench_client import Client, body_of, p50_of, pss_of, under_load

from tests.support.redis_server import free_port

__all__ = ["Gateway", "beside", "installed"]

_FOLDER = Path(__file__).resolve().parents[1] / ".venv-peers"
_START_SECONDS = 120

_LITELLM = {
    # It reads the lists that it has brought, and asks the network for none.
    "LITELLM_LOCAL_ANTHROPIC_BETA_HEADERS": "True",
    "LITELLM_LOCAL_AUTOROUTER_PRESETS": "True",
    "LITELLM_LOCAL_BLOG_POSTS": "True",
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",
    "LITELLM_LOCAL_POLICY_TEMPLATES": "True",
    # As ours is measured: without keys of its own, and without an access log.
    "LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY": "true",
    "LITELLM_LOG": "ERROR",
}


@dataclass
class Gateway:
    """One that is measured, of ours or a peer."""

    name: str
    """Ends with where it keeps answers: so it is known which of ours to set it against."""
    command: list[str]
    env: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    head: bytes = b""
    """What a request has in its head besides."""
    hit: bytes = b""
    """What an answer from the cache has in its head; empty for a gateway without a cache."""
    port: int = field(default_factory=free_port)
    pid: int = 0
    pss_idle: float = 0


def installed(provider: int, redis_url: str, folder: Path = _FOLDER) -> list[Gateway]:
    """Return the peers that `make peers` has installed, and say which it has not."""
    found, url = [], f"http://127.0.0.1:{provider}/v1"
    if (folder / "litellm" / ".installed").exists():
        command = [str(folder / "litellm" / "bin" / "litellm"), "--host=127.0.0.1", "--num_workers=1"]
        upstream = {"model": "openai/m", "api_base": url, "api_key": "sk-1"}
        for name, cache in (("memory", {"type": "local"}), ("Redis", {"type": "redis", "url": redis_url})):
            config = {
                "model_list": [{"model_name": "m", "litellm_params": upstream}],
                "litellm_settings": {"cache": True, "cache_params": cache, "telemetry": False},
            }
            named = Gateway(f"litellm, {name}", command, _LITELLM, config)
            named.hit = b"\r\nx-litellm-cache-key:"
            found.append(named)
    else:
        _say_left_out("litellm", "not installed: make peers")
    if (folder / "portkey" / ".installed").exists():
        program = folder / "portkey/node_modules/@portkey-ai/gateway/build/start-server.js"
        head = f"x-portkey-provider: openai\r\nx-portkey-custom-host: {url}\r\n".encode()
        # The one that npm brings has no cache.
        found.append(Gateway("portkey", ["node", str(program), "--headless"], head=head))
    else:
        _say_left_out("portkey", "not installed: make peers")
    return found


async def beside(
    ours: list[Gateway], peers: list[Gateway], provider: int, rounds: int, count: int
) -> dict[str, dict[str, float]]:
    """Start ours and the peers, and measure them in turn.

    A peer in trouble is said and left out. Trouble of ours is an error.
    """
    running: dict[str, subprocess.Popen[bytes]] = {}
    found: dict[str, list[dict[str, float]]] = {}
    with tempfile.TemporaryDirectory() as work:
        try:
            for one in [*ours, *peers]:
                log = Path(work) / f"{one.name}.log"
                try:
                    running[one.name] = _start(one, log)
                    await _until_answered(one, body_of(700), process=running[one.name])
                    one.pss_idle = pss_of(one.pid)
                    found[one.name] = []
                except Exception as error:
                    why = f"{error}\n{log.read_text(errors='replace')[-2000:]}"
                    if one in ours:
                        raise RuntimeError(why) from error
                    _leave_out(one, running, why)
            for _ in range(rounds):
                for one in [one for one in [*ours, *peers] if one.name in found]:
                    try:
                        found[one.name].append(
                            await asyncio.wait_for(_round(one, provider, count), 60 + count)
                        )
                    except Exception as error:
                        if one in ours:
                            raise
                        _leave_out(one, running, repr(error))
                        del found[one.name]
        finally:
            for process in running.values():
                process.kill()
                process.wait()
    return _with_ratios(found)


def _with_ratios(found: dict[str, list[dict[str, float]]]) -> dict[str, dict[str, float]]:
    """Return medians over the rounds; for a peer also how many times ours they are, in the same round."""
    table = {}
    for name, parts in found.items():
        table[name] = {key: statistics.median(part[key] for part in parts) for key in parts[0]}
        like = found["lix_cache, Redis" if name.endswith(", Redis") else "lix_cache, memory"]
        if like is not parts and not name.startswith("lix_cache"):
            # What is added may be lost in the noise.
            pairs = [(part, our) for part, our in zip(parts, like, strict=True) if min(our.values()) > 0]
            if pairs:
                table[f"{name} / ours"] = {
                    key: statistics.median(part[key] / our[key] for part, our in pairs) for key in parts[0]
                }
    return table


def _say_left_out(name: str, why: str) -> None:
    print(f"left out: {name}: {why}", file=sys.stderr)


def _leave_out(peer: Gateway, running: dict[str, subprocess.Popen[bytes]], why: str) -> None:
    """Say so, and end it: it may still have requests, which the others would pay for."""
    _say_left_out(peer.name, why)
    if peer.name in running:
        running[peer.name].kill()


def _start(peer: Gateway, log: Path) -> subprocess.Popen[bytes]:
    command = [*peer.command, f"--port={peer.port}"]
    if peer.config:
        file = log.with_suffix(".json")
        file.write_text(json.dumps(peer.config))
        command.append(f"--config={file}")
    cores = os.sched_getaffinity(0)
    # The core that ours is on, for all its threads: it inherits what this thread may use.
    os.sched_setaffinity(0, {min(cores)})
    try:
        with log.open("wb") as out:
            process = subprocess.Popen(
                command, env={**os.environ, **peer.env}, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
    finally:
        os.sched_setaffinity(0, cores)
    peer.pid = process.pid
    return process


async def _until_answered(
    gateway: Gateway, body: bytes, wanted: bytes = b"", process: subprocess.Popen[bytes] | None = None
) -> None:
    """Wait until it answers with this in the head, as long as its process is there."""
    end, last = time.monotonic() + _START_SECONDS, "no such answer"
    while time.monotonic() < end and (process is None or process.poll() is None):
        try:
            client = await Client().open(gateway.port)
            head = await asyncio.wait_for(client.ask(body, gateway.head), _START_SECONDS)
            client.close()
            if wanted in head:
                return
        except Exception as error:
            last = repr(error)
        await asyncio.sleep(0.1)
    raise RuntimeError(f"it does not answer: {last}")


async def _round(gateway: Gateway, provider: int, count: int) -> dict[str, float]:
    """Measure a miss, and a hit if there is a cache."""
    port, pid, more = gateway.port, gateway.pid, gateway.head
    direct = await p50_of(provider, lambda: body_of(700), count)
    found = {"miss_added_p50_ms": await p50_of(port, lambda: body_of(700), count, more) - direct}
    miss = await under_load(port, lambda: body_of(700), count * 4, 32, pid, more)
    found["miss_cpu_us"] = miss["cpu_us"]
    if gateway.hit:
        same = body_of(700, fresh=False)
        await _until_answered(gateway, same, gateway.hit)
        found["hit_p50_ms"] = await p50_of(port, lambda: same, count, more)
        found["hit_cpu_us"] = (await under_load(port, lambda: same, count * 4, 32, pid, more))["cpu_us"]
    return {**found, "pss_idle_mb": gateway.pss_idle, "pss_mb": pss_of(pid)}
