"""The names of the objects. Touches nothing. docs/object-layout.md"""

from __future__ import annotations

import hashlib
import re
from zlib import crc32

__all__ = [
    "INHERITED",
    "PROBE",
    "STORE",
    "log_name",
    "log_start",
    "number_of",
    "setting_name",
    "shard_of",
    "snap_name",
    "snap_start",
]

STORE = "store"
PROBE = "probe"
INHERITED = "inherited"
#: The whole name: what others put below a shard is none of ours.
_NUMBER = re.compile(r"[0-9a-f]{4}/(?:log/([0-9]{12})\.seg|snap/([0-9]{12})\.idx)\Z")


def shard_of(session_id: str, shards: int) -> int:
    """Return the shard of a stored id."""
    # As redis_buckets: with as many shards, the sessions of a bucket are in one, and move in one commit.
    return crc32(session_id.encode()) % shards


def setting_name(name: str) -> str:
    """Return where a setting is noted."""
    return f"settings/{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}"


def log_start(shard: int) -> str:
    """Return what the names of a shard's segments begin with."""
    return f"{shard:04x}/log/"


def log_name(shard: int, number: int) -> str:
    """Return the name of a segment."""
    return f"{log_start(shard)}{number:012d}.seg"


def snap_start(shard: int) -> str:
    """Return what the names of a shard's snapshots begin with."""
    return f"{shard:04x}/snap/"


def snap_name(shard: int, number: int) -> str:
    """Return the name of a snapshot."""
    return f"{snap_start(shard)}{number:012d}.idx"


def number_of(name: str) -> int | None:
    """Return the number in the name of a segment or snapshot; None if it is neither."""
    found = _NUMBER.match(name)
    return int(found[1] or found[2]) if found else None
