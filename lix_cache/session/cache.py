"""HybridConversationCache: memory for RAG, hot in Redis and cold on disk. Shells; see the flows beside it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.arguments import speaks_for_itself
from lix_cache.drivers.aio import awaited
from lix_cache.drivers.threads import in_disk_thread
from lix_cache.effects import then
from lix_cache.errors import LixCacheError
from lix_cache.messages.message import Message
from lix_cache.messages.turn import from_turn
from lix_cache.session import add, context, read, whole
from lix_cache.session.changing import AsyncChanging, Changing
from lix_cache.session.health import health
from lix_cache.session.layout import AsyncStoreDriver, StoreDriver
from lix_cache.session.reconcile import known_length
from lix_cache.session.results import AddedMessages, StoredMessage

if TYPE_CHECKING:
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncHybridConversationCache", "HybridConversationCache"]


@speaks_for_itself
class HybridConversationCache(Changing):
    """The memory of one session: the newest messages in Redis, all of it on disk in time.

    Cheap to make: connections, archive and eviction thread are shared by all caches of
    the process, and nothing is sent before the first call. Safe between threads.

    Args:
        session_id: any non-empty text, or a :class:`~lix_cache.SessionKey`.
        config: settings; ``CacheConfig()`` by default.
        hot_window_size: messages that :meth:`get_context` returns at most.
        redis_ttl: seconds of idleness after which the session is moved to disk.
        redis_host: wins over the configuration.
        redis_port: wins over the configuration.
        redis_db: wins over ``session_redis_db``.
        evict_after_minutes: idle minutes after which the session is moved to disk.
        token_counter: tokens of one message, for ``session_max_tokens``; an estimate by default.
        clock: where the time comes from.
        files: the file system.

    Attributes:
        session_id: names the session: a str, or a SessionKey where it has a namespace.
        archive: the cold tier.
        evictor: the eviction daemon.

    Raises:
        InvalidSessionId: not usable as an id.
        ConfigError: a setting makes no sense.

    Every method that speaks to Redis raises RedisAuthError, RedisDatabaseError or
    RedisCommandError for trouble that waiting will not mend, and follows
    ``on_redis_error`` for the rest: ``archive`` goes on with the disk alone (and raises
    RedisUnavailable only where the disk has nothing either), ``raise`` raises.
    """

    def _connect(self) -> None:
        self._drive = StoreDriver(self._store)

    def add_message(
        self,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        embedding: VectorLike | None = None,
        *,
        timestamp: float | None = None,
    ) -> int:
        """Add a message. When this returns, it will not be lost. One round trip.

        Args:
            role: ``user``, ``assistant``, ``tool`` …
            content: text, or any JSON value (parts, tool calls).
            metadata: a JSON object of your own.
            embedding: shape (dim,); makes the message findable by meaning.
            timestamp: Unix seconds, for messages from elsewhere; now by default.

        Returns:
            Messages now in the window.

        Raises:
            InvalidMessage, InvalidVector: refused, nothing stored.
            DimensionMismatch: the embedding is not of ``embedding_dim``; nothing stored.
            ArchiveUnavailable: neither Redis nor the disk could take it, or the disk could
                not and ``durability="disk"``.
        """
        turn = self._new_turn(role, content, metadata, embedding, timestamp)
        return self._drive(then(add.add(self._session, turn), self._after_add))

    def add_messages(self, messages: Sequence[Message], keys: Sequence[str] | None = None) -> AddedMessages:
        """Add messages together: all of them or none, and nothing comes between. One round trip.

        Args:
            messages: dicts with ``role`` and ``content``, and perhaps ``metadata``, ``timestamp`` and
                ``embedding``, as :meth:`add_message` takes them; 1,000 at most.
            keys: a key for each message, unique within the session (the id that your framework gives
                it): what was added under its key before is not added again. A call that failed is
                repeated with the same keys. A key is known for at least a day, however many others
                follow, and after two days it may be forgotten: then its message is stored as a new one.
                Of the two under one key, those that read both return the first as long as it is
                recognised. So keys are for repeating a call, not for telling messages apart. The first
                call of a session with keys takes two round trips more.

        Returns:
            The ids in the order given, those of messages that were there already included.

        Raises:
            KeyReused: a key was used for another message; nothing was stored.
            InvalidInput, InvalidMessage, InvalidVector: refused, nothing stored.
            ArchiveUnavailable: as :meth:`add_message`.
        """
        return self._drive(self._adding(messages, keys))

    def get_last(self, n: int) -> list[StoredMessage]:
        """Return the newest messages of the history with their ids, oldest first.

        One round trip; the archive is read only for what Redis does not hold, from its end.
        Unlike :meth:`get_context` it knows neither budget nor :meth:`clear`.

        Raises:
            ConfigError: ``n`` is no whole number, or negative.
        """
        return self._drive(self._last(n))

    def get_messages(
        self, limit: int | None = 100, before: str | None = None, after: str | None = None
    ) -> list[StoredMessage]:
        """Return a page of the history with ids, oldest first.

        Args:
            limit: how many at most; None for all.
            before: only messages before that id: the newest of them, unless ``after`` is given.
            after: only messages after that id: the oldest of them.

        Raises:
            InvalidInput: ``before`` or ``after`` is no id.
            ConfigError: ``limit`` is no whole number, or negative.
        """
        return self._drive(self._between(limit, before, after))

    def get_context(self) -> list[Message]:
        """Return the newest messages, ``hot_window_size`` at most, oldest first.

        Under ``session_max_tokens`` the oldest are left out until about so many tokens remain.
        System messages stay before any other, and the newest message stays whatever it costs: so
        only these can exceed the limit. A tool result stays only with its call. It is left out
        where that was cut off, and the results of the newest call stay with it however many
        they are: so only these can exceed ``hot_window_size``. ``get_full`` leaves nothing out.

        One round trip; a session that was moved to disk is read from there and brought
        back into Redis, which costs one more.
        """
        return self._drive(context.get_context(self._session, self._budget))

    def get_full(self) -> list[Message]:
        """Return every message of the session once, in order: hot and cold."""
        flow = read.get_full(self._session)
        return self._drive(then(flow, lambda turns: [from_turn(turn) for turn in turns]))

    def smart_context(
        self,
        query: str,
        query_embedding: VectorLike | None = None,
        recent_k: int = 10,
        disk_k: int = 5,
    ) -> dict[str, list[Message]]:
        """Return the newest messages of the context, and of all others the most relevant ones.

        The others are those on disk, those that wait in Redis to be moved there, and those
        that are in the context but not among the newest. One round trip; the archive is read.

        Args:
            query: what the relevant ones should be about.
            query_embedding: shape (dim,); used where older messages have embeddings,
                otherwise words are compared.
            recent_k: how many of the newest, within ``session_max_tokens`` as in :meth:`get_context`;
                those beyond the window come from the disk.
            disk_k: how many others, best first, none that is among the newest.

        Returns:
            ``{"recent": [...], "relevant": [...]}``.

        Raises:
            InvalidInput: the query is no text.
            ConfigError: ``recent_k`` or ``disk_k`` is no whole number, or ``recent_k`` is negative.
            DimensionMismatch: the vectors of the session have another dimension, all of them. Where
                some have (the model was changed), these messages are compared by words, after the others.
        """
        return self._drive(
            context.smart_context(self._session, self._budget, query, query_embedding, recent_k, disk_k)
        )

    def get_formatted_context(self, max_lines: int = 50) -> str:
        """Return the context as ``Role: text`` lines, 200 characters of each message."""
        flow = context.get_context(self._session, self._budget)
        return self._drive(then(flow, lambda messages: context.format_context(messages, max_lines)))

    def flush_to_disk(self) -> bool:
        """Move all of the session to disk now. Returns True; every failure is an error.

        Raises:
            RedisUnavailable: the messages cannot be read; they stay where they are.
        """
        return self._drive(then(whole.flush(self._session), lambda _: True))

    def clear(self) -> bool:
        """Empty the context. Every message stays in the history, whatever was archived before.

        After this ``get_context()`` is empty, and ``get_full()`` returns what it returned before.
        To remove messages for good, use :meth:`delete_session`.

        Raises:
            RedisUnavailable: nothing was done.
            ArchiveUnavailable: nothing was cleared; all messages are where they were.
        """
        return self._drive(then(whole.clear(self._session), lambda _: True))

    def delete_session(self) -> bool:
        """Remove the session from Redis and disk; False if there was none."""
        return self._drive(whole.delete(self._session))

    def get_stats(self) -> dict[str, Any]:
        """Return numbers about the session, and counters of this object and its daemon.

        ``counters`` are of this object, and ``process_counters`` of all objects that this process made for
        sessions of the store, and of its daemon: what to watch. Add them up over the processes.

        Never raises because Redis or the archive refuses: ``redis`` and ``archive`` then say
        what is wrong, ``hot_messages`` is None where Redis does not tell, and ``disk_turns`` and
        ``disk_size_bytes`` where the archive does not.
        """
        hot: int | LixCacheError
        try:
            hot = self._drive(known_length(self._session))
        except LixCacheError as error:
            hot = error
        return self._stats(hot)

    def health_check(self) -> dict[str, Any]:
        """Try Redis and the archive once. Returns their states; raises nothing for what it finds.

        Each is asked whether it takes writes: a replica and a server that is full are not ``ok``. Nothing is
        left behind. ``status`` is ``ok``, ``degraded`` (one of them refuses, and the policies
        ``on_redis_error`` and ``on_archive_error`` go on without it) or ``down``.
        """
        return self._drive.unchecked(health(self._store))


@speaks_for_itself
class AsyncHybridConversationCache(AsyncChanging):
    """Async variant of :class:`HybridConversationCache`: same arguments, same meaning.

    May be made outside a running loop and used from any; connections belong to the loop
    they were opened on. Files are touched in threads, never on the loop.
    """

    def _connect(self) -> None:
        self._drive = AsyncStoreDriver(self._store)

    add_message = awaited(HybridConversationCache.add_message)
    add_messages = awaited(HybridConversationCache.add_messages)
    get_last = awaited(HybridConversationCache.get_last)
    get_messages = awaited(HybridConversationCache.get_messages)
    get_context = awaited(HybridConversationCache.get_context)
    get_full = awaited(HybridConversationCache.get_full)
    smart_context = awaited(HybridConversationCache.smart_context)
    get_formatted_context = awaited(HybridConversationCache.get_formatted_context)
    flush_to_disk = awaited(HybridConversationCache.flush_to_disk)
    clear = awaited(HybridConversationCache.clear)
    delete_session = awaited(HybridConversationCache.delete_session)

    async def get_stats(self) -> dict[str, Any]:
        """See :meth:`HybridConversationCache.get_stats`."""
        hot: int | LixCacheError
        try:
            hot = await self._drive(known_length(self._session))
        except LixCacheError as error:
            hot = error
        return await in_disk_thread(lambda: self._stats(hot), may_wait_for_lock=True)

    health_check = awaited(HybridConversationCache.health_check)
