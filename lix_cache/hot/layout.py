"""How the sessions of a prefix are spread over buckets, as Redis itself notes it. Sends nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lix_cache.hot.keys import Keys
    from lix_cache.hot.scripts import Command

__all__ = ["claim_archive", "claim_buckets", "noted_archive", "noted_buckets", "put_archive", "put_buckets"]


def noted_buckets(keys: Keys) -> Command:
    """Ask for the number of buckets that is noted; the answer is None where there is none."""
    return "GET", keys.layout()


def claim_buckets(keys: Keys) -> tuple[Command, Command]:
    """Note the number of buckets unless one is noted; the second answer is what is noted then."""
    return ("SET", keys.layout(), keys.buckets, "NX"), noted_buckets(keys)


def put_buckets(keys: Keys) -> Command:
    """Note the number of buckets whatever was noted."""
    return "SET", keys.layout(), keys.buckets


def noted_archive(keys: Keys) -> Command:
    """Ask which archive the sessions move to; the answer is None where it is not noted."""
    return "GET", keys.archive()


def claim_archive(keys: Keys, note: str) -> tuple[Command, Command]:
    """Note the archive unless one is noted; the second answer is what is noted then."""
    return ("SET", keys.archive(), note, "NX"), noted_archive(keys)


def put_archive(keys: Keys, note: str) -> Command:
    """Note the archive whatever was noted."""
    return "SET", keys.archive(), note
