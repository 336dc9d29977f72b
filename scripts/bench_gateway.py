"""Measure the gateway beside its provider: paired rounds in one run, the gateway on one core.

Each round asks the scripted provider directly and then through the gateway, so that what else the machine
does hits both alike. CPU is that of the gateway's own process, by its clock; latencies are of one connection.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from typing import Any

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from _bench_client import Client, body_of, cpu_of, p50_of, pss_of, under_load
from _bench_peers import Gateway, beside, installed
from _bench_provider import serve_provider

from tests.support.redis_server import RedisServer, free_port

_PEERS = """measure the gateways of others too, after all else, in turn with ours: litellm's proxy, with its
cache in memory and in Redis, and portkey's, which has none. Each is on the same core, before the same
provider, and gets the same requests. A line "/ ours" says how many times ours a peer's figures are, median of
the rounds: only that is worth carrying to another machine. Memory is that after the first answer, and after
the rounds, when each holds as many answers as it keeps. `make peers` installs them; what is not there, or
does not answer, is said and left out"""


async def _first_bytes(ports: tuple[int, int], count: int) -> tuple[float, float]:
    """Return the median milliseconds to the first byte of a slow stream: direct, and through the gateway.

    In turn, one by one: what else the machine does hits both alike.
    """
    clients = [await Client().open(port) for port in ports]
    took: list[list[float]] = [[], []]
    for _ in range(count):
        for client, times in zip(clients, took, strict=True):
            times.append(await client.first_byte(body_of(700, stream=True, slow=True)))
    for client in clients:
        client.close()
    return statistics.median(took[0]) * 1000, statistics.median(took[1]) * 1000


async def _measure(ports: tuple[int, int], pid: int, rounds: int, count: int) -> dict[str, dict[str, float]]:
    direct, through = ports
    found: dict[str, dict[str, float]] = {}
    misses = {
        "miss, 1 kB": lambda: body_of(700),
        "miss, 55 kB": lambda: body_of(55_000),
        "miss, stream of 50": lambda: body_of(700, stream=True),
    }
    for name, bodies in misses.items():
        added = [
            await p50_of(through, bodies, count) - await p50_of(direct, bodies, count) for _ in range(rounds)
        ]
        loads = [await under_load(through, bodies, count * 4, 32, pid) for _ in range(rounds)]
        found[name] = {
            "added_p50_ms": min(added),
            "median_added_ms": statistics.median(added),
            **_best(loads),
        }
    firsts = [await _first_bytes(ports, count) for _ in range(rounds)]
    added = [after - before for before, after in firsts]
    found["first byte of a stream"] = {
        "direct_ms": min(before for before, _ in firsts),
        "added_p50_ms": min(added),
        "median_added_ms": statistics.median(added),
    }
    hits = {
        "hit in memory, 1 kB": lambda: body_of(700, fresh=False),
        "hit in memory, 55 kB": lambda: body_of(55_000, fresh=False),
        "hit in memory, streamed": lambda: body_of(700, stream=True, fresh=False),
    }
    for name, bodies in hits.items():
        same = _always(bodies())
        times = [await p50_of(through, same, count) for _ in range(rounds)]
        loads = [await under_load(through, same, count * 20, 32, pid) for _ in range(rounds)]
        found[name] = {"p50_ms": min(times), "median_p50_ms": statistics.median(times), **_best(loads)}
    return found


def _always(body: bytes) -> Callable[[], bytes]:
    return lambda: body


def _best(loads: list[dict[str, float]]) -> dict[str, float]:
    return {
        "cpu_us": min(load["cpu_us"] for load in loads),
        "per_core": max(load["per_core"] for load in loads),
        "rate": max(load["rate"] for load in loads),
    }


async def _from_redis(port: int, pid: int, count: int) -> dict[str, float]:
    """A gateway that keeps nothing in memory finds all of it in Redis."""
    body = body_of(700, fresh=False)
    client = await Client().open(port)
    await client.ask(body)
    await asyncio.sleep(0.3)
    if b"x-lix-cache: hit-l1-exact" not in await client.ask(body):
        raise SystemExit("the answer is not in Redis")
    client.close()
    times = [await p50_of(port, lambda: body, count) for _ in range(3)]
    loads = [await under_load(port, lambda: body, count * 10, 32, pid) for _ in range(3)]
    return {"p50_ms": min(times), "median_p50_ms": statistics.median(times), **_best(loads)}


async def _by_meaning(port: int, pid: int, count: int) -> dict[str, float]:
    """One question in ever other words, all of them answered by the first one's answer."""
    numbers = iter(range(1 << 30))

    def body() -> bytes:
        words = "How do I reset my password" + " please" * (next(numbers) % 7) + "?" * (next(numbers) % 40)
        return json.dumps(
            {"model": "m", "messages": [{"role": "user", "content": words}]}, separators=(",", ":")
        ).encode()

    client = await Client().open(port)
    await client.ask(body())
    await asyncio.sleep(1)
    took = []
    for _ in range(count):
        asked = body()
        began, cpu = time.perf_counter(), cpu_of(pid)
        if b"x-lix-cache: hit-l2" in await client.ask(asked):
            took.append((time.perf_counter() - began, cpu_of(pid) - cpu))
    client.close()
    if not took:
        raise SystemExit("no question was answered by meaning")
    return {
        "p50_ms": statistics.median(one for one, _ in took) * 1000,
        "cpu_us": statistics.median(cpu for _, cpu in took) * 1e6,
        "hits": len(took),
        "pss_mb": pss_of(pid),
    }


