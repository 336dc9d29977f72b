"""Server-sent events ⇄ bytes, as the HTML standard defines them. Pure.

The reader takes bytes cut anywhere and gives whole events, their data as bytes: what reads them parses
them, when it needs them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, NoReturn

from lix_cache.errors import CodecError

__all__ = ["LARGEST_EVENT", "MOST_EVENTS", "Event", "Events", "SseReader", "frame", "read_events"]

#: Bytes of one event, its lines and comments together.
LARGEST_EVENT: Final = 8_000_000
#: Events of one stream. A provider sends about one for each token.
MOST_EVENTS: Final = 100_000
_BOM = b"\xef\xbb\xbf"
_PLAIN = (b"data: ", b"event: ")


class Event(NamedTuple):
    """One event.

    Attributes:
        name: its ``event`` field; empty if there is none.
        data: its ``data`` lines, joined by line feeds.
    """

    name: bytes
    data: bytes


def frame(data: bytes, name: bytes = b"") -> bytes:
    """Return an event as bytes. ``data`` has no line break in it, as JSON on one line has none."""
    if name:
        return b"event: " + name + b"\ndata: " + data + b"\n\n"
    return b"data: " + data + b"\n\n"


class SseReader:
    """Takes a stream apart.

    Args:
        max_event_bytes: the most that one event may have.

    Raises:
        CodecError: from :meth:`feed`, at a larger event.
    """

    def __init__(self, max_event_bytes: int = LARGEST_EVENT) -> None:
        self._max = max_event_bytes
        #: Of the line that has not ended, in pieces: joining them each time would take the square.
        self._pieces: list[bytes] = []
        self._size = 0
        self._is_first = True
        self._after_return = False
        self._name = b""
        self._data: list[bytes] = []

    def feed(self, chunk: bytes) -> Iterator[Event]:
        """Take the next bytes, and give the events that they complete. Read it to its end."""
        if self._after_return and chunk:
            # The pair was cut: its first half has ended the line.
            chunk = chunk.removeprefix(b"\n")
            self._after_return = False
        if b"\r" in chunk:
            self._after_return = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        lines = chunk.split(b"\n")
        last = lines.pop()
        for line in lines:
            self._size += len(line)
            if self._size > self._max:
                self._refuse()
            if self._pieces:
                line = b"".join((*self._pieces, line))
                self._pieces.clear()
            event = self._take(line)
            if event is not None:
                yield event
        if last:
            self._size += len(last)
            if self._size > self._max:
                self._refuse()
            self._pieces.append(last)

    def finish(self) -> Event | None:
        """Return what stands at the end without the empty line that ends an event."""
        if self._pieces:
            self._take(b"".join(self._pieces))
            self._pieces.clear()
        return Event(self._name, b"\n".join(self._data)) if self._data else None

    def _refuse(self) -> NoReturn:
        raise CodecError(f"a server-sent event of more than {self._max} bytes")

    def _take(self, line: bytes) -> Event | None:
        if self._is_first:
            line = line.removeprefix(_BOM)
            self._is_first = False
        if not line:
            event = Event(self._name, b"\n".join(self._data)) if self._data else None
            self._name, self._data, self._size = b"", [], 0
            return event
        field, _, value = line.partition(b":")
        if field == b"data":
            self._data.append(value[1:] if value.startswith(b" ") else value)
        elif field == b"event":
            self._name = value[1:] if value.startswith(b" ") else value
        return None


class Events:
    """The events of a whole stream, in their order.

    Args:
        data: all of it.
        last: the data of an event that counts as whole at the end without an empty line after it.

    Attributes:
        run: takes events itself, where they stand in the providers' own form: maps the stream and a place in
            it to the place behind what it took, and how many events that were.

    Raises:
        CodecError: while it is read: it ends inside an event, or has too many.
    """

    def __init__(self, data: bytes, last: bytes = b"") -> None:
        self._data = data
        self._last = last
        self._count = 0
        self.run: Callable[[bytes, int], tuple[int, int]] | None = None

    def __iter__(self) -> Iterator[Event]:
        reader = SseReader(max(LARGEST_EVENT, len(self._data)))
        is_plain = self._data.startswith(_PLAIN) and b"\r" not in self._data
        for event in self._plain(reader) if is_plain else reader.feed(self._data):
            self._counted(1)
            yield event
        rest = reader.finish()
        if rest is not None:
            if rest.data != self._last or not self._last:
                raise CodecError("a stream that ends inside an event")
            yield rest

    def _counted(self, more: int) -> None:
        self._count += more
        if self._count > MOST_EVENTS:
            raise CodecError(f"a stream of more than {MOST_EVENTS} events")

    def _plain(self, reader: SseReader) -> Iterator[Event]:
        """Give those in the providers' own form without looking at each line."""
        data, start = self._data, 0
        while (end := data.find(b"\n\n", start)) >= 0:
            block = data[start:end]
            start = end + 2
            first, _, second = block.partition(b"\n")
            if not second and first.startswith(b"data: "):
                yield Event(b"", first[6:])
            elif first.startswith(b"event: ") and second.startswith(b"data: ") and b"\n" not in second:
                yield Event(first[7:], second[6:])
            else:
                yield from reader.feed(block + b"\n\n")
            if self.run is not None:
                start, count = self.run(data, start)
                self._counted(count)
        yield from reader.feed(data[start:])


def read_events(data: bytes, *, last: bytes = b"") -> Events:
    """Return the events of a whole stream; see :class:`Events`."""
    return Events(data, last)
