"""Version 1 archives (``CAv1``): read as they are, salvaged where they are cut."""

from __future__ import annotations

import json
import math
import struct
from dataclasses import dataclass
from typing import Any

from lix_cache.errors import ArchiveCorrupt, InvalidInput
from lix_cache.huffman_codec._native import decode_prefix_v1
from lix_cache.messages import ZERO_ID, MessageId, Turn, to_turn

__all__ = ["MAGIC", "LegacyFile", "legacy_metadata", "parse_legacy"]

MAGIC = b"CAv1"
_HEADER = struct.Struct("<4sddI")
HEADER_BYTES = _HEADER.size


@dataclass(frozen=True)
class LegacyFile:
    """A version 1 file.

    Attributes:
        created_at: Unix seconds.
        updated_at: Unix seconds.
        turns: with ids made from their own timestamps.
        missing: turns the header promises and the bytes no longer hold.
    """

    created_at: float
    updated_at: float
    turns: list[Turn]
    missing: int


def legacy_metadata(head: bytes) -> tuple[float, float, int]:
    """Return (created, updated, number of turns) from a file's first 24 bytes.

    Raises:
        ArchiveCorrupt: cut, or not a version 1 file.
    """
    if len(head) < _HEADER.size or head[:4] != MAGIC:
        raise ArchiveCorrupt(f"not a version 1 archive: {len(head)} bytes that start with {head[:4]!r}")
    _, created, updated, count = _HEADER.unpack_from(head)
    return created, updated, count


def parse_legacy(data: bytes) -> LegacyFile:
    """Read a version 1 file, or what is left of it.

    Raises:
        ArchiveCorrupt: it promises turns, and none can be recovered.
    """
    created, updated, count = legacy_metadata(data)
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
    return LegacyFile(created, updated, _with_ids(messages), missing)


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
        if text[position : position + 1] != ",":
            break
        position += 1
    return messages


def _with_ids(messages: list[Any]) -> list[Turn]:
    turns: list[Turn] = []
    last = ZERO_ID
    for message in messages:
        body = message if isinstance(message, dict) else {"content": message}
        ms = max(_milliseconds(body.get("timestamp")), last.ms, 1)
        message_id = MessageId(ms, last.seq + 1 if ms == last.ms else 0)
        try:
            turns.append(to_turn(body, message_id))
        except InvalidInput:
            # Old files may hold NaN, which JSON proper cannot carry. The text is kept.
            turns.append(to_turn(json.loads(json.dumps(body), parse_constant=str), message_id))
        last = message_id
    return turns


def _milliseconds(timestamp: Any) -> int:
    if isinstance(timestamp, bool) or not isinstance(timestamp, (int, float)) or not math.isfinite(timestamp):
        return 0
    return int(timestamp * 1000) if 0 < timestamp < 1e11 else 0
