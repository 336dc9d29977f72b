"""What the gateway's bench asks with, and what it reads of a process."""

from __future__ import annotations

import asyncio
import json
import statistics
import time
from collections.abc import Callable

__all__ = ["Client", "body_of", "cpu_of", "p50_of", "pss_of", "under_load"]


class Client:
    """One connection that sends and reads as little as it can."""

    async def open(self, port: int) -> Client:
        self._reader, self._writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 20)
        return self

    async def ask(self, body: bytes, more: bytes = b"") -> bytes:
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"authorization: Bearer sk-1\r\n%bcontent-length: %d\r\n\r\n%b" % (more, len(body), body)
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        if b" 200 " not in head[:14]:
            raise RuntimeError(f"unexpected answer: {head[:200]!r}")
        if b"\r\ntransfer-encoding: chunked" in head:
            await self._reader.readuntil(b"\r\n0\r\n\r\n")
        else:
            await self._reader.readexactly(
                int(head.partition(b"\r\ncontent-length: ")[2].partition(b"\r\n")[0])
            )
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


def body_of(size: int, *, stream: bool = False, fresh: bool = True, slow: bool = False) -> bytes:
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


def cpu_of(pid: int) -> float:
    """Return the seconds that a process has run, all its threads: to the nanosecond, unlike its ticks."""
    # As clock_getcpuclockid() makes it. Threads that have ended count.
    return time.clock_gettime((~pid << 3) | 2)


def pss_of(pid: int) -> float:
    with open(f"/proc/{pid}/smaps_rollup") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024


async def p50_of(port: int, bodies: Callable[[], bytes], count: int, more: bytes = b"") -> float:
    client = await Client().open(port)
    await client.ask(bodies(), more)
    took = []
    for _ in range(count):
        body = bodies()
        began = time.perf_counter()
        await client.ask(body, more)
        took.append(time.perf_counter() - began)
    client.close()
    return statistics.median(took) * 1000


async def under_load(
    port: int, bodies: Callable[[], bytes], count: int, connections: int, pid: int, more: bytes = b""
) -> dict[str, float]:
    clients = [await Client().open(port) for _ in range(connections)]
    await clients[0].ask(bodies(), more)
    left = iter(range(count))

    async def work(client: Client) -> None:
        for _ in left:
            await client.ask(bodies(), more)

    began, cpu = time.perf_counter(), cpu_of(pid)
    await asyncio.gather(*(work(client) for client in clients))
    wall, used = time.perf_counter() - began, cpu_of(pid) - cpu
    for client in clients:
        client.close()
    # What one core bears: the gateway's own CPU, whatever else ran on the machine.
    return {"cpu_us": used / count * 1e6, "per_core": count / max(used, 1e-9), "rate": count / wall}
