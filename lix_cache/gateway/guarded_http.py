"""uvicorn's HTTP with bounds on a request's head: how long it may take, and how large it may be.

And with some things cheaper: an answer's head goes out with the first bytes of its body, in one write where
there would be two; an answer of the gateway's own, which is there as a whole, goes out as one; and who wants
to know that the client has left is told, without a task that waits.

Without them a client that sends a byte now and then keeps a connection for ever, and one that never ends its
headers has them all kept. One that stops reading would keep its request and the provider's connection.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from lix_cache.gateway.asgi import CONNECTION
from lix_cache.gateway.headers import Pairs
from lix_cache.gateway.protocols.protocol import openai_error

__all__ = ["GuardedHttp"]

HEAD_SECONDS = 20.0
#: A body that is being sent brings at least so many bytes in so many seconds.
BODY_SECONDS = 30.0
_LEAST_BYTES = 4096
#: A client takes at least so many bytes of what waits for it in so many seconds.
READER_SECONDS = 60.0
#: Java's client offers HTTP/2 so with its first request. No other protocol is spoken here, so an offer means
#: nothing (RFC 9110, 7.8). Under a name that the parser does not know and no server is sent, it is none.
_UPGRADE = re.compile(rb"(\r\n)upgrade:", re.IGNORECASE)
_LARGEST_HEAD = 256 * 1024
_LARGEST_JOINED = 64 * 1024


class _Joined:
    """A transport that holds an answer's head back for the body that comes in the same turn of the loop.

    And that is aborted when a client does not take what was written.
    """

    __slots__ = (
        *("_deadline", "_head", "_loop", "_timer", "_transport", "_untaken"),
        *("get_extra_info", "is_closing"),
    )

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head = b""
        self._timer: asyncio.Handle | None = None
        self._deadline: asyncio.TimerHandle | None = None
        self._untaken = 0
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info

    def write(self, data: bytes) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            data, self._head = self._head + data, b""
        elif data.startswith(b"HTTP/1.1 ") and len(data) < _LARGEST_JOINED:
            self._head = data
            self._timer = self._loop.call_soon(self.flush)
            return
        if data:
            self._transport.write(data)

    def flush(self) -> None:
        """Send what is held back."""
        if self._timer is not None:
            self.write(b"")

    def write_whole(self, data: bytes) -> None:
        """Send what nothing comes behind."""
        self.flush()
        self._transport.write(data)

    def close(self) -> None:
        self.flush()
        self._transport.close()
        if self._transport.get_write_buffer_size():
            self.expect_reader()  # a transport closes when all of it is sent, if that ever is

    def expect_reader(self) -> None:
        """Abort unless the client takes of what is written by now."""
        self.end_deadline()
        self._untaken = self._transport.get_write_buffer_size()
        self._deadline = self._loop.call_later(READER_SECONDS, self._look)

    def end_deadline(self) -> None:
        """Let the client take its time."""
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _look(self) -> None:
        # Progress, and not an end by then: an answer of some megabytes may take a slow network minutes.
        if self._untaken - self._transport.get_write_buffer_size() < _LEAST_BYTES:
            self.abort()
        else:
            self.expect_reader()

    def abort(self) -> None:
        self._transport.abort()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)


class _Watched:
    """One who wants to know."""

    __slots__ = ("_all", "_gone")

    def __init__(self, everyone: set[Callable[[object], None]], gone: Callable[[object], None]) -> None:
        self._all = everyone
        self._gone = gone

    def cancel(self) -> None:
        self._all.discard(self._gone)


class _Cycle(RequestResponseCycle):
    """One request and its answer."""

    def whole(self, status: int, headers: Pairs, body: bytes) -> bool:
        """Send an answer of the gateway's own, with its length; say whether that could be done."""
        is_plain = not (self.disconnected or self.response_started or self.default_headers)
        if not is_plain or self.flow.write_paused or self.scope["method"] == "HEAD":
            return False
        parts = [STATUS_LINE[status]]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if (b"connection", b"close") in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            parts.append(b"connection: close\r\n")
        parts += (b"\r\n", body)
        self.response_started = self.response_complete = True
        self.waiting_for_100_continue = False
        transport: Any = self.transport
        transport.write_whole(b"".join(parts))
        self.message_event.set()
        if not self.keep_alive:
            transport.close()
        self.on_response()
        return True


class _OldCycle(_Cycle):
    """The same for HTTP/1.0, which has no chunks: a body without a length ends with the connection."""

    _has_length = True

    async def send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self._has_length = any(name.lower() == b"content-length" for name, _ in message["headers"])
            if not self._has_length:
                self.chunked_encoding = self.keep_alive = False
        elif not self._has_length:
            self.expected_content_length = len(message.get("body", b""))
        await super().send(message)


