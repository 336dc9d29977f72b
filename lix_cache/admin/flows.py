"""What the administration asks of Redis, step by step. See lix_cache.effects."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

from lix_cache.effects import Flow, RedisBatch, RedisCall
from lix_cache.errors import ArchiveError, InvalidMessage
from lix_cache.hot.scripts import Command
from lix_cache.session.base import Session
from lix_cache.session.store import SessionStore

__all__ = [
    "AT_ONCE",
    "OF_ONE_SESSION",
    "ask",
    "find_keys",
    "groups",
    "idle_sessions",
    "server_time",
    "session_of",
    "window_sizes",
]

#: Sessions asked about in one round trip.
AT_ONCE = 250
_SCAN_COUNT = 1000

#: Trouble that is one session's own; trouble with Redis concerns all sessions.
OF_ONE_SESSION = (ArchiveError, InvalidMessage)


def session_of(store: SessionStore, session_id: str) -> Session:
    """Return a session as flows take it."""
    return Session(store, session_id, store.settings.window_size)


def ask(command: Command) -> Flow[Any]:
    """Send one command and return its answer."""
    return (yield RedisCall(command))


def server_time() -> Flow[float]:
    """Return the server's clock in Unix seconds."""
    seconds, microseconds = yield from ask(("TIME",))
    return int(seconds) + int(microseconds) / 1e6


def window_sizes(store: SessionStore, session_ids: Iterable[str]) -> Flow[dict[str, tuple[int, int]]]:
    """Return messages and bytes of each session's window in Redis."""
    sizes: dict[str, tuple[int, int]] = {}
    for group in groups(session_ids, AT_ONCE):
        commands: list[Command] = []
        for session_id in group:
            commands.append(store.hot.length(session_id))
            # Of a window that no daemon has looked after for long it is an estimate: to measure all
            # of it would keep the server.
            commands.append(("MEMORY", "USAGE", store.hot.keys.window(session_id), "SAMPLES", 1000))
        replies = yield RedisBatch(tuple(commands))
        for position, session_id in enumerate(group):
            sizes[session_id] = int(replies[2 * position]), int(replies[2 * position + 1] or 0)
    return sizes


def idle_sessions(hot: dict[str, float], idle_seconds: float) -> Flow[list[str]]:
    """Return those of the hot sessions that have been idle for so long, the longest idle first."""
    # By the server's clock, which also wrote the times of use. It counts in milliseconds:
    # without the one on top, a session used a moment ago would not be idle for 0 seconds.
    latest = (yield from server_time()) + 0.001 - idle_seconds
    return sorted((sid for sid, used in hot.items() if used <= latest), key=lambda sid: hot[sid])


def find_keys(pattern: str) -> Flow[set[bytes]]:
    """Return the keys that match, in small steps: KEYS would block the server for all clients."""
    cursor: int = 0
    found: set[bytes] = set()
    while True:
        reply = yield RedisCall(("SCAN", cursor, "MATCH", pattern, "COUNT", _SCAN_COUNT))
        cursor = int(reply[0])
        # A scan may name a key twice.
        found.update(reply[1])
        if cursor == 0:
            return found


def groups(items: Iterable[Any], size: int) -> Iterable[list[Any]]:
    """Cut into lists of at most ``size``."""
    rest = iter(items)
    while group := list(islice(rest, size)):
        yield group
