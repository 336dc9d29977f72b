"""One line to a provider, its bytes fed by hand."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from lix_cache.gateway.provider_line import Line, LineAnswer
from lix_cache.gateway.provider_lines import Lines
from lix_cache.gateway.upstream import UpstreamFailed

_OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-A: b\r\n\r\nok"


class _Transport:
    """Takes all that is written."""

    def __init__(self) -> None:
        self.buffered = 0
        self.has_closed = False

    def write(self, _: bytes) -> None:
        """Send it."""

    def get_write_buffer_size(self) -> int:
        return self.buffered

    def is_closing(self) -> bool:
        return self.has_closed

    def abort(self) -> None:
        self.has_closed = True

    def pause_reading(self) -> None:
        """Read no more."""

    def resume_reading(self) -> None:
        """Read on."""


def _with(work: Callable[[Lines, Line], Any]) -> None:
    async def run() -> None:
        lines = Lines("http://127.0.0.1:9", 30.0, 60.0)
        line = Line(lines)
        line.connection_made(_Transport())
        try:
            work(lines, line)
        finally:
            lines.close()
            line.abort()

    asyncio.run(run())


def _asked(line: Line, *pieces: bytes, closes: bool = False) -> LineAnswer:
    answer = line.ask(b"POST", b"")
    for piece in pieces:
        line.data_received(piece)
    if closes:
        line.connection_lost(None)
    return answer


@pytest.mark.promise("no-loss")
@pytest.mark.parametrize(
    ("pieces", "has_begun"),
    [
        ((), False),
        ((b"H",), True),
        ((b"HTTP/1.1 103 Early Hints\r\n\r\n",), True),
        ((b"HTTP/1.1 200 OK\r\nX-A:",), True),
        ((b"SSH-2.0-x\r\n\r\n",), True),
        ((b"HTTP/1.1 200 OK\r\nX: ", b"a" * 300_000), True),
    ],
)
def test_a_request_whose_answer_has_begun_counts_as_sent(pieces: tuple[bytes, ...], has_begun: bool) -> None:
    def work(_: Lines, line: Line) -> None:
        answer = _asked(line, *pieces, closes=True)
        assert isinstance(answer.failed, UpstreamFailed)
        assert (answer.status, answer.failed.was_sent) == (0, has_begun)

    _with(work)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    "interim",
    [
        b"HTTP/1.1 199 X\r\nContent-Length: 4\r\n\r\nevil",
        b"HTTP/1.1 104 X\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nevil\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n",
        b"HTTP/1.1 101 X\r\n\r\n",
    ],
)
def test_nothing_of_an_interim_answer_is_in_the_answer(interim: bytes) -> None:
    def work(lines: Lines, line: Line) -> None:
        answer = _asked(line, interim + _OK)
        assert answer.failed is not None
        assert (answer.status, answer._pieces, len(lines._idle)) == (0, [], 0)

    _with(work)


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("status", [b"000", b"099"])
def test_an_answer_without_a_status_is_none(status: bytes) -> None:
    def work(lines: Lines, line: Line) -> None:
        answer = _asked(line, b"HTTP/1.1 %b x\r\nContent-Length: 2\r\n\r\nok" % status)
        assert answer.failed is not None
        assert (answer.is_whole, len(lines._idle)) == (False, 0)

    _with(work)


def test_the_trailers_of_an_interim_answer_are_no_headers() -> None:
    def work(_: Lines, line: Line) -> None:
        answer = _asked(
            line, b"HTTP/1.1 104 X\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\r\n" + _OK
        )
        assert answer.is_whole
        assert answer.headers == [(b"content-length", b"2"), (b"x-a", b"b")]

    _with(work)


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("surplus", [_OK, b"\r\n\r\nx", b"evil", b"HTTP/1.1 200"])
def test_a_whole_answer_is_good_whatever_comes_behind_it(surplus: bytes) -> None:
    def work(lines: Lines, line: Line) -> None:
        answer = _asked(line, _OK + surplus)
        assert (answer.is_whole, answer._pieces, answer.failed) == (True, [b"ok"], None)
        assert (line.is_closed, len(lines._idle)) == (True, 0)

    _with(work)


def test_a_line_that_is_about_to_close_is_not_used_again() -> None:
    def work(lines: Lines, line: Line) -> None:
        assert _asked(line, _OK).is_whole
        assert len(lines._idle) == 1
        line.transport.has_closed = True  # the provider's end is read, connection_lost comes next
        assert lines._free() is None

    _with(work)


@pytest.mark.promise("right-answer")
@pytest.mark.parametrize(
    ("coding", "body", "stays"),
    [
        (b"gzip", b"x", False),
        (b"chunked, gzip", b"x", False),
        (b"gzip, Chunked", b"1\r\nx\r\n0\r\n\r\n", True),
        (b"gzip\r\nTransfer-Encoding: chunked", b"1\r\nx\r\n0\r\n\r\n", True),
    ],
)
def test_a_body_whose_last_coding_has_no_end_ends_with_its_line(
    coding: bytes, body: bytes, stays: bool
) -> None:
    def work(lines: Lines, line: Line) -> None:
        answer = _asked(line, b"HTTP/1.1 200 OK\r\nTransfer-Encoding: " + coding + b"\r\n\r\n" + body)
        assert answer.is_whole is stays
        assert len(lines._idle) == stays
        if not stays:
            line.connection_lost(None)
        assert (answer.is_whole, answer.failed, answer._pieces) == (True, None, [b"x"])

    _with(work)


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("value", [b"a\x01b", b"a\0b", b"a\rb", b"a\r\n b"])
def test_a_header_that_cannot_be_passed_on_is_no_answer(value: bytes) -> None:
    def work(_: Lines, line: Line) -> None:
        assert _asked(line, b"HTTP/1.1 200 OK\r\nX-A: " + value + _OK[15:]).failed is not None

    _with(work)
