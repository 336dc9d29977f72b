"""Waiting for what a test wants to see, on machines of any speed."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from typing import Any

__all__ = ["Life", "in_thread", "until", "wait_until"]


class _Patience:
    """Time to wait for something. What a machine that stands still takes between two looks hardly counts.

    Args:
        seconds: that may go by.
        what: is waited for; a function says it at the end.
    """

    _MOST = 1.0

    def __init__(self, seconds: float, what: str | Callable[[], str]) -> None:
        self._seconds, self._what, self._looks = seconds, what, 0
        self._left, self._began = seconds, time.monotonic()
        self._last = self._began

    def check(self) -> None:
        """Fail the test if the time is over."""
        now = time.monotonic()
        self._left -= min(now - self._last, self._MOST)
        self._last = now
        self._looks += 1
        if self._left < 0:
            what = self._what if isinstance(self._what, str) else self._what()
            raise AssertionError(
                f"{what} did not come true within {self._seconds:g} s and {self._looks} looks"
            )


def wait_until(
    condition: Callable[[], Any], seconds: float = 60.0, what: str | Callable[[], str] = "the condition"
) -> None:
    """Wait until a function returns something true; fail the test after so many seconds."""
    patience = _Patience(seconds, what)
    while not condition():
        patience.check()
        time.sleep(0.01)


async def until(
    condition: Callable[[], Any], seconds: float = 60.0, what: str | Callable[[], str] = "the condition"
) -> None:
    """:func:`wait_until` for an event loop, which goes on meanwhile."""
    patience = _Patience(seconds, what)
    while not condition():
        patience.check()
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
