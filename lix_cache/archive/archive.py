"""ConversationArchive: conversations on disk alone, one compressed file per session."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import NoneType
from typing import TYPE_CHECKING, Any

from lix_cache import checks
from lix_cache.archive import search
from lix_cache.archive.compaction import Compacted
from lix_cache.archive.expiry import DAY, Now
from lix_cache.archive.facts import CompactedSession, for_users
from lix_cache.archive.index import MAX_DECODED
from lix_cache.archive.store import ArchiveStore
from lix_cache.archive.verify import ArchiveReport
from lix_cache.clock import SYSTEM_CLOCK, Clock
from lix_cache.config import check_setting
from lix_cache.config.places import is_url
from lix_cache.errors import ArchiveError, InvalidType, LixCacheError
from lix_cache.messages.message import Message
from lix_cache.messages.session_key import SessionName, ids_of, in_namespace, shown, stored_id, stored_start
from lix_cache.messages.turn import ZERO_ID, from_turn, to_turn
from lix_cache.storage.files import Files

if TYPE_CHECKING:
    from lix_cache.archive.objects.tier import ObjectTier
    from lix_cache.vectors import VectorLike

__all__ = ["ConversationArchive"]

#: A session without an append for so long has gone cold.
IDLE_SECONDS = 7200.0
#: How long expired sessions can be restored: time to notice a wrong clock.
TRASH_DAYS = 7.0
#: What a frame may decode to, by the format.
MAX_FRAME_MB = MAX_DECODED >> 20


class ConversationArchive:
    """Conversations in compressed, append-only files, one per session. Needs no Redis.

    Safe to use from any number of threads and processes on one folder. An append
    returns when the turns are on disk; its cost does not depend on the length of the file (but
    for 6 bytes of each message that Redis may hold as well: docs/archive-format.md).

    Args:
        archive_dir: folder of the files; made at the first append. Or ``s3://bucket/prefix`` and its like.
        session_ttl_days: age since a session's last sign of life, after which
            :meth:`cleanup_expired` moves it to the trash.
        codec: ``huffman``, ``deflate``, ``lz4`` (extra), ``zstd`` (extra) or ``stored``.
        dictionary: a dictionary of your own for ``huffman`` (``lix-cache codec train`` makes one).
            Files written with it are read only where it is known.
        on_damage: ``recover`` returns what is intact, counts the rest in
            ``store.counters`` and logs it; ``raise`` raises ArchiveCorrupt.
        lock_timeout_seconds: how long to wait for another writer of the session.
        trash_days: how long expired sessions stay in the trash, from which :meth:`restore`
            brings them back; 0 removes them at once.
        max_frame_mb: a frame that decodes to more is not read (ArchiveTooLarge): lower it for
            files from untrusted sources.
        clock: where the time comes from.
        files: the file system.

    Attributes:
        store: the files behind it; not part of the stable surface.

    Raises:
        ConfigError: an argument is invalid.
    """

    def __init__(
        self,
        archive_dir: str | os.PathLike[str],
        session_ttl_days: float = 30,
        *,
        codec: str = "huffman",
        dictionary: str | os.PathLike[str] | None = None,
        on_damage: str = "recover",
        lock_timeout_seconds: float = 30,
        trash_days: float = TRASH_DAYS,
        max_frame_mb: int = MAX_FRAME_MB,
        clock: Clock = SYSTEM_CLOCK,
        files: Files | None = None,
    ) -> None:
        checks.check_seconds("session_ttl_days", session_ttl_days)
        checks.check_seconds("lock_timeout_seconds", lock_timeout_seconds)
        check_setting("archive_trash_days", trash_days, "trash_days")
        check_setting("archive_max_frame_mb", max_frame_mb, "max_frame_mb")
        check_setting("archive_codec", codec, "codec")
        self.archive_dir = checks.check_path("archive_dir", archive_dir)
        self.session_ttl_days = session_ttl_days
        self.trash_days = trash_days
        table = None if dictionary is None else checks.check_path("dictionary", dictionary)
        options: Any = {"codec": codec, "dictionary": table, "on_damage": on_damage, "clock": clock}
        options |= {"lock_timeout_seconds": lock_timeout_seconds, "max_frame_bytes": max_frame_mb << 20}
        self.store: ArchiveStore | ObjectTier
        if is_url(self.archive_dir):
            from lix_cache.archive.objects.tier import ObjectTier
            from lix_cache.storage.objects import open_bucket

            self.store = ObjectTier(open_bucket(self.archive_dir, files), **options)
        else:
            self.store = ArchiveStore(self.archive_dir, files=files, **options)

    def append_turn(self, session_id: SessionName, turn: Message) -> bool:
        """Append one turn; it is on disk when this returns.

        Args:
            session_id: any non-empty text, or a :class:`~lix_cache.SessionKey`.
            turn: a dict of JSON values; an ``"embedding"`` of numbers is kept as a
                binary vector.

        Returns:
            True; every failure is an error.

        Raises:
            InvalidSessionId, InvalidMessage, InvalidVector: refused, nothing written.
            ArchiveUnavailable: disk full, no permission.
            ArchiveBusy: another writer kept the lock for too long.
        """
        return self.append_turns(session_id, [turn])

    def append_turns(self, session_id: SessionName, turns: Sequence[Message]) -> bool:
        """Append turns as one frame: after a crash all of them are there, or none.

        Raises: as :meth:`append_turn`.
        """
        stored = stored_id(session_id)
        # Checked before the lock is taken, and before anything is written.
        checked = [to_turn(turn, ZERO_ID) for turn in checks.check_rows("turns", turns)]
        if checked:
            with self.store.lock(stored):
                self.store.append_locked(stored, self.store.number_locked(stored, checked))
        return True

    def load_all(self, session_id: SessionName) -> list[Message] | None:
        """Return every turn, oldest first; None if there is no such session.

        Raises:
            ArchiveCorrupt: damaged beyond recovery, or damaged at all and
                ``on_damage="raise"``.
        """
        stored = stored_id(session_id)
        found = self.store.turns(stored)
        if not found:
            if not self.store.exists(stored):
                return None
            found = self.store.turns(stored)  # it may have come since it was read
        return [from_turn(turn) for turn in found]

    def load_recent(self, session_id: SessionName, n: int) -> list[Message]:
        """Return the last ``n`` turns, oldest first, reading no more than their frames.

        Raises:
            ConfigError: ``n`` is no whole number.
            ArchiveCorrupt: as :meth:`load_all`.
        """
        count = checks.check_count("n", n)
        return [from_turn(turn) for turn in self.store.recent(stored_id(session_id), count)]

    def search_by_text(self, session_id: SessionName, query: str, top_k: int = 5) -> list[Message]:
        """Return the turns that share most words with the query, best first.

        Turns that share none are left out. Scripts without spaces are compared
        character by character.

        Raises:
            InvalidInput: the query is no text.
            ConfigError: ``top_k`` is no whole number.
            ArchiveCorrupt: as :meth:`load_all`.
        """
        words, count = search.check_query(query), checks.check_count("top_k", top_k)
        turns = self.store.turns(stored_id(session_id))
        return [from_turn(turn) for turn in search.by_text(turns, words, count)]

    def search_by_embedding(
        self, session_id: SessionName, query_embedding: VectorLike, top_k: int = 5
    ) -> list[Message]:
        """Return the turns whose embedding is nearest by cosine, best first.

        Args:
            session_id: the session.
            query_embedding: shape (dim,).
            top_k: how many at most.

        Raises:
            InvalidVector: not a usable vector.
            DimensionMismatch: the session has vectors, but none of that dimension.
            ConfigError: ``top_k`` is no whole number.
            ArchiveCorrupt: as :meth:`load_all`.
        """
        count = checks.check_count("top_k", top_k)
        turns = self.store.turns(stored_id(session_id))
        return [from_turn(turn) for turn in search.by_vector(turns, query_embedding, count)]

    def delete_session(self, session_id: SessionName) -> bool:
        """Remove a session from disk for good, from the trash as well; False if there was none."""
        stored = stored_id(session_id)
        with self.store.lock(stored):
            return self.store.delete_locked(stored)

    def session_exists(self, session_id: SessionName) -> bool:
        """Whether there is a file of that session."""
        return self.store.exists(stored_id(session_id))

    def get_metadata(self, session_id: SessionName) -> dict[str, Any] | None:
        """Return the metadata, in two small reads; None if there is no such session.

        Returns:
            ``session_id`` (a :class:`~lix_cache.SessionKey` where it has a namespace),
            ``created_at`` and ``updated_at`` (Unix seconds), ``num_turns``, ``size_bytes``.

        Raises:
            ArchiveCorrupt: nothing in the file is intact.
        """
        found = self.store.metadata(stored_id(session_id))
        return None if found is None else for_users(found)

    def cleanup_expired(self, keep: Callable[[SessionName], bool] | None = None) -> int:
        """Move every session without a sign of life for ``session_ttl_days`` to the trash.

        Signs of life are its last append, its largest id and the time of its file, and the time
        is the earlier of this machine's and the file system's: one clock that is wrong expires
        nothing (docs/archive-format.md, "Expiry and trash"). What has been in the trash for
        ``trash_days`` is removed for good. Sessions that are being written to, and those that
        cannot be moved, are left for the next time.

        Args:
            keep: called with the id of each session found expired, under its lock;
                True spares it.

        Returns:
            How many were moved.
        """
        now = self.store.now()
        moved = 0
        for session_id in self.store.expired_sessions(self._life, now):
            try:
                lock = self.store.try_lock(session_id)
                if lock is None:
                    continue
                with lock:
                    if not (keep and keep(shown(session_id))):
                        moved += self.store.expire_locked(
                            session_id, self._life, now, to_trash=self.trash_days > 0
                        )
            except ArchiveError as error:
                self.store.note_not_expired(session_id, error)
        self.store.empty_trash(now, self.trash_days)
        return moved

    def expired_sessions(self, now: Now | None = None) -> list[SessionName]:
        """Return the sessions that have given no sign of life for ``session_ttl_days``."""
        if not isinstance(now, (Now, NoneType)):
            raise InvalidType(f"now must be what store.now() returned, or None, {checks.given(now)}")
        return [shown(one) for one in self.store.expired_sessions(self._life, now or self.store.now())]

    def trashed(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """Return what is in the trash, the latest first.

        Args:
            namespace: as :meth:`list_sessions`.

        Returns:
            ``session_id``, ``trashed_at`` (Unix seconds) and ``size_bytes`` of each.
        """
        start = None if namespace is None else stored_start(namespace)
        found = [one for one in self.store.trashed() if in_namespace(one.session_id, start)]
        return [for_users(one) for one in sorted(found, key=lambda one: -one.trashed_at)]

    def restore(self, session_id: SessionName) -> bool:
        """Restore a session from the trash; False if it is not there.

        Its time to live starts over. If it has been written to since, both are merged by id.

        Raises:
            ArchiveCorrupt: nothing in it is intact; it stays in the trash.
        """
        stored = stored_id(session_id)
        with self.store.lock(stored):
            return self.store.restore_locked(stored)

    def compact(
        self,
        session_ids: Iterable[SessionName] | None = None,
        *,
        idle_seconds: float = IDLE_SECONDS,
        dry_run: bool = False,
        on_progress: Callable[[int, int], None] | None = None,
    ) -> Compacted:
        """Merge the small frames of sessions that are idle into larger ones.

        Every message stays, under its id; a stop at any moment leaves a file as it was
        or as it should be. Damaged bytes are set aside, as the next append would do. On object storage,
        ``file://`` included, small sessions move together into objects of many.

        Args:
            session_ids: these sessions, each by itself; all by default.
            idle_seconds: sessions last appended to less long ago, and those that a process is
                writing to, are left alone.
            dry_run: change nothing, and report what would change.
            on_progress: called with the number of files done and of all files.

        Returns:
            How many files, frames and bytes there were, and are.

        Raises:
            ArchiveUnavailable: the system refused; what was done so far is done.

        .. versionadded:: 1.0.0
        """
        checks.check_duration("idle_seconds", idle_seconds)
        checks.check_flag("dry_run", dry_run)
        if on_progress is not None:
            checks.check_call("on_progress", on_progress)
        every = (meta.session_id for meta in self.store.all_metadata())
        chosen = list(dict.fromkeys(every if session_ids is None else ids_of("session_ids", session_ids)))
        total = Counter[str]()
        failed: dict[SessionName, str] = {}
        done = self.store.compact_many(
            chosen, idle_seconds=idle_seconds, dry_run=dry_run, bundle=session_ids is None
        )
        for number, (session_id, result) in enumerate(done):
            if on_progress:
                on_progress(number, len(chosen))
            if isinstance(result, LixCacheError):
                failed[shown(session_id)] = f"{type(result).__name__}: {result}"
            else:
                total.update(_counted(result))
        if on_progress:
            on_progress(len(chosen), len(chosen))
        return Compacted(files=len(chosen), failed=failed, **total)

    def on_change(self, hook: Callable[[frozenset[SessionName]], None]) -> Callable[[], None]:
        """Have a hook told of the sessions that this process changes in the archive.

        For what follows the archive, a search index for one. The hook is called in a thread of its own,
        after what it hears of is durable; its errors are counted (``store.changes.counters``), logged, and
        lose nothing. It hears of its own process alone, and of nothing after a crash: compare
        :meth:`stamps` at the start and from time to time.

        Args:
            hook: called with a frozenset of session ids; with an empty one where there were too
                many to remember, so that it is time to compare the stamps.

        Returns:
            A function that ends it.

        .. versionadded:: 1.0.0
        """
        return self.store.changes.follow(lambda changed: hook(frozenset(map(shown, changed))))

    def stamps(self) -> dict[SessionName, str]:
        """Return for each session a stamp that is another after each change of it. One listing.

        Keep the stamp beside what you made of a session; take it before you read the session.

        .. versionadded:: 1.0.0
        """
        return {shown(one.session_id): one.stamp for one in self.store.stamps()}

    @property
    def _life(self) -> float:
        return self.session_ttl_days * DAY

    def list_sessions(self, namespace: str | None = None) -> list[dict[str, Any]]:
        """Return the metadata of every session, as :meth:`get_metadata`, in no particular order.

        A file of which nothing can be read is logged, counted and left out;
        :meth:`verify_all` says more.

        Args:
            namespace: the sessions of this one alone; of all, and those without one, by default.
        """
        start = None if namespace is None else stored_start(namespace)
        return [for_users(one) for one in self.store.all_metadata() if in_namespace(one.session_id, start)]

    def verify(self, session_id: SessionName) -> ArchiveReport | None:
        """Check every byte of a session's file; None if there is no such session.

        Reads everything, changes nothing, raises nothing for damage: the report says it.
        """
        return self.store.report(stored_id(session_id))

    def verify_all(self) -> Iterator[ArchiveReport]:
        """Yield the report of every file in the folder, by file name; on object storage of every session."""
        return self.store.reports()


def _counted(done: CompactedSession) -> dict[str, int]:
    return {
        "active": done.is_active,
        "compacted": done.is_changed,
        "frames_before": done.frames_before,
        "frames_after": done.frames_after,
        "bytes_before": done.bytes_before,
        "bytes_after": done.bytes_after,
    }
