"""Flights: one reads, all get it, memory is bounded; and streams under another id."""

from __future__ import annotations

import asyncio
import itertools
import json
import re
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lix_cache.gateway import relay, renaming
from lix_cache.gateway.demo import events_of
from lix_cache.gateway.relay import Broken, Flight, Head, Reader
from lix_cache.gateway.renaming import Renamed

HEAD = Head(200, [(b"content-type", b"text/event-stream")])


def run(work: Callable[[], Awaitable[Any]]) -> Any:
    async def bounded() -> Any:
        return await asyncio.wait_for(work(), 20)

    return asyncio.run(bounded())


def flight_of(largest: int = 1 << 20, ended: list[Flight] | None = None, *, goes_on: bool = False) -> Flight:
    return Flight(
        largest, (lambda one: ended.append(one)) if ended is not None else (lambda _: None), goes_on=goes_on
    )


async def read(reader: Reader) -> bytes:
    try:
        return b"".join([chunk async for chunk in reader.chunks()])
    finally:
        reader.leave()


def test_all_readers_get_all_of_it_whenever_they_joined() -> None:
    async def work() -> None:
        ended: list[Flight] = []
        flight = flight_of(ended=ended)

        async def pump() -> None:
            flight.begin(HEAD)
            for number in range(20):
                await flight.put(b"%d," % number)
                await asyncio.sleep(0)

        first = Reader(flight)
        flight.start(pump())
        early = asyncio.ensure_future(read(first))
        await asyncio.sleep(0)
        late = await read(Reader(flight))
        assert await early == late == b"".join(b"%d," % n for n in range(20))
        assert await read(Reader(flight)) == late
        assert ended == [flight]

    run(work)


def test_the_last_one_that_leaves_ends_it_and_others_do_not() -> None:
    async def work() -> None:
        ended: list[Flight] = []
        flight, stopped = flight_of(ended=ended), asyncio.Event()

        async def pump() -> None:
            try:
                await asyncio.sleep(60)
            finally:
                stopped.set()

        one, other = Reader(flight), Reader(flight)
        flight.start(pump())
        await asyncio.sleep(0)
        one.leave()
        assert not ended
        other.gone()
        assert await other.until_head() is False
        other.leave()
        assert ended == [flight], "at once, so that nobody joins it"
        await stopped.wait()
        assert flight.is_broken
        with pytest.raises(Broken):
            await read(Reader(flight))

    run(work)


def test_a_flight_that_is_to_finish_finishes() -> None:
    async def work() -> None:
        ended: list[Flight] = []
        flight, gate = flight_of(ended=ended, goes_on=True), asyncio.Event()

        async def pump() -> None:
            await gate.wait()

        reader = Reader(flight)
        flight.start(pump())
        reader.leave()
        gate.set()
        await asyncio.sleep(0.01)
        assert ended == [flight]
        assert not flight.is_broken

    run(work)


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("when", ["early", "late"])
def test_an_answer_that_is_to_finish_and_too_large_to_keep_ends_without_clients(when: str) -> None:
    """It could not be stored: nothing is won by reading on, or by holding what was read."""

    async def work() -> None:
        ended: list[Flight] = []
        flight, stopped, most = flight_of(1000, ended, goes_on=True), asyncio.Event(), 0

        async def pump() -> None:
            nonlocal most
            try:
                flight.begin(HEAD)
                while True:
                    await flight.put(b"x" * 100)
                    most = max(most, sum(map(len, flight.chunks)))
                    await asyncio.sleep(0)
            finally:
                stopped.set()

        reader = Reader(flight)
        flight.start(pump())
        while when == "late" and flight.is_whole:
            await asyncio.sleep(0)
        assert flight.is_whole is (when == "early")
        reader.leave()
        await stopped.wait()
        while not flight.is_over:
            await asyncio.sleep(0)
        assert (ended, flight.is_broken) == ([flight], True)
        assert most <= 1100

    run(work)


def test_an_answer_that_is_too_large_to_keep_is_not_held_in_memory() -> None:
    async def work() -> None:
        flight = flight_of(largest=100_000)
        most = 0

        async def pump() -> None:
            nonlocal most
            for _ in range(200):
                await flight.put(b"x" * 100_000)
                most = max(most, sum(map(len, flight.chunks)))

        reader = Reader(flight)
        flight.start(pump())
        size = 0
        async for chunk in reader.chunks():
            size += len(chunk)
            await asyncio.sleep(0)
        assert size == 20_000_000
        assert most < 5_000_000
        assert not flight.is_whole

    run(work)


@pytest.mark.promise("no-stall")
def test_a_client_that_reads_nothing_stops_the_others_for_so_long_only(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(relay, "_STALL_SECONDS", 0.01)

    async def work() -> None:
        flight = flight_of(largest=100)

        async def pump() -> None:
            for _ in range(50):
                await flight.put(b"x" * 100_000)

        fast, slow = Reader(flight), Reader(flight)
        flight.start(pump())
        taking = slow.chunks()
        assert await taking.__anext__()
        assert len(await read(fast)) == 5_000_000
        with pytest.raises(Broken):
            await taking.__anext__()
        slow.leave()
        assert not flight.is_broken

    run(work)


def test_a_client_that_nobody_waits_for_may_take_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relay, "_STALL_SECONDS", 0.001)

    async def work() -> None:
        flight = flight_of(largest=100)

        async def pump() -> None:
            for _ in range(50):
                await flight.put(b"x" * 100_000)

        reader = Reader(flight)
        flight.start(pump())
        size = 0
        async for chunk in reader.chunks():
            size += len(chunk)
            await asyncio.sleep(0.02)
        assert size == 5_000_000

    run(work)


