"""When a session is expired. Touches nothing.

One clock that is wrong must not take a conversation away, so two things have to agree:

* *what the session says of itself*: when its last frame was written (by the writer's clock), its
  largest id (by the Redis server's clock, where there is one) and when the file system says that
  the file was last written to. The latest of them counts.
* *what time it is*: by this process's clock, by the file system's, and by the Redis server's
  where there is one. The earliest of them counts.

A clock that is behind when it writes, or ahead when it looks, then expires nothing by itself.
The price is that a session may be kept for longer than its time to live, which can be mended.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from lix_cache._log import logger

if TYPE_CHECKING:
    from lix_cache.messages.turn import MessageId

__all__ = ["DAY", "Now", "is_expired", "now_by"]

DAY = 86400.0


class Now(NamedTuple):
    """What time it is, in Unix seconds, by the clocks that were asked.

    Attributes:
        earliest: no clock is behind this.
        latest: no clock is ahead of this.
    """

    earliest: float
    latest: float

    @property
    def disagrees(self) -> bool:
        """Whether a clock is so wrong that sessions may be kept for longer than they should."""
        return self.latest - self.earliest > DAY


def now_by(clocks: list[float], store: str) -> Now:
    """Return what time it is by all clocks that were asked; log it if one of them is very wrong.

    Args:
        clocks: Unix seconds.
        store: whose clock was asked beside that of this machine and that of Redis.
    """
    found = Now(min(clocks), max(clocks))
    if found.disagrees:
        logger.warning(
            "the clocks of this machine, the {} and Redis are {:.1f} days apart: "
            "sessions expire by the one that is furthest behind",
            store,
            (found.latest - found.earliest) / DAY,
        )
    return found


def is_expired(now: Now, ttl_seconds: float, updated_at: float, newest: MessageId, modified: float) -> bool:
    """Return whether every sign of life is older than ``ttl_seconds`` by every clock."""
    return max(updated_at, newest.timestamp, modified) < now.earliest - ttl_seconds
