"""Putting a session from the trash and what it has become since into one file. Touches nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from lix_cache.archive import encoding
from lix_cache.archive import header as header_flow
from lix_cache.archive.doubts import as_repeat, doubts_about, is_gone, is_repeat
from lix_cache.archive.identity import Known, newcomers
from lix_cache.messages.turn import ZERO_ID

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from lix_cache.archive.codecs import Packer
    from lix_cache.archive.index import FrameIndex
    from lix_cache.archive.reading import Contents
    from lix_cache.messages.turn import MessageId, Turn

__all__ = ["restored", "whole_file"]


def restored(session_id: str, old: Contents, new: Contents | None, codec: Packer) -> bytes:
    """Return the whole file of a session that is taken back.

    Args:
        session_id: the session.
        old: from the trash.
        new: what the session has now; None if nothing.
        codec: for the frames.
    """
    both = (old,) if new is None else (old, new)
    known = Known()
    for found in both:
        known.add(newcomers(found.turns, known))
    turns = [known.turns[message_id] for message_id in sorted(known.turns)]
    header = header_flow.FileHeader(min(found.created_at for found in both), session_id)
    updated_ms = int(max(found.updated_at for found in both) * 1000)
    # What was in doubt still is, and no more: under the ids that the messages have by now.
    doubts = {sign: said for found in both for sign, said in found.doubts.items()}
    contested = doubts_about(turns, doubts)
    repeats = {nonce: as_repeat(its_id) for nonce, its_id in contested.items() if is_repeat(doubts[nonce])}
    moved = {sign: said for sign, said in doubts.items() if sign not in contested and said in known.turns}
    gone = {nonce: said for found in both for nonce, said in found.doubts.items() if is_gone(said)}
    contested = {**gone, **moved, **contested, **repeats}
    last = replace(
        max((found.index for found in both), key=lambda index: index.newest),
        cleared=max(found.index.cleared for found in both),
        changes=sum(found.index.changes for found in both),
        dropped=max(found.index.dropped for found in both),
    )
    if turns and last.dropped >= turns[0].id:
        # A window may hold again what is taken back.
        last = replace(last, dropped=ZERO_ID)
    return whole_file(header, turns, updated_ms, codec, contested, last)


def whole_file(
    header: header_flow.FileHeader,
    turns: Sequence[Turn],
    updated_ms: int,
    codec: Packer,
    doubts: Mapping[bytes, MessageId],
    last: FrameIndex,
) -> bytes:
    """Return a whole file, with all that is remembered of its session.

    Args:
        header: whose file it is.
        turns: sorted by id, no id twice; may be none.
        updated_ms: Unix milliseconds of the last append.
        codec: for the frames.
        doubts: signs and ids, as they stand in the chain.
        last: says what was cleared and dropped, how often it was changed: at least once if it has no turns.
    """
    whole = encoding.encode_file(header, turns, updated_ms, codec, contested=doubts)
    if not turns:
        # All were taken out: its revision, and what must not come back, are still known.
        return whole + encoding.encode_emptied(last, updated_ms, codec, doubts, len(whole))
    if last.cleared != ZERO_ID or last.changes:
        end = replace(encoding.index_of(whole), changes=last.changes, dropped=last.dropped)
        whole += encoding.as_whole(encoding.encode_mark(end, updated_ms, last.cleared))
    return whole
