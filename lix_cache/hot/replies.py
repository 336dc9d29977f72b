"""What the scripts of a session window answer, in words."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from lix_cache.messages.turn import MessageId, Turn

__all__ = ["LARGEST_SEQ", "Added", "Cold", "End", "Found", "Gap", "Looked", "Page", "Refused"]


LARGEST_SEQ = 2**64 - 1


class Added(NamedTuple):
    """The answer to an add.

    Attributes:
        ids: of the messages, in the order given.
        length: messages in the window now.
        known: which of them were added before, under the same key.
        repeated: they were sent before, without an answer, and that may be carried out later.
        replicas: how many are known to have the new ones; None where that was not asked.
        turns: the messages as they are stored, where some of them got other nonces.
    """

    ids: tuple[MessageId, ...]
    length: int
    known: frozenset[int] = frozenset()
    repeated: bool = False
    replicas: int | None = None
    turns: tuple[Turn, ...] = ()

    @property
    def new(self) -> tuple[MessageId, ...]:
        """The ids that were given just now."""
        if not self.known:
            return self.ids
        return tuple(given for i, given in enumerate(self.ids) if i not in self.known)


@dataclass(frozen=True)
class Found:
    """Some of the messages that were looked for.

    Attributes:
        ids: by nonce.
        length: messages in the window.
        below: where to go on; None where there are no more.
    """

    ids: dict[bytes, MessageId]
    length: int
    below: MessageId | None


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


class Looked(IntEnum):
    """Whether the archive was looked at for keys that Redis may have forgotten.

    Attributes:
        NO: not yet.
        YES: just now, under the session's lock.
        NONE: and there is no archive of the session.
    """

    NO = 0
    YES = 1
    NONE = 2


class Refused(Enum):
    """Why an add was not carried out.

    Attributes:
        COLD: there is no window, and only the archive can say which id is large enough.
        BEHIND: Redis has gone back to an older state.
        OLD: the old package left messages that come before it.
        LATE: the message is stored already, or deleted.
        LOOK: a key may have been forgotten, and only the archive can say.
    """

    COLD = "COLD"
    BEHIND = "BEHIND"
    OLD = "OLD"
    LATE = "LATE"
    LOOK = "LOOK"


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
