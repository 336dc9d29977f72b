"""The archive's frames, measured as files: what ten turns of a conversation take on disk."""

from __future__ import annotations

import json
import os
import tempfile
import zlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from _codec_data import TextSet

from lix_cache import ConversationArchive
from lix_cache.archive.store import ArchiveStore

__all__ = ["measure_frames"]

FRAME_TURNS = 10


class _WithoutSync:
    """While it is entered, no fsync: sizes are measured here, not times."""

    def __enter__(self) -> None:
        self._fsync = os.fsync
        os.fsync = lambda fd: None  # noqa: ARG005

    def __exit__(self, *_: object) -> None:
        os.fsync = self._fsync


def conversations(one: TextSet, folder: Path) -> Iterator[list[dict[str, Any]]]:
    """Yield the conversations of a set as the turns that they are, calls of tools included."""
    for name in one.files:
        with (folder / name).open(encoding="utf-8") as lines:
            for line in lines:
                record = json.loads(line)
                turns = record.get("turns") or record.get("conversation") or record.get("messages") or []
                if one.keep(record):
                    yield [{"role": "user", "content": t} if isinstance(t, str) else t for t in turns]


def frames(one: TextSet, folder: Path) -> Iterator[tuple[int, list[dict[str, Any]]]]:
    """Yield (number of the conversation, ten turns), each frame once; what is left at the end is left out."""
    seen: set[str] = set()
    for number, turns in enumerate(conversations(one, folder)):
        for start in range(0, len(turns) - FRAME_TURNS + 1, FRAME_TURNS):
            frame = turns[start : start + FRAME_TURNS]
            text = json.dumps(frame, ensure_ascii=False)
            if text not in seen:
                seen.add(text)
                yield number, frame


def measure_frames(
    one: TextSet,
    folder: Path,
    dictionary: str | os.PathLike[str] | None = None,
) -> dict[str, Any]:
    """Append a set's conversations to a real archive, ten turns at a time, and look at its files.

    Args:
        one: the set.
        folder: the folder with the evaluation data.
        dictionary: a dictionary that was not trained on the set; the one that ships if None.

    Returns:
        ``frames``, how many there are, and the bytes of ``json`` (``json.dumps`` of the ten turns,
        ``ensure_ascii=False``), ``zlib 6`` of the same, ``archive`` (all that the files grew by with
        each frame: heads, ids, CRCs, columns and text) and ``files`` (the same with the files' headers).
    """
    sums: Counter[str] = Counter()
    with tempfile.TemporaryDirectory(prefix="lix-frames-") as place, _WithoutSync():
        archive = ConversationArchive(place, dictionary=dictionary)
        for number, turns in frames(one, folder):
            text = json.dumps(turns, ensure_ascii=False).encode()
            archive.append_turns(f"{one.name}-{number}", turns)
            sums["frames"] += 1
            sums["json"] += len(text)
            sums["zlib 6"] += len(zlib.compress(text, 6))
        for session in archive.list_sessions():
            assert isinstance(archive.store, ArchiveStore)
            report = archive.store.raw(session["session_id"])
            assert report is not None
            sums["files"] += len(report)
            sums["archive"] += len(report) - int.from_bytes(report[8:12], "little")
    return dict(sums)
