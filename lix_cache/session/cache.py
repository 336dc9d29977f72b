"""HybridConversationCache: memory for RAG, hot in Redis and cold on disk. Shells; see flow.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lix_cache.archive.archive import ConversationArchive
from lix_cache.arguments import config_with
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.drivers.threads import in_disk_thread
from lix_cache.errors import ArchiveError, ConfigError, LixCacheError
from lix_cache.messages.message import Message, check_session_id
from lix_cache.messages.turn import Turn, from_turn, new_turn
from lix_cache.session import add, context, read, whole
from lix_cache.session.base import Session, hot_length
from lix_cache.session.budget import Budget, estimate_tokens
from lix_cache.session.evictor import Evictor, evictor_for
from lix_cache.session.health import health
from lix_cache.session.layout import AsyncStoreDriver, StoreDriver
from lix_cache.session.store import open_store
from lix_cache.vectors import check_dimension

if TYPE_CHECKING:
    from lix_cache.archive.cold_tier import SessionMetadata
    from lix_cache.storage.files import Files
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncHybridConversationCache", "HybridConversationCache"]


class _Hybrid:
    """What both colours are made of: everything but the waiting."""

    def __init__(
        self,
        session_id: str,
        config: CacheConfig | None = None,
        *,
        hot_window_size: int | None = None,
        redis_ttl: int | None = None,
        redis_host: str | None = None,
        redis_port: int | None = None,
        redis_db: int | None = None,
        evict_after_minutes: float | None = None,
        token_counter: Callable[[Message], int] = estimate_tokens,
        clock: Clock = SYSTEM_CLOCK,
        files: Files | None = None,
    ) -> None:
        self._config = config_with(
            config,
            hot_window_size=("hot_window_size", hot_window_size),
            redis_ttl=("session_ttl_seconds", redis_ttl),
            evict_after_minutes=("evict_after_minutes", evict_after_minutes),
        )
        self.session_id = check_session_id(session_id)
        self.hot_window_size = self._config.hot_window_size
        self.redis_ttl = self._config.session_ttl_seconds
        self._store = open_store(
            self._config, host=redis_host, port=redis_port, db=redis_db, clock=clock, files=files
        )
        if not callable(token_counter):
            raise ConfigError(f"token_counter must be callable, got a {type(token_counter).__name__}")
        self._budget = Budget(self._config.session_max_tokens, token_counter)
        self.evictor: Evictor = evictor_for(self._store)
        # The memory of an outage belongs to the store, not to one object.
        self._store.share(self.evictor.store)
        self._session = Session(self._store, session_id, self.hot_window_size)
        self._connect()
        self.evictor.use(self._config.idle_seconds, flush_on_exit=self._config.flush_on_exit)
        if self._config.evictor_enabled:
            self.evictor.start()

    def _connect(self) -> None:
        """Make the driver. Sends nothing."""
        raise NotImplementedError

    @property
    def archive(self) -> ConversationArchive:
        """The cold tier of all sessions of this store."""
        return self._store.archive

    def _new_turn(
        self,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None,
        embedding: VectorLike | None,
        timestamp: float | None,
    ) -> Turn:
        turn = new_turn(role, content, metadata, embedding, timestamp, self._store.new_nonce())
        if turn.vector is not None:
            check_dimension(turn.vector.dim, self._config.embedding_dim, "the session (embedding_dim)")
        return turn

    def _after_add(self, result: add.AddResult) -> int:
        """Wake the daemon if it has work; return the messages now in the window."""
        self.evictor.added_to(self.session_id)
        if result.overflows:
            self.evictor.wake()
        return result.in_window

    def _stats(self, hot: int | LixCacheError) -> dict[str, Any]:
        archive = self._store.archive_state.trouble or "ok"
        meta: SessionMetadata | None = None
        try:
            meta = self._store.cold.metadata(self.session_id)
        except ArchiveError as error:
            archive = f"{type(error).__name__}: {error}"
        failed = isinstance(hot, LixCacheError)
        cold = self._store.cold
        counters = {**cold.counters, **cold.changes.counters, **self._store.counters}
        return {
            "session_id": self.session_id,
            "hot_messages": None if isinstance(hot, LixCacheError) else min(hot, self.hot_window_size),
            "hot_window_size": self.hot_window_size,
            "waiting_for_disk": None
            if isinstance(hot, LixCacheError)
            else max(0, hot - self.hot_window_size),
            "disk_turns": 0 if meta is None else meta.num_turns,
            "disk_size_bytes": 0 if meta is None else meta.size_bytes,
            "redis": f"{type(hot).__name__}: {hot}" if failed else "ok",
            "archive": archive,
            "evictor": {
                "alive": self.evictor.is_alive,
                "last_error": self.evictor.last_error,
                **self.evictor.store.counters,
            },
            "counters": counters,
            "last_error": self._store.last_error,
        }


class HybridConversationCache(_Hybrid):
    """The memory of one session: the newest messages in Redis, all of it on disk in time.

    Cheap to make: connections, archive and eviction thread are shared by all caches of
    the process, and nothing is sent before the first call. Safe between threads.

    Args:
        session_id: any non-empty text.
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
        return self._after_add(self._drive(add.add(self._session, turn)))

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
        return [from_turn(turn) for turn in self._drive(read.get_full(self._session))]

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
        return context.format_context(self.get_context(), max_lines)

    def flush_to_disk(self) -> bool:
        """Move all of the session to disk now. Returns True; every failure is an error.

        Raises:
            RedisUnavailable: the messages cannot be read; they stay where they are.
        """
        self._drive(whole.flush(self._session))
        return True

    def clear(self) -> bool:
        """Empty the context. Every message stays in the history, whatever was archived before.

        After this ``get_context()`` is empty, and ``get_full()`` returns what it returned before.
        To remove messages for good, use :meth:`delete_session`.

        Raises:
            RedisUnavailable: nothing was done.
            ArchiveUnavailable: nothing was cleared; all messages are where they were.
        """
        self._drive(whole.clear(self._session))
        return True

    def delete_session(self) -> bool:
        """Remove the session from Redis and disk; False if there was none."""
        return self._drive(whole.delete(self._session))

    def get_stats(self) -> dict[str, Any]:
        """Return numbers about the session, and counters of this object and its daemon.

        Never raises because Redis or the archive refuses: ``redis`` and ``archive`` then say
        what is wrong, and ``hot_messages`` is None where Redis does not tell.
        """
        hot: int | LixCacheError
        try:
            hot = self._drive(hot_length(self._session))
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


