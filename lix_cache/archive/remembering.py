"""What a cold tier remembers of sessions beside their messages: marks and deletions. A protocol, no I/O."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from lix_cache.archive.facts import Marks
    from lix_cache.archive.tombstones import Deletion
    from lix_cache.errors import LixCacheError
    from lix_cache.messages.turn import MessageId, Turn

__all__ = ["Remembering"]


class Remembering(Protocol):
    """A part of :class:`~lix_cache.archive.cold_tier.ColdTier`. An archive can take it over from another."""

    # -- marks of an outage -----------------------------------------------------------------

    def mark_pending_locked(self, session_id: str) -> None:
        """Note that Redis and the archive of the session must be reconciled. Durable on return."""

    def unmark_pending_locked(self, session_id: str) -> None:
        """Take the mark off; harmless if there is none. A mark that comes back costs one look."""

    def is_pending(self, session_id: str, *, just_read: bool = False) -> bool:
        """Whether the session is marked.

        Args:
            session_id: the session.
            just_read: in this call of the disk it was read; what that has seen will do.
        """

    def pending_sessions(self) -> list[str]:
        """Return the sessions that are marked."""

    # -- marks of sessions --------------------------------------------------------------------

    def marks(self, session_id: str, *, locked: bool = False) -> Marks:
        """Return what is remembered of a session beside its messages, deletions of all of it left out."""

    def mark_many_locked(self, batch: Mapping[str, Marks]) -> dict[str, LixCacheError]:
        """Take over what another archive remembers of sessions, beside what is remembered. Durable on return.

        A session that has no message here is there from then on, if more is remembered of it than that it
        is pending. The caller has all of their leases; those that ``try_lock`` gives to append will do.

        Args:
            batch: of each session the marks. What they say is gone is not archived here.

        Returns:
            Why it failed, of those of which it did. Each session by itself.
        """

    def renew_locked(self, session_id: str, turns: Sequence[Turn], marks: Marks) -> None:
        """Put turns and marks in the place of all there are, in one change. Durable on return.

        As if the session had begun anew: what was there is not remembered as taken out, so a message of it
        may be there again under another id. Notes of deletions, the trash and the mark of an outage stay.

        Args:
            session_id: the session.
            turns: sorted by id, each under its own, no id twice; none that the marks say is gone.
            marks: all that is remembered from now on.
        """

    # -- deletions ----------------------------------------------------------------------------

    def deleted_up_to(self, session_id: str) -> MessageId:
        """Return the largest id that the session may have had when it was last deleted."""

    def deletions(self) -> Iterator[tuple[str, Deletion]]:
        """Yield what is remembered of deletions, by ``tombstones.note_name``: it need not know more."""

    def take_deletions(self, notes: Mapping[str, Deletion]) -> int:
        """Remember deletions that another archive remembers, beside those of its own. Durable on return.

        Processes that use the archive already may not know of them before they begin anew.

        Args:
            notes: as :meth:`deletions` yields them.

        Returns:
            How many said something new.
        """

    def forget_deletions(self, older_than_ms: int) -> int:
        """Drop what is remembered of deletions before a time, in Unix milliseconds. Returns how many.

        What was taken over together may stay until all of it is older.
        """
