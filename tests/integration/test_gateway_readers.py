"""Clients that stop reading: they keep no request, no connection of the provider, and no others waiting."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from tests.support.provider import Provider, RunningGateway
from tests.support.redis_server import wait_until
from tests.support.wire import CHAT, Reply, chat_body, post

#: More than the kernel's buffers hold.
SIZE = 24 << 20
EVENTS = (b"data: " + b"x" * 100_000 + b"\n\n") * (SIZE // 100_000)
STREAM = "text/event-stream"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with Provider() as one:
        yield one


@contextlib.contextmanager
def asking(gateway: RunningGateway, path: str = CHAT, **asked: Any) -> Iterator[socket.socket]:
    """Ask, and read nothing."""
    body = json.dumps(chat_body(**asked)).encode()
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", gateway.port))
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (path.encode(), len(body))
        connection.sendall(head + body)
        yield connection


def is_rid(gateway: RunningGateway) -> bool:
    """Whether no request runs, and no connection is left."""
    return not (gateway.core.metrics.open or connections(gateway))


def connections(gateway: RunningGateway) -> int:
    return len(gateway._server.server_state.connections)


def hits(gateway: RunningGateway) -> int:
    return sum(count for key, count in gateway.core.metrics.requests.items() if key[2].startswith("hit"))


def has_readers(gateway: RunningGateway, count: int) -> bool:
    return sum(len(flight._readers) for flight in gateway.core.flights.values()) == count


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("kind", [STREAM, "application/json"])
def test_a_client_that_stops_reading_does_not_keep_its_request(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setattr("lix_cache.gateway.guarded_http.READER_SECONDS", 0.2)
    provider.said.append((kind, EVENTS))
    with RunningGateway(provider, None, largest_answer_bytes=1 << 20) as gateway:
        with asking(gateway, stream=kind == STREAM):
            wait_until(lambda: provider.calls and is_rid(gateway), what="the end of the request")
        assert post(gateway.url, chat_body("another")).status == 200


@pytest.mark.promise("no-stall")
def test_a_client_that_stops_reading_an_answer_out_of_memory_does_not_keep_its_connection(
    provider: Provider, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "y" * (3 << 20)
    with RunningGateway(provider, None) as gateway:
        answer = {
            "id": "chatcmpl-1",
            "object": "chat.completion",
            "created": 1,
            "model": "m-1",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
            ],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        }
        provider.said.append(("application/json", json.dumps(answer).encode()))
        assert post(gateway.url, chat_body()).status == 200
        gateway.settle()
        assert post(gateway.url, chat_body()).state == "hit-l1-exact"
        monkeypatch.setattr("lix_cache.gateway.guarded_http.READER_SECONDS", 0.2)
        calls = len(provider.calls)
        with asking(gateway) as connection:
            for _ in range(4):  # more than all buffers hold
                more = json.dumps(chat_body()).encode()
                head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
                with contextlib.suppress(OSError):
                    connection.sendall(head % (CHAT.encode(), len(more)) + more)
            wait_until(lambda: hits(gateway) > 1 and is_rid(gateway), what="the end of the connection")
        assert len(provider.calls) == calls


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("is_first", [True, False], ids=["the first", "a follower"])
def test_a_reader_that_is_dropped_loses_its_connection(
    provider: Provider, monkeypatch: pytest.MonkeyPatch, is_first: bool
) -> None:
    monkeypatch.setattr("lix_cache.gateway.relay._STALL_SECONDS", 0.2)
    provider.said.append((STREAM, EVENTS))
    provider.holds_said = True
    provider.gate.clear()
    found: list[Reply] = []
    with contextlib.ExitStack() as kept:
        gateway = kept.enter_context(RunningGateway(provider, None, largest_answer_bytes=1 << 20))
        reading = threading.Thread(target=lambda: found.append(post(gateway.url, chat_body(stream=True))))
        stuck = asking(gateway, stream=True)
        starts: list[Callable[[], object]] = [lambda: kept.enter_context(stuck), reading.start]
        for number, start in enumerate(starts if is_first else reversed(starts), 1):
            start()
            wait_until(partial(has_readers, gateway, number))
        provider.gate.set()
        reading.join(120)
        assert [one.status for one in found] == [200]
        wait_until(lambda: gateway.core.metrics.open == 0, what="the end of the dropped request")
        wait_until(lambda: not connections(gateway), what="the end of its connection")
    assert len(provider.calls) == 1
