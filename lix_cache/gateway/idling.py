"""When a gateway that is not used ends: all of the processes that serve one port, or none."""

from __future__ import annotations

import asyncio
import mmap
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lix_cache.gateway.app import Gateway

__all__ = ["Used", "watch"]

#: An open page is heard of more often than this: browsers wake one in a hidden tab once in a minute.
_PAGE_SECONDS = 90.0


class Used:
    """Until when each of several processes counts as used. They share this memory after a fork.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self._until = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")
        #: Which of them this process is.
        self.number = 0

    def note(self, until: float) -> None:
        """Say it of this one; one that died before may have served longer."""
        self._until[self.number] = max(self._until[self.number], until)

    def until(self) -> float:
        """Return until when one of them counts as used."""
        return max(self._until)


async def watch(gateway: Gateway, server: Any, used: Used) -> None:
    """Say that the server drains; end it, and return, when none of its processes was used for long enough."""
    idle, clock = gateway.core.settings.idle_seconds, gateway.core.clock
    pause = min(0.5, idle / 4) if idle else 0.5
    while True:
        await asyncio.sleep(pause)
        gateway.health.is_draining = server.should_exit
        if not idle:
            continue
        now = clock.monotonic()
        last = now if gateway.core.metrics.open else gateway.last_request
        used.note(max(last + idle, gateway.last_page + max(idle, _PAGE_SECONDS)))
        # One pause more: by then the others have said what came in the last one.
        if now >= used.until() + pause:
            gateway.health.is_draining = server.should_exit = True
            return
