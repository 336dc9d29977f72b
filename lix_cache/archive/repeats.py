"""Messages that were sent again by their keys while Redis was away: the first copy counts, and its id.

A key that Redis knows cannot be asked for then, so the message is kept here once more, under a local id.
When the window comes here with the first copy, that one takes its place and its id again: others were
answered it, and have seen the message there. The local id was answered too. It is remembered in the
doubts, by its sign, and stands for the first one from then on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from lix_cache.archive import encoding, index
from lix_cache.archive import header as header_flow
from lix_cache.archive.doubts import Doubts, Link, found_in, id_before, is_repeat
from lix_cache.archive.mending import ArchiveMending
from lix_cache.archive.reader import SessionFile
from lix_cache.messages.turn import MessageId, Turn, sign_of_id

__all__ = ["ArchiveRepeats", "doubts_to_carry"]


class ArchiveRepeats(ArchiveMending):
    """Frames that take turns out, and what they do where a message was sent again."""

    def _settle_repeats_locked(
        self, session_id: str, file: SessionFile, turns: Sequence[Turn], chain: list[Link]
    ) -> bool:
        """Have what a window holds take the place of what was sent again. False if there is nothing to do.

        In one frame, so that a crash leaves one of the two. All that move a window do it: from then on the
        copy in the window is known here, and is only trimmed.
        """
        up_to = max(self._tombstones.of(session_id).up_to, file.index.dropped)
        own: dict[bytes, MessageId] = {}
        first: list[Turn] = []
        repeats: list[MessageId] = []
        for turn in turns:
            said = None if turn.nonce is None else found_in(chain, turn.nonce)
            if turn.nonce is None or said is None or not is_repeat(said) or turn.id <= up_to:
                continue
            here = id_before(said)
            if turn.id > here and found_in(chain, sign_of_id(turn.id)) is None:
                # Carried out late. Redis may know the key by this id.
                own[sign_of_id(turn.id)] = here
            if turn.id < here and self._nonces_at(session_id, here, turn.id) == [turn.nonce, None]:
                first.append(turn)
                repeats.append(here)
                own.update({turn.nonce: turn.id, sign_of_id(here): turn.id})
        if own:
            self._change_locked(session_id, first, encoding.Change(sorted(repeats)), own)
        return bool(own)

    def _nonces_at(self, session_id: str, *ids: MessageId) -> list[bytes | None]:
        """Return the nonces of the turns under these ids; None where there is none."""
        found: list[bytes | None] = []
        for one in ids:
            after, before = one.predecessor(), one.successor()
            turns = self.between(session_id, 1, after=after, before=before, newest=True, locked=True)
            found.append(turns[0].nonce or b"" if turns else None)
        return found

    def _change_locked(
        self, session_id: str, fresh: Sequence[Turn], change: encoding.Change, own: Mapping[bytes, MessageId]
    ) -> None:
        path = self._ready_path_locked(session_id)
        before, size = self._writable_tail_locked(path, session_id)
        file = SessionFile(path, before, size)
        now_ms = int(self._clock.time() * 1000)
        if size:
            chain, is_whole = self._doubts(file)
            doubts = doubts_to_carry(own, file, chain, is_whole=is_whole)
            data = encoding.encode_change(fresh, before, now_ms, self._codec, change, doubts=doubts)
            self._files.append(path, size, data)
            if before.whole or before == index.EMPTY:
                self.sync_names()
        else:
            # Nothing of the session has come here yet.
            head = header_flow.encode_header(header_flow.FileHeader(now_ms / 1000, session_id))
            alone = Doubts.alone(own, len(head)) if own else None
            frame = encoding.encode_change(
                fresh, before, now_ms, self._codec, change, doubts=alone, whole=True
            )
            self._replace_file(path, head + frame)
        self._count("changes")
        self.changes.note(session_id)


def doubts_to_carry(
    own: Mapping[bytes, MessageId], file: SessionFile, chain: list[Link], *, is_whole: bool
) -> Doubts | None:
    """Return the doubts that the next frame carries.

    Args:
        own: those that come with it.
        file: where it goes.
        chain: what is in doubt.
        is_whole: whether the file's chain says so.
    """
    if not is_whole:
        # All that is in doubt is in hand: it begins a chain that can be read.
        return Doubts.alone({**dict(chain[0].items()), **own}, file.size)
    return Doubts.linked(own, file.size, file.index.contested_at, chain) if own else None
