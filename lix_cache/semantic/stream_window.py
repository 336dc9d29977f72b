"""What is kept of a stream for its readers: all events, until there are too many. No I/O, no lock."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from lix_cache.compute import Failed, settled
from lix_cache.values.plain import decode_item, encode_item

if TYPE_CHECKING:
    from lix_cache.semantic.policy import CachePolicy

__all__ = ["LOST", "Item", "Window"]


@dataclass(frozen=True)
class Item:
    """An event: bytes for all; or, if it is no plain value, the original for one reader.

    Attributes:
        data: its bytes.
        original: the event, if it has none.
        owner: who may have the original.
    """

    data: bytes | None
    original: Any = None
    owner: Any = None

    @classmethod
    def of(cls, value: Any, owner: Any) -> Item:
        try:
            return cls(settled(lambda: encode_item(value)))
        except Failed:
            return cls(None, value, owner)

    def is_for(self, reader: Any) -> bool:
        return self.owner is None or self.owner is reader

    def own(self) -> Any:
        """Return the event as an object that no other caller holds, if it has bytes."""
        return self.original if self.data is None else decode_item(self.data)


#: What stands in the place of an event that was forgotten.
LOST: Final = Item(None)


class Window:
    """The events that are kept.

    Args:
        policy: says how many, and how many bytes.
    """

    def __init__(self, policy: CachePolicy) -> None:
        self._policy = policy
        self._first = 0
        self._size = 0
        self.items: deque[Item] = deque()

    @property
    def end(self) -> int:
        """The number of the next event."""
        return self._first + len(self.items)

    @property
    def is_full(self) -> bool:
        """Whether there are more than may be kept."""
        policy = self._policy
        return self._size > policy.max_stream_bytes or len(self.items) > policy.max_stream_events

    def at(self, number: int) -> Item | None:
        """Return an event; None if it has not come, ``LOST`` if it was forgotten."""
        if number < self._first:
            return LOST
        return self.items[number - self._first] if number < self.end else None

    def add(self, item: Item) -> None:
        self.items.append(item)
        self._size += len(item.data or b"")

    def trim(self, had: int | None) -> None:
        """Forget events until no more than may be kept are left, none from number ``had`` on."""
        while self.is_full and len(self.items) > 1 and (had is None or self._first < had):
            self._size -= len(self.items.popleft().data or b"")
            self._first += 1