class _Offered(Exception):
    """A request offers another protocol, and the parser has seen it."""


class GuardedHttp(HttpToolsProtocol):
    """One connection of a client."""

    _in_head = True
    _in_body = False
    #: Of the head, or of the body since the timer was set.
    _bytes = 0
    _timer: asyncio.TimerHandle | None = None
    #: Since when no request is under way, by the loop's clock; None while one is.
    _idle_since: float | None = None
    _idle_timer: asyncio.TimerHandle | None = None
    #: What the headers of the last request said (asker.py): most clients send the same ones each time.
    asker: Any = None

    def connection_made(self, transport: Any) -> None:
        self._gone: set[Callable[[object], None]] = set()
        self._joined = _Joined(transport, self.loop)
        joined: Any = self._joined
        super().connection_made(joined)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        if self._idle_timer is not None:
            self._idle_timer.cancel()
        super().connection_lost(exc)
        self._joined.end_deadline()
        for gone in list(self._gone):
            gone(self)
        self._gone.clear()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._joined.expect_reader()

    def resume_writing(self) -> None:
        super().resume_writing()
        if not self.transport.is_closing():  # what is left is to be taken as well
            self._joined.end_deadline()

    def cut(self) -> None:
        """Close the connection now, whatever is not sent yet."""
        self._joined.abort()

    def watched(self, gone: Callable[[object], None]) -> _Watched:
        """Call a function when the client leaves, or has left."""
        if self.transport.is_closing():
            self.loop.call_soon(gone, self)
            return _Watched(self._gone, gone)
        # A large body has paused the reading, and what is not read does not end.
        self.flow.resume_reading()
        self._gone.add(gone)
        return _Watched(self._gone, gone)

    def data_received(self, data: bytes) -> None:
        if not self._in_body and b"pgrade" in data:
            head, end, rest = data.partition(b"\r\n\r\n")
            data = _UPGRADE.sub(rb"\1Keep-Alive:", head) + end + rest
        super().data_received(data)
        if not (self._in_head or self._in_body):
            return
        # Rare: most requests come whole, and cost no timer.
        self._bytes += len(data)
        if self._in_head and self._bytes > _LARGEST_HEAD:
            self._refuse(431, "the request's headers are too large")
        elif self._timer is None:
            seconds = HEAD_SECONDS if self._in_head else BODY_SECONDS
            self._timer = self.loop.call_later(seconds, self._late)

    def send_400_response(self, msg: str) -> None:  # noqa: ARG002 - said in a form that clients understand
        self._refuse(400, "this is not a valid HTTP request")

    def on_message_begin(self) -> None:
        self._in_head, self._bytes = True, 0
        super().on_message_begin()
        self.scope[CONNECTION] = self  # type: ignore[typeddict-unknown-key]

    def on_headers_complete(self) -> None:
        if self.parser.should_upgrade():
            # An offer in several packets, or CONNECT. The parser would skip the body, and read it as the next
            # request. Raised here, it stops before anything is served; the connection is closed.
            raise _Offered
        self._in_head, self._in_body, self._bytes = False, True, 0
        self._stop_timer()
        super().on_headers_complete()
        if type(self.cycle) is RequestResponseCycle:
            self.cycle.__class__ = _OldCycle if self.scope["http_version"] == "1.0" else _Cycle
        # What comes behind the body in a trailer is no header: who has looked at the headers did not see it.
        self.headers = []

    def on_message_complete(self) -> None:
        self._in_body = False
        self._stop_timer()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        # A timer for each answer, made and cancelled, would cost as much as finding one in memory.
        self._idle_since = self.loop.time()
        if self._idle_timer is None:
            self._idle_timer = self.loop.call_later(self.timeout_keep_alive, self._look_whether_idle)

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = None

    def _look_whether_idle(self) -> None:
        self._idle_timer = None
        if self._idle_since is None:
            return  # the next answer sets another timer
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._idle_timer = self.loop.call_later(left, self._look_whether_idle)
        else:
            self.timeout_keep_alive_handler()

    def _late(self) -> None:
        self._timer = None
        if self._in_head:
            self.transport.close()
        elif self._in_body:
            if self._bytes < _LEAST_BYTES and not self.flow.read_paused:
                self._refuse(408, "the request's body came too slowly")
                return
            self._bytes = 0
            self._timer = self.loop.call_later(BODY_SECONDS, self._late)

    def _refuse(self, status: int, message: str) -> None:
        """Say what is wrong and close: where one request ends and the next begins is not known any more."""
        self._in_head = self._in_body = False
        self._stop_timer()
        is_answering = self.cycle is not None and self.cycle.response_started
        if not is_answering or self.cycle.response_complete:
            body = openai_error(status, message)
            head = b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n"
            self.transport.write(b"HTTP/1.1 %d Refused\r\n" % status + head % len(body) + body)
        self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
