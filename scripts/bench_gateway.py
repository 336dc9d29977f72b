"""Measure the gateway beside its provider: paired rounds in one run, the gateway on one core.

Each round asks the scripted provider directly and then through the gateway, so that what else the machine
does hits both alike. CPU is that of the gateway's own process, by /proc; latencies are of one connection.
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

from _bench_provider import serve_provider

from tests.support.redis_server import RedisServer, free_port


class _Client:
    """One connection that sends and reads as little as it can."""

    async def open(self, port: int) -> _Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        return self

    async def ask(self, body: bytes, more: bytes = b"") -> bytes:
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer sk-1\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body)
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b"transfer-encoding: chunked" in head:
            await self._reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            await self._reader.readexactly(int(head.partition(b"content-length: ")[2].partition(b"\r\n")[0]))
        if b" 200 " not in head[:14]:
            raise SystemExit(f"unexpected answer: {head[:200]!r}")
        return head

    async def first_byte(self, body: bytes) -> float:
        """Return the seconds until the first byte of the answer's body."""
        began = time.perf_counter()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer sk-1\r\ncontent-length: %d\r\n\r\n%b" % (len(body), body)
        )
        await self._reader.readuntil(b"\r\n\r\n")
        await self._reader.readuntil(b"data: ")
        took = time.perf_counter() - began
        await self._reader.readuntil(b"\r\n0\r\n\r\n")
        return took

    def close(self) -> None:
        self._writer.close()


_number = 0


def _body(size: int, *, stream: bool = False, fresh: bool = True, slow: bool = False) -> bytes:
    global _number
    _number += 1
    text = f"{_number if fresh else 'same'} " + "x" * size
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": text}],
        **({"stream": True} if stream else {}),
        **({"user": "slow"} if slow else {}),
    }
    return json.dumps(body, separators=(",", ":")).encode()


