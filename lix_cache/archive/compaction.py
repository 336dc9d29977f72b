"""Merging the small frames of a session that has gone cold: what the new file is, not how it is written.

A frame costs some 45 bytes whatever it holds, and what repeats in the next frame is not
found by the codec. A session whose daemon spilled ten turns at a time has many of them.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from lix_cache.archive import decoding, encoding, header
from lix_cache.archive import index as index_flow
from lix_cache.archive.doubts import Doubts
from lix_cache.archive.facts import CompactedSession
from lix_cache.archive.salvage import all_doubts
from lix_cache.errors import ArchiveCorrupt, LixCacheError, MissingDictionary, MissingExtra
from lix_cache.messages.turn import MessageId, Turn, sign_of

if TYPE_CHECKING:
    from lix_cache.archive.codecs import Packer
    from lix_cache.archive.cold_tier import ColdTier
    from lix_cache.messages.session_key import SessionName

__all__ = ["Compacted", "Compaction", "compaction", "one_by_one"]

#: Turns in a merged frame, and the stored bytes it grows to: the last turns are read by
#: reading the last frame, and that must stay cheap.
MAX_TURNS = encoding.TURNS_PER_FRAME
MAX_BYTES = 64 * 1024


@dataclass(frozen=True)
class Compacted:
    """What happened to the files of an archive.

    Attributes:
        files: files that were looked at.
        compacted: files that were written anew, or would be, in a dry run.
        active: files left alone because their session was written to not long enough ago, or is
            being written to.
        frames_before: frames in the compacted files, before.
        frames_after: and after.
        bytes_before: bytes of the compacted files, before.
        bytes_after: and after.
        failed: sessions whose file could not be compacted, and why; they are as they were.
    """

    files: int = 0
    compacted: int = 0
    active: int = 0
    frames_before: int = 0
    frames_after: int = 0
    bytes_before: int = 0
    bytes_after: int = 0
    failed: dict[SessionName, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Compaction:
    """One file, and what it becomes.

    Attributes:
        data: the new file.
        aside: bytes of the old one that are damaged, or all of it where more than its tail is.
        frames_before: frames that hold something, before.
        frames_after: and after.
    """

    data: bytes
    aside: bytes
    frames_before: int
    frames_after: int


@dataclass(frozen=True)
class _Kept:
    """A turn, and what is known of the frame it comes from."""

    turn: Turn
    updated_ms: int
    stored: float
    contested: bool

    def settled(self, oldest_ms: int) -> Turn:
        """Return the turn, without a nonce that nothing asks for any more."""
        is_old = self.turn.id.ms < oldest_ms and not self.contested
        return _without_nonce(self.turn) if is_old else self.turn


def compaction(data: bytes, codec: Packer, *, now_ms: int, keep_ms: int) -> Compaction | None:
    """Return what a file becomes, or None if there is nothing to win.

    Nor is there where the header is damaged, and with it the knowledge of whose file it is:
    the next append, which knows, repairs it.

    Args:
        data: the file, version 2.
        codec: for the new frames.
        now_ms: Unix milliseconds.
        keep_ms: the nonces of younger messages stay.

    Raises:
        ArchiveCorrupt: a frame is intact and cannot be decoded, so it must stay as it is.
        MissingExtra, MissingDictionary: the same, because something is not installed or named.
    """
    found = decoding.scan(data)
    if not found.frames or found.header is None:
        return None
    last = found.frames[-1].index
    full = _full_frames(found)
    doubts = all_doubts(data, found)
    kept = _kept(data, found.frames[full:], doubts)
    # A nonce tells a message from another one under its id, and from its copy under another id.
    # For the first the contents do as well (same_message). For the second Redis must still hold a
    # copy, so the nonces that are in doubt stay for good; and an add that was sent a day ago
    # is given up (session/add.py), so nothing asks for those of older messages.
    oldest_ms = now_ms - keep_ms if last.updated_ms + keep_ms < now_ms else 0
    parts = [header.encode_header(found.header)]
    parts += [data[frame.offset : frame.end] for frame in found.frames[:full]]
    start = encoding.with_history(index_flow.EMPTY, last)
    before = found.frames[full - 1].index if full else start
    groups = _groups(kept)
    updated_ms = before.updated_ms
    length = sum(map(len, parts))
    for group in groups:
        updated_ms = max(updated_ms, *(one.updated_ms for one in group))
        frames = encoding.encode_frames(
            [one.settled(oldest_ms) for one in group],
            encoding.with_history(before, last),
            # The last one says when the file was last appended to, which this is not.
            updated_ms if group is not groups[-1] else last.updated_ms,
            codec,
            doubts=Doubts(doubts, length) if doubts and group is groups[0] else None,
            whole=True,
            most=encoding.WHOLE_FRAME_BYTES,
        )
        parts.append(frames)
        length += len(frames)
        before = encoding.index_of(frames)
    if last.removed and not groups:
        parts.append(encoding.encode_emptied(last, last.updated_ms, codec, doubts, length))
    made = b"".join(parts)
    frames_after = full + len(groups)
    if last.removed:
        # What was taken out leaves the disk, whatever else there is to win.
        return Compaction(made, _damaged(data, found), len(found.frames), max(1, frames_after))
    if not groups or frames_after >= len(found.frames) or len(made) >= len(data):
        return None
    return Compaction(made, _damaged(data, found), len(found.frames), frames_after)


def _full_frames(found: decoding.Scan) -> int:
    """Return how many frames at the start are as large as they may be, and are taken over as they are."""
    if found.frames[-1].index.removed or not all(frame.index.in_order for frame in found.frames):
        return 0
    turns = 0
    for number, frame in enumerate(found.frames):
        index = frame.index
        turns += index.count
        is_full = index.count >= MAX_TURNS or (index.count and frame.length >= MAX_BYTES)
        # Behind a damaged range the totals count what is gone.
        if index.has_nonces or not is_full or index.total != turns:
            return number
    return len(found.frames)


def _kept(data: bytes, frames: Sequence[index_flow.Frame], doubts: Container[bytes | None]) -> list[_Kept]:
    """Return the turns of frames, sorted by id, each once."""
    by_id: dict[MessageId, _Kept] = {}
    for frame in frames:
        decoded = decoding.decode(data[frame.offset : frame.end], frame)
        for message_id in decoded.removed:
            by_id.pop(message_id, None)
        for turn in decoded.turns:
            # By its id too: without its nonce it would be recognised as what it came in the place of.
            contested = turn.nonce in doubts or sign_of(Turn(turn.id, turn.body)) in doubts
            one = _Kept(turn, frame.index.updated_ms, frame.length / frame.index.count, contested)
            by_id.setdefault(turn.id, one)
    return [by_id[message_id] for message_id in sorted(by_id)]


def _groups(kept: Sequence[_Kept]) -> list[list[_Kept]]:
    groups: list[list[_Kept]] = []
    stored = 0.0
    for one in kept:
        if not groups or len(groups[-1]) >= MAX_TURNS or stored + one.stored > MAX_BYTES:
            groups.append([])
            stored = 0.0
        groups[-1].append(one)
        stored += one.stored
    return groups


def _without_nonce(turn: Turn) -> Turn:
    return turn if turn.nonce is None else Turn(turn.id, turn.body, turn.vector)


def _damaged(data: bytes, found: decoding.Scan) -> bytes:
    """Return what must be set aside before the file is replaced."""
    if found.is_clean:
        return b""
    if found.damage == ((found.end, len(data)),):
        return data[found.end :]
    return data


def one_by_one(
    tier: ColdTier, session_ids: Sequence[str], compact_locked: Callable[[str], CompactedSession]
) -> Iterator[tuple[str, CompactedSession | LixCacheError]]:
    """Compact sessions of a tier that has nothing cheaper for many, each under its lease."""
    for session_id in session_ids:
        try:
            lease = tier.try_lock(session_id)
            done = CompactedSession(is_active=True)
            if lease is not None:
                with lease:
                    done = compact_locked(session_id)
        except (ArchiveCorrupt, MissingExtra, MissingDictionary) as error:
            yield session_id, error
        else:
            yield session_id, done
