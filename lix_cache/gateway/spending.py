"""What a call of a provider cost, in tokens: as the provider tells it, or else an estimate. Pure.

A budget that counts only what is stored is passed by every answer that is not: cut ones, streams that tell no
usage, clients that leave. So each call is counted, and one that nothing is told of by its bytes.
"""

from __future__ import annotations

import re
from collections import deque

from lix_cache.gateway.answer import Usage

__all__ = ["Meter"]

_BYTES_PER_TOKEN = 4
#: Of an answer's beginning and of its end: there its usage stands.
_KEPT = 1 << 16
#: Within a text its quotes are escaped, so only JSON's structure looks so.
_TOLD = re.compile(rb'"(\w{1,40}_tokens)"\s*:\s*(\d{1,12})')
_SAID = re.compile(
    rb'"(?:content|text|delta|arguments|partial_json|thinking|reasoning|reasoning_content|refusal|input)"'
    rb'\s*:\s*"((?:[^"\\]|\\.)*)'
)


class Meter:
    """Sees the bytes of one call.

    Args:
        sent: how many bytes the request's body had.
    """

    def __init__(self, sent: int) -> None:
        self._sent = sent
        self._size = 0
        self._events = 0
        self._first: list[bytes] = []
        self._last: deque[bytes] = deque()
        self._held = 0

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the answer."""
        self._events += chunk.count(b"data:")
        if self._size < _KEPT:
            self._first.append(chunk)
        else:
            self._last.append(chunk)
            self._held += len(chunk)
            while self._held - len(self._last[0]) > _KEPT:
                self._held -= len(self._last.popleft())
        self._size += len(chunk)

    def cost(self, *, is_whole: bool, is_stream: bool) -> tuple[Usage, bool]:
        """Return the tokens, and whether the provider told them.

        Args:
            is_whole: all of the answer has come; of half an answer the provider has told the
                beginning at most.
            is_stream: it came as events.
        """
        seen = b"".join(self._first) + b"".join(self._last)
        told: dict[bytes, int] = {}
        for name, number in _TOLD.findall(seen):
            told[name] = max(told.get(name, 0), int(number))
        cached = told.get(b"cache_creation_input_tokens", 0) + told.get(b"cache_read_input_tokens", 0)
        prompt = max(told.get(b"prompt_tokens", 0), told.get(b"input_tokens", 0) + cached)
        answer = max(told.get(b"completion_tokens", 0), told.get(b"output_tokens", 0))
        # Messages tell one token at the beginning. Far fewer tokens than events are not those of all of it.
        is_plausible = not is_stream or answer * 4 + 16 >= self._events
        if is_whole and is_plausible and (answer or (prompt and b"total_tokens" in told)):
            read = told.get(b"cached_tokens", 0) or told.get(b"cache_read_input_tokens", 0)
            return Usage(prompt, answer, min(read, prompt)), True
        return Usage(
            prompt or -(-self._sent // _BYTES_PER_TOKEN), max(answer, self._guess(seen, is_stream))
        ), False

    def _guess(self, seen: bytes, is_stream: bool) -> int:
        if not is_stream:
            return -(-self._size // _BYTES_PER_TOKEN)
        # An event has a token at least; what stands around it is the protocol's.
        said = sum(map(len, _SAID.findall(seen)))
        return max(self._events, said * self._size // max(1, len(seen)) // _BYTES_PER_TOKEN)
