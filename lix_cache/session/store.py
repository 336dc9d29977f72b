"""What all caches of one store share: names, archive, counters, and whether Redis is there."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from struct import Struct

from lix_cache._log import logger
from lix_cache.archive.archive import ConversationArchive
from lix_cache.archive.cold_tier import ColdTier
from lix_cache.archive.facts import Extent
from lix_cache.archive.store import ArchiveStore
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import CacheConfig, SessionSettings
from lix_cache.hot.breaker import Breaker, new_breaker
from lix_cache.hot.endpoint import Endpoint, endpoint_for
from lix_cache.hot.keys import Keys
from lix_cache.hot.window import HotWindow
from lix_cache.messages.turn import NONCE_BYTES, ZERO_ID, MessageId, sign_of_id
from lix_cache.session.health import ArchiveState
from lix_cache.session.layout import Layout
from lix_cache.storage.files import Files

__all__ = ["Entrusted", "Seen", "SeenSessions", "SessionStore", "StoreIdentity", "open_store"]

_MOST_UNSETTLED = 1000
#: Of the time for an answer, what a replica may take. The server must answer in time all the same.
_SHARE_OF_REPLICAS = 0.1


@dataclass(frozen=True)
class StoreIdentity:
    """Which data a store is about: two configurations with the same identity share it."""

    endpoint: Endpoint
    prefix: str
    archive: str
    buckets: int


class Entrusted:
    """The newest messages of a session that this process added and that Redis alone has, as far as it knows.

    Bytes, because a process may know thousands of sessions. Without a lock: what two threads do at one moment
    may leave one of them out.
    """

    __slots__ = ("_records",)

    _RECORD = Struct("<QQ6s")

    def __init__(self) -> None:
        self._records = bytearray()

    def __len__(self) -> int:
        return len(self._records) // self._RECORD.size

    def note(self, message_id: MessageId, nonce: bytes) -> None:
        """Note a message that was added."""
        self._records += self._RECORD.pack(*message_id, nonce)

    def keep(self, most: int) -> None:
        """Forget all but the newest so many."""
        if len(self) > most:
            del self._records[: len(self._records) - most * self._RECORD.size]

    @property
    def newest(self) -> MessageId | None:
        """The largest id; None where there is no message. Threads may note theirs in another order."""
        return max(self.all().values(), default=None)

    def all(self) -> dict[bytes, MessageId]:
        """Return what there is, by nonce."""
        records = self._RECORD.iter_unpack(bytes(self._records))
        return {nonce: MessageId(ms, seq) for ms, seq, nonce in records}

    def forget(self, messages: Mapping[bytes, MessageId]) -> None:
        """Forget these, wherever they stand; not what has come since under the same nonce."""
        gone = {self._RECORD.pack(*given, nonce) for nonce, given in messages.items()}
        records, size = bytes(self._records), self._RECORD.size
        each = (records[at : at + size] for at in range(0, len(records), size))
        # In one step, and in place: what others add meanwhile comes after them.
        self._records[: len(records)] = b"".join(one for one in each if one not in gone)


@dataclass
class Seen:
    """What this process knows of a session, to be compared with what Redis says.

    Attributes:
        newest: the largest id that it added, read, or found in the archive. What is added
            comes after that, however the clocks of the machines differ. It never gets smaller.
        expected: where the window must end. Not beyond what there can be: what a dead server
            alone had is lost, and is not looked for at every read.
        cleared: messages up to here are history, no longer part of the context.
        deleted: messages up to here are gone.
        forgotten, contested, repeats: see Extent.
        unsettled: nonces of adds that were not answered: they may be carried out at any time.
        entrusted: what it added and Redis may lose.
        doubted: Redis may have lost of that what has an id up to here; None where it has not, as far as is
            known. A new object for each doubt.
        opened: the newest connection to Redis since which it has looked at the archive.
        compared: the newest connection over which the window was found to go on from there.
        taken_over: messages of the old package were moved.
        is_stale: the window held what was deleted or edited, when it was last read.
    """

    newest: MessageId = ZERO_ID
    expected: MessageId = ZERO_ID
    cleared: MessageId = ZERO_ID
    deleted: MessageId = ZERO_ID
    forgotten: MessageId = ZERO_ID
    contested: Mapping[bytes, MessageId] = field(default_factory=dict)
    repeats: frozenset[bytes] = frozenset()
    unsettled: set[bytes] = field(default_factory=set)
    entrusted: Entrusted = field(default_factory=Entrusted)
    doubted: MessageId | None = None
    opened: int = 0
    compared: int = 0
    taken_over: bool = False
    is_stale: bool = False
    # By process: a thread that counts at a fork never ends in the child.
    _counting: dict[int, object] = field(default_factory=dict)

    def saw(self, message_id: MessageId) -> None:
        """Note that there is a message of this id."""
        if message_id > self.newest:
            self.newest = message_id
        if message_id > self.expected:
            self.expected = message_id

    def doubt(self) -> MessageId | None:
        """Note that Redis may have lost what was entrusted to it. Returns the doubt where there was none."""
        before, newest = self.doubted, self.entrusted.newest
        if newest is None:
            return None
        made = self.doubted = MessageId(*(newest if before is None else max(before, newest)))
        return made if before is None else None

    def begin_counting(self, flow: object) -> bool:
        """Whether this flow may look for what is in doubt: one at a time does, until ``end_counting``."""
        return self._counting.setdefault(os.getpid(), flow) is flow

    def end_counting(self, flow: object) -> None:
        """Let others look, if it was this flow that did."""
        if self._counting.get(os.getpid()) is flow:
            del self._counting[os.getpid()]

    def leave_unsettled(self, nonce: bytes) -> None:
        """Note that an add was not answered. Of thousands that were not, some are forgotten."""
        if len(self.unsettled) >= _MOST_UNSETTLED:
            self.unsettled.pop()
        self.unsettled.add(nonce)

    def note(self, extent: Extent) -> None:
        """Take over what the archive knows."""
        self.saw(extent.newest)
        # What was taken out is not missed where the window ends before it.
        self.newest = max(self.newest, extent.given)
        self.cleared = max(self.cleared, extent.cleared)
        self.deleted = max(self.deleted, extent.deleted)
        self.forgotten = max(self.forgotten, extent.forgotten)
        self.contested, self.repeats = extent.contested, extent.repeats

    def now_under(self, message_id: MessageId) -> MessageId:
        """Return the id of a message that was stored under another one during an outage."""
        found = self.contested.get(sign_of_id(message_id), ZERO_ID) if self.contested else ZERO_ID
        return message_id if found == ZERO_ID else found

    def goes_beyond(self, last: MessageId) -> bool:
        """Whether a window that ends with this id lacks something, or holds only what was taken out."""
        return last < self.expected or (self.gone != ZERO_ID and last <= self.gone)

    @property
    def gone(self) -> MessageId:
        """Messages up to here are no longer part of the context."""
        return max(self.cleared, self.deleted)


class SeenSessions:
    """What a process knows of its sessions: of the latest ones, so that memory stays bounded."""

    _MOST = 10_000

    def __init__(self) -> None:
        self._seen: dict[str, Seen] = {}

    def of(self, session_id: str) -> Seen:
        """Return what is known of a session; caches that use it share it."""
        seen = self._seen.get(session_id)
        if seen is None:
            if len(self._seen) >= self._MOST:
                # A session that is forgotten is looked at in the archive once more.
                for known in list(self._seen)[: self._MOST // 4]:
                    self._seen.pop(known, None)
            seen = self._seen.setdefault(session_id, Seen())
        return seen


@dataclass
class SessionStore:
    """The hot and the cold tier of many sessions.

    Attributes:
        settings: of its sessions.
        endpoint: the Redis of the session windows.
        hot: commands on windows.
        cold: the archive, as flows see it.
        archive: the same archive, as applications see it.
        breaker: whether Redis was gone a moment ago; see :meth:`breaker_of`.
        archive_state: whether the archive takes what is written.
        counters: what happened, for ``get_stats``.
        process: the same, of all sessions of the store that this process uses.
        outage_sessions: sessions this process wrote to while Redis was away.
        seen: what it knows of its sessions.
        layout: whether its layout is known to be ours.
        salt: shared by all processes of the store; empty until it was needed.
        last_error: the last trouble that did not fail the call it happened in.
        clock: time.
        new_nonce: makes 6 random bytes.
    """

    settings: SessionSettings
    endpoint: Endpoint
    hot: HotWindow
    cold: ColdTier
    archive: ConversationArchive
    breaker: Breaker
    clock: Clock = SYSTEM_CLOCK
    counters: Counter[str] = field(default_factory=Counter)
    process: Counter[str] = field(default_factory=Counter)
    outage_sessions: set[str] = field(default_factory=set)
    seen: SeenSessions = field(default_factory=SeenSessions)
    archive_state: ArchiveState = field(default_factory=ArchiveState)
    layout: Layout = field(default_factory=Layout)
    salt: bytes = b""
    last_error: str | None = None
    new_nonce: Callable[[], bytes] = lambda: os.urandom(NONCE_BYTES)

    def breaker_of(self, session_id: str) -> Breaker:
        """Return the breaker of the server that a session is on: of several each has its own."""
        return self.breaker.of(self.hot.keys.window(session_id))

    def replica_ms(self, session_id: str) -> int | None:
        """Return how long an add waits for a replica; None for not at all."""
        if self.settings.durability != "replica":
            return None
        is_late = self.breaker_of(session_id).replicas.is_open
        return 1 if is_late else int(self.endpoint.timeout * 1000 * _SHARE_OF_REPLICAS)

    @property
    def identity(self) -> StoreIdentity:
        keys = self.hot.keys
        return StoreIdentity(self.endpoint, keys.prefix, self.cold.location, keys.buckets)

    def share(self, other: SessionStore) -> None:
        """Know what another description of the same store in this process knows."""
        self.breaker = other.breaker
        self.outage_sessions = other.outage_sessions
        self.seen = other.seen
        self.archive_state = other.archive_state
        self.layout = other.layout
        self.process = other.process

    def note_rollback(self) -> None:
        """Say that Redis went back to an older state of a session."""
        self.count("rolled_back")
        logger.warning("Redis went back to an older state of a session; what the archive has is kept")

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter; safe between threads."""
        # Counted in one call into C. A lock could be left held by an exception out of a
        # signal handler, or by a thread that was not forked.
        self.counters.update(repeat(name, by))
        self.process.update(repeat(name, by))


