"""CacheCoordinator: one chat session, all layers. Composition, no logic."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any

from lix_cache.arguments import config_of, speaks_for_itself
from lix_cache.compat.caches import (
    AsyncSemanticCacheRedis,
    AsyncURLEmbeddingCache,
    SemanticCacheRedis,
    URLEmbeddingCache,
)
from lix_cache.config import CacheConfig
from lix_cache.drivers.aio import awaited
from lix_cache.messages.message import Message
from lix_cache.messages.session_key import SessionName, name_fields, shown, stored_id
from lix_cache.session.results import AddedMessages, StoredMessage
from lix_cache.session.window import AsyncSessionContextWindow, SessionContextWindow

if TYPE_CHECKING:
    from lix_cache.embedders.protocol import Embedder
    from lix_cache.semantic.cache import AsyncSemanticCache, SemanticCache
    from lix_cache.vectors import FloatArray, VectorLike

__all__ = ["AsyncCacheCoordinator", "CacheCoordinator"]


def _settings(
    config: CacheConfig | None,
    redis_host: str | None,
    redis_port: Any,
    redis_password: str | None,
) -> CacheConfig:
    if isinstance(redis_port, str) and redis_port.strip().isdecimal():
        redis_port = int(redis_port)  # the old package took a port as text too
    given = {"redis_host": redis_host, "redis_port": redis_port, "redis_password": redis_password}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    config = config_of(config)
    if redis_host is not None or redis_port is not None:
        changes["redis_url"] = None
    elif redis_password is not None and config.redis_url is not None:
        # A password in the address would win over the one given here.
        changes["redis_url"] = re.sub(r"(?<=://)([^:/?#@]*):[^/?#]*@", r"\1@", config.redis_url)
    return config.replace(**changes) if changes else config


def _combined(session_id: SessionName, url: Any, semantic: Any, window: Any, answers: Any) -> dict[str, Any]:
    return {
        **name_fields(session_id),
        "url_embedding_cache": url,
        "semantic_cache": semantic,
        "context_window": window,
        **({} if answers is None else {"answers": answers}),
        "timestamp": datetime.now(timezone.utc).isoformat(),
    }


def _scope_of(session: SessionName) -> dict[str, Any]:
    """Return what answers must have been stored for: no item of it is one of another namespace's."""
    if isinstance(session, str):
        return {"session": session}
    # Not the bare id: what drops all that one session has must not drop what its namesake has.
    return {"namespace": session.namespace, "session": [session.namespace, session.id]}


class _Coordinator:
    """What both variants are made with."""

    def __init__(
        self,
        session_id: SessionName,
        config: CacheConfig | None = None,
        *,
        redis_host: str | None = None,
        redis_port: int | None = None,
        redis_password: str | None = None,
        embedder: Embedder | None = None,
    ) -> None:
        self.session_id = shown(stored_id(session_id))
        self._compose(_settings(config, redis_host, redis_port, redis_password), embedder)

    def _compose(self, config: CacheConfig, embedder: Embedder | None) -> None:
        raise NotImplementedError


