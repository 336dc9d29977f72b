"""One connection to a provider, for the requests that the cache is for: a POST with its whole body in hand.

A general client costs twice what all the rest of a miss does, most of it for each piece of a stream. Here a
line takes one request at a time, hands out what has come since it was last asked, and goes back to the
others when the answer is whole. A line in any doubt is closed: bytes that nothing asked for, a request
that was not sent to its end, an answer that ends with the connection.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Any

import httptools

from lix_cache.gateway.upstream import UpstreamFailed

if TYPE_CHECKING:
    from lix_cache.gateway.provider_lines import Lines

__all__ = ["Line", "LineAnswer"]

#: Of an answer that its reader has not taken: then the provider is not read either.
_MOST_HELD = 1 << 18
_LARGEST_HEAD = 1 << 18
_SWITCHING = 101
#: A line that the provider closed while it was idle tells so within a round trip of the next request. One
#: that is closed later had the request: what is between drops a connection that is silent for a minute.
_STALE_SECONDS = 5.0


class LineAnswer:
    """An answer, its head first."""

    identity = ""

    def __init__(self, line: Line) -> None:
        self.status = 0
        self.headers: list[tuple[bytes, bytes]] = []
        self.is_whole = False
        self.failed: UpstreamFailed | None = None
        self._line: Line | None = line
        self._pieces: list[bytes] = []
        self._held = 0
        self._waiter: asyncio.Future[None] | None = None

    def take(self, piece: bytes) -> None:
        """Take a piece of the body."""
        self._pieces.append(piece)
        self._held += len(piece)

    def wake(self) -> None:
        """Let the reader look."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
        if self._held > _MOST_HELD and self._line is not None:
            self._line.pause()

    def end(self, failed: UpstreamFailed | None = None) -> None:
        """Say that nothing more comes."""
        self._line = None
        self.is_whole, self.failed = failed is None, failed
        self.wake()

    async def wait(self) -> None:
        """Wait until something is new."""
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None

    async def chunks(self) -> AsyncIterator[bytes]:
        """Give what has come, in one piece each time."""
        while True:
            if self._pieces:
                pieces, self._pieces, self._held = self._pieces, [], 0
                if self._line is not None:
                    self._line.resume()
                yield pieces[0] if len(pieces) == 1 else b"".join(pieces)
            elif self.is_whole:
                return
            elif self.failed is not None:
                raise self.failed
            else:
                await self.wait()

    def close(self) -> None:
        """Let go of it: half an answer leaves a line that cannot be used again."""
        if self._line is not None:
            self._line.abort()


