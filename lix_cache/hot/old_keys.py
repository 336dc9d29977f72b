"""The session keys of lix-open-cache 0.1.0: names, commands, and what their answers mean. Sends nothing.

``P:session_order:SESSION`` is a list of numbers, the newest at its head, and
``P:session_context:SESSION:NUMBER`` the JSON of one message. A number is the message's Unix
milliseconds modulo 2**31, so of two messages of one millisecond only the second has survived,
and its number stands in the list twice. All keys have a time to live of their own, 24 hours by default.

None of them has a hash tag: the old package knew no clusters. There, asking for them fails, and
that is taken for there being none.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lix_cache.hot.keys import Keys, escape_pattern
from lix_cache.hot.scripts import Command, Script, ScriptCall
from lix_cache.messages.session_key import plain_of, stored_plain

__all__ = ["OLD", "OldMessage", "OldSessions", "old_list_key"]

#: Keys that one step of a scan looks at: some 0.3 ms of the server's time.
_SCAN_COUNT = 1000

#: What a script answers instead of doing its work, where the old package has left messages.
OLD = b"OLD"


@dataclass(frozen=True)
class OldMessage:
    """One entry of an old session's list.

    Attributes:
        number: as the list has it.
        data: the message; None where it has expired, or it stood in the list before.
    """

    number: bytes
    data: bytes | None


def old_list_key(prefix: str, session_id: str) -> str:
    """Return the key of a session's list; "" where it has a namespace: the old package knew none."""
    text = plain_of(session_id)
    # Whatever text stood here, the old package may have a session of that id.
    return "" if text is None else _list_key(prefix, text)


def _list_key(prefix: str, text: str) -> str:
    return f"{prefix}:session_order:{text}"


def _sha1(data: bytes) -> str:
    # Not for secrecy: it is the one digest that Lua in Redis has.
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


_READ = Script("old/read")
_TRIM = Script("old/trim")


@dataclass(frozen=True)
class OldSessions:
    """Commands on the sessions that the old package left under a prefix.

    Attributes:
        prefix: ``redis_key_prefix``.
    """

    prefix: str

    @property
    def lists(self) -> str:
        """What the key of every session's list begins with."""
        return _list_key(self.prefix, "")

    def list_key(self, session_id: str) -> str:
        # A key that is never there stands for none.
        return old_list_key(self.prefix, session_id) or Keys(self.prefix).probe()

    def message_key(self, session_id: str, number: bytes) -> bytes:
        return self._message_start(session_id).encode() + number

    def _message_start(self, session_id: str) -> str:
        return f"{self.prefix}:session_context:{plain_of(session_id) or ''}:"

    def scan(self, cursor: int) -> Command:
        """Look for lists of sessions among some keys. Answers the next cursor, 0 at the end, and keys."""
        return ("SCAN", cursor, "MATCH", escape_pattern(self.lists) + "*", "COUNT", _SCAN_COUNT)

    def session_ids(self, keys: Sequence[bytes]) -> list[str]:
        """Return the sessions of such keys, each once; those that cannot be an id of ours are left out."""
        names = {key[len(self.lists.encode()) :].decode("utf-8", "replace"): key for key in keys}
        return [
            stored_plain(name) for name, key in names.items() if name and (self.lists + name).encode() == key
        ]

    def life_left(self, session_id: str) -> Command:
        """Ask how many milliseconds a session's list will live; negative if without an end, or not there."""
        return ("PTTL", self.list_key(session_id))

    def read(self, session_id: str, limit: int) -> Command:
        """Read the oldest messages."""
        return ScriptCall(_READ, (self.list_key(session_id),), (self._message_start(session_id), limit))

    @staticmethod
    def messages(reply: Any) -> list[OldMessage]:
        """Return them, oldest first, each number's message once."""
        seen: set[bytes] = set()
        found = []
        for number, data in zip(reply[0::2], reply[1::2], strict=True):
            found.append(OldMessage(number, None if number in seen else data or None))
            seen.add(number)
        return found

    def length(self, session_id: str) -> Command:
        """Count the messages that are left."""
        return ("LLEN", self.list_key(session_id))

    def trim(self, session_id: str, messages: Sequence[OldMessage]) -> Command:
        """Forget messages that were read: those with ``data`` are kept elsewhere now."""
        args: list[bytes | str] = [self._message_start(session_id)]
        for message in messages:
            args += (message.number, "" if message.data is None else _sha1(message.data))
        return ScriptCall(_TRIM, (self.list_key(session_id),), tuple(args))