@speaks_for_itself
class CacheCoordinator(_Coordinator):
    """The memory and the caches of one chat session.

    Creating one is cheap: it sends nothing before the first call. Connections, archive and
    evictor are shared by the whole process.

    Args:
        session_id: any non-empty text, or a :class:`~lix_cache.SessionKey`.
        config: settings; ``CacheConfig()`` by default.
        redis_host: overrides the configuration (and its ``redis_url``).
        redis_port: overrides the configuration (and its ``redis_url``).
        redis_password: overrides the configuration.
        embedder: makes the vectors of ``answers``.

    Attributes:
        context_window: the session's messages.
        semantic_cache: responses by URL and meaning.
        url_embedding_cache: embeddings by URL.
        answers: responses by the text and the meaning of a query, each with its reason, in
            the scope of this session; None without an embedder.

    Raises:
        InvalidSessionId: not usable as an id.
        ConfigError: a setting is invalid.
    """

    def _compose(self, config: CacheConfig, embedder: Embedder | None) -> None:
        self.url_embedding_cache = URLEmbeddingCache(self.session_id, config)
        self.semantic_cache = SemanticCacheRedis(self.session_id, config)
        self.context_window = SessionContextWindow(self.session_id, config)
        self.answers: SemanticCache | None = None
        if embedder is not None:
            # Its guards are word lists of many languages, which not every application needs.
            from lix_cache.semantic.cache import SemanticCache

            self.answers = SemanticCache(embedder, config, context=_scope_of(self.session_id))

    def add_message_to_context(self, role: str, content: Any, metadata: dict[str, Any] | None = None) -> int:
        """Add a message; return the messages now in the window. One round trip."""
        return self.context_window.add_message(role, content, metadata)

    def add_messages_to_context(
        self, messages: Sequence[Message], keys: Sequence[str] | None = None
    ) -> AddedMessages:
        """Add messages together. See :meth:`HybridConversationCache.add_messages`."""
        return self.context_window.add_messages(messages, keys)

    def get_context_revision(self) -> str:
        """See :meth:`HybridConversationCache.get_revision`."""
        return self.context_window.get_revision()

    def pop_last_message(self) -> StoredMessage | None:
        """See :meth:`HybridConversationCache.pop_last`."""
        return self.context_window.pop_last()

    def delete_message(self, message_id: str) -> bool:
        """See :meth:`HybridConversationCache.delete_message`."""
        return self.context_window.delete_message(message_id)

    def edit_message(
        self,
        message_id: str,
        content: Any,
        *,
        role: str | None = None,
        metadata: dict[str, Any] | None = None,
        embedding: VectorLike | None = None,
    ) -> StoredMessage:
        """See :meth:`HybridConversationCache.edit`."""
        return self.context_window.edit(
            message_id, content, role=role, metadata=metadata, embedding=embedding
        )

    def replace_all_messages(self, messages: Sequence[Message], expected: str | None = None) -> AddedMessages:
        """See :meth:`HybridConversationCache.replace_all`."""
        return self.context_window.replace_all(messages, expected)

    def get_last_messages(self, n: int) -> list[StoredMessage]:
        """Return the newest messages of the history. See :meth:`HybridConversationCache.get_last`."""
        return self.context_window.get_last(n)

    def get_messages(
        self, limit: int | None = 100, before: str | None = None, after: str | None = None
    ) -> list[StoredMessage]:
        """Return a page of the history, with ids. See :meth:`HybridConversationCache.get_messages`."""
        return self.context_window.get_messages(limit, before, after)

    def get_context_messages(self) -> list[Message]:
        """Return the newest messages, oldest first. One round trip."""
        return self.context_window.get_context()

    def get_formatted_context(self, max_lines: int = 50) -> str:
        """Return the context as ``Role: text`` lines."""
        return self.context_window.get_formatted_context(max_lines)

    def get_semantic_response(self, url: str, query_embedding: VectorLike) -> Any:
        """Return the response to a query like this one, or None for a miss."""
        return self.semantic_cache.get(url, query_embedding)

    def cache_semantic_response(self, url: str, query_embedding: VectorLike, response: Any) -> None:
        """Store a response for queries like this one."""
        return self.semantic_cache.set(url, query_embedding, response)

    def get_url_embedding(self, url: str) -> FloatArray | None:
        """Return the URL's embedding, shape (dim,) float32, or None for a miss."""
        return self.url_embedding_cache.get(url)

    def cache_url_embedding(self, url: str, embedding: VectorLike) -> bool:
        """Store the URL's embedding for all sessions."""
        return self.url_embedding_cache.set(url, embedding)

    def batch_cache_url_embeddings(self, url_embeddings: Mapping[str, VectorLike]) -> dict[str, bool]:
        """Store many embeddings in one round trip."""
        return self.url_embedding_cache.batch_set(url_embeddings)

    def clear_session_cache(self) -> bool:
        """Empty the session's context and drop its cached responses; every message stays in the history."""
        self.semantic_cache.clear_session()
        if self.answers is not None:
            self.answers.invalidate(context={})
        return self.context_window.clear()

    def clear_context(self) -> bool:
        """Empty the session's context; every message stays in the history."""
        return self.context_window.clear()

    def delete_session(self) -> bool:
        """Remove the session for good: its messages in Redis and on disk, and its cached responses.

        Returns:
            False if there was no message.
        """
        self.semantic_cache.clear_session()
        if self.answers is not None:
            self.answers.invalidate(context={})
        return self.context_window.delete_session()

    def get_stats(self) -> dict[str, Any]:
        """Return the numbers of all layers."""
        return _combined(
            self.session_id,
            self.url_embedding_cache.get_stats(),
            self.semantic_cache.get_stats(),
            self.context_window.get_stats(),
            None if self.answers is None else self.answers.get_stats(),
        )

    get_cache_stats = get_stats


