"""The server's own connection: an answer's head goes with its body, and who has left is told."""

from __future__ import annotations

import asyncio
import socket
from typing import Any

import pytest

from lix_cache.gateway.asgi import CONNECTION, watch
from lix_cache.gateway.guarded_http import _Joined


class _Transport:
    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self.closed = False
        self.aborts: list[str] = []
        self.untaken = 0

    def write(self, data: bytes) -> None:
        assert not self.closed
        self.writes.append(data)

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.aborts.append("aborted")

    def get_write_buffer_size(self) -> int:
        return self.untaken

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        pass

    resume_reading = pause_reading

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default


HEAD, BODY = b"HTTP/1.1 200 OK\r\n\r\n", b"body"


def test_a_head_goes_out_with_what_follows_at_once_and_else_alone() -> None:
    async def work() -> None:
        transport = _Transport()
        joined = _Joined(transport, asyncio.get_running_loop())
        joined.write(HEAD)
        joined.write(BODY)
        joined.write(BODY)
        assert transport.writes == [HEAD + BODY, BODY]
        transport.writes.clear()
        joined.write(HEAD)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert transport.writes == [HEAD], "a stream's head does not wait for its first event"
        joined.write(BODY)
        joined.write(HEAD)
        joined.close()
        await asyncio.sleep(0)
        assert transport.writes == [HEAD, BODY, HEAD]
        assert transport.closed
        large = HEAD + b"x" * 100_000
        joined = _Joined(other := _Transport(), asyncio.get_running_loop())
        joined.write(large)
        assert other.writes == [large]

    asyncio.run(work())


def test_a_client_that_leaves_is_told_to_all_who_watch() -> None:
    """Also after a body so large that the server has paused its reading."""
    import uvicorn

    from lix_cache.gateway.guarded_http import GuardedHttp

    left: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert CONNECTION in scope
        while (await receive()).get("more_body"):
            pass
        done = asyncio.Event()
        watcher = watch(scope, receive, lambda _: done.set())
        watch(scope, receive, lambda _: left.append("cancelled")).cancel()
        await asyncio.wait_for(done.wait(), 20)
        left.append(scope["path"])
        watcher.cancel()

    async def work() -> None:
        listener = socket.create_server(("127.0.0.1", 0))
        config = uvicorn.Config(app, http=GuardedHttp, lifespan="off", log_level="critical")
        server = uvicorn.Server(config)
        serving = asyncio.ensure_future(server._serve([listener]))
        for path, size in ((b"/small", 3), (b"/large", 3_000_000)):
            _, writer = await asyncio.open_connection(*listener.getsockname())
            writer.write(b"POST %b HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % (path, size))
            writer.write(b"x" * size)
            await writer.drain()
            await asyncio.sleep(0.05)
            writer.close()
            for _ in range(400):
                if path.decode() in left:
                    break
                await asyncio.sleep(0.01)
        server.should_exit = True
        await serving

    asyncio.run(work())
    assert left == ["/small", "/large"]


class _Hand:
    """A loop whose time a test turns by hand."""

    def __init__(self) -> None:
        self.due: Any = None

    def call_soon(self, work: Any) -> Any:
        return self

    def call_later(self, _: float, work: Any) -> Any:
        self.due = work
        return self

    def cancel(self) -> None:
        self.due = None


@pytest.mark.promise("no-stall")
def test_what_a_client_does_not_take_ends_its_connection_and_what_it_takes_slowly_does_not() -> None:
    loop, transport = _Hand(), _Transport()
    hand: Any = loop
    joined = _Joined(transport, hand)
    transport.untaken = 1_000_000
    joined.expect_reader()
    for _ in range(5):
        transport.untaken -= 5_000
        loop.due()
    assert transport.aborts == []
    assert loop.due, "a slow client has another time for the rest"
    transport.untaken -= 100
    loop.due()
    assert transport.aborts == ["aborted"]
    loop, transport = _Hand(), _Transport()
    hand = loop
    joined = _Joined(transport, hand)
    joined.close()
    assert not loop.due, "nothing is left to send"
    transport.untaken = 10
    joined.close()
    loop.due()
    assert transport.aborts == ["aborted"], "a transport that closes waits for the client for ever"


class _Turned(asyncio.SelectorEventLoop):
    """A loop whose time a test turns ahead by hand."""

    ahead = 0.0

    def time(self) -> float:
        return super().time() + self.ahead

    async def turn(self, seconds: float) -> None:
        self.ahead += seconds
        for _ in range(5):
            await asyncio.sleep(0)


def test_a_connection_is_closed_when_it_was_not_used_for_long_and_not_before() -> None:
    import uvicorn
    from uvicorn.server import ServerState

    from lix_cache.gateway.asgi import respond
    from lix_cache.gateway.guarded_http import GuardedHttp

    loop, gate = _Turned(), asyncio.Event()

    async def app(_: Any, __: Any, send: Any) -> None:
        await gate.wait()
        await respond(send, 200, [], BODY)

    def connected() -> tuple[GuardedHttp, _Transport]:
        config = uvicorn.Config(app, lifespan="off", timeout_keep_alive=75, log_level="critical")
        config.load()
        transport: Any = _Transport()
        found = GuardedHttp(config=config, server_state=ServerState(), app_state={}, _loop=loop)
        found.connection_made(transport)
        return found, transport

    async def work() -> None:
        connection, transport = connected()
        connection.data_received(ask := b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        await loop.turn(100)
        assert not transport.closed, "its request is under way"
        gate.set()
        await loop.turn(50)
        connection.data_received(ask)
        await loop.turn(50)
        assert len(transport.writes) == 2
        assert not transport.closed, "it was used since"
        connection.data_received(ask * 3)
        await loop.turn(0)
        await loop.turn(74)
        assert len(transport.writes) == 5
        assert not transport.closed
        await loop.turn(2)
        assert transport.closed
        other, _ = connected()
        other.data_received(ask)
        await loop.turn(0)
        other.connection_lost(None)
        assert other._idle_timer is not None
        assert other._idle_timer.cancelled(), "nothing holds what is over"

    try:
        loop.run_until_complete(work())
    finally:
        loop.close()
