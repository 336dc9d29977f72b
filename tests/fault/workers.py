"""What other processes do in a test. Imports little, because each process imports it anew."""

from __future__ import annotations

from lix_cache import ConversationArchive

__all__ = ["append_many"]


def append_many(folder: str, number: int, each: int) -> None:
    """Append turns that say who wrote them and in which order."""
    archive = ConversationArchive(folder)
    for n in range(each):
        archive.append_turn("s", {"content": [number, n]})
