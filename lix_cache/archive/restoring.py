"""Putting a session from the trash and what it has become since into one file. Touches nothing."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from lix_cache.archive import format as fmt
from lix_cache.messages import ZERO_ID, MessageId, Turn

if TYPE_CHECKING:
    from lix_cache.archive.codecs import Packer
    from lix_cache.archive.reading import Contents

__all__ = ["restored"]


def restored(session_id: str, old: Contents, new: Contents | None, codec: Packer) -> bytes:
    """Return the whole file of a session that is taken back.

    Args:
        session_id: the session.
        old: from the trash.
        new: what the session has now; None if nothing.
        codec: for the frames.
    """
    both = (old,) if new is None else (old, new)
    turns = _together(found.turns for found in both)
    header = fmt.FileHeader(min(found.created_at for found in both), session_id)
    updated_ms = int(max(found.updated_at for found in both) * 1000)
    contested = any(found.index.contested for found in both)
    whole = fmt.encode_file(header, turns, updated_ms, codec, contested=contested)
    cleared = max((found.index.cleared for found in both), default=ZERO_ID)
    if turns and cleared != ZERO_ID:
        whole += fmt.as_whole(fmt.encode_mark(fmt.index_of(whole), updated_ms, cleared))
    return whole


def _together(histories: Iterable[list[Turn]]) -> list[Turn]:
    """Return the turns of all, each once, in order of their ids.

    A server's clock that went back may have given one id to two messages: the later keeps its
    place among the others of its time as well as it can, under an id of its own.
    """
    known: dict[MessageId, Turn] = {}
    for turns in histories:
        for turn in turns:
            same = known.get(turn.id)
            if same is not None and (same.body, same.vector) == (turn.body, turn.vector):
                continue
            message_id = turn.id
            while message_id in known:
                message_id = message_id.successor()
            known[message_id] = Turn(message_id, turn.body, turn.vector, turn.nonce)
    return [known[message_id] for message_id in sorted(known)]
