"""Where the lines to a provider lead: its name, its addresses, its certificate."""

from __future__ import annotations

import asyncio
import functools
import socket

import pytest
import trustme

from lix_cache.gateway.provider_lines import Lines
from lix_cache.gateway.upstream import UpstreamFailed
from tests.support.provider_lines import OK, LineProvider, asked_of, with_lines


def _resolved(lines: Lines, *, looks: list[str], gate: asyncio.Event | None = None) -> None:
    """Let all names be 127.0.0.1, and note who was asked for."""
    loop = asyncio.get_running_loop()
    real = functools.partial(type(loop).getaddrinfo, loop)

    async def found(host: str, port: int, **more: int) -> object:
        looks.append(host)
        if gate is not None:
            await gate.wait()
        return await real("127.0.0.1", port, **more)

    loop.getaddrinfo = found  # type: ignore[assignment,method-assign]
    lines._addresses = (0.0, [])


def test_a_host_with_a_dot_at_its_end_is_the_same_host() -> None:
    async def work(lines: Lines) -> None:
        lines._host = b"localhost."
        _resolved(lines, looks=[])
        assert await asked_of(lines) == (200, b"ok")

    with_lines(LineProvider(OK), work, authority=trustme.CA())


def test_those_who_connect_together_look_the_name_up_once() -> None:
    looks: list[str] = []

    async def work(lines: Lines) -> None:
        gate = asyncio.Event()
        _resolved(lines, looks=looks, gate=gate)
        asking = [asyncio.ensure_future(asked_of(lines)) for _ in range(4)]
        given_up = asyncio.ensure_future(asked_of(lines))
        while not looks:
            await asyncio.sleep(0)
        for _ in range(10):
            await asyncio.sleep(0)
        given_up.cancel()
        gate.set()
        assert await asyncio.gather(*asking) == [(200, b"ok")] * 4

    with_lines(LineProvider(*[OK] * 4), work)
    assert len(looks) == 1


def test_addresses_that_did_not_answer_in_time_are_looked_up_again() -> None:
    looks: list[str] = []

    async def work(lines: Lines) -> None:
        gate = asyncio.Event()
        _resolved(lines, looks=looks, gate=gate)
        lines._connect_seconds = 0.01
        with pytest.raises(UpstreamFailed) as info:
            await asked_of(lines)
        assert info.value.was_late
        lines._connect_seconds = 30.0
        _resolved(lines, looks=looks)
        assert await asked_of(lines) == (200, b"ok")

    with_lines(LineProvider(OK), work)
    assert len(looks) == 2


def test_addresses_where_no_connection_comes_about_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    async def work(lines: Lines) -> None:
        async def hangs() -> None:
            await asyncio.Event().wait()

        assert await asked_of(lines) == (200, b"ok")
        assert lines._addresses[1]
        lines._drop_idle()
        monkeypatch.setattr(lines, "_open", hangs)
        lines._connect_seconds = 0.01
        with pytest.raises(UpstreamFailed):
            await asked_of(lines)
        assert not lines._addresses[1]

    with_lines(LineProvider(OK), work)


def test_a_connection_is_kept_alive() -> None:
    async def work(lines: Lines) -> None:
        assert await asked_of(lines) == (200, b"ok")
        opened = lines._idle[0].transport.get_extra_info("socket")
        assert opened.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)

    with_lines(LineProvider(OK), work)
