"""uvicorn's HTTP with bounds on a request's head: how long it may take, and how large it may be.

Without them a client that sends a byte now and then keeps a connection for ever, and one that never ends its
headers has them all kept.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

__all__ = ["GuardedHttp"]

HEAD_SECONDS = 20.0
_LARGEST_HEAD = 256 * 1024


class GuardedHttp(HttpToolsProtocol):
    """One connection of a client."""

    _in_head = True
    _head_bytes = 0
    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        super().connection_made(transport)
        self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self._in_head:
            return
        # Rare: most heads come whole, and cost no timer.
        self._head_bytes += len(data)
        if self._head_bytes > _LARGEST_HEAD:
            self.send_400_response("The request's headers are too large.")
        elif self._timer is None:
            self._timer = self.loop.call_later(HEAD_SECONDS, self._late)

    def on_message_begin(self) -> None:
        self._in_head, self._head_bytes = True, 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_timer()
        super().on_headers_complete()

    def _late(self) -> None:
        self._timer = None
        if self._in_head:
            self.transport.close()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
