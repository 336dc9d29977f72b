"""The session window in Redis: which command to send, and what its answer means. Sends nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache.hot import scripts
from lix_cache.hot.keys import Keys
from lix_cache.hot.scripts import Command, ScriptCall
from lix_cache.messages import ZERO_ID, MessageId, Turn, pack_hot, parse_id, unpack_window

__all__ = ["Added", "HotWindow", "Oldest"]


@dataclass(frozen=True)
class Added:
    """The answer to an add.

    Attributes:
        id: the message's id.
        length: messages in the window now.
    """

    id: MessageId
    length: int


@dataclass(frozen=True)
class Oldest:
    """The answer to a look for what should move to disk.

    Attributes:
        turns: oldest first.
        has_more: there are more beyond these that the window should not keep.
    """

    turns: list[Turn]
    has_more: bool


@dataclass(frozen=True)
class HotWindow:
    """Commands on session windows.

    Attributes:
        keys: names.
        life_ms: life of a window without any use.
        batch: messages beyond a window's size that make it overflow.
        coded: whether messages are stored as code words where that is shorter.
    """

    keys: Keys
    life_ms: int
    batch: int
    coded: bool = False

    def add(
        self,
        session_id: str,
        packed: bytes,
        *,
        window: int,
        floor: MessageId,
        floor_is_fresh: bool,
        floor_is_certain: bool = False,
    ) -> Command:
        """Append a message.

        Args:
            session_id: the session.
            packed: the message without its id.
            window: messages the window should keep.
            floor: an id whose milliseconds the new one must exceed, unless the clock has passed it.
            floor_is_fresh: the floor was read from the archive just now.
            floor_is_certain: and nothing can have been archived since: we hold the lock.
        """
        b = self.keys.bucket(session_id)
        return ScriptCall(
            scripts.ADD,
            (
                self.keys.window(session_id),
                self.keys.active(b),
                self.keys.overflow(b),
                self.keys.high_water(b),
            ),
            (
                session_id,
                packed,
                self.life_ms,
                floor.ms,
                2 if floor_is_certain else int(floor_is_fresh),
                window,
                window + self.batch,
            ),
        )

    def find(self, session_id: str, nonce: bytes) -> Command:
        """Look for a message by its nonce; answered like an add, or with nil."""
        return ScriptCall(scripts.FIND, (self.keys.window(session_id),), (nonce,))

    @staticmethod
    def added(reply: Any) -> Added | None:
        """Return the answer; None if there is none, or the archive must be asked for the floor first."""
        if reply is None or reply == b"COLD":
            return None
        return Added(parse_id(reply[0]), int(reply[1]))

    def read(self, session_id: str, count: int) -> Command:
        """Read the newest messages and count it as a use of the session."""
        return ScriptCall(
            scripts.READ,
            (self.keys.window(session_id), self.keys.active(self.keys.bucket(session_id))),
            (session_id, count, self.life_ms),
        )

    @staticmethod
    def turns(reply: Any) -> list[Turn] | None:
        """Return the messages, oldest first; None if there is no window."""
        return None if reply is None else _turns(reply)[::-1]

    def oldest(
        self,
        session_id: str,
        *,
        keep: int,
        limit: int,
        max_bytes: int | None = None,
        at_least: int = 1,
        after: MessageId | None = None,
    ) -> Command:
        """Read the oldest messages, all but the newest ``keep``.

        Args:
            session_id: the session.
            keep: how many of the newest to leave out.
            limit: how many at most.
            max_bytes: and how many bytes; None for any number.
            at_least: how many to return whatever their size, if there are so many.
            after: begin after this one; for whoever reads a window page by page.
        """
        return ScriptCall(
            scripts.OLDEST,
            (self.keys.window(session_id),),
            (
                keep,
                limit,
                "" if max_bytes is None else max_bytes,
                at_least,
                "" if after is None else str(after),
            ),
        )

    @staticmethod
    def oldest_turns(reply: Any) -> Oldest:
        """Return the answer to :meth:`oldest`."""
        return Oldest(_turns(reply[1:]), bool(reply[0]))

    def trim(self, session_id: str, turns: Sequence[Turn], archived: MessageId, window: int) -> Command:
        """Forget the window's oldest messages, and the session itself if nothing is left.

        Args:
            session_id: the session.
            turns: what to forget: the oldest messages there were, in order; may be none.
            archived: the largest id in the archive.
            window: messages the window should keep.
        """
        b = self.keys.bucket(session_id)
        return ScriptCall(
            scripts.TRIM,
            (
                self.keys.window(session_id),
                self.keys.active(b),
                self.keys.overflow(b),
                self.keys.high_water(b),
            ),
            (
                session_id,
                str(turns[-1].id.successor()) if turns else "",
                archived.ms,
                window + self.batch,
                str(turns[0].id) if turns else "",
            ),
        )

    def rehydrate(self, session_id: str, turns: Sequence[Turn]) -> Command:
        """Put archived messages back, unless the session is hot. Answers 1 or 0."""
        args: list[Any] = [session_id, self.life_ms]
        for turn in turns:
            args += (str(turn.id), pack_hot(turn, coded=self.coded))
        return ScriptCall(
            scripts.REHYDRATE,
            (self.keys.window(session_id), self.keys.active(self.keys.bucket(session_id))),
            tuple(args),
        )

    def forget(self, session_id: str, archived: MessageId = ZERO_ID) -> Command:
        """Drop the window. Answers how many messages it held.

        Args:
            session_id: the session.
            archived: an id that every later message must exceed.
        """
        b = self.keys.bucket(session_id)
        return ScriptCall(
            scripts.FORGET,
            (
                self.keys.window(session_id),
                self.keys.active(b),
                self.keys.overflow(b),
                self.keys.high_water(b),
            ),
            (session_id, archived.ms),
        )

    def remove(self, session_id: str, message_id: MessageId) -> Command:
        """Take back one message."""
        return ("XDEL", self.keys.window(session_id), str(message_id))

    def length(self, session_id: str) -> Command:
        """Count the messages in the window."""
        return ("XLEN", self.keys.window(session_id))

    def idle(self, bucket: int, idle_ms: int, start: int, count: int) -> Command:
        """Find sessions that have not been used for ``idle_ms``, the longest idle first."""
        return ScriptCall(scripts.IDLE, (self.keys.active(bucket),), (idle_ms, start, count))

    def overflowing(self, bucket: int, limit: int) -> Command:
        """Find windows that have grown by a batch, with their sizes."""
        return ("HRANDFIELD", self.keys.overflow(bucket), limit, "WITHVALUES")

    def active_page(self, bucket: int, cursor: int, count: int) -> Command:
        """Read some hot sessions with their last use, and the cursor of the next ones (0: no more)."""
        return ("ZSCAN", self.keys.active(bucket), cursor, "COUNT", count)

    def lease(self, bucket: int, who: str, life_ms: int) -> Command:
        """Take or keep the lease on looking for idle sessions. Answers 1 or 0."""
        return ScriptCall(scripts.LEASE, (self.keys.lease(bucket),), (who, life_ms))


def _turns(flat: Sequence[bytes]) -> list[Turn]:
    names = map(parse_id, flat[0::2])
    return unpack_window(list(zip(names, flat[1::2], strict=True)))
