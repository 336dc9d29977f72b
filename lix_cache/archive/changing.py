"""Taking turns out of a session's file, and putting others in their place, by new frames alone."""

from __future__ import annotations

from collections.abc import Sequence

from lix_cache.archive import encoding, index, reading
from lix_cache.archive.doubts import as_gone
from lix_cache.archive.identity import local_id
from lix_cache.archive.writer import ArchiveWriter
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, sign_of, with_id

__all__ = ["ArchiveChanger"]


class ArchiveChanger(ArchiveWriter):
    """Every way that turns leave a file without its being rewritten."""

    def take_out_locked(self, session_id: str, turns: Sequence[Turn], instead: Turn | None = None) -> None:
        """Take turns out by one frame; the frames that hold them stay as they are. Synced.

        Raises:
            ArchiveUnavailable: the disk refused; nothing is taken out.
        """
        own = {sign_of(turn): as_gone(turn.id) for turn in turns}
        here = self._ids_here_locked(session_id, [turn.id for turn in turns])
        fresh = [] if instead is None else [instead]
        self._change_locked(session_id, fresh, encoding.Change(here), own)

    def replace_locked(self, session_id: str, turns: Sequence[Turn], at_ms: int) -> list[MessageId]:
        """Take out all that the file holds and append turns, by one frame. Synced; return their ids.

        Args:
            session_id: the session.
            turns: in order.
            at_ms: every message that Redis gives an id from now on exceeds this millisecond.

        Raises:
            ArchiveUnavailable: the disk refused; nothing has changed.
        """
        archived, gone = self._newest_locked(session_id), self.deleted_up_to(session_id)
        # Of the last message's millisecond, or of one that Redis has passed: what others add from now on
        # comes after them, however our clock and that of Redis differ.
        newest = max(archived, gone)
        first = local_id(newest, 0 if archived > gone else at_ms / 1000)
        fresh = [with_id(turn, MessageId(first.ms, first.seq + i)) for i, turn in enumerate(turns)]
        here = sorted({turn.id for turn in self.turns(session_id, locked=True)})
        # A copy that Redis may still get of one of them is no message any more.
        doubted = self.contested(session_id, locked=True)
        own = {nonce: as_gone(its_id) for nonce, its_id in doubted.items() if its_id != ZERO_ID}
        self._change_locked(session_id, fresh, encoding.Change(here, newest), own)
        return [turn.id for turn in fresh]

    def _ids_here_locked(self, session_id: str, ids: Sequence[MessageId]) -> list[MessageId]:
        """Return those of the ids that the file has turns under, sorted."""
        path, wanted = self._path_of(session_id), set(ids)
        if path is None:
            return []
        here: set[MessageId] = set()
        first, last = min(wanted), max(wanted)

        def may_hold(frame: index.Frame) -> bool:
            return frame.index.count > 0 and frame.index.first <= last and frame.index.last >= first

        try:
            for frame, turns in reading.visible_back(self._files, path, self._most, may_hold):
                here.update(turn.id for turn in turns if turn.id in wanted)
                if here == wanted or reading.largest_before(frame) < first:
                    break
        except reading.TailUnreadable:
            here = {turn.id for turn in self.turns(session_id, locked=True)} & wanted
        return sorted(here)