class Line(asyncio.Protocol):
    """One connection."""

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._loop = asyncio.get_running_loop()
        self._parser: Any = httptools.HttpResponseParser(self)
        # Small servers end a line so, and every client reads it. A line is of one request at a time: who
        # reads it otherwise gets no other's answer.
        self._parser.set_dangerous_leniencies(
            lenient_optional_cr_before_lf=True, lenient_spaces_after_chunk_size=True
        )
        self._answer: LineAnswer | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._heard = self._asked = 0.0
        self._in_head = True
        self._has_ended = False
        self._ends_with_line = False
        self._may_stay = False
        self._is_paused = False
        self._head_bytes = 0
        self._requests = 0
        #: What TLS writes to: what lies there is in no count of TLS itself.
        self._raw: Any = None
        self.transport: Any = None
        self.is_closed = False
        self.idle_since = 0.0

    def connection_made(self, transport: Any) -> None:
        self.transport = self._raw = transport

    async def secure(self, context: ssl.SSLContext, name: str) -> None:
        """Speak TLS from now on."""
        self.transport = await self._loop.start_tls(self._raw, self, context, server_hostname=name)

    def ask(self, request: bytes, body: bytes) -> LineAnswer:
        """Send a request."""
        answer = self._answer = LineAnswer(self)
        self._requests += 1
        self._in_head, self._has_ended, self._ends_with_line, self._head_bytes = True, False, False, 0
        self._heard = self._asked = self._loop.time()
        self._timer = self._loop.call_later(self._lines.read_seconds, self._look)
        if len(body) < _MOST_HELD:
            self.transport.write(request + body)
        else:
            self.transport.write(request)
            self.transport.write(body)
        return answer

    # -- what comes ------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        answer = self._answer
        if answer is None:
            self.abort()  # no request asked for it
            return
        self._heard = self._loop.time()
        if self._in_head:
            self._head_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            if self._has_ended:  # the surplus is behind a whole answer: the line alone is of no use
                self.abort()
                answer.end()
                return
            kind = type(error).__name__
            self._fail(UpstreamFailed(f"the provider's answer is no HTTP ({kind})", was_sent=True))
            return
        if self._in_head and self._head_bytes > _LARGEST_HEAD:
            self._fail(UpstreamFailed("the provider's answer has too large a head", was_sent=True))
        elif self._has_ended:
            self._whole(answer)
        elif not self._in_head:
            answer.wake()

    def on_message_begin(self) -> None:
        # A second answer in the bytes of the first: whatever it is, it is not to be taken for another's.
        if self._has_ended:
            raise ValueError("two answers to one request")
        if self._answer is not None:
            self._answer.headers.clear()  # of an interim answer

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._in_head and self._answer is not None:  # behind the body they are trailers
            self._answer.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        answer, status = self._answer, self._parser.get_status_code()
        if answer is None:
            return
        if status == _SWITCHING:
            raise ValueError("another protocol than was asked for")
        if status < 100:
            raise ValueError("no status")  # 0 would be a head that has not come yet
        if status < 200:
            return  # the answer comes after it
        if sum(len(name) + len(value) for name, value in answer.headers) > _LARGEST_HEAD:
            raise ValueError("too large a head")
        codings = [value for name, value in answer.headers if name == b"transfer-encoding"]
        if codings:  # any other one ends with the connection
            has_end = codings[-1].rpartition(b",")[2].strip().lower() == b"chunked"
        else:
            has_end = any(name == b"content-length" for name, _ in answer.headers)
        self._ends_with_line = not has_end and status not in (204, 304)
        answer.status, self._in_head = status, False

    def on_body(self, body: bytes) -> None:
        if self._in_head:
            raise ValueError("an interim answer with a body")
        if self._answer is not None:
            self._answer.take(body)

    def on_message_complete(self) -> None:
        self._has_ended = not self._in_head
        self._may_stay = self._parser.should_keep_alive()  # it forgets this with the message

    def _whole(self, answer: LineAnswer) -> None:
        self._release()
        is_sent = not (self.transport.get_write_buffer_size() or self._raw.get_write_buffer_size())
        if is_sent and self._may_stay and not self._ends_with_line:
            self._lines.give_back(self)
        else:
            self.abort()
        answer.end()

    # -- how it ends -----------------------------------------------------------------------

    def eof_received(self) -> None:
        return None

    def connection_lost(self, error: Exception | None) -> None:
        self.is_closed = True
        answer = self._answer
        if answer is None:
            self._lines.forget(self)
        elif self._ends_with_line and not self._in_head and error is None:
            self._release()
            answer.end()
        else:
            kind = "ConnectionError" if error is None else type(error).__name__
            said = "cannot be reached" if self._in_head else "broke off its answer"
            # One that has begun to answer, or had the time to, has the request and may have carried it out.
            was_sent = self._head_bytes > 0 or self._loop.time() - self._asked >= _STALE_SECONDS
            was_stale = self._requests > 1 and not was_sent
            said = f"the provider {said} ({kind})"
            self._fail(UpstreamFailed(said, was_sent=was_sent, was_stale=was_stale))

    def abort(self) -> None:
        """Close it now."""
        self._release()
        self.is_closed = True
        if self.transport is not None:
            self.transport.abort()

    def _release(self) -> None:
        self._answer = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.resume()

    def _fail(self, error: UpstreamFailed) -> None:
        answer = self._answer
        self.abort()
        if answer is not None:
            answer.end(error)

    def _look(self) -> None:
        """Find out whether the provider has been silent for too long."""
        now = self._loop.time()
        if self._is_paused:
            self._heard = now  # it is not read
        left = self._heard + self._lines.read_seconds - now
        if left > 0.001:
            self._timer = self._loop.call_later(left, self._look)
            return
        if self._in_head:
            late = UpstreamFailed("the provider did not answer in time", was_late=True, was_sent=True)
        else:
            late = UpstreamFailed("the provider was silent for too long", was_late=True)
        self._fail(late)

    def pause(self) -> None:
        """Read no more for now."""
        if not self._is_paused and not self.is_closed:
            self._is_paused = True
            self.transport.pause_reading()

    def resume(self) -> None:
        """Read on."""
        if self._is_paused:
            self._is_paused = False
            self._heard = self._loop.time()
            if not self.is_closed:
                self.transport.resume_reading()
