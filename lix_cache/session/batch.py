"""Messages that are added together, and what became of them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from lix_cache.checks import given
from lix_cache.errors import InvalidInput, InvalidType
from lix_cache.hot.window import BYTES_AT_ONCE

if TYPE_CHECKING:
    from collections.abc import Iterable

    from lix_cache.messages.turn import MessageId, Turn

__all__ = ["MOST_AT_ONCE", "AddResult", "Batch", "check_keys", "check_size"]

#: Messages in one call: while they are added the server serves no other client.
MOST_AT_ONCE = 1000


@dataclass(frozen=True)
class Batch:
    """Messages that are added together: all of them, or none.

    Attributes:
        turns: without ids, each with a nonce.
        tags: where they have keys, for each the digests of its key and of its content.
        anew: the nonces that some of them get instead of their own. Each gets one, however often it is sent:
            by it the archive knows what Redis carries out late.
    """

    turns: tuple[Turn, ...]
    tags: tuple[bytes, ...] = ()
    anew: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def nonces(self) -> dict[bytes, int]:
        """The positions of the messages by their nonces."""
        return {turn.nonce: i for i, turn in enumerate(self.turns) if turn.nonce is not None}


class AddResult(NamedTuple):
    """What became of an add.

    Attributes:
        in_window: messages now in the window.
        overflows: the window has just grown by a batch; the daemon should look at it.
        ids: of the messages, in the order given.
        added: how many of them are new.
    """

    in_window: int
    overflows: bool = False
    ids: tuple[MessageId, ...] = ()
    added: int = 1


def check_size(count: int, packed: Iterable[bytes] = ()) -> None:
    """Refuse what one call cannot hold.

    Raises:
        InvalidInput: too many messages, or too many bytes.
    """
    if count > MOST_AT_ONCE:
        raise InvalidInput(
            f"{count} messages in one call; at most {MOST_AT_ONCE} are added together: split them"
        )
    if sum(map(len, packed)) > BYTES_AT_ONCE:
        raise InvalidInput(
            f"the messages of one call come to more than {BYTES_AT_ONCE >> 20} MiB: split them"
        )


def check_keys(keys: Sequence[str] | None, count: int) -> list[str] | None:
    """Return the keys if they can name so many messages.

    Raises:
        InvalidInput: with the reason.
    """
    if keys is None:
        return None
    # A set has no order: which key were which message's?
    if isinstance(keys, (str, bytes)) or not isinstance(keys, Sequence):
        raise InvalidType(f"keys must be a list or tuple with a key for each message, {given(keys)}")
    names = list(keys)
    if len(names) != count:
        raise InvalidInput(f"each message needs a key: got {count} messages and {len(names)} keys")
    for position, name in enumerate(names):
        if not isinstance(name, str) or not name:
            raise InvalidInput(f"key {position} (from 0) must be a text that is not empty")
    if len(set(names)) != count:
        raise InvalidInput("two messages of one call have the same key")
    return names