def _serving(provider: int, server: RedisServer, **env: str) -> tuple[list[str], dict[str, str]]:
    """Return the command of a gateway of ours, and its variables."""
    variables = {
        "LIX_CACHE_REDIS_URL": server.unix_url,
        "LIX_CACHE_GATEWAY_ACCESS_LOG": "no",
        **{f"LIX_CACHE_GATEWAY_{name}": value for name, value in env.items()},
    }
    command = [sys.executable, "-m", "lix_cache.cli", "serve", "--upstream", f"http://127.0.0.1:{provider}"]
    return command, variables


def _start(port: int, provider: int, server: RedisServer, **env: str) -> subprocess.Popen[bytes]:
    command, variables = _serving(provider, server, **env)
    command, variables = [*command, "--port", str(port)], {**os.environ, **variables}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    os.sched_setaffinity(process.pid, {0})
    return process


async def _until_ready(port: int) -> None:
    for _ in range(300):
        try:
            (await Client().open(port)).close()
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise SystemExit("the gateway did not start")


async def _beside_peers(
    provider: int, server: RedisServer, rounds: int, count: int
) -> dict[str, dict[str, float]]:
    ours = [
        Gateway(f"lix_cache, {place}", *_serving(provider, server, **env), hit=b"\r\nx-lix-cache: hit-l1")
        for place, env in (("memory", {}), ("Redis", {"MEMORY_BYTES": "0"}))
    ]
    return await beside(ours, installed(provider, server.unix_url), provider, rounds, count)


def _timed(work: Awaitable[Any]) -> Any:
    import uvloop

    async def run() -> Any:
        return await work

    return uvloop.run(run())


def _print(found: dict[str, dict[str, float]], *, as_json: bool) -> None:
    if as_json:
        print(json.dumps(found, indent=2))
        return
    for name, numbers in found.items():
        print(
            f"{name:26}"
            + "  ".join(
                f"{key} {value:,.3f}" if value < 10 else f"{key} {value:,.0f}"
                for key, value in numbers.items()
            )
        )


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--count", type=int, default=300, help="requests of one connection in a round")
    parser.add_argument(
        "--embedder", help="folder or hub name of an ONNX model, to measure answers by meaning"
    )
    parser.add_argument("--peers", action="store_true", help=_PEERS)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--provider", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.provider:
        serve_provider(options.provider)
        return
    provider_port, gateway_port, redis_port, meaning_port = (free_port() for _ in range(4))
    provider = subprocess.Popen([sys.executable, __file__, "--provider", str(provider_port)])
    processes = [provider]
    try:
        with RedisServer() as server:
            gateway = _start(gateway_port, provider_port, server)
            no_memory = _start(redis_port, provider_port, server, MEMORY_BYTES="0")
            processes += [gateway, no_memory]
            if options.embedder:
                # In memory it would find each question again, word for word.
                more = {"MEMORY_BYTES": "0", "EMBEDDER": options.embedder}
                by_meaning = _start(meaning_port, provider_port, server, **more)
                processes.append(by_meaning)

            async def run() -> dict[str, dict[str, float]]:
                for port in (provider_port, gateway_port, redis_port):
                    await _until_ready(port)
                idle = {"pss_mb": pss_of(gateway.pid)}
                found = await _measure(
                    (provider_port, gateway_port), gateway.pid, options.rounds, options.count
                )
                found["hit in Redis, 1 kB"] = await _from_redis(redis_port, no_memory.pid, options.count)
                if options.embedder:
                    await _until_ready(meaning_port)
                    found["hit by meaning"] = await _by_meaning(meaning_port, by_meaning.pid, options.count)
                found["memory, idle"] = idle
                found["memory, after"] = {"pss_mb": pss_of(gateway.pid)}
                if options.peers:
                    # They would share memory and the core with those that are now started.
                    for process in processes[1:]:
                        process.terminate()
                        process.wait(20)
                    found |= await _beside_peers(provider_port, server, options.rounds, options.count)
                return found

            found = _timed(run())
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.wait(20)
    _print(found, as_json=options.json)


if __name__ == "__main__":
    main()
