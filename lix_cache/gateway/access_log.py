"""A line of JSON for each request: who, what, how it was answered, how long; no content and no key."""

from __future__ import annotations

import asyncio
import sys
from typing import Any, BinaryIO

import orjson

__all__ = ["AccessLog"]

_PAUSE = 0.2
_MOST_WAITING = 10_000


class AccessLog:
    """Writes the lines of some moments together: a write for each would cost as much as a hit.

    Args:
        sink: where to; None for nowhere.
    """

    def __init__(self, sink: BinaryIO | None = None, *, is_on: bool = True) -> None:
        self._sink = sink if sink is not None or not is_on else sys.stdout.buffer
        self._lines: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None
        self.dropped = 0

    @property
    def is_on(self) -> bool:
        """Whether it is written."""
        return self._sink is not None

    def write(self, **fields: Any) -> None:
        """Note one request."""
        if self._sink is None:
            return
        if len(self._lines) >= _MOST_WAITING:
            self.dropped += 1
            return
        self._lines.append(orjson.dumps(fields, option=orjson.OPT_APPEND_NEWLINE, default=str))
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(_PAUSE, self.flush)

    def flush(self) -> None:
        """Write what waits."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        lines, self._lines = self._lines, []
        if lines and self._sink is not None:
            try:
                self._sink.write(b"".join(lines))
                self._sink.flush()
            except OSError:
                self._sink = None  # the reader of the log has gone; requests go on
