"""Does the server answer, and does it take writes? Asked in one round trip that leaves nothing behind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from lix_cache.errors import RedisError
from lix_cache.hot.keys import Keys
from lix_cache.hot.scripts import Command

__all__ = ["READS_ONLY", "probe", "verdict"]

#: What a server answers that takes no writes for now. It is there, and can be read.
READS_ONLY = frozenset({"OOM", "MISCONF", "NOREPLICAS", "READONLY"})


def probe(keys: Keys) -> tuple[Command, Command]:
    """Return the commands to send together; the errors are wanted as values.

    The second is an XADD to a stream that is never there, which makes none: a server that is full, a
    replica, or whose disk refuses, turns it down by its kind as it would any add, before it looks
    for the key; any other does nothing. What INFO says is known too, but not which of it counts, and a
    user may not be allowed to ask. A key that is set for a moment would be written to the
    append-only file and sent to the replicas at every look.
    """
    return ("PING",), ("XADD", keys.probe(), "NOMKSTREAM", "*", "probe", "")


def verdict(replies: Sequence[Any]) -> tuple[RedisError | None, RedisError | None]:
    """Return why the server does not answer and why it takes no writes; None where it does."""
    answer, write = (reply if isinstance(reply, RedisError) else None for reply in replies)
    if answer is not None and answer.code in READS_ONLY:
        # One whose disk refuses turns even a PING down with it (MISCONF).
        return None, answer
    return answer, write
