"""Connections have numbers: behind a newer one may be another server, or one with an older memory."""

from __future__ import annotations

from itertools import count

__all__ = ["NewConnection", "next_number"]

_numbers = count(1)


class NewConnection(Exception):
    """Nothing was sent: the connection at hand is newer than the caller has reckoned with.

    A caller that knows something of the server from before, or from elsewhere, compares
    before it goes on: the server may have been restarted from an older snapshot, or a replica
    may have taken over that had not yet heard of everything.

    Attributes:
        number: of the connection; those opened later have larger ones.
    """

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(number)


def next_number() -> int:
    """Return the number of a connection that was just opened."""
    return next(_numbers)