def _cpu(pid: int) -> float:
    """Return the seconds that all threads of a process have run: to the nanosecond, unlike its ticks."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
            total += int(file.read().split()[0])
    return total / 1e9


def _pss(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


async def _p50(port: int, bodies: Callable[[], bytes], count: int, more: bytes = b"") -> float:
    client = await _Client().open(port)
    await client.ask(bodies(), more)
    took = []
    for _ in range(count):
        body = bodies()
        began = time.perf_counter()
        await client.ask(body, more)
        took.append(time.perf_counter() - began)
    client.close()
    return statistics.median(took) * 1000


async def _first_bytes(ports: tuple[int, int], count: int) -> tuple[float, float]:
    """Return the median milliseconds to the first byte of a slow stream: direct, and through the gateway.

    In turn, one by one: what else the machine does hits both alike.
    """
    clients = [await _Client().open(port) for port in ports]
    took: list[list[float]] = [[], []]
    for _ in range(count):
        for client, times in zip(clients, took, strict=True):
            times.append(await client.first_byte(_body(700, stream=True, slow=True)))
    for client in clients:
        client.close()
    return statistics.median(took[0]) * 1000, statistics.median(took[1]) * 1000


async def _load(
    port: int, bodies: Callable[[], bytes], count: int, connections: int, pid: int
) -> dict[str, float]:
    clients = [await _Client().open(port) for _ in range(connections)]
    await clients[0].ask(bodies())
    left = iter(range(count))

    async def work(client: _Client) -> None:
        for _ in left:
            await client.ask(bodies())

    began, cpu = time.perf_counter(), _cpu(pid)
    await asyncio.gather(*(work(client) for client in clients))
    wall, used = time.perf_counter() - began, _cpu(pid) - cpu
    for client in clients:
        client.close()
    # What one core bears: the gateway's own CPU, whatever else ran on the machine.
    return {"cpu_us": used / count * 1e6, "per_core": count / max(used, 1e-9), "rate": count / wall}


async def _measure(ports: tuple[int, int], pid: int, rounds: int, count: int) -> dict[str, dict[str, float]]:
    direct, through = ports
    found: dict[str, dict[str, float]] = {}
    misses = {
        "miss, 1 kB": lambda: _body(700),
        "miss, 55 kB": lambda: _body(55_000),
        "miss, stream of 50": lambda: _body(700, stream=True),
    }
    for name, bodies in misses.items():
        added = [
            await _p50(through, bodies, count) - await _p50(direct, bodies, count) for _ in range(rounds)
        ]
        loads = [await _load(through, bodies, count * 4, 32, pid) for _ in range(rounds)]
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
        "hit in memory, 1 kB": lambda: _body(700, fresh=False),
        "hit in memory, 55 kB": lambda: _body(55_000, fresh=False),
        "hit in memory, streamed": lambda: _body(700, stream=True, fresh=False),
    }
    for name, bodies in hits.items():
        same = _always(bodies())
        times = [await _p50(through, same, count) for _ in range(rounds)]
        loads = [await _load(through, same, count * 20, 32, pid) for _ in range(rounds)]
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
    body = _body(700, fresh=False)
    client = await _Client().open(port)
    await client.ask(body)
    await asyncio.sleep(0.3)
    if b"x-lix-cache: hit-l1-exact" not in await client.ask(body):
        raise SystemExit("the answer is not in Redis")
    client.close()
    times = [await _p50(port, lambda: body, count) for _ in range(3)]
    loads = [await _load(port, lambda: body, count * 10, 32, pid) for _ in range(3)]
    return {"p50_ms": min(times), "median_p50_ms": statistics.median(times), **_best(loads)}


async def _by_meaning(port: int, pid: int, count: int) -> dict[str, float]:
    """One question in ever other words, all of them answered by the first one's answer."""
    numbers = iter(range(1 << 30))

    def body() -> bytes:
        words = "How do I reset my password" + " please" * (next(numbers) % 7) + "?" * (next(numbers) % 40)
        return json.dumps(
            {"model": "m", "messages": [{"role": "user", "content": words}]}, separators=(",", ":")
        ).encode()

    client = await _Client().open(port)
    await client.ask(body())
    await asyncio.sleep(1)
    took = []
    for _ in range(count):
        asked = body()
        began, cpu = time.perf_counter(), _cpu(pid)
        if b"x-lix-cache: hit-l2" in await client.ask(asked):
            took.append((time.perf_counter() - began, _cpu(pid) - cpu))
    client.close()
    if not took:
        raise SystemExit("no question was answered by meaning")
    return {
        "p50_ms": statistics.median(one for one, _ in took) * 1000,
        "cpu_us": statistics.median(cpu for _, cpu in took) * 1e6,
        "hits": len(took),
        "pss_mb": _pss(pid),
    }


def _start(port: int, provider: int, server: RedisServer, **env: str) -> subprocess.Popen[bytes]:
    variables = {
        **os.environ,
        "LIX_CACHE_REDIS_URL": server.unix_url,
        "LIX_CACHE_GATEWAY_ACCESS_LOG": "no",
        **{f"LIX_CACHE_GATEWAY_{name}": value for name, value in env.items()},
    }
    command = [sys.executable, "-m", "lix_cache.cli", "serve", "--port", str(port)]
    command += ["--upstream", f"http://127.0.0.1:{provider}"]
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(command, env=variables, stdout=log, stderr=log)
    os.sched_setaffinity(process.pid, {0})
    return process


async def _until_ready(port: int) -> None:
    for _ in range(300):
        try:
            (await _Client().open(port)).close()
            return
        except OSError:
            await asyncio.sleep(0.1)
    raise SystemExit("the gateway did not start")


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
                idle = {"pss_mb": _pss(gateway.pid)}
                found = await _measure(
                    (provider_port, gateway_port), gateway.pid, options.rounds, options.count
                )
                found["hit in Redis, 1 kB"] = await _from_redis(redis_port, no_memory.pid, options.count)
                if options.embedder:
                    await _until_ready(meaning_port)
                    found["hit by meaning"] = await _by_meaning(meaning_port, by_meaning.pid, options.count)
                found["memory, idle"] = idle
                found["memory, after"] = {"pss_mb": _pss(gateway.pid)}
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
