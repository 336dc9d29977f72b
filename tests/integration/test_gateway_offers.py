"""Requests that offer another protocol: their bodies are bodies, in however many packets they come."""

from __future__ import annotations

import contextlib
import select
import socket

import pytest

from lix_cache.gateway.guarded_http import GuardedHttp
from tests.support.provider import Provider, RunningGateway
from tests.support.waiting import wait_until
from tests.support.wire import CHAT

HIDDEN = b"GET /v1/smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
OFFERS = {
    "websocket": b"Upgrade: websocket\r\n",
    "capitals": b"UPGRADE: foo\r\n",
    "mixed case": b"uPgRaDe: foo\r\n",
    "twice": b"Upgrade: foo\r\nUpgrade: h2c\r\n",
}


def is_answered(client: socket.socket) -> bool:
    return bool(select.select([client], [], [], 0)[0])


def sent(gateway: RunningGateway, *packets: bytes) -> bytes:
    """Send packets, each when the one before has been read; return all that comes back."""
    answer, data_received = b"", GuardedHttp.data_received
    read: list[bytes] = []

    def reading(self: GuardedHttp, data: bytes) -> None:
        data_received(self, data)
        read.append(data)

    with (
        pytest.MonkeyPatch.context() as patched,
        socket.create_connection(("127.0.0.1", gateway.port)) as client,
    ):
        patched.setattr(GuardedHttp, "data_received", reading)
        client.settimeout(60)
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with contextlib.suppress(ConnectionError):
            for number, packet in enumerate(packets, 1):
                client.sendall(packet)
                length = len(b"".join(packets[:number]))
                # It is not read to its end by a server that has refused it.
                wait_until(lambda size=length: len(b"".join(read)) >= size or is_answered(client))
            while part := client.recv(65536):
                answer += part
    return answer


@pytest.mark.promise("isolation")
@pytest.mark.parametrize("path", [CHAT, "/v1/files", "/healthz"])
def test_the_body_of_a_request_with_an_offer_is_no_request(
    path: str, gateway: RunningGateway, provider: Provider
) -> None:
    start = b"POST " + path.encode() + b" HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\n"
    for name, offer in OFFERS.items():
        head = start + offer + b"Content-Length: %d\r\n\r\n" % len(HIDDEN)
        cut = len(start) + 3
        for packets in (
            (head + HIDDEN,),
            (head, HIDDEN),
            (head[:cut], head[cut:], HIDDEN),
            (head[:-2], head[-2:] + HIDDEN),
        ):
            answer = sent(gateway, *packets)
            assert answer.count(b"HTTP/1.1 ") == 1, (name, packets)
    assert {call.path for call in provider.calls} <= {path}


@pytest.mark.promise("isolation")
def test_an_offer_that_comes_whole_is_not_taken_and_one_in_parts_is_refused(
    gateway: RunningGateway, provider: Provider
) -> None:
    whole = b"GET /v1/models HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n\r\n"
    assert sent(gateway, whole).startswith(b"HTTP/1.1 200 ")
    assert not {"Upgrade", "Keep-Alive"} & provider.calls[0].headers.keys()
    cut = whole.index(b"Upgrade: ") + 3
    for packets in ((whole[:cut], whole[cut:]), (b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",)):
        answer = sent(gateway, *packets)
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"connection: close" in answer
    # One behind another request in the same packet.
    first = whole.replace(b"Upgrade, close", b"keep-alive").replace(b"Upgrade: websocket\r\n", b"")
    answer = sent(gateway, first + whole)
    assert answer.count(b"HTTP/1.1 ") == 1
    assert len(provider.calls) <= 2


@pytest.mark.promise("isolation")
def test_an_offer_in_a_trailer_changes_nothing(gateway: RunningGateway, provider: Provider) -> None:
    head = b"POST /v1/files HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\nConnection: upgrade\r\n\r\n"
    after = b"GET /v1/next HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    answer = sent(gateway, head, b"3\r\nabc\r\n0\r\nUpgrade: foo\r\n\r\n", after)
    assert answer.count(b"HTTP/1.1 200") == 2
    assert [call.path for call in provider.calls] == ["/v1/files", "/v1/next"]
