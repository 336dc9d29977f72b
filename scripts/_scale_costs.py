"""What the library takes for a message, session or commit: measured for ``simulate_scale.py``."""

from __future__ import annotations

import os
import tempfile
import uuid
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import Any

from _bench_support import Texts, load_texts
from obstore.store import MemoryStore

from lix_cache import CacheConfig, HybridConversationCache
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.messages.turn import MessageId, Turn, new_turn, with_id
from lix_cache.storage.objects import ObjectBucket
from tests.support import RedisServer

__all__ = ["measured", "measured_objects", "measured_redis"]

#: As many as come together in the simulation's commits; a snapshot is made every 256 of them.
_SESSIONS, _TURNS, _COMMITS = 8, 10, 512
_WINDOWS = (10, 30)


def measured(data: str | None, *, hot_sessions: int = 500, commits: int = _COMMITS) -> dict[str, float]:
    """Return the unit costs by the names of ``UnitCosts``."""
    texts = load_texts(data)
    sizes = [len(content.encode()) for _, content in texts.messages]
    return {
        "message_bytes": round(sum(sizes) / len(sizes)),
        **measured_redis(texts, hot_sessions),
        **measured_objects(texts, commits),
    }


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


def measured_objects(texts: Texts, commits: int) -> dict[str, float]:
    """Return bytes and requests of commits, of sessions that come back, and of looks for marks."""
    bucket = ObjectBucket(MemoryStore(), "scale", f"scale-{uuid.uuid4().hex}")
    tier = ObjectTier(bucket)
    written = [0]
    create = bucket.create

    def counted(name: str, data: bytes) -> bool:
        written[0] += len(data)
        return create(name, data)

    bucket.create = counted  # type: ignore[method-assign]
    # What an archive has once is no part of a commit.
    tier.identity(make=True)
    names = [f"session {n}" for n in range(_SESSIONS * 4)]
    before, bytes_before = Counter(bucket.requests), written[0]
    for number in range(commits):
        group = names[number * _SESSIONS % len(names) :][:_SESSIONS]
        leases = [tier.try_lock(name, to_append=True) for name in group]
        tier.append_many_locked({name: _turns(texts, number, k) for k, name in enumerate(group)})
        for lease in leases:
            if lease is not None:
                lease.release()
    sent = Counter(bucket.requests) - before
    back = _back(bucket, names)
    away = _away(bucket, texts)
    follow = _follow(bucket, texts)
    looks = _looks(bucket)
    return {
        "archived_message_bytes": round((written[0] - bytes_before) / (commits * _SESSIONS * _TURNS)),
        **{f"commit_{kind}s": round(sent[kind] / commits, 3) for kind in ("put", "get", "list")},
        **{f"return_{kind}s": round(back[kind] / len(names), 2) for kind in ("put", "get")},
        "away_gets": away,
        "follow_gets": follow,
        "look_gets": looks,
    }


def _turns(texts: Texts, number: int, place: int) -> list[Turn]:
    found = texts.session(number * _SESSIONS + place, _TURNS)
    start = 1_700_000_000_000 + number * 60_000
    return [
        with_id(new_turn(role, content, {}, None, None, os.urandom(6)), MessageId(start + k * 1000, 0))
        for k, (role, content) in enumerate(found)
    ]


def _back(bucket: ObjectBucket, names: Sequence[str]) -> Counter[str]:
    """Count what bringing sessions back sends, by a process that follows the log."""
    tier = ObjectTier(bucket)
    list(tier.all_metadata())
    before = Counter(bucket.requests)
    for name in names:
        lease = tier.try_lock(name)
        tier.recent(name, 20, in_context=True, locked=True)
        tier.summary(name, locked=True)
        if lease is not None:
            lease.release()
    return Counter(bucket.requests) - before


def _away(bucket: ObjectBucket, texts: Texts) -> float:
    """Count the gets for moving away what came back: its window is cut, the rest goes with what is new."""
    tier = ObjectTier(bucket)
    kept = [*_turns(texts, 0, 0), *_turns(texts, 1, 0)]

    def append(name: str, turns: list[Turn]) -> None:
        lease = tier.try_lock(name, to_append=True)
        tier.append_many_locked({name: turns})
        if lease is not None:
            lease.release()

    names = [f"back {n}" for n in range(_SESSIONS)]
    for name in names:
        append(name, kept)
    before = bucket.requests["get"]
    for name in names:
        append(name, kept[:_TURNS])
        append(name, [*kept[_TURNS:], *_turns(texts, 2, 0)])
    return round((bucket.requests["get"] - before) / len(names), 2)


def _follow(bucket: ObjectBucket, texts: Texts, commits: int = 40) -> float:
    """Count the gets for which a process learns of one commit of another."""
    tier, other = ObjectTier(bucket), ObjectTier(bucket)
    other.pending_sessions()
    for number in range(commits):
        lease = tier.try_lock("followed", to_append=True)
        tier.append_many_locked({"followed": _turns(texts, number, 0)})
        if lease is not None:
            lease.release()
    before = bucket.requests["get"]
    other.pending_sessions()
    # The last one finds that there is no more.
    return round((bucket.requests["get"] - before - 1) / commits, 2)


def _looks(bucket: ObjectBucket) -> float:
    tier = ObjectTier(bucket)
    tier.pending_sessions()
    note = tier.identity()
    before = bucket.requests.total()
    tier.pending_sessions()
    return (bucket.requests.total() - before) / (1 if note is None else note.shards)
