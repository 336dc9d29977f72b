"""StoreAdmin: look after a store from the outside, session by session or as a whole."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from lix_cache.admin import buckets, files, flows, moving_over, namespaces, offloading
from lix_cache.admin.doctor import examine
from lix_cache.admin.flows import OF_ONE_SESSION, session_of
from lix_cache.admin.infos import by_namespace, info_of, told_of
from lix_cache.admin.listing import every_session, session_page
from lix_cache.admin.progress import OnProgress, silent
from lix_cache.admin.results import (
    Check,
    Deleted,
    FileCheck,
    Migrated,
    Offloaded,
    SessionInfo,
    SessionPage,
    StoreStats,
)
from lix_cache.admin.totals import totals
from lix_cache.archive.compaction import Compacted
from lix_cache.arguments import config_of
from lix_cache.checks import check_call, check_count, check_duration, check_flag
from lix_cache.compat.caches import SemanticCacheRedis
from lix_cache.config import CacheConfig
from lix_cache.errors import LixCacheError, RedisCommandError, told
from lix_cache.messages.message import Message
from lix_cache.messages.session_key import (
    SessionName,
    ids_of,
    in_namespace,
    shown,
    stored_id,
    stored_start,
)
from lix_cache.messages.turn import from_turn
from lix_cache.session import read, reconcile, rounds, whole
from lix_cache.session.identity import adopt_archive
from lix_cache.session.layout import StoreDriver, is_of_other_prefixes
from lix_cache.session.store import open_store

__all__ = ["StoreAdmin"]


class StoreAdmin:
    """A store as its keeper sees it: all sessions, hot and cold, and the server behind.

    Reading here is no use of a session: it neither keeps one hot nor brings one back
    from disk. Nothing is sent before the first call.

    Args:
        config: settings; ``CacheConfig()`` by default.

    Every method that speaks to Redis raises a RedisError for trouble with it, whatever
    ``on_redis_error`` says: half of a store must not look like all of it.

    .. versionadded:: 1.0.0
    """

    def __init__(self, config: CacheConfig | None = None) -> None:
        self.config = config_of(config)
        self._store = open_store(self.config)
        self._drive = StoreDriver(self._store, notes=False)

    # -- looking -------------------------------------------------------------------------

    def sessions(self, limit: int | None = None, *, namespace: str | None = None) -> list[SessionInfo]:
        """Return the sessions, hot and cold together, the last used first.

        Args:
            limit: how many at most, none below 1; None for all.
            namespace: those of this one alone; of all, and those without one, by default.
        """
        most = None if limit is None else max(0, check_count("limit", limit))
        return self._drive(every_session(self._store, most, namespace))

    def session_page(
        self, limit: int = 100, cursor: str | None = None, *, namespace: str | None = None
    ) -> SessionPage:
        """Return a page of the sessions, hot and cold together, the last used first.

        A session that is used while you go from page to page moves to the front: it is on the first page
        then, and on no later one. One that moves to disk is on one of the pages; on two if it was read after
        its last message, because the place of a session on disk is that of its last message or change.
        Sessions that lix-open-cache left are not listed here. Costs one round trip for each bucket and two
        for what is on the page. The first page looks at the times of all files of an archive folder; those
        that follow, and all pages under ``archive_url``, read what is on them.

        Args:
            limit: how many at most, 1,000 at most.
            cursor: of the page before; None for the first.
            namespace: those of this namespace alone.

        Raises:
            ConfigError: the limit makes no sense.
            InvalidInput: that is no cursor.
        """
        return self._drive(session_page(self._store, limit, cursor, namespace))

    def session(self, session_id: SessionName) -> SessionInfo | None:
        """Return one session, or None if there is none."""
        stored = stored_id(session_id)
        size = self._drive(flows.window_sizes(self._store, [stored]))[stored]
        meta = self._store.cold.metadata(stored)
        left = self._drive(moving_over.old_sessions(self._store, [stored])).get(stored)
        if not size[0] and meta is None and left is None:
            return None
        keys = self._store.hot.keys
        score = self._drive(flows.ask(("ZSCORE", keys.active(keys.bucket(stored)), stored)))
        used = float(score) / 1000 if score else meta.last_use if meta else 0.0
        return info_of(stored, size, meta, max(used, left.last_use if left else 0.0), left)

    def messages(self, session_id: SessionName) -> list[Message]:
        """Return every message of a session once, in order, hot and cold; [] if there is no such session."""
        flow = read.peek(session_of(self._store, stored_id(session_id)))
        return [from_turn(turn) for turn in self._drive(flow)]

    def session_ids(self, *, namespace: str | None = None) -> list[SessionName]:
        """Return the ids of all sessions, hot and cold, sorted.

        Args:
            namespace: those of this one alone; of all, after those without one, by default.
        """
        start = None if namespace is None else stored_start(namespace)
        hot = self._drive(rounds.list_hot(self._store))
        cold = {meta.session_id for meta in self._store.cold.all_metadata()}
        found = hot.keys() | cold | set(self._names_left())
        return sorted((shown(one) for one in found if in_namespace(one, start)), key=by_namespace)

    def is_of_other_prefixes(self) -> bool:
        """Tell whether the archive is in use, and never was under this ``redis_key_prefix``.

        Sessions in Redis are found under one prefix alone. An archive knows no prefixes: a wrong one still
        lists what is on disk.
        """
        return is_of_other_prefixes(self._store)

    def _names_left(self) -> list[str]:
        return self._drive(moving_over.names_left(self._store))[0]

    def stats(self) -> StoreStats:
        """Return the totals of the store."""
        return totals(self._store, self.config, self._drive)

    # -- moving to disk ------------------------------------------------------------------

    def offload(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[SessionName] | None = None,
        namespace: str | None = None,
        on_progress: OnProgress = silent,
    ) -> Offloaded:
        """Move sessions to disk now, as the evictor would in time.

        Args:
            idle_seconds: sessions idle for so long; 0 for all that are hot, the
                configured time by default.
            session_ids: these sessions instead, even busy ones.
            namespace: of the idle sessions those of this namespace alone.
            on_progress: called with the number of sessions done and of all sessions.

        Returns:
            What moved. One session's failure does not keep the others from moving.
        """
        check_call("on_progress", on_progress)
        seconds = self._idle_seconds(idle_seconds)
        start = None if namespace is None else stored_start(namespace)
        if session_ids is not None:
            named = ids_of("session_ids", session_ids)
            return self._drive(offloading.offload_these(self._store, named, on_progress))
        return self._drive(offloading.offload_idle(self._store, seconds, start, on_progress))

    def compact(
        self,
        idle_seconds: float | None = None,
        *,
        session_ids: Iterable[SessionName] | None = None,
        dry_run: bool = False,
        on_progress: OnProgress = silent,
    ) -> Compacted:
        """Merge the small frames of archived sessions into larger ones. Needs no Redis.

        Args:
            idle_seconds: sessions last moved to disk so long ago; the time after which an idle
                session is moved, by default.
            session_ids: these sessions alone.
            dry_run: change nothing, and report what would change.
            on_progress: called with the number of files done and of all files.

        Raises: as :meth:`ConversationArchive.compact`.
        """
        check_call("on_progress", on_progress)
        return self._store.archive.compact(
            session_ids,
            idle_seconds=self._idle_seconds(idle_seconds),
            dry_run=dry_run,
            on_progress=on_progress,
        )

    # -- moving over ---------------------------------------------------------------------

    def migrate(self, *, dry_run: bool = False, on_progress: OnProgress = silent) -> Migrated:
        """Move the live sessions of lix-open-cache 0.1.0 to disk: every one under this prefix.

        Each is moved by its first use anyway; this is for those not used before their
        copy in Redis expires. May be stopped, repeated, and run beside processes of both packages.

        Args:
            dry_run: change nothing, and count what would move at most: the entries of the old
                lists. Of messages of one millisecond the old package kept the last, some have
                ended, and some are in the archive already.
            on_progress: called with the number of sessions done and of all sessions.

        Returns:
            What moved. One session's failure does not keep the others from moving.
        """
        check_flag("dry_run", dry_run)
        check_call("on_progress", on_progress)
        sessions, failed = self._drive(moving_over.names_left(self._store))
        if dry_run:
            left = self._drive(moving_over.old_sessions(self._store, sessions))
            return Migrated(len(left), sum(one.messages for one in left.values()), failed)
        moved = messages = 0
        for number, session_id in enumerate(sessions):
            on_progress(number, len(sessions))
            try:
                messages += self._drive(reconcile.take_over(session_of(self._store, session_id)))
                moved += 1
            except (*OF_ONE_SESSION, RedisCommandError) as error:
                failed[shown(session_id)] = told(error)
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
        check_flag("dry_run", dry_run)
        drive, store = self._drive.unchecked, self._store
        if dry_run:
            sizes = [drive(buckets.size(store, one)) for one in drive(buckets.strays(store))]
            return Migrated(len(sizes), sum(sizes))
        return drive(buckets.migrate(store))

    def adopt_archive(self) -> str | None:
        """Note in Redis that the sessions move to the configured archive, which has taken another's place.

        Returns:
            The UUID of the archive that Redis named before, for this ``redis_key_prefix``; None for none.
        """
        return self._drive.unchecked(adopt_archive(self._store))

    # -- the trash -------------------------------------------------------------------------

    def trashed(self, *, namespace: str | None = None) -> list[dict[str, Any]]:
        """Return what has expired and can be taken back, as :meth:`ConversationArchive.trashed`."""
        return self._store.archive.trashed(namespace)

    def restore(self, session_id: SessionName) -> bool:
        """Take a session back from the trash, as :meth:`ConversationArchive.restore`. Needs no Redis."""
        return self._store.archive.restore(session_id)

    def _idle_seconds(self, given: float | None) -> float:
        return self.config.idle_seconds if given is None else check_duration("idle_seconds", given)

    # -- deleting ------------------------------------------------------------------------

    def delete_namespace(self, namespace: str, *, on_progress: OnProgress = silent) -> Deleted:
        """Delete all sessions of a namespace, from Redis, disk and trash, and what was cached for them.

        Dropped are the answers of every SemanticCache whose context says this ``namespace``. Stop what uses
        the namespace before: a session that is used meanwhile may begin anew. May be stopped
        and repeated. Responses that SemanticCacheRedis holds for sessions without a message end with
        their own life. A damaged file whose name is a digest says nothing of its owner: it stays, and
        :meth:`unreadable_files` names it.

        Args:
            namespace: whose sessions.
            on_progress: called with the sessions done and the sessions in all.

        Returns:
            What was deleted. One session's failure does not keep the others from being deleted.

        Raises:
            InvalidSessionId: no namespace.
        """
        from lix_cache.semantic.cache import SemanticCache

        check_call("on_progress", on_progress)
        chosen = self._drive(namespaces.all_of(self._store, stored_start(namespace)))
        deleted, failed = 0, dict[str, LixCacheError]()
        for number, session_id in enumerate(chosen):
            on_progress(number, len(chosen))
            # Before the messages: without them nothing leads here when it is repeated.
            SemanticCacheRedis(shown(session_id), self.config).clear_session()
            try:
                deleted += self._drive(whole.delete(session_of(self._store, session_id)))
            except OF_ONE_SESSION as error:
                failed[session_id] = error
        on_progress(len(chosen), len(chosen))
        answers = SemanticCache(None, self.config, context={"namespace": namespace}).invalidate(context={})
        return Deleted(deleted, answers, told_of(failed))

    # -- checking ------------------------------------------------------------------------

    def archive_files(self, *, namespace: str | None = None) -> list[str]:
        """Return the names of the files of all sessions, or of those of a namespace, sorted."""
        return files.session_files(self._store.archive, namespace)

    def set_aside_files(self) -> list[str]:
        """Return the names of the files that repairs put damaged bytes into, sorted."""
        return files.set_aside(self._store.archive)

    def unreadable_files(self) -> list[str]:
        """Return the names of the files that no session is listed for, because of their damage."""
        return files.unreadable(self._store.archive)

    def verify(
        self,
        session_id: SessionName | None = None,
        *,
        namespace: str | None = None,
        after: str | None = None,
    ) -> Iterator[FileCheck]:
        """Check every byte of every archive file, or of those of one session or namespace. Needs no Redis.

        Changes nothing. Damage is no error here: the results say it. Nothing is yielded
        for a session without a file.

        Args:
            session_id: of this one alone.
            namespace: of the sessions of this one alone.
            after: a check that was stopped goes on behind this file, the ``file`` of its last result.
        """
        stored = None if session_id is None else stored_id(session_id)
        return files.checked(self._store.archive, stored, namespace, after)

    def doctor(self) -> list[Check]:
        """Look at everything that could lose or refuse a message. Raises nothing for what it finds."""
        return examine(self._store, self.config)
