"""The lines to a provider: each answer is that of its own request, whole, or an error."""

from __future__ import annotations

import asyncio
import ssl

import pytest
import trustme

from lix_cache.clock import SystemClock
from lix_cache.gateway import provider_line
from lix_cache.gateway.provider_http import HttpUpstream
from lix_cache.gateway.provider_lines import Lines
from lix_cache.gateway.settings import GatewaySettings, UpstreamSettings
from lix_cache.gateway.upstream import Outgoing, Routes, UpstreamFailed
from tests.support.provider_lines import OK, LineProvider, asked_of, with_lines


def test_a_line_is_used_again_after_a_whole_answer() -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n1\r\nc\r\n0\r\nX-T: 1\r\n\r\n"
    provider = LineProvider(OK, chunked, b"HTTP/1.1 204 No Content\r\n\r\n", OK)

    async def work(lines: Lines) -> None:
        assert [await asked_of(lines) for _ in range(4)] == [
            (200, b"ok"),
            (200, b"abc"),
            (204, b""),
            (200, b"ok"),
        ]

    with_lines(provider, work)
    assert provider.connections == 1
    assert provider.heads[0].startswith(b"POST /v1/x HTTP/1.1\r\nhost: 127.0.0.1:")


@pytest.mark.parametrize(
    "first",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_a_line_that_is_to_close_is_not_used_again(first: bytes) -> None:
    provider = LineProvider(first, OK)

    async def work(lines: Lines) -> None:
        assert [await asked_of(lines) for _ in range(2)] == [(200, b"ok")] * 2

    with_lines(provider, work)
    assert provider.connections == 2


@pytest.mark.promise("isolation")
def test_bytes_behind_an_answer_are_no_answer_to_the_next_request() -> None:
    async def work(lines: Lines) -> None:
        assert await asked_of(lines) == (200, b"ok")
        assert await asked_of(lines) == (200, b"ok")

    provider = LineProvider(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil", OK)
    with_lines(provider, work)
    assert provider.connections == 2


@pytest.mark.promise("isolation")
def test_bytes_that_come_while_nothing_is_asked_close_the_line() -> None:
    class Late(LineProvider):
        go_on: asyncio.Event

        async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self.connections += 1
            await reader.readuntil(b"\r\n\r\n{}")
            writer.write(OK)
            if self.connections == 1:
                await self.go_on.wait()
                writer.write(OK.replace(b"ok", b"no"))
            await reader.read()  # until the other side closes
            self.ended.set()
            writer.close()

    provider = Late()

    async def work(lines: Lines) -> None:
        provider.go_on = asyncio.Event()
        assert await asked_of(lines) == (200, b"ok")
        provider.go_on.set()
        await asyncio.wait_for(provider.ended.wait(), 30)
        assert await asked_of(lines) == (200, b"ok")

    with_lines(provider, work)
    assert provider.connections == 2


def test_an_answer_may_end_with_its_connection() -> None:
    async def work(lines: Lines) -> None:
        assert await asked_of(lines) == (200, b"all of it")

    with_lines(LineProvider(b"HTTP/1.1 200 OK\r\n\r\nall of it", closes=True), work)


def test_lines_may_end_as_small_servers_end_them() -> None:
    chunked = b"HTTP/1.1 200 OK\nTransfer-Encoding: chunked\n\n2  \r\nab\r\n0\r\n\r\n"
    provider = LineProvider(OK.replace(b"\r\n", b"\n"), chunked, OK)

    async def work(lines: Lines) -> None:
        assert [await asked_of(lines) for _ in range(3)] == [(200, b"ok"), (200, b"ab"), (200, b"ok")]

    with_lines(provider, work)
    assert provider.connections == 1


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize("method", ["POST", "GET"])
@pytest.mark.parametrize(
    ("coding", "is_read"),
    [
        (b"Chunked", True),
        (b"identity\r\nTransfer-Encoding: chunked", True),
        (b"gzip, chunked", False),
        (b"gzip\r\nTransfer-Encoding: chunked", False),
        (b"chunked, gzip", False),
        (b"br", False),
    ],
)
def test_bytes_in_a_coding_that_was_not_asked_for_are_no_answer(
    coding: bytes, is_read: bool, method: str
) -> None:
    """The client gets no such header: to it they would be the answer itself."""
    provider = LineProvider(
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n2\r\nok\r\n0\r\n\r\n", closes=True
    )

    async def run() -> None:
        server = await asyncio.start_server(provider, "127.0.0.1", 0)
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        upstream = HttpUpstream(url, GatewaySettings())
        body = b"{}" if method == "POST" else None
        request = Outgoing(method, "/v1/x", [("Content-Length", "2" if body else "0")], body)
        try:
            if is_read:
                incoming = await upstream.send(request)
                assert b"".join([piece async for piece in incoming.chunks()]) == b"ok"
            else:
                with pytest.raises(UpstreamFailed):
                    await upstream.send(request)
        finally:
            await upstream.close()
            server.close()

    asyncio.run(run())


def test_an_interim_answer_is_none() -> None:
    hints = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n"

    async def work(lines: Lines) -> None:
        answer = await lines.post("/v1/x", [], b"{}")
        assert (answer.status, answer.headers) == (200, [(b"content-length", b"2"), (b"x-a", b"b")])
        answer.close()

    with_lines(LineProvider(hints + OK), work)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    "half",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok.",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\nok\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"SSH-2.0-x\r\n\r\n",
        b"",
        b"HTTP/1.1 200 OK\r\nX: " + b"a" * 300_000 + b"\r\n\r\n",
    ],
)
def test_half_an_answer_is_an_error(half: bytes) -> None:
    async def work(lines: Lines) -> None:
        with pytest.raises(UpstreamFailed):
            await asked_of(lines)

    with_lines(LineProvider(half, closes=True), work)


