"""What a session answers, where a message alone does not say enough."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lix_cache.errors import InvalidInput
from lix_cache.messages.turn import MessageId, from_turn, parse_id

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lix_cache.messages.message import Message
    from lix_cache.messages.turn import Turn

__all__ = ["AddedMessages", "StoredMessage", "existing_id", "given_id", "stored", "stored_one"]

_ID = re.compile(r"[0-9]{1,20}-[0-9]{1,20}", re.ASCII)
_BELOW = 1 << 64


@dataclass(frozen=True)
class AddedMessages:
    """What became of messages that were added together.

    Attributes:
        ids: of the messages, in the order given. New ones follow each other: nothing comes between.
        added: how many are new; the others were added before, under the same key.
        in_window: messages now in the window.
    """

    ids: tuple[str, ...]
    added: int
    in_window: int


@dataclass(frozen=True)
class StoredMessage:
    """A message and the id it is stored under.

    Attributes:
        id: unique within the session, and the order of its messages.
        message: as :meth:`~lix_cache.HybridConversationCache.get_full` returns it.
    """

    id: str
    message: Message


def stored(turns: Iterable[Turn]) -> list[StoredMessage]:
    """Return messages as users see them, with their ids."""
    return [stored_one(turn) for turn in turns]


def stored_one(turn: Turn) -> StoredMessage:
    """Return a message as users see it, with its id."""
    return StoredMessage(str(turn.id), from_turn(turn))


def given_id(name: str, text: str | None) -> MessageId | None:
    """Return the id that a caller names.

    Raises:
        InvalidInput: it is no id of a message.
    """
    if text is None:
        return None
    if isinstance(text, str) and _ID.fullmatch(text):
        found = parse_id(text)
        if max(found) < _BELOW:
            return found
    raise InvalidInput(f"{name} must be a message's id, such as '1700000000000-0'")


def existing_id(text: str) -> MessageId:
    """Return the id of the message that a caller means.

    Raises:
        InvalidInput: it is no id of a message.
    """
    found = given_id("message_id", text)
    if found is None:
        raise InvalidInput("message_id must be a message's id, got None")
    return found
