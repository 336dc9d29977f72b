"""A response that came in pieces: its events, in order, and one final value. Pure."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Streamed"]


@dataclass(frozen=True)
class Streamed:
    """A whole stream, as it is stored and replayed. ``for`` and ``async for`` give its events.

    Attributes:
        events: plain values, such as the chunks that a provider sends. Like ``final`` not part of
            the repr: that may end in a log.
        final: what they come to: the return value of a generator, or the assembled response. None
            where there is none.
    """

    events: tuple[Any, ...] = field(default=(), repr=False)
    final: Any = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "events", tuple(self.events))

    def __iter__(self) -> Iterator[Any]:
        return iter(self.events)

    async def __aiter__(self) -> AsyncGenerator[Any, None]:
        for event in self.events:
            yield event

    @property
    def body(self) -> Any:
        """What the response says, however it was cut: the final value, the joined text, or the events."""
        if self.final is not None:
            return self.final
        if self.events and all(isinstance(event, str) for event in self.events):
            return "".join(self.events)
        return list(self.events)
