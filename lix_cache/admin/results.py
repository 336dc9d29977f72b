"""What the administration answers with."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from lix_cache.messages.session_key import SessionName

__all__ = [
    "Check",
    "Copied",
    "Deleted",
    "FileCheck",
    "Migrated",
    "Offloaded",
    "SessionInfo",
    "SessionPage",
    "Status",
    "StoreStats",
]

Status = Literal["ok", "warn", "fail"]


@dataclass(frozen=True)
class SessionInfo:
    """One session, hot and cold together.

    A message that was brought back from disk is counted on both sides.

    Attributes:
        session_id: its id; a key where it has a namespace.
        hot_messages: messages in Redis, those that lix-open-cache left there included.
        cold_messages: messages in the archive.
        last_use: Unix seconds of its last use; of its last message or change where it is cold.
        redis_bytes: memory of its window on the server.
        disk_bytes: size of its archive file.
    """

    session_id: SessionName
    hot_messages: int
    cold_messages: int
    last_use: float
    redis_bytes: int
    disk_bytes: int


@dataclass(frozen=True)
class SessionPage:
    """Some sessions of a store, the last used first.

    Attributes:
        sessions: at most as many as were asked for. May be fewer, also where more follow.
        cursor: for the next page; None where this is the last one.
    """

    sessions: tuple[SessionInfo, ...]
    cursor: str | None


@dataclass(frozen=True)
class Offloaded:
    """What a move to disk did.

    Attributes:
        sessions: sessions that were moved whole.
        messages: messages that left Redis.
        reconciled: sessions reconciled after an outage.
        failed: sessions that could not be moved, and why; their messages are still hot.
    """

    sessions: int = 0
    messages: int = 0
    reconciled: int = 0
    failed: dict[SessionName, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Deleted:
    """What the deletion of a namespace did.

    Attributes:
        sessions: sessions that were there, and are gone, in Redis, on disk and from the trash.
        answers: cached answers that are gone.
        failed: sessions that could not be deleted, and why.
    """

    sessions: int = 0
    answers: int = 0
    failed: dict[SessionName, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Migrated:
    """What happened to sessions that were to be moved, or copied to another archive.

    Attributes:
        sessions: sessions that were moved whole, or would be.
        messages: messages of them that the archive did not have yet; of a dry run, how many at most.
        failed: sessions that could not be moved, and why; their messages are where they were.
    """

    sessions: int = 0
    messages: int = 0
    failed: dict[SessionName, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Copied(Migrated):
    """What a copy of an archive did.

    Attributes:
        sessions: sessions that got something, and deletions that were taken over.
        messages: messages that the target did not have.
        failed: sessions that could not be copied, and why.
        shards: logs of a target on object storage; None if it is a folder.
        is_new: the target was made now, with so many.
    """

    shards: int | None = None
    is_new: bool = False


@dataclass(frozen=True)
class StoreStats:
    """The numbers of the whole store.

    Attributes:
        server: ``redis`` or ``valkey``.
        server_version: its version.
        server_memory_bytes: all the memory the server uses, for all clients.
        hot_sessions: sessions in Redis.
        hot_messages: messages in Redis.
        window_bytes: memory of the session windows.
        archive_files: sessions in the archive: ``.huff`` files, where it is a folder.
        archive_turns: messages of theirs.
        archive_bytes: their size.
        unreadable_files: files that do not even tell how many messages they hold.
        set_aside_files: damaged bytes that a repair put into files of their own.
        pending_sessions: sessions written to while Redis was away and not yet reconciled.
        overdue_sessions: hot sessions that should have been moved to disk a while ago.
        evictor_runs: whether some process's evictor has been at work just now.
        semantic_scopes: session and URL pairs with cached responses, of SemanticCacheRedis.
        answer_scopes: contexts with cached responses, of SemanticCache.
        url_embeddings: cached URL vectors.
        masters: servers that have the keys; the memory is that of all of them together.
    """

    server: str
    server_version: str
    server_memory_bytes: int
    hot_sessions: int
    hot_messages: int
    window_bytes: int
    archive_files: int
    archive_turns: int
    archive_bytes: int
    unreadable_files: int
    set_aside_files: int
    pending_sessions: int
    overdue_sessions: int
    evictor_runs: bool
    semantic_scopes: int
    answer_scopes: int
    url_embeddings: int
    masters: int = 1


@dataclass(frozen=True)
class FileCheck:
    """What was found in one archive file.

    Attributes:
        file: its name in the archive folder.
        session_id: whose it is; a key where the session has a namespace.
        version: 1 or 2; 0 if it is neither.
        frames: intact frames.
        turns: messages in them.
        damaged_bytes: bytes that belong to no intact frame.
        problems: what is wrong, in words; empty if nothing is.
    """

    file: str
    session_id: SessionName
    version: int
    frames: int
    turns: int
    damaged_bytes: int
    problems: tuple[str, ...] = ()

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


@dataclass(frozen=True)
class Check:
    """One thing the doctor looked at.

    Attributes:
        name: what.
        status: ``ok``, ``warn`` (works, but mind) or ``fail`` (will lose or refuse something).
        found: what is the case.
        advice: what to do; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
