"""Waiting for what a test wants to see, on machines of any speed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Life", "in_thread", "until", "wait_until"]


def wait_until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "the condition") -> None:
    """Wait until a function returns something true; fail the test after so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.01)


async def until(condition: Callable[[], Any], seconds: float = 60.0, what: str = "the condition") -> None:
    """:func:`wait_until` for an event loop, which goes on meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError(f"{what} did not come true within {seconds:g} s")
        await asyncio.sleep(0.005)


def in_thread(call: Callable[[], object]) -> tuple[threading.Thread, list[BaseException]]:
    """Start a call in a thread. Returns the thread, and a list of what the call has raised."""
    raised: list[BaseException] = []

    def work() -> None:
        try:
            call()
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread, raised


class Life:
    """A time to live that begins now or later.

    A slow machine may find its end before a test has looked: ``assert found.is_hit or life.may_be_over``.

    Args:
        seconds: of whatever is stored after this was made.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._began = time.monotonic()

    @property
    def may_be_over(self) -> bool:
        """Whether what was stored right after this was made may have expired."""
        return time.monotonic() - self._began >= self.seconds - 0.002