def open_store(
    config: CacheConfig,
    *,
    host: str | None = None,
    port: int | None = None,
    db: int | None = None,
    clock: Clock = SYSTEM_CLOCK,
    files: Files | None = None,
) -> SessionStore:
    """Describe the store a configuration means. Nothing is opened or sent.

    Args:
        config: settings.
        host: wins over the configuration.
        port: wins over the configuration.
        db: wins over ``session_redis_db``.
        clock: time.
        files: the file system.
    """
    redis, session, archived = config.redis, config.session, config.archive
    endpoint = endpoint_for(redis, session.redis_db if db is None else db, host=host, port=port)
    archive = ConversationArchive(
        archived.place,
        archived.ttl_days,
        codec=archived.codec,
        dictionary=archived.dictionary,
        on_damage=archived.on_damage,
        lock_timeout_seconds=archived.lock_timeout_seconds,
        trash_days=archived.trash_days,
        max_frame_mb=archived.max_frame_mb,
        clock=clock,
        files=files,
    )
    if not isinstance(archive.store, ArchiveStore):
        # As many logs as buckets, if it is made now: what moves together is one commit.
        archive.store.wanted_shards = redis.buckets
        if archived.cache_mb:
            archive.store.cache_frames(
                os.path.join(archived.cache_folder, ".frames"), archived.cache_mb << 20
            )
    return SessionStore(
        settings=session,
        endpoint=endpoint,
        hot=HotWindow(
            keys=Keys(redis.key_prefix, redis.buckets),
            ttl_ms=session.ttl_seconds * 1000,
            batch=session.batch,
            coded=session.is_coded,
        ),
        cold=archive.store,
        archive=archive,
        breaker=new_breaker(endpoint, redis.retry_seconds, clock),
        clock=clock,
        # The old package knew no clusters.
        layout=Layout(meets_old=endpoint.kind != "cluster"),
    )
