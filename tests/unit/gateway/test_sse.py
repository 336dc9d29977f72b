"""Server-sent events, by the rules of the HTML standard."""

from __future__ import annotations

import pytest

from lix_cache.errors import CodecError
from lix_cache.gateway.sse import Event, SseReader, frame, read_events


def events(*chunks: bytes) -> list[Event]:
    reader = SseReader()
    return [event for chunk in chunks for event in reader.feed(chunk)]


@pytest.mark.parametrize(
    ("stream", "data"),
    [
        (b"data: a\n\ndata: b\n\n", [b"a", b"b"]),
        (b"data: a\r\n\r\ndata: b\r\n\r\n", [b"a", b"b"]),
        (b"data: a\r\rdata: b\r\r", [b"a", b"b"]),
        (b"data: a\ndata: b\n\n", [b"a\nb"]),
        (b"data:a\n\ndata:  b\n\n", [b"a", b" b"]),
        (b": a comment\n\n:\ndata: a\n\n", [b"a"]),
        (b"\xef\xbb\xbfdata: a\n\n", [b"a"]),
        (b"data\n\n", [b""]),
        (b"event: x\nid: 1\nretry: 5\nother: y\n\ndata: a\n\n", [b"a"]),
        (b"\n\n\ndata: a\n\n", [b"a"]),
        (b"data: a: b\n\n", [b"a: b"]),
    ],
)
def test_the_data_of_events(stream: bytes, data: list[bytes]) -> None:
    assert [event.data for event in events(stream)] == data
    assert [event.data for event in events(*(stream[i : i + 1] for i in range(len(stream))))] == data


def test_an_event_without_data_leaves_no_name_behind() -> None:
    assert events(b"event: x\n\ndata: a\n\nevent: y\ndata: b\n\n") == [Event(b"", b"a"), Event(b"y", b"b")]


def test_a_letter_of_several_bytes_may_be_cut() -> None:
    said = "data: 世界\n\n".encode()
    for cut in range(len(said)):
        assert events(said[:cut], said[cut:]) == [Event(b"", "世界".encode())]


def test_what_is_written_is_read() -> None:
    assert events(frame(b"{}"), frame(b"[]", b"name")) == [Event(b"", b"{}"), Event(b"name", b"[]")]


def test_a_stream_that_ends_inside_an_event() -> None:
    with pytest.raises(CodecError, match="ends inside an event"):
        list(read_events(b"data: a\n\ndata: b\n"))
    with pytest.raises(CodecError, match="ends inside an event"):
        list(read_events(b"data: a\n\ndata: b"))
    assert [one.data for one in read_events(b"data: a\n\ndata: [DONE]", last=b"[DONE]")] == [b"a", b"[DONE]"]
    assert [one.data for one in read_events(b"data: a\n\n: bye\n")] == [b"a"]


@pytest.mark.promise("bad-bytes")
@pytest.mark.parametrize("piece", [b"x" * 10, b"data: xx\n", b": xxxxxx\r"])
def test_an_event_without_an_end_takes_bounded_memory(piece: bytes) -> None:
    reader = SseReader(max_event_bytes=1000)
    with pytest.raises(CodecError, match="more than 1000 bytes"):
        for _ in range(200):
            assert list(reader.feed(piece)) == []
    assert sum(map(len, reader._pieces)) + sum(map(len, reader._data)) <= 1000


@pytest.mark.promise("bad-bytes")
def test_too_many_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lix_cache.gateway.sse.MOST_EVENTS", 10)
    with pytest.raises(CodecError, match="more than 10 events"):
        list(read_events(b"data: a\n\n" * 11))
