"""The access log: what reads it may be slow, full or gone, and no request waits."""

from __future__ import annotations

import io
import json
import threading
from typing import Any

import pytest

from lix_cache.gateway import access_log
from lix_cache.gateway.access_log import AccessLog
from tests.support.waiting import wait_until


class Sink(io.RawIOBase):
    """Takes some bytes at a time, when it may."""

    def __init__(self) -> None:
        self.gate, self.asked = threading.Event(), threading.Event()
        self.data = b""

    def write(self, data: Any) -> int | None:
        self.asked.set()
        assert self.gate.wait(60)
        if len(self.data) % 2:
            self.data += b" "
            return None
        self.data += bytes(data[:7])
        return min(7, len(data))


@pytest.mark.promise("no-stall")
def test_lines_beyond_a_bound_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access_log, "_MOST_WAITING", 3)
    monkeypatch.setattr(access_log, "_PAUSE", 0.001)
    sink: Any = Sink()
    log = AccessLog(sink)
    log.write(n=0)
    assert sink.asked.wait(60)
    for number in range(1, 5):
        log.write(n=number)
    assert log.dropped == 2
    sink.gate.set()
    wait_until(lambda: not log._lines, what="the lines")
    log.write(n=5)
    log.close()
    found = [json.loads(line)["n"] for line in sink.data.splitlines()]
    assert found == [0, 1, 2, 5]


def test_what_is_no_text_is_written_in_escapes() -> None:
    sink = io.BytesIO()
    log = AccessLog(sink)
    log.write(model="a\ud800b", ms=0.5)
    log.close()
    assert json.loads(sink.getvalue()) == {"model": "a\ud800b", "ms": 0.5}
    assert sink.getvalue() == b'{"model":"a\\ud800b","ms":0.5}\n'


def test_a_reader_that_has_gone_ends_the_log_alone() -> None:
    class Gone(Sink):
        def write(self, data: Any) -> int | None:
            raise BrokenPipeError

    log = AccessLog(Gone())  # type: ignore[arg-type]
    log.write(n=0)
    log.close()
    assert not log.is_on
    log.write(n=1)
    assert log.dropped == 0
