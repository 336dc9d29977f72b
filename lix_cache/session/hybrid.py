"""What the sync and the async session memory are made of: everything but the waiting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from lix_cache.archive.archive import ConversationArchive
from lix_cache.arguments import config_with
from lix_cache.checks import check_count, kind_of
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig
from lix_cache.effects import Flow, then
from lix_cache.errors import ArchiveError, ConfigError, InvalidInput, InvalidMessage, LixCacheError, told
from lix_cache.hot.window import EVERYTHING
from lix_cache.messages.message import Message
from lix_cache.messages.session_key import SessionName, name_fields, shown, stored_id
from lix_cache.messages.turn import Turn, new_turn
from lix_cache.session import add, changes, history
from lix_cache.session.base import Session
from lix_cache.session.batch import AddResult, check_keys, check_size
from lix_cache.session.budget import Budget, estimate_tokens
from lix_cache.session.evictor import Evictor, evictor_for
from lix_cache.session.results import AddedMessages, StoredMessage, existing_id, given_id, stored, stored_one
from lix_cache.session.store import open_store
from lix_cache.vectors import check_dimension

if TYPE_CHECKING:
    from lix_cache.archive.facts import SessionMetadata
    from lix_cache.storage.files import Files
    from lix_cache.vectors import VectorLike

__all__ = ["Hybrid"]

_FIELDS = {"role", "content", "metadata", "timestamp", "embedding"}


class Hybrid:
    """What both variants are made of: everything but the waiting."""

    def __init__(
        self,
        session_id: SessionName,
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
        session = stored_id(session_id)
        # Not the bare id of a key: a cache that is made of it would be of another session.
        self.session_id = shown(session)
        self.hot_window_size = self._config.hot_window_size
        self.redis_ttl = self._config.session_ttl_seconds
        self._store = open_store(
            self._config, host=redis_host, port=redis_port, db=redis_db, clock=clock, files=files
        )
        if not callable(token_counter):
            raise ConfigError(f"token_counter must be callable, got {kind_of(token_counter)}")
        self._budget = Budget(self._config.session_max_tokens, token_counter)
        self.evictor: Evictor = evictor_for(self._store)
        # The memory of an outage belongs to the store, not to one object.
        self._store.share(self.evictor.store)
        self._session = Session(self._store, session, self.hot_window_size)
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

    def _new_turns(self, messages: Sequence[Message]) -> tuple[Turn, ...]:
        if isinstance(messages, (str, bytes, Mapping)) or not isinstance(messages, Sequence):
            raise InvalidMessage(f"messages must be a list of dicts, got {kind_of(messages)}")
        check_size(len(messages))
        return tuple(self._checked_turn(message, place) for place, message in enumerate(messages))

    def _checked_turn(self, message: Message, place: int) -> Turn:
        if not isinstance(message, dict):
            raise InvalidMessage(f"message {place} (from 0) must be a dict, got {kind_of(message)}")
        if "role" not in message or "content" not in message or not message.keys() <= _FIELDS:
            raise InvalidMessage(
                f"message {place} (from 0) must have role and content, and may have metadata, timestamp and "
                "embedding; what else there is belongs into its metadata"
            )
        return self._new_turn(**{"metadata": None, "timestamp": None, "embedding": None, **message})

    def _adding(self, messages: Sequence[Message], keys: Sequence[str] | None) -> Flow[AddedMessages]:
        turns = self._new_turns(messages)
        names = check_keys(keys, len(turns))
        if names is None:
            return then(add.add(self._session, *turns), self._added)
        return then(add.add_keyed(self._session, turns, names), self._added)

    def _added(self, result: AddResult) -> AddedMessages:
        in_window = self._after_add(result)
        return AddedMessages(tuple(map(str, result.ids)), result.added, in_window)

    def _editing(
        self,
        message_id: str,
        content: Any,
        role: str | None,
        metadata: dict[str, Any] | None,
        embedding: VectorLike | None,
    ) -> Flow[StoredMessage]:
        given = self._new_turn("" if role is None else role, content, metadata, embedding, None)

        def edited(turn: Turn) -> Turn:
            body = {**turn.body, "content": content}
            if role is not None:
                body["role"] = role
            if metadata is not None:
                body["metadata"] = metadata
            return Turn(turn.id, body, given.vector)

        return then(changes.edit(self._session, existing_id(message_id), edited), stored_one)

    def _replacing(self, messages: Sequence[Message], expected: str | None) -> Flow[AddedMessages]:
        if expected is not None and not isinstance(expected, str):
            raise InvalidInput("expected must be what get_revision() returned, or None")
        return then(changes.replace_all(self._session, self._new_turns(messages), expected), self._added)

    def _last(self, n: int) -> Flow[list[StoredMessage]]:
        return then(history.last(self._session, _at_least_0("n", n)), stored)

    def _between(self, limit: int | None, before: str | None, after: str | None) -> Flow[list[StoredMessage]]:
        count = EVERYTHING if limit is None else _at_least_0("limit", limit)
        ids = given_id("before", before), given_id("after", after)
        return then(history.between(self._session, count, *ids), stored)

    def _after_add(self, result: AddResult) -> int:
        """Wake the daemon if it has work; return the messages now in the window."""
        self.evictor.added_to(self._session.id)
        if result.overflows:
            self.evictor.wake_to_spill(self._session.id)
        return result.in_window

    def _stats(self, hot: int | LixCacheError) -> dict[str, Any]:
        archive = self._store.archive_state.trouble or "ok"
        cold = self._store.cold
        turns: int | None = None
        size: int | None = None
        try:
            meta: SessionMetadata | None = cold.metadata(self._session.id)
            turns, size = (meta.num_turns, meta.size_bytes) if meta else (0, 0)
        except ArchiveError as error:
            archive = told(error)
        redis, length = (told(hot), None) if isinstance(hot, LixCacheError) else ("ok", hot)
        counters = {**cold.counters, **cold.changes.counters, **self._store.counters}
        return {
            **name_fields(self.session_id),
            "hot_messages": None if length is None else min(length, self.hot_window_size),
            "hot_window_size": self.hot_window_size,
            "waiting_for_disk": None if length is None else max(0, length - self.hot_window_size),
            "disk_turns": turns,
            "disk_size_bytes": size,
            "redis": redis,
            "archive": archive,
            "evictor": {
                "alive": self.evictor.is_alive,
                "last_error": self.evictor.last_error,
                **self.evictor.store.counters,
            },
            "counters": counters,
            "process_counters": dict(self._store.process),
            "last_error": self._store.last_error,
        }


def _at_least_0(name: str, value: int) -> int:
    count = check_count(name, value)
    if count < 0:
        raise ConfigError(f"{name} must not be negative, got {count}")
    return count
