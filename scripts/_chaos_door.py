"""The door by which workers reach Redis: a port that stays the same whatever stands behind it."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

from _chaos_servers import free_port

__all__ = ["Door"]

T = TypeVar("T")


class Door:
    """A TCP proxy in a thread of its own.

    Args:
        target: unix socket of the server behind it.
        seed: of where connections are cut.
    """

    def __init__(self, target: str, seed: int) -> None:
        self.port = free_port()
        self.target = target
        #: How likely each chunk is the last of its connection.
        self.rate = 0.0
        self._rng = random.Random(seed)
        self._server: asyncio.Server | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._passing = asyncio.Event()
        self._passing.set()
        self._thread = threading.Thread(target=self._loop.run_forever, name="door", daemon=True)
        self._thread.start()
        self.open()

    def open(self) -> None:
        """Let connections in."""
        self._do(self._open())

    def shut(self) -> None:
        """Cut all connections and refuse new ones."""
        self._do(self._shut(refuse=True))

    def cut(self) -> None:
        """Cut all connections; new ones are let in."""
        self._do(self._shut(refuse=False))

    def hold(self) -> None:
        """Pass nothing on, and keep the connections."""
        self._loop.call_soon_threadsafe(self._passing.clear)

    def release(self) -> None:
        """Pass on what was held."""
        self._loop.call_soon_threadsafe(self._passing.set)

    def close(self) -> None:
        """Be gone."""
        self.shut()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(5)
        self._loop.close()

    def _do(self, what: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(what, self._loop).result(20)

    async def _open(self) -> None:
        for _ in range(100):
            if self._server is not None:
                return
            with contextlib.suppress(OSError):
                self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)
                return
            await asyncio.sleep(0.05)
        raise RuntimeError(f"port {self.port} of a door was taken by another program")

    async def _shut(self, *, refuse: bool) -> None:
        if refuse and self._server is not None:
            self._server.close()
            self._server = None
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is None:
            return
        self._tasks.add(task)
        there: asyncio.StreamWriter | None = None
        try:
            source, there = await asyncio.open_unix_connection(self.target)
            ways = [
                asyncio.ensure_future(self._pump(reader, there)),
                asyncio.ensure_future(self._pump(source, writer)),
            ]
            try:
                await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for way in ways:
                    way.cancel()
        except (OSError, asyncio.CancelledError):
            pass  # the server is down, or the door was shut: both ends are closed below
        finally:
            self._tasks.discard(task)
            for end in (writer, there):
                if end is not None:
                    # Not close(): what is still buffered must not arrive after the cut.
                    end.transport.abort()

    async def _pump(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self._passing.wait()
                if self.rate and self._rng.random() < self.rate:
                    target.write(data[: self._rng.randrange(len(data) + 1)])
                    await target.drain()
                    # Half a chunk arrives, and the connection is gone.
                    await asyncio.sleep(0)
                    return
                target.write(data)
                await target.drain()
