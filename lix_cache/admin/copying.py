"""Copying an archive to another place, many sessions at a time, while both may be in use."""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import TypeAlias, TypeVar

from lix_cache.admin.differing import Difference, Source, renewed
from lix_cache.admin.infos import told_of
from lix_cache.admin.progress import OnProgress, silent
from lix_cache.admin.results import Copied
from lix_cache.archive.archive import ConversationArchive
from lix_cache.archive.cold_tier import ColdTier
from lix_cache.archive.doubts import id_before, is_gone, is_repeat
from lix_cache.archive.expiry import Now
from lix_cache.archive.facts import Extent, Marks
from lix_cache.archive.objects.layout import shard_of
from lix_cache.archive.objects.store_note import MOST_SHARDS
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.archive.store import ArchiveStore
from lix_cache.checks import check_count, given
from lix_cache.errors import ArchiveBusy, ArchiveError, ConfigError, LixCacheError
from lix_cache.messages.turn import ZERO_ID, Turn, sign_of
from lix_cache.session.add import SALT
from lix_cache.storage.parallel import side_by_side

__all__ = ["copy_archive"]

T = TypeVar("T")
Store: TypeAlias = "ArchiveStore | ObjectTier"

#: Sessions that are in hand at once, and the bytes that they take in their archive, at most.
_AT_ONCE, _MOST_BYTES = 256, 8 << 20
#: Sessions that are read at once, beside the first.
_HELPERS = 15


def copy_archive(
    source: str,
    target: str,
    *,
    shards: int | None = None,
    buckets: int = 1,
    on_progress: OnProgress = silent,
) -> Copied:
    """Copy every session of an archive to another one: folders, or URLs of object storage. Needs no Redis.

    Messages keep their ids, so a copy may be stopped, repeated, and made while the source is in use: what
    is there is recognised. A repetition follows what was added, deleted, edited, cleared and expired since,
    and what the source refuses to take from an older window of Redis the target refuses too. A session
    in which nothing has changed is read on both sides, and costs no write. What is in the trash stays
    there, and the time to live of a session begins anew.

    To move a store: copy, stop its processes, copy again, run ``adopt_archive`` with the new place, and
    start them with it.

    Args:
        source: a folder, or a URL as ``archive_url``.
        target: the same; made if there is none.
        shards: how many logs a target on object storage gets (docs/object-layout.md), which never changes:
            to have more, copy to another prefix. As many as the source has by default; as ``buckets``
            says if that is a folder.
        buckets: ``redis_buckets`` of the application.
        on_progress: called with the number of sessions done and of all sessions.

    Returns:
        How many sessions got something, and how many messages that were new. One session's failure does
        not keep the others from being copied.

    Raises:
        ConfigError: both are one; or the target is a folder, or has another number of shards.
        ArchiveUnavailable: a place refuses.
    """
    old, new = ConversationArchive(source).store, ConversationArchive(target).store
    if old.location == new.location:
        raise ConfigError("source and target are the same archive")
    made, is_made = _make_shards(old, new, shards, buckets)
    salt = old.setting(SALT)
    if salt is not None and new.setting(SALT) != salt:
        # What the nonces of messages with keys are made with: else a retry would not be recognised.
        new.note_setting(SALT, salt)
    copying = _Copying(old, new)
    names = copying.names(made or 1)
    for done, group in _groups(names):
        on_progress(done, len(names))
        copying.copy(group)
    # At the end: what was deleted meanwhile is among them.
    copying.changed += new.take_deletions(dict(old.deletions()))
    on_progress(len(names), len(names))
    return Copied(copying.changed, copying.messages, told_of(copying.failed), made, is_made)


def _make_shards(old: Store, new: Store, shards: int | None, buckets: int) -> tuple[int | None, bool]:
    """Have a target on object storage made; return how many shards it has, and whether it was made now."""
    if not isinstance(new, ObjectTier):
        if shards is not None:
            raise ConfigError("a folder has no shards; the target must be on object storage")
        return None, False
    there = old.identity() if isinstance(old, ObjectTier) else None
    wanted = there.shards if there is not None else buckets
    new.wanted_shards = wanted if shards is None else check_count("shards", shards)
    if not 1 <= new.wanted_shards <= MOST_SHARDS:
        raise ConfigError(f"shards must be 1 to {MOST_SHARDS}, {given(new.wanted_shards)}")
    is_made = new.identity() is None
    # Now, and not with the first session: another process may be making it with another number.
    made = new.identity(make=True)
    assert made is not None  # noqa: S101 - it was made
    if shards is not None and made.shards != shards:
        raise ConfigError(
            f"the target has {made.shards} shards, which never changes; copy to another prefix for {shards}"
        )
    return made.shards, is_made