@speaks_for_itself
class AsyncCacheCoordinator(_Coordinator):
    """Async variant of :class:`CacheCoordinator`: same arguments, same meaning."""

    def _compose(self, config: CacheConfig, embedder: Embedder | None) -> None:
        self.url_embedding_cache = AsyncURLEmbeddingCache(self.session_id, config)
        self.semantic_cache = AsyncSemanticCacheRedis(self.session_id, config)
        self.context_window = AsyncSessionContextWindow(self.session_id, config)
        self.answers: AsyncSemanticCache | None = None
        if embedder is not None:
            # Its guards are word lists of many languages, which not every application needs.
            from lix_cache.semantic.cache import AsyncSemanticCache

            self.answers = AsyncSemanticCache(embedder, config, context=_scope_of(self.session_id))

    add_message_to_context = awaited(CacheCoordinator.add_message_to_context)
    add_messages_to_context = awaited(CacheCoordinator.add_messages_to_context)
    get_context_revision = awaited(CacheCoordinator.get_context_revision)
    pop_last_message = awaited(CacheCoordinator.pop_last_message)
    delete_message = awaited(CacheCoordinator.delete_message)
    edit_message = awaited(CacheCoordinator.edit_message)
    replace_all_messages = awaited(CacheCoordinator.replace_all_messages)
    get_last_messages = awaited(CacheCoordinator.get_last_messages)
    get_messages = awaited(CacheCoordinator.get_messages)
    get_context_messages = awaited(CacheCoordinator.get_context_messages)
    get_formatted_context = awaited(CacheCoordinator.get_formatted_context)
    get_semantic_response = awaited(CacheCoordinator.get_semantic_response)
    cache_semantic_response = awaited(CacheCoordinator.cache_semantic_response)
    get_url_embedding = awaited(CacheCoordinator.get_url_embedding)
    cache_url_embedding = awaited(CacheCoordinator.cache_url_embedding)
    batch_cache_url_embeddings = awaited(CacheCoordinator.batch_cache_url_embeddings)

    async def clear_session_cache(self) -> bool:
        """See :meth:`CacheCoordinator.clear_session_cache`."""
        await self.semantic_cache.clear_session()
        if self.answers is not None:
            await self.answers.invalidate(context={})
        return await self.context_window.clear()

    clear_context = awaited(CacheCoordinator.clear_context)

    async def delete_session(self) -> bool:
        """See :meth:`CacheCoordinator.delete_session`."""
        await self.semantic_cache.clear_session()
        if self.answers is not None:
            await self.answers.invalidate(context={})
        return await self.context_window.delete_session()

    async def get_stats(self) -> dict[str, Any]:
        """See :meth:`CacheCoordinator.get_stats`."""
        return _combined(
            self.session_id,
            await self.url_embedding_cache.get_stats(),
            await self.semantic_cache.get_stats(),
            await self.context_window.get_stats(),
            None if self.answers is None else await self.answers.get_stats(),
        )

    get_cache_stats = get_stats
