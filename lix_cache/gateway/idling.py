"""What processes that serve one port know of each other: when all end unused, and if one is left alone."""

from __future__ import annotations

import asyncio
import mmap
import os
from typing import TYPE_CHECKING, Any

from lix_cache._log import logger

if TYPE_CHECKING:
    from lix_cache.gateway.app import Gateway

__all__ = ["Used", "watch"]

#: An open page is heard of more often than this: browsers wake one in a hidden tab once in a minute.
_PAGE_SECONDS = 90.0


class Used:
    """Until when each of several processes counts as used. They share this memory after a fork.

    Made by the process that forks them.

    Args:
        workers: how many there are.
    """

    def __init__(self, workers: int) -> None:
        self._until = memoryview(mmap.mmap(-1, 8 * workers)).cast("d")
        self._served = mmap.mmap(-1, 1)
        #: Which of them this process is.
        self.number = 0
        #: The process that looks after them.
        self.parent = os.getpid()

    def note(self, until: float) -> None:
        """Say it of this one; one that died before may have served longer."""
        self._until[self.number] = max(self._until[self.number], until)

    def until(self) -> float:
        """Return until when one of them counts as used."""
        return max(self._until)

    def serves(self) -> None:
        """Say that this one listens."""
        self._served[0] = 1

    @property
    def has_served(self) -> bool:
        """Whether one of them has ever listened."""
        return bool(self._served[0])

    @property
    def has_parent(self) -> bool:
        """Whether this is a worker, and what looks after it is there."""
        return os.getppid() == self.parent

    @property
    def is_left_alone(self) -> bool:
        """Whether this is a worker that no process looks after any more."""
        return os.getpid() != self.parent and not self.has_parent


async def watch(gateway: Gateway, server: Any) -> bool:
    """End the server, and return, when it is to end by itself.

    Returns:
        Whether none of its processes was used for long enough; else what looked after it has ended.
    """
    idle, clock, used = gateway.core.settings.idle_seconds, gateway.core.clock, gateway.used
    pause = min(0.5, idle / 4) if idle else 0.5
    while True:
        await asyncio.sleep(pause)
        if server.started:
            used.serves()
        if used.is_left_alone:
            # It would hold the port, and heed no signal that is sent to the gateway.
            logger.error("the gateway's first process has ended, and this worker ends too")
            server.should_exit = True
            return False
        if not idle:
            continue
        now = clock.monotonic()
        is_busy = gateway.core.metrics.open or not server.started
        last = now if is_busy else gateway.last_request
        used.note(max(last + idle, gateway.last_page + max(idle, _PAGE_SECONDS)))
        # One pause more: by then the others have said what came in the last one.
        if now >= used.until() + pause:
            server.should_exit = True
            return True
