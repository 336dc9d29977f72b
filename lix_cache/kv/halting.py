"""What ends a call before its end: a client that left, a model that is closed, a time that is over.

An engine is asked for much beside a generation: its model, a text's tokens, a state. Each may wait for a
server that accepts a call and never answers. So what ends a call is also known by the context it is made in.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

__all__ = ["Halt", "current_halt", "halted_by", "limited_to"]


class Halt:
    """Ends a generation from any thread, while its prompt is being computed as well.

    Args:
        seconds: after which it is set by itself; None for never.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self._is_set = False
        self._until = None if seconds is None else time.monotonic() + seconds
        self._lock = threading.Lock()
        self._hearing: list[Callable[[], object]] = []

    @property
    def is_set(self) -> bool:
        return self._is_set or (self._until is not None and time.monotonic() >= self._until)

    def set(self) -> None:
        """End it."""
        with self._lock:
            self._is_set = True
            heard, self._hearing = self._hearing, []
        for call in heard:
            call()

    def within(self, seconds: float) -> float:
        """Return how long one may wait who would wait so long. Never 0: a socket would not wait at all."""
        left = seconds if self._until is None else self._until - time.monotonic()
        return max(0.001, min(seconds, left))

    @contextlib.contextmanager
    def heard_by(self, call: Callable[[], object]) -> Iterator[None]:
        """Have a function called when it is set, or at once if it is: what waits for a server cannot look.

        Of a time that is over nothing is called: one who waits asks :meth:`within`.
        """
        with self._lock:
            if not self._is_set:
                self._hearing.append(call)
        if self._is_set:
            call()
        try:
            yield
        finally:
            with self._lock, contextlib.suppress(ValueError):
                self._hearing.remove(call)


_current: ContextVar[Halt | None] = ContextVar("lix_cache_kv_halt", default=None)


def current_halt() -> Halt | None:
    """Return what ends the calls of this context; None if nothing does."""
    return _current.get()


@contextlib.contextmanager
def halted_by(halt: Halt) -> Iterator[None]:
    """Have calls of an engine end with a halt, all that are made inside. Nothing may be yielded inside."""
    before = _current.set(halt)
    try:
        yield
    finally:
        _current.reset(before)


@contextlib.contextmanager
def limited_to(seconds: float) -> Iterator[None]:
    """Have calls of an engine end after so many seconds, or with what ends them already."""
    outer = _current.get() or Halt()
    halt = Halt(outer.within(seconds))
    with outer.heard_by(halt.set), halted_by(halt):
        yield
