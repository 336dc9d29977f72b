"""SessionContextWindow: the context of a chat session, bounded in messages and in tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from lix_cache.arguments import config_with, speaks_for_itself
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import awaited
from lix_cache.messages.message import Message
from lix_cache.messages.session_key import SessionName
from lix_cache.session.budget import estimate_tokens
from lix_cache.session.cache import AsyncHybridConversationCache, HybridConversationCache
from lix_cache.session.results import AddedMessages, StoredMessage

if TYPE_CHECKING:
    from lix_cache.storage.files import Files
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncSessionContextWindow", "SessionContextWindow"]

H = TypeVar("H", HybridConversationCache, AsyncHybridConversationCache)


class _Window(Generic[H]):
    """What both variants are made of."""

    _hybrid_type: type[H]

    def __init__(
        self,
        session_id: SessionName,
        config: CacheConfig | None = None,
        *,
        window_size: int | None = None,
        ttl_seconds: int | None = None,
        max_tokens: int | None = None,
        redis_host: str | None = None,
        redis_port: int | None = None,
        redis_db: int | None = None,
        token_counter: Callable[[Message], int] = estimate_tokens,
        clock: Clock = SYSTEM_CLOCK,
        files: Files | None = None,
    ) -> None:
        config = config_with(
            config,
            window_size=("hot_window_size", window_size),
            ttl_seconds=("session_ttl_seconds", ttl_seconds),
            max_tokens=("session_max_tokens", max_tokens),
        )
        self._hybrid: H = self._hybrid_type(
            session_id,
            config,
            redis_host=redis_host,
            redis_port=redis_port,
            redis_db=redis_db,
            token_counter=token_counter,
            clock=clock,
            files=files,
        )
        self.session_id = self._hybrid.session_id
        self.window_size = self._hybrid.hot_window_size
        self.ttl_seconds = self._hybrid.redis_ttl
        self.max_tokens = config.session_max_tokens

    @property
    def hybrid(self) -> H:
        """The store behind the window."""
        return self._hybrid

    def _stats(self, stats: dict[str, Any]) -> dict[str, Any]:
        return {**stats, "ttl_seconds": self.ttl_seconds, "max_tokens": self.max_tokens}


@speaks_for_itself
class SessionContextWindow(_Window[HybridConversationCache]):
    """The last messages of a chat session, as the next model call should see them.

    Args:
        session_id: any non-empty text, or a :class:`~lix_cache.SessionKey`.
        config: settings; ``CacheConfig()`` by default.
        window_size: messages at most.
        ttl_seconds: seconds of idleness after which the session is moved to disk.
        max_tokens: leave out the oldest messages until about so many tokens remain.
        redis_host: wins over the configuration.
        redis_port: wins over the configuration.
        redis_db: wins over ``session_redis_db``.
        token_counter: tokens of one message; an estimate by default.
        clock: where the time comes from.
        files: the file system.

    Errors are those of :class:`~lix_cache.HybridConversationCache`.
    """

    _hybrid_type = HybridConversationCache

    def add_message(self, role: str, content: Any, metadata: dict[str, Any] | None = None) -> int:
        """Add a message; return the messages now in the window."""
        return self._hybrid.add_message(role, content, metadata)

    def add_messages(self, messages: Sequence[Message], keys: Sequence[str] | None = None) -> AddedMessages:
        """Add messages together. See :meth:`HybridConversationCache.add_messages`."""
        return self._hybrid.add_messages(messages, keys)

    def get_last(self, n: int) -> list[StoredMessage]:
        """Return the newest messages of the history. See :meth:`HybridConversationCache.get_last`."""
        return self._hybrid.get_last(n)

    def get_messages(
        self, limit: int | None = 100, before: str | None = None, after: str | None = None
    ) -> list[StoredMessage]:
        """Return a page of the history. See :meth:`HybridConversationCache.get_messages`."""
        return self._hybrid.get_messages(limit, before, after)

    def get_revision(self) -> str:
        """See :meth:`HybridConversationCache.get_revision`."""
        return self._hybrid.get_revision()

    def pop_last(self) -> StoredMessage | None:
        """See :meth:`HybridConversationCache.pop_last`."""
        return self._hybrid.pop_last()

    def delete_message(self, message_id: str) -> bool:
        """See :meth:`HybridConversationCache.delete_message`."""
        return self._hybrid.delete_message(message_id)

    def edit(
        self,
        message_id: str,
        content: Any,
        *,
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        embedding: VectorLike | None = None,
    ) -> StoredMessage:
        """See :meth:`HybridConversationCache.edit`."""
        return self._hybrid.edit(message_id, content, role=role, metadata=metadata, embedding=embedding)

    def replace_all(self, messages: Sequence[Message], expected: str | None = None) -> AddedMessages:
        """See :meth:`HybridConversationCache.replace_all`."""
        return self._hybrid.replace_all(messages, expected)

    def get_context(self) -> list[Message]:
        """Return the newest messages within ``window_size`` and ``max_tokens``, oldest first.

        See :meth:`~lix_cache.HybridConversationCache.get_context` for what stays in any case.
        """
        return self._hybrid.get_context()

    def get_full_history(self) -> list[Message]:
        """Return every message of the session once, in order."""
        return self._hybrid.get_full()

    def smart_context(
        self,
        query: str,
        query_embedding: VectorLike | None = None,
        recent_k: int = 10,
        disk_k: int = 5,
    ) -> dict[str, list[Message]]:
        """Return the newest messages, and of all others the most relevant ones."""
        return self._hybrid.smart_context(query, query_embedding, recent_k, disk_k)

    def get_formatted_context(self, max_lines: int = 50) -> str:
        """Return the context as ``Role: text`` lines, 200 characters of each message."""
        return self._hybrid.get_formatted_context(max_lines)

    def flush_to_disk(self) -> bool:
        """Move all of the session to disk now."""
        return self._hybrid.flush_to_disk()

    def clear(self) -> bool:
        """Empty the context; every message stays in the history."""
        return self._hybrid.clear()

    def delete_session(self) -> bool:
        """Remove the session from Redis and disk; False if there was none."""
        return self._hybrid.delete_session()

    def get_stats(self) -> dict[str, Any]:
        """Return the numbers of the store behind, with ``ttl_seconds`` and ``max_tokens``."""
        return self._stats(self._hybrid.get_stats())


@speaks_for_itself
class AsyncSessionContextWindow(_Window[AsyncHybridConversationCache]):
    """Async variant of :class:`SessionContextWindow`: same arguments, same meaning."""

    _hybrid_type = AsyncHybridConversationCache

    add_message = awaited(SessionContextWindow.add_message)
    add_messages = awaited(SessionContextWindow.add_messages)
    get_last = awaited(SessionContextWindow.get_last)
    get_messages = awaited(SessionContextWindow.get_messages)
    get_revision = awaited(SessionContextWindow.get_revision)
    pop_last = awaited(SessionContextWindow.pop_last)
    delete_message = awaited(SessionContextWindow.delete_message)
    edit = awaited(SessionContextWindow.edit)
    replace_all = awaited(SessionContextWindow.replace_all)
    get_context = awaited(SessionContextWindow.get_context)
    get_full_history = awaited(SessionContextWindow.get_full_history)
    smart_context = awaited(SessionContextWindow.smart_context)
    get_formatted_context = awaited(SessionContextWindow.get_formatted_context)
    flush_to_disk = awaited(SessionContextWindow.flush_to_disk)
    clear = awaited(SessionContextWindow.clear)
    delete_session = awaited(SessionContextWindow.delete_session)

    async def get_stats(self) -> dict[str, Any]:
        """See :meth:`SessionContextWindow.get_stats`."""
        return self._stats(await self._hybrid.get_stats())