def test_a_silent_provider_is_late() -> None:
    async def work(lines: Lines) -> None:
        with pytest.raises(UpstreamFailed) as info:
            await asked_of(lines)
        assert info.value.was_late
        assert info.value.was_sent

    with_lines(LineProvider(b"HTTP/1.1 200 OK\r\n"), work, read_seconds=0.05)


@pytest.mark.promise("bad-bytes")
def test_an_answer_that_is_not_read_is_not_held_without_bound() -> None:
    size = 64 << 20
    provider = LineProvider(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size + b"x" * size)

    async def work(lines: Lines) -> None:
        answer = await lines.post("/v1/x", [], b"{}")
        while not answer._line._is_paused:  # type: ignore[union-attr]
            await asyncio.sleep(0.01)
        assert answer._held < 2 << 20
        assert sum([len(piece) async for piece in answer.chunks()]) == size

    with_lines(provider, work)


@pytest.mark.promise("isolation")
def test_a_request_that_is_given_up_leaves_no_answer_behind() -> None:
    async def work(lines: Lines) -> None:
        asking = asyncio.ensure_future(asked_of(lines))
        while not provider.heads:
            await asyncio.sleep(0.01)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert await asked_of(lines) == (200, b"ok")

    provider = LineProvider(b"", OK)
    with_lines(provider, work)
    assert provider.connections == 2


@pytest.mark.parametrize("value", ["a\r\nx-b: c", "a\nb", "a\0b"])
def test_a_header_that_would_be_two_is_not_sent(value: str) -> None:
    provider = LineProvider(OK)

    async def work(lines: Lines) -> None:
        with pytest.raises(UpstreamFailed):
            await lines.post("/v1/x", [("x-a", value)], b"{}")

    with_lines(provider, work)
    assert provider.heads == []


