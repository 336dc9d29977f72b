"""Notes that no call waits for: they go with the next request to their scope. No I/O.

A hit in a vector set has its response before Redis hears that it was one. That use, which the eviction
wants to know of, is no reason for another round trip, nor are labels and the vectors of responses. A
note that never gets its request is lost, and with it a hit or an order of eviction, no answer.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from lix_cache.hot.scripts import ScriptCall

__all__ = ["Deferred", "Note"]

#: What a note costs beside its arguments, about.
_OVERHEAD = 1024


class Note(NamedTuple):
    """A script call, and what takes in the reply, if anything does."""

    call: ScriptCall
    then: Callable[[Any], None] | None = None


class Deferred:
    """Script calls to send with the next request to their scope. Safe between threads.

    Args:
        limit_bytes: what all may take, about; those of the scopes that waited longest are forgotten.
        each: how many may wait in one scope.
    """

    def __init__(self, limit_bytes: int = 16 * 1024 * 1024, each: int = 64) -> None:
        self._limit = limit_bytes
        self._each = each
        self._bytes = 0
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, deque[Note]] = OrderedDict()

    @property
    def nbytes(self) -> int:
        """Memory that the notes take, about."""
        return self._bytes

    def add(self, scope_id: str, call: ScriptCall, then: Callable[[Any], None] | None = None) -> None:
        """Keep a call until the scope is asked for something; then hand its reply on."""
        note = Note(call, then)
        with self._lock:
            waiting = self._calls.setdefault(scope_id, deque())
            waiting.append(note)
            self._bytes += _size(note)
            if len(waiting) > self._each:
                self._bytes -= _size(waiting.popleft())
            while self._bytes > self._limit and len(self._calls) > 1:
                _, forgotten = self._calls.popitem(last=False)
                self._bytes -= sum(map(_size, forgotten))

    def take(self, scope_id: str) -> tuple[Note, ...]:
        """Return what waits for the scope, in order, and forget it."""
        # Nearly always there is nothing: then without the lock.
        if scope_id not in self._calls:
            return ()
        with self._lock:
            notes = tuple(self._calls.pop(scope_id, ()))
            self._bytes -= sum(map(_size, notes))
            return notes


def _size(note: Note) -> int:
    texts = (word for word in note.call.args if isinstance(word, (str, bytes)))
    return _OVERHEAD + sum(map(len, texts))
