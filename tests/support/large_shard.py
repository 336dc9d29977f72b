"""A shard of an archive on object storage with very many sessions, as its snapshot says."""

from __future__ import annotations

from math import gcd

from lix_cache.archive.objects import layout, snapshot
from lix_cache.archive.objects.records import Part, State
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.messages.turn import MessageId
from lix_cache.storage.objects import Bucket

__all__ = ["FIRST_MS", "put_large_shard"]

#: The first message of all, in Unix milliseconds.
FIRST_MS = 1_700_000_000_000
#: The log goes on behind this: the frames that are named lie before it.
_START = 2_000_000
_DAY_MS = 86_400_000


def put_large_shard(bucket: Bucket, sessions: int, frames: int, shards: int = 1) -> list[str]:
    """Make an archive whose first shard has so many sessions, each of frames of ten turns; return their ids.

    The frames themselves are not there.
    """
    ObjectTier(bucket, shards=shards).identity(make=True)
    numbers = iter(range(sessions * shards * 4))
    names: list[str] = []
    while len(names) < sessions:
        name = f"user-{next(numbers):08d}"
        if layout.shard_of(name, shards) == 0:
            names.append(name)
    # Those that were used one after the other lie far from each other by name, as in life.
    step = round(sessions * 0.618)
    while gcd(step, sessions) > 1:
        step += 1
    states = {names[number * step % sessions]: _state(number, frames) for number in range(sessions)}
    bucket.create(layout.snap_name(0, _START), snapshot.encoded(_START, states))
    return names


def _state(number: int, frames: int) -> State:
    parts = tuple(
        Part(
            1_000_000 + (number * frames + k) % (_START // 2), 90 + 37 * k, 670, 10,
            MessageId(FIRST_MS + number * 977 + k * _DAY_MS, 0),
            MessageId(FIRST_MS + number * 977 + k * _DAY_MS + 600_000, 0),
        )
        for k in range(frames)
    )  # fmt: skip
    newest = parts[-1].last.ms
    return State(
        is_there=True,
        created_ms=parts[0].first.ms,
        updated_ms=newest,
        stamped_ms=newest,
        parts=parts,
        version=parts[-1].segment or 0,
    )
