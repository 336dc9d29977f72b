"""An answer that others follow, under an id of each one's own. Pure."""

from __future__ import annotations

import re

import orjson

__all__ = ["Renamed", "RenamedBody"]

_EVENT_END = re.compile(rb"\r?\n\r?\n")
_END_BYTES = 4


class Renamed:
    """Gives each follower of a stream an id of its own: the events pass whole, with another id in them.

    Only bytes of JSON's structure can look like ``"id":"…"``: within a text its quotes are escaped.

    Args:
        new_id: letters and digits; the prefix of the stream's own id is kept.
    """

    def __init__(self, new_id: str) -> None:
        self._new = new_id
        #: What no event's end was found in, in pieces: joining them each time would take the square.
        self._rest: list[bytes] = []
        self._tail = b""
        self._old: re.Pattern[bytes] | None = None
        self._named = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return the events that are whole by now."""
        new = self._tail + chunk  # an end may be cut
        end = max((found.end() for found in _EVENT_END.finditer(new)), default=0) - len(self._tail)
        if end <= 0:
            self._rest.append(chunk)
            self._tail = new[-_END_BYTES + 1 :]
            return b""
        events = b"".join((*self._rest, chunk[:end]))
        left = chunk[end:]
        self._rest, self._tail = [left], left[-_END_BYTES + 1 :]
        return self._rename(events)

    def finish(self) -> bytes:
        """Return what is left."""
        return self._rename(b"".join(self._rest))

    def _rename(self, events: bytes) -> bytes:
        if self._old is None:
            identity = _identity_of(events)
            if identity is None:
                return events
            self._old, self._named = _renaming(identity, self._new)
        return self._old.sub(self._named, events)


class RenamedBody:
    """The same for an answer that is one JSON object.

    Args:
        new_id: letters and digits.
    """

    def __init__(self, new_id: str) -> None:
        self._new = new_id
        self._pieces: list[bytes] = []

    def feed(self, chunk: bytes) -> bytes:
        """Keep the bytes: what it is named stands anywhere."""
        self._pieces.append(chunk)
        return b""

    def finish(self) -> bytes:
        """Return all of it."""
        body = b"".join(self._pieces)
        try:
            identity = orjson.loads(body).get("id")
        except (orjson.JSONDecodeError, AttributeError):
            return body
        if not isinstance(identity, str):
            return body
        old, named = _renaming(orjson.dumps(identity)[1:-1], self._new)
        return old.sub(named, body)


def _renaming(identity: bytes, new_id: str) -> tuple[re.Pattern[bytes], bytes]:
    """Return what finds an id, and what takes its place."""
    prefix = re.match(rb"[A-Za-z]*[-_]|", identity)
    kept = prefix[0] if prefix else b""
    old = re.compile(rb'("id"\s*:\s*)"' + re.escape(identity) + rb'"')
    return old, rb'\g<1>"' + kept + new_id.encode() + b'"'


def _identity_of(events: bytes) -> bytes | None:
    """Return the id of a stream, as its first event writes it."""
    for line in events.splitlines():
        if line.startswith(b"data:"):
            try:
                event = orjson.loads(line[5:])
            except orjson.JSONDecodeError:
                return None
            inner = event.get("message") or event.get("response") or event if isinstance(event, dict) else {}
            identity = inner.get("id") if isinstance(inner, dict) else None
            if isinstance(identity, str) and identity:
                return orjson.dumps(identity)[1:-1]
    return None
