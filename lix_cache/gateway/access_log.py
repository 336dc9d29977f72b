"""A line of JSON for each request: who, what, how it was answered, how long; no content and no key."""

from __future__ import annotations

import sys
import threading
import time
from typing import Any, BinaryIO

from lix_cache.gateway.plain_json import spelled

__all__ = ["AccessLog"]

_PAUSE = 0.2
_MOST_WAITING = 10_000
#: How long the end waits for what reads the log.
_LAST_SECONDS = 2.0


class AccessLog:
    """Writes the lines of some moments together: a write for each would cost as much as a hit.

    A thread writes: what reads the log may stop reading, as a pager does, and no request waits for it. More
    lines than a bound are dropped and counted then.

    Args:
        sink: where to; None for the standard output.
        is_on: whether it is written.
    """

    def __init__(self, sink: BinaryIO | None = None, *, is_on: bool = True) -> None:
        # Not the buffer: a thread that is stuck in it would hold a lock that the interpreter's end needs.
        out = getattr(sys.stdout.buffer, "raw", sys.stdout.buffer) if sink is None and is_on else sink
        self._sink: Any = out
        self._lines: list[bytes] = []
        self._writer: threading.Thread | None = None
        self._has_ended = threading.Event()
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
        self._lines.append(spelled(fields) + b"\n")  # in escapes where a client's word is no text
        if self._writer is None:  # not before: workers are forked without threads
            # A daemon: what does not read must not keep the process from ending either.
            self._writer = threading.Thread(target=self._run, name="lix-cache-access-log", daemon=True)
            self._writer.start()

    def _run(self) -> None:
        while not self._has_ended.wait(_PAUSE):
            self._write_waiting()
        self._write_waiting()

    def _write_waiting(self) -> None:
        sink = self._sink
        count = len(self._lines)
        if sink is None or not count:
            return
        # What is written still waits, or as much again would be held beside it. The loop only appends.
        left = memoryview(b"".join(self._lines[:count]))
        try:
            while left:
                done = sink.write(left)
                if done is None:  # it is full, and does not block
                    time.sleep(_PAUSE)
                left = left[done or 0 :]
            sink.flush()
        except (OSError, ValueError):
            self._sink = None  # the reader of the log has gone; requests go on
        del self._lines[:count]

    def close(self) -> None:
        """Write what waits, as far as it is read."""
        self._has_ended.set()
        if self._writer is not None:
            self._writer.join(_LAST_SECONDS)
