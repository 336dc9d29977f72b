"""What a thread makes, piece by piece, for the event loop: no step of a model may stop the loop."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from lix_cache.daemon import start_thread
from lix_cache.errors import EngineBusy
from lix_cache.kv.halting import Halt, halted_by

__all__ = ["Running", "anext_of", "in_thread"]


class _Over:
    pass


_OVER = _Over()


class Running:
    """A generator that runs in a thread of its own.

    Args:
        make: returns the generator; called in the thread.
        halt: is set when no request waits for more.
        over: called on the loop when the thread is through.
    """

    def __init__(self, make: Callable[[], Iterator[Any]], halt: Halt, over: Callable[[], None]) -> None:
        self._make = make
        self._halt = halt
        self._over = over
        self._loop = asyncio.get_running_loop()
        self._items: asyncio.Queue[Any] = asyncio.Queue()
        start_thread(self._work, "lix-cache-local")

    def _work(self) -> None:
        try:
            made = self._make()
            try:
                for item in made:
                    self._tell(self._items.put_nowait, item)
                    if self._halt.is_set:
                        break
            finally:
                close = getattr(made, "close", None)
                if close is not None:
                    close()
            self._tell(self._items.put_nowait, _OVER)
        except BaseException as error:  # noqa: BLE001 - raised to the one who waits
            self._tell(self._items.put_nowait, error)
        finally:
            self._tell(self._over)

    def _tell(self, call: Callable[..., Any], *arguments: Any) -> None:
        # The loop may have ended; then no request waits.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(call, *arguments)

    async def items(self) -> AsyncIterator[Any]:
        """Yield what the generator yields.

        Raises:
            BaseException: what the generator raised.
        """
        while True:
            item = await self._items.get()
            if item is _OVER:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def stop(self) -> None:
        """End it: what it makes is not wanted. The loop does not wait."""
        if not self._halt.is_set:
            self._halt.set()


async def anext_of(items: AsyncIterator[Any]) -> Any:
    """Return the next item; ``anext`` of Python 3.10 knows no annotations."""
    async for item in items:
        return item
    raise EngineBusy("the answer was halted")


async def in_thread(call: Callable[[], Any], halt: Halt | None = None, *, stops: bool = True) -> Any:
    """Return what a call returns. What it asks of an engine ends with a halt, or when nobody waits.

    Args:
        call: what to do.
        halt: what ends it.
        stops: end it when nobody waits; not what writes states to disk, which would be lost.
    """
    halt = halt or Halt()

    def made() -> Iterator[Any]:
        with halted_by(halt):
            result = call()
        return iter([result])

    # A thread of its own: loading may take minutes, and the loop's own threads have other work.
    running = Running(made, halt, lambda: None)
    try:
        return await anext_of(running.items())
    except asyncio.CancelledError:
        if stops:
            running.stop()
        raise
