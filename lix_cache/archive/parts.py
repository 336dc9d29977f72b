"""Reading a part of a session's file: its end, or what lies between two ids. See reading.py."""

from __future__ import annotations

from heapq import heappop, heappush

from lix_cache.archive import index as index_flow
from lix_cache.archive.reading import TailUnreadable, decoded_at, largest_before, visible_back, walk_back
from lix_cache.messages.turn import MessageId, Turn
from lix_cache.storage.files import Files

__all__ = ["last_turns", "newest_between", "oldest_between"]


def newest_between(
    files: Files, path: str, count: int, after: MessageId, before: MessageId, most: int
) -> list[Turn]:
    """Return the last ``count`` turns between two ids, sorted, decoding no frame that has none of them.

    Raises:
        TailUnreadable: use :func:`parse_contents`.
    """
    found: dict[MessageId, Turn] = {}
    # As in last_turns: only ids larger than all that is still unread are sure to be the last ones.
    unsure: list[tuple[int, int]] = []
    sure, bound = 0, before

    def wanted(frame: index_flow.Frame) -> bool:
        return frame.index.count > 0 and frame.index.first < before and frame.index.last > after

    for frame, decoded in visible_back(files, path, most, wanted):
        for turn in decoded:
            if after < turn.id < before:
                if turn.id not in found:
                    heappush(unsure, (-turn.id.ms, -turn.id.seq))
                found[turn.id] = turn
        bound = min(bound, largest_before(frame))
        while unsure and unsure[0] < (-bound.ms, -bound.seq):
            heappop(unsure)
            sure += 1
        if sure >= count or bound <= after:
            break
    return [found[message_id] for message_id in sorted(found)[-count:]]


def oldest_between(
    files: Files, path: str, count: int, after: MessageId, before: MessageId, most: int
) -> list[Turn]:
    """Return the first ``count`` turns between two ids, sorted: index entries alone say where they are.

    Raises:
        TailUnreadable: use :func:`parse_contents`.
    """
    frames = []
    # Where the last frame begins that takes a turn out: out of those before it.
    removed_at: dict[MessageId, int] = {}
    for frame, decoded in walk_back(files, path, most, lambda frame: frame.index.taken > 0):
        index = frame.index
        if index.count and index.first < before and index.last > after:
            frames.append(frame)
        for message_id in decoded.removed:
            removed_at.setdefault(message_id, frame.offset)
        if largest_before(frame) <= after:
            break
    found: dict[MessageId, Turn] = {}
    unsure: list[MessageId] = []
    sure = 0
    for frame in sorted(frames, key=lambda frame: frame.index.first):
        while unsure and unsure[0] < frame.index.first:
            heappop(unsure)
            sure += 1
        if sure >= count:
            break
        body = files.read_at(path, frame.offset, frame.length) or b""
        if index_flow.index_at_end(body, frame.end) != frame:
            # Another process has replaced the file meanwhile.
            raise TailUnreadable(path)
        for turn in decoded_at(body, frame, path, most).turns:
            is_gone = removed_at and removed_at.get(turn.id, 0) > frame.offset
            if after < turn.id < before and turn.id not in found and not is_gone:
                heappush(unsure, turn.id)
                found[turn.id] = turn
    return [found[message_id] for message_id in sorted(found)[:count]]


def last_turns(
    files: Files, path: str, count: int, most: int = index_flow.MAX_DECODED
) -> tuple[list[Turn], MessageId]:
    """Return the last ``count`` turns sorted by id, and the id up to which the context was cleared.

    Raises:
        TailUnreadable: use :func:`parse_contents`.
    """
    turns: dict[MessageId, Turn] = {}
    cleared = index_flow.EMPTY.cleared
    # Only ids larger than all that is still unread are sure to be the last ones: they are counted as
    # they become sure, so that a file that says of every frame that it is out of order costs no more.
    unsure: list[tuple[int, int]] = []
    sure, bound = 0, None
    for frame, decoded in visible_back(files, path, most):
        if not turns:
            cleared = max(cleared, frame.index.cleared)
        before = largest_before(frame)
        bound = before if bound is None else min(bound, before)
        new = [turn.id for turn in decoded if turn.id not in turns]
        turns.update((turn.id, turn) for turn in decoded)
        if new and not unsure and min(new) > bound:
            sure += len(new)  # as in nearly every file
        else:
            for ms, seq in new:
                heappush(unsure, (-ms, -seq))
        while unsure and unsure[0] < (-bound.ms, -bound.seq):
            heappop(unsure)
            sure += 1
        if sure >= count:
            break
    return [turns[message_id] for message_id in sorted(turns)[-count:]], cleared