def test_an_error_in_the_pump_is_an_end_for_all() -> None:
    async def work() -> None:
        flight = flight_of()

        async def pump() -> None:
            await flight.put(b"half")
            raise ValueError("scripted")

        reader = Reader(flight)
        flight.start(pump())
        with pytest.raises(Broken):
            await read(reader)
        assert isinstance(flight.error, ValueError)

    run(work)


@pytest.mark.parametrize("protocol", ["chat", "messages", "responses"])
@pytest.mark.parametrize("size", [1, 7, 100, 10_000])
def test_a_stream_gets_another_id_wherever_it_is_cut(protocol: str, size: int) -> None:
    request = {"model": "m", "messages": [{"role": "user", "content": "hi"}], "input": "hi"}
    events = b"".join(events_of(protocol, request))
    renamed = Renamed("new0")
    pieces = [renamed.feed(events[i : i + size]) for i in range(0, len(events), size)]
    found = b"".join(pieces) + renamed.finish()
    first = json.loads(events.partition(b"data: ")[2].partition(b"\n")[0])
    old = (first.get("message") or first.get("response") or first)["id"]
    assert found == events.replace(
        f'"id":"{old}"'.encode(),
        f'"id":"{old.partition("_")[0].partition("-")[0]}'.encode()
        + old[len(old.partition("_")[0].partition("-")[0])].encode()
        + b'new0"',
    )
    assert old.encode() not in found


@pytest.mark.promise("no-stall")
@pytest.mark.parametrize("size", [1, 7, 100])
def test_no_byte_of_a_large_event_is_searched_with_each_piece(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    searched = 0
    end = renaming._EVENT_END

    class Counted:
        def finditer(self, data: bytes) -> Iterator[re.Match[bytes]]:
            nonlocal searched
            searched += len(data)
            return end.finditer(data)

    monkeypatch.setattr(renaming, "_EVENT_END", Counted())
    event = b'data: {"id":"a-1","x":"' + b"x" * 10_000 + b'"}\r\n\r\n'
    renamed = Renamed("new0")
    found = [renamed.feed(event[i : i + size]) for i in range(0, len(event), size)]
    assert [one for one in found if one] == [event.replace(b"a-1", b"a-new0")]
    assert searched <= len(event) * (1 + 3 / size)


PARTS = [b"\r", b"\n", b"\n\n", b"\r\n\r\n", b"x", b'data: {"id":"a-1"}']


@given(
    st.lists(st.sampled_from(PARTS)).map(b"".join),
    st.lists(st.integers(0, 1 << 10), max_size=20),
)
def test_whole_events_go_on_at_once_wherever_the_bytes_are_cut(data: bytes, places: list[int]) -> None:
    renamed = Renamed("new0")
    come, gone = b"", b""
    ends = [0, *sorted({place % (len(data) + 1) for place in places}), len(data)]
    for start, end in itertools.pairwise(ends):
        come += data[start:end]
        gone += renamed.feed(data[start:end]).replace(b"a-new0", b"a-1")
        assert come.startswith(gone)
        assert re.search(rb"\r?\n\r?\n", come[len(gone) :]) is None
        assert not gone or re.search(rb"\r?\n\r?\n\Z", gone)
    assert gone + renamed.finish().replace(b"a-new0", b"a-1") == data


def test_an_id_in_a_text_is_left_alone() -> None:
    text = json.dumps(
        {"id": "chatcmpl-1", "choices": [{"delta": {"content": '{"id":"chatcmpl-1"}'}}]},
        separators=(",", ":"),
    )
    renamed = Renamed("new0")
    found = renamed.feed(f"data: {text}\n\n".encode()) + renamed.finish()
    value = json.loads(found[6:])
    assert value["id"] == "chatcmpl-new0"
    assert value["choices"][0]["delta"]["content"] == '{"id":"chatcmpl-1"}'


@pytest.mark.parametrize(
    "data", [b"", b"\n\n", b"data: [DONE]\n\n", b"data: {half\n\n", b"data: 1\n\n", b"no event"]
)
def test_what_has_no_id_passes_as_it_is(data: bytes) -> None:
    renamed = Renamed("new0")
    assert renamed.feed(data) + renamed.finish() == data


@pytest.mark.promise("no-stall")
def test_a_pump_whose_client_leaves_at_once_gets_to_its_end() -> None:
    """Others of this process may wait for what it holds."""
    let_go = []

    async def pump() -> None:
        try:
            await asyncio.Event().wait()
        finally:
            let_go.append(1)

    async def run() -> None:
        flight = Flight(1 << 20, lambda _: None, goes_on=False)
        reader = Reader(flight)
        flight.start(pump())
        reader.leave()
        for _ in range(5):
            await asyncio.sleep(0)
        assert let_go == [1]
        assert flight.is_over

    asyncio.run(run())
