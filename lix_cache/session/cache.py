"""HybridConversationCache: memory for RAG, hot in Redis and cold on disk. Shells; see flow.py."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from lix_cache.archive import search
from lix_cache.archive.archive import ConversationArchive
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.drive import AsyncDriver, SyncDriver, in_disk_thread
from lix_cache.errors import ArchiveError, ConfigError, LixCacheError
from lix_cache.messages import Message, Turn, check_session_id, from_turn, message_text, new_turn
from lix_cache.session import flow
from lix_cache.session.evictor import Evictor, evictor_for
from lix_cache.session.health import health
from lix_cache.session.store import open_store

if TYPE_CHECKING:
    from lix_cache.archive.files import Files
    from lix_cache.vectors import VectorLike

__all__ = ["AsyncHybridConversationCache", "HybridConversationCache"]

_LINE_CHARACTERS = 200


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
        clock: Clock = SYSTEM_CLOCK,
        files: Files | None = None,
    ) -> None:
        config = config or CacheConfig()
        changes = {
            "hot_window_size": hot_window_size,
            "session_ttl_seconds": redis_ttl,
            "evict_after_minutes": evict_after_minutes,
        }
        given = {name: value for name, value in changes.items() if value is not None}
        self._config = config.replace(**given)
        self.session_id = check_session_id(session_id)
        self.hot_window_size = self._config.hot_window_size
        self.redis_ttl = self._config.session_ttl_seconds
        self._store = open_store(
            self._config, host=redis_host, port=redis_port, db=redis_db, clock=clock, files=files
        )
        self._session = flow.Session(self._store, session_id, self.hot_window_size)
        self.evictor: Evictor = evictor_for(self._store)
        # Counters and the memory of an outage belong to the store, not to one object.
        self._store.breaker = self.evictor.store.breaker
        self._store.outage_sessions = self.evictor.store.outage_sessions
        self._store.archive_state = self.evictor.store.archive_state
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
        return new_turn(role, content, metadata, embedding, timestamp, self._store.new_nonce())

    def _after_add(self, result: flow.AddResult) -> int:
        """Wake the daemon if it has work; return the messages now in the window."""
        self.evictor.added_to(self.session_id)
        if result.overflows:
            self.evictor.wake()
        return result.in_window

    def _relevant(
        self, context: list[Turn], recent: list[Turn], query: str, embedding: VectorLike | None, count: int
    ) -> list[Message]:
        """Search all that is older than the recent ones: by vector where there are vectors, else by words.

        What is hot but not recent counts as older, or it would be found nowhere.
        """
        recent_ids = {turn.id for turn in recent}
        history = flow.merged(self._store.archive.store.turns(self.session_id), context)
        older = [turn for turn in history if turn.id not in recent_ids]
        if embedding is not None and any(turn.vector is not None for turn in older):
            found = search.by_vector(older, embedding, count)
        else:
            found = search.by_text(older, query, count)
        return [from_turn(turn) for turn in found]

    def _stats(self, hot: int | LixCacheError) -> dict[str, Any]:
        archive = self._store.archive_state.trouble or "ok"
        meta: dict[str, Any] = {}
        try:
            meta = self._store.archive.store.metadata(self.session_id) or {}
        except ArchiveError as error:
            archive = f"{type(error).__name__}: {error}"
        failed = isinstance(hot, LixCacheError)
        counters = {**self._store.archive.store.counters, **self._store.counters}
        return {
            "session_id": self.session_id,
            "hot_messages": None if isinstance(hot, LixCacheError) else min(hot, self.hot_window_size),
            "hot_window_size": self.hot_window_size,
            "waiting_for_disk": None
            if isinstance(hot, LixCacheError)
            else max(0, hot - self.hot_window_size),
            "disk_turns": meta.get("num_turns", 0),
            "disk_size_bytes": meta.get("size_bytes", 0),
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


def format_context(messages: list[Message], max_lines: int) -> str:
    """Return the last messages as ``Role: text`` lines of at most 200 characters of text."""
    if max_lines <= 0:
        return ""
    lines = []
    for message in messages:
        text = message_text(message)
        if text:
            lines.append(f"{str(message.get('role', 'unknown')).capitalize()}: {text[:_LINE_CHARACTERS]}")
    return "\n".join(lines[-max_lines:])


def _recent(turns: list[Turn], count: int) -> list[Turn]:
    if count < 0:
        raise ConfigError(f"recent_k must not be negative, got {count}")
    return turns[-count:] if count else []


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
        self._drive = SyncDriver(self._store.endpoint, self._store.clock)

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
            ArchiveUnavailable: neither Redis nor the disk could take it, or the disk could
                not and ``durability="disk"``.
        """
        turn = self._new_turn(role, content, metadata, embedding, timestamp)
        return self._after_add(self._drive(flow.add(self._session, turn)))

    def get_context(self) -> list[Message]:
        """Return the newest messages, ``hot_window_size`` at most, oldest first.

        One round trip; a session that was moved to disk is read from there and brought
        back into Redis, which costs one more.
        """
        return [from_turn(turn) for turn in self._drive(flow.get_context(self._session))]

    def get_full(self) -> list[Message]:
        """Return every message of the session once, in order: hot and cold."""
        return [from_turn(turn) for turn in self._drive(flow.get_full(self._session))]

    def smart_context(
        self,
        query: str,
        query_embedding: VectorLike | None = None,
        recent_k: int = 10,
        disk_k: int = 5,
    ) -> dict[str, list[Message]]:
        """Return the newest messages and the most relevant older ones.

        Args:
            query: what the relevant ones should be about.
            query_embedding: shape (dim,); used where archived messages have embeddings,
                otherwise words are compared.
            recent_k: how many of the newest.
            disk_k: how many older ones, best first, none that is among the newest.

        Returns:
            ``{"recent": [...], "relevant": [...]}``.

        Raises:
            DimensionMismatch: the archived vectors have another dimension.
        """
        context = self._drive(flow.get_context(self._session))
        recent = _recent(context, recent_k)
        relevant = self._relevant(context, recent, query, query_embedding, disk_k)
        return {"recent": [from_turn(turn) for turn in recent], "relevant": relevant}

    def get_formatted_context(self, max_lines: int = 50) -> str:
        """Return the context as ``Role: text`` lines, 200 characters of each message."""
        return format_context(self.get_context(), max_lines)

    def flush_to_disk(self) -> bool:
        """Move all of the session to disk now. Returns True; every failure is an error.

        Raises:
            RedisUnavailable: the messages cannot be read; they stay where they are.
        """
        self._drive(flow.flush(self._session))
        return True

    def clear(self) -> bool:
        """Empty the context: drop what is only in Redis. What is archived stays history.

        After this ``get_context()`` is empty and ``get_full()`` returns the archived part.
        """
        self._drive(flow.clear(self._session))
        return True

    def delete_session(self) -> bool:
        """Remove the session from Redis and disk; False if there was none."""
        return self._drive(flow.delete(self._session))

    def get_stats(self) -> dict[str, Any]:
        """Return numbers about the session, and counters of this object and its daemon.

        Never raises because Redis or the archive refuses: ``redis`` and ``archive`` then say
        what is wrong, and ``hot_messages`` is None where Redis does not tell.
        """
        hot: int | LixCacheError
        try:
            hot = self._drive(flow.hot_length(self._session))
        except LixCacheError as error:
            hot = error
        return self._stats(hot)

    def health_check(self) -> dict[str, Any]:
        """Try Redis and the archive once. Returns their states; raises nothing for what it finds.

        ``status`` is ``ok``, ``degraded`` (one of them refuses, and the policies
        ``on_redis_error`` and ``on_archive_error`` go on without it) or ``down``.
        """
        return self._drive(health(self._store))


