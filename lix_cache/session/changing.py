"""The methods that change what a session holds: thin shells, sync and async. See changes.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.drivers.aio import awaited
from lix_cache.effects import then
from lix_cache.messages.message import Message
from lix_cache.session import changes
from lix_cache.session.hybrid import Hybrid
from lix_cache.session.layout import AsyncStoreDriver, StoreDriver
from lix_cache.session.results import AddedMessages, StoredMessage, existing_id, stored_one

if TYPE_CHECKING:
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncChanging", "Changing"]


class Changing(Hybrid):
    """What :class:`~lix_cache.HybridConversationCache` can change."""

    _drive: StoreDriver

    def get_revision(self) -> str:
        """Return what names the session's present state: another text after each add, deletion or edit.

        Raises:
            RedisUnavailable: what Redis holds cannot be known, whatever ``on_redis_error`` says.
        """
        return self._drive(changes.revision(self._session))

    def pop_last(self) -> StoredMessage | None:
        """Take the last message off and return it; None if the session is empty.

        Of several processes that do so at once each gets another message. Reaches messages on disk as well.
        Two round trips and an append to the archive, which is synced whatever ``durability`` says.

        Raises:
            RedisUnavailable: the archive has no message, or ``on_redis_error="raise"``. Under ``archive`` the
                last message of the archive is taken, and Redis is told when it is back.
            ArchiveUnavailable: nothing was taken off.
        """
        flow = changes.pop_last(self._session)
        return self._drive(then(flow, lambda turn: None if turn is None else stored_one(turn)))

    def delete_message(self, message_id: str) -> bool:
        """Delete a message for good; False if the session has none of that id.

        Nothing brings it back, and no reader returns it. Its bytes leave the disk when the archive is
        compacted (``lix-cache compact``), or at the latest with the session.

        Args:
            message_id: as :meth:`get_messages` and :meth:`add_messages` give it.

        Raises:
            InvalidInput: that is no id.
            RedisUnavailable, ArchiveUnavailable: as :meth:`pop_last`.
        """
        return self._drive(changes.delete_message(self._session, existing_id(message_id)))

    def edit(
        self,
        message_id: str,
        content: Any,
        *,
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        embedding: VectorLike | None = None,
    ) -> StoredMessage:
        """Give a message another content. It keeps its id, its place and its time.

        The session moves to disk for it; the next ``get_context`` brings it back.

        Args:
            message_id: as :meth:`get_messages` and :meth:`add_messages` give it.
            content: as :meth:`add_message` takes it.
            role: another role; the old one by default.
            metadata: in the place of the old metadata, which stays by default.
            embedding: of the new content; the old one is dropped in any case.

        Returns:
            The message as it is now.

        Raises:
            MessageNotFound: the session has none of that id; nothing was changed.
            InvalidInput, InvalidMessage, InvalidVector: refused, nothing was changed.
            RedisUnavailable, ArchiveUnavailable: as :meth:`pop_last`.
        """
        return self._drive(self._editing(message_id, content, role, metadata, embedding))

    def replace_all(self, messages: Sequence[Message], expected: str | None = None) -> AddedMessages:
        """Put messages in the place of all that the session holds: all or nothing.

        What a framework does that shortens a conversation to a summary. With ``expected`` a message that
        another process added meanwhile is not lost: read the revision, then the messages, then replace.

        Args:
            messages: as :meth:`add_messages` takes them; may be none.
            expected: what :meth:`get_revision` returned; None replaces whatever there is.

        Returns:
            The ids of the new messages.

        Raises:
            RevisionMismatch: the session was changed since; nothing was replaced.
            RedisUnavailable: what Redis holds cannot be known; nothing was replaced.
            InvalidInput, InvalidMessage, InvalidVector, ArchiveUnavailable: nothing was replaced.
        """
        return self._drive(self._replacing(messages, expected))


class AsyncChanging(Hybrid):
    """What :class:`~lix_cache.AsyncHybridConversationCache` can change."""

    _drive: AsyncStoreDriver

    get_revision = awaited(Changing.get_revision)
    pop_last = awaited(Changing.pop_last)
    delete_message = awaited(Changing.delete_message)
    edit = awaited(Changing.edit)
    replace_all = awaited(Changing.replace_all)
