"""Appending to a session's file: ids, and which turns are new."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace

from lix_cache.archive import encoding, index, reading
from lix_cache.archive import header as header_flow
from lix_cache.archive.doubts import Link, as_repeat, doubts_about, found_in, is_gone
from lix_cache.archive.folder import temporary_path
from lix_cache.archive.identity import Known, local_id, newcomers
from lix_cache.archive.reader import SessionFile
from lix_cache.archive.repeats import ArchiveRepeats, doubts_to_carry
from lix_cache.errors import (
    ArchiveCorrupt,
    LixCacheError,
)
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, once, sign_of, with_id
from lix_cache.storage.files import Write

__all__ = ["ArchiveWriter"]


@dataclass(frozen=True)
class _Append:
    """What is to be written to a session's file.

    Attributes:
        path: the file.
        offset: its end; 0 where it is to be made.
        data: the bytes.
        count: turns in them.
        unsure: the file's name may not be durable yet.
    """

    path: str
    offset: int
    data: bytes
    count: int
    unsure: bool

    @property
    def write(self) -> Write:
        """The write to do; a file is made under another name first (see ``_replace_file``)."""
        if self.offset:
            return Write(self.path, self.offset, self.data)
        return Write(temporary_path(self.path), None, self.data)


class ArchiveWriter(ArchiveRepeats):
    """Every way that turns come into a file."""

    def number_locked(
        self, session_id: str, turns: Sequence[Turn], *, after: MessageId = ZERO_ID
    ) -> list[Turn]:
        """Return the turns with local ids, larger than any in the file, any deleted, and ``after``."""
        taken = max(after, self._newest_locked(session_id), self.deleted_up_to(session_id))
        first = local_id(taken, self._clock.time())
        # One after the other: the first is where no other writer is, and ids that only count
        # take no room in a frame.
        return [with_id(turn, MessageId(first.ms, first.seq + i)) for i, turn in enumerate(turns)]

    def append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes] = False,
        from_window: bool = False,
    ) -> int:
        """Append turns under their ids, leaving out those the file has. Synced.

        Args:
            session_id: the session.
            turns: in any order.
            contested: Redis may hold them as well, or those with these nonces
                (docs/archive-format.md, "What is one message").
            from_window: they are what a window holds, not what is added now: what was deleted
                stays so.

        Returns:
            How many were new.

        Raises:
            ArchiveUnavailable: the disk refused. The file is as it was, or has a torn
                tail that the next append sets aside.
        """
        made, count = self._append_locked(session_id, turns, contested=contested, from_window=from_window)
        if made:
            self.sync_names()
        if turns:
            # Even if none was new: a writer that died may not have told of them.
            self.changes.note(session_id)
        return count

    def append_many_locked(
        self, batch: Mapping[str, Sequence[Turn]], contested: Mapping[str, Collection[bytes]] | None = None
    ) -> dict[str, int | LixCacheError]:
        """Append to several sessions whose locks are held, syncing the folder once.

        Args:
            batch: the turns of each session, in any order.
            contested: of sessions the nonces of those turns of which Redis may get another copy.

        Returns:
            For each session how many turns were new, or why it failed; the others are
            not affected. What is counted is durable.
        """
        results: dict[str, int | LixCacheError] = {}
        ready: dict[str, tuple[str, _Append]] = {}
        alone: list[str] = []
        for session_id, turns in batch.items():
            try:
                append = self._ready_append_locked(
                    session_id, turns, contested=(contested or {}).get(session_id, ()), from_window=True
                )
            except LixCacheError as error:
                results[session_id] = error
                continue
            if append is None:
                results[session_id] = 0
            elif append.path.lower() in ready:
                # A file system that ignores case may have one file for both.
                alone.append(session_id)
            else:
                ready[append.path.lower()] = session_id, append
        if len(ready) == 1:
            alone += [session_id for session_id, _ in ready.values()]
            ready.clear()
        refusals = self._files.write_many([append.write for _, append in ready.values()])
        unsure = False
        for (session_id, append), refusal in zip(ready.values(), refusals, strict=True):
            try:
                if refusal is not None:
                    raise refusal
                unsure |= self._after_write(append)
                results[session_id] = append.count
            except LixCacheError as error:
                results[session_id] = error
        if unsure:
            self.sync_names()
        self._note_written(results)
        for session_id in alone:
            try:
                results[session_id] = self.append_locked(
                    session_id,
                    batch[session_id],
                    contested=(contested or {}).get(session_id, ()),
                    from_window=True,
                )
            except LixCacheError as error:
                results[session_id] = error
        return results

    def _note_written(self, results: Mapping[str, int | LixCacheError]) -> None:
        for session_id, result in results.items():
            if not isinstance(result, LixCacheError):
                self.changes.note(session_id)

    def append_outage_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool,
        keyed: bool = False,
        after: MessageId = ZERO_ID,
    ) -> tuple[list[MessageId], int]:
        """Keep messages that Redis could not take, all or none; return their ids and how many are new.

        The mark comes first: a message on disk that is not known to need to be brought
        together with the hot ones would be missing from the context; a mark without a
        message costs one look.
        """
        self.mark_pending_locked(session_id)
        nonces = {turn.nonce for turn in turns if turn.nonce is not None}
        known: dict[bytes, MessageId] = {}
        if contested or keyed:
            # If nothing of the file can be read, the append mends it.
            with suppress(ArchiveCorrupt):
                known = self.find_nonces_locked(session_id, nonces)
        new = [turn for turn in turns if turn.nonce not in known]
        numbered = self.number_locked(session_id, new, after=after)
        made, _ = self._append_locked(
            session_id,
            numbered,
            contested=contested or keyed,
            repeats=keyed,
            from_window=False,
            is_outage=True,
        )
        if made:
            self.sync_names()
        if turns:
            self.changes.note(session_id)
        given = iter(numbered)
        ids = [known[turn.nonce] if turn.nonce in known else next(given).id for turn in turns]
        return ids, len(new)

    def _append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes],
        from_window: bool,
        repeats: bool = False,
        is_outage: bool = False,
    ) -> tuple[bool, int]:
        """Append; return whether the file's name may not be durable yet, and how many were new."""
        append = self._ready_append_locked(
            session_id,
            turns,
            contested=contested,
            from_window=from_window,
            repeats=repeats,
            is_outage=is_outage,
        )
        if append is None:
            return False, 0
        write = append.write
        if write.offset is None:
            self._files.write_synced(write.path, write.data)
        else:
            self._files.append(write.path, write.offset, write.data)
        return self._after_write(append), append.count

    def _after_write(self, append: _Append) -> bool:
        """Finish an append whose bytes are synced; return whether the file's name may not be durable yet."""
        if append.offset == 0:
            self._files.rename(append.write.path, append.path)
        if append.count:
            self._count("appends")
        return append.unsure

    def _ready_append_locked(
        self,
        session_id: str,
        turns: Sequence[Turn],
        *,
        contested: bool | Collection[bytes],
        from_window: bool,
        repeats: bool = False,
        is_outage: bool = False,
    ) -> _Append | None:
        """Make everything ready for an append but the write itself. None if there is nothing to do."""
        if not turns:
            return None
        path = self._ready_path_locked(session_id)
        before, size = self._writable_tail_locked(path, session_id)
        file = SessionFile(path, before, size)
        chain, is_whole = self._doubts(file)
        if from_window and chain and self._settle_repeats_locked(session_id, file, turns, chain):
            return self._ready_append_locked(session_id, turns, contested=contested, from_window=True)
        fresh = self._newcomers_locked(
            session_id, file, once(turns), chain, contested=bool(contested), from_window=from_window
        )
        # A message that comes again although it is in doubt is one whose frame was damaged.
        named = () if isinstance(contested, bool) else contested
        own = doubts_about(fresh) if contested is True else doubts_about(fresh, named, *chain)
        if repeats:
            own = {nonce: as_repeat(its_id) for nonce, its_id in own.items()}
        # A process that wrote the whole file may have been stopped before its name was durable. What the
        # file holds, and what this append adds, will be acknowledged. So its name is synced before that.
        unsure = size == 0 or before.whole or before == index.EMPTY
        if not fresh and not size:
            return None
        if not fresh:
            # A writer that died before its sync may have written what was found.
            return _Append(path, size, b"", 0, unsure)
        now_ms = int(self._clock.time() * 1000)
        if is_outage or fresh[0].id < before.newest:
            # It may land below the last message of the session: then the last id does not tell of it, and
            # the revision must. During an outage that message may be one that Redis alone has.
            before = replace(before, changes=before.changes + 1)
        if size == 0:
            header = header_flow.FileHeader(now_ms / 1000, session_id)
            data = encoding.encode_file(
                header, fresh, now_ms, self._codec, contested=own, changes=before.changes
            )
        else:
            doubts = doubts_to_carry(own, file, chain, is_whole=is_whole)
            # One frame, however many turns: after a crash all of them are there, or none. (More than
            # a GiB does not fit into one.)
            data = encoding.encode_frames(fresh, before, now_ms, self._codec, doubts=doubts)
        return _Append(path, size, data, len(fresh), unsure)

    def clear_locked(self, session_id: str) -> None:
        """Take everything archived so far out of the context; it stays in the history."""
        self._clear_locked(session_id)

    def _clear_locked(self, session_id: str, up_to: MessageId | None = None) -> None:
        if not self.exists(session_id):
            return
        path = self._ready_path_locked(session_id)
        before, size = self._writable_tail_locked(path, session_id)
        cleared = before.newest if up_to is None else up_to
        if size and before.cleared < cleared:
            now_ms = int(self._clock.time() * 1000)
            self._files.append(path, size, encoding.encode_mark(before, now_ms, cleared))
            if before.whole or before == index.EMPTY:
                self.sync_names()
            self.changes.note(session_id)

    def _newcomers_locked(
        self,
        session_id: str,
        file: SessionFile,
        turns: list[Turn],
        chain: list[Link],
        *,
        contested: bool,
        from_window: bool,
    ) -> list[Turn]:
        """Leave out turns that the file has already, and number anew those whose id it has given away.

        Args:
            session_id: the session.
            file: where they go.
            turns: sorted by id.
            chain: what is in doubt.
            contested: Redis may have some as well, and may have moved them here.
            from_window: they are what a window holds, not what is added now.
        """
        before = file.index
        if from_window:
            # Redis may have gone back to a state in which the session was not yet deleted, or may
            # have carried out an add after the deletion that was sent before it.
            gone = self._tombstones.of(session_id)
            up_to = max(gone.up_to, before.dropped)
            turns = [turn for turn in turns if turn.id > up_to and turn.nonce not in gone.nonces]
        if chain:
            # However it comes: it was added, and taken out before it came here.
            turns = [turn for turn in turns if not _is_gone(chain, turn)]
        if not turns or file.size == 0:
            return turns
        # The copy of a contested message may be anywhere: a server that hung may carry out the add, and a
        # daemon move the copy here, at any time. For other messages the file is read whole only if one has
        # a nonce that is in doubt.
        everywhere = contested or any(turn.nonce in link for link in chain for turn in turns)
        if turns[0].id > before.newest and not everywhere:
            return turns
        known = Known()
        try:
            for frame, found in reading.walk_back(self._files, file.path, self._most):
                known.add(found.turns)
                if not everywhere and reading.largest_before(frame) < turns[0].id:
                    break
        except reading.TailUnreadable:
            known.add(self.turns(session_id, locked=True))
        return newcomers(turns, known)


def _is_gone(chain: list[Link], turn: Turn) -> bool:
    said = found_in(chain, sign_of(turn))
    return said is not None and is_gone(said)
