"""What the library takes for a message, session or commit: measured for ``simulate_scale.py``."""

from __future__ import annotations

import tempfile
import tracemalloc
import uuid
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from _bench_support import Texts, load_texts
from obstore.store import MemoryStore

from lix_cache import CacheConfig, HybridConversationCache
from lix_cache.archive.expiry import DAY, Now
from lix_cache.archive.objects import snapshot
from lix_cache.archive.objects.leases import ObjectLease
from lix_cache.archive.objects.shard import SNAPSHOT_EVERY
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.messages.turn import MessageId, Turn, new_turn, with_id
from lix_cache.storage.objects import ObjectBucket
from tests.support import RedisServer
from tests.support.large_shard import FIRST_MS, put_large_shard

__all__ = ["DEMO", "SIZES", "measured", "measured_objects", "measured_redis", "message_bytes"]

#: The conversations that are measured by default: part of the repository, so that all find the same bytes.
DEMO = str(Path(__file__).resolve().parents[1] / "lix_cache" / "cli" / "data")
#: Sessions of a log. What is measured is the same for each of them.
SIZES = (2_500, 10_000)
#: As many as come together in the simulation's commits.
_SESSIONS, _TURNS = 8, 10
_WINDOWS = (10, 30)
#: Frames of a session; sessions that are brought back.
_FRAMES, _CHOSEN = (2, 18), 32
_HOT_SESSIONS, _COMMITS, _EXPIRED = 500, 64, 20
_DAY_MS = int(DAY * 1000)


def measured(data: str | None) -> dict[str, float]:
    """Return the unit costs by the names of ``UnitCosts``."""
    texts = load_texts(data or DEMO)
    return {
        "message_bytes": message_bytes(texts),
        **measured_redis(texts, _HOT_SESSIONS),
        **measured_objects(texts),
    }


def message_bytes(texts: Texts) -> float:
    """Return the mean bytes of text in a message."""
    sizes = [len(content.encode()) for _, content in texts.messages]
    return round(sum(sizes) / len(sizes))


def measured_redis(texts: Texts, sessions: int) -> dict[str, float]:
    """Return bytes and server time: of windows of two sizes, so that a message's share is known."""
    used: list[float] = []
    times: dict[str, float] = {}
    for length in _WINDOWS:
        with RedisServer() as server, tempfile.TemporaryDirectory() as folder:
            config = server.config(archive_dir=folder, evictor_enabled=False, hot_window_size=max(_WINDOWS))
            with server.client() as client:
                # The scripts are no part of a session.
                HybridConversationCache("first", config).add_message("user", "x")
                before = client.info("memory")["used_memory"]
                add_us = _server_us(client, partial(_talk, config, texts, sessions, length))
                used.append((client.info("memory")["used_memory"] - before) / sessions)
                times = {"add_us": add_us, "read_us": _server_us(client, partial(_read, config, sessions))}
    message = (used[1] - used[0]) / (_WINDOWS[1] - _WINDOWS[0])
    return {
        "hot_session_bytes": round(max(0.0, used[0] - _WINDOWS[0] * message)),
        "hot_message_bytes": round(message),
        **{name: round(value, 1) for name, value in times.items()},
    }


def _talk(config: CacheConfig, texts: Texts, sessions: int, length: int) -> None:
    for number in range(sessions):
        cache = HybridConversationCache(str(number), config)
        for role, content in texts.session(number, length):
            cache.add_message(role, content)


def _read(config: CacheConfig, sessions: int) -> None:
    for number in range(sessions):
        HybridConversationCache(str(number), config).get_context()


def _server_us(client: Any, work: Any) -> float:
    """Return the microseconds of the server for one script that the work has it run."""
    client.config_resetstat()
    work()
    stats = client.info("commandstats")
    found = stats["cmdstat_evalsha"]
    return float(found["usec"]) / float(found["calls"])


