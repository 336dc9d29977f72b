"""Checking every byte of a session's file."""

from __future__ import annotations

from dataclasses import dataclass

from lix_cache.archive import decoding, header, legacy
from lix_cache.archive.names import legacy_session_id, session_id_of_stem
from lix_cache.errors import ArchiveCorrupt, MissingDictionary, MissingExtra
from lix_cache.messages.session_key import SessionName, named, shown
from lix_cache.messages.turn import ZERO_ID, MessageId

__all__ = ["ArchiveReport", "verify_bytes", "verify_file"]


@dataclass(frozen=True)
class ArchiveReport:
    """What was found in one file.

    Attributes:
        session_id: whose file it is; a key where the session has a namespace.
        version: 1 or 2; 0 if it is neither.
        frames: intact frames.
        turns: turns that they have for a reader.
        damaged_bytes: bytes that belong to no intact frame.
        problems: what is wrong, in words; empty if nothing is.
    """

    session_id: SessionName
    version: int
    frames: int
    turns: int
    damaged_bytes: int
    problems: tuple[str, ...]

    @property
    def is_intact(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems


def verify_bytes(data: bytes, session_id: str) -> ArchiveReport:
    """Check header, frames, CRCs, contents, counts and order of a session's whole file."""
    return _verify(data, session_id, check_owner=True)[1]


def verify_file(data: bytes, name: str) -> tuple[str, ArchiveReport]:
    """Check a file by its name, without the suffix. Returns whose it says it is, and what was found."""
    guess = legacy_session_id(name) if data[:4] == legacy.MAGIC else session_id_of_stem(name)
    return _verify(data, guess, check_owner=False)


def _verify(data: bytes, session_id: str, *, check_owner: bool) -> tuple[str, ArchiveReport]:
    # Another id in the header is no problem where the one given was only guessed.
    if data[:4] == legacy.MAGIC:
        return session_id, _verify_legacy(data, shown(session_id))
    try:
        found = decoding.scan(data)
    except header.UnknownFormat as error:
        return session_id, ArchiveReport(shown(session_id), 2, 0, 0, 0, (str(error),))
    problems: list[str] = []
    if found.header is None:
        problems.append("the file header is damaged")
    elif not check_owner:
        session_id = found.header.session_id
    elif found.header.session_id != session_id:
        problems.append(f"the file is of session {named(found.header.session_id)}")
    problems += [f"bytes {start} to {end} are no intact frame" for start, end in found.damage]
    turns = _verify_frames(data, found, problems)
    is_ours = found.header is not None or bool(found.frames)
    return session_id, ArchiveReport(
        session_id=shown(session_id),
        version=2 if is_ours else 0,
        frames=len(found.frames),
        turns=turns,
        damaged_bytes=sum(end - start for start, end in found.damage),
        problems=tuple(problems),
    )


def _verify_legacy(data: bytes, session_id: SessionName) -> ArchiveReport:
    try:
        old = legacy.parse_legacy(data)
    except ArchiveCorrupt as error:
        return ArchiveReport(session_id, 1, 0, 0, len(data), (str(error),))
    problems = (f"{old.missing} turns are missing",) if old.missing else ()
    return ArchiveReport(session_id, 1, 1, len(old.turns), 0, problems)


def _verify_frames(data: bytes, found: decoding.Scan, problems: list[str]) -> int:
    """Decode every frame, add what is wrong to ``problems``, return the number of turns."""
    turns = removed = 0
    seen: set[MessageId] = set()
    newest = ZERO_ID
    for frame in found.frames:
        where = f"the frame at byte {frame.offset}"
        try:
            decoded = decoding.decode(data[frame.offset : frame.end], frame)
        except (ArchiveCorrupt, MissingExtra, MissingDictionary) as error:
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
