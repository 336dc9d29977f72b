"""What lix-open-cache 0.1.0 left in Redis, as the administration asks for it. See lix_cache.effects."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

from lix_cache.admin.flows import AT_ONCE, find_keys, groups
from lix_cache.archive.legacy import milliseconds_of
from lix_cache.effects import Flow, RedisBatch
from lix_cache.errors import InvalidSessionId
from lix_cache.hot.keys import escape_pattern
from lix_cache.hot.scripts import Command
from lix_cache.messages.message import decode_json
from lix_cache.messages.session_key import SessionName, stored_id
from lix_cache.session.store import SessionStore

__all__ = ["Left", "names_left", "old_sessions"]


class Left(NamedTuple):
    """What is left of one session.

    Attributes:
        messages: entries of its list; of messages of one millisecond the old package kept the last,
            and each of them is counted.
        last_use: Unix seconds of its newest message; 0.0 where that is not to be had.
    """

    messages: int
    last_use: float


def names_left(store: SessionStore) -> Flow[tuple[list[str], dict[SessionName, str]]]:
    """Return the stored ids of all sessions that are left, and what cannot be an id of ours, and why."""
    start = store.hot.old.lists
    keys = yield from find_keys(escape_pattern(start) + "*")
    usable: list[str] = []
    refused: dict[SessionName, str] = {}
    for name in sorted(key[len(start.encode()) :] for key in keys):
        try:
            usable.append(stored_id(name.decode()))
        except (InvalidSessionId, UnicodeDecodeError) as error:
            refused[name.decode("utf-8", "replace")] = f"not usable as a session id: {error}"
    return usable, refused


def old_sessions(store: SessionStore, session_ids: Iterable[str]) -> Flow[dict[str, Left]]:
    """Return what is left of some sessions; those without anything left are omitted."""
    old, found = store.hot.old, {}
    for group in groups(session_ids, AT_ONCE):
        looks: list[Command] = []
        for session_id in group:
            looks += (("LLEN", old.list_key(session_id)), ("LINDEX", old.list_key(session_id), 0))
        replies = yield RedisBatch(tuple(looks), errors_as_values=True)
        counts = {sid: replies[2 * i] for i, sid in enumerate(group) if _is_count(replies[2 * i])}
        numbers = {sid: replies[2 * i + 1] for i, sid in enumerate(group) if sid in counts}
        reads = tuple(("GET", old.message_key(sid, number)) for sid, number in numbers.items())
        newest = (yield RedisBatch(reads, errors_as_values=True)) if reads else []
        for session_id, message in zip(counts, newest, strict=True):
            found[session_id] = Left(counts[session_id], _time_of(message))
    return found


def _is_count(reply: Any) -> bool:
    # An error stands for a key of another kind, which is no session.
    return isinstance(reply, int) and reply > 0


def _time_of(message: Any) -> float:
    try:
        return milliseconds_of(decode_json(message)) / 1000
    except (ValueError, AttributeError):
        return 0.0
