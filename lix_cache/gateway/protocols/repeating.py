"""Events that differ in one text alone, told by their bytes: nearly all of a stream are. Pure.

Reading JSON and putting it together costs several times what looking at the bytes does. So the event that
was read the long way says what stands before and behind its text, and the next ones that begin and end
with the same bytes, and have a JSON text in between, need no more than that text read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import orjson

from lix_cache.errors import CodecError
from lix_cache.gateway.plain_json import dump, parse_object
from lix_cache.gateway.sse import Event

__all__ = ["Repeating", "around"]

#: How often one stream is worth a try: where each event has a number of its own, it never pays.
_MOST_TRIES = 8
_PROBE = "probe"


def around(data: bytes, key: str, text: str) -> tuple[bytes, bytes] | None:
    """Return what stands before and behind a text, which is the value of ``key``, in JSON."""
    mark, token = dump(key) + b":", dump(text)
    at = data.find(mark) + len(mark)
    if at < len(mark):
        return None
    while data[at : at + 1] == b" ":
        at += 1
    return (data[:at], data[at + len(token) :]) if data.startswith(token, at) else None


class Repeating:
    """The bytes around the text of the last event, if the next one may repeat them.

    Args:
        clean: takes off an event's data what says nothing, such as padding.
    """

    def __init__(self, clean: Callable[[bytes], bytes] = bytes) -> None:
        self._clean = clean
        self._name = b""
        self._head = b""
        self._before = b""
        self._behind = b""
        self._shortest = 0
        self._tries = 0

    def forget(self) -> None:
        """The next event is to be read the long way."""
        self._shortest = 0

    def text(self, event: Event) -> tuple[str, bytes] | None:
        """Return an event's text, and the same as JSON, if all else is as it was."""
        data = event.data
        if not self._shortest or len(data) < self._shortest or event.name != self._name:
            return None
        if not data.startswith(self._before) or not data.endswith(self._behind):
            return None
        token = data[len(self._before) : len(data) - len(self._behind)]
        try:
            text = orjson.loads(token)
        except ValueError:
            return None
        return (text, token) if type(text) is str and b"\n" not in token else None

    def run(self, data: bytes, start: int) -> tuple[int, list[str], list[bytes]]:
        """Take the events that follow one another with all else as it was, all at once.

        Args:
            data: a stream in the providers' own form, without carriage returns.
            start: where its next event begins.

        Returns:
            The place behind them, their texts, and these as JSON.
        """
        texts: list[str] = []
        tokens: list[bytes] = []
        head, behind = self._head, self._behind
        # The second text's bytes may be the last one's too: nothing is taken before something was learned.
        while self._shortest and data.startswith(head, start):
            end = data.find(b"\n\n", start)
            at, stop = start + len(head), end - len(behind)
            if end < 0:
                break
            if data.startswith(behind, stop) and stop >= at:
                token = data[at:stop]
            else:
                cleaned = self._clean(data[at:end])
                if not cleaned.endswith(behind):
                    break
                token = cleaned[: len(cleaned) - len(behind)]
            if not token.startswith(b'"') or b"\n" in token:
                break
            try:
                text = orjson.loads(token)
            except ValueError:
                break
            if type(text) is not str:
                break
            texts.append(text)
            tokens.append(token)
            start = end + 2
        return start, texts, tokens

    def learn(self, event: Event, delta_of: Callable[[dict[str, Any]], Any], key: str) -> bool:
        """Remember the bytes around an event's text; say whether they can be told.

        Args:
            event: that was read.
            delta_of: finds the object that holds the text.
            key: of the text in it.
        """
        self._tries += 1
        if self._tries > _MOST_TRIES:
            return False
        said = parse_object(event.data)
        text = delta_of(said)[key]
        found = around(event.data, key, text)
        if found is None:
            return False
        try:
            # The key may stand elsewhere too: with another text, this text must be the one that changes.
            other = parse_object(found[0] + dump(_PROBE) + found[1])
            delta = delta_of(other)
            is_sure = delta[key] == _PROBE
            delta[key] = text
        except (CodecError, LookupError, TypeError):
            return False
        if not is_sure or other != said:
            return False
        if b"\n" in event.data:
            return False
        self._name = event.name
        self._before, self._behind = found
        self._head = (b"event: " + event.name + b"\n" if event.name else b"") + b"data: " + found[0]
        self._shortest = len(self._before) + len(self._behind) + 2
        return True
