"""What the scripts of a session window answer, in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lix_cache.messages.turn import MessageId, Turn

__all__ = ["LARGEST_SEQ", "Added", "Cold", "End", "Gap", "Page", "Refused"]


LARGEST_SEQ = 2**64 - 1


@dataclass(frozen=True)
class Added:
    """The answer to an add.

    Attributes:
        id: the message's id.
        length: messages in the window now.
        repeated: it was sent before, without an answer, and that may be carried out later.
    """

    id: MessageId
    length: int
    repeated: bool = False


class Gap(IntEnum):
    """What an add does where the window ends before messages that are known.

    Attributes:
        IGNORE: it was compared before; only an id that is too small is refused.
        REFUSE: compare, and refuse.
        FILL: add anyway, behind what is known.
    """

    IGNORE = 0
    REFUSE = 1
    FILL = 2


class Refused(Enum):
    """Why an add was not carried out.

    Attributes:
        COLD: there is no window, and only the archive can say which id is large enough.
        BEHIND: Redis has gone back to an older state.
        OLD: the old package left messages that come before it.
        LATE: the message is stored already, or deleted.
    """

    COLD = "COLD"
    BEHIND = "BEHIND"
    OLD = "OLD"
    LATE = "LATE"


class Cold(NamedTuple):
    """The answer to a read where there is no window.

    Attributes:
        ticket: to be shown when the session is put back; empty where that cannot be.
    """

    ticket: bytes


@dataclass(frozen=True)
class End:
    """How far a window goes.

    Attributes:
        length: its messages.
        last: the last one's id; None if there is none.
        up_to: the largest id that the session can have had.
        repeated: nonces of its messages that were sent twice: the first sending may be carried out later.
    """

    length: int
    last: MessageId | None
    up_to: MessageId
    repeated: frozenset[bytes] = frozenset()


@dataclass(frozen=True)
class Page:
    """Some of a window's messages.

    Attributes:
        turns: oldest first.
        has_more: there may be more of those that were asked for.
        contested: nonces of those of which another copy may still arrive; of the oldest alone.
    """

    turns: list[Turn]
    has_more: bool
    contested: frozenset[bytes] = frozenset()
