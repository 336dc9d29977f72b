"""Reading a session's file: all of it, or backwards from its end."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from lix_cache._log import logger
from lix_cache.archive import decoding, header, legacy
from lix_cache.archive import index as index_flow
from lix_cache.archive.doubts import Link, doubts_size
from lix_cache.archive.salvage import all_doubts
from lix_cache.errors import ArchiveCorrupt
from lix_cache.messages.turn import MessageId, Turn
from lix_cache.storage.files import Files

__all__ = [
    "Contents",
    "TailUnreadable",
    "decoded_at",
    "doubts",
    "largest_before",
    "parse_contents",
    "read_header",
    "visible_back",
    "walk_back",
]

_READ_AHEAD = 32 * 1024
_HEADER_GUESS = 512
#: Enough for some hundred doubts.
_DOUBTS_GUESS = 4096
#: Each is several times as large as the one before: so many would be more doubts than a file can hold.
_MOST_LINKS = 32


class TailUnreadable(Exception):
    """A file cannot be walked from its end: version 1, damaged, or being written to."""


@dataclass(frozen=True)
class Contents:
    """A session's file, read whole.

    Attributes:
        turns: every turn once, sorted by id.
        created_at: Unix seconds.
        updated_at: Unix seconds.
        index: index entry of the last frame: totals, largest id, what was cleared.
        damaged: bytes (version 2) or turns (version 1) that could not be recovered.
        session_id: whose file it says it is; None if it does not say.
        doubts: nonces and ids of those turns of which Redis may hold other copies.
    """

    turns: list[Turn]
    created_at: float
    updated_at: float
    index: index_flow.FrameIndex
    damaged: int
    session_id: str | None
    doubts: Mapping[bytes, MessageId] = field(default_factory=dict)


def by_id(turn: Turn) -> MessageId:
    return turn.id


def parse_contents(data: bytes, name: str, most: int = index_flow.MAX_DECODED) -> Contents:
    """Decode a whole file, leaving out what is damaged.

    Args:
        data: the file.
        name: for errors.
        most: bytes that a frame may decode to.

    Raises:
        ArchiveCorrupt: nothing in it is intact.
        ArchiveTooLarge: a frame decodes to more than it may: no damage, so it is not passed over.
    """
    if data[:4] == legacy.MAGIC:
        try:
            return _legacy_contents(data)
        except ArchiveCorrupt as error:
            # Version 2 after all, with a damaged magic, if there are frames.
            if not decoding.scan(data).frames:
                raise ArchiveCorrupt(f"{name!r}: {error}") from None
    try:
        found = decoding.scan(data)
    except header.UnknownFormat as error:
        raise header.UnknownFormat(f"{name!r}: {error}") from None
    if not found.frames and not found.is_clean:
        raise ArchiveCorrupt(f"{name!r}: {len(data)} bytes, and no intact frame among them")
    damaged = sum(end - start for start, end in found.damage) + (found.header is None)
    turns, undecoded, why = _turns_of(data, found.frames, most)
    damaged += sum(frame.length for frame in undecoded)
    if undecoded:
        # Once for the file, which may have very many.
        logger.warning("archive damage: {!r}: {} frames, the first: {}", name, len(undecoded), why)
    if damaged and found.frames and not turns and (undecoded or not found.frames[-1].index.removed):
        raise ArchiveCorrupt(f"{name!r}: none of its {len(found.frames)} frames can be decoded")
    # Checked, not believed: a frame that is in the file twice says that it is in order.
    if any(before.id >= after.id for before, after in pairwise(turns)):
        turns = sorted({turn.id: turn for turn in reversed(turns)}.values(), key=by_id)
    index = found.frames[-1].index if found.frames else index_flow.EMPTY
    created = found.header.created_at if found.header else index.updated_at
    return Contents(
        turns=turns,
        created_at=created,
        updated_at=index.updated_at if found.frames else created,
        index=index,
        damaged=damaged,
        session_id=found.header.session_id if found.header else None,
        doubts=all_doubts(data, found, most),
    )


def _turns_of(
    data: bytes, frames: Sequence[index_flow.Frame], most: int
) -> tuple[list[Turn], list[index_flow.Frame], str]:
    """Return the turns that frames leave, the frames that cannot be decoded, and why the first cannot."""
    turns: list[Turn] = []
    # From the first frame on that takes turns out, turns are found by their ids: many frames may do so.
    left: dict[MessageId, Turn] | None = None
    undecoded: list[index_flow.Frame] = []
    why = ""
    for frame in frames:
        try:
            decoded = decoding.decode(data[frame.offset : frame.end], frame, most)
        except ArchiveCorrupt as error:
            # Not the error itself: with it the bytes of the frame would be kept.
            undecoded.append(frame)
            why = why or str(error)
            continue
        if decoded.removed and left is None:
            left = {turn.id: turn for turn in reversed(turns)}
        if left is None:
            turns += decoded.turns
            continue
        for message_id in decoded.removed:
            left.pop(message_id, None)
        for turn in decoded.turns:
            left.setdefault(turn.id, turn)
    return turns if left is None else list(left.values()), undecoded, why


def _legacy_contents(data: bytes) -> Contents:
    old = legacy.parse_legacy(data)
    index = index_flow.FrameIndex(
        total=len(old.turns),
        updated_ms=int(old.updated_at * 1000),
        earlier=old.turns[-1].id if old.turns else index_flow.EMPTY.earlier,
    )
    return Contents(old.turns, old.created_at, old.updated_at, index, old.missing, None)


def read_header(files: Files, path: str) -> header.FileHeader | None:
    """Return a version 2 file's header; None if there is none that is intact.

    Raises:
        UnknownFormat: this version must not touch the file.
    """
    head = files.read_at(path, 0, _HEADER_GUESS)
    try:
        if head is not None and header.header_length(head) > len(head):
            # A very long session id. The length is not yet checked: the file's own
            # size bounds what is read.
            head = files.read_at(path, 0, min(header.header_length(head), header.MAX_HEADER))
        return None if head is None else header.parse_header(head)
    except header.UnknownFormat:
        raise
    except (ArchiveCorrupt, ValueError):
        return None


def walk_back(
    files: Files,
    path: str,
    most: int = index_flow.MAX_DECODED,
    wanted: Callable[[index_flow.Frame], bool] | None = None,
) -> Iterator[tuple[index_flow.Frame, decoding.Decoded]]:
    """Yield the frames of a version 2 file with what they say, last frame first.

    Reads only as far as it is iterated. What a frame takes out is still among the turns of those before it.

    Args:
        files: the file system.
        path: the file.
        most: bytes that a frame may decode to.
        wanted: whether a frame's turns are; None for all. Others are passed over by their index entry.

    Raises:
        TailUnreadable: use :func:`parse_contents`.
    """
    tail = files.read_tail(path, _READ_AHEAD)
    if tail is None:
        raise TailUnreadable(path)
    later: index_flow.FrameIndex | None = None
    data, end = tail.data, tail.size
    start = end - len(data)
    while True:
        frame = index_flow.index_at_end(data[max(0, end - start - index_flow.TAIL_BYTES) : end - start], end)
        if frame is None or (later and frame.index.total != later.total - later.count):
            # Or another process has replaced the file since the later frame was read.
            raise TailUnreadable(path)
        later = frame.index
        is_wanted = wanted is None or wanted(frame)
        if not is_wanted and frame.offset < start:
            # Its bytes are not needed. What comes next stands before it.
            data, start = b"", frame.offset
        if frame.offset < start or (start and frame.offset - start < index_flow.TAIL_BYTES):
            # This frame, and the end of the one before it, are not all in hand.
            begin = max(0, frame.offset - _READ_AHEAD)
            more = files.read_at(path, begin, start - begin)
            if more is None or len(more) != start - begin:
                raise TailUnreadable(path)
            data, start = more + data, begin
        body = data[frame.offset - start : frame.end - start]
        yield frame, decoded_at(body, frame, path, most) if is_wanted else decoding.Decoded([], [])
        if frame.index.total == frame.index.count:
            return
        end = frame.offset
        data = data[: end - start]


def visible_back(
    files: Files,
    path: str,
    most: int = index_flow.MAX_DECODED,
    wanted: Callable[[index_flow.Frame], bool] | None = None,
) -> Iterator[tuple[index_flow.Frame, list[Turn]]]:
    """Yield the frames of a version 2 file with those of their turns that no later frame takes out.

    Args, and raises: as :func:`walk_back`.
    """

    def needed(frame: index_flow.Frame) -> bool:
        return wanted is None or frame.index.taken > 0 or wanted(frame)

    removed: set[MessageId] = set()
    for frame, decoded in walk_back(files, path, most, needed):
        turns = decoded.turns
        yield frame, [turn for turn in turns if turn.id not in removed] if removed else turns
        index = frame.index
        if index.taken and index.removed >= index.total - index.count:
            return  # all that stands before it is gone
        removed.update(decoded.removed)


def decoded_at(body: bytes, frame: index_flow.Frame, path: str, most: int) -> decoding.Decoded:
    try:
        return decoding.decode(body, frame, most)
    except ArchiveCorrupt:
        raise TailUnreadable(path) from None


def doubts(files: Files, path: str, size: int, at: int) -> list[Link]:
    """Return the chain of the doubts that a file carries (doubts.py), the last ones first.

    Args:
        files: the file system.
        path: a version 2 file.
        size: its bytes.
        at: ``contested_at`` of the file's last frame.

    Raises:
        TailUnreadable: the chain is broken, or longer than any that was written by the rules.
    """
    chain: list[Link] = []
    while at:
        # A number that the file gives: it may be beyond any offset that can be asked for.
        if at >= size:
            raise TailUnreadable(path)
        length = index_flow.length_of(files.read_at(path, at, 8) or b"")
        end = at + length
        if not length or end > size or len(chain) >= _MOST_LINKS:
            raise TailUnreadable(path)
        tail = files.read_at(path, max(at, end - _DOUBTS_GUESS), min(length, _DOUBTS_GUESS)) or b""
        frame = index_flow.index_at_end(tail, end)
        # A repair may have moved it.
        if frame is None or frame.offset != at or frame.index.contested_at != at:
            raise TailUnreadable(path)
        wanted = min(length, index_flow.TAIL_BYTES + doubts_size(frame.index.doubts))
        if wanted > len(tail):
            tail = files.read_at(path, end - wanted, wanted) or b""
        link = decoding.doubts_in(tail, frame.index) if len(tail) >= wanted else None
        if link is None or link.before >= at:
            raise TailUnreadable(path)
        chain.append(link)
        at = link.before
    return chain


def largest_before(frame: index_flow.Frame) -> MessageId:
    """Return an id that no turn in an earlier frame exceeds."""
    index = frame.index
    return index.first.predecessor() if index.in_order and index.count else index.earlier
