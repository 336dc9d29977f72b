"""Copying an archive to another place, session by session, while both may be in use."""

from __future__ import annotations

from collections.abc import Sequence

from lix_cache.admin.infos import told_of
from lix_cache.admin.progress import OnProgress, silent
from lix_cache.admin.results import Migrated
from lix_cache.archive.archive import ConversationArchive
from lix_cache.archive.cold_tier import ColdTier
from lix_cache.archive.objects.store_note import MOST_SHARDS
from lix_cache.archive.objects.tier import ObjectTier
from lix_cache.checks import check_count, given
from lix_cache.errors import ArchiveError, ConfigError, LixCacheError
from lix_cache.messages.turn import ZERO_ID, Turn, sign_of
from lix_cache.session.add import SALT

__all__ = ["copy_archive"]


def copy_archive(
    source: str, target: str, *, shards: int | None = None, on_progress: OnProgress = silent
) -> Migrated:
    """Copy every session of an archive to another one: folders, or URLs of object storage. Needs no Redis.

    Messages keep their ids, so a copy may be stopped, repeated, and made while the source is in use: what
    is there is recognised. A repetition follows what was added, deleted, edited and cleared since. What is
    in the trash stays there, and the time to live of a session begins anew.

    To move a store: copy, stop its processes, copy again, run ``adopt_archive`` with the new place, and
    start them with it.

    Args:
        source: a folder, or a URL as ``archive_url``.
        target: the same; made if there is none.
        shards: how many logs a target on object storage gets (docs/object-layout.md), which never changes:
            to have more, copy to another prefix. As many as the source has by default, 1 if that is a folder.
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
    _make_shards(old, new, shards)
    salt = old.setting(SALT)
    if salt is not None:
        # What the nonces of messages with keys are made with: else a retry would not be recognised.
        new.note_setting(SALT, salt)
    known = {meta.session_id for meta in old.all_metadata()}
    # What was deleted since an earlier copy.
    left = {meta.session_id for meta in new.all_metadata()} - known
    names = sorted(known | left)
    sessions = messages = 0
    failed: dict[str, LixCacheError] = {}
    for number, session_id in enumerate(names):
        on_progress(number, len(names))
        try:
            with new.lock(session_id):
                count, changed = _copied(old, new, session_id)
        except ArchiveError as error:
            failed[session_id] = error
            continue
        messages += count
        sessions += changed
    on_progress(len(names), len(names))
    return Migrated(sessions, messages, told_of(failed))


def _make_shards(old: ColdTier, new: ColdTier, shards: int | None) -> None:
    """Have a target on object storage made with so many shards."""
    if not isinstance(new, ObjectTier):
        if shards is not None:
            raise ConfigError("a folder has no shards; the target must be on object storage")
        return
    there = old.identity() if isinstance(old, ObjectTier) else None
    if shards is not None:
        new.wanted_shards = check_count("shards", shards)
        if not 1 <= new.wanted_shards <= MOST_SHARDS:
            raise ConfigError(f"shards must be 1 to {MOST_SHARDS}, {given(shards)}")
    elif there is not None:
        new.wanted_shards = there.shards
    # Now, and not with the first session: another process may be making it with another number.
    made = new.identity(make=True)
    if shards is not None and made is not None and made.shards != new.wanted_shards:
        raise ConfigError(
            f"the target has {made.shards} shards, which never changes; copy to another prefix for {shards}"
        )


def _copied(old: ColdTier, new: ColdTier, session_id: str) -> tuple[int, bool]:
    """Bring one session up to date; return how many messages were new, and whether anything changed."""
    # How far it has come first: what is deleted after that is met by the next copy.
    extent = old.look(session_id)
    turns = old.turns(session_id)
    gone = {nonce for nonce, its_id in extent.contested.items() if its_id == ZERO_ID}
    changed = False
    if new.exists(session_id):
        there = {sign_of(turn) for turn in turns}
        outdated = [
            turn
            for turn in new.turns(session_id, locked=True)
            if sign_of(turn) in gone or (turn.id <= extent.deleted and sign_of(turn) not in there)
        ]
        if outdated and not turns and extent.forgotten != ZERO_ID:
            new.delete_locked(session_id, extent.forgotten, gone)
            return 0, True
        changed = bool(outdated)
        _take_out(new, session_id, outdated, turns)
    elif turns and (gone or extent.deleted != ZERO_ID):
        # So that no window brings back what is gone.
        new.delete_locked(session_id, extent.deleted, gone)
    contested = {nonce for nonce, its_id in extent.contested.items() if its_id != ZERO_ID}
    count = _append(new, session_id, [turn for turn in turns if turn.id <= extent.cleared], contested)
    summary = new.summary(session_id, locked=True)
    if summary.cleared < extent.cleared and ZERO_ID < summary.newest <= extent.cleared:
        # Before the rest is there: that stays in the context.
        new.clear_locked(session_id)
        changed = True
    count += _append(new, session_id, [turn for turn in turns if turn.id > extent.cleared], contested)
    if old.is_pending(session_id) and not new.is_pending(session_id):
        new.mark_pending_locked(session_id)
    return count, changed or count > 0


def _take_out(new: ColdTier, session_id: str, outdated: Sequence[Turn], turns: Sequence[Turn]) -> None:
    instead = {turn.id: turn for turn in turns}
    # One that was edited keeps its id, which only its successor can get.
    edited = [turn for turn in outdated if turn.id in instead]
    for turn in edited:
        new.take_out_locked(session_id, [turn], instead[turn.id])
    rest = [turn for turn in outdated if turn.id not in instead]
    if rest:
        new.take_out_locked(session_id, rest)


def _append(new: ColdTier, session_id: str, turns: Sequence[Turn], contested: set[bytes]) -> int:
    return new.append_locked(session_id, turns, contested=contested) if turns else 0
