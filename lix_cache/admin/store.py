"""StoreAdmin: look after a store from the outside, session by session or as a whole."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from lix_cache.admin import buckets, files, flows, moving_over
from lix_cache.admin.doctor import examine
from lix_cache.admin.listing import session_page
from lix_cache.admin.results import Check, Evicted, FileCheck, Migrated, SessionInfo, SessionPage, StoreStats
from lix_cache.archive.compaction import Compacted
from lix_cache.arguments import config_of
from lix_cache.config import CacheConfig
from lix_cache.drivers.sync import SyncDriver
from lix_cache.errors import ArchiveError, InvalidMessage, RedisCommandError
from lix_cache.hot.endpoint import endpoint_for
from lix_cache.hot.old_keys import escape_pattern
from lix_cache.messages.message import check_session_id
from lix_cache.session import offload, reconcile, rounds, whole
from lix_cache.session.base import Session
from lix_cache.session.layout import StoreDriver, note_anew
from lix_cache.session.store import open_store

__all__ = ["StoreAdmin"]

#: Trouble that is one session's own; trouble with Redis is everybody's.
_OF_ONE_SESSION = (ArchiveError, InvalidMessage)

OnProgress = Callable[[int, int], None]


def silent(done: int, total: int) -> None:
    """Report progress to nobody."""


class StoreAdmin:
    """A store as its keeper sees it: all sessions, hot and cold, and the server behind.

    Reading here is no use of a session: it neither keeps one hot nor brings one back
    from disk. Nothing is sent before the first call.

    Args:
        config: settings; ``CacheConfig()`` by default.

    Every method that speaks to Redis raises RedisUnavailable, RedisAuthError,
    RedisDatabaseError or RedisCommandError for trouble with it, whatever
    ``on_redis_error`` says: half of a store must not look like all of it.

    .. versionadded:: 1.0.0
    """

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.config = config_of(config)
        self._store = open_store(self.config)
        self._drive = StoreDriver(self._store, notes=False)

    # -- looking -------------------------------------------------------------------------

    def sessions(self, limit: int | None = None) -> list[SessionInfo]:
        """Return the sessions, hot and cold together, the last used first.

        Args:
            limit: how many at most; None for all.
        """
        hot = self._drive(rounds.list_hot(self._store))
        cold = {meta["session_id"]: meta for meta in self._store.archive.list_sessions()}
        old = self._drive(moving_over.old_sessions(self._store, self._names_left()))
        last_use = {sid: meta["updated_at"] for sid, meta in cold.items()} | hot
        last_use |= {sid: max(left.last_use, last_use.get(sid, 0.0)) for sid, left in old.items()}
        newest_first = sorted(last_use, key=lambda sid: (-last_use[sid], sid))[:limit]
        sizes = self._drive(flows.window_sizes(self._store, (sid for sid in newest_first if sid in hot)))
        infos = (
            _info(sid, sizes.get(sid, (0, 0)), cold.get(sid, {}), last_use[sid], old.get(sid))
            for sid in newest_first
        )
        # A window whose life ended leaves its name in the index until the next round.
        return [info for info in infos if info.hot_messages or info.session_id in cold]

    def session_page(self, limit: int = 100, cursor: str | None = None) -> SessionPage:
        """Return a page of the sessions, hot and cold together, the last used first.

        A session that is used while you go from page to page moves to the front: it is on the first page
        then, and on no later one. Sessions that lix-open-cache left are not listed here. Costs one round trip
        for each bucket and two for what is on the page, and one listing of the archive.

        Args:
            limit: how many at most, 1,000 at most.
            cursor: of the page before; None for the first.

        Raises:
            ConfigError: the limit makes no sense.
            InvalidInput: that is no cursor.
        """
        return self._drive(session_page(self._store, limit, cursor))

    def session(self, session_id: str) -> SessionInfo | None:
        """Return one session, None if there is none of that name."""
        check_session_id(session_id)
        size = self._drive(flows.window_sizes(self._store, [session_id]))[session_id]
        meta = self._store.archive.get_metadata(session_id)
        left = self._drive(moving_over.old_sessions(self._store, [session_id])).get(session_id)
        if not size[0] and meta is None and left is None:
            return None
        keys = self._store.hot.keys
        score = self._drive(flows.ask(("ZSCORE", keys.active(keys.bucket(session_id)), session_id)))
        used = float(score) / 1000 if score else (meta or {}).get("updated_at", 0.0)
        return _info(session_id, size, meta or {}, max(used, left.last_use if left else 0.0), left)

    def session_ids(self) -> list[str]:
        """Return the ids of all sessions, hot and cold, sorted."""
        hot = self._drive(rounds.list_hot(self._store))
        cold = {meta["session_id"] for meta in self._store.archive.list_sessions()}
        return sorted(hot.keys() | cold | set(self._names_left()))

    def _names_left(self) -> list[str]:
        """Return the sessions that lix-open-cache left and that nobody has used since."""
        return self._drive(moving_over.names_left(self._store))[0]

    def stats(self) -> StoreStats:
        """Return the numbers of the whole store."""
        info = dict(self._drive(flows.ask(("INFO",))))
        hot = self._drive(rounds.list_hot(self._store))
        sizes = self._drive(flows.window_sizes(self._store, hot)).values()
        archive = self._store.archive
        names = files.session_files(archive)
        metas = archive.list_sessions()
        is_valkey = "valkey_version" in info
        return StoreStats(
            server="valkey" if is_valkey else "redis",
            server_version=str(info.get("valkey_version" if is_valkey else "redis_version", "unknown")),
            server_memory_bytes=int(info.get("used_memory", 0)),
            hot_sessions=sum(1 for messages, _ in sizes if messages),
            hot_messages=sum(messages for messages, _ in sizes),
            window_bytes=sum(size for _, size in sizes),
            archive_files=len(names),
            archive_turns=sum(meta["num_turns"] for meta in metas),
            archive_bytes=sum(meta["size_bytes"] for meta in metas),
            unreadable_files=len(files.unreadable(archive)),
            set_aside_files=len(files.set_aside(archive)),
            pending_sessions=len(archive.store.pending_sessions()),
            semantic_scopes=self._count_keys(self.config.semantic_redis_db, ":{", "}:sem:v:"),
            answer_scopes=self._count_keys(self.config.semantic_redis_db, ":{", "}:ans:h:"),
            url_embeddings=self._count_keys(self.config.url_cache_redis_db, ":url:", ""),
        )

    def _count_keys(self, db: int, before: str, after: str) -> int:
        """Count keys of this store: the prefix, then ``before``, anything, ``after``, anything."""
        start = escape_pattern(self.config.redis_key_prefix + before)
        pattern = f"{start}*{after}*" if after else f"{start}*"
        return len(SyncDriver(endpoint_for(self.config, db), self._store.clock)(flows.find_keys(pattern)))

    # -- moving to disk ------------------------------------------------------------------

    def evict(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[str] | None = None,
        on_progress: OnProgress = silent,
    ) -> Evicted:
        """Move sessions to disk now, as the eviction thread would in time.

        Args:
            idle_seconds: sessions idle for so long; 0 for all that are hot, the
                configured time by default.
            session_ids: these sessions instead, however busy they are.
            on_progress: called with the sessions done and the sessions in all.

        Returns:
            What moved. One session's failure does not keep the others from moving.
        """
        total, reunited = offload.Moved(), 0
        if session_ids is not None:
            chosen = [check_session_id(sid) for sid in session_ids]
            self._take_over(self._drive(moving_over.old_sessions(self._store, chosen)), total)
        else:
            reunited = self._reunite_pending(total)
            seconds = self.config.idle_seconds if idle_seconds is None else idle_seconds
            hot = self._drive(rounds.list_hot(self._store))
            chosen = self._drive(flows.idle_sessions(hot, seconds))
        on_progress(0, len(chosen))
        for number, group in enumerate(flows.groups(chosen, rounds.SESSIONS_AT_ONCE)):
            self._move(group, total)
            on_progress(number * rounds.SESSIONS_AT_ONCE + len(group), len(chosen))
        failed = {sid: f"{type(error).__name__}: {error}" for sid, error in total.failed.items()}
        return Evicted(total.sessions, total.messages, reunited, failed)

    def compact(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[str] | None = None,
        dry_run: bool = False,
        on_progress: OnProgress = silent,
    ) -> Compacted:
        """Merge the small frames of archived sessions into larger ones. Needs no Redis.

        Args:
            idle_seconds: sessions last moved to disk so long ago; the time after which an idle
                session is moved, by default.
            session_ids: these sessions alone.
            dry_run: change nothing, and say what would be.
            on_progress: called with the files done and the files in all.

        Raises: as :meth:`ConversationArchive.compact`.
        """
        return self._store.archive.compact(
            session_ids,
            idle_seconds=self.config.idle_seconds if idle_seconds is None else idle_seconds,
            dry_run=dry_run,
            on_progress=on_progress,
        )

    # -- moving over ---------------------------------------------------------------------

    def migrate(self, *, dry_run: bool = False, on_progress: OnProgress = silent) -> Migrated:
        """Move the live sessions of lix-open-cache 0.1.0 to disk: every one under this prefix.

        Each is moved by its first use anyway; this is for those that nobody uses before their
        life in Redis ends. May be stopped, repeated, and run beside processes of both packages.

        Args:
            dry_run: change nothing, and count what would move at most: the entries of the old
                lists. Of messages of one millisecond the old package kept the last, some have
                ended, and some are in the archive already.
            on_progress: called with the sessions done and the sessions in all.

        Returns:
            What moved. One session's failure does not keep the others from moving.
        """
        sessions, failed = self._drive(moving_over.names_left(self._store))
        if dry_run:
            left = self._drive(moving_over.old_sessions(self._store, sessions))
            return Migrated(len(left), sum(one.messages for one in left.values()), failed)
        moved = messages = 0
        for number, session_id in enumerate(sessions):
            on_progress(number, len(sessions))
            try:
                messages += self._drive(reconcile.take_over(self._session(session_id)))
                moved += 1
            except (*_OF_ONE_SESSION, RedisCommandError) as error:
                failed[session_id] = f"{type(error).__name__}: {error}"
        on_progress(len(sessions), len(sessions))
        return Migrated(moved, messages, failed)

    def migrate_buckets(self, *, dry_run: bool = False) -> Migrated:
        """Go over to ``redis_buckets``: move the windows of all other buckets to disk, and note the number.

        Stop the processes of the other number before. Those that run on stop with a LayoutMismatch at the
        next round of their daemon, and what they added until then waits for the next call. May be
        stopped and repeated.

        Args:
            dry_run: change nothing, and count what would move.

        Returns:
            What moved. Where a session could not be moved, the old number stays noted.
        """
        drive, store = self._drive.unchecked, self._store
        if dry_run:
            sizes = [drive(buckets.size(store, one)) for one in drive(buckets.strays(store))]
            return Migrated(len(sizes), sum(sizes))
        moved = messages = 0
        failed: dict[str, str] = {}
        # Looked for again after the note: a process that had not heard of it may have added more.
        for is_noted in (False, True):
            for stray in drive(buckets.strays(store)):
                try:
                    messages += drive(buckets.move(store, stray))
                    moved += 1
                except (*_OF_ONE_SESSION, RedisCommandError) as error:
                    failed[stray.session_id] = f"{type(error).__name__}: {error}"
            if failed or is_noted:
                # Under our number no process would find what could not be moved.
                break
            drive(note_anew(store))
        return Migrated(moved, messages, failed)

    def _take_over(self, left: Iterable[str], total: offload.Moved) -> None:
        for session_id in left:
            try:
                total.messages += self._drive(reconcile.take_over(self._session(session_id)))
            except _OF_ONE_SESSION as error:
                total.failed[session_id] = error

    # -- the trash -------------------------------------------------------------------------

    def trashed(self) -> list[dict[str, Any]]:
        """Return what has expired and can be taken back, as :meth:`ConversationArchive.trashed`."""
        return self._store.archive.trashed()

    def restore(self, session_id: str) -> bool:
        """Take a session back from the trash, as :meth:`ConversationArchive.restore`. Needs no Redis."""
        return self._store.archive.restore(session_id)

    def _move(self, group: list[str], total: offload.Moved) -> None:
        moved = self._drive(offload.move_to_disk(self._store, dict.fromkeys(group, 0)))
        total.messages += moved.messages
        if not moved.busy:
            total.sessions += moved.sessions
            total.failed.update(moved.failed)
            return
        # Somebody held a lock. The daemon would come back to it; we were asked for now.
        for session_id in group:
            try:
                total.messages += self._drive(whole.flush(self._session(session_id)))
                total.sessions += 1
            except _OF_ONE_SESSION as error:
                total.failed[session_id] = error

    def _reunite_pending(self, total: offload.Moved) -> int:
        reunited = 0
        for session_id in self._store.archive.store.pending_sessions():
            try:
                self._drive(reconcile.reconcile(self._session(session_id)))
                reunited += 1
            except _OF_ONE_SESSION as error:
                total.failed[session_id] = error
        return reunited

    def _session(self, session_id: str) -> Session:
        return Session(self._store, session_id, self.config.hot_window_size)

    # -- checking ------------------------------------------------------------------------

    def archive_files(self) -> list[str]:
        """Return the names of the sessions' files in the archive folder, sorted."""
        return files.session_files(self._store.archive)

    def set_aside_files(self) -> list[str]:
        """Return the names of the files that repairs put damaged bytes into, sorted."""
        return files.set_aside(self._store.archive)

    def unreadable_files(self) -> list[str]:
        """Return the names of the files that no session is listed for, because of their damage."""
        return files.unreadable(self._store.archive)

    def verify(self, session_id: str | None = None) -> Iterator[FileCheck]:
        """Check every byte of every archive file, or of one session's. Needs no Redis.

        Changes nothing. Damage is no error here: the results say it. Nothing is yielded
        for a session without a file.
        """
        if session_id is None:
            return files.check_files(self._store.archive, self.archive_files())
        name = files.file_of(self._store.archive, check_session_id(session_id))
        return files.check_files(self._store.archive, [] if name is None else [name])

    def doctor(self) -> list[Check]:
        """Look at everything that could lose or refuse a message. Raises nothing for what it finds."""
        return examine(self._store)


def _info(
    session_id: str,
    size: tuple[int, int],
    meta: dict[str, Any],
    last_use: float,
    left: moving_over.Left | None,
) -> SessionInfo:
    return SessionInfo(
        session_id=session_id,
        hot_messages=size[0] + (left.messages if left else 0),
        cold_messages=meta.get("num_turns", 0),
        last_use=last_use,
        redis_bytes=size[1],
        disk_bytes=meta.get("size_bytes", 0),
    )
