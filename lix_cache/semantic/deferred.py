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


class Note(NamedTuple):
    """A script call, and what takes in the reply, if anything does."""

    call: ScriptCall
    then: Callable[[Any], None] | None = None


class Deferred:
    """Script calls to send with the next request to their scope. Safe between threads.

    Args:
        scopes: how many may have some waiting; those that waited longest are forgotten.
        each: how many may wait in one of them.
    """

    def __init__(self, scopes: int = 64, each: int = 64) -> None:
        self._scopes = scopes
        self._each = each
        self._lock = threading.Lock()
        self._calls: OrderedDict[str, deque[Note]] = OrderedDict()

    def add(self, scope_id: str, call: ScriptCall, then: Callable[[Any], None] | None = None) -> None:
        """Keep a call until the scope is asked for something; then hand its reply on."""
        with self._lock:
            self._calls.setdefault(scope_id, deque(maxlen=self._each)).append(Note(call, then))
            if len(self._calls) > self._scopes:
                self._calls.popitem(last=False)

    def take(self, scope_id: str) -> tuple[Note, ...]:
        """Return what waits for the scope, in order, and forget it."""
        # Nearly always there is nothing: then without the lock.
        if scope_id not in self._calls:
            return ()
        with self._lock:
            return tuple(self._calls.pop(scope_id, ()))
