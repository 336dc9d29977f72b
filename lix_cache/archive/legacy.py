"""Version 1 archives (``CAv1``): read as they are, salvaged where they are cut."""

from __future__ import annotations

import json
import re
import struct
from dataclasses import dataclass
from typing import Any

from lix_cache.errors import ArchiveCorrupt, InvalidInput
from lix_cache.huffman_codec._native import decode_prefix_v1
from lix_cache.messages.message import check_json
from lix_cache.messages.turn import ZERO_ID, MessageId, Turn, to_turn

__all__ = ["MAGIC", "LegacyFile", "legacy_metadata", "milliseconds_of", "old_turn", "parse_legacy"]

MAGIC = b"CAv1"
_HEADER = struct.Struct("<4sddI")
_COMMA = re.compile(r"\s*,\s*")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True)
class LegacyFile:
    """A version 1 file.

    Attributes:
        created_at: Unix seconds; the first turn's time where the header's is invalid.
        updated_at: Unix seconds; the last turn's time where the header's is invalid.
        turns: with ids made from their own timestamps.
        missing: turns the header promises and the bytes no longer hold.
    """

    created_at: float
    updated_at: float
    turns: list[Turn]
    missing: int


def legacy_metadata(head: bytes) -> tuple[float, float, int] | None:
    """Return (created, updated, number of turns) from a file's first 24 bytes.

    Returns:
        None if the times are invalid: the format has no checksum, and what is that
        far off is damage.

    Raises:
        ArchiveCorrupt: cut, or not a version 1 file.
    """
    created, updated, count = _header(head)
    return (created, updated, count) if _is_time(created) and _is_time(updated) else None


def _header(head: bytes) -> tuple[float, float, int]:
    if len(head) < _HEADER.size or head[:4] != MAGIC:
        raise ArchiveCorrupt(f"not a version 1 archive: {len(head)} bytes that start with {head[:4]!r}")
    _, created, updated, count = _HEADER.unpack_from(head)
    return created, updated, count


def _is_time(seconds: float) -> bool:
    """Whether a number can be Unix seconds. NaN, infinity and denormal numbers cannot."""
    return 1 <= seconds < 1e11


def parse_legacy(data: bytes) -> LegacyFile:
    """Read a version 1 file, or what is left of it.

    Raises:
        ArchiveCorrupt: it promises turns, and none can be recovered.
    """
    created, updated, count = _header(data)
    decoded, wanted, problem = decode_prefix_v1(data[_HEADER.size :])
    whole = not problem and len(decoded) == wanted
    messages = _whole_array(decoded) if whole else None
    if messages is None:
        messages = _salvage(decoded)
    missing = max(0, count - len(messages))
    if count and not messages:
        raise ArchiveCorrupt(
            f"none of the {count} turns can be recovered: {problem or 'the text is not JSON'}"
        )
    if not whole and missing == 0:
        missing = 1
    turns = _with_ids(messages)
    return LegacyFile(
        created if _is_time(created) else (turns[0].id.timestamp if turns else 0.0),
        updated if _is_time(updated) else (turns[-1].id.timestamp if turns else 0.0),
        turns,
        missing,
    )


def _whole_array(decoded: bytes) -> list[Any] | None:
    try:
        value = json.loads(decoded) if decoded else []
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, list) else None


def _salvage(decoded: bytes) -> list[Any]:
    """Return the elements of a JSON array that stand before the place where it breaks."""
    text = decoded.decode("utf-8", "ignore")
    decoder = json.JSONDecoder()
    messages: list[Any] = []
    position = text.find("[") + 1
    while 0 < position < len(text):
        try:
            message, position = decoder.raw_decode(text, position)
        except (ValueError, RecursionError):
            break
        if position >= len(text) and not isinstance(message, (dict, list)):
            break
        messages.append(message)
        comma = _COMMA.match(text, position)
        if comma is None:
            break
        position = comma.end()
    return messages


def _with_ids(messages: list[Any]) -> list[Turn]:
    turns: list[Turn] = []
    last = ZERO_ID
    for message in messages:
        ms = max(milliseconds_of(message), last.ms, 1)
        last = MessageId(ms, last.seq + 1 if ms == last.ms else 0)
        turns.append(old_turn(message, last))
    return turns


def old_turn(message: Any, message_id: MessageId) -> Turn:
    """Return a message that the old package wrote as JSON, whatever it is, as a turn.

    Raises:
        ArchiveCorrupt: nested too deeply to be read.
    """
    body = message if isinstance(message, dict) else {"content": message}
    try:
        return to_turn(body, message_id)
    except InvalidInput:
        return Turn(message_id, _as_text(body))


def _as_text(body: dict[str, Any]) -> dict[str, Any]:
    """Keep what is refused today: NaN, deep nesting and an embedding that no vector can hold.

    NaN and the infinities become their names, a value nested too deeply its JSON.
    """
    try:
        kept: dict[str, Any] = json.loads(json.dumps(body), parse_constant=str)
        for key, value in kept.items():
            try:
                check_json(value, key)
            except InvalidInput:
                kept[key] = json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise ArchiveCorrupt("a turn is nested too deeply to be read") from None
    return kept


def milliseconds_of(message: Any) -> int:
    """Return the Unix milliseconds of an old message's timestamp; 0 where it is invalid."""
    timestamp = message.get("timestamp") if isinstance(message, dict) else None
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)):
        return 0
    # False for NaN as well; and compared before anything is computed, because JSON's
    # integers can be larger than any float.
    return int(timestamp * 1000) if 0 < timestamp < 1e11 else 0
