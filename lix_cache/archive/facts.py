"""What a cold tier tells of its sessions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lix_cache.archive.doubts import is_gone
from lix_cache.messages.session_key import shown
from lix_cache.messages.turn import ZERO_ID, MessageId

__all__ = ["CompactedSession", "Extent", "Marks", "SessionMetadata", "Summary", "TrashedSession", "for_users"]


@dataclass(frozen=True)
class Summary:
    """What a session's archive says of itself.

    Attributes:
        total: turns in it.
        newest: the largest id in it.
        cleared: messages up to here are history, no longer part of the context.
        changes: how often messages were taken out or replaced, or came where the last id does not tell of it.
    """

    total: int = 0
    newest: MessageId = ZERO_ID
    cleared: MessageId = ZERO_ID
    changes: int = 0


@dataclass(frozen=True)
class Extent:
    """How far a session has come.

    Attributes:
        newest: the largest id that a message of it has, or had when it was cleared or deleted.
        cleared: messages up to here are history, no longer part of the context.
        deleted: messages up to here are gone.
        forgotten: messages up to here went with the whole session, and their keys with them.
        contested: messages of which Redis may hold or get copies under other ids, with their own id
            in the archive; ZERO_ID where they were deleted or edited. Such copies do not count. By the sign
            of an id that a message had: the id that it has by now.
        repeats: nonces of those that were sent again by their keys: a copy under a smaller id counts.
        given: the largest id that was ever given, also to a message that was taken out before it came here.
    """

    newest: MessageId = ZERO_ID
    cleared: MessageId = ZERO_ID
    deleted: MessageId = ZERO_ID
    forgotten: MessageId = ZERO_ID
    contested: Mapping[bytes, MessageId] = field(default_factory=dict)
    repeats: frozenset[bytes] = frozenset()
    given: MessageId = ZERO_ID


@dataclass(frozen=True)
class Marks:
    """What an archive remembers of a session beside its messages, and beside the deletions of all of it.

    Attributes:
        cleared: messages up to here are history, no longer part of the context.
        dropped: what a window holds up to here is gone.
        said: messages of which copies may come, or which were taken out: sign and id, as in ``doubts.py``.
        pending: Redis and the archive must be reconciled.
    """

    cleared: MessageId = ZERO_ID
    dropped: MessageId = ZERO_ID
    said: Mapping[bytes, MessageId] = field(default_factory=dict)
    pending: bool = False

    def lacking(self, there: Marks) -> Marks:
        """Return those that an archive lacks which has others; none where it has them all."""
        # What is gone there stays gone, under whatever id it was known.
        said = {
            sign: one
            for sign, one in self.said.items()
            if sign not in there.said or (there.said[sign] != one and not is_gone(there.said[sign]))
        }
        return Marks(
            self.cleared if self.cleared > there.cleared else ZERO_ID,
            self.dropped if self.dropped > there.dropped else ZERO_ID,
            said,
            self.pending and not there.pending,
        )


@dataclass(frozen=True)
class SessionMetadata:
    """What can be told of an archived session without reading its messages.

    Attributes:
        session_id: the session.
        created_at: Unix seconds of its first append.
        updated_at: Unix seconds of its last append.
        num_turns: turns in the archive.
        size_bytes: bytes they take.
        last_use: Unix seconds of its last message, or of a later change. Never of its move to the archive.
    """

    session_id: str
    created_at: float
    updated_at: float
    num_turns: int
    size_bytes: int
    last_use: float


@dataclass(frozen=True)
class TrashedSession:
    """A session in the trash.

    Attributes:
        session_id: the session.
        trashed_at: when it came there, in Unix seconds.
        size_bytes: bytes it takes.
    """

    session_id: str
    trashed_at: float
    size_bytes: int


@dataclass(frozen=True)
class CompactedSession:
    """What happened to a session that was compacted, or would happen in a dry run.

    Attributes:
        is_active: it was left alone, because it was appended to not long enough ago.
        is_changed: there was something to win.
        frames_before: parts that are read one by one, before.
        frames_after: and after.
        bytes_before: bytes it took, before.
        bytes_after: and after.
    """

    is_active: bool = False
    is_changed: bool = False
    frames_before: int = 0
    frames_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0


def for_users(found: SessionMetadata | TrashedSession) -> dict[str, Any]:
    """Return what is told of a session as a dict, as the old package did."""
    # Not asdict(), which copies every value, and takes as long as reading the file.
    told = {name: value for name, value in vars(found).items() if name != "last_use"}
    return {**told, "session_id": shown(found.session_id)}