async def _refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answer before the body is there, and read no more of it."""
    await reader.readuntil(b"\r\n\r\n")
    writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 2\r\n\r\nno")
    try:
        await asyncio.Event().wait()
    finally:
        writer.transport.abort()


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("is_safe", [False, True])
def test_a_line_with_half_a_request_in_it_is_not_used_again(is_safe: bool) -> None:
    async def work(lines: Lines) -> None:
        assert await asked_of(lines, b"x" * (30 << 20)) == (413, b"no")
        assert not lines._idle

    with_lines(_refuse, work, authority=trustme.CA() if is_safe else None)


def test_a_line_with_tls_is_used_again() -> None:
    provider = LineProvider(OK, OK, OK)

    async def work(lines: Lines) -> None:
        for size in (2, 1 << 20, 2):
            assert await asked_of(lines, b"x" * size) == (200, b"ok")

    with_lines(provider, work, authority=trustme.CA())
    assert provider.connections == 1


def test_a_provider_whose_certificate_is_not_known_cannot_be_reached() -> None:
    async def work(lines: Lines) -> None:
        lines._tls = ssl.create_default_context()
        with pytest.raises(UpstreamFailed, match=r"cannot be reached \(SSLCertVerificationError\)"):
            await asked_of(lines)

    with_lines(LineProvider(OK), work, authority=trustme.CA())


class _EndsStale:
    """Answers one request of each connection, and closes it with the next one, without a word."""

    def __init__(self, together: int) -> None:
        self.left = together
        self.connections = 0
        self.are_there = asyncio.Event()

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        await reader.readuntil(b"\r\n\r\n{}")
        self.left -= 1
        if self.left <= 0:
            self.are_there.set()
        await self.are_there.wait()  # each of the first ones has a connection of its own
        writer.write(OK)
        await reader.read(1)
        writer.close()


def routes_of(lines: Lines, **settings: int) -> Routes:
    """Return the way to one provider, by these lines."""
    upstream = UpstreamSettings("a", "http://127.0.0.1:9")
    routes = Routes(GatewaySettings(upstreams=(upstream,), **settings), SystemClock(), {})  # type: ignore[arg-type]
    http = routes.routes[0].upstream
    assert isinstance(http, HttpUpstream)
    http._lines = lines

    async def no_pause(_: float) -> None:
        raise AssertionError("a new connection is tried at once")

    routes._sleep = no_pause  # type: ignore[assignment]
    return routes


async def sent_by(routes: Routes) -> tuple[int, bytes]:
    incoming, _ = await routes.send(routes.routes, lambda _: Outgoing("POST", "/v1/x", [], b"{}"))
    return incoming.status, b"".join([piece async for piece in incoming.chunks()])


@pytest.mark.parametrize("retries", [0, 1])
def test_connections_that_went_stale_while_idle_cost_no_try_and_no_breaker(
    retries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A machine under load hears of the end late.
    monkeypatch.setattr(provider_line, "_STALE_SECONDS", 1e9)
    many = 6

    async def work(lines: Lines) -> None:
        routes = routes_of(lines, retries=retries)
        assert await asyncio.gather(*(sent_by(routes) for _ in range(many))) == [(200, b"ok")] * many
        assert len(lines._idle) == many
        assert await sent_by(routes) == (200, b"ok")
        assert len(lines._idle) == 1, "the others were dropped unused"
        assert (routes.retries, routes.routes[0].failures) == (0, 0)

    provider = _EndsStale(many)
    with_lines(provider, work)
    assert provider.connections == many + 1


def test_a_line_that_is_closed_long_after_the_request_is_not_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """Something between drops a connection that is silent while a model thinks: the answer is being made."""
    monkeypatch.setattr(provider_line, "_STALE_SECONDS", 0.0)

    async def work(lines: Lines) -> None:
        routes = routes_of(lines, retries=3)
        assert await sent_by(routes) == (200, b"ok")
        with pytest.raises(UpstreamFailed) as info:
            await sent_by(routes)
        assert info.value.was_sent
        assert (routes.retries, routes.routes[0].failures) == (0, 1), "not paid for twice"

    provider = _EndsStale(1)
    with_lines(provider, work)
    assert provider.connections == 1


def test_a_new_connection_that_dies_without_a_byte_is_the_providers_failure() -> None:
    async def work(lines: Lines) -> None:
        with pytest.raises(UpstreamFailed) as info:
            await asked_of(lines)
        assert not info.value.was_stale

    with_lines(LineProvider(b"", closes=True), work)