def measured_objects(texts: Texts, sessions: int = SIZES[-1]) -> dict[str, float]:
    """Return bytes and requests of an archive on object storage with so many sessions in a log.

    None of these grows with that number. What does is worked out from them (``simulate_scale.py``).
    """
    session, frame, place = _index_bytes(sessions)
    bucket, names = _archive(texts, sessions)
    return {
        "archived_message_bytes": _message_bytes(texts),
        "index_session_bytes": session,
        "index_frame_bytes": frame,
        "place_bytes": place,
        **_memory(sessions),
        **_back(bucket, names),
        "away_gets": _away(bucket, texts, names),
        "look_gets": _looks(bucket),
        **_follow(bucket, names),
        **_expiry(bucket),
    }


def _bucket() -> ObjectBucket:
    return ObjectBucket(MemoryStore(), "scale", f"scale-{uuid.uuid4().hex}")


def _spent(bucket: ObjectBucket, work: Callable[[], Any]) -> Counter[str]:
    before = Counter(bucket.requests)
    work()
    return Counter(bucket.requests) - before


def _begun(bucket: ObjectBucket) -> ObjectTier:
    """Return the archive as a process has it that follows it, and has read no session."""
    tier = ObjectTier(bucket)
    tier.pending_sessions()
    return tier


def _message_bytes(texts: Texts) -> float:
    """Return the bytes of the commits that move messages, for each of them."""
    bucket = _bucket()
    tier = ObjectTier(bucket)
    for number in range(_COMMITS):
        group = [f"session {number} {k}" for k in range(_SESSIONS)]
        tier.append_many_locked({name: _turns(texts, number, k) for k, name in enumerate(group)})
    written = sum(one.size for one in bucket.names("0000/log/"))
    return round(written / (_COMMITS * _SESSIONS * _TURNS), 1)


def _index_bytes(sessions: int) -> tuple[float, float, float]:
    """Return what a snapshot has for a session, for each frame of it, and for its place by last use."""
    states: list[float] = []
    for frames in _FRAMES:
        bucket = _bucket()
        put_large_shard(bucket, sessions, frames)
        header = _header(bucket)
        states.append(sum(block.length for block in header.blocks) / sessions)
    frame = (states[1] - states[0]) / (_FRAMES[1] - _FRAMES[0])
    places = sum(run.length for run in header.runs) / sessions
    return round(states[0] - _FRAMES[0] * frame, 1), round(frame, 1), round(places, 1)


def _header(bucket: ObjectBucket) -> snapshot.Header:
    newest = max(one.name for one in bucket.names("0000/snap/"))
    return snapshot.parsed(bucket.get(newest) or b"", newest)