class AsyncHybridConversationCache(_Hybrid):
    """Async twin of :class:`HybridConversationCache`: same arguments, same meaning.

    May be made outside a running loop and used from any; connections belong to the loop
    they were opened on. Files are touched in threads, never on the loop.
    """

    def _connect(self) -> None:
        self._drive = AsyncStoreDriver(self._store)

    async def add_message(
        self,
        role: str,
        content: Any,
        metadata: dict[str, Any] | None = None,
        embedding: VectorLike | None = None,
        *,
        timestamp: float | None = None,
    ) -> int:
        """See :meth:`HybridConversationCache.add_message`."""
        turn = self._new_turn(role, content, metadata, embedding, timestamp)
        return self._after_add(await self._drive(add.add(self._session, turn)))

    async def get_context(self) -> list[Message]:
        """See :meth:`HybridConversationCache.get_context`."""
        return await self._drive(context.get_context(self._session, self._budget))

    async def get_full(self) -> list[Message]:
        """See :meth:`HybridConversationCache.get_full`."""
        return [from_turn(turn) for turn in await self._drive(read.get_full(self._session))]

    async def smart_context(
        self,
        query: str,
        query_embedding: VectorLike | None = None,
        recent_k: int = 10,
        disk_k: int = 5,
    ) -> dict[str, list[Message]]:
        """See :meth:`HybridConversationCache.smart_context`."""
        return await self._drive(
            context.smart_context(self._session, self._budget, query, query_embedding, recent_k, disk_k)
        )

    async def get_formatted_context(self, max_lines: int = 50) -> str:
        """See :meth:`HybridConversationCache.get_formatted_context`."""
        return context.format_context(await self.get_context(), max_lines)

    async def flush_to_disk(self) -> bool:
        """See :meth:`HybridConversationCache.flush_to_disk`."""
        await self._drive(whole.flush(self._session))
        return True

    async def clear(self) -> bool:
        """See :meth:`HybridConversationCache.clear`."""
        await self._drive(whole.clear(self._session))
        return True

    async def delete_session(self) -> bool:
        """See :meth:`HybridConversationCache.delete_session`."""
        return await self._drive(whole.delete(self._session))

    async def get_stats(self) -> dict[str, Any]:
        """See :meth:`HybridConversationCache.get_stats`."""
        hot: int | LixCacheError
        try:
            hot = await self._drive(hot_length(self._session))
        except LixCacheError as error:
            hot = error
        return await in_disk_thread(lambda: self._stats(hot), may_wait_for_lock=True)

    async def health_check(self) -> dict[str, Any]:
        """See :meth:`HybridConversationCache.health_check`."""
        return await self._drive.unchecked(health(self._store))
