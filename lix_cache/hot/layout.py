"""How the sessions of a prefix are spread over buckets, as Redis itself notes it. Sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lix_cache.hot.keys import Keys
    from lix_cache.hot.scripts import Command

__all__ = ["claim_buckets", "noted_buckets", "put_buckets"]


def noted_buckets(keys: Keys) -> Command:
    """Ask for the number of buckets that is noted; the answer is None where there is none."""
    return "GET", keys.layout()


def claim_buckets(keys: Keys) -> tuple[Command, Command]:
    """Note the number of buckets unless one is noted; the second answer is what is noted then."""
    return ("SET", keys.layout(), keys.buckets, "NX"), noted_buckets(keys)


def put_buckets(keys: Keys) -> Command:
    """Note the number of buckets whatever was noted."""
    return "SET", keys.layout(), keys.buckets