def _memory(sessions: int) -> dict[str, float]:
    """Return the memory of a process for a block or run that it knows of, and for a put that it follows."""
    bucket = _bucket()
    names = put_large_shard(bucket, sessions, _FRAMES[1])
    header = _header(bucket)
    pieces = len(header.blocks) + len(header.runs)
    del header
    follower, writer = ObjectTier(bucket), _begun(bucket)
    follower.identity()
    puts = SNAPSHOT_EVERY - 2
    tracemalloc.start()
    try:
        used = [tracemalloc.get_traced_memory()[0]]
        follower.pending_sessions()
        used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    for name in names[: puts // 2]:
        _lease(writer, name).release()
    tracemalloc.start()
    try:
        used.append(tracemalloc.get_traced_memory()[0])
        follower.pending_sessions()
        used.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    return {
        "piece_memory": round((used[1] - used[0]) / pieces),
        "put_memory": round((used[3] - used[2]) / puts),
    }


def _lease(tier: ObjectTier, name: str) -> ObjectLease:
    lease = tier.try_lock(name)
    assert lease is not None, name
    return lease


def _archive(texts: Texts, sessions: int) -> tuple[ObjectBucket, list[str]]:
    """Make a log with many sessions; return some of them, whose last two frames are there."""
    bucket = _bucket()
    names = put_large_shard(bucket, sessions, _FRAMES[1])
    # Far from each other: each in a block of its own.
    chosen = names[:: sessions // _CHOSEN][:_CHOSEN]
    tier = ObjectTier(bucket)
    for number in (0, 1):
        tier.append_many_locked({name: _turns(texts, number, k) for k, name in enumerate(chosen)})
    tier.collect()
    return bucket, chosen


def _turns(texts: Texts, number: int, place: int) -> list[Turn]:
    found = texts.session(number * _SESSIONS + place, _TURNS)
    start = FIRST_MS + 400 * _DAY_MS + number * 60_000
    return [
        with_id(
            new_turn(role, content, {}, None, None, bytes((number, place, k, 1, 2, 3))),
            MessageId(start + k * 1000, 0),
        )
        for k, (role, content) in enumerate(found)
    ]


def _back(bucket: ObjectBucket, names: Sequence[str]) -> dict[str, float]:
    """Count what bringing sessions back sends, by a process that follows the log."""
    tier = _begun(bucket)

    def bring() -> None:
        for name in names:
            lease = _lease(tier, name)
            tier.recent(name, 20, in_context=True, locked=True)
            tier.summary(name, locked=True)
            lease.release()

    sent = _spent(bucket, bring)
    return {f"return_{kind}s": round(sent[kind] / len(names), 2) for kind in ("put", "get")}


def _away(bucket: ObjectBucket, texts: Texts, names: Sequence[str]) -> float:
    """Count the gets for moving away what came back: its window is cut, the rest goes with what is new."""
    tier = _begun(bucket)
    places = {name: place for place, name in enumerate(names)}

    def append(turns: Callable[[int], list[Turn]]) -> None:
        for name, place in places.items():
            tier.append_many_locked({name: turns(place)})

    def move() -> None:
        append(lambda place: _turns(texts, 0, place))
        append(lambda place: [*_turns(texts, 1, place), *_turns(texts, 2, place)])

    return round(_spent(bucket, move)["get"] / len(names), 2)


def _looks(bucket: ObjectBucket) -> float:
    tier = _begun(bucket)
    return float(_spent(bucket, tier.pending_sessions).total())


def _follow(bucket: ObjectBucket, names: Sequence[str]) -> dict[str, float]:
    """Count for what a process learns of the commits of another, newer snapshots included."""
    other, writer = _begun(bucket), _begun(bucket)
    sent: Counter[str] = Counter()
    looks, puts = 64, 4 * SNAPSHOT_EVERY
    for look in range(looks):
        for number in range(puts // looks // 2):
            _lease(writer, names[(look + number) % len(names)]).release()
        sent += _spent(bucket, other.pending_sessions)
    # Each look finds at its end that there is no more.
    return {
        "follow_gets": round((sent["get"] - looks) / puts, 3),
        "follow_lists": round(sent["list"] / puts, 3),
    }


def _expiry(bucket: ObjectBucket) -> dict[str, float]:
    """Count what a clean-up sends each hour for a log, and for each session that has expired."""
    tier = _begun(bucket)
    # What was used last comes every 977 ms, and was there for so many days before.
    last = FIRST_MS / 1000 + (_FRAMES[1] - 1) * DAY + 600
    then = last + 14 * DAY + _EXPIRED * 0.977
    now = Now(then, then)
    found: list[str] = []
    sent = _spent(bucket, lambda: found.extend(tier.expired_sessions(14 * DAY, now)))

    def expire() -> None:
        for name in found:
            lease = _lease(tier, name)
            assert tier.expire_locked(name, 14 * DAY, now, to_trash=True), name
            lease.release()

    done = _spent(bucket, expire)
    # The store is asked when the segment was put that changed a session last: here each has its own.
    heads = len(found)
    return {
        "hour_gets": sent["get"] - heads,
        "expire_puts": round(done["put"] / len(found), 2),
        "expire_gets": round((done["get"] + heads) / len(found), 2),
    }
