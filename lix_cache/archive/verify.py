"""Checking every byte of a session's file."""

from __future__ import annotations

from dataclasses import dataclass

from lix_cache.archive import decoding, header, legacy
from lix_cache.errors import ArchiveCorrupt, MissingExtra, MissingTable
from lix_cache.messages.turn import ZERO_ID, MessageId

__all__ = ["Report", "verify_bytes"]


@dataclass(frozen=True)
class Report:
    """What was found in one file.

    Attributes:
        session_id: whose file it is.
        version: 1 or 2; 0 if it is neither.
        frames: intact frames.
        turns: turns that they have for a reader.
        damaged_bytes: bytes that belong to no intact frame.
        problems: what is wrong, in words; empty if nothing is.
    """

    session_id: str
    version: int
    frames: int
    turns: int
    damaged_bytes: int
    problems: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        return not self.problems


def verify_bytes(data: bytes, session_id: str, *, check_owner: bool = True) -> Report:
    """Check header, frames, CRCs, contents, counts and order of a file.

    Args:
        data: the whole file.
        session_id: whose file it should be.
        check_owner: whether another id in the header is a problem (it is not where
            ``session_id`` was only guessed from the file's name).
    """
    if data[:4] == legacy.MAGIC:
        return _verify_legacy(data, session_id)
    try:
        found = decoding.scan(data)
    except header.UnknownFormat as error:
        return Report(session_id, 2, 0, 0, 0, (str(error),))
    problems: list[str] = []
    if found.header is None:
        problems.append("the file header is damaged")
    elif not check_owner:
        session_id = found.header.session_id
    elif found.header.session_id != session_id:
        problems.append(f"the file is of session {found.header.session_id[:60]!r}")
    problems += [f"bytes {start} to {end} are no intact frame" for start, end in found.damage]
    turns = _verify_frames(data, found, problems)
    is_ours = found.header is not None or bool(found.frames)
    return Report(
        session_id=session_id,
        version=2 if is_ours else 0,
        frames=len(found.frames),
        turns=turns,
        damaged_bytes=sum(end - start for start, end in found.damage),
        problems=tuple(problems),
    )


def _verify_legacy(data: bytes, session_id: str) -> Report:
    try:
        old = legacy.parse_legacy(data)
    except ArchiveCorrupt as error:
        return Report(session_id, 1, 0, 0, len(data), (str(error),))
    problems = (f"{old.missing} turns are missing",) if old.missing else ()
    return Report(session_id, 1, 1, len(old.turns), 0, problems)


def _verify_frames(data: bytes, found: decoding.Scan, problems: list[str]) -> int:
    """Decode every frame, add what is wrong to ``problems``, return the number of turns."""
    turns = removed = 0
    seen: set[MessageId] = set()
    newest = ZERO_ID
    for frame in found.frames:
        where = f"the frame at byte {frame.offset}"
        try:
            decoded = decoding.decode(data[frame.offset : frame.end], frame)
        except (ArchiveCorrupt, MissingExtra, MissingTable) as error:
            problems.append(str(error))
            continue
        index = frame.index
        ids = [turn.id for turn in decoded.turns]
        missing = len(set(decoded.removed) - seen)
        if missing and not found.damage:
            problems.append(f"{where} takes out {missing} ids that are not there")
        seen.difference_update(decoded.removed)
        removed += len(decoded.removed)
        repeated = sum(1 for message_id in ids if message_id in seen)
        if repeated:
            problems.append(f"{where} repeats {repeated} ids")
        if ids and index.in_order and ids[0] <= newest:
            problems.append(f"{where} says that it is in order, and is not")
        turns += len(ids)
        if index.total != turns and not found.damage and not problems:
            problems.append(f"{where} counts {index.total} turns so far, not {turns}")
        if index.removed != removed and not found.damage and not problems:
            problems.append(f"{where} counts {index.removed} turns taken out so far, not {removed}")
        seen.update(ids)
        newest = max([newest, *ids])
    return len(seen) if removed else turns
