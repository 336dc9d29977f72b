"""All that is in doubt in a file (doubts.py), read without the chain. Touches no file."""

from __future__ import annotations

from lix_cache.archive import decoding, index
from lix_cache.archive.doubts import doubts_about
from lix_cache.errors import LixCacheError
from lix_cache.messages.turn import MessageId

__all__ = ["all_doubts"]


def all_doubts(data: bytes, found: decoding.Scan, most: int = index.MAX_DECODED) -> dict[bytes, MessageId]:
    """Return what is in doubt, by nonce.

    An appended frame says itself what is in doubt of its messages, so with a frame that is damaged
    nothing is lost that concerns others. Of a file that was written whole the first frame says it for
    all: where that may be gone, and only then, every message of the whole part is in doubt.

    Args:
        data: the file.
        found: what a scan of it found.
        most: bytes that a frame may decode to.
    """
    doubts: dict[bytes, MessageId] = {}
    whole = [frame for frame in found.frames if frame.index.whole]
    end_of_whole = whole[-1].offset if whole else 0
    lost = any(start < end_of_whole for start, _ in found.damage)
    for frame in found.frames:
        if not frame.index.doubts:
            continue
        link = decoding.doubts_in(data[frame.offset : frame.end], frame.index)
        if link is not None:
            doubts.update(link.items())
        else:
            lost |= frame.index.whole
    for frame in whole if lost else ():
        try:
            turns = decoding.decode_frame(data[frame.offset : frame.end], frame, most)
        except LixCacheError:
            # Nothing in it can be read, so nothing of it can be recognised.
            continue
        doubts = {**doubts_about(turns), **doubts}
    return doubts