class AsyncHybridConversationCache(_Hybrid):
    """Async twin of :class:`HybridConversationCache`: same arguments, same meaning.

    May be made outside a running loop and used from any; connections belong to the loop
    they were opened on. Files are touched in threads, never on the loop.
    """

    def _connect(self) -> None:
        self._drive = AsyncDriver(self._store.endpoint)

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
        return self._after_add(await self._drive(flow.add(self._session, turn)))

    async def get_context(self) -> list[Message]:
        """See :meth:`HybridConversationCache.get_context`."""
        return [from_turn(turn) for turn in await self._drive(flow.get_context(self._session))]

    async def get_full(self) -> list[Message]:
        """See :meth:`HybridConversationCache.get_full`."""
        return [from_turn(turn) for turn in await self._drive(flow.get_full(self._session))]

    async def smart_context(
        self,
        query: str,
        query_embedding: VectorLike | None = None,
        recent_k: int = 10,
        disk_k: int = 5,
    ) -> dict[str, list[Message]]:
        """See :meth:`HybridConversationCache.smart_context`."""
        context = await self._drive(flow.get_context(self._session))
        recent = _recent(context, recent_k)
        relevant = await in_disk_thread(
            lambda: self._relevant(context, recent, query, query_embedding, disk_k), may_wait_for_lock=True
        )
        return {"recent": [from_turn(turn) for turn in recent], "relevant": relevant}

    async def get_formatted_context(self, max_lines: int = 50) -> str:
        """See :meth:`HybridConversationCache.get_formatted_context`."""
        return format_context(await self.get_context(), max_lines)

    async def flush_to_disk(self) -> bool:
        """See :meth:`HybridConversationCache.flush_to_disk`."""
        await self._drive(flow.flush(self._session))
        return True

    async def clear(self) -> bool:
        """See :meth:`HybridConversationCache.clear`."""
        await self._drive(flow.clear(self._session))
        return True

    async def delete_session(self) -> bool:
        """See :meth:`HybridConversationCache.delete_session`."""
        return await self._drive(flow.delete(self._session))

    async def get_stats(self) -> dict[str, Any]:
        """See :meth:`HybridConversationCache.get_stats`."""
        hot: int | LixCacheError
        try:
            hot = await self._drive(flow.hot_length(self._session))
        except LixCacheError as error:
            hot = error
        return await in_disk_thread(lambda: self._stats(hot), may_wait_for_lock=True)

    async def health_check(self) -> dict[str, Any]:
        """See :meth:`HybridConversationCache.health_check`."""
        return await self._drive(health(self._store))