def _groups(sizes: Mapping[str, int]) -> Iterator[tuple[int, list[str]]]:
    """Yield sessions that are in hand at once, after the number of those before them."""
    group: list[str] = []
    room, done = _MOST_BYTES, 0
    for session_id, size in sizes.items():
        if group and (len(group) == _AT_ONCE or size > room):
            yield done, group
            done, group, room = done + len(group), [], _MOST_BYTES
        group.append(session_id)
        room -= size
    if group:
        yield done, group


class _Copying:
    """One run.

    Attributes:
        changed: sessions that got something.
        messages: that were new.
        failed: sessions that were not copied, and why.
    """

    def __init__(self, old: Store, new: Store) -> None:
        self._old, self._new = old, new
        self.changed = self.messages = 0
        self.failed: dict[str, LixCacheError] = {}
        self._there: set[str] = set()
        self._expired: set[str] = set()

    def names(self, shards: int) -> dict[str, int]:
        """Return all sessions of both with the bytes that they take: those of a shard of the target together.

        Else each of many shards would get few sessions at a time, and each of these is a put.
        """
        sizes = {meta.session_id: meta.size_bytes for meta in self._old.all_metadata()}
        theirs = {meta.session_id: meta.size_bytes for meta in self._new.all_metadata()}
        self._there = set(theirs)
        self._expired = {one.session_id for one in self._old.trashed()} if theirs else set()
        self._there.update(self._new.pending_sessions())
        marked = dict.fromkeys((*self._old.pending_sessions(), *self._there), 0)
        every = {**marked, **theirs, **sizes}
        return {name: every[name] for name in sorted(every, key=lambda name: (shard_of(name, shards), name))}

    def copy(self, group: Sequence[str]) -> None:
        """Bring some sessions up to date."""
        new = [name for name in group if name not in self._there]
        sources = self._worked([partial(self._read, name) for name in new], new)
        rest = self._add({name: one for name, one in sources.items() if one.turns or one.marks != Marks()})
        # Those that the target turned out to have after all are compared like the others.
        compared = [name for name in group if name in self._there] + rest
        found = self._worked([partial(self._difference, name) for name in compared], compared)
        more = {name: Source(todo.marks, todo.fresh) for name, todo in found.items() if todo.only_adds}
        taken_for_known = set(self._add(more))
        for name, todo in found.items():
            # Only now: a lease on object storage is two puts.
            if (todo and name not in more) or name in taken_for_known:
                self._bring(name)

    def _worked(self, calls: Sequence[Callable[[], T]], names: Sequence[str]) -> dict[str, T]:
        """Make a call for each of some sessions, side by side; return what those said that did not fail."""

        def tried(call: Callable[[], T]) -> T | ArchiveError:
            try:
                return call()
            except ArchiveError as error:
                return error

        found: dict[str, T] = {}
        results = side_by_side([partial(tried, call) for call in calls], _HELPERS)
        for name, result in zip(names, results, strict=True):
            if isinstance(result, ArchiveError):
                self.failed[name] = result
            else:
                found[name] = result
        return found

    # -- what is only added ------------------------------------------------------------------------

    def _add(self, sources: dict[str, Source]) -> list[str]:
        """Add to sessions, many at a time. Returns those of which something is left to do."""
        rest: list[str] = []
        with ExitStack() as leases:
            held: set[Hashable] = set()
            for name in list(sources):
                key = self._new.lock_key(name)
                lease = None if key in held else self._new.try_lock(name, to_append=True)
                if lease is not None:
                    leases.enter_context(lease)
                    held.add(key)
                elif key not in held:
                    del sources[name]
                    rest.append(name)
            return rest + self._add_locked(sources)

    def _read(self, session_id: str) -> Source:
        # The marks first: what is taken out after that is met by the next copy.
        marks = self._old.marks(session_id)
        return Source(marks, self._old.turns(session_id))

    def _add_locked(self, sources: Mapping[str, Source]) -> list[str]:
        batch = {name: source.turns for name, source in sources.items() if source.turns}
        counts = self._new.append_many_locked(batch)
        # The marks behind the messages: until they are there the copy is not done, and is repeated.
        marks = {
            name: source.marks
            for name, source in sources.items()
            if source.marks != Marks() and not isinstance(counts.get(name, 0), LixCacheError)
        }
        unmarked = self._new.mark_many_locked(marks) if marks else {}
        rest: list[str] = []
        for name, source in sources.items():
            count = counts.get(name, 0)
            error = count if isinstance(count, LixCacheError) else unmarked.get(name)
            if isinstance(error, ArchiveBusy):
                rest.append(name)  # its lease is waited for, as long as for that of a holder who died
            elif error is not None:
                self.failed[name] = error
            else:
                assert isinstance(count, int)  # noqa: S101 - see above
                self.messages += count
                self.changed += 1
                if count < len(source.turns):
                    # The target remembers something of it, and took it for a window's.
                    rest.append(name)
        return rest

    # -- sessions that the target has ----------------------------------------------------------------

    def _difference(self, session_id: str, *, locked: bool = False) -> Difference:
        source = self._read(session_id)
        turns = source.turns
        known = self._new.turns(session_id, locked=locked)
        there = self._new.marks(session_id, locked=locked)
        signs = {sign_of(turn) for turn in turns}
        # By the id as well: of a message that was let go of and sent again by its key the old copy goes.
        exact = {(sign_of(turn), turn.id) for turn in turns}
        strange = [turn for turn in known if (sign_of(turn), turn.id) not in exact]
        said = source.marks.said
        unsaid = [one for sign, one in there.said.items() if said.get(sign) != one]
        # What is gone is remembered where the session is, or by the note of its deletion.
        extent = self._old.look(session_id) if strange or unsaid or not turns else Extent()
        gone = {sign for sign, its_id in extent.contested.items() if its_id == ZERO_ID} - signs
        outdated = [turn for turn in strange if turn.id <= extent.deleted or sign_of(turn) in gone]
        left = {turn.id for turn in strange} - {turn.id for turn in outdated}
        taken_out = {sign for sign, one in said.items() if is_gone(one)}
        is_forgotten = not turns and extent.forgotten != ZERO_ID and (bool(outdated) or not known)
        is_there = is_forgotten and not self._old.exists(session_id) and self._new.exists(session_id)
        beyond = there.lacking(source.marks)
        ids = {sign_of(turn): turn.id for turn in known}
        repeats = {sign for sign, one in there.said.items() if is_repeat(one)}
        return Difference(
            source,
            is_deleted=is_there,
            # What began anew has neither the messages nor the marks of what is in the trash.
            is_expired=session_id in self._expired
            and (
                any(turn.id in left and turn.nonce not in repeats for turn in strange)
                or replace(beyond, pending=False) != Marks()
            ),
            outdated=outdated,
            is_renewed=any(turn.id <= extent.deleted and sign_of(turn) not in taken_out for turn in outdated)
            or any(id_before(one) <= extent.forgotten for one in unsaid),
            kept=[turn for turn in strange if turn.id in left and sign_of(turn) not in signs],
            fresh=[turn for turn in turns if ids.get(sign_of(turn)) != turn.id],
            again=[turn for turn in turns if turn.nonce in repeats],
            marks=source.marks.lacking(there),
            there=there,
            extent=extent,
        )

    def _bring(self, session_id: str) -> None:
        """Bring one session up to date that the target has."""
        try:
            with self._new.lock(session_id):
                # Again: another copy may have done it meanwhile.
                todo = self._difference(session_id, locked=True)
                if todo:
                    self.messages += self._changed(session_id, todo)
                    self.changed += 1
        except ArchiveError as error:
            self.failed[session_id] = error

    def _changed(self, session_id: str, todo: Difference) -> int:
        """Do what is to be done; return how many messages were new."""
        new = self._new
        if todo.is_expired:
            # By a clock that is ahead of every sign of life: the source has decided it.
            now = Now(float("inf"), time.time())
            new.expire_locked(session_id, 0.0, now, to_trash=True)
            todo = self._difference(session_id, locked=True)
        if todo.is_deleted:
            gone = [nonce for nonce, its_id in todo.extent.contested.items() if its_id == ZERO_ID]
            new.delete_locked(session_id, todo.extent.forgotten, gone)
            return 0
        if todo.is_renewed:
            # In one change. To take out what was let go of, and then to append, would refuse messages that
            # came again: what is taken out is known as gone. To delete the session first would lose to a
            # crash what the target alone has. The note of the deletion follows at the end of the run: if
            # that is stopped, the next one brings it.
            new.renew_locked(session_id, *renewed(todo))
            return len(todo.fresh)
        _take_out(new, session_id, todo.outdated, todo.source.turns)
        if todo.again:
            # As a window would: the first copy takes the place of the one that was sent again.
            new.append_locked(session_id, todo.again, from_window=True)
        count = new.append_locked(session_id, todo.fresh) if todo.fresh else 0
        failed = new.mark_many_locked({session_id: todo.marks}) if todo.marks != Marks() else {}
        for error in failed.values():
            raise error
        return count


def _take_out(new: ColdTier, session_id: str, outdated: Sequence[Turn], turns: Sequence[Turn]) -> None:
    instead = {turn.id: turn for turn in turns}
    # One that was edited keeps its id, which only its successor can get.
    edited = [turn for turn in outdated if turn.id in instead]
    for turn in edited:
        new.take_out_locked(session_id, [turn], instead[turn.id])
    rest = [turn for turn in outdated if turn.id not in instead]
    if rest:
        new.take_out_locked(session_id, rest)
